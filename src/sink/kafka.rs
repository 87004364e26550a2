//! Kafka as a destination: one record per delivery, keyed by the lane (the profile, or the identifier of an audience), so that
//! its deliveries keep their order. CloudEvents headers (binary mode) carry the delivery's id, by which a receiver drops repeats.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;

use super::{Destination, Outcome};
use crate::activation::Delivery;
use crate::event::TimeUs;
use crate::kafka::{Quiet, SettingsError, client_config, default_setting, explain};

/// Settings that keep a record from being lost or doubled on its way to the broker.
const RESERVED: [&str; 3] = ["acks", "enable.idempotence", "request.required.acks"];

/// How long the producer tries before the queue takes over.
const DELIVERY_TIMEOUT_MS: &str = "30000";
/// How long a delivery waits for room in the producer.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

type Client = FutureProducer<Quiet>;

pub struct KafkaDestination {
    topic: String,
    config: ClientConfig,
    /// Made anew after an error that ends an idempotent producer.
    client: Mutex<Client>,
}

impl KafkaDestination {
    /// Connects in the background: a broker that is away is found when sending.
    ///
    /// # Errors
    /// Settings that cannot be.
    pub fn new(
        brokers: &str,
        topic: &str,
        settings: &BTreeMap<String, String>,
    ) -> Result<KafkaDestination, SettingsError> {
        let mut config = client_config(brokers, settings, &RESERVED)?;
        config.set("acks", "all");
        config.set("enable.idempotence", "true");
        default_setting(&mut config, "message.timeout.ms", DELIVERY_TIMEOUT_MS);
        default_setting(&mut config, "linger.ms", "5");
        // The partitioner of the Java clients, so that keys meet those of other producers.
        default_setting(&mut config, "partitioner", "murmur2_random");
        let client = config.create_with_context(Quiet).map_err(|error| SettingsError::from_kafka(&error))?;
        Ok(KafkaDestination { topic: topic.to_string(), config, client: Mutex::new(client) })
    }

    /// Sends one record and waits until all in-sync replicas have it.
    async fn produce(&self, key: &str, body: &str, headers: &[(&str, &str)]) -> Outcome {
        let mut record_headers = OwnedHeaders::new_with_capacity(headers.len());
        for (key, value) in headers {
            record_headers = record_headers.insert(Header { key, value: Some(value.as_bytes()) });
        }
        let record = FutureRecord::to(&self.topic).key(key).payload(body).headers(record_headers);
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match client.send(record, Timeout::After(ROOM_WITHIN)).await {
            Ok(delivery) => Outcome::Sent(format!("partition {} offset {}", delivery.partition, delivery.offset)),
            Err((error, _)) => {
                if client.client().fatal_error().is_some() {
                    self.replace_client();
                }
                self.judge(&error)
            }
        }
    }

    fn replace_client(&self) {
        match self.config.create_with_context(Quiet) {
            Ok(client) => *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client,
            Err(error) => tracing::warn!("a kafka producer cannot be made anew: {}", explain(&error)),
        }
    }

    /// What an error means, in one place: only what is wrong with the record itself will never be taken. Rights and
    /// missing topics are for an operator to mend, and the delivery waits for that.
    fn judge(&self, error: &KafkaError) -> Outcome {
        use RDKafkaErrorCode as Code;
        let detail = format!("topic {}: {}", self.topic, explain(error));
        match error.rdkafka_error_code() {
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::InvalidRecord | Code::InvalidTopic) => {
                Outcome::Failed(detail)
            }
            _ => Outcome::Retry { detail, after: None },
        }
    }
}

#[async_trait]
impl Destination for KafkaDestination {
    async fn send(&self, delivery: &Delivery, _attempted_at: TimeUs) -> Outcome {
        let source = format!("tributary/{}", delivery.activation);
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", &delivery.id),
            ("ce_source", &source),
            ("ce_type", &delivery.step),
            ("content-type", "application/json"),
        ];
        self.produce(&format!("{:032x}", delivery.lane), &delivery.body, &headers).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ProfileId;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::{Headers, Message};
    use rdkafka::mocking::MockCluster;
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    fn delivery(body: &str) -> Delivery {
        Delivery {
            id: "d-1".into(),
            activation: "cart".into(),
            step: "remind".into(),
            destination: "crm".into(),
            profile_id: ProfileId([7; 16]),
            lane: u128::from_be_bytes([7; 16]),
            body: body.into(),
            created_at: 0,
            dry_run: false,
            consent: None,
        }
    }

    #[tokio::test]
    async fn a_delivery_is_a_keyed_record_with_its_id_in_the_headers() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("out", 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        // A broker that says no for a moment is asked again, and the record is there once.
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS]);
        let destination = KafkaDestination::new(&brokers, "out", &BTreeMap::new()).unwrap();
        assert_eq!(destination.send(&delivery("{}"), 0).await, Outcome::Sent("partition 0 offset 0".into()));
        assert_eq!(destination.send(&delivery("{}"), 0).await, Outcome::Sent("partition 0 offset 1".into()));

        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &brokers).set("group.id", "test");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("out", 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let record = consumer.poll(Duration::from_secs(30)).unwrap().unwrap();
        assert_eq!(record.key(), Some(ProfileId([7; 16]).to_string().as_bytes()));
        assert_eq!(record.payload(), Some(&b"{}"[..]));
        let headers = record.headers().unwrap();
        let id = headers.iter().find(|header| header.key == "ce_id").unwrap();
        assert_eq!(id.value, Some(&b"d-1"[..]));
    }

    #[tokio::test]
    async fn brokers_that_are_away_are_tried_later_and_a_record_that_is_too_large_is_not() {
        let settings = BTreeMap::from([("message.timeout.ms".to_string(), "300".to_string())]);
        let away = KafkaDestination::new("127.0.0.1:1", "out", &settings).unwrap();
        let outcome = away.send(&delivery("{}"), 0).await;
        assert!(matches!(&outcome, Outcome::Retry { detail, .. } if detail.starts_with("topic out: ")), "{outcome:?}");
        let outcome = away.send(&delivery(&"x".repeat(2_000_000)), 0).await;
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    }

    #[test]
    fn acknowledgement_is_not_for_sale() {
        let settings = BTreeMap::from([("acks".to_string(), "1".to_string())]);
        assert!(KafkaDestination::new("localhost:1", "out", &settings).is_err());
    }
}
