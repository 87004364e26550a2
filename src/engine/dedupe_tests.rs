use std::collections::HashMap as Model;

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use super::*;
use crate::state::Write;
use crate::state::keys::Tag;
use crate::state::memory::MemoryStore;

const SMALL: Limits = Limits {
    generation_ids: 20,
    shard_bits: 3,
    page_ids: 4,
    block_ids: 3,
    piece_bytes: 20,
    seal_bytes: 100,
    delete_keys: 3,
    linger_checks: LAG as u64,
    page_cache_bytes: 150,
};

/// Commits that are on their way to the store at most.
const LAG: usize = 2;

const WITHIN: Duration = Duration::from_micros(800);

fn hash(number: u64) -> u128 {
    xxh3_128(&number.to_le_bytes())
}

/// A store that shows a commit only when later ones have come: what is not durable is not read.
struct Lagging {
    shown: MemoryStore,
    coming: VecDeque<WriteBatch>,
}

impl Lagging {
    async fn commit(&mut self, batch: WriteBatch) {
        self.coming.push_back(batch);
        if self.coming.len() > LAG {
            let first = self.coming.pop_front().unwrap();
            self.shown.commit(first).await.unwrap();
        }
    }
}

/// One batch as the engine runs it.
async fn run(dedupe: &mut Dedupe, store: &mut Lagging, hashes: &[u128], arrival: TimeUs) -> Vec<bool> {
    let pages = dedupe.candidates(hashes);
    dedupe.fetch(&store.shown, pages).await.unwrap();
    assert!(dedupe.candidates(hashes).is_empty());
    let mut out = WriteBatch::default();
    let seen = dedupe.check(hashes, arrival, arrival, &mut out);
    let deleted = out.writes.iter().filter(|write| matches!(write, Write::Delete(_))).count();
    assert!(deleted <= dedupe.limits.delete_keys as usize);
    store.commit(out).await;
    seen
}

