//! `explain profile WHO`: why these identifiers are one person.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use hashbrown::{HashMap, HashSet};
use serde_json::json;

use super::Person;
use crate::activation::time_text;
use crate::cli::output::{Output, print};
use crate::cli::who::Who;
use crate::cli::{Exit, Failure, Global, NodeConfig, run, say};
use crate::definition::Pipeline;
use crate::event::ProfileId;
use crate::identity::{Component, Correction, Corrections, IdentityPlan, Item, Link};
use crate::query;
use crate::state::{codec, keys, scan_all};

pub async fn explain(
    global: &Global,
    config: &NodeConfig,
    pipeline: &Pipeline,
    person: &Person,
) -> Result<Exit, Failure> {
    let plan = &pipeline.identity;
    let Person { reader, component, who, wanted, .. } = person;
    let mut corrections = Corrections::default();
    // Pairs of which one is this person's.
    let mut cuts: Vec<[String; 2]> = Vec::new();
    let stored = scan_all(reader, &keys::prefix(keys::Tag::Correction)).await;
    for (_, value) in stored.map_err(Failure::environment)? {
        let correction = codec::decode(Correction::VERSION, "correction", &value).map_err(Failure::fatal)?;
        corrections.add(plan, &correction);
        if let Correction::Cut(a, b) = &correction {
            let own = [a, b].map(|named| component.identifiers().iter().any(|known| known.is(named)));
            if own.contains(&true) {
                cuts.push([plan.written(a), plan.written(b)]);
            }
        }
    }
    let tables = Tables::read(pipeline, config, component, &corrections).await;
    if Output::or_default(global.output) == Output::Json {
        print(&as_json(plan, component, &tables, &cuts).to_string());
    } else {
        print(&as_text(plan, component, &tables, &cuts, who, wanted));
    }
    if let Err(problem) = &tables {
        say(&format!("merges, conflicts and further events are left out: {problem}"));
    }
    Ok(Exit::Well)
}

/// What the tables say of a person.
struct Tables {
    /// When, old id, cause, event.
    merges: Vec<[String; 5]>,
    conflicts: Vec<[String; 7]>,
    /// Events that name both identifiers of a pair: how many, and the first of them.
    supports: HashMap<(String, String), Vec<String>>,
}

impl Tables {
    async fn read(
        pipeline: &Pipeline,
        config: &NodeConfig,
        component: &Component,
        corrections: &Corrections,
    ) -> Result<Tables, String> {
        let target = run::tables_of(pipeline, config);
        let ids = super::id_list(component);
        let ask = async |sql: String| query::query(&target, &sql).await.map_err(|error| error.to_string());
        let merges = ask(format!(
            "SELECT merged_at, old_profile_id, profile_id, CAST(cause AS VARCHAR) AS cause, message_id FROM profile_merges \
             WHERE old_profile_id IN (SELECT old_profile_id FROM profile_merges \
             WHERE old_profile_id IN ({ids}) OR profile_id IN ({ids})) ORDER BY _batch, _seq"
        ))
        .await?;
        let conflicts = ask(format!(
            "SELECT happened_at, CAST(type AS VARCHAR) AS type, value, profile_id, other_profile_id, \
             CAST(cause AS VARCHAR) AS cause, message_id FROM identity_conflicts \
             WHERE profile_id IN ({ids}) OR other_profile_id IN ({ids}) ORDER BY _batch, _seq"
        ))
        .await?;
        let supports = supports(pipeline, config, component, corrections).await?;
        Ok(Tables { merges: rows(&merges), conflicts: rows(&conflicts), supports })
    }
}

