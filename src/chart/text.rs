//! Words and numbers of a picture, and how much room they take.

use plotters::style::{FontFamily, FontStyle, register_font};

/// What a viewer that lacks the first takes is a little wider.
pub const FAMILY: &str = "Ubuntu, Helvetica, Arial, sans-serif";
const SLACK: f64 = 1.05;
/// plotters takes the height of a line, which is so much more than the size of the font.
const LINE: f64 = 1.24;

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    #[default]
    Number,
    /// Of 1, written in percent.
    Share,
    /// A multiple: ×1.5.
    Times,
}

impl Unit {
    pub fn text(self, value: f64) -> String {
        match self {
            Unit::Number => number(value),
            Unit::Share => share(value),
            Unit::Times => format!("×{}", number(value)),
        }
    }

    /// Of a tick, beside others that are `step` apart.
    pub fn tick(self, value: f64, step: f64) -> String {
        let (value, step) = if self == Unit::Share { (value * 100.0, step * 100.0) } else { (value, step) };
        let decimals = (-step.log10().floor()).clamp(0.0, 9.0);
        let text = grouped(value, decimals as usize);
        match self {
            Unit::Number => text,
            Unit::Share => format!("{text}%"),
            Unit::Times => format!("×{text}"),
        }
    }
}

/// With three digits that count and all before the point: 1,234,567, 12.3, 0.00123.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_string();
    }
    let size = value.abs();
    let decimals = if size == 0.0 { 0.0 } else { (2.0 - size.log10().floor()).clamp(0.0, 9.0) };
    let text = grouped(value, decimals as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// A share of 1 in percent, with one decimal.
pub fn share(value: f64) -> String {
    let text = grouped(value * 100.0, 1);
    format!("{}%", text.strip_suffix(".0").unwrap_or(&text))
}

/// A share in as few characters as say something: 12%, 3.4%.
pub fn share_short(value: f64) -> String {
    if value.abs() >= 0.0995 || value == 0.0 { format!("{:.0}%", value * 100.0) } else { share(value) }
}

/// Seconds as people say them.
pub fn duration(seconds: f64) -> String {
    let (size, unit) = match seconds {
        s if s < 60.0 => (1.0, "s"),
        s if s < 3_600.0 => (60.0, "min"),
        s if s < 86_400.0 => (3_600.0, "h"),
        _ => (86_400.0, "d"),
    };
    format!("{} {unit}", number(seconds / size))
}

/// How many people.
pub fn people(count: f64) -> String {
    format!("{} {}", number(count.round()), if count.round() == 1.0 { "person" } else { "people" })
}

fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    if value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// The one font, known to plotters for measuring; what it draws is the SVG's text.
pub fn register() -> Result<(), String> {
    static DONE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let done =
        DONE.get_or_init(|| register_font(FAMILY, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_ok());
    done.then_some(()).ok_or_else(|| "the font of pictures cannot be read".to_string())
}

pub fn font(size: i32) -> plotters::style::FontDesc<'static> {
    plotters::style::FontDesc::new(FontFamily::Name(FAMILY), f64::from(size) * LINE, FontStyle::Normal)
}

/// Pixels, in the widest font that a viewer may take.
pub fn width(text: &str, size: i32) -> i32 {
    let plain = font(size).box_size(text).map_or(0, |(width, _)| width);
    (f64::from(plain) * SLACK).ceil() as i32
}

/// Not wider than this: the rest is three dots.
pub fn elided(text: &str, most: i32, size: i32) -> String {
    if width(text, size) <= most {
        return text.to_string();
    }
    let characters: Vec<char> = text.chars().collect();
    // The longest beginning that fits, by halves.
    let (mut fits, mut too_long) = (0, characters.len());
    while too_long - fits > 1 {
        let middle = usize::midpoint(fits, too_long);
        let short: String = characters[..middle].iter().collect();
        if width(&format!("{}…", short.trim_end()), size) <= most { fits = middle } else { too_long = middle }
    }
    let short: String = characters[..fits].iter().collect();
    format!("{}…", short.trim_end())
}

/// At most so many lines, broken at spaces; the last is elided.
pub fn wrapped(text: &str, most: i32, size: i32, lines: usize) -> Vec<String> {
    let mut out: Vec<String> = vec![String::new()];
    let words: Vec<&str> = text.split(' ').collect();
    for (place, word) in words.iter().enumerate() {
        let line = out.last().cloned().unwrap_or_default();
        let longer = if line.is_empty() { word.to_string() } else { format!("{line} {word}") };
        if line.is_empty() || width(&longer, size) <= most {
            out.pop();
            out.push(longer);
        } else if out.len() == lines {
            out.pop();
            out.push(format!("{line} {}", words[place..].join(" ")));
            break;
        } else {
            out.push(word.to_string());
        }
    }
    out.into_iter().map(|line| elided(&line, most, size)).collect()
}

/// As XML takes it: without control characters.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c }).collect()
}

/// Round values from one that is not above `low` to one that is not below `high`, about `count` of them, and their distance.
fn ticks(low: f64, high: f64, count: usize, whole: bool) -> (Vec<f64>, f64) {
    let span = if high > low { high - low } else { 1.0 };
    let rough = span / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999).unwrap_or(rough);
    let step = if whole { step.max(1.0) } else { step };
    let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
    ((first..=last.max(first + 1)).map(|n| n as f64 * step).collect(), step)
}

/// Round values (`whole`: whole numbers) within a range, their distance, and where the axis begins and ends: at zero or a little beyond the values.
pub fn scale(low: f64, high: f64, count: usize, whole: bool) -> (Vec<f64>, f64, f64, f64) {
    let (ticks, step) = ticks(low, high, count, whole);
    let beyond = (high - low) * 0.04;
    let first = ticks.first().copied().unwrap_or(low);
    let last = ticks.last().copied().unwrap_or(high);
    let from = if first < low { (low - beyond).max(first) } else { first };
    let to = if last > high && high > low { (high + beyond).min(last) } else { last };
    (ticks.into_iter().filter(|tick| (from..=to).contains(tick)).collect(), step, from, to)
}
