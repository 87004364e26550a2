//! ClickHouse's forms as DataFusion's, on the syntax tree:
//!
//! | written                              | planned                                                          |
//! |--------------------------------------|------------------------------------------------------------------|
//! | `windowFunnel(60, 'mode')(t, a, b)`  | `windowFunnel(2, 60, 'mode', t, a, b)`: parameters, counted, first |
//! | `sumIf(x, c)`, and so any aggregate  | `sum(x) FILTER (WHERE c)`                                        |
//! | `uniq(x)`, `uniqExact(x, y)`         | `count(DISTINCT x)`                                              |
//! | `groupArray(n)(x)`                   | `array_slice(groupArray(x), 1, n)`                               |
//! | `if`, `multiIf`, `ifNull`            | `CASE`, `coalesce`                                               |
//! | `divide(a, b)`                       | `CAST(a AS DOUBLE) / CAST(b AS DOUBLE)`                          |
//! | `toStartOfInterval(t, INTERVAL 1 DAY)` | `toStartOfInterval(t, 1, 'day')`: an interval has forgotten its unit |
//! | `x LIKE 'a/_%' ESCAPE '/'`, of SQL   | `x LIKE 'a\_%'`: no other escape is known                         |
//!
//! A column keeps the name that it has as it was written.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, DataType, DuplicateTreatment, ExactNumberInfo, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Interval, ObjectName, Select, SelectItem, Value,
    VisitMut, VisitorMut,
};

