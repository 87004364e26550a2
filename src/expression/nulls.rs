//! Warnings about conditions that read as true for null and are not.
//!
//! In a predicate null counts as false. That is what people expect of `x > 5`: who has no `x` is no member. It is not
//! what they expect where something is negated: `x <> 'a'`, `NOT (x > 5)`, `x NOT IN (…)`, `NOT x` read as true for
//! those who have no `x`. Each such place with a nullable name in it is a warning, unless the expression says anywhere
//! what null means for this name (`x IS NULL`, `x IS NOT NULL`), or the name stands where null does not pass through
//! (`coalesce(x, 0)`, `x IS DISTINCT FROM 'a'`).

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{self, BinaryOperator, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned};

use super::Scope;
use super::parse::bytes;

/// A condition that is false for null though it reads as true.
#[derive(Debug, Clone, PartialEq)]
pub struct NullWarning {
    pub message: String,
    pub help: String,
    /// Bytes of the expression's text (of the whole statement, where it is a part of one).
    pub span: Option<Range<usize>>,
}

/// In the order of the text.
pub(super) fn warnings(text: &str, parsed: &ast::Expr, scope: &dyn Scope) -> Vec<NullWarning> {
    let mut walk = Walk { text, scope, tested: Vec::new(), warnings: Vec::new() };
    walk.find_tested(parsed);
    walk.condition(parsed, false);
    walk.warnings
}

struct Walk<'a> {
    text: &'a str,
    scope: &'a dyn Scope,
    /// Names with an IS NULL or IS NOT NULL of their own.
    tested: Vec<String>,
    warnings: Vec<NullWarning>,
}

impl Walk<'_> {
    fn find_tested(&mut self, node: &ast::Expr) {
        if let ast::Expr::IsNull(inner) | ast::Expr::IsNotNull(inner) = node
            && let Some(path) = path(inner)
        {
            self.tested.push(path.join("."));
        }
        for child in children(node) {
            self.find_tested(child);
        }
    }

    /// A part whose null makes the whole null or false; `negated`: behind an odd number of NOT.
    fn condition(&mut self, node: &ast::Expr, negated: bool) {
        match node {
            ast::Expr::Nested(inner) => self.condition(inner, negated),
            ast::Expr::UnaryOp { op: ast::UnaryOperator::Not, expr } => self.condition(expr, !negated),
            ast::Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
                self.condition(left, negated);
                self.condition(right, negated);
            }
            ast::Expr::BinaryOp { op: BinaryOperator::NotEq, .. } => self.leaf(node, !negated),
            ast::Expr::InList { negated: not, .. }
            | ast::Expr::Between { negated: not, .. }
            | ast::Expr::Like { negated: not, .. }
            | ast::Expr::ILike { negated: not, .. } => self.leaf(node, negated != *not),
            ast::Expr::Case { conditions, .. } => {
                for when in conditions {
                    self.condition(&when.condition, false);
                }
            }
            _ => self.leaf(node, negated),
        }
    }

    fn leaf(&mut self, node: &ast::Expr, negated: bool) {
        if !negated {
            return;
        }
        let mut names = Vec::new();
        self.nullable_names(node, &mut names);
        let Some(name) = names.iter().find(|name| !self.tested.contains(name)) else { return };
        self.warnings.push(NullWarning {
            message: format!("where `{name}` is null, this counts as false though it reads as true"),
            help: format!("say what null means: add `OR {name} IS NULL`, or `AND {name} IS NOT NULL`"),
            span: bytes(self.text, node.span()),
        });
    }

    /// The names whose null makes `node` null.
    fn nullable_names(&self, node: &ast::Expr, found: &mut Vec<String>) {
        if let Some(path) = path(node) {
            if self.scope.nullable(&path) {
                found.push(path.join("."));
            }
            return;
        }
        if !stops_null(node) {
            children(node).into_iter().for_each(|child| self.nullable_names(child, found));
        }
    }
}

/// Whether the value is not null, or means to be, though something in it is.
fn stops_null(node: &ast::Expr) -> bool {
    match node {
        ast::Expr::IsNull(_)
        | ast::Expr::IsNotNull(_)
        | ast::Expr::IsTrue(_)
        | ast::Expr::IsNotTrue(_)
        | ast::Expr::IsFalse(_)
        | ast::Expr::IsNotFalse(_)
        | ast::Expr::IsUnknown(_)
        | ast::Expr::IsNotUnknown(_)
        | ast::Expr::IsDistinctFrom(..)
        | ast::Expr::IsNotDistinctFrom(..)
        | ast::Expr::Case { .. } => true,
        ast::Expr::Function(function) => {
            let name = function.name.to_string().to_lowercase();
            matches!(name.as_str(), "coalesce" | "concat" | "least" | "greatest" | "in_segment" | "has_been" | "now")
        }
        _ => false,
    }
}

fn path(node: &ast::Expr) -> Option<Vec<&str>> {
    match node {
        ast::Expr::Nested(inner) => path(inner),
        ast::Expr::Identifier(name) => Some(vec![&name.value]),
        ast::Expr::CompoundIdentifier(path) => Some(path.iter().map(|part| part.value.as_str()).collect()),
        _ => None,
    }
}

