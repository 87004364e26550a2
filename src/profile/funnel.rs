//! `funnel`: how far somebody came in a row of steps, and how far at best.
//!
//! `best` is ClickHouse's `windowFunnel(within)(time, step 1, step 2, …)` with its modes, over all points ever
//! (source: `AggregateFunctionWindowFunnel.cpp`). That function walks the points by (time, step) and keeps, for each
//! step, the first and the last time of one attempt that has reached it: an automaton of a few numbers. So points can
//! be folded into its state from the oldest on without any loss: a funnel is the automaton after the points that are
//! folded, and the points that are held because another profile's may still come between them.
//!
//! `level`, `started_at` and `reached_at` are those of the attempt begun by the latest first step: the same automaton,
//! started anew at that time. Each further step is the earliest of its points at or after the one before (ties in time
//! go by step), not later than `within_us` after the first step, and the modes hold for it too.
//!
//! **Forgetting.** [`Funnel::settle`] folds the points older than `floor - within_us`, whole instants at a time. As
//! long as no point older than that comes any more, values are exactly those of all points, for one profile and for
//! two that are merged while neither has folded anything.
//!
//! **Merging folded funnels** takes the better summary, and of each step the later attempt. Both sides are settled at one
//! floor first, so that nothing held is older than what the other has folded. In the default mode a merge is then exact
//! but for attempts that have folded steps of *both* profiles; what is folded of one and held by the other still makes
//! one attempt. In the strict modes interventions and repetitions among the folded points of the other are not seen
//! either, and an end that one side has folded (an intervention, a repetition, the last step) ends both. So a merge long
//! after the fact knows a person as well as "window plus allowed lateness" allows (SEMANTICS §5).
//! Adding and merging are commutative, associative and idempotent, whatever is folded.

use std::mem::swap;

use serde::{Deserialize, Serialize};

use super::found::Found;
use super::points::{self, Point, Points};
use crate::event::TimeUs;

/// The most steps of a funnel: as many as ClickHouse takes.
pub const STEPS_MAX: u8 = 32;

/// Of [`FunnelModes::strict_once`]: how many ways to reach a step are followed at one instant. More exist only where
/// many events of one microsecond meet several steps each.
const WAYS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunnelPlan {
    /// 1 to [`STEPS_MAX`].
    pub steps: u8,
    /// From the first step to any other; a gap of exactly this counts. Not negative.
    pub within_us: i64,
    pub modes: FunnelModes,
}

/// The modes of `windowFunnel`, under its names. All may be combined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunnelModes {
    /// The first repetition of a step after the first ends the funnel.
    pub strict_deduplication: bool,
    /// An event that meets no step, or a step before its turn, ends the funnel once a first step was there.
    pub strict_order: bool,
    /// Each step is later than the one before, not at the same time. (ClickHouse compares with the last point of the
    /// step before only, so a repetition at the very time of the next step hides the earlier one.)
    pub strict_increase: bool,
    /// One event is at most one step of an attempt.
    pub strict_once: bool,
    /// With `strict_order`, which it needs: a step before its turn is passed over and ends nothing.
    pub allow_reentry: bool,
}

impl FunnelModes {
    /// Every name that [`FunnelModes::set`] takes.
    pub const NAMES: [&'static str; 5] =
        ["strict_deduplication", "strict_order", "strict_increase", "strict_once", "allow_reentry"];

    /// Sets the mode of this name; false if there is none.
    pub fn set(&mut self, name: &str) -> bool {
        let field = match name {
            "strict_deduplication" => &mut self.strict_deduplication,
            "strict_order" => &mut self.strict_order,
            "strict_increase" => &mut self.strict_increase,
            "strict_once" => &mut self.strict_once,
            "allow_reentry" => &mut self.allow_reentry,
            _ => return false,
        };
        *field = true;
        true
    }

    /// The names of the modes that are set, as ClickHouse's parameters.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.strict_deduplication, "strict_deduplication"),
            (self.strict_order, "strict_order"),
            (self.strict_increase, "strict_increase"),
            (self.strict_once, "strict_once"),
            (self.allow_reentry, "allow_reentry"),
        ];
        all.into_iter().filter_map(|(set, name)| set.then_some(name))
    }
}

