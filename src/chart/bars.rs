//! Horizontal bars, alone or in groups, with what is said of each beside it.

use plotters::prelude::*;

use super::canvas::{
    Area, At, Axis, BODY, Drawn, Frame, GREY, HEIGHT, INK, MARGIN, RULE, SMALL, WIDTH, colour, failed, write,
};
use super::text::{Unit, elided, font, scale, width, wrapped};

/// One below the other, each with a scale of its own.
#[derive(Debug, Clone, Default)]
pub struct Bars {
    pub panels: Vec<BarPanel>,
}

#[derive(Debug, Clone, Default)]
pub struct BarPanel {
    /// Of the values, with their unit.
    pub axis: String,
    pub unit: Unit,
    /// Where bars begin: 0, or 1 for what is more or less than usual.
    pub base: f64,
    pub groups: Vec<Group>,
}

#[derive(Debug, Clone)]
pub struct Group {
    pub label: String,
    pub bars: Vec<Bar>,
}

#[derive(Debug, Clone)]
pub struct Bar {
    pub value: f64,
    /// Stands at its end.
    pub text: String,
    /// The place in the legend.
    pub series: usize,
}

/// Of the axis: labels and name.
const FOOT: i32 = 50;
const GAP: i32 = 12;
/// Few bars are made so much thicker at the most, to fill the picture.
const STRETCH: f64 = 2.0;
const LABEL_MOST: i32 = 300;

impl BarPanel {
    /// Thickness of a bar, and the height of a group of them.
    fn sizes(&self, stretch: f64) -> (i32, i32) {
        let most = self.groups.iter().map(|group| group.bars.len()).max().unwrap_or(1).max(1) as i32;
        let thin = if most > 1 { 15.0 } else { 24.0 };
        let bar = (thin * stretch) as i32;
        (bar, (most * bar).max(30) + (f64::from(GAP) * stretch) as i32)
    }

    fn rows(&self, stretch: f64) -> i32 {
        self.groups.len() as i32 * self.sizes(stretch).1
    }
}

impl Bars {
    fn height(&self, stretch: f64) -> i32 {
        self.panels.iter().map(|panel| panel.rows(stretch) + FOOT + GAP).sum()
    }

    pub fn draw(&self, frame: &Frame) -> Drawn<String> {
        let fixed = self.panels.len() as i32 * (FOOT + GAP);
        let rows = (self.height(1.0) - fixed).max(1);
        let free = HEIGHT - frame.height(0) - fixed;
        let stretch = (f64::from(free) / f64::from(rows)).clamp(1.0, STRETCH);
        frame.draw(frame.height(self.height(stretch)), |area| {
            let whole = area.dim_in_pixel().1 as i32;
            let mut top = 0;
            for panel in &self.panels {
                let room = panel.rows(stretch) + FOOT + GAP;
                panel.draw(&area.clone().margin(top, (whole - top - room).max(0), 0, 0), stretch)?;
                top += room;
            }
            Ok(())
        })
    }
}

impl BarPanel {
    fn draw(&self, area: &Area, stretch: f64) -> Drawn {
        let (bar_height, group_height) = self.sizes(stretch);
        let labels: Vec<Vec<String>> =
            self.groups.iter().map(|group| wrapped(&group.label, LABEL_MOST, BODY, 2)).collect();
        let left = labels.iter().flatten().map(|line| width(line, BODY)).max().unwrap_or(0) + MARGIN + 12;
        let bars = || self.groups.iter().flat_map(|group| &group.bars).filter(|bar| bar.value.is_finite());
        let (low, high) =
            bars().fold((self.base, self.base), |(low, high), bar| (low.min(bar.value), high.max(bar.value)));
        let whole = self.unit == Unit::Number && bars().all(|bar| bar.value.fract() == 0.0);
        // So wide that the longest text beside the longest bar ends within the picture.
        let room = WIDTH - left - MARGIN;
        let fits = |count: usize| {
            let (_, _, from, to) = scale(low, high, count, whole);
            let wide = bars().map(|bar| {
                let part = (bar.value.max(self.base) - from) / (to - from);
                let text = width(&bar.text, SMALL) + 10;
                if part > 0.0 { ((room - text) as f64 / part) as i32 } else { room - text }
            });
            wide.min().unwrap_or(room).clamp(room / 4, room - 20)
        };
        // As many ticks as have room for their labels.
        let mut count = 6;
        let (wide, (ticks, step, from, to)) = loop {
            let (wide, scale) = (fits(count), scale(low, high, count, whole));
            let (ticks, step, from, to) = &scale;
            let label = ticks.iter().map(|tick| width(&self.unit.tick(*tick, *step), SMALL)).max().unwrap_or(0);
            let apart = (step / (to - from) * f64::from(wide)) as i32;
            if count == 1 || apart >= label + 12 {
                break (wide, scale);
            }
            count -= 1;
        };
        let rows = self.rows(stretch);
        let mut chart = ChartBuilder::on(area)
            .margin_top(GAP)
            .margin_right(WIDTH - left - wide)
            .x_label_area_size(FOOT)
            .y_label_area_size(left)
            .build_cartesian_2d(Axis { from, to, ticks }, Axis { from: f64::from(rows), to: 0.0, ticks: Vec::new() })
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(RULE)
            .label_style(font(SMALL).color(&GREY))
            .x_label_formatter(&|value: &f64| self.unit.tick(*value, step))
            .draw()
            .map_err(failed)?;
        let (_, height) = area.dim_in_pixel();
        write(area, &self.axis, (left + wide / 2, height as i32 - 14), SMALL, GREY, At::Middle)?;
        let plot = chart.plotting_area();
        let at = |value: f64, row: i32| {
            let (x, y) = plot.map_coordinate(&(value, f64::from(row)));
            let (origin_x, origin_y) = area.get_base_pixel();
            (x - origin_x, y - origin_y)
        };
        let mut row = 0;
        for (group, lines) in self.groups.iter().zip(&labels) {
            let middle = at(from, row + group_height / 2).1;
            for (place, line) in lines.iter().enumerate() {
                let y = middle + (2 * place as i32 + 1 - lines.len() as i32) * 8;
                write(area, line, (left - 10, y), BODY, INK, At::Right)?;
            }
            let mut top = row + (group_height - group.bars.len() as i32 * bar_height) / 2;
            for bar in &group.bars {
                let bottom = top + bar_height - if group.bars.len() > 1 { 2 } else { 0 };
                if bar.value.is_finite() {
                    let corners = [(self.base, f64::from(top)), (bar.value, f64::from(bottom))];
                    plot.draw(&Rectangle::new(corners, colour(bar.series).filled())).map_err(failed)?;
                }
                // `max` passes over what is no number.
                let (x, y) = at(bar.value.max(self.base), i32::midpoint(top, bottom));
                let text = elided(&bar.text, WIDTH - x - 14, SMALL);
                write(area, &text, (x + 6, y), SMALL, INK, At::Left)?;
                top += bar_height;
            }
            row += group_height;
        }
        let base = PathElement::new(vec![(self.base, 0.0), (self.base, f64::from(rows))], GREY.stroke_width(1));
        plot.draw(&base).map_err(failed)
    }
}
