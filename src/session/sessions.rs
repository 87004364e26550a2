//! The sessions of one profile.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::span::{Between, Issued, Moment, Point, Span};
use super::{Campaign, SessionEvent, SessionId, SessionRow, SessionsPlan};
use crate::event::TimeUs;
use crate::state::cache::Weigh;
use crate::state::codec;

/// All of one profile's sessions that may still change, and how many are past.
///
/// Per batch: [`apply`](Sessions::apply) its events and [`merge`](Sessions::merge) profiles in any order, then ask
/// [`id_of`](Sessions::id_of) each event, [`take`](Sessions::take) the rows to write, [`settle`](Sessions::settle), and
/// store the state. An event that is applied twice is counted twice: de-duplication comes before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    /// By time, all before `points`. Without a split on campaigns each is a session. With it, what lies behind `floor`:
    /// the last one may go on in `points`.
    spans: Vec<Span>,
    /// By moment: the events that a late campaign may still part. Empty without a split on campaigns.
    points: Vec<Point>,
    /// Ids that rows were written of, as far as those may still change: those that are gone, and with a split on campaigns
    /// those of now too. Otherwise a span knows by itself whether it was written.
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

impl Sessions {
    /// Takes in an event. False: it is late and belongs to no session.
    pub fn apply(&mut self, plan: &SessionsPlan, event: &SessionEvent) -> bool {
        if self.floor.is_some_and(|floor| event.at < floor) {
            return false;
        }
        self.touch(event.at, event.at);
        // Most events go on with the latest session.
        if !plan.split_on_campaign
            && let Some(last) = self.spans.last_mut().filter(|last| last.takes(plan, event))
        {
            last.add(event);
            return true;
        }
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
                self.issued.extend(self.spans[index].absorb(span));
            }
            None => self.spans.insert(index, span),
        }
        if self.spans.get(index + 1).is_some_and(|next| joined(plan, &self.spans[index], next)) {
            let next = self.spans.remove(index + 1);
            self.issued.extend(self.spans[index].absorb(next));
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
            let gone = self.spans.drain(..).filter_map(|span| push(plan, &mut spans, span));
            self.issued.extend(gone);
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
            self.issued.extend(push(plan, &mut self.spans, Span::of(&point)));
        }
        let closed = (0..self.spans.len()).take_while(|index| match self.spans.get(index + 1) {
            Some(next) if next.first.at < floor => true,
            _ => self.spans[*index].last_at().saturating_add(plan.gap_us) < floor,
        });
        let closed = closed.count();
        if closed == 0 {
            return;
        }
        self.note(plan);
        for span in self.spans.drain(..closed) {
            self.closed += 1;
            self.closed_us = self.closed_us.saturating_add(span.row().duration_us());
            self.issued.retain(|issued| issued.moment.at > span.last_at());
        }
    }

    #[cfg(test)]
    pub fn spans(&self) -> usize {
        self.spans.len()
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
        if !plan.split_on_campaign {
            let begun = self.spans.partition_point(|span| span.first.at < event.at);
            let last = begun.checked_sub(1).map(|index| &self.spans[index]);
            if let Some(span) = last.filter(|span| span.last_at() >= event.at) {
                return Some(span.first.id);
            }
        }
        let moment = Moment::of(event);
        let upto = self.points.partition_point(|point| point.moment <= moment);
        let Some(mut first) = self.points[..upto].last().map(|point| &point.moment) else {
            let index = self.spans.partition_point(|span| span.first <= moment).checked_sub(1)?;
            return Some(&self.spans[index]).filter(|span| span.last_at() >= moment.at).map(|span| span.first.id);
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
        let before = self.spans.last().filter(|span| !plan.apart(span.last_at(), first.at));
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

    /// An id that was made of an event of now may stand in the table from before, where this state is made anew: what has
    /// become of it is to be said as well.
    pub fn recall(&mut self, event: &SessionEvent) {
        let moment = Moment::of(event);
        if !self.issued.iter().any(|issued| issued.moment.id == moment.id) {
            self.issued.push(Issued { moment, digest: 0 });
        }
    }

    fn touch(&mut self, from: TimeUs, to: TimeUs) {
        self.changed = Some(self.changed.map_or((from, to), |(a, b)| (a.min(from), b.max(to))));
    }

    /// The sessions that are open, by time; at least those that a change in `within` can concern.
    fn open(&self, plan: &SessionsPlan, within: Option<(TimeUs, TimeUs)>) -> Vec<Span> {
        let concerned = |span: &&Span| within.is_none_or(|(from, to)| span.first.at <= to && span.last_at() >= from);
        // With campaigns, a change reaches through the whole chain.
        if !plan.split_on_campaign {
            return self.spans.iter().filter(concerned).cloned().collect();
        }
        let mut open = self.spans.clone();
        self.points.iter().for_each(|point| drop(push(plan, &mut open, Span::of(point))));
        open
    }

    /// Makes the rows of what has changed, to be [taken](Sessions::take) with others later.
    pub fn note(&mut self, plan: &SessionsPlan) {
        let Some((from, to)) = self.changed.take() else { return };
        if plan.split_on_campaign {
            return self.note_chains(plan, from, to);
        }
        let Sessions { spans, issued, rows, .. } = self;
        for span in spans.iter_mut().filter(|span| span.changed) {
            span.changed = false;
            if !span.said {
                span.said = true;
                issued.retain(|issued| issued.moment.id != span.first.id);
            }
            rows.push(span.row());
            let inside = |issued: &&mut Issued| issued.moment >= span.first && issued.moment.at <= span.last_at();
            issued.iter_mut().filter(inside).for_each(|issued| say_gone(issued, span, rows));
        }
    }

    /// Where campaigns part sessions, a change may reach through a whole chain.
    fn note_chains(&mut self, plan: &SessionsPlan, from: TimeUs, to: TimeUs) {
        let open = self.open(plan, Some((from, to)));
        let Sessions { issued, rows, .. } = self;
        for chain in open.chunk_by(|a, b| a.chain_id() == b.chain_id()) {
            let last_at = chain.iter().map(Span::last_at).max().unwrap_or(TimeUs::MIN);
            if chain[0].first.at > to || last_at < from {
                continue;
            }
            for span in chain {
                let known = issued.iter().position(|issued| issued.moment.id == span.first.id);
                let known = known.unwrap_or_else(|| {
                    issued.push(Issued { moment: span.first.clone(), digest: 0 });
                    issued.len() - 1
                });
                say(&mut issued[known], span.row(), rows);
            }
            for issued in issued.iter_mut().filter(|i| i.moment >= chain[0].first && i.moment.at <= last_at) {
                let now = chain.partition_point(|span| span.first <= issued.moment) - 1;
                say_gone(issued, &chain[now], rows);
            }
        }
    }
}

/// Adds a row unless it was the last one written of its id.
fn say(issued: &mut Issued, row: SessionRow, rows: &mut Vec<SessionRow>) {
    let digest = xxh3_64(&codec::encode(0, &row));
    if digest != issued.digest {
        issued.digest = digest;
        rows.push(row);
    }
}

/// Of an id of before: its event is in this session now.
fn say_gone(issued: &mut Issued, now: &Span, rows: &mut Vec<SessionRow>) {
    let moment = &issued.moment;
    if now.first.id != moment.id {
        let row = SessionRow::gone(moment.id, moment.at, &moment.message_id, Some((now.first.id, now.chain_id())));
        say(issued, row, rows);
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

fn joined(plan: &SessionsPlan, earlier: &Span, later: &Span) -> bool {
    earlier.between(plan, later) == Between::Nothing
}

/// Adds a span that does not begin before the last one. Gives the id that is gone with it, if it was written.
fn push(plan: &SessionsPlan, spans: &mut Vec<Span>, mut span: Span) -> Option<Issued> {
    match spans.last_mut().map(|last| (last.between(plan, &span), last)) {
        Some((Between::Nothing, last)) => return last.absorb(span),
        Some((Between::Campaign, last)) => {
            span.set_chain(last.chain_id());
            spans.push(span);
        }
        _ => spans.push(span),
    }
    None
}

/// From the first to the last event.
fn extent(spans: &[Span], points: &[Point]) -> Option<(TimeUs, TimeUs)> {
    let first = spans.first().map(|span| span.first.at).or(points.first().map(|point| point.moment.at))?;
    let spans_end = spans.iter().map(Span::last_at).max();
    spans_end.max(points.last().map(|point| point.moment.at)).map(|last| (first, last))
}
