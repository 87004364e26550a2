//! Traits and segments.

use super::reference::{FUNNEL_STEP, RFM, SEGMENT, SEQUENCE_STEP, TRAIT};
use crate::definition::findings::Span;
use crate::definition::findings::nearest_or_list;
use crate::definition::keys::Section;
use crate::definition::read::{Fields, Reader};
use crate::definition::spec::*;
use crate::definition::yaml::{Entry, Node, Value};
use crate::profile::{
    FunnelModes, FunnelPlan, GapPlan, GapStatistic, OnMerge, STEPS_MAX, SequencePlan, SequenceStep, TraitKind,
};

const EVENT_KINDS: [(&str, TraitKind); 9] = [
    ("latest", TraitKind::Latest),
    ("first", TraitKind::First),
    ("count", TraitKind::Count),
    ("sum", TraitKind::Sum),
    ("min", TraitKind::Min),
    ("max", TraitKind::Max),
    ("mean", TraitKind::Mean),
    ("most_frequent", TraitKind::MostFrequent),
    ("least_frequent", TraitKind::LeastFrequent),
];

/// Values that `distinct` lists, and events that `gap` looks at, where nothing else is said.
const KEEP: usize = 100;
const KEEP_MAX: usize = 10_000;

pub const ON_MERGE: [(&str, OnMerge); 4] = [
    ("latest", OnMerge::Latest),
    ("earliest", OnMerge::Earliest),
    ("survivor", OnMerge::Survivor),
    ("source_priority", OnMerge::SourcePriority),
];

/// What a trait can be; one of them.
pub const KINDS: [&str; 17] = [
    "latest",
    "first",
    "count",
    "sum",
    "min",
    "max",
    "mean",
    "most_frequent",
    "least_frequent",
    "distinct",
    "gap",
    "funnel",
    "sequence",
    "formula",
    "score",
    "stages",
    "rfm",
];

/// Keys that go with some kinds only, and which.
const GOES_WITH: [(&str, &[&str]); 9] = [
    ("event", &OVER_EVENTS),
    ("where", &OVER_EVENTS),
    ("window", &OVER_EVENTS),
    ("pane", &OVER_EVENTS),
    ("by", &OVER_EVENTS),
    ("keep", &["distinct", "gap"]),
    ("quantile", &["gap"]),
    ("within", &["funnel"]),
    ("mode", &["funnel"]),
];

/// Those that look at events one by one.
const OVER_EVENTS: [&str; 11] =
    ["latest", "first", "count", "sum", "min", "max", "mean", "most_frequent", "least_frequent", "distinct", "gap"];

pub fn a_trait(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<TraitSpec> {
    let fields = reader.section(node, what, span, &TRAIT)?;
    let (name, input) = fields.one()?;
    let mut fits = true;
    for (key, kinds) in GOES_WITH {
        if fields.get(key).is_some() && !kinds.contains(&name) {
            let help =
                format!("it goes with {}", kinds.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", "));
            reader.findings.error(fields.key_span(key), format!("`{key}` does not go with `{name}`"), help);
            fits = false;
        }
    }
    let spec = match name {
        "formula" | "score" => {
            let sql = reader.sql(input, &format!("`{name}`"));
            sql.map(|sql| TraitSpec::Formula { sql, score: name == "score" })
        }
        "stages" => stages(reader, input),
        "rfm" => rfm(reader, input),
        "funnel" | "sequence" => steps(reader, &fields, name, input),
        _ => event_trait(reader, &fields, name, input),
    };
    spec.filter(|_| fits)
}

fn event_trait(reader: &Reader, fields: &Fields, name: &str, input_node: &Node) -> Option<TraitSpec> {
    let event = fields.get("event").map(|node| reader.literals(node, "`event`"));
    let filter = fields.get("where").map(|node| reader.sql(node, "`where`"));
    let by = fields.get("by").map(|node| reader.sql(node, "`by`"));
    let length = |key: &str| {
        let node = fields.get(key)?;
        Some(reader.duration(node, &format!("`{key}`")).map(|length| (length.as_micros() as i64, node.span)))
    };
    let (window, pane) = (length("window"), length("pane"));
    let keep = fields.get("keep").map(|node| keep(reader, node));
    let quantile = fields.get("quantile").map(|node| quantile(reader, node));
    let keep = keep.unwrap_or(Some(KEEP))?;
    let kind = match (name, quantile) {
        ("distinct", _) => TraitKind::Distinct { keep },
        ("gap", None) => TraitKind::Gap(GapPlan { keep, statistic: GapStatistic::Mean }),
        ("gap", Some(quantile)) => TraitKind::Gap(GapPlan { keep, statistic: GapStatistic::Quantile(quantile?) }),
        _ => EVENT_KINDS.iter().find(|(other, _)| *other == name).map(|(_, kind)| kind.clone())?,
    };
    let on_merge = on_merge(reader, fields, &kind);
    let input = reader.sql(input_node, &format!("`{name}`"))?;
    let every = input.scalar.text.trim() == "*";
    if every && kind != TraitKind::Count {
        reader.findings.error(input.span, "only `count` can take `*`", None);
        return None;
    }
    let spec = EventTraitSpec {
        kind,
        input_span: input.span,
        input: (!every).then_some(input),
        event: event.map_or(Some(None), |event| event.map(Some))?,
        filter: filter.map_or(Some(None), |filter| filter.map(Some))?,
        on_merge: on_merge?,
        window: window.map_or(Some(None), |window| window.map(Some))?,
        pane: pane.map_or(Some(None), |pane| pane.map(Some))?,
        by: by.map_or(Some(None), |by| by.map(Some))?,
        steps: Vec::new(),
    };
    fields.sound.then(|| TraitSpec::Events(Box::new(spec)))
}

