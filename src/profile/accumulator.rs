//! Accumulators: commutative and associative states of a trait over a profile's events.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::columns::json;
use super::distinct::Distinct;
use super::frequencies::Frequencies;
use super::funnel::{Funnel, FunnelValue};
use super::gap::Gap;
use super::keyed::Keyed;
use super::plan::{EventRule, TraitKind};
use super::sequence::{Sequence, SequenceValue};
use super::window::Panes;
use crate::event::TimeUs;

/// One value of a trait or of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    Boolean(bool),
    Long(i64),
    Double(f64),
    Timestamp(TimeUs),
    Text(Box<str>),
}

impl Scalar {
    /// A total order within one type, so that ties and extremes never depend on the order of events.
    pub fn order(&self, other: &Scalar) -> Ordering {
        match (self, other) {
            (Scalar::Boolean(a), Scalar::Boolean(b)) => a.cmp(b),
            (Scalar::Long(a), Scalar::Long(b)) | (Scalar::Timestamp(a), Scalar::Timestamp(b)) => a.cmp(b),
            (Scalar::Double(a), Scalar::Double(b)) => a.total_cmp(b),
            (Scalar::Text(a), Scalar::Text(b)) => a.cmp(b),
            // A trait has one type; a stored value of another could only come from another definition version.
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Scalar::Boolean(_) => 0,
            Scalar::Long(_) => 1,
            Scalar::Double(_) => 2,
            Scalar::Timestamp(_) => 3,
            Scalar::Text(_) => 4,
        }
    }
}

/// An integer of a trait's scale; saturates at the ends of `i128`, far beyond any sum of doubles. Aligned to eight bytes,
/// so that no accumulator is larger for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "i128", into = "i128")]
#[repr(Rust, packed(8))]
pub struct Exact(i128);

impl Exact {
    fn add(&mut self, more: Exact) {
        *self = Exact(i128::from(*self).saturating_add(i128::from(more)));
    }
}

impl From<i128> for Exact {
    fn from(value: i128) -> Exact {
        Exact(value)
    }
}

impl From<Exact> for i128 {
    fn from(exact: Exact) -> i128 {
        exact.0
    }
}

/// The value of one event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dated {
    /// 0 is best; 0 for all where time alone decides.
    pub rank: u64,
    pub at: TimeUs,
    pub message_id: Box<str>,
    pub value: Option<Scalar>,
}

impl Dated {
    /// Whether another event stands instead: `Less` where it does.
    pub fn precedence(&self, rule: &EventRule, rank: u64, at: TimeUs, message_id: &str) -> Ordering {
        precedence(rule.prefers_earlier(), (rank, at, message_id), (self.rank, self.at, &self.message_id))
    }
}

/// What is found by walking over the events that a funnel or sequence holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walked {
    Nothing,
    Funnel(FunnelValue),
    Sequence(SequenceValue),
}

/// Which of its values; see `TraitColumn::part`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkedPart {
    Matched,
    Level,
    Best,
    StartedAt,
    /// When the last step was reached, or the sequence matched.
    ReachedAt,
}

impl WalkedPart {
    pub fn of(part: &str) -> WalkedPart {
        match part {
            "matched" => WalkedPart::Matched,
            "level" => WalkedPart::Level,
            "best" => WalkedPart::Best,
            "started_at" => WalkedPart::StartedAt,
            _ => WalkedPart::ReachedAt,
        }
    }
}

impl Walked {
    pub fn part(self, part: WalkedPart) -> Option<Scalar> {
        let count = |level: u8| Some(Scalar::Long(i64::from(level)));
        match (self, part) {
            (Walked::Funnel(value), WalkedPart::Level) => count(value.level),
            (Walked::Funnel(value), WalkedPart::Best) => count(value.best),
            (Walked::Funnel(value), WalkedPart::StartedAt) => value.started_at.map(Scalar::Timestamp),
            (Walked::Funnel(value), WalkedPart::ReachedAt) => value.reached_at.map(Scalar::Timestamp),
            (Walked::Sequence(value), WalkedPart::Matched) => Some(Scalar::Boolean(value.matched)),
            (Walked::Sequence(value), WalkedPart::Level) => count(value.level),
            (Walked::Sequence(value), WalkedPart::StartedAt) => value.started_at.map(Scalar::Timestamp),
            (Walked::Sequence(value), WalkedPart::ReachedAt) => value.matched_at.map(Scalar::Timestamp),
            (Walked::Nothing, _)
            | (Walked::Funnel(_), WalkedPart::Matched)
            | (Walked::Sequence(_), WalkedPart::Best) => None,
        }
    }
}

