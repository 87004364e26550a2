//! Settings of the node, not of the pipeline: `tributary.toml`, `TRIBUTARY_*`, and the flags, the last one wins.

use std::net::SocketAddr;

use serde::Deserialize;

use super::Global;
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
    /// Records of a batch, at most.
    pub batch_records: usize,
    /// How long a batch waits for more, in milliseconds.
    pub linger_ms: u64,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log: String,
    pub log_format: LogFormat,
}

impl NodeConfig {
    pub fn load(global: &Global) -> Result<NodeConfig, String> {
        let defaults = [
            ("data", "tributary-data"),
            ("listen", "127.0.0.1:8321"),
            ("cache_mib", "1024"),
            ("batch_records", "20000"),
            ("linger_ms", "5"),
            ("log", "info"),
            ("log_format", "text"),
        ];
        let mut builder = config::Config::builder();
        for (key, value) in defaults {
            builder = builder.set_default(key, value).map_err(|error| error.to_string())?;
        }
        builder = builder
            .add_source(config::File::with_name("tributary").format(config::FileFormat::Toml).required(false))
            .add_source(config::Environment::with_prefix("TRIBUTARY").try_parsing(true));
        if let Some(data) = &global.data {
            builder = builder.set_override("data", data.as_str()).map_err(|error| error.to_string())?;
        }
        let built = builder.build().map_err(|error| format!("tributary.toml: {error}"))?;
        built.try_deserialize().map_err(|error| {
            format!("the node's settings (tributary.toml and TRIBUTARY_*) cannot be used: {error}")
        })
    }
}
