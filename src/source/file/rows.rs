//! Cuts one file into rows, from where it was left.
//!
//! A row is finished when its end has been seen: the newline (outside of quotes), the container's block. An
//! unfinished last row is left alone until the caller says that it is to be taken as it is.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::decode::ocf::{Container, OcfError};
use crate::decode::registry::Schemas;
use crate::source::FileFormat;

/// A longer row is rejected.
pub const ROW_BYTES_MAX: usize = 16 << 20;
/// What a reject keeps of a row that is too long.
const KEPT_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 256 << 10;

/// What the next row turned out to be; `row` is its number.
#[derive(Debug, PartialEq)]
pub enum Cut<'a> {
    Record {
        row: i64,
        payload: &'a [u8],
    },
    Reject {
        row: i64,
        code: &'static str,
        reason: String,
        payload: Vec<u8>,
    },
    /// A row without content, or one below `wanted`.
    Blank,
    /// The last row may still be being written; the same row comes again.
    Unfinished,
    End,
}

/// Where a file was left.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// Rows cut so far; the number of the last one.
    pub rows: i64,
    /// Where the next row begins.
    pub byte: u64,
    /// The last row was taken without its newline, which may still come.
    open_ended: bool,
    /// For CSV: the names of the columns.
    header: Option<Arc<Header>>,
}

pub enum Rows {
    Lines(Lines),
    Csv(CsvRows),
    Avro(Datums),
}

impl Rows {
    /// `unfinished_too`: takes an unfinished last row as it is.
    pub fn open(
        path: &Path,
        format: &FileFormat,
        schemas: Option<&Schemas>,
        resume: Resume,
        unfinished_too: bool,
    ) -> io::Result<Rows> {
        match format {
            FileFormat::Ndjson => Lines::open(path, resume, unfinished_too).map(Rows::Lines),
            FileFormat::Csv { delimiter } => CsvRows::open(path, *delimiter, resume, unfinished_too).map(Rows::Csv),
            FileFormat::Avro => Datums::open(path, schemas, resume, unfinished_too).map(Rows::Avro),
        }
    }

    /// Cuts the next row. Rows below `wanted` are known to have been taken before, finished or not.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn next(&mut self, wanted: i64) -> io::Result<Cut<'_>> {
        match self {
            Rows::Lines(rows) => rows.next(wanted),
            Rows::Csv(rows) => rows.next(wanted),
            Rows::Avro(rows) => rows.next(),
        }
    }

    pub fn resume(&self) -> &Resume {
        match self {
            Rows::Lines(rows) => &rows.resume,
            Rows::Csv(rows) => &rows.resume,
            Rows::Avro(rows) => &rows.resume,
        }
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// NDJSON: a row is a line.
pub struct Lines {
    reader: BufReader<File>,
    resume: Resume,
    unfinished_too: bool,
    line: Vec<u8>,
}

impl Lines {
    fn open(path: &Path, mut resume: Resume, unfinished_too: bool) -> io::Result<Lines> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(resume.byte))?;
        let mut reader = BufReader::with_capacity(READ_BYTES, file);
        if resume.open_ended {
            // The newline of the row that was taken without it.
            let ahead = reader.fill_buf()?;
            let newline = if ahead.starts_with(b"\r\n") { 2 } else { usize::from(ahead.starts_with(b"\n")) };
            reader.consume(newline);
            resume.byte += newline as u64;
            resume.open_ended = false;
        }
        Ok(Lines { reader, resume, unfinished_too, line: Vec::new() })
    }

    fn next(&mut self, wanted: i64) -> io::Result<Cut<'_>> {
        self.line.clear();
        let mut length = 0_u64;
        let mut finished = false;
        while !finished {
            let ahead = self.reader.fill_buf()?;
            if ahead.is_empty() {
                break;
            }
            let taken = match memchr(ahead) {
                Some(newline) => {
                    finished = true;
                    newline + 1
                }
                None => ahead.len(),
            };
            // One byte more than allowed tells a row that is too long; its rest is only counted.
            let room = (ROW_BYTES_MAX + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&ahead[..taken.min(room)]);
            self.reader.consume(taken);
            length += taken as u64;
        }
        if length == 0 {
            return Ok(Cut::End);
        }
        if !finished && !self.unfinished_too && self.resume.rows + 1 >= wanted {
            self.reader.seek(SeekFrom::Start(self.resume.byte))?;
            return Ok(Cut::Unfinished);
        }
        let first = self.resume.byte == 0;
        self.resume.rows += 1;
        self.resume.byte += length;
        self.resume.open_ended = !finished;
        if self.line.len() > ROW_BYTES_MAX {
            return Ok(too_long(self.resume.rows, &self.line, length));
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = if first { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line };
        if line.trim_ascii().is_empty() {
            return Ok(Cut::Blank);
        }
        Ok(Cut::Record { row: self.resume.rows, payload: line })
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

fn too_long(row: i64, content: &[u8], length: u64) -> Cut<'static> {
    Cut::Reject {
        row,
        code: "row_too_long",
        reason: format!("the row has {length} bytes, {ROW_BYTES_MAX} are allowed; its beginning is kept"),
        payload: content[..content.len().min(KEPT_BYTES_MAX)].to_vec(),
    }
}

