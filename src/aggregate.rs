//! Aggregates: `GROUP BY` over the events of a batch, as partial rows that a view adds up.

use arrow::datatypes::DataType;

/// A checked aggregate. Its SQL is one `SELECT … FROM events [WHERE …] GROUP BY …` over event columns and fields;
/// the measures are `sum`, `count`, `min` and `max`, which can be combined again over partial rows.
#[derive(Debug, Clone)]
pub struct AggregatePlan {
    pub name: String,
    /// With names replaced by columns of the event batch, ready for DataFusion over a table `events`.
    pub sql: String,
    pub columns: Vec<AggregateColumn>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AggregateColumn {
    pub name: String,
    pub data_type: DataType,
    pub role: AggregateRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateRole {
    Key,
    Sum,
    Count,
    Min,
    Max,
}
