//! The borders of RFM traits: scans that are due, and everyone judged anew where borders have moved.
//!
//! A scan sees everyone as they were before the commit in which it began ([`Core::begin_scan`]), though the stream goes on: whoever
//! is about to change before the scan has come to them is noted first ([`Core::note_for_scan`]), in the state too, so that
//! after a crash the same people are counted with the same values. One page of profiles is one commit ([`Core::scan`]). The
//! borders are one commit; then everyone is judged anew, some at a time, with cause `time` ([`Core::rescore`]).

use arrow::compute::kernels::cmp::distinct;
use serde::{Deserialize, Serialize};

use super::fill::PROFILES_AT_ONCE;
use super::*;
use crate::profile::{RfmBorders, RfmValues, TraitRule};

/// Under `Tag::Engine`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RfmRecord {
    traits: Vec<RfmTrait>,
    scan: Option<Scan>,
    /// Borders have moved: the profile up to which everyone was judged by them.
    swept: Option<ProfileNumber>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RfmTrait {
    slot: u32,
    /// When the next scan is due; None: nothing has happened yet.
    next_at: Option<TimeUs>,
    borders: Option<RfmBorders>,
    /// Those of before, while everyone is judged anew.
    before: Option<RfmBorders>,
}

/// A scan that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Scan {
    at: TimeUs,
    /// Profiles from this number on were not there.
    below: ProfileNumber,
    slots: Vec<u32>,
}

impl RfmRecord {
    pub const VERSION: u8 = 1;
    pub const KEY: &str = "rfm";
}

/// By trait of the scan.
type Values = Vec<Option<RfmValues>>;

#[derive(Debug, Default)]
pub struct Rfm {
    record: RfmRecord,
    /// What the store knows.
    stored: RfmRecord,
    /// By slot: index of the trait.
    index: Vec<(u32, usize)>,
    /// Up to where the scan has come.
    cursor: ProfileNumber,
    values: Vec<Vec<RfmValues>>,
    /// Who has changed since the scan began, as they were before, and whether they are among the values already.
    noted: HashMap<ProfileNumber, (Values, bool)>,
}

impl Rfm {
    /// Reads what is known, and gives the traits their borders. A scan begins anew where a fill comes first.
    pub async fn load(
        store: &dyn Store,
        slots: &Slots,
        traits: &mut Traits,
        used: bool,
        filling: bool,
    ) -> Result<Rfm, StoreError> {
        let stored: RfmRecord =
            load::load_one(store, &keys::name(Tag::Engine, RfmRecord::KEY), RfmRecord::VERSION, "borders").await?;
        let mut rfm = Rfm { stored, ..Rfm::default() };
        for (index, (slot, plan)) in slots.of_kind(0).traits.iter().copied().zip(&traits.plans).enumerate() {
            if !matches!(plan.rule, TraitRule::Rfm(_)) {
                continue;
            }
            let known = rfm.stored.traits.iter().find(|known| known.slot == slot).cloned();
            // Where there are people already, the first scan does not wait.
            let new = RfmTrait { slot, next_at: used.then_some(TimeUs::MIN), borders: None, before: None };
            let known = known.unwrap_or(new);
            traits.rfm_borders[index] = known.borders.clone();
            rfm.record.traits.push(known);
            rfm.index.push((slot, index));
        }
        rfm.record.swept = rfm.stored.swept;
        let Some(scan) = rfm.stored.scan.clone() else { return Ok(rfm) };
        let noted = scan_all(store, &keys::prefix(Tag::Scan)).await?;
        if filling {
            // What was noted are values of other definitions, and the scan is due again.
            for known in rfm.record.traits.iter_mut().filter(|known| scan.slots.contains(&known.slot)) {
                known.next_at = Some(TimeUs::MIN);
            }
            let mut writes = WriteBatch::default();
            noted.into_iter().for_each(|(key, _)| writes.delete(key));
            writes.put(keys::name(Tag::Engine, RfmRecord::KEY), codec::encode(RfmRecord::VERSION, &rfm.record));
            store.commit(writes).await?;
            rfm.stored = rfm.record.clone();
            return Ok(rfm);
        }
        for (key, value) in noted {
            let Some(number) = keys::parse_number(&key) else { continue };
            rfm.noted.insert(number, (codec::decode(1, "values of a scan", &value)?, false));
        }
        rfm.values = vec![Vec::new(); scan.slots.len()];
        rfm.record.scan = Some(scan);
        Ok(rfm)
    }

    fn is_busy(&self) -> bool {
        self.record.scan.is_some() || self.record.swept.is_some()
    }

    /// When the next scan is due.
    fn due(&self) -> TimeUs {
        self.record.traits.iter().filter_map(|known| known.next_at).min().unwrap_or(TimeUs::MAX)
    }
}

