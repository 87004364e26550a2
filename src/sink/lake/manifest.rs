//! The lake's manifest: which files make up which table, as numbered objects `manifest/<version>.json`.
//!
//! A new version is created, never overwritten: of two writers of the same number one wins, and that is the
//! compare-and-set. The highest number counts. Readers take it once and read exactly its files.

use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::event::TimeUs;
use crate::sink::tables::{StoredColumn, Table, TableKind};

const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    pub version: u64,
    /// Counts writers: each takes the next one at its start, and a lower one may write no more.
    pub epoch: u64,
    /// The state whose commits these are.
    pub generation: String,
    /// Every row of the commits up to this one is in the files below. `None`: nothing was shipped yet.
    pub shipped_upto: Option<u64>,
    pub tables: Vec<TableFiles>,
    /// Files that compaction replaced, kept for readers of older versions.
    pub replaced: Vec<Replaced>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFiles {
    pub name: String,
    pub kind: TableKind,
    /// Every column that the table ever had.
    pub columns: Vec<StoredColumn>,
    /// In the order of their commits.
    pub files: Vec<File>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Below the lake's folder: `events/0-12.parquet`.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    /// The commits `(after, upto]`.
    pub after: u64,
    pub upto: u64,
    /// Of the table's time column, where it has one.
    pub min_timestamp: Option<TimeUs>,
    pub max_timestamp: Option<TimeUs>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    pub path: String,
    /// The version that no longer lists it.
    pub version: u64,
}

impl Manifest {
    pub fn new(generation: &str) -> Self {
        Manifest {
            format: FORMAT,
            version: 0,
            epoch: 0,
            generation: generation.to_string(),
            shipped_upto: None,
            tables: Vec::new(),
            replaced: Vec::new(),
        }
    }

    pub fn table(&self, name: &str) -> Option<&TableFiles> {
        self.tables.iter().find(|table| table.name == name)
    }
}