/// The parts of a node that the checker accepts.
fn children(node: &ast::Expr) -> Vec<&ast::Expr> {
    use ast::Expr;
    match node {
        Expr::Nested(a)
        | Expr::IsNull(a)
        | Expr::IsNotNull(a)
        | Expr::IsTrue(a)
        | Expr::IsNotTrue(a)
        | Expr::IsFalse(a)
        | Expr::IsNotFalse(a)
        | Expr::IsUnknown(a)
        | Expr::IsNotUnknown(a)
        | Expr::UnaryOp { expr: a, .. }
        | Expr::Cast { expr: a, .. }
        | Expr::Extract { expr: a, .. }
        | Expr::Ceil { expr: a, .. }
        | Expr::Floor { expr: a, .. } => vec![a],
        Expr::IsDistinctFrom(a, b)
        | Expr::IsNotDistinctFrom(a, b)
        | Expr::BinaryOp { left: a, right: b, .. }
        | Expr::Like { expr: a, pattern: b, .. }
        | Expr::ILike { expr: a, pattern: b, .. }
        | Expr::Position { expr: a, r#in: b } => vec![a, b],
        Expr::Between { expr, low, high, .. } => vec![expr, low, high],
        Expr::InList { expr, list, .. } => std::iter::once(&**expr).chain(list).collect(),
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            [Some(expr), substring_from.as_ref(), substring_for.as_ref()]
                .into_iter()
                .flatten()
                .map(|part| &**part)
                .collect()
        }
        Expr::Trim { expr, trim_what, trim_characters, .. } => {
            let what = trim_what.iter().map(|what| &**what);
            std::iter::once(&**expr).chain(what).chain(trim_characters.iter().flatten()).collect()
        }
        Expr::Case { operand, conditions, else_result, .. } => {
            let branches = conditions.iter().flat_map(|when| [&when.condition, &when.result]);
            operand.iter().chain(else_result).map(|part| &**part).chain(branches).collect()
        }
        Expr::Function(function) => match &function.args {
            FunctionArguments::List(list) => {
                let plain = |argument| match argument {
                    &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref argument)) => Some(argument),
                    _ => None,
                };
                list.args.iter().filter_map(plain).collect()
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::super::{ColumnScope, Expression, Resolved};

    #[test]
    fn section_11_a_nullable_trait_behind_a_negation_is_a_warning() {
        let mut scope = ColumnScope::new().with_now();
        scope.add_column("x", DataType::Int64);
        scope.add_column("a.b", DataType::Utf8);
        scope.add_column("flag", DataType::Boolean);
        scope.add_column("seen", super::super::kinds::timestamp_type());
        let member = |column: &str, data_type| Resolved { column: column.into(), data_type, nested: Vec::new() };
        scope.add(&["in_segment", "vip"], member("in_segment:vip", DataType::Boolean));
        scope.add(&["has_been", "vip"], member("member_since:vip", super::super::kinds::timestamp_type()));
        let rows: [(&str, &[&str]); 36] = [
            ("x > 5", &[]),
            ("x > 5 AND a.b = 'y' OR flag", &[]),
            ("x IN (1, 2) AND a.b LIKE 'y%' AND x BETWEEN 1 AND 2", &[]),
            ("NOT (x > 5)", &["x > 5"]),
            ("NOT x > 5", &["x > 5"]),
            ("NOT (x = 5)", &["x = 5"]),
            ("NOT (x + 1 > 5)", &["x + 1 > 5"]),
            ("x <> 5", &["x <> 5"]),
            ("a.b <> 'y'", &["a.b <> 'y'"]),
            ("lower(a.b) <> 'y'", &["lower(a.b) <> 'y'"]),
            ("x > 5 AND a.b <> 'y'", &["a.b <> 'y'"]),
            ("NOT (x > 5 OR a.b = 'y')", &["x > 5", "a.b = 'y'"]),
            ("NOT flag", &["flag"]),
            ("NOT (x <> 5)", &[]),
            ("NOT NOT x > 5", &[]),
            ("NOT (NOT (flag))", &[]),
            ("x NOT IN (1, 2)", &["x NOT IN (1, 2"]),
            ("NOT (x IN (1, 2))", &["x IN (1, 2"]),
            ("x NOT BETWEEN 1 AND 2", &["x NOT BETWEEN 1 AND 2"]),
            ("a.b NOT LIKE 'y%'", &["a.b NOT LIKE 'y%'"]),
            ("a.b NOT ILIKE 'y%'", &["a.b NOT ILIKE 'y%'"]),
            ("NOT in_segment('vip')", &[]),
            ("in_segment('vip') <> true", &[]),
            ("NOT has_been('vip', INTERVAL '7 days')", &[]),
            ("NOT (seen > now() - INTERVAL '7 days')", &["seen > now() - INTERVAL '7 days'"]),
            ("NOT (x IS NULL)", &[]),
            ("x <> 5 OR x IS NULL", &[]),
            ("x IS NOT NULL AND NOT (x > 5)", &[]),
            ("x <> 5 OR a.b IS NULL", &["x <> 5"]),
            ("x IS DISTINCT FROM 5", &[]),
            ("coalesce(x, 0) <> 5", &[]),
            ("NOT (flag IS TRUE)", &[]),
            ("NOT (coalesce(x, 0) > 5)", &[]),
            ("1 <> 2", &[]),
            ("CASE WHEN x <> 5 THEN true ELSE false END", &["x <> 5"]),
            ("NOT regexp_like(a.b, 'y')", &["regexp_like(a.b, 'y'"]),
        ];
        for (sql, expected) in rows {
            let expression =
                Expression::compile_predicate(sql, &scope).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            let found: Vec<&str> = expression
                .null_warnings
                .iter()
                .map(|warning| warning.span.clone().map_or("", |span| &sql[span]))
                .collect();
            assert_eq!(found, expected, "{sql}");
        }
        let expression = Expression::compile("a.b <> 'y'", &scope).unwrap();
        assert!(expression.null_warnings[0].message.contains("where `a.b` is null"), "{expression:?}");
        assert!(expression.null_warnings[0].help.contains("a.b IS NULL"), "{expression:?}");
    }
}
