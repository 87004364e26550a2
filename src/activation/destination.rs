//! Destinations as they are defined, and the messages that go to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::connector::ConnectorPlan;
use super::redact::Redaction;
use crate::event::{ProfileId, TimeUs};

/// A checked destination.
#[derive(Debug, Clone)]
pub struct DestinationPlan {
    pub name: String,
    pub kind: DestinationKind,
    pub delivery: DeliveryPlan,
}

/// How deliveries go to a destination, whatever its kind.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryPlan {
    pub rate_limit: Option<RateLimit>,
    /// Requests that are under way at once, from 1.
    pub concurrency: usize,
    /// How long one request may take, with its answer.
    pub timeout: Duration,
    /// The attempts of one delivery span about so long; then it is given up.
    pub retry_for: Duration,
    /// The deliveries of one profile go one after the other, in order.
    pub in_order: bool,
    /// Several deliveries in one request.
    pub batch: Option<BatchPlan>,
    /// What of their bodies is recorded; None: everything.
    pub redact: Option<Redaction>,
}

impl DeliveryPlan {
    pub const CONCURRENCY: usize = 16;
    pub const TIMEOUT: Duration = Duration::from_secs(15);
    /// A producer of Kafka tries for itself meanwhile, and must not be left before it has given up.
    pub const TIMEOUT_OF_KAFKA: Duration = Duration::from_secs(60);
    /// What a server makes of a mail it may say only after minutes, and an answer that is not waited for is uncertain.
    pub const TIMEOUT_OF_EMAIL: Duration = Duration::from_secs(180);
    /// A write that is under way cannot be called back: one that is tried again beside it would stand there twice.
    pub const TIMEOUT_OF_FILE: Duration = Duration::from_secs(3_600);
    pub const RETRY_FOR: Duration = Duration::from_secs(3 * 86_400);
}

impl Default for DeliveryPlan {
    fn default() -> DeliveryPlan {
        DeliveryPlan {
            rate_limit: None,
            concurrency: DeliveryPlan::CONCURRENCY,
            timeout: DeliveryPlan::TIMEOUT,
            retry_for: DeliveryPlan::RETRY_FOR,
            in_order: false,
            batch: None,
            redact: None,
        }
    }
}

/// At most so many requests begin in any time of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub requests: u32,
    pub per: Duration,
}

/// A request leaves when so many deliveries have come together, or when the first of them has waited so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlan {
    pub max: usize,
    pub within: Duration,
}

#[derive(Clone)]
pub enum DestinationKind {
    Webhook {
        url: String,
        /// Signing secrets (`whsec_…` base64, or plain text), the new one first; unsigned where there is none. Never printed.
        secrets: Vec<String>,
        headers: BTreeMap<String, String>,
        /// Lets addresses inside (loopback, private) be called.
        allow_private: bool,
    },
    Kafka {
        brokers: String,
        topic: String,
        settings: BTreeMap<String, String>,
    },
    File {
        path: PathBuf,
    },
    Email(Box<EmailPlan>),
    Connector {
        connector: Box<ConnectorPlan>,
        /// Its parameters; some are secret. Never printed.
        with: BTreeMap<String, String>,
        allow_private: bool,
    },
}

/// A mail server, and what messages have in common.
#[derive(Clone)]
pub struct EmailPlan {
    /// `smtp://host:port` or `smtps://host:port`
    pub smtp: String,
    pub user: Option<String>,
    /// Never printed.
    pub password: Option<String>,
    pub from: String,
    pub reply_to: Option<String>,
    /// A template over `delivery` and `body` that makes an https address.
    pub unsubscribe: Option<String>,
    pub tls: MailTls,
    /// A file with certificates (PEM) that are trusted besides the public ones.
    pub ca: Option<PathBuf>,
    pub allow_private: bool,
}

/// What becomes of a connection that is not encrypted from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTls {
    Required,
    Opportunistic,
    None,
}

impl DestinationKind {
    /// Also the channel of such destinations where none is said.
    pub fn name(&self) -> &'static str {
        match self {
            DestinationKind::Webhook { .. } => "webhook",
            DestinationKind::Kafka { .. } => "kafka",
            DestinationKind::Email(_) => "email",
            DestinationKind::File { .. } => "file",
            DestinationKind::Connector { .. } => "connector",
        }
    }
}

impl std::fmt::Debug for DestinationKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DestinationKind::Webhook { url, .. } => write!(f, "Webhook({url})"),
            DestinationKind::Kafka { topic, .. } => write!(f, "Kafka({topic})"),
            DestinationKind::File { path } => write!(f, "File({})", path.display()),
            DestinationKind::Email(plan) => write!(f, "Email({})", plan.smtp),
            DestinationKind::Connector { connector, .. } => write!(f, "Connector({})", connector.name),
        }
    }
}

/// The lane of what is sent to a person.
pub fn lane_of(profile_id: ProfileId) -> u128 {
    u128::from_be_bytes(profile_id.0)
}

/// One message to one destination, sealed: a repeat sends the same bytes.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Delivery {
    /// Deterministic: hash of the entry and the step. The idempotency key.
    pub id: String,
    pub activation: String,
    pub step: String,
    pub destination: String,
    pub profile_id: ProfileId,
    /// Where a destination keeps an order, deliveries of one lane go one after the other: those of a profile, or of an identifier.
    pub lane: u128,
    /// The body to the letter.
    pub body: String,
    /// When it was set off (the cause's time), UTC microseconds.
    pub created_at: TimeUs,
    /// For `dry_run`: recorded, never sent.
    pub dry_run: bool,
    /// The purpose that the person must have agreed to, also when it is sent at last.
    pub consent: Option<String>,
}
