//! `sequence`: steps one after another, each within a gap of the one before, and nothing unwanted between them.
//!
//! **Meaning.** Events are in the order (time, lowest step met, id). A *chain* is a row of different events in that
//! order, the k-th of which meets step k, such that between each and the one before
//!
//! - no more than the step's `within_us` passes (a gap equal to it counts), and
//! - there is no event that meets one of the step's exclusions, strictly between in time: an exclusion at the very
//!   time of either step is not between them.
//!
//! An event is at most one step of a chain; unlike in a funnel, "view, view, buy" means two views. Any chain counts, not
//! only the one that takes the earliest event of each step. `matched_at` is the time of the last event of the complete
//! chain that ends latest. `started_at` is the time of the latest event that meets the first step, and `level` the
//! length of the longest chain that begins with it: with [view, view, buy] the latest view is at level 1 until the next.
//!
//! **Why a few numbers are enough.** Of two chains of the same length, whatever may follow the one that ended earlier may
//! follow the later: the gap is smaller and fewer exclusions lie between. So, walking in order, only the latest end of
//! the chains of each length matters, and an exclusion after that end takes it away.
//!
//! **Forgetting.** [`Sequence::settle`] folds what is older than `floor` less the sum of the limited gaps, and keeps of
//! it: the latest open end of each length, as long as its gap allows (a step without a limit keeps its one time for
//! good), and the latest exclusion of each step after which an older end is void. As long as nothing older comes any
//! more, values are exactly those of all points.
//!
//! **Merging folded sequences** takes the later end of each length, and the later exclusion, which voids ends before it
//! on either side. Both are settled at one floor first, so that nothing held is older than what the other has folded.
//! A merge is then exact but for chains that have folded steps of both profiles, or a folded exclusion of the other
//! between two folded steps (SEMANTICS §5: "window plus allowed lateness"). Adding and merging are commutative,
//! associative and idempotent, whatever is folded.

use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

use super::found::Found;
use super::points::{self, Point, Points};
use crate::event::TimeUs;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequencePlan {
    /// 1 to 32.
    pub steps: Vec<SequenceStep>,
}

/// What must hold between a step and the one before it; says nothing for the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceStep {
    /// Since the step before, not negative. None: any time.
    pub within_us: Option<i64>,
    /// Bits of the exclusions that must not lie between.
    pub without: u32,
}

/// The state of one sequence of one profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// By (time, id).
    points: Points,
    matched_at: Option<TimeUs>,
    /// Of folded points: the latest end of the chains of each length from 1 on.
    open: Times,
    /// Of folded points: the latest exclusion of each step from the second on. An older end before it is void.
    barred: Times,
    /// The attempt begun by the latest folded first step.
    attempt: Option<Attempt>,
    #[serde(skip)]
    value: Found<SequenceValue>,
}

/// By step, without empty ones at the end.
type Times = Vec<Option<TimeUs>>;

/// Ordered so that the greatest of two wins a merge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Attempt {
    started_at: TimeUs,
    level: u8,
    open: Times,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceValue {
    pub matched: bool,
    /// The time of the last step of the complete chain that ends latest.
    pub matched_at: Option<TimeUs>,
    /// Steps reached by chains that begin with the latest first step: 0 where there is none.
    pub level: u8,
    /// The time of that first step.
    pub started_at: Option<TimeUs>,
}

impl Sequence {
    /// Adds an event. Of two copies (same time and id) what both meet counts.
    pub fn add(&mut self, plan: &SequencePlan, mut point: Point) {
        point.steps &= mask(plan.steps.len());
        point.without &= plan.steps.iter().skip(1).fold(0, |any, step| any | step.without);
        if point.steps != 0 || point.without != 0 {
            self.points.insert(point);
            self.value.forget();
        }
    }

