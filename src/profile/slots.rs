//! Slots: under which numbers the state keeps what belongs to a definition, so that definitions may come, go and change
//! place.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

/// Which slot belongs to which definition. A trait's slot is given to a (name, version): state of another meaning is
/// never read. A segment's is given to its name: who is in it stays in it until it has been judged anew.
/// A slot is never given twice. Those of a group are named after it: `account.active_users`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// The version of the sessions' plan: they begin anew with another one.
    pub sessions: u64,
    /// Of the last slot that was given.
    last: u32,
    traits: Vec<SlotOf>,
    segments: Vec<SlotOf>,
    /// Definitions of groups: the slot is the kind of their profiles. With another meaning there are other groups.
    groups: Vec<SlotOf>,
    /// The same by kind: people's first, then the groups' in their order, then of groups that are gone.
    #[serde(skip)]
    kinds: Vec<SlotsOfKind>,
}

/// A definition with its slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOf {
    pub name: String,
    pub version: u64,
    pub slot: u32,
}

/// The slots of one kind, by the index of their plans there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotsOfKind {
    pub traits: Vec<u32>,
    /// Behind those that are defined, those that are no more and still have members.
    pub segments: Vec<u32>,
    pub(super) trait_of_slot: HashMap<u32, u16>,
    pub(super) segment_of_slot: HashMap<u32, u16>,
}

/// What is defined for people (where `group` is None) or for a group: names with versions, in order.
#[derive(Debug, Clone)]
pub struct DefinedFor<'a> {
    pub group: Option<(&'a str, u64)>,
    pub traits: Vec<(&'a str, u64)>,
    pub segments: Vec<(&'a str, u64)>,
}

/// How definitions differ from those that the state knew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    pub traits: Vec<Differs>,
    pub segments: Vec<Differs>,
    pub groups: Vec<Differs>,
    pub removed_traits: Vec<SlotOf>,
    pub removed_segments: Vec<SlotOf>,
    /// Those that mean something else now among them.
    pub removed_groups: Vec<SlotOf>,
}

/// A definition that is new or means something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs {
    pub name: String,
    pub slot: u32,
    pub new: bool,
}

/// The name of a group's trait or segment beside those of people.
pub fn name_in(group: &str, name: &str) -> String {
    format!("{group}.{name}")
}

/// The group in such a name.
fn group_of(name: &str) -> Option<&str> {
    name.split_once('.').map(|(group, _)| group)
}

impl Slots {
    /// Finds or gives the slots of these definitions, in their order; people's come first.
    pub fn assign(&mut self, defined: &[DefinedFor<'_>]) -> Differences {
        let mut differences = Differences::default();
        let mut last = self.last;
        let mut give = || {
            last += 1;
            last
        };
        // Found by name and version.
        let mut find = |known: &mut Vec<SlotOf>, name: String, version: u64, differs: &mut Vec<Differs>| {
            let place = known.iter().position(|slot| slot.name == name && slot.version == version);
            place.map(|place| known.remove(place)).unwrap_or_else(|| {
                let new = !known.iter().any(|slot| slot.name == name);
                let slot = SlotOf { name: name.clone(), version, slot: give() };
                differs.push(Differs { name, slot: slot.slot, new });
                slot
            })
        };
        let named =
            |of: &DefinedFor<'_>, name: &str| of.group.map_or(name.to_string(), |(group, _)| name_in(group, name));

        let mut known = std::mem::take(&mut self.groups);
        for (name, version) in defined.iter().filter_map(|of| of.group) {
            self.groups.push(find(&mut known, name.to_string(), version, &mut differences.groups));
        }
        differences.removed_groups = known;

        let mut known = std::mem::take(&mut self.traits);
        for of in defined {
            for (name, version) in &of.traits {
                self.traits.push(find(&mut known, named(of, name), *version, &mut differences.traits));
            }
        }
        known.retain(|old| !self.traits.iter().any(|slot| slot.name == old.name));
        differences.removed_traits = known;

        let mut known = std::mem::take(&mut self.segments);
        for of in defined {
            for (name, version) in &of.segments {
                let name = named(of, name);
                let slot = match known.iter().position(|slot| slot.name == name).map(|place| known.remove(place)) {
                    Some(slot) => {
                        if slot.version != *version {
                            differences.segments.push(Differs { name, slot: slot.slot, new: false });
                        }
                        SlotOf { version: *version, ..slot }
                    }
                    None => find(&mut Vec::new(), name, *version, &mut differences.segments),
                };
                self.segments.push(slot);
            }
        }
        // Kept until all who are in them have left.
        self.segments.extend(known.iter().cloned());
        differences.removed_segments = known;
        self.last = last;
        self.index_kinds();
        differences
    }

    fn index_kinds(&mut self) {
        let of = |group: Option<&str>| {
            let of_group = |slots: &[SlotOf]| -> Vec<u32> {
                slots.iter().filter(|slot| group_of(&slot.name) == group).map(|slot| slot.slot).collect()
            };
            SlotsOfKind::of(of_group(&self.traits), of_group(&self.segments))
        };
        let groups = self.groups.iter().map(|group| of(Some(&group.name)));
        let gone = SlotsOfKind::of(Vec::new(), self.segments.iter().map(|slot| slot.slot).collect());
        self.kinds = [of(None)].into_iter().chain(groups).chain([gone]).collect();
    }

    /// Those of a kind of profiles. Of a group that is gone: no traits, and all segments there are.
    pub fn of_kind(&self, kind: u32) -> &SlotsOfKind {
        static NONE: std::sync::LazyLock<SlotsOfKind> = std::sync::LazyLock::new(SlotsOfKind::default);
        let place = match kind {
            0 => 0,
            kind => 1 + self.groups.iter().position(|group| group.slot == kind).unwrap_or(self.groups.len()),
        };
        self.kinds.get(place).unwrap_or(&NONE)
    }

    /// Forgets segments that nobody is in any more.
    pub fn forget_segments(&mut self, gone: &[SlotOf]) {
        self.segments.retain(|slot| !gone.contains(slot));
    }

    /// All traits, people's first.
    pub fn traits(&self) -> &[SlotOf] {
        &self.traits
    }

    /// All segments, people's first; behind those that are defined, those that are no more and still have members.
    pub fn segments(&self) -> &[SlotOf] {
        &self.segments
    }

    pub fn groups(&self) -> &[SlotOf] {
        &self.groups
    }

    /// A slot of its own again for each of these traits and groups (by their slots), since what the old ones hold is
    /// half-finished. Gives the new slots of either.
    pub fn renew(&mut self, old: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let mut last = self.last;
        let mut renewed = |slots: &mut [SlotOf]| -> Vec<u32> {
            let again = slots.iter_mut().filter(|slot| old.contains(&slot.slot));
            let new = again.map(|slot| {
                last += 1;
                slot.slot = last;
                last
            });
            new.collect()
        };
        let renewed = (renewed(&mut self.traits), renewed(&mut self.groups));
        self.last = last;
        self.index_kinds();
        renewed
    }
}

impl SlotsOfKind {
    fn of(traits: Vec<u32>, segments: Vec<u32>) -> SlotsOfKind {
        let by_slot = |slots: &[u32]| slots.iter().enumerate().map(|(index, slot)| (*slot, index as u16)).collect();
        let (trait_of_slot, segment_of_slot) = (by_slot(&traits), by_slot(&segments));
        SlotsOfKind { traits, segments, trait_of_slot, segment_of_slot }
    }
}
