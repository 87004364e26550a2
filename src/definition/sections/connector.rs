//! Connectors: how an interface is called. They name nothing but their own parameters, so they are checked as they are read.

use super::destination::is_secret_header;
use super::reference;
use crate::activation::connector::*;
use crate::definition::findings::{Span, nearest_or_list};
use crate::definition::read::{Fields, Reader};
use crate::definition::yaml::{Entry, Node, Scalar, Value};
use crate::sink::template::Templates;

pub const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];
pub const ENCODINGS: [(&str, Encode); 2] = [("json", Encode::Json), ("form", Encode::Form)];
pub const GRANTS: [(&str, Grant); 2] =
    [("client_credentials", Grant::ClientCredentials), ("refresh_token", Grant::RefreshToken)];
pub const VERDICTS: [(&str, Verdict); 3] =
    [("done", Verdict::Done), ("retry", Verdict::Retry), ("drop", Verdict::Drop)];
pub const WAIT_UNITS: [(&str, WaitUnit); 3] =
    [("seconds", WaitUnit::Seconds), ("milliseconds", WaitUnit::Milliseconds), ("unix", WaitUnit::Unix)];

const DELIVERY: [&str; 5] = ["id", "activation", "step", "profile_id", "created_at"];

/// What a template or expression may name.
pub struct Scope<'s> {
    pub roots: &'static [&'static str],
    pub parameters: &'s [Parameter],
}

pub fn connector(reader: &Reader, node: &Node, what: &str, span: Span) -> Option<ConnectorPlan> {
    let fields = reader.section(node, what, span, &reference::CONNECTOR)?;
    let parameters = fields.get("with").map(|node| parameters(reader, node)).unwrap_or_default();
    let own = Scope { roots: &["with"], parameters: &parameters };
    let auth = match fields.get("auth") {
        Some(node) => auth(reader, node, fields.key_span("auth"), &own),
        None => Some(ConnectorAuth::None),
    };
    let common = Common {
        headers: headers(reader, fields.get("headers"), &parameters),
        answers: answers(reader, fields.get("answers")),
    };
    let wait = fields.get("wait").map(|node| wait(reader, node, fields.key_span("wait")));
    let mut operations = Vec::new();
    let mut sound = true;
    match fields.one()? {
        ("request", node) => {
            let read = operation(reader, node, "`request`", fields.key_span("request"), &parameters, &common);
            sound &= read.is_some();
            operations.extend(read);
        }
        (_, node) => {
            let entries = reader.entries(node, "operations");
            if entries.is_empty() {
                reader.findings.error(node.span, "`operations` is empty", None);
            }
            for Entry { key, value } in entries {
                reader.check_name(&key.text, key.span, "operation");
                let what = format!("operation `{}`", key.text);
                let read = operation(reader, value, &what, key.span, &parameters, &common);
                sound &= read.is_some();
                operations.extend(read.map(|read| Operation { name: Some(key.text.clone()), ..read }));
            }
        }
    }
    Some(ConnectorPlan {
        // The entry's name: `connector `slack``.
        name: what.split('`').nth(1).unwrap_or(what).to_string(),
        auth: auth?,
        operations,
        wait: wait.map_or(Some(None), |wait| wait.map(Some))?,
        parameters,
    })
    .filter(|plan| {
        sound && fields.sound && !plan.operations.is_empty() && common.headers.is_some() && common.answers.is_some()
    })
}

/// What all operations of a connector have.
struct Common {
    headers: Option<Vec<(String, String)>>,
    answers: Option<Vec<AnswerRule>>,
}

fn parameters(reader: &Reader, node: &Node) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    for Entry { key, value } in reader.entries(node, "with") {
        reader.check_name(&key.text, key.span, "parameter");
        let Some(fields) = reader.section(value, format!("parameter `{}`", key.text), key.span, &reference::PARAMETER)
        else {
            continue;
        };
        let flag = |name: &str| fields.get(name).and_then(|node| reader.boolean(node, &format!("`{name}`")));
        let default = fields.get("default").and_then(|node| reader.literal(node, "`default`"));
        let secret = flag("secret").unwrap_or(false);
        if let Some(default) = default.as_ref().filter(|_| secret) {
            reader.findings.hide(default.span);
            reader.findings.error(default.span, format!("`{}` is a secret and cannot have a default", key.text), None);
        }
        parameters.push(Parameter {
            name: key.text.clone(),
            secret,
            optional: flag("optional").unwrap_or(false),
            default: default.map(|default| default.text),
        });
    }
    parameters
}

