//! The other side of a webhook: checks every signature, keeps what came, and is out of order at first, so that repeats
//! are seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::sink::webhook;

/// Serves on a free port of this machine until it is dropped.
pub struct Receiver {
    address: SocketAddr,
    desk: Arc<Desk>,
    serving: JoinHandle<()>,
}

/// What has come in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    pub requests: u64,
    /// Answered with 500.
    pub refused: u64,
    /// Requests whose signature is not of this secret and body: answered with 401 and not kept.
    pub bad_signatures: u64,
    /// Requests with an id that had come before, and the same body.
    pub repeats: u64,
    /// Requests with an id that had come before, and another body: never, if all is well.
    pub changed: u64,
    /// Bodies of the messages that were taken, by id.
    pub messages: BTreeMap<String, String>,
}

struct Desk {
    secret: String,
    refuse_first: u64,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    received: Received,
    /// Every id that ever came, taken or not.
    bodies: BTreeMap<String, String>,
}

impl Receiver {
    /// Answers the first `refuse_first` well-signed requests with 500.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(secret: &str, refuse_first: u64) -> std::io::Result<Receiver> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let desk = Arc::new(Desk { secret: secret.to_string(), refuse_first, book: Mutex::default() });
        let router = Router::new().route("/hook", post(take)).with_state(desk.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Receiver { address, desk, serving })
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub fn received(&self) -> Received {
        self.desk.book.lock().unwrap_or_else(PoisonError::into_inner).received.clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: String) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let id = header("webhook-id").unwrap_or_default();
    let timestamp_s = header("webhook-timestamp").and_then(|text| text.parse().ok()).unwrap_or_default();
    let signatures = header("webhook-signature").unwrap_or_default();
    let mut book = desk.book.lock().unwrap_or_else(PoisonError::into_inner);
    book.received.requests += 1;
    if id.is_empty() || !webhook::verify(&desk.secret, id, timestamp_s, &body, signatures) {
        book.received.bad_signatures += 1;
        return StatusCode::UNAUTHORIZED;
    }
    match book.bodies.get(id).map(|known| *known == body) {
        Some(true) => book.received.repeats += 1,
        Some(false) => book.received.changed += 1,
        None => drop(book.bodies.insert(id.to_string(), body.clone())),
    }
    if book.received.refused < desk.refuse_first {
        book.received.refused += 1;
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    // A repeat of what was taken is taken again, and changes nothing: that is what the id is for.
    book.received.messages.entry(id.to_string()).or_insert(body);
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret of the test";
    const AT_S: i64 = 1_772_323_200;

    async fn send(receiver: &Receiver, id: &str, body: &str, signature: &str) -> u16 {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client
            .post(receiver.url())
            .header("webhook-id", id)
            .header("webhook-timestamp", AT_S.to_string())
            .header("webhook-signature", signature);
        request.body(body.to_string()).send().await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn a_wrong_signature_is_refused_and_not_kept() {
        let receiver = Receiver::start(SECRET, 0).await.unwrap();
        let right = webhook::signature(SECRET.as_bytes(), "m1", AT_S, "{}");
        let rows = [
            ("m1", "{}", webhook::signature(b"another secret", "m1", AT_S, "{}"), 401),
            ("m1", "{\"a\":1}", right.clone(), 401),
            ("m2", "{}", right.clone(), 401),
            ("m1", "{}", String::new(), 401),
            ("m1", "{}", right, 204),
        ];
        for (id, body, signature, expected) in rows {
            assert_eq!(send(&receiver, id, body, &signature).await, expected, "{id} {body} {signature}");
        }
        let received = receiver.received();
        assert_eq!((received.requests, received.bad_signatures, received.messages.len()), (5, 4, 1));
    }

    #[tokio::test]
    async fn a_repeat_is_counted_and_taken_once() {
        let receiver = Receiver::start(SECRET, 1).await.unwrap();
        let mut statuses = Vec::new();
        for body in ["{}", "{}", "{}", "{\"other\":true}"] {
            let signature = webhook::signature(SECRET.as_bytes(), "m1", AT_S, body);
            statuses.push(send(&receiver, "m1", body, &signature).await);
        }
        assert_eq!(statuses, [500, 204, 204, 204]);
        let received = receiver.received();
        assert_eq!((received.refused, received.repeats, received.changed), (1, 2, 1));
        assert_eq!(received.messages.values().collect::<Vec<_>>(), ["{}"], "the first body stays");
    }
}
