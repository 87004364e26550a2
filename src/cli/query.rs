//! `query`: SQL over the pipeline's tables.

use super::output::print_batches;
use super::{Exit, Failure, Global, NodeConfig, run};
use crate::definition::Mode;
use crate::query::{self, QueryError};

pub async fn query(global: &Global, config: &NodeConfig, sql: &str) -> Result<Exit, Failure> {
    let pipeline = run::load(global, Mode::Run)?;
    let target = run::tables_of(&pipeline, config);
    match query::query(&target, sql).await {
        Ok(batches) => {
            print_batches(&batches, global.output)?;
            Ok(Exit::Well)
        }
        Err(error @ QueryError::Sql(_)) => Err(Failure::findings(error)),
        Err(error) => Err(Failure::environment(error)),
    }
}
