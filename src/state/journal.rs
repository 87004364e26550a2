//! The journal: each commit whole, as one value, until what it changes is in the store's tables.
//!
//! An entry of the store's log says what a commit changed: the changes themselves where they are few, else which object holds them.
//! So a commit costs one write of its bytes and one small entry, however many keys it changes. Objects are put before their
//! entry is written; one without an entry belongs to a commit that never was.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::{StoreError, Write};
use crate::clock;

const FOLDER: &str = "journal";

/// Changes of more bytes than this become an object.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Changes are gathered in pieces of this many bytes; larger values stay where they are.
const PIECE_BYTES: usize = 1 << 20;
const VALUE_BYTES_LARGE: usize = 64 << 10;

/// An entry begins with how it is to be read.
const INLINE: u8 = 1;
const OBJECT: u8 = 2;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// How long an operation is tried, about.
const TRIES: u32 = 60;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where the objects of the journal are.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    folder: ObjectPath,
    /// Objects that this writer has put have its number in their names: nobody else's are called so.
    writer: u64,
}

/// What an entry of the log says.
#[derive(Debug, Clone, PartialEq)]
enum Entry {
    Inline(Bytes),
    Object { name: String, bytes: u64, checksum: u32 },
}

impl Objects {
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &ObjectPath, writer: u64) -> Objects {
        Objects { store, folder: prefix.clone().join(FOLDER), writer }
    }

    /// Puts down what commit `number` changes, and says what its entry is to be.
    ///
    /// # Errors
    /// The storage's, tried for a minute.
    pub async fn write(&self, number: u64, writes: &[Write]) -> object_store::Result<Bytes> {
        let pieces = encode(writes);
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        if bytes <= INLINE_BYTES_MAX {
            let mut entry = BytesMut::with_capacity(1 + bytes);
            entry.put_u8(INLINE);
            pieces.iter().for_each(|piece| entry.put_slice(piece));
            return Ok(entry.freeze());
        }
        let mut checksum = crc32fast::Hasher::new();
        pieces.iter().for_each(|piece| checksum.update(piece));
        let name = format!("{:08}-{number:016}", self.writer);
        let (path, payload) = (self.folder.clone().join(name.as_str()), PutPayload::from_iter(pieces));
        let mut tries = 0;
        while let Err(error) = self.store.put(&path, payload.clone()).await {
            tries += 1;
            if tries == TRIES {
                return Err(error);
            }
            tracing::debug!(%error, "the journal cannot be written, it is tried again");
            clock::sleep(TRY_AGAIN_AFTER).await;
        }
        let mut entry = BytesMut::with_capacity(13 + name.len());
        entry.put_u8(OBJECT);
        entry.put_u64_le(bytes as u64);
        entry.put_u32_le(checksum.finalize());
        entry.put_slice(name.as_bytes());
        Ok(entry.freeze())
    }

    /// The changes that an entry stands for; None where its object is gone, since they are in the tables by now.
    ///
    /// # Errors
    /// The storage's, and an object that is not what was put.
    pub async fn read(&self, entry: &Bytes) -> Result<Option<Vec<Write>>, StoreError> {
        let damaged = |what: String| StoreError::Damaged(format!("the journal's {what}"));
        let entry = Entry::parse(entry).ok_or_else(|| damaged("entry cannot be read".to_string()))?;
        let (name, bytes, checksum) = match entry {
            Entry::Inline(bytes) => {
                let writes = decode(bytes).ok_or_else(|| damaged("entry is cut off".to_string()))?;
                return Ok(Some(writes));
            }
            Entry::Object { name, bytes, checksum } => (name, bytes, checksum),
        };
        let failed = |error: object_store::Error| StoreError::Unavailable(error.to_string());
        let found = match self.store.get(&self.folder.clone().join(name.as_str())).await {
            Ok(found) => found.bytes().await,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => Err(error),
        };
        let found = found.map_err(failed)?;
        if found.len() as u64 != bytes || crc32fast::hash(&found) != checksum {
            return Err(damaged(format!("object {name} is not what was written")));
        }
        decode(found).map(Some).ok_or_else(|| damaged(format!("object {name} cannot be read")))
    }

    /// The names of all objects that are there.
    ///
    /// # Errors
    /// The storage's.
    pub async fn list(&self) -> Result<Vec<String>, StoreError> {
        use futures::TryStreamExt;
        let found: Result<Vec<_>, _> = self.store.list(Some(&self.folder)).try_collect().await;
        let found = found.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(found.iter().filter_map(|object| object.location.filename().map(str::to_string)).collect())
    }

    /// Deletes objects that no entry names any more. One that cannot be deleted is left to the next start.
    pub async fn delete(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if let Err(error) = self.store.delete(&self.folder.clone().join(name.as_str())).await {
                tracing::debug!(%error, "an object of the journal is left");
            }
        }
    }
}

