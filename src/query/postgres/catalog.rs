//! What tools ask of PostgreSQL's catalog beyond what `datafusion-postgres` answers. Tables, columns and types are there; keys, indexes,
//! functions and triggers are not, and whoever asks for them gets no rows instead of an error.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{MemTable, SchemaProvider, TableProvider};
use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::expr_fn::SimpleScalarUDF;
use datafusion::logical_expr::{
    self, ColumnarValue, LogicalPlanBuilder, ScalarUDF, Signature, TypeSignature, Volatility, ident, lit,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, SelectItem, SetExpr, Statement, Value, ValueWithSpan, Visit, visit_expressions,
    visit_expressions_mut, visit_relations,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_postgres::datafusion_pg_catalog::setup_pg_catalog;

use super::super::{functions, lake};
use crate::sink::views::quoted;

/// The PostgreSQL that tools are to take it for: drivers read a number out of it.
pub const VERSION: &str = concat!("16.6 (Tributary ", env!("CARGO_PKG_VERSION"), ")");

const SCHEMA: &str = "pg_catalog";

/// Catalog tables of what there is none of here.
const EMPTY: [&str; 4] = ["pg_constraint", "pg_index", "pg_proc", "pg_trigger"];
/// Of what no column has: a default, a number that counts up, a collation of its own.
const OF_NO_COLUMN: [&str; 3] = ["pg_attrdef", "pg_collation", "pg_sequence"];

const SETTINGS: [(&str, &str); 6] = [
    ("max_index_keys", "32"),
    ("search_path", "public"),
    ("server_version", VERSION),
    ("server_version_num", "160006"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];

/// Null, whatever it is given.
const NULL_OF: &str = "null_of";

/// Functions of things that there are none of: null.
const OF_NOTHING: [(&str, DataType); 10] = [
    (NULL_OF, DataType::Utf8),
    ("col_description", DataType::Utf8),
    ("json_build_object", DataType::Utf8),
    ("obj_description", DataType::Utf8),
    ("pg_collation_is_visible", DataType::Boolean),
    ("pg_get_indexdef", DataType::Utf8),
    ("pg_get_serial_sequence", DataType::Utf8),
    ("pg_get_viewdef", DataType::Utf8),
    ("shobj_description", DataType::Utf8),
    ("to_regtype", DataType::Int32),
];

/// Puts the catalog into a session.
pub fn register(context: &SessionContext) -> Result<()> {
    setup_pg_catalog(context, lake::CATALOG, EmptyContextProvider).map_err(|error| *error)?;
    if let Some(catalog) = context.catalog(lake::CATALOG)
        && let Some(inner) = catalog.schema(SCHEMA)
    {
        catalog.register_schema(SCHEMA, Arc::new(Completed(inner)))?;
    }
    context.register_udf(version());
    context.register_udf(current_setting());
    for (name, of) in OF_NOTHING {
        let null = ScalarValue::try_from(&of)?;
        let call = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(null.clone()));
        context.register_udf(function(name, Signature::variadic_any(Volatility::Stable), of, call));
    }
    Ok(())
}

fn function(
    name: &str,
    signature: Signature,
    of: DataType,
    call: impl Fn(&[ColumnarValue]) -> Result<ColumnarValue> + Send + Sync + 'static,
) -> ScalarUDF {
    ScalarUDF::from(SimpleScalarUDF::new_with_signature(name, signature, of, Arc::new(call)))
}

/// `SELECT version()`: SQLAlchemy goes no further without one of PostgreSQL's form.
fn version() -> ScalarUDF {
    let text = ScalarValue::from(format!("PostgreSQL {VERSION}"));
    let call = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(text.clone()));
    function("version", Signature::nullary(Volatility::Stable), DataType::Utf8, call)
}

/// `current_setting('server_version_num')`; null for what is not set here.
fn current_setting() -> ScalarUDF {
    let call = |arguments: &[ColumnarValue]| {
        let names = cast(&ColumnarValue::values_to_arrays(&arguments[..1])?[0], &DataType::Utf8)?;
        let value = |name: Option<&str>| {
            let known = SETTINGS.iter().find(|(known, _)| name.is_some_and(|name| known.eq_ignore_ascii_case(name)));
            known.map(|(_, value)| *value)
        };
        let values: StringArray = names.as_string::<i32>().iter().map(value).collect();
        Ok(ColumnarValue::Array(Arc::new(values)))
    };
    let one_or_two = Signature::one_of([1, 2].map(TypeSignature::Any).to_vec(), Volatility::Stable);
    function("current_setting", one_or_two, DataType::Utf8, call)
}

/// The library's catalog with our settings in `pg_settings`, and what `pg_class` lacks.
#[derive(Debug)]
struct Completed(Arc<dyn SchemaProvider>);

