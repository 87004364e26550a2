//! The definitions of a world: what its pipeline says at first, and what it says after later restarts, drawn from what each
//! trait, segment and group may be.
//!
//! What activations are set off by is always there, though it may mean something else. Nothing here follows from the order in
//! which events come: no `has_been`, no RFM, no limits of identity.

use std::collections::BTreeSet;
use std::path::Path;

use tributary::definition::{self, Mode, Pipeline};

use super::audiences::AUDIENCE;
use super::journeys::NURTURE;

const HEAD: &str = r#"pipeline: sim
sources:
  site: { kafka: { brokers: "nowhere:9092", topics: [events] }, format: { json: segment } }
  till: { kafka: { brokers: "nowhere:9092", topics: [events] }, format: { json: segment } }
identity:
  identifiers: [user_id, email, anonymous_id]
  max_identifiers: 100000
  source_priority: [till, site]
aggregates:
  by_hour: SELECT date_trunc('hour', timestamp) AS hour, sum(properties.total) AS revenue, count(*) AS orders FROM events WHERE event = 'Order Completed' GROUP BY 1
destinations:
  crm: { webhook: { url: "https://crm.example/hook" }, order: profile, concurrency: 4 }
  ads: { kafka: { brokers: "nowhere:9092", topic: ads }, batch: { max: 3, within: 2s }, rate_limit: 50 per 1m, timeout: 15s }
  list: { webhook: { url: "https://list.example/hook" }, concurrency: 4 }
activations:
  welcome: { trigger: { enters: customers }, consent: none, status: live, do: [ { id: tell, send: { to: crm } } ] }
  lively:  { trigger: { enters: busy }, consent: none, status: live, do: [ { id: tell, send: { to: ads } } ] }
  calmed:  { trigger: { exits: busy }, consent: none, status: live, do: [ { id: tell, send: { to: ads } } ] }
  missed:  { trigger: { enters: quiet }, consent: none, status: live, do: [ { id: tell, send: { to: crm } } ] }
  thanks:  { trigger: { event: Order Completed }, consent: none, status: live, do: [ { id: tell, send: { to: crm } } ] }
  hot:     { trigger: { changes: stage, to: hot }, consent: none, status: live, do: [ { id: tell, send: { to: ads } } ] }
  joined:  { trigger: { enters: staff }, consent: none, status: live, do: [ { id: tell, send: { to: crm } } ] }
"#;

/// Where a visit ends is the same throughout: another definition would begin anew instead of reading the past.
const SESSIONS: [&str; 5] = [
    "",
    "sessions: { gap: 10m }\n",
    "sessions: { events: [Order Completed, identify] }\n",
    "sessions: { split_on: campaign }\n",
    "sessions: { gap: 2h, split_on: [campaign, midnight] }\n",
];

/// Something that may be defined, in one of several ways.
struct Choice {
    name: &'static str,
    /// What it reads.
    needs: &'static [&'static str],
    variants: &'static [&'static str],
    /// It is never gone.
    stays: bool,
}

