//! The workload of the ladder: what a shop's site sends, as Confluent-framed Avro under three schemas in two versions each,
//! and the pipeline that takes it in. Seeded; the same numbers give the same bytes.
//!
//! 70 % track calls of 14 names, 20 % page views, 5 % identify calls, 5 % orders. 2 % are duplicates of one of the last thousand,
//! 1 % are late by up to three days, 0.1 % are cut short. An event names 1.6 identifiers: always a device, mostly a user, sometimes an
//! address. One event in 200 comes from a new device, whose next event signs in and so merges two profiles; one device, a
//! till in a shop, is signed in to by everybody. Sizes are lognormal: half are below 300 bytes, one in twenty is above 1,200.
//! One event is 10 ms after the one before: at a million people each of them is heard of nine times a day.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use tributary::event::RawBatch;

pub const START_US: i64 = 1_772_000_000_000_000;
const STEP_US: i64 = 10_000;
const LATE_MAX_US: i64 = 3 * 86_400_000_000;
const PARTITIONS: usize = 6;

/// Who acts how often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Skew {
    Uniform,
    /// The k-th most active acts k^-0.99 times as often as the first.
    Zipf,
}

pub struct Workload {
    profiles: u64,
    people: People,
    random: Rng,
    /// Events made so far: the number of the next.
    made: u64,
    recent: VecDeque<Vec<u8>>,
    /// Devices whose next event signs in.
    signing_in: VecDeque<(String, u64)>,
    topic: Arc<str>,
}

const NAMES: [(&str, u32); 14] = [
    ("Product Viewed", 400),
    ("Product List Viewed", 120),
    ("Product Added", 90),
    ("Products Searched", 80),
    ("Cart Viewed", 60),
    ("Checkout Started", 40),
    ("Checkout Step Viewed", 40),
    ("Payment Info Entered", 30),
    ("Promotion Clicked", 30),
    ("Wishlist Added", 30),
    ("Product Removed", 23),
    ("Coupon Applied", 23),
    ("Product Shared", 20),
    ("Support Requested", 14),
];

/// The schemas' ids: behaviour, identify and order, each in an old and a new version.
const BEHAVIOUR: [i32; 2] = [1, 2];
const IDENTIFY: [i32; 2] = [3, 4];
const ORDER: [i32; 2] = [5, 6];

impl Workload {
    pub fn new(profiles: u64, skew: Skew, seed: u64) -> Workload {
        Workload::from(profiles, skew, seed, 0)
    }

    /// One whose first event has this number.
    pub fn from(profiles: u64, skew: Skew, seed: u64, made: u64) -> Workload {
        Workload {
            profiles,
            people: People::new(profiles, skew),
            random: Rng::with_seed(seed),
            made,
            recent: VecDeque::new(),
            signing_in: VecDeque::new(),
            topic: "bench.events".into(),
        }
    }

    /// The next batch. Positions go on from the one before.
    pub fn batch(&mut self, events: usize) -> RawBatch {
        let mut batch = RawBatch::new("events".into());
        for _ in 0..events {
            let number = self.made;
            let payload = self.next();
            let (partition, offset) = (number as usize % PARTITIONS, number as usize / PARTITIONS);
            batch.push(&self.topic, partition as i32, offset as i64, at(number), &payload);
        }
        batch
    }

    /// One event of each person, so that all are known: an identify call from the person's first device.
    pub fn introduction(&mut self, people: std::ops::Range<u64>) -> RawBatch {
        let mut batch = RawBatch::new("events".into());
        for person in people {
            let number = self.made;
            let payload = self.encode(number, person, &device(person, 0), true, Call::Identify, at(number));
            self.made += 1;
            let (partition, offset) = (number as usize % PARTITIONS, number as usize / PARTITIONS);
            batch.push(&self.topic, partition as i32, offset as i64, at(number), &payload);
        }
        batch
    }

    /// The next event's bytes.
    fn next(&mut self) -> Vec<u8> {
        let number = self.made;
        self.made += 1;
        if !self.recent.is_empty() && self.random.u32(0..100) < 2 {
            let at = self.random.usize(0..self.recent.len());
            return self.recent[at].clone();
        }
        let mut person = self.people.draw(&mut self.random);
        let call = match self.random.u32(0..100) {
            0..5 => Call::Order,
            5..10 => Call::Identify,
            10..30 => Call::Page,
            _ => Call::Track,
        };
        let mut known = call == Call::Order || call == Call::Identify || self.random.u32(0..90) < 45;
        let mut device = device(person, self.random.u64(0..2));
        match self.random.u32(0..10_000) {
            0..50 => {
                person = self.random.u64(0..self.profiles);
                device = format!("n-{number:012}");
                known = false;
                self.signing_in.push_back((device.clone(), person));
            }
            50..52 => (device, known) = ("till-1".to_string(), true),
            _ if self.signing_in.len() > 200 => {
                (device, person) = self.signing_in.pop_front().expect("more than 200");
                known = true;
            }
            _ => {}
        }
        let mut when = at(number);
        if self.random.u32(0..100) == 0 {
            when -= self.random.i64(3_600_000_000..LATE_MAX_US);
        }
        let mut payload = self.encode(number, person, &device, known, call, when);
        if self.random.u32(0..1_000) == 0 {
            payload.truncate(payload.len() / 2);
        } else if self.recent.len() < 1_000 {
            self.recent.push_back(payload.clone());
        } else {
            let place = self.random.usize(0..1_000);
            self.recent[place].clone_from(&payload);
        }
        payload
    }

