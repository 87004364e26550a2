//! Activations: what sets them off, and their steps; and what holds for all messages.

use std::time::Duration;

use super::reference;
use crate::activation::{CAP_MAX, Cap, EVERY_DAY, LocalTime, OnChange, QuietHours, ReEntry, Status};
use crate::definition::findings::Span;
use crate::definition::read::{Fields, Reader, micros};
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node, Value};

pub const ON_BACKFILL: [(&str, bool); 2] = [("silent", false), ("fire", true)];

pub const STATUSES: [(&str, Status); 3] =
    [("paused", Status::Paused), ("dry_run", Status::DryRun), ("live", Status::Live)];

pub const ON_CHANGES: [(&str, OnChange); 3] =
    [("finish", OnChange::Finish), ("move", OnChange::Move), ("stop", OnChange::Stop)];

pub const CONSENT_DEFAULTS: [(&str, bool); 2] = [("deny", false), ("allow", true)];

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

pub fn days() -> Vec<&'static str> {
    DAYS.to_vec()
}

/// What a journey may have at most: places of steps are small numbers, and nobody reads more.
const STEPS_MAX: usize = 200;

const RECONCILE_MIN: Duration = Duration::from_secs(60);

pub fn activation(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<ActivationSpec> {
    let fields = reader.section(node, what, span, &reference::ACTIVATION)?;
    let status = fields.get("status").map(|node| reader.choice(node, "`status`", &STATUSES));
    let on_backfill = fields.get("on_backfill").map(|node| reader.choice(node, "`on_backfill`", &ON_BACKFILL));
    let on_change = fields.get("on_change").map(|node| reader.choice(node, "`on_change`", &ON_CHANGES));
    let consent = fields.get("consent").and_then(|node| reader.literal(node, "`consent`"));
    let re_entry = fields.get("re_entry").map(|node| re_entry(reader, node));
    let priority = fields.get("priority").map(|node| reader.count(node, "`priority`", 0));
    let frequency_cap = fields.get("frequency_cap").map(|node| cap(reader, node));
    let quiet_hours = fields.get("quiet_hours").map(|node| quiet_hours(reader, node));
    let exit_when = fields.get("exit_when").map(|node| any(node).iter().map(|node| exit(reader, node)).collect());
    let trigger = fields.get("trigger").and_then(|node| trigger(reader, node, fields.key_span("trigger")));
    let do_node = fields.get("do");
    let mut ids: Vec<Literal> = Vec::new();
    let steps = do_node.and_then(|node| steps(reader, node, "`do`", what, &mut ids));
    if let Some(node) = do_node.filter(|node| matches!(&node.value, Value::List(items) if items.is_empty())) {
        reader.findings.error(node.span, format!("{what} does nothing: `do` is empty"), None);
        return None;
    }
    if ids.len() > STEPS_MAX {
        let help = "make two activations of it".to_string();
        reader.findings.error(span, format!("{what} has more than {STEPS_MAX} steps"), help);
        return None;
    }
    Some(ActivationSpec {
        trigger: trigger?,
        status: status.flatten().unwrap_or(Status::DryRun),
        on_backfill: on_backfill.flatten().unwrap_or(false),
        consent: consent?,
        re_entry: re_entry.unwrap_or(Some(ReEntry::Always))?,
        priority: priority.unwrap_or(Some(0))?,
        frequency_cap: frequency_cap.map_or(Some(None), |cap| cap.map(Some))?,
        quiet_hours: quiet_hours.map_or(Some(None), |hours| hours.map(Some))?,
        exit_when: exit_when.unwrap_or(Some(Vec::new()))?,
        on_change: on_change.flatten().unwrap_or(OnChange::Finish),
        steps: steps?,
        written: reader.json(node),
    })
}

pub fn audience(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<AudienceSpec> {
    let fields = reader.section(node, what, span, &reference::AUDIENCE)?;
    let literal = |key: &str| fields.get(key).and_then(|node| reader.literal(node, &format!("`{key}`")));
    let (segment, to, consent) = (literal("segment"), literal("to"), literal("consent"));
    let matches = fields.get("match").and_then(|node| reader.literals(node, "`match`"));
    let reconcile = fields.get("reconcile").map(|node| {
        let time = reader.duration(node, "`reconcile`")?;
        if time < RECONCILE_MIN {
            let help = "all members are sent again each time: write 1d, or 1h".to_string();
            reader.findings.error(node.span, "`reconcile` is less than a minute", help);
            return None;
        }
        Some(time)
    });
    Some(AudienceSpec {
        segment: segment?,
        to: to?,
        matches: matches?,
        consent: consent?,
        reconcile: reconcile.map_or(Some(None), |time| time.map(Some))?,
    })
}

fn trigger(reader: &Reader, node: &Node, span: Span) -> Option<TriggerSpec> {
    let fields = reader.section(node, "`trigger`", span, &reference::TRIGGER)?;
    let filter = fields.get("where").map(|node| reader.sql(node, "`where`"));
    let chosen = fields.one()?;
    for (key, of) in
        [("from", "changes"), ("to", "changes"), ("over", "schedule"), ("timezone", "schedule"), ("where", "event")]
    {
        if chosen.0 != of && fields.has(key) {
            let help = (key == "where").then(|| "put the condition into the segment".to_string());
            reader.findings.error(fields.key_span(key), format!("`{key}` goes with `{of}`"), help);
            return None;
        }
    }
    match chosen {
        ("changes", node) => {
            let stages = |key: &str| match fields.get(key) {
                Some(node) => reader.literals(node, &format!("`{key}`")).map(Some),
                None => Some(None),
            };
            let trait_name = reader.literal(node, "`changes`");
            let (from, to) = (stages("from"), stages("to"));
            Some(TriggerSpec::Changes { trait_name: trait_name?, from: from?, to: to? })
        }
        ("event", node) => {
            let event = reader.literals(node, "`event`");
            let filter = filter.map_or(Some(None), |filter| filter.map(Some));
            Some(TriggerSpec::Event { event: event?, filter: filter? })
        }
        ("schedule", node) => {
            let cron = reader.literal(node, "`schedule`");
            let over = fields.required("over").and_then(|node| reader.literal(node, "`over`"));
            let timezone = fields.get("timezone").map(|node| reader.literal(node, "`timezone`"));
            let timezone = timezone.map_or(Some(None), |zone| zone.map(Some));
            Some(TriggerSpec::Schedule { cron: cron?, over: over?, timezone: timezone? })
        }
        (kind, node) => {
            let segment = reader.literal(node, &format!("`{kind}`"))?;
            Some(if kind == "enters" { TriggerSpec::Enters(segment) } else { TriggerSpec::Exits(segment) })
        }
    }
}

/// A list of steps. Their ids go to `ids`, in which each may be once.
fn steps(reader: &Reader, node: &Node, list: &str, what: &str, ids: &mut Vec<Literal>) -> Option<Vec<JourneyStepSpec>> {
    let all: Vec<Option<JourneyStepSpec>> =
        reader.list(node, list).iter().map(|node| step(reader, node, what, ids)).collect();
    let all: Option<Vec<JourneyStepSpec>> = all.into_iter().collect();
    for after in all.iter().flatten().rev().skip(1).filter(|step| matches!(step.action, JourneyActionSpec::Stop)) {
        let message = format!("nothing after the step `{}` is ever done", after.id.text);
        reader.findings.error(after.id.span, message, None);
    }
    all
}

fn step(reader: &Reader, node: &Node, what: &str, ids: &mut Vec<Literal>) -> Option<JourneyStepSpec> {
    let fields: Fields = reader.section(node, "a step", node.span, &reference::JOURNEY_STEP)?;
    let id = fields.get("id").and_then(|node| reader.literal(node, "`id`"));
    if let Some(id) = &id {
        reader.check_name(&id.text, id.span, "step");
        if ids.iter().any(|other| other.text == id.text) {
            let help = "a step's id is part of the idempotency key of what it sends".to_string();
            reader.findings.error(id.span, format!("{what} has two steps `{}`", id.text), help);
        }
        ids.push(id.clone());
    }
    let (kind, of) = fields.one()?;
    for (key, wanted) in [("on_event", "wait_for"), ("on_timeout", "wait_for"), ("then", "branch"), ("else", "branch")]
    {
        if kind != wanted && fields.has(key) {
            reader.findings.error(fields.key_span(key), format!("`{key}` goes with `{wanted}`"), None);
            return None;
        }
    }
    let mut nested = |key: &str| match fields.get(key) {
        Some(node) => steps(reader, node, &format!("`{key}`"), what, ids),
        None => Some(Vec::new()),
    };
    let span = fields.key_span(kind);
    let action = match kind {
        "send" => send(reader, of, span),
        "wait" => reader.duration(of, "`wait`").map(JourneyActionSpec::Wait),
        "wait_until" => wait_until(reader, of, span).map(JourneyActionSpec::WaitUntil),
        "wait_for" => {
            let (on_event, on_timeout) = (nested("on_event"), nested("on_timeout"));
            let waited = wait_for(reader, of, span);
            if let (Some((_, None)), true) = (&waited, fields.has("on_timeout")) {
                let help = "add `timeout: 2d` to `wait_for`".to_string();
                let message = "`on_timeout` never comes: `wait_for` has no `timeout`";
                reader.findings.error(fields.key_span("on_timeout"), message, help);
            }
            let (wait, timeout) = waited?;
            Some(JourneyActionSpec::WaitFor { wait, timeout, on_event: on_event?, on_timeout: on_timeout? })
        }
        "branch" => {
            let when = reader.sql(of, "`branch`");
            let (then, otherwise) = (nested("then"), nested("else"));
            Some(JourneyActionSpec::Branch { when: when?, then: then?, otherwise: otherwise? })
        }
        "split" => split(reader, of, what, ids),
        "emit" => emit(reader, of, span),
        "set" => match &of.value {
            Value::Map(entries) if !entries.is_empty() => Some(JourneyActionSpec::Set(reader.json(of), of.clone())),
            _ => {
                let help = "write set: { stage: welcomed }".to_string();
                reader.findings.error(of.span, "`set` is a map of traits and their values", help);
                None
            }
        },
        _ => reader.boolean(of, "`stop`").map(|_| JourneyActionSpec::Stop),
    };
    Some(JourneyStepSpec { id: id?, action: action? }).filter(|_| fields.sound)
}

fn send(reader: &Reader, node: &Node, span: Span) -> Option<JourneyActionSpec> {
    let fields = reader.section(node, "`send`", span, &reference::SEND)?;
    let to = fields.get("to").and_then(|node| reader.literal(node, "`to`"));
    let body = fields.get("body").map(|node| (reader.json(node), node.clone()));
    Some(JourneyActionSpec::Send(SendSpec { to: to?, body })).filter(|_| fields.sound)
}

fn emit(reader: &Reader, node: &Node, span: Span) -> Option<JourneyActionSpec> {
    let fields = reader.section(node, "`emit`", span, &reference::EMIT)?;
    let event = fields.get("event").and_then(|node| reader.literal(node, "`event`"));
    let properties = fields.get("properties").map(|node| (reader.json(node), node.clone()));
    Some(JourneyActionSpec::Emit { event: event?, properties })
}

/// `09:00`, or with days.
fn wait_until(reader: &Reader, node: &Node, span: Span) -> Option<LocalTime> {
    if node.as_scalar().is_some() {
        let text = reader.literal(node, "`wait_until`")?;
        return Some(LocalTime { minute: minute(reader, &text.text, node.span)?, days: EVERY_DAY });
    }
    let fields = reader.section(node, "`wait_until`", span, &reference::WAIT_UNTIL)?;
    let time = fields.get("time").and_then(|node| reader.literal(node, "`time`"));
    let days = match fields.get("days") {
        None => Some(EVERY_DAY),
        Some(node) if any(node).is_empty() => {
            reader.findings.error(node.span, "`days` is an empty list: it would wait for ever", None);
            None
        }
        Some(node) => any(node).iter().try_fold(0, |days, node| {
            let names: Vec<(&str, u8)> = DAYS.iter().enumerate().map(|(bit, name)| (*name, 1 << bit)).collect();
            Some(days | reader.choice(node, "`days`", &names)?)
        }),
    };
    let time = time?;
    Some(LocalTime { minute: minute(reader, &time.text, time.span)?, days: days? })
}

fn wait_for(reader: &Reader, node: &Node, span: Span) -> Option<(AwaitSpec, Option<Duration>)> {
    let fields = reader.section(node, "`wait_for`", span, &reference::WAIT_FOR)?;
    let timeout = fields.get("timeout").map(|node| reader.duration(node, "`timeout`"));
    let wait = awaited(reader, &fields);
    Some((wait?, timeout.map_or(Some(None), |timeout| timeout.map(Some))?))
}

fn exit(reader: &Reader, node: &Node) -> Option<AwaitSpec> {
    awaited(reader, &reader.section(node, "`exit_when`", node.span, &reference::EXIT_WHEN)?)
}

fn awaited(reader: &Reader, fields: &Fields) -> Option<AwaitSpec> {
    let filter = fields.get("where").map(|node| reader.sql(node, "`where`"));
    let (kind, node) = fields.one()?;
    if kind != "event" && fields.has("where") {
        let help = "put the condition into the segment".to_string();
        reader.findings.error(fields.key_span("where"), "`where` goes with `event`", help);
        return None;
    }
    Some(match kind {
        "event" => {
            let event = reader.literals(node, "`event`");
            let filter = filter.map_or(Some(None), |filter| filter.map(Some));
            AwaitSpec::Event { event: event?, filter: filter? }
        }
        "enters" => AwaitSpec::Enters(reader.literal(node, "`enters`")?),
        _ => AwaitSpec::Exits(reader.literal(node, "`exits`")?),
    })
}

fn split(reader: &Reader, node: &Node, what: &str, ids: &mut Vec<Literal>) -> Option<JourneyActionSpec> {
    let mut arms = Vec::new();
    let mut sound = true;
    for Entry { key, value } in reader.entries(node, "split") {
        reader.check_name(&key.text, key.span, "arm");
        let fields = reader.section(value, format!("arm `{}`", key.text), key.span, &reference::ARM);
        let share = fields.as_ref().and_then(|fields| fields.get("share")).and_then(|node| share(reader, node));
        let steps = match fields.as_ref().and_then(|fields| fields.get("do")) {
            Some(node) => steps(reader, node, "`do`", what, ids),
            None => Some(Vec::new()),
        };
        match (share, steps) {
            (Some(share), Some(steps)) => arms.push(ArmSpec { name: key.text.clone(), share, steps }),
            _ => sound = false,
        }
    }
    if !sound {
        return None;
    }
    let whole: f64 = arms.iter().map(|arm| arm.share).sum();
    if (whole - 1.0).abs() > 1e-9 {
        let message = format!("the shares of a split add up to 100%, these to {}%", (whole * 1e6).round() / 1e4);
        reader.findings.error(node.span, message, "an arm without `do` is a control group".to_string());
        return None;
    }
    Some(JourneyActionSpec::Split(arms))
}

/// `45%`, as a part of one.
fn share(reader: &Reader, node: &Node) -> Option<f64> {
    let literal = reader.literal(node, "`share`")?;
    let share = literal.text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let share = share.filter(|share| *share > 0.0 && *share <= 100.0);
    if share.is_none() && literal.known {
        let message = format!("`{}` is not a share", literal.text);
        reader.findings.error(node.span, message, "write 50%, more than 0% and at most 100%".to_string());
    }
    share.map(|share| share / 100.0)
}

/// `once`, `always`, `after 7d`.
fn re_entry(reader: &Reader, node: &Node) -> Option<ReEntry> {
    let literal = reader.literal(node, "`re_entry`")?;
    match literal.text.trim() {
        "once" => Some(ReEntry::Once),
        "always" => Some(ReEntry::Always),
        text => {
            let Some(pause) = text.strip_prefix("after ") else {
                let message = format!("`re_entry` is once, always or `after` a time, not `{text}`");
                reader.findings.error(node.span, message, "write once, always, or after 7d".to_string());
                return None;
            };
            reader.duration_text(pause.trim(), node.span, "`re_entry`").map(|pause| ReEntry::After(micros(pause)))
        }
    }
}

/// `2 per 7d`.
pub fn cap(reader: &Reader, node: &Node) -> Option<Cap> {
    let (count, within) = reader.per(node, "`frequency_cap`", CAP_MAX, "1 per 7d")?;
    Some(Cap { count, within_us: micros(within) })
}

/// `21:00-08:00`.
pub fn quiet_hours(reader: &Reader, node: &Node) -> Option<QuietHours> {
    let literal = reader.literal(node, "`quiet_hours`")?;
    let Some((from, to)) = literal.text.split_once('-') else {
        let message = format!("`quiet_hours` go from one time to another, not `{}`", literal.text);
        reader.findings.error(node.span, message, "write \"21:00-08:00\"".to_string());
        return None;
    };
    let (from, to) = (minute(reader, from, node.span), minute(reader, to, node.span));
    let hours = QuietHours { from_minute: from?, to_minute: to? };
    if hours.from_minute == hours.to_minute {
        reader.findings.error(node.span, "these quiet hours are the whole day, or nothing", None);
        return None;
    }
    Some(hours)
}

/// `09:30` as minutes after midnight.
fn minute(reader: &Reader, text: &str, span: Span) -> Option<u16> {
    let parts = text.trim().split_once(':');
    let number = |text: &str, below: u16| {
        text.parse::<u16>().ok().filter(|number| *number < below && text.len() == 2 && !text.starts_with('+'))
    };
    let minute = parts.and_then(|(hour, minute)| Some(number(hour, 24)? * 60 + number(minute, 60)?));
    if minute.is_none() {
        let message = format!("`{}` is not a time of day", text.trim());
        reader.findings.error(span, message, "write it as 09:00, from 00:00 to 23:59".to_string());
    }
    minute
}

pub fn consent(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<ConsentSpec> {
    let fields = reader.section(node, what, span, &reference::CONSENT)?;
    let from = fields.get("from").and_then(|node| reader.sql(node, "`from`"));
    let default = fields.get("default").map(|node| reader.choice(node, "`default`", &CONSENT_DEFAULTS));
    Some(ConsentSpec { from: from?, default: default.unwrap_or(Some(false))? })
}

pub fn channel(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<ChannelSpec> {
    let fields = reader.section(node, what, span, &reference::CHANNEL)?;
    let frequency_cap = fields.get("frequency_cap").map(|node| cap(reader, node));
    let quiet_hours = fields.get("quiet_hours").map(|node| quiet_hours(reader, node));
    Some(ChannelSpec {
        frequency_cap: frequency_cap.map_or(Some(None), |cap| cap.map(Some))?,
        quiet_hours: quiet_hours.map_or(Some(None), |hours| hours.map(Some))?,
    })
}

/// One node, or those of a list.
fn any(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}
