//! Text to syntax tree, with limits, and places in the tree back to bytes of the text.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{self, Spanned};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use super::ExpressionError;

/// Names, operators and parentheses; literals and commas are not counted, so lists may be long.
const MAX_TOKENS: usize = 2_000;
const MAX_NESTING: usize = 50;
/// The parser reads what is inside one of [`RETRIED`] a second time where it does not end well, so the time doubles with each.
const MAX_RETRIED: usize = 12;
/// Words that may be the beginning of a construct or else a name: CASE, and the others with a parenthesis behind them.
const RETRIED: [&str; 14] = [
    "CASE",
    "CAST",
    "TRY_CAST",
    "SAFE_CAST",
    "CONVERT",
    "EXISTS",
    "EXTRACT",
    "CEIL",
    "FLOOR",
    "POSITION",
    "SUBSTR",
    "SUBSTRING",
    "OVERLAY",
    "TRIM",
];

/// One expression and nothing behind it.
pub(super) fn parse_expression(sql: &str) -> Result<ast::Expr, ExpressionError> {
    parse_all(sql, |parser| parser.parse_expr())
}

/// One query and nothing behind it.
pub(crate) fn parse_select(sql: &str) -> Result<Box<ast::Query>, ExpressionError> {
    parse_all(sql, |parser| parser.parse_query())
}

/// The path, when the whole expression is one plain name: `properties.total` gives `["properties", "total"]`.
pub fn parse_path(sql: &str) -> Option<Vec<String>> {
    match parse_expression(sql).ok()? {
        ast::Expr::Identifier(name) => Some(vec![name.value]),
        ast::Expr::CompoundIdentifier(path) => Some(path.into_iter().map(|part| part.value).collect()),
        _ => None,
    }
}

fn parse_all<T>(sql: &str, parse: impl FnOnce(&mut Parser) -> Result<T, ParserError>) -> Result<T, ExpressionError> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|error| ExpressionError {
        message: format!("this is not SQL: {}", error.message),
        help: Some("texts stand in single quotes; a quote inside is doubled: 'it''s'".into()),
        span: byte_at(sql, error.location).map(|start| start..sql.len()),
    })?;
    if !tokens.iter().any(is_counted) && !tokens.iter().any(|token| !matches!(token.token, Token::Whitespace(_))) {
        return Err(ExpressionError {
            message: "the expression is empty".into(),
            help: None,
            span: Some(0..sql.len()),
        });
    }
    if tokens.iter().filter(|token| is_counted(token)).count() > MAX_TOKENS {
        return Err(ExpressionError {
            message: format!("the expression is too long: more than {MAX_TOKENS} names and operators"),
            help: Some("use IN (…) for long lists, or split it".into()),
            span: Some(0..sql.len()),
        });
    }

    if retried(&tokens) > MAX_RETRIED {
        return Err(ExpressionError {
            message: format!("CASE, CAST and the like stand inside each other more than {MAX_RETRIED} deep"),
            help: Some("split it; a CASE can have many WHEN".into()),
            span: Some(0..sql.len()),
        });
    }

    let mut parser = Parser::new(&dialect).with_recursion_limit(MAX_NESTING).with_tokens_with_locations(tokens);
    let parsed = parse(&mut parser);
    let next = parser.peek_token();
    let end = sql.trim_end().len();
    let at = bytes(sql, next.span).or(Some(end..end));
    match parsed {
        Ok(parsed) if next.token == Token::EOF => Ok(parsed),
        Ok(_) => Err(ExpressionError {
            message: format!("unexpected `{}` behind the end of the expression", next.token),
            help: unexpected_help(&next.token),
            span: at,
        }),
        Err(ParserError::RecursionLimitExceeded) => Err(ExpressionError {
            message: format!("the expression is nested more than {MAX_NESTING} deep"),
            help: Some("split it".into()),
            span: Some(0..sql.len()),
        }),
        Err(ParserError::ParserError(text) | ParserError::TokenizerError(text)) => {
            let (message, location) = split_location(&text);
            let span = location.and_then(|location| byte_at(sql, location)).map(|start| start..word_end(sql, start));
            Err(ExpressionError {
                message: format!("this is not SQL: {}", message.trim_start_matches("sql parser error: ")),
                help: None,
                span: span.or(at),
            })
        }
    }
}

/// How deep words of [`RETRIED`] stand inside each other.
fn retried(tokens: &[TokenWithSpan]) -> usize {
    // What is open: true for a CASE; parentheses, with whether such a word stands before them.
    let mut open: Vec<(bool, bool)> = Vec::new();
    let (mut deepest, mut after_word) = (0, false);
    for token in tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_))) {
        let word = match token {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
            _ => String::new(),
        };
        match token {
            _ if word == "CASE" => open.push((true, true)),
            Token::LParen => open.push((false, after_word)),
            // Whatever else is open inside does not end either.
            _ if word == "END" || *token == Token::RParen => {
                if let Some(last) = open.iter().rposition(|(case, _)| *case == (word == "END")) {
                    open.truncate(last);
                }
            }
            _ => {}
        }
        after_word = RETRIED.contains(&word.as_str());
        deepest = deepest.max(open.iter().filter(|(_, counts)| *counts).count());
    }
    deepest
}

fn is_counted(token: &TokenWithSpan) -> bool {
    !matches!(
        token.token,
        Token::Whitespace(_) | Token::Comma | Token::EOF | Token::Number(..) | Token::SingleQuotedString(_)
    )
}

fn unexpected_help(token: &Token) -> Option<String> {
    let help = match token {
        Token::DoubleEq => "write `=`",
        Token::Ampersand | Token::Pipe => "write AND or OR",
        Token::SemiColon => "leave it out",
        Token::Comma => "one expression only",
        _ => return None,
    };
    Some(help.into())
}

/// `Expected: an expression, found: ) at Line: 1, Column: 5` → the message and the place.
fn split_location(text: &str) -> (&str, Option<Location>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else { return (text, None) };
    let numbers = place.split_once(", Column: ").and_then(|(line, column)| {
        let column = column.trim_end_matches(|c: char| !c.is_ascii_digit());
        Some(Location::new(line.parse().ok()?, column.parse().ok()?))
    });
    (message, numbers)
}

/// Where a part of the tree stands, as far as the parser kept it.
pub(super) fn place(text: &str, expr: &ast::Expr) -> Option<Range<usize>> {
    bytes(text, expr.span())
}

/// An error at a place of the tree, for the modules that check whole statements.
pub(crate) fn located(text: &str, span: Span, message: impl Into<String>, help: Option<String>) -> ExpressionError {
    ExpressionError { message: message.into(), help, span: bytes(text, span) }
}

pub(super) fn bytes(text: &str, span: Span) -> Option<Range<usize>> {
    let start = byte_at(text, span.start)?;
    let end = byte_at(text, span.end)?;
    (start <= end).then_some(start..end)
}

/// Lines and columns count from 1, columns in characters.
fn byte_at(text: &str, location: Location) -> Option<usize> {
    let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(location.column).ok()?.checked_sub(1)?;
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(start..)?;
    Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(index, _)| index))
}

fn word_end(text: &str, start: usize) -> usize {
    let rest = &text[start..];
    let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    start + length.max(rest.chars().next().map_or(0, char::len_utf8))
}
