//! What worlds came to, for a table at the end.

use std::collections::BTreeMap;
use std::fmt;

use super::check::ALWAYS;
use super::faults::{ALL, Fault};
use super::rest::AT_REST;
use super::{World, check};

/// What one seed came to.
pub struct Lived {
    /// See [`check::left`].
    pub left: BTreeMap<String, u64>,
    pub trace: Vec<String>,
    pub found: Result<(), String>,
    struck: Vec<u32>,
    counts: [u64; COUNTED.len()],
    deaths: u64,
}

/// What is counted besides faults.
const COUNTED: [&str; 10] = [
    "records",
    "processes",
    "deaths",
    "commits",
    "requests",
    "worlds whose definitions change",
    "fills begun",
    "commits of a fill or sweep",
    "corrections of identity",
    "edits of lists",
];

impl Lived {
    pub fn of(world: &World, found: Result<(), String>) -> Lived {
        let counts = [
            world.log.records().count() as u64,
            u64::from(world.instances),
            u64::from(world.deaths),
            u64::from(world.disk.commits),
            world.receipts.len() as u64,
            u64::from(world.pipelines.len() > 1),
            world.disk.fills.0,
            world.disk.fills.1,
            u64::from(world.asked.corrections),
            u64::from(world.asked.edits),
        ];
        Lived {
            left: check::left(world),
            trace: world.faults.trace(),
            found,
            struck: world.faults.struck.clone(),
            counts,
            deaths: u64::from(world.deaths),
        }
    }
}

/// What many came to.
#[derive(Default)]
pub struct Tally {
    pub seeds: u64,
    /// What did not hold, and how to repeat it.
    pub found: Option<String>,
    struck: Vec<u64>,
    counts: [u64; COUNTED.len()],
    deaths: u64,
}

impl Tally {
    pub fn add(&mut self, seed: u64, lived: Lived) {
        if let Err(found) = lived.found {
            const SHOWN: usize = 60;
            let last = &lived.trace[lived.trace.len().saturating_sub(SHOWN)..];
            let text = format!(
                "{found}\nthe last that happened:\n{}\nrepeat with SIM_SEED={seed} SIM_SEEDS=1",
                last.join("\n")
            );
            self.found.get_or_insert(text);
        }
        self.struck.resize(ALL.len(), 0);
        self.struck.iter_mut().zip(lived.struck).for_each(|(all, one)| *all += u64::from(one));
        self.counts.iter_mut().zip(lived.counts).for_each(|(all, one)| *all += one);
        self.seeds += 1;
        self.deaths += lived.deaths;
    }

    pub fn never_struck(&self) -> Vec<&'static Fault> {
        ALL.iter().zip(&self.struck).filter(|(_, times)| **times == 0).map(|(fault, _)| fault).collect()
    }
}

/// Tables as a page of documentation has them.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let violations = u64::from(self.found.is_some());
        writeln!(f, "\n| what | how many |\n|---|---:|\n| seeds | {} |", self.seeds)?;
        for (what, count) in COUNTED.iter().zip(self.counts) {
            writeln!(f, "| {what} | {count} |")?;
        }
        writeln!(f, "| worlds in which something did not hold | {violations} |")?;
        writeln!(f, "\n| invariant | checked |\n|---|---:|")?;
        for (what, _) in ALWAYS {
            writeln!(f, "| {what} | {} |", self.deaths + self.seeds)?;
        }
        for (what, _) in AT_REST {
            writeln!(f, "| {what} | {} |", self.seeds)?;
        }
        writeln!(f, "\n| fault | struck |\n|---|---:|")?;
        for (fault, times) in ALL.iter().zip(&self.struck) {
            writeln!(f, "| {fault:?} | {times} |")?;
        }
        Ok(())
    }
}
