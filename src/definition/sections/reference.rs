//! Every key of the reference, section by section. `docs/pipeline-reference.md` tells the same at length.

use super::{activation, case, connector, delivery, destination, identity, input, profile, sessions};
use crate::analysis::{Counting, Model, Period};
use crate::definition::keys::{Holds, Section, key, names, required};
use crate::definition::read::NOT_YET;
use crate::profile::FunnelModes;
use Holds::*;

/// A pipeline file.
pub static FILE: Section = Section {
    keys: &[
        key("pipeline", Text, "its name; the folder's or file's where it is left out"),
        key("timezone", Text, "only UTC so far: days and hours are cut in it"),
        key("contracts", Choice(|| names(&super::CONTRACT_MODES)), "what becomes of events that break their contract"),
        key("sources", Named(&Map(&SOURCE)), "where events come from"),
        key("tables", Named(&Map(&TABLE)), "small tables to join events with"),
        key("transforms", List(&Map(&STEP)), "steps on events, in order"),
        key("dedupe", Map(&DEDUPE), "how long a message id is remembered"),
        key("identity", Map(&IDENTITY), "what a person is known by"),
        key("sessions", Map(&SESSIONS), "where a person's visit ends"),
        key("traits", Named(&Map(&TRAIT)), "what is kept per person"),
        key("segments", Named(&OneOf(&[Sql, Map(&SEGMENT)])), "who belongs together: a condition over traits"),
        key("groups", Named(&Map(&GROUP)), "what is kept per account or the like, and which of them belong together"),
        key("consent", Named(&Map(&CONSENT)), "what people agree to, by purpose"),
        key("suppression", OneOrMore(&Text), "segments: whoever is in one of them is sent nothing"),
        key("profile_timezone", Text, "the trait that holds a person's time zone, as Europe/Berlin"),
        key("channels", Named(&Map(&CHANNEL)), "what holds for all messages of a channel, as email"),
        key("connectors", Named(&Map(&CONNECTOR)), "how interfaces of vendors are called, besides the built-in ones"),
        key("destinations", Named(&Map(&DESTINATION)), "where messages go"),
        key("audiences", Named(&Map(&AUDIENCE)), "lists of people that a destination keeps"),
        key("activations", Named(&Map(&ACTIVATION)), "what sets off which message"),
        key("aggregates", Named(&Sql), "sums over all events, by key: SELECT … FROM events GROUP BY …"),
        key("alerts", Named(&Map(&ALERT)), "when an aggregate is not what its past lets one expect"),
        key(
            "warehouse",
            OneOf(&[Choice(|| vec!["lake"]), Map(&WAREHOUSE)]),
            "where the tables go; the lake if left out",
        ),
        key("analyses", Named(&Map(&ANALYSIS)), "what `tributary analyze` answers"),
        key("tests", List(&Map(&TEST)), "what `tributary test` tries out"),
    ],
    one_of: &[],
    later: &[],
};

// Sessions, traits and segments

pub static SESSIONS: Section = Section::of(&[
    key("gap", Duration, "a pause longer than this ends it; 30m if left out"),
    key("lateness", Duration, "an event further behind the latest of its person is in none; 1d if left out"),
    key("split_on", Any(&Choice(|| names(&sessions::SPLITS))), "what ends it besides"),
    key("events", OneOrMore(&Text), "only events of these names or types"),
]);

pub static TRAIT: Section = Section {
    keys: &[
        key("latest", Sql, "the value of the latest event that has one"),
        key("first", Sql, "the value of the first event that has one"),
        key("count", Sql, "\"*\" for events, or how many have a value"),
        key("sum", Sql, "of numbers"),
        key("min", Sql, "the smallest"),
        key("max", Sql, "the largest"),
        key("mean", Sql, "of numbers"),
        key("most_frequent", Sql, "the value that came most often"),
        key("least_frequent", Sql, "the value that came least often"),
        key("distinct", Sql, "the different values"),
        key("gap", Sql, "the seconds between events: their mean, or a quantile"),
        key("funnel", List(&OneOf(&[Text, Map(&FUNNEL_STEP)])), "events in this order, `within` a time of the first"),
        key(
            "sequence",
            List(&OneOf(&[Text, Map(&SEQUENCE_STEP)])),
            "events in this order, each within a time of the one before",
        ),
        key("formula", Sql, "over other traits"),
        key("score", Sql, "over other traits, kept between 0 and 100"),
        key("stages", List(&Single(&Sql)), "names and their conditions over other traits: the first that holds"),
        key("rfm", Map(&RFM), "fifths of all people: R, F and M from 1 to 5, and a named segment"),
        key("event", OneOrMore(&Text), "only events of these names"),
        key("where", Sql, "only events for which it is true"),
        key("on_merge", Choice(|| names(&profile::ON_MERGE)), "whose value stands when profiles merge"),
        key("window", Duration, "only events of the last while, whole minutes"),
        key("pane", Duration, "the steps in which events leave the window; a sixtieth of it if left out"),
        key("by", Sql, "a value for each of these keys"),
        key("keep", Count, "with `distinct`: so many values are listed; with `gap`: so many of the latest events"),
        key("quantile", Text, "with `gap`: this quantile instead of the mean, as 0.5"),
        key("within", Duration, "with `funnel`: how long after the first step all others may come"),
        key(
            "mode",
            OneOrMore(&Choice(|| FunnelModes::NAMES.to_vec())),
            "with `funnel`: as in ClickHouse's windowFunnel",
        ),
    ],
    one_of: &profile::KINDS,
    later: &[],
};

