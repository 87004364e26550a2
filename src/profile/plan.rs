//! What a trait is, as the definitions say it.

use super::funnel::FunnelPlan;
use super::gap::GapPlan;
use super::rfm::RfmRule;
use super::sequence::SequencePlan;
use super::window::Window;
use crate::event::ValueType;
use crate::expression::Expression;

/// A checked trait.
#[derive(Debug, Clone)]
pub struct TraitPlan {
    pub name: String,
    /// Changes when the meaning changes: a hash of the definition. State is kept by it.
    pub version: u64,
    pub rule: TraitRule,
    /// Its values, one column each. Never empty.
    pub columns: Vec<TraitColumn>,
}

/// One value of a trait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraitColumn {
    /// The column's name in tables: `checkout_level`; of the main value the trait's own name.
    pub name: String,
    /// What follows the trait's name in an expression: `level` in `checkout.level`; empty for the main value.
    pub part: &'static str,
    pub value_type: ValueType,
    /// Whether it can be null.
    pub nullable: bool,
}

impl TraitColumn {
    /// As it is written in an expression: `checkout.level`.
    pub fn written(&self, trait_name: &str) -> String {
        if self.part.is_empty() { trait_name.to_string() } else { format!("{trait_name}.{}", self.part) }
    }
}

#[derive(Debug, Clone)]
pub enum TraitRule {
    /// Accumulated over the profile's events.
    Events(Box<EventRule>),
    /// Computed from other traits, which come before it among the plans, and from `now()`.
    Formula(Expression),
    /// The name of the first condition that holds; null where none does.
    Stages(Vec<Stage>),
    /// Fifths of all people.
    Rfm(Box<RfmRule>),
}

#[derive(Debug, Clone)]
pub struct Stage {
    pub name: String,
    pub condition: Expression,
}

/// How a trait is accumulated.
#[derive(Debug, Clone)]
pub struct EventRule {
    pub kind: TraitKind,
    /// Event names; all events where None.
    pub events: Option<Vec<String>>,
    pub filter: Option<Expression>,
    /// What it reads from an event; None only for `count` of `*`.
    pub input: Option<Expression>,
    /// The type of what it reads.
    pub input_type: ValueType,
    /// For `latest` and `first` over a plain path: the presence column, so that an explicit null deletes.
    pub presence: Option<String>,
    /// For sums of doubles: digits after the point that are kept (the sum is an integer of that scale).
    pub scale: u8,
    /// Which of several values stands, of `latest` and `first`; says nothing to the other kinds.
    pub on_merge: OnMerge,
    /// For [`OnMerge::SourcePriority`]: sources, best first; any other comes after them.
    pub source_order: Vec<String>,
    /// Only events of the last so long count.
    pub window: Option<Window>,
    /// A value of its own for each value of this text.
    pub by: Option<Expression>,
    pub steps: Vec<Step>,
    pub exclusions: Vec<Step>,
}

/// Which value of a profile's events stands. Not a special case of merging: every update goes by (rank, timestamp,
/// message id), so it does not matter when two profiles turned out to be one person (SEMANTICS §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMerge {
    /// The latest, by (timestamp, message id).
    Latest,
    /// The earliest.
    Earliest,
    /// That of the event with the best identifier, by (kind, hash); among those the latest, of `first` the earliest.
    Survivor,
    /// That of the best source; among those the latest, of `first` the earliest.
    SourcePriority,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TraitKind {
    Latest,
    First,
    Count,
    Sum,
    Min,
    Max,
    Mean,
    MostFrequent,
    LeastFrequent,
    /// A list of so many values at most, a count beyond.
    Distinct {
        keep: usize,
    },
    /// Between events that follow each other.
    Gap(GapPlan),
    /// Over [`EventRule::steps`].
    Funnel(FunnelPlan),
    /// Over [`EventRule::steps`], and [`EventRule::exclusions`] that must not come between them.
    Sequence(SequencePlan),
}

/// Events that a step of a funnel or sequence takes, or that must not come between two.
#[derive(Debug, Clone)]
pub struct Step {
    /// Event names; all events where None.
    pub events: Option<Vec<String>>,
    pub filter: Option<Expression>,
}

impl TraitKind {
    /// Whether the value is that of one event.
    pub fn stands_for_one_event(&self) -> bool {
        matches!(self, TraitKind::Latest | TraitKind::First | TraitKind::Min | TraitKind::Max)
    }
}

impl TraitRule {
    /// What a computed trait is computed by, in the order in which it is bound.
    pub fn expressions(&self) -> Vec<&Expression> {
        match self {
            TraitRule::Events(_) => Vec::new(),
            TraitRule::Formula(formula) => vec![formula],
            TraitRule::Stages(stages) => stages.iter().map(|stage| &stage.condition).collect(),
            TraitRule::Rfm(rule) => vec![&rule.recency, &rule.frequency, &rule.monetary],
        }
    }
}

impl TraitPlan {
    /// The name of one of its stages.
    pub fn stage(&self, index: Option<u16>) -> Option<&str> {
        match &self.rule {
            TraitRule::Stages(stages) => {
                index.and_then(|index| stages.get(usize::from(index))).map(|s| s.name.as_str())
            }
            TraitRule::Events(_) | TraitRule::Formula(_) | TraitRule::Rfm(_) => None,
        }
    }

    /// None for a trait that is computed from others.
    pub fn event_rule(&self) -> Option<&EventRule> {
        match &self.rule {
            TraitRule::Events(rule) => Some(rule),
            TraitRule::Formula(_) | TraitRule::Stages(_) | TraitRule::Rfm(_) => None,
        }
    }
}

impl EventRule {
    /// Whether, of two values of one rank, the earlier one stands (`latest` and `first` only).
    pub fn prefers_earlier(&self) -> bool {
        match self.on_merge {
            OnMerge::Latest => false,
            OnMerge::Earliest => true,
            OnMerge::Survivor | OnMerge::SourcePriority => self.kind == TraitKind::First,
        }
    }

    /// Whether two values are told apart by the best identifier of their events.
    pub fn ranks_by_identifier(&self) -> bool {
        matches!(self.kind, TraitKind::Latest | TraitKind::First) && self.on_merge == OnMerge::Survivor
    }
}
