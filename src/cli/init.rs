//! `init`: a first pipeline from a file or a topic, that runs as it is.
//!
//! 1. records are read from the beginning (`sample`);
//! 2. it is inferred what they are (`infer`), and how the source maps them (`map`);
//! 3. the engine makes events of them by that map, and their properties become contracts (`shape`);
//! 4. the whole is written and checked (`render`); where that fails, nothing stays behind.

mod infer;
mod map;
mod render;
mod sample;
mod shape;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use self::map::Mapped;
use self::render::{Counted, Head};
use self::sample::{Origin, Payload, Sample};
use self::shape::{Shape, snake};
use super::output::print;
use super::{Exit, Failure, say};
use crate::definition::{self, Mode};
use crate::engine::Preparer;
use crate::event::column;

#[derive(Debug, Clone, Args)]
pub struct InitOptions {
    /// Where the pipeline is written
    #[arg(default_value = ".", value_name = "FOLDER")]
    pub folder: PathBuf,
    /// A file (NDJSON, CSV, Avro container), kafka://BROKERS/TOPIC, or with --brokers a topic [default: the one data
    /// file of the folder]
    #[arg(long, value_name = "FILE|TOPIC")]
    pub from: Option<String>,
    /// Kafka's address, for a topic
    #[arg(long, env = "KAFKA_BROKERS", value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// The schema registry of a topic with Avro
    #[arg(long, env = "SCHEMA_REGISTRY_URL", value_name = "URL")]
    pub registry: Option<String>,
    /// How many records are looked at, from the beginning
    #[arg(long, default_value_t = 100_000, value_name = "COUNT")]
    pub records: usize,
}

const PIPELINE: &str = "pipeline.yaml";
/// More event names than a pipeline has; what is beyond is no name but a value.
const CONTRACTS_MAX: usize = 200;

/// Writes the pipeline, and says what was written, what was inferred and what comes next.
pub async fn init(options: &InitOptions) -> Result<Exit, Failure> {
    let origin = origin(options)?;
    refuse_pipelines(&options.folder)?;
    let mut sample = sample::sample(&origin, options.records.max(1)).await?;
    let (source, shown) = match &origin {
        Origin::File(path) => (snake(&stem(path)), path.display().to_string()),
        Origin::Topic { topic, .. } => (snake(topic), format!("topic {topic}")),
    };
    let mut mapped = map::mapped(&sample, &source)?;
    let input = input(&origin, &options.folder, &mut mapped);
    let absolute = std::path::absolute(&options.folder).unwrap_or_else(|_| options.folder.clone());
    let name = snake(&stem(&absolute));
    let head = Head { pipeline: &name, source: &source, input, mapped: &mapped };

    let mut files = Files::new(&options.folder);
    if let Some((name, schema)) = &mapped.schema {
        files.write(&format!("schemas/{name}"), schema)?;
    }
    // Nothing is rejected by a contract that ships while it is looked at what the events are.
    files.write(PIPELINE, &render::sources(&head, "contracts: flag\n"))?;
    let events = Events::read(&options.folder, &source, &mut sample).await?;

    // What was not seen cannot be known: only where all there is was read are others wrong.
    let strict = sample.whole && matches!(origin, Origin::File(_));
    let contracts = if strict {
        String::new()
    } else {
        let what = "An event that is not as schemas/events say is let through with a flag: they were inferred from a part of what comes.";
        format!("\n# {what}\n# Look at them, then write strict to have such events rejected.\ncontracts: flag\n")
    };
    for (file, contract) in events.contracts() {
        files.write(&format!("schemas/events/{file}.avsc"), &format!("{contract:#}\n"))?;
    }
    files.replace(PIPELINE, &render::pipeline(&head, &contracts, &events.counted()))?;
    check(&options.folder)?;
    report(&files, &shown, &sample, &mapped, &events);
    files.keep();
    Ok(Exit::Well)
}

