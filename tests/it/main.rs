//! The program as its users run it, against real servers. One binary, so that it links once.
//!
//! Kafka, ClickHouse and the registry come from `tests/support/servers`, once for the whole run; tests use topics,
//! databases and data folders of their own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::zombie_processes,
    reason = "tests: a panic is the failure, seeds are printed, and the watcher of the servers outlives the process on purpose"
)]

mod support;

mod alerts;
mod analyses;
mod away;
mod bad_input;
mod campaigns;
mod cdnow;
mod charts;
mod connectors;
mod crash;
mod dashboards;
mod definitions;
mod delivery;
mod demo;
mod deploy;
mod disk;
mod email;
mod explain;
mod expressions;
mod faults;
mod fencing;
mod fill;
mod fill_cli;
mod functions;
mod funnel;
mod fuzz;
mod groups;
mod identity;
mod identity_cases;
mod identity_cli;
mod init;
mod kafka;
mod lists;
mod log_faults;
mod on_change;
mod oracle;
mod order;
mod other_tools;
mod pipeline_tests;
mod recovery;
mod rfm;
mod sessions;
mod sim;
mod tidy;
mod time;
mod world;
