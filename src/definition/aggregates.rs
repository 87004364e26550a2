//! Aggregates: one `SELECT … FROM events [WHERE …] GROUP BY …`, its parts checked like any expression, then written
//! anew over the columns of an event batch.
//!
//! Only what partial rows of many batches can be combined from is let through: keys, and `sum`, `count`, `min`, `max`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, CastKind, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident,
    SelectItem, SetExpr, Spanned, Subscript, TableFactor, Value, visit_expressions_mut,
};

use super::check::Checker;
use super::findings::Span;
use super::scope::EventScope;
use super::spec::Sql;
use crate::aggregate::{AggregateColumn, AggregatePlan, AggregateRole};
use crate::expression::{Expression, ExpressionError, Scope, located, parse_select};

/// Tables and views that are there anyway.
const TAKEN: [&str; 13] = [
    "events",
    "profiles",
    "current_profiles",
    "identifiers",
    "current_identifiers",
    "profile_merges",
    "segment_changes",
    "segment_members",
    "sessions",
    "current_sessions",
    "deliveries",
    "rejected_events",
    "tributary_state",
];

const FORM: &str = "SELECT key AS name, sum(value) AS name FROM events WHERE … GROUP BY 1";

/// None where something was reported.
pub fn aggregate(checker: &Checker, name: &str, span: Span, sql: &Sql) -> Option<AggregatePlan> {
    if TAKEN.contains(&name) {
        let message = format!("there is a table `{name}` already: an aggregate needs another name");
        checker.reader.findings.error(span, message, None);
        return None;
    }
    let scope = checker.event_scope(None);
    let text = sql.scalar.text.as_str();
    match plan(name, text, &scope) {
        Ok(plan) => {
            checker.fields_of(&scope);
            Some(plan)
        }
        Err(error) => {
            checker.report(sql, error.span, error.message, error.help);
            None
        }
    }
}

fn plan(name: &str, text: &str, scope: &EventScope) -> Result<AggregatePlan, ExpressionError> {
    let query = parse_select(text)?;
    let refuse = |span, message: &str| Err(located(text, span, message, Some(FORM.to_string())));
    let plain = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty();
    let SetExpr::Select(select) = query.body.as_ref() else {
        return refuse(query.span(), "an aggregate is one SELECT");
    };
    if !plain {
        return refuse(query.span(), "an aggregate has no WITH, ORDER BY or LIMIT: sort when you query it");
    }
    let plain = select.distinct.is_none()
        && select.top.is_none()
        && select.having.is_none()
        && select.qualify.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.named_window.is_empty();
    if !plain {
        return refuse(select.span(), "an aggregate has no DISTINCT, HAVING or window: filter when you query it");
    }
    match &select.from[..] {
        [table] if table.joins.is_empty() && is_events(&table.relation) => {}
        _ => return refuse(select.span(), "an aggregate reads FROM events and nothing else"),
    }
    let GroupByExpr::Expressions(group_by, _) = &select.group_by else {
        return refuse(select.span(), "GROUP BY names its keys");
    };

    let mut columns: Vec<AggregateColumn> = Vec::new();
    let mut written: Vec<String> = Vec::new();
    let mut grouped = vec![false; group_by.len()];
    for (index, item) in select.projection.iter().enumerate() {
        let (expr, name) = named(text, item)?;
        let duplicate = columns.iter().any(|other| other.name == name);
        if duplicate || name.starts_with('_') {
            let why = if duplicate { "there already" } else { "not allowed: names begin with a letter" };
            return Err(located(text, item.span(), format!("the column name `{name}` is {why}"), None));
        }
        let (role, data_type) = match measure(text, expr)? {
            Some((role, argument)) => (role, measure_type(text, expr, role, argument, scope)?),
            None => {
                let key = Expression::from_ast(text, expr, scope)?;
                let position = group_by.iter().position(|by| is_same(by, expr, &name, index));
                let Some(position) = position else {
                    let help = format!("add GROUP BY {}", index + 1);
                    let message = format!("`{name}` is neither grouped by nor a sum, count, min or max");
                    return Err(located(text, expr.span(), message, Some(help)));
                };
                grouped[position] = true;
                (AggregateRole::Key, key.data_type)
            }
        };
        written.push(format!("{} AS \"{name}\"", rewritten(expr, scope)));
        columns.push(AggregateColumn { name, data_type, role });
    }
    if let Some(position) = grouped.iter().position(|grouped| !grouped) {
        let message = "a key of GROUP BY must be selected too, else partial rows cannot be added up";
        return Err(located(text, group_by[position].span(), message, None));
    }
    if columns.iter().all(|column| column.role == AggregateRole::Key) {
        return refuse(select.span(), "there is nothing to add up: select a sum, count, min or max");
    }
    let mut sql = format!("SELECT {} FROM events", written.join(", "));
    if let Some(condition) = &select.selection {
        let expression = Expression::from_ast(text, condition, scope)?;
        let whole = located(text, condition.span(), "", None).span.unwrap_or(0..text.len());
        expression.require_boolean(whole)?;
        sql.push_str(&format!(" WHERE {}", rewritten(condition, scope)));
    }
    let keys = columns.iter().enumerate().filter(|(_, column)| column.role == AggregateRole::Key);
    let keys: Vec<String> = keys.map(|(index, _)| (index + 1).to_string()).collect();
    if !keys.is_empty() {
        sql.push_str(&format!(" GROUP BY {}", keys.join(", ")));
    }
    Ok(AggregatePlan { name: name.to_string(), sql, columns })
}

fn is_events(table: &TableFactor) -> bool {
    matches!(table, TableFactor::Table { name, args: None, .. } if name.to_string() == "events")
}

