//! Good definitions, and places; `broken` has the others, `cases` what is said of tests, `schema` that for editors,
//! `sessions` that section.

mod analyses;
mod broken;
mod cases;
mod delivery;
mod destinations;
mod groups;
mod lists;
mod rfm;
mod schema;
mod sessions;

use std::path::Path;

use super::*;
use crate::event::{ValueType, column};
use crate::identity::{IdentifierFrom, Limit, MAX_IDENTIFIERS, Normalize, OnConflict, Pattern, Region};
use crate::profile::{OnMerge, TraitKind};
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
    match load_with(folder.path(), None, mode, &environment) {
        Ok((pipeline, warnings)) => Ok((pipeline, render(warnings))),
        Err(findings) => Err(render(findings)),
    }
}

/// A source, so that only what a case is about is at fault.
const SOURCE: (&str, &str) =
    ("a_source.yaml", "sources:\n  web: { file: { path: data/*.ndjson }, format: { json: segment } }\n");

/// What sessions read of every pipeline's events.
const SESSION_FIELDS: usize = 4;

/// What `check` says about the files, to the letter but for the white space around it.
#[track_caller]
fn check(files: &[(&str, &str)], expect: &str) {
    let said = match load_files(files, Mode::Check) {
        Ok((_, warnings)) => warnings,
        Err(findings) => findings,
    };
    assert_eq!(said.trim(), expect.trim(), "\n{said}");
}

#[test]
fn what_is_written_becomes_plans() {
    let shop = r#"
pipeline: tiny
sources:
  web:
    kafka: { brokers: "${env:BROKERS}", topics: [a, b], start: latest, settings: { client.id: x } }
    format: { json: segment }
dedupe: { by: message_id, within: forever }
identity: { identifiers: [customer_no, user_id, email] }
traits:
  email:   { latest: traits.email }
  orders:  { count: "*", event: Order Completed }
  revenue: { sum: "CAST(properties.total AS DOUBLE)", event: [Order Completed], where: "type = 'track'" }
  last:    { max: timestamp }
segments:
  vip:  "in_segment('many') AND revenue > 100"
  many: "orders > 3"
destinations:
  crm:
    webhook: { url: "https://x.example", secret: "${env:HOOK_SECRET}", headers: { X-A: "${env:NONE:-b}" }, allow_private: true }
  log: { kafka: { brokers: "${env:BROKERS}", topic: out } }
activations:
  a:
    trigger: { exits: vip }
    consent: none
    do: [ { id: s, send: { to: crm, body: { n: 1, t: "{{ profile.traits.email }}" } } } ]
  b:
    trigger: { event: Order Completed, where: "properties.coupon IS NOT NULL" }
    consent: none
    status: live
    do: [ { id: s, send: { to: log } } ]
aggregates:
  by_type: SELECT type, count(*) AS n, max(timestamp) AS last FROM events WHERE event <> 'x' GROUP BY type
warehouse: { clickhouse: { url: "${env:EMPTY:-}", database: shop, password: "${env:NOT_SET}" } }
tests:
  - { name: x, steps: [ { at: 2026-03-01T10:00Z, events: [ { event: A, properties: { n: 1 } } ] } ] }
"#;
    let (pipeline, warnings) = load_files(&[("p.yaml", shop)], Mode::Run).unwrap();
    assert_eq!(warnings, "");
    assert_eq!(pipeline.name, "tiny");
    let SourcePlan::Kafka(kafka) = &pipeline.sources[0] else { panic!("a Kafka source") };
    assert_eq!(
        (kafka.brokers.as_str(), kafka.topics.len(), kafka.settings["client.id"].as_str()),
        ("kafka:9092", 2, "x")
    );
    assert_eq!(pipeline.decode[0].source, kafka.name);
    assert_eq!(pipeline.dedupe.within, None);

    let (email, revenue) = (rule(&pipeline.traits[0]), rule(&pipeline.traits[2]));
    assert_eq!((&email.kind, email.presence.as_deref()), (&TraitKind::Latest, Some("traits.email?")));
    assert_eq!((revenue.input_type, revenue.scale), (ValueType::Double, 6));
    assert_eq!(revenue.events.as_deref(), Some(&["Order Completed".to_string()][..]));
    assert!(revenue.filter.is_some() && rule(&pipeline.traits[1]).input.is_none());
    let fields: Vec<String> = pipeline.transform.fields.iter().map(|field| field.column_name()).collect();
    for wanted in ["traits.email:string", "traits.email?", "traits.customer_no:string"] {
        assert!(fields.iter().any(|field| field == wanted), "{wanted} in {fields:?}");
    }
    assert!(fields.iter().any(|field| field.starts_with("properties.total:")), "{fields:?}");

    let order: Vec<&str> = pipeline.segments.iter().map(|segment| segment.name.as_str()).collect();
    assert_eq!(order, ["many", "vip"], "a segment comes after those it refers to");
    let statuses: Vec<_> = pipeline.activations.iter().map(|activation| activation.status).collect();
    assert_eq!(statuses, [crate::activation::Status::DryRun, crate::activation::Status::Live]);
    assert_eq!(pipeline.warehouse, Warehouse::Lake, "an empty url means the lake");
    assert_eq!(pipeline.tests.len(), 1);
    let roles: Vec<_> = pipeline.aggregates[0].columns.iter().map(|column| column.role).collect();
    use crate::aggregate::AggregateRole::{Count, Key, Max};
    assert_eq!(roles, [Key, Count, Max]);
}

