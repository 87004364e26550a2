//! `identity split | ban | dry-run` and `explain profile` as their users run them, on both warehouses. The oracle of a
//! correction is a run of its own, from an empty folder, over files in which what it takes away had never been.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tributary::clock;
use tributary::query::{Output, Target, query, render};

use crate::support::{Running, Servers, block_on, eventually, output_of, servers, tributary, unique};

const PIPELINE: &str = r#"pipeline: people
sources:
  site: { file: { path: site/*.ndjson }, format: { json: segment } }
  till: { file: { path: till/*.ndjson }, format: { json: segment } }
dedupe: { within: forever }
traits:
  name:     { latest: traits.name }
  city:     { first: traits.city }
  orders:   { count: "*", event: Order Completed }
  revenue:  { sum: properties.total, event: Order Completed }
  biggest:  { max: properties.total, event: Order Completed }
  last_buy: { max: timestamp, event: Order Completed }
segments:
  buyers: "orders >= 1"
  good:   "revenue > 900"
  loyal:  "orders >= 10"
  local:  "city = 'Ulm'"
destinations:
  crm: { webhook: { url: "http://127.0.0.1:9/" } }
activations:
  buyers_in:  { trigger: { enters: buyers }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
  buyers_out: { trigger: { exits: buyers }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
  good_in:    { trigger: { enters: good }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
  good_out:   { trigger: { exits: good }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
  loyal_in:   { trigger: { enters: loyal }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
  loyal_out:  { trigger: { exits: loyal }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
  local_in:   { trigger: { enters: local }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
  local_out:  { trigger: { exits: local }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
warehouse:
  clickhouse: { url: "${env:CLICKHOUSE_URL:-}", database: "${env:CLICKHOUSE_DATABASE:-people}" }
"#;

const RULES: &str = r#"identity:
  identifiers:
    - user_id
    - email: { normalize: email }
    - phone: { normalize: e164, region: DE }
    - anonymous_id
"#;

/// The last file name is the newest, since files are read in the order of their names.
const FIRST: &str = "site/1.ndjson";
const MORE: &str = "site/2.ndjson";
const AGAIN: &str = "site/3.ndjson";

/// A pipeline with a data folder of its own; with ClickHouse also a database.
struct Shop {
    folder: tempfile::TempDir,
    clickhouse: Option<(String, String)>,
}

/// What an analyst sees of identity, by the view it is in. Lines are rows, sorted.
type Seen = BTreeMap<&'static str, Vec<String>>;

/// How a command ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Shop {
    fn new(clickhouse: Option<&str>) -> Shop {
        let shop = Shop {
            folder: tempfile::tempdir().expect("folder"),
            clickhouse: clickhouse.map(|url| (url.to_string(), unique("people"))),
        };
        for folder in ["site", "till"] {
            std::fs::create_dir(shop.path(folder)).expect("folder");
        }
        std::fs::write(shop.path("people.yaml"), PIPELINE).expect("file");
        shop.rules(RULES);
        // Both folders have a file, so that a drain has something to read.
        shop.write("till/0.ndjson", &[]);
        shop.write("site/0.ndjson", &[]);
        shop
    }

    /// One on each warehouse.
    fn both() -> [Shop; 2] {
        [Shop::new(None), Shop::new(Some(&servers().clickhouse))]
    }

    fn rules(&self, rules: &str) {
        std::fs::write(self.path("identity.yaml"), rules).expect("file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds events to the end of a file.
    fn write(&self, name: &str, events: &[Event]) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.path(name)).expect("file");
        let lines: String = events.iter().map(|event| format!("{}\n", event.0)).collect();
        file.write_all(lines.as_bytes()).expect("written");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = tributary(args);
        command.arg("-C").arg(self.folder.path()).arg("--data").arg(self.path("data"));
        if let Some((url, database)) = &self.clickhouse {
            command.env("CLICKHOUSE_URL", url).env("CLICKHOUSE_DATABASE", database);
        }
        command
    }

    fn end(&self, args: &[&str]) -> Ended {
        let output = self.command(args).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Must end well; gives what it said on stderr.
    fn well(&self, args: &[&str]) -> String {
        let ended = self.end(args);
        assert_eq!(ended.code, Some(0), "{args:?}: {}{}", ended.stdout, ended.stderr);
        ended.stderr
    }

    fn drain(&self) {
        self.well(&["run", "--drain"]);
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut command = self.command(args);
        command.args(["--output", "json"]);
        let text = output_of(command);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}\n{text}"))
    }

    /// The status of the running process or of the state; null while there is none.
    fn status(&self) -> Value {
        let output = self.command(&["status", "--output", "json"]).output().expect("the program starts");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Starts `run` without an end, and waits until it takes commands.
    fn run(&self) -> Running {
        let mut command = self.command(&["run"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running::start(command);
        eventually("the process takes commands", || self.status()["ready"] == true, |ready| *ready);
        running
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        let target = match &self.clickhouse {
            None => Target::Lake { root: self.path("data").to_str().expect("utf-8").to_string() },
            Some((url, database)) => {
                Target::ClickHouse { url: url.clone(), database: database.clone(), user: None, password: None }
            }
        };
        let sql = sql.to_string();
        let text = block_on(async move {
            let found = query(&target, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            render(&found, Output::Csv).expect("text")
        });
        text.lines().skip(1).map(str::to_string).collect()
    }

    fn count(&self, sql: &str) -> usize {
        self.rows(sql)[0].parse().expect("a number")
    }

    fn seen(&self) -> Seen {
        let queries = [
            (
                "profiles",
                "SELECT profile_id, first_seen, last_seen, events, name, city, orders, revenue, biggest, last_buy \
                 FROM current_profiles",
            ),
            ("identifiers", "SELECT type, value, profile_id, first_seen FROM current_identifiers"),
            ("members", "SELECT segment, profile_id FROM segment_members"),
            ("events", "SELECT message_id, profile_id, source FROM current_events"),
            ("active", "SELECT period, start, people FROM active_profiles"),
            ("sales", "SELECT day, currency, orders, revenue, refunds, refunded FROM daily_revenue"),
        ];
        let rows = |sql| {
            let mut rows = self.rows(sql);
            rows.sort();
            rows
        };
        queries.into_iter().map(|(name, sql)| (name, rows(sql))).collect()
    }

    /// Whose each event is: message id to profile, empty for nobody.
    fn owners(&self) -> BTreeMap<String, String> {
        let rows = self.rows("SELECT message_id, profile_id FROM current_events");
        let pair =
            |row: &String| row.split_once(',').map(|(a, b)| (a.to_string(), b.to_string())).expect("two columns");
        rows.iter().map(pair).collect()
    }

    fn assert_seen(&self, expected: &Seen, what: &str) {
        let seen = self.seen();
        for (view, rows) in expected {
            let (mine, theirs): (BTreeSet<_>, BTreeSet<_>) = (seen[view].iter().collect(), rows.iter().collect());
            assert!(
                seen[view] == *rows,
                "{what}, {}: {view} differs\nonly here: {:#?}\nmissing: {:#?}",
                self.name(),
                mine.difference(&theirs).take(10).collect::<Vec<_>>(),
                theirs.difference(&mine).take(10).collect::<Vec<_>>()
            );
        }
        self.assert_alternating(what);
    }

    /// Nobody enters a segment twice without having left it.
    fn assert_alternating(&self, what: &str) {
        let mut member: BTreeMap<String, bool> = BTreeMap::new();
        for row in self.rows("SELECT segment, profile_id, change FROM segment_changes ORDER BY _batch, _seq") {
            let (who, change) = row.rsplit_once(',').expect("three columns");
            let was = member.insert(who.to_string(), change == "entered").unwrap_or(false);
            assert_ne!(was, change == "entered", "{what}, {}: {who} {change} twice", self.name());
        }
    }

    fn name(&self) -> &'static str {
        if self.clickhouse.is_some() { "clickhouse" } else { "lake" }
    }

    /// Everything below the data folder with its size, but for what says who is running.
    fn files(&self) -> BTreeMap<PathBuf, u64> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, u64>) {
            for entry in std::fs::read_dir(folder).expect("folder") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    walk(&path, found);
                } else if !path.ends_with("heartbeat.json") && !path.ends_with("control.json") {
                    let size = path.metadata().expect("a file").len();
                    found.insert(path, size);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.path("data"), &mut found);
        found
    }
}

/// A run over these events alone.
fn fresh(events: &[Event]) -> Seen {
    let shop = Shop::new(None);
    shop.write(FIRST, events);
    shop.drain();
    shop.seen()
}

/// An event as Segment's libraries write it.
#[derive(Debug, Clone)]
struct Event(Value);

impl Event {
    /// Where an identifier of this type stands.
    fn place(kind: &str) -> &'static str {
        match kind {
            "user_id" => "/userId",
            "anonymous_id" => "/anonymousId",
            "email" => "/traits/email",
            _ => "/traits/phone",
        }
    }

    fn has(&self, name: &str) -> bool {
        let (kind, value) = name.split_once(':').expect("type:value");
        self.0.pointer(Event::place(kind)).is_some_and(|found| found == value)
    }

    fn without(mut self, name: &str) -> Event {
        if self.has(name) {
            let (kind, _) = name.split_once(':').expect("type:value");
            let (above, field) = Event::place(kind).rsplit_once('/').expect("a path");
            let object = self.0.pointer_mut(above).and_then(Value::as_object_mut);
            object.expect("an object").remove(field);
        }
        self
    }
}

fn time(random: &mut fastrand::Rng) -> String {
    let at = 1_772_000_000 + random.i64(0..400_000);
    chrono::DateTime::from_timestamp(at, 0).expect("a time").to_rfc3339()
}

/// Events of the people with these names: `n` is `user_id:un`, `anonymous_id:an`, and has an e-mail address. The first
/// event of each names all three.
fn history(random: &mut fastrand::Rng, names: &[&str], count: usize, prefix: &str) -> Vec<Event> {
    let mut events: Vec<Event> = (0..count)
        .map(|number| {
            let name = if number < names.len() { names[number] } else { names[random.usize(0..names.len())] };
            let (user, anonymous) = (format!("u{name}"), format!("a{name}"));
            let id = format!("{prefix}{number}");
            let at = time(random);
            Event(match random.u8(0..3) {
                kind if kind == 0 || number < names.len() => {
                    let city = ["Ulm", "Bonn", "Kiel"][random.usize(0..3)];
                    let traits = json!({ "email": format!("{name}@shop.example"), "name": format!("N{number}"), "city": city });
                    json!({ "type": "identify", "messageId": id, "userId": user, "anonymousId": anonymous, "traits": traits, "timestamp": at })
                }
                1 => {
                    let total = f64::from(random.u32(1..20_000)) / 100.0;
                    let properties = json!({ "order_id": id, "total": total, "currency": "EUR" });
                    json!({ "type": "track", "event": "Order Completed", "messageId": id, "userId": user, "properties": properties, "timestamp": at })
                }
                _ => json!({ "type": "track", "event": "Looked", "messageId": id, "anonymousId": anonymous, "timestamp": at }),
            })
        })
        .collect();
    random.shuffle(&mut events);
    events
}

/// The mistake of signing in on another's device.
fn wrong(id: &str, user: &str, anonymous: &str) -> Event {
    let at = "2026-02-26T12:00:00Z";
    let traits = json!({ "city": "Wrong" });
    Event(
        json!({ "type": "identify", "messageId": id, "userId": format!("u{user}"), "anonymousId": format!("a{anonymous}"), "traits": traits, "timestamp": at }),
    )
}

/// The number of the shop itself, given by whoever has none.
fn shared_phone(id: &str, user: &str, phone: &str) -> Event {
    let at = "2026-02-26T13:00:00Z";
    Event(
        json!({ "type": "identify", "messageId": id, "userId": format!("u{user}"), "traits": { "phone": phone }, "timestamp": at }),
    )
}

fn seed(name: &str) -> fastrand::Rng {
    let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("{name}={seed}");
    fastrand::Rng::with_seed(seed)
}

/// A correction, and the events without what it takes away.
struct Case {
    args: Vec<String>,
    bad: Vec<Event>,
    clean: Box<dyn Fn(Event) -> Event>,
}

fn texts(args: &[&str]) -> Vec<String> {
    args.iter().map(ToString::to_string).collect()
}

impl Case {
    fn link(left: &str, right: &str) -> Case {
        let (a, b) = (format!("user_id:u{left}"), format!("anonymous_id:a{right}"));
        Case {
            args: texts(&["identity", "split", "--link", &a, &b]),
            bad: vec![wrong(&format!("bad{left}"), left, right)],
            clean: Box::new(move |event| if event.has(&a) { event.without(&b) } else { event }),
        }
    }

    fn event(left: &str, right: &str) -> Case {
        let id = format!("bad{left}");
        Case {
            args: texts(&["identity", "split", "--event", &id]),
            bad: vec![wrong(&id, left, right)],
            clean: {
                let names = [format!("user_id:u{left}"), format!("anonymous_id:a{right}")];
                Box::new(move |event| match event.0["messageId"] == *id {
                    true => names.iter().fold(event, |event, name| event.without(name)),
                    false => event,
                })
            },
        }
    }

    /// `number`: two digits, for a phone number of its own.
    fn ban(left: &str, right: &str, number: usize) -> Case {
        let phone = format!("030 9018{:02}", number % 100);
        let named = format!("phone:{phone}");
        Case {
            // Written as nobody wrote it before.
            args: texts(&["identity", "ban", &format!("phone:+49 (30) 9018-{:02}", number % 100)]),
            bad: vec![
                shared_phone(&format!("bad{left}"), left, &phone),
                shared_phone(&format!("bad{left}-{right}"), right, &phone),
            ],
            clean: Box::new(move |event| event.without(&named)),
        }
    }

    fn args(&self) -> Vec<&str> {
        self.args.iter().map(String::as_str).collect()
    }
}

/// The whole way of one correction: before it, after it, with later events, with copies, and asked for again.
fn is_the_inverse(case: &Case, random: &mut fastrand::Rng, activate: bool) {
    let names = ["1", "2", "3", "4"];
    let mut events = history(random, &names, 120, "m");
    let middle = events.len() / 2;
    events.splice(middle..middle, case.bad.iter().cloned());
    let mut more = history(random, &names, 40, "n");
    if !case.args.contains(&"--event".to_string()) {
        // The same mistake once more, which must not count any longer.
        more.extend(case.bad.iter().map(|event| {
            let mut event = event.clone();
            event.0["messageId"] = format!("again-{}", event.0["messageId"].as_str().expect("text")).into();
            event
        }));
    }
    let clean = |events: &[Event]| events.iter().cloned().map(&case.clean).collect::<Vec<_>>();
    let oracle = Shop::new(None);
    oracle.write(FIRST, &clean(&events));
    oracle.drain();
    let expected = oracle.seen();
    oracle.write(MORE, &clean(&more));
    oracle.drain();
    let expected_later = oracle.seen();

    for shop in Shop::both() {
        shop.write(FIRST, &events);
        shop.drain();
        assert_eq!(shop.seen()["profiles"].len(), 3, "two people are one");
        let deliveries = "SELECT count(*) AS n FROM deliveries";
        let before = shop.count(deliveries);
        let mut args = case.args();
        args.extend(activate.then_some("--activate"));
        let corrected = shop.json(&args);
        assert_eq!(corrected["profiles"].as_array().map(Vec::len), Some(2), "{corrected}");
        assert_eq!(corrected["refused"], Value::Null);
        shop.assert_seen(&expected, "after the correction");

        let changes = shop.count("SELECT count(*) AS n FROM segment_changes WHERE cause = 'split'");
        assert!(changes > 0, "somebody entered or left");
        assert_eq!(
            corrected["entered"].as_u64().zip(corrected["exited"].as_u64()).map(|(a, b)| a + b),
            Some(changes as u64)
        );
        let told = shop.count(deliveries) - before;
        assert_eq!(told, if activate { changes } else { 0 }, "deliveries, {}", shop.name());

        shop.write(MORE, &more);
        shop.drain();
        shop.assert_seen(&expected_later, "with later events");
        std::fs::copy(shop.path(FIRST), shop.path(AGAIN)).expect("copied");
        shop.drain();
        assert_eq!(shop.status()["totals"]["duplicates"], events.len() as u64);
        shop.assert_seen(&expected_later, "after the same file once more");
        let said = shop.well(&case.args());
        assert!(said.contains("nobody had to be taken apart"), "{said}");
        shop.assert_seen(&expected_later, "after the same correction once more");
    }
}

#[test]
fn a_split_link_gives_the_people_of_a_run_in_which_it_was_never_made() {
    is_the_inverse(&Case::link("1", "2"), &mut seed("SPLIT_LINK_SEED"), false);
}

#[test]
fn a_struck_event_gives_the_people_of_a_run_in_which_it_named_nobody() {
    is_the_inverse(&Case::event("1", "2"), &mut seed("SPLIT_EVENT_SEED"), true);
}

#[test]
fn a_banned_value_gives_the_people_of_a_run_that_never_had_it() {
    is_the_inverse(&Case::ban("1", "2", 20), &mut seed("BAN_SEED"), true);
}

/// Four identifiers in a ring of links, a stranger, and a message id that two sources have.
fn ring(shop: &Shop) {
    let track = |id: &str, user: Option<&str>, email: Option<&str>, anonymous: Option<&str>| {
        let at = "2026-03-01T10:00:00Z";
        let kind = if email.is_some() { "identify" } else { "track" };
        Event(
            json!({ "type": kind, "event": "Looked", "messageId": id, "userId": user, "anonymousId": anonymous, "traits": { "email": email }, "timestamp": at }),
        )
    };
    shop.write(
        FIRST,
        &[
            track("r1", Some("u1"), Some("ann@shop.example"), None),
            track("r2", None, Some("Ann@Shop.example"), Some("a1")),
            track("r3", Some("u1"), None, Some("a1")),
            track("r4", Some("u1"), None, Some("a1")),
            track("r5", None, None, Some("a9")),
            track("it's \\ 5", None, None, Some("a9")),
            track("both", None, None, Some("a9")),
        ],
    );
    shop.write("till/1.ndjson", &[track("both", Some("u7"), None, None)]);
    shop.drain();
}

/// What cannot be done says why, with the right exit code, and changes nothing.
#[test]
fn a_correction_that_cannot_be_says_why() {
    let wrong: &[(&[&str], i32, &str)] = &[
        (&["split", "--link", "user_id:u1", "anonymous_id:a77"], 1, "no event has named anonymous_id:a77"),
        (&["split", "--link", "user_id:u66", "anonymous_id:a1"], 1, "no event has named user_id:u66"),
        (&["split", "--link", "user_id:u1", "cookie:a1"], 1, "there is no identifier type `cookie`; there are user_id"),
        (&["split", "--link", "user_id:u1", "ann"], 1, "`ann` is neither a profile id"),
        (&["split", "--link", "user_id:u1", "email:ann"], 1, "`ann` is no email"),
        (&["split", "--link", "user_id:u1", "user_id:u1"], 1, "are the same identifier"),
        (&["split", "--link", "user_id:u1"], 2, "--link"),
        (&["split"], 2, "--link"),
        (&["split", "--link", "user_id:u1", "anonymous_id:a1", "--event", "r1"], 2, "cannot be used with"),
        (&["split", "--source", "site", "--link", "user_id:u1", "anonymous_id:a1"], 2, "cannot be used with"),
        (&["split", "--event", "r77"], 1, "no stored event has the message id r77"),
        (&["split", "--event", "r1", "--source", "till"], 1, "no stored event has the message id r1"),
        (&["split", "--event", "both"], 1, "2 events have the message id both; say which with --source: site, till"),
        (&["split", "--event", "it's' \\"], 1, "no stored event"),
        (&["ban", "phone:12"], 1, "`12` is no phone"),
        (&["ban", "email:ann"], 1, "`ann` is no email"),
        (&["ban", "user_id:"], 1, "`` is no user_id"),
        (&["ban"], 2, "IDENTIFIER"),
    ];
    for shop in Shop::both() {
        ring(&shop);
        let before = shop.seen();
        for (args, code, text) in wrong {
            let ended = shop.end(&[&["identity"][..], args].concat());
            assert_eq!(ended.code, Some(*code), "{args:?}: {}", ended.stderr);
            assert!(ended.stderr.contains(text), "{args:?}: {}", ended.stderr);
            assert_eq!(ended.stdout, "", "{args:?}");
        }
        shop.assert_seen(&before, "nothing was changed");
    }
}

/// What changes nobody, or leaves one person, says so and ends well.
#[test]
fn a_correction_says_what_it_came_to() {
    for shop in Shop::both() {
        ring(&shop);
        let before = shop.seen();
        let steps: &[(&[&str], &str, usize)] = &[
            (&["split", "--link", "user_id:u1", "anonymous_id:a9"], "nobody had to be taken apart", 0),
            (&["ban", "email:never@shop.example"], "nobody had to be taken apart", 0),
            // Two links hold the ring together when one is cut.
            (&["split", "--link", "anonymous_id:a1", "user_id:u1"], "is still one person", 1),
            (&["split", "--link", "user_id:u1", "anonymous_id:a1"], "nobody had to be taken apart", 0),
        ];
        for (args, text, people) in steps {
            let ended = shop.end(&[&["identity"][..], args].concat());
            assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
            assert!(ended.stderr.contains(text), "{args:?}: {}", ended.stderr);
            assert_eq!(ended.stdout.lines().count(), *people, "{args:?}: {}", ended.stdout);
        }
        shop.assert_seen(&before, "the same people");
        let ended = shop.end(&["identity", "split", "--link", "user_id:u1", "email:ANN@shop.example"]);
        assert!(ended.stderr.contains("is now 2 profiles"), "{}", ended.stderr);
        let ids: Vec<&str> = ended.stdout.lines().collect();
        assert_eq!(ids.len(), 2);
        for who in ["user_id:u1", "anonymous_id:a1"] {
            let found = shop.json(&["explain", "profile", who])["profile_id"].as_str().expect("an id").to_string();
            assert!(ids.contains(&found.as_str()), "{who}");
        }
        // An event of one source is struck; that of the other with the same id stays.
        shop.well(&["identity", "split", "--event", "both", "--source", "till"]);
        let said = shop.well(&["identity", "split", "--event", "it's \\ 5"]);
        assert!(said.contains("counts for nobody"), "{said}");
        let nobodys = shop.rows("SELECT message_id, source FROM current_events WHERE profile_id IS NULL ORDER BY 1");
        assert_eq!(nobodys, ["both,till", "it's \\ 5,site"]);
        // The last that is known of a person: they are no more, and what they were in is left.
        let ended = shop.end(&["identity", "ban", "anonymous_id:a9", "--activate"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("is no more: all of its events are nobody's"), "{}", ended.stderr);
        assert_eq!(ended.stdout, "");
        shop.assert_alternating("at the end");
        // Banned values and strangers that were cut stay apart, whatever comes.
        shop.write(MORE, &[wrong("later", "1", "9")]);
        shop.drain();
        assert_eq!(shop.count("SELECT count(*) AS n FROM current_identifiers WHERE value = 'a9'"), 0);
    }
}

/// A person whose only identifier is banned leaves their segments, and those are told who wanted to know.
#[test]
fn a_person_who_is_no_more_leaves_their_segments() {
    for shop in Shop::both() {
        let order = |id: &str| json!({ "type": "track", "event": "Order Completed", "messageId": id, "userId": "till", "properties": { "order_id": id, "total": 20.0, "currency": "EUR" }, "timestamp": "2026-03-01T10:00:00Z" });
        shop.write(FIRST, &[Event(order("o1")), Event(order("o2"))]);
        shop.drain();
        assert_eq!(shop.seen()["members"].len(), 1);
        shop.well(&["identity", "ban", "user_id:till", "--activate"]);
        let seen = shop.seen();
        assert_eq!((seen["members"].len(), seen["profiles"].len(), seen["identifiers"].len()), (0, 0, 0));
        shop.assert_alternating("after the ban");
        shop.write(MORE, &[Event(order("o3"))]);
        shop.drain();
        assert_eq!(shop.seen()["profiles"].len(), 0);
        assert_eq!(shop.count("SELECT count(*) AS n FROM current_events WHERE profile_id IS NULL"), 3);
    }
}

/// Commands go to the running process, and the stream goes on meanwhile.
#[test]
fn a_running_process_carries_corrections_out_while_the_stream_goes_on() {
    let mut random = seed("RUNNING_SEED");
    let cases = [Case::link("1", "2"), Case::ban("3", "4", 21)];
    for shop in Shop::both() {
        let mut events = history(&mut random, &["1", "2", "3", "4", "5"], 600, "m");
        events.extend(cases.iter().flat_map(|case| case.bad.clone()));
        shop.write(FIRST, &events);
        let mut running = shop.run();
        eventually("all is read", || shop.status()["totals"]["events"].as_u64(), |n| *n == Some(events.len() as u64));
        for (round, case) in cases.iter().enumerate() {
            let mut command = shop.command(&case.args());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().expect("the program starts");
            let more = history(&mut random, &["1", "2", "3", "4", "5"], 100, &format!("more{round}-"));
            for part in more.chunks(10) {
                shop.write(FIRST, part);
            }
            events.extend(more);
            let output = child.wait_with_output().expect("a child");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("is now 2 profiles"), "{said}");
            assert!(running.0.try_wait().expect("a child").is_none(), "the process goes on");
        }
        let clean = events.iter().cloned().map(&cases[0].clean).map(&cases[1].clean).collect::<Vec<_>>();
        let expected = fresh(&clean);
        eventually("the tables are as without the mistakes", || shop.seen() == expected, |same| *same);
        shop.assert_seen(&expected, "while it runs");
        assert_eq!(shop.status()["rebuild"], Value::Null);
        let pid = running.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        assert!(running.0.wait().expect("a child").success(), "it stops well");
    }
}

/// Kills at random moments, of the command or of the running process that carries it out: each correction is there
/// whole or not at all, the next run goes on with one that had begun, and asking again is safe.
fn survives_kills(clickhouse: Option<&str>) {
    const ROUNDS: usize = 12;
    /// More are made where none of the kills came in the middle of a rebuild.
    const ROUNDS_MAX: usize = 20;
    let mut random = seed("KILL_SEED");
    let shop = Shop::new(clickhouse);
    // One person with a long history, which every rebuild has to read, and many who were joined with them by mistake;
    // two more for measuring how long a correction takes.
    let mut events = history(&mut random, &["0"], 20_000, "m");
    let cases: Vec<Case> = (0..ROUNDS_MAX + 2)
        .map(|number| {
            let name = format!("w{number}");
            events.extend(history(&mut random, &[&name], 50, &format!("{name}-")));
            let case = match number % 3 {
                0 => Case::link(&name, "0"),
                1 => Case::event(&name, "0"),
                _ => Case::ban(&name, "0", number + 30),
            };
            events.extend(case.bad.iter().cloned());
            case
        })
        .collect();
    shop.write(FIRST, &events);
    shop.drain();
    let mut corrected = vec![ROUNDS_MAX, ROUNDS_MAX + 1];
    let started = clock::instant();
    shop.well(&cases[ROUNDS_MAX].args());
    let alone = started.elapsed();
    let through_control = {
        let mut running = shop.run();
        let started = clock::instant();
        shop.well(&cases[ROUNDS_MAX + 1].args());
        let took = started.elapsed();
        running.kill();
        took
    };
    let (mut before, mut inside, mut answered) = (0, 0, 0);
    for (round, case) in cases.iter().enumerate().take(ROUNDS_MAX) {
        if round >= ROUNDS && inside > 0 {
            break;
        }
        corrected.push(round);
        let running = (round % 2 == 1).then(|| shop.run());
        let usual = if running.is_some() { through_control } else { alone };
        // Spread over the whole time and a little more.
        let share = ((round / 2) as f64 + random.f64()) / (ROUNDS / 2) as f64 % 1.0 * 1.1;
        let mut command = shop.command(&case.args());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut command = Running::start(command);
        std::thread::sleep(Duration::from_micros((usual.as_micros() as f64 * share) as u64));
        let had_answered = command.0.try_wait().expect("a child");
        match running {
            Some(mut running) => {
                running.kill();
                let ended = command.0.wait().expect("a child").code();
                assert!(matches!(ended, Some(0 | 3)), "round {round}: {ended:?}");
            }
            None => command.kill(),
        }
        let half_done = shop.status()["rebuild"].is_string();
        assert!(had_answered.is_none_or(|status| status.success() && !half_done), "round {round}: {had_answered:?}");
        match (had_answered.is_some(), half_done) {
            (true, _) => answered += 1,
            (false, true) => inside += 1,
            (false, false) => before += 1,
        }
        shop.drain();
        assert_eq!(shop.status()["rebuild"], Value::Null, "round {round}");
        let said = shop.well(&case.args());
        if half_done || had_answered.is_some() {
            assert!(said.contains("nobody had to be taken apart"), "round {round}: {said}");
        }
    }
    println!(
        "{}: usually {alone:?} and {through_control:?}; killed {inside} times in a rebuild, {answered} after it, {before} else",
        shop.name()
    );
    assert!(inside > 0, "no kill came between the beginning and the switch of a rebuild");
    let clean = |event: Event| corrected.iter().fold(event, |event, pair| (cases[*pair].clean)(event));
    shop.assert_seen(&fresh(&events.into_iter().map(clean).collect::<Vec<_>>()), "after all kills");
}

#[test]
fn a_kill_in_the_middle_of_a_correction_loses_nothing_on_the_lake() {
    survives_kills(None);
}

#[test]
fn a_kill_in_the_middle_of_a_correction_loses_nothing_on_clickhouse() {
    survives_kills(Some(&servers().clickhouse));
}

/// Rules that part people, and rules that join them, against runs under these rules.
#[test]
fn a_dry_run_tells_what_a_run_under_the_rules_would_make() {
    let mut random = seed("DRY_RUN_SEED");
    let limited = RULES.replace("- user_id", "- user_id: { limit: 1 }");
    let wider = format!("{RULES}    - card: {{ from: traits.card }}\n");
    let mut events = history(&mut random, &["1", "2", "3", "4", "5", "6"], 150, "m");
    events.extend([
        wrong("bad", "1", "2"),
        shared_phone("p3", "3", "030 901822"),
        shared_phone("p4", "4", "030 901822"),
    ]);
    for (id, user) in [("c5", "u5"), ("c6", "u6")] {
        let traits = json!({ "card": "4711" });
        events.push(Event(json!({ "type": "identify", "messageId": id, "userId": user, "traits": traits, "timestamp": "2026-02-28T10:00:00Z" })));
    }
    events.push(Event(
        json!({ "type": "track", "event": "Looked", "messageId": "none", "timestamp": "2026-02-28T10:00:00Z" }),
    ));
    for shop in Shop::both() {
        shop.write(FIRST, &events);
        shop.drain();
        let today = shop.owners();
        let before = shop.files();
        for (rules, splits, merges) in [(RULES, 0, 0), (limited.as_str(), 2, 0), (wider.as_str(), 0, 1)] {
            let file = shop.path("try.rules");
            std::fs::write(&file, rules).expect("file");
            let args = ["identity", "dry-run", "--rules", file.to_str().expect("utf-8")];
            let told = shop.json(&args);
            let text = shop.end(&args);
            assert_eq!(text.code, Some(0), "{}", text.stderr);

            let other = Shop::new(None);
            other.rules(rules);
            other.write(FIRST, &events);
            other.drain();
            let then = other.owners();
            let several = |of: &BTreeMap<String, String>, into: &BTreeMap<String, String>| {
                let mut parts: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
                for (message, owner) in of.iter().filter(|(_, owner)| !owner.is_empty()) {
                    parts.entry(owner).or_default().insert(&into[message]);
                }
                parts.values().filter(|into| into.len() > 1).count()
            };
            let people = |owners: &BTreeMap<String, String>| {
                owners.values().filter(|owner| !owner.is_empty()).collect::<BTreeSet<_>>().len()
            };
            assert_eq!(
                (several(&today, &then), several(&then, &today)),
                (splits, merges),
                "the rules do what they are for"
            );
            let conflicts = other.count("SELECT count(*) AS n FROM identity_conflicts");
            let refused: u64 = told["refused"].as_object().expect("counts").values().filter_map(Value::as_u64).sum();
            let expected = json!({
                "events": events.len(), "without_profile": 1, "splits": splits, "merges": merges,
                "profiles_before": people(&today), "profiles_after": people(&then),
            });
            for (name, value) in expected.as_object().expect("figures") {
                assert_eq!(told[name], *value, "{name} under {rules}");
            }
            assert_eq!(refused, conflicts as u64, "{told}");
            assert_eq!(told["split_examples"].as_array().map(Vec::len), Some(splits));
            assert_eq!(told["merge_examples"].as_array().map(Vec::len), Some(merges));
            for person in told["largest"].as_array().expect("people") {
                let id = person["profile_id"].as_str().expect("an id");
                let mine =
                    |table: &str| other.count(&format!("SELECT count(*) AS n FROM {table} WHERE profile_id = '{id}'"));
                assert_eq!(person["identifiers"], mine("current_identifiers"), "{id}");
                assert_eq!(person["events"], mine("current_events"), "{id}");
            }
            for line in [
                format!("events read:        {}", events.len()),
                format!("profiles today:     {}", people(&today)),
                format!("under these rules:  {}", people(&then)),
                format!("merged:             {merges} would"),
                format!("split:              {splits} of"),
            ] {
                assert!(text.stdout.contains(&line), "{line}\n{}", text.stdout);
            }
            assert_eq!(text.stdout.contains("would be 2 profiles"), splits > 0, "{}", text.stdout);
        }
        // A part of the past.
        let file = shop.path("try.rules");
        let args = ["identity", "dry-run", "--rules", file.to_str().expect("utf-8"), "--since", "2026-02-27"];
        let since = "SELECT count(*) AS n FROM events WHERE timestamp >= CAST('2026-02-27 00:00:00' AS TIMESTAMP)";
        let wanted = shop.count(since);
        assert!(wanted > 0 && wanted < events.len());
        assert_eq!(shop.json(&args)["events"], wanted);
        // Both sides know the same part of it: the rules of today split and merge nobody.
        let same = shop.path("identity.yaml");
        let same = ["identity", "dry-run", "--rules", same.to_str().expect("utf-8"), "--since", "2026-02-27"];
        let report = shop.json(&same);
        assert_eq!((&report["merges"], &report["splits"]), (&0.into(), &0.into()), "{report}");
        assert_eq!(shop.end(&[&args[..5], &["yesterday"]].concat()).code, Some(2));
        assert_eq!(shop.end(&["identity", "dry-run", "--rules", "none.yaml"]).code, Some(1));
        assert_eq!(shop.files(), before, "nothing in the data folder was touched");
    }
}

#[test]
fn explain_tells_why_identifiers_are_one_person() {
    for shop in Shop::both() {
        shop.rules(&RULES.replace("- phone: { ", "- phone: { limit: 1, "));
        let mut random = fastrand::Rng::with_seed(1);
        // A file each, so that both have been shown under ids of their own before they are joined.
        shop.write(FIRST, &history(&mut random, &["1", "2"], 2, "m"));
        shop.write(FIRST, &[shared_phone("p1", "1", "030 901823"), shared_phone("p2", "1", "030 901824")]);
        shop.drain();
        let former =
            |who: &str| shop.json(&["explain", "profile", who])["profile_id"].as_str().expect("an id").to_string();
        let ids = [former("user_id:u1"), former("user_id:u2")];
        assert_ne!(ids[0], ids[1]);
        shop.write(MORE, &[wrong("bad", "1", "2"), wrong("worse", "1", "2")]);
        shop.drain();

        let now = former("user_id:u1");
        let gone = ids.iter().find(|id| **id != now).expect("one was absorbed");
        let told = shop.json(&["explain", "profile", "email: 1@Shop.EXAMPLE"]);
        for who in [&now, gone, "anonymous_id:a2", "phone:+49-30-901823"] {
            assert_eq!(shop.json(&["explain", "profile", who]), told, "{who}");
        }
        assert_eq!(told["former_ids"], json!([gone]));
        assert_eq!(told["identifiers"].as_array().map(Vec::len), Some(7));
        let links = told["links"].as_array().expect("links");
        assert_eq!(links.len(), 6, "a tree: {told}");
        assert!(links.iter().any(|link| link["message_id"] == "bad"));
        let support =
            told["supports"].as_array().expect("supports").iter().find(|support| support["events"][0] == "bad");
        assert_eq!(support.map(|support| &support["events"]), Some(&json!(["bad", "worse"])));
        assert_eq!(told["merges"][0]["old_profile_id"], **gone);
        assert_eq!(told["conflicts"][0]["message_id"], "p2");

        let text = shop.end(&["explain", "profile", gone]).stdout;
        for part in [
            format!("profile {now}\n"),
            format!("{gone} is a former id of it"),
            "7 identifiers".to_string(),
            "⟵ event bad of 2026-02-26T12:00:00.000Z at site:site/2.ndjson/0@1, and 1 more".to_string(),
            format!("{gone} became {now} (merge, event bad)"),
            "phone:+4930901824 of nobody yet was not joined to".to_string(),
        ] {
            assert!(text.contains(&part), "{part}\n{text}");
        }

        shop.well(&["identity", "split", "--link", "user_id:u1", "anonymous_id:a2"]);
        // Both sides tell of it, and neither has the other's identifiers.
        for who in ["user_id:u1", "user_id:u2"] {
            let text = shop.end(&["explain", "profile", who]).stdout;
            assert!(text.contains(&format!("{gone} stands for itself again (split)")), "{who}\n{text}");
            assert!(text.contains(&format!("{gone} became {now} (merge, event bad)")), "{who}\n{text}");
        }
        assert_eq!(former("anonymous_id:a2"), former(&ids[1]));
        assert_eq!(former("anonymous_id:a1"), ids[0]);

        for (who, text) in [
            ("user_id:u9", "nobody is known by user_id:u9"),
            ("00000000000000000000000000000000", "nobody is known by 0000"),
            ("ann", "`ann` is neither a profile id (32 hex digits) nor type:value"),
            ("cookie:1", "there is no identifier type `cookie`"),
            ("email:ann", "`ann` is no email"),
        ] {
            let ended = shop.end(&["explain", "profile", who]);
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{who}");
            assert!(ended.stderr.contains(text), "{who}: {}", ended.stderr);
        }
    }
    let nothing = Shop::new(None);
    let ended = nothing.end(&["explain", "profile", "user_id:u1"]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("there is no state"), "{}", ended.stderr);
}

/// ClickHouse goes away before the history is read: whoever asked is told what is waited for, and it goes on by itself.
#[test]
fn a_correction_waits_for_a_clickhouse_that_is_away() {
    let mut random = seed("AWAY_SEED");
    let own = Servers::up(&["clickhouse"]);
    let shop = Shop::new(Some(&own.clickhouse));
    let cases = [Case::ban("1", "2", 25), Case::link("3", "4")];
    let mut events = history(&mut random, &["1", "2", "3", "4"], 100, "m");
    events.extend(cases.iter().flat_map(|case| case.bad.clone()));
    shop.write(FIRST, &events);
    shop.drain();

    let mut running = shop.run();
    own.stop("clickhouse");
    let start = |case: &Case, log: &str| {
        let mut command = shop.command(&case.args());
        command.stdout(Stdio::null()).stderr(std::fs::File::create(shop.path(log)).expect("file"));
        Running::start(command)
    };
    let mut asked = [start(&cases[0], "first.log"), start(&cases[0], "second.log")];
    let rebuild = || shop.status()["rebuild"].as_str().unwrap_or_default().to_string();
    eventually("the status says what it waits for", rebuild, |text| text.contains("the stored events cannot be read"));
    let other = shop.end(&cases[1].args());
    assert!(
        other.code == Some(3) && other.stderr.contains("another correction is being carried out"),
        "{}",
        other.stderr
    );
    // The stream goes on.
    let more = history(&mut random, &["1", "2", "3", "4"], 30, "n");
    shop.write(MORE, &more);
    events.extend(more);
    eventually(
        "later events are applied",
        || shop.status()["totals"]["events"].as_u64(),
        |n| *n == Some(events.len() as u64),
    );
    assert!(asked.iter_mut().all(|asked| asked.0.try_wait().expect("a child").is_none()), "both wait");
    own.start("clickhouse");
    for asked in &mut asked {
        assert!(asked.0.wait().expect("a child").success());
    }
    let clean = events.iter().cloned().map(&cases[0].clean).collect::<Vec<_>>();
    let expected = fresh(&clean);
    eventually("the tables are as without the number", || shop.seen() == expected, |same| *same);
    running.kill();

    // With nobody running, the command itself waits and says why.
    own.stop("clickhouse");
    let mut asked = start(&cases[1], "third.log");
    let log = || std::fs::read_to_string(shop.path("third.log")).expect("text");
    eventually("the command says what it waits for", log, |text| {
        text.contains("a correction waits for the history that it needs")
    });
    own.start("clickhouse");
    assert!(asked.0.wait().expect("a child").success(), "{}", log());
    shop.assert_seen(&fresh(&clean.into_iter().map(&cases[1].clean).collect::<Vec<_>>()), "at the end");
    own.down();
}
