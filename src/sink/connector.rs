//! Connectors: deliveries as the requests of a vendor's HTTP interface, by a [`ConnectorPlan`].
//!
//! What is sent follows from the sealed deliveries and the definition alone. Each delivery makes a frame (method, address,
//! headers, and the body without items) and an item; deliveries whose frames are equal go together, up to the connector's
//! maximum, but never past another delivery of the same person, and never two of one person in one request.

mod answer;
mod auth;

use std::collections::BTreeMap;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};

use self::answer::Judged;
use self::auth::{Auth, AuthError};
use super::guard::Reach;
use super::http::{Answer, HttpClient, NoAnswer, Request};
use super::template::{Templates, context};
use super::{Destination, Outcome};
use crate::activation::Delivery;
use crate::activation::connector::{ConnectorPlan, Encode, Operation};
use crate::event::TimeUs;

/// A vendor's interface.
pub struct Connector {
    plan: ConnectorPlan,
    with: Value,
    auth: Auth,
    /// What must not be told: secret parameters.
    secrets: Vec<String>,
    templates: Templates,
    client: HttpClient,
}

/// A delivery and what it adds to a request.
struct Part<'d> {
    /// Where in the list of deliveries.
    place: usize,
    delivery: &'d Delivery,
    body: Value,
    item: Value,
}

/// What deliveries of one request have in common.
#[derive(PartialEq)]
struct Frame {
    /// Of the operation, among those of the plan.
    operation: usize,
    url: String,
    headers: Vec<(String, String)>,
    /// The body without items.
    body: Option<Value>,
}

struct Group<'d> {
    frame: Frame,
    parts: Vec<Part<'d>>,
}

impl Connector {
    /// `with`: the parameters, checked against the plan; defaults are filled in here.
    ///
    /// # Errors
    /// A parameter that makes no address or header, as a text.
    pub fn new(plan: ConnectorPlan, with: &BTreeMap<String, String>, reach: Reach) -> Result<Connector, String> {
        let templates = Templates::default();
        let mut values = serde_json::Map::new();
        let mut secrets = Vec::new();
        for parameter in &plan.parameters {
            if let Some(value) = with.get(&parameter.name).or(parameter.default.as_ref()) {
                values.insert(parameter.name.clone(), json!(value));
                secrets.extend(Some(value.clone()).filter(|value| parameter.secret && !value.is_empty()));
            }
        }
        let with = Value::Object(values);
        let auth = Auth::new(&plan.auth, &json!({ "with": with }), &templates)?;
        secrets.extend(auth.derived());
        Ok(Connector { with, auth, secrets, templates, client: HttpClient::new(reach)?, plan })
    }

    /// How many deliveries one request takes at most, of the operation that takes most.
    pub fn batch_max(&self) -> usize {
        let max = |operation: &Operation| operation.batch.as_ref().map_or(1, |batch| batch.max as usize);
        self.plan.operations.iter().map(max).max().unwrap_or(1)
    }

