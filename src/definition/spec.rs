//! What the YAML says, section by section, before it is checked against anything else: plain structs whose fields
//! are the keys of the reference. An entry that could not be read has been reported and has no `body`, so that
//! what refers to it by name is not reported too.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Blank;
use super::findings::Span;
use super::yaml::{Entry, Node, Scalar};
use crate::activation::connector::ConnectorPlan;
use crate::activation::{
    BatchPlan, Cap, LocalTime, MailTls, OnChange, QuietHours, RateLimit, ReEntry, Redaction, Status,
};
use crate::analysis::{Counting, Model, Period};
use crate::decode::Framing;
use crate::event::{TimeUs, ValueType};
use crate::identity::{Limit, Normalize, OnConflict, Pattern};
use crate::profile::{FunnelModes, OnMerge, TraitKind};
use crate::source::Start;
use crate::transform::ContractMode;

/// A text after `${…}` was filled in.
#[derive(Debug, Clone)]
pub struct Literal {
    pub text: String,
    pub span: Span,
    /// False where a variable is missing, which is allowed in `Mode::Check`: the text is a stand-in.
    pub known: bool,
}

/// A SQL text as written, with what is needed to point into it.
#[derive(Debug, Clone)]
pub struct Sql {
    pub scalar: Scalar,
    pub span: Span,
}

#[derive(Debug, Clone)]
pub struct Named<T> {
    pub name: String,
    pub span: Span,
    pub body: Option<T>,
}

/// All files of a pipeline, joined.
#[derive(Debug, Default)]
pub struct Definition {
    pub pipeline: Option<Literal>,
    pub timezone: Option<Literal>,
    pub contracts: Option<ContractMode>,
    pub sources: Vec<Named<SourceSpec>>,
    pub tables: Vec<Named<TableSpec>>,
    pub transforms: Vec<StepSpec>,
    pub dedupe: Option<DedupeSpec>,
    pub identity: Option<IdentitySpec>,
    pub sessions: Option<SessionsSpec>,
    pub traits: Vec<Named<TraitSpec>>,
    pub segments: Vec<Named<SegmentSpec>>,
    pub groups: Vec<Named<GroupSpec>>,
    pub consent: Vec<Named<ConsentSpec>>,
    /// Segments.
    pub suppression: Vec<Literal>,
    pub profile_timezone: Option<Literal>,
    pub channels: Vec<Named<ChannelSpec>>,
    pub connectors: Vec<Named<ConnectorPlan>>,
    pub destinations: Vec<Named<DestinationEntry>>,
    pub audiences: Vec<Named<AudienceSpec>>,
    pub analyses: Vec<Named<AnalysisSpec>>,
    pub activations: Vec<Named<ActivationSpec>>,
    pub aggregates: Vec<Named<Sql>>,
    pub alerts: Vec<Named<AlertSpec>>,
    pub warehouse: Option<WarehouseSpec>,
    pub tests: Vec<TestSpec>,
}

#[derive(Debug)]
pub struct SourceSpec {
    /// What `if` and `unless` say. A source that is off is checked all the same.
    pub on: bool,
    pub input: InputSpec,
    pub format: FormatSpec,
    pub format_span: Span,
    pub map: Option<Vec<MapEntry>>,
}

#[derive(Debug)]
pub enum InputSpec {
    Kafka { brokers: Literal, topics: Vec<Literal>, start: Start, settings: BTreeMap<String, Literal> },
    File { path: Literal },
}

#[derive(Debug)]
pub enum FormatSpec {
    Avro {
        framing: Option<Framing>,
        registry: Option<Literal>,
        /// A folder of writer schemas.
        schemas: Option<Literal>,
        /// A file with the one writer schema.
        schema: Option<Literal>,
        /// A file with the reader schema.
        reader: Option<Literal>,
    },
    /// The standard envelope, in snake_case or Segment's camelCase.
    JsonEnvelope,
    /// A file with the Avro record that prescribes the shape.
    JsonContract { schema: Literal },
    /// Columns are taken from the header, as strings, where None.
    Csv { columns: Option<Vec<(String, ValueType)>>, delimiter: u8 },
}

/// `key: expression` or `key: { value: literal }`, the key with its dots: `properties.total`.
#[derive(Debug)]
pub struct MapEntry {
    pub target: String,
    pub target_span: Span,
    pub value: MapEntryValue,
}

#[derive(Debug)]
pub enum MapEntryValue {
    Sql(Sql),
    Literal(serde_json::Value, Span),
}

#[derive(Debug)]
pub struct TableSpec {
    pub file: Literal,
    pub key: Literal,
    pub columns: Vec<(String, ValueType)>,
    pub reload: Option<Duration>,
}