pub static FUNNEL_STEP: Section = Section::of(&[
    required("event", OneOrMore(&Text), "events of these names"),
    key("where", Sql, "only those for which it is true"),
]);

pub static SEQUENCE_STEP: Section = Section::of(&[
    required("event", OneOrMore(&Text), "events of these names"),
    key("where", Sql, "only those for which it is true"),
    key("within", Duration, "how long after the step before"),
    key("without", Any(&OneOf(&[Text, Map(&FUNNEL_STEP)])), "what must not come between this step and the one before"),
]);

pub static RFM: Section = Section::of(&[
    required("recency", Sql, "a timestamp over other traits: the later, the better"),
    required("frequency", Sql, "a number over other traits; people count from above 0 on"),
    required("monetary", Sql, "a number over other traits"),
    required("every", Duration, "how often the borders between the fifths are found anew"),
]);

pub static SEGMENT: Section = Section {
    keys: &[
        key("sample", Text, "a share of all people, as 10%"),
        key("list", Text, "a file of identifiers: a CSV with a header, or a text with one on each line"),
        key("match", Text, "with `list`: the identifier type of its values"),
    ],
    one_of: &["sample", "list"],
    later: &[],
};

pub static GROUP: Section = Section::of(&[
    key("id", Sql, "what an event's group is known by; group_id if left out"),
    key("traits", Named(&Map(&TRAIT)), "what is kept per group; profile_id can be counted"),
    key("segments", Named(&Sql), "which groups belong together: a condition over their traits"),
]);

// Sources, tables, transforms

pub static SOURCE: Section = Section {
    keys: &[
        key("if", Text, "the source is on when this is not empty"),
        key("unless", Text, "the source is on when this is empty"),
        key("kafka", Map(&KAFKA_SOURCE), "topics of Kafka"),
        key("file", Map(&FILE_SOURCE), "files: NDJSON, CSV, Avro containers"),
        required("format", OneOf(&[Choice(|| vec!["avro", "json", "csv"]), Map(&FORMAT)]), "how payloads are read"),
        key("map", Targets, "what becomes of the source's columns; not needed for the standard envelope"),
    ],
    one_of: &["kafka", "file"],
    later: &[],
};

pub static KAFKA_SOURCE: Section = Section::of(&[
    required("brokers", Text, "host:port,host:port"),
    required("topics", OneOrMore(&Text), "topics to read"),
    key("start", Choice(|| names(&input::STARTS)), "where partitions begin that the state has no position for"),
    key("settings", Entries(&Text), "librdkafka's settings, as they are"),
]);

pub static FILE_SOURCE: Section = Section::of(&[required("path", Text, "a file, a folder or a glob")]);

pub static FORMAT: Section = Section {
    keys: &[
        key("avro", Map(&AVRO), "Avro; in a file an object container"),
        key("json", OneOf(&[Choice(|| names(&input::JSON_FORMS)), Map(&JSON)]), "JSON objects"),
        key("csv", Map(&CSV), "rows of a CSV file with a header"),
    ],
    one_of: &["avro", "json", "csv"],
    later: &[],
};

pub static AVRO: Section = Section::of(&[
    key("registry", Text, "URL of a Confluent-compatible registry"),
    key("schemas", Text, "folder of *.avsc; the number that ends a file's name is the schema's id"),
    key("schema", Text, "file with the one schema of all records"),
    key("reader", Text, "file with the schema that `map` reads by"),
    key("framing", Choice(|| names(&input::FRAMINGS)), "what stands before each record"),
]);

