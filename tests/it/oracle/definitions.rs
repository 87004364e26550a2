//! Random definitions as YAML. Left out is what the statements do not say: `on_merge: survivor`, lists, funnels,
//! sequences, estimates of many values.

const HEAD: &str = r#"pipeline: oracle
sources:
  site: { file: { path: none.ndjson }, format: { json: segment } }
  shop: { file: { path: none.ndjson }, format: { json: segment } }
identity:
  identifiers: [user_id, email, anonymous_id]
  source_priority: [shop, site]
"#;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Long,
    Double,
    Text,
    Boolean,
    Time,
    Json,
}

/// What is read of events. `properties.total` only of orders, which have a contract.
const VALUES: &[(&str, Kind)] = &[
    ("traits.age", Kind::Long),
    ("CAST(properties.stars AS BIGINT)", Kind::Long),
    ("length(properties.sku)", Kind::Long),
    ("CAST(properties.price AS DOUBLE)", Kind::Double),
    ("CAST(properties.stars AS DOUBLE) / 3", Kind::Double),
    ("traits.plan", Kind::Text),
    ("traits.address.city", Kind::Text),
    ("properties.sku", Kind::Text),
    ("properties.stars", Kind::Text),
    ("context.user_agent", Kind::Text),
    ("context.campaign.source || '/' || source", Kind::Text),
    ("timestamp", Kind::Time),
    ("traits.birthday", Kind::Time),
    ("received_at", Kind::Time),
    ("context.active", Kind::Boolean),
    ("properties.stars > '2'", Kind::Boolean),
    ("traits.address", Kind::Json),
];

const FILTERS: &[&str] = &[
    "CAST(properties.stars AS BIGINT) > 2",
    "properties.sku IN ('s1', 's2')",
    "properties.sku <> 's1' OR traits.plan = 'pro'",
    "source = 'shop'",
    "context.active",
    "NOT context.active",
    "timestamp >= received_at - INTERVAL '3 days'",
    "user_id IS NOT NULL",
    "context.userAgent = 'b1'",
];

const KEYS: &[&str] =
    &["properties.sku", "CAST(properties.stars AS BIGINT)", "context.active", "event", "context.campaign.source"];

const WINDOWS: &[&str] = &[
    "window: 1m",
    "window: 10m",
    "window: 1h",
    "window: 1h, pane: 1h",
    "window: 6h, pane: 1h",
    "window: 1d",
    "window: 1d, pane: 90s",
    "window: 7d",
    "window: 7d, pane: 1d",
    "window: 30d",
    "window: 360d",
];

const INTERVALS: &[&str] = &[
    "1 minute",
    "10 minutes",
    "1 hour",
    "5 hours 30 minutes",
    "1 day",
    "3 days",
    "30 days",
    "1 month",
    "1 year",
    "1 microsecond",
];

fn one<'a, T: ?Sized>(random: &mut fastrand::Rng, of: &[&'a T]) -> &'a T {
    of[random.usize(0..of.len())]
}

/// What conditions may read.
#[derive(Default)]
struct Known {
    values: Vec<(String, Kind)>,
    segments: Vec<String>,
}

pub fn random(random: &mut fastrand::Rng) -> String {
    let built_in = [("first_seen", Kind::Time), ("last_seen", Kind::Time), ("events", Kind::Long)];
    let mut known =
        Known { values: built_in.map(|(name, kind)| (name.to_string(), kind)).to_vec(), segments: Vec::new() };
    let mut text = format!("{HEAD}traits:\n");
    for index in 0..13 {
        let name = format!("t{index}");
        let definition = match index {
            0..9 => event_trait(random, &name, &mut known),
            9 => stages(random, &name, &mut known),
            _ => formula(random, &name, &mut known),
        };
        text.push_str(&format!("  {name}: {definition}\n"));
    }
    text.push_str("segments:\n");
    for index in 0..20 {
        let name = format!("s{index}");
        let definition = match random.u8(0..16) {
            0 => format!("{{ sample: {}% }}", random.u8(1..101)),
            1..4 if index > 0 => {
                let (segment, interval) = (random.usize(0..index), one(random, INTERVALS));
                let not = ["", "NOT "][usize::from(random.u8(0..4) == 0)];
                let more = if random.bool() { format!(" AND {}", condition(random, &known, 1)) } else { String::new() };
                quoted(&format!("{not}has_been('s{segment}', INTERVAL '{interval}'){more}"))
            }
            _ => quoted(&condition(random, &known, 2)),
        };
        text.push_str(&format!("  {name}: {definition}\n"));
        known.segments.push(name);
    }
    text.push_str(&groups(random));
    text
}