/// The state of one funnel of one profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Funnel {
    /// By (time, id). Those older than the latest settling's `floor - within_us` are in what follows.
    points: Points,
    /// The best level of the folded points.
    reached: u8,
    /// Nothing can change `reached` any more: the last step was reached, or a strict mode said stop.
    ended: bool,
    /// For each step from the first on, when the latest attempt that reached it began. Never rising; cut where no
    /// held point can be within reach.
    live: Vec<TimeUs>,
    /// The attempt begun by the latest folded first step.
    attempt: Option<Attempt>,
    #[serde(skip)]
    value: Found<FunnelValue>,
}

/// Ordered so that the greatest of two wins a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Attempt {
    started_at: TimeUs,
    level: u8,
    reached_at: TimeUs,
    ended: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunnelValue {
    /// Steps reached by the attempt begun by the latest first step: 0 where there is none.
    pub level: u8,
    /// The time of that first step.
    pub started_at: Option<TimeUs>,
    /// The time of the last step reached.
    pub reached_at: Option<TimeUs>,
    /// ClickHouse's `windowFunnel` over all points.
    pub best: u8,
}

impl Funnel {
    /// Adds an event. Of two copies (same time and id) the steps of both count.
    pub fn add(&mut self, plan: &FunnelPlan, mut point: Point) {
        // Beyond the last step nothing counts; a shift by 32 is no shift.
        point.steps &= u32::MAX.checked_shr(32 - u32::from(plan.steps.clamp(1, STEPS_MAX))).unwrap_or_default();
        if point.steps != 0 || plan.modes.strict_order {
            self.points.insert(point);
            self.value.forget();
        }
    }

    /// Adds another funnel of the same plan: a merged profile's, or one filled from history. Settle both at the same
    /// floor before: held points older than what the other has folded would be taken for later ones.
    pub fn merge(&mut self, other: Funnel) {
        self.points.union(other.points);
        self.value.forget();
        self.reached = self.reached.max(other.reached);
        self.ended |= other.ended;
        if self.ended {
            self.live.clear();
        } else {
            let mut theirs = other.live;
            if theirs.len() > self.live.len() {
                swap(&mut self.live, &mut theirs);
            }
            self.live.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = theirs.max(*mine));
        }
        self.attempt = self.attempt.max(other.attempt);
    }

    /// Folds and forgets the points that can take part in no attempt with one that may still come. `floor`: no point
    /// before it comes any more; it must never decrease. What it leaves depends on the points and the latest floor
    /// alone, not on when else it was called, but where more are held than [`points::POINTS_MAX`] allows.
    pub fn settle(&mut self, plan: &FunnelPlan, floor: TimeUs) {
        let cut = self.points.cut(floor.saturating_sub(plan.within_us));
        if self.points.first_at().is_none_or(|first_at| first_at >= cut) {
            let reach = self.live.partition_point(|first| first.saturating_add(plan.within_us) >= cut);
            self.live.truncate(reach);
            return;
        }
        let folded = self.points.take_before(cut);
        self.value.forget();
        let (reached, ended, mut live) = {
            let walk = self.walk(plan, &folded);
            (walk.reached, walk.ended, walk.marks.iter().map(|mark| mark.first).collect::<Vec<_>>())
        };
        live.truncate(live.partition_point(|first| !ended && first.saturating_add(plan.within_us) >= cut));
        self.attempt = self.latest(plan, &folded);
        (self.reached, self.ended, self.live) = (reached, ended, live);
    }

    /// Keeps its value at hand until something changes it.
    pub fn find(&mut self, plan: &FunnelPlan) {
        self.value = Found::of(self.value(plan));
    }

    pub fn value(&self, plan: &FunnelPlan) -> FunnelValue {
        self.value.get().unwrap_or_else(|| {
            let points = self.points.list();
            let attempt = self.latest(plan, &points);
            FunnelValue {
                level: attempt.map_or(0, |attempt| attempt.level),
                started_at: attempt.map(|attempt| attempt.started_at),
                reached_at: attempt.map(|attempt| attempt.reached_at),
                best: self.walk(plan, &points).reached,
            }
        })
    }

    /// An event before this is too late for it; see [`points::POINTS_MAX`].
    pub fn earliest(&self) -> TimeUs {
        self.points.earliest()
    }

    /// Bytes on the heap.
    pub fn weigh(&self) -> usize {
        self.points.weigh() + self.live.capacity() * size_of::<TimeUs>()
    }

    /// The automaton of `best`, after these points.
    fn walk<'a>(&self, plan: &'a FunnelPlan, points: &[Point]) -> Walk<'a> {
        let before = |first: &TimeUs| Mark { first: *first, last: TimeUs::MIN };
        let marks = self.live.iter().map(before).collect();
        let mut walk = Walk { plan, reached: self.reached, reached_at: TimeUs::MIN, ended: self.ended, marks };
        points::instants(points).for_each(|(at, points)| walk.instant(at, points));
        walk
    }

    /// The attempt begun by the latest first step, after these points.
    fn latest(&self, plan: &FunnelPlan, points: &[Point]) -> Option<Attempt> {
        let begun = points.iter().rfind(|point| point.steps & 1 != 0).map(|point| point.at);
        let folded = self.attempt.filter(|attempt| begun.is_none_or(|at| at < attempt.started_at));
        let (started_at, mut walk) = match (folded, begun) {
            (Some(Attempt { started_at, level, reached_at, ended }), _) => {
                let marks = vec![Mark { first: started_at, last: reached_at }; usize::from(level)];
                (started_at, Walk { plan, reached: level, reached_at, ended, marks })
            }
            (None, Some(at)) => (at, Walk { plan, reached: 0, reached_at: at, ended: false, marks: Vec::new() }),
            (None, None) => return None,
        };
        // Points of a profile that was not settled alike may lie before a folded step.
        let from = points.partition_point(|point| point.at < walk.reached_at);
        points::instants(&points[from..]).for_each(|(at, points)| walk.instant(at, points));
        Some(Attempt { started_at, level: walk.reached, reached_at: walk.reached_at, ended: walk.ended })
    }
}

