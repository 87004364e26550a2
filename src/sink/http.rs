//! The HTTP client of destinations: guarded addresses, no redirects (one could lead inside), no proxy, bounded time,
//! bounded bodies in both directions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::delivery::retry_after;
use super::guard::{Reach, ReachError};
use crate::event::TimeUs;
use crate::failpoint::{self, Point};

/// Until there is a connection. How long a request may take as a whole is up to who sends it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer's body may take; what has come by then counts.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// No receiver takes more, and a body of this size is a mistake in a definition.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

const AGENT: &str = concat!("tributary/", env!("CARGO_PKG_VERSION"));

pub struct HttpClient {
    client: Client,
    reach: Reach,
}

pub struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: String,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// At most 64 KiB; what is no UTF-8 is replaced.
    pub body: String,
    /// False where the body was longer, or did not end in time.
    pub whole: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NoAnswer {
    /// It can never be sent as it is.
    #[error("{0}")]
    Refused(String),
    /// Nothing has reached the other side.
    #[error("{0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("{0}")]
    Lost(String),
}

impl HttpClient {
    /// # Errors
    /// TLS cannot be set up, as a text.
    pub fn new(reach: Reach) -> Result<HttpClient, String> {
        let guarded = Arc::new(Guarded(reach.clone()));
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).connect_timeout(CONNECT_TIMEOUT);
        let client = client.no_proxy().dns_resolver(guarded).build();
        let client = client.map_err(|error| format!("the HTTP client cannot be made: {error}"))?;
        Ok(HttpClient { client, reach })
    }

    /// Sends one request. Any status is an answer.
    ///
    /// # Errors
    /// None came.
    pub async fn send(&self, request: Request) -> Result<Answer, NoAnswer> {
        Ok(read(self.request(request).await?).await)
    }

    /// [`HttpClient::send`], of whose answer only the status and the headers count: its body is left empty.
    ///
    /// # Errors
    /// None came.
    pub async fn send_for_status(&self, request: Request) -> Result<Answer, NoAnswer> {
        let response = self.request(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: String::new(), whole: false })
    }

    async fn request(&self, request: Request) -> Result<Response, NoAnswer> {
        let Request { method, url, headers, body } = request;
        if body.len() > REQUEST_BYTES_MAX {
            let mib = REQUEST_BYTES_MAX >> 20;
            return Err(NoAnswer::Refused(format!("the body has {} bytes; at most {mib} MiB are sent", body.len())));
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(NoAnswer::Refused("only http and https can be called".to_string()));
        }
        // The resolver is not asked about a literal address.
        if let Some(host) = url.host_str().filter(|_| !matches!(url.host(), Some(url::Host::Domain(_))))
            && let Err(error @ ReachError::Inside(_)) = self.reach.resolve(host, 0).await
        {
            return Err(NoAnswer::Refused(error.to_string()));
        }
        let request = self.client.request(method, url).header(USER_AGENT, AGENT).headers(headers).body(body);
        failpoint::waiting(Point::RequestSent, request.send()).await.map_err(|error| {
            let not_sent = error.is_connect() || error.is_builder();
            // `without_url`: the address may carry a token.
            let said = describe(&error.without_url());
            if not_sent { NoAnswer::NotSent(said) } else { NoAnswer::Lost(said) }
        })
    }
}

async fn read(mut response: Response) -> Answer {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    let whole = tokio::time::timeout(ANSWER_TIMEOUT, async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = ANSWER_BYTES_MAX - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return false;
            }
        }
        true
    });
    let whole = whole.await.unwrap_or(false);
    Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned(), whole }
}

impl Answer {
    /// What `Retry-After` asks for: seconds, or a date (RFC 9110), as a wait from `now`.
    pub fn retry_after(&self, now: TimeUs) -> Option<Duration> {
        retry_after(self.headers.get(RETRY_AFTER)?.to_str().ok()?, now)
    }
}

/// The innermost cause says what happened ("connection refused"); the outer ones only that a request failed.
fn describe(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_timeout() && error.is_connect() {
        return format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
    }
    cause.to_string()
}

/// Resolves names and keeps only the addresses that may be called.
struct Guarded(Reach);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, host) = (self.0.clone(), name.as_str().to_string());
        Box::pin(async move {
            let found: Vec<SocketAddr> = reach.resolve(&host, 0).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(allow_private: bool) -> HttpClient {
        let _ = rustls::crypto::ring::default_provider().install_default();
        HttpClient::new(Reach::new(allow_private, Arc::default())).unwrap()
    }

    fn post(url: &str, body: &str) -> Request {
        Request {
            method: Method::POST,
            url: Url::parse(url).unwrap(),
            headers: HeaderMap::new(),
            body: body.to_string(),
        }
    }

    /// A server that answers every connection with these bytes, then says nothing more.
    async fn server(answer: &'static [u8], close: bool) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
                if !close {
                    held.push(stream);
                }
            }
        });
        format!("http://{address}/hook")
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_told_from_what_may_have_arrived() {
        let inside = client(false);
        for url in ["http://127.0.0.1:9/", "http://[::1]/", "http://169.254.169.254/latest/meta-data"] {
            assert!(matches!(inside.send(post(url, "{}")).await, Err(NoAnswer::Refused(_))), "{url}");
        }
        // A name is looked up anew each time, so it may lead outside later.
        assert!(matches!(inside.send(post("http://localhost/", "{}")).await, Err(NoAnswer::NotSent(_))));
        let any = client(true);
        assert!(matches!(any.send(post("http://127.0.0.1:9/", "{}")).await, Err(NoAnswer::NotSent(_))));
        let large = "x".repeat(REQUEST_BYTES_MAX + 1);
        let refused = any.send(post("http://127.0.0.1:9/", &large)).await.err().unwrap();
        assert_eq!(refused.to_string(), "the body has 4194305 bytes; at most 4 MiB are sent");
        let cut = server(b"", true).await;
        assert!(matches!(any.send(post(&cut, "{}")).await, Err(NoAnswer::Lost(_))));
    }

    #[tokio::test]
    async fn an_answer_is_read_as_far_as_it_may_be() {
        let any = client(true);
        let redirect =
            server(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n", false);
        assert_eq!(any.send(post(&redirect.await, "{}")).await.ok().unwrap().status.as_u16(), 302);
        let slow = server(b"HTTP/1.1 400 Bad\r\ncontent-length: 100\r\n\r\npart", false).await;
        let answer = any.send(post(&slow, "{}")).await.ok().unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.as_str(), answer.whole), (400, "part", false));
        let long: &[u8] = Box::leak(
            format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", "y".repeat(100_000)).into_bytes().into(),
        );
        let answer = any.send(post(&server(long, false).await, "{}")).await.ok().unwrap();
        assert_eq!((answer.body.len(), answer.whole), (ANSWER_BYTES_MAX, false));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let answer = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            Answer { status: StatusCode::TOO_MANY_REQUESTS, headers, body: String::new(), whole: true }
        };
        let now = 784_887_151_000_000; // Tue, 15 Nov 1994 08:12:31 GMT
        let rows = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Tue, 15 Nov 1994 08:13:31 GMT", Some(60)),
            ("Tue, 15 Nov 1994 08:11:31 GMT", Some(0)),
            ("soon", None),
            ("-3", None),
        ];
        for (value, seconds) in rows {
            assert_eq!(answer(value).retry_after(now), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
