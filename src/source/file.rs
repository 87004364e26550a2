//! Files: NDJSON, CSV, Avro object containers.
//!
//! A *pass* goes over the plan's files in the order of their names and reads each on from where the last pass
//! stopped (`rows` cuts it into records); rows below the stored position are skipped. A drain makes a pass and is
//! caught up; otherwise there is a pass every second, for appended rows and new files.
//!
//! The position of a row is its number, from 1: lines of NDJSON (empty ones count), data rows of CSV, datums of Avro.
//! The partition is 0, the topic the file's path as a user would write it in the pipeline's folder, so that it stays
//! the same wherever the pipeline is started from.

pub mod rows;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use self::rows::{Cut, Resume, Rows};
use super::{FileFormat, FilePlan, Positions, ReadLimits, Shared, SourceError, SourceEvent, start_thread};
use crate::clock::now_us;
use crate::decode::registry::Schemas;
use crate::event::{Position, RawBatch, Reject, TimeUs};

const PASS_EVERY: Duration = Duration::from_secs(1);
/// While draining: how often it is said that the end is reached.
const SAY_EVERY: Duration = Duration::from_millis(100);
/// A last row without its newline may still be being written; after this long without growth it is taken as it is.
const UNFINISHED_FOR_US: TimeUs = 5_000_000;
/// How many rejects are handed over at once.
const REJECTS_MAX: usize = 1000;
/// Rows between two looks at the clock and at whether to stop.
const ROWS_PER_LOOK: i64 = 4096;

pub(super) fn start(
    plan: &FilePlan,
    positions: Positions,
    limits: ReadLimits,
    schemas: Option<Arc<Schemas>>,
    events: Sender<SourceEvent>,
    shared: Arc<Shared>,
) -> Result<(), SourceError> {
    check(plan, limits.until_end)?;
    if plan.format == FileFormat::Avro && schemas.is_none() {
        let reason = "avro files are decoded by `format: avro` only".to_string();
        return Err(SourceError::Path { source_name: plan.name.clone(), path: plan.path.clone(), reason });
    }
    let mut reader = Reader::new(plan.clone(), positions, limits, schemas, now_us);
    let source = plan.name.clone();
    start_thread(&source, move || {
        let mut emit = |event| !shared.stopped() && events.blocking_send(event).is_ok();
        let wait = if limits.until_end { SAY_EVERY } else { PASS_EVERY };
        while reader.pass(&mut emit).is_ok() {
            let mut waited = Duration::ZERO;
            while waited < wait {
                if shared.stopped() || events.is_closed() {
                    return;
                }
                std::thread::sleep(SAY_EVERY);
                waited += SAY_EVERY;
            }
        }
    })
}