pub static JSON: Section =
    Section::of(&[required("schema", Text, "file with the Avro record that prescribes the shape")]);

pub static CSV: Section = Section::of(&[
    key("columns", Entries(&Choice(|| names(&input::VALUE_TYPES))), "columns and their types"),
    key("delimiter", Text, "one character; \",\" if left out, \"\\t\" for a tab"),
]);

pub static TABLE: Section = Section::of(&[
    required("file", Text, "a CSV file with a header"),
    required("key", Text, "the column that rows are found by"),
    required("columns", Entries(&Choice(|| names(&input::VALUE_TYPES))), "the columns that are taken, and their types"),
    key("reload", Duration, "after which time it is read again"),
]);

pub static STEP: Section = Section {
    keys: &[
        key("filter", Sql, "keeps the events for which it is true; null drops"),
        key("set", Targets, "writes columns and properties anew"),
        key("unnest", Map(&UNNEST), "one more event for each element of a list"),
        key("enrich", Map(&ENRICH), "adds the row of a table"),
        key("event", OneOrMore(&Text), "only events of these names"),
        key("source", OneOrMore(&Text), "only of these sources"),
    ],
    one_of: &["filter", "set", "unnest", "enrich"],
    later: &[],
};

pub static UNNEST: Section = Section::of(&[
    required("from", Text, "path of a list: properties.products"),
    required("as", Text, "name of the new events"),
]);

pub static ENRICH: Section = Section::of(&[
    required("table", Text, "one of `tables`"),
    required("key", Sql, "what its rows are found by"),
    required("as", Text, "its columns are NAME.column from here on"),
]);

pub static DEDUPE: Section = Section {
    keys: &[
        key("by", Choice(|| vec!["message_id"]), "message_id, nothing else"),
        required("within", OneOf(&[Choice(|| vec!["forever"]), Duration]), "how long an id is remembered"),
    ],
    one_of: &[],
    later: &[("prefer", NOT_YET)],
};

// Identity

pub static IDENTITY: Section = Section::of(&[
    required(
        "identifiers",
        List(&OneOf(&[Text, Single(&OneOf(&[Nothing, Map(&IDENTIFIER)]))])),
        "identifier types, best first: the best one of a person gives the profile its id",
    ),
    key("block", List(&Text), "values of any type that stand for nobody; /…/ is a regular expression"),
    key("on_conflict", Choice(|| names(&identity::ON_CONFLICT)), "whose an identifier is that two people share"),
    key("max_identifiers", Count, "a profile takes no more than this; 1000 if left out"),
    key("previous_id", Text, "the type that the previous_id of an alias call is"),
    key("source_priority", OneOrMore(&Text), "sources, best first, for `on_merge: source_priority`"),
    key("key", Secret, "what profile ids are hashed with; the pipeline's name if left out"),
]);

pub static IDENTIFIER: Section = Section {
    keys: &[
        key("normalize", Choice(|| names(&identity::rules())), "how its values are written in one way"),
        key("region", Text, "with e164: where numbers without a country code are from, as DE"),
        key("dots", Choice(|| names(&identity::KEEP_OR_DROP)), "with email: the dots before the @"),
        key("tags", Choice(|| names(&identity::KEEP_OR_DROP)), "with email: what follows a + before the @"),
        key("limit", Text, "how many one person may have: 5, or 100 per 30d"),
        key("block", List(&Text), "values of this type that stand for nobody"),
        key("from", Text, "where in the event it is found, instead of traits.NAME"),
    ],
    one_of: &[],
    later: &[("on_conflict", "is said once for all types: move it up to `identity`")],
};

pub static ALERT: Section = Section::of(&[
    required(
        "watch",
        Text,
        "an aggregate that has one key that is a time; each group of its other keys is watched by itself",
    ),
    required("value", Text, "its sum or count that is watched"),
    required("every", Choice(|| vec!["minute", "hour", "day"]), "the length of a period, in UTC"),
    key("season", Count, "periods until it repeats itself, 1 for never; if left out 1440 minutes, 24 hours, 7 days"),
    key("threshold", Text, "so many deviations are odd; 5 if left out"),
    key("wait", Duration, "a period is judged so long after its end; 1m if left out"),
]);

// Analyses

