//! Writer schemas by id or fingerprint: from a Confluent registry, from a folder, or given.
//!
//! [`Schemas`] answers from memory at once; what it does not know, the engine fetches before it decodes. Known schemas
//! never change, so they are kept on disk for good. An id that the registry does not know is kept as missing, in memory
//! only, until [`Schemas::forget_missing`]: the engine calls that from time to time (once a minute is enough), so that
//! a schema registered late is found, while a flood of bad ids does not become a flood of requests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::framing::SchemaKey;
use super::{DecodePlan, Format, Framing, SchemaOrigin};

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry is away or overloaded: pause and try again.
    #[error("the schema registry at {url} is not available: {reason}")]
    Unavailable { url: String, reason: String },
    /// The registry answers, but not as hoped; somebody has to look (credentials, address, compatibility).
    #[error("the schema registry at {url} refuses: {reason}")]
    Refused { url: String, reason: String },
    #[error("cannot read the schema folder {path}: {reason}")]
    Folder { path: PathBuf, reason: String },
    #[error("cannot use the schema cache {path}: {reason}")]
    Cache { path: PathBuf, reason: String },
    #[error("{0}")]
    Schema(String),
}

/// What is known of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Its JSON.
    Known(Arc<str>),
    /// It exists and cannot be used; why.
    Unusable(Arc<str>),
    /// It does not exist.
    Missing,
    /// Not asked for yet: see [`Schemas::fetch`].
    Unknown,
}

/// The writer schemas of one source.
pub struct Schemas {
    origin: Origin,
    /// Where known schemas of this origin are kept; the name of the file is the key.
    cache: Option<PathBuf>,
    known: Mutex<HashMap<SchemaKey, Lookup>>,
}

enum Origin {
    Registry(RegistryClient),
    Folder { path: PathBuf, framing: Framing },
    Given,
}

/// Beyond this many missing keys they are forgotten at once: bad input must not fill the memory.
const MISSING_MAX: usize = 10_000;