fn auth(reader: &Reader, node: &Node, span: Span, scope: &Scope) -> Option<ConnectorAuth> {
    let fields = reader.section(node, "`auth`", span, &reference::AUTH)?;
    let (kind, node) = fields.one()?;
    let span = fields.key_span(kind);
    let text =
        |fields: &Fields, key: &str| fields.get(key).and_then(|n| scope.template(reader, n, &format!("`{key}`")));
    let secret =
        |fields: &Fields, key: &str| fields.get(key).and_then(|n| scope.secret(reader, n, &format!("`{key}`")));
    match kind {
        "bearer" => scope.secret(reader, node, "`bearer`").map(ConnectorAuth::Bearer),
        "basic" => {
            let fields = reader.section(node, "`basic`", span, &reference::BASIC)?;
            let (user, password) = (text(&fields, "user"), secret(&fields, "password"));
            Some(ConnectorAuth::Basic { user: user?, password: password? })
        }
        "api_key" => {
            let fields = reader.section(node, "`api_key`", span, &reference::API_KEY)?;
            let value = secret(&fields, "value");
            let (place, node) = fields.one()?;
            let name = reader.literal(node, &format!("`{place}`"))?.text;
            Some(match place {
                "header" => ConnectorAuth::Header { name, value: value? },
                _ => ConnectorAuth::Query { name, value: value? },
            })
        }
        _ => {
            let fields = reader.section(node, "`oauth2`", span, &reference::OAUTH2)?;
            let grant = fields.get("grant").and_then(|node| reader.choice(node, "`grant`", &GRANTS));
            let refresh = grant == Some(Grant::RefreshToken);
            if let Some(grant) = grant.filter(|_| refresh != fields.has("refresh_token")) {
                let message = match grant {
                    Grant::RefreshToken => "the grant `refresh_token` needs `refresh_token`",
                    Grant::ClientCredentials => "`refresh_token` goes with the grant `refresh_token`",
                };
                reader.findings.error(fields.key_span("refresh_token"), message, None);
                return None;
            }
            let optional = |key: &str, read: Option<String>| if fields.has(key) { read.map(Some) } else { Some(None) };
            let (token_url, client_id) = (text(&fields, "token_url"), text(&fields, "client_id"));
            let (client_secret, refresh_token) = (secret(&fields, "client_secret"), secret(&fields, "refresh_token"));
            let scope = text(&fields, "scope");
            Some(ConnectorAuth::OAuth2(OAuth2 {
                grant: grant?,
                token_url: token_url?,
                client_id: client_id?,
                client_secret: client_secret?,
                refresh_token: optional("refresh_token", refresh_token)?,
                scope: optional("scope", scope)?,
            }))
        }
    }
}

fn headers(reader: &Reader, node: Option<&Node>, parameters: &[Parameter]) -> Option<Vec<(String, String)>> {
    let scope = Scope { roots: &["delivery", "body", "with"], parameters };
    let entries = node.map(|node| reader.entries(node, "headers")).unwrap_or_default();
    let read = entries.iter().map(|Entry { key, value }| {
        let what = format!("header `{}`", key.text);
        // `Idempotency-Key` holds no secret.
        let secret = is_secret_header(&key.text) && !key.text.eq_ignore_ascii_case("idempotency-key");
        let text = if secret { scope.secret(reader, value, &what) } else { scope.template(reader, value, &what) };
        Some((key.text.clone(), text?))
    });
    read.collect::<Vec<_>>().into_iter().collect()
}

