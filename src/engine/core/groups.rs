//! Groups: accounts and the like, kept beside people by the same means.
//!
//! A group is a profile of another kind: it has a number among those of people, a record, a timer and its turn in every
//! sweep. What differs by kind are the plans that apply to it ([`GroupKind`]), what its profile is found by (the text that
//! `id` gives for an event) and the tables that it is told in. Identity does not touch it.
//!
//! Groups count people by their ids, which change when people merge. So a person remembers the groups that may have
//! counted it, and a merge renames it there, in the same commit.

use arrow::array::{Array, AsArray, new_null_array};
use arrow::datatypes::DataType;

use super::*;
use crate::definition::GroupPlan;
use crate::profile::{GroupId, GroupOf, Renamed, TraitPlan, add_people, name_in, with_people};
use crate::segment::SegmentPlan;

/// The groups of one definition.
pub(super) struct GroupKind {
    /// The slot of the definition: what profiles of these groups bear.
    pub kind: u32,
    pub name: String,
    pub traits: Traits,
    pub segments: Segments,
    pub table: Table,
    id: GroupId,
    /// By index of the trait: whether it knows people by their ids.
    knows_people: Vec<bool>,
}

/// Profiles of one kind among others.
pub(super) struct Kindred {
    pub kind: u32,
    pub numbers: Vec<ProfileNumber>,
    pub profiles: Vec<Profile>,
}

/// Groups that are at hand, out of the cache.
#[derive(Default)]
struct Found {
    numbers: Vec<ProfileNumber>,
    profiles: Vec<Profile>,
    /// By row of the events.
    of_row: Vec<Option<u32>>,
    /// Those that have no state yet.
    new: Vec<u32>,
}

impl Kindred {
    /// People first, in the order in which they come.
    pub fn of(numbers: Vec<ProfileNumber>, profiles: Vec<Profile>) -> Vec<Kindred> {
        let mut all: BTreeMap<u32, Kindred> = BTreeMap::new();
        for (number, profile) in numbers.into_iter().zip(profiles) {
            let kind = profile.kind();
            let one = || Kindred { kind, numbers: Vec::new(), profiles: Vec::new() };
            let kindred = all.entry(kind).or_insert_with(one);
            kindred.numbers.push(number);
            kindred.profiles.push(profile);
        }
        all.into_values().collect()
    }
}

impl GroupKind {
    /// All groups of a pipeline. `events` is the schema of the prepared batches.
    pub fn load(pipeline: &Pipeline, slots: &Slots, events: &SchemaRef) -> Result<Vec<GroupKind>, EngineError> {
        let events = with_people(events);
        let kinds = pipeline.groups.iter().zip(slots.groups());
        kinds.map(|(plan, slot)| GroupKind::new(plan, slot.slot, pipeline, slots, &events)).collect()
    }

    fn new(
        plan: &GroupPlan,
        kind: u32,
        pipeline: &Pipeline,
        slots: &Slots,
        events: &SchemaRef,
    ) -> Result<GroupKind, EngineError> {
        let traits = Traits::new(plan.traits.clone(), pipeline.sessions.clone(), events)?;
        let gone = slots.of_kind(kind).segments.iter().skip(plan.segments.len());
        let gone = gone.filter_map(|slot| slots.segments().iter().find(|known| known.slot == *slot));
        let gone = gone.map(|slot| SegmentPlan {
            name: slot.name.split_once('.').map_or("", |(_, name)| name).to_string(),
            version: slot.version,
            rule: SegmentRule::Nobody,
        });
        let segments = Segments::new(plan.segments.iter().cloned().chain(gone).collect(), &traits)?;
        let id = GroupId::new(&plan.name, &plan.id, events)?;
        let knows_people = traits.knows_people();
        Ok(GroupKind { kind, name: plan.name.clone(), traits, segments, table: table(plan), id, knows_people })
    }
}

