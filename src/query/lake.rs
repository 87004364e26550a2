//! The lake as tables and views of a DataFusion session.
//!
//! One manifest is taken, and every table scans exactly its files, so a query sees all tables at one commit. Identifiers
//! keep their case, as in ClickHouse.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::execution::TaskContext;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{QueryError, Rows, functions, hash, json};
use crate::sink::Table;
use crate::sink::lake::files;
use crate::sink::lake::manifest::{LakeError, Location, Manifest, TableFiles};
use crate::sink::views::{Dialect, views};

/// A session over the lake in this data folder or URL, as of its latest manifest.
///
/// # Errors
/// [`QueryError::Unavailable`]: there is no lake, or it cannot be read.
pub async fn lake_context(root: &str) -> Result<SessionContext, QueryError> {
    context_of(&Location::open(root, false).map_err(unavailable)?).await
}

/// The lake in this data folder or URL, and its latest manifest.
pub(super) async fn latest(root: &str) -> Result<(Location, Manifest), QueryError> {
    let location = Location::open(root, false).map_err(unavailable)?;
    let manifest = latest_of(&location).await?;
    Ok((location, manifest))
}

async fn latest_of(location: &Location) -> Result<Manifest, QueryError> {
    let manifest = location.latest().await.map_err(unavailable)?;
    manifest.ok_or_else(|| {
        QueryError::Unavailable(format!("lake {}: nothing was written yet; `tributary run` writes it", location.name))
    })
}

async fn context_of(location: &Location) -> Result<SessionContext, QueryError> {
    let manifest = latest_of(location).await?;
    context_over(tables_of(location, &manifest)?).await
}

fn tables_of(location: &Location, manifest: &Manifest) -> Result<Vec<(Table, Arc<dyn TableProvider>)>, QueryError> {
    let provided = manifest.tables.iter().map(|table| {
        let provider = table_provider(location, table);
        Ok((table.table(false), provider.map_err(|error| QueryError::Unavailable(error.strip_backtrace()))?))
    });
    provided.collect()
}

/// A session over rows in memory, with the views and functions of the lake. Tables without rows are given as such.
///
/// # Errors
/// [`QueryError::Sql`]: rows that do not fit their table.
pub async fn memory_context(tables: Vec<(Table, Vec<RecordBatch>)>) -> Result<SessionContext, QueryError> {
    let mut providers: Vec<(Table, Arc<dyn TableProvider>)> = Vec::new();
    for (table, rows) in tables {
        let rows = MemTable::try_new(table.schema.clone(), vec![rows]);
        providers.push((table, Arc::new(rows.map_err(|error| QueryError::Sql(error.to_string()))?)));
    }
    context_over(providers).await
}

/// What the tables are in.
pub(super) const CATALOG: &str = "tributary";

async fn context_over(tables: Vec<(Table, Arc<dyn TableProvider>)>) -> Result<SessionContext, QueryError> {
    let context = empty_context(Arc::default());
    fill(&context, tables).await?;
    Ok(context)
}

/// A session without tables, with the functions of the lake.
fn empty_context(runtime: Arc<RuntimeEnv>) -> SessionContext {
    let mut config = SessionConfig::new().with_information_schema(true);
    config = config.with_default_catalog_and_schema(CATALOG, "public");
    let options = config.options_mut();
    options.sql_parser.enable_ident_normalization = false;
    // The tables' own types, without detours.
    options.execution.parquet.schema_force_view_types = false;
    options.execution.parquet.pushdown_filters = true;
    // Pushing map keys (`identifiers['email']`) below a join fails where a filter is pushed as well.
    options.optimizer.enable_leaf_expression_pushdown = false;
    let context = SessionContext::new_with_config_rt(config, runtime);
    for function in json::functions().into_iter().chain(hash::functions()) {
        context.register_udf(function);
    }
    functions::register(&context);
    context
}

async fn fill(context: &SessionContext, tables: Vec<(Table, Arc<dyn TableProvider>)>) -> Result<(), QueryError> {
    let mut shown = Vec::new();
    for (table, provider) in tables {
        context.register_table(bare(&table.name), provider).map_err(|error| failed(context, &error))?;
        shown.push(table);
    }
    for view in views(&shown, Dialect::DataFusion) {
        let plan = functions::plan(context, &view.sql).await.map_err(|error| failed(context, &error))?;
        let frame = context.execute_logical_plan(plan).await.map_err(|error| failed(context, &error))?;
        context.register_table(bare(&view.name), frame.into_view()).map_err(|error| failed(context, &error))?;
    }
    Ok(())
}

/// A session whose tables are those of the latest manifest whenever it is renewed.
#[cfg(feature = "serve-sql")]
pub(super) struct Reader {
    location: Location,
    pub context: SessionContext,
    version: Option<u64>,
}

#[cfg(feature = "serve-sql")]
impl Reader {
    pub fn open(root: &str, runtime: Arc<RuntimeEnv>) -> Result<Reader, QueryError> {
        let location = Location::open(root, false).map_err(unavailable)?;
        Ok(Reader { location, context: empty_context(runtime), version: None })
    }

    pub async fn renew(&mut self) -> Result<(), QueryError> {
        let manifest = latest_of(&self.location).await?;
        if self.version == Some(manifest.version) {
            return Ok(());
        }
        let schema = self.context.catalog(CATALOG).and_then(|catalog| catalog.schema("public"));
        for name in schema.map(|schema| schema.table_names()).unwrap_or_default() {
            self.context.deregister_table(bare(&name)).map_err(|error| failed(&self.context, &error))?;
        }
        self.version = None;
        fill(&self.context, tables_of(&self.location, &manifest)?).await?;
        self.version = Some(manifest.version);
        Ok(())
    }
}

