//! De-duplication by message id (SEMANTICS §3): which ids were taken before.
//!
//! Ids are hashes of (source, message id), kept in *generations* by arrival:
//!
//! 1. The **open** generation holds its hashes exactly, in shards by their first bits. What a batch adds is one block of
//!    its commit (small blocks are written again, longer, so that many small batches do not make many keys).
//! 2. When it has enough ids or spans an eighth of `within` it is **closing**: over the next batches its shards are
//!    written as sorted pages and its filter is filled, a bounded number of bytes per batch; then a record says that it
//!    is sealed. Its hashes stay in memory until those commits are certainly durable.
//! 3. A **sealed** generation keeps a filter in memory alone, some 4.4 bytes per id. Pages are cut by the first bits of
//!    the hash, so there are no fences to keep: the hash names its page. An id that the filter cannot rule out costs
//!    one page read from the store.
//! 4. Once the newest arrival of a generation is older than `within` it is forgotten at once, and its keys are deleted
//!    over the following commits, a bounded number in each.
//!
//! Nothing here sorts, rehashes or writes a whole generation at once, so no batch stalls. A start after a crash at any
//! point reads the records, the blocks of what is not sealed, and the filters; half-written pages are written again.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures::stream::{self, StreamExt, TryStreamExt};
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use crate::event::TimeUs;
use crate::state::filter::SeenFilter;
use crate::state::keys::{self, DedupePart};
use crate::state::{Store, StoreError, WriteBatch, codec};

const VERSION: u8 = 1;
const HASH_BYTES: usize = 16;

/// A key never seen costs a page read this often, for each sealed generation.
const FILTER_RATE: f64 = 1e-6;
/// More is not written by any version.
const PAGE_BITS_MAX: u32 = 24;
const PAGES_FETCHED_AT_ONCE: usize = 32;

/// What bounds the work of one batch and the memory of a generation; tests use small ones.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// A generation is closed when it has this many ids. Chosen so that shards of 1,024 slots stay below their
    /// load limit instead of doubling.
    generation_ids: usize,
    /// The open generation has `2^shard_bits` shards: the most pages a generation can have.
    shard_bits: u32,
    /// Pages are cut so that they hold about this many ids.
    page_ids: usize,
    /// Blocks shorter than this are written again with what comes next.
    block_ids: usize,
    /// A filter is written in pieces of this size.
    piece_bytes: usize,
    /// Bytes of pages and filters written per batch, besides twice the bytes that the batch itself adds.
    seal_bytes: usize,
    /// Keys deleted per batch.
    delete_keys: u32,
    /// A sealed generation's hashes stay in memory for this many batches: more than can be on their way to the
    /// store at once, since it shows only what is durable.
    linger_checks: u64,
    page_cache_bytes: usize,
}

const LIMITS: Limits = Limits {
    generation_ids: 1_700_000,
    shard_bits: 11,
    page_ids: 1_024,
    block_ids: 256,
    piece_bytes: 256 << 10,
    seal_bytes: 512 << 10,
    delete_keys: 256,
    linger_checks: 16,
    page_cache_bytes: 32 << 20,
};

/// A page of a sealed generation, to be read before `check` can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey {
    generation: u64,
    page: u32,
}

/// For each batch: `candidates`, `fetch` what they say, then `check`, with nothing in between; the batch's commit takes
/// what `check` staged. If that commit fails the process ends, so nothing is ever rolled back.
pub struct Dedupe {
    within_us: Option<i64>,
    limits: Limits,
    /// The latest `now`: it never goes back.
    latest: TimeUs,
    /// Newest first in age order: `sealed`, then `closing`, then `open`; each from oldest to newest.
    sealed: VecDeque<Sealed>,
    closing: VecDeque<Closing>,
    open: Exact,
    garbage: VecDeque<Garbage>,
    pages: HashMap<PageKey, Page>,
    checks: u64,
    /// What `candidates` was last asked, and the pages it named: asked the same again, by `check` too, no filter needs to
    /// be probed.
    asked: Mutex<(u64, Vec<PageKey>)>,
}