#[test]
fn identity_rules_become_a_plan() {
    let file = r#"
identity:
  identifiers:
    - customer_no: { limit: 1, block: [/^C0/, test] }
    - email:       { normalize: email, dots: drop, tags: keep, limit: 5 }
    - phone:       { normalize: e164, region: DE, from: context.device.phone }
    - fax:         { normalize: e164 }
    - user_id:     { normalize: lower }
    - card:        { normalize: digits }
    - anonymous_id: { limit: 100 per 30d }
  block: ["x@y.de", "/^demo-/i"]
  on_conflict: reassign
  max_identifiers: 50
  previous_id: user_id
"#;
    let (pipeline, warnings) = load_files(&[SOURCE, ("p.yaml", file)], Mode::Run).unwrap();
    assert_eq!(warnings, "");
    let plan = &pipeline.identity;
    let month = 30 * 24 * 60 * 60 * 1_000_000;
    let map = |field: &str| IdentifierFrom::Map { or_field: Some(field.to_string()) };
    let limit = |count, within| Some(Limit { count, within });
    let rows = [
        ("customer_no", map("traits.customer_no:string"), Normalize::Trim, limit(1, None)),
        (
            "email",
            map("traits.email:string"),
            Normalize::Email { without_dots: true, without_tags: false },
            limit(5, None),
        ),
        ("phone", map("context.device.phone:string"), Normalize::E164 { region: Region::new("DE") }, None),
        ("fax", map("traits.fax:string"), Normalize::E164 { region: None }, None),
        ("user_id", IdentifierFrom::Column(column::USER_ID), Normalize::Lower, None),
        ("card", map("traits.card:string"), Normalize::Digits, None),
        ("anonymous_id", IdentifierFrom::Column(column::ANONYMOUS_ID), Normalize::Trim, limit(100, Some(month))),
    ];
    assert_eq!(plan.types.len(), rows.len());
    let fields: Vec<String> = pipeline.transform.fields.iter().map(|field| field.column_name()).collect();
    for (known, (name, from, normalize, limit)) in plan.types.iter().zip(rows) {
        assert_eq!((&*known.name, &known.from, &known.normalize, known.limit), (name, &from, &normalize, limit));
        if let IdentifierFrom::Map { or_field: Some(field) } = from {
            assert!(fields.contains(&field), "{field} in {fields:?}");
        }
    }
    assert_eq!(fields.len(), 5 + SESSION_FIELDS, "and nothing else: {fields:?}");
    assert_eq!(plan.types[0].block, ["/^C0/", "test"].map(|text| Pattern::new(text).unwrap()));
    assert_eq!(plan.block, ["x@y.de", "/^demo-/i"].map(|text| Pattern::new(text).unwrap()));
    assert_eq!((plan.on_conflict, plan.max_identifiers, plan.previous_id), (OnConflict::Reassign, 50, Some(4)));
}

