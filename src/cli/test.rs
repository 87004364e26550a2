//! `test`: runs the `tests:` of a pipeline in this process, without servers and secrets.

mod compare;
mod correct;
mod junit;
mod run;
mod seen;

use std::path::{Path, PathBuf};

use clap::Args;

use super::output::print;
use super::{Exit, Failure, Global, say};
use crate::definition::{self, Diagnostic, Mode, Pipeline, TestPlan};
use run::{Difference, Runner};

#[derive(Debug, Clone, Args)]
pub struct TestOptions {
    /// Only tests whose name holds this
    #[arg(value_name = "NAME_PART")]
    pub part: Option<String>,
    /// Write what there is into expectations that differ or are empty, then test again
    #[arg(long)]
    pub update: bool,
    /// Write the outcome as JUnit XML as well, for CI
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// Runs the tests whose name holds `part`, or all: a line for each, what differs below it, and a count at the end.
pub async fn test(global: &Global, options: &TestOptions) -> Result<Exit, Failure> {
    if options.update {
        update(&global.pipeline, options).await?;
    }
    let pipeline = super::run::load(global, Mode::Check)?;
    let chosen = chosen(&pipeline, options)?;
    if chosen.is_empty() {
        print(&format!("{} has no tests", pipeline.name));
    }
    let mut runner = Runner::new(&pipeline).map_err(super::run::engine_failure)?;
    let mut outcomes = Vec::new();
    for test in &chosen {
        let differences = runner.run(test).await.map_err(super::run::engine_failure)?.differences;
        print(&report(test, &differences));
        outcomes.push((*test, differences));
    }
    if let Some(path) = &options.junit {
        write(path, &junit::junit(&pipeline.name, &outcomes))?;
    }
    if outcomes.is_empty() {
        return Ok(Exit::Well);
    }
    let failed = outcomes.iter().filter(|(_, differences)| !differences.is_empty()).count();
    print(&format!("{} passed, {failed} failed", outcomes.len() - failed));
    Ok(if failed == 0 { Exit::Well } else { Exit::Findings })
}

/// The tests asked for; none only where there are none at all.
fn chosen<'p>(pipeline: &'p Pipeline, options: &TestOptions) -> Result<Vec<&'p TestPlan>, Failure> {
    let part = options.part.as_deref().unwrap_or_default();
    let chosen: Vec<&TestPlan> = pipeline.tests.iter().filter(|test| test.name.contains(part)).collect();
    if chosen.is_empty() && !pipeline.tests.is_empty() {
        let message = format!("none of the {} tests has `{part}` in its name", pipeline.tests.len());
        return Err(Failure::findings(message));
    }
    Ok(chosen)
}

/// Writes what there is into the expectations of the files.
async fn update(path: &Path, options: &TestOptions) -> Result<(), Failure> {
    let pipeline = match definition::load_to_fill(path) {
        Ok((pipeline, _)) => pipeline,
        Err(findings) => return Err(failed(&findings)),
    };
    let mut runner = Runner::new(&pipeline).map_err(super::run::engine_failure)?;
    let mut corrections = Vec::new();
    for test in chosen(&pipeline, options)? {
        corrections.extend(runner.run(test).await.map_err(super::run::engine_failure)?.corrections);
    }
    for file in definition::rewrite(&corrections).map_err(Failure::environment)? {
        write(&file.path, &file.text)?;
        let what = if file.changed == 1 { "expectation" } else { "expectations" };
        say(&format!("{}: {} {what} updated", file.path.display(), file.changed));
    }
    Ok(())
}

fn failed(findings: &[Diagnostic]) -> Failure {
    findings.iter().for_each(|finding| say(&format!("{finding}\n")));
    Failure::findings("nothing was tested: the definitions have errors")
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::environment(format!("{} cannot be written: {error}", path.display())))
}

fn report(test: &TestPlan, differences: &[Difference]) -> String {
    if differences.is_empty() {
        return format!("ok   {}", test.name);
    }
    let mut text = format!("FAIL {}", test.name);
    for difference in differences {
        let indented = text_of(difference).replace('\n', "\n  ");
        text.push_str(&format!("\n  {indented}"));
    }
    text
}

/// The place and what differs there, and below it what was expected and found.
fn text_of(difference: &Difference) -> String {
    let Difference { place, what, lines } = difference;
    let mut text = format!("{place}: {what}");
    lines.iter().for_each(|line| text.push_str(&format!("\n  {line}")));
    text
}
