//! Avro object containers: a file of blocks, cut into bare datums with row numbers.
//!
//! A bad block or datum costs what cannot be told apart any more (the block, the rest of the block) and no more: it is
//! one error with its row, and reading goes on behind the next sync marker. Rows are counted from 1, and lost rows are
//! counted too as far as their block says how many they are, so the row of a record does not depend on where reading
//! began.

use std::io::Read;

use bytes::Bytes;

use super::schema::Schema;
use super::walk::{Fault, code, walk_prefix};

/// One datum as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datum {
    /// From 1.
    pub row: u64,
    pub bytes: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum OcfError {
    /// The file cannot be read now: try again. Ends the iteration.
    #[error("cannot read the avro file: {0}")]
    Io(#[from] std::io::Error),
    /// Not an Avro container, or one that cannot be used as a whole.
    #[error("not a usable avro file: {0}")]
    Header(String),
    /// Something in it is broken; reading goes on behind it.
    #[error("row {row}: {reason}")]
    Bad {
        row: u64,
        /// As of [`code`], or `bad_block`.
        code: &'static str,
        reason: String,
        /// Into the payload, where there is one.
        byte_offset: Option<usize>,
        /// The bytes at fault, where they could be cut: what is left of the block from the bad datum on.
        payload: Bytes,
    },
}

/// A block is larger than this neither in the file nor decompressed.
const BLOCK_BYTES_MAX: usize = 256 << 20;
const HEADER_BYTES_MAX: usize = 16 << 20;
const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
const BAD_BLOCK: &str = "bad_block";

/// Reads a container's datums in order, as an iterator.
pub struct Container<R> {
    input: Input<R>,
    schema_json: String,
    schema: Schema,
    codec: Codec,
    sync: [u8; SYNC_BYTES],
    /// The row of the next block's first datum.
    next_row: u64,
    block: Block,
    ended: bool,
}

/// The rest of the block that is being cut.
#[derive(Default)]
struct Block {
    row: u64,
    left: u64,
    bytes: Bytes,
}

#[derive(Debug, Clone, Copy)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

impl<R: Read> Container<R> {
    /// Reads the header.
    pub fn open(reader: R) -> Result<Container<R>, OcfError> {
        let mut input = Input { reader, buffer: Vec::new(), at: 0, offset: 0 };
        let short = || OcfError::Header("it ends inside its header".to_owned());
        if !input.fill(MAGIC.len())? || input.bytes(MAGIC.len()) != MAGIC {
            return Err(OcfError::Header("it does not begin with Avro's `Obj1`".to_owned()));
        }
        input.take(MAGIC.len());
        let (mut schema, mut codec) = (None, None);
        loop {
            let mut count = input.long()?.ok_or_else(short)?;
            if count == 0 {
                break;
            }
            if count < 0 {
                input.long()?.ok_or_else(short)?;
                count = count.saturating_neg();
            }
            for _ in 0..count {
                let key = input.header_bytes()?.ok_or_else(short)?;
                let value = input.header_bytes()?.ok_or_else(short)?;
                match &key[..] {
                    b"avro.schema" => schema = Some(value),
                    b"avro.codec" => codec = Some(value),
                    _ => {}
                }
            }
        }
        if !input.fill(SYNC_BYTES)? {
            return Err(short());
        }
        let mut sync = [0; SYNC_BYTES];
        sync.copy_from_slice(input.bytes(SYNC_BYTES));
        input.take(SYNC_BYTES);
        let schema_json = schema.and_then(|schema| String::from_utf8(schema).ok());
        let schema_json = schema_json.ok_or_else(|| OcfError::Header("its header has no `avro.schema`".to_owned()))?;
        let schema = Schema::parse(&schema_json).map_err(|error| OcfError::Header(error.to_string()))?;
        let codec = match codec.as_deref() {
            None | Some(b"null" | b"") => Codec::Null,
            Some(b"deflate") => Codec::Deflate,
            Some(b"snappy") => Codec::Snappy,
            Some(b"zstandard") => Codec::Zstandard,
            Some(other) => {
                let name = String::from_utf8_lossy(other);
                return Err(OcfError::Header(format!(
                    "its codec is `{name}`; null, deflate, snappy and zstandard can be read"
                )));
            }
        };
        Ok(Container { input, schema_json, schema, codec, sync, next_row: 1, block: Block::default(), ended: false })
    }

    /// The writer schema, as it stands in the file.
    pub fn schema_json(&self) -> &str {
        &self.schema_json
    }

    /// Reads the next block into `self.block`; false at the end of the file.
    fn next_block(&mut self) -> Result<bool, OcfError> {
        if !self.input.fill(1)? {
            return Ok(false);
        }
        let start = self.input.offset;
        let (count, size) = match (self.input.long()?, self.input.long()?) {
            (Some(count), Some(size)) => (count, size),
            _ => return self.broken(start, 1, code::TRUNCATED, "its header ends early or is no number"),
        };
        let plausible = usize::try_from(size).ok().filter(|size| *size <= BLOCK_BYTES_MAX);
        let (Some(size), true) = (plausible, count >= 0) else {
            let what = format!("it declares {count} rows in {size} bytes");
            return self.broken(start, 1, BAD_BLOCK, &what);
        };
        // A row takes a byte at least, or nearly none do; a larger count is a lie.
        let rows = (count as u64).min(size.max(1) as u64);
        if !self.input.fill(size + SYNC_BYTES)? {
            return self.broken(start, rows, code::TRUNCATED, "the file ends inside it");
        }
        let bytes = self.input.bytes(size + SYNC_BYTES);
        if bytes[size..] != self.sync {
            return self.broken(start, rows, BAD_BLOCK, "no sync marker follows it");
        }
        let unpacked = unpack(self.codec, &bytes[..size]);
        self.input.take(size + SYNC_BYTES);
        match unpacked {
            Ok(bytes) => {
                self.block = Block { row: self.next_row, left: count as u64, bytes: Bytes::from(bytes) };
                Ok(true)
            }
            Err(what) => {
                let row = self.next_row;
                self.next_row += rows.max(1);
                Err(self.bad(row, BAD_BLOCK, format!("the block at byte {start} ({count} rows) is lost: {what}")))
            }
        }
    }

    /// A block that cannot be trusted to end where it says: goes on behind the next sync marker.
    fn broken(&mut self, start: u64, rows: u64, code: &'static str, what: &str) -> Result<bool, OcfError> {
        let row = self.next_row;
        self.next_row += rows.max(1);
        self.input.seek_behind(&self.sync)?;
        Err(self.bad(row, code, format!("the block at byte {start} is lost: {what}")))
    }

    fn bad(&self, row: u64, code: &'static str, reason: String) -> OcfError {
        OcfError::Bad { row, code, reason, byte_offset: None, payload: Bytes::new() }
    }

    /// The next datum of the block; `None` when it is used up.
    fn next_datum(&mut self) -> Option<Result<Datum, OcfError>> {
        if self.block.left == 0 {
            return None;
        }
        let row = self.block.row;
        let walked = walk_prefix(&self.schema, &self.block.bytes);
        let last = self.block.left == 1;
        let fault = match walked {
            Ok(0) if !last => {
                // A row without bytes (a record without fields) could be declared any number of times.
                Fault::new(code::TOO_MANY_ELEMENTS, 0, "rows that take no bytes")
            }
            Ok(end) if last && end < self.block.bytes.len() => {
                let reason = format!("{} bytes are left behind the block's last row", self.block.bytes.len() - end);
                Fault::new(code::TRAILING_BYTES, end, reason)
            }
            Ok(end) => {
                let bytes = self.block.bytes.split_to(end);
                self.block.row += 1;
                self.block.left -= 1;
                self.next_row = self.block.row;
                return Some(Ok(Datum { row, bytes }));
            }
            Err(fault) => fault,
        };
        let lost = self.block.left - 1;
        let payload = std::mem::take(&mut self.block).bytes;
        self.next_row = row + 1 + lost.min(payload.len() as u64);
        let mut reason = fault.reason;
        if lost > 0 {
            reason.push_str(&format!("; with it {lost} more rows of its block are lost"));
        }
        Some(Err(OcfError::Bad { row, code: fault.code, reason, byte_offset: Some(fault.offset), payload }))
    }
}

impl<R: Read> Iterator for Container<R> {
    type Item = Result<Datum, OcfError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(datum) = self.next_datum() {
                return Some(datum);
            }
            if self.ended {
                return None;
            }
            match self.next_block() {
                Ok(true) => {}
                Ok(false) => self.ended = true,
                Err(error) => {
                    self.ended = matches!(error, OcfError::Io(_));
                    return Some(Err(error));
                }
            }
        }
    }
}