#[test]
fn what_identity_leaves_out_is_usual() {
    let rows = [
        ("", 2, Some(1)),
        ("identity: { identifiers: [email, anonymous_id: {}] }", 2, Some(1)),
        ("identity: { identifiers: [email, user_id:] }", 2, None),
    ];
    for (file, types, previous_id) in rows {
        let (pipeline, _) = load_files(&[SOURCE, ("p.yaml", file)], Mode::Check).unwrap();
        let plan = pipeline.identity;
        assert_eq!((plan.types.len(), plan.previous_id), (types, previous_id), "{file}");
        assert!(plan.types.iter().all(|kind| kind.normalize == Normalize::Trim && kind.limit.is_none()));
        assert_eq!((plan.on_conflict, plan.max_identifiers), (OnConflict::Keep, MAX_IDENTIFIERS));
    }
}

fn rule(plan: &crate::profile::TraitPlan) -> &crate::profile::EventRule {
    plan.event_rule().expect("a trait over events")
}

#[test]
fn on_merge_is_part_of_a_traits_meaning() {
    let load = |rest: &str, identity: &str| {
        let sources = "sources:\n  web: { file: { path: x }, format: { json: segment } }\n  erp: { file: { path: y }, format: { json: segment } }\n";
        let file = format!("{sources}{identity}traits:\n  t: {{ {rest} }}\n");
        let (pipeline, _) = load_files(&[("p.yaml", &file)], Mode::Check).unwrap();
        pipeline.traits[0].clone()
    };
    let plain = load("latest: type", "");
    assert_eq!((rule(&plain).on_merge, rule(&plain).source_order.len()), (OnMerge::Latest, 0));
    assert_eq!(rule(&load("first: type", "")).on_merge, OnMerge::Earliest);
    assert_eq!(load("latest: type, on_merge: latest", "").version, plain.version, "said or not");
    assert_eq!(load("first: type, on_merge: earliest", "").version, load("first: type", "").version);

    let by_source = load("latest: type, on_merge: source_priority", "");
    assert_eq!(rule(&by_source).source_order, ["web", "erp"], "as they are defined");
    let identity = "identity: { identifiers: [user_id], source_priority: [erp] }\n";
    let by_rule = load("latest: type, on_merge: source_priority", identity);
    assert_eq!(rule(&by_rule).source_order, ["erp"]);
    assert_eq!(load("latest: type", identity).version, plain.version, "where it does not matter");
    let survivor = load("latest: type, on_merge: survivor", "");
    let earliest = load("latest: type, on_merge: earliest", "");
    let versions = [plain, by_source, by_rule, survivor, earliest].map(|plan| plan.version);
    let mut distinct = versions.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), versions.len());
}

