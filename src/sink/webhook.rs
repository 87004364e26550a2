//! Webhooks by the Standard Webhooks text: `webhook-id`, `webhook-timestamp`, `webhook-signature` over
//! `id.timestamp.body` with HMAC-SHA-256, one signature for each secret while keys are changed.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};

use super::delivery::{Destination, Outcome};
use super::guard::Reach;
use super::http::{HttpClient, NoAnswer, Request};
use crate::activation::Delivery;
use crate::event::TimeUs;

/// A receiver of webhooks.
pub struct Webhook {
    url: Url,
    /// Each of them signs.
    keys: Vec<Vec<u8>>,
    headers: HeaderMap,
    client: HttpClient,
}

/// The destination cannot be used as it is defined.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("{url} is not an http or https address")]
    Url { url: String },
    #[error("the signing secret is not base64 after `whsec_`")]
    Secret,
    #[error("the header `{0}` cannot be sent")]
    Header(String),
    #[error("{0}")]
    Client(String),
}

impl Webhook {
    /// `secrets`: none for unsigned requests; of several the first is the new one, and the others sign until all
    /// receivers know it.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn new(
        url: &str,
        secrets: &[String],
        headers: &BTreeMap<String, String>,
        reach: Reach,
    ) -> Result<Webhook, WebhookError> {
        let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = parsed.ok_or_else(|| WebhookError::Url { url: url.to_string() })?;
        let keys = secrets.iter().map(|secret| signing_key(secret)).collect::<Result<_, _>>()?;
        let mut sent = HeaderMap::new();
        sent.insert("content-type", HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let wrong = || WebhookError::Header(name.clone());
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            sent.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value);
        }
        let client = HttpClient::new(reach).map_err(WebhookError::Client)?;
        Ok(Webhook { url, keys, headers: sent, client })
    }

    /// The headers of one attempt: they are of the moment, the body is not.
    fn headers(&self, delivery: &Delivery, timestamp_s: i64) -> Option<HeaderMap> {
        let mut headers = self.headers.clone();
        headers.insert("webhook-id", delivery.id.parse().ok()?);
        headers.insert("webhook-timestamp", timestamp_s.into());
        if !self.keys.is_empty() {
            let sign = |key: &Vec<u8>| signature(key, &delivery.id, timestamp_s, &delivery.body);
            let all: Vec<String> = self.keys.iter().map(sign).collect();
            headers.insert("webhook-signature", all.join(" ").parse().ok()?);
        }
        Some(headers)
    }
}

/// `whsec_` and base64, as the text has it; any other text is taken as the key's bytes.
fn signing_key(secret: &str) -> Result<Vec<u8>, WebhookError> {
    match secret.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| WebhookError::Secret),
        None => Ok(secret.as_bytes().to_vec()),
    }
}

/// The value of `webhook-signature`: `v1,` and the base64 of HMAC-SHA-256 over `id.timestamp.body`.
pub fn signature(key: &[u8], id: &str, timestamp_s: i64, body: &str) -> String {
    let mut mac = match Hmac::<sha2::Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    mac.update(format!("{id}.{timestamp_s}.").as_bytes());
    mac.update(body.as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// True when the headers of a received webhook are signed with this secret. For receivers: the demo's, and tests.
pub fn verify(secret: &str, id: &str, timestamp_s: i64, body: &str, signatures: &str) -> bool {
    let Ok(key) = signing_key(secret) else { return false };
    let wanted = signature(&key, id, timestamp_s, body);
    signatures.split(' ').any(|given| given == wanted)
}

#[async_trait]
impl Destination for Webhook {
    async fn send(&self, delivery: &Delivery, attempted_at: TimeUs) -> Outcome {
        let Some(headers) = self.headers(delivery, attempted_at.div_euclid(1_000_000)) else {
            return Outcome::Failed("the delivery's id cannot stand in a header".to_string());
        };
        let (url, body) = (self.url.clone(), delivery.body.clone());
        match self.client.send_for_status(Request { method: Method::POST, url, headers, body }).await {
            Ok(answer) => judge(answer.status, answer.retry_after(attempted_at)),
            Err(NoAnswer::Refused(detail)) => Outcome::Failed(detail),
            // A repeat has the same id, by which a receiver drops it.
            Err(NoAnswer::NotSent(detail) | NoAnswer::Lost(detail)) => Outcome::Retry { detail, after: None },
        }
    }
}

/// What a status means, in one place. 2xx: taken. 410: the receiver is gone for good. 408, 429 and 5xx: later.
/// 3xx: a redirect is never followed (it could lead inside). Any other 4xx: it will not be taken next time either.
pub fn judge(status: StatusCode, retry_after: Option<Duration>) -> Outcome {
    let detail = format!("HTTP {}", status.as_u16());
    match status.as_u16() {
        200..=299 => Outcome::Sent(detail),
        408 | 425 | 429 | 500..=599 => Outcome::Retry { detail, after: retry_after },
        300..=399 => Outcome::Retry { detail: format!("{detail}: redirects are not followed"), after: None },
        _ => Outcome::Failed(detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks text.
    #[test]
    fn the_signature_is_that_of_the_standard_webhooks_example() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let (id, at, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, r#"{"test": 2432232314}"#);
        let given = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert!(verify(secret, id, at, body, given));
        assert!(verify(secret, id, at, body, &format!("v1,AAAA {given}")), "one of several");
        assert!(!verify(secret, id, at + 1, body, given), "another time");
        assert!(!verify(secret, id, at, "{}", given), "another body");
    }

    /// Standard Webhooks, "Signature scheme": signatures are space delimited, so that keys can be changed without downtime.
    #[test]
    fn while_keys_are_changed_every_one_signs() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_string(), "the old one".to_string()];
        let hook = Webhook::new("https://x.example/", &secrets, &BTreeMap::new(), Reach::default()).unwrap();
        let delivery = Delivery {
            id: "msg_1".into(),
            activation: "cart".into(),
            step: "remind".into(),
            destination: "crm".into(),
            profile_id: crate::event::ProfileId([7; 16]),
            lane: 7,
            body: "{}".into(),
            created_at: 0,
            dry_run: false,
            consent: None,
        };
        let headers = hook.headers(&delivery, 5).unwrap();
        let signatures = headers["webhook-signature"].to_str().unwrap();
        assert_eq!(signatures.split(' ').count(), 2, "{signatures}");
        assert!(secrets.iter().all(|secret| verify(secret, "msg_1", 5, "{}", signatures)));
        assert!(!verify("another", "msg_1", 5, "{}", signatures));
    }

    #[test]
    fn a_status_is_sent_retried_or_given_up() {
        let rows = [
            (200, "sent"),
            (204, "sent"),
            (301, "retry"),
            (400, "failed"),
            (404, "failed"),
            (408, "retry"),
            (410, "failed"),
            (429, "retry"),
            (500, "retry"),
            (503, "retry"),
        ];
        for (status, expected) in rows {
            let outcome = match judge(StatusCode::from_u16(status).unwrap(), None) {
                Outcome::Sent(_) => "sent",
                Outcome::Retry { .. } => "retry",
                Outcome::Failed(_) | Outcome::Uncertain(_) | Outcome::Skipped(_) => "failed",
            };
            assert_eq!(outcome, expected, "{status}");
        }
    }
}
