//! The program as its users run it, against real servers. One binary, so that it links once.
//!
//! Kafka, ClickHouse and the registry come from `tests/support/servers`, once for the whole run; tests use topics,
//! databases and data folders of their own.

mod support;

mod away;
mod bad_input;
mod cdnow;
mod crash;
mod definitions;
mod deploy;
mod fencing;
mod order;
mod tidy;