impl Core {
    /// When the next scan is due; never while something else is going on that it waits for.
    pub fn scan_due(&self) -> TimeUs {
        if self.fill.is_some() || self.rfm.is_busy() { TimeUs::MAX } else { self.rfm.due() }
    }

    /// Whether a scan is under way, or everyone is judged by new borders.
    pub(super) fn is_scoring(&self) -> bool {
        self.rfm.is_busy()
    }

    /// Begins a scan that is due at the present `now`: it sees everyone as they are.
    pub(super) fn begin_scan(&mut self) {
        let now = self.record.now;
        for known in &mut self.rfm.record.traits {
            let every_us = every(&self.traits, &self.rfm.index, known.slot);
            if known.next_at.is_none() && now > 0 {
                known.next_at = Some(next_multiple(now, every_us));
            }
        }
        if self.scan_due() > now {
            return;
        }
        let mut slots = Vec::new();
        for known in &mut self.rfm.record.traits {
            if known.next_at.is_some_and(|at| at <= now) {
                known.next_at = Some(next_multiple(now, every(&self.traits, &self.rfm.index, known.slot)));
                slots.push(known.slot);
            }
        }
        self.rfm.cursor = 0;
        self.rfm.values = vec![Vec::new(); slots.len()];
        self.rfm.noted.clear();
        self.rfm.record.scan = Some(Scan { at: now, below: self.identities.next_number, slots });
    }

    /// What has changed of this, for the commit.
    pub(super) fn write_rfm(&mut self, staged: &mut Staged) {
        if self.rfm.record != self.rfm.stored {
            let key = keys::name(Tag::Engine, RfmRecord::KEY);
            staged.writes.put(key, codec::encode(RfmRecord::VERSION, &self.rfm.record));
            self.rfm.stored = self.rfm.record.clone();
        }
    }

    /// What profiles are scored by, at the time of the scan.
    fn scan_values(&self, scan: &Scan, profiles: &[Profile]) -> Result<Vec<Values>, EngineError> {
        let columns = self.traits.columns(profiles, &vec![scan.at; profiles.len()])?;
        let mut all = vec![Vec::with_capacity(scan.slots.len()); profiles.len()];
        for slot in &scan.slots {
            let Some((_, index)) = self.rfm.index.iter().find(|(known, _)| known == slot) else { continue };
            let values = self.traits.rfm_values(*index, &columns)?;
            all.iter_mut().zip(values).for_each(|(all, values)| all.push(values));
        }
        Ok(all)
    }

    /// Takes note of people as they are, before they change, for the scan that is under way. `own` are their numbers.
    pub(super) fn note_for_scan(
        &mut self,
        own: &[ProfileNumber],
        profiles: &[Profile],
        staged: &mut Staged,
    ) -> Result<(), EngineError> {
        let Some(scan) = self.rfm.record.scan.clone() else { return Ok(()) };
        let is_new = |row: &usize| own[*row] < scan.below && !self.rfm.noted.contains_key(&own[*row]);
        let rows: Vec<usize> = (0..profiles.len()).filter(is_new).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let mut values = self.scan_values(&scan, profiles)?;
        for row in rows {
            let values = std::mem::take(&mut values[row]);
            staged.writes.put(keys::number(Tag::Scan, own[row]), codec::encode(1, &values));
            self.rfm.noted.insert(own[row], (values, own[row] <= self.rfm.cursor));
        }
        Ok(())
    }

    /// Reads the next of all profiles for the scan, a commit of its own; the last one holds the borders. What was committed
    /// before must be durable.
    pub(super) async fn scan(&mut self, now: TimeUs) -> Result<Option<Staged>, EngineError> {
        let Some(scan) = self.rfm.record.scan.clone() else { return Ok(None) };
        let mut staged = self.begin(now);
        let after = keys::profile(self.rfm.cursor);
        let page = self.store.scan(&keys::prefix(Tag::Profile), Some(&after), PROFILES_AT_ONCE).await?;
        let mut profiles = Vec::with_capacity(page.len());
        for (key, value) in &page {
            let Some(number) = keys::parse_number(key) else {
                return Err(StoreError::Damaged("a profile's key has another length".to_string()).into());
            };
            self.rfm.cursor = number;
            if number < scan.below && !self.rfm.noted.contains_key(&number) {
                let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", value)?;
                profiles.extend(Some(record.load(&self.slots)).filter(|profile| profile.group.is_none()));
            }
        }
        for values in self.scan_values(&scan, &profiles)? {
            self.rfm.values.iter_mut().zip(values).for_each(|(all, values)| all.extend(values));
        }
        if page.len() < PROFILES_AT_ONCE || self.rfm.cursor >= scan.below {
            self.finish_scan(&scan, &mut staged)?;
        }
        self.seal(&mut staged)?;
        Ok(Some(staged))
    }

