//! From the text of an aggregate to its plan: one `SELECT` over `events`, each column a key or a measure.

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{
    self, DuplicateTreatment, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, SelectItem, SetExpr,
    Spanned, TableFactor, Value,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::{AggregateColumn, AggregatePlan, AggregateRole};
use crate::expression::{Expression, ExpressionError, Resolved, Scope, located, nearest, parse_select};

/// Digits behind the point of a sum of doubles.
pub(super) const SCALE: i8 = 6;
pub(super) const PRECISION: u8 = 38;

/// The clauses that a partial aggregate cannot have.
const FORM: &str = "SELECT keys and measures FROM events [WHERE …] GROUP BY keys";

/// Event columns, without what merges of profiles change afterwards.
struct EventsOnly<'a>(&'a dyn Scope);

const CHANGED_BY_MERGES: [&str; 3] = ["profile_id", "session_id", "in_segment"];

impl Scope for EventsOnly<'_> {
    fn resolve(&self, path: &[&str]) -> Option<Resolved> {
        if CHANGED_BY_MERGES.contains(path.first()?) { None } else { self.0.resolve(path) }
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.0.names();
        names.retain(|name| !CHANGED_BY_MERGES.iter().any(|changed| name.starts_with(changed)));
        names
    }

    fn why_not(&self, path: &[&str]) -> Option<String> {
        if CHANGED_BY_MERGES.contains(path.first()?) {
            return Some(
                "a merge of profiles changes profile and session ids, traits and segments afterwards, so sums by them \
                 would be wrong; count with a query over `events` or `profiles` instead"
                    .into(),
            );
        }
        self.0.why_not(path)
    }
}

/// A column of the `SELECT`, before it is known whether it is a key.
struct Item<'a> {
    name: String,
    expr: &'a ast::Expr,
    /// None for a key.
    measure: Option<Measure<'a>>,
}

struct Measure<'a> {
    role: AggregateRole,
    /// None for `count(*)`.
    argument: Option<&'a ast::Expr>,
}

impl AggregatePlan {
    /// Checks `sql` against the event columns of `scope`.
    ///
    /// # Errors
    /// As [`Expression::compile`]; and where the statement is not of the form above, a column has no name, a plain column is not
    /// grouped by, or a measure cannot be combined over partial rows. Spans are bytes of `sql`.
    pub fn check(name: &str, sql: &str, scope: &dyn Scope) -> Result<AggregatePlan, ExpressionError> {
        let query = parse_select(sql)?;
        let select = plain_select(sql, &query)?;
        let scope = EventsOnly(scope);

        let mut items: Vec<Item> = Vec::with_capacity(select.projection.len());
        for projected in &select.projection {
            let item = item(sql, projected)?;
            if items.iter().any(|other| other.name.eq_ignore_ascii_case(&item.name)) {
                let message = format!("two columns are called `{}`", item.name);
                return Err(located(sql, projected.span(), message, Some("give one another name with AS".into())));
            }
            items.push(item);
        }
        let filter = match &select.selection {
            Some(condition) => {
                let expression = Expression::from_ast(sql, condition, &scope)?;
                if expression.data_type != DataType::Boolean {
                    let help = Some("compare it with something, or test IS NOT NULL".into());
                    return Err(located(sql, condition.span(), "WHERE needs a condition that is true or false", help));
                }
                Some(expression)
            }
            None => None,
        };
        let mut columns = Vec::with_capacity(items.len());
        let mut inputs = Vec::with_capacity(items.len());
        for item in &items {
            let (role, source) = match &item.measure {
                Some(measure) => (measure.role, measure.argument),
                None => (AggregateRole::Key, Some(item.expr)),
            };
            let input = match source {
                Some(source) => Some(Expression::from_ast(sql, source, &scope)?),
                None => None,
            };
            let input_type = input.as_ref().map(|input| &input.data_type);
            let data_type = column_type(role, input_type).map_err(|(message, help)| {
                let at = source.map_or(item.expr.span(), |source| source.span());
                located(sql, at, message, Some(help.into()))
            })?;
            columns.push(AggregateColumn { name: item.name.clone(), data_type, role });
            inputs.push(input);
        }
        grouped_by_its_keys(sql, select, &items)?;
        if items.iter().all(|item| item.measure.is_none()) {
            let help = Some("add one, such as count(*) AS events".into());
            return Err(located(sql, select.span(), "there is no measure to add up", help));
        }
        Ok(AggregatePlan { name: name.to_string(), sql: sql.to_string(), columns, inputs, filter })
    }
}