pub static ANALYSIS: Section = Section {
    keys: &[
        key("trend", Map(&TREND), "measures of events by time and value"),
        key("funnel", Map(&FUNNEL), "how many people go how far, and how long it takes them"),
        key("retention", Map(&RETENTION), "of those who begin in a period, how many come back, and what they bring"),
        key("attribution", Map(&ATTRIBUTION), "which channels conversions are owed to"),
        key("paths", Map(&PATHS), "what people do next, or did before"),
        key("transitions", Map(&TRANSITIONS), "how often one event follows another"),
        key("sizes", Map(&SIZES), "how large segments are over time"),
        key("flow", Map(&SEGMENTS_OF), "from which segments into which people went"),
        key("overlap", Map(&SEGMENTS_OF), "whom segments share"),
        key("lift", Map(&LIFT), "what sets a segment apart from the rest"),
        key(
            "anomalies",
            Map(&ANOMALIES),
            "periods of a series that are further from what was to be expected than by chance",
        ),
        key("by", Sql, "results are told apart by this value of events"),
        key("segment", Text, "only people who are in it now"),
    ],
    one_of: &[
        "trend",
        "funnel",
        "retention",
        "attribution",
        "paths",
        "transitions",
        "sizes",
        "flow",
        "overlap",
        "lift",
        "anomalies",
    ],
    later: &[],
};

pub static ANALYSIS_EVENTS: Section = Section::of(&[
    key("event", OneOrMore(&Text), "events of these names; all if left out"),
    key("where", Sql, "only those for which it is true"),
]);

pub static TREND: Section = Section::of(&[
    key("of", OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]), "which events; all if left out"),
    key("every", Choice(|| names(&Period::NAMES)), "a row for each; one for the whole range if left out"),
    key(
        "measures",
        Entries(&OneOf(&[Choice(|| vec!["count", "people"]), Map(&MEASURE)])),
        "by name; events and people if left out",
    ),
]);

pub static MEASURE: Section = Section {
    keys: &[
        key("sum", Sql, "of numbers"),
        key("min", Sql, "the smallest"),
        key("max", Sql, "the largest"),
        key("mean", Sql, "of numbers"),
        key("quantile", Sql, "of numbers: the median, or `at`"),
        key("ratio", List(&Text), "one measure divided by another"),
        key("at", Text, "with quantile: from 0 to 1"),
    ],
    one_of: &["sum", "min", "max", "mean", "quantile", "ratio"],
    later: &[],
};

pub static FUNNEL: Section = Section::of(&[
    required("steps", List(&OneOf(&[Text, Map(&ANALYSIS_EVENTS)])), "events, 2 to 32"),
    key("within", Duration, "all steps lie within so long of the first; 30d if left out"),
    key("mode", OneOrMore(&Text), "any_order, or modes of windowFunnel, as strict_order"),
    key("trend", Choice(|| names(&Period::NAMES)), "people are told apart by when they began"),
]);

pub static RETENTION: Section = Section::of(&[
    required("start", OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]), "the first of these begins it"),
    key(
        "return",
        OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]),
        "what counts as coming back; any event if left out",
    ),
    key("every", Choice(|| names(&Period::NAMES)), "the length of a period; month if left out"),
    key("periods", Count, "periods after the first; 12 if left out"),
    key("mode", Choice(|| names(&Counting::NAMES)), "in that period, or also in a later one, or in each up to it"),
    key("value", Sql, "a number that is summed, as what an order is worth"),
]);

pub static ATTRIBUTION: Section = Section::of(&[
    required("conversion", OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]), "what is to be explained"),
    required("channel", Sql, "a text of a touch; a direct visit has none"),
    key(
        "touch",
        OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]),
        "what people are touched by; any event if left out",
    ),
    key("value", Sql, "what a conversion is worth"),
    key("lookback", Duration, "touches so long before a conversion count; 30d if left out"),
    key("models", OneOrMore(&Choice(|| Model::NAMES.to_vec())), "all if left out"),
    key("half_life", Duration, "of time_decay; 7d if left out"),
    key("position", List(&Count), "of position_based, in percent; [40, 20, 40] if left out"),
    key("order", Count, "of markov, 1 to 3; 1 if left out"),
    key("direct", Choice(|| vec!["ignore", "count"]), "whether direct visits count beside others"),
]);

pub static PATHS: Section = Section {
    keys: &[
        key("from", OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]), "paths begin with the first of these"),
        key("to", OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]), "paths end with the first of these"),
        key("of", OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]), "what paths are made of; all events if left out"),
        key("length", Count, "events besides; 4 if left out"),
        key("within", Duration, "only events within so long"),
        key("top", Count, "the most frequent; 20 if left out"),
    ],
    one_of: &["from", "to"],
    later: &[],
};

