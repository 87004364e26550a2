//! Lines over time: a panel for each measure, one below the other over one axis of time.

use chrono_tz::Tz;
use plotters::prelude::*;

use super::canvas::{
    Area, At, Axis, BODY, Drawn, Frame, GREY, HEIGHT, INK, MARGIN, RULE, SMALL, WIDTH, colour, failed, sign, write,
};
use super::text::{Unit, elided, font, scale, width};
use super::time;
use crate::analysis::Period;
use crate::event::TimeUs;

#[derive(Debug, Clone)]
pub struct Lines {
    pub every: Option<Period>,
    pub zone: Tz,
    /// What the axis of time is: `day`, `month they began`.
    pub axis: String,
    pub panels: Vec<Panel>,
}

#[derive(Debug, Clone, Default)]
pub struct Panel {
    pub name: String,
    pub unit: Unit,
    /// The nth has the colour of the nth in the legend. In order of time; None: a gap.
    pub series: Vec<Vec<(TimeUs, Option<f64>)>>,
    /// From low to high, below the lines.
    pub band: Vec<(TimeUs, f64, f64)>,
    /// Points to be looked at, with what is said of each.
    pub marks: Vec<(TimeUs, f64, String)>,
}

const PANEL: i32 = 118;
/// Of a label of the axis, with room beside it.
const LABEL: i32 = 96;
/// Half a label ends beyond the last point.
const RIGHT: i32 = 40;
/// Points that are seen as such.
const DOTS: usize = 62;

impl Lines {
    pub fn draw(&self, frame: &Frame) -> Drawn<String> {
        let height = frame.height(self.panels.len() as i32 * PANEL + 50).max(HEIGHT);
        frame.draw(height, |area| self.panels(area))
    }