#[test]
fn other_identity_rules_can_be_tried_on_a_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    write("shop/a.yaml", SOURCE.1);
    // What is wrong with the rules that are replaced does not matter.
    write("shop/b.yaml", "identity: { identifiers: [email: { limit: x }] }\ntraits:\n  n: { count: \"*\" }\n");
    let shop = folder.path().join("shop");
    let load = |rules: &Path| {
        let said = |found: Vec<Diagnostic>| {
            let all: String = found.iter().map(|finding| format!("{finding}\n")).collect();
            all.replace(&format!("{}/", folder.path().display()), "")
        };
        load_with(&shop, Some(rules), Mode::Check, &environment).map_err(said)
    };
    assert!(load_with(&shop, None, Mode::Check, &environment).is_err());

    let rules = write("new.yaml", "identity:\n  identifiers: [user_id, phone: { normalize: e164, region: DE }]\n");
    let (pipeline, warnings) = load(&rules).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let names: Vec<&str> = pipeline.identity.types.iter().map(|kind| kind.name.as_str()).collect();
    assert_eq!((pipeline.name.as_str(), names), ("shop", vec!["user_id", "phone"]));
    let fields: Vec<String> = pipeline.transform.fields.iter().map(|field| field.column_name()).collect();
    assert_eq!(
        fields[..fields.len() - SESSION_FIELDS],
        ["traits.phone:string"],
        "what the new rules read, and not what the old ones did"
    );
    assert_eq!(pipeline.traits.len(), 1);

    // Of a whole pipeline, in a file or a folder, the one section counts.
    let whole = "sources: { broken: {} }\nnonsense: 1\nidentity: { identifiers: [user_id] }\n";
    let whole = write("other/whole.yaml", whole);
    for rules in [whole.as_path(), whole.parent().unwrap()] {
        let (pipeline, _) = load(rules).unwrap();
        assert_eq!((pipeline.identity.types.len(), pipeline.sources.len()), (1, 1));
    }

    let wrong = write("wrong.yaml", "\nidentity: { identifiers: [phone: { normalize: e165 }] }\n");
    let rows = [
        (
            wrong,
            "error: `normalize` is one of `trim`, `lower`, `digits`, `email` and `e164`, not `e165`\n --> wrong.yaml:2:47\n",
        ),
        (write("none.yaml", "traits: {}\n"), "error: there is no `identity` section here\n --> none.yaml\n"),
        (write("empty.yaml", ""), "error: there is no `identity` section here\n --> empty.yaml\n"),
        (write("list.yaml", "- a\n"), "error: a pipeline file is a map, this is a list\n --> list.yaml:1:1\n"),
        (folder.path().join("missing.yaml"), "error: this file cannot be read"),
    ];
    for (rules, expect) in rows {
        let said = load(&rules).unwrap_err();
        assert!(said.starts_with(expect) && said.matches("error:").count() == 1, "{said}");
    }
}

#[test]
fn a_missing_variable_matters_only_to_run() {
    let file = "destinations:\n  crm: { webhook: { url: \"${env:URL}\", secret: \"${env:NOT_SET}\" } }\n";
    assert!(load_files(&[SOURCE, ("p.yaml", file)], Mode::Check).is_ok());
    let expect = r#"
error: the environment variable `URL` is not set
 --> p.yaml:2:26
  |
2 |   crm: { webhook: { url: "${env:URL}", secret: "${env:NOT_SET}" } }
  |                          ^^^^^^^^^^^^
error: the environment variable `NOT_SET` is not set
 --> p.yaml:2:48
  |
2 |   crm: { webhook: { url: "${env:URL}", secret: "${env:NOT_SET}" } }
  |                                                ^^^^^^^^^^^^^^^^
"#;
    assert_eq!(load_files(&[SOURCE, ("p.yaml", file)], Mode::Run).unwrap_err().trim(), expect.trim());
}

#[test]
fn a_secret_can_come_from_a_file() {
    let file = "destinations:\n  crm: { webhook: { url: \"https://x.example\", secret: \"${file:secret.txt}\" } }\n";
    let (pipeline, _) = load_files(&[SOURCE, ("p.yaml", file), ("secret.txt", "whsec_x\n")], Mode::Run).unwrap();
    let crate::activation::DestinationKind::Webhook { secrets, .. } = &pipeline.destinations[0].kind else {
        panic!("a webhook")
    };
    assert_eq!(secrets, &["whsec_x"], "without the line's end");
}