/// All events of the person that name two identifiers or more, pair by pair.
async fn supports(
    pipeline: &Pipeline,
    config: &NodeConfig,
    component: &Component,
    corrections: &Corrections,
) -> Result<HashMap<(String, String), Vec<String>>, String> {
    use crate::engine::history::{HistoryFilter, HistoryReader};
    use crate::event::column;
    use crate::sink::CommitRange;
    let history = query::TableHistory { target: run::tables_of(pipeline, config) };
    let profiles = component.former_ids().iter().copied().chain([component.id]).collect();
    let filter = HistoryFilter { profiles: Some(profiles), ..HistoryFilter::default() };
    let restore = crate::transform::Restore::new(&pipeline.transform.fields);
    let range = CommitRange { after: 0, upto: u64::MAX / 2 };
    let mut reader = HistoryReader::new(&history, restore, filter, range);
    let mut supports: HashMap<(String, String), Vec<String>> = HashMap::new();
    let stored = reader.next_all().await.map_err(|error| error.to_string())?;
    let extracted = crate::identity::extract(&pipeline.identity, &stored.events);
    let own: HashSet<u128> = component.identifiers().iter().map(|known| known.hash).collect();
    for row in 0..stored.len() {
        let set_aside = if stored.decisions.is_valid(row) { stored.decisions.value(row) } else { "" };
        let is_kept = |kind: u16| {
            let name = &pipeline.identity.types[kind as usize].name;
            !set_aside.split(',').any(|part| part.strip_prefix("set_aside:") == Some(name))
        };
        let mut kept: smallvec::SmallVec<[&Item<'_>; 4]> =
            extracted.row(row).iter().filter(|item| is_kept(item.kind)).collect();
        corrections.keep(&mut kept, |_, _| {});
        kept.retain(|item| own.contains(&item.hash));
        let name = |index: usize| {
            let item = kept[index];
            format!("{}:{}", pipeline.identity.types[item.kind as usize].name, item.value)
        };
        for first in 0..kept.len() {
            for second in first + 1..kept.len() {
                let message = stored.events.strings(column::MESSAGE_ID).value(row).to_string();
                supports.entry((name(first), name(second))).or_default().push(message);
            }
        }
    }
    Ok(supports)
}

/// Cells as texts, empty for null.
pub(super) fn rows<const N: usize>(batches: &[RecordBatch]) -> Vec<[String; N]> {
    let mut all = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| arrow::compute::cast(column, &DataType::Utf8).unwrap_or_else(|_| column.clone()))
            .collect();
        for row in 0..batch.num_rows() {
            all.push(std::array::from_fn(|index| match columns.get(index).and_then(|c| c.as_string_opt::<i32>()) {
                Some(texts) if texts.is_valid(row) => texts.value(row).to_string(),
                _ => String::new(),
            }));
        }
    }
    all
}

/// `type:value` by hash.
fn names(plan: &IdentityPlan, component: &Component) -> HashMap<u128, String> {
    let name = |kind: u16| plan.types.get(kind as usize).map_or("?", |kind| kind.name.as_str());
    let identifiers = component.identifiers().iter();
    identifiers.map(|known| (known.hash, format!("{}:{}", name(known.kind), known.value))).collect()
}

/// The links as a tree from the best identifier: (depth, identifier, the link to the one above).
fn tree(component: &Component) -> Vec<(usize, u128, Option<&Link>)> {
    let mut next: HashMap<u128, Vec<(u128, &Link)>> = HashMap::new();
    for link in component.links() {
        next.entry(link.a).or_default().push((link.b, link));
        next.entry(link.b).or_default().push((link.a, link));
    }
    let mut shown: HashSet<u128> = HashSet::new();
    let mut lines = Vec::new();
    let others = component.identifiers().iter().map(|known| known.hash);
    // Links of an identifier that went to another person are gone: what hung on it stands by itself.
    for root in component.best().map(|best| best.hash).into_iter().chain(others) {
        let mut stack = vec![(0, root, None)];
        while let Some((depth, hash, link)) = stack.pop() {
            if !shown.insert(hash) {
                continue;
            }
            lines.push((depth, hash, link));
            let below = next.get(&hash).map(Vec::as_slice).unwrap_or_default();
            stack.extend(below.iter().rev().map(|(other, link)| (depth + 1, *other, Some(*link))));
        }
    }
    lines
}

