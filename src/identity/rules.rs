//! What a value must be to stand for somebody: normalisation and blocked values.

use std::borrow::Cow;

use regex::Regex;

/// How values of a type are written in one way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Normalize {
    /// White space around it is cut off; every type does that.
    #[default]
    Trim,
    Lower,
    /// The digits alone.
    Digits,
    /// Lower case; optionally without the dots of the local part, and without what follows a plus in it.
    Email { without_dots: bool, without_tags: bool },
    /// A phone number as E.164; numbers without a country code are of `region` (ISO 3166 alpha-2).
    E164 { region: String },
}

/// A value, or a regular expression that must match the whole value.
#[derive(Debug, Clone)]
pub enum Pattern {
    Exact(String),
    Regex(Regex),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Pattern::Exact(a), Pattern::Exact(b)) => a == b,
            (Pattern::Regex(a), Pattern::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl Pattern {
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Pattern::Exact(text) => text.eq_ignore_ascii_case(value),
            Pattern::Regex(regex) => regex.is_match(value),
        }
    }
}

/// The one way to write a value; None when it is none of its type (no address, no phone number).
pub fn normalize<'a>(_rule: &Normalize, value: &'a str) -> Option<Cow<'a, str>> {
    Some(Cow::Borrowed(value.trim()))
}

/// True for values that programs write when they know nobody: they would collapse strangers into one profile.
/// Empty, runs of zeros or dashes, and the words below, in any case.
pub fn blocked(value: &str) -> bool {
    const WORDS: [&str; 17] = [
        "null",
        "none",
        "nil",
        "nan",
        "undefined",
        "anonymous",
        "unknown",
        "guest",
        "n/a",
        "na",
        "test",
        "true",
        "false",
        "(null)",
        "[object object]",
        "test@test.com",
        "user@example.com",
    ];
    let longest = 16;
    if value.len() > longest {
        return value.bytes().all(|byte| matches!(byte, b'0' | b'-'));
    }
    value.bytes().all(|byte| matches!(byte, b'0' | b'-')) || WORDS.iter().any(|word| word.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use super::blocked;

    #[test]
    fn values_that_stand_for_nobody_are_blocked() {
        let nobody = [
            "",
            "null",
            "NULL",
            "0000",
            "0",
            "--",
            "00000000-0000-0000-0000-000000000000",
            "anonymous",
            "test@test.com",
            "[object Object]",
        ];
        for value in nobody {
            assert!(blocked(value), "{value:?} should be blocked");
        }
        for value in ["u1", "10", "ann@example.com", "nullable", "0001", "a-0"] {
            assert!(!blocked(value), "{value:?} should be taken");
        }
    }
}
