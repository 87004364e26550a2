//! From the syntax tree to a typed plan: every node that is not named here is refused, names are resolved, types are
//! made equal by the few conversions that are allowed. Types are exact at every node, so nothing is coerced later.

use arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::{Between, Case, InList, Like, TryCast};
use datafusion::logical_expr::{Expr, Operator, binary_expr};
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, CastKind, CeilFloorKind, DuplicateTreatment, FunctionArg, FunctionArgExpr, FunctionArguments,
    Spanned, TrimWhereField, UnaryOperator, Value,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::arguments;
use super::functions;
use super::kinds::{Fault, Kind, Result, Typed, timestamp_literal, unify};
use super::now::CLOCKS;
use super::parse::bytes;
use super::time::TimeComparison;
use super::total;
use super::{ExpressionError, Resolved, Scope, nearest};

/// Deeper trees are refused, so that no recursion over them can exhaust the stack.
const MAX_DEPTH: usize = 200;

/// What an input is called in the plan.
pub(super) fn input_name(index: usize) -> String {
    index.to_string()
}

pub(super) struct Checked {
    pub expr: Expr,
    pub data_type: DataType,
    pub inputs: Vec<Resolved>,
    pub times: Vec<TimeComparison>,
}

/// Checks a whole expression.
pub(super) fn check(text: &str, parsed: &ast::Expr, scope: &dyn Scope) -> Result<Checked, ExpressionError> {
    check_node(parsed, scope).map_err(|fault| ExpressionError {
        message: fault.message,
        help: fault.help,
        span: bytes(text, fault.span),
    })
}

fn check_node(parsed: &ast::Expr, scope: &dyn Scope) -> Result<Checked> {
    let mut checker = Checker { scope, inputs: Vec::new(), times: Vec::new(), depth: 0 };
    let typed = checker.lower(parsed)?;
    let typed = match typed.kind {
        Kind::Null => typed.cast(Kind::Text),
        Kind::Interval => {
            return Err(
                typed.error("an interval alone is no value", "add it to a timestamp: timestamp + INTERVAL '1 day'")
            );
        }
        _ => typed,
    };
    let Checker { inputs, times, .. } = checker;
    Ok(Checked { data_type: typed.kind.arrow(), expr: typed.expr, inputs, times })
}

pub(super) struct Checker<'a> {
    pub scope: &'a dyn Scope,
    inputs: Vec<Resolved>,
    /// See `now`, which fills it.
    pub times: Vec<TimeComparison>,
    depth: usize,
}