#[derive(Debug)]
pub struct StepSpec {
    pub event: Option<Vec<Literal>>,
    pub source: Option<Vec<Literal>>,
    pub action: ActionSpec,
}

#[derive(Debug)]
pub enum ActionSpec {
    Filter(Sql),
    Set(Vec<MapEntry>),
    Unnest { from: Literal, event: Literal },
    Enrich { table: Literal, key: Sql, alias: Literal },
}

#[derive(Debug)]
pub struct DedupeSpec {
    /// None: for ever.
    pub within: Option<Duration>,
}

#[derive(Debug)]
pub struct IdentitySpec {
    /// Best first.
    pub identifiers: Vec<IdentifierSpec>,
    pub block: Vec<Pattern>,
    pub on_conflict: OnConflict,
    pub max_identifiers: u32,
    pub previous_id: Option<Literal>,
    /// Best first; the order of the definitions where None.
    pub source_priority: Option<Vec<Literal>>,
    pub key: Option<Literal>,
}

#[derive(Debug)]
pub struct IdentifierSpec {
    pub name: String,
    pub span: Span,
    /// A path into the event, instead of `traits.NAME`.
    pub from: Option<Literal>,
    pub normalize: Normalize,
    pub limit: Option<Limit>,
    pub block: Vec<Pattern>,
}

/// What is left out is as in [`GAP`](crate::session::GAP): no split, all events.
#[derive(Debug)]
pub struct SessionsSpec {
    pub gap: Option<Duration>,
    pub lateness: Option<Duration>,
    pub split_on_campaign: bool,
    pub split_on_midnight: bool,
    /// Names or types.
    pub events: Option<Vec<Literal>>,
}

#[derive(Debug)]
pub enum TraitSpec {
    Events(Box<EventTraitSpec>),
    /// A score is a formula that is kept between 0 and 100.
    Formula {
        sql: Sql,
        score: bool,
    },
    Stages(Vec<(Literal, Sql)>),
    Rfm(Box<RfmSpec>),
}

/// Traits and segments of groups of one kind.
#[derive(Debug)]
pub struct GroupSpec {
    /// The event's `group_id` where None.
    pub id: Option<Sql>,
    pub traits: Vec<Named<TraitSpec>>,
    pub segments: Vec<Named<SegmentSpec>>,
}

#[derive(Debug)]
pub struct RfmSpec {
    pub recency: Sql,
    pub frequency: Sql,
    pub monetary: Sql,
    pub every_us: i64,
}

#[derive(Debug)]
pub struct EventTraitSpec {
    pub kind: TraitKind,
    /// None for `count: "*"`.
    pub input: Option<Sql>,
    pub input_span: Span,
    pub event: Option<Vec<Literal>>,
    pub filter: Option<Sql>,
    pub on_merge: Option<OnMerge>,
    /// Microseconds.
    pub window: Option<(i64, Span)>,
    pub pane: Option<(i64, Span)>,
    pub by: Option<Sql>,
    /// Steps of a funnel or sequence.
    pub steps: Vec<StepOfSpec>,
}

/// A step of a funnel or sequence, and what must not come between it and the one before.
#[derive(Debug)]
pub struct StepOfSpec {
    pub take: EventsSpec,
    /// Microseconds after the step before.
    pub within: Option<i64>,
    pub without: Vec<EventsSpec>,
}

/// Events by their names, those for which a condition is true.
#[derive(Debug)]
pub struct EventsSpec {
    pub event: Option<Vec<Literal>>,
    pub filter: Option<Sql>,
}

#[derive(Debug)]
pub enum SegmentSpec {
    Predicate(Sql),
    /// Of 2^32.
    Sample {
        below: u64,
    },
    List(ListSpec),
}

#[derive(Debug)]
pub struct ListSpec {
    pub file: Literal,
    /// An identifier type.
    pub matches: Literal,
}

#[derive(Debug)]
pub struct DestinationEntry {
    pub kind: DestinationSpec,
    pub delivery: DeliverySpec,
    pub channel: Option<Literal>,
}

/// What stands beside the kind; None where it is left out.
#[derive(Debug)]
pub struct DeliverySpec {
    pub rate_limit: Option<RateLimit>,
    pub concurrency: Option<u32>,
    pub timeout: Option<Duration>,
    pub retry_for: Option<Duration>,
    pub in_order: bool,
    pub batch: Option<BatchPlan>,
    pub redact: Option<Redaction>,
}

