//! Definitions: YAML → checked pipeline, with positions for every error. The only module that knows YAML.
//!
//! 1. every `*.yaml` of the folder becomes a tree of nodes that know their place (`yaml`);
//! 2. the trees become specs, section by section and entry by entry (`sections`, with the parts of `read`);
//! 3. the specs are checked against each other and the contracts, expressions are compiled, and plans come out
//!    (`inputs`, `outputs`, `aggregates`, `cases`).
//!
//! No step stops at its first fault, and what refers to something faulty is not reported as well, so that one run
//! of `check` shows everything there is to mend. Secrets never reach a finding.

mod activations;
mod aggregates;
mod analyses;
mod audiences;
mod cases;
mod check;
mod connectors;
mod destinations;
mod findings;
mod groups;
mod inputs;
mod keys;
mod lists;
mod outputs;
mod read;
mod rewrite;
mod schema;
mod scope;
mod sections;
mod segments;
mod spec;
mod traits;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono_tz::Tz;

pub use self::analyses::told_apart;
pub use self::cases::{
    Blank, Cell, Expectation, Expected, ExpectedRow, Place, TestEvent, TestPlan, TestStep, Who, time_value,
};
use self::check::Checker;
use self::findings::Findings;
pub use self::findings::nearest_or_list;
pub use self::groups::GroupPlan;
use self::read::Reader;
pub use self::rewrite::{Correction, Rewritten, flow, rewrite};
pub use self::schema::json_schema;
use self::scope::Whose;
pub use self::sections::read_time;
use self::spec::{Definition, Named};
use self::yaml::{Node, Value};

use crate::activation::{ActivationPlan, AudiencePlan, DestinationPlan, EMITTED, Messaging};
use crate::aggregate::{AggregatePlan, AlertPlan};
use crate::analysis::AnalysisPlan;
use crate::decode::DecodePlan;
use crate::identity::IdentityPlan;
use crate::profile::TraitPlan;
use crate::segment::SegmentPlan;
use crate::session::SessionsPlan;
use crate::source::SourcePlan;
use crate::transform::TransformPlan;

/// A pipeline that has been checked whole: the stages run it as it is.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub name: String,
    /// The file or folder that it was read from.
    pub path: PathBuf,
    /// The folder that relative paths start from.
    pub base: PathBuf,
    /// Sources and how their payloads are read; same order in both.
    pub sources: Vec<SourcePlan>,
    pub decode: Vec<DecodePlan>,
    pub transform: TransformPlan,
    pub dedupe: DedupePlan,
    pub identity: IdentityPlan,
    pub sessions: SessionsPlan,
    pub traits: Vec<TraitPlan>,
    pub segments: Vec<SegmentPlan>,
    pub groups: Vec<GroupPlan>,
    pub destinations: Vec<DestinationPlan>,
    pub audiences: Vec<AudiencePlan>,
    pub activations: Vec<ActivationPlan>,
    pub messaging: Messaging,
    pub aggregates: Vec<AggregatePlan>,
    pub alerts: Vec<AlertPlan>,
    pub analyses: Vec<AnalysisPlan>,
    pub warehouse: Warehouse,
    pub tests: Vec<TestPlan>,
}

/// `dedupe:`: how long a message id is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupePlan {
    /// None: for ever.
    pub within: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Warehouse {
    Lake,
    ClickHouse { url: String, database: String, user: Option<String>, password: Option<String> },
}

impl std::fmt::Debug for Warehouse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warehouse::Lake => write!(f, "Lake"),
            Warehouse::ClickHouse { url, database, .. } => write!(f, "ClickHouse({url}, {database})"),
        }
    }
}

/// One finding, with its place. Printed with the line itself and a marker below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub file: PathBuf,
    /// From 1; 0 where the finding is about the file or folder as a whole, and then nothing below is set.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// How many characters are at fault (at least 1).
    pub length: usize,
    /// The line's text.
    pub text: String,
    pub message: String,
    pub help: Option<String>,
}

impl Diagnostic {
    fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// What the loader may look at besides the files: secrets are only needed to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Secrets may be missing, nothing is connected to.
    Check,
    /// Everything must be there.
    Run,
}

/// How long a message id is remembered where `dedupe` does not say.
const DEDUPE_WITHIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Loads and checks a pipeline file or folder.
///
/// # Errors
/// All findings at once, errors and warnings; the pipeline comes with the warnings when there is no error.
pub fn load(path: &Path, mode: Mode) -> Result<(Pipeline, Vec<Diagnostic>), Vec<Diagnostic>> {
    load_with(path, None, mode, &|name| std::env::var(name).ok())
}

