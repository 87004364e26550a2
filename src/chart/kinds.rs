//! Which picture an answer is, by its kind.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;

use super::bars::{Bar, BarPanel, Bars, Group};
use super::canvas::{COLOURS, Drawn, Frame};
use super::heat::Heat;
use super::lines::{Lines, Panel};
use super::table::Table;
use super::text::{Unit, duration, number, people as people_text, share, share_short};
use super::{Subject, time};
use crate::event::TimeUs;

/// Lines that can be told apart.
const LINES_MOST: usize = COLOURS.len();
const GROUPS_MOST: usize = 20;
/// Rows and columns of a table of shades.
const ROWS_MOST: usize = 40;
const NAMES_MOST: usize = 16;
const PERIODS_MOST: usize = 26;

pub enum Picture {
    Lines(Lines),
    Bars(Bars),
    Heat(Heat),
    /// The answer has no row.
    Nothing,
}

/// What an answer is drawn as, and what stands around it.
pub fn picture(subject: &Subject, answer: &[RecordBatch]) -> Drawn<(Frame, Picture)> {
    let table = Table::new(answer, subject.zone)?;
    let frame = Frame { title: subject.title.clone(), about: subject.about.clone(), ..Frame::default() };
    let mut of = Drawing { subject, table: &table, frame, left_out: Vec::new() };
    let picture = match subject.kind {
        _ if table.len() == 0 => Picture::Nothing,
        "trend" if table.has("time") => of.trend()?,
        "trend" => of.totals()?,
        "funnel" if table.has("began") => of.funnel_by_time()?,
        "funnel" => of.funnel()?,
        "retention" => of.retention()?,
        "attribution" => of.attribution()?,
        "paths" => of.paths()?,
        "sizes" => of.sizes()?,
        "flow" => of.shares("from_segment", "to_segment", "of the people of the first")?,
        "overlap" => of.shares("segment", "other_segment", "of the people of the first")?,
        "transitions" => of.shares("event", "next_event", "of the times of the first")?,
        "lift" => of.lift()?,
        "anomalies" => of.anomalies()?,
        other => return Err(format!("there is no picture of {other} yet: leave `--chart` out")),
    };
    if !of.left_out.is_empty() {
        of.frame.note = Some(format!("not shown: {}", of.left_out.join("; ")));
    }
    Ok((of.frame, picture))
}

struct Drawing<'a> {
    subject: &'a Subject,
    table: &'a Table,
    frame: Frame,
    left_out: Vec<String>,
}

/// Points in time, by line.
type Points = BTreeMap<(usize, TimeUs), f64>;