/// The table that groups are told in.
pub(super) fn table(plan: &GroupPlan) -> Table {
    let columns = plan.traits.iter().flat_map(|plan| &plan.columns);
    let columns: Vec<_> = columns.map(|column| (column.name.clone(), column.value_type)).collect();
    tables::groups(&plan.name, &columns)
}

/// What a group is found by, and what stands for it where people have their ids.
fn hash(kind: u32, id: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128_with_seed(id.as_bytes(), u64::from(kind))
}

/// Under `Tag::Engine`, once a correction of identity took apart who was counted as one: what counts people is filled anew at
/// the next start.
pub(super) const RECOUNT: &str = "recount groups";

/// The slots of the traits that know people by their ids.
pub(super) fn traits_of_people(pipeline: &Pipeline, slots: &Slots) -> Vec<u32> {
    let groups = pipeline.groups.iter().zip(slots.groups());
    let traits = groups.flat_map(|(plan, group)| plan.traits.iter().zip(&slots.of_kind(group.slot).traits));
    let knows = |plan: &TraitPlan| plan.event_rule().is_some_and(|rule| rule.takes_people() || rule.keyed_by_people());
    traits.filter(|(plan, _)| knows(plan)).map(|(_, slot)| *slot).collect()
}

impl Core {
    pub(super) fn traits_of(&self, kind: u32) -> &Traits {
        self.groups.iter().find(|group| group.kind == kind).map_or(&self.traits, |group| &group.traits)
    }

    /// Whether it is people, or groups as they are defined now.
    pub(super) fn knows_kind(&self, kind: u32) -> bool {
        kind == 0 || self.groups.iter().any(|group| group.kind == kind)
    }

    /// Takes a batch's events to their groups, and those who merged in it to their new ids. `people` are as they are after the
    /// merges; `moved` says who was called otherwise before.
    pub(super) async fn take_groups(
        &mut self,
        input: &Input<'_>,
        people: &mut [Profile],
        moved: &[Moved],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        if self.groups.is_empty() {
            return Ok(());
        }
        let events = self.events_of_people(input, people)?;
        let mut renamed = Renamed::new();
        let mut touched: Vec<ProfileNumber> = Vec::new();
        for Moved { into, id, .. } in moved {
            let person = &people[*into as usize];
            renamed.insert(id.to_string().into(), person.id.to_string().into());
            touched.extend(&person.counted_in);
        }
        touched.sort_unstable();
        touched.dedup();
        let known = self.take_stored(&mut touched).await?;
        // Those of other definitions are left aside until they are let go of.
        let mut known: HashMap<u32, Kindred> =
            Kindred::of(touched, known).into_iter().map(|kindred| (kindred.kind, kindred)).collect();
        for place in 0..self.groups.len() {
            let known = known.remove(&self.groups[place].kind);
            let mut found = self.find_groups(place, &events, known, staged).await?;
            let now = self.record.now;
            let stored: Vec<TimeUs> = found.profiles.iter().map(|profile| profile.timer).collect();
            let mut findings = Findings::default();
            self.sweep_ahead(&mut found.profiles, &found.numbers, &found.numbers, &mut findings, staged).await?;
            self.fire_due(&mut found.profiles, &found.numbers, &mut findings, staged).await?;

            let group = &self.groups[place];
            if !renamed.is_empty() {
                found.profiles.iter_mut().for_each(|profile| group.traits.rename_people(profile, &renamed));
            }
            let of_groups = Input { events: &events, profile_of_row: &found.of_row, best: input.best, now };
            let mut traits = group.traits.apply(&of_groups, None, &mut found.profiles)?;
            group.traits.count_events(&of_groups, &mut found.profiles);
            if !renamed.is_empty() {
                traits.iter_mut().zip(&group.knows_people).for_each(|(touched, knows)| *touched |= *knows);
            }
            if group.knows_people.contains(&true) {
                note_groups(&found, input.profile_of_row, people);
            }
            let is_filled = |fill: &FillRecord| fill.judged_upto().is_none() && fill.groups.contains(&group.kind);
            let shows = !self.fill.as_ref().is_some_and(is_filled);
            let round = Round {
                numbers: &found.numbers,
                now: &vec![now; found.profiles.len()],
                touch: &Touch { traits, built_in: true, time: false },
                new: &found.new,
                whole: &[],
                shown: &HashMap::new(),
                moved: &[],
                cause: Cause::Event,
                events: None,
                activate: false,
            };
            if !found.profiles.is_empty() {
                self.judge(&mut found.profiles, round, &mut findings, staged).await?;
            }
            // What is only half known is told once all of it is.
            let shown: &[Profile] = if shows { &found.profiles } else { &[] };
            self.add_found(&found.profiles, shown, &findings, staged)?;
            self.put_profiles(&found.numbers, found.profiles, &stored, staged);
        }
        Ok(())
    }