    /// Adds another sequence of the same plan: a merged profile's, or one filled from history. Settle both at the same
    /// floor before: held points older than what the other has folded would be taken for later ones.
    pub fn merge(&mut self, other: Sequence) {
        self.points.union(other.points);
        self.value.forget();
        self.matched_at = self.matched_at.max(other.matched_at);
        later(&mut self.open, &other.open);
        later(&mut self.barred, &other.barred);
        bar(&mut self.open, &self.barred);
        self.attempt = self.attempt.take().max(other.attempt);
    }

    /// Folds and forgets what can take part in no chain with an event that may still come. `floor`: none before it
    /// comes any more; it must never decrease. What it leaves depends on the points and the latest floor alone, but where more are held
    /// than [`points::POINTS_MAX`] allows.
    pub fn settle(&mut self, plan: &SequencePlan, floor: TimeUs) {
        let span = plan.steps.iter().skip(1).filter_map(|step| step.within_us).fold(0, i64::saturating_add);
        let cut = self.points.cut(floor.saturating_sub(span));
        if self.points.first_at().is_some_and(|first_at| first_at < cut) {
            self.fold(plan, cut);
        }
        forget(&mut self.open, plan, cut);
        forget(&mut self.barred, plan, cut);
        if let Some(attempt) = &mut self.attempt {
            forget(&mut attempt.open, plan, cut);
        }
    }

    /// Takes what is before `cut` out of the points and into what is known of them.
    fn fold(&mut self, plan: &SequencePlan, cut: TimeUs) {
        let folded = self.points.take_before(cut);
        self.value.forget();
        let latest = self.latest(plan, &folded);
        let attempt =
            latest.map(|(started_at, Walk { level, open, .. })| Attempt { started_at, level, open: open.to_vec() });
        let Walk { matched_at, open, .. } = self.walk(plan, &folded);
        (self.attempt, self.matched_at, self.open) = (attempt, matched_at, open.to_vec());
        for (index, step) in plan.steps.iter().enumerate().skip(1) {
            let last = folded.iter().rfind(|point| point.without & step.without != 0).map(|point| point.at);
            raise(&mut self.barred, index - 1, last);
        }
    }

    /// Keeps its value at hand until something changes it.
    pub fn find(&mut self, plan: &SequencePlan) {
        self.value = Found::of(self.value(plan));
    }

    pub fn value(&self, plan: &SequencePlan) -> SequenceValue {
        self.value.get().unwrap_or_else(|| {
            let points = self.points.list();
            let matched_at = self.walk(plan, &points).matched_at;
            let attempt = self.latest(plan, &points);
            SequenceValue {
                matched: matched_at.is_some(),
                matched_at,
                level: attempt.as_ref().map_or(0, |(_, walk)| walk.level),
                started_at: attempt.map(|(started_at, _)| started_at),
            }
        })
    }

    /// An event before this is too late for it; see [`points::POINTS_MAX`].
    pub fn earliest(&self) -> TimeUs {
        self.points.earliest()
    }

    /// Bytes on the heap.
    pub fn weigh(&self) -> usize {
        let times =
            self.open.capacity() + self.barred.capacity() + self.attempt.as_ref().map_or(0, |a| a.open.capacity());
        self.points.weigh() + times * size_of::<Option<TimeUs>>()
    }