/// A version of an activation that people are under way along, though it is defined otherwise by now.
#[derive(Debug, Clone)]
pub struct Earlier {
    pub name: String,
    pub version: u64,
    /// Its definition as JSON.
    pub written: String,
}

/// The same pipeline with earlier versions of its activations, for those who are under way along them. Those that do not fit
/// what is defined now are left out, with the reason.
///
/// # Errors
/// As [`load`].
pub fn load_earlier(pipeline: &Pipeline, earlier: &[Earlier]) -> Result<(Pipeline, Vec<String>), Vec<Diagnostic>> {
    let mut earlier = earlier.to_vec();
    let mut left_out = Vec::new();
    loop {
        let sources = Sources { rules: None, earlier: &earlier };
        match load_as(&pipeline.path, &sources, Mode::Run, false, &|name| std::env::var(name).ok()) {
            Ok((pipeline, _)) => return Ok((pipeline, left_out)),
            Err(findings) => {
                let is_at_fault =
                    |one: &Earlier| findings.iter().find(|finding| finding.file == one.file() && finding.is_error());
                let before = earlier.len();
                earlier.retain(|one| {
                    let fault = is_at_fault(one);
                    left_out.extend(fault.map(|finding| format!("{}: {}", one.name, finding.message)));
                    fault.is_none()
                });
                if earlier.len() == before {
                    return Err(findings);
                }
            }
        }
    }
}

impl Earlier {
    /// What its findings name as their file.
    fn file(&self) -> PathBuf {
        PathBuf::from(format!("{} (version {:016x})", self.name, self.version))
    }
}

/// What a pipeline is read from besides its own files.
#[derive(Default)]
struct Sources<'a> {
    /// Where the `identity` section comes from instead.
    rules: Option<&'a Path>,
    earlier: &'a [Earlier],
}

/// [`load`] with [`Mode::Check`], where what tests expect may still be empty: it becomes [`Expected::Blank`] or expects
/// nothing, for [`rewrite`] to fill in.
///
/// # Errors
/// As [`load`].
pub fn load_to_fill(path: &Path) -> Result<(Pipeline, Vec<Diagnostic>), Vec<Diagnostic>> {
    load_as(path, &Sources::default(), Mode::Check, true, &|name| std::env::var(name).ok())
}

/// [`load`], with the `identity` section of the file (or folder) `rules` in place of the pipeline's own: what other
/// rules would make of it. Whatever else is in `rules` is left aside; paths in the section start from the pipeline's
/// folder. A section without `key` means the pipeline's name, as in the pipeline itself.
///
/// # Errors
/// As [`load`]; and that `rules` has no such section.
pub fn load_with_identity(
    path: &Path,
    mode: Mode,
    rules: &Path,
) -> Result<(Pipeline, Vec<Diagnostic>), Vec<Diagnostic>> {
    load_with(path, Some(rules), mode, &|name| std::env::var(name).ok())
}

/// Both with the environment as a parameter.
fn load_with(
    path: &Path,
    rules: Option<&Path>,
    mode: Mode,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Pipeline, Vec<Diagnostic>), Vec<Diagnostic>> {
    load_as(path, &Sources { rules, ..Sources::default() }, mode, false, env)
}

fn load_as(
    path: &Path,
    sources: &Sources<'_>,
    mode: Mode,
    fill: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Pipeline, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut findings = Findings::default();
    let base = read_files(path, &mut findings);
    let first_rules = findings.files().len();
    if let Some(rules) = sources.rules {
        read_files(rules, &mut findings);
    }
    for one in sources.earlier {
        findings.add_file(one.file(), format!("{{\"activations\": {{\"{}\": {}}}}}", one.name, one.written));
    }
    let reader = Reader { findings: &findings, mode, fill, base, env };
    let rules = sources.rules.map(|rules| (rules, first_rules));
    let pipeline = build(path, rules, sources.earlier, &reader);
    let any_error = findings.any_error();
    match pipeline {
        Some(pipeline) if !any_error => Ok((pipeline, findings.into_diagnostics())),
        _ => Err(findings.into_diagnostics()),
    }
}

/// Takes in the definition files, in the order of their names; gives the folder that paths start from.
fn read_files(path: &Path, findings: &mut Findings) -> PathBuf {
    let files = if path.is_dir() {
        let mut files = inputs::files_with_ending(path, "yaml");
        files.extend(inputs::files_with_ending(path, "yml"));
        files.sort();
        files
    } else {
        vec![path.to_path_buf()]
    };
    if files.is_empty() {
        let help = "a pipeline is a folder with *.yaml files, or one such file".to_string();
        findings.error_of(path.to_path_buf(), "there are no *.yaml files here", help);
    }
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                findings.add_file(file, text);
            }
            Err(error) => findings.error_of(file, format!("this file cannot be read: {error}"), None),
        }
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_path_buf() }
}

