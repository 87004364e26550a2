//! The command line: parse, wire, exit code.

mod analyze;
pub mod check;
pub mod config;
mod deliveries;
mod demo;
mod dry_run;
mod explain;
mod identity;
mod init;
mod lake;
mod output;
mod peek;
mod plan;
pub mod produce;
mod progress;
mod query;
mod rejected;
pub mod run;
mod segment;
#[cfg(feature = "serve-sql")]
mod serve_sql;
mod status;
mod test;
mod who;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use config::NodeConfig;
pub use output::{Output, say};

/// Exit codes, as DESIGN §11 of the interface has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Well = 0,
    /// Findings in the user's definitions, tests or data.
    Findings = 1,
    /// The command line is not understood.
    Usage = 2,
    /// The environment (a server, a file, a disk) is at fault; worth a retry.
    Environment = 3,
    /// Another instance took over.
    TakenOver = 4,
    /// Our fault, or the state cannot be trusted.
    Fatal = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What went wrong, for people, and the code to end with.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn environment(message: impl std::fmt::Display) -> Failure {
        Failure { exit: Exit::Environment, message: message.to_string() }
    }

    pub fn findings(message: impl std::fmt::Display) -> Failure {
        Failure { exit: Exit::Findings, message: message.to_string() }
    }

    pub fn fatal(message: impl std::fmt::Display) -> Failure {
        Failure { exit: Exit::Fatal, message: message.to_string() }
    }
}

#[derive(Debug, Parser)]
#[command(name = "tributary", version, about = "Many streams, one profile: a customer data platform in one binary")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The pipeline: a folder with *.yaml, or one file
    #[arg(short = 'C', long = "pipeline", global = true, default_value = ".", value_name = "PATH")]
    pub pipeline: PathBuf,
    /// Where state and lake live [default: tributary-data, or `data` in tributary.toml]
    #[arg(long, global = true, value_name = "PATH_OR_URL")]
    pub data: Option<String>,
    /// How results are printed [default: a table on a terminal, csv in a pipe]
    #[arg(long, global = true, value_enum)]
    pub output: Option<Output>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A small shop, start to finish, with no server
    Demo(demo::DemoOptions),
    /// Write a first pipeline, inferred from a file or a topic
    Init(init::InitOptions),
    /// Parse and check the definitions: every error at once
    Check,
    /// Run the pipeline's `tests`, with no server
    Test(test::TestOptions),
    /// A few records of a source, raw beside mapped
    Peek {
        /// The source's name
        source: String,
        /// How many records
        #[arg(short = 'n', default_value_t = 5)]
        count: usize,
    },
    /// What changed definitions would do to the state, and for how many people
    Plan(plan::PlanOptions),
    /// Accept what `plan` shows, removals among it
    Apply,
    /// Run the pipeline
    Run(run::RunOptions),
    /// SQL over the lake or ClickHouse
    Query {
        /// The statement
        sql: String,
    },
    /// The lake for other tools: its files, its tables and views for DuckDB
    Lake {
        #[command(subcommand)]
        command: lake::LakeCommand,
    },
    /// The lake over PostgreSQL's protocol, for BI tools
    #[cfg(feature = "serve-sql")]
    ServeSql(serve_sql::ServeOptions),
    /// Funnels, retention, attribution and the like, from the pipeline's `analyses`
    Analyze(analyze::AnalyzeOptions),
    /// Why things are as they are
    Explain {
        #[command(subcommand)]
        command: explain::ExplainCommand,
    },
    /// Who is who: try other rules, take a wrong merge apart, ban a value
    Identity {
        #[command(subcommand)]
        command: identity::IdentityCommand,
    },
    /// Lists of people: look at them, add to them, take out of them
    Segment {
        #[command(subcommand)]
        command: segment::SegmentCommand,
    },
    /// Rejected input: look at it, read it again
    Rejected {
        #[command(subcommand)]
        command: rejected::RejectedCommand,
    },
    /// Deliveries that wait or were given up: look at them, send them again, drop them
    Deliveries {
        #[command(subcommand)]
        command: deliveries::DeliveriesCommand,
    },
    /// Positions, lag, profiles, segments, queues
    Status,
    /// Print the JSON Schema of pipeline files, for editors
    Schema,
    /// Write a CSV or NDJSON file to a topic as Avro, for trying things out
    Produce(produce::ProduceOptions),
}

/// Parses the arguments, does what they say, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Well.into() };
        }
    };
    // TLS needs one provider for the process; a second call would only say that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("error: the runtime cannot be started: {error}"));
            return Exit::Environment.into();
        }
    };
    match runtime.block_on(dispatch(cli)) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            say(&format!("error: {}", failure.message));
            failure.exit.into()
        }
    }
}

async fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let config = NodeConfig::load(&cli.global).map_err(|error| Failure { exit: Exit::Usage, message: error })?;
    match cli.command {
        Command::Demo(options) => demo::demo(&config, options).await,
        Command::Init(options) => init::init(&options).await,
        Command::Check => Ok(check::check(&cli.global.pipeline)),
        Command::Test(options) => test::test(&cli.global, &options).await,
        Command::Peek { source, count } => peek::peek(&cli.global, &source, count).await,
        Command::Plan(options) => plan::plan(&cli.global, &config, &options).await,
        Command::Apply => plan::apply(&cli.global, &config).await,
        Command::Run(options) => run::run(&cli.global, &config, options).await,
        Command::Query { sql } => query::query(&cli.global, &config, &sql).await,
        Command::Lake { command } => lake::lake(&cli.global, &config, command).await,
        #[cfg(feature = "serve-sql")]
        Command::ServeSql(options) => serve_sql::serve_sql(&cli.global, &config, &options).await,
        Command::Analyze(options) => analyze::analyze(&cli.global, &config, options).await,
        Command::Explain { command } => explain::explain(&cli.global, &config, command).await,
        Command::Identity { command } => identity::identity(&cli.global, &config, command).await,
        Command::Segment { command } => segment::segment(&cli.global, &config, command).await,
        Command::Rejected { command } => rejected::rejected(&cli.global, &config, command).await,
        Command::Deliveries { command } => deliveries::deliveries(&cli.global, &config, command).await,
        Command::Status => status::status(&cli.global, &config).await,
        Command::Schema => {
            output::print(&format!("{:#}", crate::definition::json_schema()));
            Ok(Exit::Well)
        }
        Command::Produce(options) => produce_file(options).await,
    }
}

async fn produce_file(options: produce::ProduceOptions) -> Result<Exit, Failure> {
    let topic = options.topic.clone();
    match produce::produce(options).await {
        Ok(produced) => {
            let produce::Produced { records, bytes, schema_id } = produced;
            say(&format!("{records} records ({bytes} bytes) sent to {topic}, schema id {schema_id}"));
            Ok(Exit::Well)
        }
        Err(error) if error.is_environment() => Err(Failure::environment(error)),
        Err(error) => Err(Failure::findings(error)),
    }
}
