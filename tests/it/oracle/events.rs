//! Random events around a clock.

use crate::world::Event;

#[derive(Default)]
pub struct Events {
    /// Made so far, by source: message ids are a source's own, so both have an `m1`.
    made: [usize; 2],
    sent: Vec<(usize, String)>,
}

const SOURCES: [&str; 2] = ["site", "shop"];
const MINUTE_US: i64 = 60_000_000;

impl Events {
    /// Events of one source as its producer wrote them, each received at the clock.
    pub fn batch(&mut self, random: &mut fastrand::Rng, clock: i64) -> (&'static str, Vec<(i64, String)>) {
        let source = random.usize(0..2);
        let mut batch = Vec::new();
        for _ in 0..random.usize(1..16) {
            let old = self.sent.iter().filter(|(other, _)| *other == source).count();
            if old > 0 && random.u8(0..8) == 0 {
                // Sent again.
                let of_source: Vec<&(usize, String)> = self.sent.iter().filter(|(other, _)| *other == source).collect();
                batch.push((clock, of_source[random.usize(0..old)].1.clone()));
                continue;
            }
            let event = self.event(random, source, clock);
            self.sent.push((source, event.json()));
            batch.push((clock, event.json()));
        }
        (SOURCES[source], batch)
    }

    fn event(&mut self, random: &mut fastrand::Rng, source: usize, clock: i64) -> Event {
        let number = self.made[source];
        self.made[source] += 1;
        let at = time(random, clock);
        let mut event = Event {
            message_id: format!("m{number}"),
            user_id: (random.u8(0..10) < 4).then(|| format!("u{}", random.u8(0..8))),
            email: None,
            anonymous_id: (random.u8(0..10) < 8).then(|| format!("a{}", random.u8(0..16))),
            traits: Vec::new(),
            rest: vec![format!(r#""timestamp":"{}""#, text(at))],
            timestamp: at,
        };
        let mut context = vec![format!(r#""campaign":{{"source":"c{}"}}"#, random.u8(0..4))];
        let active = ["true", "false", "null", "\"yes\"", "1"][random.usize(0..5)];
        context.push(format!(r#""active":{active}"#));
        let agent = ["userAgent", "user_agent"][random.usize(0..2)];
        context.push(format!(r#""{agent}":"b{}""#, random.u8(0..3)));
        event.rest.push(format!(r#""context":{{{}}}"#, context.join(",")));
        if random.u8(0..3) > 0 {
            event.rest.push(format!(r#""groupId":"{}""#, ["g0", "g1", "g2", "it's", ""][random.usize(0..5)]));
        }
        match random.u8(0..4) {
            0 => {
                event.email = (random.u8(0..3) == 0).then(|| format!("e{}@shop.example", random.u8(0..8)));
                for (name, values) in TRAITS {
                    if random.bool() {
                        event.traits.push(format!(r#""{name}":{}"#, values[random.usize(0..values.len())]));
                    }
                }
                if random.bool() {
                    event.traits.push(format!(r#""birthday":"{}""#, text(time(random, clock))));
                }
                event.rest.push(r#""type":"identify""#.to_string());
            }
            1 => {
                let total = random.i64(-2_000..20_000) as f64 / [1.0, 10.0, 100.0, 3.0][random.usize(0..4)];
                let order = format!(r#""order_id":"o{number}","total":{total:?},"currency":"EUR""#);
                event.rest.push(track("Order Completed", &order));
            }
            _ => {
                let mut properties = Vec::new();
                for (name, values) in PROPERTIES {
                    if random.u8(0..4) > 0 {
                        properties.push(format!(r#""{name}":{}"#, values[random.usize(0..values.len())]));
                    }
                }
                let name = ["Looked Around", "Rated"][random.usize(0..2)];
                event.rest.push(track(name, &properties.join(",")));
            }
        }
        event
    }
}

fn track(name: &str, properties: &str) -> String {
    format!(r#""type":"track","event":"{name}","properties":{{{properties}}}"#)
}

const TRAITS: [(&str, &[&str]); 3] = [
    ("plan", &["\"pro\"", "\"basic\"", "\"\"", "null", "7", "true", "{\"of\":1}"]),
    ("age", &["18", "44", "44.0", "44.5", "\"44\"", "null", "-3"]),
    ("address", &["{\"city\":\"Köln\"}", "{\"city\":null}", "[1,2]", "null", "\"x\""]),
];

const PROPERTIES: [(&str, &[&str]); 3] = [
    ("sku", &["\"s1\"", "\"s2\"", "\"S2\"", "\"it's \\\"s3\\\" \\\\ ü\"", "null", "12", "\"\""]),
    ("stars", &["1", "2", "3", "4", "5", "\"5\"", "2.5", "-1", "\"none\"", "null", "true"]),
    ("price", &["0.1", "0.2", "19.99", "-5", "1e15", "0.0000005", "-0.0000005", "null", "\"12.5\"", "\"1e300\""]),
];

/// On a grid, so that several happen at once and at the borders of panes, or anywhere; some to come.
fn time(random: &mut fastrand::Rng, clock: i64) -> i64 {
    let minute = |random: &mut fastrand::Rng, from: i64, to: i64| random.i64(from..to) * MINUTE_US;
    let (hour, day) = (clock / (60 * MINUTE_US) * 60 * MINUTE_US, clock / (1440 * MINUTE_US) * 1440 * MINUTE_US);
    match random.u8(0..10) {
        0 => clock,
        1..4 => hour - 10 * minute(random, 0, 18),
        4..6 => hour - 60 * minute(random, 0, 24 * 40),
        6 => day - 1440 * minute(random, 0, 500) - random.i64(0..2),
        7 => clock - random.i64(0..400 * 1440 * MINUTE_US),
        8 => hour + 10 * minute(random, 1, 100),
        _ => clock + random.i64(1..1440 * MINUTE_US),
    }
}

fn text(at: i64) -> String {
    chrono::DateTime::from_timestamp_micros(at).expect("a time").to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}
