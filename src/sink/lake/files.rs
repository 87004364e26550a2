//! The lake's Parquet files: writing a batch, merging files, bringing batches to a table's columns.
//!
//! Every file of a table is sorted alike (its time column if it has one, then `_batch`, `_seq`), so files are merged as
//! they are read, and memory holds a few thousand rows of each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, UInt32Array, UInt64Array, new_null_array};
use arrow::compute::{
    CastOptions, SortColumn, cast_with_options, interleave_record_batch, lexsort_to_indices, take_record_batch,
};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType, UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::event::TimeUs;
use crate::sink::tables::TableKind;

/// So that a filter on time skips most of a large file.
const ROW_GROUP_ROWS: usize = 128 * 1024;
const MERGE_ROWS: usize = 8 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{0}")]
    Arrow(#[from] ArrowError),
    #[error("{0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("column {column}: has type {found}, the table has {wanted}")]
    Type { column: String, found: String, wanted: String },
    #[error("column {0} is missing or has another type")]
    Order(&'static str),
}

/// A file's bytes, and what its entry in the manifest says about them.
pub struct Written {
    pub bytes: Vec<u8>,
    pub rows: u64,
    /// Least and greatest value of the time column.
    pub times: Option<(TimeUs, TimeUs)>,
}

/// The column that the rows of a table are sorted by, before `_batch` and `_seq`.
pub fn time_column(kind: TableKind) -> Option<&'static str> {
    match kind {
        TableKind::Events => Some("timestamp"),
        TableKind::IdentityConflicts | TableKind::JourneySteps => Some("happened_at"),
        TableKind::Sessions => Some("started_at"),
        TableKind::SegmentChanges | TableKind::GroupSegmentChanges | TableKind::StageChanges => Some("changed_at"),
        TableKind::Deliveries => Some("attempted_at"),
        TableKind::RejectedEvents => Some("received_at"),
        TableKind::Profiles
        | TableKind::Groups
        | TableKind::Identifiers
        | TableKind::ProfileMerges
        | TableKind::EventMoves
        | TableKind::Definitions
        | TableKind::RfmBorders
        | TableKind::Aggregate => None,
    }
}

/// The batch with exactly these columns: a column that it lacks is null, one of another type is cast if no value
/// changes by it. Columns that the schema does not have are left out.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, FileError> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns: Result<Vec<ArrayRef>, FileError> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => cast_with_options(column, field.data_type(), &strict).map_err(|_| FileError::Type {
                column: field.name().clone(),
                found: column.data_type().to_string(),
                wanted: field.data_type().to_string(),
            }),
        })
        .collect();
    Ok(RecordBatch::try_new(schema.clone(), columns?)?)
}

/// One batch, sorted, as a file.
pub fn write(batch: &RecordBatch, kind: TableKind) -> Result<Written, FileError> {
    let sorted = sort(batch, kind)?;
    let mut file = Writer::new(sorted.schema(), kind)?;
    file.write(&sorted)?;
    file.finish()
}

fn sort(batch: &RecordBatch, kind: TableKind) -> Result<RecordBatch, FileError> {
    let names = time_column(kind).into_iter().chain(["_batch", "_seq"]);
    let by: Result<Vec<SortColumn>, FileError> = names
        .map(|name| {
            let values = batch.column_by_name(name).ok_or(FileError::Order(name))?.clone();
            Ok(SortColumn { values, options: None })
        })
        .collect();
    Ok(take_record_batch(batch, &lexsort_to_indices(&by?, None)?)?)
}

/// Several files of a table as one, with these columns.
pub fn merge(files: Vec<Bytes>, schema: &SchemaRef, kind: TableKind) -> Result<Written, FileError> {
    let mut cursors = Vec::new();
    let mut next = BinaryHeap::new();
    for bytes in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.with_batch_size(MERGE_ROWS).build()?;
        let mut cursor = Cursor { reader, schema: schema.clone(), kind, batch: None, row: 0 };
        if cursor.load()? {
            next.push(Reverse((cursor.key()?, cursors.len())));
        }
        cursors.push(cursor);
    }
    let mut file = Writer::new(schema.clone(), kind)?;
    // Batches that rows were picked from, and the picks: (batch, row).
    let mut batches: Vec<RecordBatch> = Vec::new();
    let mut batch_of: Vec<Option<usize>> = vec![None; cursors.len()];
    let mut picks: Vec<(usize, usize)> = Vec::with_capacity(MERGE_ROWS);
    while let Some(Reverse((_, index))) = next.pop() {
        let cursor = &mut cursors[index];
        let current = cursor.current()?;
        let batch = *batch_of[index].get_or_insert_with(|| {
            batches.push(current.batch.clone());
            batches.len() - 1
        });
        picks.push((batch, cursor.row));
        if cursor.advance()? {
            next.push(Reverse((cursor.key()?, index)));
        }
        if cursor.row == 0 {
            batch_of[index] = None; // it went on to its next batch
        }
        if picks.len() >= MERGE_ROWS {
            flush(&mut file, &mut batches, &mut picks)?;
            batch_of.fill(None);
        }
    }
    flush(&mut file, &mut batches, &mut picks)?;
    file.finish()
}

