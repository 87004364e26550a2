//! `identity dry-run`: other rules over the stored events, compared with the profiles of today. Nothing is touched.
//!
//! Both sides are made of the same events in the same way: today's with what identity decided then, the other with the
//! other rules. So they can be compared for any stretch of the history.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::AsArray;
use hashbrown::HashMap;
use serde_json::json;

use super::output::{Output, print};
use super::{Exit, Failure, Global, NodeConfig, run, say};
use crate::definition::{self, Mode};
use crate::engine::history::{HistoryFilter, HistoryReader, Stored};
use crate::event::{ProfileId, ProfileNumber, TimeUs};
use crate::identity::{Cause, Correction, Decisions, Identities, IdentityPlan, NO_PROFILE, Resolved, extract};
use crate::query::{self, TableHistory};
use crate::sink::CommitRange;
use crate::state::location::Location;
use crate::state::slate::SlateReader;
use crate::state::{WriteBatch, codec, keys, scan_all};
use crate::transform::Restore;

/// Identifiers that an example shows.
const SHOWN: usize = 6;

pub async fn dry_run(
    global: &Global,
    config: &NodeConfig,
    rules: &Path,
    since: Option<&str>,
    examples: usize,
) -> Result<Exit, Failure> {
    let since = since.map(time).transpose()?;
    let today = run::load(global, Mode::Run)?;
    let pipeline = match definition::load_with_identity(&global.pipeline, Mode::Run, rules) {
        Ok((pipeline, warnings)) => {
            warnings.iter().for_each(|warning| say(&warning.to_string()));
            pipeline
        }
        Err(findings) => {
            findings.iter().for_each(|finding| say(&finding.to_string()));
            return Err(Failure::findings(format!("the rules in {} have errors", rules.display())));
        }
    };
    // Ids are comparable under one key alone, and a file of rules need not repeat it.
    let rules = IdentityPlan { key: today.identity.key.clone(), ..pipeline.identity.clone() };
    let mut sides = Comparison::new(today.identity.clone(), rules);
    for correction in corrections(config).await? {
        sides.correct(&correction);
    }
    let target = run::tables_of(&today, config);
    let last = last_commit(&target).await?;
    let history = TableHistory { target };
    let mut fields = pipeline.transform.fields.clone();
    fields.extend(today.transform.fields.iter().filter(|field| !pipeline.transform.fields.contains(field)).cloned());
    let filter = HistoryFilter { since, ..HistoryFilter::default() };
    let range = CommitRange { after: 0, upto: last };
    let mut reader = HistoryReader::new(&history, Restore::new(&fields), filter, range);
    while let Some(stored) = reader.next().await.map_err(Failure::environment)? {
        sides.take(&stored);
    }
    let report = sides.finish(examples);
    if Output::or_default(global.output) == Output::Json {
        print(&report.as_json().to_string());
    } else {
        print(&report.as_text());
    }
    Ok(Exit::Well)
}

fn time(text: &str) -> Result<TimeUs, Failure> {
    let day = |text: &str| chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let at = chrono::DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_micros()).ok();
    at.or_else(|| Some(day(text)?.and_utc().timestamp_micros())).ok_or_else(|| Failure {
        exit: Exit::Usage,
        message: format!("`{text}` is no time; write 2026-01-01 or 2026-01-01T10:00:00Z"),
    })
}

async fn last_commit(target: &query::Target) -> Result<u64, Failure> {
    let found = query::query(target, "SELECT CAST(max(_batch) AS BIGINT) AS last FROM events").await;
    let found = found.map_err(Failure::environment)?;
    let last = found.first().and_then(|batch| batch.column(0).as_primitive_opt::<arrow::datatypes::Int64Type>());
    Ok(last.and_then(|last| last.iter().next().flatten()).unwrap_or(0) as u64)
}

async fn corrections(config: &NodeConfig) -> Result<Vec<Correction>, Failure> {
    let location = Location::parse(&config.data).map_err(Failure::environment)?;
    let reader = SlateReader::open(&location).await.map_err(Failure::environment)?;
    let found = scan_all(&reader, &keys::prefix(keys::Tag::Correction)).await.map_err(Failure::environment)?;
    let decode = |(_, value): &(bytes::Bytes, bytes::Bytes)| codec::decode(Correction::VERSION, "correction", value);
    found.iter().map(decode).collect::<Result<_, _>>().map_err(Failure::fatal)
}

/// A correction under other rules; None where a type is no longer there.
fn translated(correction: &Correction, from: &IdentityPlan, to: &IdentityPlan) -> Option<Correction> {
    let named = |named: &crate::identity::Named| {
        let kind = to.kind(&from.types.get(named.kind as usize)?.name)?;
        Some(crate::identity::Named { kind, value: named.value.clone() })
    };
    Some(match correction {
        Correction::Cut(a, b) => Correction::Cut(named(a)?, named(b)?),
        Correction::Ban(one) => Correction::Ban(named(one)?),
        strike @ Correction::Strike { .. } => strike.clone(),
    })
}

