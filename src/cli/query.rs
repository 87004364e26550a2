//! `query`: SQL over the pipeline's tables.

use super::output::print_batches;
use super::{Exit, Failure, Global, NodeConfig, run};
use crate::definition::{Mode, Warehouse};
use crate::query::{self, QueryError, Target};

pub async fn query(global: &Global, config: &NodeConfig, sql: &str) -> Result<Exit, Failure> {
    let pipeline = run::load(global, Mode::Run)?;
    let target = match &pipeline.warehouse {
        Warehouse::Lake => Target::Lake { root: config.data.clone() },
        Warehouse::ClickHouse { url, database, user, password } => Target::ClickHouse {
            url: url.clone(),
            database: database.clone(),
            user: user.clone(),
            password: password.clone(),
        },
    };
    match query::query(&target, sql).await {
        Ok(batches) => {
            print_batches(&batches, global.output)?;
            Ok(Exit::Well)
        }
        Err(error @ QueryError::Sql(_)) => Err(Failure::findings(error)),
        Err(error) => Err(Failure::environment(error)),
    }
}