struct Sealed {
    generation: u64,
    figures: Figures,
    filter: SeenFilter,
}

/// What is kept of a generation besides its ids.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Figures {
    ids: u64,
    newest: TimeUs,
    page_bits: u32,
    pieces: u32,
    blocks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Record {
    Sealed(Figures),
    /// It is forgotten; its keys are being deleted, this one last.
    Dropped(Figures),
}

/// A generation that is no longer open: being written as pages, then waiting until they are durable.
struct Closing {
    exact: Exact,
    page_bits: u32,
    next_page: u32,
    filter: SeenFilter,
    /// The filter's bytes once every page is written, and the next piece of them.
    encoded: Bytes,
    next_piece: u32,
    piece_bytes: usize,
    /// The number of the check that wrote the record.
    sealed_at: Option<u64>,
}

struct Page {
    hashes: Bytes,
    used: bool,
}

/// Keys that are to be deleted.
struct Garbage {
    generation: u64,
    pages: Range<u32>,
    pieces: Range<u32>,
    blocks: Range<u32>,
    record: bool,
}

impl Dedupe {
    /// Reads the records, the filters, and the ids of generations that are not sealed; pages stay in the store.
    /// `within` is how far apart copies may arrive; without it ids are kept forever.
    pub async fn load(store: &dyn Store, within: Option<Duration>) -> Result<Dedupe, StoreError> {
        Self::load_with(store, within, LIMITS).await
    }

    /// The pages that must be read before `check` can answer for these hashes; empty almost always.
    pub fn candidates(&self, hashes: &[u128]) -> Vec<PageKey> {
        let question = self.question(hashes);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.0 != question {
            *asked = (question, self.probe(hashes));
        }
        asked.1.iter().filter(|page| !self.pages.contains_key(*page)).copied().collect()
    }

    /// Reads these pages into memory, where they stay at least until the next `check` has ended.
    pub async fn fetch(&mut self, store: &dyn Store, pages: Vec<PageKey>) -> Result<(), StoreError> {
        let read = |key: PageKey| async move {
            let bytes = store.get(&keys::dedupe(DedupePart::Page, key.generation, key.page)).await?;
            let hashes = bytes.as_ref().and_then(unpack).ok_or_else(|| {
                let what = if bytes.is_some() { "cannot be read" } else { "is missing" };
                StoreError::Damaged(format!("page {} of message ids of generation {} {what}", key.page, key.generation))
            })?;
            Ok::<_, StoreError>((key, Page { hashes, used: true }))
        };
        let mut found = stream::iter(pages).map(read).buffer_unordered(PAGES_FETCHED_AT_ONCE);
        while let Some((key, page)) = found.try_next().await? {
            self.pages.insert(key, page);
        }
        Ok(())
    }

    /// True where the id was seen before, also earlier in this same slice. The new ones are taken in and staged.
    ///
    /// `now` (SEMANTICS §1) decides what is forgotten: it neither runs ahead of a partition that lags behind nor follows a
    /// producer's wrong clock. `arrival` is what these ids are remembered from, where that is later: `now` stands still while
    /// a source is away, and would make ids of this minute look old when it goes on. Every page that `candidates` named must
    /// have been fetched.
    pub fn check(&mut self, hashes: &[u128], now: TimeUs, arrival: TimeUs, out: &mut WriteBatch) -> Vec<bool> {
        let question = self.question(hashes);
        let asked = self.asked.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_answered = asked.0 == question;
        self.checks += 1;
        self.latest = self.latest.max(now);

        self.expire(out);
        if self.is_open_full() {
            self.close_open();
        }
        let mut seen = vec![false; hashes.len()];
        self.look_in_sealed(hashes, is_answered, &mut seen);
        let before = self.open.ids;
        for (seen, hash) in seen.iter_mut().zip(hashes) {
            // Only what is nowhere else goes into the open generation.
            *seen = *seen || self.closing.iter().any(|closing| closing.exact.contains(*hash));
            *seen = *seen || !self.open.insert(*hash);
        }
        if self.open.ids > before {
            self.open.stage_block(self.latest.max(arrival), self.limits.block_ids, out);
        }
        self.seal_some(2 * (self.open.ids - before) * HASH_BYTES, out);
        self.delete_some(out);
        self.release_sealed();
        self.shrink_pages();
        seen
    }

