//! The events that a funnel or sequence still holds: sorted by (time, id), each once.

use std::ops::Deref;

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event::TimeUs;

/// Of one person no more events are held than twice as many; then the oldest are folded as if nothing older could come any more, and
/// an event that is older than all that are held is too late ([`Points::earliest`]). Without it a robot's profile would grow by each of
/// its events, and be written as often. It does not hold while the past is being filled, which is older than what comes meanwhile.
pub const POINTS_MAX: usize = 128;

/// One event, as a funnel or sequence sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub at: TimeUs,
    /// A hash of source and message id.
    pub id: u32,
    /// Bit k: the event meets step k + 1. None set: an event that may only intervene.
    pub steps: u32,
    /// Bit k: the event meets exclusion k.
    pub without: u32,
}

impl Point {
    /// What names a point: two with the same place are the same event.
    fn place(&self) -> (TimeUs, u32) {
        (self.at, self.id)
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Points(Vec<Point>);

impl Deref for Points {
    type Target = [Point];

    fn deref(&self) -> &[Point] {
        &self.0
    }
}

impl Points {
    /// Adds one point; at the end in the usual case, where events come in order. Of two copies what both meet counts, so they
    /// may come in any order.
    pub fn insert(&mut self, point: Point) {
        match self.0.binary_search_by_key(&point.place(), Point::place) {
            Ok(index) => {
                self.0[index].steps |= point.steps;
                self.0[index].without |= point.without;
            }
            Err(index) => self.0.insert(index, point),
        }
    }

    /// Adds all points of another list in one pass.
    pub fn union(&mut self, others: Points) {
        if self.0.is_empty() {
            *self = others;
            return;
        }
        let mine = std::mem::take(&mut self.0);
        self.0.reserve_exact(mine.len() + others.len());
        let (mut mine, mut others) = (mine.into_iter().peekable(), others.0.into_iter().peekable());
        loop {
            let order = match (mine.peek(), others.peek()) {
                (Some(mine), Some(other)) => mine.place().cmp(&other.place()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return,
            };
            let next = if order.is_gt() { others.next() } else { mine.next() };
            self.0.extend(next);
            if order.is_eq()
                && let (Some(point), Some(copy)) = (self.0.last_mut(), others.next())
            {
                point.steps |= copy.steps;
                point.without |= copy.without;
            }
        }
    }

    /// A point before this is too late: there may be folded ones behind it. `TimeUs::MIN` while few are held.
    pub fn earliest(&self) -> TimeUs {
        match self.0.first() {
            Some(first) if self.0.len() >= POINTS_MAX => first.at,
            _ => TimeUs::MIN,
        }
    }

    /// From where on points are held: `cut`, or later where there are too many; with `TimeUs::MIN` all are.
    pub fn cut(&self, cut: TimeUs) -> TimeUs {
        match self.0.len() {
            count if count > 2 * POINTS_MAX && cut > TimeUs::MIN => cut.max(self.0[count - POINTS_MAX].at),
            _ => cut,
        }
    }

    /// Takes out the points before `cut`: whole instants, since the bound is a time.
    pub fn take_before(&mut self, cut: TimeUs) -> Vec<Point> {
        let count = self.0.partition_point(|point| point.at < cut);
        let taken = self.0.drain(..count).collect();
        // Held points are few, but there are many profiles.
        if self.0.len() * 4 < self.0.capacity() {
            self.0.shrink_to_fit();
        }
        taken
    }

    /// Bytes on the heap.
    pub fn weigh(&self) -> usize {
        self.0.capacity() * size_of::<Point>()
    }
}

/// The points of each instant, in order.
pub(super) fn instants(points: &[Point]) -> impl Iterator<Item = (TimeUs, &[Point])> {
    points.chunk_by(|a, b| a.at == b.at).filter_map(|points| Some((points.first()?.at, points)))
}

/// As stored: the time since the point before, the id in four bytes, the masks.
type Stored = (u64, [u8; 4], u32, u32);

impl Serialize for Points {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut stored = serializer.serialize_seq(Some(self.0.len()))?;
        let mut before: TimeUs = 0;
        for point in &self.0 {
            let since = (point.at as u64).wrapping_sub(before as u64);
            stored.serialize_element::<Stored>(&(since, point.id.to_le_bytes(), point.steps, point.without))?;
            before = point.at;
        }
        stored.end()
    }
}

impl<'de> Deserialize<'de> for Points {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Points, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Points;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("points")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut stored: A) -> Result<Points, A::Error> {
                let mut points = Points::default();
                let mut at = 0u64;
                while let Some((since, id, steps, without)) = stored.next_element::<Stored>()? {
                    at = at.wrapping_add(since);
                    points.0.push(Point { at: at as TimeUs, id: u32::from_le_bytes(id), steps, without });
                }
                Ok(points)
            }
        }
        deserializer.deserialize_seq(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A robot's events: what is held is bounded, nothing of what is known is lost, and what is too late changes nothing.
    #[test]
    fn what_is_held_is_bounded_and_comes_back_as_it_was() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut points = Points::default();
        let mut all = Vec::new();
        for number in 0..5_000i64 {
            let late = if number % 7 == 0 { random.i64(0..40) } else { 0 };
            let (steps, without) = (random.u32(0..4), random.u32(0..2));
            let point = Point { at: number * 3 - late, id: number as u32, steps, without };
            points.insert(point);
            all.push(point);
            let cut = points.cut(-1_000);
            if points.first().is_some_and(|first| first.at < cut) {
                points.take_before(cut);
            }
            assert!(points.len() <= 2 * POINTS_MAX + 1, "{}", points.len());
        }
        all.sort_unstable_by_key(Point::place);
        assert_eq!(points[..], all[all.len() - points.len()..], "the latest are held, in order");
        assert_eq!(points.earliest(), points[0].at);
        assert_eq!(points.cut(TimeUs::MIN), TimeUs::MIN, "while the past is filled all are held");

        let stored = postcard::to_allocvec(&points).unwrap();
        assert_eq!(postcard::from_bytes::<Points>(&stored).unwrap(), points);
        assert!(stored.len() <= points.len() * 8 + 16, "{} bytes of {} points", stored.len(), points.len());
        let edges = [TimeUs::MIN, -1, 0, TimeUs::MAX].map(|at| Point { at, id: u32::MAX, steps: u32::MAX, without: 0 });
        let edges = Points(edges.to_vec());
        assert_eq!(postcard::from_bytes::<Points>(&postcard::to_allocvec(&edges).unwrap()).unwrap(), edges);
    }
}
