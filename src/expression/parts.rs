//! A predicate taken apart at AND, OR and NOT: what an explanation shows line by line.

use datafusion::sql::sqlparser::ast::{self, BinaryOperator, UnaryOperator};

use super::parse::parse_expression;
use super::{Expression, ExpressionError, Scope};

/// A predicate as a tree of its conditions.
#[derive(Debug, Clone)]
pub enum Part {
    /// AND, of two or more.
    All(Vec<Part>),
    /// OR, of two or more.
    Any(Vec<Part>),
    Not(Box<Part>),
    /// What is none of these; its `sql` is written anew from the tree.
    Condition(Box<Expression>),
}

impl Part {
    /// # Errors
    /// As [`Expression::compile_predicate`].
    pub fn compile(sql: &str, scope: &dyn Scope) -> Result<Part, ExpressionError> {
        take_apart(sql, &parse_expression(sql)?, scope)
    }
}

fn take_apart(text: &str, node: &ast::Expr, scope: &dyn Scope) -> Result<Part, ExpressionError> {
    match node {
        ast::Expr::Nested(inner) => take_apart(text, inner, scope),
        ast::Expr::UnaryOp { op: UnaryOperator::Not, expr } => Ok(Part::Not(Box::new(take_apart(text, expr, scope)?))),
        ast::Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => {
            let mut operands = Vec::new();
            chain(node, op, &mut operands);
            let parts = operands.into_iter().map(|operand| take_apart(text, operand, scope));
            let parts = parts.collect::<Result<_, _>>()?;
            Ok(if *op == BinaryOperator::And { Part::All(parts) } else { Part::Any(parts) })
        }
        _ => Ok(Part::Condition(Box::new(Expression::from_ast(text, node, scope)?))),
    }
}

/// The operands of `a AND b AND (c AND d)`: for the eye one list.
fn chain<'a>(node: &'a ast::Expr, op: &BinaryOperator, operands: &mut Vec<&'a ast::Expr>) {
    match node {
        ast::Expr::Nested(inner) if matches!(&**inner, ast::Expr::BinaryOp { op: other, .. } if other == op) => {
            chain(inner, op, operands);
        }
        ast::Expr::BinaryOp { left, op: other, right } if other == op => {
            chain(left, op, operands);
            chain(right, op, operands);
        }
        _ => operands.push(node),
    }
}

/// AND of SQL's three values; None is null.
pub fn all(values: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(true);
    for value in values {
        all = match (all, value) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
    }
    all
}

/// OR of SQL's three values; None is null.
pub fn any(values: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    all(values.map(|value| value.map(|value| !value))).map(|none| !none)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
    use arrow::datatypes::DataType;

    use super::super::ColumnScope;
    use super::*;

    fn scope() -> ColumnScope {
        let mut scope = ColumnScope::new();
        ["a", "b", "c"].into_iter().for_each(|name| scope.add_column(name, DataType::Boolean));
        scope.add_column("n", DataType::Int64);
        scope
    }

    fn shape(part: &Part) -> String {
        let list = |parts: &[Part]| parts.iter().map(shape).collect::<Vec<_>>().join("; ");
        match part {
            Part::All(parts) => format!("all({})", list(parts)),
            Part::Any(parts) => format!("any({})", list(parts)),
            Part::Not(part) => format!("not({})", shape(part)),
            Part::Condition(condition) => condition.sql.clone(),
        }
    }

    #[test]
    fn a_predicate_comes_apart_at_and_or_and_not_alone() {
        let rows = [
            ("a", "a"),
            ("(n > 5)", "n > 5"),
            ("a AND b AND (c AND n > 5)", "all(a; b; c; n > 5)"),
            ("a AND b OR c", "any(all(a; b); c)"),
            ("a AND (b OR c)", "all(a; any(b; c))"),
            ("NOT (a OR NOT b)", "not(any(a; not(b)))"),
            ("n BETWEEN 1 AND 2 AND n NOT IN (3, 4)", "all(n BETWEEN 1 AND 2; n NOT IN (3, 4))"),
            (
                "(a AND b) IS TRUE OR CASE WHEN a THEN b ELSE c END",
                "any((a AND b) IS TRUE; CASE WHEN a THEN b ELSE c END)",
            ),
        ];
        for (sql, expected) in rows {
            assert_eq!(shape(&Part::compile(sql, &scope()).unwrap()), expected, "{sql}");
        }
        assert!(Part::compile("a AND totl > 5", &scope()).is_err());
    }

    /// SEMANTICS §11: the parts put together again are what the engine makes of the whole, for true, false and null.
    #[test]
    fn section_11_the_parts_together_are_the_whole() {
        let values = [Some(true), Some(false), None];
        let rows: Vec<[Option<bool>; 3]> =
            values.iter().flat_map(|a| values.iter().flat_map(move |b| values.map(|c| [*a, *b, c]))).collect();
        let column = |index: usize| Arc::new(rows.iter().map(|row| row[index]).collect::<BooleanArray>()) as ArrayRef;
        let columns = ["a", "b", "c"].into_iter().enumerate().map(|(index, name)| (name, column(index), true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let evaluate = |expression: &Expression| -> Vec<Option<bool>> {
            let found = expression.bind(&batch.schema()).unwrap().evaluate(&batch).unwrap();
            let found = found.as_boolean();
            (0..found.len()).map(|row| found.is_valid(row).then(|| found.value(row))).collect()
        };
        fn together(part: &Part, evaluate: &dyn Fn(&Expression) -> Vec<Option<bool>>, row: usize) -> Option<bool> {
            match part {
                Part::All(parts) => all(parts.iter().map(|part| together(part, evaluate, row))),
                Part::Any(parts) => any(parts.iter().map(|part| together(part, evaluate, row))),
                Part::Not(part) => together(part, evaluate, row).map(|value| !value),
                Part::Condition(condition) => evaluate(condition)[row],
            }
        }
        let sqls =
            ["a AND b AND c", "a OR b OR c", "a AND NOT (b OR c)", "NOT (a AND b) OR c", "NOT a OR NOT (b AND NOT c)"];
        for sql in sqls {
            let whole = evaluate(&Expression::compile_predicate(sql, &scope()).unwrap());
            let part = Part::compile(sql, &scope()).unwrap();
            for (row, values) in rows.iter().enumerate() {
                assert_eq!(together(&part, &evaluate, row), whole[row], "{sql} for {values:?}");
            }
        }
    }
}