    /// The operation that a body asks for.
    fn operation(&self, body: &Value) -> Result<usize, String> {
        if let [Operation { name: None, .. }] = &self.plan.operations[..] {
            return Ok(0);
        }
        let wanted = body["op"].as_str();
        let found = self.plan.operations.iter().position(|operation| operation.name.as_deref() == wanted);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.plan.operations.iter().filter_map(|o| o.name.as_deref()).collect();
            format!("the body's `op` is one of {}", names.join(", "))
        })
    }

    fn part<'d>(&self, place: usize, delivery: &'d Delivery) -> Result<(Frame, Part<'d>), String> {
        let body: Value = serde_json::from_str(&delivery.body).map_err(|_| "the body is no JSON".to_string())?;
        let index = self.operation(&body)?;
        let operation = &self.plan.operations[index];
        if let Some(missing) = operation.needs.iter().find(|key| body.get(key).is_none_or(Value::is_null)) {
            return Err(format!("the body has no `{missing}`"));
        }
        let mut scope = json!({ "delivery": context(delivery), "body": body, "with": self.with });
        if let Some(refusal) = operation.refuse.iter().find(|refusal| self.templates.holds(&refusal.when, &scope)) {
            return Err(refusal.because.clone());
        }
        let item = match &operation.batch {
            Some(batch) => self.templates.json(&batch.item, &scope)?.unwrap_or_default(),
            None => Value::Null,
        };
        scope["items"] = json!([]);
        let mut headers = Vec::with_capacity(operation.headers.len());
        for (name, value) in &operation.headers {
            headers.push((name.clone(), self.templates.text(value, &scope)?));
        }
        let frame = Frame {
            operation: index,
            url: self.templates.url(&operation.url, &scope)?,
            headers,
            body: operation.body.as_ref().map(|body| self.templates.json(body, &scope)).transpose()?.flatten(),
        };
        Ok((frame, Part { place, delivery, body, item }))
    }

    /// The deliveries as groups that go into one request each, in order; those that cannot be sent have their outcome.
    fn groups<'d>(&self, deliveries: &[&'d Delivery], outcomes: &mut [Option<Outcome>]) -> Vec<Group<'d>> {
        let mut groups: Vec<Group> = Vec::new();
        for (place, delivery) in deliveries.iter().enumerate() {
            let (frame, part) = match self.part(place, delivery) {
                Ok(made) => made,
                Err(detail) => {
                    outcomes[place] = Some(Outcome::Failed(self.without_secrets(detail)));
                    continue;
                }
            };
            let max = self.plan.operations[frame.operation].batch.as_ref().map_or(1, |batch| batch.max as usize);
            let person = |group: &Group| group.parts.iter().any(|p| p.delivery.lane == delivery.lane);
            let after = groups.iter().rposition(person).map_or(0, |group| group + 1);
            let room = |group: &&mut Group| group.frame == frame && group.parts.len() < max;
            match groups[after..].iter_mut().find(room) {
                Some(group) => group.parts.push(part),
                None => groups.push(Group { frame, parts: vec![part] }),
            }
        }
        groups
    }

    /// Sends a group; where the vendor refuses it as a whole, its halves, to find which of them is at fault.
    async fn send_group(&self, group: Group<'_>, now: TimeUs, outcomes: &mut [Option<Outcome>]) {
        const OF_ONE: [u16; 4] = [400, 409, 413, 422];
        let Group { frame, parts } = group;
        let mut pending = vec![parts];
        while let Some(mut parts) = pending.pop() {
            let (status, judged) = self.request(&frame, &parts, now).await;
            let splits = parts.len() > 1 && status.is_none_or(|status| OF_ONE.contains(&status.as_u16()));
            if splits && matches!(judged, Judged::All(Outcome::Failed(_))) {
                let second = parts.split_off(parts.len() / 2);
                pending.extend([second, parts]);
                continue;
            }
            for (index, part) in parts.iter().enumerate() {
                let outcome = match &judged {
                    Judged::All(outcome) => outcome.clone(),
                    Judged::Each(each) => each[index].clone(),
                };
                outcomes[part.place] = Some(self.told(outcome));
            }
        }
    }

    /// One request, once more where the token was refused. No status where there was no answer.
    async fn request(&self, frame: &Frame, parts: &[Part<'_>], now: TimeUs) -> (Option<StatusCode>, Judged) {
        let operation = &self.plan.operations[frame.operation];
        let later = |detail: String| Judged::All(Outcome::Retry { detail, after: None });
        let mut renewed = false;
        loop {
            let request = match self.build(frame, parts) {
                Ok(request) => request,
                Err(detail) => return (None, Judged::All(Outcome::Failed(detail))),
            };
            let (request, token) = match self.auth.sign(request, &self.client, now).await {
                Ok(signed) => signed,
                Err(AuthError::Later(detail)) => return (Some(StatusCode::UNAUTHORIZED), later(detail)),
                Err(AuthError::Refused(detail)) => return (None, Judged::All(Outcome::Failed(detail))),
            };
            let answer: Answer = match self.client.send(request).await {
                Ok(answer) => answer,
                Err(NoAnswer::Refused(detail)) => return (None, Judged::All(Outcome::Failed(detail))),
                Err(NoAnswer::NotSent(detail)) => return (None, later(detail)),
                Err(NoAnswer::Lost(detail)) if operation.drops_repeats => return (None, later(detail)),
                Err(NoAnswer::Lost(detail)) => {
                    let said = format!("it was sent and not answered, so it may have been taken: {detail}");
                    return (None, Judged::All(Outcome::Uncertain(said)));
                }
            };
            if answer.status == StatusCode::UNAUTHORIZED && !renewed && self.auth.forget(&token).await {
                renewed = true;
                continue;
            }
            let judged = answer::judge(&self.plan, operation, &self.templates, &answer, parts, now);
            return (Some(answer.status), judged);
        }
    }

    fn build(&self, frame: &Frame, parts: &[Part<'_>]) -> Result<Request, String> {
        let operation = &self.plan.operations[frame.operation];
        let url = Url::parse(&frame.url).map_err(|error| format!("the address cannot be called: {error}"))?;
        let method =
            Method::from_bytes(operation.method.as_bytes()).map_err(|_| "there is no such method".to_string())?;
        let mut headers = HeaderMap::new();
        for (name, value) in &frame.headers {
            let wrong = || format!("the header `{name}` cannot be sent");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let body = match (&operation.body, parts) {
            (Some(template), [first, ..]) if operation.batch.is_some() => {
                let items: Vec<&Value> = parts.iter().map(|part| &part.item).collect();
                let (delivery, body) = (context(first.delivery), &first.body);
                let scope = json!({ "delivery": delivery, "body": body, "with": self.with, "items": items });
                self.templates.json(template, &scope)?
            }
            _ => frame.body.clone(),
        };
        let body = match (body, operation.encode) {
            (None, _) => String::new(),
            (Some(body), Encode::Json) => {
                headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
                body.to_string()
            }
            (Some(body), Encode::Form) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                form(&body)?
            }
        };
        Ok(Request { method, url, headers, body })
    }

    fn told(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Sent(detail) => Outcome::Sent(self.without_secrets(detail)),
            Outcome::Retry { detail, after } => Outcome::Retry { detail: self.without_secrets(detail), after },
            Outcome::Failed(detail) => Outcome::Failed(self.without_secrets(detail)),
            Outcome::Uncertain(detail) => Outcome::Uncertain(self.without_secrets(detail)),
            skipped @ Outcome::Skipped(_) => skipped,
        }
    }

    /// Vendors repeat what they were sent in what they say about it.
    fn without_secrets(&self, detail: String) -> String {
        let token = self.auth.token_now();
        self.secrets.iter().chain(&token).fold(detail, |text, secret| text.replace(secret.as_str(), "***"))
    }
}