/// The state of one trait of one profile. Many lie in a row: what is large is in a box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Accumulator {
    /// `latest` and `first`: the value of the event of the best rank, among those with the greatest (least)
    /// (timestamp, message id). None is an explicit null, which deletes: it wins like any other value.
    Dated(Box<Dated>),
    Count(i64),
    Sum(Exact),
    /// `min` and `max`.
    Extreme(Scalar),
    Mean {
        sum: Exact,
        count: i64,
    },
    Frequencies(Box<Frequencies>),
    Distinct(Box<Distinct>),
    Gap(Box<Gap>),
    Funnel(Box<Funnel>),
    Sequence(Box<Sequence>),
    /// With `window`: the states of its panes.
    Panes(Box<Panes>),
    /// With `by`: the states of its keys, with a window in each.
    Keyed(Box<Keyed>),
}

impl Accumulator {
    /// Adds another state of the same trait: an event's own, or a merged profile's.
    pub fn add(&mut self, rule: &EventRule, other: Accumulator) {
        match (&mut *self, other) {
            (Accumulator::Count(count), Accumulator::Count(more)) => *count = count.saturating_add(more),
            (Accumulator::Sum(sum), Accumulator::Sum(more)) => sum.add(more),
            (Accumulator::Mean { sum, count }, Accumulator::Mean { sum: more, count: events }) => {
                sum.add(more);
                *count = count.saturating_add(events);
            }
            (Accumulator::Extreme(value), Accumulator::Extreme(other)) => {
                let order = other.order(value);
                if (rule.kind == TraitKind::Min && order.is_lt()) || (rule.kind == TraitKind::Max && order.is_gt()) {
                    *value = other;
                }
            }
            (Accumulator::Dated(old), Accumulator::Dated(new)) => {
                let wins = match old.precedence(rule, new.rank, new.at, &new.message_id) {
                    Ordering::Less => true,
                    Ordering::Greater => false,
                    // Message ids are per source, so two sources may have the same one.
                    Ordering::Equal => match (&new.value, &old.value) {
                        (Some(new), Some(old)) => new.order(old).is_gt(),
                        (new, None) => new.is_some(),
                        (None, Some(_)) => false,
                    },
                };
                if wins {
                    *old = new;
                }
            }
            (Accumulator::Frequencies(mine), Accumulator::Frequencies(theirs)) => mine.merge(*theirs),
            (Accumulator::Funnel(mine), Accumulator::Funnel(theirs)) => mine.merge(*theirs),
            (Accumulator::Sequence(mine), Accumulator::Sequence(theirs)) => mine.merge(*theirs),
            (Accumulator::Distinct(mine), Accumulator::Distinct(theirs)) => {
                if let TraitKind::Distinct { keep } = rule.kind {
                    mine.merge(keep, *theirs);
                }
            }
            (Accumulator::Gap(mine), Accumulator::Gap(theirs)) => {
                if let TraitKind::Gap(plan) = &rule.kind {
                    mine.merge(plan, *theirs);
                }
            }
            (Accumulator::Panes(mine), Accumulator::Panes(theirs)) => mine.merge(*theirs, rule),
            (Accumulator::Keyed(mine), Accumulator::Keyed(theirs)) => mine.merge(*theirs, rule),
            // The state of another definition version never gets here: slots are keyed by version.
            (_, other) => *self = other,
        }
    }

    /// Forgets what cannot count any more: what has left its window at `now`, and points before `floor` that no later
    /// one can go with. Values stay what they are. False when nothing is left.
    pub fn settle(&mut self, rule: &EventRule, now: TimeUs, floor: TimeUs) -> bool {
        match (self, &rule.window, &rule.kind) {
            (Accumulator::Panes(panes), Some(window), _) => panes.settle(window, now, rule),
            (Accumulator::Keyed(keyed), ..) => keyed.settle(rule, now, floor),
            (Accumulator::Funnel(funnel), _, TraitKind::Funnel(plan)) => {
                funnel.settle(plan, floor);
                true
            }
            (Accumulator::Sequence(sequence), _, TraitKind::Sequence(plan)) => {
                sequence.settle(plan, floor);
                true
            }
            _ => true,
        }
    }

    /// The least time later than `now` at which the value may change though no event comes.
    pub fn next_change(&self, rule: &EventRule, now: TimeUs) -> Option<TimeUs> {
        match (self, &rule.window) {
            (Accumulator::Panes(panes), Some(window)) => panes.next_change(window, now),
            (Accumulator::Keyed(keyed), Some(_)) => {
                keyed.keys().iter().filter_map(|(_, state)| state.next_change(rule, now)).min()
            }
            _ => None,
        }
    }

