//! E-mail by SMTP. The sealed body is `{to, subject, text, html?, from?, reply_to?, headers?, unsubscribe?}`; the message is made of
//! it and of the definition alone, so that a repeat is the same to the byte.
//!
//! A server does not know repeats. What is lost before the message was sent is tried again; what is lost after it is
//! [`Outcome::Uncertain`]. Connections are kept for the next message.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lettre::Address;
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MessageBuilder, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::{Error as SmtpError, response::Response};
use serde::Deserialize;
use serde_json::json;

use super::guard::{Reach, ReachError};
use super::template::{Templates, context};
use super::{Destination, Outcome};
use crate::activation::{Delivery, EmailPlan, MailTls};
use crate::event::TimeUs;
use crate::failpoint::{self, Point};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// For the answer to the message itself: RFC 5321 lets a server take ten minutes.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(120);
/// Connections that are kept while nothing is sent.
const IDLE_MAX: usize = 4;

/// Headers that are made here or on the way, and that a body cannot set.
const OURS: [&str; 15] = [
    "from",
    "sender",
    "to",
    "cc",
    "bcc",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "reply-to",
    "return-path",
    "received",
    "dkim-signature",
    "list-unsubscribe",
    "list-unsubscribe-post",
];

/// A mail server.
pub struct Email {
    plan: EmailPlan,
    host: String,
    port: u16,
    from: Mailbox,
    reply_to: Option<Mailbox>,
    tls: Option<TlsParameters>,
    reach: Reach,
    templates: Templates,
    idle: Mutex<Vec<AsyncSmtpConnection>>,
}

/// The destination cannot be used as it is defined.
#[derive(Debug, thiserror::Error)]
pub enum EmailError {
    #[error("`{0}` is no mail server: write smtp://host:587 or smtps://host:465")]
    Server(String),
    #[error("`{0}` is no mail address")]
    Address(String),
    #[error("{0}")]
    Tls(String),
}

/// What a step sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    to: String,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    from: Option<String>,
    reply_to: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    unsubscribe: Option<String>,
}

/// Where it went wrong, and so whether it can be tried again.
enum Failure {
    /// The server says no for good.
    Refused(String),
    Later(String),
    /// The message is out and nobody knows.
    Lost(String),
}