/// Groups of up to two kinds, with traits of their own.
fn groups(random: &mut fastrand::Rng) -> String {
    let kinds = &["account", "other"][..random.usize(0..3)];
    let mut text = if kinds.is_empty() { String::new() } else { "groups:\n".to_string() };
    for name in kinds {
        let id = if *name == "account" { "group_id" } else { one(random, GROUP_IDS) };
        let built_in = [("first_seen", Kind::Time), ("last_seen", Kind::Time), ("events", Kind::Long)];
        let mut known =
            Known { values: built_in.map(|(name, kind)| (name.to_string(), kind)).to_vec(), segments: Vec::new() };
        text.push_str(&format!("  {name}:\n    id: {}\n    traits:\n", quoted(id)));
        for index in 0..6 {
            let name = format!("g{index}");
            let definition = match index {
                0..3 => people_trait(random, &name, &mut known),
                3 => event_trait(random, &name, &mut known),
                4 => stages(random, &name, &mut known),
                _ => formula(random, &name, &mut known),
            };
            text.push_str(&format!("      {name}: {definition}\n"));
        }
        text.push_str("    segments:\n");
        for index in 0..6 {
            let definition = if index > 0 && random.u8(0..6) == 0 {
                let (segment, interval) = (random.usize(0..index), one(random, INTERVALS));
                format!("has_been('q{segment}', INTERVAL '{interval}')")
            } else {
                condition(random, &known, 2)
            };
            text.push_str(&format!("      q{index}: {}\n", quoted(&definition)));
            known.segments.push(format!("q{index}"));
        }
    }
    text
}

const GROUP_IDS: &[&str] = &[
    "coalesce(group_id, context.campaign.source)",
    "context.campaign.source",
    "properties.sku || '-' || source",
    "CASE WHEN event = 'Rated' THEN group_id END",
    "traits.plan",
];

/// A trait of groups that knows people. `latest` and `first` are left out: of two events with one time and one message id the
/// greater person stands, and which is greater may change with a merge.
fn people_trait(random: &mut fastrand::Rng, name: &str, known: &mut Known) -> String {
    let mut parts = Vec::new();
    let rule = one(random, &["distinct", "distinct", "distinct", "most_frequent", "least_frequent", "count", "keyed"]);
    let mut keyed = true;
    match rule {
        "keyed" => parts.push("count: \"*\", by: profile_id".to_string()),
        _ if random.u8(0..5) == 0 => parts.push(format!("{rule}: profile_id, by: {}", quoted(one(random, KEYS)))),
        _ => {
            keyed = false;
            parts.push(format!("{rule}: profile_id"));
        }
    }
    match (keyed, rule) {
        (true, _) => {
            known.values.push((format!("{name}.keys"), Kind::Long));
            known.values.push((format!("{name}.overflow"), Kind::Boolean));
            known.values.push((name.to_string(), Kind::Json));
        }
        (_, "distinct") => known.values.push((format!("{name}.count"), Kind::Long)),
        (_, "count") => known.values.push((name.to_string(), Kind::Long)),
        _ => known.values.push((name.to_string(), Kind::Text)),
    }
    if random.bool() {
        parts.push(one(random, WINDOWS).to_string());
    }
    if random.u8(0..3) == 0 {
        parts.push(format!("where: {}", quoted(one(random, FILTERS))));
    }
    format!("{{ {} }}", parts.join(", "))
}

fn quoted(sql: &str) -> String {
    format!("\"{}\"", sql.replace('\\', "\\\\").replace('"', "\\\""))
}

