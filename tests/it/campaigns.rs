//! The four campaigns of `pipelines/shop`, from made-up traffic to a real mail server and a webhook: what people are sent is what
//! the definitions say of them, worked out here from the traffic alone; and dying on the way changes nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tributary::event::TimeUs;
use tributary::failpoint::Point;

use crate::cdnow::path;
use crate::crash::{Received, receiver};
use crate::support::{Servers, copy_pipeline, output_of, text_of, tributary};

const SECOND: TimeUs = 1_000_000;
const HOUR: TimeUs = 3_600 * SECOND;
const DAY: TimeUs = 24 * HOUR;
/// 2026-03-01T00:00:00Z, a Sunday.
const START: TimeUs = 1_772_323_200 * SECOND;
const PEOPLE: usize = 120;
/// Records of a batch. Each moment of the traffic is made up to whole batches, so that they end at the same places whatever happens:
/// segments are judged where batches end (SEMANTICS §2).
const BATCH: usize = 20;
/// What the catalogue knows, with what of it.
const PRODUCTS: [(&str, &str); 4] = [("BK-103", "books"), ("CD-201", "music"), ("HO-301", "home"), ("TO-402", "toys")];

#[derive(Debug, Clone)]
enum What {
    Named { agrees: Option<bool> },
    Said { agrees: bool },
    Viewed(usize),
    Added(usize),
    Checkout,
    Ordered { number: usize, cents: u32, product: usize },
}

/// What one person did, in order.
#[derive(Debug, Clone, Default)]
struct Person {
    email: String,
    staff: bool,
    did: Vec<(TimeUs, What)>,
}

/// What is known of a person at a moment, counted from what they did until then.
#[derive(Debug, Default)]
struct Known {
    agrees: Option<bool>,
    orders: usize,
    cents: u32,
    books: usize,
    favourite: Option<&'static str>,
    /// Whether what was put into the cart last was taken to the till.
    at_till: bool,
}

impl Person {
    fn known_at(&self, at: TimeUs) -> Known {
        let mut known = Known::default();
        let mut views: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (_, what) in self.did.iter().take_while(|(happened, _)| *happened <= at) {
            match what {
                What::Named { agrees } => known.agrees = agrees.or(known.agrees),
                What::Said { agrees } => known.agrees = Some(*agrees),
                What::Viewed(product) => *views.entry(PRODUCTS[*product].1).or_default() += 1,
                What::Added(_) => known.at_till = false,
                What::Checkout => known.at_till = true,
                What::Ordered { cents, product, .. } => {
                    known.at_till = true;
                    known.orders += 1;
                    known.cents += cents;
                    known.books += usize::from(PRODUCTS[*product].1 == "books");
                }
            }
        }
        known.favourite = views.into_iter().max_by_key(|(_, count)| *count).map(|(category, _)| category);
        known
    }
}

/// People and what they do, at moments in which several of them come by.
fn people(random: &mut fastrand::Rng) -> Vec<Person> {
    // Nothing is due within a second of these.
    let mut moments: Vec<TimeUs> =
        (0..220).map(|_| START + random.i64(0..100) * DAY + random.i64(6 * HOUR..24 * HOUR)).collect();
    moments.sort_unstable();
    let mut taken = vec![0; moments.len()];
    let mut people = vec![Person::default(); PEOPLE];
    let mut orders = 0;
    for (number, person) in people.iter_mut().enumerate() {
        // A slow server gives time to die while a mail is on its way.
        let name = if number % 3 == 0 { "slow" } else { "person" };
        (person.email, person.staff) = (format!("{name}{number}@mail.example"), number % 20 == 19);
        let (regular, consent) = (number % 4 == 3, number % 5);
        let favourite = random.usize(0..PRODUCTS.len());
        let first = random.i64(0..25 * DAY);
        let mut visits = vec![(first, "named"), (first, "views")];
        match regular {
            true => visits.extend((1..5).map(|n| (first + n * 8 * DAY, "orders"))),
            false => {
                let kinds = ["views", "leaves", "pays", "leaves", "orders"];
                visits.extend((0..1 + number % 5).map(|n| (first + random.i64(0..40 * DAY), kinds[(number + n) % 5])));
            }
        }
        match consent {
            2 => visits.push((first + random.i64(DAY..40 * DAY), "withdraws")),
            4 => visits.push((first + random.i64(DAY..20 * DAY), "agrees")),
            _ => {}
        }
        visits.sort_by_key(|(at, _)| *at);
        for (at, kind) in visits {
            let moment = moments.partition_point(|moment| *moment < START + at).min(moments.len() - 1);
            let product = if random.u8(0..4) == 0 { random.usize(0..PRODUCTS.len()) } else { favourite };
            let mut all = match kind {
                "named" => vec![What::Named { agrees: [None, Some(false), Some(true), Some(true), None][consent] }],
                // Twice at first, and then once: there is always one that was seen most.
                "views" => vec![What::Viewed(favourite), What::Viewed(favourite), What::Viewed(favourite)],
                "withdraws" | "agrees" => vec![What::Said { agrees: kind == "agrees" }],
                _ => vec![What::Added(product)],
            };
            if matches!(kind, "pays" | "orders") {
                all.push(What::Checkout);
            }
            if kind == "orders" {
                orders += 1;
                all.push(What::Ordered { number: orders, cents: random.u32(500..15_000), product });
            }
            for what in all {
                // Each at a time of its own.
                person.did.push((moments[moment] + taken[moment] * 1_000, what));
                taken[moment] += 1;
            }
        }
    }
    people
}