    /// One of its values, without window and keys (see `TraitColumn::part`). None where an explicit null was last.
    pub fn plain_value(&self, rule: &EventRule, part: &str) -> Option<Scalar> {
        let scale = rule.scale;
        match self {
            Accumulator::Frequencies(frequencies) => match (part, &rule.kind) {
                ("overflow", _) => Some(Scalar::Boolean(frequencies.is_overflow())),
                (_, TraitKind::LeastFrequent) => frequencies.least().cloned(),
                _ => frequencies.most().cloned(),
            },
            Accumulator::Distinct(distinct) if part == "count" => Some(Scalar::Long(distinct.count())),
            Accumulator::Distinct(distinct) => {
                let values = distinct.values()?.iter().map(json);
                Some(Scalar::Text(serde_json::Value::Array(values.collect()).to_string().into()))
            }
            Accumulator::Gap(gap) => match &rule.kind {
                TraitKind::Gap(plan) => gap.value(plan).map(Scalar::Double),
                _ => None,
            },
            Accumulator::Funnel(_) | Accumulator::Sequence(_) => self.walked(rule).part(WalkedPart::of(part)),
            Accumulator::Dated(dated) => dated.value.clone(),
            Accumulator::Count(count) => Some(Scalar::Long(*count)),
            Accumulator::Sum(sum) if scale == 0 => Some(Scalar::Long(clamp((*sum).into()))),
            Accumulator::Sum(sum) => Some(Scalar::Double(unscaled((*sum).into(), scale))),
            Accumulator::Extreme(value) => Some(value.clone()),
            Accumulator::Mean { count: 0, .. } => None,
            Accumulator::Mean { sum, count } => Some(Scalar::Double(unscaled((*sum).into(), scale) / *count as f64)),
            Accumulator::Panes(_) | Accumulator::Keyed(_) => None,
        }
    }

    /// Of a funnel or sequence: an event before this is too late, whatever the lateness.
    pub fn earliest(&self) -> TimeUs {
        match self {
            Accumulator::Funnel(funnel) => funnel.earliest(),
            Accumulator::Sequence(sequence) => sequence.earliest(),
            _ => TimeUs::MIN,
        }
    }

    /// Has a funnel or sequence keep what it says at hand: most are asked again before an event changes them.
    pub fn find(&mut self, rule: &EventRule) {
        match (self, &rule.kind) {
            (Accumulator::Funnel(funnel), TraitKind::Funnel(plan)) => funnel.find(plan),
            (Accumulator::Sequence(sequence), TraitKind::Sequence(plan)) => sequence.find(plan),
            _ => {}
        }
    }

    /// What a funnel or sequence says, all its parts at once.
    pub fn walked(&self, rule: &EventRule) -> Walked {
        match (self, &rule.kind) {
            (Accumulator::Funnel(funnel), TraitKind::Funnel(plan)) => Walked::Funnel(funnel.value(plan)),
            (Accumulator::Sequence(sequence), TraitKind::Sequence(plan)) => Walked::Sequence(sequence.value(plan)),
            _ => Walked::Nothing,
        }
    }

    pub fn weigh(&self) -> usize {
        let heap = |value: &Scalar| if let Scalar::Text(text) = value { text.len() } else { 0 };
        match self {
            Accumulator::Dated(dated) => {
                size_of::<Dated>() + dated.message_id.len() + dated.value.as_ref().map_or(0, heap)
            }
            Accumulator::Extreme(value) => heap(value),
            Accumulator::Count(_) | Accumulator::Sum(_) | Accumulator::Mean { .. } => 0,
            Accumulator::Frequencies(state) => size_of::<Frequencies>() + state.weigh(),
            Accumulator::Distinct(state) => size_of::<Distinct>() + state.weigh(),
            Accumulator::Gap(state) => size_of::<Gap>() + state.weigh(),
            Accumulator::Funnel(state) => size_of::<Funnel>() + state.weigh(),
            Accumulator::Sequence(state) => size_of::<Sequence>() + state.weigh(),
            Accumulator::Panes(panes) => size_of::<Panes>() + panes.weigh(),
            Accumulator::Keyed(keyed) => size_of::<Keyed>() + keyed.weigh(),
        }
    }
}

/// Which of two values stands, by (rank, timestamp, message id): `Less` where the new one does.
fn precedence(prefers_earlier: bool, new: (u64, TimeUs, &str), old: (u64, TimeUs, &str)) -> Ordering {
    let by_time = (new.1, new.2).cmp(&(old.1, old.2));
    let by_time = if prefers_earlier { by_time } else { by_time.reverse() };
    new.0.cmp(&old.0).then(by_time)
}