/// A name as it is: a text would be parsed, and lose its case.
fn bare(name: &str) -> datafusion::common::TableReference {
    datafusion::common::TableReference::bare(name)
}

/// Runs one reading statement.
pub async fn run(context: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>, QueryError> {
    rows(context, sql).await?.collect().await
}

pub(super) async fn rows(context: &SessionContext, sql: &str) -> Result<Rows, QueryError> {
    let reading = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let plan = functions::plan(context, sql).await.map_err(|error| failed(context, &error))?;
    reading.verify_plan(&plan).map_err(|error| failed(context, &error))?;
    let frame = context.execute_logical_plan(plan).await.map_err(|error| failed(context, &error))?;
    let stream = frame.execute_stream().await.map_err(|error| failed(context, &error))?;
    Ok(Rows::Lake(context.clone(), stream))
}

fn unavailable(error: LakeError) -> QueryError {
    QueryError::Unavailable(error.to_string())
}

/// Exactly the files of the manifest, with all columns that the table ever had; a file written before a column was
/// there gives nulls.
fn table_provider(location: &Location, table: &TableFiles) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let schema = table.table(true).schema;
    if table.files.is_empty() {
        return Ok(Arc::new(MemTable::try_new(schema, vec![vec![]])?));
    }
    if let Some(folder) = &location.folder {
        // DataFusion reads local paths by itself, and skips files and row groups by their statistics.
        let urls: Result<Vec<ListingTableUrl>, DataFusionError> = table
            .files
            .iter()
            .map(|file| {
                let path = folder.join(&file.path);
                let url = url::Url::from_file_path(&path)
                    .map_err(|()| DataFusionError::External(format!("not a path: {}", path.display()).into()))?;
                ListingTableUrl::try_new(url, None)
            })
            .collect();
        let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension(".parquet");
        let config = ListingTableConfig::new_with_multi_paths(urls?).with_listing_options(options).with_schema(schema);
        return Ok(Arc::new(ListingTable::try_new(config)?));
    }
    // Elsewhere each file is fetched when it is read: DataFusion's own object stores are of another version than ours.
    let partitions = table.files.iter().map(|file| {
        let (location, path, schema) = (location.clone(), file.path.clone(), schema.clone());
        Arc::new(RemoteFile { location, path, schema }) as Arc<dyn PartitionStream>
    });
    Ok(Arc::new(StreamingTable::try_new(schema.clone(), partitions.collect())?))
}

struct RemoteFile {
    location: Location,
    path: String,
    schema: SchemaRef,
}

impl std::fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.location.name, self.path)
    }
}

#[async_trait]
impl PartitionStream for RemoteFile {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (location, path, schema) = (self.location.clone(), self.path.clone(), self.schema.clone());
        let batches = futures::stream::once(async move {
            let external = |error: object_store::Error| DataFusionError::External(Box::new(location.error(error)));
            let found = location.store.get(&location.path(&path)).await.map_err(external)?;
            let bytes: Bytes = found.bytes().await.map_err(external)?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()?;
            Ok::<_, DataFusionError>(futures::stream::iter(reader.map(move |batch| {
                files::conform(&batch?, &schema).map_err(|error| DataFusionError::External(Box::new(error)))
            })))
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches.try_flatten().boxed()))
    }
}

/// DataFusion's error in plain words, with the nearest name there is.
pub(super) fn failed(context: &SessionContext, error: &DataFusionError) -> QueryError {
    let root = error.find_root();
    if let DataFusionError::SchemaError(schema_error, _) = root {
        if let SchemaError::FieldNotFound { field, valid_fields } = schema_error.as_ref() {
            let names: Vec<&str> = valid_fields.iter().map(|field| field.name.as_str()).collect();
            return QueryError::Sql(format!("no column {}{}", field.flat_name(), hint(&field.name, &names)));
        }
        return QueryError::Sql(schema_error.to_string());
    }
    let text = match root {
        DataFusionError::SQL(parse, _) => parse.to_string(),
        other => other.strip_backtrace(),
    };
    if let Some(name) = text.split_once("table 'tributary.public.").and_then(|(_, rest)| rest.split_once("' not found"))
    {
        let schema = context.catalog(CATALOG).and_then(|catalog| catalog.schema("public"));
        let names = schema.map(|schema| schema.table_names()).unwrap_or_default();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        return QueryError::Sql(format!("no table {}{}", name.0, hint(name.0, &names)));
    }
    let text =
        ["Error during planning: ", "SQL error: ", "sql parser error: ", "Execution error: ", "External error: "]
            .iter()
            .fold(text.as_str(), |text, prefix| text.strip_prefix(prefix).unwrap_or(text))
            .to_string();
    match root {
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) | DataFusionError::External(_) => {
            QueryError::Unavailable(text)
        }
        _ => QueryError::Sql(text),
    }
}

/// `; did you mean x?` or `; there are a, b, c`.
pub(super) fn hint(name: &str, names: &[&str]) -> String {
    let nearest = names.iter().max_by(|a, b| {
        let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
        likeness(a).total_cmp(&likeness(b))
    });
    match nearest {
        Some(nearest) if strsim::jaro_winkler(&name.to_lowercase(), &nearest.to_lowercase()) > 0.75 => {
            format!("; did you mean {nearest}?")
        }
        _ if names.is_empty() => String::new(),
        _ => {
            let mut names = names.to_vec();
            names.sort_unstable();
            names.dedup();
            format!("; there are {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
