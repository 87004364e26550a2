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

#[cfg(test)]
mod tests {
    use apache_avro::types::Value as V;
    use proptest::prelude::*;

    use super::*;

    const SCHEMA: &str =
        r#"{"type":"record","name":"E","fields":[{"name":"n","type":"long"},{"name":"s","type":"string"}]}"#;

    fn datum(n: i64) -> Vec<u8> {
        let schema = apache_avro::Schema::parse_str(SCHEMA).unwrap();
        let value = V::Record(vec![("n".to_owned(), V::Long(n)), ("s".to_owned(), V::String(format!("text {n}")))]);
        apache_avro::writer::datum::GenericDatumWriter::builder(&schema)
            .build()
            .unwrap()
            .write_value_to_vec(value)
            .unwrap()
    }

    fn long(value: i64) -> Vec<u8> {
        let mut value = ((value << 1) ^ (value >> 63)) as u64;
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    const SYNC: [u8; 16] = *b"0123456789abcdef";

    fn header(codec: &str) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend(long(2));
        for text in ["avro.schema", SCHEMA, "avro.codec", codec] {
            file.extend(long(text.len() as i64));
            file.extend(text.as_bytes());
        }
        file.push(0);
        file.extend(SYNC);
        file
    }

    fn block(count: i64, bytes: &[u8]) -> Vec<u8> {
        [long(count), long(bytes.len() as i64), bytes.to_vec(), SYNC.to_vec()].concat()
    }

    /// Each item: the row, and the datum or the code.
    fn read(file: &[u8]) -> Vec<(u64, Result<Vec<u8>, &'static str>)> {
        let container = Container::open(file).unwrap();
        let items = container.map(|item| match item {
            Ok(datum) => (datum.row, Ok(datum.bytes.to_vec())),
            Err(OcfError::Bad { row, code, .. }) => (row, Err(code)),
            Err(error) => panic!("{error}"),
        });
        items.collect()
    }

    fn rows(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, Result<Vec<u8>, &'static str>)> {
        range.map(|row| (row, Ok(datum(row as i64)))).collect()
    }

    fn packed(range: std::ops::RangeInclusive<i64>) -> Vec<u8> {
        range.flat_map(datum).collect()
    }

    #[test]
    fn what_apache_avro_writes_is_cut_into_its_datums() {
        let schema = apache_avro::Schema::parse_str(SCHEMA).unwrap();
        for codec in [apache_avro::Codec::Null, apache_avro::Codec::Deflate(Default::default())] {
            let writer = apache_avro::Writer::builder().schema(&schema).writer(Vec::new()).codec(codec).block_size(200);
            let mut writer = writer.build().unwrap();
            for n in 1..=500 {
                let mut bytes = &datum(n)[..];
                let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
                writer.append_value(reader.read_value(&mut bytes).unwrap()).unwrap();
            }
            let file = writer.into_inner().unwrap();
            let container = Container::open(&file[..]).unwrap();
            assert_eq!(Schema::parse(container.schema_json()).unwrap(), Schema::parse(SCHEMA).unwrap());
            assert_eq!(read(&file), rows(1..=500));
        }
    }

    #[test]
    fn snappy_and_zstandard_are_unpacked() {
        let bytes = packed(1..=50);
        let mut snappy = snap::raw::Encoder::new().compress_vec(&bytes).unwrap();
        snappy.extend(crc32fast::hash(&bytes).to_be_bytes());
        assert_eq!(read(&[header("snappy"), block(50, &snappy)].concat()), rows(1..=50));
        let zstd = zstd::bulk::compress(&bytes, 3).unwrap();
        assert_eq!(read(&[header("zstandard"), block(50, &zstd)].concat()), rows(1..=50));
        // The checksum counts, and the next block is read.
        let last = snappy.len() - 1;
        snappy[last] ^= 1;
        let good = [
            snap::raw::Encoder::new().compress_vec(&packed(51..=51)).unwrap(),
            crc32fast::hash(&packed(51..=51)).to_be_bytes().to_vec(),
        ]
        .concat();
        let file = [header("snappy"), block(50, &snappy), block(1, &good)].concat();
        assert_eq!(read(&file), [vec![(1, Err("bad_block"))], rows(51..=51)].concat());
    }

    #[test]
    fn a_bomb_is_refused() {
        let zeros = vec![0u8; 1 << 20];
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        for _ in 0..257 {
            std::io::Write::write_all(&mut encoder, &zeros).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 4 << 20);
        let file = [header("deflate"), block(1, &bomb)].concat();
        assert_eq!(read(&file), [(1, Err("bad_block"))]);
    }

