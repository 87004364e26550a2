//! What a value must be to stand for somebody: normalisation and blocked values.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};
use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat, enums};

/// How values of a type are written in one way. White space around a value is cut off whatever the rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Normalize {
    #[default]
    Trim,
    Lower,
    /// The digits 0 to 9 alone.
    Digits,
    /// Lower case; optionally without the dots of the local part, and without what follows a plus in it.
    Email {
        without_dots: bool,
        without_tags: bool,
    },
    /// A phone number as E.164. Without a region only numbers with a country code are valid.
    E164 {
        region: Option<Region>,
    },
}

/// A region whose numbering plan is known: where numbers without a country code are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region(enums::Region);

impl Region {
    /// By its ISO 3166 code of two capital letters; None for any other text and for regions without a plan.
    pub fn new(code: &str) -> Option<Region> {
        let letters = code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        let region = enums::Region::from_code(code).ok().filter(|_| letters)?;
        PHONE_NUMBER_UTIL.get_supported_regions().any(|known| known == region).then_some(Region(region))
    }
}

/// Values that stand for nobody: one value, in any case, or all in which a regular expression finds something.
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
    /// `/…/` is a regular expression, `/…/i` one that takes any case, anything else a value.
    ///
    /// # Errors
    /// What is wrong with the regular expression.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let parts = text.strip_prefix('/').and_then(|rest| rest.rsplit_once('/'));
        let Some((regex, flags)) = parts.filter(|(_, flags)| flags.len() < 4 && flags.bytes().all(is_flag)) else {
            return Ok(Pattern::Exact(text.trim().to_string()));
        };
        if !matches!(flags, "" | "i") {
            return Err(format!("`i` is the only flag a regular expression can have here, not `{flags}`"));
        }
        if regex.is_empty() {
            return Err("an empty regular expression blocks every value".to_string());
        }
        // Anchored only where it says so: what is to be found, or `^…$` for a whole value.
        let built = RegexBuilder::new(regex).case_insensitive(flags == "i").build();
        built.map(Pattern::Regex).map_err(|error| {
            // The message's first lines show the expression, which the finding does itself.
            let message = error.to_string();
            let last = message.lines().last().unwrap_or_default();
            last.trim().trim_start_matches("error: ").to_string()
        })
    }

    pub fn matches(&self, value: &str) -> bool {
        match self {
            Pattern::Exact(text) if text.is_ascii() => text.eq_ignore_ascii_case(value),
            Pattern::Exact(text) => text == value || text.to_lowercase() == value.to_lowercase(),
            Pattern::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Letters that flag a regular expression in some language.
fn is_flag(byte: u8) -> bool {
    b"dgimsuvxy".contains(&byte)
}

/// The one way to write a value; None when it is none of its type (no address, no phone number). Applied twice it
/// gives the same, and it borrows where nothing changes.
pub fn normalize<'a>(rule: &Normalize, value: &'a str) -> Option<Cow<'a, str>> {
    let value = value.trim();
    match rule {
        Normalize::Trim => Some(Cow::Borrowed(value)),
        Normalize::Lower => Some(lower(value)),
        Normalize::Digits if value.is_empty() => None,
        Normalize::Digits if value.bytes().all(|byte| byte.is_ascii_digit()) => Some(Cow::Borrowed(value)),
        Normalize::Digits => {
            let digits: String = value.chars().filter(char::is_ascii_digit).collect();
            (!digits.is_empty()).then_some(Cow::Owned(digits))
        }
        Normalize::Email { without_dots, without_tags } => email(value, *without_dots, *without_tags),
        Normalize::E164 { region } => e164(value, *region),
    }
}

fn lower(value: &str) -> Cow<'_, str> {
    if value.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(value);
    }
    let lower = value.to_lowercase();
    if lower == value { Cow::Borrowed(value) } else { Cow::Owned(lower) }
}

/// Not the grammar of RFC 5322, which allows what no mail server takes, but what tells an address from other text.
fn email(value: &str, without_dots: bool, without_tags: bool) -> Option<Cow<'_, str>> {
    let (local, domain) = value.split_once('@')?;
    let labels = !domain.contains('@') && domain.split('.').all(|label| !label.is_empty());
    if local.is_empty() || !labels || value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return None;
    }
    let kept = if without_tags { local.split_once('+').map_or(local, |(before, _)| before) } else { local };
    if kept.len() == local.len() && !(without_dots && kept.contains('.')) {
        return Some(lower(value));
    }
    let kept = if without_dots { kept.replace('.', "") } else { kept.to_string() };
    (!kept.is_empty()).then(|| Cow::Owned(format!("{kept}@{domain}").to_lowercase()))
}