#[test]
fn a_source_is_on_as_its_if_and_unless_say() {
    let names = |file: &str| {
        load_files(&[("p.yaml", file)], Mode::Run).map(|(pipeline, _)| {
            let names = pipeline.decode.iter().map(|decode| decode.source.to_string());
            names.collect::<Vec<_>>()
        })
    };
    let source = |name: &str, key: &str, variable: &str| {
        format!(
            "  {name}:\n    {key}: \"${{env:{variable}:-}}\"\n    \
             kafka: {{ brokers: \"${{env:{variable}:-}}\", topics: [t] }}\n    format: {{ json: segment }}\n"
        )
    };
    let rows = [
        ("if", "BROKERS", "unless", "BROKERS", vec!["one"]),
        ("if", "EMPTY", "unless", "EMPTY", vec!["two"]),
        ("if", "BROKERS", "if", "NOT_SET", vec!["one"]),
    ];
    for (one, variable, two, other, expect) in rows {
        let file = format!("sources:\n{}{}", source("one", one, variable), source("two", two, other));
        assert_eq!(names(&file).unwrap(), expect, "{file}");
    }
    let off = format!("sources:\n{}", source("one", "if", "EMPTY"));
    assert!(names(&off).unwrap_err().contains("error: no source is on\n --> p.yaml:2:3"));
    // A source that is off is checked, but its variables need not be set.
    let off = "sources:\n  a: { if: \"\", kafka: { brokers: \"${env:NOT_SET}\", topics: [t] }, format: { json: segment } }\n  b: { file: { path: x }, format: { json: segment } }\n";
    assert_eq!(names(off).unwrap(), ["b"]);
    assert!(names(&off.replace("topics", "topisc")).is_err());
}

#[test]
fn a_version_changes_with_the_meaning_and_with_nothing_else() {
    let versions = |file: &str| {
        let (pipeline, _) = load_files(&[SOURCE, ("p.yaml", file)], Mode::Check).unwrap();
        (pipeline.traits[0].version, pipeline.segments[0].version, pipeline.activations[0].version)
    };
    let file = "traits:\n  n: { count: \"*\", where: \"type = 'a b'\" }\nsegments:\n  s: \"n > 1\"\ndestinations:\n  c: { kafka: { brokers: b, topic: t } }\nactivations:\n  a: { trigger: { enters: s }, consent: none, do: [ { id: x, send: { to: c } } ] }\n";
    let first = versions(file);
    assert_eq!(first.0, 9_146_640_060_238_532_835, "on this machine as on every other");
    let same = file
        .replace("\"type = 'a b'\"", "\"type  =\\n 'a b'\"")
        .replace("{ enters: s }, ", "{ enters: s }, status: live, ");
    assert_eq!(versions(&same), first);
    let (n, s, a) = versions(&file.replace("'a b'", "'a  b'"));
    assert!(n != first.0 && s != first.1, "a segment's meaning is that of its traits");
    assert_eq!(a, first.2);
    let (n, s, a) = versions(&file.replace("id: x", "id: y"));
    assert!(n == first.0 && s == first.1 && a != first.2);
}

#[test]
fn anchors_are_copied_in_but_never_without_end() {
    let file = "traits:\n  a: &a { latest: type }\n  b: *a\n";
    let (pipeline, _) = load_files(&[SOURCE, ("p.yaml", file)], Mode::Check).unwrap();
    assert_eq!(pipeline.traits.len(), 2);
    let mut bomb = "tests:\n- &x0 [a, a, a, a, a, a, a, a, a, a]\n".to_string();
    for level in 0..9 {
        let aliases = vec![format!("*x{level}"); 10].join(", ");
        bomb.push_str(&format!("- &x{} [{aliases}]\n", level + 1));
    }
    assert!(load_files(&[SOURCE, ("p.yaml", &bomb)], Mode::Check).unwrap_err().contains("would copy too much"));
}

#[test]
fn what_is_no_pipeline_is_said_to_be_none() {
    let rows: [(&[(&str, &str)], &str); 4] = [
        (&[], "error: there are no *.yaml files here\n --> PIPELINE\n"),
        (&[("p.yaml", "# nothing\n")], "error: this pipeline is empty\n --> PIPELINE\n"),
        (&[("p.yaml", "pipeline: x\n")], "error: this pipeline has no source\n --> PIPELINE\n"),
        (&[("p.yaml", "- a\n")], "error: a pipeline file is a map, this is a list\n --> p.yaml:1:1\n"),
    ];
    for (files, expect) in rows {
        let said = load_files(files, Mode::Check).unwrap_err();
        assert!(said.starts_with(expect), "{said}");
    }
    assert!(load(Path::new("/no/such/pipeline"), Mode::Check).is_err());
}

