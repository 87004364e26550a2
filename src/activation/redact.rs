//! What of a body is recorded: by rule, so that tables and screens need not hold what only the receiver is to know.

use std::borrow::Cow;

use serde_json::Value;

/// In place of what is not shown.
const HIDDEN: &str = "[redacted]";

/// A checked `redact` of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redaction {
    All,
    /// The values of these keys, in lower case, wherever in the body they are. A body that is no JSON is hidden as a whole: there it
    /// cannot be told what is what.
    Keys(Vec<String>),
}

impl Redaction {
    /// A body as it is recorded.
    pub fn shown<'b>(&self, body: &'b str) -> Cow<'b, str> {
        let Redaction::Keys(keys) = self else { return HIDDEN.into() };
        // Texts are bodies too, also where they are written as JSON's.
        let Ok(mut value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(body) else {
            return HIDDEN.into();
        };
        hide(&mut value, keys);
        value.to_string().into()
    }
}

fn hide(value: &mut Value, keys: &[String]) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries.iter_mut() {
                match keys.contains(&key.to_lowercase()) {
                    true => *value = HIDDEN.into(),
                    false => hide(value, keys),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, keys)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_hidden_wherever_it_is_and_a_text_as_a_whole() {
        let keys = |keys: &[&str]| Redaction::Keys(keys.iter().map(ToString::to_string).collect());
        for (redaction, body, shown) in [
            (
                keys(&["email"]),
                r#"{"to":{"Email":"a@x","n":1},"all":[{"email":["b@x"]}]}"#,
                r#"{"all":[{"email":"[redacted]"}],"to":{"Email":"[redacted]","n":1}}"#,
            ),
            (keys(&["email"]), r#"{"to":"a@x"}"#, r#"{"to":"a@x"}"#),
            (keys(&["email"]), "Dear a@x", HIDDEN),
            (keys(&["email"]), "\"Dear a@x\"", HIDDEN),
            (Redaction::All, r#"{"n":1}"#, HIDDEN),
        ] {
            assert_eq!(redaction.shown(body), shown, "{redaction:?} of {body}");
        }
    }
}