    fn panels(&self, area: &Area) -> Drawn {
        let times = || {
            let lines = self.panels.iter().flat_map(|panel| panel.series.iter().flatten().map(|(time, _)| *time));
            lines.chain(self.panels.iter().flat_map(|panel| panel.band.iter().map(|(time, ..)| *time)))
        };
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return Ok(()) };
        let mut all: Vec<TimeUs> = times().collect();
        all.sort_unstable();
        all.dedup();
        // Room beside the first and the last, and for one that stands alone.
        let beside = ((last - first) / 50).max(if first == last { 1_800_000_000 } else { 1 });
        let (_, height) = area.dim_in_pixel();
        let foot = 46;
        let each = (height as i32 - foot) / self.panels.len().max(1) as i32;
        let scales: Vec<Scale> = self.panels.iter().map(|panel| panel.scale(each)).collect();
        let left = scales.iter().map(Scale::room).max().unwrap_or(0) + MARGIN + 10;
        let most = ((WIDTH - left - RIGHT) / LABEL).max(2);
        let ticks = time::ticks(self.every, first, last, self.zone, most as usize);
        for (place, (panel, scale)) in self.panels.iter().zip(&scales).enumerate() {
            let is_last = place + 1 == self.panels.len();
            let top = place as i32 * each;
            let room = if is_last { each + foot } else { each };
            let part = area.clone().margin(top, height as i32 - top - room, 0, 0);
            write(&part, &elided(&panel.name, WIDTH - 2 * MARGIN, BODY), (MARGIN, 10), BODY, INK, At::Left)?;
            let mut chart = ChartBuilder::on(&part)
                .margin_top(24)
                .margin_bottom(if is_last { 0 } else { 12 })
                .margin_right(RIGHT)
                .x_label_area_size(if is_last { foot } else { 0 })
                .y_label_area_size(left)
                .build_cartesian_2d(
                    Axis {
                        from: (first - beside) as f64,
                        to: (last + beside) as f64,
                        ticks: ticks.iter().map(|(time, _)| *time as f64).collect(),
                    },
                    Axis { from: scale.low, to: scale.high, ticks: scale.ticks.clone() },
                )
                .map_err(failed)?;
            let named = |time: &f64| {
                ticks.iter().find(|(at, _)| *at as f64 == *time).map_or_else(String::new, |(_, label)| label.clone())
            };
            let valued = |value: &f64| panel.unit.tick(*value, scale.step);
            chart
                .configure_mesh()
                .axis_style(GREY)
                .bold_line_style(RULE)
                .light_line_style(TRANSPARENT)
                .label_style(font(SMALL).color(&GREY))
                .x_label_formatter(&named)
                .y_label_formatter(&valued)
                .draw()
                .map_err(failed)?;
            if is_last {
                let y = part.dim_in_pixel().1 as i32 - 12;
                write(&part, &self.axis, ((left + WIDTH - RIGHT) / 2, y), SMALL, GREY, At::Middle)?;
            }
            let plot = chart.plotting_area();
            let mut outline: Vec<(f64, f64)> = panel.band.iter().map(|(time, _, high)| (*time as f64, *high)).collect();
            outline.extend(panel.band.iter().rev().map(|(time, low, _)| (*time as f64, *low)));
            if !outline.is_empty() {
                plot.draw(&Polygon::new(outline, colour(0).mix(0.15).filled())).map_err(failed)?;
            }
            let pixels = plot.strip_coord_spec();
            let (origin_x, origin_y) = pixels.get_base_pixel();
            for (series, points) in panel.series.iter().enumerate() {
                for run in points.split(|(_, value)| value.is_none()) {
                    let run: Vec<(f64, f64)> =
                        run.iter().filter_map(|(time, value)| Some((*time as f64, (*value)?))).collect();
                    if run.len() > 1 {
                        let line = PathElement::new(run.clone(), colour(series).stroke_width(2));
                        plot.draw(&line).map_err(failed)?;
                    }
                    if all.len() <= DOTS || run.len() == 1 {
                        for point in run {
                            let (x, y) = plot.map_coordinate(&point);
                            sign(&pixels, series, (x - origin_x, y - origin_y))?;
                        }
                    }
                }
            }
            let at = |time: i64, value: f64| {
                let (x, y) = plot.map_coordinate(&(time as f64, value));
                (x - origin_x, y - origin_y)
            };
            // All rings before the first label: none lies over one.
            for (time, value, _) in &panel.marks {
                pixels.draw(&Circle::new(at(*time, *value), 6, colour(1).stroke_width(2))).map_err(failed)?;
            }
            let mut taken: Vec<(i32, i32)> = Vec::new();
            for (time, value, said) in &panel.marks {
                let (x, y) = at(*time, *value);
                let room = width(said, SMALL) / 2 + 2;
                let above = if y > 24 { y - 16 } else { y + 16 };
                let x = x.clamp(room, (pixels.dim_in_pixel().0 as i32 - room).max(room));
                // What would lie over another is left out: the point is marked anyway.
                if taken.iter().all(|(from, to)| x - room > *to || x + room < *from) {
                    taken.push((x - room, x + room));
                    // A line that passes under it does not make it illegible.
                    let ground = [(x - room, above - SMALL / 2), (x + room, above + SMALL / 2)];
                    pixels.draw(&Rectangle::new(ground, WHITE.mix(0.85).filled())).map_err(failed)?;
                    write(&pixels, said, (x, above), SMALL, INK, At::Middle)?;
                }
            }
        }
        Ok(())
    }
}

struct Scale {
    low: f64,
    high: f64,
    step: f64,
    ticks: Vec<f64>,
    unit: Unit,
}

impl Scale {
    fn room(&self) -> i32 {
        self.ticks.iter().map(|tick| width(&self.unit.tick(*tick, self.step), SMALL)).max().unwrap_or(0)
    }
}

impl Panel {
    fn scale(&self, height: i32) -> Scale {
        let lines = self.series.iter().flatten().filter_map(|(_, value)| *value);
        let values = lines.chain(self.band.iter().flat_map(|(_, low, high)| [*low, *high]));
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((0f64, 0f64), |(low, high), value| (low.min(value), high.max(value)));
        let whole = self.band.is_empty()
            && self.unit == Unit::Number
            && self.series.iter().flatten().all(|(_, value)| value.is_none_or(|value| value.fract() == 0.0));
        let (ticks, step, low, high) = scale(low, high, (height / 26).clamp(2, 7) as usize, whole);
        Scale { low, high, step, ticks, unit: self.unit }
    }
}