impl Email {
    /// Connects when something is sent.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn new(plan: EmailPlan, reach: Reach) -> Result<Email, EmailError> {
        let (host, port, implicit) = server(&plan.smtp).ok_or_else(|| EmailError::Server(plan.smtp.clone()))?;
        let from = mailbox(&plan.from).ok_or_else(|| EmailError::Address(plan.from.clone()))?;
        let wrong = |text: &String| mailbox(text).ok_or_else(|| EmailError::Address(text.clone()));
        let reply_to = plan.reply_to.as_ref().map(wrong).transpose()?;
        let tls = if implicit || plan.tls != MailTls::None { Some(tls_of(&plan, &host)?) } else { None };
        Ok(Email {
            host,
            port,
            from,
            reply_to,
            tls,
            reach,
            templates: Templates::default(),
            idle: Mutex::default(),
            plan,
        })
    }

    /// The message of a delivery, with whom it is from and to; what is wrong with it otherwise.
    fn message(&self, delivery: &Delivery) -> Result<Message, String> {
        let body: Body =
            serde_json::from_str(&delivery.body).map_err(|error| format!("the body is no mail: {error}"))?;
        let address = |text: &str| mailbox(text).ok_or_else(|| format!("`{text}` is no mail address"));
        let from = body.from.as_deref().map(address).transpose()?.unwrap_or_else(|| self.from.clone());
        let reply_to = body.reply_to.as_deref().map(address).transpose()?.or_else(|| self.reply_to.clone());
        let sent = SystemTime::UNIX_EPOCH + Duration::from_micros(delivery.created_at.max(0) as u64);
        // The id of the delivery, so that mail systems that know repeats see one.
        let id = format!("<{}@{}>", delivery.id, from.email.domain());
        let mut message = Message::builder()
            .from(from)
            .to(address(&body.to)?)
            .raw_header(unstructured(header_name("Subject")?, one_line(&body.subject).trim()))
            .date(sent)
            .message_id(Some(id));
        if let Some(reply_to) = reply_to {
            message = message.reply_to(reply_to);
        }
        if let Some(unsubscribe) = self.unsubscribe(delivery, body.unsubscribe.as_deref())? {
            message = one_click(message, &unsubscribe)?;
        }
        for (name, value) in &body.headers {
            let known = name.to_ascii_lowercase();
            if OURS.contains(&known.as_str()) || known.starts_with("content-") {
                return Err(format!("the header `{name}` cannot be set by a body"));
            }
            if value.chars().any(char::is_control) {
                return Err(format!("the header `{name}` has a line break or another control character in it"));
            }
            message = message.raw_header(unstructured(header_name(name)?, value));
        }
        let failed = |error: lettre::error::Error| error.to_string();
        match (body.text, body.html) {
            (Some(text), None) => message.singlepart(SinglePart::plain(text)).map_err(failed),
            (None, Some(html)) => message.singlepart(SinglePart::html(html)).map_err(failed),
            (Some(text), Some(html)) => {
                // The boundary follows from the id: a repeat is the same message. It cannot occur in an encoded part, whose
                // lines never begin with two dashes and 32 digits of a hash of something else.
                let boundary = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(delivery.id.as_bytes()));
                let both = MultiPart::alternative().boundary(boundary);
                let both = both.singlepart(SinglePart::plain(text)).singlepart(SinglePart::html(html));
                message.multipart(both).map_err(failed)
            }
            (None, None) => Err("the body has neither `text` nor `html`".to_string()),
        }
    }

    /// The address of one click: the body's, or else the destination's.
    fn unsubscribe(&self, delivery: &Delivery, of_body: Option<&str>) -> Result<Option<String>, String> {
        let url = match (of_body, &self.plan.unsubscribe) {
            (Some(url), _) => url.to_string(),
            (None, Some(template)) => {
                let body: serde_json::Value = serde_json::from_str(&delivery.body).unwrap_or_default();
                let context = json!({ "delivery": context(delivery), "body": body });
                self.templates.url(template, &context).map_err(|error| format!("unsubscribe: {error}"))?
            }
            (None, None) => return Ok(None),
        };
        let parsed = url::Url::parse(&url).ok().filter(|url| url.scheme() == "https");
        let parsed = parsed.ok_or_else(|| format!("unsubscribe: `{url}` is no https address, which RFC 8058 wants"))?;
        Ok(Some(parsed.to_string()))
    }

    async fn transfer(&self, message: &Message) -> Result<String, Failure> {
        let mut connection = self.begin(message.envelope()).await?;
        for to in message.envelope().to() {
            command(connection.command(Rcpt::new(to.clone(), vec![]))).await?;
        }
        command(connection.command(Data)).await?;
        let text = message.formatted();
        let answer = failpoint::waiting(Point::RequestSent, connection.message(&text));
        let response = match tokio::time::timeout(MESSAGE_TIMEOUT, answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.status().is_some() => return Err(judge(&error)),
            Ok(Err(error)) => return Err(Failure::Lost(error.to_string())),
            Err(_) => return Err(Failure::Lost(format!("no answer within {} s", MESSAGE_TIMEOUT.as_secs()))),
        };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(said(&response))
    }

    /// A connection on which the server has taken the sender. One that was kept may be gone by now, and then another
    /// is made: nothing has been sent yet.
    async fn begin(&self, envelope: &Envelope) -> Result<AsyncSmtpConnection, Failure> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut connection) = kept {
            let mail = mail(&connection, envelope)?;
            match command(connection.command(mail)).await {
                Ok(_) => return Ok(connection),
                Err(Failure::Refused(said)) => return Err(Failure::Refused(said)),
                Err(_) => connection.abort().await,
            }
        }
        let mut connection = self.connect().await?;
        let mail = mail(&connection, envelope)?;
        command(connection.command(mail)).await?;
        Ok(connection)
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Failure> {
        let later = |said: String| Failure::Later(said);
        let addresses = self.reach.resolve(&self.host, self.port).await.map_err(|error| match error {
            ReachError::Inside(_) if self.host.parse::<std::net::IpAddr>().is_ok() => {
                Failure::Refused(error.to_string())
            }
            _ => Failure::Later(error.to_string()),
        })?;
        let implicit = self.plan.smtp.starts_with("smtps:");
        let tls = self.tls.clone().filter(|_| implicit);
        // What a server checks first is whether this name exists; that of the sender's domain does.
        let hello = ClientId::Domain(self.from.email.domain().to_string());
        let connecting = AsyncSmtpConnection::connect_tokio1(&addresses[..], Some(CONNECT_TIMEOUT), &hello, tls, None);
        let mut connection = within(connecting).await.map_err(|error| later(error_text(error)))?;
        if !implicit && let Some(tls) = &self.tls {
            let offered = connection.can_starttls();
            if offered {
                within(connection.starttls(tls.clone(), &hello)).await.map_err(|error| later(error_text(error)))?;
            } else if self.plan.tls == MailTls::Required {
                connection.abort().await;
                return Err(later(
                    "the server offers no STARTTLS; set tls: opportunistic or none to do without".into(),
                ));
            }
        }
        if let Some((user, password)) = self.plan.user.clone().zip(self.plan.password.clone()) {
            if !connection.is_encrypted() && self.plan.tls != MailTls::None {
                connection.abort().await;
                return Err(later("a password is not sent over a connection without TLS".to_string()));
            }
            let credentials = Credentials::new(user, password);
            // Rights are for an operator to mend, and the delivery waits for that.
            let signed_in = within(connection.auth(DEFAULT_MECHANISMS, &credentials)).await;
            signed_in.map_err(|error| later(format!("signing in: {}", error_text(error))))?;
        }
        Ok(connection)
    }
}

