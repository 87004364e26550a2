//! Analyses: the same numbers from the real ClickHouse engine and from the lake, and those that others compute.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{copy_pipeline, output_of, root, servers, tributary, unique};

/// A pipeline with its tables in both engines.
struct Both {
    folder: tempfile::TempDir,
    pipeline: PathBuf,
    database: String,
}

impl Both {
    /// Runs the pipeline that `make` writes into a folder, once into each.
    fn run(make: impl FnOnce(&Path) -> PathBuf) -> Both {
        let folder = tempfile::tempdir().expect("folder");
        let pipeline = make(folder.path());
        let both = Both { folder, pipeline, database: unique("analyses") };
        both.go_on();
        both
    }

    /// Takes in what has come.
    fn go_on(&self) {
        for clickhouse in [true, false] {
            self.told(clickhouse, &["run", "--drain", "--no-send"]);
        }
    }

    fn told(&self, clickhouse: bool, args: &[&str]) -> String {
        let data = self.folder.path().join(if clickhouse { "clickhouse" } else { "lake" });
        let mut command = tributary(args);
        command.arg("-C").arg(&self.pipeline).arg("--data").arg(data);
        command.env("SHOP_WEBHOOK_SECRET", "whsec_c2hvcA==");
        if clickhouse {
            command.env("CLICKHOUSE_URL", &servers().clickhouse).env("CLICKHOUSE_DATABASE", &self.database);
        }
        output_of(command)
    }

    /// Of the analyses that there are.
    fn names(&self) -> Vec<String> {
        let lines = self.told(false, &["analyze"]);
        lines.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_string())).collect()
    }

    /// The rows of an analysis in both engines, which are the same.
    fn analyze(&self, args: &[&str]) -> Vec<BTreeMap<String, String>> {
        let args = [&["analyze"], args, &["--output", "csv"]].concat();
        let [lake, clickhouse] = [false, true].map(|clickhouse| rows(&self.told(clickhouse, &args)));
        assert_eq!(lake.len(), clickhouse.len(), "{args:?}\n{lake:?}\n{clickhouse:?}");
        for (lake, clickhouse) in lake.iter().zip(&clickhouse) {
            for (name, value) in lake {
                assert!(
                    same(value, &clickhouse[name]),
                    "{args:?}: {name}\nlake       {lake:?}\nclickhouse {clickhouse:?}"
                );
            }
        }
        lake
    }
}

fn rows(csv: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    reader.deserialize().map(|row| row.expect("a row")).collect()
}

/// Sums of doubles depend on their order in the last digits.
fn same(a: &str, b: &str) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0),
        _ => a == b,
    }
}

fn number(row: &BTreeMap<String, String>, name: &str) -> f64 {
    row[name].parse().unwrap_or_else(|_| panic!("{name} of {row:?}"))
}

