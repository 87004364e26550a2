//! Bodies: JSON whose strings may hold `{{ … }}`. A string that is one whole template keeps its value's type; below a key `html`
//! values are escaped.

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The name under which templates escape as HTML.
const HTML: &str = "html";

/// A body with its templates compiled.
pub struct Template {
    environment: Environment<'static>,
    body: Part,
}

#[derive(Debug, thiserror::Error)]
#[error("template `{text}`: {message}")]
pub struct TemplateError {
    pub text: String,
    pub message: String,
}

enum Part {
    Fixed(Value),
    /// The source of an expression: the value keeps its type.
    Whole(String),
    /// The source of a text with templates in it.
    Mixed(String),
    /// The same, where values are escaped as HTML: below a key `html`.
    Html(String),
    List(Vec<Part>),
    Object(Vec<(String, Part)>),
}

impl Template {
    /// # Errors
    /// A template that does not parse.
    pub fn compile(body: &Value) -> Result<Template, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| match name == HTML {
            true => minijinja::AutoEscape::Html,
            false => minijinja::AutoEscape::None,
        });
        let body = Part::compile(body, &environment, false)?;
        Ok(Template { environment, body })
    }

    /// # Errors
    /// A name that is not in the context, or a failing filter.
    pub fn render(&self, context: &Value) -> Result<Value, TemplateError> {
        self.body.render(&self.environment, context)
    }
}

impl Part {
    fn compile(value: &Value, environment: &Environment<'static>, html: bool) -> Result<Part, TemplateError> {
        Ok(match value {
            Value::String(text) if text.contains("{{") || text.contains("{%") => {
                let failed = |error: minijinja::Error| TemplateError { text: text.clone(), message: error.to_string() };
                if html {
                    environment.template_from_named_str(HTML, text).map_err(failed)?;
                    Part::Html(text.clone())
                } else if let Some(expression) = whole(text) {
                    environment.compile_expression(expression).map_err(failed)?;
                    Part::Whole(expression.to_string())
                } else {
                    environment.template_from_str(text).map_err(failed)?;
                    Part::Mixed(text.clone())
                }
            }
            Value::Array(items) => {
                Part::List(items.iter().map(|item| Part::compile(item, environment, html)).collect::<Result<_, _>>()?)
            }
            Value::Object(entries) => {
                let compile = |(key, value): (&String, &Value)| {
                    Ok((key.clone(), Part::compile(value, environment, html || key == "html")?))
                };
                Part::Object(entries.iter().map(compile).collect::<Result<_, _>>()?)
            }
            fixed => Part::Fixed(fixed.clone()),
        })
    }

    fn render(&self, environment: &Environment<'static>, context: &Value) -> Result<Value, TemplateError> {
        let failed = |text: &str| {
            let text = text.to_string();
            move |error: minijinja::Error| TemplateError { text, message: error.to_string() }
        };
        Ok(match self {
            Part::Fixed(value) => value.clone(),
            Part::Whole(expression) => {
                let compiled = environment.compile_expression(expression).map_err(failed(expression))?;
                let value = compiled.eval(Serde(context)).map_err(failed(expression))?;
                if value.is_undefined() {
                    let message = "there is no such value".to_string();
                    return Err(TemplateError { text: expression.clone(), message });
                }
                Value::deserialize(value)
                    .map_err(|error| TemplateError { text: expression.clone(), message: error.to_string() })?
            }
            Part::Html(text) => {
                Value::String(environment.render_named_str(HTML, text, Serde(context)).map_err(failed(text))?)
            }
            Part::Mixed(text) => Value::String(environment.render_str(text, Serde(context)).map_err(failed(text))?),
            Part::List(items) => {
                Value::Array(items.iter().map(|item| item.render(environment, context)).collect::<Result<_, _>>()?)
            }
            Part::Object(entries) => {
                let render = |(key, part): &(String, Part)| Ok((key.clone(), part.render(environment, context)?));
                Value::Object(entries.iter().map(render).collect::<Result<Map<_, _>, _>>()?)
            }
        })
    }
}

/// The expression of a text that is one `{{ … }}` and nothing else.
fn whole(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}") && !inner.contains("{%")).then(|| inner.trim())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_whole_template_keeps_its_type_and_a_mixed_one_is_text() {
        let context = json!({"profile": {"traits": {"orders": 3, "email": null, "name": "Ann"}}});
        let rows = [
            (json!("{{ profile.traits.orders }}"), json!(3)),
            (json!("{{ profile.traits.email }}"), json!(null)),
            (json!("Hello {{ profile.traits.name }}"), json!("Hello Ann")),
            (json!({"a": ["{{ profile.traits.orders + 1 }}", 7, true]}), json!({"a": [4, 7, true]})),
            (json!("no template"), json!("no template")),
        ];
        for (body, expected) in rows {
            let template = Template::compile(&body).unwrap();
            assert_eq!(template.render(&context).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn what_is_html_is_escaped_and_nothing_else() {
        let context = json!({"profile": {"traits": {"name": "<b>Ann & Bob</b>"}}});
        let body = json!({
            "text": "Hello {{ profile.traits.name }}",
            "html": "<p>{{ profile.traits.name }}</p>",
            "parts": [{ "html": "{{ profile.traits.name }}" }],
        });
        let template = Template::compile(&body).unwrap();
        let escaped = "&lt;b&gt;Ann &amp; Bob&lt;&#x2f;b&gt;";
        let expected = json!({
            "text": "Hello <b>Ann & Bob</b>",
            "html": format!("<p>{escaped}</p>"),
            "parts": [{ "html": escaped }],
        });
        assert_eq!(template.render(&context).unwrap(), expected);
    }

    #[test]
    fn an_unknown_name_is_an_error_not_an_empty_text() {
        for body in ["{{ profile.nothing }}", "x {{ nobody.at_all }}"] {
            let template = Template::compile(&json!(body)).unwrap();
            assert!(template.render(&json!({"profile": {}})).is_err(), "{body}");
        }
    }

    #[test]
    fn a_template_that_does_not_parse_is_refused_when_it_is_compiled() {
        assert!(Template::compile(&json!("{{ profile.traits. }}")).is_err());
        assert!(Template::compile(&json!("{% if %} x")).is_err());
    }
}
