//! Audiences: what becomes of them with each round of judging, and with whoever is taken apart.

use super::judge::Round;
use super::*;
use crate::activation::{Moment, Standing};
use crate::journey::Journeys;

impl Core {
    /// Tells audiences who of a round belongs to them by now, and by which identifiers.
    pub(super) async fn keep_audiences(
        &mut self,
        round: &Round<'_>,
        traits: &RecordBatch,
        profiles: &mut [Profile],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        if self.audiences.is_empty() {
            return Ok(());
        }
        // Everyone else may have another identifier, or none, or another definition.
        let is_time = round.cause == Cause::Time;
        let concerned: Vec<usize> = (0..profiles.len())
            .filter(|row| {
                let profile = &profiles[*row];
                let standing = StandingOf { core: self, profile, traits, row: *row };
                self.audiences.concern(profile.journeys.as_deref(), &standing, round.now[*row], is_time)
            })
            .collect();
        let mut missing: Vec<ProfileNumber> = concerned.iter().map(|row| round.numbers[*row]).collect();
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|number| self.identities.components.get(number).is_none());
        self.load_components(missing).await?;
        let mut rendered = Vec::new();
        for row in concerned {
            let mut journeys = profiles[row].journeys.take().unwrap_or_default();
            let profile = &profiles[row];
            let standing = StandingOf { core: self, profile, traits, row };
            let component = self.identities.components.get(&round.numbers[row]).map(Box::as_ref);
            let identifiers = component.iter().flat_map(|component| component.identifiers());
            let identifiers: Vec<(u16, &str)> = identifiers.map(|known| (known.kind, &*known.value)).collect();
            let (id, counted) = (profile.id, self.reborn.counted(profile.id));
            let at = Moment { id, counted, now: round.now[row], present: self.record.now };
            rendered.extend(self.audiences.settle(&mut journeys, at, &identifiers, &standing));
            profiles[row].journeys = Some(journeys).filter(|journeys| !journeys.is_empty());
        }
        self.queue(rendered, staged)
    }

    /// Where an `add` that overtakes a `remove` would leave someone who has left.
    pub fn ordered_destinations(&self) -> Vec<&str> {
        self.audiences.destinations().collect()
    }

    /// Whoever is no more is removed from every audience.
    pub(super) fn leave_audiences(&mut self, live: &Profile, staged: &mut Staged) -> Result<(), EngineError> {
        let Some(journeys) = &live.journeys else { return Ok(()) };
        let mut journeys = Journeys { listed: journeys.listed.clone(), ..Journeys::default() };
        let (now, present) = (self.record.now, self.record.now);
        let at = Moment { id: live.id, counted: 0, now, present };
        let rendered = self.audiences.settle(&mut journeys, at, &[], &Nobody);
        self.queue(rendered, staged)
    }
}

struct StandingOf<'a> {
    core: &'a Core,
    profile: &'a Profile,
    traits: &'a RecordBatch,
    row: usize,
}

impl Standing for StandingOf<'_> {
    fn is_member(&self, segment: u16) -> bool {
        self.profile.membership(segment).member
    }

    fn said(&self, column: &str) -> Option<Option<bool>> {
        let Traits { plans, ready, .. } = &self.core.traits;
        let index = plans.iter().position(|plan| plan.name == column)?;
        let column = self.traits.column_by_name(column)?;
        ready[index].then(|| output::json_value(column, self.row).as_bool())
    }
}

struct Nobody;

impl Standing for Nobody {
    fn is_member(&self, _: u16) -> bool {
        false
    }

    fn said(&self, _: &str) -> Option<Option<bool>> {
        Some(None)
    }
}