/// As the website sends it.
fn event(number: usize, person: &Person, what: &What) -> Value {
    let consent = |agrees: bool| json!({ "consent": { "categoryPreferences": { "marketing": agrees } } });
    let track = |name: &str, properties: Value| json!({ "type": "track", "event": name, "properties": properties });
    let sku = |product: usize| PRODUCTS[product].0;
    let mut event = match what {
        What::Named { agrees } => {
            let context = agrees.map_or(json!({}), consent);
            json!({ "type": "identify", "traits": { "email": person.email }, "context": context })
        }
        What::Said { agrees } => json!({ "type": "page", "context": consent(*agrees) }),
        What::Viewed(product) => track("Product Viewed", json!({ "sku": sku(*product) })),
        What::Added(product) => track("Product Added", json!({ "sku": sku(*product) })),
        What::Checkout => track("Checkout Started", json!({ "value": 12.5 })),
        What::Ordered { number, cents, product } => {
            let total = f64::from(*cents) / 100.0;
            let products = json!([{ "sku": sku(*product), "price": total, "quantity": 1 }]);
            let properties =
                json!({ "order_id": format!("o{number}"), "total": total, "currency": "EUR", "products": products });
            track("Order Completed", properties)
        }
    };
    event["userId"] = json!(format!("u{number}"));
    event
}

/// All of it in order of time, and filled up with a passer-by.
fn lines(people: &[Person]) -> String {
    let mut all: Vec<(TimeUs, Value)> = Vec::new();
    for (number, person) in people.iter().enumerate() {
        all.extend(person.did.iter().map(|(at, what)| (*at, event(number, person, what))));
    }
    all.sort_by_key(|(at, _)| *at);
    let last = all.last().expect("events").0;
    let mut text = String::new();
    let mut count = 0;
    let mut say = |at: TimeUs, mut event: Value| {
        let time = chrono::DateTime::from_timestamp_micros(at).expect("a time").to_rfc3339();
        (event["messageId"], event["timestamp"]) = (json!(format!("m{count}")), json!(time));
        count += 1;
        let _ = writeln!(text, "{event}");
        count
    };
    let passer_by = || json!({ "type": "page", "anonymousId": "somebody" });
    for index in 0..all.len() {
        let (at, event) = &all[index];
        let mut said = say(*at, event.clone());
        let ends = all.get(index + 1).is_none_or(|(next, _)| next - at > SECOND);
        while ends && said % BATCH != 0 {
            said = say(at + 1_000, passer_by());
        }
    }
    // Time goes on until nobody waits any more.
    say(last + 120 * DAY, passer_by());
    text
}

/// The shop with its state, its mail server and its receiver.
struct Side {
    pipeline: PathBuf,
    data: PathBuf,
    mail: Servers,
    hook: String,
    received: Received,
}

impl Side {
    fn new(folder: &Path, people: &[Person]) -> Side {
        let pipeline = copy_pipeline("shop", folder, &[]);
        std::fs::write(pipeline.join("data/events.ndjson"), lines(people)).expect("file");
        let staff = people.iter().filter(|person| person.staff).map(|person| format!("x,{}\n", person.email));
        std::fs::write(pipeline.join("data/staff.csv"), format!("name,email\n{}", staff.collect::<String>()))
            .expect("file");
        let (hook, received) = receiver(Duration::from_millis(10));
        Side { pipeline, data: folder.join("data"), mail: Servers::up(&["smtp"]), hook, received }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = tributary(args);
        command
            .args(["-C", path(&self.pipeline), "--data", path(&self.data)])
            .env("SHOP_SMTP_URL", &self.mail.smtp)
            .env("SHOP_WEBHOOK_URL", &self.hook)
            .env("SHOP_WEBHOOK_SECRET", "whsec_dHJpYnV0YXJ5LXRlc3Q=")
            .env("TRIBUTARY_BATCH_RECORDS", BATCH.to_string())
            .env("TRIBUTARY_CHECKPOINT_MIB", "0");
        command
    }

