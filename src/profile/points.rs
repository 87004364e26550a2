//! The events that a funnel or sequence still holds: sorted by (time, id), each once.

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

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

/// Points sorted by (time, id), each once, in the form in which they are stored: a profile holds a hundred and more, most of
/// which a batch only carries along. Each is a byte that says what follows ([`MILLISECONDS`], [`HAS_WITHOUT`], the steps where
/// they fit), the time since the point before as a varint, and the id in four bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Points {
    /// Most are a few: those lie with what else is known of the sequence.
    bytes: SmallVec<[u8; 40]>,
    count: u32,
    first_at: TimeUs,
    /// The place of the last one.
    last: (TimeUs, u32),
}

/// Points taken out of their stored form.
pub(super) type List = SmallVec<[Point; 32]>;

/// Of a point's first byte: the time is in milliseconds, exactly.
const MILLISECONDS: u8 = 1;
/// A varint of the exclusions comes last.
const HAS_WITHOUT: u8 = 2;
/// The steps are above these two bits; this, where a varint of them comes behind the id.
const STEPS_APART: u32 = 63;

impl Points {
    fn of(points: &[Point]) -> Points {
        let mut all = Points::default();
        points.iter().for_each(|point| all.push(point));
        all
    }

    /// Behind all that are there.
    fn push(&mut self, point: &Point) {
        let before = if self.count == 0 { 0 } else { self.last.0 };
        write(&mut self.bytes, before, point);
        if self.count == 0 {
            self.first_at = point.at;
        }
        self.count += 1;
        self.last = point.place();
    }