impl Schemas {
    /// The schemas of a source. `cache` is a folder for this node's caches, `None` where nothing may be written. Reads
    /// files, asks no server.
    pub fn open(plan: &DecodePlan, cache: Option<&Path>) -> Result<Schemas, RegistryError> {
        let mut schemas = Schemas { origin: Origin::Given, cache: None, known: Mutex::default() };
        let Format::Avro { framing, schemas: origin, .. } = &plan.format else { return Ok(schemas) };
        let place = match origin {
            SchemaOrigin::Registry { url } => {
                let client = RegistryClient::new(url)?;
                let place = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(client.shown.as_bytes()));
                schemas.origin = Origin::Registry(client);
                place
            }
            SchemaOrigin::Folder(path) => {
                schemas.origin = Origin::Folder { path: path.clone(), framing: *framing };
                schemas.read_folder(path, *framing)?;
                "local".to_owned()
            }
            SchemaOrigin::Fixed(json) => {
                let mut known = schemas.lock();
                known.insert(SchemaKey::Fixed, Lookup::Known(json.as_str().into()));
                if *framing == Framing::SingleObject {
                    known.insert(SchemaKey::Fingerprint(fingerprint(json)?), Lookup::Known(json.as_str().into()));
                }
                drop(known);
                "local".to_owned()
            }
        };
        if let Some(cache) = cache {
            let cache = cache.join("schemas").join(place);
            schemas.read_cache(&cache)?;
            schemas.cache = Some(cache);
        }
        Ok(schemas)
    }

    pub fn lookup(&self, key: SchemaKey) -> Lookup {
        self.lock().get(&key).cloned().unwrap_or(Lookup::Unknown)
    }

    /// Finds out about a schema that is unknown: afterwards it is known, unusable or missing.
    pub async fn fetch(&self, key: SchemaKey) -> Result<(), RegistryError> {
        match (&self.origin, key) {
            (Origin::Registry(client), SchemaKey::Id(id)) => {
                let found = client.schema(id).await?;
                if let Lookup::Known(json) = &found {
                    self.keep(key, json)?;
                }
                self.insert(key, found);
            }
            (Origin::Folder { path, framing }, _) => {
                self.read_folder(path, *framing)?;
                let mut known = self.lock();
                known.entry(key).or_insert(Lookup::Missing);
            }
            // The Confluent registry cannot be asked for fingerprints; what is not local does not exist.
            _ => {
                self.lock().entry(key).or_insert(Lookup::Missing);
            }
        }
        Ok(())
    }

    /// Makes missing schemas unknown again, so that the next record that needs one asks for it.
    pub fn forget_missing(&self) {
        self.lock().retain(|_, found| !matches!(found, Lookup::Missing | Lookup::Unusable(_)));
    }

    /// Takes in the schema of a file, and returns the fingerprint for the single-object encoding of its datums. Kept in
    /// the cache, so that a reject can be replayed when the file is gone.
    ///
    /// It is the CRC-64-AVRO of the text as it stands, not of the canonical form: that leaves out logical types, and
    /// two files whose timestamps differ in nothing but the unit would share one fingerprint.
    pub fn register_local(&self, schema_json: &str) -> Result<u64, RegistryError> {
        let fingerprint = rabin(schema_json.as_bytes());
        let key = SchemaKey::Fingerprint(fingerprint);
        if !matches!(self.lookup(key), Lookup::Known(_)) {
            self.keep(key, schema_json)?;
            self.insert(key, Lookup::Known(schema_json.into()));
        }
        Ok(fingerprint)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SchemaKey, Lookup>> {
        // Every change is one insert, so a poisoned map is still whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, key: SchemaKey, found: Lookup) {
        let mut known = self.lock();
        if known.values().filter(|found| **found == Lookup::Missing).count() >= MISSING_MAX {
            known.retain(|_, found| *found != Lookup::Missing);
        }
        known.insert(key, found);
    }

    fn read_folder(&self, path: &Path, framing: Framing) -> Result<(), RegistryError> {
        let failed = |reason: String| RegistryError::Folder { path: path.to_owned(), reason };
        let mut paths: Vec<PathBuf> = std::fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(|error| failed(error.to_string()))?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "avsc"));
        paths.sort();
        let mut found: HashMap<SchemaKey, (PathBuf, Arc<str>)> = HashMap::new();
        for file in paths {
            let json =
                std::fs::read_to_string(&file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
            let key = match framing {
                Framing::Confluent => match id_of(&file) {
                    Some(id) => SchemaKey::Id(id),
                    None => continue,
                },
                Framing::SingleObject => {
                    let fingerprint = fingerprint(&json);
                    SchemaKey::Fingerprint(fingerprint.map_err(|error| failed(format!("{}: {error}", file.display())))?)
                }
                Framing::Bare => SchemaKey::Fixed,
            };
            if let Some((other, _)) = found.insert(key, (file.clone(), json.into())) {
                let (one, two) = (other.display(), file.display());
                return Err(failed(format!("{one} and {two} are both {key}; keep one of them")));
            }
        }
        self.lock().extend(found.into_iter().map(|(key, (_, json))| (key, Lookup::Known(json))));
        Ok(())
    }

    fn read_cache(&self, cache: &Path) -> Result<(), RegistryError> {
        let failed = |reason: String| RegistryError::Cache { path: cache.to_owned(), reason };
        std::fs::create_dir_all(cache).map_err(|error| failed(error.to_string()))?;
        let entries = std::fs::read_dir(cache).map_err(|error| failed(error.to_string()))?;
        let mut known = self.lock();
        for entry in entries {
            let path = entry.map_err(|error| failed(error.to_string()))?.path();
            let Some(key) = path.file_name().and_then(|name| name.to_str()).and_then(key_of) else { continue };
            let json = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
            known.entry(key).or_insert(Lookup::Known(json.into()));
        }
        Ok(())
    }

    /// Writes a schema to the cache: whole or not at all.
    fn keep(&self, key: SchemaKey, json: &str) -> Result<(), RegistryError> {
        let (Some(cache), Some(name)) = (&self.cache, name_of(key)) else { return Ok(()) };
        let unfinished = cache.join(format!("{name}.new"));
        let write = || {
            std::fs::write(&unfinished, json)?;
            std::fs::rename(&unfinished, cache.join(&name))
        };
        write().map_err(|error| RegistryError::Cache { path: cache.clone(), reason: error.to_string() })
    }
}

fn name_of(key: SchemaKey) -> Option<String> {
    match key {
        SchemaKey::Id(id) => Some(format!("id-{id}.avsc")),
        SchemaKey::Fingerprint(fingerprint) => Some(format!("fp-{fingerprint:016x}.avsc")),
        SchemaKey::Fixed => None,
    }
}

fn key_of(name: &str) -> Option<SchemaKey> {
    let stem = name.strip_suffix(".avsc")?;
    match stem.split_once('-')? {
        ("id", id) => Some(SchemaKey::Id(id.parse().ok()?)),
        ("fp", hex) => Some(SchemaKey::Fingerprint(u64::from_str_radix(hex, 16).ok()?)),
        _ => None,
    }
}

/// The number that ends a file's stem: 12 of `order-12.avsc`.
fn id_of(path: &Path) -> Option<u32> {
    let stem = path.file_stem()?.to_str()?;
    let digits = stem.len() - stem.bytes().rev().take_while(u8::is_ascii_digit).count();
    stem[digits..].parse().ok()
}

/// The CRC-64-AVRO fingerprint of a schema's canonical form, as single-object encoding has it.
pub fn fingerprint(schema_json: &str) -> Result<u64, RegistryError> {
    let schema =
        apache_avro::Schema::parse_str(schema_json).map_err(|error| RegistryError::Schema(error.to_string()))?;
    Ok(rabin(schema.canonical_form().as_bytes()))
}

/// CRC-64-AVRO.
fn rabin(bytes: &[u8]) -> u64 {
    const EMPTY: u64 = 0xc15d_213a_a4d7_a795;
    bytes.iter().fold(EMPTY, |mut state, byte| {
        state ^= u64::from(*byte);
        for _ in 0..8 {
            state = (state >> 1) ^ (EMPTY & (state & 1).wrapping_neg());
        }
        state
    })
}

