//! The lake: the tables as Parquet files in a local folder or an object store, without any server.
//!
//! ```text
//! lake/manifest/<version>.json      what counts: the highest version
//! lake/<table>/<after>-<upto>.parquet
//! ```
//!
//! A shipment writes its files, then a manifest that lists them and says up to which commit everything is there: that
//! one object makes it visible, for all tables at once, and a range that a manifest already covers is not written
//! again. A crash between the two leaves files that nobody lists.
//!
//! A writer takes the next epoch when it prepares. One that finds a higher epoch than its own stops for good.
//! What is no longer listed is removed only after a grace period, so whoever read a manifest finds its files.

pub mod files;
pub mod manifest;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::UInt64Type;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use object_store::ObjectStoreExt as _;

use self::files::{FileError, Written};
use self::manifest::{File, LakeError, Location, Manifest, Replaced, TableFiles};
use super::tables::StoredColumn;
use super::{CommitRange, SinkError, Table, TableSink};

/// How long what is no longer listed outlives the manifest that dropped it: longer than the longest query.
const GRACE: Duration = Duration::from_secs(600);
/// Files are merged towards this size.
const TARGET_BYTES: u64 = 128 << 20;
/// So many neighbours of about one size are merged into one: each row is rewritten about once per factor of this.
const FAN_IN: usize = 8;
/// Below this all sizes are one.
const SMALL_BYTES: u64 = 64 << 10;

pub struct LakeSink {
    location: Location,
    generation: String,
    grace: Duration,
    target_bytes: u64,
    /// The version that counts, as long as nobody else writes. None until prepared.
    current: Option<Manifest>,
    collected_at: Option<DateTime<Utc>>,
    swept_at: Option<DateTime<Utc>>,
}

impl LakeSink {
    /// `root` is the data folder or URL; the lake is `lake` in it. `generation` is the id of the state whose commits are
    /// shipped: another state counts its commits anew, so its rows must not be taken for rows that are there.
    ///
    /// # Errors
    /// Fatal: the folder cannot be made, or the URL is none.
    pub fn new(root: &str, generation: &str) -> Result<Self, SinkError> {
        let location = Location::open(root, true).map_err(|error| SinkError::Fatal(error.to_string()))?;
        Ok(LakeSink::at(location, generation))
    }

    pub(crate) fn at(location: Location, generation: &str) -> Self {
        LakeSink {
            location,
            generation: generation.to_string(),
            grace: GRACE,
            target_bytes: TARGET_BYTES,
            current: None,
            collected_at: None,
            swept_at: None,
        }
    }

    /// Merges neighbouring files and removes what nobody can read any more, as of `now`.
    pub async fn maintain_at(&mut self, now: DateTime<Utc>) -> Result<(), SinkError> {
        if self.current.is_none() {
            return Ok(());
        }
        while let Some((table, run)) = self.mergeable() {
            self.compact(table, run).await?;
        }
        if self.collected_at.is_none_or(|then| now - then >= chrono_duration(self.grace / 10)) {
            self.collect(now).await?;
            self.collected_at = Some(now);
        }
        Ok(())
    }

    fn manifest(&self) -> Result<&Manifest, SinkError> {
        self.current.as_ref().ok_or_else(|| self.fatal("not prepared"))
    }

    fn fatal(&self, reason: impl std::fmt::Display) -> SinkError {
        SinkError::Fatal(format!("lake {}: {reason}", self.location.name))
    }

    /// Makes `next` the version that counts.
    async fn publish(&mut self, mut next: Manifest) -> Result<(), SinkError> {
        let current = self.manifest()?;
        next.version = current.version + 1;
        let epoch = current.epoch;
        if self.location.create(&next).await.map_err(retry)? {
            self.current = Some(next);
            return Ok(());
        }
        // Someone made this version: we, in an attempt whose answer was lost, or a writer that took over.
        let latest = self.location.latest().await.map_err(retry)?;
        let latest = latest.ok_or_else(|| self.fatal("its manifest was removed"))?;
        if latest.epoch != epoch {
            return Err(self.fatal(format!("another process took over writing (epoch {}, ours {epoch})", latest.epoch)));
        }
        let done = latest == next;
        self.current = Some(latest);
        if done { Ok(()) } else { Err(SinkError::Retry(format!("lake {}: its manifest moved on", self.location.name))) }
    }