/// A valid number as `+` and digits. A number with an extension has no such form: without the extension it would be
/// the switchboard's, and make one person of all who sit behind it. Nor has text with letters in it.
fn e164(value: &str, region: Option<Region>) -> Option<Cow<'_, str>> {
    let number = value.strip_prefix("tel:").unwrap_or(value);
    if number.chars().any(char::is_alphabetic) {
        return None;
    }
    let parsed = PHONE_NUMBER_UTIL.parse(number, region.map(|region| region.0)).ok()?;
    if parsed.extension.as_ref().is_some_and(|extension| !extension.is_empty()) || !parsed.is_valid() {
        return None;
    }
    let formatted = parsed.format_as(PhoneNumberFormat::E164);
    if *formatted == *value { Some(Cow::Borrowed(value)) } else { Some(Cow::Owned(formatted.to_string())) }
}

/// True for values that programs write when they know nobody: they would collapse strangers into one profile.
/// Nothing but zeros, punctuation and space, and the words below, in any case.
pub fn blocked(value: &str) -> bool {
    const WORDS: [&str; 25] = [
        "null",
        "none",
        "nil",
        "nan",
        "undefined",
        "anonymous",
        "unknown",
        "guest",
        "n/a",
        "n.a.",
        "na",
        "-1",
        "test",
        "true",
        "false",
        "(null)",
        "(none)",
        "(not set)",
        "not set",
        "[object object]",
        "test@test.com",
        "none@none.com",
        "user@example.com",
        "test@example.com",
        "email@example.com",
    ];
    const LONGEST: usize = 17;
    if value.chars().all(says_nothing) {
        return true;
    }
    value.len() <= LONGEST && WORDS.iter().any(|word| word.eq_ignore_ascii_case(value))
}

