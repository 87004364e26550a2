//! The bodies of the fuzz targets: each takes any bytes and panics where something does not hold.
//!
//! They are run by libFuzzer (`fuzz_targets/`, see `make fuzz`) and, over the kept corpus and some mutations of it, by
//! `tests/it/fuzz.rs`.

mod avro;
mod cells;
mod definitions;
mod events;
mod expressions;
pub mod framing;
pub mod stored;

pub type Target = fn(&[u8]);

/// By name: a file in `fuzz_targets/` and a folder of `corpus/` each.
pub const TARGETS: &[(&str, Target)] = &[
    ("avro", avro::avro),
    ("container", framing::container),
    ("definitions", definitions::definitions),
    ("expressions", expressions::expressions),
    ("framing", framing::framing),
    ("json", events::json),
    ("rows", events::rows),
    ("stored", stored::stored),
];

/// The repository.
pub fn root() -> &'static std::path::Path {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    if here.ends_with("fuzz") { here.parent().unwrap_or(here) } else { here }
}

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(data);
}