/// A selected column and its name: the alias, or a plain name's last part.
fn named<'q>(text: &str, item: &'q SelectItem) -> Result<(&'q Expr, String), ExpressionError> {
    match item {
        SelectItem::ExprWithAlias { expr, alias } => Ok((expr, alias.value.clone())),
        SelectItem::UnnamedExpr(expr @ Expr::Identifier(name)) => Ok((expr, name.value.clone())),
        SelectItem::UnnamedExpr(expr @ Expr::CompoundIdentifier(path)) if !path.is_empty() => {
            Ok((expr, path[path.len() - 1].value.clone()))
        }
        other => Err(located(text, other.span(), "this column needs a name", Some(format!("{other} AS name")))),
    }
}

/// True where a GROUP BY item means this column: by its number, its name or its text.
fn is_same(by: &Expr, expr: &Expr, name: &str, index: usize) -> bool {
    match by {
        Expr::Value(value) => matches!(&value.value, Value::Number(number, _) if *number == (index + 1).to_string()),
        Expr::Identifier(identifier) if identifier.value == name => true,
        other => other.to_string() == expr.to_string(),
    }
}

/// The role of a measure and what it is taken of (None: `count(*)`).
fn measure<'q>(text: &str, expr: &'q Expr) -> Result<Option<(AggregateRole, Option<&'q Expr>)>, ExpressionError> {
    let Expr::Function(function) = expr else { return Ok(None) };
    let role = match function.name.to_string().to_lowercase().as_str() {
        "sum" => AggregateRole::Sum,
        "count" => AggregateRole::Count,
        "min" => AggregateRole::Min,
        "max" => AggregateRole::Max,
        "avg" | "mean" => {
            let help = "select the sum and the count, and divide when you query".to_string();
            return Err(located(text, expr.span(), "averages of batches cannot be combined", Some(help)));
        }
        _ => return Ok(None),
    };
    let refuse = |message: &str| Err(located(text, expr.span(), message, None));
    let bare = function.over.is_none() && function.filter.is_none() && function.within_group.is_empty();
    let FunctionArguments::List(list) = &function.args else {
        return refuse("one argument is wanted here");
    };
    if !bare || !list.clauses.is_empty() || list.duplicate_treatment.is_some() {
        return refuse("DISTINCT, FILTER and OVER cannot be combined over batches");
    }
    match &list.args[..] {
        [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if role == AggregateRole::Count => Ok(Some((role, None))),
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] => Ok(Some((role, Some(argument)))),
        _ => refuse("one argument is wanted here"),
    }
}

fn measure_type(
    text: &str,
    whole: &Expr,
    role: AggregateRole,
    argument: Option<&Expr>,
    scope: &EventScope,
) -> Result<arrow::datatypes::DataType, ExpressionError> {
    use arrow::datatypes::DataType;
    let Some(argument) = argument else { return Ok(DataType::Int64) };
    let argument_type = Expression::from_ast(text, argument, scope)?.data_type;
    let wrong = |wants: &str| {
        let is = super::check::type_name(&argument_type);
        Err(located(text, whole.span(), format!("{wants}, this is {is}"), Some(format!("CAST({argument} AS DOUBLE)"))))
    };
    match (role, &argument_type) {
        (AggregateRole::Count, _) => Ok(DataType::Int64),
        (AggregateRole::Sum, DataType::Int64 | DataType::Float64) => Ok(argument_type),
        (AggregateRole::Sum, _) => wrong("`sum` needs a number"),
        (_, DataType::Int64 | DataType::Float64 | DataType::Utf8 | DataType::Timestamp(..)) => Ok(argument_type),
        _ => wrong("`min` and `max` need a number, a timestamp or a text"),
    }
}

/// The expression over columns of the batch, with the meanings that expressions have everywhere else: `/` is real
/// division and null by zero, a cast that fails is null.
fn rewritten(expr: &Expr, scope: &EventScope) -> String {
    let mut expr = expr.clone();
    let _ = visit_expressions_mut(&mut expr, |part| {
        let path: Vec<&str> = match part {
            Expr::Identifier(name) if name.quote_style.is_none() => vec![&name.value],
            Expr::CompoundIdentifier(path) => path.iter().map(|step| step.value.as_str()).collect(),
            _ => Vec::new(),
        };
        if let Some(resolved) = scope.resolve(&path).filter(|_| !path.is_empty()) {
            let column = Expr::Identifier(Ident::with_quote('"', resolved.column));
            let steps = resolved.nested.into_iter().map(|step| {
                let index = Expr::value(Value::SingleQuotedString(step));
                ast::AccessExpr::Subscript(Subscript::Index { index })
            });
            let access_chain: Vec<_> = steps.collect();
            *part = if access_chain.is_empty() {
                column
            } else {
                Expr::CompoundFieldAccess { root: Box::new(column), access_chain }
            };
            return ControlFlow::<()>::Continue(());
        }
        match part {
            Expr::Cast { kind, .. } => *kind = CastKind::TryCast,
            Expr::BinaryOp { left, op: BinaryOperator::Divide, right } => {
                let real = |side: &Expr| format!("CAST({side} AS DOUBLE)");
                let text = format!("({} / nullif({}, 0.0))", real(left), real(right));
                // It has been read once already, so it can be read again.
                if let Ok(SetExpr::Select(select)) = parse_select(&format!("SELECT {text} AS x")).map(|q| *q.body)
                    && let Some(SelectItem::ExprWithAlias { expr, .. }) = select.projection.into_iter().next()
                {
                    *part = expr;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    expr.to_string()
}