const RANDOM: &str = r#"pipeline: random
sources: { site: { file: { path: data/*.ndjson }, format: { json: segment } } }
traits:
  orders: { count: "*", event: Bought }
  views: { count: "*", event: Viewed, window: 3d }
  category: { latest: properties.cat }
  spent: { sum: CAST(properties.total AS DOUBLE) }
  spender: { formula: "spent > 60" }
  seen: { latest: timestamp }
segments: { buyers: "orders >= 1", regulars: "orders >= 4", active: "views >= 2", nobody: "orders > 1000" }
warehouse:
  clickhouse: { url: "${env:CLICKHOUSE_URL:-}", database: "${env:CLICKHOUSE_DATABASE:-random}" }
analyses:
  weeks:
    trend: { of: Bought, every: week, measures: { orders: count, buyers: people, revenue: { sum: CAST(properties.total AS DOUBLE) }, least: { min: CAST(properties.total AS DOUBLE) }, most: { max: CAST(properties.total AS DOUBLE) }, mean: { mean: CAST(properties.total AS DOUBLE) }, median: { quantile: CAST(properties.total AS DOUBLE) }, most_of: { quantile: CAST(properties.total AS DOUBLE), at: 0.9 }, per_buyer: { ratio: [revenue, buyers] } } }
  hours: { trend: { every: hour }, by: properties.cat }
  whole: { trend: {} }
  of_buyers: { trend: { every: month }, segment: buyers }
  plain: { funnel: { steps: [Viewed, Added, Checkout, Bought], within: 7d } }
  told_apart: { funnel: { steps: [Viewed, { event: Added, where: "properties.cat = 'x'" }, Bought], within: 3d, trend: month }, by: properties.cat }
  strict: { funnel: { steps: [Viewed, Added, Bought], within: 7d, mode: strict_order } }
  once: { funnel: { steps: [Viewed, Viewed, Bought], within: 7d, mode: [strict_once, strict_increase] } }
  unordered: { funnel: { steps: [Viewed, Added, Bought], within: 2d, mode: any_order } }
  in_it: { retention: { start: Viewed, return: Bought, every: week, periods: 6, value: CAST(properties.total AS DOUBLE) } }
  on_days: { retention: { start: Viewed, every: day, periods: 9 }, by: properties.cat }
  or_later: { retention: { start: Viewed, return: Bought, every: week, periods: 6, mode: unbounded } }
  in_each: { retention: { start: [Viewed, Added], every: month, periods: 3, mode: rolling, value: CAST(properties.total AS DOUBLE) }, by: properties.cat }
  channels: { attribution: { conversion: Bought, value: CAST(properties.total AS DOUBLE), channel: context.campaign.source, lookback: 5d, touch: { where: "event <> 'Bought'" }, order: 2 } }
  counted: { attribution: { conversion: Bought, channel: context.campaign.source, direct: count, models: [last_touch, markov] } }
  to: { paths: { to: Bought, length: 3, top: 1000 } }
  from: { paths: { from: Viewed, of: { where: "event <> 'Added'" }, length: 3, within: 2d, top: 1000 }, by: properties.cat }
  next: { transitions: {} }
  soon: { transitions: { of: [Viewed, Added, Bought], within: 12h, top: 1000 }, by: properties.cat }
  sizes: { sizes: {} }
  sizes_of: { sizes: { of: [active, buyers], every: week } }
  flow: { flow: {} }
  flow_of: { flow: { of: [active, regulars] } }
  overlap: { overlap: {} }
  apart: { lift: { of: regulars, top: 1000 } }
  apart_by: { lift: { of: active, traits: [category, spent], top: 3 } }
  odd: { anomalies: { of: Viewed, every: day, alpha: 0.4, most: 0.3 } }
  odd_by: { anomalies: { every: day, season: 1, measures: { people: people, mean: { mean: CAST(properties.total AS DOUBLE) } } }, by: properties.cat }
"#;

const DAY_US: i64 = 86_400_000_000;

/// Events of people who turn out to be others: some are known by two ids, and some events name both. Times are full of ties.
fn random_events(seed: u64) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lines = Vec::new();
    for number in 0..3_000 {
        let who = random.u32(0..150);
        let event = ["Viewed", "Viewed", "Viewed", "Added", "Added", "Checkout", "Bought"][random.usize(0..7)];
        let minute = random.i64(0..60 * 24 * 4) * 15;
        let timestamp = tributary::activation::time_text(1_767_225_600_000_000 + minute * 60_000_000);
        let properties = match event {
            "Bought" => json!({ "total": f64::from(random.u32(0..10_000)) / 100.0 }),
            _ => json!({ "cat": if random.bool() { "x" } else { "y" } }),
        };
        let mut event = json!({
            "type": "track", "event": event, "messageId": format!("m{number}"), "timestamp": timestamp,
            "properties": properties, "context": {}
        });
        if random.u8(0..4) > 0 {
            let source = ["ads", "mail", "search"][random.usize(0..3)];
            event["context"]["campaign"] = json!({ "source": source });
        }
        let (by_cookie, by_id) = match random.u8(0..20) {
            0 => (true, true),
            1..12 => (true, false),
            _ => (false, true),
        };
        if by_cookie {
            event["anonymousId"] = json!(format!("a{who}"));
        }
        if by_id {
            event["userId"] = json!(format!("u{}", who / 2));
        }
        lines.push((minute, format!("{event}\n")));
    }
    lines.sort_by_key(|(minute, _)| *minute);
    lines.into_iter().map(|(_, line)| line).collect()
}

#[test]
fn every_analysis_gives_the_same_numbers_in_clickhouse_and_in_the_lake() {
    let seed = std::env::var("ANALYSES_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("ANALYSES_SEED={seed}");
    let lines = random_events(seed);
    let mut parts = lines.chunks(lines.len() / 8).map(<[String]>::concat).enumerate();
    let mut write = |folder: &Path| {
        let next = parts.next();
        next.map(|(number, part)| std::fs::write(folder.join(format!("data/{number}.ndjson")), part).expect("file"))
    };
    let both = Both::run(|folder| {
        std::fs::create_dir(folder.join("data")).expect("folder");
        std::fs::write(folder.join("p.yaml"), RANDOM).expect("file");
        write(folder);
        folder.join("p.yaml")
    });
    // In parts, so that people come and go in segments, and become one, as time goes by.
    while write(both.folder.path()).is_some() {
        both.go_on();
    }
    let names = both.names();
    assert_eq!(names.len(), 28, "{names:?}");
    for name in &names {
        assert!(!both.analyze(&[name]).is_empty(), "{name}");
        let within = both.analyze(&[name, "--from", "2026-01-10", "--to", "2026-01-20T12:00Z"]);
        // Who entered in these few days may be in one segment alone.
        assert!(["overlap", "apart", "apart_by"].contains(&name.as_str()) || !within.is_empty(), "{name}");
        // An empty range is an empty table.
        assert_eq!(both.analyze(&[name, "--from", "2030-01-01"]), [], "{name}");
    }
    both.analyze(&["plain", "--by", "context.campaign.source"]);

    let events = people(&both);
    for name in ["plain", "unordered"] {
        let (steps, within_us) = match name {
            "plain" => (&["Viewed", "Added", "Checkout", "Bought"][..], 7 * DAY_US),
            _ => (&["Viewed", "Added", "Bought"][..], 2 * DAY_US),
        };
        let levels: Vec<(usize, Vec<i64>)> = events
            .values()
            .map(|events| {
                if name == "plain" {
                    furthest(events, steps, within_us)
                } else {
                    (most(events, steps, within_us), vec![])
                }
            })
            .collect();
        for (place, row) in both.analyze(&[name]).iter().enumerate() {
            let people = levels.iter().filter(|(level, _)| *level > place).count();
            assert_eq!(number(row, "people"), people as f64, "{name}, step {}", place + 1);
            if name == "plain" && place > 0 {
                let mut took: Vec<i64> = levels.iter().filter_map(|(_, took)| took.get(place - 1).copied()).collect();
                took.sort_unstable();
                let (low, high) = (took[(took.len() - 1) / 2], took[took.len() / 2]);
                assert!(same(&row["median_s"], &((low + high) as f64 / 2e6).to_string()), "{row:?}: {low} {high}");
            }
        }
    }

    paths_are_those_of_each_person(&both);
    segments_are_those_of_the_rows(&both);
    lift_is_that_of_the_profiles(&both);

    // Whatever the model, the credit is the conversions and their value.
    let bought = both.analyze(&["weeks"]);
    let total = |rows: &[BTreeMap<String, String>], name: &str| rows.iter().map(|row| number(row, name)).sum::<f64>();
    let mut models: BTreeMap<String, Vec<BTreeMap<String, String>>> = BTreeMap::new();
    for row in both.analyze(&["channels"]) {
        models.entry(row["model"].clone()).or_default().push(row);
    }
    assert_eq!(models.len(), 7);
    for (model, rows) in models {
        assert!((total(&rows, "conversions") - total(&bought, "orders")).abs() < 1e-6, "{model}");
        assert!((total(&rows, "value") - total(&bought, "revenue")).abs() < 1e-6, "{model}");
    }
}

/// What a person did: event, time, category.
type Steps = Vec<(String, i64, String)>;

/// What people do before or after an event, and what follows what, by going along each person's events.
fn paths_are_those_of_each_person(both: &Both) {
    let sql = "SELECT profile_id, event, toUnixTimestamp64Micro(timestamp) AS at_us, JSONExtractString(properties, 'cat') AS cat \
               FROM current_events ORDER BY profile_id, timestamp, message_id";
    let mut people: BTreeMap<String, Steps> = BTreeMap::new();
    for row in rows(&both.told(false, &["query", sql, "--output", "csv"])) {
        let step = (row["event"].clone(), row["at_us"].parse().expect("a time"), row["cat"].clone());
        people.entry(row["profile_id"].clone()).or_default().push(step);
    }

    let mut to: BTreeMap<(String, String), f64> = BTreeMap::new();
    let mut from: BTreeMap<(String, String), f64> = BTreeMap::new();
    for steps in people.values() {
        let first = |name: &str| steps.iter().position(|(event, ..)| event == name);
        if let Some(end) = first("Bought") {
            let mut names: Vec<&str> = steps[..=end].iter().map(|(event, ..)| event.as_str()).collect();
            names.dedup();
            *to.entry((String::new(), names[names.len().saturating_sub(4)..].join(" > "))).or_default() += 1.0;
        }
        if let Some(start) = first("Viewed") {
            let (_, at_us, cat) = &steps[start];
            let near = steps[start..].iter().filter(|(event, at, _)| event != "Added" && at - at_us <= 2 * DAY_US);
            let mut names: Vec<&str> = near.map(|(event, ..)| event.as_str()).collect();
            names.dedup();
            names.truncate(4);
            *from.entry((cat.clone(), names.join(" > "))).or_default() += 1.0;
        }
    }
    for (name, expected) in [("to", to), ("from", from)] {
        let answer = both.analyze(&[name]);
        assert_eq!(answer.len(), expected.len(), "{name}");
        for row in answer {
            let by = row.get("by").cloned().unwrap_or_default();
            let people = expected[&(by.clone(), row["path"].clone())];
            let all: f64 = expected.iter().filter(|((of, _), _)| *of == by).map(|(_, people)| people).sum();
            assert_eq!(number(&row, "people"), people, "{name}: {row:?}");
            assert!((number(&row, "share") - people / all).abs() < 1e-9, "{name}: {row:?}");
        }
    }

    for (name, within_us) in [("next", i64::MAX), ("soon", DAY_US / 2)] {
        let mut expected: BTreeMap<[String; 3], (f64, BTreeSet<&String>)> = BTreeMap::new();
        for (person, steps) in &people {
            // Of the same event several times in a row the last one is followed by something else.
            let steps: Vec<_> = steps.iter().filter(|(event, ..)| name == "next" || event != "Checkout").collect();
            for (place, (event, at_us, cat)) in steps.iter().enumerate() {
                let next = steps.get(place + 1);
                if next.is_some_and(|(next, ..)| next == event) {
                    continue;
                }
                let next = next.filter(|(_, next_us, _)| next_us - at_us <= within_us);
                let next = next.map_or("", |(next, ..)| next).to_string();
                let by = if name == "next" { String::new() } else { cat.clone() };
                let counted = expected.entry([by, event.clone(), next]).or_default();
                counted.0 += 1.0;
                counted.1.insert(person);
            }
        }
        let answer = both.analyze(&[name]);
        assert_eq!(answer.len(), expected.len(), "{name}");
        for row in answer {
            let by = row.get("by").cloned().unwrap_or_default();
            let (times, people) = &expected[&[by.clone(), row["event"].clone(), row["next_event"].clone()]];
            let of_event = expected.iter().filter(|([of, event, _], _)| *of == by && *event == row["event"]);
            let all: f64 = of_event.map(|(_, (times, _))| times).sum();
            assert_eq!(
                (number(&row, "times"), number(&row, "people")),
                (*times, people.len() as f64),
                "{name}: {row:?}"
            );
            assert!((number(&row, "share") - times / all).abs() < 1e-9, "{name}: {row:?}");
        }
    }
}

/// Who is in a segment before a time, as who they are now: by the last row of each of their ids.
fn members_before(both: &Both, time: &str) -> BTreeMap<String, BTreeSet<String>> {
    let sql = format!(
        "SELECT c.segment AS segment, c.profile_id AS profile_id, c.change AS change, coalesce(i.profile_id, '') AS now FROM segment_changes AS c LEFT JOIN \
         profile_ids AS i ON c.profile_id = i.old_profile_id WHERE c.changed_at < TIMESTAMP '{time}' ORDER BY c.changed_at, c._batch, c._seq"
    );
    let mut last: BTreeMap<(String, String), (bool, String)> = BTreeMap::new();
    for row in rows(&both.told(false, &["query", &sql, "--output", "csv"])) {
        let now = if row["now"].is_empty() { row["profile_id"].clone() } else { row["now"].clone() };
        last.insert((row["segment"].clone(), row["profile_id"].clone()), (row["change"] == "entered", now));
    }
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for ((segment, _), (entered, person)) in last {
        if entered {
            members.entry(segment).or_default().insert(person);
        }
    }
    members
}

fn segments_are_those_of_the_rows(both: &Both) {
    let days = ["2026-01-10", "2026-01-25", "2026-02-08", "2030-01-01"];
    let of: Vec<BTreeMap<String, BTreeSet<String>>> =
        days.iter().map(|day| members_before(both, &format!("{day}T00:00:00Z"))).collect();
    for (day, members) in days.iter().zip(&of) {
        let mut last: BTreeMap<String, f64> = BTreeMap::new();
        for row in both.analyze(&["sizes", "--to", day]) {
            last.insert(row["segment"].clone(), number(&row, "people"));
        }
        last.retain(|_, people| *people > 0.0);
        let sizes: BTreeMap<String, f64> = members.iter().map(|(name, who)| (name.clone(), who.len() as f64)).collect();
        assert_eq!(last, sizes, "before {day}");

        let mut pairs = 0;
        for row in both.analyze(&["overlap", "--to", day]) {
            let (a, b) = (&members[&row["segment"]], &members[&row["other_segment"]]);
            let (both, either) = (a.intersection(b).count() as f64, a.union(b).count() as f64);
            assert_eq!((number(&row, "people"), number(&row, "in_both")), (a.len() as f64, both), "{row:?}");
            assert!((number(&row, "share") - both / a.len() as f64).abs() < 1e-9, "{row:?}");
            assert!((number(&row, "jaccard") - both / either).abs() < 1e-9, "{row:?}");
            pairs += 1;
        }
        assert_eq!(pairs, members.len() * (members.len() - 1), "before {day}");
    }
    // From one day to the next.
    for (place, pair) in of.windows(2).enumerate() {
        let segments_of = |members: &BTreeMap<String, BTreeSet<String>>, person: &String| -> Vec<String> {
            let of = members.iter().filter(|(_, who)| who.contains(person)).map(|(name, _)| name.clone());
            let of: Vec<String> = of.collect();
            if of.is_empty() { vec![String::new()] } else { of }
        };
        let people: BTreeSet<&String> = pair.iter().flat_map(|members| members.values().flatten()).collect();
        let mut expected: BTreeMap<(String, String), f64> = BTreeMap::new();
        for person in people {
            for from in segments_of(&pair[0], person) {
                for to in segments_of(&pair[1], person) {
                    *expected.entry((from.clone(), to)).or_default() += 1.0;
                }
            }
        }
        let answer = both.analyze(&["flow", "--from", days[place], "--to", days[place + 1]]);
        let told: BTreeMap<(String, String), f64> = answer
            .iter()
            .map(|row| ((row["from_segment"].clone(), row["to_segment"].clone()), number(row, "people")))
            .collect();
        assert_eq!(told, expected, "from {}", days[place]);
    }
    // What entered less what left is how the size changed.
    let mut before: BTreeMap<String, f64> = BTreeMap::new();
    for row in both.analyze(&["sizes"]) {
        let people = before.entry(row["segment"].clone()).or_default();
        *people += number(&row, "entered") - number(&row, "exited");
        assert_eq!(*people, number(&row, "people"), "{row:?}");
    }
}

fn lift_is_that_of_the_profiles(both: &Both) {
    let sql = "SELECT p.profile_id AS profile_id, coalesce(p.category, '') AS category, coalesce(m.segment, '') AS segment FROM current_profiles AS p LEFT JOIN \
               (SELECT * FROM segment_members WHERE segment = 'regulars') AS m ON p.profile_id = m.profile_id";
    // By category: members, and all.
    let mut counts: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for row in rows(&both.told(false, &["query", sql, "--output", "csv"])) {
        let counted = counts.entry(row["category"].clone()).or_default();
        counted.0 += f64::from(u8::from(!row["segment"].is_empty()));
        counted.1 += 1.0;
    }
    let (members, all) = counts.values().fold((0.0, 0.0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    let answer = both.analyze(&["apart"]);
    let traits: BTreeSet<&str> = answer.iter().map(|row| row["trait"].as_str()).collect();
    assert_eq!(traits, BTreeSet::from(["category", "orders", "spender", "spent", "views"]));
    let mut seen = 0;
    for row in answer.iter().filter(|row| row["trait"] == "category") {
        let (mine, everyone) = counts[&row["value"]];
        let (share, rest) = (mine / members, (everyone - mine) / (all - members));
        let pooled = everyone / all;
        let score = (share - rest) / (pooled * (1.0 - pooled) * (1.0 / members + 1.0 / (all - members))).sqrt();
        assert_eq!(number(row, "people"), mine, "{row:?}");
        for (name, expected) in [("share", share), ("share_of_rest", rest), ("score", score)] {
            assert!((number(row, name) - expected).abs() < 1e-9, "{name} of {row:?}");
        }
        seen += 1;
    }
    assert_eq!(seen, counts.len());
    // Quarters of all people by what they spent, one after the other.
    let mut quarters: Vec<(f64, f64)> = answer
        .iter()
        .filter(|row| row["trait"] == "spent" && !row["low"].is_empty())
        .map(|row| (number(row, "low"), number(row, "high")))
        .collect();
    quarters.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!(quarters.len(), 4, "{quarters:?}");
    assert!(quarters.windows(2).all(|pair| pair[0].1 < pair[1].0), "{quarters:?}");
}

/// The events of each person, in order of time.
fn people(both: &Both) -> BTreeMap<String, Vec<(i64, String)>> {
    let sql = "SELECT profile_id, event, JSONExtractInt(concat('[', CAST(CAST(date_part('epoch', timestamp) AS BIGINT) AS VARCHAR), ']'), 1) AS s \
               FROM current_events ORDER BY profile_id, timestamp";
    let mut people: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
    for row in rows(&both.told(false, &["query", sql, "--output", "csv"])) {
        let at_us = row["s"].parse::<i64>().expect("seconds") * 1_000_000;
        people.entry(row["profile_id"].clone()).or_default().push((at_us, row["event"].clone()));
    }
    people
}

/// By trying every first step: how far someone comes, and the time that each step took: from the last time the step before it
/// was reached to the first time it was.
fn furthest(events: &[(i64, String)], steps: &[&str], within_us: i64) -> (usize, Vec<i64>) {
    // When each step is reached by some chain.
    let mut reached: Vec<BTreeSet<i64>> = vec![BTreeSet::new(); steps.len()];
    for (start, _) in events.iter().filter(|(_, event)| event == steps[0]) {
        let mut at = BTreeSet::from([*start]);
        reached[0].insert(*start);
        for (place, step) in steps.iter().enumerate().skip(1) {
            let first = at.first().copied();
            let on_time = |time: &i64| first.is_some_and(|first| *time >= first) && time - start <= within_us;
            at = events.iter().filter(|(time, event)| event == step && on_time(time)).map(|(time, _)| *time).collect();
            reached[place].extend(&at);
        }
    }
    let level = reached.iter().take_while(|times| !times.is_empty()).count();
    let took = (1..level).filter_map(|place| {
        let first = reached[place].first()?;
        let before = reached[place - 1].range(..=first).next_back()?;
        Some(first - before)
    });
    (level, took.collect())
}

/// The most different steps that lie in one window.
fn most(events: &[(i64, String)], steps: &[&str], within_us: i64) -> usize {
    let at = |end: i64| {
        let near = |step: &&&str| {
            events.iter().any(|(time, event)| event == **step && *time <= end && end - time <= within_us)
        };
        steps.iter().filter(near).count()
    };
    events.iter().filter(|(_, event)| steps.contains(&event.as_str())).map(|(end, _)| at(*end)).max().unwrap_or(0)
}

#[test]
fn what_the_shop_ships_is_the_same_in_both() {
    let both = Both::run(|folder| copy_pipeline("shop", folder, &[]));
    for name in both.names() {
        assert!(!both.analyze(&[&name]).is_empty(), "{name}");
    }
}

#[test]
fn cohorts_of_cdnow_are_those_of_the_file() {
    let both = Both::run(|folder| {
        let file = root().join("tests/data/cdnow_master.csv");
        copy_pipeline("cdnow", folder, &[("../../tests/data/cdnow_master.csv", file.to_str().expect("utf-8"))])
    });
    // By customer: the months of the orders, and their cents.
    let text = std::fs::read_to_string(root().join("tests/data/cdnow_master.csv")).expect("the purchase log");
    let mut customers: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let month =
            fields[1][..4].parse::<i64>().expect("a year") * 12 + fields[1][4..6].parse::<i64>().expect("a month") - 1;
        let cents = (fields[3].parse::<f64>().expect("dollars") * 100.0).round() as i64;
        customers.entry(fields[0]).or_default().push((month, cents));
    }
    let mut expected: BTreeMap<(i64, i64), (usize, i64)> = BTreeMap::new();
    let mut sizes: BTreeMap<i64, usize> = BTreeMap::new();
    for orders in customers.values() {
        let cohort = orders.iter().map(|(month, _)| *month).min().expect("an order");
        *sizes.entry(cohort).or_default() += 1;
        let months: BTreeSet<i64> = orders.iter().map(|(month, _)| *month).collect();
        for month in months {
            expected.entry((cohort, month - cohort)).or_default().0 += 1;
        }
        for (month, cents) in orders {
            expected.entry((cohort, month - cohort)).or_default().1 += cents;
        }
    }
    let mut seen = 0;
    for row in both.analyze(&["cohorts"]) {
        let month = row["cohort"][..4].parse::<i64>().expect("a year") * 12
            + row["cohort"][5..7].parse::<i64>().expect("a month")
            - 1;
        let (returned, cents) = expected.remove(&(month, number(&row, "period") as i64)).unwrap_or_default();
        assert_eq!(
            (number(&row, "people"), number(&row, "returned")),
            (sizes[&month] as f64, returned as f64),
            "{row:?}"
        );
        assert_eq!((number(&row, "value") * 100.0).round() as i64, cents, "{row:?}");
        seen += 1;
    }
    assert!(seen > 40 && expected.is_empty(), "{seen}, left {expected:?}");
    for name in both.names() {
        assert!(!both.analyze(&[&name]).is_empty(), "{name}");
    }
    assert_eq!(both.analyze(&["months"]).len(), 18);
    assert_eq!(number(&both.analyze(&["again"])[0], "people"), customers.len() as f64);
}
