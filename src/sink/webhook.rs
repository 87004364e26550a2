//! Webhooks by the Standard Webhooks text: `webhook-id`, `webhook-timestamp`, `webhook-signature` over
//! `id.timestamp.body` with HMAC-SHA-256. Redirects are off, and addresses inside (loopback, private, link-local, …)
//! are refused when connecting, after DNS, unless the operator allows them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, StatusCode, Url};

use super::delivery::{Destination, Outcome, retry_after};
use crate::activation::Delivery;
use crate::clock;
use crate::event::TimeUs;
use crate::failpoint::{self, Point};

/// A receiver of webhooks.
pub struct Webhook {
    url: Url,
    key: Option<Vec<u8>>,
    headers: BTreeMap<String, String>,
    allow_private: bool,
    client: Client,
}

/// The destination cannot be used as it is defined.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("{url} is not an http or https address")]
    Url { url: String },
    #[error("the signing secret is not base64 after `whsec_`")]
    Secret,
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

impl Webhook {
    pub fn new(
        url: &str,
        secret: Option<&str>,
        headers: BTreeMap<String, String>,
        allow_private: bool,
    ) -> Result<Webhook, WebhookError> {
        let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = parsed.ok_or_else(|| WebhookError::Url { url: url.to_string() })?;
        let key = secret.map(signing_key).transpose()?;
        let mut client = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        if !allow_private {
            client = client.dns_resolver(Arc::new(PublicOnly));
        }
        let client = client.build().map_err(|error| WebhookError::Client(error.to_string()))?;
        Ok(Webhook { url, key, headers, allow_private, client })
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
        let literal = self.url.host().and_then(|host| match host {
            url::Host::Ipv4(address) => Some(IpAddr::V4(address)),
            url::Host::Ipv6(address) => Some(IpAddr::V6(address)),
            url::Host::Domain(_) => None,
        });
        if let Some(address) = literal.filter(|address| !self.allow_private && !is_public(*address)) {
            return Outcome::Failed(format!("{address} is an address inside; set allow_private: true to call it"));
        }
        let timestamp_s = attempted_at.div_euclid(1_000_000);
        let mut request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("user-agent", concat!("tributary/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &delivery.id)
            .header("webhook-timestamp", timestamp_s.to_string())
            .body(delivery.body.clone());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, &delivery.id, timestamp_s, &delivery.body));
        }
        match failpoint::waiting(Point::RequestSent, request.send()).await {
            Ok(response) => {
                let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                judge(response.status(), asked.and_then(|asked| retry_after(asked, clock::now_us())))
            }
            // `without_url`: the address may carry a token.
            Err(error) => Outcome::Retry { detail: describe(&error.without_url()), after: None },
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

/// The innermost cause says what happened ("connection refused"); the outer ones only that a request failed.
fn describe(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Resolves names and keeps only addresses outside.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_string();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let outside: Vec<SocketAddr> = found.into_iter().filter(|address| is_public(address.ip())).collect();
            if outside.is_empty() {
                return Err(format!("{host} has no address outside; set allow_private: true to call one inside").into());
            }
            Ok(Box::new(outside.into_iter()) as Addrs)
        })
    }
}

/// False for loopback, private, link-local, shared, multicast, reserved and unspecified addresses, and for those
/// IPv6 addresses that carry an IPv4 one (mapped, NAT64, 6to4) which is not public.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (18..20).contains(&b);
            let protocol = a == 192 && b == 0 && c == 0;
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || shared
                || benchmark
                || protocol)
        }
        IpAddr::V6(v6) => {
            let parts = v6.segments();
            if let Some(v4) = carried(v6) {
                return is_public(IpAddr::V4(v4));
            }
            let unique_local = parts[0] & 0xfe00 == 0xfc00;
            let link_local = parts[0] & 0xffc0 == 0xfe80;
            let documentation = parts[0] == 0x2001 && parts[1] == 0xdb8;
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || unique_local
                || link_local
                || documentation)
        }
    }
}

fn carried(v6: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let parts = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        std::net::Ipv4Addr::new(a, b, c, d)
    };
    match parts {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
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
                Outcome::Failed(_) | Outcome::Uncertain(_) => "failed",
            };
            assert_eq!(outcome, expected, "{status}");
        }
    }

    #[test]
    fn addresses_inside_are_refused() {
        let inside = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "fc00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "ff02::1",
        ];
        for address in inside {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