impl Checker<'_> {
    pub fn refuse<T>(&self, node: &ast::Expr, message: impl Into<String>, help: Option<&str>) -> Result<T> {
        Err(Fault { message: message.into(), help: help.map(str::to_string), span: node.span() })
    }

    pub fn lower(&mut self, node: &ast::Expr) -> Result<Typed> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.refuse(
                node,
                format!("the expression is more than {MAX_DEPTH} operators deep"),
                Some("use IN (…) for a long list of OR, or split it"),
            );
        }
        let typed = self.lower_node(node);
        self.depth -= 1;
        typed
    }

    fn lower_node(&mut self, node: &ast::Expr) -> Result<Typed> {
        let span = node.span();
        let typed = |expr: Expr, kind: Kind| Typed { expr, kind, span };
        match node {
            ast::Expr::Identifier(name) => self.name(&[name.value.as_str()], span),
            ast::Expr::CompoundIdentifier(path) => {
                let path: Vec<&str> = path.iter().map(|part| part.value.as_str()).collect();
                self.name(&path, span)
            }
            ast::Expr::Nested(inner) => self.lower(inner),
            ast::Expr::Value(value) => self.literal(node, &value.value),
            ast::Expr::TypedString(literal) => match (&literal.data_type, &literal.value.value) {
                (
                    ast::DataType::Date | ast::DataType::Timestamp(..) | ast::DataType::Datetime(_),
                    Value::SingleQuotedString(text),
                ) => timestamp_literal(&typed(Expr::Literal(ScalarValue::from(text.as_str()), None), Kind::Text)),
                (other, _) => self.refuse(
                    node,
                    format!("a literal of type {other} is not known"),
                    Some("use DATE '2026-01-31', TIMESTAMP '2026-01-31 10:00:00' or INTERVAL '1 day'"),
                ),
            },
            ast::Expr::Interval(interval) => self.interval(node, interval),

            ast::Expr::IsNull(inner) => Ok(typed(Expr::IsNull(Box::new(self.lower(inner)?.expr)), Kind::Boolean)),
            ast::Expr::IsNotNull(inner) => Ok(typed(Expr::IsNotNull(Box::new(self.lower(inner)?.expr)), Kind::Boolean)),
            ast::Expr::IsTrue(inner) => Ok(typed(Expr::IsTrue(self.boolean(inner)?), Kind::Boolean)),
            ast::Expr::IsNotTrue(inner) => Ok(typed(Expr::IsNotTrue(self.boolean(inner)?), Kind::Boolean)),
            ast::Expr::IsFalse(inner) => Ok(typed(Expr::IsFalse(self.boolean(inner)?), Kind::Boolean)),
            ast::Expr::IsNotFalse(inner) => Ok(typed(Expr::IsNotFalse(self.boolean(inner)?), Kind::Boolean)),
            ast::Expr::IsUnknown(inner) => Ok(typed(Expr::IsNull(self.boolean(inner)?), Kind::Boolean)),
            ast::Expr::IsNotUnknown(inner) => Ok(typed(Expr::IsNotNull(self.boolean(inner)?), Kind::Boolean)),
            ast::Expr::IsDistinctFrom(left, right) => self.compare(node, left, Operator::IsDistinctFrom, right),
            ast::Expr::IsNotDistinctFrom(left, right) => self.compare(node, left, Operator::IsNotDistinctFrom, right),

            ast::Expr::InList { expr, list, negated } => {
                let mut all = vec![self.lower(expr)?];
                for item in list {
                    all.push(self.lower(item)?);
                }
                let (mut all, _) = unify(all)?;
                let expr = Box::new(all.remove(0).expr);
                let list = all.into_iter().map(|item| item.expr).collect();
                Ok(typed(Expr::InList(InList { expr, list, negated: *negated }), Kind::Boolean))
            }
            ast::Expr::Between { expr, negated, low, high } => {
                if let Some(typed) = self.between_now(expr, *negated, low, high, span)? {
                    return Ok(typed);
                }
                let all = vec![self.lower(expr)?, self.lower(low)?, self.lower(high)?];
                let (all, _) = unify(all)?;
                let mut all = all.into_iter().map(|part| Box::new(part.expr));
                let (Some(expr), Some(low), Some(high)) = (all.next(), all.next(), all.next()) else {
                    return self.refuse(node, "BETWEEN needs a value and two bounds", None);
                };
                Ok(typed(Expr::Between(Between { expr, negated: *negated, low, high }), Kind::Boolean))
            }
            ast::Expr::Like { negated, any: false, expr, pattern, escape_char: None } => {
                self.like(*negated, expr, pattern, false, span)
            }
            ast::Expr::ILike { negated, any: false, expr, pattern, escape_char: None } => {
                self.like(*negated, expr, pattern, true, span)
            }
            ast::Expr::Like { .. } | ast::Expr::ILike { .. } => {
                self.refuse(node, "LIKE ANY and ESCAPE are not known", Some("a backslash escapes: LIKE '100\\%'"))
            }
            ast::Expr::RLike { .. } | ast::Expr::SimilarTo { .. } => {
                self.refuse(node, "this operator is not known", Some("use regexp_like(text, 'pattern')"))
            }

            ast::Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
                Ok(typed(Expr::Not(self.boolean(expr)?), Kind::Boolean))
            }
            ast::Expr::UnaryOp { op: UnaryOperator::Plus, expr } => self.number(expr),
            ast::Expr::UnaryOp { op: UnaryOperator::Minus, expr } => self.negative(expr, span),
            ast::Expr::UnaryOp { op, .. } => self.refuse(node, format!("the operator `{op}` is not known"), None),
            ast::Expr::BinaryOp { left, op, right } => self.binary(node, left, op, right),

            ast::Expr::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref(), span)
            }
            ast::Expr::Cast { kind, expr, data_type, format: None, .. } => self.cast(node, kind, expr, data_type),
            ast::Expr::Extract { field, expr, .. } => {
                let part = Expr::Literal(ScalarValue::from(field.to_string().to_lowercase()), None);
                let part = typed(part, Kind::Text);
                let value = self.lower(expr)?;
                self.call("date_part", vec![part, value], span)
            }
            ast::Expr::Substring { expr, substring_from, substring_for, .. } => {
                let mut arguments = vec![self.lower(expr)?];
                match substring_from {
                    Some(from) => arguments.push(self.lower(from)?),
                    None => arguments.push(typed(Expr::Literal(ScalarValue::from(1_i64), None), Kind::Long)),
                }
                if let Some(length) = substring_for {
                    arguments.push(self.lower(length)?);
                }
                self.call("substr", arguments, span)
            }
            ast::Expr::Trim { trim_where, trim_what, expr, trim_characters } => {
                let name = match trim_where {
                    None | Some(TrimWhereField::Both) => "trim",
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                };
                let mut arguments = vec![self.lower(expr)?];
                let listed = trim_characters.iter().flatten();
                for what in trim_what.as_deref().into_iter().chain(listed) {
                    arguments.push(self.lower(what)?);
                }
                self.call(name, arguments, span)
            }
            ast::Expr::Position { expr, r#in } => {
                let arguments = vec![self.lower(r#in)?, self.lower(expr)?];
                self.call("strpos", arguments, span)
            }
            ast::Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                let arguments = vec![self.lower(expr)?];
                self.call("ceil", arguments, span)
            }
            ast::Expr::Floor { expr, field: CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                let arguments = vec![self.lower(expr)?];
                self.call("floor", arguments, span)
            }
            ast::Expr::Function(function) => self.function(node, function),

            ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. } => self.refuse(
                node,
                "an expression reads one row: subqueries are not possible here",
                Some("bring the value in with `enrich`, or keep it in a trait"),
            ),
            ast::Expr::AtTimeZone { .. } => {
                self.refuse(node, "AT TIME ZONE is not known: timestamps are UTC", Some("add or take away an INTERVAL"))
            }
            ast::Expr::CompoundFieldAccess { .. } | ast::Expr::JsonAccess { .. } | ast::Expr::Array(_) => self.refuse(
                node,
                "elements of lists cannot be used in an expression",
                Some("make an event of each element with `unnest`"),
            ),
            ast::Expr::Wildcard(_) | ast::Expr::QualifiedWildcard(..) => {
                self.refuse(node, "`*` is not a value", Some("name one column"))
            }
            _ => self.refuse(node, format!("`{node}` is not possible in an expression"), None),
        }
    }

    pub fn name(&mut self, path: &[&str], span: Span) -> Result<Typed> {
        let Some(resolved) = self.scope.resolve(path) else { return Err(self.unknown(path, span)) };
        Ok(Typed { span, ..self.input(resolved) })
    }

    pub fn unknown(&self, path: &[&str], span: Span) -> Fault {
        let segment_test = match path {
            [function @ ("in_segment" | "has_been"), segment] => Some((*function, *segment)),
            _ => None,
        };
        let written = match segment_test {
            Some((function, segment)) => format!("{function}('{segment}')"),
            None => path.join("."),
        };
        let message = match segment_test {
            Some((_, segment)) => format!("unknown segment `{segment}`"),
            None => format!("unknown name `{written}`"),
        };
        let help = self.scope.why_not(path).or_else(|| {
            let mut names = self.scope.names();
            names.retain(|name| name.starts_with("in_segment(") == segment_test.is_some());
            if let Some((function, _)) = segment_test {
                names.iter_mut().for_each(|name| *name = name.replacen("in_segment", function, 1));
            }
            suggestion(&written, &names)
        });
        Fault { message, help, span }
    }

    /// A column as a value; the same one twice is one input.
    pub fn input(&mut self, resolved: Resolved) -> Typed {
        let kind = Kind::of(&resolved.data_type);
        let is_exact = resolved.data_type == kind.arrow();
        let known = self.inputs.iter().position(|input| input == &resolved);
        let index = known.unwrap_or_else(|| {
            self.inputs.push(resolved);
            self.inputs.len() - 1
        });
        let mut expr = Expr::Column(Column::new_unqualified(input_name(index)));
        if !is_exact {
            expr = Expr::TryCast(TryCast::new(Box::new(expr), kind.arrow()));
        }
        let input = Typed { expr, kind, span: Span::empty() };
        if input.kind == Kind::Double { total::finite(input) } else { input }
    }

    fn literal(&self, node: &ast::Expr, value: &Value) -> Result<Typed> {
        let (value, kind) = match value {
            Value::Null => (ScalarValue::Null, Kind::Null),
            Value::Boolean(value) => (ScalarValue::from(*value), Kind::Boolean),
            Value::SingleQuotedString(text) => (ScalarValue::from(text.as_str()), Kind::Text),
            Value::Number(digits, _) => match (digits.parse::<i64>(), digits.parse::<f64>()) {
                (Ok(whole), _) => (ScalarValue::from(whole), Kind::Long),
                (_, Ok(number)) if number.is_finite() => (ScalarValue::from(number), Kind::Double),
                _ => return self.refuse(node, format!("`{digits}` is not a number that can be held"), None),
            },
            Value::DoubleQuotedString(text) => {
                let help = format!("texts stand in single quotes: '{text}'");
                return self.refuse(node, "double quotes are for names", Some(&help));
            }
            Value::Placeholder(_) => return self.refuse(node, "placeholders are not possible here", None),
            other => {
                let help = Some("texts stand in plain single quotes: 'text'");
                return self.refuse(node, format!("a literal like {other} is not known"), help);
            }
        };
        Ok(Typed { expr: Expr::Literal(value, None), kind, span: node.span() })
    }

    fn interval(&mut self, node: &ast::Expr, interval: &ast::Interval) -> Result<Typed> {
        const HELP: Option<&str> = Some("write it as a literal: INTERVAL '7 days'");
        let value = self.lower(&interval.value)?;
        let amount = match (value.literal_text(), value.literal_long()) {
            (Some(text), _) => text.to_string(),
            (_, Some(number)) => number.to_string(),
            _ => return self.refuse(node, "an interval must be a literal", HELP),
        };
        let written = match &interval.leading_field {
            Some(unit) => format!("{amount} {unit}"),
            None => amount,
        };
        match ScalarValue::from(written.as_str()).cast_to(&Kind::Interval.arrow()) {
            Ok(value) if !value.is_null() && interval.last_field.is_none() => {
                Ok(Typed { expr: Expr::Literal(value, None), kind: Kind::Interval, span: node.span() })
            }
            _ => self.refuse(node, format!("`{written}` is not an interval"), HELP),
        }
    }

    fn boolean(&mut self, node: &ast::Expr) -> Result<Box<Expr>> {
        let typed = self.lower(node)?;
        match typed.kind {
            Kind::Boolean | Kind::Null => Ok(Box::new(typed.cast(Kind::Boolean).expr)),
            _ => Err(typed.error(
                format!("this must be true or false, it is {}", typed.kind),
                "compare it with something, or test IS NOT NULL",
            )),
        }
    }

    fn number(&mut self, node: &ast::Expr) -> Result<Typed> {
        let typed = self.lower(node)?;
        match typed.kind {
            Kind::Long | Kind::Double => Ok(typed),
            Kind::Null => Ok(typed.cast(Kind::Long)),
            Kind::Timestamp => Err(typed.error(
                "a timestamp is not a number",
                "date_part('epoch', t) gives its seconds; timestamps take + and - with an INTERVAL",
            )),
            _ => Err(typed.error(
                format!("this must be a number, it is {}", typed.kind),
                "write CAST(… AS double) where it holds one",
            )),
        }
    }

    fn negative(&mut self, node: &ast::Expr, span: Span) -> Result<Typed> {
        // The least long has no positive counterpart, so it must be read together with its sign.
        if let ast::Expr::Value(value) = node
            && let Value::Number(digits, _) = &value.value
            && let Ok(least) = format!("-{digits}").parse::<i64>()
        {
            return Ok(Typed { expr: Expr::Literal(ScalarValue::from(least), None), kind: Kind::Long, span });
        }
        let typed = self.lower(node)?;
        if typed.kind == Kind::Interval {
            return Err(typed.error("an interval has no sign here", "take it away: t - INTERVAL '1 day'"));
        }
        let value = self.number(node)?;
        let zero = match value.kind {
            Kind::Double => ScalarValue::from(0.0_f64),
            _ => ScalarValue::from(0_i64),
        };
        let expr = binary_expr(Expr::Literal(zero, None), Operator::Minus, value.expr);
        Ok(Typed { expr, kind: value.kind, span })
    }

    fn binary(&mut self, node: &ast::Expr, left: &ast::Expr, op: &BinaryOperator, right: &ast::Expr) -> Result<Typed> {
        let span = node.span();
        let operator = match op {
            BinaryOperator::And | BinaryOperator::Or => {
                let operator = if *op == BinaryOperator::And { Operator::And } else { Operator::Or };
                let (left, right) = (self.boolean(left)?, self.boolean(right)?);
                return Ok(Typed { expr: binary_expr(*left, operator, *right), kind: Kind::Boolean, span });
            }
            BinaryOperator::Eq => Operator::Eq,
            BinaryOperator::NotEq => Operator::NotEq,
            BinaryOperator::Lt => Operator::Lt,
            BinaryOperator::LtEq => Operator::LtEq,
            BinaryOperator::Gt => Operator::Gt,
            BinaryOperator::GtEq => Operator::GtEq,
            BinaryOperator::StringConcat => {
                let arguments = vec![self.lower(left)?, self.lower(right)?];
                return self.call("||", arguments, span);
            }
            BinaryOperator::Divide => {
                let arguments = vec![self.lower(left)?, self.lower(right)?];
                return self.call("/", arguments, span);
            }
            BinaryOperator::Modulo => {
                let arguments = vec![self.lower(left)?, self.lower(right)?];
                return self.call("%", arguments, span);
            }
            BinaryOperator::Plus | BinaryOperator::Minus | BinaryOperator::Multiply => {
                return self.arithmetic(left, op, right, span);
            }
            other => {
                let help = match other {
                    BinaryOperator::PGRegexMatch | BinaryOperator::PGRegexIMatch => "use regexp_like(text, 'pattern')",
                    BinaryOperator::BitwiseAnd => "write AND",
                    BinaryOperator::BitwiseOr => "write OR, or || to join texts",
                    BinaryOperator::MyIntegerDivide | BinaryOperator::DuckIntegerDivide => "write div(a, b)",
                    BinaryOperator::Spaceship => "write IS NOT DISTINCT FROM",
                    _ => "operators are = <> < <= > >= + - * / % || AND OR NOT",
                };
                return self.refuse(node, format!("the operator `{other}` is not known"), Some(help));
            }
        };
        self.compare(node, left, operator, right)
    }

    fn compare(&mut self, node: &ast::Expr, left: &ast::Expr, op: Operator, right: &ast::Expr) -> Result<Typed> {
        if let Some(typed) = self.compare_now(left, op, right, node.span())? {
            return Ok(typed);
        }
        let both = vec![self.lower(left)?, self.lower(right)?];
        let (mut both, _) = unify(both)?;
        let (right, left) = (both.pop(), both.pop());
        let (Some(left), Some(right)) = (left, right) else {
            return self.refuse(node, "a comparison needs two sides", None);
        };
        Ok(Typed { expr: binary_expr(left.expr, op, right.expr), kind: Kind::Boolean, span: node.span() })
    }

    fn arithmetic(&mut self, left: &ast::Expr, op: &BinaryOperator, right: &ast::Expr, span: Span) -> Result<Typed> {
        let (a, b) = (self.lower(left)?, self.lower(right)?);
        match (&a.kind, op, &b.kind) {
            (Kind::Timestamp, BinaryOperator::Plus | BinaryOperator::Minus, Kind::Interval) => {
                let name = if *op == BinaryOperator::Plus { "timestamp +" } else { "timestamp -" };
                return self.call(name, vec![a, b], span);
            }
            (Kind::Interval, BinaryOperator::Plus, Kind::Timestamp) => {
                return self.call("timestamp +", vec![b, a], span);
            }
            (Kind::Timestamp, BinaryOperator::Minus, Kind::Timestamp) => {
                return Err(Fault {
                    message: "the difference of two timestamps has no type here".into(),
                    help: Some("date_part('epoch', a) - date_part('epoch', b) gives seconds".into()),
                    span,
                });
            }
            (Kind::Text, BinaryOperator::Plus, Kind::Text) => {
                return Err(Fault {
                    message: "`+` is for numbers".into(),
                    help: Some("join texts with ||".into()),
                    span,
                });
            }
            _ => {}
        }
        if *op == BinaryOperator::Multiply {
            return self.call("*", vec![a, b], span);
        }
        let both = arguments::numbers(vec![a, b])?;
        let operator = if *op == BinaryOperator::Plus { Operator::Plus } else { Operator::Minus };
        let (mut both, kind) = unify(both)?;
        let (Some(b), Some(a)) = (both.pop(), both.pop()) else {
            return Err(Fault { message: "an operator needs two sides".into(), help: None, span });
        };
        let computed = Typed { expr: binary_expr(a.expr, operator, b.expr), kind, span };
        Ok(if computed.kind == Kind::Double { total::finite(computed) } else { computed })
    }

    fn like(
        &mut self,
        negated: bool,
        expr: &ast::Expr,
        pattern: &ast::Expr,
        case_insensitive: bool,
        span: Span,
    ) -> Result<Typed> {
        let expr = arguments::text(self.lower(expr)?)?;
        let pattern = arguments::text(self.lower(pattern)?)?;
        let like = Like::new(negated, Box::new(expr.expr), Box::new(pattern.expr), None, case_insensitive);
        Ok(Typed { expr: Expr::Like(like), kind: Kind::Boolean, span })
    }

    fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
        span: Span,
    ) -> Result<Typed> {
        let mut tests = Vec::with_capacity(conditions.len());
        let operand = match operand {
            Some(operand) => {
                let mut all = vec![self.lower(operand)?];
                for when in conditions {
                    all.push(self.lower(&when.condition)?);
                }
                let (mut all, _) = unify(all)?;
                let operand = all.remove(0).expr;
                tests.extend(all.into_iter().map(|test| Box::new(test.expr)));
                Some(Box::new(operand))
            }
            None => {
                for when in conditions {
                    tests.push(self.boolean(&when.condition)?);
                }
                None
            }
        };
        let mut results = Vec::with_capacity(conditions.len() + 1);
        for when in conditions {
            results.push(self.lower(&when.result)?);
        }
        let has_else = otherwise.is_some();
        if let Some(otherwise) = otherwise {
            results.push(self.lower(otherwise)?);
        }
        let (mut results, kind) = unify(results)?;
        let else_expr = if has_else { results.pop().map(|last| Box::new(last.expr)) } else { None };
        let results = results.into_iter().map(|result| Box::new(result.expr));
        let case = Case::new(operand, tests.into_iter().zip(results).collect(), else_expr);
        Ok(Typed { expr: Expr::Case(case), kind, span })
    }

    fn cast(&mut self, node: &ast::Expr, kind: &CastKind, expr: &ast::Expr, to: &ast::DataType) -> Result<Typed> {
        let _ = kind; // CAST, TRY_CAST and :: mean the same: null where it cannot be
        let span = node.span();
        let value = self.lower(expr)?;
        use ast::DataType as Sql;
        let (target, only_date) = match to {
            Sql::Boolean | Sql::Bool => (Kind::Boolean, false),
            Sql::BigInt(None) | Sql::Int(None) | Sql::Integer(None) | Sql::Int8(None) | Sql::Int64 => {
                (Kind::Long, false)
            }
            Sql::Double(_) | Sql::DoublePrecision | Sql::Float(_) | Sql::Float8 | Sql::Float64 | Sql::Real => {
                (Kind::Double, false)
            }
            Sql::Varchar(None) | Sql::Text | Sql::String(None) => (Kind::Text, false),
            Sql::Timestamp(..) | Sql::Datetime(_) => (Kind::Timestamp, false),
            Sql::Date => (Kind::Timestamp, true),
            Sql::Custom(name, _) if name.to_string().eq_ignore_ascii_case("long") => (Kind::Long, false),
            other => {
                return self.refuse(
                    node,
                    format!("values cannot be converted to {other}"),
                    Some("types are boolean, bigint, double, varchar, timestamp and date"),
                );
            }
        };
        match (&value.kind, &target) {
            (Kind::Timestamp, Kind::Long | Kind::Double) => {
                return Err(value.error("a timestamp is not a number", "date_part('epoch', t) gives its seconds"));
            }
            (Kind::Long | Kind::Double, Kind::Timestamp) => {
                return Err(value.error(
                    "a number is not a timestamp",
                    "from_unixtime(n) reads seconds, to_timestamp_millis(n) milliseconds",
                ));
            }
            (Kind::Boolean, Kind::Timestamp) | (Kind::Timestamp, Kind::Boolean) | (Kind::Interval, _) => {
                return Err(
                    value.error(format!("{} cannot be converted to {to}", value.kind), "there is no such conversion")
                );
            }
            (Kind::Other(_), _) => {
                return Err(
                    value.error(format!("this is {} and cannot be converted", value.kind), "name one of its fields")
                );
            }
            _ => {}
        }
        let mut cast = match (&value.kind, &target) {
            (Kind::Text, Kind::Double) => total::finite(value.cast(Kind::Double)),
            _ => value.cast(target),
        };
        if only_date {
            let day =
                Typed { expr: Expr::Literal(ScalarValue::from("day"), None), kind: Kind::Text, span: Span::empty() };
            cast = self.call("date_trunc", vec![day, cast], span)?;
        }
        Ok(Typed { span, ..cast })
    }

    fn function(&mut self, node: &ast::Expr, function: &ast::Function) -> Result<Typed> {
        let name = function.name.to_string().to_lowercase();
        let span = node.span();
        let name_span = function.name.span();
        if CLOCKS.contains(&name.as_str()) {
            return Err(self.clock_fault(&name, name_span));
        }
        if let Some((message, help)) = functions::refused(&name) {
            return Err(Fault { message, help: Some(help.into()), span: name_span });
        }
        if function.over.is_some() {
            return self.refuse(node, "window functions are not possible in an expression", None);
        }
        let plain = function.filter.is_none()
            && function.null_treatment.is_none()
            && function.within_group.is_empty()
            && matches!(function.parameters, FunctionArguments::None);
        let mut arguments = Vec::new();
        match &function.args {
            FunctionArguments::List(list)
                if plain
                    && list.clauses.is_empty()
                    && !matches!(list.duplicate_treatment, Some(DuplicateTreatment::Distinct)) =>
            {
                for argument in &list.args {
                    match argument {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => arguments.push(self.lower(argument)?),
                        _ => return self.refuse(node, format!("`{argument}` is not possible as an argument"), None),
                    }
                }
            }
            FunctionArguments::None if plain => {
                return self.refuse(
                    node,
                    format!("`{name}` is a function"),
                    Some("write its arguments in parentheses"),
                );
            }
            _ => return self.refuse(node, format!("`{name}` takes plain arguments only"), None),
        }

        if name == "in_segment" {
            return match arguments.as_slice() {
                [segment] if segment.literal_text().is_some() => {
                    let segment = segment.literal_text().unwrap_or_default().to_string();
                    self.name(&["in_segment", &segment], span)
                }
                _ => self.refuse(node, "in_segment takes one segment's name", Some("write in_segment('high_value')")),
            };
        }
        if name == "has_been" {
            return self.has_been(&arguments, span);
        }
        if !functions::is_known(&name) {
            let help = nearest(&name, functions::names()).map(|nearest| format!("did you mean `{nearest}`?"));
            let help =
                help.or_else(|| Some(format!("functions are {}", functions::names().collect::<Vec<_>>().join(", "))));
            return Err(Fault { message: format!("unknown function `{name}`"), help, span: name_span });
        }
        self.call(&name, arguments, span)
    }

    fn call(&self, name: &str, arguments: Vec<Typed>, span: Span) -> Result<Typed> {
        functions::call(name, arguments, span)
    }
}

fn suggestion(written: &str, names: &[String]) -> Option<String> {
    if let Some(name) = nearest(written, names) {
        return Some(format!("did you mean `{name}`?"));
    }
    const SHOWN: usize = 12;
    match names {
        [] => Some("there are no names here".into()),
        all if all.len() <= SHOWN => Some(format!("names here are {}", all.join(", "))),
        all => Some(format!("names here are {} and {} more", all[..SHOWN].join(", "), all.len() - SHOWN)),
    }
}