    /// Ids known, of all generations.
    pub fn len(&self) -> usize {
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.figures.ids).sum();
        sealed as usize + self.closing.iter().map(|closing| closing.exact.ids).sum::<usize>() + self.open.ids
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory held, about.
    pub fn bytes(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|sealed| sealed.filter.bytes()).sum();
        let exact = self.closing.iter().map(|closing| closing.exact.bytes() + closing.filter.bytes()).sum::<usize>();
        sealed + exact + self.page_bytes() + self.open.bytes()
    }

    /// The pages of hashes that a filter cannot rule out and that memory does not answer.
    fn probe(&self, hashes: &[u128]) -> Vec<PageKey> {
        let mut pages = Vec::new();
        // One filter at a time: so the probes of different ids do not wait for each other.
        for sealed in &self.sealed {
            let possible =
                hashes.iter().filter(|hash| sealed.filter.may_contain(**hash) && !self.holds_exactly(**hash));
            pages.extend(possible.map(|hash| sealed.page(*hash)));
        }
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    fn holds_exactly(&self, hash: u128) -> bool {
        self.open.contains(hash) || self.closing.iter().any(|closing| closing.exact.contains(hash))
    }

    /// Names a question (never by 0): these hashes, in the present state.
    fn question(&self, hashes: &[u128]) -> u64 {
        let start = self.checks.wrapping_add(hashes.len() as u64 + 1);
        hashes.iter().fold(start, |sum, hash| sum.rotate_left(5) ^ *hash as u64) | 1
    }

    /// A hash can be in a sealed generation only where its page was fetched; that was found out by `candidates`.
    fn look_in_sealed(&mut self, hashes: &[u128], is_answered: bool, seen: &mut [bool]) {
        if is_answered && self.pages.is_empty() {
            return;
        }
        for sealed in &self.sealed {
            for (seen, hash) in seen.iter_mut().zip(hashes) {
                if *seen || (!is_answered && !sealed.filter.may_contain(*hash)) {
                    continue;
                }
                match self.pages.get_mut(&sealed.page(*hash)) {
                    Some(page) => {
                        page.used = true;
                        *seen = page.contains(*hash);
                    }
                    None if is_answered => {}
                    // Seen, but not in a page: what memory holds is looked up after this.
                    None if self.open.contains(*hash) => {}
                    None if self.closing.iter().any(|closing| closing.exact.contains(*hash)) => {}
                    None => unreachable!("message ids are checked without the pages that `candidates` names for them"),
                }
            }
        }
    }

    fn is_open_full(&self) -> bool {
        // An eighth: what is kept beyond `within` is an eighth of it at most.
        let latest = self.latest.max(self.open.newest);
        let spans_enough = |within: i64| latest.saturating_sub(self.open.oldest) > within / 8;
        self.open.ids >= self.limits.generation_ids || (self.open.ids > 0 && self.within_us.is_some_and(spans_enough))
    }

    fn close_open(&mut self) {
        let next = Exact::new(self.open.generation + 1, self.limits.shard_bits);
        let exact = std::mem::replace(&mut self.open, next);
        self.closing.push_back(Closing::new(exact, &self.limits));
    }

    /// Writes pages, then filter pieces, then the record of the oldest generations that are not sealed yet.
    fn seal_some(&mut self, more_bytes: usize, out: &mut WriteBatch) {
        let mut budget = self.limits.seal_bytes + more_bytes;
        for closing in self.closing.iter_mut().filter(|closing| closing.sealed_at.is_none()) {
            while budget > 0 && closing.sealed_at.is_none() {
                let written = closing.seal_step(self.checks, out);
                budget = budget.saturating_sub(written);
            }
            if let Some(garbage) = closing.blocks_to_delete() {
                self.garbage.push_back(garbage);
            }
        }
    }

    fn release_sealed(&mut self) {
        let linger = self.limits.linger_checks;
        let is_durable = |closing: &Closing| closing.sealed_at.is_some_and(|at| at + linger <= self.checks);
        while self.closing.front().is_some_and(is_durable)
            && let Some(closing) = self.closing.pop_front()
        {
            self.sealed.push_back(closing.into_sealed());
        }
    }

    /// Forgets generations whose newest arrival is older than `within`.
    fn expire(&mut self, out: &mut WriteBatch) {
        let Some(within) = self.within_us else { return };
        let horizon = self.latest.saturating_sub(within);
        while let Some(sealed) = self.sealed.pop_front_if(|sealed| sealed.figures.newest < horizon) {
            self.pages.retain(|key, _| key.generation != sealed.generation);
            // Its blocks are gone, or in the garbage already.
            self.drop_keys(sealed.generation, Figures { blocks: 0, ..sealed.figures }, out);
        }
        while let Some(closing) = self.closing.pop_front_if(|closing| closing.exact.newest < horizon) {
            self.drop_keys(closing.exact.generation, closing.figures_of_keys(), out);
        }
        if self.open.ids > 0 && self.open.newest < horizon {
            self.close_open();
            self.expire(out);
        }
    }

    /// The record goes first, so that a start in between knows what is still to be deleted.
    fn drop_keys(&mut self, generation: u64, figures: Figures, out: &mut WriteBatch) {
        let record = codec::encode(VERSION, &Record::Dropped(figures));
        out.put(keys::dedupe(DedupePart::Record, generation, 0), record);
        self.garbage.push_back(Garbage::of_dropped(generation, figures));
    }

    fn delete_some(&mut self, out: &mut WriteBatch) {
        let mut budget = self.limits.delete_keys;
        while budget > 0
            && let Some(garbage) = self.garbage.front_mut()
        {
            budget -= garbage.delete(budget, out);
            if garbage.is_gone() {
                self.garbage.pop_front();
            }
        }
    }

    fn page_bytes(&self) -> usize {
        self.pages.values().map(|page| page.hashes.len()).sum()
    }

    /// What was not used since the last time goes first.
    fn shrink_pages(&mut self) {
        let mut bytes = self.page_bytes();
        while bytes > self.limits.page_cache_bytes {
            self.pages.retain(|_, page| {
                let stays = std::mem::take(&mut page.used) || bytes <= self.limits.page_cache_bytes;
                bytes -= if stays { 0 } else { page.hashes.len() };
                stays
            });
        }
    }

    async fn load_with(store: &dyn Store, within: Option<Duration>, limits: Limits) -> Result<Dedupe, StoreError> {
        let mut records = BTreeMap::new();
        for_each(store, DedupePart::Record, async |generation, _, value| {
            let record = codec::decode::<Record>(VERSION, "record of message ids", &value)?;
            let (Record::Sealed(figures) | Record::Dropped(figures)) = record;
            if figures.page_bits > PAGE_BITS_MAX {
                return Err(StoreError::Damaged(format!("generation {generation} of message ids has too many pages")));
            }
            records.insert(generation, record);
            Ok(())
        })
        .await?;

        let mut exact: BTreeMap<u64, Exact> = BTreeMap::new();
        let mut left_over: BTreeMap<u64, Range<u32>> = BTreeMap::new();
        for_each(store, DedupePart::Block, async |generation, number, value| {
            if records.contains_key(&generation) {
                let range = left_over.entry(generation).or_insert(number..number);
                range.end = number + 1;
                return Ok(());
            }
            let exact = exact.entry(generation).or_insert_with(|| Exact::new(generation, limits.shard_bits));
            exact.add_block(number, &value)
        })
        .await?;

        let mut encoded: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for_each(store, DedupePart::Filter, async |generation, _, value| {
            // Also half-written ones are here; they are made again.
            if matches!(records.get(&generation), Some(Record::Sealed(_))) {
                encoded.entry(generation).or_default().extend_from_slice(&value);
            }
            Ok(())
        })
        .await?;

        let last = records.keys().chain(exact.keys()).max().copied();
        let open = match exact.last_entry() {
            Some(entry) if Some(*entry.key()) == last => entry.remove(),
            _ => Exact::new(last.map_or(0, |last| last + 1), limits.shard_bits),
        };
        let mut dedupe = Dedupe {
            within_us: within.map(|within| i64::try_from(within.as_micros()).unwrap_or(i64::MAX)),
            limits,
            latest: TimeUs::MIN,
            sealed: VecDeque::new(),
            closing: exact.into_values().map(|exact| Closing::new(exact, &limits)).collect(),
            open,
            garbage: VecDeque::new(),
            pages: HashMap::new(),
            checks: 0,
            asked: Mutex::default(),
        };
        for (generation, record) in records {
            let blocks = left_over.remove(&generation).unwrap_or_default();
            match record {
                Record::Sealed(figures) => {
                    let filter = SeenFilter::from_bytes(encoded.get(&generation).map_or(&[][..], Vec::as_slice))?;
                    dedupe.sealed.push_back(Sealed { generation, figures, filter });
                    if !blocks.is_empty() {
                        dedupe.garbage.push_back(Garbage::of_blocks(generation, blocks));
                    }
                }
                Record::Dropped(figures) => {
                    let mut garbage = Garbage::of_dropped(generation, figures);
                    garbage.blocks.end = garbage.blocks.end.max(blocks.end);
                    dedupe.garbage.push_back(garbage);
                }
            }
        }
        Ok(dedupe)
    }
}