/// None where there are errors that would only make others. `rules`: where the `identity` section comes from instead,
/// and the first of its files.
fn build(path: &Path, rules: Option<(&Path, usize)>, earlier: &[Earlier], reader: &Reader) -> Option<Pipeline> {
    let findings = reader.findings;
    let mut parsed: Vec<Option<Vec<Node>>> =
        (0..findings.files().len()).map(|file| yaml::parse(file, findings)).collect();
    let unreadable = parsed.iter().any(Option::is_none) || findings.any_error() && parsed.is_empty();
    let of_earlier = parsed.split_off(parsed.len() - earlier.len());
    let of_rules = rules.map(|(_, first)| parsed.split_off(first).into_iter().flatten().flatten().collect::<Vec<_>>());
    let documents: Vec<Node> = parsed.into_iter().flatten().flatten().collect();
    let mut definition = sections::read(&documents, of_rules.as_deref(), reader);
    let of_consent = activations::consent_traits(&definition.consent);
    definition.traits.extend(of_consent);
    if let (Some((rules, first)), Some(documents)) = (rules, &of_rules) {
        let there = |document: &Node| match &document.value {
            Value::Map(sections) => sections.iter().any(|section| section.key.text == "identity"),
            // No pipeline file at all, which has been reported.
            _ => !document.is_null(),
        };
        let any_file = findings.files().len() > first;
        if any_file && !unreadable && !documents.iter().any(there) {
            let help = "identity: { identifiers: [user_id, anonymous_id] }".to_string();
            findings.error_of(rules.to_path_buf(), "there is no `identity` section here", help);
        }
    }
    // What a file that cannot be read defines is unknown, so nothing that refers to it can be judged.
    if unreadable {
        return None;
    }
    if documents.iter().all(Node::is_null) {
        let help = "it needs at least `sources`".to_string();
        findings.error_of(path.to_path_buf(), "this pipeline is empty", help);
        return None;
    }
    let name = pipeline_name(path, &definition, reader);
    let timezone = timezone(&definition, reader);

    let mut checker = Checker::new(reader.clone(), &definition);
    let sources = sources(path, &definition, &checker);
    let tables = bodies(&definition.tables).filter_map(|(name, _, spec)| inputs::table(&checker, name, spec)).collect();
    let steps = definition.transforms.iter().filter_map(|spec| inputs::step(&mut checker, spec)).collect();

    let identity = outputs::identity(&checker, definition.identity.as_ref(), &name);
    let sessions = outputs::sessions(&checker, definition.sessions.as_ref(), timezone);
    let traits = traits::traits(&checker, &definition.traits, Whose::People);
    let specs = (definition.traits.as_slice(), definition.segments.as_slice());
    let segments = segments::segments(&checker, specs, Whose::People, &traits, &identity);
    let groups = groups::groups(&checker, &definition, &identity);
    let destinations: Vec<DestinationPlan> = bodies(&definition.destinations)
        .filter_map(|(name, span, spec)| destinations::destination(&checker, name, span, spec))
        .collect();
    let audiences = audiences::audiences(&checker, &definition, &identity);
    let messaging = activations::messaging(&checker, &definition, &traits, &destinations, timezone);
    let mut trait_names: Vec<&str> = definition.traits.iter().map(|other| other.name.as_str()).collect();
    trait_names.extend(crate::profile::BUILT_IN.iter().map(|(name, _)| *name));
    trait_names.extend(traits.iter().flat_map(|plan| &plan.columns).map(|column| column.name.as_str()));
    let scope = segments::scope(&checker, specs, Whose::People, &traits);
    let names = activations::Names { traits: &trait_names, plans: &traits, scope: &scope, timezone };
    let mut activations: Vec<ActivationPlan> = bodies(&definition.activations)
        .filter_map(|(name, _, spec)| activations::activation(&checker, name, spec, &names))
        .collect();
    activations::check_circles(&checker, &definition, &activations);
    for (one, documents) in earlier.iter().zip(&of_earlier) {
        let read = sections::read(documents.as_deref().unwrap_or_default(), None, reader);
        let plans = bodies(&read.activations)
            .filter_map(|(name, _, spec)| activations::activation(&checker, name, spec, &names));
        // Its steps are of then; whether, when and to whom anything is sent is as it is said now.
        let now = activations.iter().find(|plan| plan.name == one.name && !plan.is_retired).cloned();
        activations.extend(plans.map(|plan| plan.retired(one.version, now.as_ref())));
    }
    let aggregates: Vec<AggregatePlan> = bodies(&definition.aggregates)
        .filter_map(|(name, span, sql)| aggregates::aggregate(&checker, name, span, sql))
        .collect();
    let alerts = bodies(&definition.alerts)
        .filter_map(|(name, _, spec)| aggregates::alert(&checker, name, spec, &aggregates))
        .collect();

    let analyses = bodies(&definition.analyses)
        .filter_map(|(name, _, spec)| analyses::analysis(&checker, name, spec, &traits, timezone))
        .collect();

    let tests = cases::tests(&checker, &definition, &identity, &traits, &groups);

    let mut source_plans = Vec::new();
    let mut decode = Vec::new();
    let mut maps = BTreeMap::new();
    for source in sources {
        if let Some(map) = source.map {
            maps.insert(source.decode.source.clone(), map);
        }
        source_plans.push(source.plan);
        decode.push(source.decode);
    }
    if let Some(source) = definition.sources.iter().find(|source| source.name == EMITTED) {
        let message = format!(
            "`{EMITTED}` is the source of what the pipeline itself makes: alerts, and steps with `emit` and `set`"
        );
        findings.error(source.span, message, "give the source another name".to_string());
    }
    let (contracts, step_fields, fields) = checker.into_fields();
    let contract_mode = definition.contracts.unwrap_or_default();
    Some(Pipeline {
        name,
        path: path.to_path_buf(),
        base: reader.base.clone(),
        sources: source_plans,
        decode,
        transform: TransformPlan { maps, steps, tables, contracts, contract_mode, step_fields, fields },
        dedupe: DedupePlan { within: definition.dedupe.as_ref().map_or(Some(DEDUPE_WITHIN), |dedupe| dedupe.within) },
        identity,
        sessions,
        traits,
        segments,
        groups,
        destinations,
        audiences,
        activations,
        messaging,
        aggregates,
        alerts,
        analyses,
        warehouse: outputs::warehouse(definition.warehouse.as_ref()),
        tests,
    })
}

