//! `test`: runs the `tests:` of a pipeline in this process, without servers and secrets.

mod compare;
mod run;
mod seen;

use super::output::print;
use super::{Exit, Failure, Global};
use crate::definition::{Mode, TestPlan};
use run::{Difference, Runner};

/// Runs the tests whose name holds `part`, or all: a line for each, what differs below it, and a count at the end.
pub async fn test(global: &Global, part: Option<&str>) -> Result<Exit, Failure> {
    let pipeline = super::run::load(global, Mode::Check)?;
    if pipeline.tests.is_empty() {
        print(&format!("{} has no tests", pipeline.name));
        return Ok(Exit::Well);
    }
    let chosen = |test: &&TestPlan| part.is_none_or(|part| test.name.contains(part));
    let chosen: Vec<&TestPlan> = pipeline.tests.iter().filter(chosen).collect();
    if chosen.is_empty() {
        let part = part.unwrap_or_default();
        let message = format!("none of the {} tests has `{part}` in its name", pipeline.tests.len());
        return Err(Failure::findings(message));
    }
    let mut runner = Runner::new(&pipeline).map_err(super::run::engine_failure)?;
    let mut failed = 0;
    for test in &chosen {
        let differences = runner.run(test).await.map_err(super::run::engine_failure)?;
        failed += usize::from(!differences.is_empty());
        print(&report(test, &differences));
    }
    print(&format!("{} passed, {failed} failed", chosen.len() - failed));
    Ok(if failed == 0 { Exit::Well } else { Exit::Findings })
}

fn report(test: &TestPlan, differences: &[Difference]) -> String {
    if differences.is_empty() {
        return format!("ok   {}", test.name);
    }
    let mut text = format!("FAIL {}", test.name);
    for Difference { place, what, lines } in differences {
        text.push_str(&format!("\n  {place}: {what}"));
        lines.iter().for_each(|line| text.push_str(&format!("\n    {line}")));
    }
    text
}