fn unpack(codec: Codec, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let limited = |mut reader: Box<dyn Read + '_>| {
        let mut unpacked = Vec::new();
        let limit = BLOCK_BYTES_MAX as u64 + 1;
        reader.by_ref().take(limit).read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
        if unpacked.len() > BLOCK_BYTES_MAX {
            return Err(format!("it has more than {BLOCK_BYTES_MAX} bytes when decompressed"));
        }
        Ok(unpacked)
    };
    match codec {
        Codec::Null => Ok(bytes.to_vec()),
        Codec::Deflate => limited(Box::new(flate2::read::DeflateDecoder::new(bytes))),
        Codec::Zstandard => {
            limited(Box::new(zstd::stream::read::Decoder::with_buffer(bytes).map_err(|error| error.to_string())?))
        }
        Codec::Snappy => {
            let (packed, crc) = bytes.split_last_chunk::<4>().ok_or("it is too short for its checksum")?;
            let length = snap::raw::decompress_len(packed).map_err(|error| error.to_string())?;
            if length > BLOCK_BYTES_MAX {
                return Err(format!("it has more than {BLOCK_BYTES_MAX} bytes when decompressed"));
            }
            let unpacked = snap::raw::Decoder::new().decompress_vec(packed).map_err(|error| error.to_string())?;
            if crc32fast::hash(&unpacked) != u32::from_be_bytes(*crc) {
                return Err("its checksum is wrong".to_owned());
            }
            Ok(unpacked)
        }
    }
}