/// The plan's files, in the order of their names.
fn list(plan: &FilePlan) -> std::io::Result<Vec<PathBuf>> {
    let path = plan.base.join(&plan.path);
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(&path)? {
            let file = entry?.path();
            let ending = file.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
            if ending.is_some_and(|ending| endings(&plan.format).contains(&ending.as_str())) && file.is_file() {
                files.push(file);
            }
        }
    } else if path.is_file() || !is_glob(&plan.path) {
        files.push(path);
    } else {
        // A folder of the base may itself hold the signs of a glob.
        let base = glob::Pattern::escape(&plan.base.to_string_lossy());
        let pattern = Path::new(&base).join(&plan.path);
        let found = glob::glob(&pattern.to_string_lossy()).map_err(std::io::Error::other)?;
        for file in found {
            let file = file.map_err(|error| std::io::Error::other(error.to_string()))?;
            if file.is_file() {
                files.push(file);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn endings(format: &FileFormat) -> &'static [&'static str] {
    match format {
        FileFormat::Ndjson => &["ndjson", "jsonl"],
        FileFormat::Csv { .. } => &["csv", "tsv"],
        FileFormat::Avro => &["avro"],
    }
}

fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// What can be known to be wrong before anything is read.
fn check(plan: &FilePlan, until_end: bool) -> Result<(), SourceError> {
    let path = plan.base.join(&plan.path);
    let wrong = |error: std::io::Error| SourceError::Path {
        source_name: plan.name.clone(),
        path: plan.path.clone(),
        reason: error.to_string(),
    };
    if path.is_dir() {
        return list(plan).map(|_| ()).map_err(wrong);
    }
    if path.is_file() {
        return std::fs::File::open(&path).map(|_| ()).map_err(wrong);
    }
    if is_glob(&plan.path) {
        let found = !list(plan).map_err(wrong)?.is_empty();
        // Files may still come, but then their folder is there already.
        if found || (!until_end && fixed_part(&path).is_dir()) {
            return Ok(());
        }
    }
    Err(SourceError::Missing { source_name: plan.name.clone(), path: plan.path.clone(), nearby: nearby(&path) })
}

/// The folders of a glob before its first sign.
fn fixed_part(path: &Path) -> PathBuf {
    path.components().take_while(|part| !is_glob(&part.as_os_str().to_string_lossy())).collect()
}

/// What there is instead of a path: the nearest names of the last folder that exists.
fn nearby(path: &Path) -> String {
    let Some(folder) = path.ancestors().skip(1).find(|folder| folder.is_dir()) else { return String::new() };
    let wanted = path.strip_prefix(folder).ok().and_then(|rest| rest.components().next());
    let wanted = wanted.map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() { format!("{name}/") } else { name }
        })
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names.sort_by_key(|name| strsim::damerau_levenshtein(name.trim_end_matches('/'), &wanted));
    let more = names.len().saturating_sub(5);
    names.truncate(5);
    let folder = folder.display();
    match (names.is_empty(), more) {
        (true, _) => format!("; {folder} is empty"),
        (false, 0) => format!("; in {folder} there is: {}", names.join(", ")),
        (false, more) => format!("; in {folder} there is: {} and {more} more", names.join(", ")),
    }
}

/// The path from the base where it is inside it, with `/` and without `.`; else the whole path.
fn topic_of(base: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(base).ok().map(Path::to_path_buf).or_else(|| {
        let base = std::path::absolute(base).ok()?;
        Some(std::path::absolute(file).ok()?.strip_prefix(base).ok()?.to_path_buf())
    });
    let path = inside.or_else(|| std::path::absolute(file).ok()).unwrap_or_else(|| file.to_path_buf());
    let mut topic = String::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::RootDir => topic.push('/'),
            part => {
                if !topic.is_empty() && !topic.ends_with('/') {
                    topic.push('/');
                }
                topic.push_str(&part.as_os_str().to_string_lossy());
            }
        }
    }
    topic
}

/// How far a file has been read.
struct FileState {
    topic: Arc<str>,
    /// The first row that the state does not have yet.
    wanted: i64,
    resume: Resume,
    /// The file's length when it was last read to its end.
    length_seen: Option<u64>,
    /// Since when the file has had this length and ended without a newline.
    unfinished: Option<(u64, TimeUs)>,
}

/// The reader ends: it was stopped, or has said why it cannot go on.
#[derive(Debug)]
struct Ended;

/// Hands an event over; false when nobody takes it any more.
type Emit<'a> = &'a mut dyn FnMut(SourceEvent) -> bool;

struct Reader {
    plan: FilePlan,
    positions: Positions,
    limits: ReadLimits,
    /// Where the schemas of containers are registered.
    schemas: Option<Arc<Schemas>>,
    clock: fn() -> TimeUs,
    files: BTreeMap<PathBuf, FileState>,
    said_caught_up: bool,
    last_lag_us: TimeUs,
    said_nothing_found: bool,
}

impl Reader {
    fn new(
        plan: FilePlan,
        positions: Positions,
        limits: ReadLimits,
        schemas: Option<Arc<Schemas>>,
        clock: fn() -> TimeUs,
    ) -> Self {
        Reader {
            plan,
            positions,
            limits,
            schemas,
            clock,
            files: BTreeMap::new(),
            said_caught_up: false,
            last_lag_us: 0,
            said_nothing_found: false,
        }
    }

