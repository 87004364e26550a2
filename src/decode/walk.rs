//! The walk: one datum followed by its writer schema, building nothing.
//!
//! What passes here is safe for the bulk decoder: every length lies inside the datum, every index inside its union or
//! enum, all text is UTF-8, and no byte is left over. What does not pass gets a code, the byte where it went wrong and
//! the field it happened in.
//!
//! Stricter than some readers on purpose: trailing bytes, overlong numbers (an int of more than five bytes, a long of
//! more than ten), block sizes that lie, nesting deeper than [`DEPTH_MAX`], and more than
//! [`EMPTY_ELEMENTS_MAX`] array elements that take no bytes (they would let ten bytes ask for a billion) are refused.

use super::schema::{DEPTH_MAX, Node, NodeId, Schema};

/// Array elements without bytes (nulls, empty records) in one datum; all others are bounded by its length.
pub const EMPTY_ELEMENTS_MAX: usize = 1024;

/// The codes of rejects that this module and its neighbours give.
pub mod code {
    /// No bytes at all: a tombstone.
    pub const EMPTY: &str = "empty";
    pub const BAD_MAGIC: &str = "bad_magic";
    /// The bytes end inside a value, or a length reaches beyond them.
    pub const TRUNCATED: &str = "truncated";
    pub const VARINT_OVERFLOW: &str = "varint_overflow";
    /// A negative length.
    pub const BAD_LENGTH: &str = "bad_length";
    pub const BAD_UTF8: &str = "bad_utf8";
    pub const BAD_UNION_INDEX: &str = "bad_union_index";
    pub const BAD_ENUM_INDEX: &str = "bad_enum_index";
    pub const BAD_BOOLEAN: &str = "bad_boolean";
    /// A block of an array or map does not have the size that it declares.
    pub const BAD_BLOCK_SIZE: &str = "bad_block_size";
    pub const TRAILING_BYTES: &str = "trailing_bytes";
    pub const TOO_DEEP: &str = "too_deep";
    pub const TOO_MANY_ELEMENTS: &str = "too_many_elements";
    /// The registry or folder has no such schema.
    pub const UNKNOWN_SCHEMA_ID: &str = "unknown_schema_id";
    /// The writer's schema is there but cannot be used: not Avro, invalid, with references.
    pub const UNSUPPORTED_SCHEMA: &str = "unsupported_schema";
    /// The writer's schema cannot be read as the reader's.
    pub const SCHEMA_MISMATCH: &str = "schema_mismatch";
    /// Sound Avro, but this value has no place in the reader's schema (an enum symbol it does not know, a null).
    pub const BAD_VALUE: &str = "bad_value";
}

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// One of [`code`].
    pub code: &'static str,
    /// Byte offset into what was looked at.
    pub offset: usize,
    pub reason: String,
}

impl Fault {
    pub fn new(code: &'static str, offset: usize, reason: impl Into<String>) -> Fault {
        Fault { code, offset, reason: reason.into() }
    }
}

/// Walks a datum that must fill `data` exactly.
pub fn walk(schema: &Schema, data: &[u8]) -> Result<(), Fault> {
    let end = walk_prefix(schema, data)?;
    if end < data.len() {
        let reason = format!("the datum ends at byte {end}, but {} more follow", data.len() - end);
        return Err(Fault::new(code::TRAILING_BYTES, end, reason));
    }
    Ok(())
}

/// Walks a datum at the beginning of `data`; returns where it ends.
pub fn walk_prefix(schema: &Schema, data: &[u8]) -> Result<usize, Fault> {
    let mut walker = Walker { schema, data, at: 0, depth: 0, empty_elements: 0 };
    match walker.value(schema.root) {
        Ok(()) => Ok(walker.at),
        Err(trouble) => {
            let Trouble { code, offset, what, mut path } = *trouble;
            path.reverse();
            let reason = if path.is_empty() { what } else { format!("`{}`: {what}", path.join(".")) };
            Err(Fault { code, offset, reason })
        }
    }
}

/// A fault on its way up, collecting the names of the fields it happened in. Boxed, to keep the good way cheap.
struct Trouble {
    code: &'static str,
    offset: usize,
    what: String,
    /// Innermost first.
    path: Vec<String>,
}

type Walked<T> = Result<T, Box<Trouble>>;

#[cold]
fn trouble<T>(code: &'static str, offset: usize, what: impl Into<String>) -> Walked<T> {
    Err(Box::new(Trouble { code, offset, what: what.into(), path: Vec::new() }))
}

struct Walker<'a> {
    schema: &'a Schema,
    data: &'a [u8],
    at: usize,
    depth: usize,
    empty_elements: usize,
}

