//! SQL over the lake or ClickHouse.