fn operation(
    reader: &Reader,
    node: &Node,
    what: &str,
    span: Span,
    parameters: &[Parameter],
    common: &Common,
) -> Option<Operation> {
    let fields = reader.section(node, what, span, &reference::OPERATION)?;
    let scope = Scope { roots: &["delivery", "body", "with"], parameters };
    let with_items = Scope { roots: &["delivery", "body", "with", "items"], parameters };
    let methods: Vec<(&str, &str)> = METHODS.iter().map(|method| (*method, *method)).collect();
    let method = fields.get("method").map_or(Some("POST"), |node| reader.choice(node, "`method`", &methods));
    let url = fields.get("url").and_then(|node| scope.template(reader, node, "`url`"));
    let own = headers(reader, fields.get("headers"), parameters);
    let encode = fields.get("encode").map_or(Some(Encode::Json), |node| reader.choice(node, "`encode`", &ENCODINGS));
    let batch = fields.get("batch").map(|node| batch(reader, node, fields.key_span("batch"), &scope));
    let of_body = if batch.is_some() { &with_items } else { &scope };
    let body = fields.get("body").map(|node| of_body.json(reader, node));
    let needs = fields.get("needs").map_or(Some(Vec::new()), |node| reader.literals(node, "`needs`"));
    let refuse = fields.get("refuse").map_or(Some(Vec::new()), |node| {
        let all = reader.list(node, "`refuse`").iter().map(|node| refusal(reader, node, &scope));
        all.collect::<Vec<_>>().into_iter().collect()
    });
    let answers = answers(reader, fields.get("answers"));
    let per_item = fields.get("per_item").map(|node| per_item(reader, node, fields.key_span("per_item")));
    let drops_repeats = fields.get("drops_repeats").map_or(Some(true), |node| reader.boolean(node, "`drops_repeats`"));
    let (mut all_headers, mut all_answers) = (common.headers.clone()?, answers?);
    all_headers.extend(own?);
    all_answers.extend(common.answers.clone()?);
    Some(Operation {
        name: None,
        needs: needs?.into_iter().map(|key| key.text).collect(),
        refuse: refuse?,
        method: method?.to_string(),
        url: url?,
        headers: all_headers,
        encode: encode?,
        body: body.map_or(Some(None), |body| body.map(Some))?,
        batch: batch.map_or(Some(None), |batch| batch.map(Some))?,
        answers: all_answers,
        per_item: per_item.map_or(Some(None), |per_item| per_item.map(Some))?,
        drops_repeats: drops_repeats?,
    })
    .filter(|_| fields.sound)
}

fn refusal(reader: &Reader, node: &Node, scope: &Scope) -> Option<Refusal> {
    let fields = reader.section(node, "`refuse`", node.span, &reference::REFUSE)?;
    let when = fields.get("when").and_then(|node| scope.expression(reader, node, "`when`"));
    let because = fields.get("because").and_then(|node| reader.literal(node, "`because`"));
    Some(Refusal { when: when?, because: because?.text })
}

fn batch(reader: &Reader, node: &Node, span: Span, scope: &Scope) -> Option<Batch> {
    let fields = reader.section(node, "`batch`", span, &reference::BATCH)?;
    let max = fields.get("max").and_then(|node| reader.count(node, "`max`", 1));
    let item = fields.get("item").and_then(|node| scope.json(reader, node));
    Some(Batch { max: max?, item: item? })
}

const OF_ANSWER: Scope = Scope { roots: &["status", "answer", "text", "headers"], parameters: &[] };
const OF_ITEM: Scope = Scope {
    roots: &["status", "answer", "text", "headers", "error", "error_index", "index", "body", "item", "delivery"],
    parameters: &[],
};

fn answers(reader: &Reader, node: Option<&Node>) -> Option<Vec<AnswerRule>> {
    let nodes = node.map(|node| reader.list(node, "`answers`")).unwrap_or_default();
    let rules = nodes.iter().map(|node| {
        let fields = reader.section(node, "an answer", node.span, &reference::ANSWER)?;
        let when = fields.get("when").and_then(|node| OF_ANSWER.expression(reader, node, "`when`"));
        let then = fields.get("then").and_then(|node| reader.choice(node, "`then`", &VERDICTS));
        let because = fields.get("because").map(|node| OF_ANSWER.expression(reader, node, "`because`"));
        Some(AnswerRule { when: when?, then: then?, because: because.map_or(Some(None), |text| text.map(Some))? })
            .filter(|_| fields.sound)
    });
    rules.collect::<Vec<_>>().into_iter().collect()
}

fn per_item(reader: &Reader, node: &Node, span: Span) -> Option<PerItem> {
    let fields = reader.section(node, "`per_item`", span, &reference::PER_ITEM)?;
    let text = |key: &str, scope: &Scope| match fields.get(key) {
        None => Some(None),
        Some(node) => scope.expression(reader, node, &format!("`{key}`")).map(Some),
    };
    let (errors, of) = (text("errors", &OF_ANSWER), text("of", &OF_ITEM));
    let (retry, because) = (text("retry", &OF_ITEM), text("because", &OF_ITEM));
    Some(PerItem { errors: errors??, of: of??, retry: retry?, because: because? }).filter(|_| fields.sound)
}