/// The names of a CSV file's columns.
#[derive(Debug)]
struct Header {
    /// Each as the beginning of a JSON member: `"name":`.
    members: Vec<Vec<u8>>,
}

impl Header {
    /// A name that is empty or comes twice gets its column's number, so that every cell has a place.
    fn new(record: &csv::ByteRecord) -> Header {
        let mut names: Vec<String> = Vec::with_capacity(record.len());
        for (index, name) in record.iter().enumerate() {
            let name = String::from_utf8_lossy(name).trim().to_string();
            let taken = name.is_empty() || names.contains(&name);
            names.push(if taken { format!("{name}_{}", index + 1) } else { name });
        }
        let member = |name: &String| {
            let mut member = serde_json::to_vec(name).unwrap_or_default();
            member.push(b':');
            member
        };
        Header { members: names.iter().map(member).collect() }
    }
}

/// CSV: a row is a record behind the header, handed over as a JSON object of strings.
pub struct CsvRows {
    reader: csv::Reader<Bounded>,
    /// Where in the file the reader's own positions count from.
    base: u64,
    path: PathBuf,
    delimiter: u8,
    budget: Rc<Cell<usize>>,
    resume: Resume,
    unfinished_too: bool,
    /// When it was opened.
    length: u64,
    record: csv::ByteRecord,
    json: Vec<u8>,
}

/// Ends a record that goes on and on, as one with a stray quote does: by an error once the budget is used up.
struct Bounded {
    file: File,
    budget: Rc<Cell<usize>>,
    /// A newline comes before the file's bytes.
    newline: bool,
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.budget.get() == 0 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the row is too long"));
        }
        if self.newline && !into.is_empty() {
            self.newline = false;
            into[0] = b'\n';
            return Ok(1);
        }
        let read = self.file.read(into)?;
        self.budget.set(self.budget.get().saturating_sub(read));
        Ok(read)
    }
}

