//! Points in time that a trait still holds: sorted by (time, id), each once. Shared by funnels and sequences.

use crate::event::TimeUs;

pub(super) trait Placed {
    /// What names a point: two with the same place are the same event.
    fn place(&self) -> (TimeUs, u64);
    /// Takes over what another copy of the same event meets; never a loss, so copies may come in any order.
    fn join(&mut self, copy: &Self);
}

/// Adds one point; at the end in the usual case, where events come in order.
pub(super) fn insert<P: Placed>(points: &mut Vec<P>, point: P) {
    match points.binary_search_by_key(&point.place(), Placed::place) {
        Ok(index) => points[index].join(&point),
        Err(index) => points.insert(index, point),
    }
}

/// Adds all points of another list in one pass.
pub(super) fn union<P: Placed>(points: &mut Vec<P>, others: Vec<P>) {
    if points.is_empty() {
        *points = others;
        return;
    }
    let mine = std::mem::take(points);
    points.reserve_exact(mine.len() + others.len());
    let (mut mine, mut others) = (mine.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let order = match (mine.peek(), others.peek()) {
            (Some(mine), Some(other)) => mine.place().cmp(&other.place()),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return,
        };
        let next = if order.is_gt() { others.next() } else { mine.next() };
        points.extend(next);
        if order.is_eq()
            && let (Some(point), Some(copy)) = (points.last_mut(), others.next())
        {
            point.join(&copy);
        }
    }
}

/// Takes out the points before `cut`: whole instants, since the bound is a time.
pub(super) fn take_before<P: Placed>(points: &mut Vec<P>, cut: TimeUs) -> Vec<P> {
    let count = points.partition_point(|point| point.place().0 < cut);
    let taken = points.drain(..count).collect();
    // Held points are few, but there are many profiles.
    if points.len() * 4 < points.capacity() {
        points.shrink_to_fit();
    }
    taken
}

/// The points of each instant, in order.
pub(super) fn instants<P: Placed>(points: &[P]) -> impl Iterator<Item = (TimeUs, &[P])> {
    points.chunk_by(|a, b| a.place().0 == b.place().0).filter_map(|points| Some((points.first()?.place().0, points)))
}
