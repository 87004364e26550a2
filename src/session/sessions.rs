//! The sessions of one profile.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::span::{Between, Moment, Point, Span};
use super::{Campaign, SessionEvent, SessionId, SessionRow, SessionsPlan};
use crate::event::TimeUs;
use crate::state::cache::Weigh;
use crate::state::codec;

/// All of one profile's sessions that may still change, and how many are past.
///
/// Per batch: [`settle`](Sessions::settle), then [`apply`](Sessions::apply) its events and [`merge`](Sessions::merge)
/// profiles in any order, then ask [`id_of`](Sessions::id_of) each event, [`take`](Sessions::take) the rows to write, and
/// store the state. An event that is applied twice is counted twice: de-duplication comes before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    /// By time, all before `points`. Without a split on campaigns each is a session. With it, what lies behind `floor`:
    /// the last one may go on in `points`.
    spans: Vec<Span>,
    /// By moment: the events that a late campaign may still part. Empty without a split on campaigns.
    points: Vec<Point>,
    /// The ids that rows were written of, as far as those may still change.
    issued: Vec<Issued>,
    /// No event before this is taken in any more.
    floor: Option<TimeUs>,
    /// Sessions that have left.
    closed: u64,
    closed_us: i64,
    /// Where something has changed since the last rows were made.
    #[serde(skip)]
    changed: Option<(TimeUs, TimeUs)>,
    #[serde(skip)]
    rows: Vec<SessionRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Issued {
    /// The event that the id was made of.
    moment: Moment,
    /// A hash of the row that was written last.
    digest: u64,
}

impl Sessions {
    /// Takes in an event. False: it is late and belongs to no session.
    pub fn apply(&mut self, plan: &SessionsPlan, event: &SessionEvent) -> bool {
        if self.floor.is_some_and(|floor| event.at < floor) {
            return false;
        }
        self.touch(event.at, event.at);
        let point = Point::of(event);
        if plan.split_on_campaign {
            let index = self.points.partition_point(|other| other.moment <= point.moment);
            self.points.insert(index, point);
            return true;
        }
        let span = Span::of(&point);
        let mut index = self.spans.partition_point(|other| other.first <= span.first);
        let before = index.checked_sub(1).filter(|before| joined(plan, &self.spans[*before], &span));
        match before {
            Some(before) => {
                index = before;
                self.spans[index].absorb(span);
            }
            None => self.spans.insert(index, span),
        }
        if self.spans.get(index + 1).is_some_and(|next| joined(plan, &self.spans[index], next)) {
            let next = self.spans.remove(index + 1);
            self.spans[index].absorb(next);
        }
        true
    }

    /// Takes over the sessions of a profile that turned out to be the same person: as if all events of both had been
    /// applied to one, as far as neither side has closed sessions that the other's would have joined.
    pub fn merge(&mut self, plan: &SessionsPlan, mut other: Sessions) {
        if let Some(floor) = self.floor.max(other.floor) {
            self.settle(plan, floor);
            other.settle(plan, floor);
        }
        self.closed += other.closed;
        self.closed_us = self.closed_us.saturating_add(other.closed_us);
        self.rows.append(&mut other.rows);
        for issued in other.issued {
            if !self.issued.iter().any(|mine| mine.moment.id == issued.moment.id) {
                self.issued.push(issued);
            }
        }
        let changed = [self.changed, other.changed, extent(&other.spans, &other.points)];
        changed.into_iter().flatten().for_each(|(from, to)| self.touch(from, to));
        self.points.append(&mut other.points);
        self.points.sort_by(|a, b| a.moment.cmp(&b.moment));
        if !other.spans.is_empty() {
            self.spans.append(&mut other.spans);
            self.spans.sort_by(|a, b| a.first.cmp(&b.first));
            let mut spans: Vec<Span> = Vec::with_capacity(self.spans.len());
            self.spans.drain(..).for_each(|span| push(plan, &mut spans, span));
            self.spans = spans;
        }
    }