#[derive(Debug, Clone)]
enum Step {
    Batch {
        ids: Vec<u64>,
        after_us: i64,
    },
    /// Everything that was committed survives.
    Restart,
    /// What was on its way to the store is lost, as if it had never been.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let after = prop_oneof![6 => 0..5i64, 2 => 0..100i64, 1 => 0..2_000i64];
    let batch =
        (proptest::collection::vec(0..400u64, 0..15), after).prop_map(|(ids, after_us)| Step::Batch { ids, after_us });
    let step = prop_oneof![20 => batch, 1 => Just(Step::Restart), 1 => Just(Step::Crash)];
    proptest::collection::vec(step, 1..150)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// The model: when each id was last taken. Copies within `within` must be found, those an eighth beyond must not.
async fn compare(steps: Vec<Step>, within: Option<Duration>) {
    let mut store = Lagging { shown: MemoryStore::default(), coming: VecDeque::new() };
    let mut dedupe = Dedupe::load_with(&store.shown, within, SMALL).await.unwrap();
    let mut taken: Model<u128, i64> = Model::new();
    let mut durable: VecDeque<Model<u128, i64>> = VecDeque::from([Model::new()]);
    let mut now = 0;
    for step in steps {
        match step {
            Step::Batch { ids, after_us } => {
                now += after_us;
                let hashes: Vec<u128> = ids.iter().map(|id| hash(*id)).collect();
                let seen = run(&mut dedupe, &mut store, &hashes, now).await;
                for (hash, seen) in hashes.iter().zip(seen) {
                    let age = taken.get(hash).map(|at| now - at);
                    let within_us = within.map_or(i64::MAX / 2, |within| within.as_micros() as i64);
                    match age {
                        None => assert!(!seen, "a new id was reported as seen"),
                        Some(age) if age <= within_us => assert!(seen, "a copy after {age} µs was let through"),
                        Some(age) if age > within_us + within_us / 8 => assert!(!seen, "an id was kept for {age} µs"),
                        Some(_) => {}
                    }
                    if !seen {
                        taken.insert(*hash, now);
                    }
                }
                durable.push_back(taken.clone());
                if durable.len() > LAG + 1 {
                    durable.pop_front();
                }
            }
            Step::Restart | Step::Crash => {
                if matches!(step, Step::Restart) {
                    for batch in std::mem::take(&mut store.coming) {
                        store.shown.commit(batch).await.unwrap();
                    }
                } else {
                    store.coming.clear();
                    taken = durable.pop_front().unwrap();
                }
                durable = VecDeque::from([taken.clone()]);
                dedupe = Dedupe::load_with(&store.shown, within, SMALL).await.unwrap();
            }
        }
    }
    // In the end everything expires, and no key is left behind but those of the last ids.
    if within.is_some() {
        now += 10_000;
        for number in 0..2_000 {
            run(&mut dedupe, &mut store, &[hash(1_000)], now + number / 100).await;
        }
        assert_eq!(dedupe.len(), 1);
        let left = store.shown.dump();
        assert!(left.len() <= 1, "{} keys are left: {:?}", left.len(), left.keys().collect::<Vec<_>>());
    }
}

/// SEMANTICS §3: kept by arrival. `now` stands still while a source is not heard of or away, at 0 in a new state; what arrived
/// meanwhile is as old as it is when `now` goes on, also after a restart.
#[test]
fn what_arrives_while_now_stands_still_is_not_forgotten_when_it_goes_on() {
    block_on(async {
        let within = WITHIN.as_micros() as i64;
        // `now` while it stands, arrival then, `now` later, whether the copy is known then.
        for (stood, arrived, later, known) in [
            (0, 5_000, 5_000, true),
            (0, 5_000, 5_000 + within, true),
            (0, 5_000, 5_001 + within, false),
            (5_000, 9_000, 9_500, true),
            // A broker's clock behind, or a record from long ago: from `now`.
            (5_000, 10, 5_000 + within, true),
        ] {
            for restarts in [false, true] {
                let store = MemoryStore::default();
                let mut dedupe = Dedupe::load_with(&store, Some(WITHIN), SMALL).await.unwrap();
                let mut out = WriteBatch::default();
                assert_eq!(dedupe.check(&[hash(1)], stood, arrived, &mut out), [false]);
                store.commit(out).await.unwrap();
                if restarts {
                    dedupe = Dedupe::load_with(&store, Some(WITHIN), SMALL).await.unwrap();
                }
                let seen = dedupe.check(&[hash(1)], later, later, &mut WriteBatch::default());
                assert_eq!(seen, [known], "{stood} {arrived} {later} {restarts}");
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn ids_are_known_for_as_long_as_promised_over_restarts_and_crashes(steps in steps()) {
        block_on(compare(steps, Some(WITHIN)));
    }

    #[test]
    fn without_a_limit_ids_are_known_forever(steps in steps()) {
        block_on(compare(steps, None));
    }
}

#[test]
fn an_id_is_seen_within_its_own_batch() {
    block_on(async {
        let mut dedupe = Dedupe::load(&MemoryStore::default(), None).await.unwrap();
        let mut out = WriteBatch::default();
        assert_eq!(dedupe.check(&[hash(1), hash(2), hash(1)], 0, 0, &mut out), [false, false, true]);
        assert_eq!(dedupe.check(&[hash(2), hash(3)], 0, 0, &mut out), [true, false]);
        assert!(
            out.writes
                .iter()
                .all(|write| matches!(write, Write::Put(key, _) if key.starts_with(&keys::prefix(Tag::Dedupe))))
        );
    });
}

#[test]
fn check_answers_without_having_asked_for_candidates_where_no_page_is_needed() {
    block_on(async {
        let mut store = Lagging { shown: MemoryStore::default(), coming: VecDeque::new() };
        let mut dedupe = Dedupe::load_with(&store.shown, None, SMALL).await.unwrap();
        for number in 0..200 {
            run(&mut dedupe, &mut store, &[hash(number)], 0).await;
        }
        assert!(dedupe.sealed.len() > 5);
        assert_eq!(dedupe.check(&[hash(1_000), hash(199)], 0, 0, &mut WriteBatch::default()), [false, true]);
    });
}

#[test]
fn damaged_entries_are_an_error_and_never_a_panic() {
    block_on(async {
        for part in [DedupePart::Record, DedupePart::Block] {
            for value in [&[][..], &[VERSION], &[9, 9], &[VERSION, 0, 200, 200]] {
                let store = MemoryStore::default();
                let mut batch = WriteBatch::default();
                batch.put(keys::dedupe(part, 3, 0), value.to_vec());
                store.commit(batch).await.unwrap();
                let loaded = Dedupe::load(&store, None).await;
                assert!(matches!(loaded, Err(StoreError::Damaged(_))), "{part:?} {value:?}");
            }
        }
    });
}

/// Time this thread has spent on a CPU: other processes do not count.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// Prints, with `--nocapture`, what ids cost with full-sized generations.
#[test]
#[ignore = "some seconds and 300 MB; for figures"]
fn figures_with_ten_sealed_generations() {
    block_on(async {
        let mut store = Lagging { shown: MemoryStore::default(), coming: VecDeque::new() };
        let mut dedupe = Dedupe::load(&store.shown, None).await.unwrap();
        let (mut next, mut slowest, mut largest, mut deleted) = (0u64, Duration::ZERO, 0, 0);
        let started = on_cpu();
        while dedupe.sealed.len() < 10 || dedupe.open.ids < 1_690_000 {
            let hashes: Vec<u128> = (next..next + 10_000).map(hash).collect();
            next += 10_000;
            let pages = dedupe.candidates(&hashes);
            dedupe.fetch(&store.shown, pages).await.unwrap();
            let mut out = WriteBatch::default();
            let one = on_cpu();
            dedupe.check(&hashes, 0, 0, &mut out);
            slowest = slowest.max(on_cpu() - one);
            largest = largest.max(out.bytes());
            deleted = deleted.max(out.writes.iter().filter(|write| matches!(write, Write::Delete(_))).count());
            store.commit(out).await;
        }
        let ns = |took: Duration, count: usize| took.as_nanos() as usize / count;
        println!("taking in {next} ids in batches of 10,000: {} ns per id", ns(on_cpu() - started, next as usize));
        println!("the slowest check took {slowest:?}; the largest commit {largest} bytes, most deletions {deleted}");
        let sealed: usize = dedupe.sealed.iter().map(|sealed| sealed.filter.bytes()).sum();
        let ids: u64 = dedupe.sealed.iter().map(|sealed| sealed.figures.ids).sum();
        println!("{} sealed generations, {:.2} bytes per sealed id", dedupe.sealed.len(), sealed as f64 / ids as f64);
        println!("{:.1} bytes per open id", dedupe.open.bytes() as f64 / dedupe.open.ids as f64);

        let fresh: Vec<Vec<u128>> =
            (0..50u64).map(|batch| (0..10_000).map(|id| hash(1 << 40 | batch << 20 | id)).collect()).collect();
        let started = on_cpu();
        let pages: usize = fresh.iter().map(|hashes| dedupe.candidates(hashes).len()).sum();
        println!("candidates: {} ns per new id, {pages} pages for 500,000 ids", ns(on_cpu() - started, 500_000));
        let old: Vec<u128> = (0..10_000).map(|id| hash(id * 1_601)).collect();
        let started = on_cpu();
        let pages = dedupe.candidates(&old);
        let count = pages.len();
        dedupe.fetch(&store.shown, pages).await.unwrap();
        let seen = dedupe.check(&old, 0, 0, &mut WriteBatch::default());
        assert!(seen.iter().all(|seen| *seen));
        println!("10,000 old ids at random: {count} pages, {} ns per id in memory", ns(on_cpu() - started, 10_000));
        let started = on_cpu();
        let loaded = Dedupe::load(&store.shown, None).await.unwrap();
        println!("a start loads {} ids in {:?}", loaded.len(), on_cpu() - started);
    });
}