#[async_trait]
impl Destination for Connector {
    async fn send(&self, delivery: &Delivery, attempted_at: TimeUs) -> Outcome {
        let outcomes = self.send_batch(&[delivery], attempted_at).await;
        outcomes.into_iter().next().unwrap_or_else(nothing_sent)
    }

    async fn send_batch(&self, deliveries: &[&Delivery], attempted_at: TimeUs) -> Vec<Outcome> {
        let mut outcomes = vec![None; deliveries.len()];
        for group in self.groups(deliveries, &mut outcomes) {
            self.send_group(group, attempted_at, &mut outcomes).await;
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(nothing_sent)).collect()
    }

    fn drops_repeats(&self) -> bool {
        self.plan.operations.iter().all(|operation| operation.drops_repeats)
    }
}

fn nothing_sent() -> Outcome {
    Outcome::Retry { detail: "nothing was sent".to_string(), after: None }
}

/// An object as a form: texts as they are, anything else as JSON.
fn form(body: &Value) -> Result<String, String> {
    let Value::Object(entries) = body else { return Err("the body of a form is an object".to_string()) };
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in entries {
        match value {
            Value::String(text) => form.append_pair(key, text),
            other => form.append_pair(key, &other.to_string()),
        };
    }
    Ok(form.finish())
}
