//! Settings of the node, not of the pipeline: `tributary.toml`, `TRIBUTARY_*`, and the flags, the last one wins.

use std::net::SocketAddr;

use serde::Deserialize;

use super::Global;
use crate::sink::guard::AllowList;
use crate::telemetry::LogFormat;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Where state and lake live: a folder or a bucket's URL.
    pub data: String,
    /// Where metrics, health and control are served. A port that is taken is replaced by a free one.
    pub listen: SocketAddr,
    /// Memory for hot state, in MiB.
    pub cache_mib: usize,
    /// Memory for changes that are in the journal and not in the state's tables yet, in MiB.
    pub checkpoint_mib: usize,
    /// Records of a batch, at most.
    pub batch_records: usize,
    /// How long a batch waits for more, in milliseconds.
    pub linger_ms: u64,
    /// Networks and hosts inside that destinations may call, besides those that say so themselves.
    pub allow_addresses: AllowList,
    /// What clients of `serve-sql` must know; none is needed where it is empty.
    pub sql_password: Option<Password>,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log: String,
    pub log_format: LogFormat,
}

/// Never shown.
#[derive(Clone, Deserialize)]
pub struct Password(pub String);

impl Password {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl NodeConfig {
    pub fn load(global: &Global) -> Result<NodeConfig, String> {
        NodeConfig::load_with(global, &|name| std::env::var(name).ok())
    }

    /// [`NodeConfig::load`] with the environment as a parameter.
    fn load_with(global: &Global, env: &dyn Fn(&str) -> Option<String>) -> Result<NodeConfig, String> {
        let defaults = [
            ("data", "tributary-data"),
            ("listen", "127.0.0.1:8321"),
            ("cache_mib", "1024"),
            ("checkpoint_mib", "512"),
            ("batch_records", "50000"),
            ("linger_ms", "20"),
            ("allow_addresses", ""),
            ("sql_password", ""),
            ("log", "warn,tributary=info"),
            ("log_format", "text"),
        ];
        // The whole file name: `tributary` alone would also find the program itself in the working folder.
        let file = config::File::new("tributary.toml", config::FileFormat::Toml).required(false);
        let mut builder = config::Config::builder().add_source(file);
        for (key, default) in defaults {
            builder = builder.set_default(key, default).map_err(|error| error.to_string())?;
            // Only these: Kubernetes sets TRIBUTARY_PORT and the like for a Service of this name.
            let set = env(&format!("TRIBUTARY_{}", key.to_uppercase())).filter(|value| !value.is_empty());
            builder = builder.set_override_option(key, set).map_err(|error| error.to_string())?;
        }
        builder = builder.set_override_option("data", global.data.clone()).map_err(|error| error.to_string())?;
        let built = builder.build().map_err(|error| format!("tributary.toml: {error}"))?;
        built
            .try_deserialize()
            .map_err(|error| format!("the node's settings (tributary.toml and TRIBUTARY_*) cannot be used: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(data: Option<&str>, env: &[(&str, &str)]) -> Result<NodeConfig, String> {
        let global = Global { pipeline: ".".into(), data: data.map(str::to_string), output: None };
        let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        NodeConfig::load_with(&global, &env)
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_that_over_the_defaults() {
        let found = load(None, &[]).unwrap();
        assert_eq!((found.data.as_str(), found.cache_mib), ("tributary-data", 1024));
        let env = [("TRIBUTARY_DATA", "s3://b/p"), ("TRIBUTARY_CACHE_MIB", "64"), ("TRIBUTARY_LOG_FORMAT", "json")];
        let found = load(None, &env).unwrap();
        assert_eq!((found.data.as_str(), found.cache_mib, found.log_format), ("s3://b/p", 64, LogFormat::Json));
        assert_eq!(load(Some("here"), &env).unwrap().data, "here");
    }

    #[test]
    fn variables_that_are_no_settings_are_none_of_ours() {
        let foreign =
            [("TRIBUTARY_PORT", "tcp://10.0.0.1:8321"), ("TRIBUTARY_TEST_DOCKER", "0"), ("TRIBUTARY_DATA", "")];
        assert_eq!(load(None, &foreign).unwrap().data, "tributary-data");
    }

    #[test]
    fn addresses_that_may_be_called_are_a_list() {
        let found = load(None, &[("TRIBUTARY_ALLOW_ADDRESSES", "10.0.0.0/8, mail.internal")]).unwrap();
        assert_eq!(found.allow_addresses, "mail.internal 10.0.0.0/8".parse().unwrap());
        let said = load(None, &[("TRIBUTARY_ALLOW_ADDRESSES", "10.0.0.0/80")]).unwrap_err();
        assert!(said.contains("allow_addresses: `10.0.0.0/80`"), "{said}");
    }

    #[test]
    fn a_value_that_cannot_be_is_named() {
        let said = load(None, &[("TRIBUTARY_CACHE_MIB", "much")]).unwrap_err();
        assert!(said.contains("cache_mib"), "{said}");
    }
}
