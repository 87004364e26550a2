//! Traits through [`Traits::apply`] and [`Profile::merge`]: what stands does not depend on how events came.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use proptest::prelude::*;

use super::*;
use crate::event::{EventBatch, ProfileId, TimeUs, column, envelope_schema};
use crate::expression::{ColumnScope, Expression};
use crate::session::SessionsPlan;

#[derive(Debug, Clone)]
struct Event {
    source: &'static str,
    message_id: String,
    at: TimeUs,
    event: &'static str,
    /// Outer None: nothing said; inner None: an explicit null.
    name: Option<Option<&'static str>>,
    n: Option<i64>,
    x: Option<f64>,
    /// The rank of its best identifier.
    best: u64,
}

fn schema() -> SchemaRef {
    let own = [
        Field::new("name", DataType::Utf8, true),
        Field::new("name?", DataType::Boolean, true),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
    ];
    let envelope = envelope_schema();
    Arc::new(Schema::new(envelope.fields().iter().map(|f| f.as_ref().clone()).chain(own).collect::<Vec<_>>()))
}

fn batch(events: &[&Event]) -> EventBatch {
    fn text<'e>(events: &[&'e Event], get: impl Fn(&'e Event) -> Option<&'e str>) -> ArrayRef {
        Arc::new(events.iter().map(|event| get(event)).collect::<StringArray>())
    }
    let times: TimestampMicrosecondArray = events.iter().map(|event| Some(event.at)).collect();
    let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
    let schema = schema();
    let columns = schema.fields().iter().enumerate().map(|(index, field)| match index {
        column::MESSAGE_ID => text(events, |event| Some(&event.message_id)),
        column::EVENT => text(events, |event| Some(event.event)),
        column::SOURCE => text(events, |event| Some(event.source)),
        column::TIMESTAMP | column::RECEIVED_AT => times.clone(),
        _ if index >= column::COUNT => match field.name().as_str() {
            "name" => text(events, |event| event.name.flatten()),
            "name?" => Arc::new(events.iter().map(|event| Some(event.name.is_some())).collect::<BooleanArray>()),
            "n" => Arc::new(events.iter().map(|event| event.n).collect::<Int64Array>()),
            _ => Arc::new(events.iter().map(|event| event.x).collect::<Float64Array>()),
        },
        _ if field.is_nullable() => new_null_array(field.data_type(), events.len()),
        _ => cast(&Int64Array::from(vec![0; events.len()]), field.data_type()).unwrap(),
    });
    EventBatch { batch: RecordBatch::try_new(schema.clone(), columns.collect()).unwrap() }
}

fn plan(kind: TraitKind, on_merge: OnMerge, input: &str, value_type: ValueType) -> TraitPlan {
    let mut scope = ColumnScope::new();
    for field in schema().fields() {
        scope.add_column(field.name(), field.data_type().clone());
    }
    let dated = matches!(kind, TraitKind::Latest | TraitKind::First);
    let name = format!("{kind:?}_{on_merge:?}_{input}");
    let exact = value_type == ValueType::Double && matches!(kind, TraitKind::Sum | TraitKind::Mean);
    let rule = EventRule {
        input: (input != "*").then(|| Expression::compile(input, &scope).unwrap()),
        presence: (dated && input == "name").then(|| "name?".to_string()),
        input_type: value_type,
        scale: if exact { 6 } else { 0 },
        on_merge,
        source_order: vec!["erp".to_string(), "web".to_string()],
        ..rule(kind)
    };
    of_rule(&name, rule)
}

fn of_rule(name: &str, rule: EventRule) -> TraitPlan {
    let column = TraitColumn { name: name.to_string(), part: "", value_type: rule.input_type, nullable: true };
    TraitPlan { name: name.to_string(), version: 0, rule: TraitRule::Events(Box::new(rule)), columns: vec![column] }
}

/// A rule over all events, without any option.
pub fn rule(kind: TraitKind) -> EventRule {
    EventRule {
        on_merge: if kind == TraitKind::First { OnMerge::Earliest } else { OnMerge::Latest },
        kind,
        events: None,
        filter: None,
        input: None,
        input_type: ValueType::Long,
        presence: None,
        scale: 0,
        source_order: Vec::new(),
        window: None,
        by: None,
        steps: Vec::new(),
        exclusions: Vec::new(),
    }
}