pub static TRANSITIONS: Section = Section::of(&[
    key("of", OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]), "which events; all if left out"),
    key("within", Duration, "what comes later does not follow"),
    key("top", Count, "the most frequent; 100 if left out"),
]);

pub static SIZES: Section = Section::of(&[
    key("of", OneOrMore(&Text), "segments; all if left out"),
    key("every", Choice(|| names(&Period::NAMES)), "the length of a period; day if left out"),
]);

pub static SEGMENTS_OF: Section = Section::of(&[key("of", OneOrMore(&Text), "segments; all if left out")]);

pub static LIFT: Section = Section::of(&[
    required("of", Text, "the segment"),
    key("traits", OneOrMore(&Text), "what is compared; all texts, numbers and booleans if left out"),
    key("top", Count, "the values that say most; 20 if left out"),
]);

pub static ANOMALIES: Section = Section::of(&[
    key("of", OneOf(&[OneOrMore(&Text), Map(&ANALYSIS_EVENTS)]), "which events; all if left out"),
    required("every", Choice(|| names(&Period::NAMES)), "the length of a period"),
    key(
        "measures",
        Entries(&OneOf(&[Choice(|| vec!["count", "people"]), Map(&MEASURE)])),
        "as of trend; events if left out",
    ),
    key(
        "season",
        Count,
        "periods until it repeats itself, 1 for never; if left out 24 hours, 7 days, 52 weeks, 12 months",
    ),
    key("alpha", Text, "the risk of finding one where there is none; 0.05 if left out"),
    key("most", Text, "the share of periods that are odd at most; 0.1 if left out"),
]);

// Destinations

pub static DESTINATION: Section = Section {
    keys: &[
        key("webhook", Map(&WEBHOOK), "an HTTP endpoint, called as Standard Webhooks have it"),
        key("kafka", Map(&KAFKA_DESTINATION), "a topic"),
        key("email", Map(&EMAIL), "a mail server"),
        key("file", Map(&FILE_DESTINATION), "a file, a line for each message"),
        key("connector", Text, "a vendor's interface: one of `connectors`, or a built-in one"),
        key("with", Entries(&Text), "with `connector`: its parameters"),
        key("allow_private", Boolean, "with `connector`: it may be inside of the own network"),
        key("channel", Text, "one of `channels`; its kind if left out"),
        key("rate_limit", Text, "so many requests begin in a time at most, as 10 per 1s"),
        key("concurrency", Count, "requests that are under way at once; 16 if left out"),
        key(
            "timeout",
            Duration,
            "how long one request may take; 15s if left out, 1m for kafka, 3m for email, 1h for file",
        ),
        key("retry_for", Duration, "a delivery is tried for about so long; 3d if left out"),
        key(
            "order",
            Choice(|| names(&delivery::ORDERS)),
            "with profile, a profile's deliveries go one after the other",
        ),
        key("batch", Map(&DELIVERY_BATCH), "several deliveries in one request"),
        key("redact", List(&Text), "keys of bodies whose values are not recorded, or all"),
    ],
    one_of: &["webhook", "kafka", "email", "file", "connector"],
    later: &[],
};

pub static DELIVERY_BATCH: Section = Section::of(&[
    required("max", Count, "so many deliveries at most"),
    required("within", Duration, "the first of them waits no longer for others"),
]);

pub static WEBHOOK: Section = Section::of(&[
    required("url", Text, "http or https"),
    key("secret", OneOrMore(&Secret), "what bodies are signed with; while it is changed a list, the new one first"),
    key("headers", Entries(&Text), "more headers; those that are secret hold ${env:…} or ${file:…}"),
    key("allow_private", Boolean, "it may be inside of the own network"),
]);

pub static KAFKA_DESTINATION: Section = Section::of(&[
    required("brokers", Text, "host:port,host:port"),
    required("topic", Text, "where messages go, by profile id"),
    key("settings", Entries(&Text), "librdkafka's settings, as they are"),
]);

pub static CONSENT: Section = Section::of(&[
    required("from", Sql, "what an event says of it: true or false, granted or denied, yes or no"),
    key("default", Choice(|| names(&activation::CONSENT_DEFAULTS)), "for who has never said; deny if left out"),
]);

pub static AUDIENCE: Section = Section::of(&[
    required("segment", Text, "who belongs to it, of those who have agreed and are not suppressed"),
    required("to", Text, "the destination that keeps it"),
    required("match", OneOrMore(&Text), "the identifier types that people are matched by there"),
    required("consent", Text, "a purpose, or none"),
    key("reconcile", Duration, "members are sent again after so long"),
]);

