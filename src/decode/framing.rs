//! Cutting the frame off a payload: what remains is one bare Avro datum.

use super::Framing;
use super::walk::{Fault, code};

/// Which schema a payload was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SchemaKey {
    /// A registry's id.
    Id(u32),
    /// A CRC-64-AVRO fingerprint.
    Fingerprint(u64),
    /// The one schema of the source.
    Fixed,
}

impl std::fmt::Display for SchemaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SchemaKey::Id(id) => write!(f, "schema id {id}"),
            SchemaKey::Fingerprint(fingerprint) => write!(f, "schema fingerprint {fingerprint:016x}"),
            SchemaKey::Fixed => write!(f, "the source's schema"),
        }
    }
}

const CONFLUENT_MAGIC: u8 = 0;
const SINGLE_OBJECT_MAGIC: [u8; 2] = [0xC3, 0x01];

/// The schema's key and where the datum begins.
pub fn cut(framing: Framing, payload: &[u8]) -> Result<(SchemaKey, usize), Fault> {
    // A record of no bytes at all would be legal as a bare datum, but nobody means it.
    if payload.is_empty() {
        return Err(Fault::new(code::EMPTY, 0, "the payload is empty (a tombstone, or nothing was written)"));
    }
    match framing {
        Framing::Confluent => {
            if payload[0] != CONFLUENT_MAGIC {
                let reason = format!("the first byte is {:#04x} instead of Confluent's 0x00", payload[0]);
                return Err(Fault::new(code::BAD_MAGIC, 0, reason));
            }
            let id = payload.get(1..5).and_then(|bytes| bytes.try_into().ok());
            let id = id.ok_or_else(|| short(payload, 5))?;
            Ok((SchemaKey::Id(u32::from_be_bytes(id)), 5))
        }
        Framing::SingleObject => {
            let magic = &payload[..payload.len().min(2)];
            if magic != &SINGLE_OBJECT_MAGIC[..magic.len()] {
                let reason = format!("the payload starts with {magic:02x?} instead of c3 01 (single-object encoding)");
                return Err(Fault::new(code::BAD_MAGIC, 0, reason));
            }
            let fingerprint = payload.get(2..10).and_then(|bytes| bytes.try_into().ok());
            let fingerprint = fingerprint.ok_or_else(|| short(payload, 10))?;
            Ok((SchemaKey::Fingerprint(u64::from_le_bytes(fingerprint)), 10))
        }
        Framing::Bare => Ok((SchemaKey::Fixed, 0)),
    }
}

/// Appends the single-object frame of a schema: what [`cut`] takes off again.
pub fn push_single_object(fingerprint: u64, datum: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&SINGLE_OBJECT_MAGIC);
    out.extend_from_slice(&fingerprint.to_le_bytes());
    out.extend_from_slice(datum);
}

/// Appends the Confluent frame of a registry's id.
pub fn push_confluent(id: u32, datum: &[u8], out: &mut Vec<u8>) {
    out.push(CONFLUENT_MAGIC);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(datum);
}

fn short(payload: &[u8], frame: usize) -> Fault {
    let reason = format!("the payload has {} bytes, its frame alone needs {frame}", payload.len());
    Fault::new(code::TRUNCATED, payload.len(), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_or_refused_with_code_and_offset() {
        let check = |framing: Framing, payload: &[u8], expect: Result<(SchemaKey, usize), (&str, usize)>| {
            let got = cut(framing, payload).map_err(|fault| (fault.code, fault.offset));
            assert_eq!(got, expect, "{framing:?} {payload:02x?}");
        };
        use Framing::*;
        check(Confluent, &[0, 0, 0, 1, 2, 9], Ok((SchemaKey::Id(258), 5)));
        check(Confluent, &[0, 0xff, 0xff, 0xff, 0xff], Ok((SchemaKey::Id(u32::MAX), 5)));
        check(Confluent, &[], Err(("empty", 0)));
        check(Confluent, b"{\"a\":1}", Err(("bad_magic", 0)));
        check(Confluent, &[0, 0, 0, 1], Err(("truncated", 4)));
        check(SingleObject, &[0xc3, 1, 1, 0, 0, 0, 0, 0, 0, 0], Ok((SchemaKey::Fingerprint(1), 10)));
        check(SingleObject, &[], Err(("empty", 0)));
        check(SingleObject, &[0xc3], Err(("truncated", 1)));
        check(SingleObject, &[0xc3, 2, 0], Err(("bad_magic", 0)));
        check(SingleObject, &[0, 0, 0, 0, 1, 2], Err(("bad_magic", 0)));
        check(SingleObject, &[0xc3, 1, 1, 2, 3], Err(("truncated", 5)));
        check(Bare, &[], Err(("empty", 0)));
        check(Bare, &[7], Ok((SchemaKey::Fixed, 0)));
    }

    #[test]
    fn what_is_framed_is_cut_again() {
        let mut framed = Vec::new();
        push_single_object(0x0123_4567_89ab_cdef, b"xy", &mut framed);
        assert_eq!(cut(Framing::SingleObject, &framed), Ok((SchemaKey::Fingerprint(0x0123_4567_89ab_cdef), 10)));
        framed.clear();
        push_confluent(7, b"xy", &mut framed);
        assert_eq!(cut(Framing::Confluent, &framed), Ok((SchemaKey::Id(7), 5)));
    }
}
