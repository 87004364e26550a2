//! What functions ask of their arguments: how many, of which kind, literal or not.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use datafusion::sql::sqlparser::tokenizer::Span;

use super::kinds::{Fault, Kind, Result, Typed, timestamp_literal};

pub(super) fn expect_count(name: &str, count: usize, least: usize, most: usize, span: Span) -> Result<()> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    let wanted = if least == most {
        format!("{least}")
    } else if most == usize::MAX {
        format!("at least {least}")
    } else {
        format!("{least} to {most}")
    };
    Err(Fault {
        message: format!("{name} takes {wanted} argument{}, here are {count}", if wanted == "1" { "" } else { "s" }),
        help: None,
        span,
    })
}

pub(super) fn two(name: &str, arguments: Vec<Typed>, span: Span) -> Result<[Typed; 2]> {
    let count = arguments.len();
    <[Typed; 2]>::try_from(arguments).map_err(|_| {
        expect_count(name, count, 2, 2, span).err().unwrap_or_else(|| Fault {
            message: format!("{name} takes 2 arguments"),
            help: None,
            span,
        })
    })
}

pub(super) fn fit(name: &str, argument: Typed, kind: &Kind) -> Result<Typed> {
    if *kind == Kind::Timestamp && argument.literal_text().is_some() {
        return timestamp_literal(&argument);
    }
    match (&argument.kind, kind) {
        (given, wanted) if given == wanted => Ok(argument),
        (Kind::Null, _) | (Kind::Long, Kind::Double) => Ok(argument.cast(kind.clone())),
        (given, wanted) => {
            let help = match wanted {
                Kind::Text => "write CAST(… AS varchar)",
                Kind::Long => "write CAST(… AS bigint), which cuts off fractions",
                Kind::Double => "write CAST(… AS double)",
                Kind::Timestamp => "write to_timestamp(…)",
                _ => "give it another argument",
            };
            Err(argument.error(format!("`{name}` needs {wanted} here, this is {given}"), help))
        }
    }
}

pub(super) fn text(argument: Typed) -> Result<Typed> {
    fit("LIKE", argument, &Kind::Text)
}

/// What `||` and `concat` write as text by themselves.
pub(super) fn writable(argument: Typed) -> Result<Typed> {
    match argument.kind {
        Kind::Long | Kind::Boolean => Ok(argument.cast(Kind::Text)),
        _ => fit("||", argument, &Kind::Text),
    }
}

pub(super) fn numbers(arguments: Vec<Typed>) -> Result<Vec<Typed>> {
    if let Some(wrong) = arguments.iter().find(|argument| !argument.kind.is_number() && argument.kind != Kind::Null) {
        let help = match wrong.kind {
            Kind::Timestamp => "date_part('epoch', t) gives its seconds; timestamps take + and - with an INTERVAL",
            Kind::Interval => "an interval is added to a timestamp",
            _ => "write CAST(… AS double) where it holds a number",
        };
        return Err(wrong.error(format!("this must be a number, it is {}", wrong.kind), help));
    }
    let all_null = arguments.iter().all(|argument| argument.kind == Kind::Null);
    let null = |argument: Typed| if all_null { argument.cast(Kind::Long) } else { argument };
    Ok(arguments.into_iter().map(null).collect())
}

pub(super) fn one_of(name: &str, argument: Typed, allowed: &[&str]) -> Result<Typed> {
    let lower = argument.literal_text().map(str::to_lowercase);
    match lower {
        Some(lower) if allowed.contains(&lower.as_str()) => {
            Ok(Typed { expr: Expr::Literal(ScalarValue::from(lower), None), kind: Kind::Text, span: argument.span })
        }
        _ => Err(argument.error(
            format!("{name} needs one of its units as a literal first"),
            format!("units are {}", allowed.join(", ")),
        )),
    }
}

/// A long as the narrower integer that some library functions want; null where it does not fit.
pub(super) fn narrow(argument: Typed) -> Typed {
    let kind = Kind::Other(DataType::Int32);
    argument.cast(kind)
}

/// The text, the compiled pattern, and whether `g` was among the flags. `at` is where the pattern stands.
pub(super) fn regular_expression(
    name: &str,
    mut arguments: Vec<Typed>,
    at: usize,
) -> Result<(Typed, regex::Regex, bool)> {
    let flags = if arguments.len() > at + 1 { arguments.pop() } else { None };
    let pattern = fit(name, arguments.remove(at), &Kind::Text)?;
    let value = fit(name, arguments.remove(0), &Kind::Text)?;
    let Some(source) = pattern.literal_text() else {
        return Err(pattern.error("the pattern must be a literal text", format!("write {name}(text, 'pattern', …)")));
    };
    let mut modes = String::new();
    let mut all = false;
    if let Some(flags) = flags {
        let Some(letters) = flags.literal_text() else {
            return Err(flags.error("the flags must be a literal text", "flags are i, m, s and, to replace all, g"));
        };
        for letter in letters.chars() {
            match letter {
                'i' | 'm' | 's' => modes.push(letter),
                'g' if name == "regexp_replace" => all = true,
                _ => {
                    return Err(flags.error(
                        format!("the flag `{letter}` is not known"),
                        "flags are i, m, s and, to replace all, g",
                    ));
                }
            }
        }
    }
    // Within the pattern, so that it is the whole of it.
    let source = if modes.is_empty() { source.to_string() } else { format!("(?{modes}){source}") };
    match regex::Regex::new(&source) {
        Ok(regex) => Ok((value, regex, all)),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(pattern.error(
                format!("this is not a regular expression: {reason}"),
                "look-around and back-references are not possible",
            ))
        }
    }
}

/// SQL writes groups as `\1`, the library as `${1}`.
pub(super) fn dollar_groups(replacement: &str) -> String {
    let mut out = String::with_capacity(replacement.len());
    let mut letters = replacement.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => out.push_str("$$"),
            '\\' => match letters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}