fn unscaled(sum: i128, scale: u8) -> f64 {
    sum as f64 / 10f64.powi(i32::from(scale))
}

fn clamp(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}

/// A double as an integer of `scale` digits after the point, rounded half away from zero. None for what is not a
/// finite number or too large to keep its unit digit exactly: such a value is not added.
pub fn scaled(value: f64, scale: u8) -> Option<i128> {
    let scaled = (value * 10f64.powi(i32::from(scale))).round();
    (scaled.is_finite() && scaled.abs() < 1e30).then_some(scaled as i128)
}

#[cfg(test)]
mod tests {
    use super::super::tests::rule;
    use super::*;

    fn dated(at: TimeUs, id: &str, value: Option<i64>) -> Accumulator {
        ranked(0, at, id, value)
    }

    fn ranked(rank: u64, at: TimeUs, id: &str, value: Option<i64>) -> Accumulator {
        Accumulator::Dated(Box::new(Dated { rank, at, message_id: id.into(), value: value.map(Scalar::Long) }))
    }

    fn extreme(value: f64) -> Accumulator {
        Accumulator::Extreme(Scalar::Double(value))
    }

    /// SEMANTICS §5: each row is a kind, the states of three events, and the value after them in any order.
    #[test]
    fn every_order_of_adding_gives_the_same_value() {
        let long = |value| Some(Scalar::Long(value));
        let rows = [
            (TraitKind::Latest, [dated(1, "a", Some(1)), dated(3, "b", Some(2)), dated(2, "c", Some(3))], long(2)),
            // Ties in time go by message id.
            (TraitKind::Latest, [dated(1, "a", Some(1)), dated(1, "c", Some(2)), dated(1, "b", Some(3))], long(2)),
            (TraitKind::First, [dated(2, "a", Some(1)), dated(1, "b", Some(2)), dated(1, "c", Some(3))], long(2)),
            // A null in a trait update deletes, and a later value brings the trait back.
            (TraitKind::Latest, [dated(1, "a", Some(1)), dated(2, "b", None), dated(1, "c", Some(3))], None),
            (TraitKind::Latest, [dated(1, "a", None), dated(2, "b", Some(2)), dated(1, "c", None)], long(2)),
            // The best rank wins whatever the time, and a null of a better rank deletes.
            (
                TraitKind::Latest,
                [ranked(1, 9, "a", Some(1)), ranked(0, 1, "b", Some(2)), ranked(0, 2, "c", Some(3))],
                long(3),
            ),
            (
                TraitKind::First,
                [ranked(1, 0, "a", Some(1)), ranked(0, 1, "b", Some(2)), ranked(0, 2, "c", Some(3))],
                long(2),
            ),
            (
                TraitKind::Latest,
                [ranked(2, 9, "a", Some(1)), ranked(1, 1, "b", None), ranked(3, 9, "c", Some(3))],
                None,
            ),
            (TraitKind::Min, [extreme(3.0), extreme(-0.5), extreme(2.0)], Some(Scalar::Double(-0.5))),
            (TraitKind::Max, [extreme(3.0), extreme(-0.5), extreme(2.0)], Some(Scalar::Double(3.0))),
            (TraitKind::Count, [Accumulator::Count(1), Accumulator::Count(2), Accumulator::Count(3)], long(6)),
            (TraitKind::Sum, [5, -7, 3].map(|sum: i128| Accumulator::Sum(sum.into())), long(1)),
        ];
        for (kind, states, expected) in rows {
            let rule = rule(kind.clone());
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let mut sum = states[order[0]].clone();
                sum.add(&rule, states[order[1]].clone());
                sum.add(&rule, states[order[2]].clone());
                assert_eq!(sum.plain_value(&rule, ""), expected, "{kind:?} {states:?} in order {order:?}");
            }
        }
    }

    #[test]
    fn doubles_are_scaled_exactly_and_what_is_no_number_is_not_added() {
        let rows = [
            (11.77, Some(11_770_000)),
            (-0.000_000_5, Some(-1)),
            (1e25, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ];
        for (value, expected) in rows {
            assert_eq!(scaled(value, 6), expected, "{value}");
        }
        let cents = EventRule { scale: 2, ..rule(TraitKind::Sum) };
        assert_eq!(Accumulator::Sum(250_031_563.into()).plain_value(&cents, ""), Some(Scalar::Double(2_500_315.63)));
    }
}
