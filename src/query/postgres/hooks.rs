//! What becomes of each statement of a connection: it is refused, there is nothing to do for it, or it reads.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use datafusion::common::{Column, DFSchema, DataFusionError, ParamValues, exec_err};
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::{
    ColumnarValue, EmptyRelation, Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, Volatility, create_udf,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion_postgres::QueryHook;
use datafusion_postgres::arrow_pg::datatypes::df::encode_dataframe;
use datafusion_postgres::hooks::HookClient;
use datafusion_postgres::pgwire::api::ClientInfo;
use datafusion_postgres::pgwire::api::portal::Format;
use datafusion_postgres::pgwire::api::results::{Response, Tag};
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::types::format::FormatOptions;

use super::super::{lake, render};
use super::{catalog, said, user_error};

/// Lets through what reads and what belongs to a connection, and answers what there is nothing to do for.
pub struct ReadOnly;

impl ReadOnly {
    fn allows(statement: &Statement) -> bool {
        match statement {
            Statement::Query(_)
            | Statement::Set(_)
            | Statement::ShowVariable { .. }
            | Statement::ShowStatus { .. }
            | Statement::ShowVariables { .. }
            | Statement::ShowTables { .. }
            | Statement::ShowColumns { .. }
            | Statement::StartTransaction { .. }
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint { .. }
            | Statement::ReleaseSavepoint { .. }
            | Statement::Fetch { .. }
            | Statement::Close { .. }
            | Statement::Discard { .. }
            | Statement::Deallocate { .. } => true,
            Statement::Explain { statement, .. } => matches!(**statement, Statement::Query(_)),
            Statement::Declare { stmts } => stmts.iter().all(|declared| declared.for_query.is_some()),
            _ => false,
        }
    }

    /// What only concerns state that there is none of here.
    fn nothing_to_do(statement: &Statement) -> Option<Response> {
        let done = |tag: &str| Response::Execution(Tag::new(tag));
        match statement {
            Statement::Discard { .. } => Some(done("DISCARD ALL")),
            Statement::Deallocate { .. } => Some(done("DEALLOCATE")),
            Statement::Savepoint { .. } => Some(done("SAVEPOINT")),
            Statement::ReleaseSavepoint { .. } => Some(done("RELEASE")),
            // Ends a transaction that had failed: what follows is taken again, and there was nothing to undo.
            Statement::Rollback { savepoint: Some(_), .. } => Some(Response::TransactionEnd(Tag::new("ROLLBACK"))),
            _ => None,
        }
    }

    async fn refused(statement: &Statement, context: &SessionContext) -> Option<PgWireError> {
        let refusal = || user_error("25006", "the lake is read only: ask with SELECT".to_string());
        if !ReadOnly::allows(statement) {
            return Some(refusal());
        }
        // Not yet planned elsewhere, and may hold a `SELECT … INTO`.
        let Statement::Declare { stmts } = statement else { return None };
        for query in stmts.iter().filter_map(|declared| declared.for_query.clone()) {
            if let Err(error) = plan(context, &Statement::Query(query)).await {
                return Some(error);
            }
        }
        None
    }
}

#[async_trait]
impl QueryHook for ReadOnly {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        match ReadOnly::refused(statement, context).await {
            Some(refusal) => Some(Err(refusal)),
            None => ReadOnly::nothing_to_do(statement).map(Ok),
        }
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        _: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        if let Some(refusal) = ReadOnly::refused(statement, context).await {
            return Some(Err(refusal));
        }
        ReadOnly::nothing_to_do(statement)?;
        Some(Ok(LogicalPlan::EmptyRelation(EmptyRelation {
            produce_one_row: false,
            schema: Arc::new(DFSchema::empty()),
        })))
    }

    async fn handle_extended_query(
        &self,
        statement: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        _: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        ReadOnly::nothing_to_do(statement).map(Ok)
    }
}

/// Queries, with what is wrong said as `tributary query` says it. The last of the hooks.
pub struct Reading;

/// A plan that only reads.
async fn plan(context: &SessionContext, statement: &Statement) -> PgWireResult<LogicalPlan> {
    let failed = |error| said(lake::failed(context, &error));
    let state = context.state();
    let planned = |statement| state.statement_to_plan(Parsed::Statement(Box::new(statement)));
    let plan = match catalog::is_asked(statement) {
        false => planned(statement.clone()).await,
        true => {
            let plan = planned(catalog::readied(statement)).await;
            match plan.and_then(|plan| state.optimize(&plan).map(|_| plan)) {
                Ok(plan) => Ok(plan),
                Err(error) => match catalog::nothing(statement) {
                    Some(nothing) => {
                        tracing::debug!(%statement, %error, "answered with no rows");
                        planned(nothing).await
                    }
                    None => Err(error),
                },
            }
        }
    };
    let plan = plan.map_err(failed)?;
    let reading = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reading.verify_plan(&plan).map_err(failed)?;
    without_maps(plan).map_err(failed)
}

/// Maps are JSON texts in an answer: the protocol has no type for them.
fn without_maps(plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let is_map = |field: &Field| matches!(field.data_type(), DataType::Map(..));
    if !plan.schema().fields().iter().any(|field| is_map(field)) {
        return Ok(plan);
    }
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
            match is_map(field) {
                true => json_text(field.data_type()).call(vec![column]).alias(field.name()),
                false => column,
            }
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

fn json_text(of: &DataType) -> ScalarUDF {
    let call = |arguments: &[ColumnarValue]| {
        let columns = ColumnarValue::values_to_arrays(arguments)?;
        let [column] = columns.as_slice() else { return exec_err!("one value is written at a time") };
        Ok(ColumnarValue::Array(render::as_json(column)?))
    };
    create_udf("json_text", vec![of.clone()], DataType::Utf8, Volatility::Immutable, Arc::new(call))
}

#[async_trait]
impl QueryHook for Reading {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
        let answer = async {
            let plan = plan(context, statement).await?;
            let frame = context.execute_logical_plan(plan).await.map_err(|e| said(lake::failed(context, &e)))?;
            encode_dataframe(frame, &Format::UnifiedText, Some(options)).await
        };
        Some(answer.await.map(Response::Query))
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        _: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        Some(plan(context, statement).await)
    }

    async fn handle_extended_query(
        &self,
        _: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        _: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        None
    }
}
