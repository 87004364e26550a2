//! `explain`: why things are as they are, down to the events.
//!
//! All of it is read from the state and the tables beside whatever runs; nothing is changed.

mod activation;
mod delivery;
mod events;
mod moments;
mod profile;
mod segment;
mod tree;
mod values;
mod write;

use clap::Subcommand;

use super::who::{self, Who};
use super::{Exit, Failure, Global, NodeConfig, run};
use crate::cli::output::print;
use crate::clock;
use crate::definition::{Mode, Pipeline, Warehouse};
use crate::engine::{EngineRecord, load_component};
use crate::event::{ProfileNumber, TimeUs};
use crate::expression::Dialect;
use crate::identity::Component;
use crate::query::members_sql;
use crate::state::keys::Tag;
use crate::state::location::Location;
use crate::state::slate::SlateReader;
use crate::state::{Store, codec, keys};

#[derive(Debug, Subcommand)]
pub enum ExplainCommand {
    /// Why these identifiers are one person: the links with their events, merges, conflicts
    Profile {
        /// A profile id, an id it had before, or type:value
        who: String,
    },
    /// Why someone is in a segment or not: each condition with its values, their events, and when it will change
    Segment {
        name: String,
        /// A profile id, an id it had before, or type:value
        #[arg(required_unless_present = "sql")]
        who: Option<String>,
        /// Take apart segments that it refers to at any depth, not just one level down
        #[arg(long)]
        deep: bool,
        /// Print the statement over the tables that gives its members instead
        #[arg(long, conflicts_with_all = ["who", "deep"])]
        sql: bool,
    },
    /// Why a trait has its value: the events behind it, and when it will change
    Trait {
        name: String,
        /// A profile id, an id it had before, or type:value
        who: String,
    },
    /// Where someone is in an activation, what stands in the way, and what its steps would send now
    Activation {
        name: String,
        /// A profile id, an id it had before, or type:value
        who: String,
        /// The event that sets it off, as JSON, for templates that read it
        #[arg(long, value_name = "JSON")]
        event: Option<String>,
    },
    /// What became of a delivery: every attempt, what is to come, and why
    Delivery {
        /// Its id, as in `deliveries` and `webhook-id`
        id: String,
    },
}

pub async fn explain(global: &Global, config: &NodeConfig, command: ExplainCommand) -> Result<Exit, Failure> {
    let pipeline = run::load(global, Mode::Run)?;
    match command {
        ExplainCommand::Profile { who } => {
            let person = Person::find(config, &pipeline, who).await?;
            profile::explain(global, config, &pipeline, &person).await
        }
        ExplainCommand::Segment { name, who, deep, sql: _ } => {
            let names = pipeline.segments.iter().map(|plan| plan.name.as_str());
            let index = index_of("segment", &name, names)?;
            let Some(who) = who else {
                let now = segment::now(&pipeline, config, state_now(config).await?).await.0;
                let dialect = match &pipeline.warehouse {
                    Warehouse::Lake => Dialect::DataFusion,
                    Warehouse::ClickHouse { .. } => Dialect::ClickHouse,
                };
                print(&members_sql(&pipeline, dialect, now, Some(&[name.as_str()])));
                return Ok(Exit::Well);
            };
            let person = Person::find(config, &pipeline, who).await?;
            segment::explain(global, config, &pipeline, &person, segment::What::Segment { index, deep }).await
        }
        ExplainCommand::Activation { name, who, event } => {
            let names = pipeline.activations.iter().map(|plan| plan.name.as_str());
            let plan = &pipeline.activations[index_of("activation", &name, names)?];
            let person = Person::find(config, &pipeline, who).await?;
            activation::explain(global, config, &pipeline, &person, plan, event.as_deref()).await
        }
        ExplainCommand::Delivery { id } => delivery::explain(global, config, &pipeline, &id).await,
        ExplainCommand::Trait { name, who } => {
            let index = index_of("trait", &name, pipeline.traits.iter().map(|plan| plan.name.as_str()))?;
            let person = Person::find(config, &pipeline, who).await?;
            segment::explain(global, config, &pipeline, &person, segment::What::Trait { index }).await
        }
    }
}

/// `now` of the last commit; that of the wall clock where there is no state yet.
async fn state_now(config: &NodeConfig) -> Result<TimeUs, Failure> {
    let location = Location::parse(&config.data).map_err(Failure::environment)?;
    let Ok(reader) = SlateReader::open(&location).await else { return Ok(clock::now_us()) };
    let record = reader.get(&keys::name(Tag::Engine, EngineRecord::KEY)).await.map_err(Failure::environment)?;
    let Some(record) = record else { return Ok(clock::now_us()) };
    let record: EngineRecord =
        codec::decode(EngineRecord::VERSION, "engine record", &record).map_err(Failure::fatal)?;
    Ok(record.now)
}

fn index_of<'n>(what: &str, name: &str, names: impl Iterator<Item = &'n str> + Clone) -> Result<usize, Failure> {
    names.clone().position(|known| known == name).ok_or_else(|| {
        let nearest = crate::expression::nearest(name, names.clone());
        let nearest = nearest.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let all: Vec<&str> = names.take(50).collect();
        let all = if all.is_empty() { "none".to_string() } else { all.join(", ") };
        Failure::findings(format!("there is no {what} `{name}`{nearest} ({what}s: {all})"))
    })
}

/// Someone whom the state knows.
pub struct Person {
    reader: SlateReader,
    number: ProfileNumber,
    component: Component,
    /// As they were asked for.
    who: String,
    wanted: Who,
}

impl Person {
    async fn find(config: &NodeConfig, pipeline: &Pipeline, who: String) -> Result<Person, Failure> {
        let location = Location::parse(&config.data).map_err(Failure::environment)?;
        let reader = SlateReader::open(&location).await.map_err(|error| {
            Failure::environment(format!("there is no state at {} yet, or it cannot be read: {error}", config.data))
        })?;
        let plan = &pipeline.identity;
        let wanted = who::parse(plan, &who)?;
        let key = match &wanted {
            Who::Id(id) => keys::alias(*id),
            Who::Named(named) => keys::identifier(plan.identifier_hash(named.kind, &named.value)),
        };
        let number = reader.get(&key).await.map_err(Failure::environment)?;
        let Some(number) = number else {
            return Err(Failure::findings(format!(
                "nobody is known by {who}: no event has named it, or it was banned"
            )));
        };
        let number: ProfileNumber = codec::decode(1, "profile number", &number).map_err(Failure::fatal)?;
        let head = reader.get(&keys::component(number)).await.map_err(Failure::environment)?;
        let component = load_component(number, head, &reader).await.map_err(Failure::fatal)?;
        Ok(Person { reader, number, component, who, wanted })
    }
}

/// All ids that a person is or was shown under, for a list in SQL.
fn id_list(component: &Component) -> String {
    let ids: Vec<String> = component.former_ids().iter().chain([&component.id]).map(|id| format!("'{id}'")).collect();
    ids.join(", ")
}