#[derive(Debug)]
pub enum DestinationSpec {
    Webhook { url: Literal, secrets: Vec<Literal>, headers: BTreeMap<String, Literal>, allow_private: bool },
    Kafka { brokers: Literal, topic: Literal, settings: BTreeMap<String, Literal> },
    File { path: Literal },
    Email(Box<EmailSpec>),
    Connector { connector: Literal, with: Vec<Entry>, allow_private: bool },
}

#[derive(Debug)]
pub struct EmailSpec {
    pub smtp: Literal,
    pub user: Option<Literal>,
    pub password: Option<Literal>,
    pub from: Literal,
    pub reply_to: Option<Literal>,
    /// A template.
    pub unsubscribe: Option<String>,
    pub tls: MailTls,
    pub ca: Option<Literal>,
    pub allow_private: bool,
}

#[derive(Debug)]
pub struct ConsentSpec {
    pub from: Sql,
    /// For who has never said.
    pub default: bool,
}

#[derive(Debug)]
pub struct ChannelSpec {
    pub frequency_cap: Option<Cap>,
    pub quiet_hours: Option<QuietHours>,
}

#[derive(Debug)]
pub struct AlertSpec {
    pub watch: Literal,
    pub value: Literal,
    pub period: Duration,
    pub season: u32,
    pub threshold: f64,
    pub wait: Duration,
}

#[derive(Debug)]
pub struct AnalysisSpec {
    pub kind: AnalysisKindSpec,
    pub by: Option<Sql>,
    pub segment: Option<Literal>,
}

#[derive(Debug)]
pub enum AnalysisKindSpec {
    Trend {
        take: EventsSpec,
        every: Option<Period>,
        /// By name, with where it stands.
        measures: Vec<(String, Span, MeasureSpec)>,
    },
    Funnel {
        steps: Vec<EventsSpec>,
        within: Duration,
        modes: FunnelModes,
        any_order: bool,
        trend: Option<Period>,
    },
    Retention {
        start: EventsSpec,
        back: Option<EventsSpec>,
        every: Period,
        periods: u32,
        counting: Counting,
        value: Option<Sql>,
    },
    Attribution {
        conversion: EventsSpec,
        value: Option<Sql>,
        touch: EventsSpec,
        channel: Sql,
        lookback: Duration,
        models: Vec<Model>,
        counts_direct: bool,
    },
    Paths {
        of: EventsSpec,
        anchor: EventsSpec,
        is_end: bool,
        length: u32,
        within: Option<Duration>,
        top: u32,
    },
    Transitions {
        of: EventsSpec,
        within: Option<Duration>,
        top: u32,
    },
    /// Segments: all where none are named; so in the others.
    Sizes {
        segments: Vec<Literal>,
        every: Period,
    },
    Flow {
        segments: Vec<Literal>,
    },
    Overlap {
        segments: Vec<Literal>,
    },
    Lift {
        segment: Literal,
        /// Traits: all that can be compared where none are named.
        traits: Vec<Literal>,
        top: u32,
    },
    Anomalies {
        take: EventsSpec,
        every: Period,
        measures: Vec<(String, Span, MeasureSpec)>,
        season: Option<u32>,
        alpha: f64,
        most: f64,
    },
}

#[derive(Debug)]
pub enum MeasureSpec {
    Count,
    People,
    Sum(Sql),
    Min(Sql),
    Max(Sql),
    Mean(Sql),
    Quantile(Sql, f64),
    Ratio(Literal, Literal),
}

#[derive(Debug)]
pub struct AudienceSpec {
    pub segment: Literal,
    pub to: Literal,
    /// Identifier types.
    pub matches: Vec<Literal>,
    /// A purpose, or `none`.
    pub consent: Literal,
    pub reconcile: Option<Duration>,
}

#[derive(Debug)]
pub struct ActivationSpec {
    pub trigger: TriggerSpec,
    pub status: Status,
    pub on_backfill: bool,
    /// A purpose, or `none`.
    pub consent: Literal,
    pub re_entry: ReEntry,
    pub priority: u32,
    pub frequency_cap: Option<Cap>,
    pub quiet_hours: Option<QuietHours>,
    pub exit_when: Vec<AwaitSpec>,
    pub on_change: OnChange,
    pub steps: Vec<JourneyStepSpec>,
    /// As it stands in the file.
    pub written: serde_json::Value,
}