    fn encode(&mut self, number: u64, person: u64, device: &str, known: bool, call: Call, when: i64) -> Vec<u8> {
        let random = &mut self.random;
        let sku = random.u32(0..5_000);
        let newer = random.bool();
        let (kind, name, properties, traits, ids) = match call {
            Call::Order => (
                "track",
                Some("Order Completed"),
                format!(
                    r#"{{"order_id":"o{number}","total":{}.{:02},"currency":"EUR","coupon":null,"items":{}}}"#,
                    random.u32(5..400),
                    random.u32(0..100),
                    random.u32(1..6)
                ),
                None,
                ORDER,
            ),
            Call::Identify => {
                let plan = random.choice(["free", "basic", "pro"]).expect("three");
                let traits = format!(r#"{{"email":"user{person}@shop.example","plan":"{plan}"}}"#);
                ("identify", None, String::new(), Some(traits), IDENTIFY)
            }
            Call::Page => (
                "page",
                None,
                format!(r#"{{"path":"/p/{sku}","title":"Product {sku}","referrer":""}}"#),
                None,
                BEHAVIOUR,
            ),
            Call::Track => {
                let mut draw = random.u32(0..1_000);
                let mut name = NAMES[0].0;
                for (other, weight) in NAMES {
                    name = other;
                    if draw < weight {
                        break;
                    }
                    draw -= weight;
                }
                let price = random.u32(1..300);
                let properties =
                    format!(r#"{{"sku":"sku{sku}","price":{price}.9,"category":"c{}","quantity":1}}"#, sku % 40);
                ("track", Some(name), properties, None, BEHAVIOUR)
            }
        };
        let text = |text: &str| (!text.is_empty()).then(|| text.to_string());
        let normal = (-2.0 * random.f64().max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos();
        let size = (300.0 * (0.843 * normal).exp()).min(20_000.0) as usize;
        let used = 110 + properties.len() + traits.as_ref().map_or(0, String::len);
        let mut context = r#"{"ip":"203.0.113.9","locale":"en","campaign":null,"user_agent":""#.to_string();
        let filler = size.saturating_sub(used + context.len());
        for number in 0..filler / 8 {
            let _ = write!(context, "Agent/{:02}", (number + sku as usize) % 100);
        }
        context.push_str(r#""}"#);

        let mut out = Vec::with_capacity(size + 256);
        out.push(0);
        out.extend(ids[usize::from(newer)].to_be_bytes());
        avro_text(&mut out, &format!("m-{number:012}-{:08x}", number.wrapping_mul(0x9E37_79B9) as u32));
        avro_text(&mut out, kind);
        if call != Call::Identify {
            avro_optional(&mut out, name);
        }
        avro_optional(&mut out, known.then(|| format!("u{person}")).as_deref());
        avro_text(&mut out, device);
        avro_long(&mut out, when);
        match call {
            Call::Identify => avro_optional(&mut out, traits.as_deref()),
            _ => avro_optional(&mut out, text(&properties).as_deref()),
        }
        avro_text(&mut out, &context);
        if newer {
            avro_long(&mut out, when + 250_000);
            // A map of no further identifiers.
            avro_long(&mut out, 0);
        }
        out
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    Track,
    Page,
    Identify,
    Order,
}

fn at(number: u64) -> i64 {
    START_US + number as i64 * STEP_US
}

fn device(person: u64, which: u64) -> String {
    // Devices say nothing of their order.
    format!("a-{:016x}-{which}", person.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn avro_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest > 0x7f {
        out.push((rest as u8 & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn avro_text(out: &mut Vec<u8>, text: &str) {
    avro_long(out, text.len() as i64);
    out.extend_from_slice(text.as_bytes());
}

/// `["null", "string"]`.
fn avro_optional(out: &mut Vec<u8>, text: Option<&str>) {
    avro_long(out, i64::from(text.is_some()));
    if let Some(text) = text {
        avro_text(out, text);
    }
}

/// Draws people. Zipf as in Gray et al., "Quickly generating billion-record synthetic databases" (SIGMOD 1994).
struct People {
    count: u64,
    skew: Skew,
    zeta: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl People {
    fn new(count: u64, skew: Skew) -> People {
        let zeta = |n: u64| (1..=n).map(|k| (k as f64).powf(-THETA)).sum::<f64>();
        let (zeta_n, zeta_2) = match skew {
            Skew::Zipf => (zeta(count), zeta(2)),
            Skew::Uniform => (1.0, 1.0),
        };
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta_2 / zeta_n);
        People { count, skew, zeta: zeta_n, eta }
    }

    fn draw(&self, random: &mut Rng) -> u64 {
        if self.skew == Skew::Uniform {
            return random.u64(0..self.count);
        }
        let u = random.f64();
        let rank = match u * self.zeta {
            uz if uz < 1.0 => 0,
            uz if uz < 1.0 + 0.5f64.powf(THETA) => 1,
            _ => (self.count as f64 * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - THETA))) as u64,
        };
        // The most active are not neighbours.
        rank.min(self.count - 1).wrapping_mul(0x9E37_79B1) % self.count
    }
}

/// Writes the pipeline into `folder`: identity over three types, 22 traits of all time, 10 windows, 25 sequences, and as
/// many segments: of a hundred 60 are thresholds of traits or windows, 25 sequences, 15 combinations of others. One event in a hundred sets
/// off a message.
pub fn write_pipeline(folder: &Path, segments: usize) {
    copy(Path::new("benches/pipeline"), folder);
    // benches/latency.py runs the pipeline as it is kept.
    let kept = std::fs::read_to_string(folder.join("definitions.yaml")).expect("the definitions");
    assert_eq!(kept, definitions(100), "benches/pipeline/definitions.yaml is to be written anew");
    std::fs::write(folder.join("definitions.yaml"), definitions(segments)).expect("a file");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("the pipeline").map(|entry| entry.expect("an entry").path()) {
        let target = to.join(entry.file_name().expect("a name"));
        match entry.is_dir() {
            true => copy(&entry, &target),
            false => std::fs::copy(&entry, target).map(|_| ()).expect("copied"),
        }
    }
}

fn definitions(segments: usize) -> String {
    let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).chain(["Order Completed"]).collect();
    let mut text = String::from("traits:\n");
    let counts: Vec<String> = (0..names.len()).map(|n| format!("n{n}")).collect();
    for (trait_name, name) in counts.iter().zip(&names) {
        let _ = writeln!(text, "  {trait_name}: {{ count: \"*\", event: {name} }}");
    }
    text.push_str(
        r#"  email:         { latest: traits.email }
  plan:          { latest: traits.plan }
  revenue:       { sum: properties.total::double, event: Order Completed }
  biggest:       { max: properties.total::double, event: Order Completed }
  last_order_at: { max: timestamp, event: Order Completed }
  last_sku:      { latest: properties.sku, event: Product Viewed }
  first_path:    { first: properties.path }
"#,
    );
    let windows: Vec<String> = (0..10).map(|n| format!("w{n}")).collect();
    for (n, name) in windows.iter().enumerate() {
        let (window, pane) = [("1d", "1h"), ("7d", "1d"), ("30d", "1d")][n % 3];
        let what = match n {
            7 | 8 => format!("sum: properties.total::double, event: Order Completed, window: {window}, pane: {pane}"),
            _ => format!("count: \"*\", event: {}, window: {window}, pane: {pane}", names[n]),
        };
        let _ = writeln!(text, "  {name}: {{ {what} }}");
    }
    for n in 0..25 {
        let first = names[n % names.len()];
        let then = names[(n * 4 + 3) % names.len()];
        let within = ["1h", "1d", "7d"][n % 3];
        let without = names[(n * 7 + 5) % names.len()];
        let without = if n % 4 == 0 && without != first && without != then {
            format!(", without: {without}")
        } else {
            String::new()
        };
        let _ = writeln!(text, "  q{n}: {{ sequence: [ {first}, {{ event: {then}, within: {within}{without} }} ] }}");
    }
    text.push_str("segments:\n");
    for n in 0..segments {
        let (round, kind) = (n / 100, n % 100);
        let rule = match kind {
            0..40 => match kind % 20 {
                k @ 0..15 => format!("n{k} >= {}", 1 + (kind / 20) * 4 + round),
                15 => format!("revenue > {}", 100 + 400 * (kind / 20) + 50 * round),
                16 => format!("biggest > {}", 50 + 100 * (kind / 20) + 20 * round),
                17 => format!("plan = '{}'", ["free", "basic", "pro"][(kind / 20 + round) % 3]),
                18 => format!("n0 >= {} AND n14 = 0", 3 + kind / 20 + round),
                _ => format!("last_order_at IS NOT NULL AND n2 > {}", kind / 20 + round),
            },
            40..60 => match kind % 10 {
                k @ (7 | 8) => format!("w{k} > {}", 50 + 100 * (kind / 50) + 20 * round),
                k => format!("w{k} >= {}", 1 + 2 * (kind / 50) + round),
            },
            60..85 if round == 0 => format!("q{}.matched", kind - 60),
            60..85 => format!("q{}.matched AND n{} >= {round}", kind - 60, kind % 15),
            _ => {
                let base = round * 100;
                let (a, b) = (base + (kind * 7) % 60, base + 60 + (kind * 3) % 25);
                match kind % 3 {
                    0 => format!("in_segment('s{a}') AND in_segment('s{b}')"),
                    1 => format!("in_segment('s{a}') AND NOT in_segment('s{b}')"),
                    _ => format!("in_segment('s{a}') OR in_segment('s{b}')"),
                }
            }
        };
        let _ = writeln!(text, "  s{n}: \"{rule}\"");
    }
    text
}
