use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result,
};
use tokio::runtime::Runtime;

use super::*;
use crate::state::scan_all;

fn put(entries: &[(&str, &str)]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    entries.iter().for_each(|(key, value)| batch.put(key.to_string(), value.to_string()));
    batch
}

async fn text(store: &dyn Store, key: &str) -> Option<String> {
    store.get(key.as_bytes()).await.unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn folder() -> (tempfile::TempDir, Location) {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Folder(folder.path().to_path_buf());
    (folder, location)
}

#[test]
fn after_a_death_without_close_every_commit_is_there() {
    let (_folder, location) = folder();
    let first = Runtime::new().unwrap();
    first.block_on(async {
        let store = SlateStore::open(&location).await.unwrap();
        for number in 0..50 {
            store.commit(put(&[("last", &number.to_string()), (&format!("k{number}"), "v")])).await.unwrap();
        }
        let mut batch = put(&[("x", "1")]);
        batch.delete("k7");
        store.commit(batch).await.unwrap();
        // The runtime goes with everything that runs in it, as in a killed process.
        std::mem::forget(store);
    });
    first.shutdown_background();
    Runtime::new().unwrap().block_on(async {
        let store = SlateStore::open(&location).await.unwrap();
        assert_eq!(text(&store, "last").await.as_deref(), Some("49"));
        assert_eq!(text(&store, "k7").await, None);
        assert_eq!(text(&store, "x").await.as_deref(), Some("1"));
        assert_eq!(store.scan(b"k", None, 100).await.unwrap().len(), 49);
        store.close().await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_open_fences_the_first_and_nothing_of_its_next_commit_is_visible() {
    let (_folder, on_disk) = folder();
    for location in [Location::parse("memory:").unwrap(), on_disk] {
        let first = SlateStore::open(&location).await.unwrap();
        first.commit(put(&[("a", "1")])).await.unwrap();
        let second = SlateStore::open(&location).await.unwrap();
        let fenced = first.commit(put(&[("a", "2"), ("b", "2")])).await;
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
        let again = first.commit(put(&[("c", "2")])).await;
        assert!(matches!(again, Err(StoreError::Fenced)), "{again:?}");
        assert_eq!(text(&second, "a").await.as_deref(), Some("1"));
        assert_eq!(text(&second, "b").await, None);
        second.commit(put(&[("b", "3")])).await.unwrap();
        assert_eq!(text(&second, "b").await.as_deref(), Some("3"));
        assert!(matches!(first.close().await, Ok(()) | Err(StoreError::Fenced)));
        second.close().await.unwrap();
        assert_eq!(text(&SlateStore::open(&location).await.unwrap(), "a").await.as_deref(), Some("1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_become_durable_in_the_order_of_calls_however_they_are_awaited() {
    let store = SlateStore::open(&Location::parse("memory:").unwrap()).await.unwrap();
    let calls: Vec<_> = (0..20).map(|number| store.commit(put(&[("k", &number.to_string())]))).collect();
    for call in calls.into_iter().rev() {
        call.await.unwrap();
    }
    assert_eq!(text(&store, "k").await.as_deref(), Some("19"));
    // A commit whose future is dropped is made all the same.
    drop(store.commit(put(&[("dropped", "yes")])));
    store.commit(put(&[("k", "20")])).await.unwrap();
    assert_eq!(text(&store, "dropped").await.as_deref(), Some("yes"));
    store.commit(WriteBatch::default()).await.unwrap();
    store.close().await.unwrap();
    assert!(store.commit(put(&[("k", "21")])).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_durable_is_not_read() {
    let store = SlateStore::open(&Location::parse("memory:").unwrap()).await.unwrap();
    store.commit(put(&[("k", "durable")])).await.unwrap();
    let mut batch = slatedb::WriteBatch::new();
    batch.put(b"k2", b"on its way");
    store.shared.db.write(batch).await.unwrap();
    assert_eq!(text(&store, "k2").await, None);
    let found = store.scan(b"k", None, 10).await.unwrap();
    assert_eq!(found, vec![(Bytes::from("k"), Bytes::from("durable"))]);
    store.shared.db.flush().await.unwrap();
    assert_eq!(text(&store, "k2").await.as_deref(), Some("on its way"));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_go_on_after_a_key_as_the_store_in_memory_does() {
    let slate = SlateStore::open(&Location::parse("memory:").unwrap()).await.unwrap();
    let memory = super::super::memory::MemoryStore::default();
    let keys: Vec<String> = (0..300).map(|number| format!("{}{number}", ["a", "b", "bb", "c"][number % 4])).collect();
    let entries: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "v")).collect();
    slate.commit(put(&entries)).await.unwrap();
    memory.commit(put(&entries)).await.unwrap();
    for (prefix, after) in [
        ("b", None),
        ("", None),
        ("b", Some("b101")),
        ("b", Some("a")),
        ("b", Some("c")),
        ("bb", Some("bb")),
        ("z", None),
    ] {
        let (prefix, after) = (prefix.as_bytes(), after.map(str::as_bytes));
        for limit in [0, 1, 7, 1_000] {
            let found = slate.scan(prefix, after, limit).await.unwrap();
            assert_eq!(found, memory.scan(prefix, after, limit).await.unwrap(), "{prefix:?} {after:?} {limit}");
        }
    }
    let (mut all, mut after) = (Vec::new(), None::<Bytes>);
    loop {
        let page = slate.scan(b"b", after.as_deref(), 16).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        all.extend(page);
    }
    assert_eq!(all, memory.scan(b"b", None, 1_000).await.unwrap());
    slate.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_what_is_durable_at_opening_follows_and_disturbs_nobody() {
    let (_folder, location) = folder();
    assert!(matches!(SlateReader::open(&location).await, Err(StoreError::Unavailable(_))));
    let store = SlateStore::open(&location).await.unwrap();
    store.commit(put(&[("k", "1"), ("l", "1")])).await.unwrap();
    let reader = SlateReader::open(&location).await.unwrap();
    assert_eq!(text(&reader, "k").await.as_deref(), Some("1"));
    assert_eq!(reader.scan(b"", None, 10).await.unwrap().len(), 2);
    assert!(reader.commit(put(&[("k", "2")])).await.is_err());

    store.commit(put(&[("k", "2")])).await.unwrap();
    let started = Instant::now();
    while text(&reader, "k").await.as_deref() != Some("2") {
        assert!(started.elapsed() < Duration::from_secs(20), "the reader does not follow");
        tokio::task::yield_now().await;
    }
    println!("an open reader saw the next commit after {:?}", started.elapsed());
    let fresh = Instant::now();
    assert_eq!(text(&SlateReader::open(&location).await.unwrap(), "k").await.as_deref(), Some("2"));
    println!("a new reader opened and read in {:?}", fresh.elapsed());
    reader.close().await.unwrap();
    store.commit(put(&[("k", "3")])).await.unwrap();
    store.close().await.unwrap();
}

/// With boundary files, as is the default, nothing would ever be deleted from a local folder.
#[tokio::test(flavor = "multi_thread")]
async fn log_files_that_are_no_longer_needed_are_deleted_also_from_a_local_folder() {
    let (folder, location) = folder();
    let mut settings = settings(location.has_conditional_overwrite());
    let collector = settings.garbage_collector_options.as_mut().unwrap();
    let wal = collector.wal_options.as_mut().unwrap();
    (wal.interval, wal.min_age) = (Some(Duration::from_millis(50)), Duration::ZERO);
    let (objects, prefix) = location.create().unwrap();
    let db = Db::builder(prefix.join(DB_FOLDER), objects).with_settings(settings).build().await.unwrap();
    for number in 0..20u8 {
        db.put([number], b"v").await.unwrap();
        db.flush().await.unwrap();
    }
    let files = || std::fs::read_dir(folder.path().join("state/db/wal")).unwrap().count();
    assert!(files() >= 20);
    let to_sorted_files = slatedb::config::FlushOptions { flush_type: slatedb::config::FlushType::MemTable };
    db.flush_with_options(to_sorted_files).await.unwrap();
    let started = Instant::now();
    while files() > 5 {
        assert!(started.elapsed() < Duration::from_secs(20), "{} log files are left", files());
        tokio::task::yield_now().await;
    }
    assert_eq!(db.get([7]).await.unwrap().unwrap(), "v");
    db.close().await.unwrap();
}

/// Prints, with `--nocapture`, how long durable commits take on a local folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_commit_is_one_and_is_read_back() {
    let (_folder, location) = folder();
    let store = SlateStore::open(&location).await.unwrap();
    for keys in [100u32, 2_000, 20_000] {
        let mut took = Vec::new();
        for round in 0..5u32 {
            let mut batch = WriteBatch::default();
            for number in 0..keys {
                let key = number.wrapping_mul(2_654_435_761).wrapping_add(round).to_be_bytes();
                batch.put(key.to_vec(), vec![round as u8; 100]);
            }
            let started = Instant::now();
            store.commit(batch).await.unwrap();
            took.push(started.elapsed());
        }
        println!("{keys} keys of 100 bytes: {took:?}");
    }
    let outbox = vec![7u8; 8 << 20];
    let mut batch = WriteBatch::default();
    batch.put("outbox", outbox.clone());
    let started = Instant::now();
    store.commit(batch).await.unwrap();
    println!("one entry of 8 MB: {:?}", started.elapsed());
    assert_eq!(store.get(b"outbox").await.unwrap().unwrap(), outbox);
    store.close().await.unwrap();
}

/// A storage whose user dies: after so many puts and deletions nothing is answered any more, and the last may have been done or not.
#[derive(Debug)]
struct Mortal {
    inner: Arc<InMemory>,
    left: AtomicI64,
    does_the_last: bool,
}

impl Mortal {
    /// None: not done, and nobody lives to know it.
    async fn step<T>(&self, doing: impl Future<Output = T>) -> T {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            left if left > 1 => doing.await,
            1 if self.does_the_last => {
                doing.await;
                std::future::pending().await
            }
            _ => std::future::pending().await,
        }
    }
}

impl std::fmt::Display for Mortal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("mortal")
    }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(&self, path: &ObjectPath, bytes: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.step(self.inner.put_opts(path, bytes, options)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.step(self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<ObjectPath>>) -> BoxStream<'static, Result<ObjectPath>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.step(self.inner.copy_opts(from, to, options)).await
    }
}

/// Commits of all sizes, checkpoints all the time, deaths between any two writes to the storage: what was acknowledged is there,
/// what was not is there whole or not at all, for the next writer and for readers, by `get` and by `scan`.
#[test]
fn whenever_its_process_dies_the_store_is_that_of_a_model() {
    let limits =
        Limits { block_cache_bytes: 1 << 20, held_bytes: 100_000, journal_bytes: 2_000_000, journal_entries: 7 };
    let (mut deaths, mut objects) = (0, 0);
    for seed in 0..12u64 {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let inner = Arc::new(InMemory::new());
        let location = Location::Memory(inner.clone());
        let mut model = BTreeMap::<Bytes, Bytes>::new();
        for life in 0..12 {
            let (left, does_the_last) = (AtomicI64::new(random.i64(1..120)), random.bool());
            let mortal = Arc::new(Mortal { inner: inner.clone(), left, does_the_last });
            let alive = mortal.clone();
            let mut batches = Vec::new();
            for number in 0..random.usize(1..60) {
                let mut batch = WriteBatch::default();
                for _ in 0..random.usize(1..12) {
                    let key = Bytes::from(format!("{}{:02}", random.choice(["a", "b"]).unwrap(), random.u8(0..30)));
                    let size = *random.choice([0, 10, 1_000, 1_000, 30_000, 70_000].as_slice()).unwrap();
                    match random.u8(0..3) {
                        0 => batch.delete(key),
                        _ => batch.put(key, format!("{life}:{number}:{}", "x".repeat(size))),
                    }
                }
                batches.push(batch);
            }
            let acknowledged = Arc::new(AtomicI64::new(0));
            let running = Runtime::new().unwrap();
            let (counted, sent, place) = (acknowledged.clone(), batches.clone(), location.clone());
            let whole_life = running.spawn(async move {
                let store = SlateStore::open_on(mortal, ObjectPath::from("state"), &place, limits).await.unwrap();
                for batch in sent {
                    store.commit(batch).await.unwrap();
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
            while !whole_life.is_finished() && alive.left.load(Ordering::SeqCst) > 0 {
                std::thread::yield_now();
            }
            deaths += usize::from(!whole_life.is_finished());
            running.shutdown_timeout(Duration::from_secs(5));
            let acknowledged = acknowledged.load(Ordering::SeqCst) as usize;
            objects += inner_objects(&inner);

            // The model after what was acknowledged, and after the one that may have been under way.
            let mut may_be = Vec::new();
            for (number, batch) in batches.iter().enumerate() {
                if number >= acknowledged {
                    may_be.push(model.clone());
                }
                if number > acknowledged {
                    break;
                }
                for write in batch.writes.iter().cloned() {
                    match write {
                        Write::Put(key, value) => model.insert(key, value),
                        Write::Delete(key) => model.remove(&key),
                    };
                }
            }
            may_be.push(model.clone());
            let next = Runtime::new().unwrap();
            let found = next.block_on(async {
                let Ok(reader) = SlateReader::open(&location).await else { return None };
                let writer = SlateStore::open_with(&location, limits).await.unwrap();
                let all: BTreeMap<Bytes, Bytes> = scan_all(&writer, b"").await.unwrap().into_iter().collect();
                let read: BTreeMap<Bytes, Bytes> = scan_all(&reader, b"").await.unwrap().into_iter().collect();
                assert_eq!(read.keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
                assert_eq!(read, all);
                for number in 0..30 {
                    for key in [format!("a{number:02}"), format!("b{number:02}")] {
                        let value = writer.get(key.as_bytes()).await.unwrap();
                        assert_eq!(value.as_ref(), all.get(key.as_bytes()));
                        assert_eq!(reader.get(key.as_bytes()).await.unwrap(), value);
                    }
                }
                Some(all)
            });
            // It may have died before there was a state at all.
            let found = found.unwrap_or_default();
            let place = may_be.iter().position(|model| *model == found);
            assert!(place.is_some(), "seed {seed}, life {life}: {acknowledged} of {} acknowledged", batches.len());
            model = found;
        }
    }
    println!("{deaths} deaths, {objects} objects");
    assert!(deaths > 50 && objects > 50);
}

fn inner_objects(inner: &Arc<InMemory>) -> usize {
    let list = inner.list(Some(&ObjectPath::from("state/journal")));
    futures::executor::block_on(futures::StreamExt::count(list))
}
