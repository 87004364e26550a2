//! What every Kafka client of the process shares: the settings, the words for errors, the log.
//!
//! Errors never repeat a setting's value: it may be a secret.

use std::collections::BTreeMap;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

/// A setting that cannot be: of `kafka:` in a definition, or on the command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("`{0}` needs a build with TLS: build with `--features tls`")]
    NoTls(String),
    #[error("`{0}` cannot be set: positions are kept in the state, and this setting would skip or repeat records")]
    Reserved(String),
    #[error("`bootstrap.servers` is set by `brokers`")]
    Brokers,
    #[error("`{key}`: {reason}")]
    Refused { key: String, reason: String },
    #[error("the client cannot be made: {0}")]
    Client(String),
}

impl SettingsError {
    /// What librdkafka says about a setting, without the setting's value.
    pub fn from_kafka(error: &KafkaError) -> SettingsError {
        match error {
            KafkaError::ClientConfig(_, reason, key, _) if reason.contains("OpenSSL") => {
                SettingsError::NoTls(key.clone())
            }
            KafkaError::ClientConfig(_, _, key, _) if is_secret(key) => {
                SettingsError::Refused { key: key.clone(), reason: "the value is not accepted".into() }
            }
            KafkaError::ClientConfig(_, reason, key, _) => {
                SettingsError::Refused { key: key.clone(), reason: reason.clone() }
            }
            other => SettingsError::Client(explain(other)),
        }
    }
}

/// The beginning of every client's configuration: the brokers and the user's settings, which may not touch `reserved`.
/// The caller sets its own defaults with [`default_setting`], which leave alone what the user has set.
///
/// # Errors
/// A reserved setting, or one that needs TLS in a build without it. Values are checked when the client is made.
pub fn client_config(
    brokers: &str,
    settings: &BTreeMap<String, String>,
    reserved: &[&str],
) -> Result<ClientConfig, SettingsError> {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    for (key, value) in settings {
        if key == "bootstrap.servers" || key == "metadata.broker.list" {
            return Err(SettingsError::Brokers);
        }
        if reserved.contains(&key.as_str()) {
            return Err(SettingsError::Reserved(key.clone()));
        }
        if !cfg!(feature = "tls") && needs_tls(key, value) {
            return Err(SettingsError::NoTls(format!("{key}: {}", if is_secret(key) { "…" } else { value })));
        }
        config.set(key, value);
    }
    config.set("bootstrap.servers", brokers);
    default_setting(&mut config, "client.id", "tributary");
    default_setting(&mut config, "socket.keepalive.enable", "true");
    // A broker that comes back is noticed within seconds.
    default_setting(&mut config, "reconnect.backoff.max.ms", "2000");
    Ok(config)
}

/// Sets what the user has not set.
pub fn default_setting(config: &mut ClientConfig, key: &str, value: &str) {
    if config.get(key).is_none() {
        config.set(key, value);
    }
}

fn needs_tls(key: &str, value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    match key {
        "security.protocol" => value.ends_with("ssl"),
        "sasl.mechanism" | "sasl.mechanisms" => value.starts_with("scram"),
        _ => key.starts_with("ssl."),
    }
}

fn is_secret(key: &str) -> bool {
    ["password", "secret", "token", "oauthbearer", ".key", ".pem"].iter().any(|part| key.contains(part))
}

/// An error in words, without librdkafka's prefixes.
pub fn explain(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => {
            let text = code.to_string();
            // "BrokerTransportFailure (Local: Broker transport failure)"
            let inner = text.split_once(" (").and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(&text);
            let inner = inner.strip_prefix("Local: ").or(inner.strip_prefix("Broker: ")).unwrap_or(inner);
            lower_first(inner)
        }
        None => match error {
            KafkaError::ClientConfig(_, _, key, _) => format!("the setting `{key}` is not accepted"),
            KafkaError::ClientCreation(reason) => lower_first(reason),
            other => other.to_string(),
        },
    }
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) if text.len() > 1 && !text[1..].starts_with(|c: char| c.is_ascii_uppercase()) => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => text.to_string(),
    }
}

/// librdkafka's own log lines. They repeat what poll and deliveries report, hence one level lower each.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::info!(target: "librdkafka", facility, "{message}");
        }
        _ => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// The context of clients that need nothing but the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{}: {reason}", explain(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::config::FromClientConfig;
    use rdkafka::consumer::BaseConsumer;
    use rdkafka::error::RDKafkaErrorCode;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn refused(pairs: &[(&str, &str)]) -> String {
        match client_config("localhost:1", &settings(pairs), &["enable.auto.commit"]) {
            Err(error) => error.to_string(),
            Ok(config) => match BaseConsumer::from_config(&config) {
                Err(error) => SettingsError::from_kafka(&error).to_string(),
                Ok(_) => String::new(),
            },
        }
    }

    #[test]
    fn settings_are_refused_by_name_and_never_by_value() {
        assert_eq!(refused(&[("client.id", "x"), ("sasl.username", "me")]), "");
        assert!(refused(&[("bootstrap.servers", "x")]).contains("`brokers`"));
        assert!(refused(&[("enable.auto.commit", "true")]).contains("`enable.auto.commit` cannot be set"));
        assert!(refused(&[("no.such.setting", "x")]).contains("`no.such.setting`"));
        assert!(refused(&[("fetch.wait.max.ms", "soon")]).contains("`fetch.wait.max.ms`"));
        let secret = refused(&[("sasl.oauthbearer.client.secret.x", "hunter2")]);
        assert!(!secret.is_empty() && !secret.contains("hunter2"), "{secret}");
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn a_build_without_tls_says_how_to_get_it() {
        for pair in [
            ("security.protocol", "SASL_SSL"),
            ("security.protocol", "ssl"),
            ("sasl.mechanisms", "SCRAM-SHA-512"),
            ("ssl.ca.location", "/x"),
        ] {
            assert!(refused(&[pair]).contains("--features tls"), "{pair:?}: {}", refused(&[pair]));
        }
        assert!(!refused(&[("ssl.key.password", "hunter2")]).contains("hunter2"));
    }

    #[test]
    fn errors_are_plain_words() {
        let error = KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure);
        assert_eq!(explain(&error), "broker transport failure");
    }
}