    /// Takes the next epoch with these tables.
    async fn claim(&mut self, tables: &[Table]) -> Result<(), SinkError> {
        for _ in 0..3 {
            let found = self.location.latest().await.map_err(retry)?;
            let mut next = found.unwrap_or_else(|| Manifest::new(&self.generation));
            if next.generation != self.generation {
                return Err(self.fatal(format!(
                    "its rows come from another state ({}, this is {}), whose commits count differently; use the state \
                     they come from, or move the folder away to begin an empty one",
                    next.generation, self.generation
                )));
            }
            define(&mut next, tables).map_err(|reason| self.fatal(reason))?;
            next.epoch += 1;
            next.version += 1;
            if self.location.create(&next).await.map_err(retry)? {
                self.current = Some(next);
                return Ok(());
            }
        }
        Err(SinkError::Retry(format!("lake {}: others write to it", self.location.name)))
    }

    /// Writes a table's rows as a file that no manifest lists yet.
    async fn write_file(&self, table: &TableFiles, range: CommitRange, batch: RecordBatch) -> Result<File, SinkError> {
        let path = format!("{}/{}-{}.parquet", table.name, range.after, range.upto);
        let kind = table.kind;
        let schema = table.table(true).schema;
        let written = blocking(move || files::write(&files::conform(&batch, &schema)?, kind)).await;
        self.store_file(path, range, written.map_err(|error| self.fatal(format!("table {}: {error}", table.name)))?)
            .await
    }

    async fn store_file(&self, path: String, range: CommitRange, written: Written) -> Result<File, SinkError> {
        let file = File {
            rows: written.rows,
            bytes: written.bytes.len() as u64,
            after: range.after,
            upto: range.upto,
            min_timestamp: written.times.map(|(least, _)| least),
            max_timestamp: written.times.map(|(_, greatest)| greatest),
            path,
        };
        let put = self.location.store.put(&self.location.path(&file.path), written.bytes.into()).await;
        put.map_err(|source| retry(self.location.error(source)))?;
        Ok(file)
    }

    /// A table and neighbouring files of it that are worth merging.
    fn mergeable(&self) -> Option<(usize, std::ops::Range<usize>)> {
        let manifest = self.current.as_ref()?;
        manifest.tables.iter().enumerate().find_map(|(index, table)| {
            let sizes: Vec<u64> = table.files.iter().map(|file| file.bytes).collect();
            Some((index, mergeable_run(&sizes, self.target_bytes)?))
        })
    }

    async fn compact(&mut self, table_index: usize, run: std::ops::Range<usize>) -> Result<(), SinkError> {
        let manifest = self.manifest()?;
        let table = &manifest.tables[table_index];
        let merged = &table.files[run.clone()];
        let mut inputs = Vec::with_capacity(merged.len());
        for file in merged {
            let found = self.location.store.get(&self.location.path(&file.path)).await;
            let found = found.map_err(|source| retry(self.location.error(source)))?;
            inputs.push(found.bytes().await.map_err(|source| retry(self.location.error(source)))?);
        }
        let (kind, schema) = (table.kind, table.table(true).schema);
        let written = blocking(move || files::merge(inputs, &schema, kind)).await;
        let written = written.map_err(|error| self.fatal(format!("table {}: merging: {error}", table.name)))?;
        let rows: u64 = merged.iter().map(|file| file.rows).sum();
        if written.rows != rows {
            return Err(self.fatal(format!("table {}: merging {rows} rows gave {}", table.name, written.rows)));
        }
        let range = CommitRange { after: merged[0].after, upto: merged[merged.len() - 1].upto };
        let version = manifest.version + 1;
        // The version keeps the name apart from that of any file that is or was listed.
        let path = format!("{}/{}-{}.v{version}.parquet", table.name, range.after, range.upto);
        let file = self.store_file(path, range, written).await?;
        let mut next = manifest.clone();
        let table = &mut next.tables[table_index];
        let old: Vec<File> = table.files.splice(run, [file]).collect();
        next.replaced.extend(old.into_iter().map(|file| Replaced { path: file.path, version }));
        self.publish(next).await
    }