#[async_trait]
impl Destination for Email {
    async fn send(&self, delivery: &Delivery, _attempted_at: TimeUs) -> Outcome {
        let message = match self.message(delivery) {
            Ok(message) => message,
            Err(detail) => return Outcome::Failed(detail),
        };
        match self.transfer(&message).await {
            Ok(detail) => Outcome::Sent(detail),
            Err(Failure::Refused(detail)) => Outcome::Failed(detail),
            Err(Failure::Later(detail)) => Outcome::Retry { detail, after: None },
            Err(Failure::Lost(detail)) => {
                Outcome::Uncertain(format!("the message was sent and not answered, so it may have arrived: {detail}"))
            }
        }
    }

    fn drops_repeats(&self) -> bool {
        false
    }
}

/// Host, port and whether TLS begins at once.
pub fn server(text: &str) -> Option<(String, u16, bool)> {
    let url = url::Url::parse(text).ok()?;
    let implicit = match url.scheme() {
        "smtp" => false,
        "smtps" => true,
        _ => return None,
    };
    let plain = url.username().is_empty() && url.password().is_none() && matches!(url.path(), "" | "/");
    let host = url.host_str().filter(|host| plain && !host.is_empty())?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
    Some((host, url.port().unwrap_or(if implicit { 465 } else { 587 }), implicit))
}

/// `ann@x.example` or `Ann Lee <ann@x.example>`: before the last `<` anything is a name, also with commas and dots, since
/// names of people come from templates. Names of domains in their ASCII form. None where it is no address.
pub fn mailbox(text: &str) -> Option<Mailbox> {
    if text.chars().any(char::is_control) {
        return None;
    }
    let text = text.trim();
    let (name, address) = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, address)) => (unquoted(name.trim()), address.trim()),
        None => (String::new(), text),
    };
    let (user, domain) = address.rsplit_once('@')?;
    let domain = match url::Host::parse(domain) {
        Ok(url::Host::Domain(domain)) => domain,
        // `user@[10.0.0.1]`
        _ => domain.to_string(),
    };
    let email = Address::new(user, domain).ok()?;
    Some(Mailbox::new(Some(name).filter(|name| !name.is_empty()), email))
}

/// Without quotes around it, and the escapes that they need.
fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => name.to_string(),
    }
}

fn tls_of(plan: &EmailPlan, host: &str) -> Result<TlsParameters, EmailError> {
    let mut builder = TlsParameters::builder(host.to_string());
    if let Some(path) = &plan.ca {
        let wrong = |error: &dyn std::fmt::Display| EmailError::Tls(format!("{}: {error}", path.display()));
        let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| wrong(&error))?);
    }
    builder.build_rustls().map_err(|error| EmailError::Tls(error.to_string()))
}