/// Reads all entries of this part in portions: generation, number, value.
async fn for_each(
    store: &dyn Store,
    part: DedupePart,
    mut take: impl AsyncFnMut(u64, u32, Bytes) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let prefix = keys::dedupe_prefix(part);
    let mut after: Option<Bytes> = None;
    loop {
        let entries = store.scan(&prefix, after.as_deref(), 64).await?;
        let Some((last, _)) = entries.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, value) in entries {
            let (generation, number) = keys::parse_dedupe(&key)
                .ok_or_else(|| StoreError::Damaged("a key of message ids cannot be read".to_string()))?;
            take(generation, number, value).await?;
        }
    }
}

/// The first `bits` bits of a hash.
fn first_bits(hash: u128, bits: u32) -> u32 {
    hash.checked_shr(u128::BITS - bits).unwrap_or(0) as u32
}

fn pack(hashes: &[u128]) -> Bytes {
    let mut packed = Vec::with_capacity(1 + hashes.len() * HASH_BYTES);
    packed.put_u8(VERSION);
    hashes.iter().for_each(|hash| packed.put_u128(*hash));
    Bytes::from(packed)
}

fn unpack(packed: &Bytes) -> Option<Bytes> {
    let is_whole = packed.first() == Some(&VERSION) && packed.len() % HASH_BYTES == 1;
    is_whole.then(|| packed.slice(1..))
}