fn keep(reader: &Reader, node: &Node) -> Option<usize> {
    let literal = reader.literal(node, "`keep`")?;
    let keep = literal.text.parse().ok().filter(|keep| (1..=KEEP_MAX).contains(keep));
    if keep.is_none() {
        reader.findings.error(node.span, format!("`keep` is a number from 1 to {KEEP_MAX}"), None);
    }
    keep
}

fn quantile(reader: &Reader, node: &Node) -> Option<f64> {
    let literal = reader.literal(node, "`quantile`")?;
    let quantile = literal.text.parse().ok().filter(|quantile| (0.0..=1.0).contains(quantile));
    if quantile.is_none() {
        reader.findings.error(node.span, "`quantile` is a number from 0 to 1", "quantile: 0.5".to_string());
    }
    quantile
}

/// The steps of a funnel or sequence: names, or maps with more to say.
fn steps(reader: &Reader, fields: &Fields, name: &str, node: &Node) -> Option<TraitSpec> {
    let section = if name == "funnel" { &FUNNEL_STEP } else { &SEQUENCE_STEP };
    let items = reader.list(node, &format!("`{name}`"));
    let steps: Vec<StepOfSpec> = items.iter().filter_map(|item| step(reader, item, section)).collect();
    let most = STEPS_MAX as usize;
    if items.is_empty() || items.len() > most {
        reader.findings.error(node.span, format!("`{name}` has 1 to {most} steps"), None);
        return None;
    }
    let kind = if name == "funnel" {
        let within = fields.required("within").and_then(|node| reader.duration(node, "`within`"));
        let mut modes = FunnelModes::default();
        for literal in fields.get("mode").and_then(|node| reader.literals(node, "`mode`")).into_iter().flatten() {
            if !modes.set(&literal.text) {
                let help = nearest_or_list(&literal.text, FunnelModes::NAMES);
                reader.findings.error(literal.span, format!("there is no mode `{}`", literal.text), help);
            }
        }
        if modes.allow_reentry && !modes.strict_order {
            let help = "mode: [strict_order, allow_reentry]".to_string();
            reader.findings.error(fields.key_span("mode"), "`allow_reentry` goes with `strict_order`", help);
        }
        TraitKind::Funnel(FunnelPlan { steps: steps.len() as u8, within_us: within?.as_micros() as i64, modes })
    } else {
        let mut next = 0u32;
        let plans = steps.iter().map(|step| {
            // Each exclusion has a bit of its own.
            let without = step.without.iter().fold(0u32, |mask, _| {
                next += 1;
                mask | 1u32.checked_shl(next - 1).unwrap_or(0)
            });
            SequenceStep { within_us: step.within, without }
        });
        let plans = plans.collect();
        if next > 32 {
            reader.findings.error(node.span, "a sequence can exclude at most 32 kinds of events", None);
            return None;
        }
        TraitKind::Sequence(SequencePlan { steps: plans })
    };
    let sound = steps.len() == items.len();
    let spec = EventTraitSpec {
        kind,
        input: None,
        input_span: node.span,
        event: None,
        filter: None,
        on_merge: None,
        window: None,
        pane: None,
        by: None,
        steps,
    };
    (sound && fields.sound).then(|| TraitSpec::Events(Box::new(spec)))
}

fn step(reader: &Reader, node: &Node, section: &'static Section) -> Option<StepOfSpec> {
    if !matches!(node.value, Value::Map(_)) {
        return Some(StepOfSpec { take: events(reader, node)?, within: None, without: Vec::new() });
    }
    let fields = reader.section(node, "a step", node.span, section)?;
    let take = events_of(reader, &fields);
    let within = fields.get("within").map(|node| reader.duration(node, "`within`"));
    let without = fields.get("without").map(|node| match &node.value {
        Value::List(items) => items.iter().map(|item| events(reader, item)).collect::<Option<Vec<_>>>(),
        _ => events(reader, node).map(|one| vec![one]),
    });
    let step = StepOfSpec {
        take: take?,
        within: within.map_or(Some(None), |within| within.map(|within| Some(within.as_micros() as i64)))?,
        without: without.unwrap_or(Some(Vec::new()))?,
    };
    fields.sound.then_some(step)
}