    /// Takes events of the past to the groups that are filled. `people` are the events' own.
    pub(super) async fn fill_groups(
        &mut self,
        fill: &FillRecord,
        input: &Input<'_>,
        people: &mut [Profile],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let mut events: Option<EventBatch> = None;
        for place in 0..self.groups.len() {
            let kind = self.groups[place].kind;
            let slots = self.slots.of_kind(kind).traits.iter();
            let which: Vec<bool> = slots.map(|slot| fill.traits.contains(slot)).collect();
            let all = fill.groups.contains(&kind);
            if !all && !which.contains(&true) {
                continue;
            }
            let events = match &mut events {
                Some(events) => events,
                None => events.insert(self.events_of_people(input, people)?),
            };
            let mut found = self.find_groups(place, events, None, staged).await?;
            let stored: Vec<TimeUs> = found.profiles.iter().map(|profile| profile.timer).collect();
            let group = &self.groups[place];
            let of_groups = Input { events, profile_of_row: &found.of_row, ..*input };
            group.traits.apply(&of_groups, Some(&which), &mut found.profiles)?;
            if all {
                group.traits.count_events(&of_groups, &mut found.profiles);
            }
            if group.knows_people.contains(&true) {
                note_groups(&found, input.profile_of_row, people);
            }
            self.put_profiles(&found.numbers, found.profiles, &stored, staged);
        }
        Ok(())
    }

    /// Events with the ids of those whose they are, as texts; null where no trait reads them.
    fn events_of_people(&self, input: &Input<'_>, people: &[Profile]) -> Result<EventBatch, EngineError> {
        let ids = input.profile_of_row.iter().map(|row| row.map(|row| people[row as usize].id));
        let ids = match self.groups.iter().any(|group| group.knows_people.contains(&true)) {
            true => rows::ids(ids),
            false => new_null_array(&DataType::Utf8, input.events.len()),
        };
        Ok(add_people(input.events, ids)?)
    }

    /// The groups of these events, those that are new among them, and the ones that are at hand already.
    async fn find_groups(
        &mut self,
        place: usize,
        events: &EventBatch,
        known: Option<Kindred>,
        staged: &mut Staged,
    ) -> Result<Found, EngineError> {
        let kind = self.groups[place].kind;
        let ids = self.groups[place].id.of(events)?;
        let ids = ids.as_string::<i32>();
        let mut found = Found::default();
        let mut index: HashMap<u128, u32> = HashMap::new();
        for (number, profile) in known.into_iter().flat_map(|known| known.numbers.into_iter().zip(known.profiles)) {
            index.insert(u128::from_be_bytes(profile.id.0), found.numbers.len() as u32);
            found.numbers.push(number);
            found.profiles.push(profile);
        }
        // Hash and id of those that are not at hand, each once.
        let mut others: Vec<(u128, &str)> = Vec::new();
        for row in 0..events.len() {
            let id = ids.is_valid(row).then(|| ids.value(row)).filter(|id| !id.is_empty());
            found.of_row.push(id.map(|id| {
                let hash = hash(kind, id);
                *index.entry(hash).or_insert_with(|| {
                    others.push((hash, id));
                    (found.numbers.len() + others.len()) as u32 - 1
                })
            }));
        }
        let mut numbers = self.numbers_of_groups(kind, &others).await?;
        let mut stored: Vec<ProfileNumber> = numbers.iter().flatten().copied().collect();
        let wanted = stored.len();
        let profiles = self.take_stored(&mut stored).await?;
        if stored.len() != wanted {
            return Err(StoreError::Damaged("the id of a group leads to nothing".to_string()).into());
        }
        let mut profiles = profiles.into_iter();
        for ((hash, id), number) in others.into_iter().zip(numbers.iter_mut()) {
            let profile = number.and_then(|_| profiles.next());
            let number = match *number {
                Some(number) => number,
                None => {
                    let number = self.identities.next_number;
                    self.identities.next_number += 1;
                    staged.writes.put(keys::group(kind, hash), codec::encode(1, &number));
                    self.group_numbers.insert_dirty(hash, number, staged.commit);
                    found.new.push(found.numbers.len() as u32);
                    number
                }
            };
            found.numbers.push(number);
            found.profiles.push(profile.unwrap_or_else(|| {
                let group = Some(Box::new(GroupOf { kind, id: id.into() }));
                Profile { group, ..Profile::new(ProfileId(hash.to_be_bytes())) }
            }));
        }
        Ok(found)
    }