fn wait(reader: &Reader, node: &Node, span: Span) -> Option<WaitHeader> {
    let fields = reader.section(node, "`wait`", span, &reference::WAIT)?;
    let header = fields.get("header").and_then(|node| reader.literal(node, "`header`"));
    let unit = fields.get("unit").and_then(|node| reader.choice(node, "`unit`", &WAIT_UNITS));
    Some(WaitHeader { header: header?.text, unit: unit? })
}

impl Scope<'_> {
    /// A text that may hold `{{ … }}`.
    pub fn template(&self, reader: &Reader, node: &Node, what: &str) -> Option<String> {
        let scalar = text(reader, node, what)?;
        let names = Templates::default().names(&scalar.text);
        self.checked(reader, node, scalar, names, "the template")
    }

    fn expression(&self, reader: &Reader, node: &Node, what: &str) -> Option<String> {
        let scalar = text(reader, node, what)?;
        let names = Templates::default().names_of_expression(&scalar.text);
        self.checked(reader, node, scalar, names, "the expression")
    }

    /// A template that names a secret parameter: what is secret is never written down.
    fn secret(&self, reader: &Reader, node: &Node, what: &str) -> Option<String> {
        let written = node.as_scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
        let names = Templates::default().names(written).unwrap_or_default();
        let parameters = names.iter().filter_map(|name| name.strip_prefix("with."));
        let known: Vec<Option<&Parameter>> =
            parameters.map(|name| self.parameters.iter().find(|parameter| parameter.name == name)).collect();
        // One that is not there is reported below.
        if !known.iter().any(|parameter| parameter.is_none_or(|parameter| parameter.secret)) {
            reader.findings.hide(node.span);
            let message = format!("{what} is a secret and must not be written down here");
            let help = "name a parameter with `secret: true`, as \"{{ with.token }}\"".to_string();
            reader.findings.error(node.span, message, help);
            return None;
        }
        self.template(reader, node, what)
    }

    /// JSON whose texts may hold `{{ … }}`.
    fn json(&self, reader: &Reader, node: &Node) -> Option<serde_json::Value> {
        let sound = match &node.value {
            Value::List(items) => items.iter().filter(|item| self.json(reader, item).is_none()).count() == 0,
            Value::Map(entries) => entries.iter().filter(|e| self.json(reader, &e.value).is_none()).count() == 0,
            Value::Scalar(_) => self.template(reader, node, "a text").is_some(),
        };
        sound.then(|| reader.json(node))
    }

    fn checked(
        &self,
        reader: &Reader,
        node: &Node,
        scalar: &Scalar,
        names: Result<Vec<String>, String>,
        what: &str,
    ) -> Option<String> {
        let names = names.map_err(|error| {
            reader.findings.error(node.span, format!("{what} cannot be read: {error}"), None);
        });
        let wrong = names.ok()?.iter().filter(|name| !self.knows(reader, node, scalar, name)).count();
        (wrong == 0).then(|| scalar.text.clone())
    }

    fn knows(&self, reader: &Reader, node: &Node, scalar: &Scalar, name: &str) -> bool {
        let path: Vec<&str> = name.split('.').collect();
        let parameters: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        let (step, lacks, names): (usize, &str, &[&str]) = match path[..] {
            ["with", _, ..] if self.roots.contains(&"with") => (1, "there is no parameter", &parameters),
            ["delivery", _, ..] if self.roots.contains(&"delivery") => (1, "a delivery has no", &DELIVERY),
            _ => (0, "there is no", self.roots),
        };
        let wrong = path[step];
        if names.contains(&wrong) {
            return true;
        }
        let before: usize = path[..step].iter().map(|step| step.len() + 1).sum();
        let start = scalar.text.find(name).unwrap_or(0) + before;
        let source = &reader.findings.files()[node.span.file].text;
        let span = scalar.locate(&(start..start + wrong.len()), node.span, source);
        reader.findings.error(span, format!("{lacks} `{wrong}`"), nearest_or_list(wrong, names.iter().copied()));
        false
    }
}

fn text<'n>(reader: &Reader, node: &'n Node, what: &str) -> Option<&'n Scalar> {
    let Some(scalar) = node.as_scalar() else {
        reader.findings.error(node.span, format!("{what} is a text, this is {}", node.kind()), None);
        return None;
    };
    if scalar.text.contains("${env:") || scalar.text.contains("${file:") {
        let help = "name a parameter, as \"{{ with.token }}\": whoever uses the connector fills it in".to_string();
        reader.findings.error(node.span, format!("{what}: `${{…}}` is not filled in here"), help);
        return None;
    }
    Some(scalar)
}
