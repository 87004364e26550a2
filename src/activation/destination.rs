//! Destinations as they are defined, and the messages that go to them.

use std::collections::BTreeMap;

use crate::event::{ProfileId, TimeUs};

/// A checked destination.
#[derive(Debug, Clone)]
pub struct DestinationPlan {
    pub name: String,
    pub kind: DestinationKind,
}

#[derive(Clone)]
pub enum DestinationKind {
    Webhook {
        url: String,
        /// Signing secret (`whsec_…` base64, or plain text); unsigned where None. Never printed.
        secret: Option<String>,
        headers: BTreeMap<String, String>,
        /// Lets addresses inside (loopback, private) be called.
        allow_private: bool,
    },
    Kafka {
        brokers: String,
        topic: String,
        settings: BTreeMap<String, String>,
    },
}

impl DestinationKind {
    /// Also the channel of such destinations where none is said.
    pub fn name(&self) -> &'static str {
        match self {
            DestinationKind::Webhook { .. } => "webhook",
            DestinationKind::Kafka { .. } => "kafka",
        }
    }
}

impl std::fmt::Debug for DestinationKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DestinationKind::Webhook { url, .. } => write!(f, "Webhook({url})"),
            DestinationKind::Kafka { topic, .. } => write!(f, "Kafka({topic})"),
        }
    }
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
    /// The body to the letter.
    pub body: String,
    /// When it was set off (the cause's time), UTC microseconds.
    pub created_at: TimeUs,
    /// For `dry_run`: recorded, never sent.
    pub dry_run: bool,
    /// The purpose that the person must have agreed to, also when it is sent at last.
    pub consent: Option<String>,
}