#[test]
fn one_file_is_a_pipeline_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my-shop.yaml");
    std::fs::write(&path, SOURCE.1).unwrap();
    let (pipeline, _) = load_with(&path, None, Mode::Check, &environment).unwrap();
    assert_eq!((pipeline.name.as_str(), pipeline.base.as_path()), ("my_shop", folder.path()));
}

#[test]
fn the_pipelines_that_ship_load_without_findings() {
    for name in ["cdnow", "shop"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(name);
        for kafka in [None, Some("kafka:9092".to_string())] {
            let env = |variable: &str| if variable == "KAFKA_BROKERS" { kafka.clone() } else { None };
            let loaded = load_with(&path, None, Mode::Check, &env);
            let findings = match &loaded {
                Ok((_, warnings)) => warnings,
                Err(findings) => findings,
            };
            let shown: Vec<String> = findings.iter().map(|finding| finding.to_string()).collect();
            assert!(shown.is_empty(), "{name}: {}", shown.join("\n"));
            let (pipeline, _) = loaded.unwrap();
            assert_eq!(pipeline.sources.len(), 1, "one source is on");
            let reads_kafka = matches!(pipeline.sources[0], SourcePlan::Kafka(_));
            assert_eq!(reads_kafka, kafka.is_some());
        }
    }
}

// Places inside scalars

mod places {
    use proptest::prelude::*;

    use super::super::findings::Findings;
    use super::super::yaml::{self, Value};

    /// One value in a style of YAML, as the value of `key`.
    fn written(style: usize, words: &[String]) -> String {
        let text = words.join(" ");
        match style {
            0 => format!("key: {text} # comment\n"),
            1 => format!("key: '{}'\n", text.replace('\'', "''")),
            2 => {
                let escape = |c: char| match c {
                    '"' | '\\' => format!("\\{c}"),
                    'ü' => "\\u00fc".to_string(),
                    'x' => "\\x78".to_string(),
                    _ => c.to_string(),
                };
                format!("key: \"{}\"\n", text.chars().map(escape).collect::<String>())
            }
            3 => format!("a:\n  - key: |-\n      {}\n    more: 1\n", words.join("\n        ")),
            4 => format!("key: > # folded\n  {}\n", words.join("\n  ")),
            5 => format!("key: \"{}\"\n", words.join("\n   ").replace(['\\', '"'], "")),
            _ => format!("{{ other: [1], key: {text} }}\n"),
        }
    }

    fn find(nodes: &[yaml::Node]) -> Option<&yaml::Node> {
        nodes.iter().find_map(|node| match &node.value {
            Value::Scalar(_) => None,
            Value::List(items) => find(items),
            Value::Map(entries) => {
                let here = entries.iter().find(|entry| entry.key.text == "key").map(|entry| &entry.value);
                here.or_else(|| entries.iter().find_map(|entry| find(std::slice::from_ref(&entry.value))))
            }
        })
    }

    proptest! {
        #[test]
        fn a_place_in_the_text_is_found_in_the_file(
            mut words in proptest::collection::vec("[a-zü(=']{1,6}|[a-z]{1,3}[\"\\\\]", 1..8),
            at in 0usize..8,
            style in 0usize..7,
        ) {
            // Plain text cannot begin with a quote.
            words.insert(0, "first".to_string());
            words.insert(1 + at % words.len(), "TARGET".to_string());
            if style == 5 {
                words.retain(|word| !word.contains(['"', '\\']));
            }
            let file = written(style, &words);
            let mut findings = Findings::default();
            let index = findings.add_file("p.yaml".into(), file.clone());
            let documents = yaml::parse(index, &findings).unwrap_or_default();
            let node = find(&documents).expect("the key");
            let scalar = node.as_scalar().expect("a scalar");
            let start = scalar.text.find("TARGET").expect("the word");
            let span = scalar.locate(&(start..start + 6), node.span, &file);
            prop_assert_eq!(findings.text(span), "TARGET", "{}", file);
        }
    }
}