fn as_text(
    plan: &IdentityPlan,
    component: &Component,
    tables: &Result<Tables, String>,
    cuts: &[[String; 2]],
    who: &str,
    wanted: &Who,
) -> String {
    let names = names(plan, component);
    let mut lines = vec![format!("profile {}", component.id)];
    if let Who::Id(id) = wanted
        && *id != component.id
    {
        lines.push(format!("  {who} is a former id of it"));
    }
    lines.push(match names.len() {
        1 => "1 identifier:".to_string(),
        count => format!("{count} identifiers, from the best down, each with the event that linked it:"),
    });
    for (depth, hash, link) in tree(component) {
        let name = names.get(&hash).map_or("(gone)", String::as_str);
        let mut line = format!("{}{name}", "  ".repeat(depth + 1));
        if let Some(link) = link {
            line += &format!("  ⟵ event {} of {} at {}", link.message_id, time_text(link.linked_at), link.position);
            let above = if link.a == hash { link.b } else { link.a };
            let pair = |a: &u128, b: &u128| Some((names.get(a)?.clone(), names.get(b)?.clone()));
            if let Ok(tables) = tables {
                let keys = [pair(&hash, &above), pair(&above, &hash)];
                let count: usize = keys.iter().flatten().filter_map(|key| tables.supports.get(key)).map(Vec::len).sum();
                if count > 1 {
                    line += &format!(", and {} more", count - 1);
                }
            }
        }
        lines.push(line);
    }
    if !cuts.is_empty() {
        lines.push("cut, so that no event links them again:".to_string());
        lines.extend(cuts.iter().map(|[a, b]| format!("  {a} – {b}")));
    }
    if let Ok(tables) = tables {
        let in_tree: HashSet<(&str, &str)> = component
            .links()
            .iter()
            .filter_map(|link| Some((names.get(&link.a)?.as_str(), names.get(&link.b)?.as_str())))
            .flat_map(|(a, b)| [(a, b), (b, a)])
            .collect();
        // Three identifiers of one event make three pairs; the tree says all of it with two of them.
        let told: HashSet<&str> = component.links().iter().map(|link| &*link.message_id).collect();
        let mut others: Vec<_> = tables
            .supports
            .iter()
            .filter(|((a, b), _)| !in_tree.contains(&(a.as_str(), b.as_str())))
            .filter(|(_, events)| events.iter().any(|event| !told.contains(event.as_str())))
            .collect();
        others.sort();
        if !others.is_empty() {
            lines.push("further links, which hold it together as well:".to_string());
        }
        for ((a, b), events) in others {
            let more = if events.len() > 1 { format!(", and {} more", events.len() - 1) } else { String::new() };
            lines.push(format!("  {a} – {b}  ⟵ event {}{more}", events[0]));
        }
        if !tables.merges.is_empty() {
            lines.push("merges and splits:".to_string());
        }
        for [at, old, new, cause, message_id] in &tables.merges {
            let event = if message_id.is_empty() { String::new() } else { format!(", event {message_id}") };
            lines.push(match old == new {
                true => format!("  {at}  {old} stands for itself again ({cause}{event})"),
                false => format!("  {at}  {old} became {new} ({cause}{event})"),
            });
        }
        if !tables.conflicts.is_empty() {
            lines.push("conflicts, where an identifier was not joined:".to_string());
        }
        for [at, kind, value, profile, other, cause, message_id] in &tables.conflicts {
            let other = if other.is_empty() { "nobody yet".to_string() } else { other.clone() };
            lines.push(format!(
                "  {at}  {kind}:{value} of {other} was not joined to {profile} ({cause}, event {message_id})"
            ));
        }
    }
    lines.join("\n")
}

fn as_json(
    plan: &IdentityPlan,
    component: &Component,
    tables: &Result<Tables, String>,
    cuts: &[[String; 2]],
) -> serde_json::Value {
    let names = names(plan, component);
    let former: Vec<String> = component.former_ids().iter().map(ProfileId::to_string).collect();
    let links: Vec<serde_json::Value> = component
        .links()
        .iter()
        .map(|link| {
            json!({
                "a": names.get(&link.a), "b": names.get(&link.b), "message_id": link.message_id,
                "position": link.position, "linked_at": time_text(link.linked_at),
            })
        })
        .collect();
    let mut identifiers: Vec<&String> = names.values().collect();
    identifiers.sort();
    let mut all = json!({
        "profile_id": component.id.to_string(), "former_ids": former, "identifiers": identifiers, "links": links, "cuts": cuts,
    });
    if let Ok(tables) = tables {
        let mut supports: Vec<_> = tables.supports.iter().collect();
        supports.sort();
        all["supports"] = supports.iter().map(|((a, b), events)| json!({ "a": a, "b": b, "events": events })).collect();
        let merge = |row: &[String; 5]| json!({ "merged_at": row[0], "old_profile_id": row[1], "profile_id": row[2], "cause": row[3], "message_id": row[4] });
        all["merges"] = tables.merges.iter().map(merge).collect();
        let conflict = |row: &[String; 7]| json!({ "happened_at": row[0], "type": row[1], "value": row[2], "profile_id": row[3], "other_profile_id": row[4], "cause": row[5], "message_id": row[6] });
        all["conflicts"] = tables.conflicts.iter().map(conflict).collect();
    }
    all
}