    async fn numbers_of_groups(
        &mut self,
        kind: u32,
        wanted: &[(u128, &str)],
    ) -> Result<Vec<Option<ProfileNumber>>, EngineError> {
        let missing: Vec<u128> =
            wanted.iter().map(|(hash, _)| *hash).filter(|hash| self.group_numbers.get(hash).is_none()).collect();
        let store = &*self.store;
        let found: Vec<(u128, Option<Bytes>)> = futures::stream::iter(missing)
            .map(|hash| async move { Ok::<_, StoreError>((hash, store.get(&keys::group(kind, hash)).await?)) })
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await?;
        for (hash, value) in found {
            if let Some(value) = value {
                self.group_numbers.insert_clean(hash, codec::decode(1, "group", &value)?);
            }
        }
        let numbers = wanted.iter().map(|(hash, _)| self.group_numbers.get(hash).copied()).collect();
        self.group_numbers.shrink();
        Ok(numbers)
    }

    /// Rows of what was found in profiles of one kind, `all`, and of those that are to be shown.
    pub(super) fn add_found(
        &mut self,
        all: &[Profile],
        shown: &[Profile],
        findings: &Findings,
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let kind = all.first().map_or(0, Profile::kind);
        let Some(place) = self.groups.iter().position(|group| group.kind == kind) else {
            self.add_profile_rows(shown, staged)?;
            self.add_findings(findings, staged)?;
            self.count_transitions(&findings.transitions);
            return Ok(());
        };
        let group = &self.groups[place];
        let as_of: Vec<TimeUs> = shown.iter().map(|profile| profile.as_of).collect();
        let traits = group.traits.columns(shown, &as_of)?;
        output::add(&group.table, rows::groups(&group.table, shown, &traits, &as_of, staged.commit)?, staged)?;
        let ids: HashMap<ProfileId, &str> = all.iter().map(|profile| (profile.id, id_of(profile))).collect();
        let name = |transition: &Transition| group.segments.plans[usize::from(transition.segment)].name.as_str();
        let changes: Vec<rows::GroupChange<'_>> = findings
            .transitions
            .iter()
            .map(|transition| rows::GroupChange {
                group: &group.name,
                segment: name(transition),
                id: ids.get(&transition.id).copied().unwrap_or_default(),
                entered: transition.entered,
                cause: transition.cause,
                at: transition.at,
            })
            .collect();
        let table = &self.tables.group_segment_changes;
        let changed: Vec<(String, bool)> =
            changes.iter().map(|change| (name_in(change.group, change.segment), change.entered)).collect();
        output::add(table, rows::group_segment_changes(table, &changes, staged.commit)?, staged)?;
        self.count_members(changed);
        Ok(())
    }