pub static CHANNEL: Section = Section::of(&[
    key("frequency_cap", Text, "as 3 per 7d: so many messages to one person, of all activations together"),
    key("quiet_hours", Text, "as 21:00-08:00 where the person is: what falls into them waits for their end"),
]);

pub static FILE_DESTINATION: Section = Section::of(&[required("path", Text, "made where it is missing; appended to")]);

pub static EMAIL: Section = Section::of(&[
    required("smtp", Text, "smtp://host:587, or smtps://host:465 for TLS from the start"),
    key("user", Text, "to sign in"),
    key("password", Secret, "of the user"),
    required("from", Text, "Shop <shop@example.com>; a body may say another"),
    key("reply_to", Text, "where answers go"),
    key("unsubscribe", Template, "an https address of one click, over `delivery` and `body`"),
    key("tls", Choice(|| names(&destination::MAIL_TLS)), "of smtp://; required if left out"),
    key("ca", Text, "a file of certificates (PEM) that are trusted besides the public ones"),
    key("allow_private", Boolean, "it may be inside of the own network"),
]);

pub static MAIL: Section = Section::of(&[
    required("to", Template, "ann@example.com, or Ann Lee <ann@example.com>"),
    required("subject", Template, "one line"),
    key("text", Template, "the message as plain text"),
    key("html", Template, "the message as HTML"),
    key("from", Template, "instead of the destination's"),
    key("reply_to", Template, "instead of the destination's"),
    key("headers", Template, "more headers"),
    key("unsubscribe", Template, "an https address of one click, instead of the destination's"),
]);

// Connectors

pub static CONNECTOR: Section = Section {
    keys: &[
        key("about", Text, "what it is for"),
        key("docs", Any(&Text), "the vendor's pages that it follows"),
        key("with", Named(&Map(&PARAMETER)), "its parameters, as `with` names"),
        key("auth", Map(&AUTH), "how requests are signed in"),
        key("headers", Entries(&Template), "of every request"),
        key("request", Map(&OPERATION), "what a message becomes"),
        key("operations", Named(&Map(&OPERATION)), "several of them: a body says which as `op`"),
        key("answers", List(&Map(&ANSWER)), "what answers mean; the first that holds, then the status"),
        key("wait", Map(&WAIT), "a header that says when to try again, besides Retry-After"),
    ],
    one_of: &["request", "operations"],
    later: &[],
};

pub static PARAMETER: Section = Section::of(&[
    key("about", Text, "what it is"),
    key("secret", Boolean, "it holds ${env:…} or ${file:…}"),
    key("optional", Boolean, "it may be left out"),
    key("default", Text, "where it is left out"),
]);

pub static AUTH: Section = Section {
    keys: &[
        key("bearer", Template, "Authorization: Bearer …"),
        key("basic", Map(&BASIC), "user and password"),
        key("api_key", Map(&API_KEY), "a header or a parameter of the address"),
        key("oauth2", Map(&OAUTH2), "a token that is asked for, kept, and asked for anew when it is refused"),
    ],
    one_of: &["bearer", "basic", "api_key", "oauth2"],
    later: &[],
};

pub static BASIC: Section =
    Section::of(&[required("user", Template, "the user"), required("password", Template, "a secret parameter")]);

pub static API_KEY: Section = Section {
    keys: &[
        key("header", Text, "the header's name"),
        key("query", Text, "the parameter's name"),
        required("value", Template, "a secret parameter"),
    ],
    one_of: &["header", "query"],
    later: &[],
};

pub static OAUTH2: Section = Section::of(&[
    required("grant", Choice(|| names(&connector::GRANTS)), "how a token is asked for"),
    required("token_url", Template, "where"),
    required("client_id", Template, "of the application"),
    required("client_secret", Template, "a secret parameter"),
    key("refresh_token", Template, "with `refresh_token`: a secret parameter"),
    key("scope", Template, "what the token is for"),
]);

pub static OPERATION: Section = Section::of(&[
    key("method", Choice(|| connector::METHODS.to_vec()), "POST if left out"),
    required("url", Template, "values in it are percent-encoded unless they are `| safe`"),
    key("headers", Entries(&Template), "more headers"),
    key("encode", Choice(|| names(&connector::ENCODINGS)), "json if left out"),
    key("body", Template, "over `delivery`, `body`, `with`, and `items` where there is a batch"),
    key("needs", OneOrMore(&Text), "keys that a message's body must have"),
    key("refuse", List(&Map(&REFUSE)), "messages that are not sent"),
    key("batch", Map(&BATCH), "several messages in one request"),
    key("answers", List(&Map(&ANSWER)), "before those of the connector"),
    key("per_item", Map(&PER_ITEM), "which messages of a request were not taken"),
    key("drops_repeats", Boolean, "the vendor makes the same of a repeat; true if left out"),
]);