    pub fn list(&self) -> List {
        let mut list = List::with_capacity(self.count as usize);
        let (mut rest, mut at) = (&self.bytes[..], 0);
        while let Some(point) = read(&mut rest, &mut at) {
            list.push(point);
        }
        list
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// The time of the first one.
    pub fn first_at(&self) -> Option<TimeUs> {
        (self.count > 0).then_some(self.first_at)
    }

    /// Adds one point; at the end in the usual case, where events come in order. Of two copies what both meet counts, so they
    /// may come in any order.
    pub fn insert(&mut self, point: Point) {
        if self.count == 0 || self.last < point.place() {
            return self.push(&point);
        }
        let mut list = self.list();
        match list.binary_search_by_key(&point.place(), Point::place) {
            Ok(index) => {
                list[index].steps |= point.steps;
                list[index].without |= point.without;
            }
            Err(index) => list.insert(index, point),
        }
        *self = Points::of(&list);
    }

    /// Adds all points of another list in one pass.
    pub fn union(&mut self, others: Points) {
        if self.count == 0 {
            *self = others;
            return;
        }
        let (mine, others) = (self.list(), others.list());
        let mut both = List::with_capacity(mine.len() + others.len());
        let (mut mine, mut others) = (mine.into_iter().peekable(), others.into_iter().peekable());
        loop {
            let order = match (mine.peek(), others.peek()) {
                (Some(mine), Some(other)) => mine.place().cmp(&other.place()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => break,
            };
            let next = if order.is_gt() { others.next() } else { mine.next() };
            both.extend(next);
            if order.is_eq()
                && let (Some(point), Some(copy)) = (both.last_mut(), others.next())
            {
                point.steps |= copy.steps;
                point.without |= copy.without;
            }
        }
        *self = Points::of(&both);
    }

    /// A point before this is too late: there may be folded ones behind it. `TimeUs::MIN` while few are held.
    pub fn earliest(&self) -> TimeUs {
        match self.first_at() {
            Some(first_at) if self.len() >= POINTS_MAX => first_at,
            _ => TimeUs::MIN,
        }
    }

    /// From where on points are held: `cut`, or later where there are too many; with `TimeUs::MIN` all are.
    pub fn cut(&self, cut: TimeUs) -> TimeUs {
        match self.len() {
            count if count > 2 * POINTS_MAX && cut > TimeUs::MIN => cut.max(self.list()[count - POINTS_MAX].at),
            _ => cut,
        }
    }

    /// Takes out the points before `cut`: whole instants, since the bound is a time.
    pub fn take_before(&mut self, cut: TimeUs) -> List {
        let mut taken = List::new();
        let (mut rest, mut at) = (&self.bytes[..], 0);
        let first = loop {
            match read(&mut rest, &mut at) {
                Some(point) if point.at < cut => taken.push(point),
                other => break other,
            }
        };
        let Some(first) = first else {
            *self = Points::default();
            return taken;
        };
        // The others follow each other as before: held points are few, but there are many profiles, so not in the old buffer.
        let mut bytes = SmallVec::new();
        write(&mut bytes, 0, &first);
        bytes.extend_from_slice(rest);
        (self.bytes, self.first_at) = (bytes, first.at);
        self.count -= taken.len() as u32;
        taken
    }

    /// Bytes on the heap.
    pub fn weigh(&self) -> usize {
        if self.bytes.spilled() { self.bytes.capacity() } else { 0 }
    }
}

/// The points of each instant, in order.
pub(super) fn instants(points: &[Point]) -> impl Iterator<Item = (TimeUs, &[Point])> {
    points.chunk_by(|a, b| a.at == b.at).filter_map(|points| Some((points.first()?.at, points)))
}

/// No point takes more.
const POINT_BYTES_MAX: usize = 1 + 10 + 4 + 5 + 5;

fn write(bytes: &mut SmallVec<[u8; 40]>, before: TimeUs, point: &Point) {
    let mut buffer = [0; POINT_BYTES_MAX];
    let since = (point.at as u64).wrapping_sub(before as u64);
    let whole = since.is_multiple_of(1_000);
    let head = u8::from(whole) * MILLISECONDS + u8::from(point.without != 0) * HAS_WITHOUT;
    buffer[0] = head | (point.steps.min(STEPS_APART) as u8) << 2;
    let mut end = put_varint(&mut buffer, 1, if whole { since / 1_000 } else { since });
    buffer[end..end + 4].copy_from_slice(&point.id.to_le_bytes());
    end += 4;
    if point.steps >= STEPS_APART {
        end = put_varint(&mut buffer, end, u64::from(point.steps));
    }
    if point.without != 0 {
        end = put_varint(&mut buffer, end, u64::from(point.without));
    }
    bytes.extend_from_slice(&buffer[..end]);
}

/// Takes a point off the front; `at` is the time of the one before, then its own. None at the end, and where it is cut short.
fn read(bytes: &mut &[u8], at: &mut TimeUs) -> Option<Point> {
    let head = *bytes.split_off_first()?;
    let mut since = take_varint(bytes)?;
    if head & MILLISECONDS != 0 {
        since = since.wrapping_mul(1_000);
    }
    *at = (*at as u64).wrapping_add(since) as TimeUs;
    let id = u32::from_le_bytes(*bytes.split_off(..4)?.first_chunk()?);
    let steps = match u32::from(head >> 2) {
        STEPS_APART => take_varint(bytes)? as u32,
        steps => steps,
    };
    let without = if head & HAS_WITHOUT != 0 { take_varint(bytes)? as u32 } else { 0 };
    Some(Point { at: *at, id, steps, without })
}

/// Gives the end of what was written.
fn put_varint(buffer: &mut [u8; POINT_BYTES_MAX], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        buffer[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    buffer[at] = value as u8;
    at + 1
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

impl Serialize for Points {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Points {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Points, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Points;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("points in order")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Points, E> {
                let mut points = Points::default();
                let (mut rest, mut at) = (bytes, 0);
                while !rest.is_empty() {
                    let point = read(&mut rest, &mut at);
                    let point = point.filter(|point| points.count == 0 || points.last < point.place());
                    let point = point.ok_or_else(|| E::invalid_value(Unexpected::Bytes(bytes), &self))?;
                    if points.count == 0 {
                        points.first_at = point.at;
                    }
                    points.count += 1;
                    points.last = point.place();
                }
                points.bytes = SmallVec::from_slice(bytes);
                Ok(points)
            }
        }
        deserializer.deserialize_bytes(Read)
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
            if points.first_at().is_some_and(|first_at| first_at < cut) {
                points.take_before(cut);
            }
            assert!(points.len() <= 2 * POINTS_MAX + 1, "{}", points.len());
        }
        all.sort_unstable_by_key(Point::place);
        assert_eq!(points.list()[..], all[all.len() - points.len()..], "the latest are held, in order");
        assert_eq!(points.earliest(), points.list()[0].at);
        assert_eq!(points.cut(TimeUs::MIN), TimeUs::MIN, "while the past is filled all are held");

        let stored = postcard::to_allocvec(&points).unwrap();
        assert_eq!(postcard::from_bytes::<Points>(&stored).unwrap(), points);
        assert!(stored.len() <= points.len() * 8 + 16, "{} bytes of {} points", stored.len(), points.len());
    }

    /// The stored form against a plain sorted list, whatever times, masks and order, and damaged in any way.
    #[test]
    fn the_stored_form_holds_what_a_list_would() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let edges = [TimeUs::MIN, -1, 0, 1, 999, 1_000, TimeUs::MAX];
            let mask = |random: &mut fastrand::Rng| random.choice([0, 1, 62, 63, 64, u32::MAX]).unwrap();
            let mut points = Points::default();
            let mut plain: Vec<Point> = Vec::new();
            for _ in 0..random.usize(0..40) {
                let at = if random.bool() { random.choice(edges).unwrap() } else { random.i64(-9..9) * 500 };
                let (steps, without) = (mask(&mut random), if random.bool() { 0 } else { mask(&mut random) });
                let point = Point { at, id: random.u32(0..3), steps, without };
                match plain.binary_search_by_key(&point.place(), Point::place) {
                    Ok(index) => {
                        plain[index].steps |= steps;
                        plain[index].without |= without;
                    }
                    Err(index) => plain.insert(index, point),
                }
                match random.u8(0..8) {
                    0 => points.union(Points::of(&[point])),
                    1 => {
                        points = [Points::of(&[point]), points].into_iter().fold(Points::default(), |mut sum, more| {
                            sum.union(more);
                            sum
                        })
                    }
                    _ => points.insert(point),
                }
                if random.u8(0..8) == 0 {
                    let cut = random.choice(edges).unwrap();
                    let kept = plain.split_off(plain.partition_point(|point| point.at < cut));
                    assert_eq!(points.take_before(cut)[..], plain[..], "seed {seed}");
                    plain = kept;
                }
                assert_eq!(points, Points::of(&plain), "seed {seed}");
                assert_eq!(points.list()[..], plain[..], "seed {seed}");
                assert_eq!(points.first_at(), plain.first().map(|first| first.at), "seed {seed}");
            }
            let stored = postcard::to_allocvec(&points).unwrap();
            assert_eq!(postcard::from_bytes::<Points>(&stored).unwrap(), points, "seed {seed}");
            let mut damaged = points.bytes.to_vec();
            for byte in &mut damaged {
                *byte ^= if random.u8(0..8) == 0 { random.u8(..) } else { 0 };
            }
            damaged.truncate(random.usize(0..=damaged.len()));
            if let Ok(read) = postcard::from_bytes::<Points>(&postcard::to_allocvec(&damaged).unwrap()) {
                assert!(read.list().is_sorted_by_key(Point::place) && read.list().len() == read.len(), "seed {seed}");
            }
        }
    }
}
