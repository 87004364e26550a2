//! `alerts:` as it is written.

use std::time::Duration;

use super::reference;
use crate::definition::findings::Span;
use crate::definition::read::Reader;
use crate::definition::spec::*;
use crate::definition::yaml::Node;

const SEASON_MAX: u32 = 10_080;
const THRESHOLD: f64 = 5.0;
const WAIT: Duration = Duration::from_secs(60);

pub fn alert(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<AlertSpec> {
    let fields = reader.section(node, what, span, &reference::ALERT)?;
    let literal = |key: &str| fields.get(key).and_then(|node| reader.literal(node, &format!("`{key}`")));
    let (watch, value) = (literal("watch"), literal("value"));
    let (minute, hour, day) = ((60, 1_440), (3_600, 24), (86_400, 7));
    let every = fields
        .get("every")
        .and_then(|node| reader.choice(node, "`every`", &[("minute", minute), ("hour", hour), ("day", day)]));
    let (seconds, usual) = every?;
    let season = match fields.get("season") {
        None => usual,
        Some(node) => {
            let season = reader.count(node, "`season`", 1)?;
            if season > SEASON_MAX {
                let message = format!("`season` is {SEASON_MAX} periods at most, not {season}");
                reader.findings.error(node.span, message, None);
                return None;
            }
            season
        }
    };
    let threshold = match fields.get("threshold") {
        None => THRESHOLD,
        Some(node) => {
            let text = reader.literal(node, "`threshold`")?.text;
            let Some(number) = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0) else {
                reader.findings.error(node.span, format!("`threshold` is a number above 0, not `{text}`"), None);
                return None;
            };
            number
        }
    };
    let wait = fields.get("wait").map_or(Some(WAIT), |node| reader.duration(node, "`wait`"))?;
    let period = Duration::from_secs(seconds);
    fields.sound.then_some(())?;
    Some(AlertSpec { watch: watch?, value: value?, period, season, threshold, wait })
}