/// The type of a column, or why there is none.
fn column_type(role: AggregateRole, input: Option<&DataType>) -> Result<DataType, (String, &'static str)> {
    use AggregateRole::{Count, Key, Max, Min, Sum};
    match (role, input) {
        (Count, _) => Ok(DataType::Int64),
        (Sum, Some(DataType::Int64)) => Ok(DataType::Int64),
        (Sum, Some(DataType::Float64)) => Ok(DataType::Decimal128(PRECISION, SCALE)),
        (Sum, _) => Err(("only numbers can be summed up".into(), "write CAST(… AS double) where it holds one")),
        (Key, Some(DataType::Float64)) => Err((
            "a number with a fraction is no key: equal amounts may differ in their last digit".into(),
            "write CAST(floor(x) AS bigint), or CAST(… AS bigint) of a whole number",
        )),
        (Key, Some(key @ (DataType::Utf8 | DataType::Int64 | DataType::Boolean | DataType::Timestamp(..)))) => {
            Ok(key.clone())
        }
        (Min | Max, Some(value @ (DataType::Utf8 | DataType::Int64 | DataType::Float64 | DataType::Timestamp(..)))) => {
            Ok(value.clone())
        }
        (Min | Max, Some(DataType::Boolean)) => {
            Err(("min and max are not for booleans".into(), "write sum(CASE WHEN … THEN 1 ELSE 0 END)"))
        }
        _ => Err(("a list or record is no value to group by or compare".into(), "name one of its fields")),
    }
}

/// The parts of the one form that is possible; everything else is refused by name.
fn plain_select<'a>(sql: &str, query: &'a ast::Query) -> Result<&'a ast::Select, ExpressionError> {
    let refuse = |span: Span, what: &str| {
        Err(located(sql, span, format!("{what} is not possible in an aggregate"), Some(format!("the form is {FORM}"))))
    };
    let SetExpr::Select(select) = query.body.as_ref() else { return refuse(query.span(), "anything but one SELECT") };
    let whole = select.span();
    let extra = [
        (query.with.is_some(), "WITH"),
        (query.order_by.is_some(), "ORDER BY"),
        (query.limit_clause.is_some() || query.fetch.is_some() || select.top.is_some(), "LIMIT"),
        (
            query.settings.is_some() || query.format_clause.is_some() || !query.pipe_operators.is_empty(),
            "SETTINGS or FORMAT",
        ),
        (!query.locks.is_empty() || query.for_clause.is_some(), "FOR"),
        (select.distinct.is_some(), "DISTINCT"),
        (select.having.is_some(), "HAVING"),
        (select.qualify.is_some() || !select.named_window.is_empty(), "a window"),
        (select.into.is_some(), "INTO"),
        (select.prewhere.is_some(), "PREWHERE"),
        (!select.lateral_views.is_empty() || !select.connect_by.is_empty(), "this clause"),
        (!select.cluster_by.is_empty() || !select.distribute_by.is_empty() || !select.sort_by.is_empty(), "SORT BY"),
    ];
    if let Some((_, what)) = extra.iter().find(|(present, _)| *present) {
        return refuse(whole, what);
    }
    let [from] = select.from.as_slice() else {
        let help = Some(format!("the form is {FORM}"));
        return Err(located(sql, whole, "an aggregate reads FROM events", help));
    };
    if !from.joins.is_empty() {
        let help = Some("bring the values into the event with `enrich`".into());
        return Err(located(sql, from.span(), "JOIN is not possible in an aggregate", help));
    }
    match &from.relation {
        TableFactor::Table { name, alias: None, args: None, sample: None, .. } if name.to_string() == "events" => {
            Ok(select)
        }
        other => {
            let help = Some(format!("the form is {FORM}"));
            Err(located(sql, other.span(), format!("an aggregate reads `events`, not `{other}`"), help))
        }
    }
}

fn item<'a>(sql: &str, projected: &'a SelectItem) -> Result<Item<'a>, ExpressionError> {
    let (expr, alias) = match projected {
        SelectItem::UnnamedExpr(expr) => (expr, None),
        SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias)),
        other => {
            let help = Some("name the columns".into());
            return Err(located(sql, other.span(), format!("`{other}` is not possible in an aggregate"), help));
        }
    };
    let measure = measure(sql, expr)?;
    let name = match (alias, expr) {
        (Some(alias), _) => alias.value.clone(),
        (None, ast::Expr::Identifier(name)) => name.value.clone(),
        (None, ast::Expr::CompoundIdentifier(path)) => path.last().map(|name| name.value.clone()).unwrap_or_default(),
        _ => {
            let help = format!("write {expr} AS some_name");
            return Err(located(sql, expr.span(), "this column needs a name", Some(help)));
        }
    };
    let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_plain {
        let span = alias.map_or(expr.span(), |alias| alias.span);
        let help = Some("begin with a letter, go on with letters, digits and _; names with _ in front are ours".into());
        return Err(located(sql, span, format!("`{name}` cannot be a column's name"), help));
    }
    Ok(Item { name, expr, measure })
}

