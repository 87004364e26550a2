//! The outbox: the rows of a commit, sealed with it, kept until the table sink has acknowledged them.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use crate::sink::{CommitRange, Table};
use crate::state::keys::{self, Tag};
use crate::state::{Store, StoreError};

/// A commit's rows, table by table.
pub type Rows = Vec<(Table, RecordBatch)>;

/// A version byte, the length of the Arrow IPC stream that follows (four bytes, little endian), and that as an LZ4 block: columns
/// of traits are mostly alike, and each byte less is one that the store does not copy to its memory, its log and its files.
const VERSION: u8 = 2;
const HEAD: usize = 5;

/// Buffers that grew beyond this are not kept.
const KEPT_BYTES_MAX: usize = 256 << 20;

/// Seals rows. It keeps its buffers: they are many MB, and fresh memory of that size has to be cleared by the kernel each time.
#[derive(Default)]
pub struct Sealer {
    stream: Vec<u8>,
    block: Vec<u8>,
}

impl Sealer {
    /// # Errors
    /// Rows that Arrow cannot write, or more than 4 GiB of them.
    pub fn seal(&mut self, batch: &RecordBatch) -> Result<Bytes, StoreError> {
        let failed = |error: String| StoreError::Damaged(format!("rows cannot be sealed: {error}"));
        let Sealer { stream, block } = self;
        stream.clear();
        let writer = StreamWriter::try_new(&mut *stream, &batch.schema());
        let mut writer = writer.map_err(|error| failed(error.to_string()))?;
        writer.write(batch).and_then(|()| writer.finish()).map_err(|error| failed(error.to_string()))?;
        drop(writer);
        let length = u32::try_from(stream.len()).map_err(|_| failed("more than 4 GiB in one table".to_string()))?;
        let room = HEAD + lz4_flex::block::get_maximum_output_size(stream.len());
        if block.len() < room {
            block.resize(room, 0);
        }
        block[0] = VERSION;
        block[1..HEAD].copy_from_slice(&length.to_le_bytes());
        let packed = lz4_flex::block::compress_into(stream, &mut block[HEAD..]);
        let packed = packed.map_err(|error| failed(error.to_string()))?;
        let sealed = Bytes::copy_from_slice(&block[..HEAD + packed]);
        if stream.capacity() + block.capacity() > KEPT_BYTES_MAX {
            *self = Sealer::default();
        }
        Ok(sealed)
    }
}

/// Arrow trusts the lengths that it reads: that the bytes are whole is for the store's checksums to see.
///
/// # Errors
/// Bytes that are cut off, or of another version.
pub fn decode(bytes: &[u8]) -> Result<RecordBatch, StoreError> {
    let failed = |error: String| StoreError::Damaged(format!("sealed rows cannot be read: {error}"));
    let Some((&[VERSION, a, b, c, d], block)) = bytes.split_first_chunk::<HEAD>() else {
        return Err(StoreError::Damaged("sealed rows are of a version this program does not read".to_string()));
    };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    // LZ4 packs to one part in 255 at best.
    if length / 255 > block.len() {
        return Err(failed("their length is not theirs".to_string()));
    }
    let stream = lz4_flex::block::decompress(block, length).map_err(|error| failed(error.to_string()))?;
    let mut reader = StreamReader::try_new(Cursor::new(stream), None).map_err(|error| failed(error.to_string()))?;
    match reader.next() {
        Some(batch) => batch.map_err(|error| failed(error.to_string())),
        None => Err(StoreError::Damaged("sealed rows are empty".to_string())),
    }
}

/// Rows of recent commits, so that a sink that keeps up never reads the store. Bounded; what does not fit is read back.
#[derive(Debug, Clone)]
pub struct Recent {
    rows: Arc<Mutex<(usize, BTreeMap<u64, Arc<Rows>>)>>,
    bytes_max: usize,
}

impl Recent {
    pub fn new(bytes_max: usize) -> Recent {
        Recent { rows: Arc::default(), bytes_max }
    }

    pub fn put(&self, commit: u64, rows: Arc<Rows>) {
        let mut guard = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes_of(&rows);
        // When full, newer rows stay out: the sink needs the oldest first.
        if guard.0 + bytes <= self.bytes_max {
            guard.0 += bytes;
            guard.1.insert(commit, rows);
        }
    }