#[async_trait]
impl SchemaProvider for Completed {
    fn table_names(&self) -> Vec<String> {
        self.0.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(table) = self.0.table(name).await? else { return Ok(None) };
        Ok(Some(match name {
            "pg_settings" => Arc::new(settings(table.schema())?),
            "pg_class" => Arc::new(with_nulls(name, table, &["relacl", "reloptions"])?),
            _ => table,
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.table_exist(name)
    }
}

/// A table with further columns, which are null.
fn with_nulls(name: &str, table: Arc<dyn TableProvider>, columns: &[&str]) -> Result<ViewTable> {
    let known: Vec<logical_expr::Expr> = table.schema().fields().iter().map(|field| ident(field.name())).collect();
    let nulls = columns.iter().map(|column| lit(ScalarValue::Utf8(None)).alias(*column));
    let scan = LogicalPlanBuilder::scan(name, provider_as_source(table), None)?;
    Ok(ViewTable::new(scan.project(known.into_iter().chain(nulls))?.build()?, None))
}

fn settings(schema: SchemaRef) -> Result<MemTable> {
    let texts = |of: fn(&(&'static str, &'static str)) -> &'static str| -> StringArray {
        SETTINGS.iter().map(|setting| Some(of(setting))).collect()
    };
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "name" => Arc::new(texts(|(name, _)| name)),
        "setting" | "reset_val" => Arc::new(texts(|(_, value)| value)),
        _ => new_null_array(field.data_type(), SETTINGS.len()),
    });
    let rows = RecordBatch::try_new(schema.clone(), columns.collect())?;
    MemTable::try_new(schema, vec![vec![rows]])
}

/// Whether a statement reads the catalog and nothing else.
pub fn is_asked(statement: &Statement) -> bool {
    let tables = relations(statement);
    let is_of_it = |table: &String| table.starts_with("pg_") || table == "generate_series";
    !tables.is_empty() && tables.iter().all(is_of_it)
}

fn relations(of: &impl Visit) -> Vec<String> {
    let mut tables = Vec::new();
    let _ = visit_relations(of, |name: &ObjectName| {
        tables.extend(name.0.last().and_then(|part| part.as_ident()).map(|ident| ident.value.to_lowercase()));
        ControlFlow::<()>::Continue(())
    });
    tables
}

/// A statement over the catalog in a form that is planned: of a subquery that stands for one value the least is taken, since it
/// has one row at the most, which DataFusion cannot know; null, where it is of what no column has.
pub fn readied(statement: &Statement) -> Statement {
    let mut readied = statement.clone();
    let _ = visit_expressions_mut(&mut readied, |expr| {
        if let Expr::Subquery(query) = expr
            && relations(query).iter().any(|table| OF_NO_COLUMN.contains(&table.as_str()))
        {
            let null =
                Parser::new(&PostgreSqlDialect {}).try_with_sql(&null_of(query)).and_then(|mut sql| sql.parse_expr());
            *expr = null.unwrap_or_else(|_| Expr::Value(Value::Null.with_empty_span()));
        }
        if let Expr::Subquery(query) = expr
            && let Query { limit_clause: None, order_by, body, .. } = query.as_mut()
            && let SetExpr::Select(select) = body.as_mut()
            && let [SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }] =
                select.projection.as_mut_slice()
        {
            *order_by = None;
            *value = functions::call("min", vec![value.clone()]);
        }
        ControlFlow::<()>::Continue(())
    });
    readied
}

/// A statement with no rows in place of one over what there is none of.
pub fn nothing(statement: &Statement) -> Option<Statement> {
    if !relations(statement).iter().any(|table| EMPTY.contains(&table.as_str())) {
        return None;
    }
    let Statement::Query(query) = statement else { return None };
    let mut names: Vec<String> = Vec::new();
    for name in columns(&query.body)? {
        // A name once: as nothing is told by them, any will do.
        names.push(if names.contains(&name) { format!("{name}_{}", names.len()) } else { name });
    }
    let columns: Vec<String> = names.iter().map(|name| format!("CAST(NULL AS VARCHAR) AS {}", quoted(name))).collect();
    let sql = format!("SELECT {} WHERE {} IS NOT NULL", columns.join(", "), null_of(statement));
    Parser::parse_sql(&PostgreSqlDialect {}, &sql).ok()?.pop()
}

/// Null, in which all parameters of this stand: a client gives as many values as it asked with.
fn null_of(of: &impl Visit) -> String {
    let (mut seen, mut values) = (BTreeSet::new(), vec!["NULL".to_string()]);
    let parameter = |expr: &Expr| match expr {
        Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) => Some(name.clone()),
        _ => None,
    };
    let _ = visit_expressions(of, |expr| {
        let name = match expr {
            Expr::Cast { expr, .. } => parameter(expr),
            other => parameter(other),
        };
        if name.is_some_and(|name| seen.insert(name)) {
            values.push(expr.to_string());
        }
        ControlFlow::<()>::Continue(())
    });
    format!("{NULL_OF}({})", values.join(", "))
}

/// What its columns are called; None where that is not said.
fn columns(body: &SetExpr) -> Option<Vec<String>> {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::Query(query) => return columns(&query.body),
        SetExpr::SetOperation { left, .. } => return columns(left),
        _ => return None,
    };
    let name = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(name.value.clone()),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(names)) => names.last().map(|name| name.value.clone()),
        SelectItem::UnnamedExpr(Expr::Function(function)) => function.name.0.last().map(ToString::to_string),
        SelectItem::UnnamedExpr(_) => Some("?column?".to_string()),
        _ => None,
    };
    select.projection.iter().map(name).collect()
}