/// The calls of the Confluent API that are needed. User and password come from the URL
/// (`https://user:password@host`) and appear in no message.
pub struct RegistryClient {
    client: reqwest::Client,
    url: url::Url,
    /// The address without credentials.
    shown: String,
}

const RESPONSE_BYTES_MAX: usize = 16 << 20;

impl RegistryClient {
    pub fn new(url: &str) -> Result<RegistryClient, RegistryError> {
        let refused = |reason: String| RegistryError::Refused { url: "(unreadable address)".to_owned(), reason };
        let url = url::Url::parse(url).map_err(|error| refused(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused(format!("`{}` is neither http nor https", url.scheme())));
        }
        let mut shown = url.clone();
        // Neither can fail for http and https.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        // The second call in a process answers that there is a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(15))
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(RegistryClient { client, url, shown: shown.into() })
    }

    /// The schema of an id: known, unusable or missing.
    pub async fn schema(&self, id: u32) -> Result<Lookup, RegistryError> {
        let answer = self.call(&["schemas", "ids", &id.to_string()], None).await?;
        let Some(answer) = answer else { return Ok(Lookup::Missing) };
        let unusable = |why: String| Ok(Lookup::Unusable(why.into()));
        if let Some(kind) = answer.get("schemaType").and_then(Value::as_str)
            && kind != "AVRO"
        {
            return unusable(format!("schema id {id} is {kind}, not Avro"));
        }
        if answer.get("references").and_then(Value::as_array).is_some_and(|references| !references.is_empty()) {
            return unusable(format!("schema id {id} has references to other schemas, which are not supported yet"));
        }
        match answer.get("schema").and_then(Value::as_str) {
            Some(json) => Ok(Lookup::Known(json.into())),
            None => Err(self.refused("the answer has no `schema`".to_owned())),
        }
    }

    /// Id and schema of a subject's latest version; `None` where there is no such subject.
    pub async fn latest(&self, subject: &str) -> Result<Option<(u32, String)>, RegistryError> {
        let Some(answer) = self.call(&["subjects", subject, "versions", "latest"], None).await? else {
            return Ok(None);
        };
        let json = answer.get("schema").and_then(Value::as_str).map(str::to_owned);
        match (id_in(&answer), json) {
            (Some(id), Some(json)) => Ok(Some((id, json))),
            _ => Err(self.refused("the answer has no `id` or no `schema`".to_owned())),
        }
    }

    /// Registers a schema under a subject; returns its id, the same one each time.
    pub async fn register(&self, subject: &str, schema_json: &str) -> Result<u32, RegistryError> {
        let body = serde_json::json!({ "schema": schema_json });
        let answer = self.call(&["subjects", subject, "versions"], Some(body)).await?;
        let id = answer.as_ref().and_then(id_in);
        id.ok_or_else(|| self.refused("the answer has no `id`".to_owned()))
    }

    /// The answer's JSON; `None` where the registry says that there is no such thing.
    async fn call(&self, path: &[&str], body: Option<Value>) -> Result<Option<Value>, RegistryError> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = match body {
            Some(body) => self.client.post(url).json(&body),
            None => self.client.get(url),
        };
        let request = request.header("accept", "application/vnd.schemaregistry.v1+json, application/json");
        let unavailable = |error: reqwest::Error| RegistryError::Unavailable {
            url: self.shown.clone(),
            reason: causes(&error.without_url()),
        };
        let mut response = request.send().await.map_err(unavailable)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > RESPONSE_BYTES_MAX {
                return Err(self.refused(format!("an answer of more than {RESPONSE_BYTES_MAX} bytes")));
            }
        }
        let answer: Option<Value> = serde_json::from_slice(&bytes).ok();
        let said = answer.as_ref().and_then(|answer| answer.get("message")).and_then(Value::as_str).unwrap_or_default();
        if status.is_success() {
            return match answer {
                Some(answer) => Ok(Some(answer)),
                None => Err(self.refused("the answer is not JSON; is the address a schema registry?".to_owned())),
            };
        }
        match status.as_u16() {
            // A registry that does not know the id says so with a code of its own. A plain 404 is a wrong address,
            // and must not turn good events into rejects.
            404 if answer.as_ref().is_some_and(|answer| answer.get("error_code").is_some()) => Ok(None),
            404 => {
                Err(self.refused("404 without a registry's error code; is the path of the address right?".to_owned()))
            }
            408 | 429 | 500.. => {
                Err(RegistryError::Unavailable { url: self.shown.clone(), reason: format!("{status} {said}") })
            }
            _ => Err(self.refused(format!("{status} {said}"))),
        }
    }

    fn refused(&self, reason: String) -> RegistryError {
        RegistryError::Refused { url: self.shown.clone(), reason }
    }
}

fn id_in(answer: &Value) -> Option<u32> {
    answer.get("id").and_then(Value::as_u64).and_then(|id| id.try_into().ok())
}

/// An error with its causes, which is where reqwest says what happened.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
