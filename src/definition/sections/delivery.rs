//! How deliveries go to a destination: what stands beside its kind.

use std::time::Duration;

use super::reference;
use crate::activation::{BatchPlan, RateLimit, Redaction};
use crate::definition::read::{Fields, Reader};
use crate::definition::spec::*;
use crate::definition::yaml::Node;

/// What `order` may be, and whether deliveries of one profile go one after the other.
pub const ORDERS: [(&str, bool); 2] = [("none", false), ("profile", true)];

/// Requests of a rate limit are remembered one by one.
const REQUESTS_MAX: u32 = 100_000;
const CONCURRENCY_MAX: u32 = 1_000;
const BATCH_MAX: u32 = 10_000;
const DAY: Duration = Duration::from_secs(86_400);

pub fn delivery(reader: &Reader, fields: &Fields) -> Option<DeliverySpec> {
    let rate_limit = fields.get("rate_limit").map(|node| rate_limit(reader, node));
    let concurrency = fields.get("concurrency").map(|node| count(reader, node, "`concurrency`", CONCURRENCY_MAX));
    let timeout = fields.get("timeout").map(|node| at_most(reader, node, "`timeout`", (DAY, "a day")));
    let retry_for = fields.get("retry_for").map(|node| at_most(reader, node, "`retry_for`", (365 * DAY, "365 days")));
    let order = fields.get("order").map(|node| reader.choice(node, "`order`", &ORDERS));
    let batch = fields.get("batch").map(|node| batch(reader, node, fields));
    let redact = fields.get("redact").map(|node| redact(reader, node));
    Some(DeliverySpec {
        rate_limit: as_written(rate_limit)?,
        concurrency: as_written(concurrency)?,
        timeout: as_written(timeout)?,
        retry_for: as_written(retry_for)?,
        in_order: as_written(order)?.unwrap_or(false),
        batch: as_written(batch)?,
        redact: as_written(redact)?,
    })
}

/// Left out, or read; None where it is wrong, which has been reported.
fn as_written<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(None) => None,
        Some(read) => Some(read),
        None => Some(None),
    }
}

/// `10 per 1s`
fn rate_limit(reader: &Reader, node: &Node) -> Option<RateLimit> {
    let (requests, per) = reader.per(node, "`rate_limit`", REQUESTS_MAX, "10 per 1s, or 500 per 1m")?;
    if per > DAY {
        reader.findings.error(node.span, "the time of `rate_limit` is a day at most", None);
        return None;
    }
    Some(RateLimit { requests, per })
}

/// `all`, or the keys whose values are hidden.
fn redact(reader: &Reader, node: &Node) -> Option<Redaction> {
    let literals = reader.literals(node, "`redact`")?;
    Some(match literals.as_slice() {
        [all] if all.text == "all" => Redaction::All,
        keys => Redaction::Keys(keys.iter().map(|key| key.text.to_lowercase()).collect()),
    })
}

fn batch(reader: &Reader, node: &Node, fields: &Fields) -> Option<BatchPlan> {
    if fields.has("webhook") {
        let help = "leave `batch` out; `concurrency` says how many requests are under way at once".to_string();
        reader.findings.error(fields.key_span("batch"), "a webhook takes one delivery per request", help);
        return None;
    }
    let fields = reader.section(node, "`batch`", fields.key_span("batch"), &reference::DELIVERY_BATCH)?;
    let max = fields.get("max").and_then(|node| count(reader, node, "`max`", BATCH_MAX));
    let within = fields.get("within").and_then(|node| at_most(reader, node, "`within`", (DAY, "a day")));
    Some(BatchPlan { max: max? as usize, within: within? })
}

fn count(reader: &Reader, node: &Node, what: &str, most: u32) -> Option<u32> {
    let count = reader.count(node, what, 1)?;
    if count > most {
        reader.findings.error(node.span, format!("{what} is {most} at most, not {count}"), None);
        return None;
    }
    Some(count)
}

fn at_most(reader: &Reader, node: &Node, what: &str, (most, written): (Duration, &str)) -> Option<Duration> {
    let duration = reader.duration(node, what)?;
    if duration > most {
        reader.findings.error(node.span, format!("{what} is {written} at most"), None);
        return None;
    }
    Some(duration)
}