    fn rows(&self, sql: &str) -> Vec<Value> {
        let text = output_of(self.command(&["query", sql, "--output", "json"]));
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn steps(&self) -> Vec<Step> {
        let rows = self.rows(
            "SELECT activation, version, entry_id, profile_id, step, what, detail, CAST(happened_at AS BIGINT) AS at FROM journey_steps",
        );
        let mut steps: Vec<Step> = rows.iter().map(Step::of).collect();
        steps.sort();
        steps
    }

    /// By id: the destination, and what became of it in the end.
    fn deliveries(&self) -> BTreeMap<String, (String, String)> {
        let rows = self.rows("SELECT delivery_id, destination, outcome FROM deliveries WHERE outcome <> 'retry'");
        let mut all = BTreeMap::new();
        for row in &rows {
            let fate = (text(row, "destination"), text(row, "outcome"));
            let before = all.insert(text(row, "delivery_id"), fate);
            assert!(before.is_none(), "{row} has ended before: {before:?}");
        }
        all
    }

    /// The mails that arrived, by the id in `Message-ID`; each of them once.
    fn mailbox(&self) -> BTreeMap<String, Value> {
        let file = std::fs::read_to_string(self.mail.smtp_folder.join("messages.ndjson")).unwrap_or_default();
        let mut all = BTreeMap::new();
        for line in file.lines() {
            let mail: Value = serde_json::from_str(line).expect("JSON");
            let id = header(&mail, "Message-ID");
            let id = id.trim_start_matches('<').trim_end_matches("@shop.example>").to_string();
            assert!(all.insert(id.clone(), mail).is_none(), "{id} is twice in the mailbox");
        }
        all
    }
}

/// A row of `journey_steps`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    activation: String,
    version: String,
    entry_id: String,
    at: TimeUs,
    profile_id: String,
    step: String,
    what: String,
    detail: String,
}

impl Step {
    fn of(row: &Value) -> Step {
        let text = |name: &str| text(row, name);
        Step {
            activation: text("activation"),
            version: text("version"),
            entry_id: text("entry_id"),
            at: row["at"].as_i64().expect("a time"),
            profile_id: text("profile_id"),
            step: text("step"),
            what: text("what"),
            detail: text("detail"),
        }
    }
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().unwrap_or_else(|| panic!("no text {name}: {row}")).to_string()
}

fn header(mail: &Value, name: &str) -> String {
    let all = mail["headers"].as_array().expect("headers");
    let found = all.iter().find(|pair| pair[0] == name).unwrap_or_else(|| panic!("no {name}: {mail}"));
    found[1].as_str().expect("text").to_string()
}

/// Subject, text and HTML of a message of the campaigns.
fn message(step: &Step, entered_by: &str, known: &Known) -> (&'static str, String, Option<String>) {
    let more = known.favourite;
    let order = entered_by.rsplit("order:").next().unwrap_or_default();
    let (subject, text) = match (step.activation.as_str(), step.step.as_str()) {
        ("welcome", "hello") => {
            let text = more.map_or(String::new(), |more| format!("More {more} are waiting."));
            ("Welcome to the shop", format!("Good to have you here. {text}"))
        }
        ("welcome", "first_order") => ("Ten percent off your first order", "Your code is HELLO10.".into()),
        ("cart", "remind") => {
            let text = if known.at_till { "You had begun to pay for it." } else { "" };
            ("Your cart is waiting", format!("You left something behind. {text}"))
        }
        ("cart", "coupon") => ("A little something", "Take 5 EUR off: COMEBACK.".into()),
        ("cart", "last_call") => ("Still there", "Your cart is kept for a few more days.".into()),
        ("win_back", "with_coupon") => ("We miss you", "Here are 10 EUR: BACKAGAIN.".into()),
        ("win_back", "without") => ("We miss you", "See what is new.".into()),
        ("upsell", "books") => {
            ("The next book", format!("Order {order} is on its way. Those who read it read these too."))
        }
        ("upsell", "others") => ("It goes with your order", format!("Order {order} is on its way. This goes with it.")),
        other => panic!("no such message: {other:?}"),
    };
    let html = match step.step.as_str() {
        "hello" => {
            let text = more.map_or(String::new(), |more| format!("<p>More {more} are waiting.</p>"));
            Some(format!("<p>Good to have you here.</p>{text}"))
        }
        "first_order" => Some("<p>Your code is <b>HELLO10</b>.</p>".to_string()),
        _ => None,
    };
    (subject, text, html)
}

