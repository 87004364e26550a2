//! Activations as they are defined: what sets them off, and their steps as one list.

use chrono_tz::Tz;
use serde_json::Value;

use super::time::{LocalTime, QuietHours};
use crate::event::TimeUs;
use crate::expression::Expression;

#[derive(Debug, Clone)]
pub struct ActivationPlan {
    pub name: String,
    /// Changes when the meaning changes; part of the ids of entries.
    pub version: u64,
    pub trigger: Trigger,
    pub status: Status,
    /// Whether entries and exits that a fill finds set it off.
    pub on_backfill: bool,
    /// None: it needs nobody's consent.
    pub consent: Option<Consent>,
    pub re_entry: ReEntry,
    /// Of several that want something of a person at one moment the highest goes first.
    pub priority: i64,
    pub frequency_cap: Option<Cap>,
    pub quiet_hours: Option<QuietHours>,
    /// Any of these ends it.
    pub exit_when: Vec<Await>,
    pub on_change: OnChange,
    /// All steps, those of branches after the one that branches; it begins with the first.
    pub steps: Vec<Step>,
    /// As it is written, as JSON: those under way finish along it when it is changed.
    pub written: String,
    /// An earlier version: nobody enters it.
    pub is_retired: bool,
}

#[derive(Debug, Clone)]
pub enum Trigger {
    Enters(String),
    Exits(String),
    Event {
        events: Vec<String>,
        filter: Option<Expression>,
    },
    /// Another stage of a trait; from and to any of these, or any at all.
    Changes {
        trait_name: String,
        from: Option<Vec<String>>,
        to: Option<Vec<String>>,
    },
    /// Everybody in a segment, at these times.
    Schedule {
        schedule: super::time::Schedule,
        over: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nobody enters, and who is under way stands still.
    Paused,
    DryRun,
    Live,
}

/// A purpose that a person must have agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    pub purpose: String,
    /// The trait that holds it.
    pub column: String,
    /// What holds for who has never said.
    pub default: bool,
}

impl Consent {
    /// Why nothing may be sent to who has said this last; None: it may.
    pub fn refusal(&self, said: Option<bool>) -> Option<String> {
        match said {
            Some(true) => None,
            Some(false) => Some(format!("no consent: {} was refused", self.purpose)),
            None if self.default => None,
            None => Some(format!("no consent: {} was never agreed to", self.purpose)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReEntry {
    /// Each time, also while an earlier entry is under way.
    Always,
    Once,
    /// This long after the last entry; microseconds.
    After(TimeUs),
}

/// So many within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    pub count: u32,
    pub within_us: TimeUs,
}

/// What becomes of those under way when the definition is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    /// They go on along the version that they began with.
    Finish,
    /// They go on along the new one, from the step of the same id.
    Move,
    Stop,
}

/// Something that a journey waits for.
#[derive(Debug, Clone)]
pub enum Await {
    Event { events: Vec<String>, filter: Option<Expression> },
    Enters(String),
    Exits(String),
}

#[derive(Debug, Clone)]
pub struct Step {
    /// Part of the ids of what it sends, so that a new step renames nothing.
    pub id: String,
    pub action: Action,
    /// None: the journey is at its end.
    pub next: Option<u16>,
}

#[derive(Debug, Clone)]
pub enum Action {
    Send {
        to: String,
        /// A JSON value whose strings may be templates (`{{ … }}`); the full payload where None.
        body: Option<Value>,
    },
    Wait {
        for_us: TimeUs,
    },
    WaitUntil(LocalTime),
    WaitFor {
        what: Await,
        timeout_us: Option<TimeUs>,
        on_match: Option<u16>,
        on_timeout: Option<u16>,
    },
    Branch {
        when: Expression,
        then: Option<u16>,
        otherwise: Option<u16>,
    },
    Split(Vec<Arm>),
    /// An event of the person, like any other: it enters with a commit of its own, after that of the step.
    Emit(Emit),
    Stop,
}

/// What an event that a step makes is like; its values may be templates.
#[derive(Debug, Clone)]
pub enum Emit {
    Track {
        event: String,
        properties: Value,
    },
    /// Traits, as an identify call sets them.
    Identify {
        traits: Value,
    },
}

/// The source of such events.
pub const EMITTED: &str = "tributary";

/// One way of a split.
#[derive(Debug, Clone)]
pub struct Arm {
    pub name: String,
    /// Its share ends here, of 2^32; the last one's is 2^32.
    pub upto: u64,
    pub first: Option<u16>,
}

/// What holds for all messages, whichever activation they are of.
#[derive(Debug, Clone)]
pub struct Messaging {
    /// The zone of people of whom none is known.
    pub zone: Tz,
    /// The trait that holds a person's, as `Europe/Berlin`.
    pub zone_trait: Option<String>,
    /// Whoever is in one of these segments is sent nothing.
    pub suppression: Vec<String>,
    /// By name.
    pub channels: Vec<Channel>,
    /// The channel of each destination.
    pub channel_of: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    pub name: String,
    pub frequency_cap: Option<Cap>,
    pub quiet_hours: Option<QuietHours>,
}

impl Default for Messaging {
    fn default() -> Self {
        Messaging {
            zone: Tz::UTC,
            zone_trait: None,
            suppression: Vec::new(),
            channels: Vec::new(),
            channel_of: Vec::new(),
        }
    }
}

impl ActivationPlan {
    /// Whether there is anything but messages that are sent at once: only then are its steps told.
    pub fn is_journey(&self) -> bool {
        self.steps.iter().any(|step| !matches!(step.action, Action::Send { .. }))
    }

    /// An earlier version, for those who finish along it. `now` is the one that is defined.
    pub fn retired(self, version: u64, now: Option<&ActivationPlan>) -> ActivationPlan {
        let Some(now) = now else { return ActivationPlan { version, is_retired: true, ..self } };
        ActivationPlan {
            version,
            is_retired: true,
            status: now.status,
            consent: now.consent.clone(),
            priority: now.priority,
            frequency_cap: now.frequency_cap,
            quiet_hours: now.quiet_hours,
            ..self
        }
    }

    /// Of two people who become one, whether only one of their ways through it goes on. What answers an event answers each.
    pub fn goes_on_once(&self) -> bool {
        !matches!((&self.trigger, self.re_entry), (Trigger::Event { .. }, ReEntry::Always))
    }
}
