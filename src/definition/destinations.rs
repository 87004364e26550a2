//! `destinations:` → plans.

use super::inputs::texts;
use super::spec::*;
use crate::activation::{DestinationKind, DestinationPlan};

pub fn destination(name: &str, spec: &DestinationSpec) -> DestinationPlan {
    let kind = match &spec.kind {
        DestinationKindSpec::Webhook { url, secret, headers, allow_private } => DestinationKind::Webhook {
            url: url.text.clone(),
            secret: secret.as_ref().map(|secret| secret.text.clone()),
            headers: texts(headers),
            allow_private: *allow_private,
        },
        DestinationKindSpec::Kafka { brokers, topic, settings } => DestinationKind::Kafka {
            brokers: brokers.text.clone(),
            topic: topic.text.clone(),
            settings: texts(settings),
        },
    };
    DestinationPlan { name: name.to_string(), kind }
}