/// One set of rules at work, in memory.
struct Side {
    identities: Identities,
    absorbed: HashMap<ProfileNumber, ProfileNumber>,
}

impl Side {
    fn new(plan: IdentityPlan) -> Side {
        Side { identities: Identities::new(plan, 1, usize::MAX), absorbed: HashMap::new() }
    }

    fn take(&mut self, stored: &Stored, decisions: Decisions<'_>) -> Resolved {
        let extracted = extract(self.identities.plan(), &stored.events);
        let mut writes = WriteBatch::default();
        let resolved = self.identities.resolve(&stored.events, &extracted, decisions, 0, &mut writes);
        self.absorbed.extend(resolved.absorbed.iter().copied());
        resolved
    }

    /// The number that lives on.
    fn last(&self, mut number: ProfileNumber) -> ProfileNumber {
        while let Some(into) = self.absorbed.get(&number) {
            number = *into;
        }
        number
    }

    fn id(&self, number: ProfileNumber) -> ProfileId {
        self.identities.components.get(&number).map(|component| component.id).unwrap_or_default()
    }
}

struct Comparison {
    today: Side,
    other: Side,
    /// Events by their profiles on both sides.
    pairs: HashMap<(ProfileNumber, ProfileNumber), u64>,
    events: u64,
    /// Events that would be nobody's.
    nobody: u64,
    conflicts: BTreeMap<String, u64>,
}

impl Comparison {
    fn new(today: IdentityPlan, other: IdentityPlan) -> Comparison {
        Comparison {
            today: Side::new(today),
            other: Side::new(other),
            pairs: HashMap::new(),
            events: 0,
            nobody: 0,
            conflicts: BTreeMap::new(),
        }
    }

    /// Corrections hold on both sides; they are written with the kinds of today's rules.
    fn correct(&mut self, correction: &Correction) {
        let (today, other) = (self.today.identities.plan().clone(), self.other.identities.plan().clone());
        self.today.identities.corrections.add(&today, correction);
        if let Some(correction) = translated(correction, &today, &other) {
            self.other.identities.corrections.add(&other, &correction);
        }
    }

    fn take(&mut self, stored: &Stored) {
        let today = self.today.take(stored, Decisions::Recorded(&stored.decisions));
        let other = self.other.take(stored, Decisions::Now);
        for conflict in &other.conflicts {
            let cause = match conflict.cause {
                Cause::Limit(kind) => format!("limit of {}", self.other.identities.plan().types[kind as usize].name),
                other => other.name().to_string(),
            };
            *self.conflicts.entry(cause).or_default() += 1;
        }
        self.events += stored.len() as u64;
        for pair in today.numbers.into_iter().zip(other.numbers) {
            if pair.1 == NO_PROFILE {
                self.nobody += 1;
            } else {
                *self.pairs.entry(pair).or_default() += 1;
            }
        }
    }

    fn finish(mut self, examples: usize) -> Report {
        let mut of_today: HashMap<ProfileNumber, Vec<ProfileNumber>> = HashMap::new();
        let mut of_other: HashMap<ProfileNumber, (Vec<ProfileNumber>, u64)> = HashMap::new();
        let mut pairs: HashMap<(ProfileNumber, ProfileNumber), u64> = HashMap::new();
        for ((today, other), events) in std::mem::take(&mut self.pairs) {
            *pairs.entry((self.today.last(today), self.other.last(other))).or_default() += events;
        }
        for ((today, other), events) in pairs {
            let (was, total) = of_other.entry(other).or_default();
            *total += events;
            // Events that are nobody's today are not a profile that would be merged.
            if today != NO_PROFILE {
                was.push(today);
                of_today.entry(today).or_default().push(other);
            }
        }
        let describe = |number: &ProfileNumber| {
            let component = self.other.identities.components.get(number);
            let plan = self.other.identities.plan();
            let mut identifiers: Vec<(u16, &str)> = component
                .into_iter()
                .flat_map(|component| component.identifiers())
                .map(|known| (known.kind, &*known.value))
                .collect();
            identifiers.sort_unstable();
            let count = identifiers.len();
            let shown = identifiers.into_iter().take(SHOWN);
            let shown = shown.map(|(kind, value)| format!("{}:{value}", plan.types[kind as usize].name)).collect();
            Person {
                id: self.other.id(*number),
                identifiers: count,
                events: of_other.get(number).map_or(0, |(_, events)| *events),
                shown,
            }
        };
        // The order of examples must not depend on hash tables: the largest first, then by id.
        let ranked = |numbers: Vec<ProfileNumber>| {
            let mut people: Vec<(ProfileNumber, Person)> =
                numbers.into_iter().map(|number| (number, describe(&number))).collect();
            people.sort_by_key(|(_, person)| (std::cmp::Reverse(person.identifiers), person.id));
            people
        };
        let merged: Vec<ProfileNumber> =
            of_other.iter().filter(|(_, (was, _))| was.len() > 1).map(|(number, _)| *number).collect();
        let merges = merged.len();
        let merge_examples = ranked(merged)
            .into_iter()
            .take(examples)
            .map(|(number, person)| {
                let mut was: Vec<ProfileId> = of_other[&number].0.iter().map(|number| self.today.id(*number)).collect();
                was.sort_unstable();
                (person, was)
            })
            .collect();
        let split = of_today.iter().filter(|(_, parts)| parts.len() > 1);
        let mut split: Vec<(ProfileId, &Vec<ProfileNumber>)> =
            split.map(|(number, parts)| (self.today.id(*number), parts)).collect();
        split.sort_by_key(|(id, parts)| (std::cmp::Reverse(parts.len()), *id));
        let splits = split.len();
        let split_examples = split
            .into_iter()
            .take(examples)
            .map(|(id, parts)| (id, ranked(parts.clone()).into_iter().map(|(_, person)| person).collect()))
            .collect();
        let largest = ranked(of_other.keys().copied().collect()).into_iter().take(examples).map(|(_, person)| person);
        Report {
            events: self.events,
            nobody: self.nobody,
            before: of_today.len(),
            after: of_other.len(),
            merges,
            splits,
            conflicts: self.conflicts.clone(),
            merge_examples,
            split_examples,
            largest: largest.collect(),
        }
    }
}