    /// Reads all files to their present end.
    fn pass(&mut self, emit: Emit<'_>) -> Result<(), Ended> {
        let files = match list(&self.plan) {
            Ok(files) => files,
            Err(error) => return self.unavailable(&self.plan.path, &error.to_string(), emit),
        };
        if files.is_empty() && !self.said_nothing_found {
            self.said_nothing_found = true;
            self.unavailable(&self.plan.path, "no file yet; waiting for one", emit)?;
        }
        let mut out = Out::new(&self.plan.name, self.limits, emit);
        let mut all_read = true;
        for (index, file) in files.iter().enumerate() {
            match self.read_file(file, &files[index + 1..], &mut out) {
                Ok(()) => {}
                Err(Stop::Ended) => return Err(Ended),
                Err(Stop::File(reason)) => {
                    // One file that cannot be read holds up the end, not the others.
                    all_read = false;
                    out.flush()?;
                    let topic = topic_of(&self.plan.base, file);
                    self.unavailable(&topic, &reason, out.emit)?;
                }
                Err(Stop::Fatal(reason)) => {
                    out.flush()?;
                    (out.emit)(SourceEvent::Fatal(format!("source {}: {reason}", self.plan.name)));
                    return Err(Ended);
                }
            }
        }
        out.flush()?;
        let moved = out.moved;
        if moved {
            self.said_caught_up = false;
        }
        if all_read && (!self.said_caught_up || self.limits.until_end) {
            if !self.said_caught_up {
                send(emit, SourceEvent::Lag(0))?;
            }
            self.said_caught_up = true;
            send(emit, SourceEvent::CaughtUp)?;
        }
        Ok(())
    }

    fn read_file(&mut self, file: &Path, after: &[PathBuf], out: &mut Out<'_>) -> Result<(), Stop> {
        let now_us = (self.clock)();
        let state = self.files.entry(file.to_path_buf()).or_insert_with(|| {
            let topic = topic_of(&self.plan.base, file);
            let wanted = self.positions.get(&(topic.clone(), 0)).map_or(1, |next| next.offset);
            FileState { topic: topic.into(), wanted, resume: Resume::default(), length_seen: None, unfinished: None }
        });
        let length = std::fs::metadata(file).map_err(|error| Stop::File(error.to_string()))?.len();
        if length < state.resume.byte {
            return Err(Stop::Fatal(format!(
                "{} has shrunk: {} rows were read up to byte {}, and it has {length} bytes now. Give a new file \
                 another name, or start with a new state (--data)",
                state.topic, state.resume.rows, state.resume.byte
            )));
        }
        if state.length_seen == Some(length) && state.unfinished.is_none() {
            return Ok(());
        }
        let unfinished_too = self.limits.until_end
            || state.unfinished.is_some_and(|(then, since)| then == length && now_us - since >= UNFINISHED_FOR_US);
        let mut rows =
            Rows::open(file, &self.plan.format, self.schemas.as_deref(), state.resume.clone(), unfinished_too)
                .map_err(|error| Stop::File(error.to_string()))?;
        let mut timestamp = now_us;
        let mut unfinished = false;
        let mut looked_at = rows.resume().rows;
        loop {
            let row = rows.resume().rows;
            if row - looked_at >= ROWS_PER_LOOK {
                looked_at = row;
                timestamp = (self.clock)();
                if timestamp - self.last_lag_us >= 1_000_000 {
                    self.last_lag_us = timestamp;
                    let rest = after.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|data| data.len());
                    let bytes_left = length.saturating_sub(rows.resume().byte) + rest.sum::<u64>();
                    let bytes_per_row = (rows.resume().byte / row.unsigned_abs()).max(1);
                    let rows_left = i64::try_from(bytes_left / bytes_per_row).unwrap_or(i64::MAX);
                    send(out.emit, SourceEvent::Lag(rows_left))?;
                }
            }
            match rows.next(state.wanted).map_err(|error| Stop::File(error.to_string()))? {
                Cut::End => break,
                Cut::Unfinished => {
                    unfinished = true;
                    break;
                }
                Cut::Blank => {}
                Cut::Record { row, payload } if row >= state.wanted => {
                    out.record(&state.topic, row, timestamp, payload)?;
                }
                Cut::Reject { row, code, reason, payload } if row >= state.wanted => {
                    out.reject(&state.topic, row, timestamp, code, reason, payload)?;
                }
                Cut::Record { .. } | Cut::Reject { .. } => {}
            }
        }
        state.resume = rows.resume().clone();
        state.length_seen = Some(length);
        state.unfinished = match state.unfinished {
            _ if !unfinished => None,
            Some((then, since)) if then == length => Some((then, since)),
            _ => Some((length, now_us)),
        };
        if state.resume.rows + 1 < state.wanted && !unfinished {
            return Err(Stop::Fatal(format!(
                "{} has {} rows, but {} have been read before: it was replaced. Give the new file another name, or \
                 start with a new state (--data)",
                state.topic,
                state.resume.rows,
                state.wanted - 1
            )));
        }
        Ok(())
    }

    fn unavailable(&self, path: &str, reason: &str, emit: Emit<'_>) -> Result<(), Ended> {
        send(emit, SourceEvent::Unavailable(format!("source {}: {path}: {reason}", self.plan.name)))
    }
}