fn says_nothing(c: char) -> bool {
    c == '0' || c.is_ascii_punctuation() || c.is_whitespace() || c.is_control() || matches!(c, '–' | '—' | '…' | '·')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn email(without_dots: bool, without_tags: bool) -> Normalize {
        Normalize::Email { without_dots, without_tags }
    }

    fn e164(region: &str) -> Normalize {
        Normalize::E164 { region: Region::new(region) }
    }

    #[test]
    fn values_that_stand_for_nobody_are_blocked() {
        let nobody = [
            "",
            "null",
            "NULL",
            "0000",
            "0",
            "-1",
            "--",
            "+0",
            "0.0",
            "000 000",
            "?",
            "—",
            "00000000-0000-0000-0000-000000000000",
            "anonymous",
            "test@test.com",
            "Email@Example.com",
            "[object Object]",
        ];
        for value in nobody {
            assert!(blocked(value), "{value:?} should be blocked");
        }
        for value in ["u1", "10", "ann@example.com", "nullable", "0001", "a-0", "-10", "😀", "ü"] {
            assert!(!blocked(value), "{value:?} should be taken");
        }
    }

    #[test]
    fn a_value_is_written_in_one_way_or_is_none_of_its_type() {
        let rows: Vec<(Normalize, &str, Option<&str>)> = vec![
            (Normalize::Trim, " A b\u{a0}", Some("A b")),
            (Normalize::Trim, "", Some("")),
            (Normalize::Lower, " ÄRGER ", Some("ärger")),
            (Normalize::Lower, "straße", Some("straße")),
            (Normalize::Digits, "12-34 a5", Some("12345")),
            (Normalize::Digits, "12345", Some("12345")),
            (Normalize::Digits, "none", None),
            (Normalize::Digits, "٣", None),
            (email(false, false), " Ann.Lee+News@Example.COM ", Some("ann.lee+news@example.com")),
            (email(true, false), "Ann.Lee+a.b@example.com", Some("annlee+ab@example.com")),
            (email(false, true), "Ann.Lee+News@example.com", Some("ann.lee@example.com")),
            (email(true, true), "A.nn.Lee+New.s@example.com", Some("annlee@example.com")),
            (email(true, true), "ann@example.com", Some("ann@example.com")),
            (email(false, false), "ann@localhost", Some("ann@localhost")),
            (email(false, false), "Ö@MÜNCHEN.de", Some("ö@münchen.de")),
            (email(false, true), "+news@example.com", None),
            (email(true, false), "...@example.com", None),
            (email(false, false), "ann", None),
            (email(false, false), "@example.com", None),
            (email(false, false), "ann@", None),
            (email(false, false), "a@b@c.de", None),
            (email(false, false), "ann@.example.com", None),
            (email(false, false), "ann@example.com.", None),
            (email(false, false), "ann@exam..ple", None),
            (email(false, false), "ann lee@example.com", None),
            (email(false, false), "ann\0@example.com", None),
            (e164("DE"), "030 90 18 20", Some("+4930901820")),
            (e164("DE"), "(030) 90-1820", Some("+4930901820")),
            (e164("DE"), "0049 30 901820", Some("+4930901820")),
            (e164("DE"), "+49 (0)30 901820", Some("+4930901820")),
            (e164("DE"), "+4930901820", Some("+4930901820")),
            (e164("DE"), "tel:+49-30-901820", Some("+4930901820")),
            // A region is only for numbers without a country code; Italy keeps the zero.
            (e164("DE"), "+39 06 698 12345", Some("+390669812345")),
            (e164("US"), "(650) 253-0000", Some("+16502530000")),
            (e164("none"), "+1 650 253 0000", Some("+16502530000")),
            (e164("none"), "030 901820", None),
            (e164("DE"), "12", None),
            (e164("DE"), "", None),
            (e164("DE"), "+", None),
            (e164("DE"), "not a number", None),
            (e164("DE"), "030 9o182o", None),
            (e164("DE"), "030 901820 ext. 12", None),
            (e164("DE"), "030 901820 #12", None),
            (e164("DE"), "+4930901820;ext=12", None),
            (e164("US"), "555-0100-0000-0000-0000", None),
        ];
        for (rule, value, expect) in rows {
            assert_eq!(normalize(&rule, value).as_deref(), expect, "{rule:?} {value:?}");
        }
    }

    #[test]
    fn what_is_written_right_already_is_borrowed() {
        let rows = [
            (Normalize::Trim, " u1 "),
            (Normalize::Lower, " u1 "),
            (Normalize::Lower, "größe"),
            (Normalize::Digits, "12"),
            (email(true, true), "ann@example.com"),
            (e164("DE"), "+4930901820"),
        ];
        for (rule, value) in rows {
            assert!(matches!(normalize(&rule, value), Some(Cow::Borrowed(_))), "{rule:?} {value:?}");
        }
    }

    #[test]
    fn regions_are_those_with_a_numbering_plan() {
        for (code, known) in [("DE", true), ("US", true), ("de", false), ("UK", false), ("001", false), ("", false)] {
            assert_eq!(Region::new(code).is_some(), known, "{code:?}");
        }
    }

    #[test]
    fn a_pattern_is_a_value_or_a_search() {
        let rows = [
            ("test@shop.example", "TEST@Shop.example", true),
            ("test@shop.example", "a test@shop.example", false),
            ("ÄRGER", "ärger", true),
            ("/^demo-/", "demo-1", true),
            ("/^demo-/", "Demo-1", false),
            ("/^demo-/i", "Demo-1", true),
            ("/demo/", "my-demo-1", true),
            ("/^\\d{3}$/", "1234", false),
            // No regular expression: a value that begins with a slash.
            ("/users/ann", "/users/ann", true),
            ("/", "/", true),
        ];
        for (pattern, value, expect) in rows {
            let parsed = Pattern::new(pattern).unwrap();
            assert_eq!(parsed.matches(value), expect, "{pattern} {value}");
        }
        let broken = [
            ("/demo-(/", "unclosed group"),
            ("//", "an empty regular expression blocks every value"),
            ("/a/g", "`i` is the only flag a regular expression can have here, not `g`"),
        ];
        for (pattern, message) in broken {
            assert_eq!(Pattern::new(pattern).unwrap_err(), message);
        }
    }

    proptest! {
        /// Whatever comes in: no panic, and what is normal stays as it is.
        #[test]
        fn normalising_twice_changes_nothing(
            value in prop_oneof!["\\PC{0,20}", "[ +0-9().;ext=#*/-]{0,24}", "[A-Za-zİßΣ.+@ ]{0,16}"],
            rule in 0usize..8,
        ) {
            let rule = match rule {
                0 => Normalize::Trim,
                1 => Normalize::Lower,
                2 => Normalize::Digits,
                3 => email(false, false),
                4 => email(true, true),
                5 => e164("none"),
                6 => e164("US"),
                _ => e164("DE"),
            };
            if let Some(once) = normalize(&rule, &value) {
                let twice = normalize(&rule, &once);
                prop_assert_eq!(twice.as_deref(), Some(&*once), "{:?} {:?}", rule, value);
            }
            blocked(&value);
        }
    }
}
