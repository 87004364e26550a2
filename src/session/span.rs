//! Events as sessions keep them: one by one, or summed up.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{Campaign, SessionEvent, SessionId, SessionRow, SessionsPlan};
use crate::event::TimeUs;

/// An event's place among the events of a profile: by time, then message id. Two sources may have one message id at
/// one time, so the hash of both comes last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    pub at: TimeUs,
    pub message_id: Box<str>,
    pub id: SessionId,
}

/// An id that was written and is that of no session any more: its events are in another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    /// The event that the id was made of.
    pub moment: Moment,
    /// A hash of the row that was written last.
    pub digest: u64,
}

impl Moment {
    /// How an event stands to this one.
    fn of_event(&self, event: &SessionEvent) -> Ordering {
        let order = (event.at, event.message_id).cmp(&(self.at, &*self.message_id));
        order.then_with(|| SessionId::of(event.source, event.message_id).cmp(&self.id))
    }

    pub fn of(event: &SessionEvent) -> Moment {
        Moment { at: event.at, message_id: event.message_id.into(), id: SessionId::of(event.source, event.message_id) }
    }
}

/// One event: kept by itself only where a late campaign may yet cut before or after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub moment: Moment,
    pub page: bool,
    pub path: Option<Box<str>>,
    pub campaign: Option<Box<Campaign>>,
}

impl Point {
    pub fn of(event: &SessionEvent) -> Point {
        Point {
            moment: Moment::of(event),
            page: event.page,
            path: event.path.map(Box::from),
            campaign: Campaign::of(event).map(Box::new),
        }
    }

    pub fn weigh(&self) -> usize {
        let campaign = self.campaign.as_ref().map_or(0, |campaign| size_of::<Campaign>() + texts(campaign));
        self.moment.message_id.len() + self.path.as_ref().map_or(0, |path| path.len()) + campaign
    }
}

impl Campaign {
    fn of(event: &SessionEvent) -> Option<Campaign> {
        let [source, medium, name] = event.campaign.map(|text| text.map(Box::from));
        event.names_campaign().then_some(Campaign { source, medium, name })
    }
}

fn texts(campaign: &Campaign) -> usize {
    [&campaign.source, &campaign.medium, &campaign.name].into_iter().flatten().map(|text| text.len()).sum()
}

/// A value with the event it comes from.
type Dated<T> = Option<(Moment, T)>;

/// What only some sessions have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct More {
    first_page: Dated<String>,
    last_page: Dated<String>,
    /// The first one named. Where campaigns split, it is the only one.
    campaign: Dated<Campaign>,
    /// The chain, unless it begins here.
    chain: Option<SessionId>,
}

/// The sum of some events: of a session, or of a part of one. Many are kept: what is seldom there is in a box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub first: Moment,
    /// From the first event to the last.
    length_us: TimeUs,
    pub events: u32,
    pub pages: u32,
    more: Option<Box<More>>,
    /// Whether a row was written of it, under the id of now.
    pub said: bool,
    /// Whether it has changed since.
    #[serde(skip)]
    pub changed: bool,
}

/// How two neighbours stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// They are one session.
    Nothing,
    Campaign,
    /// A pause or midnight.
    Pause,
}

impl Span {
    pub fn of(point: &Point) -> Span {
        let page = point.path.as_ref().map(|path| (point.moment.clone(), path.to_string()));
        let campaign = point.campaign.as_deref().map(|campaign| (point.moment.clone(), campaign.clone()));
        let has_more = page.is_some() || campaign.is_some();
        let more = || Box::new(More { first_page: page.clone(), last_page: page.clone(), campaign, chain: None });
        Span {
            first: point.moment.clone(),
            length_us: 0,
            events: 1,
            pages: u32::from(point.page),
            more: has_more.then(more),
            said: false,
            changed: true,
        }
    }

    pub fn last_at(&self) -> TimeUs {
        self.first.at.saturating_add(self.length_us)
    }

    fn reach(&mut self, last_at: TimeUs) {
        self.length_us = self.length_us.max(last_at.saturating_sub(self.first.at));
    }

    /// Whether an event lies in this span or follows it without a pause. The first event of all and those at one time with
    /// it are not looked at.
    pub fn takes(&self, plan: &SessionsPlan, event: &SessionEvent) -> bool {
        event.at > self.first.at && (event.at <= self.last_at() || !plan.apart(self.last_at(), event.at))
    }

