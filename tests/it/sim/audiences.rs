//! What must hold of audiences in a world: after all that its receiver has taken, it has the identifiers of those who belong.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::World;
use super::check::{Checked, ensure};

/// The audience of a world, and the segment and identifier types it is made of.
pub const NAME: &str = "buyers";
pub const SEGMENT: &str = "customers";
pub const MATCH: [&str; 2] = ["email", "anonymous_id"];
pub const AUDIENCE: &str = r#"audiences:
  buyers: { segment: customers, to: list, match: [email, anonymous_id], consent: none, reconcile: 3h }
"#;

/// `members`: the identifiers of those who belong, by type and value.
pub fn hold(world: &World, members: &BTreeSet<(String, String)>) -> Checked {
    let mut held: BTreeSet<(String, String)> = BTreeSet::new();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for receipt in world.receipts.iter().filter(|receipt| receipt.destination == "list" && receipt.taken) {
        // What comes twice is done once.
        if !known.insert(&receipt.id) {
            continue;
        }
        let body: Value = serde_json::from_str(&receipt.body).map_err(|error| error.to_string())?;
        ensure!(body["audience"] == NAME, "{} is of another audience", receipt.body);
        let all: BTreeMap<String, Vec<String>> =
            serde_json::from_value(body["identifiers"].clone()).map_err(|error| error.to_string())?;
        for one in all.into_iter().flat_map(|(name, all)| all.into_iter().map(move |value| (name.clone(), value))) {
            if body["op"] == "add" {
                held.insert(one)
            } else {
                held.remove(&one)
            };
        }
    }
    let story = |all: Vec<&(String, String)>| -> String {
        let told = |value: &str| {
            let value = format!("\"{value}\"");
            let receipts = world.receipts.iter().filter(move |receipt| receipt.destination == "list" && receipt.taken);
            receipts
                .filter(move |receipt| receipt.body.contains(&value))
                .map(|receipt| format!("\n    {}", receipt.body))
        };
        all.iter()
            .map(|(kind, value)| format!("\n  {kind} {value}, told:{}", told(value).collect::<String>()))
            .collect()
    };
    let stray: Vec<_> = held.difference(members).collect();
    ensure!(stray.is_empty(), "held of people who do not belong: {}", story(stray));
    let missing: Vec<_> = members.difference(&held).collect();
    ensure!(missing.is_empty(), "not held of people who belong: {}", story(missing));
    Ok(())
}