impl Drawing<'_> {
    /// The values of a column that weigh most, in that order, and where each row's value stands among them.
    fn most(&mut self, of: &[String], weights: &[f64], most: usize, what: &str) -> (Vec<String>, Vec<Option<usize>>) {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, weight) in of.iter().zip(weights) {
            *sums.entry(name).or_default() += weight;
        }
        let mut names: Vec<(&str, f64)> = sums.into_iter().collect();
        // By name where they weigh the same.
        names.sort_by(|a, b| b.1.total_cmp(&a.1));
        if names.len() > most {
            let rest: Vec<&str> = names.split_off(most).into_iter().map(|(name, _)| name).collect();
            let some = rest.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            let dots = if rest.len() > 5 { ", …" } else { "" };
            self.left_out.push(format!("{} more {what} ({some}{dots})", rest.len()));
        }
        let names: Vec<String> = names.into_iter().map(|(name, _)| name.to_string()).collect();
        let places = of.iter().map(|name| names.iter().position(|known| known == name)).collect();
        (names, places)
    }

    /// What lines or bars are told apart by: the legend, and the place of each row in it; one for all where there is no such column.
    fn told_apart(&mut self, column: &str, weights: &[f64], what: &str) -> Drawn<Vec<Option<usize>>> {
        if !self.table.has(column) {
            return Ok(vec![Some(0); self.table.len()]);
        }
        let (names, places) = self.most(&self.table.texts(column)?, weights, LINES_MOST, what);
        self.frame.legend = names.iter().map(|name| named(name, "(none)")).collect();
        Ok(places)
    }

    /// Name of a column with what it counts.
    fn with_unit(&self, name: &str) -> String {
        match self.subject.units.iter().find(|(column, _)| column == name) {
            Some((_, unit)) if *unit != name => format!("{name} ({unit})"),
            _ => name.to_string(),
        }
    }

    fn time_axis(&self, what: &str) -> String {
        let every = self.subject.every.map_or("time", |every| every.name());
        format!("{every}{what} ({})", self.subject.zone.name())
    }

    /// Lines through all periods: 0, or a gap, where one has no point.
    fn lines(&self, points: &Points, all: &[TimeUs], countable: bool) -> Vec<Vec<(TimeUs, Option<f64>)>> {
        let count = points.keys().map(|(line, _)| line + 1).max().unwrap_or(0);
        let missing = countable.then_some(0.0);
        (0..count)
            .map(|line| all.iter().map(|time| (*time, points.get(&(line, *time)).copied().or(missing))).collect())
            .collect()
    }

    /// The times of the rows and of all periods between.
    fn all_times(&self, times: &[Option<TimeUs>]) -> Vec<TimeUs> {
        let rows: BTreeSet<TimeUs> = times.iter().flatten().copied().collect();
        let (Some(first), Some(last), Some(every)) = (rows.first(), rows.last(), self.subject.every) else {
            return rows.into_iter().collect();
        };
        let between = time::periods(every, *first, *last, self.subject.zone);
        // Periods that begin otherwise are not ours to fill.
        if rows.iter().all(|time| between.binary_search(time).is_ok()) { between } else { rows.into_iter().collect() }
    }

    fn measures(&self) -> Vec<String> {
        self.table.names().into_iter().filter(|name| name != "time" && name != "by").collect()
    }

    fn trend(&mut self) -> Drawn<Picture> {
        let measures = self.measures();
        let weights = measures.first().map_or_else(|| Ok(Vec::new()), |name| self.table.counts(name))?;
        let places = self.told_apart("by", &weights, "values")?;
        let times = self.table.times("time")?;
        let all = self.all_times(&times);
        let mut panels = Vec::new();
        for name in &measures {
            let values = self.table.numbers(name)?;
            let points = times.iter().zip(&places).zip(values).filter_map(|((t, p), v)| Some((((*p)?, (*t)?), v?)));
            let series = self.lines(&points.collect(), &all, self.subject.countable.contains(name));
            panels.push(Panel { name: self.with_unit(name), series, ..Panel::default() });
        }
        let lines = Lines { every: self.subject.every, zone: self.subject.zone, axis: self.time_axis(""), panels };
        Ok(Picture::Lines(lines))
    }

    /// A trend without time: a panel of bars for each measure.
    fn totals(&mut self) -> Drawn<Picture> {
        let measures = self.measures();
        let weights = measures.first().map_or_else(|| Ok(Vec::new()), |name| self.table.counts(name))?;
        let names = if self.table.has("by") { self.table.texts("by")? } else { vec![String::new(); self.table.len()] };
        let (names, places) = self.most(&names, &weights, GROUPS_MOST, "values");
        let mut panels = Vec::new();
        for measure in &measures {
            let values = self.table.numbers(measure)?;
            let groups = names.iter().enumerate().map(|(place, name)| {
                let value = places.iter().position(|at| *at == Some(place)).and_then(|row| values[row]);
                let bar =
                    Bar { value: value.unwrap_or(f64::NAN), text: value.map_or("–".to_string(), number), series: 0 };
                let label = if self.table.has("by") { named(name, "(none)") } else { measure.clone() };
                Group { label, bars: vec![bar] }
            });
            panels.push(BarPanel { axis: self.with_unit(measure), groups: groups.collect(), ..BarPanel::default() });
        }
        Ok(Picture::Bars(Bars { panels }))
    }

    fn funnel(&mut self) -> Drawn<Picture> {
        let (steps, names) = (self.table.counts("step")?, self.table.texts("name")?);
        let people = self.table.counts("people")?;
        let (of_start, of_before) = (self.table.numbers("of_start")?, self.table.numbers("of_step_before")?);
        let medians =
            if self.table.has("median_s") { self.table.numbers("median_s")? } else { vec![None; names.len()] };
        let is_by = self.table.has("by");
        let places = self.told_apart("by", &people, "values")?;
        let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (row, step) in steps.iter().enumerate().filter(|(row, _)| places[*row].is_some()) {
            groups.entry(*step as u64).or_default().push(row);
        }
        let groups = groups.into_iter().map(|(step, mut rows)| {
            rows.sort_by_key(|row| places[*row]);
            let bars = rows.iter().map(|row| {
                let mut said = vec![people_text(people[*row])];
                if step > 1 {
                    said.extend(of_start[*row].map(|part| format!("{} of the start", share(part))));
                    let before = if step == 2 || is_by { None } else { of_before[*row] };
                    said.extend(before.map(|part| format!("{} of the step before", share(part))));
                    said.extend(medians[*row].map(|seconds| format!("median {}", duration(seconds))));
                }
                Bar { value: people[*row], text: said.join(", "), series: places[*row].unwrap_or(0) }
            });
            Group { label: format!("{step}. {}", names[rows[0]]), bars: bars.collect() }
        });
        let panel = BarPanel { axis: "people".to_string(), groups: groups.collect(), ..BarPanel::default() };
        Ok(Picture::Bars(Bars { panels: vec![panel] }))
    }

    /// By when people began: how many, and a panel for the share of them that each later step is reached by.
    fn funnel_by_time(&mut self) -> Drawn<Picture> {
        let (steps, names) = (self.table.counts("step")?, self.table.texts("name")?);
        let people = self.table.counts("people")?;
        let (times, of_start) = (self.table.times("began")?, self.table.numbers("of_start")?);
        let places = self.told_apart("by", &people, "values")?;
        let all = self.all_times(&times);
        let mut of: BTreeMap<u64, (String, Points)> = BTreeMap::new();
        for row in 0..self.table.len() {
            let (Some(time), Some(place)) = (times[row], places[row]) else { continue };
            let (_, points) = of.entry(steps[row] as u64).or_insert_with(|| (names[row].clone(), Points::new()));
            let value = if steps[row] > 1.0 { of_start[row] } else { Some(people[row]) };
            points.extend(value.map(|value| ((place, time), value)));
        }
        let panels = of.into_iter().map(|(step, (name, points))| {
            let first = step == 1;
            let name = format!("{step}. {name}, {}", if first { "people" } else { "share of those who began" });
            let unit = if first { Unit::Number } else { Unit::Share };
            Panel { name, unit, series: self.lines(&points, &all, first), ..Panel::default() }
        });
        let panels = panels.collect();
        let axis = self.time_axis(" in which they began");
        Ok(Picture::Lines(Lines { every: self.subject.every, zone: self.subject.zone, axis, panels }))
    }

    /// Cohorts by period; with `by` all cohorts of a value together.
    fn retention(&mut self) -> Drawn<Picture> {
        let (people, returned) = (self.table.counts("people")?, self.table.counts("returned")?);
        let periods: Vec<usize> = self.table.counts("period")?.into_iter().map(|period| period as usize).collect();
        let is_by = self.table.has("by");
        let (down, names): (&str, Vec<String>) = match is_by {
            true => ("all cohorts of", self.table.texts("by")?),
            false => {
                let label = |time: Option<TimeUs>| {
                    time.map_or_else(String::new, |time| time::label(time, self.subject.every, self.subject.zone))
                };
                ("began", self.table.times("cohort")?.into_iter().map(label).collect())
            }
        };
        // Rows in order of the answer, which is that of time.
        let mut order: Vec<&String> = Vec::new();
        let mut cells: BTreeMap<(&str, usize), (f64, f64)> = BTreeMap::new();
        for (row, name) in names.iter().enumerate() {
            if !order.contains(&name) {
                order.push(name);
            }
            let cell = cells.entry((name.as_str(), periods[row])).or_default();
            *cell = (cell.0 + returned[row], cell.1 + people[row]);
        }
        if order.len() > ROWS_MOST {
            self.left_out.push(format!("the {} before", order.len() - ROWS_MOST));
            order.drain(..order.len() - ROWS_MOST);
        }
        let last = periods.iter().copied().max().unwrap_or(0);
        if last >= PERIODS_MOST {
            self.left_out.push(format!("periods {PERIODS_MOST} to {last}"));
        }
        let count = (last + 1).min(PERIODS_MOST);
        let part = |(returned, people): &(f64, f64)| if *people > 0.0 { returned / people } else { 0.0 };
        // As dark as can be is the highest of those that came back; the period that all begin in would be it anyway.
        let darkest =
            cells.iter().filter(|((_, period), _)| *period > 0).map(|(_, cell)| part(cell)).fold(0.0, f64::max);
        let heat = Heat {
            down: down.to_string(),
            across: format!(
                "{}s since the first: share of the people who came back",
                self.subject.every.map_or("period", |e| e.name())
            ),
            beside: "people".to_string(),
            rows: order
                .iter()
                .map(|name| {
                    let people = cells.get(&(name.as_str(), 0)).map_or(0.0, |(_, people)| *people);
                    (named(name, "(none)"), number(people.round()))
                })
                .collect(),
            columns: (0..count).map(|period| period.to_string()).collect(),
            cells: order
                .iter()
                .map(|name| {
                    let cell = |period| cells.get(&(name.as_str(), period)).map(part);
                    let shown = |part: f64| (if darkest > 0.0 { part / darkest } else { 0.0 }, share_short(part));
                    (0..count).map(|period| cell(period).map(shown)).collect()
                })
                .collect(),
        };
        Ok(Picture::Heat(heat))
    }

    fn attribution(&mut self) -> Drawn<Picture> {
        let (models, channels) = (self.table.texts("model")?, self.table.texts("channel")?);
        let (conversions, shares) = (self.table.counts("conversions")?, self.table.counts("share")?);
        let values = self.table.counts("value")?;
        let is_valued = values.iter().any(|value| *value != 0.0);
        // Models in the order of the answer.
        for model in &models {
            if !self.frame.legend.contains(model) {
                self.frame.legend.push(model.clone());
            }
        }
        let (names, places) = self.most(&channels, &conversions, 12, "channels");
        let groups = names.iter().enumerate().map(|(place, name)| {
            let rows = (0..models.len()).filter(|row| places[*row] == Some(place));
            let bars = rows.map(|row| {
                let value = if is_valued { format!(", value {}", number(values[row])) } else { String::new() };
                Bar {
                    value: conversions[row],
                    text: format!("{} ({}){value}", number(conversions[row]), share(shares[row])),
                    series: self.frame.legend.iter().position(|model| *model == models[row]).unwrap_or(0),
                }
            });
            Group { label: named(name, "(none)"), bars: bars.collect() }
        });
        let panel = BarPanel {
            axis: "conversions (share of all)".to_string(),
            groups: groups.collect(),
            ..BarPanel::default()
        };
        Ok(Picture::Bars(Bars { panels: vec![panel] }))
    }

    fn paths(&mut self) -> Drawn<Picture> {
        let (paths, people) = (self.table.texts("path")?, self.table.counts("people")?);
        let shares = self.table.counts("share")?;
        let places = self.told_apart("by", &people, "values")?;
        let (names, rows) = self.most(&paths, &people, GROUPS_MOST, "paths");
        let groups = names.iter().enumerate().map(|(group, name)| {
            let bars = (0..paths.len()).filter(|row| rows[*row] == Some(group)).filter_map(|row| {
                let text = format!("{}, {}", people_text(people[row]), share(shares[row]));
                Some(Bar { value: people[row], text, series: places[row]? })
            });
            Group { label: name.clone(), bars: bars.collect() }
        });
        let panel = BarPanel { axis: "people".to_string(), groups: groups.collect(), ..BarPanel::default() };
        Ok(Picture::Bars(Bars { panels: vec![panel] }))
    }

    fn sizes(&mut self) -> Drawn<Picture> {
        let times = self.table.times("time")?;
        // By how many they are in the end: a segment's rows are in order of time.
        let (people, segments) = (self.table.counts("people")?, self.table.texts("segment")?);
        let is_last = |row: usize| segments.get(row + 1) != Some(&segments[row]);
        let weights: Vec<f64> =
            people.iter().enumerate().map(|(row, people)| if is_last(row) { *people } else { 0.0 }).collect();
        let places = self.told_apart("segment", &weights, "segments")?;
        let all = self.all_times(&times);
        let mut panels = Vec::new();
        for (name, title) in [("people", "people"), ("entered", "entered (people)"), ("exited", "exited (people)")] {
            let values = self.table.numbers(name)?;
            let points = times.iter().zip(&places).zip(values).filter_map(|((t, p), v)| Some((((*p)?, (*t)?), v?)));
            let mut series = self.lines(&points.collect(), &all, name != "people");
            // Where nothing changed there is no row.
            for line in series.iter_mut().filter(|_| name == "people") {
                let mut before = None;
                for (_, value) in line {
                    before = value.or(before);
                    *value = before;
                }
            }
            panels.push(Panel { name: title.to_string(), series, ..Panel::default() });
        }
        let lines = Lines { every: self.subject.every, zone: self.subject.zone, axis: self.time_axis(""), panels };
        Ok(Picture::Lines(lines))
    }

    /// Shares of one thing in another.
    fn shares(&mut self, down: &str, across: &str, of: &str) -> Drawn<Picture> {
        let (rows, columns) = (self.table.texts(down)?, self.table.texts(across)?);
        let (values, weights) = (self.table.numbers("share")?, self.table.counts("people")?);
        let (row_names, row_of) = self.most(&rows, &weights, NAMES_MOST, "rows");
        let (column_names, column_of) = self.most(&columns, &weights, NAMES_MOST, "columns");
        let darkest = values.iter().flatten().copied().fold(0.0, f64::max);
        let mut cells = vec![vec![None; column_names.len()]; row_names.len()];
        for (place, value) in values.into_iter().enumerate() {
            if let (Some(row), Some(column), Some(value)) = (row_of[place], column_of[place], value) {
                let part = if darkest > 0.0 { value / darkest } else { 0.0 };
                cells[row][column] = Some((part, share_short(value)));
            }
        }
        let words = |name: &str| name.replace('_', " ");
        let heat = Heat {
            down: words(down),
            across: format!("{}: share {of}", words(across)),
            rows: row_names.iter().map(|name| (named(name, "(none)"), String::new())).collect(),
            columns: column_names.iter().map(|name| named(name, "(nothing)")).collect(),
            cells,
            ..Heat::default()
        };
        Ok(Picture::Heat(heat))
    }

    fn lift(&mut self) -> Drawn<Picture> {
        let (traits, values) = (self.table.texts("trait")?, self.table.texts("value")?);
        let (low, high) = (self.table.numbers("low")?, self.table.numbers("high")?);
        let (people, lifts) = (self.table.counts("people")?, self.table.numbers("lift")?);
        let (shares, rest) = (self.table.counts("share")?, self.table.counts("share_of_rest")?);
        if traits.len() > GROUPS_MOST {
            self.left_out.push(format!("{} more values", traits.len() - GROUPS_MOST));
        }
        let groups = (0..traits.len().min(GROUPS_MOST)).map(|row| {
            let value = match (low[row], high[row]) {
                (Some(low), Some(high)) => format!("{} to {}", number(low), number(high)),
                _ => named(&values[row], "(none)"),
            };
            let lift = lifts[row].map_or_else(|| "only here".to_string(), |lift| Unit::Times.text(lift));
            let text =
                format!("{lift}, {}, {} against {}", people_text(people[row]), share(shares[row]), share(rest[row]));
            let bar = Bar { value: lifts[row].unwrap_or(f64::NAN), text, series: 0 };
            Group { label: format!("{}: {value}", traits[row]), bars: vec![bar] }
        });
        let panel = BarPanel {
            axis: "share of the people as a multiple of the others'".to_string(),
            unit: Unit::Times,
            base: 1.0,
            groups: groups.collect(),
        };
        Ok(Picture::Bars(Bars { panels: vec![panel] }))
    }

    fn anomalies(&mut self) -> Drawn<Picture> {
        let (times, measures) = (self.table.times("time")?, self.table.texts("measure")?);
        let by = if self.table.has("by") { self.table.texts("by")? } else { vec![String::new(); self.table.len()] };
        let (values, expected) = (self.table.numbers("value")?, self.table.numbers("expected")?);
        let (low, high) = (self.table.numbers("low")?, self.table.numbers("high")?);
        let found = self.table.texts("anomaly")?;
        // Those with the most to look at first.
        let names: Vec<String> = measures
            .iter()
            .zip(&by)
            .map(
                |(measure, by)| {
                    if self.table.has("by") { format!("{measure}, {}", named(by, "(none)")) } else { measure.clone() }
                },
            )
            .collect();
        let weights: Vec<f64> = found.iter().map(|found| if found.is_empty() { 0.0 } else { 1.0 }).collect();
        let (names, places) = self.most(&names, &weights, 6, "series");
        let mut panels: Vec<Panel> = names
            .iter()
            .map(|name| Panel { name: name.clone(), series: vec![Vec::new(); 2], ..Panel::default() })
            .collect();
        for row in 0..self.table.len() {
            let (Some(time), Some(place)) = (times[row], places[row]) else { continue };
            let panel = &mut panels[place];
            panel.series[0].push((time, values[row]));
            panel.series[1].push((time, expected[row]));
            panel.band.extend(low[row].zip(high[row]).map(|(low, high)| (time, low, high)));
            if let (false, Some(value)) = (found[row].is_empty(), values[row]) {
                panel.marks.push((time, value, format!("{} {}", found[row], number(value))));
            }
        }
        self.frame.legend = vec!["value".to_string(), "expected, and from low to high".to_string()];
        let lines = Lines { every: self.subject.every, zone: self.subject.zone, axis: self.time_axis(""), panels };
        Ok(Picture::Lines(lines))
    }
}

fn named(name: &str, otherwise: &str) -> String {
    if name.is_empty() { otherwise.to_string() } else { name.to_string() }
}