    pub fn get(&self, commit: u64) -> Option<Arc<Rows>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).1.get(&commit).cloned()
    }

    pub fn forget_upto(&self, commit: u64) {
        let mut guard = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = guard.1.split_off(&(commit + 1));
        let gone = std::mem::replace(&mut guard.1, rest);
        guard.0 -= gone.values().map(|rows| bytes_of(rows)).sum::<usize>();
    }
}

fn bytes_of(rows: &Rows) -> usize {
    rows.iter().map(|(_, batch)| batch.get_array_memory_size()).sum()
}

/// The rows of one commit out of the store.
pub async fn read(store: &dyn Store, tables: &BTreeMap<String, Table>, commit: u64) -> Result<Rows, StoreError> {
    let prefix = keys::number(Tag::Outbox, commit);
    let mut rows = Vec::new();
    for (key, value) in store.scan(&prefix, None, 1000).await? {
        let name = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        let batch = decode(&value)?;
        // A table that the definitions no longer have is still shipped in the shape it was sealed in.
        let table = match tables.get(&name) {
            Some(table) => Table { schema: batch.schema(), ..table.clone() },
            None => {
                Table { name: name.clone(), kind: crate::sink::tables::TableKind::Aggregate, schema: batch.schema() }
            }
        };
        rows.push((table, batch));
    }
    Ok(rows)
}

/// True when no table of `more` has other columns than in `rows`: a range never spans a change of definitions.
pub fn same_shape(rows: &Rows, more: &Rows) -> bool {
    more.iter().all(|(table, batch)| {
        rows.iter().all(|(known, rows)| known.name != table.name || rows.schema() == batch.schema())
    })
}

/// Joins the rows of several commits into one batch per table, in commit order.
pub fn join(parts: &[Arc<Rows>]) -> Result<Rows, StoreError> {
    if let [only] = parts {
        return Ok(only.as_ref().clone());
    }
    let mut by_table: BTreeMap<String, (Table, Vec<RecordBatch>)> = BTreeMap::new();
    for (table, batch) in parts.iter().flat_map(|rows| rows.iter()) {
        by_table.entry(table.name.clone()).or_insert_with(|| (table.clone(), Vec::new())).1.push(batch.clone());
    }
    let mut joined = Vec::new();
    for (_, (table, batches)) in by_table {
        let schema = batches[0].schema();
        let batch = arrow::compute::concat_batches(&schema, &batches).map_err(|error| {
            StoreError::Damaged(format!("sealed rows of {} do not fit together: {error}", table.name))
        })?;
        joined.push((table, batch));
    }
    Ok(joined)
}

/// Which commits have sealed rows, by table name: what acknowledging must delete.
pub async fn index(store: &dyn Store) -> Result<BTreeMap<u64, Vec<String>>, StoreError> {
    let prefix = keys::prefix(Tag::Outbox);
    let mut index: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.scan(&prefix, after.as_deref(), 64).await?;
        let Some((last, _)) = page.last() else { return Ok(index) };
        after = Some(last.clone());
        for (key, _) in &page {
            let Some(number) = key.get(2..10).and_then(|bytes| bytes.try_into().ok()) else { continue };
            let name = String::from_utf8_lossy(&key[10..]).into_owned();
            index.entry(u64::from_be_bytes(number)).or_default().push(name);
        }
    }
}

/// The commits of a range that have rows.
pub fn commits_in(index: &BTreeMap<u64, Vec<String>>, range: CommitRange) -> Vec<u64> {
    index.range(range.after + 1..=range.upto).map(|(commit, _)| *commit).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn sealed_rows_come_back_and_what_is_cut_is_an_error() {
        let mut sealer = Sealer::default();
        let rows = |count: i64| {
            let numbers: Int64Array = (0..count).map(|n| (n % 3 > 0).then_some(n / 100)).collect();
            let texts: StringArray = (0..count).map(|n| Some(format!("sku{}", n % 40))).collect();
            RecordBatch::try_from_iter([("n", Arc::new(numbers) as _), ("t", Arc::new(texts) as _)]).unwrap()
        };
        // A large one, and smaller ones in its buffers.
        for count in [50_000, 1, 0, 1_000] {
            let sealed = sealer.seal(&rows(count)).unwrap();
            assert_eq!(decode(&sealed).unwrap(), rows(count));
            assert!(sealed.len() < 1_000 + count as usize * 8, "{count} rows in {} bytes", sealed.len());
        }
        let sealed = sealer.seal(&rows(100)).unwrap();
        for cut in 0..sealed.len() {
            assert!(decode(&sealed[..cut]).is_err(), "cut at {cut}");
        }
    }
}
