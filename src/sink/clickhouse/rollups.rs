//! Tables of sums and sets for dashboards, which ClickHouse's materialized views keep up to date.
//!
//! A materialized view sees the block of an insert, and nothing says that what it makes of it is stored exactly once: the
//! rows of the table can be there while those of the view failed, and a block can come again. So each row of a rollup has a key
//! under which it may come any number of times, and whenever the fate of an insert was unknown the view's `SELECT` is run again
//! over its commits.
//!
//! A rollup is made in this order: the table, what is there already, the view. So whether the view is there says whether all
//! is there. Nothing is missed in between: this process has not sent anything yet, and an insert that an earlier one left behind
//! belongs to the range that is in doubt.

use crate::sink::tables::TableKind;
use crate::sink::{CommitRange, Table};

pub struct Rollup {
    /// Of the view that shows it.
    pub name: &'static str,
    /// The table that it is made of.
    of: TableKind,
    pub from: &'static str,
    /// `CREATE TABLE`, `CREATE MATERIALIZED VIEW`.
    text: &'static str,
}

pub const ROLLUPS: [Rollup; 5] = [
    Rollup {
        name: "events_by_minute",
        of: TableKind::Events,
        from: "events",
        text: include_str!("../../../deploy/clickhouse/events_by_minute.sql"),
    },
    Rollup {
        name: "active_profiles",
        of: TableKind::Events,
        from: "events",
        text: include_str!("../../../deploy/clickhouse/active_profiles.sql"),
    },
    Rollup {
        name: "daily_revenue",
        of: TableKind::Events,
        from: "events",
        text: include_str!("../../../deploy/clickhouse/daily_revenue.sql"),
    },
    Rollup {
        name: "segment_sizes",
        of: TableKind::SegmentChanges,
        from: "segment_changes",
        text: include_str!("../../../deploy/clickhouse/segment_sizes.sql"),
    },
    Rollup {
        name: "delivery_outcomes",
        of: TableKind::Deliveries,
        from: "deliveries",
        text: include_str!("../../../deploy/clickhouse/delivery_outcomes.sql"),
    },
];

/// Those that are made of these tables.
pub fn of(tables: &[Table]) -> impl Iterator<Item = &'static Rollup> {
    ROLLUPS.iter().filter(|rollup| tables.iter().any(|table| table.kind == rollup.of))
}

impl Rollup {
    pub fn table(&self) -> String {
        format!("{}__rollup", self.name)
    }

    pub fn feed(&self) -> String {
        format!("{}__mv", self.name)
    }

    /// `CREATE TABLE` and `CREATE MATERIALIZED VIEW`.
    pub fn create(&self) -> (&'static str, &'static str) {
        let (table, view) = self.text.split_once(";\n").unwrap_or_default();
        (table.trim(), view.trim().trim_end_matches(';'))
    }

    /// What the view would make of rows that are there already: of these commits, or of all.
    pub fn fill(&self, commits: Option<CommitRange>) -> String {
        let select = self.create().1.split_once(" AS\n").unwrap_or_default().1;
        let select = match commits {
            Some(CommitRange { after, upto }) => {
                let rows = format!("FROM (SELECT * FROM {} WHERE _batch > {after} AND _batch <= {upto})", self.from);
                select.replacen(&format!("FROM {}", self.from), &rows, 1)
            }
            None => select.to_string(),
        };
        // Blocks that the table has seen before may be what is missing now.
        format!("INSERT INTO {} {select} SETTINGS insert_deduplicate = 0", self.table())
    }
}

#[cfg(test)]
mod tests;