pub static REFUSE: Section = Section::of(&[
    required("when", Text, "an expression over `delivery`, `body` and `with`"),
    required("because", Text, "what is said about it"),
]);

pub static BATCH: Section = Section::of(&[
    required("max", Count, "so many at most"),
    required("item", Template, "what each message adds to `items`"),
]);

pub static ANSWER: Section = Section::of(&[
    required("when", Text, "an expression over `status`, `answer`, `text` and `headers`"),
    required("then", Choice(|| names(&connector::VERDICTS)), "what becomes of the message"),
    key("because", Text, "an expression: what is said about it"),
]);

pub static PER_ITEM: Section = Section::of(&[
    required("errors", Text, "an expression: the list of errors in the answer"),
    required("of", Text, "whether `error` (at `error_index`) is about `body`, `delivery` and `item` (at `index`)"),
    key("retry", Text, "whether such an error may pass"),
    key("because", Text, "an expression: what is said about it"),
]);

pub static WAIT: Section = Section::of(&[
    required("header", Text, "its name"),
    required("unit", Choice(|| names(&connector::WAIT_UNITS)), "what it holds"),
]);

// Activations, the warehouse

pub static ACTIVATION: Section = Section {
    keys: &[
        required("trigger", Map(&TRIGGER), "what sets it off"),
        required("consent", Text, "the purpose of `consent` that the person must have agreed to, or none"),
        key("status", Choice(|| names(&activation::STATUSES)), "dry_run if left out"),
        key(
            "on_backfill",
            Choice(|| names(&activation::ON_BACKFILL)),
            "what becomes of people whom a new definition finds in the past",
        ),
        key("re_entry", Text, "once, always or `after 7d`; always if left out"),
        key("priority", Count, "of several that want to send at one moment the highest goes first; 0 if left out"),
        key("frequency_cap", Text, "as 1 per 7d: so many of its messages to one person"),
        key("quiet_hours", Text, "as 21:00-08:00 where the person is: what falls into them waits for their end"),
        key("exit_when", Any(&Map(&EXIT_WHEN)), "what ends it for a person, at whatever step"),
        key(
            "on_change",
            Choice(|| names(&activation::ON_CHANGES)),
            "what becomes of those under way when its definition is changed; finish if left out",
        ),
        required("do", Steps, "what is done, step by step"),
    ],
    one_of: &[],
    later: &[],
};

pub static TRIGGER: Section = Section {
    keys: &[
        key("enters", Text, "a segment that a person enters"),
        key("exits", Text, "a segment that a person leaves"),
        key("event", OneOrMore(&Text), "events of these names"),
        key("changes", Text, "a trait with stages"),
        key("schedule", Text, "as 0 9 * * MON: at these times, everybody in `over`"),
        key("where", Sql, "with `event`: only those for which it is true"),
        key("from", OneOrMore(&Text), "with `changes`: only from these stages"),
        key("to", OneOrMore(&Text), "with `changes`: only into these stages"),
        key("over", Text, "with `schedule`: a segment"),
        key("timezone", Text, "with `schedule`: its time zone; the pipeline's if left out"),
    ],
    one_of: &["enters", "exits", "event", "changes", "schedule"],
    later: &[],
};

pub static EXIT_WHEN: Section = Section {
    keys: &[
        key("event", OneOrMore(&Text), "events of these names"),
        key("enters", Text, "a segment that the person enters"),
        key("exits", Text, "a segment that the person leaves"),
        key("where", Sql, "with `event`: only those for which it is true"),
    ],
    one_of: &["event", "enters", "exits"],
    later: &[],
};

pub static WAIT_FOR: Section = Section {
    keys: &[
        key("event", OneOrMore(&Text), "events of these names"),
        key("enters", Text, "a segment that the person enters"),
        key("exits", Text, "a segment that the person leaves"),
        key("where", Sql, "with `event`: only those for which it is true"),
        key("timeout", Duration, "how long; for ever if left out"),
    ],
    one_of: &["event", "enters", "exits"],
    later: &[],
};

pub static WAIT_UNTIL: Section = Section::of(&[
    required("time", Text, "as 09:00, where the person is"),
    key("days", Any(&Choice(activation::days)), "only on these days"),
]);

pub static ARM: Section =
    Section::of(&[required("share", Text, "as 45%"), key("do", Steps, "its steps; a control group if left out")]);

