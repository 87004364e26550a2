//! `now()` and `has_been`: the conditions that change with time alone.
//!
//! `now()` is bound as a column and stands only where it is known when the result will change: as
//! `trait <cmp> now() ± INTERVAL '…'`, the other way round, or as a bound of BETWEEN; `<cmp>` is `<`, `<=`, `>` or `>=`.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::Between;
use datafusion::logical_expr::{Expr, Operator, binary_expr};
use datafusion::sql::sqlparser::ast::{self, BinaryOperator, FunctionArguments, Spanned};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::Resolved;
use super::check::Checker;
use super::functions;
use super::kinds::{Fault, Kind, Result, Typed, timestamp_literal, timestamp_type};
use super::time::{CalendarOffset, TimeComparison, TimeOperator};

/// The column that holds the time of evaluation: UTC microseconds, never null.
pub const NOW_COLUMN: &str = "now()";

/// What people write for the time: all of it is refused where it does not stand in a comparison.
pub(super) const CLOCKS: [&str; 8] =
    ["now", "current_timestamp", "localtimestamp", "current_date", "current_time", "localtime", "today", "getdate"];

const FORM: &str = "write `trait < now() - INTERVAL '7 days'`, with <, <=, >, >= or BETWEEN and one INTERVAL";

/// `now()`, `now() + INTERVAL`, `now() - INTERVAL` or `INTERVAL + now()`, as written.
struct NowTerm<'a> {
    span: Span,
    /// Whether the interval is taken away, and the interval.
    interval: Option<(bool, &'a ast::Expr)>,
}

fn now_term(node: &ast::Expr) -> Option<NowTerm<'_>> {
    let span = node.span();
    let is_interval = |node: &ast::Expr| matches!(unnest(node), ast::Expr::Interval(_));
    match unnest(node) {
        ast::Expr::Function(function) if is_now(function) => Some(NowTerm { span, interval: None }),
        ast::Expr::BinaryOp { left, op: BinaryOperator::Plus, right } if is_interval(left) => {
            let now = now_term(right)?;
            now.interval.is_none().then_some(NowTerm { span, interval: Some((false, left)) })
        }
        ast::Expr::BinaryOp { left, op: op @ (BinaryOperator::Plus | BinaryOperator::Minus), right }
            if is_interval(right) =>
        {
            let now = now_term(left)?;
            now.interval.is_none().then_some(NowTerm { span, interval: Some((*op == BinaryOperator::Minus, right)) })
        }
        _ => None,
    }
}

fn unnest(mut node: &ast::Expr) -> &ast::Expr {
    while let ast::Expr::Nested(inner) = node {
        node = inner;
    }
    node
}

fn is_now(function: &ast::Function) -> bool {
    let no_arguments = match &function.args {
        FunctionArguments::List(list) => list.args.is_empty() && list.clauses.is_empty(),
        _ => false,
    };
    no_arguments && function.over.is_none() && function.name.to_string().eq_ignore_ascii_case("now")
}

fn time_operator(op: Operator) -> Option<TimeOperator> {
    match op {
        Operator::Lt => Some(TimeOperator::Lt),
        Operator::LtEq => Some(TimeOperator::LtEq),
        Operator::Gt => Some(TimeOperator::Gt),
        Operator::GtEq => Some(TimeOperator::GtEq),
        _ => None,
    }
}

