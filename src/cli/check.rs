//! `tributary check`: every finding of a pipeline at once.

use std::io::Write;
use std::path::Path;

use super::Exit;
use crate::definition::{self, Mode, Pipeline, Severity};

/// Checks a pipeline file or folder: findings on stderr, a summary on stdout.
pub fn check(path: &Path) -> Exit {
    check_to(path, &mut std::io::stdout(), &mut std::io::stderr()).unwrap_or(Exit::Environment)
}

/// [`check`] with the places to write to.
///
/// # Errors
/// Only those of writing.
pub fn check_to(path: &Path, out: &mut dyn Write, err: &mut dyn Write) -> std::io::Result<Exit> {
    let (pipeline, findings) = match definition::load(path, Mode::Check) {
        Ok((pipeline, warnings)) => (Some(pipeline), warnings),
        Err(findings) => (None, findings),
    };
    for finding in &findings {
        writeln!(err, "{finding}\n")?;
    }
    let of = |severity: Severity| findings.iter().filter(|finding| finding.severity == severity).count();
    match pipeline {
        Some(pipeline) => {
            let warnings = match of(Severity::Warning) {
                0 => String::new(),
                warnings => format!(", {}", counted(warnings, "warning")),
            };
            writeln!(out, "ok: {}{warnings}", summary(&pipeline))?;
            Ok(Exit::Well)
        }
        None => {
            writeln!(err, "{}", counted(of(Severity::Error), "error"))?;
            Ok(Exit::Findings)
        }
    }
}

/// `2 sources, 14 traits, 5 segments`: what there is of each.
fn summary(pipeline: &Pipeline) -> String {
    let parts = [
        (pipeline.sources.len(), "source"),
        (pipeline.transform.steps.len(), "transform"),
        (pipeline.traits.len(), "trait"),
        (pipeline.segments.len(), "segment"),
        (pipeline.groups.len(), "group"),
        (pipeline.audiences.len(), "audience"),
        (pipeline.activations.len(), "activation"),
        (pipeline.aggregates.len(), "aggregate"),
        (pipeline.tests.len(), "test"),
    ];
    let there = parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| counted(count, what));
    format!("{}: {}", pipeline.name, there.collect::<Vec<_>>().join(", "))
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