/// RFC 8058: the address in `List-Unsubscribe`, and that a POST to it suffices.
fn one_click(message: MessageBuilder, url: &str) -> Result<MessageBuilder, String> {
    const URL_MAX: usize = 900;
    if url.len() > URL_MAX {
        return Err(format!("unsubscribe: an address of {} bytes does not fit a header's line", url.len()));
    }
    // A parsed address is plain ASCII without blanks, and must not be folded.
    let value = format!("<{url}>");
    let list = HeaderValue::dangerous_new_pre_encoded(header_name("List-Unsubscribe")?, value.clone(), value);
    let post = header_name("List-Unsubscribe-Post")?;
    let post = HeaderValue::new(post, "List-Unsubscribe=One-Click".to_string());
    Ok(message.raw_header(list).raw_header(post))
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    let plain = !name.is_empty() && name.len() < 77 && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    let wrong = || format!("`{name}` cannot be the name of a header");
    if !plain {
        return Err(wrong());
    }
    HeaderName::new_from_ascii(name.to_string()).map_err(|_| wrong())
}

/// A header's value, encoded where it is not plain. What looks like an encoded word and is none (`=?utf-8?q?x?=` in somebody's
/// name) lettre leaves as it is, and readers would decode it: so that is encoded here.
fn unstructured(name: HeaderName, text: &str) -> HeaderValue {
    /// So many bytes make a word that fits a line of 76 with the name `Subject`.
    const WORD_BYTES: usize = 39;
    if !text.contains("=?") {
        return HeaderValue::new(name, text.to_string());
    }
    let mut words: Vec<String> = vec![String::new()];
    for c in text.chars() {
        if words.last().is_some_and(|word| word.len() + c.len_utf8() > WORD_BYTES) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let encoded: Vec<String> = words.iter().map(|word| format!("=?utf-8?b?{}?=", STANDARD.encode(word))).collect();
    HeaderValue::dangerous_new_pre_encoded(name, text.to_string(), encoded.join("\r\n "))
}

/// Line breaks and other control characters become blanks: a name with one in it must not stop its mail.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `MAIL FROM`, with what the message needs of the server.
fn mail(connection: &AsyncSmtpConnection, envelope: &Envelope) -> Result<Mail, Failure> {
    let mut parameters = Vec::new();
    let ascii = envelope
        .to()
        .iter()
        .chain(envelope.from())
        .all(|address| address.user().is_ascii() && address.domain().is_ascii());
    if !ascii {
        if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            let said = "the address is not ASCII, and the server does not take such (SMTPUTF8)";
            return Err(Failure::Refused(said.to_string()));
        }
        parameters.extend([MailParameter::SmtpUtfEight, MailParameter::Body(MailBodyParameter::EightBitMime)]);
    }
    Ok(Mail::new(envelope.from().cloned(), parameters))
}

/// A command before the message: whatever goes wrong, nothing has been sent.
async fn command(answer: impl Future<Output = Result<Response, SmtpError>>) -> Result<Response, Failure> {
    match tokio::time::timeout(COMMAND_TIMEOUT, answer).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(judge(&error)),
        Err(_) => Err(Failure::Later(format!("no answer within {} s", COMMAND_TIMEOUT.as_secs()))),
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, SmtpError>>) -> Result<T, Option<SmtpError>> {
    match tokio::time::timeout(COMMAND_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(Some),
        Err(_) => Err(None),
    }
}

fn error_text(error: Option<SmtpError>) -> String {
    error.map_or_else(|| format!("no answer within {} s", COMMAND_TIMEOUT.as_secs()), |error| describe(&error))
}

/// What an answer means, in one place. 4xx: later. 5xx: never, but for those about signing in, which an operator can
/// mend. Without an answer: later.
fn judge(error: &SmtpError) -> Failure {
    const SIGN_IN: [u16; 4] = [530, 534, 535, 538];
    match error.status().map(u16::from) {
        Some(code) if code >= 500 && !SIGN_IN.contains(&code) => Failure::Refused(describe(error)),
        _ => Failure::Later(describe(error)),
    }
}

/// `SMTP 550: no such user`, or the innermost cause.
fn describe(error: &SmtpError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match error.status() {
        Some(code) => format!("SMTP {code}: {}", one_line(&cause.to_string())),
        None => cause.to_string(),
    }
}

fn said(response: &Response) -> String {
    format!("SMTP {}: {}", response.code(), one_line(response.first_line().unwrap_or_default()))
}
