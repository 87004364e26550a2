//! The paper: title, legend, notes, the colours, and the SVG that it all ends as.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, RGBColor};

use super::text::{clean, elided, font, register, width};

pub const WIDTH: i32 = 960;
/// Of a picture that is neither long nor short.
pub const HEIGHT: i32 = 540;
pub const MARGIN: i32 = 24;
/// Sizes of text.
pub const TITLE: i32 = 20;
pub const BODY: i32 = 13;
pub const SMALL: i32 = 12;

pub const INK: RGBColor = RGBColor(33, 37, 41);
pub const GREY: RGBColor = RGBColor(88, 96, 105);
pub const RULE: RGBColor = RGBColor(222, 226, 230);
/// Okabe and Ito's, which people tell apart who see colours differently; its yellow is too light for lines.
pub const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(51, 51, 51),
    RGBColor(150, 150, 150),
];

pub type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;
pub type Drawn<T = ()> = Result<T, String>;

pub fn failed(error: impl std::fmt::Display) -> String {
    format!("the picture cannot be drawn: {error}")
}

pub fn colour(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

/// From nothing to a whole, light to dark.
pub fn shade(part: f64) -> RGBColor {
    const STOPS: [(u8, u8, u8); 5] = [(247, 251, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107)];
    let place = part.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let (low, high) = (STOPS[place.floor() as usize], STOPS[place.ceil() as usize]);
    let between = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * place.fract()).round() as u8;
    RGBColor(between(low.0, high.0), between(low.1, high.1), between(low.2, high.2))
}

/// An axis with its ticks where we want them.
pub struct Axis {
    pub from: f64,
    pub to: f64,
    pub ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let part = (value - self.from) / (self.to - self.from);
        first + (part * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Left,
    Middle,
    Right,
    /// Read from below; begins here.
    Upwards,
}

/// Writes text with the middle of its line at `y`.
pub fn write(area: &Area, text: &str, (x, y): (i32, i32), size: i32, ink: RGBColor, at: At) -> Drawn {
    let h = match at {
        At::Left | At::Upwards => HPos::Left,
        At::Middle => HPos::Center,
        At::Right => HPos::Right,
    };
    let turn = if at == At::Upwards { FontTransform::Rotate270 } else { FontTransform::None };
    let style = font(size).transform(turn).color(&ink).pos(Pos::new(h, VPos::Center));
    area.draw(&Text::new(clean(text), (x, y), style)).map_err(failed)
}

/// The sign of a series, so that it is known without its colour.
pub fn sign(area: &Area, place: usize, (x, y): (i32, i32)) -> Drawn {
    let style = colour(place).filled();
    let drawn = match place % 4 {
        0 => area.draw(&Circle::new((x, y), 3, style)),
        1 => area.draw(&Rectangle::new([(x - 3, y - 3), (x + 3, y + 3)], style)),
        2 => area.draw(&Polygon::new(vec![(x, y - 4), (x + 4, y + 3), (x - 4, y + 3)], style)),
        _ => area.draw(&Polygon::new(vec![(x, y - 4), (x + 4, y), (x, y + 4), (x - 4, y)], style)),
    };
    drawn.map_err(failed)
}

/// What stands around every picture.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    pub title: String,
    /// What is shown, in a line.
    pub about: String,
    pub legend: Vec<String>,
    /// What is not shown, at the foot.
    pub note: Option<String>,
}

impl Frame {
    /// Where the items of the legend stand: rows of (x, text).
    fn legend_rows(&self) -> Vec<Vec<(i32, String)>> {
        let mut rows: Vec<Vec<(i32, String)>> = Vec::new();
        let mut x = i32::MAX;
        for name in &self.legend {
            let name = elided(name, 220, SMALL);
            let room = width(&name, SMALL) + 36;
            if x.saturating_add(room) > WIDTH - MARGIN {
                rows.push(Vec::new());
                x = MARGIN;
            }
            if let Some(row) = rows.last_mut() {
                row.push((x, name));
            }
            x += room;
        }
        rows
    }

    fn head(&self) -> i32 {
        78 + self.legend_rows().len() as i32 * 20
    }

    fn foot(&self) -> i32 {
        if self.note.is_some() { 34 } else { 14 }
    }

    /// So high that the picture itself has this much.
    pub fn height(&self, inner: i32) -> i32 {
        self.head() + inner + self.foot()
    }

    /// Draws on a paper of this height; `inner` is given the place within the frame. Gives the SVG.
    pub fn draw(&self, height: i32, inner: impl FnOnce(&Area) -> Drawn) -> Drawn<String> {
        register()?;
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
            root.fill(&WHITE).map_err(failed)?;
            let room = WIDTH - 2 * MARGIN;
            write(&root, &elided(&self.title, room, TITLE), (MARGIN, 30), TITLE, INK, At::Left)?;
            write(&root, &elided(&self.about, room, BODY), (MARGIN, 56), BODY, GREY, At::Left)?;
            for (row, items) in self.legend_rows().iter().enumerate() {
                let y = 82 + row as i32 * 20;
                for (x, name) in items {
                    let place = self.place_of(row, *x);
                    sign(&root, place, (x + 6, y))?;
                    write(&root, name, (x + 16, y), SMALL, INK, At::Left)?;
                }
            }
            if let Some(note) = &self.note {
                write(&root, &elided(note, room, SMALL), (MARGIN, height - 18), SMALL, GREY, At::Left)?;
            }
            inner(&root.clone().margin(self.head(), self.foot(), 0, 0))?;
            root.present().map_err(failed)?;
        }
        Ok(svg)
    }

    /// Which of the legend an item is.
    fn place_of(&self, row: usize, x: i32) -> usize {
        let rows = self.legend_rows();
        let before: usize = rows.iter().take(row).map(Vec::len).sum();
        before + rows.get(row).and_then(|row| row.iter().position(|(at, _)| *at == x)).unwrap_or(0)
    }
}

/// A picture that says that there is nothing.
pub fn nothing(frame: &Frame) -> Drawn<String> {
    frame.draw(HEIGHT, |area| {
        let (_, height) = area.dim_in_pixel();
        write(area, "no events in this range", (WIDTH / 2, height as i32 / 2), TITLE, GREY, At::Middle)
    })
}
