//! `serve-sql`: the lake for tools that speak PostgreSQL's protocol.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;

use super::{Exit, Failure, Global, NodeConfig, run, say};
use crate::definition::Mode;
use crate::query::{Limits, Target, serve};

#[derive(Debug, Args)]
pub struct ServeOptions {
    /// Where to listen; outside of this machine only with a password, `sql_password`
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5433")]
    listen: SocketAddr,
    /// A statement that takes longer is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Memory for sorts, joins and groups of all statements together, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: usize,
    /// Connections at a time; further ones wait
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    connections: usize,
}

pub async fn serve_sql(global: &Global, config: &NodeConfig, options: &ServeOptions) -> Result<Exit, Failure> {
    let pipeline = run::load(global, Mode::Run)?;
    let root = match run::tables_of(&pipeline, config) {
        Target::Lake { root } => root,
        Target::ClickHouse { url, database, .. } => {
            return Err(Failure::findings(format!(
                "this pipeline writes into ClickHouse and has no lake: let tools connect to ClickHouse itself, database {database} at {url}"
            )));
        }
    };
    let password = config.sql_password.clone().filter(|password| !password.is_empty());
    if password.is_none() && !options.listen.ip().is_loopback() {
        return Err(Failure::findings(format!(
            "--listen {}: whoever reaches it could read everything; set a password in TRIBUTARY_SQL_PASSWORD",
            options.listen
        )));
    }
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.map_err(|error| Failure::environment(format!("--listen {}: {error}", options.listen)))?;
    let address = listener.local_addr().map_err(Failure::environment)?;
    let limits = Limits {
        memory_bytes: options.memory << 20,
        statement: Duration::from_secs(options.timeout.max(1)),
        connections: options.connections.max(1),
    };
    let stop = run::signal().map_err(Failure::environment)?;
    say(&format!("serving the lake in {root}: psql -h {} -p {} -U analyst tributary", address.ip(), address.port()));
    let asked = password.map(|password| password.0);
    serve(listener, &root, asked, limits, stop).await.map_err(Failure::environment)?;
    say("stopped");
    Ok(Exit::Well)
}