/// A name, or `{ event, where }`.
fn events(reader: &Reader, node: &Node) -> Option<EventsSpec> {
    if matches!(node.value, Value::Map(_)) {
        let fields = reader.section(node, "events", node.span, &FUNNEL_STEP)?;
        return events_of(reader, &fields).filter(|_| fields.sound);
    }
    Some(EventsSpec { event: Some(vec![reader.literal(node, "an event")?]), filter: None })
}

fn events_of(reader: &Reader, fields: &Fields) -> Option<EventsSpec> {
    let event = fields.get("event").map(|node| reader.literals(node, "`event`"));
    let filter = fields.get("where").map(|node| reader.sql(node, "`where`"));
    Some(EventsSpec {
        event: event.map_or(Some(None), |event| event.map(Some))?,
        filter: filter.map_or(Some(None), |filter| filter.map(Some))?,
    })
}

/// `rfm: { recency: …, frequency: …, monetary: …, every: 1d }`.
fn rfm(reader: &Reader, node: &Node) -> Option<TraitSpec> {
    let fields = reader.section(node, "`rfm`", node.span, &RFM)?;
    let sql = |key: &str| fields.required(key).and_then(|node| reader.sql(node, &format!("`{key}`")));
    let (recency, frequency, monetary) = (sql("recency"), sql("frequency"), sql("monetary"));
    let every = fields.required("every").and_then(|node| {
        let every = reader.duration(node, "`every`")?;
        if every.as_secs() < 60 {
            reader.findings.error(node.span, "`every` is a minute at least", "every: 1d".to_string());
            return None;
        }
        i64::try_from(every.as_micros()).ok()
    });
    let spec = RfmSpec { recency: recency?, frequency: frequency?, monetary: monetary?, every_us: every? };
    fields.sound.then(|| TraitSpec::Rfm(Box::new(spec)))
}

/// `stages: [ { new: condition }, … ]`, the first that holds.
fn stages(reader: &Reader, node: &Node) -> Option<TraitSpec> {
    let items = reader.list(node, "`stages`");
    let mut stages: Vec<(Literal, Sql)> = Vec::new();
    for item in items {
        let entries = reader.entries(item, "a stage");
        let [Entry { key, value }] = entries else {
            let help = "- active: \"last_seen > now() - INTERVAL '30 days'\"".to_string();
            reader.findings.error(item.span, "a stage is one name and its condition", help);
            continue;
        };
        reader.check_name(&key.text, key.span, "stage");
        if stages.iter().any(|(other, _)| other.text == key.text) {
            reader.findings.error(key.span, format!("stage `{}` is defined twice", key.text), None);
        }
        let name = Literal { text: key.text.clone(), span: key.span, known: true };
        stages.extend(reader.sql(value, &format!("stage `{}`", key.text)).map(|sql| (name, sql)));
    }
    if items.is_empty() {
        reader.findings.error(node.span, "`stages` is empty", None);
    }
    (!items.is_empty() && stages.len() == items.len()).then_some(TraitSpec::Stages(stages))
}

/// Which value stands is a question only where one does. The outer None where something was reported.
fn on_merge(reader: &Reader, fields: &Fields, kind: &TraitKind) -> Option<Option<OnMerge>> {
    let Some(node) = fields.get("on_merge") else { return Some(None) };
    let on_merge = reader.choice(node, "`on_merge`", &ON_MERGE)?;
    if !matches!(kind, TraitKind::Latest | TraitKind::First) {
        let help = "what counts, adds up or compares takes in both sides of a merge anyway".to_string();
        reader.findings.error(fields.key_span("on_merge"), "`on_merge` goes with `latest` and `first`", help);
        return None;
    }
    Some(Some(on_merge))
}

pub fn segment(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<SegmentSpec> {
    if !matches!(node.value, Value::Map(_)) {
        return reader.sql(node, what).map(SegmentSpec::Predicate);
    }
    let fields = reader.section(node, what, span, &SEGMENT)?;
    let (kind, node) = fields.one()?;
    if kind == "list" {
        let (file, matches) = (reader.literal(node, "`list`"), fields.required("match"));
        let matches = matches.and_then(|node| reader.literal(node, "`match`"));
        return Some(SegmentSpec::List(ListSpec { file: file?, matches: matches? }));
    }
    if fields.has("match") {
        reader.findings.error(fields.key_span("match"), "`match` goes with `list`", None);
        return None;
    }
    let literal = reader.literal(node, "`sample`")?;
    let share = literal.text.trim().strip_suffix('%').and_then(|text| text.trim().parse::<f64>().ok());
    let Some(share) = share.filter(|share| (0.0..=100.0).contains(share)) else {
        reader.findings.error(node.span, "`sample` is a share of all people", "sample: 10%".to_string());
        return None;
    };
    Some(SegmentSpec::Sample { below: (share / 100.0 * 4_294_967_296.0).round() as u64 })
}
