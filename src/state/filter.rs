//! Filters in memory that spare a read from the store for keys never seen.
//!
//! A chain of Bloom filters, each twice as large as the one before and with half its error, so that the chain as a whole
//! stays below its rate however far it grows. There are no false negatives. Bits are kept at most a quarter full: a
//! fifth more memory than the optimum, but a key never seen is mostly ruled out by one probe.
//!
//! Keys are 128-bit hashes already. They are mixed here without any seed, and the bits are stored, so the way from key to
//! bits must never change (a test holds it).

use bytes::{Buf, BufMut};
use fastbloom::BloomFilter;

use super::StoreError;

const VERSION: u8 = 1;
const FIRST_KEYS: usize = 1 << 16;
const RATE: f64 = 0.01;

#[derive(Clone)]
pub struct SeenFilter {
    links: Vec<Link>,
    /// The false positive rate of the whole chain.
    rate: f64,
}

#[derive(Clone)]
struct Link {
    bloom: BloomFilter,
    keys: usize,
    keys_max: usize,
}

impl SeenFilter {
    /// Grows as needed; at most 1 % of keys never seen are reported as seen.
    pub fn new() -> Self {
        SeenFilter { links: vec![Link::new(FIRST_KEYS, RATE / 2.0)], rate: RATE }
    }

    /// Sized for a known number of keys, with a rate of its own. (It still grows if there are more.)
    pub fn with_keys(keys: usize, rate: f64) -> Self {
        // The first link may have the whole rate here: there should be no second.
        SeenFilter { links: vec![Link::new(keys.max(1), rate)], rate }
    }

    pub fn insert(&mut self, key: u128) {
        let rate = self.rate / 2f64.powi(self.links.len() as i32 + 1);
        let Some(last) = self.links.last_mut() else { return };
        if !last.bloom.insert_hash(mix(key)) {
            last.keys += 1;
        }
        if last.keys >= last.keys_max {
            let link = Link::new(last.keys_max * 2, rate);
            self.links.push(link);
        }
    }

    /// False: never inserted, for certain.
    pub fn may_contain(&self, key: u128) -> bool {
        let mixed = mix(key);
        self.links.iter().rev().any(|link| link.bloom.contains_hash(mixed))
    }

    /// Memory held by the bits.
    pub fn bytes(&self) -> usize {
        self.links.iter().map(|link| link.bloom.num_bits() / 8).sum()
    }

    /// Version, rate, number of links; for each link: keys, most keys, hashes per key, words, then the words.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.bytes() + 32 * self.links.len());
        out.put_u8(VERSION);
        out.put_f64(self.rate);
        out.put_u8(self.links.len() as u8);
        for link in &self.links {
            out.put_u64(link.keys as u64);
            out.put_u64(link.keys_max as u64);
            out.put_u32(link.bloom.num_hashes());
            out.put_u64(link.bloom.as_slice().len() as u64);
            link.bloom.as_slice().iter().for_each(|word| out.put_u64_le(*word));
        }
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        read(bytes).ok_or_else(|| StoreError::Damaged("a filter cannot be read".to_string()))
    }
}

impl Default for SeenFilter {
    fn default() -> Self {
        SeenFilter::new()
    }
}

impl Link {
    fn new(keys_max: usize, rate: f64) -> Self {
        // At a quarter full, each hash rules out three of four.
        let hashes = (rate.ln() / 0.25f64.ln()).ceil().max(1.0);
        let bits = keys_max as f64 * hashes / -(0.75f64.ln());
        let bloom = BloomFilter::with_num_bits(bits.ceil() as usize).seed(&0).hashes(hashes as u32);
        Link { bloom, keys: 0, keys_max }
    }
}

/// Keys are hashes, but short ones in tests are not, and the filter takes its first bit from the upper end.
fn mix(key: u128) -> u64 {
    let folded = (key as u64) ^ ((key >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn read(mut bytes: &[u8]) -> Option<SeenFilter> {
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let rate = bytes.try_get_f64().ok()?;
    let count = bytes.try_get_u8().ok()?;
    let mut links = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let keys = bytes.try_get_u64().ok()? as usize;
        let keys_max = bytes.try_get_u64().ok()? as usize;
        let hashes = bytes.try_get_u32().ok()?;
        let words = usize::try_from(bytes.try_get_u64().ok()?).ok()?;
        let (packed, rest) = bytes.split_at_checked(words.checked_mul(8)?)?;
        bytes = rest;
        let words: Vec<u64> = packed.chunks_exact(8).map(|mut word| word.get_u64_le()).collect();
        if words.is_empty() || hashes == 0 {
            return None;
        }
        links.push(Link { bloom: BloomFilter::from_vec(words).seed(&0).hashes(hashes), keys, keys_max });
    }
    (!links.is_empty() && bytes.is_empty()).then_some(SeenFilter { links, rate })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;

    fn key(number: u64) -> u128 {
        xxh3_128(&number.to_le_bytes())
    }

    proptest! {
        #[test]
        fn what_was_inserted_is_found_also_after_being_stored(
            keys in proptest::collection::vec(any::<u128>(), 0..400),
            keys_max in 1usize..50,
        ) {
            let mut filter = SeenFilter::with_keys(keys_max, 0.01);
            for (done, key) in keys.iter().enumerate() {
                filter.insert(*key);
                if done % 50 == 0 {
                    filter = SeenFilter::from_bytes(&filter.to_bytes()).unwrap();
                }
            }
            prop_assert!(keys.iter().all(|key| filter.may_contain(*key)));
        }

        #[test]
        fn damaged_bytes_are_an_error_and_never_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..100),
            version in any::<bool>(),
        ) {
            if version && !bytes.is_empty() {
                bytes[0] = VERSION;
            }
            let _ = SeenFilter::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_chain_that_has_grown_stays_below_one_percent() {
        let mut filter = SeenFilter::new();
        let count = 20 * FIRST_KEYS as u64;
        (0..count).for_each(|number| filter.insert(key(number)));
        assert!(filter.links.len() > 3);
        assert!((0..count).all(|number| filter.may_contain(key(number))));
        let wrong = (count..2 * count).filter(|number| filter.may_contain(key(*number))).count();
        assert!(wrong < count as usize / 100, "{wrong} of {count} are false positives");
        assert!(filter.bytes() < count as usize * 6, "{} bytes for {count} keys", filter.bytes());
    }

    #[test]
    fn a_sized_filter_keeps_its_rate() {
        let mut filter = SeenFilter::with_keys(100_000, 1e-4);
        (0..99_999).for_each(|number| filter.insert(key(number)));
        assert_eq!(filter.links.len(), 1);
        let wrong = (100_000..1_100_000).filter(|number| filter.may_contain(key(*number))).count();
        assert!(wrong < 200, "{wrong} of a million are false positives");
    }

    #[test]
    fn inserting_a_key_again_does_not_grow_the_filter() {
        let mut filter = SeenFilter::with_keys(10, 0.01);
        (0..1_000).for_each(|_| filter.insert(key(1)));
        assert_eq!(filter.links.len(), 1);
    }

    /// Stored filters outlive the program: if this fails, a library has changed how keys become bits, and the version
    /// must go up with a way to rebuild the filters.
    #[test]
    fn the_way_from_key_to_bits_never_changes() {
        let mut filter = SeenFilter::with_keys(20, 0.01);
        (0..10).for_each(|number| filter.insert(key(number)));
        assert_eq!(xxh3_128(&filter.to_bytes()), 151_044_280_168_995_828_351_195_894_576_986_410_151);
    }
}