impl Entry {
    fn parse(entry: &Bytes) -> Option<Entry> {
        let mut rest = entry.clone();
        match rest.try_get_u8().ok()? {
            INLINE => Some(Entry::Inline(rest)),
            OBJECT => {
                let (bytes, checksum) = (rest.try_get_u64_le().ok()?, rest.try_get_u32_le().ok()?);
                Some(Entry::Object { name: String::from_utf8(rest.to_vec()).ok()?, bytes, checksum })
            }
            _ => None,
        }
    }
}

/// The object that an entry names.
pub fn object_of(entry: &Bytes) -> Option<String> {
    match Entry::parse(entry)? {
        Entry::Object { name, .. } => Some(name),
        Entry::Inline(_) => None,
    }
}

/// Each change as a byte that says which, the lengths of key and value (four bytes, little endian), and these.
fn encode(writes: &[Write]) -> Vec<Bytes> {
    let (mut pieces, mut piece) = (Vec::new(), BytesMut::new());
    for write in writes {
        let (kind, key, value) = match write {
            Write::Put(key, value) => (PUT, key, value.clone()),
            Write::Delete(key) => (DELETE, key, Bytes::new()),
        };
        if piece.capacity() - piece.len() < 9 + key.len() + value.len().min(VALUE_BYTES_LARGE) {
            let full = std::mem::replace(&mut piece, BytesMut::with_capacity(PIECE_BYTES + VALUE_BYTES_LARGE));
            pieces.push(full.freeze());
        }
        piece.put_u8(kind);
        piece.put_u32_le(key.len() as u32);
        piece.put_u32_le(value.len() as u32);
        piece.put_slice(key);
        if value.len() < VALUE_BYTES_LARGE {
            piece.put_slice(&value);
        } else {
            pieces.push(piece.split().freeze());
            pieces.push(value);
        }
    }
    pieces.push(piece.freeze());
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Copies of keys and values, so that one that stays does not hold the whole.
fn decode(mut bytes: Bytes) -> Option<Vec<Write>> {
    let mut writes = Vec::new();
    while bytes.has_remaining() {
        let kind = bytes.try_get_u8().ok()?;
        let (key_bytes, value_bytes) = (bytes.try_get_u32_le().ok()? as usize, bytes.try_get_u32_le().ok()? as usize);
        let (key, rest) = bytes.split_at_checked(key_bytes)?;
        let (value, _) = rest.split_at_checked(value_bytes)?;
        let key = Bytes::copy_from_slice(key);
        writes.push(match kind {
            PUT => Write::Put(key, Bytes::copy_from_slice(value)),
            DELETE => Write::Delete(key),
            _ => return None,
        });
        bytes.advance(key_bytes + value_bytes);
    }
    Some(writes)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn writes(seed: u64) -> Vec<Write> {
        let mut random = fastrand::Rng::with_seed(seed);
        let sizes = [0, 1, 100, 1_000, VALUE_BYTES_LARGE - 1, VALUE_BYTES_LARGE, PIECE_BYTES, 3 * PIECE_BYTES];
        let count = random.usize(0..60);
        let write = |random: &mut fastrand::Rng| {
            let key = Bytes::from(vec![random.u8(..); random.usize(1..40)]);
            match random.u8(0..4) {
                0 => Write::Delete(key),
                _ => Write::Put(key, Bytes::from(vec![random.u8(..); *random.choice(&sizes).unwrap()])),
            }
        };
        (0..count).map(|_| write(&mut random)).collect()
    }

    #[tokio::test]
    async fn what_was_written_is_read_inline_or_as_an_object_and_damage_is_noticed() {
        let store = Arc::new(InMemory::new());
        let objects = Objects::new(store.clone(), &ObjectPath::from("state"), 7);
        let (mut inline, mut large) = (0, Vec::new());
        for seed in 0..200 {
            let writes = writes(seed);
            let entry = objects.write(seed, &writes).await.unwrap();
            assert_eq!(objects.read(&entry).await.unwrap(), Some(writes), "seed {seed}");
            match object_of(&entry) {
                None => inline += 1,
                Some(name) => large.push((name, entry)),
            }
        }
        assert!(inline > 5 && large.len() > 5, "{inline} {}", large.len());
        let mut listed = objects.list().await.unwrap();
        listed.sort_unstable();
        assert_eq!(listed, large.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());

        let (name, entry) = &large[0];
        let path = ObjectPath::from(format!("state/journal/{name}"));
        let whole = store.get(&path).await.unwrap().bytes().await.unwrap();
        let mut flipped = whole.to_vec();
        flipped[100] ^= 1;
        for damaged in [whole.slice(..whole.len() - 1), Bytes::from(flipped), Bytes::new()] {
            store.put(&path, PutPayload::from(damaged)).await.unwrap();
            assert!(matches!(objects.read(entry).await, Err(StoreError::Damaged(_))));
        }
        objects.delete([name.clone()]).await;
        assert_eq!(objects.read(entry).await.unwrap(), None);
        for cut in [Bytes::new(), Bytes::from_static(&[9]), Bytes::from_static(&[OBJECT, 1, 2])] {
            assert!(matches!(objects.read(&cut).await, Err(StoreError::Damaged(_))), "{cut:?}");
        }
    }
}