/// A profile under the other rules.
struct Person {
    id: ProfileId,
    identifiers: usize,
    events: u64,
    /// Some of the identifiers, best first.
    shown: Vec<String>,
}

struct Report {
    events: u64,
    nobody: u64,
    before: usize,
    after: usize,
    /// Profiles that would be made of several of today's.
    merges: usize,
    /// Today's profiles that would become several.
    splits: usize,
    conflicts: BTreeMap<String, u64>,
    merge_examples: Vec<(Person, Vec<ProfileId>)>,
    split_examples: Vec<(ProfileId, Vec<Person>)>,
    largest: Vec<Person>,
}

impl Person {
    fn as_text(&self) -> String {
        let more = self.identifiers.saturating_sub(self.shown.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{} ({} events): {}{more}", self.id, self.events, self.shown.join(", "))
    }

    fn as_json(&self) -> serde_json::Value {
        json!({ "profile_id": self.id.to_string(), "identifiers": self.identifiers, "events": self.events, "shown": self.shown })
    }
}

impl Report {
    fn as_text(&self) -> String {
        let mut lines = vec![
            format!("events read:        {}", self.events),
            format!("profiles today:     {}", self.before),
            format!("under these rules:  {}", self.after),
            format!("merged:             {} would be made of several of today's", self.merges),
            format!("split:              {} of today's would become several", self.splits),
        ];
        if self.nobody > 0 {
            lines.push(format!("without a profile:  {} events", self.nobody));
        }
        for (cause, count) in &self.conflicts {
            lines.push(format!("refused:            {count} by {cause}"));
        }
        if !self.merge_examples.is_empty() {
            lines.push("\nmerged, the largest first:".to_string());
        }
        for (person, was) in &self.merge_examples {
            lines.push(format!("  {}", person.as_text()));
            lines.extend(was.iter().take(SHOWN).map(|id| format!("    was {id}")));
        }
        if !self.split_examples.is_empty() {
            lines.push("\nsplit, into the most parts first:".to_string());
        }
        for (id, parts) in &self.split_examples {
            lines.push(format!("  {id} would be {} profiles", parts.len()));
            lines.extend(parts.iter().take(SHOWN).map(|person| format!("    {}", person.as_text())));
        }
        lines.push("\nlargest under these rules:".to_string());
        lines.extend(
            self.largest.iter().map(|person| format!("  {} identifiers, {}", person.identifiers, person.as_text())),
        );
        lines.join("\n")
    }

    fn as_json(&self) -> serde_json::Value {
        let ids = |ids: &[ProfileId]| ids.iter().map(ProfileId::to_string).collect::<Vec<_>>();
        let people = |people: &[Person]| people.iter().map(Person::as_json).collect::<Vec<_>>();
        json!({
            "events": self.events,
            "without_profile": self.nobody,
            "profiles_before": self.before,
            "profiles_after": self.after,
            "merges": self.merges,
            "splits": self.splits,
            "refused": self.conflicts,
            "merge_examples": self.merge_examples.iter().map(|(person, was)| json!({ "profile": person.as_json(), "was": ids(was) })).collect::<Vec<_>>(),
            "split_examples": self.split_examples.iter().map(|(id, parts)| json!({ "profile_id": id.to_string(), "parts": people(parts) })).collect::<Vec<_>>(),
            "largest": people(&self.largest),
        })
    }
}