    /// Lets go of groups whose definition is gone or makes other groups now, a commit of its own.
    pub(super) async fn let_go(
        &mut self,
        fill: FillRecord,
        after: ProfileNumber,
        now: TimeUs,
    ) -> Result<Staged, EngineError> {
        let mut staged = self.begin(now);
        let (numbers, done) = self.next_profiles(after).await?;
        let last = numbers.last().copied().unwrap_or(after);
        let mut changed: Vec<(String, bool)> = Vec::new();
        for number in numbers {
            let profile = self.profiles.get(&number);
            let Some(group) = profile.and_then(|p| p.group.clone()).filter(|of| !self.knows_kind(of.kind)) else {
                continue;
            };
            let Some(profile) = self.profiles.remove(&number) else { continue };
            self.set_timer(number, profile.timer, TimeUs::MAX, &mut staged);
            staged.writes.delete(keys::profile(number));
            staged.writes.delete(keys::group(group.kind, u128::from_be_bytes(profile.id.0)));
            // Of a kind that is gone, segments are by their place among all.
            let names = profile.segments().filter_map(|segment| self.slots.segments().get(usize::from(segment)));
            let names: Vec<String> = names.map(|slot| slot.name.clone()).collect();
            let (at, cause) = (self.record.now, Cause::Removed);
            let parts = names.iter().filter_map(|name| name.split_once('.'));
            let changes: Vec<rows::GroupChange<'_>> = parts
                .clone()
                .map(|(kind, segment)| rows::GroupChange {
                    group: kind,
                    segment,
                    id: &group.id,
                    entered: false,
                    cause,
                    at,
                })
                .collect();
            let table = &self.tables.group_segment_changes;
            output::add(table, rows::group_segment_changes(table, &changes, staged.commit)?, &mut staged)?;
            changed.extend(names.iter().map(|name| (name.clone(), false)));
            // The table of a definition that is gone stays as it is.
            let name = fill.gone.iter().find(|(kind, _)| *kind == group.kind).map(|(_, name)| name);
            if let Some(own) = self.groups.iter().find(|own| Some(&own.name) == name) {
                let row = rows::group_gone(&own.table, &group.id, at, staged.commit)?;
                output::add(&own.table, row, &mut staged)?;
            }
        }
        self.count_members(changed);
        self.profiles.shrink();
        self.set_fill(Some(FillRecord { let_go: (!done).then_some(last), ..fill }), &mut staged);
        self.seal(&mut staged)?;
        Ok(staged)
    }

    /// What the tables of groups would say if all were judged at `now`. Every commit must be durable.
    ///
    /// # Errors
    /// The store's.
    pub async fn groups_at(&self, now: TimeUs) -> Result<Vec<(Table, RecordBatch)>, EngineError> {
        let mut of_kinds: Vec<Vec<Profile>> = vec![Vec::new(); self.groups.len()];
        for (_, value) in scan_all(&*self.store, &keys::prefix(Tag::Profile)).await? {
            let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", &value)?;
            let profile = record.load(&self.slots);
            let place = self.groups.iter().position(|group| group.kind == profile.kind());
            place.into_iter().for_each(|place| of_kinds[place].push(profile.clone()));
        }
        let mut all = Vec::new();
        for (group, profiles) in self.groups.iter().zip(of_kinds) {
            let as_of = vec![now; profiles.len()];
            let traits = group.traits.columns(&profiles, &as_of)?;
            let rows = rows::groups(&group.table, &profiles, &traits, &as_of, self.record.commit)?;
            all.push((group.table.clone(), rows));
        }
        Ok(all)
    }
}

/// The people of these events take note of the groups that they are counted in.
fn note_groups(found: &Found, person_of_row: &[Option<u32>], people: &mut [Profile]) {
    for (group, person) in found.of_row.iter().zip(person_of_row) {
        if let (Some(group), Some(person)) = (group, person) {
            people[*person as usize].add_counted_in(found.numbers[*group as usize]);
        }
    }
}

fn id_of(profile: &Profile) -> &str {
    profile.group.as_ref().map_or("", |group| &group.id)
}