    /// From now on events before `floor` are late; sessions that no later event can reach leave the state. A lower floor
    /// than an earlier one says nothing.
    pub fn settle(&mut self, plan: &SessionsPlan, floor: TimeUs) {
        let floor = self.floor.map_or(floor, |before| before.max(floor));
        self.floor = Some(floor);
        let settled = self.points.partition_point(|point| point.moment.at < floor);
        // Events that come will lie behind all of these, so what parts them is decided.
        for point in self.points.drain(..settled) {
            push(plan, &mut self.spans, Span::of(&point));
        }
        let closed = (0..self.spans.len()).take_while(|index| match self.spans.get(index + 1) {
            Some(next) if next.first.at < floor => true,
            _ => self.spans[*index].last_at.saturating_add(plan.gap_us) < floor,
        });
        let closed = closed.count();
        if closed == 0 {
            return;
        }
        self.note(plan);
        for span in self.spans.drain(..closed) {
            self.closed += 1;
            self.closed_us = self.closed_us.saturating_add(span.row().duration_us());
            self.issued.retain(|issued| issued.moment.at > span.last_at);
        }
    }

    /// How many sessions there were, ever.
    pub fn count(&self, plan: &SessionsPlan) -> u64 {
        self.closed + if self.points.is_empty() { self.spans.len() } else { self.open(plan, None).len() } as u64
    }

    /// How long they lasted together, in microseconds.
    pub fn duration_us(&self, plan: &SessionsPlan) -> i64 {
        let open = self.open(plan, None);
        open.iter().fold(self.closed_us, |sum, span| sum.saturating_add(span.row().duration_us()))
    }

    /// The session of an event that was applied since the last [`settle`](Sessions::settle), as it is now. None for a late one.
    pub fn id_of(&self, plan: &SessionsPlan, event: &SessionEvent) -> Option<SessionId> {
        if self.floor.is_some_and(|floor| event.at < floor) {
            return None;
        }
        let moment = Moment::of(event);
        let upto = self.points.partition_point(|point| point.moment <= moment);
        let Some(mut first) = self.points[..upto].last().map(|point| &point.moment) else {
            let index = self.spans.partition_point(|span| span.first <= moment).checked_sub(1)?;
            return Some(&self.spans[index]).filter(|span| span.last_at >= moment.at).map(|span| span.first.id);
        };
        // Backwards, to where the session begins: at a pause, or at the first event that names its campaign if another
        // one was named before that.
        let mut named: Option<(&Campaign, SessionId)> = None;
        for point in self.points[..upto].iter().rev() {
            if plan.apart(point.moment.at, first.at) {
                return Some(first.id);
            }
            if let Some(campaign) = point.campaign.as_deref() {
                match named {
                    Some((other, begin)) if other != campaign => return Some(begin),
                    _ => named = Some((campaign, point.moment.id)),
                }
            }
            first = &point.moment;
        }
        let before = self.spans.last().filter(|span| !plan.apart(span.last_at, first.at));
        Some(match (before, named) {
            (None, _) => first.id,
            (Some(span), Some((campaign, begin))) if span.campaign().is_some_and(|other| other != campaign) => begin,
            (Some(span), _) => span.first.id,
        })
    }

    /// What the table `sessions` does not say yet, in the order in which it is to be written. The state remembers that it
    /// was said, so it is stored after this.
    pub fn take(&mut self, plan: &SessionsPlan) -> Vec<SessionRow> {
        self.note(plan);
        std::mem::take(&mut self.rows)
    }

    fn touch(&mut self, from: TimeUs, to: TimeUs) {
        self.changed = Some(self.changed.map_or((from, to), |(a, b)| (a.min(from), b.max(to))));
    }