/// A reader with a window that can be looked at before it is taken.
struct Input<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Where the window begins in the buffer.
    at: usize,
    /// The same, in the file.
    offset: u64,
}

impl<R: Read> Input<R> {
    /// Makes the window hold `wanted` bytes at least; false where the file ends before. Memory grows with what is
    /// read, not with what a length declares.
    fn fill(&mut self, wanted: usize) -> std::io::Result<bool> {
        const STEP: usize = 256 << 10;
        while self.buffer.len() - self.at < wanted {
            if self.at > STEP {
                self.buffer.drain(..self.at);
                self.at = 0;
            }
            let length = self.buffer.len();
            self.buffer.resize(length + STEP, 0);
            let read = loop {
                match self.reader.read(&mut self.buffer[length..]) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    result => break result,
                }
            };
            self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn bytes(&self, length: usize) -> &[u8] {
        &self.buffer[self.at..self.at + length]
    }

    fn take(&mut self, length: usize) {
        self.at += length;
        self.offset += length as u64;
    }

    /// A number, or nothing (and nothing taken) where there is none.
    fn long(&mut self) -> std::io::Result<Option<i64>> {
        let (mut value, mut length) = (0u64, 0);
        loop {
            if length == 10 || !self.fill(length + 1)? {
                return Ok(None);
            }
            let byte = self.buffer[self.at + length];
            value |= u64::from(byte & 0x7f).checked_shl(7 * length as u32).unwrap_or(0);
            length += 1;
            if byte < 0x80 {
                self.take(length);
                return Ok(Some((value >> 1) as i64 ^ -((value & 1) as i64)));
            }
        }
    }

    fn header_bytes(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let length = self.long()?.and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| *length <= HEADER_BYTES_MAX) else { return Ok(None) };
        if !self.fill(length)? {
            return Ok(None);
        }
        let bytes = self.bytes(length).to_vec();
        self.take(length);
        Ok(Some(bytes))
    }

    /// Moves behind the next marker, or to the end of the file.
    fn seek_behind(&mut self, marker: &[u8; SYNC_BYTES]) -> std::io::Result<()> {
        loop {
            let more = self.fill(64 << 10)?;
            let window = &self.buffer[self.at..];
            if let Some(found) = window.windows(SYNC_BYTES).position(|bytes| bytes == marker) {
                self.take(found + SYNC_BYTES);
                return Ok(());
            }
            let length = window.len();
            if !more {
                self.take(length);
                return Ok(());
            }
            // The marker may begin in the last bytes of the window.
            self.take(length - (SYNC_BYTES - 1));
        }
    }
}
