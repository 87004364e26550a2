//! Events as sessions keep them: one by one, or summed up.

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

impl Moment {
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
        let [source, medium, name] = event.campaign.map(|text| text.map(Box::from));
        let named = source.is_some() || medium.is_some() || name.is_some();
        Point {
            moment: Moment::of(event),
            page: event.page,
            path: event.path.map(Box::from),
            campaign: named.then(|| Box::new(Campaign { source, medium, name })),
        }
    }

    pub fn weigh(&self) -> usize {
        let campaign = self.campaign.as_ref().map_or(0, |campaign| size_of::<Campaign>() + texts(campaign));
        self.moment.message_id.len() + self.path.as_ref().map_or(0, |path| path.len()) + campaign
    }
}

fn texts(campaign: &Campaign) -> usize {
    [&campaign.source, &campaign.medium, &campaign.name].into_iter().flatten().map(|text| text.len()).sum()
}

/// A value with the event it comes from.
type Dated<T> = Option<Box<(Moment, T)>>;

/// The sum of some events: of a session, or of a part of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub first: Moment,
    pub last_at: TimeUs,
    pub events: u32,
    pub pages: u32,
    first_page: Dated<Box<str>>,
    last_page: Dated<Box<str>>,
    /// The first one named. Where campaigns split, it is the only one.
    campaign: Dated<Campaign>,
    /// The chain, unless it begins here.
    pub chain: Option<SessionId>,
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
        let page = point.path.as_ref().map(|path| Box::new((point.moment.clone(), path.clone())));
        let campaign = point.campaign.as_deref();
        Span {
            first: point.moment.clone(),
            last_at: point.moment.at,
            events: 1,
            pages: u32::from(point.page),
            first_page: page.clone(),
            last_page: page,
            campaign: campaign.map(|campaign| Box::new((point.moment.clone(), campaign.clone()))),
            chain: None,
        }
    }

    pub fn chain_id(&self) -> SessionId {
        self.chain.unwrap_or(self.first.id)
    }

    pub fn campaign(&self) -> Option<&Campaign> {
        self.campaign.as_ref().map(|campaign| &campaign.1)
    }

    /// `later` does not begin before this one.
    pub fn between(&self, plan: &SessionsPlan, later: &Span) -> Between {
        if later.first.at > self.last_at && plan.apart(self.last_at, later.first.at) {
            return Between::Pause;
        }
        match (self.campaign(), later.campaign()) {
            // Sums that lie within each other cannot be cut; only profiles that were both settled long ago have such.
            (Some(mine), Some(theirs))
                if plan.split_on_campaign && mine != theirs && later.first.at >= self.last_at =>
            {
                Between::Campaign
            }
            _ => Between::Nothing,
        }
    }

    /// Takes in events before, between or after its own.
    pub fn absorb(&mut self, other: Span) {
        if other.first < self.first {
            (self.first, self.chain) = (other.first, other.chain);
        }
        self.last_at = self.last_at.max(other.last_at);
        self.events = self.events.saturating_add(other.events);
        self.pages = self.pages.saturating_add(other.pages);
        choose(&mut self.first_page, other.first_page, |a, b| a < b);
        choose(&mut self.last_page, other.last_page, |a, b| a > b);
        choose(&mut self.campaign, other.campaign, |a, b| a < b);
    }

    pub fn row(&self) -> SessionRow {
        let path = |page: &Dated<Box<str>>| page.as_ref().map(|page| page.1.clone());
        SessionRow {
            id: self.first.id,
            started_at: self.first.at,
            ended_at: self.last_at,
            first_message_id: self.first.message_id.clone(),
            events: self.events,
            pages: self.pages,
            first_page: path(&self.first_page),
            last_page: path(&self.last_page),
            campaign: self.campaign.as_ref().map(|campaign| campaign.1.clone()),
            merged_into: None,
            chain_id: self.chain_id(),
        }
    }

    pub fn weigh(&self) -> usize {
        let page = |page: &Dated<Box<str>>| {
            page.as_ref().map_or(0, |page| size_of::<(Moment, Box<str>)>() + page.0.message_id.len() + page.1.len())
        };
        let campaign = self
            .campaign
            .as_ref()
            .map_or(0, |campaign| size_of::<(Moment, Campaign)>() + campaign.0.message_id.len() + texts(&campaign.1));
        self.first.message_id.len() + page(&self.first_page) + page(&self.last_page) + campaign
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