/// # Errors
/// A text: parameters that do not fit their function.
pub fn rewrite(statement: &mut Statement) -> Result<(), String> {
    match statement {
        Statement::Statement(statement) => match statement.visit(&mut Rewrite::default()) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(()),
        },
        Statement::Explain(explain) => rewrite(&mut explain.statement),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Rewrite {
    /// For each open `SELECT` its columns without a name, as they were written.
    written: Vec<Vec<Option<String>>>,
}

impl VisitorMut for Rewrite {
    type Break = String;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<String> {
        let written = select.projection.iter().map(|item| match item {
            SelectItem::UnnamedExpr(expr) => Some(expr.to_string()),
            _ => None,
        });
        self.written.push(written.collect());
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<String> {
        let written = self.written.pop().unwrap_or_default();
        for (item, written) in select.projection.iter_mut().zip(written) {
            if let (SelectItem::UnnamedExpr(expr), Some(written)) = (&*item, written)
                && expr.to_string() != written
            {
                let alias = Ident::with_quote('"', written);
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<String> {
        match expr {
            Expr::Function(function) => match planned(function) {
                Ok(Some(other)) => *expr = other,
                Ok(None) => {}
                Err(error) => return ControlFlow::Break(error),
            },
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                if let Some(escape) = escape_char.take_if(|escape| is_other_escape(&escape.value)) {
                    **pattern = escaped_by_backslash(pattern, &escape.value.into_string().unwrap_or_default());
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// One character, and not the one that is known.
fn is_other_escape(escape: &Value) -> bool {
    matches!(escape, Value::SingleQuotedString(text) if text.chars().count() == 1 && text != "\\")
}

/// A pattern in which `escape` makes the next character an ordinary one, with a backslash in its place.
fn escaped_by_backslash(pattern: &Expr, escape: &str) -> Expr {
    // What is escaped twice is meant itself; a sign that is in no pattern keeps it apart meanwhile.
    let (twice, apart, itself) = (escape.repeat(2), "\u{1}", format!("\\{escape}"));
    let steps = [("\\", "\\\\"), (twice.as_str(), apart), (escape, "\\"), (apart, itself.as_str())];
    match pattern {
        Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_)) => {
            let written = value.value.clone().into_string().unwrap_or_default();
            text(&steps.iter().fold(written, |pattern, (from, to)| pattern.replace(from, to)))
        }
        other => {
            steps.iter().fold(other.clone(), |pattern, (from, to)| call("replace", vec![pattern, text(from), text(to)]))
        }
    }
}

/// Aggregates that `…If` is understood of.
const AGGREGATES: [&str; 25] = [
    "any",
    "anyLast",
    "argMax",
    "argMin",
    "avg",
    "count",
    "groupArray",
    "groupUniqArray",
    "max",
    "median",
    "medianExact",
    "min",
    "quantile",
    "quantileExact",
    "quantileExactInclusive",
    "quantiles",
    "quantilesExact",
    "quantilesExactInclusive",
    "retention",
    "sequenceCount",
    "sequenceMatch",
    "sum",
    "uniq",
    "uniqExact",
    "windowFunnel",
];

/// Changes a call in place, or gives what stands for it.
fn planned(function: &mut Function) -> Result<Option<Expr>, String> {
    let [part] = function.name.0.as_slice() else { return Ok(None) };
    let Some(written) = part.as_ident().map(|ident| ident.value.clone()) else { return Ok(None) };
    let FunctionArguments::List(FunctionArgumentList { args, .. }) = &mut function.args else { return Ok(None) };
    let mut name = written.as_str();
    let mut condition = None;
    if let Some(stem) = written.strip_suffix("If").filter(|stem| AGGREGATES.contains(stem)) {
        let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(last))) = args.pop() else {
            return Err(format!("{written} takes a condition last"));
        };
        condition = Some(truth(last));
        name = match stem {
            "sum" => "sum_or_default",
            "avg" => "avg_or_default",
            "min" => "min_or_default",
            "max" => "max_or_default",
            stem => stem,
        };
        if name == "count" && args.is_empty() {
            args.push(FunctionArg::Unnamed(FunctionArgExpr::Wildcard));
        }
    }
    let mut whole = None;
    let parameters = match std::mem::replace(&mut function.parameters, FunctionArguments::None) {
        FunctionArguments::List(list) => Some(list.args),
        _ => None,
    };
    match name {
        "windowFunnel" | "sequenceMatch" | "sequenceCount" => lead(args, parameters.unwrap_or_default()),
        "quantile"
        | "quantileExact"
        | "quantileExactInclusive"
        | "quantiles"
        | "quantilesExact"
        | "quantilesExactInclusive" => lead(args, parameters.unwrap_or_default()),
        // DataFusion's own median is of the type of its input.
        "median" | "medianExact" if parameters.is_none() => {
            name = if name == "median" { "quantile" } else { "quantileExact" };
            lead(args, Vec::new());
        }
        "groupArray" | "groupUniqArray" => {
            if let Some(parameters) = parameters {
                let [FunctionArg::Unnamed(FunctionArgExpr::Expr(most))] = parameters.as_slice() else {
                    return Err(format!("{written}(n)(x): n is how many values are kept"));
                };
                whole = Some(most.clone());
            }
        }
        _ if parameters.is_some() => return Err(format!("{written} takes no parameters: write {written}(…)")),
        "uniq" | "uniqExact" => {
            name = "count";
            if args.len() > 1 {
                let present = expressions(args)?.into_iter().map(|expr| Expr::IsNotNull(Box::new(expr)));
                condition = present.chain(condition.take()).reduce(and);
                let tuple = call("struct", expressions(args)?);
                *args = vec![argument(tuple)];
            }
            if let FunctionArguments::List(list) = &mut function.args {
                list.duplicate_treatment = Some(DuplicateTreatment::Distinct);
            }
        }
        "if" | "multiIf" => return case(&written, expressions(args)?).map(Some),
        "ifNull" => name = "coalesce",
        "divide" => {
            let [left, right]: [Expr; 2] =
                expressions(args)?.try_into().map_err(|_| "divide takes two numbers".to_string())?;
            let [left, right] = [left, right].map(|side| Box::new(to(side, DataType::Double(ExactNumberInfo::None))));
            return Ok(Some(Expr::Nested(Box::new(Expr::BinaryOp { left, op: BinaryOperator::Divide, right }))));
        }
        "lengthUTF8" => name = "character_length",
        "arrayElement" => {
            name = "array_element";
            // It takes no unsigned place, as `indexOf` gives.
            if let Some(place) = args.get_mut(1)
                && let Some(of) = expression(place).cloned()
            {
                *place = argument(to(of, DataType::BigInt(None)));
            }
        }
        "array" => name = "make_array",
        "arrayConcat" => name = "array_concat",
        "arrayJoin" => name = "unnest",
        "arrayPushBack" => name = "array_append",
        "arrayZip" => name = "arrays_zip",
        "tuple" => name = "struct",
        "toStartOfInterval" => {
            if let Some(index) = args.iter().position(|arg| matches!(expression(arg), Some(Expr::Interval(_)))) {
                let Some(Expr::Interval(interval)) = expression(&args[index]) else { return Ok(None) };
                let parts = interval_parts(interval)?;
                args.splice(index..=index, parts.map(argument));
            }
        }
        "dateDiff" | "date_diff" => {
            name = "dateDiff";
            if let Some(Expr::Identifier(unit)) = args.first().and_then(expression) {
                args[0] = argument(text(&unit.value));
            }
        }
        _ => {}
    }
    if name != written {
        function.name = ObjectName::from(vec![Ident::new(name)]);
    }
    function.filter = match (condition, function.filter.take()) {
        (Some(condition), Some(filter)) => Some(Box::new(and(*filter, condition))),
        (Some(condition), None) => Some(Box::new(condition)),
        (None, filter) => filter,
    };
    Ok(whole.map(|most| call("array_slice", vec![Expr::Function(function.clone()), number("1"), most])))
}

/// Parameters before the arguments, their number before all.
fn lead(args: &mut Vec<FunctionArg>, parameters: Vec<FunctionArg>) {
    let count = argument(number(&parameters.len().to_string()));
    args.splice(0..0, std::iter::once(count).chain(parameters));
}

fn expression(arg: &FunctionArg) -> Option<&Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

fn expressions(args: &[FunctionArg]) -> Result<Vec<Expr>, String> {
    let expressions = args.iter().map(|arg| expression(arg).cloned().ok_or_else(|| format!("{arg} is not a value")));
    expressions.collect()
}

fn argument(expr: Expr) -> FunctionArg {
    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
}

fn number(digits: &str) -> Expr {
    Expr::Value(Value::Number(digits.to_string(), false).with_empty_span())
}

fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_string()).with_empty_span())
}

fn and(left: Expr, right: Expr) -> Expr {
    let nested = |expr| Box::new(Expr::Nested(Box::new(expr)));
    Expr::BinaryOp { left: nested(left), op: BinaryOperator::And, right: nested(right) }
}

/// `name(args)`
pub fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(argument).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// A condition that may be a number, as all of ClickHouse's are.
fn truth(expr: Expr) -> Expr {
    match &expr {
        Expr::BinaryOp { op, .. } if is_truth(op) => expr,
        Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::InList { .. } | Expr::Between { .. } | Expr::Like { .. } => expr,
        _ => to(expr, DataType::Boolean),
    }
}

fn is_truth(op: &BinaryOperator) -> bool {
    use BinaryOperator::*;
    matches!(op, Gt | Lt | GtEq | LtEq | Eq | NotEq | And | Or)
}

fn to(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn case(name: &str, args: Vec<Expr>) -> Result<Expr, String> {
    if args.len() < 3 || args.len().is_multiple_of(2) || (name == "if" && args.len() > 3) {
        let many = if name == "if" { "" } else { ", further conditions and values" };
        return Err(format!("{name} takes a condition, a value{many} and a value otherwise"));
    }
    let mut args = args.into_iter();
    let mut conditions = Vec::new();
    let otherwise = loop {
        match (args.next(), args.next()) {
            (Some(condition), Some(result)) => conditions.push(CaseWhen { condition: truth(condition), result }),
            (otherwise, _) => break otherwise,
        }
    };
    Ok(Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions,
        else_result: otherwise.map(Box::new),
    })
}

/// `INTERVAL 1 DAY` and `INTERVAL '1 day'` as 1 and 'day'.
fn interval_parts(interval: &Interval) -> Result<[Expr; 2], String> {
    let wrong = || format!("{interval}: write a number and a unit, as in INTERVAL 1 DAY");
    match &interval.leading_field {
        Some(unit) if interval.last_field.is_none() => {
            let value = match interval.value.as_ref() {
                Expr::Value(value) => number(&value.value.clone().into_string().unwrap_or(value.to_string())),
                other => other.clone(),
            };
            Ok([value, text(&unit.to_string().to_lowercase())])
        }
        None => {
            let Expr::Value(value) = interval.value.as_ref() else { return Err(wrong()) };
            let value = value.value.clone().into_string().ok_or_else(wrong)?;
            let (count, unit) = value.trim().split_once(' ').ok_or_else(wrong)?;
            Ok([number(count), text(&unit.trim().to_lowercase())])
        }
        Some(_) => Err(wrong()),
    }
}
