//! What a newcomer sees first: `tributary demo`, with no server, and the commands that it says to type next.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::{output_of, text_of, tributary};

/// In a folder of its own, and where the environment names servers that are not there: the demo asks for none.
fn in_folder(folder: &Path, args: &[&str]) -> Command {
    let mut command = tributary(args);
    command.env("KAFKA_BROKERS", "127.0.0.1:1").env("CLICKHOUSE_URL", "http://127.0.0.1:1").current_dir(folder);
    command
}

fn demo(folder: &Path, args: &[&str]) -> Output {
    let mut all = vec!["demo"];
    all.extend(args);
    in_folder(folder, &all).output().expect("the program starts")
}

fn query(folder: &Path, sql: &str) -> String {
    let answer = output_of(in_folder(folder, &["query", sql, "--output", "csv"]));
    answer.split_once('\n').expect("a header").1.trim_end().to_string()
}

/// The lines of a section, without its title.
fn section<'a>(told: &'a str, title: &str) -> Vec<&'a str> {
    let lines = told.lines().skip_while(|line| !line.contains(title)).skip(2);
    lines.take_while(|line| !line.starts_with(|c: char| c.is_ascii_digit()) && !line.starts_with("What next")).collect()
}

/// The table that compares: name to what is known.
fn happened(told: &str) -> BTreeMap<String, String> {
    let rows = section(told, "Is it right?").into_iter().filter(|line| line.starts_with("  ") && line.len() > 40);
    let rows = rows.map(|line| (line[2..24].trim().to_string(), line[24..37].trim().replace(',', "")));
    rows.filter(|(name, _)| !name.is_empty()).collect()
}

#[test]
fn the_demo_tells_the_truth_in_time_and_without_a_server() {
    let parent = tempfile::tempdir().expect("folder");
    let started = tributary::clock::instant();
    let output = demo(parent.path(), &[]);
    let took = started.elapsed();
    let said = text_of(&output);
    assert!(output.status.success(), "{said}");
    assert!(took < Duration::from_secs(30), "took {took:?}");
    let told = String::from_utf8(output.stdout).expect("text");
    let commands = |line: &&str| line.contains("/tributary ");
    let wide: Vec<&str> =
        told.lines().filter(|line| !commands(line)).filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "lines that no terminal of usual width shows: {wide:#?}");

    let folder = parent.path().join("tributary-demo");
    let truth = happened(&told);
    let rows = [
        ("events", "SELECT count(*) FROM events WHERE \"index\" = 0"),
        ("broken", "SELECT count(*) FROM rejected_events"),
        ("identifiers", "SELECT count(*) FROM current_identifiers"),
        ("profiles", "SELECT count(*) FROM current_profiles"),
        ("orders", "SELECT sum(orders) FROM current_profiles"),
        ("orders", "SELECT count(DISTINCT message_id) FROM events WHERE event = 'Order Completed'"),
        ("revenue in cents", "SELECT CAST(round(sum(revenue) * 100) AS BIGINT) FROM revenue_by_day"),
        ("products ordered", "SELECT count(*) FROM events WHERE event = 'Product Ordered'"),
        (
            "webhooks: big orders",
            "SELECT count(DISTINCT delivery_id) FROM deliveries WHERE activation = 'big_order' AND outcome = 'sent'",
        ),
    ];
    for (name, sql) in rows {
        assert_eq!(Some(&query(&folder, sql)), truth.get(name), "{name}: {sql}\n{told}");
    }

    // The orders once more, from the lines themselves.
    let lines = std::fs::read(folder.join("data/events.ndjson")).expect("the events");
    let mut orders: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Ok(event) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
        let (id, total) = (event["properties"]["order_id"].as_str(), event["properties"]["total"].as_f64());
        if let (Some(id), Some(total)) = (id, total) {
            orders.insert(id.to_string(), (total * 100.0).round() as u64);
        }
    }
    let cents: u64 = orders.values().sum();
    let revenue = query(&folder, "SELECT CAST(sum(revenue) AS DECIMAL(18, 2)) FROM current_profiles");
    assert_eq!(revenue, format!("{}.{:02}", cents / 100, cents % 100));

    // 0.5 % are broken, in six ways, and each with its reason.
    let kinds = query(&folder, "SELECT code, count(*) FROM rejected_events GROUP BY code ORDER BY code");
    assert_eq!(kinds, "bad_timestamp,10\ncontract,30\nduplicate_key,10\nnot_an_event,10\nnot_json,30\nnot_utf8,10");

    // Every identifier belongs to a profile that exists, and nobody has two.
    let lost =
        "SELECT count(*) FROM current_identifiers WHERE profile_id NOT IN (SELECT profile_id FROM current_profiles)";
    assert_eq!(query(&folder, lost), "0");

    // All messages were taken, some of them at the second attempt, under one id each.
    let outcomes = query(
        &folder,
        "SELECT outcome, count(*) FROM deliveries WHERE destination = 'crm' GROUP BY outcome ORDER BY outcome",
    );
    let taken = query(&folder, "SELECT count(DISTINCT delivery_id) FROM deliveries WHERE destination = 'crm'");
    assert_eq!(outcomes, format!("retry,5\nsent,{taken}"));
    let webhooks = section(&told, "Webhooks").join("\n");
    for figure in ["5  were refused; 5 came again", &format!("{}  different messages", thousands(&taken))] {
        assert!(webhooks.contains(figure), "{figure}\n{webhooks}");
    }
    // What the campaigns would have mailed is a line each, to people who agreed to it and to nobody else.
    let mailed = query(&folder, "SELECT count(*) FROM deliveries WHERE destination = 'mail' AND outcome = 'sent'");
    let lines = std::fs::read_to_string(folder.join("mails.ndjson")).expect("mails");
    assert_eq!(lines.lines().count().to_string(), mailed);
    assert!(lines.lines().count() > 100, "{mailed} mails");
    let unasked = "SELECT count(*) FROM deliveries d JOIN current_profiles p ON d.profile_id = p.profile_id \
         WHERE d.destination = 'mail' AND d.outcome = 'sent' AND p.consent_marketing IS NOT TRUE";
    assert_eq!(query(&folder, unasked), "0");
    assert!(section(&told, "One person").len() > 5, "{told}");
}