fn sessions() -> SessionsPlan {
    SessionsPlan {
        version: 0,
        gap_us: 1,
        lateness_us: LATENESS_US,
        split_on_campaign: false,
        split_on_midnight: None,
        events: None,
    }
}

pub fn count_rule() -> EventRule {
    rule(TraitKind::Count)
}

const STRATEGIES: [OnMerge; 4] = [OnMerge::Latest, OnMerge::Earliest, OnMerge::Survivor, OnMerge::SourcePriority];

/// Every kind, with every strategy it can have, over texts that are deleted and numbers that are not.
fn every_plan() -> Vec<TraitPlan> {
    let mut plans = Vec::new();
    for on_merge in STRATEGIES {
        for kind in [TraitKind::Latest, TraitKind::First] {
            plans.push(plan(kind.clone(), on_merge, "name", ValueType::String));
            plans.push(plan(kind.clone(), on_merge, "n", ValueType::Long));
            plans.push(with(plan(kind.clone(), on_merge, "x", ValueType::Double), |rule| {
                rule.events = Some(vec!["a".to_string()]);
            }));
        }
    }
    for (kind, input, value_type) in [
        (TraitKind::Count, "*", ValueType::Long),
        (TraitKind::Count, "n", ValueType::Long),
        (TraitKind::Sum, "n", ValueType::Long),
        (TraitKind::Sum, "x", ValueType::Double),
        (TraitKind::Min, "n", ValueType::Long),
        (TraitKind::Max, "x", ValueType::Double),
        (TraitKind::Min, "name", ValueType::String),
        (TraitKind::Max, "timestamp", ValueType::Timestamp),
        (TraitKind::Mean, "x", ValueType::Double),
        (TraitKind::Mean, "n", ValueType::Long),
    ] {
        let plan = plan(kind, OnMerge::Latest, input, value_type);
        // Alone, in a window that some events are outside of, by a key, and both.
        let window = Some(Window { length_us: 2, pane_us: 1 });
        plans.push(with(plan.clone(), |rule| rule.window = window));
        plans.push(with(plan.clone(), |rule| rule.by = by_name()));
        plans.push(with(plan.clone(), |rule| (rule.window, rule.by) = (window, by_name())));
        plans.push(plan);
    }
    plans
}

fn by_name() -> Option<Expression> {
    let mut scope = ColumnScope::new();
    scope.add_column("name", DataType::Utf8);
    Some(Expression::compile("name", &scope).unwrap())
}

fn with(plan: TraitPlan, change: impl FnOnce(&mut EventRule)) -> TraitPlan {
    let TraitRule::Events(mut rule) = plan.rule else { return plan };
    change(&mut rule);
    TraitPlan { rule: TraitRule::Events(rule), ..plan }
}

fn profile(_: &[TraitPlan]) -> Profile {
    Profile::new(ProfileId([1; 16]))
}

/// Applies the events in this order, in one batch, to the profile each is of.
fn apply(traits: &Traits, events: &[(&Event, u32)], profiles: &mut [Profile]) {
    let all: Vec<&Event> = events.iter().map(|(event, _)| *event).collect();
    let best: Vec<u64> = all.iter().map(|event| event.best).collect();
    let of_row: Vec<Option<u32>> = events.iter().map(|(_, profile)| Some(*profile)).collect();
    let events = batch(&all);
    // Of the times 0 to 3, the last has not happened yet and the first is outside of the window.
    let input = Input { events: &events, profile_of_row: &of_row, best: &best, now: 2 };
    traits.apply(&input, None, profiles).unwrap();
    traits.count(&input, profiles);
}

fn event(source: &'static str, message_id: &str, at: TimeUs, name: Option<&'static str>, best: u64) -> Event {
    Event { source, message_id: message_id.to_string(), at, event: "a", name: Some(name), n: None, x: None, best }
}