impl TableFiles {
    /// The table with these columns: all, or only those that are still defined.
    pub fn table(&self, with_retired: bool) -> Table {
        let columns = self.columns.iter().filter(|column| with_retired || !column.retired);
        // A type that this version does not know was refused when the manifest was read.
        let fields: Vec<_> = columns.filter_map(StoredColumn::field).collect();
        Table { name: self.name.clone(), kind: self.kind, schema: Arc::new(arrow::datatypes::Schema::new(fields)) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    #[error("lake {location}: {source}")]
    Store { location: String, source: object_store::Error },
    #[error("lake {location}: {reason}")]
    Unusable { location: String, reason: String },
}

/// Where a lake lives.
#[derive(Clone)]
pub struct Location {
    /// As given, for messages.
    pub name: String,
    pub store: Arc<dyn ObjectStore>,
    /// The lake's folder within the store.
    base: Path,
    /// The lake's folder on disk, if it is one.
    pub folder: Option<PathBuf>,
}

impl Location {
    /// `root` is a path or a URL; the lake is the folder `lake` in it. On disk the folder is made if `create`.
    pub fn open(root: &str, create: bool) -> Result<Self, LakeError> {
        let name = format!("{}/lake", root.trim_end_matches('/'));
        let unusable = |reason: String| LakeError::Unusable { location: name.clone(), reason };
        let url = if root.contains("://") {
            Some(url::Url::parse(root).map_err(|error| unusable(format!("not a URL: {error}")))?)
        } else {
            None
        };
        let folder = match &url {
            None => Some(PathBuf::from(root).join("lake")),
            Some(url) if url.scheme() == "file" => {
                Some(url.to_file_path().map_err(|()| unusable("not a path".to_string()))?.join("lake"))
            }
            Some(_) => None,
        };
        match (folder, url) {
            (Some(folder), _) => {
                if create {
                    std::fs::create_dir_all(&folder).map_err(|error| unusable(format!("cannot be made: {error}")))?;
                }
                let folder = folder.canonicalize().map_err(|error| unusable(format!("there is no lake: {error}")))?;
                let store = LocalFileSystem::new_with_prefix(&folder)
                    .map_err(|source| LakeError::Store { location: name.clone(), source })?
                    .with_fsync(true); // off by default: an acknowledged file would not be on disk
                Ok(Location { store: Arc::new(store), base: Path::default(), folder: Some(folder), name })
            }
            (None, Some(url)) => {
                // Credentials come from the environment, as the store's own tools take them.
                let options = std::env::vars_os().filter_map(|(key, value)| {
                    Some((key.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
                });
                let (store, path) = object_store::parse_url_opts(&url, options)
                    .map_err(|source| LakeError::Store { location: name.clone(), source })?;
                Ok(Location { store: Arc::from(store), base: path.join("lake"), folder: None, name })
            }
            (None, None) => Err(unusable("neither a path nor a URL".to_string())),
        }
    }

    #[cfg(test)]
    pub fn in_memory() -> Self {
        let store = Arc::new(object_store::memory::InMemory::new());
        Location { name: "memory".to_string(), store, base: Path::from("some/where/lake"), folder: None }
    }

    /// An object of the lake by its path below the lake's folder.
    pub fn path(&self, below: &str) -> Path {
        below.split('/').fold(self.base.clone(), |path, part| path.join(part))
    }

    pub fn error(&self, source: object_store::Error) -> LakeError {
        LakeError::Store { location: self.name.clone(), source }
    }

    /// The objects of a folder, by their paths below the lake's folder.
    pub async fn list(&self, below: &str) -> Result<Vec<(String, ObjectMeta)>, LakeError> {
        let folder = self.path(below);
        let found: Vec<ObjectMeta> =
            self.store.list(Some(&folder)).try_collect().await.map_err(|source| self.error(source))?;
        let base = if self.base.as_ref().is_empty() { String::new() } else { format!("{}/", self.base) };
        Ok(found
            .into_iter()
            .filter_map(|meta| Some((meta.location.as_ref().strip_prefix(base.as_str())?.to_string(), meta)))
            .collect())
    }

    /// The versions that are there, lowest first.
    pub async fn versions(&self) -> Result<Vec<(u64, ObjectMeta)>, LakeError> {
        let mut versions: Vec<(u64, ObjectMeta)> = self
            .list("manifest")
            .await?
            .into_iter()
            .filter_map(|(path, meta)| {
                Some((path.strip_prefix("manifest/")?.strip_suffix(".json")?.parse().ok()?, meta))
            })
            .collect();
        versions.sort_unstable_by_key(|(version, _)| *version);
        Ok(versions)
    }

    /// The version that counts, if there is a lake.
    pub async fn latest(&self) -> Result<Option<Manifest>, LakeError> {
        let unusable = |reason: String| LakeError::Unusable { location: self.name.clone(), reason };
        for _ in 0..3 {
            let Some((version, meta)) = self.versions().await?.pop() else { return Ok(None) };
            let bytes = match self.store.get(&meta.location).await {
                Ok(found) => found.bytes().await.map_err(|source| self.error(source))?,
                // Replaced and removed since it was listed: there is a later one.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(source) => return Err(self.error(source)),
            };
            let manifest: Manifest = serde_json::from_slice(&bytes)
                .map_err(|error| unusable(format!("manifest {version} cannot be read: {error}")))?;
            if manifest.format != FORMAT {
                return Err(unusable(format!(
                    "manifest {version} has format {}, this version of tributary reads format {FORMAT}",
                    manifest.format
                )));
            }
            let columns =
                manifest.tables.iter().flat_map(|table| table.columns.iter().map(move |column| (table, column)));
            for (table, column) in columns {
                if column.field().is_none() {
                    return Err(unusable(format!(
                        "table {}, column {}: type {} is not known to this version of tributary",
                        table.name, column.name, column.type_name
                    )));
                }
            }
            return Ok(Some(manifest));
        }
        Err(unusable("its manifest changes faster than it can be read".to_string()))
    }

    /// Creates this version. False: there is one of that number already.
    pub async fn create(&self, manifest: &Manifest) -> Result<bool, LakeError> {
        let json = serde_json::to_vec_pretty(manifest).map_err(|error| LakeError::Unusable {
            location: self.name.clone(),
            reason: format!("manifest {} cannot be written: {error}", manifest.version),
        })?;
        let path = self.path(&format!("manifest/{:020}.json", manifest.version));
        let created = self.store.put_opts(&path, json.into(), PutOptions::from(PutMode::Create)).await;
        match created {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(source) => Err(self.error(source)),
        }
    }
}