impl Sealed {
    fn page(&self, hash: u128) -> PageKey {
        PageKey { generation: self.generation, page: first_bits(hash, self.figures.page_bits) }
    }
}

impl Page {
    /// The packed hashes are sorted, and their bytes sort as they do.
    fn contains(&self, hash: u128) -> bool {
        let (packed, _) = self.hashes.as_chunks::<HASH_BYTES>();
        packed.binary_search(&hash.to_be_bytes()).is_ok()
    }
}

impl Closing {
    fn new(exact: Exact, limits: &Limits) -> Self {
        // From the number of ids alone, so that a start that finds half of the pages writes the same ones again.
        let page_bits = (exact.ids / limits.page_ids).checked_ilog2().map_or(0, |bits| bits + 1);
        let filter = SeenFilter::with_keys(exact.ids + 1, FILTER_RATE);
        Closing {
            page_bits: page_bits.min(limits.shard_bits),
            next_page: 0,
            filter,
            encoded: Bytes::new(),
            next_piece: 0,
            piece_bytes: limits.piece_bytes,
            sealed_at: None,
            exact,
        }
    }

    /// Writes the next page, piece or, at last, the record. Returns how many bytes.
    fn seal_step(&mut self, check: u64, out: &mut WriteBatch) -> usize {
        let generation = self.exact.generation;
        let pages = 1 << self.page_bits;
        if self.next_page < pages {
            let mut hashes: Vec<u128> = self.exact.page(self.next_page, self.page_bits).collect();
            hashes.sort_unstable();
            hashes.iter().for_each(|hash| self.filter.insert(*hash));
            let packed = pack(&hashes);
            let written = packed.len();
            out.put(keys::dedupe(DedupePart::Page, generation, self.next_page), packed);
            self.next_page += 1;
            if self.next_page == pages {
                self.encoded = Bytes::from(self.filter.to_bytes());
            }
            return written;
        }
        let start = self.next_piece as usize * self.piece_bytes;
        if start < self.encoded.len() {
            let end = self.encoded.len().min(start + self.piece_bytes);
            out.put(keys::dedupe(DedupePart::Filter, generation, self.next_piece), self.encoded.slice(start..end));
            self.next_piece += 1;
            return end - start;
        }
        let record = codec::encode(VERSION, &Record::Sealed(self.figures()));
        out.put(keys::dedupe(DedupePart::Record, generation, 0), record);
        self.encoded = Bytes::new();
        self.sealed_at = Some(check);
        1
    }

