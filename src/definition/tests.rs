//! Broken definitions and what is said about them, to the letter; and good ones.

use std::path::Path;

use super::*;

fn environment(name: &str) -> Option<String> {
    match name {
        "BROKERS" => Some("kafka:9092".to_string()),
        "EMPTY" => Some(String::new()),
        "HOOK_SECRET" => Some("whsec_c2VjcmV0".to_string()),
        _ => None,
    }
}

fn load_files(files: &[(&str, &str)], mode: Mode) -> Result<(Pipeline, Vec<Diagnostic>), Vec<Diagnostic>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let relative = |found: Vec<Diagnostic>| {
        let strip = |path: &Path| path.strip_prefix(folder.path()).unwrap_or(path).to_path_buf();
        let base = format!("{}/", folder.path().display());
        let fix = |finding: Diagnostic| Diagnostic {
            file: strip(&finding.file),
            help: finding.help.as_ref().map(|help| help.replace(&base, "")),
            message: finding.message.replace(&base, ""),
            ..finding
        };
        found.into_iter().map(fix).collect::<Vec<_>>()
    };
    match load_with(folder.path(), mode, &environment) {
        Ok((pipeline, warnings)) => Ok((pipeline, relative(warnings))),
        Err(findings) => Err(relative(findings)),
    }
}

fn render(findings: &[Diagnostic]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// A source, so that only what a case is about is at fault.
const SOURCE: (&str, &str) =
    ("a_source.yaml", "sources:\n  web: { file: { path: data/*.ndjson }, format: { json: segment } }\n");

#[test]
fn scratch() {
    let cases: &[&[(&str, &str)]] = &[
        &[
            SOURCE,
            (
                "p.yaml",
                "traits:\n  orders: { count: \"*\", evnet: Order Completed }\n  b: { cuont: \"*\" }\nsegmnts: {}\n",
            ),
        ],
        &[
            SOURCE,
            (
                "p.yaml",
                "traits:\n  orders: { sum: totl(properties.total), where: \"properties.total >\" }\n  x:\n    latest: >\n      upper(\n        propertis.total\n      )\n",
            ),
        ],
        &[
            SOURCE,
            (
                "p.yaml",
                "traits:\n  orders: { count: \"*\" }\nsegments:\n  vip: \"ordrs > 3\"\n  b: orders\n  c: \"in_segment('d')\"\n  d: \"in_segment('e') and orders > 1\"\n  e: \"in_segment('c')\"\n  f: \"in_segment('g')\"\n",
            ),
        ],
        &[
            SOURCE,
            (
                "p.yaml",
                "destinations:\n  crm: { webhook: { url: \"https://x.example\", secret: hunter2, secrte: 1 } }\n",
            ),
        ],
        &[
            SOURCE,
            (
                "p.yaml",
                "traits:\n  orders: { latest: coalesce(traits.a, traits.b), event: X }\n  on: { count: \"*\" }\n",
            ),
        ],
        &[SOURCE, ("p.yaml", "traits:\n\torders: 1\n")],
        &[SOURCE, ("p.yaml", "traits:\n  orders: { count: * }\n")],
        &[SOURCE, ("p.yaml", "traits:\n  a: { latest: traits.a, where: 'x' = traits.b }\n")],
        &[SOURCE, ("p.yaml", "traits:\n  a:\n    latest: traits.a\n    where: 'x' = traits.b\n")],
        &[SOURCE, ("p.yaml", "traits:\n  a:\n    latest: traits.a\n    latest: traits.b\n")],
        &[
            SOURCE,
            ("p.yaml", "traits:\n  a: { latest: traits.a }\n"),
            ("q.yaml", "traits:\n  a: { latest: traits.b }\n"),
        ],
        &[
            SOURCE,
            (
                "p.yaml",
                "dedupe: { within: 7x }\nidentity:\n  identifiers:\n    - email: { limit: 5, normalize: email }\n    - Email\n    - email\n",
            ),
        ],
        &[
            SOURCE,
            (
                "p.yaml",
                "activations:\n  a:\n    trigger: { enters: nobody }\n    do:\n      - { id: x, send: { to: crn, body: { email: \"{{ profile.traits.emial }}\", t: {{ profile.id }} } } }\n",
            ),
        ],
        &[SOURCE, ("p.yaml", "traits:\n  a: b: c\n")],
        &[SOURCE, ("p.yaml", "traits:\n  a: { latest: traits.a\nsegments: {}\n")],
        &[("p.yaml", "")],
        &[("p.yaml", "pipeline: x\n")],
        &[],
        &[
            SOURCE,
            (
                "p.yaml",
                "traits:\n  a:\n    latest: \"upper('\\u00e9\\t', nothing)\"\n  b:\n    latest: |-\n      case when traits.a = 'x'\n        then nothing end\n",
            ),
        ],
        &[
            SOURCE,
            (
                "p.yaml",
                "sources:\n  web: { kafka: { topics: [a], brokers: \"${env:NOPE}\" }, format: csv }\n  k: { kafka: { topics: [a], brokers: \"${env:NOPE}\", settings: { sasl.password: x, linger.ms: 5 } }, format: avro }\n  k3: { kafka: { topics: [a], brokers: \"${env:NOPE}\" }, format: avro }\n",
            ),
        ],
    ];
    for case in cases {
        let shown = match load_files(case, Mode::Check) {
            Ok((_, warnings)) => format!("LOADED\n{}", render(&warnings)),
            Err(findings) => render(&findings),
        };
        eprintln!("=====\n{}\n-----\n{shown}", case.last().map_or("", |(_, text)| text));
    }
    panic!();
}