/// SEMANTICS §4, last rule: values go by (rank of the event's source or identifier, timestamp, message id).
#[test]
fn the_value_that_stands_is_the_one_that_on_merge_says() {
    let events = [
        event("app", "1", 1, Some("oldest, of no listed source"), 7),
        event("web", "2", 2, Some("first of web"), 3),
        event("erp", "3", 3, Some("first of erp"), 9),
        event("erp", "4", 4, Some("last of erp"), 8),
        event("web", "5", 5, Some("last of the best identifier"), 3),
        event("app", "6", 6, Some("newest"), 4),
    ];
    let rows = [
        (TraitKind::Latest, OnMerge::Latest, "newest"),
        (TraitKind::Latest, OnMerge::Earliest, "oldest, of no listed source"),
        (TraitKind::Latest, OnMerge::Survivor, "last of the best identifier"),
        (TraitKind::Latest, OnMerge::SourcePriority, "last of erp"),
        (TraitKind::First, OnMerge::Latest, "newest"),
        (TraitKind::First, OnMerge::Earliest, "oldest, of no listed source"),
        (TraitKind::First, OnMerge::Survivor, "first of web"),
        (TraitKind::First, OnMerge::SourcePriority, "first of erp"),
    ];
    let plans: Vec<TraitPlan> =
        rows.iter().map(|(kind, on_merge, _)| plan(kind.clone(), *on_merge, "name", ValueType::String)).collect();
    let traits = Traits::new(plans.clone(), sessions(), &schema()).unwrap();
    let in_order: Vec<(&Event, u32)> = events.iter().map(|event| (event, 0)).collect();
    let reversed: Vec<(&Event, u32)> = in_order.iter().rev().copied().collect();
    for events in [in_order, reversed] {
        let mut profiles = [profile(&plans)];
        apply(&traits, &events, &mut profiles);
        for (index, (kind, on_merge, expect)) in rows.iter().enumerate() {
            let value =
                profiles[0].trait_state(index as u16).and_then(|state| state.plain_value(&rule(kind.clone()), ""));
            assert_eq!(value, Some(Scalar::Text((*expect).into())), "{kind:?} {on_merge:?}");
        }
    }
}

/// Few times, ids and ranks, so that ties are common; the same id from two sources, never twice from one.
fn random_events(rng: &mut fastrand::Rng) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for _ in 0..rng.usize(1..25) {
        let event = Event {
            source: ["web", "erp", "app"][rng.usize(0..3)],
            message_id: format!("m{}", rng.u8(0..12)),
            at: rng.i64(0..4),
            event: ["a", "b"][rng.usize(0..2)],
            name: [None, Some(None), Some(Some("x")), Some(Some("y"))][rng.usize(0..4)],
            n: rng.bool().then(|| rng.i64(-3..3)),
            x: rng.bool().then(|| f64::from(rng.i32(-9..9)) / 4.0),
            best: [0, 1 << 48, (1 << 48) + 1, u64::MAX][rng.usize(0..4)],
        };
        if !events.iter().any(|other| other.source == event.source && other.message_id == event.message_id) {
            events.push(event);
        }
    }
    events
}