    /// Adds an event that the span [`takes`](Span::takes), mostly without new space.
    pub fn add(&mut self, event: &SessionEvent) {
        self.reach(event.at);
        self.changed = true;
        self.events = self.events.saturating_add(1);
        self.pages = self.pages.saturating_add(u32::from(event.page));
        if let Some(path) = event.path {
            let more = self.more.get_or_insert_default();
            put(&mut more.first_page, event, path, Ordering::Less);
            put(&mut more.last_page, event, path, Ordering::Greater);
        }
        if event.names_campaign() {
            let more = self.more.get_or_insert_default();
            if more.campaign.as_ref().is_none_or(|known| known.0.of_event(event) == Ordering::Less) {
                more.campaign = Campaign::of(event).map(|campaign| (Moment::of(event), campaign));
            }
        }
    }

    pub fn chain_id(&self) -> SessionId {
        self.more.as_ref().and_then(|more| more.chain).unwrap_or(self.first.id)
    }

    /// It follows in this chain.
    pub fn set_chain(&mut self, chain: SessionId) {
        self.more.get_or_insert_default().chain = Some(chain);
    }

    pub fn campaign(&self) -> Option<&Campaign> {
        self.more.as_ref()?.campaign.as_ref().map(|campaign| &campaign.1)
    }

    /// `later` does not begin before this one.
    pub fn between(&self, plan: &SessionsPlan, later: &Span) -> Between {
        if later.first.at > self.last_at() && plan.apart(self.last_at(), later.first.at) {
            return Between::Pause;
        }
        match (self.campaign(), later.campaign()) {
            // Sums that lie within each other cannot be cut; only profiles that were both settled long ago have such.
            (Some(mine), Some(theirs))
                if plan.split_on_campaign && mine != theirs && later.first.at >= self.last_at() =>
            {
                Between::Campaign
            }
            _ => Between::Nothing,
        }
    }

    /// Takes in events before, between or after its own. Gives the id that is gone with it, if it was written.
    pub fn absorb(&mut self, mut other: Span) -> Option<Issued> {
        let last_at = self.last_at().max(other.last_at());
        if other.first < self.first {
            std::mem::swap(&mut self.first, &mut other.first);
            std::mem::swap(&mut self.said, &mut other.said);
            let chain = other.more.as_ref().and_then(|more| more.chain);
            if chain.is_some() || self.more.is_some() {
                self.more.get_or_insert_default().chain = chain;
            }
        }
        self.length_us = 0;
        self.reach(last_at);
        self.changed = true;
        self.events = self.events.saturating_add(other.events);
        self.pages = self.pages.saturating_add(other.pages);
        if let Some(theirs) = other.more {
            let mine = self.more.get_or_insert_default();
            choose(&mut mine.first_page, theirs.first_page, |a, b| a < b);
            choose(&mut mine.last_page, theirs.last_page, |a, b| a > b);
            choose(&mut mine.campaign, theirs.campaign, |a, b| a < b);
        }
        other.said.then_some(Issued { moment: other.first, digest: 0 })
    }

    pub fn row(&self) -> SessionRow {
        let more = self.more.as_deref();
        let path = |page: Option<&Dated<String>>| Some(page?.as_ref()?.1.as_str().into());
        SessionRow {
            id: self.first.id,
            started_at: self.first.at,
            ended_at: self.last_at(),
            first_message_id: self.first.message_id.clone(),
            events: self.events,
            pages: self.pages,
            first_page: path(more.map(|more| &more.first_page)),
            last_page: path(more.map(|more| &more.last_page)),
            campaign: self.campaign().cloned(),
            merged_into: None,
            chain_id: self.chain_id(),
        }
    }

    pub fn weigh(&self) -> usize {
        let page = |page: &Dated<String>| page.as_ref().map_or(0, |page| page.0.message_id.len() + page.1.len());
        let more = self.more.as_ref().map_or(0, |more| {
            let campaign = more.campaign.as_ref();
            let campaign = campaign.map_or(0, |campaign| campaign.0.message_id.len() + texts(&campaign.1));
            size_of::<More>() + page(&more.first_page) + page(&more.last_page) + campaign
        });
        self.first.message_id.len() + more
    }
}

/// Keeps the event's path if the event stands so to that of the one there is.
fn put(page: &mut Dated<String>, event: &SessionEvent, path: &str, wanted: Ordering) {
    if page.as_ref().is_none_or(|known| known.0.of_event(event) == wanted) {
        *page = Some((Moment::of(event), path.to_string()));
    }
}

/// Of two values that whose event comes first in the order `before`.
fn choose<T>(mine: &mut Dated<T>, theirs: Dated<T>, before: impl Fn(&Moment, &Moment) -> bool) {
    let better = match (&*mine, &theirs) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(mine), Some(theirs)) => before(&theirs.0, &mine.0),
    };
    if better {
        *mine = theirs;
    }
}
