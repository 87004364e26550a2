//! Where state lives: `--data PATH_OR_URL` as a folder, a bucket, or memory.
//!
//! Below the location lies `state/` with the store (`db/` and `journal/`) and the heartbeat (`heartbeat.json`); a folder may hold
//! other things beside it (the lake, cached schemas). Parsing touches nothing: only [`Location::create`] does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use url::Url;

const STATE_FOLDER: &str = "state";

#[derive(Debug, Clone, thiserror::Error)]
pub enum LocationError {
    #[error("`{0}` is no place for data: give a folder, or a URL that starts with s3://, gs:// or az://")]
    Scheme(String),
    #[error("`{0}` is not a valid URL: {1}")]
    Url(String, String),
    #[error("`{0}` needs object storage, which this program was built without: build it with `--features cloud`")]
    NeedsCloud(String),
    #[error("the data folder `{0}` cannot be used: {1}")]
    Folder(String, String),
    #[error("the object storage at `{0}` cannot be used: {1}")]
    Storage(String, String),
}

/// A place for state, not yet opened. Clones of a `Memory` share what is stored.
#[derive(Debug, Clone)]
pub enum Location {
    /// The data folder; the state is in `state/` below it.
    Folder(PathBuf),
    /// `s3://`, `gs://` or `az://`, with credentials from the environment.
    Bucket(Url),
    /// Nothing survives: for tests and trials.
    Memory(Arc<InMemory>),
}

impl Location {
    /// A path, a URL, or `memory:`.
    pub fn parse(text: &str) -> Result<Location, LocationError> {
        if text == "memory:" {
            return Ok(Location::Memory(Arc::new(InMemory::new())));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.is_empty() {
                return Err(LocationError::Scheme(text.to_string()));
            }
            return Ok(Location::Folder(PathBuf::from(text)));
        };
        match scheme {
            "file" => Ok(Location::Folder(PathBuf::from(rest))),
            "s3" | "s3a" | "gs" | "az" | "abfs" | "abfss" => {
                if !cfg!(feature = "cloud") {
                    return Err(LocationError::NeedsCloud(text.to_string()));
                }
                let url = Url::parse(text).map_err(|error| LocationError::Url(text.to_string(), error.to_string()))?;
                Ok(Location::Bucket(url))
            }
            _ => Err(LocationError::Scheme(text.to_string())),
        }
    }

    /// The data folder on this machine, where there is one: for caches and the lake.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Location::Folder(folder) => Some(folder),
            Location::Bucket(_) | Location::Memory(_) => None,
        }
    }

    /// Whether conditional overwrites are supported (a local file system has none).
    pub fn has_conditional_overwrite(&self) -> bool {
        !matches!(self, Location::Folder(_))
    }

    /// The storage and the prefix below which the state lies, for writing: a missing folder is made.
    pub fn create(&self) -> Result<(Arc<dyn ObjectStore>, ObjectPath), LocationError> {
        if let Location::Folder(folder) = self {
            std::fs::create_dir_all(folder.join(STATE_FOLDER))
                .map_err(|error| LocationError::Folder(folder.display().to_string(), error.to_string()))?;
        }
        self.objects()
    }

    /// The same for reading: a missing folder is an error, and nothing is made.
    pub fn objects(&self) -> Result<(Arc<dyn ObjectStore>, ObjectPath), LocationError> {
        match self {
            Location::Folder(folder) => {
                // Without fsync an acknowledged commit could be gone after a power failure.
                let files = LocalFileSystem::new_with_prefix(folder.join(STATE_FOLDER))
                    .map_err(|error| LocationError::Folder(folder.display().to_string(), error.to_string()))?
                    .with_fsync(true);
                Ok((Arc::new(files), ObjectPath::default()))
            }
            Location::Bucket(url) => {
                let (objects, prefix) = object_store::parse_url_opts(url, std::env::vars())
                    .map_err(|error| LocationError::Storage(self.to_string(), error.to_string()))?;
                Ok((Arc::from(objects), prefix.join(STATE_FOLDER)))
            }
            Location::Memory(objects) => Ok((objects.clone(), ObjectPath::from(STATE_FOLDER))),
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Location::Folder(folder) => write!(f, "{}", folder.display()),
            // Scheme, bucket and path only: what else a URL can hold might be a secret.
            Location::Bucket(url) => {
                write!(f, "{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
            }
            Location::Memory(_) => f.write_str("memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_folder_a_bucket_or_memory() {
        let check = |text: &str, expect: &str| {
            let found = match Location::parse(text) {
                Ok(Location::Folder(folder)) => format!("folder {}", folder.display()),
                Ok(location @ Location::Bucket(_)) => format!("bucket {location}"),
                Ok(Location::Memory(_)) => "memory".to_string(),
                Err(error) => error.to_string(),
            };
            assert!(found.starts_with(expect), "{text}: {found}");
        };
        check("data", "folder data");
        check("/var/lib/tributary", "folder /var/lib/tributary");
        check("file:///var/lib/tributary", "folder /var/lib/tributary");
        check("memory:", "memory");
        check("", "`` is no place for data");
        check("ftp://host/x", "`ftp://host/x` is no place for data");
        if cfg!(feature = "cloud") {
            check("s3://bucket/a/b", "bucket s3://bucket/a/b");
        } else {
            check("s3://bucket/a/b", "`s3://bucket/a/b` needs object storage");
        }
    }

    #[test]
    fn reading_makes_no_folder_and_writing_does() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Folder(folder.path().join("data"));
        assert!(matches!(location.objects(), Err(LocationError::Folder(..))));
        assert!(!folder.path().join("data").exists());
        location.create().unwrap();
        assert!(folder.path().join("data/state").is_dir());
        location.objects().unwrap();
    }
}