/// Holds a run against the traffic.
fn check(side: &Side, people: &[Person], steps: &[Step]) {
    let rows = side.rows("SELECT value, profile_id FROM current_identifiers WHERE type = 'user_id'");
    let number = |row: &Value| text(row, "value")[1..].parse::<usize>().expect("a number");
    let who: BTreeMap<String, usize> = rows.iter().map(|row| (text(row, "profile_id"), number(row))).collect();
    let person = |step: &Step| &people[who[&step.profile_id]];
    let (deliveries, mailbox) = (side.deliveries(), side.mailbox());
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut mails: BTreeMap<&str, Vec<TimeUs>> = BTreeMap::new();
    let mut told: BTreeSet<&String> = BTreeSet::new();
    for step in steps {
        let known = person(step).known_at(step.at);
        *seen.entry((&step.step, &step.what)).or_default() += 1;
        let entered = steps.iter().find(|entry| entry.entry_id == step.entry_id && entry.what == "entered");
        let entered = entered.unwrap_or_else(|| panic!("{step:?} without an entry"));
        // Branches go by what the traffic says.
        let holds = match step.step.as_str() {
            "bought" => known.orders == 0,
            "worth" => known.cents >= 10_000,
            "reads" => known.books >= 2,
            _ => step.what == "then",
        };
        if matches!(step.what.as_str(), "then" | "else") {
            assert_eq!(step.what == "then", holds, "{step:?} {known:?}");
        }
        if step.what == "skipped" {
            let why = [
                (known.agrees != Some(true), "no consent: marketing"),
                (person(step).staff, "suppressed: the person is in staff"),
                (true, "frequency cap of "),
            ];
            let why = why.iter().find(|(holds, _)| *holds).map_or("", |(_, why)| why);
            assert!(step.detail.starts_with(why), "{step:?}: {why}");
        }
        if step.what != "sent" {
            continue;
        }
        told.insert(&step.detail);
        // Journeys send to nobody who has not agreed, and to nobody who works here; whoever changes their mind later is not sent it.
        assert!(known.agrees == Some(true) && !person(step).staff, "{step:?}");
        let (to, outcome) = &deliveries[&step.detail];
        if step.step == "tell_crm" {
            assert_eq!((to.as_str(), outcome.as_str()), ("crm", "sent"), "{step:?}");
            assert!(side.received.lock().expect("lock").contains_key(&step.detail), "{step:?}");
            continue;
        }
        mails.entry(&step.profile_id).or_default().push(step.at);
        let hour = (step.at - START) % DAY / HOUR;
        assert!((8..21).contains(&hour), "at night: {step:?}");
        let Some(mail) = mailbox.get(&step.detail) else {
            let last = person(step).known_at(TimeUs::MAX);
            let withdrawn = outcome == "skipped" && last.agrees != Some(true);
            assert!(outcome == "uncertain" || withdrawn, "{step:?} is {outcome} and did not arrive");
            continue;
        };
        assert!(matches!(outcome.as_str(), "sent" | "uncertain"), "{step:?} arrived and is {outcome}");
        let (subject, text, html) = message(step, &entered.detail, &known);
        assert_eq!(mail["to"], json!([person(step).email]), "{step:?}");
        assert_eq!(header(mail, "Subject"), subject, "{step:?}");
        let parts = mail["parts"].as_array().expect("parts");
        let found: Vec<&str> = parts.iter().map(|part| part["text"].as_str().expect("text").trim()).collect();
        let expected: Vec<String> = std::iter::once(text.trim().to_string()).chain(html).collect();
        assert_eq!(found, expected, "{step:?} {known:?}");
        let url = format!("https://shop.example/unsubscribe?who={}&message={}", step.profile_id, step.detail);
        assert_eq!(header(mail, "List-Unsubscribe"), format!("<{url}>"));
        assert_eq!(header(mail, "List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
    }
    // Nothing arrived that no journey tells of.
    assert!(mailbox.keys().all(|id| told.contains(id)));
    for (id, times) in &mut mails {
        times.sort_unstable();
        assert!(times.windows(4).all(|four| four[3] - four[0] >= 7 * DAY), "four in a week: {id} {times:?}");
    }
    // Whoever could be written to at some time was welcomed, once; each order that is large enough begins an upsell, once in 30 days.
    let entries = |activation: &str, id: &str| {
        let mine = steps.iter().filter(|s| s.activation == activation && s.what == "entered" && s.profile_id == id);
        mine.count()
    };
    for (id, number) in &who {
        let person = &people[*number];
        let reachable = person.did.iter().any(|(at, _)| person.known_at(*at).agrees == Some(true));
        assert_eq!(entries("welcome", id), usize::from(reachable), "{person:?}");
        let (mut last, mut count) = (TimeUs::MIN, 0);
        for (at, what) in &person.did {
            if matches!(what, What::Ordered { cents: 4_000.., .. }) && *at >= last.saturating_add(30 * DAY) {
                (last, count) = (*at, count + 1);
            }
        }
        assert_eq!(entries("upsell", id), count, "{person:?}");
    }
    println!("{} mails, {seen:?}", mailbox.len());
    let wanted = [
        ("hello", "sent"),
        ("hello", "skipped"),
        ("first_order", "sent"),
        ("remind", "sent"),
        ("remind", "waits"),
        ("coupon", "sent"),
        ("last_call", "sent"),
        ("with_coupon", "sent"),
        ("without", "sent"),
        ("left_alone", "left"),
        ("tell_crm", "sent"),
        ("reads", "then"),
        ("others", "sent"),
        ("others", "skipped"),
    ];
    assert!(wanted.iter().all(|step| seen.contains_key(step)), "the traffic comes by all of it: {seen:?}");
}

/// Where the process dies, and at the how-manieth passing: with much of the traffic still to come at first, then among the messages.
const DEATHS: [(Point, u32); 12] = [
    (Point::BeforeCommit, 20),
    (Point::CommitDurable, 25),
    (Point::LetGo, 25),
    (Point::JournalWritten, 20),
    (Point::Checkpointed, 10),
    (Point::BeforeRequest, 10),
    (Point::RequestSent, 5),
    (Point::Answered, 15),
    (Point::BeforeAttempt, 10),
    (Point::AttemptRecorded, 10),
    (Point::OutboxDeleted, 2),
    (Point::BeforeClose, 1),
];

/// SEMANTICS §7: ids of steps and messages follow from their causes, so a repeat is known. No step is skipped, none done twice.
#[test]
fn the_campaigns_send_what_the_traffic_calls_for_and_dying_changes_nothing() {
    let seed = std::env::var("CAMPAIGNS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("CAMPAIGNS_SEED={seed}");
    let people = people(&mut fastrand::Rng::with_seed(seed));
    let folder = tempfile::tempdir().expect("folder");
    let sides = ["calm", "killed"].map(|name| Side::new(&folder.path().join(name), &people));
    let [calm, killed] = &sides;
    let started = tributary::clock::instant();
    output_of(calm.command(&["run", "--drain"]));
    println!("calm: {:.1} s", started.elapsed().as_secs_f64());
    let steps = calm.steps();
    check(calm, &people, &steps);
    assert!(calm.deliveries().values().all(|(_, outcome)| outcome != "uncertain"));

    for (point, passing) in DEATHS {
        let mut dying = killed.command(&["run", "--drain"]);
        let passing_off = if passing > 1 { format!("{}*off->", passing - 1) } else { String::new() };
        dying.env("FAILPOINTS", format!("{}={passing_off}return(kill)", point.name()));
        let died = dying.output().expect("the program starts");
        let what = format!("{}: {} {}", point.name(), died.status, text_of(&died));
        assert_eq!(died.status.signal(), Some(9), "never came by: {what}");
        println!("{:20} {:.1} s", point.name(), started.elapsed().as_secs_f64());
    }
    output_of(killed.command(&["run", "--drain"]));
    let found = killed.steps();
    let missing: Vec<&Step> = steps.iter().filter(|step| found.binary_search(step).is_err()).take(3).collect();
    assert!(found == steps, "{} steps instead of {}; missing: {missing:#?}", found.len(), steps.len());
    check(killed, &people, &found);
    let (expected, after) = (calm.deliveries(), killed.deliveries());
    assert_eq!(after.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "the same messages");
    let uncertain = after.values().filter(|(_, outcome)| outcome == "uncertain").count();
    println!("{uncertain} uncertain, {:.1} s", started.elapsed().as_secs_f64());
    // Those under way at a death, of which there are 16 at most.
    assert!(uncertain <= 16 * DEATHS.len(), "{uncertain} uncertain");
    sides.iter().for_each(|side| side.mail.down());
}
