//! A small shop, made up from a seed: a month of events as its website, its app and its telephone desk send them.
//!
//! 1. people come on one or more devices; some sign up, some log in on a further device, some order as guests, a few by
//!    telephone, where only e-mail address and customer number are known;
//! 2. the way to us does what such ways do: it repeats events, delays some by days, breaks some;
//! 3. everything is put in the order of arrival.
//!
//! What is true is counted on the way ([`Truth`]), so that what the pipeline finds can be compared with it. The same
//! seed and size give the same bytes: no clock, no chance but the seed's.

use std::collections::BTreeMap;

use chrono::DateTime;
use fastrand::Rng;

/// 2026-03-01T00:00:00Z.
const START_MS: i64 = 1_772_323_200_000;
const DAYS: i64 = 31;
const SECOND_MS: i64 = 1_000;
const HOUR_MS: i64 = 3_600 * SECOND_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Below this many lines there is no shop to speak of.
pub const EVENTS_MIN: u64 = 1_000;
pub const EVENTS_MAX: u64 = 1_000_000;

/// The most lines that one person makes.
const PERSON_LINES_MAX: usize = 150;

/// Sku, name, price in cents, and how often it is looked at. The skus are those of the pipeline's catalogue.
const PRODUCTS: [(&str, &str, u64, u32); 10] = [
    ("BK-101", "Garden Almanac", 1490, 4),
    ("BK-102", "Pocket Atlas", 990, 4),
    ("BK-103", "Cook Book", 2450, 3),
    ("CD-201", "Piano Pieces", 1510, 3),
    ("CD-202", "Harbour Songs", 1690, 2),
    ("HO-301", "Desk Lamp", 5900, 3),
    ("HO-302", "Armchair", 18900, 2),
    ("HO-303", "Writing Desk", 32900, 1),
    ("TO-401", "Building Blocks", 2190, 3),
    ("TO-402", "Wooden Train", 3450, 2),
];

const PLACES: [(&str, &str); 6] =
    [("DE", "Hamburg"), ("DE", "Leipzig"), ("AT", "Vienna"), ("NL", "Utrecht"), ("FR", "Lyon"), ("PL", "Gdansk")];
const CAMPAIGNS: [&str; 4] = ["newsletter", "search", "social", "partner"];
const DEVICES: [&str; 3] = ["phone", "laptop", "tablet"];

/// What the shop sent.
pub struct Shop {
    /// NDJSON, in the order of arrival.
    pub lines: Vec<u8>,
    pub truth: Truth,
}

/// What really happened, counted by the maker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Truth {
    /// Lines.
    pub records: u64,
    /// Different events, bots and broken ones not counted.
    pub events: u64,
    /// Of these, sent more than a day after they happened.
    pub late: u64,
    /// Of these, naming the user "null".
    pub nobody: u64,
    /// Lines that repeat an event, to the letter or as the same order under another message id.
    pub duplicates: u64,
    pub bots: u64,
    /// By the code that they are to be rejected with.
    pub broken: BTreeMap<&'static str, u64>,
    /// People, bots not counted.
    pub persons: u64,
    /// As many as the identifiers can tell apart: a device that was never logged in is a person of its own.
    pub profiles: u64,
    pub identifiers: u64,
    pub orders: u64,
    /// Products in the orders: each becomes an event.
    pub ordered: u64,
    pub revenue_cents: u64,
    /// Orders of 300.00 and more.
    pub big_orders: u64,
}

impl Shop {
    /// A shop of so many lines, at least [`EVENTS_MIN`].
    pub fn new(seed: u64, events: u64) -> Shop {
        let events = events.max(EVENTS_MIN) as usize;
        let (copies, bots, broken) = (events / 50, events / 200, events / 200);
        let clean = events - copies - bots - broken;
        let mut maker = Maker { rng: Rng::with_seed(seed), sent: Vec::new(), messages: 0, truth: Truth::default() };
        while maker.sent.len() + PERSON_LINES_MAX <= clean {
            maker.person();
        }
        while maker.sent.len() < clean {
            maker.passer_by();
        }
        maker.delay();
        maker.repeat(copies);
        (0..bots).for_each(|_| maker.bot());
        (0..broken).for_each(|number| maker.broken(number, clean + copies));
        maker.finish()
    }
}