    fn finish_scan(&mut self, scan: &Scan, staged: &mut Staged) -> Result<(), EngineError> {
        let Rfm { record, index, values, noted, .. } = &mut self.rfm;
        let mut values = std::mem::take(values);
        for (number, (noted, counted)) in noted.drain() {
            staged.writes.delete(keys::number(Tag::Scan, number));
            if !counted {
                values.iter_mut().zip(noted).for_each(|(all, values)| all.extend(values));
            }
        }
        record.scan = None;
        let mut found: Vec<(&str, RfmBorders)> = Vec::new();
        for (slot, values) in scan.slots.iter().zip(values) {
            let Some(known) = record.traits.iter_mut().find(|known| known.slot == *slot) else { continue };
            let Some((_, index)) = index.iter().find(|(known, _)| known == slot) else { continue };
            let version = known.borders.as_ref().map_or(1, |borders| borders.version + 1);
            let Some(borders) = RfmBorders::of(&values, version, scan.at) else { continue };
            if !known.borders.as_ref().is_some_and(|before| before.is_same(&borders)) {
                record.swept = Some(0);
            }
            known.before = known.borders.replace(borders.clone());
            self.traits.rfm_borders[*index] = Some(borders.clone());
            found.push((&self.traits.plans[*index].name, borders));
        }
        let table = &self.tables.rfm_borders;
        output::add(table, rows::rfm_borders(table, &found, staged.commit)?, staged)
    }

    /// Judges the next of all profiles by new borders, a commit of its own. What was committed before must be durable.
    pub(super) async fn rescore(&mut self, now: TimeUs) -> Result<Option<Staged>, EngineError> {
        let Some(swept) = self.rfm.record.swept else { return Ok(None) };
        let mut staged = self.begin(now);
        let (mut numbers, done) = self.next_profiles(swept).await?;
        let last = numbers.last().copied().unwrap_or(swept);
        let all = self.take_stored(&mut numbers).await?;
        // Groups are not scored.
        let people = Kindred::of(numbers, all).into_iter().find(|kindred| kindred.kind == 0);
        let (numbers, mut profiles) = people.map(|people| (people.numbers, people.profiles)).unwrap_or_default();
        let stored: Vec<TimeUs> = profiles.iter().map(|profile| profile.timer).collect();
        let mut findings = Findings::default();
        self.judge_whole(&mut profiles, &numbers, Cause::Time, &mut findings, &mut staged).await?;

        // Whose row in the tables is not what it was.
        let moments = vec![self.record.now; profiles.len()];
        let after = self.traits.columns(&profiles, &moments)?;
        let borders = self.traits.rfm_borders.clone();
        for known in &self.rfm.record.traits {
            if let Some((_, index)) = self.rfm.index.iter().find(|(slot, _)| *slot == known.slot) {
                self.traits.rfm_borders[*index].clone_from(&known.before);
            }
        }
        let before = self.traits.columns(&profiles, &moments);
        self.traits.rfm_borders = borders;
        let before = before?;
        let mut differs = vec![false; profiles.len()];
        for (before, after) in before.columns().iter().zip(after.columns()) {
            let other =
                distinct(before, after).map_err(|error| EngineError::Internal(format!("comparing traits: {error}")))?;
            differs.iter_mut().zip(other.values().iter()).for_each(|(all, one)| *all |= one);
        }
        let changed: HashSet<ProfileId> =
            findings.transitions.iter().map(|t| t.id).chain(findings.stages.iter().map(|stage| stage.id)).collect();
        let shown: Vec<Profile> = profiles
            .iter()
            .zip(differs)
            .filter(|(profile, differs)| *differs || changed.contains(&profile.id))
            .map(|(profile, _)| profile.clone())
            .collect();
        self.add_profile_rows(&shown, &mut staged)?;
        self.add_findings(&findings, &mut staged)?;
        self.count_transitions(&findings.transitions);
        self.put_profiles(&numbers, profiles, &stored, &mut staged);
        self.profiles.shrink();
        self.rfm.record.swept = (!done).then_some(last);
        if done {
            // A trait whose next scan finds the same borders is not compared with older ones.
            self.rfm.record.traits.iter_mut().for_each(|known| known.before.clone_from(&known.borders));
        }
        self.seal(&mut staged)?;
        Ok(Some(staged))
    }

    /// The profile up to which everyone was judged by new borders.
    pub(super) fn rescored(&self) -> Option<ProfileNumber> {
        self.rfm.record.swept
    }
}

fn every(traits: &Traits, index: &[(u32, usize)], slot: u32) -> i64 {
    let found = index.iter().find(|(known, _)| *known == slot).map(|(_, index)| &traits.plans[*index].rule);
    match found {
        Some(TraitRule::Rfm(rule)) => rule.every_us,
        _ => i64::MAX,
    }
}

fn next_multiple(now: TimeUs, every_us: i64) -> TimeUs {
    (now.div_euclid(every_us) + 1).saturating_mul(every_us)
}
