//! `destinations:` → plans.

use super::inputs::texts;
use super::spec::*;
use crate::activation::{DeliveryPlan, DestinationKind, DestinationPlan};

pub fn destination(name: &str, entry: &DestinationEntry) -> DestinationPlan {
    let kind = match &entry.kind {
        DestinationSpec::Webhook { url, secret, headers, allow_private } => DestinationKind::Webhook {
            url: url.text.clone(),
            secret: secret.as_ref().map(|secret| secret.text.clone()),
            headers: texts(headers),
            allow_private: *allow_private,
        },
        DestinationSpec::Kafka { brokers, topic, settings } => DestinationKind::Kafka {
            brokers: brokers.text.clone(),
            topic: topic.text.clone(),
            settings: texts(settings),
        },
    };
    let spec = &entry.delivery;
    let timeout = match kind {
        DestinationKind::Kafka { .. } => DeliveryPlan::TIMEOUT_OF_KAFKA,
        _ => DeliveryPlan::TIMEOUT,
    };
    let delivery = DeliveryPlan {
        rate_limit: spec.rate_limit,
        concurrency: spec.concurrency.map_or(DeliveryPlan::CONCURRENCY, |count| count as usize),
        timeout: spec.timeout.unwrap_or(timeout),
        retry_for: spec.retry_for.unwrap_or(DeliveryPlan::RETRY_FOR),
        in_order: spec.in_order,
        batch: spec.batch,
    };
    DestinationPlan { name: name.to_string(), kind, delivery }
}
