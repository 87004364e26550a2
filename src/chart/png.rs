//! The SVG as points, drawn with the font that it was laid out by.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

/// Points for each of the SVG's.
const SCALE: u32 = 2;

/// # Errors
/// Not for what [`super::draw`] makes.
pub fn png(svg: &str) -> Result<Vec<u8>, String> {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts.faces().next().and_then(|face| Some(face.families.first()?.0.clone()));
    // Whatever other font is asked for, there is but this one.
    fonts.set_sans_serif_family(family.unwrap_or_default());
    let options = Options { fontdb: Arc::new(fonts), ..Options::default() };
    let failed = |error: String| format!("the picture cannot be drawn: {error}");
    let tree = Tree::from_str(svg, &options).map_err(|error| failed(error.to_string()))?;
    let size = tree.size().to_int_size();
    let paper = Pixmap::new(size.width() * SCALE, size.height() * SCALE);
    let mut paper = paper.ok_or_else(|| failed(format!("{} × {} points", size.width(), size.height())))?;
    resvg::render(&tree, Transform::from_scale(SCALE as f32, SCALE as f32), &mut paper.as_mut());
    paper.encode_png().map_err(|error| failed(error.to_string()))
}