fn flush(file: &mut Writer, batches: &mut Vec<RecordBatch>, picks: &mut Vec<(usize, usize)>) -> Result<(), FileError> {
    if picks.is_empty() {
        return Ok(());
    }
    let from: Vec<&RecordBatch> = batches.iter().collect();
    file.write(&interleave_record_batch(&from, picks)?)?;
    batches.clear();
    picks.clear();
    Ok(())
}

/// A place in a file that is being merged.
struct Cursor {
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    kind: TableKind,
    batch: Option<Sorted>,
    row: usize,
}

/// A batch and the columns it is sorted by.
struct Sorted {
    batch: RecordBatch,
    times: Option<PrimitiveArray<TimestampMicrosecondType>>,
    commits: UInt64Array,
    rows: UInt32Array,
}

impl Cursor {
    /// The next batch that has rows. False: the file is at its end.
    fn load(&mut self) -> Result<bool, FileError> {
        self.row = 0;
        self.batch = None;
        for batch in self.reader.by_ref() {
            let batch = conform(&batch?, &self.schema)?;
            if batch.num_rows() > 0 {
                let times = time_column(self.kind).map(|name| times(&batch, name)).transpose()?;
                let commits = column(&batch, "_batch")?;
                let commits = commits.as_primitive_opt::<UInt64Type>().ok_or(FileError::Order("_batch"))?.clone();
                let rows = column(&batch, "_seq")?;
                let rows = rows.as_primitive_opt::<UInt32Type>().ok_or(FileError::Order("_seq"))?.clone();
                self.batch = Some(Sorted { batch, times, commits, rows });
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn current(&self) -> Result<&Sorted, FileError> {
        self.batch.as_ref().ok_or(FileError::Order("_batch"))
    }

    fn batch_rows(&self) -> usize {
        self.batch.as_ref().map_or(0, |sorted| sorted.batch.num_rows())
    }

    fn key(&self) -> Result<(TimeUs, u64, u32), FileError> {
        let sorted = self.current()?;
        let time = sorted.times.as_ref().map_or(0, |times| times.value(self.row));
        Ok((time, sorted.commits.value(self.row), sorted.rows.value(self.row)))
    }

    fn advance(&mut self) -> Result<bool, FileError> {
        self.row += 1;
        if self.row < self.batch_rows() { Ok(true) } else { self.load() }
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a ArrayRef, FileError> {
    batch.column_by_name(name).ok_or(FileError::Order(name))
}

fn times(batch: &RecordBatch, name: &'static str) -> Result<PrimitiveArray<TimestampMicrosecondType>, FileError> {
    let times = column(batch, name)?.as_primitive_opt::<TimestampMicrosecondType>();
    times.cloned().ok_or(FileError::Order(name))
}

struct Writer {
    file: ArrowWriter<Vec<u8>>,
    kind: TableKind,
    rows: u64,
    times: Option<(TimeUs, TimeUs)>,
}

impl Writer {
    fn new(schema: SchemaRef, kind: TableKind) -> Result<Self, FileError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        let file = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
        Ok(Writer { file, kind, rows: 0, times: None })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        self.rows += batch.num_rows() as u64;
        if let Some(name) = time_column(self.kind) {
            let times = times(batch, name)?;
            if let (Some(least), Some(greatest)) = (arrow::compute::min(&times), arrow::compute::max(&times)) {
                let (low, high) = self.times.unwrap_or((least, greatest));
                self.times = Some((low.min(least), high.max(greatest)));
            }
        }
        Ok(self.file.write(batch)?)
    }

    fn finish(self) -> Result<Written, FileError> {
        Ok(Written { bytes: self.file.into_inner()?, rows: self.rows, times: self.times })
    }
}