/// ClickHouse's automaton. A step is *reached* once any attempt got there; its mark may be gone since.
struct Walk<'a> {
    plan: &'a FunnelPlan,
    reached: u8,
    /// When `reached` last rose.
    reached_at: TimeUs,
    ended: bool,
    /// By step from the first on.
    marks: Vec<Mark>,
}

/// The attempt that stands at a step: the time of its first step, and of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    first: TimeUs,
    last: TimeUs,
}

/// Of `strict_once`: an attempt that stands at a step within one instant.
#[derive(Clone, PartialEq)]
struct Way {
    first: TimeUs,
    /// The step is of this instant.
    fresh: bool,
    /// Places of the instant's points that it has used and that meet a later step too.
    used: Vec<usize>,
}

enum Turn {
    Try,
    Pass,
    End,
}

impl Walk<'_> {
    /// Takes the points of one time, ordered by id.
    fn instant(&mut self, at: TimeUs, points: &[Point]) {
        let modes = self.plan.modes;
        if self.ended {
            return;
        }
        // What meets no step sorts before the steps of its time.
        if modes.strict_order && self.reached > 0 && points.iter().any(|point| point.steps == 0) {
            self.ended = true;
        } else if modes.strict_once {
            self.once(at, points);
        } else {
            self.plain(at, points);
        }
    }

    fn plain(&mut self, at: TimeUs, points: &[Point]) {
        let modes = self.plan.modes;
        let any = points.iter().fold(0, |any, point| any | point.steps);
        for step in 0..self.plan.steps {
            if any & (1 << step) == 0 {
                continue;
            }
            // A repetition at the same time changes nothing but where repetitions count.
            let times =
                if modes.strict_deduplication { points.iter().filter(|point| meets(point, step)).count() } else { 1 };
            for _ in 0..times {
                match self.turn(step) {
                    Turn::End => self.ended = true,
                    Turn::Pass => {}
                    Turn::Try if step == 0 => self.mark(step, at, at),
                    Turn::Try => {
                        let before = self.marks.get(usize::from(step) - 1).copied();
                        let fits =
                            |mark: &Mark| self.is_within(mark.first, at) && (!modes.strict_increase || mark.last < at);
                        if let Some(mark) = before.filter(fits) {
                            self.mark(step, mark.first, at);
                        }
                    }
                }
                if self.ended {
                    return;
                }
            }
        }
    }

    /// With `strict_once` ClickHouse follows every way there is. Between instants the latest begun of each step is the
    /// best in all respects; within one, which events a way has used matters as well.
    fn once(&mut self, at: TimeUs, points: &[Point]) {
        let way = |mark: &Mark| vec![Way { first: mark.first, fresh: false, used: Vec::new() }];
        let mut ways: Vec<Vec<Way>> = self.marks.iter().map(way).collect();
        ways.resize(usize::from(self.plan.steps), Vec::new());
        for step in 0..self.plan.steps {
            let meets_later = |place: usize| u64::from(points[place].steps) >> (step + 1) != 0;
            for place in (0..points.len()).filter(|place| meets(&points[*place], step)) {
                match self.turn(step) {
                    Turn::End => self.ended = true,
                    Turn::Pass => {}
                    Turn::Try => {
                        let mut new = match step.checked_sub(1) {
                            None => vec![Way { first: at, fresh: true, used: Vec::new() }],
                            Some(before) => ways[usize::from(before)].clone(),
                        };
                        let strict_increase = self.plan.modes.strict_increase && step > 0;
                        new.retain(|way| {
                            self.is_within(way.first, at)
                                && !way.used.contains(&place)
                                && !(strict_increase && way.fresh)
                        });
                        for mut way in new {
                            way.fresh = true;
                            way.used.push(place);
                            way.used.retain(|place| meets_later(*place));
                            way.used.sort_unstable();
                            self.mark(step, way.first, at);
                            follow(&mut ways[usize::from(step)], way);
                        }
                    }
                }
                if self.ended {
                    return;
                }
            }
        }
    }

    /// What a strict mode says to a point of this step.
    fn turn(&self, step: u8) -> Turn {
        let modes = self.plan.modes;
        if step == 0 {
            Turn::Try
        } else if modes.strict_deduplication && self.reached > step {
            Turn::End
        } else if modes.strict_order && self.reached > 0 && self.reached < step {
            if modes.allow_reentry { Turn::Pass } else { Turn::End }
        } else {
            Turn::Try
        }
    }

    /// Folded steps of a profile that was not settled alike may be later than `at`.
    fn is_within(&self, first: TimeUs, at: TimeUs) -> bool {
        first <= at && at <= first.saturating_add(self.plan.within_us)
    }

    fn mark(&mut self, step: u8, first: TimeUs, at: TimeUs) {
        let mark = Mark { first, last: at };
        match self.marks.get_mut(usize::from(step)) {
            Some(old) => *old = mark.max(*old),
            None => self.marks.push(mark),
        }
        if self.reached <= step {
            (self.reached, self.reached_at) = (step + 1, at);
        }
        self.ended |= self.reached >= self.plan.steps;
    }
}

