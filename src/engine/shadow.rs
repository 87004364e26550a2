//! Profiles made again from their events, beside the live ones: what a rebuild switches to.
//!
//! The same stages run over history as over live input, on a scratch identity without limits: what was decided then
//! is read from the events, and only corrections decide anew. Nothing here touches the live state.

use arrow::datatypes::SchemaRef;
use hashbrown::HashMap;

use super::EngineError;
use super::history::Stored;
use crate::definition::Pipeline;
use crate::event::{ProfileId, ProfileNumber, TimeUs, column};
use crate::identity::{Component, Corrections, Decisions, Identities, NO_PROFILE, extract};
use crate::profile::{Input, Profile, Traits};
use crate::session::SessionId;
use crate::state::WriteBatch;

pub struct Shadow {
    identities: Identities,
    /// Events after it have not happened yet.
    now: TimeUs,
    /// Traits that do not know the past yet (by index), and the commit up to which a fill brings it to them.
    unfilled: Option<(Vec<bool>, u64)>,
    traits: Traits,
    profiles: HashMap<ProfileNumber, Profile>,
    /// Scratch numbers that were absorbed.
    absorbed: HashMap<ProfileNumber, ProfileNumber>,
    rows: Vec<ShadowRow>,
}

/// One event of the history.
pub struct ShadowRow {
    pub place: (u64, u32),
    pub message_id: Box<str>,
    pub at: TimeUs,
    /// The profile and the session that it belonged to so far, before merges are followed.
    pub was: (Option<ProfileId>, Option<SessionId>),
    /// The session that it would begin.
    pub own_session: SessionId,
    /// The session that it came into, before [`Follow`](crate::session::Follow).
    pub session: Option<SessionId>,
    /// Index into [`Rebuilt::groups`]; None: nobody's.
    pub group: Option<usize>,
    number: ProfileNumber,
}

/// A person as the history makes them.
pub struct Group {
    pub component: Component,
    pub profile: Profile,
}

/// What a history came to.
pub struct Rebuilt {
    /// The largest first, so that the order does not depend on how the history was cut.
    pub groups: Vec<Group>,
    pub rows: Vec<ShadowRow>,
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shadow of {} events", self.rows.len())
    }
}

impl Shadow {
    /// # Errors
    /// A trait that does not fit the events: a fault of ours.
    pub fn new(
        pipeline: &Pipeline,
        events: &SchemaRef,
        corrections: Corrections,
        now: TimeUs,
        unfilled: Option<(Vec<bool>, u64)>,
    ) -> Result<Shadow, EngineError> {
        let mut identities = Identities::new(pipeline.identity.clone(), 1, usize::MAX);
        identities.corrections = corrections;
        Ok(Shadow {
            identities,
            now,
            unfilled,
            traits: Traits::new(pipeline.traits.clone(), pipeline.sessions.clone(), events)?,
            profiles: HashMap::new(),
            absorbed: HashMap::new(),
            rows: Vec::new(),
        })
    }

    /// Events taken in so far.
    pub fn events(&self) -> usize {
        self.rows.len()
    }

    /// Whether this event is among them.
    pub fn holds(&self, source: &str, message_id: &str) -> bool {
        let id = SessionId::of(source, message_id);
        self.rows.iter().any(|row| row.own_session == id)
    }

    /// Takes in the next events, in the order in which they were applied.
    pub fn take(&mut self, stored: &Stored) -> Result<(), EngineError> {
        // What a fill is going to add is left to it.
        let past =
            self.unfilled.as_ref().map_or(0, |(_, upto)| stored.places.partition_point(|place| place.0 <= *upto));
        let (first, second) = (stored.slice(0, past), stored.slice(past, stored.len() - past));
        let filled: Option<Vec<bool>> = self.unfilled.as_ref().map(|(traits, _)| traits.iter().map(|t| !t).collect());
        if !first.is_empty() {
            self.take_part(&first, filled.as_deref())?;
        }
        if !second.is_empty() {
            self.take_part(&second, None)?;
        }
        Ok(())
    }

    fn take_part(&mut self, stored: &Stored, which: Option<&[bool]>) -> Result<(), EngineError> {
        let events = &stored.events;
        let extracted = extract(self.identities.plan(), events);
        let decisions = Decisions::Recorded(&stored.decisions);
        // What identity would write is thrown away: the groups are written when they go live.
        let mut writes = WriteBatch::default();
        let resolved = self.identities.resolve(events, &extracted, decisions, 0, &mut writes);
        for (loser, into) in &resolved.absorbed {
            self.absorbed.insert(*loser, *into);
            let Some(profile) = self.profiles.remove(loser) else { continue };
            match self.profiles.get_mut(into) {
                Some(mine) => self.traits.merge(mine, profile),
                None => {
                    self.profiles.insert(*into, profile);
                }
            }
        }
        // The touched profiles side by side, as the traits want them.
        let mut index: HashMap<ProfileNumber, u32> = HashMap::new();
        let mut touched: Vec<(ProfileNumber, Profile)> = Vec::new();
        let profile_of_row: Vec<Option<u32>> = resolved
            .numbers
            .iter()
            .map(|number| {
                (*number != NO_PROFILE).then(|| {
                    *index.entry(*number).or_insert_with(|| {
                        let new = || Profile::new(ProfileId::default());
                        touched.push((*number, self.profiles.remove(number).unwrap_or_else(new)));
                        touched.len() as u32 - 1
                    })
                })
            })
            .collect();
        let (numbers, mut profiles): (Vec<ProfileNumber>, Vec<Profile>) = touched.into_iter().unzip();
        let input = Input { events, profile_of_row: &profile_of_row, best: &resolved.best, now: self.now };
        self.traits.apply(&input, which, &mut profiles)?;
        let sessions = self.traits.count(&input, &mut profiles);
        self.traits.note_sessions(&input, &sessions, &stored.sessions, &mut profiles);
        self.profiles.extend(numbers.into_iter().zip(profiles));
        let (message_ids, sources) = (events.strings(column::MESSAGE_ID), events.strings(column::SOURCE));
        let timestamps = events.times(column::TIMESTAMP);
        self.rows.extend(resolved.numbers.iter().enumerate().map(|(row, number)| ShadowRow {
            place: stored.places[row],
            message_id: message_ids.value(row).into(),
            at: timestamps.value(row),
            was: (stored.profiles[row], stored.sessions[row]),
            own_session: SessionId::of(sources.value(row), message_ids.value(row)),
            session: sessions.ids[row],
            group: None,
            number: *number,
        }));
        Ok(())
    }

    /// The people that the history makes.
    pub fn finish(mut self) -> Rebuilt {
        let mut found: Vec<(ProfileNumber, Group)> = Vec::new();
        for (number, profile) in std::mem::take(&mut self.profiles) {
            let Some(mut component) = self.identities.components.remove(&number) else { continue };
            // Ids that it had on the way here were never shown to anyone.
            component.take_former_ids();
            found.push((number, Group { component: *component, profile }));
        }
        found.sort_by_key(|(_, Group { component, .. })| {
            (std::cmp::Reverse(component.identifiers().len()), component.id)
        });
        let place: HashMap<ProfileNumber, usize> =
            found.iter().enumerate().map(|(index, (number, _))| (*number, index)).collect();
        for row in &mut self.rows {
            let mut number = row.number;
            while let Some(into) = self.absorbed.get(&number) {
                number = *into;
            }
            row.group = place.get(&number).copied();
        }
        Rebuilt { groups: found.into_iter().map(|(_, group)| group).collect(), rows: self.rows }
    }
}
