//! What a vendor's answer means: the connector's own rules first, then the status.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use super::Part;
use crate::activation::connector::{ConnectorPlan, Operation, PerItem, Verdict, WaitUnit};
use crate::event::TimeUs;
use crate::sink::Outcome;
use crate::sink::http::Answer;
use crate::sink::template::{Templates, context};
use crate::sink::webhook;

pub enum Judged {
    All(Outcome),
    Each(Vec<Outcome>),
}

pub fn judge(
    plan: &ConnectorPlan,
    operation: &Operation,
    templates: &Templates,
    answer: &Answer,
    parts: &[Part<'_>],
    now: TimeUs,
) -> Judged {
    // Vendors send their own header with every answer; only where it was too much does it say when to come again.
    let limited = answer.status == StatusCode::TOO_MANY_REQUESTS;
    let after = answer.retry_after(now).or_else(|| wait(plan, answer, now).filter(|_| limited));
    let parsed: Option<Value> = serde_json::from_str(&answer.body).ok();
    let mut scope = json!({
        "status": answer.status.as_u16(),
        "answer": parsed,
        "text": answer.body,
        "headers": headers(answer),
    });
    let status = format!("HTTP {}", answer.status.as_u16());
    let detailed = |said: String| if said.is_empty() { status.clone() } else { format!("{status}: {said}") };
    let rule = operation.answers.iter().find(|rule| templates.holds(&rule.when, &scope));
    let outcome = match rule {
        Some(rule) => {
            let said = rule.because.as_ref().map(|because| text(templates.lenient(because, &scope)));
            let detail = detailed(said.unwrap_or_else(|| excerpt(&answer.body)));
            match rule.then {
                Verdict::Done => Outcome::Sent(detail),
                Verdict::Retry => Outcome::Retry { detail, after },
                Verdict::Drop => Outcome::Failed(detail),
            }
        }
        None => match webhook::judge(answer.status, after) {
            Outcome::Sent(detail) => Outcome::Sent(detail),
            // A gateway that has lost the answer says nothing about what was made of the request.
            _ if !operation.drops_repeats && matches!(answer.status.as_u16(), 502 | 504) => {
                Outcome::Uncertain(detailed("it may have been taken".to_string()))
            }
            // Rights are for an operator to mend, and the delivery waits for that.
            _ if matches!(answer.status.as_u16(), 401 | 403) => {
                Outcome::Retry { detail: detailed(excerpt(&answer.body)), after }
            }
            Outcome::Failed(_) => Outcome::Failed(detailed(excerpt(&answer.body))),
            Outcome::Retry { detail, after } if answer.status.is_redirection() => Outcome::Retry { detail, after },
            other => with_detail(other, detailed(excerpt(&answer.body))),
        },
    };
    let (Outcome::Sent(detail), Some(per_item)) = (&outcome, &operation.per_item) else { return Judged::All(outcome) };
    if scope["answer"].is_null() && !answer.body.is_empty() {
        // Taken, and what of it was refused cannot be read.
        let detail = format!("{status}: the answer cannot be read");
        let retry = Outcome::Retry { detail: detail.clone(), after };
        return Judged::All(if operation.drops_repeats { retry } else { Outcome::Uncertain(detail) });
    }
    Judged::Each(each(templates, per_item, &mut scope, parts, detail, after))
}

/// The outcome of each delivery of a request that was taken as a whole.
fn each(
    templates: &Templates,
    per_item: &PerItem,
    scope: &mut Value,
    parts: &[Part<'_>],
    detail: &str,
    after: Option<Duration>,
) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Sent(detail.to_string()); parts.len()];
    let errors = match templates.lenient(&per_item.errors, scope) {
        Value::Array(errors) => errors,
        _ => return outcomes,
    };
    for (error_index, error) in errors.into_iter().enumerate() {
        scope["error"] = error;
        scope["error_index"] = error_index.into();
        for (index, part) in parts.iter().enumerate() {
            scope["index"] = index.into();
            scope["body"] = part.body.clone();
            scope["item"] = part.item.clone();
            scope["delivery"] = context(part.delivery);
            if !templates.holds(&per_item.of, scope) {
                continue;
            }
            let said = per_item.because.as_ref().map(|because| text(templates.lenient(because, scope)));
            let said = said.filter(|said| !said.is_empty()).unwrap_or_else(|| excerpt(&scope["error"].to_string()));
            let passes = per_item.retry.as_ref().is_some_and(|retry| templates.holds(retry, scope));
            outcomes[index] = if passes { Outcome::Retry { detail: said, after } } else { Outcome::Failed(said) };
        }
    }
    outcomes
}

fn with_detail(outcome: Outcome, detail: String) -> Outcome {
    match outcome {
        Outcome::Sent(_) => Outcome::Sent(detail),
        Outcome::Retry { after, .. } => Outcome::Retry { detail, after },
        Outcome::Failed(_) => Outcome::Failed(detail),
        Outcome::Uncertain(_) => Outcome::Uncertain(detail),
        Outcome::Skipped(_) => Outcome::Skipped(detail),
    }
}

/// What the connector's own header asks for.
fn wait(plan: &ConnectorPlan, answer: &Answer, now: TimeUs) -> Option<Duration> {
    let wait = plan.wait.as_ref()?;
    let value: f64 = answer.headers.get(&wait.header)?.to_str().ok()?.trim().parse().ok()?;
    let seconds = match wait.unit {
        WaitUnit::Seconds => value,
        WaitUnit::Milliseconds => value / 1_000.0,
        WaitUnit::Unix => value - now as f64 / 1e6,
    };
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

/// Names in lower case.
fn headers(answer: &Answer) -> Value {
    let text = |value: &reqwest::header::HeaderValue| json!(String::from_utf8_lossy(value.as_bytes()));
    let all = answer.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    Value::Object(all.collect::<Map<_, _>>())
}

fn text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => excerpt(&text),
        other => excerpt(&other.to_string()),
    }
}

/// One line of it, short enough for a table.
fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