impl ActivationSpec {
    /// The ids of all steps that send something, those within others too.
    pub fn sending_steps(&self) -> Vec<&str> {
        fn add<'s>(steps: &'s [JourneyStepSpec], ids: &mut Vec<&'s str>) {
            for step in steps {
                match &step.action {
                    JourneyActionSpec::Send(_) => ids.push(&step.id.text),
                    JourneyActionSpec::WaitFor { on_event: first, on_timeout: second, .. }
                    | JourneyActionSpec::Branch { then: first, otherwise: second, .. } => {
                        add(first, ids);
                        add(second, ids);
                    }
                    JourneyActionSpec::Split(arms) => arms.iter().for_each(|arm| add(&arm.steps, ids)),
                    JourneyActionSpec::Wait(_)
                    | JourneyActionSpec::WaitUntil(_)
                    | JourneyActionSpec::Emit { .. }
                    | JourneyActionSpec::Set(..)
                    | JourneyActionSpec::Stop => {}
                }
            }
        }
        let mut ids = Vec::new();
        add(&self.steps, &mut ids);
        ids
    }
}

#[derive(Debug)]
pub enum TriggerSpec {
    Enters(Literal),
    Exits(Literal),
    Event { event: Vec<Literal>, filter: Option<Sql> },
    Changes { trait_name: Literal, from: Option<Vec<Literal>>, to: Option<Vec<Literal>> },
    Schedule { cron: Literal, over: Literal, timezone: Option<Literal> },
}

#[derive(Debug)]
pub enum AwaitSpec {
    Event { event: Vec<Literal>, filter: Option<Sql> },
    Enters(Literal),
    Exits(Literal),
}

#[derive(Debug)]
pub struct JourneyStepSpec {
    pub id: Literal,
    pub action: JourneyActionSpec,
}

#[derive(Debug)]
pub enum JourneyActionSpec {
    Send(SendSpec),
    Wait(Duration),
    WaitUntil(LocalTime),
    WaitFor {
        wait: AwaitSpec,
        timeout: Option<Duration>,
        on_event: Vec<JourneyStepSpec>,
        on_timeout: Vec<JourneyStepSpec>,
    },
    Branch {
        when: Sql,
        then: Vec<JourneyStepSpec>,
        otherwise: Vec<JourneyStepSpec>,
    },
    Split(Vec<ArmSpec>),
    Emit {
        event: Literal,
        properties: Option<(serde_json::Value, Node)>,
    },
    /// Traits and their values.
    Set(serde_json::Value, Node),
    Stop,
}

#[derive(Debug)]
pub struct ArmSpec {
    pub name: String,
    /// Of one.
    pub share: f64,
    pub steps: Vec<JourneyStepSpec>,
}

#[derive(Debug)]
pub struct SendSpec {
    pub to: Literal,
    pub body: Option<(serde_json::Value, Node)>,
}

#[derive(Debug)]
pub enum WarehouseSpec {
    Lake,
    ClickHouse { url: Literal, database: Literal, user: Option<Literal>, password: Option<Literal> },
}

#[derive(Debug)]
pub struct TestSpec {
    pub name: Literal,
    pub steps: Vec<TestStepSpec>,
}

#[derive(Debug)]
pub struct TestStepSpec {
    pub at: Option<(MomentSpec, Span)>,
    pub events: Vec<TestEventSpec>,
    /// One for each thing that is expected, in the order of the file.
    pub expect: Vec<(Span, ExpectSpec)>,
}

/// `2026-03-01T10:00Z`, or `+2h` after the step before; microseconds.
#[derive(Debug, Clone, Copy)]
pub enum MomentSpec {
    At(TimeUs),
    After(TimeUs),
}

#[derive(Debug)]
pub struct TestEventSpec {
    pub span: Span,
    pub source: Option<Literal>,
    /// The rest: keys of the standard envelope.
    pub envelope: serde_json::Map<String, serde_json::Value>,
}

/// People are literals of the form `type:value` here.
#[derive(Debug)]
pub enum ExpectSpec {
    Profiles(Vec<Vec<Literal>>),
    Segment {
        name: Literal,
        members: Vec<Literal>,
    },
    Traits {
        who: Literal,
        values: Vec<(Literal, serde_json::Value, Span)>,
    },
    Group {
        group: Literal,
        id: Literal,
        values: Vec<(Literal, serde_json::Value, Span)>,
    },
    GroupSegment {
        /// `account.weekly_active`
        name: Literal,
        members: Vec<Literal>,
    },
    Conflicts(Vec<RowSpec>),
    Sent(Vec<RowSpec>),
    NoProfile(Vec<Literal>),
    Rejected(Vec<Literal>),
    EventOf {
        message_id: Literal,
        who: Literal,
    },
    Flags {
        message_id: Literal,
        flags: Vec<Literal>,
    },
    /// Only where it is about to be filled in.
    Blank(Blank),
}

/// Some columns of a row of a table.
#[derive(Debug)]
pub struct RowSpec {
    pub cells: Vec<(&'static str, CellSpec)>,
}

#[derive(Debug)]
pub enum CellSpec {
    Text(Literal),
    Json(serde_json::Value),
}
