//! What is told of definitions: a row of `definitions` when one comes, goes, changes, or has come to know the past.

use serde::{Deserialize, Serialize};

use super::*;
use crate::engine::rows;

/// A definition as the tables know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub is_segment: bool,
    pub name: String,
    pub version: u64,
    pub ready: bool,
    pub removed: bool,
}

impl Told {
    pub const VERSION: u8 = 1;
    pub const KEY: &str = "told";
}

impl Core {
    /// Adds rows for what differs from what was told; only asked again when something may have changed.
    pub(super) fn tell_definitions(&mut self, staged: &mut Staged) -> Result<(), EngineError> {
        if !std::mem::take(&mut self.must_tell) {
            return Ok(());
        }
        // Someone is a member, or the past is still to be judged: not ready in either case.
        let pending =
            |slot: u32| self.fill.as_ref().is_some_and(|f| f.traits.contains(&slot) || f.segments.contains(&slot));
        let all = |is_segment: bool, slots: &[crate::profile::SlotOf], defined: usize| {
            let told =
                slots.iter().take(defined).map(move |slot| (slot.name.clone(), slot.version, !pending(slot.slot)));
            told.map(move |(name, version, ready)| Told { is_segment, name, version, ready, removed: false })
                .collect::<Vec<_>>()
        };
        let mut now = all(false, self.slots.traits(), usize::MAX);
        let of_groups = self.groups.iter().flat_map(|group| &group.segments.plans);
        let plans = self.segments.plans.iter().chain(of_groups);
        let defined = plans.filter(|plan| !matches!(plan.rule, SegmentRule::Nobody)).count();
        now.extend(all(true, self.slots.segments(), defined));
        let is = |a: &Told, b: &Told| a.is_segment == b.is_segment && a.name == b.name;
        let gone = self.told.iter().filter(|told| !told.removed && !now.iter().any(|other| is(told, other)));
        let gone: Vec<Told> = gone.map(|told| Told { removed: true, ready: false, ..told.clone() }).collect();
        now.extend(gone);
        let changed: Vec<&Told> = now.iter().filter(|told| !self.told.contains(told)).collect();
        for told in &now {
            let kind = if told.is_segment { "segment" } else { "trait" };
            let ready = if told.ready { 1.0 } else { 0.0 };
            metrics::gauge!("tributary_definition_ready", "kind" => kind, "name" => told.name.clone()).set(ready);
        }
        if !changed.is_empty() {
            let table = &self.tables.definitions;
            let rows = rows::definitions(table, &changed, self.record.now, staged.commit)?;
            staged.rows.push((table.clone(), rows));
            let key = keys::name(Tag::Engine, Told::KEY);
            staged.writes.put(key, codec::encode(Told::VERSION, &now));
        }
        self.told = now;
        Ok(())
    }
}
