//! The house rules that no compiler holds: which module may import which, and how long a file may be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::root;

/// What each module may import, besides itself. Imports point one way; what is missing here is forbidden.
const MAY_IMPORT: [(&str, &[&str]); 22] = [
    ("clock", &["event"]),
    ("event", &[]),
    ("failpoint", &[]),
    ("expression", &[]),
    ("telemetry", &[]),
    ("kafka", &[]),
    ("state", &["event", "clock", "failpoint"]),
    ("decode", &["event"]),
    ("source", &["event", "clock", "failpoint", "kafka", "decode"]),
    ("transform", &["event", "expression", "decode"]),
    ("identity", &["event", "state"]),
    ("journey", &["event"]),
    ("profile", &["event", "expression", "journey", "session", "state"]),
    ("segment", &["event", "expression", "profile"]),
    ("session", &["event", "state"]),
    ("activation", &["event", "expression", "journey", "profile", "segment"]),
    ("aggregate", &["event", "expression"]),
    ("analysis", &["event", "expression", "profile", "sink", "transform"]),
    ("chart", &["event", "analysis"]),
    ("sink", &["event", "clock", "failpoint", "kafka", "activation", "aggregate", "state"]),
    (
        "engine",
        &[
            "event",
            "clock",
            "failpoint",
            "state",
            "source",
            "decode",
            "transform",
            "identity",
            "journey",
            "profile",
            "segment",
            "session",
            "activation",
            "aggregate",
            "sink",
            "definition",
        ],
    ),
    (
        "definition",
        &[
            "event",
            "expression",
            "source",
            "decode",
            "transform",
            "identity",
            "profile",
            "segment",
            "session",
            "activation",
            "aggregate",
            "analysis",
            "kafka",
            "sink",
        ],
    ),
];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root().join("src"), &mut found);
    found.sort();
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).expect("text"))).collect()
}

/// The module of a file: the first part of its path below `src`.
fn module(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).expect("below src");
    let first = below.components().next().expect("a part").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}

/// `tests.rs`, or a file in a folder `tests`.
fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs") && path.strip_prefix(root().join("src")).is_ok()
}

#[test]
fn imports_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.into_iter().collect();
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let module = module(&path);
        // These know everybody.
        if matches!(module.as_str(), "cli" | "query" | "lib" | "main") {
            continue;
        }
        let Some(allowed) = allowed.get(module.as_str()) else {
            broken.push(format!("{}: module {module} is not in the table", path.display()));
            continue;
        };
        // Tests may use what they like.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        if is_test(&path) {
            continue;
        }
        for (number, line) in code.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for part in line.split("crate::").skip(1) {
                let name: String = part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if !name.is_empty() && name != module && !allowed.contains(&name.as_str()) {
                    broken.push(format!("{}:{}: {module} imports {name}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "imports against the table in tests/it/tidy.rs:\n{}", broken.join("\n"));
}

#[test]
fn files_stay_short_enough_to_be_read() {
    const LINES_MAX: usize = 900;
    let code = |text: &str| text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| code(text) > LINES_MAX && !is_test(path))
        .map(|(path, text)| format!("{}: {} lines", path.display(), code(&text)))
        .collect();
    assert!(long.is_empty(), "longer than {LINES_MAX} lines without their tests:\n{}", long.join("\n"));
}
