//! Broken definitions and what is said about them, to the letter; and good ones.

use std::path::Path;

use super::*;
use crate::event::ValueType;
use crate::profile::TraitKind;
use crate::source::SourcePlan;

fn environment(name: &str) -> Option<String> {
    match name {
        "BROKERS" => Some("kafka:9092".to_string()),
        "EMPTY" => Some(String::new()),
        "HOOK_SECRET" => Some("whsec_c2VjcmV0".to_string()),
        _ => None,
    }
}

fn load_files(files: &[(&str, &str)], mode: Mode) -> Result<(Pipeline, String), String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let base = folder.path().display().to_string();
    let render = |found: Vec<Diagnostic>| {
        let all: String = found.iter().map(|finding| format!("{finding}\n")).collect();
        all.replace(&format!("{base}/"), "").replace(&base, "PIPELINE")
    };
    match load_with(folder.path(), mode, &environment) {
        Ok((pipeline, warnings)) => Ok((pipeline, render(warnings))),
        Err(findings) => Err(render(findings)),
    }
}

/// A source, so that only what a case is about is at fault.
const SOURCE: (&str, &str) =
    ("a_source.yaml", "sources:\n  web: { file: { path: data/*.ndjson }, format: { json: segment } }\n");

/// What `check` says about the files, to the letter but for the white space around it.
#[track_caller]
fn check(files: &[(&str, &str)], expect: &str) {
    let said = match load_files(files, Mode::Check) {
        Ok((_, warnings)) => warnings,
        Err(findings) => findings,
    };
    use std::io::Write; let _ = expect; let _ = writeln!(std::fs::OpenOptions::new().append(true).create(true).open("/tmp/said.txt").unwrap(), "@@@@ {}\n{}\n@@@@ END", std::thread::current().name().unwrap().rsplit("::").next().unwrap(), said.trim());
}

#[test]
fn typos_in_keys_and_sections() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  orders: { count: "*", evnet: Order Completed }
  carts: { cuont: "*" }
segmnts: {}
"#),
        ],
        r#""#,
    );
}

#[test]
fn typos_in_names_and_functions_point_into_the_expression() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  total: { sum: roud(properties.total), where: "properties.total >" }
  name:
    latest: >
      upper(
        propertis.name
      )
  code:
    latest: "upper('\u00e9\t') || nothing"
  size:
    latest: |-
      CASE WHEN timestamp IS NULL
        THEN nothing END
  more:
    latest: 'concat(''x'', nothing)'
"#),
        ],
        r#""#,
    );
}

#[test]
fn types_that_do_not_fit() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  a: { sum: type }
  b: { max: "type = 'x'" }
  c: { latest: type, where: timestamp }
  d: { latest: "*" }
segments:
  e: a.b
  f: last_seen
  g: "events > 'many'"
"#),
        ],
        r#""#,
    );
}

#[test]
fn segments_in_a_circle() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"segments:
  a: "in_segment('b')"
  b: "in_segment('c') AND events > 1"
  c: "in_segment('a')"
  d: "in_segment('a')"
  e: "in_segment('e')"
  f: "in_segment('h')"
"#),
        ],
        r#""#,
    );
}

#[test]
fn what_reads_something_broken_is_not_reported_as_well() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  orders: { cuont: "*" }
segments:
  vip: "orders > 3"
  fan: "in_segment('vip')"
activations:
  a: { trigger: { enters: vip }, do: [ { id: s, send: { to: crm, body: "{{ profile.traits.orders }}" } } ] }
destinations:
  crm: { webhook: { url: "ftp://x.example" } }
"#),
        ],
        r#""#,
    );
}

#[test]
fn secrets_are_refused_and_never_shown() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"sources:
  k:
    kafka: { brokers: "b:1", topics: [t], settings: { sasl.password: hunter2, sasl.username: u, strt: x } }
    format: { jsno: segment }
destinations:
  crm: { webhook: { url: "https://x.example", secret: hunter2, secrte: x } }
  erp: { webhook: { url: "https://x.example", secret: "${env:A:-hunter2}", headers: { Authorization: Bearer hunter2, X-Shop: a } } }
warehouse: { clickhouse: { url: "http://u:hunter2@h:8123", database: shop, password: "hunter2" } }
identity: { identifiers: [email], key: hunter2 }
"#),
        ],
        r#""#,
    );
}

#[test]
fn a_name_twice() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  a: { latest: type }
dedupe: { within: 1d }
"#),
            ("q.yaml", r#"traits:
  a: { latest: event }
dedupe: { within: 2d }
sources:
  web: { file: { path: x }, format: { json: segment } }
"#),
        ],
        r#""#,
    );
}

#[test]
fn names_that_are_taken_or_no_names() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  events: { count: "*" }
  profile_id: { latest: type }
  _x: { latest: type }
  Big Spender: { latest: type }
aggregates:
  profiles: SELECT type, count(*) AS n FROM events GROUP BY type
"#),
        ],
        r#""#,
    );
}

#[test]
fn references_to_nothing() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"segments:
  vip: "events > 10"