    /// Removes manifests and replaced files that have been out of date for the grace period, and now and then files
    /// that a crash left unlisted.
    async fn collect(&mut self, now: DateTime<Utc>) -> Result<(), SinkError> {
        let old = now - chrono_duration(self.grace);
        // Never by what we remember: a writer that took over may list what we would remove.
        let latest = self.location.latest().await.map_err(retry)?;
        if latest.as_ref().map(|latest| latest.epoch) != Some(self.manifest()?.epoch) {
            return Err(self.fatal("another process took over writing"));
        }
        let versions = self.location.versions().await.map_err(retry)?;
        for pair in versions.windows(2) {
            // Out of date since its successor was made.
            if pair[1].1.last_modified <= old {
                self.remove(&pair[0].1.location).await?;
            }
        }
        let since =
            |version: u64| versions.iter().find(|(known, _)| *known == version).map(|(_, meta)| meta.last_modified);
        let mut kept = Vec::new();
        for replaced in self.manifest()?.replaced.clone() {
            // A manifest that is gone was out of date before.
            if since(replaced.version).is_none_or(|since| since <= old) {
                self.remove(&self.location.path(&replaced.path)).await?;
            } else {
                kept.push(replaced);
            }
        }
        let sweep = self.swept_at.is_none_or(|then| now - then >= chrono_duration(self.grace));
        if sweep {
            let manifest = self.manifest()?;
            let listed: std::collections::HashSet<&str> = manifest
                .tables
                .iter()
                .flat_map(|table| table.files.iter().map(|file| file.path.as_str()))
                .chain(kept.iter().map(|replaced| replaced.path.as_str()))
                .collect();
            for table in &manifest.tables {
                for (path, meta) in self.location.list(&table.name).await.map_err(retry)? {
                    if !listed.contains(path.as_str()) && meta.last_modified <= old {
                        self.remove(&meta.location).await?;
                    }
                }
            }
            self.swept_at = Some(now);
        }
        // Written with the next version; until then removing again does no harm.
        if let Some(current) = &mut self.current {
            current.replaced = kept;
        }
        Ok(())
    }

    async fn remove(&self, path: &object_store::path::Path) -> Result<(), SinkError> {
        match self.location.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(retry(self.location.error(source))),
        }
    }
}

#[async_trait]
impl TableSink for LakeSink {
    async fn prepare(&mut self, tables: &[Table]) -> Result<(), SinkError> {
        let Some(current) = &self.current else { return self.claim(tables).await };
        let mut next = current.clone();
        define(&mut next, tables).map_err(|reason| self.fatal(reason))?;
        if next.tables == current.tables { Ok(()) } else { self.publish(next).await }
    }

    async fn ship(&mut self, range: CommitRange, rows: &[(Table, RecordBatch)]) -> Result<(), SinkError> {
        let mut next = self.manifest()?.clone();
        let shipped = next.shipped_upto;
        if shipped.is_some_and(|shipped| shipped >= range.upto) {
            return Ok(());
        }
        if let Some(shipped) = shipped.filter(|shipped| *shipped < range.after) {
            return Err(self.fatal(format!(
                "holds the commits up to {shipped} and is now given those after {}: those between are nowhere; restore \
                 the folder, or move it away to begin an empty one",
                range.after
            )));
        }
        for (table, batch) in rows {
            let batch = match shipped {
                Some(shipped) if shipped > range.after => {
                    only_after(batch, shipped).map_err(|error| self.fatal(error))?
                }
                _ => batch.clone(),
            };
            if batch.num_rows() == 0 {
                continue;
            }
            let index = entry(&mut next, table);
            adopt_unknown_columns(&mut next.tables[index], &batch)
                .map_err(|reason| self.fatal(format!("table {}: {reason}", table.name)))?;
            let file = self.write_file(&next.tables[index], range, batch).await?;
            next.tables[index].files.push(file);
        }
        next.shipped_upto = Some(range.upto);
        self.publish(next).await
    }

    async fn maintain(&mut self) -> Result<(), SinkError> {
        #[expect(clippy::disallowed_methods, reason = "compared with the times at which the store wrote objects")]
        let now = Utc::now();
        self.maintain_at(now).await
    }
}