    fn figures(&self) -> Figures {
        Figures {
            ids: self.exact.ids as u64,
            newest: self.exact.newest,
            page_bits: self.page_bits,
            pieces: self.next_piece,
            blocks: self.exact.blocks_end(),
        }
    }

    /// The keys that may exist: those of a generation that is not sealed include what an earlier run may have written.
    fn figures_of_keys(&self) -> Figures {
        let figures = self.figures();
        if self.sealed_at.is_some() {
            // Its blocks are in the garbage already.
            return Figures { blocks: 0, ..figures };
        }
        Figures { pieces: self.filter.to_bytes().len().div_ceil(self.piece_bytes) as u32, ..figures }
    }

    /// Once, when the record has been staged: the blocks are no longer needed.
    fn blocks_to_delete(&self) -> Option<Garbage> {
        self.sealed_at?;
        Some(Garbage::of_blocks(self.exact.generation, 0..self.exact.blocks_end()))
    }

    fn into_sealed(self) -> Sealed {
        Sealed { generation: self.exact.generation, figures: self.figures(), filter: self.filter }
    }
}

impl Garbage {
    fn of_blocks(generation: u64, blocks: Range<u32>) -> Self {
        Garbage { generation, pages: 0..0, pieces: 0..0, blocks, record: false }
    }

    /// Deletes also what may never have been written: a half-sealed generation knows only how many there would be.
    fn of_dropped(generation: u64, figures: Figures) -> Self {
        Garbage {
            generation,
            pages: 0..1 << figures.page_bits,
            pieces: 0..figures.pieces,
            blocks: 0..figures.blocks,
            record: true,
        }
    }

    /// Deletes up to this many keys, the record last. Returns how many.
    fn delete(&mut self, keys_max: u32, out: &mut WriteBatch) -> u32 {
        let mut left = keys_max;
        let parts = [
            (DedupePart::Page, &mut self.pages),
            (DedupePart::Filter, &mut self.pieces),
            (DedupePart::Block, &mut self.blocks),
        ];
        for (part, numbers) in parts {
            for number in numbers.by_ref().take(left as usize) {
                out.delete(keys::dedupe(part, self.generation, number));
                left -= 1;
            }
        }
        let is_rest_gone = self.pages.is_empty() && self.pieces.is_empty() && self.blocks.is_empty();
        if left > 0 && is_rest_gone && std::mem::take(&mut self.record) {
            out.delete(keys::dedupe(DedupePart::Record, self.generation, 0));
            left -= 1;
        }
        keys_max - left
    }