fn send(emit: Emit<'_>, event: SourceEvent) -> Result<(), Ended> {
    if emit(event) { Ok(()) } else { Err(Ended) }
}

/// Why a file is left before its end.
enum Stop {
    Ended,
    /// This file cannot be read now.
    File(String),
    Fatal(String),
}

impl From<Ended> for Stop {
    fn from(_: Ended) -> Self {
        Stop::Ended
    }
}

/// What has been read and not handed over. Records and rejects leave in the order of their rows: a commit that moves
/// past a row must hold what became of it.
struct Out<'a> {
    source: Arc<str>,
    limits: ReadLimits,
    batch: RawBatch,
    rejects: Vec<Reject>,
    moved: bool,
    emit: Emit<'a>,
}

impl<'a> Out<'a> {
    fn new(source: &Arc<str>, limits: ReadLimits, emit: Emit<'a>) -> Self {
        let max_bytes = limits.max_bytes.min(1 << 30);
        Out {
            source: source.clone(),
            limits: ReadLimits { max_bytes, ..limits },
            batch: RawBatch::new(source.clone()),
            rejects: Vec::new(),
            moved: false,
            emit,
        }
    }

    fn record(&mut self, topic: &Arc<str>, row: i64, timestamp: TimeUs, payload: &[u8]) -> Result<(), Ended> {
        if !self.rejects.is_empty() || self.batch.topics.len() == usize::from(u16::MAX) {
            self.flush()?;
        }
        self.batch.push(topic, 0, row, timestamp, payload);
        if self.batch.records.len() >= self.limits.max_records || self.batch.bytes.len() >= self.limits.max_bytes {
            self.flush()?;
        }
        Ok(())
    }

    fn reject(
        &mut self,
        topic: &Arc<str>,
        row: i64,
        timestamp: TimeUs,
        code: &str,
        reason: String,
        payload: Vec<u8>,
    ) -> Result<(), Ended> {
        if !self.batch.records.is_empty() || self.rejects.len() >= REJECTS_MAX {
            self.flush()?;
        }
        let position = Position { source: self.source.clone(), topic: topic.clone(), partition: 0, offset: row };
        let code = code.to_string();
        self.rejects.push(Reject { position, timestamp, code, reason, byte_offset: None, payload });
        Ok(())
    }

    /// At most one of the two is not empty.
    fn flush(&mut self) -> Result<(), Ended> {
        if !self.batch.records.is_empty() {
            self.moved = true;
            let batch = std::mem::replace(&mut self.batch, RawBatch::new(self.source.clone()));
            send(self.emit, SourceEvent::Records(batch))?;
        }
        if !self.rejects.is_empty() {
            self.moved = true;
            send(self.emit, SourceEvent::Rejects(std::mem::take(&mut self.rejects)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