/// Gives the tables these columns. Columns that are no longer defined stay, unseen by views.
///
/// # Errors
/// A column that the lake has with another type.
fn define(manifest: &mut Manifest, tables: &[Table]) -> Result<(), String> {
    for table in tables {
        let index = entry(manifest, table);
        let known = &mut manifest.tables[index].columns;
        known.iter_mut().for_each(|column| column.retired = true);
        for field in table.schema.fields() {
            let column = StoredColumn::of(field).ok_or_else(|| {
                format!(
                    "table {}, column {}: no file can hold a value of type {}; cast it in the definition",
                    table.name,
                    field.name(),
                    field.data_type()
                )
            })?;
            match known.iter_mut().find(|known| known.name == column.name) {
                None => known.push(column),
                Some(known) if known.type_name == column.type_name => *known = column,
                Some(known) => {
                    return Err(format!(
                        "table {}, column {}: the lake has {}, the definitions give {}; give it another name in the \
                         definitions, or move the lake away to begin an empty one",
                        table.name, column.name, known.type_name, column.type_name
                    ));
                }
            }
        }
        // `_batch` and `_seq` stay last, whatever was added.
        known.sort_by_key(|column| match column.name.as_str() {
            "_batch" => 1,
            "_seq" => 2,
            _ => 0,
        });
    }
    Ok(())
}

/// The index of a table's entry, made if it is missing.
fn entry(manifest: &mut Manifest, table: &Table) -> usize {
    manifest.tables.iter().position(|known| known.name == table.name).unwrap_or_else(|| {
        let (columns, files) = (Vec::new(), Vec::new());
        manifest.tables.push(TableFiles { name: table.name.clone(), kind: table.kind, columns, files });
        manifest.tables.len() - 1
    })
}

/// Rows sealed under earlier definitions may have columns that are no longer defined: kept all the same.
fn adopt_unknown_columns(table: &mut TableFiles, batch: &RecordBatch) -> Result<(), String> {
    for field in batch.schema_ref().fields() {
        if !table.columns.iter().any(|known| known.name == *field.name()) {
            let column = StoredColumn::of(field)
                .ok_or_else(|| format!("column {}: no file can hold type {}", field.name(), field.data_type()))?;
            table.columns.push(StoredColumn { retired: true, nullable: true, ..column });
        }
    }
    Ok(())
}

/// The rows of commits after this one.
fn only_after(batch: &RecordBatch, commit: u64) -> Result<RecordBatch, FileError> {
    let commits = batch.column_by_name("_batch").and_then(|column| column.as_primitive_opt::<UInt64Type>());
    let commits = commits.ok_or(FileError::Order("_batch"))?;
    let later = commits.iter().map(|value| Some(value.is_some_and(|value| value > commit))).collect();
    Ok(filter_record_batch(batch, &later)?)
}

/// A run of at least [`FAN_IN`] neighbours of about one size or smaller whose sum is within the target; small sizes
/// first, so that a file is rewritten once per factor of the fan-in.
fn mergeable_run(sizes: &[u64], target: u64) -> Option<std::ops::Range<usize>> {
    let mut limit = SMALL_BYTES;
    while limit <= target {
        let mut start = 0;
        let mut sum = 0;
        for (index, size) in sizes.iter().enumerate() {
            if *size >= limit || sum + size > target {
                if index - start >= FAN_IN {
                    return Some(start..index);
                }
                let begins_here = *size < limit;
                (start, sum) = if begins_here { (index, *size) } else { (index + 1, 0) };
                continue;
            }
            sum += size;
        }
        if sizes.len() - start >= FAN_IN {
            return Some(start..sizes.len());
        }
        limit *= FAN_IN as u64;
    }
    None
}

fn retry(error: LakeError) -> SinkError {
    match error {
        LakeError::Store { .. } => SinkError::Retry(error.to_string()),
        LakeError::Unusable { .. } => SinkError::Fatal(error.to_string()),
    }
}

fn chrono_duration(duration: Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap_or(chrono::Duration::MAX)
}

/// Compression takes its time: off the threads that drive I/O.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            Err(FileError::Arrow(arrow::error::ArrowError::ExternalError(Arc::new(error).to_string().into())))
        }
    }
}

#[cfg(test)]
mod tests;