    #[test]
    fn what_is_broken_costs_its_block_and_reading_goes_on() {
        let null = || header("null");
        let check = |blocks: &[Vec<u8>], expect: Vec<(u64, Result<Vec<u8>, &'static str>)>| {
            assert_eq!(read(&[vec![null()], blocks.to_vec()].concat().concat()), expect);
        };
        let (first, second, third) = (block(2, &packed(1..=2)), block(3, &packed(3..=5)), block(2, &packed(6..=7)));
        check(&[first.clone(), second.clone(), third.clone()], rows(1..=7));
        check(&[], vec![]);

        // No sync marker behind the second block: its rows are lost, and counted. What follows it is behind the next
        // marker, which is the third block's end.
        let mut torn = second.clone();
        let at = torn.len() - 5;
        torn[at] ^= 0xff;
        let fourth = block(1, &packed(8..=8));
        let lost = vec![(3, Err("bad_block"))];
        let got = read(&[null(), first.clone(), torn, third.clone(), fourth.clone()].concat());
        assert_eq!(got[..3], [rows(1..=2), lost.clone()].concat());
        assert_eq!(got[3].1, Ok(datum(8)));

        // A size that lies is found out by the marker, and the search begins inside the block.
        let lying = [long(3), long(5), packed(3..=5), SYNC.to_vec()].concat();
        let got = read(&[null(), first.clone(), lying, third.clone()].concat());
        assert_eq!(got[..3], [rows(1..=2), lost].concat());
        assert_eq!(got[3..].iter().map(|(_, datum)| datum.clone()).collect::<Vec<_>>(), [Ok(datum(6)), Ok(datum(7))]);
        // So is one that reaches beyond the file, or is negative.
        for size in [1 << 20, 1 << 40, -1] {
            let lying = [long(3), long(size), packed(3..=5), SYNC.to_vec()].concat();
            let got = read(&[null(), first.clone(), lying, third.clone()].concat());
            assert_eq!((got[2].0, got[2].1.is_err()), (3, true));
            assert_eq!(
                got[3..].iter().map(|(_, datum)| datum.clone()).collect::<Vec<_>>(),
                [Ok(datum(6)), Ok(datum(7))]
            );
        }

        // A bad datum: what is left of its block is lost with it; the next block has its own rows.
        let mut bytes = packed(3..=5);
        let at = datum(3).len() + 1;
        bytes[at] = 0x7e;
        check(
            &[first.clone(), block(3, &bytes), third.clone()],
            [rows(1..=3), vec![(4, Err("truncated"))], rows(6..=7)].concat(),
        );
        // More rows declared than there are, and fewer.
        check(&[block(3, &packed(1..=2))], [rows(1..=2), vec![(3, Err("truncated"))]].concat());
        check(
            &[block(1, &packed(1..=2)), block(1, &packed(2..=2))],
            [vec![(1, Err("trailing_bytes"))], rows(2..=2)].concat(),
        );
        // The file ends in the middle.
        check(
            &[first.clone(), second[..second.len() - 20].to_vec()],
            [rows(1..=2), vec![(3, Err("truncated"))]].concat(),
        );
    }

    #[test]
    fn rows_without_bytes_cannot_be_declared_by_the_billion() {
        let schema = r#"{"type":"record","name":"E","fields":[]}"#;
        let mut file = MAGIC.to_vec();
        file.extend(long(1));
        for text in ["avro.schema", schema] {
            file.extend(long(text.len() as i64));
            file.extend(text.as_bytes());
        }
        file.push(0);
        file.extend(SYNC);
        file.extend(block(i64::MAX, &[]));
        assert_eq!(read(&file), [(1, Err("too_many_elements"))]);
    }

    #[test]
    fn a_file_that_is_no_container_is_refused_as_a_whole() {
        let check = |file: &[u8], expect: &str| {
            let error = Container::open(file).err().unwrap().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(b"", "does not begin");
        check(b"PAR1....", "does not begin");
        check(&header("null")[..40], "ends inside its header");
        check(&header("bzip2"), "`bzip2`");
        check(&[MAGIC, &[0], &SYNC].concat(), "no `avro.schema`");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_rows_always_rise(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            length in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let mut file = [header("null"), block(2, &packed(1..=2)), block(3, &packed(3..=5)), block(2, &packed(6..=7))].concat();
            for (at, byte) in flips {
                let at = at.index(file.len());
                file[at] = byte;
            }
            if cut {
                file.truncate(length.index(file.len()));
            }
            if let Ok(container) = Container::open(&file[..]) {
                let mut last = 0;
                for item in container {
                    let row = match item {
                        Ok(datum) => datum.row,
                        Err(OcfError::Bad { row, .. }) => row,
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    };
                    prop_assert!(row > last, "row {row} after {last}");
                    last = row;
                }
            }
        }
    }
}
