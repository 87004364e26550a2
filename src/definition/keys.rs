//! Tables of keys: what a map of the definitions may hold, key by key. The reader checks maps by them and the JSON
//! Schema for editors is made of them, so the two cannot differ.

/// A map with known keys.
pub struct Section {
    pub keys: &'static [Key],
    /// Exactly one of these must be there; empty where there is no such choice.
    pub one_of: &'static [&'static str],
    /// Keys of the reference that come later, and what is said about them: never ignored in silence.
    pub later: &'static [(&'static str, &'static str)],
}

pub struct Key {
    pub name: &'static str,
    pub holds: Holds,
    /// For the editor's hint: half a sentence.
    pub about: &'static str,
    pub required: bool,
}

/// What may stand after the colon.
pub enum Holds {
    /// A literal: `${…}` is filled in.
    Text,
    /// A literal that must be one `${env:NAME}` or `${file:path}`.
    Secret,
    /// A whole number.
    Count,
    Boolean,
    /// `15m`.
    Duration,
    /// A literal that is one of these.
    Choice(fn() -> Vec<&'static str>),
    /// A SQL expression.
    Sql,
    /// JSON whose texts may hold `{{ … }}`.
    Template,
    /// JSON, as it is.
    Json,
    Map(&'static Section),
    /// Names of the user's own.
    Named(&'static Holds),
    /// Keys that are not ours: headers, settings, traits.
    Entries(&'static Holds),
    List(&'static Holds),
    /// One, or a list that is not empty.
    OneOrMore(&'static Holds),
    /// One, or a list that may be empty.
    Any(&'static Holds),
    OneOf(&'static [Holds]),
    /// A map with exactly one name in it.
    Single(&'static Holds),
    Nothing,
    /// Envelope columns to SQL or `{ value: … }`.
    Targets,
    /// An event of a test: keys of the envelope.
    Event,
    /// Steps of an activation, which may hold steps.
    Steps,
}

impl Section {
    pub const fn of(keys: &'static [Key]) -> Section {
        Section { keys, one_of: &[], later: &[] }
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }
}

pub const fn key(name: &'static str, holds: Holds, about: &'static str) -> Key {
    Key { name, holds, about, required: false }
}

pub const fn required(name: &'static str, holds: Holds, about: &'static str) -> Key {
    Key { name, holds, about, required: true }
}

/// The names of a reader's choices.
pub fn names<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
    choices.iter().map(|(name, _)| *name).collect()
}
