//! A checked expression as SQL text, for the same values from the tables: the preview, and the oracle of the tests.
//!
//! Rendered is the checked tree, not what was written, since only there every conversion is explicit. Where an engine
//! fails for a row that is null in the stream, or calculates otherwise, the text says it in other words.
//! `tests/it/expressions.rs` holds every operator and function against both engines, and lists what differs:
//!
//! - Arithmetic that leads out of the years 1 to 9999 stops at their ends in ClickHouse (before 26, at 1900 and 2299);
//!   where it leads out of what a calendar can hold, DataFusion fails.
//! - ClickHouse's patterns know ASCII only in `\d`, `\w`, `\s` and `\b`.
//! - In ClickHouse, `%` of doubles is not exact where the quotient is large, `exp`, `ln`, `log10` and `power` may differ in
//!   the last digits, and `power` is not zero where it is too small for a double.
//! - `to_timestamp` with formats of other letters than `%Y %m %d %H %M %S %F %T %z` is an error in ClickHouse, and in
//!   DataFusion for a text that does not fit.
//! - `regexp_replace` in ClickHouse puts something into the middle of letters where a pattern finds nothing (`x*`).

mod clickhouse;
mod datafusion_sql;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator};

use super::kinds::timestamp_type;
use super::total::Total;
use super::{Expression, Resolved};

/// Whose SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    ClickHouse,
    DataFusion,
}

impl Dialect {
    /// A text as a literal.
    pub fn text(self, text: &str) -> String {
        self.literal(&ScalarValue::Utf8(Some(text.to_string())))
    }

    /// A moment, in microseconds, as a literal of the tables' type of times.
    pub fn time(self, time_us: i64) -> String {
        self.literal(&ScalarValue::TimestampMicrosecond(Some(time_us), Some("UTC".into())))
    }

    fn literal(self, value: &ScalarValue) -> String {
        match self {
            Dialect::ClickHouse => clickhouse::literal(value),
            Dialect::DataFusion => datafusion_sql::literal(value),
        }
    }
}

impl Expression {
    /// SQL of this dialect with the same value in every row, but for what the module lists.
    ///
    /// `name` gives the SQL for an input (for [`NOW_COLUMN`](super::NOW_COLUMN) too): an operand of the input's type, as
    /// the tables have it: `Bool`, `Int64`, `Float64`, `String` and `DateTime64(6, 'UTC')`, nullable or not.
    pub fn to_sql(&self, dialect: Dialect, name: &dyn Fn(&Resolved) -> String) -> String {
        let renderer = Renderer { inputs: &self.inputs, dialect, name };
        renderer.render(&self.checked).sql
    }
}

struct Renderer<'a> {
    inputs: &'a [Resolved],
    dialect: Dialect,
    name: &'a dyn Fn(&Resolved) -> String,
}

/// An operand: what is not a name, literal or call stands in parentheses.
struct Rendered {
    sql: String,
    data_type: DataType,
    literal: Option<ScalarValue>,
}

impl Rendered {
    fn literal_text(&self) -> Option<&str> {
        match &self.literal {
            Some(ScalarValue::Utf8(Some(text))) => Some(text),
            _ => None,
        }
    }

    fn literal_long(&self) -> Option<i64> {
        match &self.literal {
            Some(ScalarValue::Int64(Some(number))) => Some(*number),
            Some(ScalarValue::Int32(Some(number))) => Some(i64::from(*number)),
            _ => None,
        }
    }
}