#[test]
fn what_the_demo_says_to_type_next_works() {
    let parent = tempfile::tempdir().expect("folder");
    let output = demo(parent.path(), &["--events", "2000", "--seed", "3"]);
    assert!(output.status.success(), "{}", text_of(&output));
    let told = String::from_utf8(output.stdout).expect("text");
    let typed: Vec<&str> =
        told.lines().skip_while(|line| !line.contains("What next")).filter(|line| line.starts_with("  ")).collect();
    assert!(typed.len() >= 6, "{typed:#?}");
    let script = format!("set -e\n{}\n", typed.join("\n"));
    let mut shell = in_folder(parent.path(), &[]);
    shell = {
        let mut sh = Command::new("sh");
        sh.args(["-c", &script]).current_dir(parent.path());
        for (name, value) in shell.get_envs() {
            match value {
                Some(value) => sh.env(name, value),
                None => sh.env_remove(name),
            };
        }
        sh
    };
    let output = shell.output().expect("sh");
    assert!(output.status.success(), "{script}\n{}", text_of(&output));
    let folder = parent.path().join("tributary-demo");
    // The order typed in went to a person who was known: the one that all of it ends with, e-mail address and all.
    let mine = "SELECT email FROM current_events AS e JOIN current_profiles AS p ON p.profile_id = e.profile_id \
                WHERE e.message_id = 'order:mine'";
    let email = query(&folder, mine);
    assert!(email.ends_with("@shop.example"), "{email:?}");
    assert!(text_of(&output).contains(&email), "{}", text_of(&output));
}

#[test]
fn a_folder_is_replaced_only_when_a_demo_made_all_of_it() {
    let parent = tempfile::tempdir().expect("folder");
    let again = ["--events", "1000", "--keep", "here"];
    for _ in 0..2 {
        let output = demo(parent.path(), &again);
        assert!(output.status.success(), "{}", text_of(&output));
    }
    let mine = parent.path().join("here/notes.txt");
    std::fs::write(&mine, "mine").expect("file");
    let output = demo(parent.path(), &again);
    assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
    assert!(text_of(&output).contains("notes.txt"), "{}", text_of(&output));
    assert_eq!(std::fs::read_to_string(&mine).expect("still there"), "mine");

    let other = parent.path().join("other");
    std::fs::create_dir(&other).expect("folder");
    std::fs::write(other.join("precious.csv"), "1").expect("file");
    let output = demo(parent.path(), &["--events", "1000", "--keep", "other"]);
    assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
    let left: BTreeSet<String> = std::fs::read_dir(&other)
        .expect("folder")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into())
        .collect();
    assert_eq!(left, BTreeSet::from(["precious.csv".to_string()]));
}

/// A number as the demo writes it.
fn thousands(number: &str) -> String {
    match number.len() {
        0..=3 => number.to_string(),
        length => format!("{},{}", &number[..length - 3], &number[length - 3..]),
    }
}
