//! The one way in which values are stored: a version byte, then postcard.
//!
//! Every value that may hold personal data passes here, so that encryption per profile finds its place.

use std::cell::Cell;

use bytes::Bytes;
use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};

use super::StoreError;

thread_local! {
    /// Where values are encoded before they are copied to their length: millions of them, most of a few bytes, wait in a commit.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer that a large value has grown beyond this is not kept.
const BUFFER_MAX: usize = 1 << 20;

/// Encodes `value` behind its version byte.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Bytes {
    let mut buffer = BUFFER.take();
    buffer.clear();
    buffer.push(version);
    let buffer = postcard::serialize_with_flavor(value, Buffer(buffer)).unwrap_or_else(|error| {
        // Only a type that postcard cannot express at all fails to encode: a programming error.
        unreachable!("a state value could not be encoded: {error}")
    });
    let bytes = Bytes::copy_from_slice(&buffer);
    if buffer.capacity() <= BUFFER_MAX {
        BUFFER.set(buffer);
    }
    bytes
}

/// Texts are appended whole; postcard's own flavours go byte by byte.
struct Buffer(Vec<u8>);

impl Flavor for Buffer {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// Decodes what [`encode`] wrote with this version; `what` names the kind of value in the error.
pub fn decode<T: DeserializeOwned>(version: u8, what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((found, rest)) if *found == version => postcard::from_bytes(rest)
            .map_err(|error| StoreError::Damaged(format!("a {what} cannot be decoded: {error}"))),
        Some((found, _)) => {
            Err(StoreError::Damaged(format!("a {what} has version {found}, this program reads {version}")))
        }
        None => Err(StoreError::Damaged(format!("a {what} is empty"))),
    }
}