    /// All chains, after these points.
    fn walk<'a>(&self, plan: &'a SequencePlan, points: &[Point]) -> Walk<'a> {
        let mut walk = Walk { plan, open: (&self.open[..]).into(), level: 0, matched_at: self.matched_at };
        points::instants(points).for_each(|(at, points)| walk.instant(at, points, 0));
        walk
    }

    /// When the attempt of the latest first step began, and its chains after these points.
    fn latest<'a>(&self, plan: &'a SequencePlan, points: &[Point]) -> Option<(TimeUs, Walk<'a>)> {
        let first = points.iter().filter(|point| point.steps & 1 != 0).max_by_key(|point| order(point));
        let folded = self.attempt.as_ref().filter(|attempt| first.is_none_or(|first| first.at < attempt.started_at));
        let (started_at, mut walk, from) = match (folded, first) {
            (Some(attempt), _) => {
                let mut walk = Walk { plan, open: (&attempt.open[..]).into(), level: attempt.level, matched_at: None };
                bar(&mut walk.open, &self.barred);
                (attempt.started_at, walk, (attempt.started_at, 0, 0))
            }
            (None, Some(first)) => {
                let mut walk = Walk { plan, open: smallvec![Some(first.at)], level: 1, matched_at: None };
                walk.open.truncate(plan.steps.len() - 1);
                let (at, lowest, id) = order(first);
                (at, walk, (at, lowest, id.saturating_add(1)))
            }
            (None, None) => return None,
        };
        let later = &points[points.partition_point(|point| point.at < started_at)..];
        for (at, points) in points::instants(later) {
            match points {
                [only] if order(only) < from => {}
                [_] => walk.instant(at, points, 1),
                _ => {
                    let points: Vec<Point> = points.iter().filter(|point| order(point) >= from).copied().collect();
                    walk.instant(at, &points, 1);
                }
            }
        }
        Some((started_at, walk))
    }
}

/// The order of events: ties in time go by the lowest step met, then by id.
fn order(point: &Point) -> (TimeUs, u32, u32) {
    (point.at, point.steps.trailing_zeros(), point.id)
}

struct Walk<'a> {
    plan: &'a SequencePlan,
    open: SmallVec<[Option<TimeUs>; 4]>,
    /// The greatest length of a chain.
    level: u8,
    matched_at: Option<TimeUs>,
}

impl Walk<'_> {
    /// Takes the points of one time; steps before `from` begin nothing.
    fn instant(&mut self, at: TimeUs, points: &[Point], from: usize) {
        match points {
            [only] => self.point(only, from),
            _ => {
                let mut ordered: SmallVec<[&Point; 8]> = points.iter().collect();
                ordered.sort_unstable_by_key(|point| order(point));
                ordered.into_iter().for_each(|point| self.point(point, from));
            }
        }
        // Afterwards, since an exclusion at the time of a step is not before it.
        let without = points.iter().fold(0, |any, point| any | point.without);
        if without == 0 {
            return;
        }
        for (end, step) in self.open.iter_mut().zip(self.plan.steps.iter().skip(1)) {
            if step.without & without != 0 && end.is_some_and(|end| end < at) {
                *end = None;
            }
        }
        trim(&mut self.open);
    }

    fn point(&mut self, point: &Point, from: usize) {
        // From the last step on: one event is not two steps of a chain.
        for (index, step) in self.plan.steps.iter().enumerate().skip(from).rev() {
            if point.steps & (1 << index) != 0 && self.follows(index, step, point.at) {
                self.level = self.level.max(index as u8 + 1);
                if index + 1 == self.plan.steps.len() {
                    self.matched_at = self.matched_at.max(Some(point.at));
                } else {
                    raise(&mut self.open, index, Some(point.at));
                }
            }
        }
    }

    fn follows(&self, index: usize, step: &SequenceStep, at: TimeUs) -> bool {
        let Some(before) = index.checked_sub(1) else { return true };
        let Some(end) = self.open.get(before).copied().flatten() else { return false };
        // A folded end of a profile that was not settled alike may be later.
        end <= at && step.within_us.is_none_or(|within| at <= end.saturating_add(within))
    }
}

fn mask(steps: usize) -> u32 {
    u32::MAX.checked_shr(32u32.saturating_sub(steps as u32)).unwrap_or_default()
}

/// What [`Times`] are, in whatever they lie.
trait TimesMut: std::ops::DerefMut<Target = [Option<TimeUs>]> {
    fn resize(&mut self, len: usize);
}

impl TimesMut for Times {
    fn resize(&mut self, len: usize) {
        self.resize(len, None);
    }
}

impl TimesMut for SmallVec<[Option<TimeUs>; 4]> {
    fn resize(&mut self, len: usize) {
        self.resize(len, None);
    }
}

fn trim(times: &mut impl TimesMut) {
    let used = times.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    times.resize(used);
}