impl Walker<'_> {
    fn value(&mut self, id: NodeId) -> Walked<()> {
        let schema = self.schema;
        match schema.node(id) {
            Node::Null => Ok(()),
            Node::Boolean => match self.data.get(self.at) {
                Some(0 | 1) => {
                    self.at += 1;
                    Ok(())
                }
                Some(byte) => {
                    trouble(code::BAD_BOOLEAN, self.at, format!("a boolean is 0 or 1, this byte is {byte:#04x}"))
                }
                None => self.ended("boolean"),
            },
            Node::Int(_) => self.int("int").map(|_| ()),
            Node::Long(_) => self.long("long").map(|_| ()),
            Node::Float => self.skip(4, "float"),
            Node::Double => self.skip(8, "double"),
            Node::Bytes(_) => self.bytes("bytes").map(|_| ()),
            Node::String => self.string("string"),
            Node::Fixed { size, .. } => self.skip(*size, "fixed"),
            Node::Enum { symbols, name, .. } => {
                let start = self.at;
                let index = self.int("enum index")?;
                if index < 0 || index as usize >= symbols.len() {
                    let what = format!("enum index {index}, but `{name}` has {} symbols", symbols.len());
                    return trouble(code::BAD_ENUM_INDEX, start, what);
                }
                Ok(())
            }
            Node::Union(branches) => {
                let start = self.at;
                let index = self.long("union index")?;
                match usize::try_from(index).ok().and_then(|index| branches.get(index)) {
                    Some(branch) => self.value(*branch),
                    None => {
                        let what = format!("union index {index}, but the union has {} branches", branches.len());
                        trouble(code::BAD_UNION_INDEX, start, what)
                    }
                }
            }
            Node::Record { fields, .. } => {
                self.enter()?;
                for field in fields {
                    if let Err(mut trouble) = self.value(field.node) {
                        trouble.path.push(field.name.clone());
                        return Err(trouble);
                    }
                }
                self.depth -= 1;
                Ok(())
            }
            Node::Array(items) => self.blocks(*items, false),
            Node::Map(values) => self.blocks(*values, true),
        }
    }

    /// The blocks of an array or map, up to the block of count 0.
    fn blocks(&mut self, element: NodeId, keyed: bool) -> Walked<()> {
        self.enter()?;
        loop {
            let mut count = self.long("block count")?;
            if count == 0 {
                break;
            }
            let mut declared = None;
            if count < 0 {
                let start = self.at;
                let size = self.long("block size")?;
                let Ok(size) = usize::try_from(size) else {
                    return trouble(code::BAD_LENGTH, start, format!("a block of {size} bytes"));
                };
                let left = self.data.len() - self.at;
                if size > left {
                    return trouble(code::TRUNCATED, start, format!("a block of {size} bytes, but {left} are left"));
                }
                declared = Some((start, self.at, size));
                // The magnitude of i64::MIN does not fit; as a count it is as impossible as i64::MAX.
                count = count.checked_neg().unwrap_or(i64::MAX);
            }
            for _ in 0..count {
                let start = self.at;
                if keyed {
                    self.string("map key")?;
                }
                self.value(element)?;
                if self.at == start {
                    self.empty_elements += 1;
                    if self.empty_elements > EMPTY_ELEMENTS_MAX {
                        let what = format!("more than {EMPTY_ELEMENTS_MAX} array elements that take no bytes");
                        return trouble(code::TOO_MANY_ELEMENTS, start, what);
                    }
                }
            }
            if let Some((size_at, start, size)) = declared
                && self.at - start != size
            {
                let what = format!("a block declares {size} bytes and has {}", self.at - start);
                return trouble(code::BAD_BLOCK_SIZE, size_at, what);
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn enter(&mut self) -> Walked<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return trouble(code::TOO_DEEP, self.at, format!("values nested more than {DEPTH_MAX} deep"));
        }
        Ok(())
    }

    #[inline]
    fn long(&mut self, what: &str) -> Walked<i64> {
        // Nearly all lengths, indices and counts are one byte.
        if let Some(&byte) = self.data.get(self.at)
            && byte < 0x80
        {
            self.at += 1;
            return Ok(unzigzag(u64::from(byte)));
        }
        self.varint(10, 1, what).map(unzigzag)
    }

    #[inline]
    fn int(&mut self, what: &str) -> Walked<i32> {
        if let Some(&byte) = self.data.get(self.at)
            && byte < 0x80
        {
            self.at += 1;
            return Ok(unzigzag(u64::from(byte)) as i32);
        }
        self.varint(5, 0x0f, what).map(|value| unzigzag(value) as i32)
    }

    /// At most `bytes_max` bytes, of which the last is at most `last_max`.
    fn varint(&mut self, bytes_max: usize, last_max: u8, what: &str) -> Walked<u64> {
        let start = self.at;
        let mut value = 0;
        for index in 0..bytes_max {
            let Some(&byte) = self.data.get(start + index) else { return self.ended(what) };
            if index + 1 == bytes_max && byte > last_max {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at = start + index + 1;
                return Ok(value);
            }
        }
        let bits = if bytes_max == 5 { 32 } else { 64 };
        trouble(code::VARINT_OVERFLOW, start, format!("the number of this {what} does not fit {bits} bits"))
    }

    fn string(&mut self, what: &str) -> Walked<()> {
        let (start, bytes) = self.bytes(what)?;
        let sound =
            if bytes.len() <= 32 && bytes.is_ascii() { true } else { simdutf8::basic::from_utf8(bytes).is_ok() };
        if sound {
            return Ok(());
        }
        let valid = std::str::from_utf8(bytes).err().map_or(0, |error| error.valid_up_to());
        trouble(code::BAD_UTF8, start + valid, format!("a {what} is not UTF-8 from its byte {valid}"))
    }

    /// A length and that many bytes; returns where they start.
    fn bytes(&mut self, what: &str) -> Walked<(usize, &[u8])> {
        let start = self.at;
        let length = self.long(what)?;
        let Ok(length) = usize::try_from(length) else {
            return trouble(code::BAD_LENGTH, start, format!("a {what} of {length} bytes"));
        };
        let left = self.data.len() - self.at;
        if length > left {
            return trouble(code::TRUNCATED, start, format!("a {what} of {length} bytes, but {left} are left"));
        }
        let start = self.at;
        self.at += length;
        Ok((start, &self.data[start..self.at]))
    }

    fn skip(&mut self, bytes: usize, what: &str) -> Walked<()> {
        if self.data.len() - self.at < bytes {
            return self.ended(what);
        }
        self.at += bytes;
        Ok(())
    }

    #[cold]
    fn ended<T>(&self, what: &str) -> Walked<T> {
        trouble(code::TRUNCATED, self.data.len(), format!("the bytes end inside a {what}"))
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