impl Renderer<'_> {
    fn render(&self, expr: &Expr) -> Rendered {
        let boolean = |sql: String| Rendered { sql, data_type: DataType::Boolean, literal: None };
        let is_clickhouse = self.dialect == Dialect::ClickHouse;
        match expr {
            Expr::Column(column) => {
                let input = column.name.parse::<usize>().ok().and_then(|index| self.inputs.get(index));
                match input {
                    Some(input) => {
                        let sql = (self.name)(input);
                        Rendered { sql, data_type: input.data_type.clone(), literal: None }
                    }
                    None => self.null(DataType::Utf8),
                }
            }
            Expr::Literal(value, _) => {
                let sql = self.dialect.literal(value);
                Rendered { sql, data_type: value.data_type(), literal: Some(value.clone()) }
            }
            Expr::TryCast(cast) => {
                let value = self.render(&cast.expr);
                let to = cast.field.data_type().clone();
                let sql = match self.dialect {
                    Dialect::ClickHouse => clickhouse::cast(&value, &to),
                    Dialect::DataFusion => datafusion_sql::cast(&value, &to),
                };
                Rendered { sql, data_type: to, literal: None }
            }
            Expr::IsNull(inner) => boolean(format!("({} IS NULL)", self.render(inner).sql)),
            Expr::IsNotNull(inner) => boolean(format!("({} IS NOT NULL)", self.render(inner).sql)),
            Expr::IsTrue(inner) => boolean(format!("coalesce({}, false)", self.render(inner).sql)),
            Expr::IsNotTrue(inner) => boolean(format!("(NOT coalesce({}, false))", self.render(inner).sql)),
            Expr::IsFalse(inner) => boolean(format!("(NOT coalesce({}, true))", self.render(inner).sql)),
            Expr::IsNotFalse(inner) => boolean(format!("coalesce({}, true)", self.render(inner).sql)),
            Expr::Not(inner) => boolean(format!("(NOT {})", self.render(inner).sql)),
            Expr::BinaryExpr(binary) => {
                let (left, right) = (self.render(&binary.left), self.render(&binary.right));
                let data_type = match binary.op {
                    Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo => {
                        left.data_type.clone()
                    }
                    Operator::StringConcat => DataType::Utf8,
                    _ => DataType::Boolean,
                };
                let sql = match binary.op {
                    Operator::StringConcat if is_clickhouse => format!("concat({}, {})", left.sql, right.sql),
                    Operator::Modulo if is_clickhouse => clickhouse::remainder(&left.sql, &right.sql),
                    op => format!("({} {op} {})", left.sql, right.sql),
                };
                Rendered { sql, data_type, literal: None }
            }
            Expr::InList(list) => {
                let value = self.render(&list.expr).sql;
                let items: Vec<Rendered> = list.list.iter().map(|item| self.render(item)).collect();
                let sql = match self.dialect {
                    Dialect::ClickHouse => clickhouse::in_list(&value, &items),
                    Dialect::DataFusion => format!("({value} IN ({}))", joined(&items)),
                };
                boolean(if list.negated { format!("(NOT {sql})") } else { sql })
            }
            Expr::Between(between) => {
                let [value, low, high] = [&between.expr, &between.low, &between.high].map(|part| self.render(part).sql);
                let not = if between.negated { "NOT " } else { "" };
                boolean(format!("({value} {not}BETWEEN {low} AND {high})"))
            }
            Expr::Like(like) => {
                let (value, pattern) = (self.render(&like.expr).sql, self.render(&like.pattern));
                let pattern = if is_clickhouse { clickhouse::like_pattern(&pattern) } else { pattern.sql };
                let operator = if like.case_insensitive { "ILIKE" } else { "LIKE" };
                let not = if like.negated { "NOT " } else { "" };
                boolean(format!("({value} {not}{operator} {pattern})"))
            }
            Expr::Case(case) => self.case(case),
            Expr::ScalarFunction(function) => {
                let arguments: Vec<Rendered> = function.args.iter().map(|argument| self.render(argument)).collect();
                let Some(total) = function.func.inner().downcast_ref::<Total>() else {
                    return self.null(DataType::Utf8);
                };
                let sql = match self.dialect {
                    Dialect::ClickHouse => clickhouse::call(&total.operation, &arguments),
                    Dialect::DataFusion => datafusion_sql::call(&total.operation, &arguments),
                };
                Rendered { sql, data_type: total.returns.clone(), literal: None }
            }
            // The checker makes no other node.
            _ => self.null(DataType::Utf8),
        }
    }

    /// An operand of CASE is compared with each value, so that null meets none; `coalesce` was lowered to a CASE.
    fn case(&self, case: &datafusion::logical_expr::expr::Case) -> Rendered {
        let operand = case.expr.as_ref().map(|operand| self.render(operand).sql);
        let is_coalesce = operand.is_none()
            && case.else_expr.is_some()
            && case.when_then_expr.iter().all(|(when, then)| **when == Expr::IsNotNull(then.clone()));
        let branches = case.when_then_expr.iter().map(|(when, then)| (when, self.render(then)));
        let branches: Vec<(&Box<Expr>, Rendered)> = branches.collect();
        let otherwise = case.else_expr.as_ref().map(|otherwise| self.render(otherwise));
        let data_type = branches.first().map_or(DataType::Utf8, |(_, then)| then.data_type.clone());
        let mut sql = String::new();
        if is_coalesce {
            sql.push_str("coalesce(");
            for (_, then) in &branches {
                sql.push_str(&then.sql);
                sql.push_str(", ");
            }
            sql.push_str(&otherwise.map_or_else(|| "NULL".into(), |otherwise| otherwise.sql));
            sql.push(')');
            return Rendered { sql, data_type, literal: None };
        }
        sql.push_str("CASE");
        for (when, then) in branches {
            let when = self.render(when).sql;
            let test = operand.as_ref().map_or_else(|| when.clone(), |operand| format!("({operand} = {when})"));
            sql.push_str(&format!(" WHEN {test} THEN {}", then.sql));
        }
        let otherwise = otherwise.unwrap_or_else(|| self.null(data_type.clone()));
        sql.push_str(&format!(" ELSE {} END", otherwise.sql));
        Rendered { sql: format!("({sql})"), data_type, literal: None }
    }

    fn null(&self, data_type: DataType) -> Rendered {
        let value = ScalarValue::try_from(&data_type).unwrap_or(ScalarValue::Null);
        self.render(&Expr::Literal(value, None))
    }
}