proptest! {
    /// What an explanation names is what the value is made of: those events alone give it, and where one stands for it,
    /// that one does.
    #[test]
    fn the_events_that_are_taken_make_the_value(seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plans = every_plan();
        let traits = Traits::new(plans.clone(), sessions(), &schema()).unwrap();
        let events = random_events(&mut rng);
        let value = |events: &[&Event], index: usize| {
            let mut profiles = [profile(&plans)];
            apply(&traits, &events.iter().map(|event| (*event, 0)).collect::<Vec<_>>(), &mut profiles);
            traits.columns(&profiles, &[2]).unwrap().column(traits.first_column[index]).clone()
        };
        let all: Vec<&Event> = events.iter().collect();
        let (rows, owners) = (batch(&all), vec![Some(0); all.len()]);
        let best: Vec<u64> = all.iter().map(|event| event.best).collect();
        let input = Input { events: &rows, profile_of_row: &owners, best: &best, now: 2 };
        for (index, plan) in plans.iter().enumerate() {
            let taken = traits.taken(index, &input).unwrap();
            let inside: Vec<&Event> = taken.iter().filter(|t| t.is_inside).map(|t| all[t.row]).collect();
            let whole = value(&all, index);
            prop_assert_eq!(&value(&inside, index), &whole, "{} {:?} {:?}", plan.name, taken, events);
            let deciding: Vec<&Event> = taken.iter().filter(|t| t.decides).map(|t| all[t.row]).collect();
            let rule = plan.event_rule().unwrap();
            let one = rule.kind.stands_for_one_event() && rule.by.is_none() && !inside.is_empty();
            prop_assert_eq!(deciding.len(), usize::from(one), "{} {:?} {:?}", plan.name, taken, events);
            if one {
                prop_assert_eq!(&value(&deciding, index), &whole, "{} {:?} {:?}", plan.name, taken, events);
            }
        }
    }

    /// A merge loses nothing: SEMANTICS §5 ("commutative, associative … equal under any order and batching") and the
    /// last rule of §4 ("the order of linking and updating does not matter"). Events of one person that were first taken
    /// for two or three people, in any order and any batches, give the traits of one profile that saw them all.
    #[test]
    fn a_merge_loses_nothing(seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plans = every_plan();
        let traits = Traits::new(plans.clone(), sessions(), &schema()).unwrap();
        let events = random_events(&mut rng);

        let mut whole = [profile(&plans)];
        apply(&traits, &events.iter().map(|event| (event, 0)).collect::<Vec<_>>(), &mut whole);

        let people = rng.u32(1..4);
        let mut parts: Vec<Profile> = (0..people).map(|_| profile(&plans)).collect();
        let mut shuffled: Vec<(&Event, u32)> = events.iter().map(|event| (event, rng.u32(0..people))).collect();
        rng.shuffle(&mut shuffled);
        let mut rest = shuffled.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rng.usize(1..=rest.len()));
            // Two may turn out to be one while events still come.
            if parts.len() > 1 && rng.u8(0..4) == 0 {
                let absorbed = std::mem::replace(&mut parts[1], profile(&plans));
                traits.merge(&mut parts[0], absorbed);
            }
            apply(&traits, now, &mut parts);
            rest = later;
        }
        rng.shuffle(&mut parts);
        let mut merged = parts.pop().unwrap();
        for part in parts {
            traits.merge(&mut merged, part);
        }
        traits.settle(&mut merged, 2);
        traits.settle(&mut whole[0], 2);
        for (index, plan) in plans.iter().enumerate() {
            let (merged, whole) = (merged.trait_state(index as u16), whole[0].trait_state(index as u16));
            prop_assert_eq!(merged, whole, "{} {:?}", plan.name, events);
        }
        // Sessions remember what was said of them, which depends on when they are asked.
        let visits = |profile: &Profile| profile.sessions.count(&traits.sessions);
        prop_assert_eq!(visits(&merged), visits(&whole[0]), "sessions of {:?}", events);
        let [whole] = &mut whole;
        (merged.sessions, whole.sessions) = Default::default();
        prop_assert_eq!(&merged, whole);
    }
}

/// A robot's events, more than a sequence holds: while the past is being filled they keep out nothing that is older; afterwards
/// what is behind all that are held is too late.
#[test]
fn a_full_sequence_takes_in_the_past_while_it_is_filled_and_nothing_late_afterwards() {
    let named = |name: &str| Step { events: Some(vec![name.to_string()]), filter: None };
    let sequence = SequencePlan { steps: vec![SequenceStep::default(); 2] };
    let robot = EventRule { steps: vec![named("b"), named("a")], ..rule(TraitKind::Sequence(sequence)) };
    let plan = TraitPlan {
        columns: vec![TraitColumn {
            name: "robot".to_string(),
            part: "matched",
            value_type: ValueType::Boolean,
            nullable: false,
        }],
        ..of_rule("robot", robot)
    };
    let live: Vec<Event> = (0..300).map(|n| event("web", &format!("a{n}"), 1_000 + n, None, 0)).collect();
    let past = Event { event: "b", ..event("web", "b", 500, None, 0) };
    let last = event("web", "last", 2_000, None, 0);
    for (filled, expected) in [(false, true), (true, false)] {
        let mut traits = Traits::new(vec![plan.clone()], sessions(), &schema()).unwrap();
        let mut profiles = [Profile::new(ProfileId([1; 16]))];
        traits.ready[0] = filled;
        apply(&traits, &live.iter().map(|event| (event, 0)).collect::<Vec<_>>(), &mut profiles);
        apply(&traits, &[(&past, 0)], &mut profiles);
        traits.ready[0] = true;
        apply(&traits, &[(&last, 0)], &mut profiles);
        let Some(Accumulator::Sequence(state)) = profiles[0].trait_state(0) else { panic!("a sequence") };
        assert!(state.weigh() < 600 * size_of::<Point>(), "what is held is bounded");
        let rule = plan.event_rule().unwrap();
        let matched = profiles[0].trait_state(0).unwrap().plain_value(rule, "matched");
        assert_eq!(matched, Some(Scalar::Boolean(expected)), "filled before: {filled}");
    }
}