pub static JOURNEY_STEP: Section = Section {
    keys: &[
        required("id", Text, "its name, part of the idempotency key of what it sends"),
        key("send", Map(&SEND), "a message"),
        key("wait", Duration, "so long"),
        key("wait_until", OneOf(&[Text, Map(&WAIT_UNTIL)]), "a time of day where the person is"),
        key("wait_for", Map(&WAIT_FOR), "something that happens"),
        key("on_event", Steps, "with `wait_for`: when it has happened"),
        key("on_timeout", Steps, "with `wait_for`: when it has not"),
        key("branch", Sql, "a condition over traits and segments"),
        key("then", Steps, "with `branch`: where it holds"),
        key("else", Steps, "with `branch`: where it does not"),
        key("split", Entries(&Map(&ARM)), "arms that people are dealt to, always the same for one person"),
        key("set", Entries(&Template), "traits of the person, as an identify call sets them"),
        key("emit", Map(&EMIT), "an event of the person, like any other"),
        key("stop", Boolean, "ends it"),
    ],
    one_of: &["send", "wait", "wait_until", "wait_for", "branch", "split", "set", "emit", "stop"],
    later: &[],
};

pub static EMIT: Section = Section::of(&[
    required("event", Text, "its name"),
    key("properties", Template, "its properties; none if left out"),
]);

pub static SEND: Section = Section::of(&[
    required("to", Text, "one of `destinations`"),
    key("body", Template, "what is sent; everything about the profile if left out"),
]);

pub static WAREHOUSE: Section = Section::of(&[required("clickhouse", Map(&CLICKHOUSE), "a ClickHouse database")]);

pub static CLICKHOUSE: Section = Section::of(&[
    required("url", Text, "http or https; the lake where it is empty"),
    required("database", Text, "made if it is missing"),
    key("user", Text, "default if left out"),
    key("password", Secret, "of the user"),
]);

// Tests

pub static TEST: Section = Section::of(&[
    required("name", Text, "unlike any other"),
    required("steps", List(&Map(&TEST_STEP)), "one after the other, from an empty state"),
]);

pub static TEST_STEP: Section = Section::of(&[
    key("at", Text, "a time as 2026-03-01T10:00Z, or +2h after the step before"),
    key("events", List(&Event), "events that arrive together at this time"),
    key("expect", Map(&EXPECT), "looked at after the events"),
]);

pub static EXPECT: Section = Section::of(&[
    key("profiles", List(&Any(&Text)), "all identifiers as type:value, those of one person in one list"),
    key("events", Entries(&Text), "message id: the person as type:value that the event belongs to"),
    key("conflicts", List(&Map(&CONFLICT)), "these and no other identity conflicts since the `expect` before"),
    key("segments", Entries(&Any(&Text)), "segment: exactly its members as type:value"),
    key("traits", Entries(&Entries(&Json)), "person: traits and their values"),
    key("groups", Entries(&Entries(&Entries(&Json))), "one of `groups`: ids of such groups, their traits and values"),
    key("group_segments", Entries(&Any(&Text)), "GROUP.SEGMENT: exactly the ids of its members"),
    key("sent", List(&Map(&SENT)), "these and no other messages since the `expect` before"),
    key("flags", Entries(&Any(&Text)), "message id: exactly the event's flags"),
    key("no_profile", Any(&Text), "message ids of the events since the `expect` before that belong to nobody"),
    key("rejected", Any(&Text), "message ids of the events since the `expect` before that were rejected"),
]);

pub static CONFLICT: Section = Section::of(&[
    key("set_aside", Text, "the identifier that was set aside, as type:value"),
    key("reassigned", Text, "the identifier that went to another person, as type:value"),
    key("profile", Text, "whose event it was, as type:value"),
    key("other", Text, "whose the identifier was, or nobody"),
    key("cause", Text, "limit, max_identifiers or cut"),
    key("limited_type", Text, "the identifier type whose limit it was"),
    key("message_id", Text, "of the event"),
    key("source", Text, "of the event"),
]);

pub static SENT: Section = Section::of(&[
    key("activation", Text, "one of `activations`"),
    key("step", Text, "the id of its step"),
    key("to", Text, "one of `destinations`"),
    key("profile", Text, "the person, as type:value"),
    key("body", Json, "what was sent; of an object only the keys written here count"),
]);

/// The keys of a test's event; those of the standard envelope and the source.
pub fn event_keys() -> Vec<&'static str> {
    case::ENVELOPE.to_vec()
}