impl CsvRows {
    fn open(path: &Path, delimiter: u8, mut resume: Resume, unfinished_too: bool) -> io::Result<CsvRows> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let budget = Rc::new(Cell::new(usize::MAX));
        resume.open_ended = false; // an empty line between two rows is none to the csv reader
        let reader = csv_reader(file, delimiter, resume.byte, &budget)?;
        Ok(CsvRows {
            reader,
            base: base_of(resume.byte),
            path: path.to_path_buf(),
            delimiter,
            budget,
            resume,
            unfinished_too,
            length,
            record: csv::ByteRecord::new(),
            json: Vec::new(),
        })
    }

    fn next(&mut self, wanted: i64) -> io::Result<Cut<'_>> {
        if self.resume.header.is_none() {
            match self.read(1)? {
                CsvRead::Row => self.resume.header = Some(Arc::new(Header::new(&self.record))),
                CsvRead::End => return Ok(Cut::End),
                CsvRead::Unfinished => return Ok(Cut::Unfinished),
                CsvRead::TooLong { payload, length } => {
                    // There are no names, so every row has too many fields and is rejected in its turn.
                    self.resume.header = Some(Arc::new(Header { members: Vec::new() }));
                    self.resume.rows += 1;
                    return Ok(too_long(self.resume.rows, &payload, length));
                }
            }
        }
        let start = self.resume.byte;
        match self.read(wanted)? {
            CsvRead::Row => {}
            CsvRead::End => return Ok(Cut::End),
            CsvRead::Unfinished => return Ok(Cut::Unfinished),
            CsvRead::TooLong { payload, length } => {
                self.resume.rows += 1;
                return Ok(too_long(self.resume.rows, &payload, length));
            }
        }
        self.resume.rows += 1;
        if self.resume.rows < wanted {
            return Ok(Cut::Blank); // not looked at, so need not be well-formed
        }
        let header = self.resume.header.clone();
        let members = header.as_ref().map(|header| header.members.as_slice()).unwrap_or_default();
        let reason = if self.record.len() != members.len() {
            Some(("csv_fields", format!("{} fields where the header has {}", self.record.len(), members.len())))
        } else {
            self.json.clear();
            to_json(members, &self.record, &mut self.json).err().map(|reason| ("utf8", reason))
        };
        match reason {
            None => Ok(Cut::Record { row: self.resume.rows, payload: &self.json }),
            Some((code, reason)) => {
                let payload = self.raw(start, self.resume.byte)?;
                Ok(Cut::Reject { row: self.resume.rows, code, reason, payload: trim_line(&payload).to_vec() })
            }
        }
    }

    /// Reads one record and moves behind it, if it is finished or to be taken anyway.
    fn read(&mut self, wanted: i64) -> io::Result<CsvRead> {
        let start = self.resume.byte;
        self.budget.set(ROW_BYTES_MAX + READ_BYTES);
        let row = match self.reader.read_byte_record(&mut self.record) {
            Ok(row) => row,
            Err(error) => match error.into_kind() {
                csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    return self.leap(start);
                }
                csv::ErrorKind::Io(error) => return Err(error),
                _ => return Err(io::Error::other("the csv reader has stopped")),
            },
        };
        let end = self.base + self.reader.position().byte();
        if !row {
            return Ok(CsvRead::End);
        }
        let taken_before = self.resume.header.is_some() && self.resume.rows + 1 < wanted;
        if end >= self.length && !self.unfinished_too && !taken_before && !is_finished(&self.raw(start, end)?) {
            self.begin_at(start)?;
            return Ok(CsvRead::Unfinished);
        }
        self.resume.byte = end;
        Ok(CsvRead::Row)
    }

    fn begin_at(&mut self, byte: u64) -> io::Result<()> {
        self.reader = csv_reader(File::open(&self.path)?, self.delimiter, byte, &self.budget)?;
        self.base = base_of(byte);
        Ok(())
    }

    /// Behind a record that is too long: to the line after the one that it begins in.
    fn leap(&mut self, start: u64) -> io::Result<CsvRead> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut lines = BufReader::with_capacity(READ_BYTES, file);
        let mut payload = Vec::new();
        let mut length = 0;
        loop {
            let ahead = lines.fill_buf()?;
            if ahead.is_empty() {
                break;
            }
            let newline = memchr(ahead);
            let taken = newline.map_or(ahead.len(), |newline| newline + 1);
            let room = KEPT_BYTES_MAX.saturating_sub(payload.len());
            payload.extend_from_slice(&ahead[..taken.min(room)]);
            lines.consume(taken);
            length += taken as u64;
            if newline.is_some() {
                break;
            }
        }
        self.resume.byte = start + length;
        self.begin_at(self.resume.byte)?;
        Ok(CsvRead::TooLong { payload, length })
    }

    fn raw(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut raw = Vec::new();
        file.take(end.saturating_sub(start)).read_to_end(&mut raw)?;
        Ok(raw)
    }
}

/// What became of an attempt to read one CSV record.
enum CsvRead {
    Row,
    End,
    Unfinished,
    TooLong { payload: Vec<u8>, length: u64 },
}

/// A reader takes a byte order mark for one where it begins, which is right at the beginning of the file alone: elsewhere it is
/// part of a cell, wherever reading goes on from. So there the reader sees a newline first, which is none of the file's.
fn csv_reader(mut file: File, delimiter: u8, byte: u64, budget: &Rc<Cell<usize>>) -> io::Result<csv::Reader<Bounded>> {
    file.seek(SeekFrom::Start(byte))?;
    let mut builder = csv::ReaderBuilder::new();
    builder.delimiter(delimiter).has_headers(false).flexible(true).buffer_capacity(READ_BYTES);
    let reader = builder.from_reader(Bounded { file, budget: budget.clone(), newline: byte > 0 });
    Ok(reader)
}

/// Where the positions of a reader that begins at `byte` count from: one before it, for the newline.
fn base_of(byte: u64) -> u64 {
    byte.saturating_sub(1)
}

/// The row's newline is there, and not inside quotes.
fn is_finished(raw: &[u8]) -> bool {
    raw.ends_with(b"\n") && raw.iter().filter(|byte| **byte == b'"').count().is_multiple_of(2)
}

/// A row as it stands in the file, without the newlines around it.
fn trim_line(raw: &[u8]) -> &[u8] {
    let is_newline = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let from = raw.iter().position(|byte| !is_newline(byte)).unwrap_or(raw.len());
    let to = raw.iter().rposition(|byte| !is_newline(byte)).map_or(from, |last| last + 1);
    &raw[from..to]
}