/// `sum(x)` and its like; None for what must be a key.
fn measure<'a>(sql: &str, expr: &'a ast::Expr) -> Result<Option<Measure<'a>>, ExpressionError> {
    let ast::Expr::Function(function) = expr else { return Ok(None) };
    let name = function.name.to_string().to_lowercase();
    let refuse = |message: String, help: &str| Err(located(sql, expr.span(), message, Some(help.into())));
    let role = match name.as_str() {
        "sum" => AggregateRole::Sum,
        "count" => AggregateRole::Count,
        "min" => AggregateRole::Min,
        "max" => AggregateRole::Max,
        "avg" | "mean" => {
            return refuse(
                format!("{name} cannot be combined over partial rows"),
                "keep sum(x) and count(x), and divide them in the query",
            );
        }
        "median" | "stddev" | "quantile" | "uniq" | "approx_distinct" | "array_agg" | "string_agg" | "first_value"
        | "last_value" => {
            return refuse(
                format!("{name} cannot be combined over partial rows"),
                "measures are sum, count, min and max; the rest is a query over `events`",
            );
        }
        _ => return Ok(None),
    };
    if function.over.is_some() || function.filter.is_some() || function.null_treatment.is_some() {
        return refuse(
            format!("{name} takes one argument and nothing else"),
            "for a condition write sum(CASE WHEN … THEN … END)",
        );
    }
    let FunctionArguments::List(list) = &function.args else {
        return refuse(format!("{name} takes one argument"), "write sum(x), count(*), min(x) or max(x)");
    };
    if matches!(list.duplicate_treatment, Some(DuplicateTreatment::Distinct)) {
        return refuse("DISTINCT cannot be combined over partial rows".into(), "count with a query over `events`");
    }
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if role == AggregateRole::Count => {
            Ok(Some(Measure { role, argument: None }))
        }
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] if list.clauses.is_empty() => {
            Ok(Some(Measure { role, argument: Some(argument) }))
        }
        _ => refuse(format!("{name} takes one argument"), "write sum(x), count(*), min(x) or max(x)"),
    }
}

/// Every column that is no measure must be grouped by, and every group must be a column: partial rows are combined by
/// what they show.
fn grouped_by_its_keys(sql: &str, select: &ast::Select, items: &[Item]) -> Result<(), ExpressionError> {
    let (groups, modifiers) = match &select.group_by {
        GroupByExpr::All(modifiers) => (None, modifiers),
        GroupByExpr::Expressions(groups, modifiers) => (Some(groups), modifiers),
    };
    if !modifiers.is_empty() {
        let help = Some("add up over the keys in the query".into());
        return Err(located(
            sql,
            select.group_by.span(),
            "ROLLUP, CUBE and TOTALS are not possible in an aggregate",
            help,
        ));
    }
    let Some(groups) = groups else { return Ok(()) };

    let mut is_grouped = vec![false; items.len()];
    for group in groups {
        let position = match group {
            ast::Expr::Value(value) => match &value.value {
                Value::Number(digits, _) => digits
                    .parse::<usize>()
                    .ok()
                    .and_then(|ordinal| ordinal.checked_sub(1))
                    .filter(|index| *index < items.len()),
                _ => None,
            },
            // An alias goes before a column of the same name, unless the column is selected itself.
            ast::Expr::Identifier(name) => {
                same_expression(items, group).or_else(|| items.iter().position(|item| item.name == name.value))
            }
            other => same_expression(items, other),
        };
        let Some(position) = position else {
            let names = items.iter().filter(|item| item.measure.is_none()).map(|item| item.name.as_str());
            let help = match nearest(&group.to_string(), names) {
                Some(name) => format!("did you mean `{name}`?"),
                None => {
                    "a group must also be a column of the SELECT; name it by position, alias or as it is written there"
                        .into()
                }
            };
            return Err(located(sql, group.span(), format!("`{group}` is not among the columns"), Some(help)));
        };
        if items[position].measure.is_some() {
            let message = format!("`{group}` is a measure and cannot be grouped by");
            return Err(located(sql, group.span(), message, None));
        }
        is_grouped[position] = true;
    }
    let missing = items.iter().zip(&is_grouped).position(|(item, grouped)| item.measure.is_none() && !grouped);
    if let Some(position) = missing {
        let item = &items[position];
        let help = format!("add it: GROUP BY … {}; or make it a measure with min or max", position + 1);
        return Err(located(sql, item.expr.span(), format!("`{}` is not grouped by", item.name), Some(help)));
    }
    Ok(())
}

fn same_expression(items: &[Item], group: &ast::Expr) -> Option<usize> {
    let written = group.to_string();
    items.iter().position(|item| item.expr.to_string() == written)
}
