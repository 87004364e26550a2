//! A table of shares, dark where they are high.

use plotters::prelude::*;

use super::canvas::{Area, At, Drawn, Frame, GREY, HEIGHT, INK, MARGIN, SMALL, WIDTH, failed, shade, write};
use super::text::{elided, width};

#[derive(Debug, Clone, Default)]
pub struct Heat {
    /// What rows and columns are.
    pub down: String,
    pub across: String,
    /// What stands in a column beside the rows, such as how many people they are; empty: nothing.
    pub beside: String,
    /// Name, and what stands beside it.
    pub rows: Vec<(String, String)>,
    pub columns: Vec<String>,
    /// By row and column: how dark (0 to 1), and what is written. None: nothing is known.
    pub cells: Vec<Vec<Option<(f64, String)>>>,
}

/// Height of a row; more where they are few.
const ROW: i32 = 26;
const ROW_MOST: i32 = 40;
const LABEL_MOST: i32 = 240;
/// Of names that are written upwards.
const UPWARDS_MOST: i32 = 170;

impl Heat {
    pub fn draw(&self, frame: &Frame) -> Drawn<String> {
        let (_, head) = self.head();
        let rows = self.rows.len().max(1) as i32;
        let high = ((HEIGHT - frame.height(head + 10)) / rows).clamp(ROW, ROW_MOST);
        frame.draw(frame.height(rows * high + head + 10), |area| self.table(area, high))
    }

    fn left(&self) -> (i32, i32) {
        let names = self.rows.iter().map(|(name, _)| width(name, SMALL)).max().unwrap_or(0);
        let names = names.max(width(&self.down, SMALL)).min(LABEL_MOST);
        let beside = self.rows.iter().map(|(_, text)| width(text, SMALL)).max().unwrap_or(0);
        let beside = if self.beside.is_empty() { 0 } else { beside.max(width(&self.beside, SMALL)) + 16 };
        (MARGIN + names, MARGIN + names + beside + 12)
    }

    /// Width of a column, and the height of what stands above.
    fn head(&self) -> (i32, i32) {
        let (_, left) = self.left();
        let wide = ((WIDTH - MARGIN - left) / self.columns.len().max(1) as i32).clamp(12, 110);
        let most = self.columns.iter().map(|name| width(name, SMALL)).max().unwrap_or(0);
        (wide, if most + 6 <= wide { 44 } else { most.min(UPWARDS_MOST) + 36 })
    }

    fn table(&self, area: &Area, high: i32) -> Drawn {
        let (names, left) = self.left();
        let (wide, head) = self.head();
        let all = wide * self.columns.len() as i32;
        write(area, &self.across, (left + all / 2, 10), SMALL, GREY, At::Middle)?;
        write(area, &elided(&self.down, LABEL_MOST, SMALL), (names, head - 12), SMALL, GREY, At::Right)?;
        if !self.beside.is_empty() {
            write(area, &self.beside, (left - 12, head - 12), SMALL, GREY, At::Right)?;
        }
        for (place, name) in self.columns.iter().enumerate() {
            let x = left + place as i32 * wide + wide / 2;
            if head == 44 {
                write(area, name, (x, head - 12), SMALL, INK, At::Middle)?;
            } else {
                write(area, &elided(name, UPWARDS_MOST, SMALL), (x, head - 8), SMALL, INK, At::Upwards)?;
            }
        }
        for (row, ((name, beside), cells)) in self.rows.iter().zip(&self.cells).enumerate() {
            let top = head + row as i32 * high;
            let middle = top + high / 2;
            write(area, &elided(name, LABEL_MOST, SMALL), (names, middle), SMALL, INK, At::Right)?;
            write(area, beside, (left - 12, middle), SMALL, GREY, At::Right)?;
            for (column, cell) in cells.iter().enumerate() {
                let Some((part, text)) = cell else { continue };
                let x = left + column as i32 * wide;
                let fill = shade(*part);
                area.draw(&Rectangle::new([(x, top), (x + wide - 2, top + high - 2)], fill.filled()))
                    .map_err(failed)?;
                let ink = if *part > 0.55 { WHITE } else { INK };
                let size = if width(text, SMALL) < wide { SMALL } else { SMALL - 2 };
                if width(text, size) <= wide {
                    write(area, text, (x + wide / 2 - 1, middle - 1), size, ink, At::Middle)?;
                }
            }
        }
        Ok(())
    }
}