fn joined(parts: &[Rendered]) -> String {
    parts.iter().map(|part| part.sql.as_str()).collect::<Vec<_>>().join(", ")
}

fn is_timestamp(data_type: &DataType) -> bool {
    *data_type == timestamp_type()
}

/// A strftime format as a regular expression and what to make of its groups: first all parts with zeros before, in
/// `${1}` notation, then the pattern that cuts these off. None: letters that have no such reading here.
struct TimeFormat {
    pattern: String,
    padded: String,
}

/// Takes the padded parts of a [`TimeFormat`] to what a timestamp is read from.
const CUT: &str =
    "^[0-9]*([0-9]{4})-[0-9]*([0-9]{2})-[0-9]*([0-9]{2})T[0-9]*([0-9]{2}):[0-9]*([0-9]{2}):[0-9]*([0-9]{2})(.*)$";
const CUT_PARTS: &str = "${1}-${2}-${3}T${4}:${5}:${6}${7}";

impl TimeFormat {
    fn of(format: &str) -> Option<TimeFormat> {
        let format = format.replace("%F", "%Y-%m-%d").replace("%T", "%H:%M:%S");
        let mut pattern = String::from("^");
        let mut groups = Vec::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => {
                    let part = letters.next()?;
                    pattern.push_str(match part {
                        'Y' => "\\s*([0-9]{1,4})",
                        'm' | 'd' | 'H' | 'M' | 'S' => "\\s*([0-9]{1,2})",
                        'z' => "\\s*([+-][0-9]{2}:?[0-9]{2})",
                        _ => return None,
                    });
                    groups.push(part);
                }
                space if space.is_whitespace() => pattern.push_str("\\s*"),
                other => pattern.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
            }
        }
        pattern.push('$');
        let group = |part: char| {
            let index = groups.iter().position(|other| *other == part)?;
            Some(format!("${{{}}}", index + 1))
        };
        let repeats = groups.iter().enumerate().any(|(index, part)| groups[..index].contains(part));
        let time = [group('H'), group('M'), group('S')];
        let time_is_whole = match &time {
            [None, None, None] => group('z').is_none(),
            [Some(_), Some(_), _] => true,
            _ => false,
        };
        if repeats || !time_is_whole || groups.len() > 9 {
            return None;
        }
        let [hour, minute, second] = time.map(Option::unwrap_or_default);
        let (year, month, day) = (group('Y')?, group('m')?, group('d')?);
        let zone = group('z').unwrap_or_default();
        let padded = format!("000{year}-0{month}-0{day}T00{hour}:00{minute}:00{second}{zone}");
        Some(TimeFormat { pattern, padded })
    }
}