fn event_trait(random: &mut fastrand::Rng, name: &str, known: &mut Known) -> String {
    let mut parts = Vec::new();
    let orders = random.u8(0..4) == 0;
    let (value, kind) = match orders {
        true => ("properties.total", Kind::Double),
        false => VALUES[random.usize(0..VALUES.len())],
    };
    let numeric = matches!(kind, Kind::Long | Kind::Double);
    let ordered = numeric || matches!(kind, Kind::Text | Kind::Time);
    let rule = match random.u8(0..10) {
        0 => "count",
        1 | 2 if numeric => "sum",
        3 if numeric => "mean",
        4 if ordered => "min",
        5 if ordered => "max",
        6 => "first",
        7 if kind != Kind::Json => one(random, &["most_frequent", "least_frequent", "distinct"]),
        8 if kind == Kind::Time => "gap",
        _ => "latest",
    };
    let everything = rule == "count" && random.bool();
    parts.push(format!("{rule}: {}", if everything { "\"*\"".to_string() } else { quoted(value) }));
    let of_result = match rule {
        "count" => Kind::Long,
        "mean" | "gap" => Kind::Double,
        "distinct" => Kind::Json,
        _ => kind,
    };
    match rule {
        // Beyond what is listed the count is an estimate: so many different values nobody has.
        "distinct" if random.bool() => parts.push("keep: 50".to_string()),
        "gap" if random.bool() => parts.push(format!("quantile: {}", one(random, &["0", "0.25", "0.5", "0.9", "1"]))),
        "gap" => parts.push(format!("keep: {}", one(random, &["2", "3", "5"]))),
        _ => {}
    }
    if orders {
        parts.push("event: Order Completed".to_string());
    } else if random.u8(0..3) == 0 {
        parts.push(format!("event: {}", one(random, &["Looked Around", "Rated", "[Rated, Looked Around]"])));
    }
    // Of orders only what their contract has.
    let known_of = |sql: &&str| !orders || !sql.contains("properties.") || sql.contains("properties.total");
    let filters: Vec<&str> = FILTERS.iter().copied().filter(known_of).collect();
    if random.u8(0..3) == 0 {
        parts.push(format!("where: {}", quoted(one(random, &filters))));
    }
    if matches!(rule, "latest" | "first") && random.u8(0..3) == 0 {
        parts.push(format!("on_merge: {}", one(random, &["latest", "earliest", "source_priority"])));
    }
    if random.bool() {
        parts.push(one(random, WINDOWS).to_string());
    }
    if random.u8(0..4) == 0 && kind != Kind::Json {
        let keys: Vec<&str> = KEYS.iter().copied().filter(known_of).collect();
        parts.push(format!("by: {}", quoted(one(random, &keys))));
        known.values.push((format!("{name}.keys"), Kind::Long));
        known.values.push((format!("{name}.overflow"), Kind::Boolean));
        known.values.push((name.to_string(), Kind::Json));
    } else {
        match rule {
            "distinct" => known.values.push((format!("{name}.count"), Kind::Long)),
            "most_frequent" | "least_frequent" => known.values.push((format!("{name}.overflow"), Kind::Boolean)),
            _ => {}
        }
        known.values.push((name.to_string(), of_result));
    }
    format!("{{ {} }}", parts.join(", "))
}

fn stages(random: &mut fastrand::Rng, name: &str, known: &mut Known) -> String {
    let stages: Vec<String> = (0..random.usize(1..4))
        .map(|stage| format!("{{ stage{stage}: {} }}", quoted(&condition(random, known, 1))))
        .collect();
    known.values.push((name.to_string(), Kind::Text));
    format!("{{ stages: [ {} ] }}", stages.join(", "))
}