    fn is_gone(&self) -> bool {
        self.pages.is_empty() && self.pieces.is_empty() && self.blocks.is_empty() && !self.record
    }
}

/// The ids of one generation, exactly, in shards by their first bits: so a page is one or some shards, and no table is
/// large enough for its growth to be felt.
struct Exact {
    generation: u64,
    shards: Vec<HashSet<u128>>,
    shard_bits: u32,
    ids: usize,
    oldest: TimeUs,
    newest: TimeUs,
    /// The number of the block being written, and its hashes so far.
    block: u32,
    tail: Vec<u128>,
    tail_oldest: TimeUs,
}

impl Exact {
    fn new(generation: u64, shard_bits: u32) -> Self {
        Exact {
            generation,
            shards: vec![HashSet::new(); 1 << shard_bits],
            shard_bits,
            ids: 0,
            oldest: TimeUs::MAX,
            newest: TimeUs::MIN,
            block: 0,
            tail: Vec::new(),
            tail_oldest: TimeUs::MAX,
        }
    }

    fn contains(&self, hash: u128) -> bool {
        self.shards[first_bits(hash, self.shard_bits) as usize].contains(&hash)
    }

    /// Whether it is new.
    fn insert(&mut self, hash: u128) -> bool {
        let is_new = self.shards[first_bits(hash, self.shard_bits) as usize].insert(hash);
        if is_new {
            self.tail.push(hash);
            self.ids += 1;
        }
        is_new
    }

    /// Stages what was inserted since the last time, in the block that is being filled.
    fn stage_block(&mut self, arrival: TimeUs, block_ids: usize, out: &mut WriteBatch) {
        self.oldest = self.oldest.min(arrival);
        self.newest = self.newest.max(arrival);
        self.tail_oldest = self.tail_oldest.min(arrival);
        let mut value = Vec::with_capacity(17 + self.tail.len() * HASH_BYTES);
        value.put_u8(VERSION);
        value.put_i64(self.tail_oldest);
        value.put_i64(arrival);
        self.tail.iter().for_each(|hash| value.put_u128(*hash));
        out.put(keys::dedupe(DedupePart::Block, self.generation, self.block), value);
        if self.tail.len() >= block_ids {
            self.block += 1;
            self.tail.clear();
            self.tail_oldest = TimeUs::MAX;
        }
    }

    fn add_block(&mut self, number: u32, mut value: &[u8]) -> Result<(), StoreError> {
        let damaged = || StoreError::Damaged(format!("block {number} of message ids cannot be read"));
        if value.try_get_u8().ok() != Some(VERSION) {
            return Err(damaged());
        }
        self.oldest = self.oldest.min(value.try_get_i64().map_err(|_| damaged())?);
        self.newest = self.newest.max(value.try_get_i64().map_err(|_| damaged())?);
        let (hashes, rest) = value.as_chunks::<HASH_BYTES>();
        if !rest.is_empty() {
            return Err(damaged());
        }
        hashes.iter().for_each(|hash| _ = self.insert(u128::from_be_bytes(*hash)));
        self.block = number + 1;
        self.tail.clear();
        Ok(())
    }

    /// One more than the number of the last block written.
    fn blocks_end(&self) -> u32 {
        self.block + u32::from(!self.tail.is_empty())
    }

    fn page(&self, page: u32, page_bits: u32) -> impl Iterator<Item = u128> {
        let width = 1usize << (self.shard_bits - page_bits);
        let first = page as usize * width;
        self.shards[first..first + width].iter().flatten().copied()
    }

    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| size_of::<HashSet<u128>>() + shard.allocation_size()).sum()
    }
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "figures are printed")]
#[path = "dedupe_tests.rs"]
mod tests;