/// Of two ways that have used the same, the later begun is the better.
fn follow(ways: &mut Vec<Way>, way: Way) {
    if let Some(known) = ways.iter_mut().find(|known| known.fresh && known.used == way.used) {
        known.first = known.first.max(way.first);
    } else if ways.len() < WAYS_MAX {
        ways.push(way);
    }
}

fn meets(point: &Point, step: u8) -> bool {
    point.steps & (1 << step) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modes(names: &[&str]) -> FunnelModes {
        let mut modes = FunnelModes::default();
        names.iter().for_each(|name| assert!(modes.set(name), "{name}"));
        modes
    }

    fn funnel(plan: &FunnelPlan, points: &[Point]) -> Funnel {
        let mut funnel = Funnel::default();
        points.iter().for_each(|point| funnel.add(plan, *point));
        funnel
    }

    /// Points as (time, steps met); ids by place.
    fn points(rows: &[(TimeUs, u32)]) -> Vec<Point> {
        rows.iter()
            .enumerate()
            .map(|(id, (at, steps))| Point { at: *at, id: id as u32, steps: *steps, without: 0 })
            .collect()
    }

    /// SEMANTICS §5: each row is a case, its modes, its points (three steps a, b, c as bits, within 10), and level,
    /// start, time of the last step reached, and `best`.
    #[test]
    fn edges() {
        let (a, b, c) = (1, 2, 4);
        let rows: [(&str, &[&str], &[(TimeUs, u32)], (u8, TimeUs, TimeUs, u8)); 18] = [
            ("one step", &[], &[(5, a)], (1, 5, 5, 1)),
            ("all steps", &[], &[(0, a), (3, b), (7, c)], (3, 0, 7, 3)),
            ("a gap equal to the window counts", &[], &[(0, a), (3, b), (10, c)], (3, 0, 10, 3)),
            ("one more does not", &[], &[(0, a), (3, b), (11, c)], (2, 0, 3, 2)),
            ("the window is from the first step", &[], &[(0, a), (9, b), (18, c)], (2, 0, 9, 2)),
            (
                "a later first step does not take the earlier one's",
                &[],
                &[(0, a), (1, b), (2, a), (9, c)],
                (1, 2, 2, 3),
            ),
            ("best stays when the next attempt is worse", &[], &[(0, a), (1, b), (2, c), (90, a)], (1, 90, 90, 3)),
            ("steps of one time go by step", &[], &[(4, c), (4, b), (4, a)], (3, 4, 4, 3)),
            ("one event may be all steps", &[], &[(4, a | b | c)], (3, 4, 4, 3)),
            ("but not with strict_once", &["strict_once"], &[(4, a | b | c)], (1, 4, 4, 1)),
            ("nor with strict_increase", &["strict_increase"], &[(4, a), (4, b), (5, b), (6, c)], (3, 4, 6, 3)),
            ("a step before its turn is nothing", &[], &[(0, a), (1, c), (2, b)], (2, 0, 2, 2)),
            ("ends with strict_order", &["strict_order"], &[(0, a), (1, c), (2, b)], (1, 0, 0, 1)),
            ("not with allow_reentry", &["strict_order", "allow_reentry"], &[(0, a), (1, c), (2, b)], (2, 0, 2, 2)),
            ("an intervention ends it for good", &["strict_order"], &[(0, a), (1, 0), (2, a), (3, b)], (2, 2, 3, 1)),
            ("one before the first step does not", &["strict_order"], &[(0, 0), (1, a), (2, b)], (2, 1, 2, 2)),
            ("a repetition is nothing", &[], &[(0, a), (1, b), (2, b), (3, c)], (3, 0, 3, 3)),
            (
                "ends with strict_deduplication",
                &["strict_deduplication"],
                &[(0, a), (1, b), (2, b), (3, c)],
                (2, 0, 1, 2),
            ),
        ];
        for (name, mode, rows, (level, started_at, reached_at, best)) in rows {
            let plan = FunnelPlan { steps: 3, within_us: 10, modes: modes(mode) };
            let value = funnel(&plan, &points(rows)).value(&plan);
            let expected = FunnelValue { level, started_at: Some(started_at), reached_at: Some(reached_at), best };
            assert_eq!(value, expected, "{name}");
        }
        let plan = FunnelPlan { steps: 3, within_us: 10, modes: modes(&[]) };
        assert_eq!(funnel(&plan, &points(&[(1, b), (2, c)])).value(&plan), FunnelValue::default(), "no first step");
        let widest = FunnelPlan { steps: 32, within_us: i64::MAX, modes: modes(&[]) };
        assert_eq!(funnel(&widest, &points(&[(TimeUs::MAX, u32::MAX)])).value(&widest).level, 32, "the ends of types");
    }

    fn random_plan(random: &mut fastrand::Rng) -> FunnelPlan {
        let mut modes = FunnelModes {
            strict_deduplication: random.u8(0..4) == 0,
            strict_order: random.u8(0..4) == 0,
            strict_increase: random.u8(0..4) == 0,
            strict_once: random.u8(0..4) == 0,
            allow_reentry: false,
        };
        modes.allow_reentry = modes.strict_order && random.bool();
        FunnelPlan { steps: random.u8(1..5), within_us: random.i64(0..8), modes }
    }

    fn random_points(random: &mut fastrand::Rng, span: i64) -> Vec<Point> {
        let point = |id| Point {
            at: random.i64(0..span),
            id,
            steps: 1 << random.u32(0..4) | random.u32(0..16) >> random.u32(0..8),
            without: 0,
        };
        (0..16).map(point).collect()
    }

    /// SEMANTICS §5: any order, any batches, duplicates, and two profiles merged at any time before they fold.
    #[test]
    fn any_order_copies_and_splits_give_the_same_state() {
        for seed in 0..3_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (plan, mut points) = (random_plan(&mut random), random_points(&mut random, 20));
            let whole = funnel(&plan, &points);
            random.shuffle(&mut points);
            let cuts = [random.usize(0..points.len()), random.usize(0..points.len())];
            let parts = [&points[..cuts[0]], &points[cuts[0]..], &points[cuts[1]..]];
            let [a, b, c] = parts.map(|points| funnel(&plan, points));
            for order in [[&a, &b, &c], [&c, &a, &b], [&b, &c, &a]] {
                let mut left = order[0].clone();
                left.find(&plan);
                left.merge(order[1].clone());
                left.find(&plan);
                left.merge(order[2].clone());
                assert_eq!(left, whole, "seed {seed}");
                assert_eq!(left.value(&plan), whole.value(&plan), "seed {seed}");
                let mut right = order[1].clone();
                right.merge(order[2].clone());
                right.merge(order[0].clone());
                assert_eq!(right, whole, "seed {seed}");
            }
        }
    }

    /// SEMANTICS §5: points come late within the allowed lateness; folding at any floors changes no value, and what is
    /// left depends on the last floor alone.
    #[test]
    fn settling_changes_no_value() {
        for seed in 0..3_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (plan, lateness) = (random_plan(&mut random), random.i64(0..6));
            let mut points = random_points(&mut random, 40);
            // The order of arrival: never more than the lateness behind.
            points.sort_by_cached_key(|point| point.at + random.i64(0..=lateness));
            let (mut settled, mut whole, mut latest) = (Funnel::default(), Funnel::default(), TimeUs::MIN);
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
            assert!(settled.points.len() == 0 && settled.live.is_empty(), "seed {seed}");
            assert_eq!(settled.value(&plan), value, "seed {seed}");
        }
    }

    /// SEMANTICS §5, "window plus allowed lateness": two profiles of one person whose histories are further apart than
    /// the window merge exactly, whatever is folded; and merging is always commutative, associative and idempotent.
    #[test]
    fn folded_funnels_merge() {
        for seed in 0..3_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut plan = random_plan(&mut random);
            let mut parts: Vec<Funnel> = Vec::new();
            for _ in 0..3 {
                let mut part = funnel(&plan, &random_points(&mut random, 20));
                part.settle(&plan, random.i64(0..30));
                parts.push(part);
            }
            let merged = |order: [usize; 3]| {
                let mut sum = parts[order[0]].clone();
                sum.merge(parts[order[1]].clone());
                sum.merge(parts[order[2]].clone());
                sum.merge(parts[order[1]].clone());
                sum
            };
            for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                assert_eq!(merged(order), merged([0, 1, 2]), "seed {seed}");
            }

            plan.modes = FunnelModes::default();
            let (older, newer) = (random_points(&mut random, 20), random_points(&mut random, 20));
            let newer: Vec<Point> =
                newer.iter().map(|point| Point { at: point.at + 40, id: point.id + 16, ..*point }).collect();
            let mut whole = funnel(&plan, &older);
            whole.merge(funnel(&plan, &newer));
            let (mut older, mut newer) = (funnel(&plan, &older), funnel(&plan, &newer));
            let floor = random.i64(0..90);
            older.settle(&plan, floor);
            newer.settle(&plan, floor);
            older.merge(newer);
            assert_eq!(older.value(&plan), whole.value(&plan), "seed {seed} {plan:?} {older:?}");
        }
    }

    /// What is folded of one and held by the other still makes one attempt.
    #[test]
    fn an_attempt_goes_on_in_a_merged_profile() {
        let plan = FunnelPlan { steps: 3, within_us: 10, modes: FunnelModes::default() };
        let mut folded = funnel(&plan, &points(&[(0, 1), (2, 2)]));
        folded.settle(&plan, 13);
        assert_eq!(folded.points.len(), 0);
        folded.merge(funnel(&plan, &points(&[(10, 4)])));
        let value = folded.value(&plan);
        assert_eq!((value.level, value.reached_at, value.best), (3, Some(10), 3));
    }
}