    /// The sessions that are open, by time; at least those that a change in `within` can concern.
    fn open(&self, plan: &SessionsPlan, within: Option<(TimeUs, TimeUs)>) -> Vec<Span> {
        let concerned = |span: &&Span| within.is_none_or(|(from, to)| span.first.at <= to && span.last_at >= from);
        // With campaigns, a change reaches through the whole chain.
        if !plan.split_on_campaign {
            return self.spans.iter().filter(concerned).cloned().collect();
        }
        let mut open = self.spans.clone();
        self.points.iter().for_each(|point| push(plan, &mut open, Span::of(point)));
        open
    }

    /// Makes the rows of what has changed.
    fn note(&mut self, plan: &SessionsPlan) {
        let Some((from, to)) = self.changed.take() else { return };
        let mut issued = std::mem::take(&mut self.issued);
        let mut rows = std::mem::take(&mut self.rows);
        let mut say = |issued: &mut Issued, row: SessionRow| {
            let digest = xxh3_64(&codec::encode(0, &row));
            if digest != issued.digest {
                issued.digest = digest;
                rows.push(row);
            }
        };
        let open = self.open(plan, Some((from, to)));
        for chain in open.chunk_by(|a, b| a.chain_id() == b.chain_id()) {
            let last_at = chain.iter().map(|span| span.last_at).max().unwrap_or(TimeUs::MIN);
            if chain[0].first.at > to || last_at < from {
                continue;
            }
            for span in chain {
                let known = issued.iter().position(|issued| issued.moment.id == span.first.id);
                let known = known.unwrap_or_else(|| {
                    issued.push(Issued { moment: span.first.clone(), digest: 0 });
                    issued.len() - 1
                });
                say(&mut issued[known], span.row());
            }
            // Ids of before: their events are in one of these now.
            for issued in issued.iter_mut().filter(|i| i.moment >= chain[0].first && i.moment.at <= last_at) {
                let now = chain.partition_point(|span| span.first <= issued.moment) - 1;
                let now = &chain[now];
                if now.first.id != issued.moment.id {
                    let gone = gone(&issued.moment, now);
                    say(issued, gone);
                }
            }
        }
        (self.issued, self.rows) = (issued, rows);
    }
}

impl Weigh for Sessions {
    fn weigh(&self) -> usize {
        self.spans.iter().map(|span| size_of::<Span>() + span.weigh()).sum::<usize>()
            + self.points.iter().map(|point| size_of::<Point>() + point.weigh()).sum::<usize>()
            + self.issued.iter().map(|issued| size_of::<Issued>() + issued.moment.message_id.len()).sum::<usize>()
            + self.rows.capacity() * size_of::<SessionRow>()
    }
}

/// The row of an id that no longer stands.
fn gone(moment: &Moment, now: &Span) -> SessionRow {
    SessionRow {
        id: moment.id,
        started_at: moment.at,
        ended_at: moment.at,
        first_message_id: moment.message_id.clone(),
        events: 0,
        pages: 0,
        first_page: None,
        last_page: None,
        campaign: None,
        merged_into: Some(now.first.id),
        chain_id: now.chain_id(),
    }
}

fn joined(plan: &SessionsPlan, earlier: &Span, later: &Span) -> bool {
    earlier.between(plan, later) == Between::Nothing
}

/// Adds a span that does not begin before the last one.
fn push(plan: &SessionsPlan, spans: &mut Vec<Span>, mut span: Span) {
    match spans.last_mut().map(|last| (last.between(plan, &span), last)) {
        Some((Between::Nothing, last)) => last.absorb(span),
        Some((Between::Campaign, last)) => {
            span.chain = Some(last.chain_id());
            spans.push(span);
        }
        _ => spans.push(span),
    }
}

/// From the first to the last event.
fn extent(spans: &[Span], points: &[Point]) -> Option<(TimeUs, TimeUs)> {
    let first = spans.first().map(|span| span.first.at).or(points.first().map(|point| point.moment.at))?;
    let spans_end = spans.iter().map(|span| span.last_at).max();
    spans_end.max(points.last().map(|point| point.moment.at)).map(|last| (first, last))
}