impl Checker<'_> {
    /// `name` is used where no comparison is, or none that is possible.
    pub fn clock_fault(&self, name: &str, span: Span) -> Fault {
        if !self.scope.knows_now() {
            return Fault {
                message: format!("{name}() is not possible here: the value of an event does not change with time"),
                help: Some("events have no now(): use it in a segment, a formula or stages".into()),
                span,
            };
        }
        let message = match name {
            "now" => "now() stands only where a trait's time is compared with it".to_string(),
            other => format!("{other} is not known: the time is now(), compared with a trait's"),
        };
        Fault { message, help: Some(FORM.into()), span }
    }

    /// A comparison one side of which is `now() ± INTERVAL`; None where it is another one.
    pub fn compare_now(
        &mut self,
        left: &ast::Expr,
        op: Operator,
        right: &ast::Expr,
        span: Span,
    ) -> Result<Option<Typed>> {
        let (value, op, now) = match (now_term(left), now_term(right)) {
            (None, None) => return Ok(None),
            (None, Some(now)) => (left, Some(op), now),
            (Some(now), _) => (right, op.swap(), now),
        };
        let (Some(op), Some(time_op)) = (op, op.and_then(time_operator)) else {
            return Err(self.clock_fault("now", now.span));
        };
        let (value, column) = self.time_of_trait(value, now.span)?;
        let bound = self.now_bound(&now, &column, time_op)?;
        let expr = binary_expr(value.expr, op, bound.expr);
        Ok(Some(Typed { expr, kind: Kind::Boolean, span }))
    }

    /// BETWEEN with `now() ± INTERVAL` as one bound or both; None where it is another one.
    pub fn between_now(
        &mut self,
        value: &ast::Expr,
        negated: bool,
        low: &ast::Expr,
        high: &ast::Expr,
        span: Span,
    ) -> Result<Option<Typed>> {
        let (low_now, high_now) = (now_term(low), now_term(high));
        let Some(now_span) = low_now.as_ref().or(high_now.as_ref()).map(|now| now.span) else { return Ok(None) };
        let (value, column) = self.time_of_trait(value, now_span)?;
        let mut bound = |node: &ast::Expr, now: Option<NowTerm<'_>>, op: TimeOperator| {
            if let Some(now) = now {
                return self.now_bound(&now, &column, op);
            }
            let other = self.lower(node)?;
            match other.kind {
                Kind::Timestamp => Ok(other),
                Kind::Null => Ok(other.cast(Kind::Timestamp)),
                _ if other.literal_text().is_some() => timestamp_literal(&other),
                _ => Err(other.error(format!("a timestamp and {} do not go together", other.kind), FORM)),
            }
        };
        let low = bound(low, low_now, TimeOperator::GtEq)?;
        let high = bound(high, high_now, TimeOperator::LtEq)?;
        let expr = Expr::Between(Between::new(Box::new(value.expr), negated, Box::new(low.expr), Box::new(high.expr)));
        Ok(Some(Typed { expr, kind: Kind::Boolean, span }))
    }

    /// `has_been('segment', INTERVAL '7 days')`: a member now, and since at least so long; never null.
    pub fn has_been(&mut self, arguments: &[Typed], span: Span) -> Result<Typed> {
        const HELP: &str = "write has_been('high_value', INTERVAL '7 days')";
        let refused = |message: &str| Fault { message: message.into(), help: Some(HELP.into()), span };
        if !self.scope.knows_now() {
            return Err(self.clock_fault("has_been", span));
        }
        let [segment, interval] = arguments else {
            return Err(refused("has_been takes a segment's name and an interval"));
        };
        let (Some(name), Kind::Interval) = (segment.literal_text(), &interval.kind) else {
            return Err(refused("has_been takes a segment's name and an interval"));
        };
        let Some(offset) = offset(interval)
            .map(CalendarOffset::negated)
            .filter(|offset| offset.months <= 0 && offset.days <= 0 && offset.microseconds <= 0)
        else {
            return Err(refused("has_been takes an interval of 0 to 10000 years in whole microseconds"));
        };
        let Some(since) = self.scope.resolve(&["has_been", name]) else {
            return Err(self.unknown(&["has_been", name], span));
        };
        let column = since.column.clone();
        let since = self.input(since);
        let bound = functions::call("timestamp -", vec![self.now(), interval.clone()], span)?;
        self.note(TimeComparison { column, op: TimeOperator::LtEq, offset });
        let is_since = binary_expr(since.expr, Operator::LtEq, bound.expr);
        Ok(Typed { expr: Expr::IsTrue(Box::new(is_since)), kind: Kind::Boolean, span })
    }

    /// The side of a comparison that is not `now()`: the plain name of a column of timestamps.
    fn time_of_trait(&mut self, node: &ast::Expr, now_span: Span) -> Result<(Typed, String)> {
        if !self.scope.knows_now() {
            return Err(self.clock_fault("now", now_span));
        }
        let path: Vec<&str> = match unnest(node) {
            ast::Expr::Identifier(name) => vec![&name.value],
            ast::Expr::CompoundIdentifier(path) => path.iter().map(|part| part.value.as_str()).collect(),
            other => {
                return Err(Fault {
                    message: "now() is compared with a trait alone, without a function or operator around it".into(),
                    help: Some(FORM.into()),
                    span: if other.span() == Span::empty() { now_span } else { other.span() },
                });
            }
        };
        let span = node.span();
        let Some(resolved) = self.scope.resolve(&path) else { return Err(self.unknown(&path, span)) };
        let kind = Kind::of(&resolved.data_type);
        if resolved.data_type != timestamp_type() || !resolved.nested.is_empty() {
            let message = match kind {
                Kind::Timestamp => format!("`{}` cannot be compared with now(): it is no trait", path.join(".")),
                _ => format!("now() is a timestamp, `{}` is {kind}", path.join(".")),
            };
            return Err(Fault { message, help: Some(FORM.into()), span });
        }
        let column = resolved.column.clone();
        Ok((Typed { span, ..self.input(resolved) }, column))
    }

    /// The value of `now() ± INTERVAL`, noted as what `column` is compared with.
    fn now_bound(&mut self, term: &NowTerm<'_>, column: &str, op: TimeOperator) -> Result<Typed> {
        let now = self.now();
        let Some((is_minus, interval)) = term.interval else {
            self.note(TimeComparison { column: column.to_string(), op, offset: CalendarOffset::default() });
            return Ok(now);
        };
        let interval = self.lower(interval)?;
        let Some(offset) = offset(&interval) else {
            return Err(interval.error(
                "this interval is too long or too fine for a comparison with now()",
                "at most 10000 years, in whole microseconds",
            ));
        };
        let offset = if is_minus { offset.negated() } else { offset };
        self.note(TimeComparison { column: column.to_string(), op, offset });
        functions::call(if is_minus { "timestamp -" } else { "timestamp +" }, vec![now, interval], term.span)
    }

    fn now(&mut self) -> Typed {
        self.input(Resolved { column: NOW_COLUMN.to_string(), data_type: timestamp_type(), nested: Vec::new() })
    }

    fn note(&mut self, comparison: TimeComparison) {
        if !self.times.contains(&comparison) {
            self.times.push(comparison);
        }
    }
}