const fn stays(name: &'static str, variants: &'static [&'static str]) -> Choice {
    Choice { name, needs: &[], variants, stays: true }
}

const fn may(name: &'static str, needs: &'static [&'static str], variants: &'static [&'static str]) -> Choice {
    Choice { name, needs, variants, stays: false }
}

/// A trait has columns of the same types in all its variants.
const TRAITS: &[Choice] = &[
    stays(
        "orders",
        &[
            r#"{ count: "*", event: Order Completed }"#,
            r#"{ count: "*", event: Order Completed, where: "properties.total > 60" }"#,
        ],
    ),
    stays("hour", &[r#"{ count: "*", window: 1h }"#, r#"{ count: "*", window: 3h, pane: 30m }"#]),
    stays(
        "stage",
        &[
            r#"{ stages: [ { hot: "hour > 2" }, { warm: "orders > 0" }, { cold: "true" } ] }"#,
            r#"{ stages: [ { hot: "orders > 1" }, { warm: "hour > 0" } ] }"#,
        ],
    ),
    may("plan", &[], &["{ latest: traits.plan }", "{ first: traits.plan }"]),
    may(
        "home",
        &[],
        &["{ latest: traits.plan, on_merge: survivor }", "{ first: traits.plan, on_merge: source_priority }"],
    ),
    may(
        "source",
        &[],
        &["{ first: context.campaign.source }", "{ latest: context.campaign.source, on_merge: earliest }"],
    ),
    may(
        "revenue",
        &[],
        &[
            "{ sum: properties.total, event: Order Completed }",
            r#"{ sum: properties.total, where: "properties.total > 30" }"#,
        ],
    ),
    may(
        "biggest",
        &[],
        &["{ max: properties.total, event: Order Completed }", "{ min: properties.total, event: Order Completed }"],
    ),
    may("mean", &[], &["{ mean: properties.total, event: Order Completed }"]),
    may(
        "day",
        &[],
        &["{ sum: properties.total, event: Order Completed, window: 1d }", "{ sum: properties.total, window: 6h }"],
    ),
    may("engaged", &[], &[r#"{ formula: "orders + hour" }"#, r#"{ formula: "orders * 2 + hour" }"#]),
    may(
        "favourite",
        &[],
        &["{ most_frequent: context.campaign.source }", "{ least_frequent: context.campaign.source }"],
    ),
    may("sources", &[], &["{ distinct: context.campaign.source }", "{ distinct: context.campaign.source, keep: 2 }"]),
    may(
        "by_source",
        &[],
        &[
            "{ sum: properties.total, by: context.campaign.source }",
            "{ max: properties.total, by: context.campaign.source, window: 2h }",
        ],
    ),
    may("spacing", &[], &["{ gap: timestamp }", "{ gap: timestamp, keep: 3, quantile: 0.5 }"]),
    may(
        "checkout",
        &[],
        &[
            "{ funnel: [Looked Around, Order Completed, Looked Around], within: 2h }",
            r#"{ funnel: [Looked Around, { event: Order Completed, where: "properties.total > 50" }], within: 6h, mode: [strict_increase] }"#,
        ],
    ),
    may(
        "path",
        &[],
        &[
            "{ sequence: [ Looked Around, { event: Order Completed, within: 3h } ] }",
            "{ sequence: [ Order Completed, { event: Order Completed, without: Looked Around } ] }",
        ],
    ),
];

const SEGMENTS: &[Choice] = &[
    stays("customers", &["orders >= 1", "orders >= 2"]),
    stays("busy", &["hour >= 2", "hour >= 1"]),
    stays("quiet", &["last_seen < now() - INTERVAL '2 hours'", "last_seen < now() - INTERVAL '1 hour'"]),
    stays("staff", &["{ list: staff.txt, match: email }"]),
    may("devices", &[], &["{ list: devices.txt, match: anonymous_id }"]),
    may("insiders", &[], &["in_segment('staff') AND orders >= 1", "in_segment('staff') AND NOT in_segment('busy')"]),
    may("pro", &["plan"], &["plan = 'pro'", "plan = 'basic'"]),
    may("big", &["revenue"], &["revenue > 300", "revenue > 100"]),
    may("both", &["plan", "revenue"], &["plan = 'pro' AND revenue > 200"]),
    may("odd", &[], &["orders IN (1, 3, 5)"]),
    may("half", &[], &["{ sample: 50% }", "{ sample: 30% }"]),
    may("regular", &[], &["sessions >= 2", "sessions >= 3 OR events > 10"]),
    may("wanted", &["checkout"], &["checkout.level >= 2", "checkout.best >= 2"]),
    may("went", &["path"], &["path.matched", "path.level > 0"]),
    may("rich", &["day"], &["day > 100"]),
    may("eager", &["engaged", "stage"], &["engaged > 3", "stage = 'hot'"]),
];

/// Groups: their `id`s, which nobody's identity is part of, so that a correction changes none.
const GROUPS: &[(&str, &[&str])] = &[
    ("account", &["group_id"]),
    ("campaign", &["context.campaign.source"]),
    ("moving", &["group_id", "context.campaign.source", "coalesce(group_id, 'none')"]),
];

const GROUP_TRAITS: &[Choice] = &[
    stays("people", &["{ distinct: profile_id }", "{ distinct: profile_id, event: Order Completed }"]),
    may("active", &[], &["{ distinct: profile_id, window: 1h }"]),
    may("by_who", &[], &["{ sum: properties.total, by: profile_id }", "{ max: properties.total, by: profile_id }"]),
    may("last_by", &[], &["{ latest: profile_id, event: Order Completed }", "{ first: profile_id }"]),
    may("busiest", &[], &["{ most_frequent: profile_id }"]),
    may("total", &[], &["{ sum: properties.total, event: Order Completed }", "{ sum: properties.total, window: 2h }"]),
    may("size", &[], &[r#"{ stages: [ { crowd: "people.count > 3" }, { some: "people.count > 0" } ] }"#]),
    may("flow", &[], &["{ funnel: [Looked Around, Order Completed], within: 1h }"]),
];

const GROUP_SEGMENTS: &[Choice] = &[
    may("crowded", &[], &["people.count > 3", "people.count > 2"]),
    may("lively", &["active"], &["active.count >= 2"]),
    may("selling", &["total"], &["total > 100"]),
    may("seen", &[], &["events > 2"]),
    may("sized", &["size"], &["size = 'crowd'"]),
];

/// Traits whose columns are as of when a profile was last judged.
pub const OF_THE_MOMENT: &[&str] = &["_as_of", "hour", "day", "engaged", "stage", "by_source", "active", "total"];

/// Which of the choices are made.
type Chosen = Vec<Option<usize>>;

#[derive(Clone)]
struct Drawn {
    sessions: usize,
    audience: bool,
    traits: Chosen,
    segments: Chosen,
    /// The `id`, traits and segments of each.
    groups: Vec<Option<(usize, Chosen, Chosen)>>,
    staff: BTreeSet<String>,
    devices: BTreeSet<String>,
}

/// The definitions that a world has, one after the other and back again.
pub fn random(random: &mut fastrand::Rng) -> Vec<Pipeline> {
    let mut drawn = Drawn {
        sessions: random.usize(0..SESSIONS.len()),
        audience: true,
        traits: draw(TRAITS, random),
        segments: draw(SEGMENTS, random),
        groups: GROUPS.iter().map(|_| None).collect(),
        staff: BTreeSet::new(),
        devices: BTreeSet::new(),
    };
    for place in 0..GROUPS.len() {
        if random.u8(0..3) == 0 {
            drawn.groups[place] = Some(draw_group(place, random));
        }
    }
    drawn.change_list(random);
    let mut all = vec![drawn.pipeline()];
    // Half of the worlds keep theirs.
    for _ in 0..random.usize(0..6).saturating_sub(2) {
        for _ in 0..random.usize(1..6) {
            drawn.change(random);
        }
        all.push(drawn.pipeline());
    }
    all
}

fn draw(choices: &[Choice], random: &mut fastrand::Rng) -> Chosen {
    let draw = |choice: &Choice| {
        let variant = random.usize(0..choice.variants.len());
        (choice.stays || random.u8(0..5) < 2).then_some(variant)
    };
    choices.iter().map(draw).collect()
}

fn draw_group(place: usize, random: &mut fastrand::Rng) -> (usize, Chosen, Chosen) {
    (random.usize(0..GROUPS[place].1.len()), draw(GROUP_TRAITS, random), draw(GROUP_SEGMENTS, random))
}

/// One of them is there or not, or another way.
fn change(choices: &[Choice], chosen: &mut Chosen, random: &mut fastrand::Rng) {
    let place = random.usize(0..choices.len());
    let gone = chosen[place].is_some() && !choices[place].stays && random.bool();
    chosen[place] = (!gone).then(|| random.usize(0..choices[place].variants.len()));
}

impl Drawn {
    fn change(&mut self, random: &mut fastrand::Rng) {
        match random.u8(0..9) {
            8 => self.audience = !self.audience,
            0..3 => change(TRAITS, &mut self.traits, random),
            3..6 => change(SEGMENTS, &mut self.segments, random),
            6 => self.change_list(random),
            _ => {
                let place = random.usize(0..GROUPS.len());
                match (&mut self.groups[place], random.u8(0..6)) {
                    (Some((id, ..)), 0) => *id = random.usize(0..GROUPS[place].1.len()),
                    (Some((_, traits, _)), 1..3) => change(GROUP_TRAITS, traits, random),
                    (Some((.., segments)), 3..5) => change(GROUP_SEGMENTS, segments, random),
                    (group @ Some(_), _) => *group = None,
                    (group @ None, _) => *group = Some(draw_group(place, random)),
                }
            }
        }
    }

    fn change_list(&mut self, random: &mut fastrand::Rng) {
        let count = random.usize(0..6);
        self.staff = (0..count).map(|_| list_value("staff", random)).collect();
        let count = random.usize(0..6);
        self.devices = (0..count).map(|_| list_value("devices", random)).collect();
    }

    fn text(&self) -> String {
        let mut text = format!("{HEAD}{NURTURE}{}", SESSIONS[self.sessions]);
        text += if self.audience { AUDIENCE } else { "" };
        text += "traits:\n";
        text += &lines(TRAITS, &self.traits, &[], "  ", false);
        text += "segments:\n";
        text += &lines(SEGMENTS, &self.segments, &names(TRAITS, &self.traits), "  ", true);
        let groups = GROUPS.iter().zip(&self.groups).filter_map(|(group, drawn)| Some((group, drawn.as_ref()?)));
        let groups: String = groups
            .map(|((name, ids), (id, traits, segments))| {
                let own = lines(GROUP_SEGMENTS, segments, &names(GROUP_TRAITS, traits), "      ", true);
                let own = if own.is_empty() { own } else { format!("    segments:\n{own}") };
                let traits = lines(GROUP_TRAITS, traits, &[], "      ", false);
                format!("  {name}:\n    id: \"{}\"\n    traits:\n{traits}{own}", ids[*id])
            })
            .collect();
        if groups.is_empty() { text } else { format!("{text}groups:\n{groups}") }
    }

    fn pipeline(&self) -> Pipeline {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("file");
        let lines = |values: &BTreeSet<String>| values.iter().map(|value| format!("{value}\n")).collect::<String>();
        let text = self.text();
        write("sim.yaml", &text);
        write("staff.txt", &lines(&self.staff));
        write("devices.txt", &lines(&self.devices));
        load(folder.path()).unwrap_or_else(|findings| panic!("{findings}\n{text}"))
    }
}

fn load(folder: &Path) -> Result<Pipeline, String> {
    let loaded = definition::load(folder, Mode::Run);
    let all = |findings: Vec<_>| findings.iter().map(definition::Diagnostic::to_string).collect::<Vec<_>>().join("\n");
    loaded.map(|(pipeline, _)| pipeline).map_err(all)
}

fn names(choices: &[Choice], chosen: &Chosen) -> Vec<&'static str> {
    choices.iter().zip(chosen).filter(|(_, chosen)| chosen.is_some()).map(|(choice, _)| choice.name).collect()
}

/// What is chosen and has all that it needs, a line each; conditions in quotes.
fn lines(choices: &[Choice], chosen: &Chosen, there: &[&str], indent: &str, conditions: bool) -> String {
    let chosen = choices.iter().zip(chosen).filter_map(|(choice, chosen)| Some((choice, choice.variants[(*chosen)?])));
    chosen
        .filter(|(choice, _)| choice.needs.iter().all(|need| there.contains(need)))
        .map(|(choice, variant)| match conditions && !variant.starts_with('{') {
            true => format!("{indent}{}: \"{variant}\"\n", choice.name),
            false => format!("{indent}{}: {variant}\n", choice.name),
        })
        .collect()
}

/// A value of a list: some that events have, and some that none has.
pub fn list_value(list: &str, random: &mut fastrand::Rng) -> String {
    match list {
        "staff" => format!("e{}@shop.example", random.u8(0..15)),
        _ => format!("a{}", random.u8(0..30)),
    }
}

/// Lists and the identifier type of their values.
pub const LISTS: [(&str, &str); 2] = [("staff", "email"), ("devices", "anonymous_id")];

/// Every variant of everything is a sound definition.
#[test]
fn all_variants_are_sound() {
    let all = |choices: &[Choice], round: usize| -> Chosen {
        choices.iter().map(|choice| Some(round % choice.variants.len())).collect()
    };
    for round in 0..6 {
        let group =
            |place: usize| Some((round % GROUPS[place].1.len(), all(GROUP_TRAITS, round), all(GROUP_SEGMENTS, round)));
        let drawn = Drawn {
            sessions: round % SESSIONS.len(),
            audience: round % 2 == 0,
            traits: all(TRAITS, round),
            segments: all(SEGMENTS, round),
            groups: (0..GROUPS.len()).map(group).collect(),
            staff: ["e1@shop.example".to_string()].into(),
            devices: BTreeSet::new(),
        };
        drawn.pipeline();
    }
}