fn origin(options: &InitOptions) -> Result<Origin, Failure> {
    let topic = |brokers: &str, topic: &str| Origin::Topic {
        brokers: brokers.to_string(),
        topic: topic.to_string(),
        registry: options.registry.clone(),
    };
    let Some(from) = &options.from else { return data_file(&options.folder).map(Origin::File) };
    if let Some(address) = from.strip_prefix("kafka://") {
        let parts = address.split_once('/').filter(|(brokers, topic)| !brokers.is_empty() && !topic.is_empty());
        let (brokers, name) = parts.ok_or_else(|| usage("write kafka://HOST:PORT/TOPIC"))?;
        return Ok(topic(brokers, name));
    }
    let path = PathBuf::from(from);
    let like_a_path = path.components().count() > 1 || data_ending(&path);
    match &options.brokers {
        _ if path.exists() => Ok(Origin::File(path)),
        Some(brokers) if !like_a_path => Ok(topic(brokers, from)),
        _ => Err(usage(&format!(
            "there is no file {from}; for a topic give --brokers, or write kafka://HOST:PORT/{from}"
        ))),
    }
}

fn usage(message: &str) -> Failure {
    Failure { exit: Exit::Usage, message: message.to_string() }
}

fn data_ending(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    ["ndjson", "jsonl", "csv", "tsv", "avro"].contains(&ending)
}

/// The one data file of the folder or of `data` in it.
fn data_file(folder: &Path) -> Result<PathBuf, Failure> {
    let entries =
        [folder.to_path_buf(), folder.join("data")].into_iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let mut files: Vec<PathBuf> =
        entries.flatten().flatten().map(|entry| entry.path()).filter(|path| data_ending(path)).collect();
    files.sort();
    match &files[..] {
        [one] => Ok(one.clone()),
        [] => Err(usage("say where events come from: --from FILE, or --from kafka://HOST:PORT/TOPIC")),
        [first, ..] => Err(usage(&format!("there are several files; say which: --from {}", first.display()))),
    }
}

/// A pipeline's files are joined: a second one beside it would be no first pipeline.
fn refuse_pipelines(folder: &Path) -> Result<(), Failure> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let yaml = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    match entries.into_iter().find(yaml) {
        Some(path) => Err(Failure::findings(format!(
            "there is a pipeline already: {}. Nothing was written; name another folder",
            path.display()
        ))),
        None => Ok(()),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The source's `file` or `kafka`; where the records' schemas come from is added to the format.
fn input(origin: &Origin, folder: &Path, mapped: &mut Mapped) -> (&'static str, Value) {
    match origin {
        Origin::File(path) => ("file", json!({ "path": relative(folder, path) })),
        Origin::Topic { brokers, topic, registry } => {
            if let Some(registry) =
                registry.as_ref().filter(|_| mapped.format == "avro" || !mapped.format["avro"].is_null())
            {
                // A password is not written down.
                let address = match url::Url::parse(registry) {
                    Ok(url) if url.password().is_none() => format!("${{env:SCHEMA_REGISTRY_URL:-{registry}}}"),
                    _ => "${env:SCHEMA_REGISTRY_URL}".to_string(),
                };
                let mut avro = mapped.format["avro"].as_object().cloned().unwrap_or_default();
                avro.insert("registry".to_string(), address.into());
                mapped.format = json!({ "avro": avro });
            }
            let brokers = format!("${{env:KAFKA_BROKERS:-{brokers}}}");
            ("kafka", json!({ "brokers": brokers, "topics": [topic], "start": "earliest" }))
        }
    }
}

/// A path as the pipeline in `folder` names it; whole where the two have nothing in common.
fn relative(folder: &Path, path: &Path) -> String {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let clean = |path: PathBuf| {
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::ParentDir => drop(clean.pop()),
                part => clean.push(part),
            }
        }
        clean
    };
    let (folder, path) = (clean(whole(folder)), clean(whole(path)));
    let common = folder.components().zip(path.components()).take_while(|(one, other)| one == other).count();
    if common <= 1 {
        return path.to_string_lossy().into_owned();
    }
    let up = std::iter::repeat_n("..".to_string(), folder.components().count() - common);
    let down = path.components().skip(common).map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).collect::<Vec<_>>().join("/")
}

