//! Writer schemas by id or fingerprint: from a Confluent registry, from a folder, or given.
//!
//! [`Schemas`] answers from memory at once; what it does not know, the engine fetches before it decodes. Known schemas
//! never change, so they are kept on disk for good. An id that the registry does not know is kept as missing, in memory
//! only, until [`Schemas::forget_missing`]: the engine calls that from time to time (once a minute is enough), so that
//! a schema registered late is found, while a flood of bad ids does not become a flood of requests.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::framing::SchemaKey;
use super::schema::Schema;
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
    ///
    /// A file source's plan has single-object framing and, as it needs no other schemas, its own reader schema as the
    /// fixed one.
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
        let entries = match std::fs::read_dir(path) {
            // Containers bring their schemas along; the folder beside them may be there or not.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && framing == Framing::SingleObject => {
                return Ok(());
            }
            entries => entries,
        };
        let mut paths: Vec<PathBuf> = entries
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
            // A damaged file is as good as none: the schema is asked for again.
            if Schema::parse(&json).is_ok() {
                known.entry(key).or_insert(Lookup::Known(json.into()));
            }
        }
        Ok(())
    }

    /// Writes a schema to the cache: whole or not at all.
    fn keep(&self, key: SchemaKey, json: &str) -> Result<(), RegistryError> {
        let (Some(cache), Some(name)) = (&self.cache, name_of(key)) else { return Ok(()) };
        // Sources of one registry share the folder, so each writer has a file of its own until it is whole.
        static WRITES: AtomicU64 = AtomicU64::new(0);
        let write = WRITES.fetch_add(1, Ordering::Relaxed);
        let unfinished = cache.join(format!("{name}.{}-{write}.new", std::process::id()));
        let write = || {
            let mut file = std::fs::File::create(&unfinished)?;
            file.write_all(json.as_bytes())?;
            file.sync_all()?;
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use axum::Router;
    use axum::extract::Path as UrlPath;
    use axum::http::{HeaderMap, StatusCode};
    use axum::response::{IntoResponse, Response};
    use axum::routing::get;
    use serde_json::json;

    use super::*;

    const SCHEMA: &str = r#"{"type":"record","name":"E","fields":[{"name":"a","type":"int"}]}"#;

    /// A registry on a free port; returns its address and how often it was asked for an id.
    async fn registry() -> (String, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let by_id = move |UrlPath(id): UrlPath<u32>, headers: HeaderMap| async move {
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = |status: StatusCode, body: Value| (status, axum::Json(body)).into_response();
            let ok = StatusCode::OK;
            match id {
                1 => answer(ok, json!({ "schema": SCHEMA })),
                2 => answer(ok, json!({ "schema": "{}", "schemaType": "JSON" })),
                3 => answer(
                    ok,
                    json!({ "schema": SCHEMA, "references": [{ "name": "x", "subject": "x", "version": 1 }] }),
                ),
                4 => answer(StatusCode::INTERNAL_SERVER_ERROR, json!({ "error_code": 50001, "message": "store down" })),
                5 => answer(StatusCode::UNAUTHORIZED, json!({ "error_code": 401, "message": "who are you" })),
                6 => (ok, "<html>").into_response(),
                7 => StatusCode::NOT_FOUND.into_response(),
                8 => answer(ok, json!({ "schema": headers.get("authorization").map(|v| v.to_str().unwrap()) })),
                _ => answer(StatusCode::NOT_FOUND, json!({ "error_code": 40403, "message": "Schema not found" })),
            }
        };
        async fn register(UrlPath(subject): UrlPath<String>, body: String) -> Response {
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["schema"], SCHEMA);
            match subject.as_str() {
                "a/b" => axum::Json(json!({ "id": 12 })).into_response(),
                _ => (StatusCode::CONFLICT, axum::Json(json!({ "error_code": 409, "message": "incompatible" })))
                    .into_response(),
            }
        }
        async fn latest(UrlPath(subject): UrlPath<String>) -> Response {
            match subject.as_str() {
                "a/b" => {
                    axum::Json(json!({ "subject": subject, "id": 12, "version": 1, "schema": SCHEMA })).into_response()
                }
                _ => (StatusCode::NOT_FOUND, axum::Json(json!({ "error_code": 40401, "message": "no subject" })))
                    .into_response(),
            }
        }
        let app = Router::new()
            .route("/base/schemas/ids/{id}", get(by_id))
            .route("/base/subjects/{subject}/versions", axum::routing::post(register))
            .route("/base/subjects/{subject}/versions/latest", get(latest));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (format!("http://{address}/base/"), asked)
    }

    fn plan(framing: Framing, schemas: SchemaOrigin) -> DecodePlan {
        DecodePlan { source: "test".into(), format: Format::Avro { framing, schemas, reader: None } }
    }

    fn of_registry(url: &str, cache: Option<&Path>) -> Schemas {
        Schemas::open(&plan(Framing::Confluent, SchemaOrigin::Registry { url: url.to_owned() }), cache).unwrap()
    }

    #[tokio::test]
    async fn an_id_is_known_unusable_or_missing_and_asked_for_once() {
        let (url, asked) = registry().await;
        let schemas = of_registry(&url, None);
        assert_eq!(schemas.lookup(SchemaKey::Id(1)), Lookup::Unknown);
        for id in [1, 2, 3, 99] {
            schemas.fetch(SchemaKey::Id(id)).await.unwrap();
        }
        assert_eq!(schemas.lookup(SchemaKey::Id(1)), Lookup::Known(SCHEMA.into()));
        assert!(matches!(schemas.lookup(SchemaKey::Id(2)), Lookup::Unusable(why) if why.contains("JSON")));
        assert!(matches!(schemas.lookup(SchemaKey::Id(3)), Lookup::Unusable(why) if why.contains("references")));
        assert_eq!(schemas.lookup(SchemaKey::Id(99)), Lookup::Missing);
        assert_eq!(asked.load(Ordering::SeqCst), 4);

        schemas.forget_missing();
        assert_eq!(schemas.lookup(SchemaKey::Id(99)), Lookup::Unknown);
        assert_eq!(schemas.lookup(SchemaKey::Id(1)), Lookup::Known(SCHEMA.into()));
        // Fingerprints have no registry.
        schemas.fetch(SchemaKey::Fingerprint(5)).await.unwrap();
        assert_eq!(schemas.lookup(SchemaKey::Fingerprint(5)), Lookup::Missing);
    }

    #[tokio::test]
    async fn a_registry_that_is_down_or_wrong_makes_nothing_missing() {
        let (url, _) = registry().await;
        let schemas = of_registry(&url, None);
        let check = async |schemas: &Schemas, id: u32, unavailable: bool, expect: &str| {
            let error = schemas.fetch(SchemaKey::Id(id)).await.unwrap_err();
            assert_eq!(matches!(error, RegistryError::Unavailable { .. }), unavailable, "{error}");
            assert!(error.to_string().contains(expect), "{error}");
            assert_eq!(schemas.lookup(SchemaKey::Id(id)), Lookup::Unknown);
        };
        check(&schemas, 4, true, "store down").await;
        check(&schemas, 5, false, "who are you").await;
        check(&schemas, 6, false, "not JSON").await;
        check(&schemas, 7, false, "404").await;
        let wrong_path = of_registry(&url.replace("/base", "/elsewhere"), None);
        check(&wrong_path, 1, false, "404").await;
        // A port that was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        check(&of_registry(&format!("http://user:secret@{free}"), None), 1, true, "not available").await;
    }

    #[tokio::test]
    async fn credentials_are_sent_and_never_shown() {
        let (url, _) = registry().await;
        let schemas = of_registry(&url.replace("http://", "http://ada:s%40crt@"), None);
        schemas.fetch(SchemaKey::Id(8)).await.unwrap();
        use base64::Engine;
        let expect = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("ada:s@crt"));
        assert_eq!(schemas.lookup(SchemaKey::Id(8)), Lookup::Known(expect.as_str().into()));
        for id in [4, 5, 6, 7] {
            let error = schemas.fetch(SchemaKey::Id(id)).await.unwrap_err();
            assert!(!format!("{error} {error:?}").contains("crt"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn schemas_are_registered_and_the_latest_is_read() {
        let (url, _) = registry().await;
        let client = RegistryClient::new(&url).unwrap();
        assert_eq!(client.register("a/b", SCHEMA).await.unwrap(), 12);
        assert!(client.register("c", SCHEMA).await.unwrap_err().to_string().contains("incompatible"));
        assert_eq!(client.latest("a/b").await.unwrap(), Some((12, SCHEMA.to_owned())));
        assert_eq!(client.latest("c").await.unwrap(), None);
    }

    #[tokio::test]
    async fn known_schemas_outlive_the_process_and_missing_ones_do_not() {
        let (url, asked) = registry().await;
        let cache = tempfile::tempdir().unwrap();
        let schemas = of_registry(&url, Some(cache.path()));
        schemas.fetch(SchemaKey::Id(1)).await.unwrap();
        schemas.fetch(SchemaKey::Id(99)).await.unwrap();
        let local = schemas.register_local(SCHEMA).unwrap();

        let again = of_registry(&url, Some(cache.path()));
        assert_eq!(again.lookup(SchemaKey::Id(1)), Lookup::Known(SCHEMA.into()));
        assert_eq!(again.lookup(SchemaKey::Fingerprint(local)), Lookup::Known(SCHEMA.into()));
        assert_eq!(again.lookup(SchemaKey::Id(99)), Lookup::Unknown);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        // A damaged file is asked for again.
        let folder = again.cache.clone().unwrap();
        std::fs::write(folder.join("id-1.avsc"), "").unwrap();
        assert_eq!(of_registry(&url, Some(cache.path())).lookup(SchemaKey::Id(1)), Lookup::Unknown);
        // Another registry has ids of its own.
        let other = of_registry("http://localhost:1", Some(cache.path()));
        assert_eq!(other.lookup(SchemaKey::Id(1)), Lookup::Unknown);
    }

    #[tokio::test]
    async fn a_folder_gives_ids_and_fingerprints() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("e-7.avsc", SCHEMA);
        write("notes.txt", "no schema");
        let origin = SchemaOrigin::Folder(folder.path().to_owned());

        let by_id = Schemas::open(&plan(Framing::Confluent, origin.clone()), None).unwrap();
        assert_eq!(by_id.lookup(SchemaKey::Id(7)), Lookup::Known(SCHEMA.into()));
        // Added later: found when it is asked for.
        write("e8.avsc", SCHEMA);
        by_id.fetch(SchemaKey::Id(8)).await.unwrap();
        assert_eq!(by_id.lookup(SchemaKey::Id(8)), Lookup::Known(SCHEMA.into()));
        by_id.fetch(SchemaKey::Id(9)).await.unwrap();
        assert_eq!(by_id.lookup(SchemaKey::Id(9)), Lookup::Missing);

        let twice = Schemas::open(&plan(Framing::SingleObject, origin.clone()), None).err().unwrap().to_string();
        assert!(twice.contains("e-7.avsc") && twice.contains("e8.avsc"), "{twice}");
        std::fs::remove_file(folder.path().join("e8.avsc")).unwrap();
        let by_fingerprint = Schemas::open(&plan(Framing::SingleObject, origin), None).unwrap();
        let key = SchemaKey::Fingerprint(fingerprint(SCHEMA).unwrap());
        assert_eq!(by_fingerprint.lookup(key), Lookup::Known(SCHEMA.into()));
        let nowhere = SchemaOrigin::Folder(folder.path().join("nowhere"));
        assert!(Schemas::open(&plan(Framing::Confluent, nowhere.clone()), None).is_err());
        let containers = Schemas::open(&plan(Framing::SingleObject, nowhere), None).unwrap();
        containers.fetch(SchemaKey::Fingerprint(1)).await.unwrap();
        assert_eq!(containers.lookup(SchemaKey::Fingerprint(1)), Lookup::Missing);
    }

    #[test]
    fn fingerprints_are_those_of_apache_avro() {
        for json in [SCHEMA, super::super::EVENT_SCHEMA, "\"int\""] {
            let schema = apache_avro::Schema::parse_str(json).unwrap();
            let expect = schema.fingerprint::<apache_avro::rabin::Rabin>();
            assert_eq!(fingerprint(json).unwrap().to_le_bytes().to_vec(), expect.bytes);
        }
        // The Avro specification's own figure for "int".
        assert_eq!(fingerprint("\"int\"").unwrap(), 0x7275_d51a_3f39_5c8f);
    }

    #[test]
    fn local_schemas_that_differ_in_a_unit_differ_in_their_fingerprint() {
        let schemas =
            Schemas::open(&plan(Framing::SingleObject, SchemaOrigin::Fixed(SCHEMA.to_owned())), None).unwrap();
        let with = |unit: &str| {
            format!(
                r#"{{"type":"record","name":"E","fields":[{{"name":"t","type":{{"type":"long","logicalType":"timestamp-{unit}"}}}}]}}"#
            )
        };
        let (millis, micros) = (with("millis"), with("micros"));
        assert_eq!(fingerprint(&millis).unwrap(), fingerprint(&micros).unwrap());
        assert_ne!(schemas.register_local(&millis).unwrap(), schemas.register_local(&micros).unwrap());
        assert_eq!(schemas.register_local(&millis).unwrap(), schemas.register_local(&millis).unwrap());
    }
}