fn offset(interval: &Typed) -> Option<CalendarOffset> {
    match &interval.expr {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => CalendarOffset::of(*interval),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
    use arrow::datatypes::DataType;

    use super::super::{ColumnScope, Expression, ExpressionError};
    use super::*;

    fn scope() -> ColumnScope {
        let mut scope = ColumnScope::new().with_now();
        for name in ["seen", "bought", "checkout.reached_at"] {
            scope.add_column(name, timestamp_type());
        }
        scope.add_column("checkout.level", DataType::Int64);
        scope.add_column("country", DataType::Utf8);
        scope.add_column("day", DataType::Date32);
        let member = |column: &str, data_type| Resolved { column: column.into(), data_type, nested: Vec::new() };
        scope.add(&["in_segment", "vip"], member("in_segment:vip", DataType::Boolean));
        scope.add(&["has_been", "vip"], member("member_since:vip", timestamp_type()));
        scope
    }

    fn compile(sql: &str) -> Result<Expression, ExpressionError> {
        Expression::compile_predicate(sql, &scope())
    }

    const DAY_US: i64 = 86_400_000_000;

    /// Rows: seen (and member_since) `days` and as many microseconds before now; the last one null.
    fn rows() -> (RecordBatch, Vec<&'static str>) {
        let now_us = 1_767_225_600_000_000_i64; // 2026-01-01
        let ago = [(0, 0), (7, -1), (7, 0), (7, 1), (8, 0), (-1, 0)];
        let seen: Vec<Option<i64>> =
            ago.iter().map(|(days, us)| Some(now_us - days * DAY_US - us)).chain([None]).collect();
        let nows = vec![Some(now_us); seen.len()];
        let times = |values| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef;
        let levels = Arc::new(Int64Array::from(vec![2; seen.len()]));
        let member = Arc::new(BooleanArray::from(seen.iter().map(|since| Some(since.is_some())).collect::<Vec<_>>()));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("seen", times(seen.clone())),
            ("checkout.level", levels),
            ("checkout.reached_at", times(seen.clone())),
            ("in_segment:vip", member),
            ("member_since:vip", times(seen)),
            (NOW_COLUMN, times(nows)),
        ];
        let columns = columns.into_iter().map(|(name, values)| (name, values, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        (batch, vec!["now", "7d - 1us", "7d", "7d + 1us", "8d", "tomorrow", "null"])
    }

    fn comparison(column: &str, op: TimeOperator, days: i32, hours: i64) -> TimeComparison {
        let offset = CalendarOffset { months: 0, days, microseconds: hours * 3_600_000_000 };
        TimeComparison { column: column.into(), op, offset }
    }

    #[test]
    fn section_1_now_is_a_column_that_a_time_is_compared_with() {
        use TimeOperator::{Gt, GtEq, Lt, LtEq};
        let (batch, names) = rows();
        let seen = |op, days| vec![comparison("seen", op, days, 0)];
        let rows = [
            ("seen > now() - INTERVAL '7 days'", "now, 7d - 1us, tomorrow", seen(Gt, -7)),
            ("seen >= now() - INTERVAL '7 days'", "now, 7d - 1us, 7d, tomorrow", seen(GtEq, -7)),
            ("seen < now() - INTERVAL '7 days'", "7d + 1us, 8d", seen(Lt, -7)),
            ("seen <= NOW() - INTERVAL '7' DAY", "7d, 7d + 1us, 8d", seen(LtEq, -7)),
            ("now() - INTERVAL '7 days' < seen", "now, 7d - 1us, tomorrow", seen(Gt, -7)),
            ("(now()) >= (seen)", "now, 7d - 1us, 7d, 7d + 1us, 8d", seen(LtEq, 0)),
            ("seen >= INTERVAL '1 day' + now()", "tomorrow", seen(GtEq, 1)),
            ("NOT (seen < now())", "now, tomorrow", seen(Lt, 0)),
            ("seen < now() AND seen < now()", "7d - 1us, 7d, 7d + 1us, 8d", seen(Lt, 0)),
            (
                "seen BETWEEN now() - INTERVAL '7 days' AND now() - INTERVAL '2 hours'",
                "7d - 1us, 7d",
                vec![comparison("seen", GtEq, -7, 0), comparison("seen", LtEq, 0, -2)],
            ),
            ("seen NOT BETWEEN now() - INTERVAL '7 days' AND '9999-12-31'", "7d + 1us, 8d", seen(GtEq, -7)),
            ("seen BETWEEN DATE '2025-12-01' AND now()", "now, 7d - 1us, 7d, 7d + 1us, 8d", seen(LtEq, 0)),
            (
                "checkout.level IN (1, 2) AND checkout.reached_at < now() - INTERVAL '7 days'",
                "7d + 1us, 8d",
                vec![comparison("checkout.reached_at", Lt, -7, 0)],
            ),
            (
                "has_been('vip', INTERVAL '7 days')",
                "7d, 7d + 1us, 8d",
                vec![comparison("member_since:vip", LtEq, -7, 0)],
            ),
            (
                "NOT has_been('vip', INTERVAL '7 days')",
                "now, 7d - 1us, tomorrow, null",
                vec![comparison("member_since:vip", LtEq, -7, 0)],
            ),
            ("in_segment('vip')", "now, 7d - 1us, 7d, 7d + 1us, 8d, tomorrow", vec![]),
        ];
        for (sql, expected, times) in rows {
            let expression = compile(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            assert_eq!(expression.times, times, "{sql}");
            let reads_now = expression.inputs.iter().any(|input| input.column == NOW_COLUMN);
            assert_eq!(reads_now, !times.is_empty(), "{sql}");
            let holds = expression.bind(&batch.schema()).unwrap().evaluate_predicate(&batch).unwrap();
            let holds: Vec<&str> =
                names.iter().zip(&holds).filter(|(_, holds)| *holds == Some(true)).map(|(name, _)| *name).collect();
            assert_eq!(holds.join(", "), expected, "{sql}");
        }
    }

    #[test]
    fn section_1_any_other_use_of_now_is_refused_with_the_form() {
        let rows = [
            ("seen = now()", "stands only", "now"),
            ("seen <> now()", "stands only", "now"),
            ("seen = now() - INTERVAL '7 days'", "stands only", "now() - INTERVAL '7 days'"),
            ("seen IS DISTINCT FROM now()", "stands only", "now"),
            ("seen IN (now())", "stands only", "now"),
            ("seen + INTERVAL '7 days' > now()", "a trait alone", "seen + INTERVAL '7 days'"),
            ("date_trunc('day', seen) > now()", "a trait alone", "date_trunc('day', seen"),
            ("seen > date_trunc('day', now())", "stands only", "now"),
            ("seen > coalesce(now(), seen)", "stands only", "now"),
            ("seen > now() - INTERVAL '1 day' - INTERVAL '1 day'", "stands only", "now"),
            ("seen > INTERVAL '1 day' - now()", "stands only", "now"),
            ("seen > now() - 7", "stands only", "now"),
            ("now() BETWEEN seen AND bought", "stands only", "now"),
            ("TIMESTAMP '2026-01-01 00:00:00' < now()", "a trait alone", "'2026-01-01 00:00:00'"),
            ("now() < now() + INTERVAL '1 day'", "a trait alone", ""),
            ("now() IS NULL", "stands only", "now"),
            ("now(1) > seen", "stands only", "now"),
            ("date_part('epoch', now()) > 5", "stands only", "now"),
            ("country < now()", "`country` is a text", "country"),
            ("day < now()", "it is no trait", "day"),
            ("seen > current_timestamp", "the time is now()", "current_timestamp"),
            ("day > current_date", "the time is now()", "current_date"),
            ("sean > now()", "unknown name `sean`", "sean"),
            ("seen > now() - INTERVAL '20000 years'", "too long", ""),
            ("seen > now() - INTERVAL '1 nanosecond'", "too fine", ""),
            ("seen BETWEEN now() AND country", "do not go together", "country"),
            ("has_been('vip')", "a segment's name and an interval", "has_been('vip'"),
            ("has_been('vip', 7)", "a segment's name and an interval", "has_been('vip', 7"),
            ("has_been(country, INTERVAL '1 day')", "a segment's name and an interval", "has_been"),
            ("has_been('vip', INTERVAL '-1 day')", "0 to 10000 years", "has_been"),
            ("has_been('vap', INTERVAL '1 day')", "unknown segment `vap`", "has_been('vap'"),
        ];
        let wrong = rows.into_iter().filter_map(|(sql, message, at_fault)| {
            let error = match compile(sql) {
                Ok(_) => return Some(format!("{sql}: accepted")),
                Err(error) => error,
            };
            let found = error.span.clone().map_or("", |span| &sql[span]);
            let shows_form = !error.message.contains("stands only")
                || error.help.as_deref().is_some_and(|help| help.contains("trait < now() - INTERVAL '7 days'"));
            let fits = error.message.contains(message) && found.starts_with(at_fault) && shows_form;
            (!fits).then(|| format!("{sql}: {error:?} at {found}"))
        });
        let wrong: Vec<String> = wrong.collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(
            compile("has_been('vap', INTERVAL '1 day')").unwrap_err().help.unwrap(),
            "did you mean `has_been('vip')`?"
        );
        let mut batches = ColumnScope::new();
        batches.add_column("seen", timestamp_type());
        let help = Expression::compile("seen > now()", &batches).unwrap_err().help.unwrap();
        assert!(help.contains("events have no now()"), "{help}");
    }
}