/// The events that the engine makes of the sample.
struct Events {
    /// Track calls: their names and the shapes of their properties.
    named: BTreeMap<String, Shape>,
    /// Of events without a name, their calls.
    calls: BTreeMap<String, u64>,
    rejected: usize,
    first_reject: Option<String>,
}

impl Events {
    async fn read(folder: &Path, source: &str, sample: &mut Sample) -> Result<Events, Failure> {
        let (pipeline, _) = definition::load(folder, Mode::Run).map_err(unusable)?;
        let mut preparer = Preparer::new(&pipeline, None).map_err(Failure::environment)?;
        if let Payload::Avro { schema } = &sample.payload {
            let schemas = preparer.schemas(source).map_err(Failure::fatal)?;
            schemas.register_local(schema).map_err(Failure::findings)?;
        }
        let mut events =
            Events { named: BTreeMap::new(), calls: BTreeMap::new(), rejected: sample.unread, first_reject: None };
        for raw in &mut sample.raw {
            raw.source = source.into();
            preparer.fetch_schemas(raw).await.map_err(Failure::environment)?;
            let prepared = preparer.prepare(raw, Vec::new()).map_err(Failure::fatal)?;
            for reject in prepared.rejects {
                events.rejected += 1;
                events.first_reject.get_or_insert_with(|| format!("{}: {}", reject.position, reject.reason));
            }
            for row in 0..prepared.events.len() {
                let text = |index| prepared.events.text(index, row);
                let (Some(call), event) = (text(column::TYPE), text(column::EVENT)) else { continue };
                let Some(event) = event.filter(|_| call == "track") else {
                    *events.calls.entry(call.to_string()).or_default() += 1;
                    continue;
                };
                let properties = text(column::PROPERTIES).and_then(|text| serde_json::from_str(text).ok());
                let properties = properties.unwrap_or_else(|| Value::Object(Map::new()));
                events.named.entry(event.to_string()).or_default().add(&properties);
            }
        }
        if events.named.is_empty() && events.calls.is_empty() {
            let fault = events.first_reject.or(sample.first_fault.take()).unwrap_or_default();
            return Err(Failure::findings(format!("no event can be made of the records: {fault}")));
        }
        Ok(events)
    }

    /// The most frequent names, up to a bound.
    fn frequent(&self) -> Vec<(&String, &Shape)> {
        let mut all: Vec<(&String, &Shape)> = self.named.iter().collect();
        all.sort_by_key(|(_, shape)| std::cmp::Reverse(shape.seen));
        all.truncate(CONTRACTS_MAX);
        all
    }

    /// File names and contracts, each for an event.
    fn contracts(&self) -> Vec<(String, Value)> {
        let mut files: Vec<(String, Value)> = Vec::new();
        for (event, shape) in self.frequent() {
            let mut file = snake(event);
            while files.iter().any(|(other, _)| *other == file) {
                file.push_str("_2");
            }
            let mut contract = shape.record(event, true);
            contract["event"] = json!(event);
            let what = if shape.seen == 1 { "event" } else { "events" };
            contract["doc"] = format!("Inferred from {} {what}.", shape.seen).into();
            files.push((file, contract));
        }
        files
    }

    fn counted(&self) -> Counted {
        let mut example = Map::new();
        match self.frequent().first() {
            Some((event, shape)) => {
                example.insert("event".to_string(), json!(event));
                let properties = shape.example();
                if properties.as_object().is_some_and(|properties| !properties.is_empty()) {
                    example.insert("properties".to_string(), properties);
                }
                Counted { event: Some((*event).clone()), example }
            }
            None => {
                let call = self.calls.iter().max_by_key(|(_, count)| **count);
                let call = call.map_or("identify", |(call, _)| call.as_str());
                example.insert("type".to_string(), json!(call));
                Counted { event: None, example }
            }
        }
    }
}