fn formula(random: &mut fastrand::Rng, name: &str, known: &mut Known) -> String {
    let value = |random: &mut fastrand::Rng, kinds: &[Kind]| {
        let fitting: Vec<&(String, Kind)> = known.values.iter().filter(|(_, kind)| kinds.contains(kind)).collect();
        fitting[random.usize(0..fitting.len())].0.clone()
    };
    let numbers = [Kind::Long, Kind::Double];
    let (a, b, number) = (value(random, &numbers), value(random, &numbers), random.i64(-3..10));
    let (kind, sql) = match random.u8(0..7) {
        0 => (Kind::Double, format!("{a} / {b}")),
        1 => (Kind::Double, format!("coalesce({a}, 0.5) * 2 - coalesce({b}, {number})")),
        2 => (Kind::Text, format!("CASE WHEN {a} > {number} THEN 'many' WHEN {b} IS NULL THEN 'none' END")),
        3 => (Kind::Time, format!("{} + INTERVAL '{}'", value(random, &[Kind::Time]), one(random, INTERVALS))),
        4 => (Kind::Boolean, condition(random, known, 1)),
        5 => (Kind::Long, format!("CASE WHEN {} THEN {number} ELSE 1 END", condition(random, known, 1))),
        _ => {
            known.values.push((name.to_string(), Kind::Double));
            return format!("{{ score: {} }}", quoted(&format!("coalesce({a}, {number}) * 3 + {b}")));
        }
    };
    known.values.push((name.to_string(), kind));
    format!("{{ formula: {} }}", quoted(&sql))
}

fn condition(random: &mut fastrand::Rng, known: &Known, depth: u8) -> String {
    if depth > 0 && random.u8(0..3) > 0 {
        let (a, b) = (condition(random, known, depth - 1), condition(random, known, depth - 1));
        return match random.u8(0..5) {
            0 => format!("NOT ({a})"),
            1 => format!("(({a}) IS NOT TRUE OR ({b}))"),
            2 => format!("(({a}) AND ({b}))"),
            3 => format!("(({a}) AND NOT ({b}))"),
            _ => format!("(({a}) OR ({b}))"),
        };
    }
    if !known.segments.is_empty() && random.u8(0..6) == 0 {
        return format!("in_segment('{}')", known.segments[random.usize(0..known.segments.len())]);
    }
    let times: Vec<&(String, Kind)> = known.values.iter().filter(|(_, kind)| *kind == Kind::Time).collect();
    let (name, kind) = match random.u8(0..3) {
        0 => times[random.usize(0..times.len())],
        _ => &known.values[random.usize(0..known.values.len())],
    };
    let comparison = one(random, &["<", "<=", ">", ">=", "=", "<>"]);
    match (kind, random.u8(0..8)) {
        (Kind::Json, _) | (_, 0) => format!("{name} IS {}NULL", ["", "NOT "][random.usize(0..2)]),
        (Kind::Long, _) => format!("{name} {comparison} {}", random.i64(-1..6)),
        (Kind::Double, _) => {
            format!("{name} {comparison} {}", one(random, &["0", "2.5", "10", "100", "-1.5", "0.000001"]))
        }
        (Kind::Text, 1..4) => format!("{name} IN ('s1', 'pro', 'stage0', 'many')"),
        (Kind::Text, _) => format!("{name} {comparison} '{}'", one(random, &["basic", "c1/shop", "b1", "5", "stage1"])),
        (Kind::Boolean, 1..4) => format!("{name} IS {}", one(random, &["TRUE", "NOT TRUE", "FALSE", "NOT FALSE"])),
        (Kind::Boolean, _) => name.clone(),
        (Kind::Time, 1) => format!("{name} {comparison} TIMESTAMP '2026-02-25T06:00:00Z'"),
        (Kind::Time, 2 | 3) => {
            let (low, high) = (one(random, INTERVALS), one(random, INTERVALS));
            let not = ["", "NOT "][usize::from(random.u8(0..4) == 0)];
            format!("{name} {not}BETWEEN now() - INTERVAL '{low}' AND now() - INTERVAL '{high}'")
        }
        (Kind::Time, _) => {
            let comparison = one(random, &["<", "<=", ">", ">="]);
            let sign = ["-", "-", "-", "+"][random.usize(0..4)];
            match random.u8(0..6) {
                0 => format!("{name} {comparison} now()"),
                1 => format!("now() {sign} INTERVAL '{}' {comparison} {name}", one(random, INTERVALS)),
                _ => format!("{name} {comparison} now() {sign} INTERVAL '{}'", one(random, INTERVALS)),
            }
        }
    }
}