/// A line on its way.
struct Sent {
    arrives_ms: i64,
    body: Body,
}

enum Body {
    Event(Event),
    Bytes(Vec<u8>),
}

#[derive(Clone)]
struct Event {
    at_ms: i64,
    sent_ms: i64,
    message: u64,
    kind: &'static str,
    name: Option<&'static str>,
    anonymous_id: Option<String>,
    user_id: Option<String>,
    /// The fields between the ids and the context, as JSON; empty or ending with a comma.
    more: String,
    context: String,
    properties: String,
}

impl Event {
    fn json(&self) -> String {
        let text = |name: &str, value: Option<&str>| value.map_or(String::new(), |v| format!("\"{name}\":\"{v}\","));
        format!(
            "{{\"type\":\"{}\",{}\"messageId\":\"m{}\",{}{}\"timestamp\":\"{}\",\"sentAt\":\"{}\",{}\"context\":{{{}}},\"properties\":{{{}}}}}",
            self.kind,
            text("event", self.name),
            self.message,
            text("anonymousId", self.anonymous_id.as_deref()),
            text("userId", self.user_id.as_deref()),
            time(self.at_ms),
            time(self.sent_ms),
            self.more,
            self.context,
            self.properties,
        )
    }
}

fn time(at_ms: i64) -> String {
    DateTime::from_timestamp_millis(at_ms)
        .map_or_else(String::new, |at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// 12.50, without the detour over a float.
fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

struct Maker {
    rng: Rng,
    sent: Vec<Sent>,
    messages: u64,
    truth: Truth,
}

/// Someone who comes to the shop.
struct Person {
    number: u64,
    devices: Vec<Device>,
    /// By what is known of them beyond their devices.
    known: Known,
    place: (&'static str, &'static str),
    campaign: Option<&'static str>,
}

#[derive(Default)]
struct Known {
    user_id: bool,
    email: bool,
    customer_no: bool,
}

#[derive(Default, Clone)]
struct Device {
    seen: bool,
    logged_in: bool,
    /// An event named this device together with the person's other identifiers.
    linked: bool,
}

impl Person {
    fn user_id(&self) -> String {
        format!("u{}", self.number)
    }

    fn email(&self) -> String {
        format!("user{}@shop.example", self.number)
    }

    fn customer_no(&self) -> String {
        format!("C{}", 10_000 + self.number)
    }

    fn device_id(&self, device: usize) -> String {
        format!("{}-{}", DEVICES[device % DEVICES.len()], self.number)
    }

    fn context(&self, device: Option<usize>) -> String {
        let (country, city) = self.place;
        let agent = match device {
            Some(device) => format!("\"userAgent\":\"Mozilla/5.0 ({})\",", DEVICES[device % DEVICES.len()]),
            None => "\"channel\":\"telephone\",".to_string(),
        };
        let campaign = self.campaign.filter(|_| device.is_some());
        let campaign = campaign.map_or(String::new(), |source| format!("\"campaign\":{{\"source\":\"{source}\"}},"));
        format!("{agent}{campaign}\"location\":{{\"country\":\"{country}\",\"city\":\"{city}\"}}")
    }
}

impl Maker {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    /// Adds an event that happens now and arrives within two seconds.
    fn add(&mut self, at_ms: i64, event: Event) {
        let sent_ms = at_ms + self.rng.i64(50..2 * SECOND_MS);
        self.messages += 1;
        let event = Event { at_ms, sent_ms, message: self.messages, ..event };
        self.truth.events += 1;
        self.sent.push(Sent { arrives_ms: sent_ms, body: Body::Event(event) });
    }

    fn new_person(&mut self, devices: usize) -> Person {
        self.truth.persons += 1;
        let place = PLACES[self.rng.usize(0..PLACES.len())];
        let campaign = self.chance(60).then(|| CAMPAIGNS[self.rng.usize(0..CAMPAIGNS.len())]);
        let devices = vec![Device::default(); devices];
        Person { number: self.truth.persons, devices, known: Known::default(), place, campaign }
    }

    /// Some moment in the month, by day.
    fn moment(&mut self) -> i64 {
        START_MS + self.rng.i64(0..DAYS) * DAY_MS + self.rng.i64(7 * HOUR_MS..22 * HOUR_MS)
    }

    /// Someone with a history: all that they do in the month.
    fn person(&mut self) {
        let kind = self.rng.u32(0..100);
        let devices = [1, 1, 1, 2, 2, 3][self.rng.usize(0..6)];
        let mut person = self.new_person(if kind < 4 { 0 } else { devices });
        if kind < 4 {
            for _ in 0..1 + self.rng.u32(0..2) {
                let at_ms = self.moment();
                self.telephone_order(&mut person, at_ms);
            }
        } else {
            let signs_up = kind >= 55;
            let visits = 1 + self.rng.usize(0..if signs_up { 8 } else { 3 });
            let mut times: Vec<i64> = (0..visits).map(|_| self.moment()).collect();
            times.sort_unstable();
            let sign_up_visit = self.rng.usize(0..visits.min(3));
            for (visit, at_ms) in times.into_iter().enumerate() {
                let device = if visit == 0 { 0 } else { self.rng.usize(0..person.devices.len()) };
                self.visit(&mut person, device, at_ms, signs_up && visit >= sign_up_visit);
            }
            if person.known.user_id && self.chance(12) {
                let at_ms = self.moment();
                self.telephone_order(&mut person, at_ms);
            }
        }
        self.count_identifiers(&person);
    }

    /// Someone who looks at one page and is not seen again.
    fn passer_by(&mut self) {
        let mut person = self.new_person(1);
        person.devices[0].seen = true;
        let at_ms = self.moment();
        let page = self.page(&person, 0, "/");
        self.add(at_ms, page);
        self.count_identifiers(&person);
    }

    fn count_identifiers(&mut self, person: &Person) {
        let known = [person.known.user_id, person.known.email, person.known.customer_no];
        let known = known.iter().filter(|known| **known).count() as u64;
        let seen = person.devices.iter().filter(|device| device.seen).count() as u64;
        let alone = person.devices.iter().filter(|device| device.seen && !device.linked).count() as u64;
        self.truth.identifiers += known + seen;
        self.truth.profiles += u64::from(known > 0) + alone;
    }

    /// One visit: pages, products, perhaps the cart, perhaps an order; on the way they may sign up or log in.
    fn visit(&mut self, person: &mut Person, device: usize, start_ms: i64, has_account: bool) {
        let mut at_ms = start_ms;
        let mut wait = |rng: &mut Rng| {
            at_ms += rng.i64(5 * SECOND_MS..90 * SECOND_MS);
            at_ms
        };
        person.devices[device].seen = true;
        let page = self.page(person, device, "/");
        let now_ms = wait(&mut self.rng);
        self.add(now_ms, page);
        if has_account && !person.devices[device].logged_in {
            // The first time they sign up; on a further device they may or may not log in.
            if !person.known.user_id {
                let now_ms = wait(&mut self.rng);
                self.sign_up(person, device, now_ms);
            } else if self.chance(70) {
                let now_ms = wait(&mut self.rng);
                person.devices[device].logged_in = true;
                person.devices[device].linked = true;
                let event = self.track(person, Some(device), "Signed In", String::new());
                self.add(now_ms, event);
            }
        }
        let mut cart: Vec<(usize, u64)> = Vec::new();
        for _ in 0..self.rng.u32(0..6) {
            let product = self.product();
            let (sku, name, price, _) = PRODUCTS[product];
            let price = money(price);
            let now_ms = wait(&mut self.rng);
            let viewed = format!("\"sku\":\"{sku}\",\"name\":\"{name}\",\"price\":{price},\"currency\":\"EUR\"");
            let viewed = self.track(person, Some(device), "Product Viewed", viewed);
            self.add(now_ms, viewed);
            if self.chance(30) && cart.iter().all(|(known, _)| *known != product) {
                let quantity = [1, 1, 1, 2][self.rng.usize(0..4)];
                cart.push((product, quantity));
                let now_ms = wait(&mut self.rng);
                let added = format!("\"sku\":\"{sku}\",\"price\":{price},\"quantity\":{quantity},\"currency\":\"EUR\"");
                let added = self.track(person, Some(device), "Product Added", added);
                self.add(now_ms, added);
            }
        }
        if !cart.is_empty() && self.chance(65) {
            let now_ms = wait(&mut self.rng);
            let started = format!("\"value\":{}", money(total(&cart)));
            let started = self.track(person, Some(device), "Checkout Started", started);
            self.add(now_ms, started);
            if self.chance(if person.devices[device].logged_in { 75 } else { 40 }) {
                let now_ms = wait(&mut self.rng);
                self.order(person, Some(device), &cart, now_ms);
            }
        }
    }

    fn sign_up(&mut self, person: &mut Person, device: usize, at_ms: i64) {
        (person.known.user_id, person.known.email) = (true, true);
        (person.devices[device].logged_in, person.devices[device].linked) = (true, true);
        let more = format!("\"traits\":{{\"email\":\"{}\"}},", person.email());
        let event = self.track(person, Some(device), "", String::new());
        // Two in three tick the box.
        let agreed = !person.number.is_multiple_of(3);
        let context = format!("{},\"consent\":{{\"categoryPreferences\":{{\"marketing\":{agreed}}}}}", event.context);
        self.add(at_ms, Event { kind: "identify", name: None, more, context, ..event });
    }

    fn telephone_order(&mut self, person: &mut Person, at_ms: i64) {
        let cart = vec![(self.product(), 1 + self.rng.u64(0..2))];
        (person.known.email, person.known.customer_no) = (true, true);
        self.order(person, None, &cart, at_ms);
    }

    /// An order, on a device or by telephone. Who is not logged in gives an e-mail address.
    fn order(&mut self, person: &mut Person, device: Option<usize>, cart: &[(usize, u64)], at_ms: i64) {
        self.truth.orders += 1;
        self.truth.ordered += cart.len() as u64;
        let products: u64 = total(cart);
        let shipping = if products < 5_000 { 490 } else { 0 };
        let cents = products + shipping;
        self.truth.revenue_cents += cents;
        self.truth.big_orders += u64::from(cents >= 30_000);
        let items: Vec<String> = cart
            .iter()
            .map(|(product, quantity)| {
                let (sku, name, price, _) = PRODUCTS[*product];
                let price = money(price);
                format!("{{\"sku\":\"{sku}\",\"name\":\"{name}\",\"price\":{price},\"quantity\":{quantity}}}")
            })
            .collect();
        let properties = format!(
            "\"order_id\":\"o{}\",\"total\":{},\"shipping\":{},\"currency\":\"EUR\",\"products\":[{}]",
            self.truth.orders,
            money(cents),
            money(shipping),
            items.join(",")
        );
        let more = match device {
            Some(device) if person.devices[device].logged_in => String::new(),
            Some(device) => {
                person.known.email = true;
                person.devices[device].linked = true;
                format!("\"identifiers\":{{\"email\":\"{}\"}},", person.email())
            }
            None => {
                format!(
                    "\"identifiers\":{{\"customer_no\":\"{}\",\"email\":\"{}\"}},",
                    person.customer_no(),
                    person.email()
                )
            }
        };
        let event = self.track(person, device, "Order Completed", properties);
        let event = Event { more, ..event };
        self.add(at_ms, event.clone());
        // The page with the thanks, loaded again: the same order under another message id.
        if device.is_some() && self.chance(4) {
            let again_ms = at_ms + self.rng.i64(10 * SECOND_MS..HOUR_MS);
            self.add(again_ms, event);
            self.truth.events -= 1;
            self.truth.duplicates += 1;
        }
    }

    /// What is common to the events of a person on a device (none: by telephone).
    fn track(&self, person: &Person, device: Option<usize>, name: &'static str, properties: String) -> Event {
        let logged_in = device.is_some_and(|device| person.devices[device].logged_in);
        Event {
            at_ms: 0,
            sent_ms: 0,
            message: 0,
            kind: "track",
            name: Some(name),
            anonymous_id: device.map(|device| person.device_id(device)),
            user_id: logged_in.then(|| person.user_id()),
            more: String::new(),
            context: person.context(device),
            properties,
        }
    }

    fn page(&mut self, person: &Person, device: usize, path: &str) -> Event {
        let mut event = self.track(person, Some(device), "", format!("\"path\":\"{path}\""));
        (event.kind, event.name) = ("page", None);
        // An old version of the app writes "null" where it knows no user.
        if event.user_id.is_none() && self.chance(2) {
            self.truth.nobody += 1;
            event.user_id = Some("null".to_string());
        }
        event
    }

    fn product(&mut self) -> usize {
        let all: u32 = PRODUCTS.iter().map(|product| product.3).sum();
        let mut left = self.rng.u32(0..all);
        for (index, (.., weight)) in PRODUCTS.iter().enumerate() {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        0
    }

    /// One event in a hundred was kept on the device and sent days later.
    fn delay(&mut self) {
        for sent in &mut self.sent {
            let Body::Event(event) = &mut sent.body else { continue };
            // A reloaded order page is not delayed: which of the two counts would be a matter of luck.
            if event.name != Some("Order Completed") && self.rng.u32(0..100) == 0 {
                sent.arrives_ms += self.rng.i64(26 * HOUR_MS..6 * DAY_MS);
                event.sent_ms = sent.arrives_ms;
                self.truth.late += 1;
            }
        }
    }

    /// So many lines arrive twice, to the letter, within two days.
    fn repeat(&mut self, copies: usize) {
        let originals = self.sent.len();
        for _ in 0..copies {
            let original = &self.sent[self.rng.usize(0..originals)];
            let Body::Event(event) = &original.body else { continue };
            let later_ms = if self.rng.bool() { SECOND_MS } else { 2 * DAY_MS };
            let arrives_ms = original.arrives_ms + self.rng.i64(1..later_ms);
            let copy = Sent { arrives_ms, body: Body::Event(event.clone()) };
            self.sent.push(copy);
            self.truth.duplicates += 1;
        }
    }

    fn bot(&mut self) {
        let at_ms = self.moment();
        self.messages += 1;
        let agent = "\"userAgent\":\"shopbot/2.1 (+https://bot.example)\"";
        let id = format!("bot-{}", self.rng.u32(0..9));
        let (message, at) = (self.messages, time(at_ms));
        let line = format!(
            "{{\"type\":\"page\",\"messageId\":\"m{message}\",\"anonymousId\":\"{id}\",\"timestamp\":\"{at}\",\"context\":{{{agent}}},\"properties\":{{\"path\":\"/\"}}}}"
        );
        self.truth.bots += 1;
        self.sent.push(Sent { arrives_ms: at_ms, body: Body::Bytes(line.into_bytes()) });
    }

    /// A line that is to be rejected. None of them is the only trace of something that happened. The first `whole`
    /// lines are good ones, to be cut short.
    fn broken(&mut self, number: usize, whole: usize) {
        let at_ms = self.moment();
        self.messages += 1;
        let (message, at) = (self.messages, time(at_ms));
        let head = format!("\"messageId\":\"m{message}\",\"anonymousId\":\"phone-0\",\"timestamp\":\"{at}\"");
        let (code, line) = match number % 10 {
            0 | 6 | 7 => {
                let mut line = match &self.sent[self.rng.usize(0..whole)].body {
                    Body::Event(event) => event.json().into_bytes(),
                    Body::Bytes(bytes) => bytes.clone(),
                };
                line.truncate(line.len() * (30 + self.rng.usize(0..60)) / 100);
                ("not_json", line)
            }
            1 | 8 | 9 => {
                let order = "\"order_id\":\"o-by-hand\",\"total\":\"12,50\",\"currency\":\"EUR\",\"products\":[]";
                let line =
                    format!("{{\"type\":\"track\",\"event\":\"Order Completed\",{head},\"properties\":{{{order}}}}}");
                ("contract", line.into_bytes())
            }
            2 => (
                "not_an_event",
                format!("{{\"level\":\"warn\",\"at\":\"{at}\",\"message\":\"disk is 91 % full\"}}").into_bytes(),
            ),
            3 => ("duplicate_key", format!("{{\"type\":\"page\",{head},\"messageId\":\"again\"}}").into_bytes()),
            4 => {
                let mut line = format!("{{\"type\":\"page\",{head},\"properties\":{{\"path\":\"/caf").into_bytes();
                line.extend_from_slice(b"\xe9\"}}");
                ("not_utf8", line)
            }
            _ => {
                let line = format!(
                    "{{\"type\":\"page\",\"messageId\":\"m{message}\",\"anonymousId\":\"phone-0\",\"timestamp\":\"yesterday\"}}"
                );
                ("bad_timestamp", line.into_bytes())
            }
        };
        *self.truth.broken.entry(code).or_default() += 1;
        self.sent.push(Sent { arrives_ms: at_ms, body: Body::Bytes(line) });
    }

    fn finish(mut self) -> Shop {
        self.truth.records = self.sent.len() as u64;
        // Stable: what arrives in the same millisecond stays as it was made.
        self.sent.sort_by_key(|sent| sent.arrives_ms);
        let mut lines = Vec::with_capacity(self.sent.len() * 400);
        for sent in &self.sent {
            match &sent.body {
                Body::Event(event) => lines.extend_from_slice(event.json().as_bytes()),
                Body::Bytes(bytes) => lines.extend_from_slice(bytes),
            }
            lines.push(b'\n');
        }
        Shop { lines, truth: self.truth }
    }
}

fn total(cart: &[(usize, u64)]) -> u64 {
    cart.iter().map(|(product, quantity)| PRODUCTS[*product].2 * quantity).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
        let (one, two) = (Shop::new(7, 3_000), Shop::new(7, 3_000));
        assert!(one.lines == two.lines);
        assert_eq!(one.truth, two.truth);
        assert!(Shop::new(8, 3_000).lines != one.lines);
    }

    #[test]
    fn products_are_those_of_the_pipelines_catalogue() {
        let catalogue = include_str!("../../../pipelines/shop/data/catalogue.csv");
        for (sku, ..) in PRODUCTS {
            assert!(catalogue.contains(&format!("\n{sku},")), "{sku}");
        }
    }

    /// Reads the lines as a program that knows nothing of the maker, and counts what the truth says.
    #[test]
    fn the_truth_is_what_the_lines_say() {
        for (seed, events) in [(7, 20_000), (1, 2_000), (99, 5_000)] {
            check(&Shop::new(seed, events), events);
        }
    }

    fn check(shop: &Shop, events: u64) {
        let truth = &shop.truth;
        let lines: Vec<&[u8]> = shop.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len() as u64, events);
        assert_eq!(truth.records, events);
        assert_eq!(truth.records, truth.events + truth.duplicates + truth.bots + truth.broken.values().sum::<u64>());
        let mut seen: HashSet<String> = HashSet::new();
        let (mut late, mut nobody, mut bots, mut revenue, mut big) = (0, 0, 0, 0, 0);
        let mut orders: HashSet<String> = HashSet::new();
        let mut groups = Groups::default();
        let mut persons: HashSet<String> = HashSet::new();
        for line in lines {
            let Ok(event) = serde_json::from_slice::<Value>(line) else { continue };
            let text = |path: &str| event.pointer(path).and_then(Value::as_str).map(str::to_string);
            if text("/anonymousId").as_deref() == Some("phone-0") || text("/type").is_none() {
                continue;
            }
            if text("/context/userAgent").is_some_and(|agent| agent.contains("bot")) {
                bots += 1;
                continue;
            }
            let order = text("/properties/order_id");
            if !seen.insert(order.clone().unwrap_or_else(|| text("/messageId").unwrap())) {
                continue;
            }
            let at = |path: &str| DateTime::parse_from_rfc3339(&text(path).unwrap()).unwrap().timestamp_millis();
            late += u64::from(at("/sentAt") - at("/timestamp") > DAY_MS);
            nobody += u64::from(text("/userId").as_deref() == Some("null"));
            if let Some(order) = order {
                assert!(orders.insert(order));
                let cents = (event["properties"]["total"].as_f64().unwrap() * 100.0).round() as u64;
                revenue += cents;
                big += u64::from(cents >= 30_000);
            }
            let paths = ["/anonymousId", "/userId", "/traits/email", "/identifiers/email", "/identifiers/customer_no"];
            let ids: Vec<String> = paths.iter().filter_map(|path| text(path)).filter(|id| id != "null").collect();
            groups.link(&ids);
            let number = |id: &String| id.chars().filter(char::is_ascii_digit).collect::<String>();
            persons.insert(match ids.iter().find(|id| id.starts_with('C')) {
                Some(customer) => (number(customer).parse::<u64>().unwrap() - 10_000).to_string(),
                None => number(&ids[0]),
            });
        }
        assert_eq!((seen.len() as u64, late, nobody, bots), (truth.events, truth.late, truth.nobody, truth.bots));
        assert_eq!((orders.len() as u64, revenue, big), (truth.orders, truth.revenue_cents, truth.big_orders));
        assert_eq!((groups.of.len() as u64, groups.count()), (truth.identifiers, truth.profiles));
        assert_eq!(persons.len() as u64, truth.persons);
        assert!(truth.profiles > truth.persons, "some devices are never logged in");
        assert!(truth.late > events / 200 && truth.nobody > 0 && truth.orders > 0, "{truth:?}");
        let kinds: Vec<&str> = truth.broken.keys().copied().collect();
        assert_eq!(kinds, ["bad_timestamp", "contract", "duplicate_key", "not_an_event", "not_json", "not_utf8"]);
    }

    /// Identifiers by group, the slow and plain way.
    #[derive(Default)]
    struct Groups {
        of: HashMap<String, usize>,
        next: usize,
    }

    impl Groups {
        fn link(&mut self, ids: &[String]) {
            self.next += 1;
            let joined: HashSet<usize> = ids.iter().filter_map(|id| self.of.get(id)).copied().collect();
            self.of.extend(ids.iter().map(|id| (id.clone(), self.next)));
            self.of.values_mut().filter(|group| joined.contains(group)).for_each(|group| *group = self.next);
        }

        fn count(&self) -> u64 {
            self.of.values().collect::<HashSet<_>>().len() as u64
        }
    }

    #[test]
    fn people_have_numbers_and_no_names() {
        let shop = Shop::new(7, 2_000);
        let text = String::from_utf8_lossy(&shop.lines).into_owned();
        let mut events: BTreeMap<&str, usize> = BTreeMap::new();
        for name in ["Product Viewed", "Product Added", "Checkout Started", "Order Completed", "Signed In"] {
            events.insert(name, text.matches(&format!("\"event\":\"{name}\"")).count());
        }
        assert!(events.values().all(|count| *count > 0), "{events:?}");
        assert!(text.contains("user1") && text.contains("@shop.example") && text.contains("\"identify\""));
    }
}