fn unusable(findings: Vec<definition::Diagnostic>) -> Failure {
    findings.iter().for_each(|finding| say(&format!("{finding}\n")));
    Failure::findings("no pipeline can be made of this by itself, see above; nothing was written")
}

fn check(folder: &Path) -> Result<(), Failure> {
    definition::load(folder, Mode::Check).map(|_| ()).map_err(unusable)
}

/// What was written, taken away again unless it is to stay.
struct Files {
    folder: PathBuf,
    written: Vec<PathBuf>,
    /// Folders that were not there before.
    made: Vec<PathBuf>,
    stay: bool,
}

impl Files {
    fn new(folder: &Path) -> Files {
        Files { folder: folder.to_path_buf(), written: Vec::new(), made: Vec::new(), stay: false }
    }

    /// Never over a file that is there.
    fn write(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.folder.join(name);
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Failure::findings(format!("{} is there already; nothing was written", path.display()))
            }
            _ => Failure::environment(format!("{} cannot be written: {error}", path.display())),
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let missing: Vec<PathBuf> = folder
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
            .map(Path::to_path_buf)
            .collect();
        std::fs::create_dir_all(folder).map_err(failed)?;
        self.made.extend(missing);
        let mut file = std::fs::File::create_new(&path).map_err(failed)?;
        self.written.push(path.clone());
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)
    }

    /// Over a file that was written here.
    fn replace(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)
            .map_err(|error| Failure::environment(format!("{} cannot be written: {error}", path.display())))
    }

    fn keep(mut self) {
        self.stay = true;
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.stay {
            return;
        }
        for path in &self.written {
            let _ = std::fs::remove_file(path);
        }
        // The inner ones first; one that holds anything else stays.
        self.made.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
        for folder in &self.made {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

fn report(files: &Files, shown: &str, sample: &Sample, mapped: &Mapped, events: &Events) {
    let mut text = String::new();
    let mut written: Vec<&PathBuf> = files.written.iter().collect();
    written.sort();
    written.iter().for_each(|path| text.push_str(&format!("wrote {}\n", path.display())));
    let records: usize = sample.raw.iter().map(|raw| raw.records.len()).sum();
    let part = if sample.whole { "all" } else { "the first" };
    text.push_str(&format!("\ninferred from {part} {records} records of {shown}:\n"));
    let mut notes = mapped.notes.clone();
    if mapped.identifiers.is_empty() {
        notes.push("nothing says who it was: write what people are known by into map and identity".to_string());
    } else {
        notes.push(format!("people are known by {}, best first", mapped.identifiers.join(", ")));
    }
    let contracts = events.frequent().len();
    match events.named.len() {
        0 => {}
        1 => notes.push("1 event has a contract in schemas/events".to_string()),
        all if all == contracts => notes.push(format!("{all} events have contracts in schemas/events")),
        all => notes.push(format!("the {contracts} most frequent of {all} events have contracts in schemas/events")),
    }
    if events.rejected > 0 {
        let fault = sample.first_fault.as_ref().or(events.first_reject.as_ref()).map(|fault| format!(" ({fault})"));
        notes.push(format!(
            "{} records cannot be read and will be rejected{}",
            events.rejected,
            fault.unwrap_or_default()
        ));
    }
    notes.iter().for_each(|note| text.push_str(&format!("  {note}\n")));
    let folder = files.folder.display();
    text.push_str(&format!(
        "\nnext:\n  tributary check -C {folder}\n  tributary test -C {folder}\n  tributary run -C {folder} --drain\n  \
         tributary query -C {folder} \"SELECT * FROM current_profiles LIMIT 10\"\n"
    ));
    print(text.trim_end());
}