/// Entries that could be read.
fn bodies<T>(entries: &[Named<T>]) -> impl Iterator<Item = (&str, findings::Span, &T)> {
    entries.iter().filter_map(|entry| entry.body.as_ref().map(|body| (entry.name.as_str(), entry.span, body)))
}

/// Checks all sources; gives those that are on.
fn sources(path: &Path, definition: &Definition, checker: &Checker) -> Vec<inputs::CheckedSource> {
    let findings = checker.reader.findings;
    if definition.sources.is_empty() {
        let help = "sources: { web: { file: { path: data/*.ndjson }, format: { json: segment } } }".to_string();
        findings.error_of(path.to_path_buf(), "this pipeline has no source", help);
    }
    let mut on = Vec::new();
    for (name, span, spec) in bodies(&definition.sources) {
        let checked = inputs::source(checker, name, span, spec);
        on.extend(checked.filter(|_| spec.on));
    }
    let all_read = definition.sources.iter().all(|source| source.body.is_some());
    let none_on = bodies(&definition.sources).all(|(_, _, spec)| !spec.on);
    if let (Some(first), true, true) = (definition.sources.first(), all_read, none_on) {
        let help = "look at their `if` and `unless`, and at the variables these name".to_string();
        findings.error(first.span, "no source is on", help);
    }
    on
}

/// The pipeline's name: the folder's where it is not said.
fn pipeline_name(path: &Path, definition: &Definition, reader: &Reader) -> String {
    if let Some(literal) = &definition.pipeline {
        reader.check_name(&literal.text, literal.span, "pipeline");
        return literal.text.clone();
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let name = absolute.file_stem().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// UTC where it is not said, or cannot be read.
fn timezone(definition: &Definition, reader: &Reader) -> Tz {
    let Some(timezone) = &definition.timezone else { return Tz::UTC };
    let Ok(zone) = timezone.text.parse::<Tz>() else {
        let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        let help = findings::nearest(&timezone.text, names);
        let help = help.unwrap_or("write UTC or a name like Europe/Berlin".to_string());
        if timezone.known {
            let message = format!("`{}` is not the name of a time zone", timezone.text);
            reader.findings.error(timezone.span, message, help);
        }
        return Tz::UTC;
    };
    let followed = definition.sessions.as_ref().is_some_and(|sessions| sessions.split_on_midnight);
    if !followed && !matches!(zone, Tz::UTC | Tz::Etc__UTC) {
        let message = "only `sessions` with `split_on: midnight` follow this time zone so far";
        let help = "expressions cut days and hours in UTC; write UTC to say that this is meant".to_string();
        reader.findings.warning(timezone.span, message, help);
    }
    zone
}