fn to_json(members: &[Vec<u8>], record: &csv::ByteRecord, json: &mut Vec<u8>) -> Result<(), String> {
    json.push(b'{');
    for (index, (member, cell)) in members.iter().zip(record.iter()).enumerate() {
        let text = simdutf8::basic::from_utf8(cell).map_err(|_| {
            let name = String::from_utf8_lossy(&member[..member.len() - 1]);
            format!("column {name} is not UTF-8; a file in another encoding must be converted")
        })?;
        if index > 0 {
            json.push(b',');
        }
        json.extend_from_slice(member);
        serde_json::to_writer(&mut *json, text).map_err(|error| error.to_string())?;
    }
    json.push(b'}');
    Ok(())
}

/// Avro containers: a row is a datum, handed over in single-object encoding.
pub struct Datums {
    container: Result<Container<BufReader<File>>, String>,
    path: PathBuf,
    resume: Resume,
    /// Rows up to this one were cut in an earlier pass: containers are always read from their beginning.
    cut_before: i64,
    unfinished_too: bool,
    length: u64,
    /// An item that was read to see whether the one before it was the last.
    ahead: Option<Option<Result<crate::decode::ocf::Datum, OcfError>>>,
    payload: Vec<u8>,
}

const SINGLE_OBJECT_MAGIC: [u8; 2] = [0xC3, 0x01];

impl Datums {
    fn open(path: &Path, schemas: Option<&Schemas>, resume: Resume, unfinished_too: bool) -> io::Result<Datums> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut payload = SINGLE_OBJECT_MAGIC.to_vec();
        let container = match Container::open(BufReader::with_capacity(READ_BYTES, file)) {
            Ok(container) => {
                let schemas = schemas.ok_or_else(|| io::Error::other("there is no place for its schema"))?;
                let fingerprint = schemas.register_local(container.schema_json()).map_err(io::Error::other)?;
                payload.extend_from_slice(&fingerprint.to_le_bytes());
                Ok(container)
            }
            Err(OcfError::Io(error)) => return Err(error),
            Err(error) => Err(error.to_string()),
        };
        let cut_before = resume.rows;
        let path = path.to_path_buf();
        Ok(Datums { container, path, resume, cut_before, unfinished_too, length, ahead: None, payload })
    }

    fn next(&mut self) -> io::Result<Cut<'_>> {
        let container = match &mut self.container {
            Ok(container) => container,
            Err(_) if self.length == 0 || self.cut_before > 0 => return Ok(self.end()),
            Err(_) if !self.unfinished_too => return Ok(Cut::Unfinished),
            Err(reason) => {
                let reason = std::mem::take(reason);
                let mut payload = Vec::new();
                File::open(&self.path)?.take(KEPT_BYTES_MAX as u64).read_to_end(&mut payload)?;
                self.resume.rows = 1;
                self.cut_before = 1;
                return Ok(Cut::Reject { row: 1, code: "bad_container", reason, payload });
            }
        };
        loop {
            let item = self.ahead.take().unwrap_or_else(|| container.next());
            match item {
                None => return Ok(self.end()),
                Some(Ok(datum)) => {
                    let row = i64::try_from(datum.row).unwrap_or(i64::MAX);
                    if row <= self.cut_before {
                        continue;
                    }
                    self.resume.rows = row;
                    self.payload.truncate(10);
                    self.payload.extend_from_slice(&datum.bytes);
                    return Ok(Cut::Record { row, payload: &self.payload });
                }
                Some(Err(OcfError::Bad { row, code, reason, payload, .. })) => {
                    let row = i64::try_from(row).unwrap_or(i64::MAX);
                    let ahead = container.next();
                    // A block that is still being written looks broken.
                    let unfinished = ahead.is_none() && !self.unfinished_too;
                    self.ahead = Some(ahead);
                    if row <= self.cut_before {
                        continue;
                    }
                    if unfinished {
                        return Ok(Cut::Unfinished);
                    }
                    self.resume.rows = row;
                    return Ok(Cut::Reject { row, code, reason, payload: payload.to_vec() });
                }
                Some(Err(OcfError::Io(error))) => return Err(error),
                Some(Err(error)) => return Err(io::Error::other(error.to_string())),
            }
        }
    }

    fn end(&mut self) -> Cut<'static> {
        self.resume.byte = self.length;
        Cut::End
    }
}