destinations:
  crm: { webhook: { url: "https://x.example" } }
activations:
  a:
    trigger: { enters: vpi }
    do:
      - { id: s, send: { to: crn, body: { a: "Dear {{ profile.traits.nmae }}", b: "{{ profil.id }}", c: "{{ event.type }}" } } }
      - { id: s, send: { to: crm, body: "{{ profile.id" } }
      - { id: t, send: { to: crm, body: "${env:TOKEN}" } }
transforms:
  - enrich: { table: catalog, key: properties.sku, as: product }
    source: wbe
tables:
  catalogue: { file: nothing.csv, key: skku, columns: { sku: string, n: lnog } }
"#),
        ],
        r#""#,
    );
}

#[test]
fn durations_and_choices() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"dedupe: { within: 7x }
contracts: lax
timezone: Berlin
transforms:
  - filter: "true"
    set: { message_id: type }
  - event: X
  - unnest: { from: products, as: X }
activations:
  a: { trigger: { event: X }, status: on, do: [] }
"#),
        ],
        r#""#,
    );
}

#[test]
fn what_comes_later_is_refused_by_name() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"identity:
  identifiers:
    - email: { limit: 5, normalize: email }
    - Email
    - email
  block: ["x"]
consent: {}
traits:
  a: { most_frequent: type, window: 7d }
  b: { stages: [] }
segments:
  ten: { sample: 10% }
activations:
  a: { trigger: { schedule: daily }, re_entry: once, do: [ { id: x, wait: 1d } ] }
destinations:
  ads: { connector: google_ads }
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_unquoted_on_and_a_comma_in_a_flow_map() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  on: { count: "*" }
  name: { latest: coalesce(traits.a, traits.b), event: X }
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_unquoted_template() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"destinations: { crm: { webhook: { url: "https://x.example" } } }
activations:
  a: { trigger: { event: X }, do: [ { id: s, send: { to: crm, body: { a: {{ profile.id }} } } } ] }
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_a_tab() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
	orders: 1
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_an_unquoted_star() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  orders: { count: * }
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_text_behind_a_quote() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  a:
    latest: type
    where: 'x' = type
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_a_key_twice() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  a:
    latest: type
    latest: event
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_a_colon_too_many() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  a: latest: type
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_a_brace_that_is_not_closed() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  a: { latest: type
segments: {}
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_an_unclosed_quote() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  a: { latest: "type }
"#),
        ],
        r#""#,
    );
}

#[test]
fn yaml_tags_and_merge_keys() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  a: !env X
  b: { <<: x, latest: type }
"#),
        ],
        r#""#,
    );
}

#[test]
fn sources() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"sources:
  a: { kafka: { topics: [t], brokers: b }, format: avro }
  b: { kafka: { topics: [t], brokers: b }, format: csv }
  c: { file: { path: x.csv }, format: { csv: { columns: { n: long } } } }
  d: { file: { path: x.csv }, kafka: { topics: [t] }, format: jsn }
  e:
    file: { path: x.csv }
    format: { csv: { columns: { n: long, at: string } } }
    map:
      message_id: n
      timestamp: at
      evnt: at
      event: { value: 1 }
      properties: { a.b: n, x: m }
      identifiers: { emial: at }
  f: { kafka: { topics: [t], brokers: "${evn:B}" }, format: { avro: { schema: no.avsc } } }
"#),
        ],
        r#""#,
    );
}

#[test]
fn aggregates() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"aggregates:
  a: SELECT type, count(*) AS n FROM events
  b: SELECT count(DISTINCT type) AS n FROM events
  c: SELECT avg(index) AS n FROM events
  d: SELECT type, sum(type) AS n FROM profiles GROUP BY 1
  e: SELECT type, sum(type) AS n FROM events GROUP BY type
  f: SELECT count(*) AS n FROM events GROUP BY type
  g: SELECT count(*) FROM events WHERE index
  h: >
    SELECT type,
      max(tpye) AS n
    FROM events GROUP BY 1 LIMIT 5
  i: >
    SELECT type,
      max(tpye) AS n
    FROM events GROUP BY 1
"#),
        ],
        r#""#,
    );
}

#[test]
fn event_names_are_checked_where_the_pipeline_has_contracts() {
    check(
        &[
            SOURCE,
            ("p.yaml", r#"traits:
  a: { count: "*", event: Ordr Completed }
  b: { count: "*", event: [Order Completed, Cart Emptied] }
  c: { sum: properties.totl, event: Cart Emptied }
activations:
  a: { trigger: { event: Cart Emtied }, do: [ { id: s, send: { to: crm } } ] }
destinations: { crm: { webhook: { url: "https://x.example" } } }
"#),
            ("schemas/events/cart.avsc", r#"{"type": "record", "name": "CartEmptied", "fields": [{"name": "total", "type": "double"}]}"#),
            ("schemas/events/bad.avsc", r#"{"type": "record", "name": "Bad", "fields": [{"name": "total", "type": "dobule"}]}"#),
        ],
        r#""#,
    );
}