fn raise(times: &mut impl TimesMut, index: usize, at: Option<TimeUs>) {
    if at.is_some() && times.len() <= index {
        times.resize(index + 1);
    }
    if let Some(time) = times.get_mut(index) {
        *time = at.max(*time);
    }
}

fn later(times: &mut Times, others: &Times) {
    others.iter().enumerate().for_each(|(index, at)| raise(times, index, *at));
}

fn bar(open: &mut impl TimesMut, barred: &Times) {
    for (end, bar) in open.iter_mut().zip(barred) {
        // None is before every time.
        if *end < *bar {
            *end = None;
        }
    }
    trim(open);
}

/// Drops the times (each of the step before the one whose gap it opens) that nothing from `cut` on can be within reach of.
fn forget(times: &mut Times, plan: &SequencePlan, cut: TimeUs) {
    for (time, step) in times.iter_mut().zip(plan.steps.iter().skip(1)) {
        let over = |at: &TimeUs| step.within_us.is_some_and(|within| at.saturating_add(within) < cut);
        *time = time.filter(|at| !over(at));
    }
    trim(times);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(plan: &SequencePlan, points: &[Point]) -> Sequence {
        let mut sequence = Sequence::default();
        points.iter().for_each(|point| sequence.add(plan, *point));
        sequence
    }

    fn between(a: &Point, b: &Point, step: &SequenceStep, all: &[Point]) -> bool {
        order(a) < order(b)
            && step.within_us.is_none_or(|within| b.at - a.at <= within)
            && !all.iter().any(|x| x.without & step.without != 0 && a.at < x.at && x.at < b.at)
    }

    /// Calls `found` with every chain that continues this one.
    fn chains(plan: &SequencePlan, all: &[Point], chain: &mut Vec<Point>, found: &mut impl FnMut(&[Point])) {
        found(chain);
        let Some(step) = plan.steps.get(chain.len()) else { return };
        for point in all {
            let meets = point.steps & (1 << chain.len()) != 0;
            if meets && chain.last().is_none_or(|last| between(last, point, step, all)) {
                chain.push(*point);
                chains(plan, all, chain, found);
                chain.pop();
            }
        }
    }

    /// All chains, one by one, as the module's comment defines them.
    fn oracle(plan: &SequencePlan, all: &[Point]) -> SequenceValue {
        let latest = all.iter().filter(|point| point.steps & 1 != 0).max_by_key(|point| order(point));
        let mut value = SequenceValue { started_at: latest.map(|point| point.at), ..SequenceValue::default() };
        chains(plan, all, &mut Vec::new(), &mut |chain| {
            if !chain.is_empty() && chain.first() == latest {
                value.level = value.level.max(chain.len() as u8);
            }
            if chain.len() == plan.steps.len() {
                value.matched_at = value.matched_at.max(chain.last().map(|last| last.at));
            }
        });
        value.matched = value.matched_at.is_some();
        value
    }

    fn random_plan(random: &mut fastrand::Rng) -> SequencePlan {
        let steps = random.u8(1..5);
        let step = |_| SequenceStep {
            within_us: (random.u8(0..4) > 0).then(|| random.i64(0..6)),
            without: if random.bool() { random.u32(0..4) } else { 0 },
        };
        SequencePlan { steps: (0..steps).map(step).collect() }
    }

    fn random_points(random: &mut fastrand::Rng, plan: &SequencePlan, count: u32, span: i64) -> Vec<Point> {
        let point = |id| {
            let without = if random.u8(0..4) == 0 { random.u32(1..4) } else { 0 };
            let steps = if random.u8(0..4) == 0 { random.u32(0..16) } else { 1 << random.usize(0..plan.steps.len()) };
            Point { at: random.i64(0..span), id, steps: steps & mask(plan.steps.len()), without }
        };
        (0..count).map(point).collect()
    }

    /// SEMANTICS §5: a walk that keeps one time for each step finds what trying all chains finds.
    #[test]
    fn values_are_those_of_all_chains() {
        let (mut matched, mut levels) = (0, [0; 5]);
        for seed in 0..20_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let plan = random_plan(&mut random);
            let span = random.i64(1..16);
            let mut points = random_points(&mut random, &plan, 10, span);
            let expected = oracle(&plan, &points);
            random.shuffle(&mut points);
            assert_eq!(sequence(&plan, &points).value(&plan), expected, "seed {seed} {plan:?}\n{points:#?}");
            matched += u32::from(expected.matched && plan.steps.len() > 2);
            levels[usize::from(expected.level)] += 1;
        }
        assert!(matched > 2_000 && levels[1..].iter().all(|count| *count > 300), "{matched} {levels:?}");
    }

    /// SEMANTICS §5: any order, any batches, duplicates, and two profiles merged at any time before they fold.
    #[test]
    fn any_order_copies_and_splits_give_the_same_state() {
        for seed in 0..3_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let plan = random_plan(&mut random);
            let mut points = random_points(&mut random, &plan, 12, 16);
            let whole = sequence(&plan, &points);
            random.shuffle(&mut points);
            let (to, from) = (random.usize(0..points.len()), random.usize(0..points.len()));
            let parts = [&points[..to], &points[to..], &points[from..]].map(|points| sequence(&plan, points));
            for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
                let mut sum = parts[order[0]].clone();
                sum.find(&plan);
                sum.merge(parts[order[1]].clone());
                sum.find(&plan);
                sum.merge(parts[order[2]].clone());
                assert_eq!(sum, whole, "seed {seed}");
                assert_eq!(sum.value(&plan), whole.value(&plan), "seed {seed}");
            }
        }
    }

    /// SEMANTICS §5: points come late within the allowed lateness; folding at any floors changes no value, and what is
    /// left depends on the last floor alone.
    #[test]
    fn settling_changes_no_value() {
        for seed in 0..5_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (plan, lateness) = (random_plan(&mut random), random.i64(0..6));
            let mut points = random_points(&mut random, &plan, 16, 40);
            points.sort_by_cached_key(|point| point.at + random.i64(0..=lateness));
            let (mut settled, mut whole, mut latest) = (Sequence::default(), Sequence::default(), TimeUs::MIN);
            for point in points {
                settled.add(&plan, point);
                whole.add(&plan, point);
                latest = latest.max(point.at);
                if random.bool() {
                    settled.settle(&plan, latest - lateness);
                }
                // What was found before must not outlive a change.
                if random.bool() {
                    settled.find(&plan);
                }
                assert_eq!(settled.value(&plan), whole.value(&plan), "seed {seed} {plan:?} {settled:?} {whole:?}");
            }
            settled.settle(&plan, latest - lateness);
            whole.settle(&plan, latest - lateness);
            assert_eq!(settled, whole, "seed {seed} {plan:?}");
            let value = settled.value(&plan);
            settled.find(&plan);
            settled.settle(&plan, TimeUs::MAX);
            assert_eq!(settled.points.len(), 0, "seed {seed}");
            assert_eq!(settled.value(&plan), value, "seed {seed}");
        }
    }

    /// Whatever is folded, merging stays commutative, associative and idempotent; and where one history is over before
    /// the other begins, it is exact.
    #[test]
    fn folded_sequences_merge() {
        for seed in 0..5_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut plan = random_plan(&mut random);
            let mut parts: Vec<Sequence> = Vec::new();
            for _ in 0..3 {
                let mut part = sequence(&plan, &random_points(&mut random, &plan, 12, 20));
                part.settle(&plan, random.i64(0..40));
                parts.push(part);
            }
            let merged = |order: [usize; 3]| {
                let mut sum = parts[order[0]].clone();
                let mut rest = parts[order[1]].clone();
                rest.merge(parts[order[2]].clone());
                sum.merge(rest);
                sum.merge(parts[order[1]].clone());
                sum
            };
            for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                assert_eq!(merged(order), merged([0, 1, 2]), "seed {seed}");
            }

            // All gaps limited, and the histories further apart than all of them.
            plan.steps.iter_mut().for_each(|step| step.within_us = step.within_us.or(Some(3)));
            let older = random_points(&mut random, &plan, 12, 20);
            let newer: Vec<Point> = random_points(&mut random, &plan, 12, 20)
                .into_iter()
                .map(|point| Point { at: point.at + 60, id: point.id + 16, ..point })
                .collect();
            let mut whole = sequence(&plan, &older);
            whole.merge(sequence(&plan, &newer));
            let (mut older, mut newer) = (sequence(&plan, &older), sequence(&plan, &newer));
            let floor = random.i64(0..99);
            older.settle(&plan, floor);
            newer.settle(&plan, floor);
            older.merge(newer);
            assert_eq!(older.value(&plan), whole.value(&plan), "seed {seed} {plan:?} {older:?}");
        }
    }

    /// SEMANTICS §5: each row is a case of [a, then b within 10 without x, then c], its events, and the value.
    #[test]
    fn edges() {
        let step = |within_us, without| SequenceStep { within_us, without };
        let plan = SequencePlan { steps: vec![step(None, 0), step(Some(10), 1), step(None, 0)] };
        let (a, b, c, x) = ((1, 0), (2, 0), (4, 0), (0, 1));
        let rows: [(&str, &[(TimeUs, (u32, u32))], (Option<TimeUs>, u8, TimeUs)); 10] = [
            ("all", &[(0, a), (5, b), (999, c)], (Some(999), 3, 0)),
            ("a gap equal to the limit counts", &[(0, a), (10, b), (11, c)], (Some(11), 3, 0)),
            ("one more does not", &[(0, a), (11, b), (12, c)], (None, 1, 0)),
            ("the later of two first steps is in reach", &[(0, a), (9, a), (19, b), (20, c)], (Some(20), 3, 9)),
            ("an exclusion between", &[(0, a), (3, x), (5, b), (6, c)], (None, 1, 0)),
            ("but before the second first step", &[(0, a), (3, x), (4, a), (5, b), (6, c)], (Some(6), 3, 4)),
            ("at the time of a step it is not between", &[(0, a), (0, x), (5, b), (5, x), (6, c)], (Some(6), 3, 0)),
            ("after its step it says nothing", &[(0, a), (5, b), (6, x), (7, c)], (Some(7), 3, 0)),
            ("ties go by step", &[(5, c), (5, b), (5, a)], (Some(5), 3, 5)),
            ("one event is one step", &[(5, (7, 0)), (6, c)], (None, 1, 5)),
        ];
        for (name, rows, (matched_at, level, started_at)) in rows {
            let point = |(id, (at, (steps, without))): (usize, &(TimeUs, (u32, u32)))| Point {
                at: *at,
                id: id as u32,
                steps: *steps,
                without: *without,
            };
            let points: Vec<Point> = rows.iter().enumerate().map(point).collect();
            let expected =
                SequenceValue { matched: matched_at.is_some(), matched_at, level, started_at: Some(started_at) };
            assert_eq!(sequence(&plan, &points).value(&plan), expected, "{name}");
        }
    }

    /// A step without a limit keeps its time, and an exclusion that one profile has folded voids it in the other's.
    #[test]
    fn folded_exclusions_hold_for_merged_profiles() {
        let step = |without| SequenceStep { within_us: None, without };
        let plan = SequencePlan { steps: vec![step(0), step(1)] };
        let point = |at, id, steps, without| Point { at, id, steps, without };
        let mut cart = sequence(&plan, &[point(1, 1, 1, 0)]);
        let mut order = sequence(&plan, &[point(2, 2, 0, 1)]);
        cart.settle(&plan, 100);
        order.settle(&plan, 100);
        let visit = sequence(&plan, &[point(200, 3, 2, 0)]);
        let mut only = cart.clone();
        only.merge(visit.clone());
        assert_eq!(only.value(&plan).matched_at, Some(200));
        order.merge(cart);
        order.merge(visit);
        assert_eq!((order.value(&plan).matched, order.value(&plan).level), (false, 1));
    }
}
