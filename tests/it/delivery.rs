//! Delivery to receivers that fail in every way: what becomes of a delivery, after how many attempts, and that every one of
//! them has the same id and body.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tributary::activation::{BatchPlan, Delivery, DeliveryPlan, RateLimit};
use tributary::clock::{self, simulated};
use tributary::event::{ProfileId, TimeUs};
use tributary::sink::delivery::{BreakerState, Handle, Health, NoGate, Report, Worker};
use tributary::sink::guard::Reach;
use tributary::sink::webhook::Webhook;
use tributary::sink::{Attempt, AttemptOutcome, Destination, Outcome, Queued};
use tributary::state::keys::{self, Tag};
use tributary::state::memory::MemoryStore;
use tributary::state::{Store, WriteBatch, codec};

use crate::support::{Running, block_on, eventually, output_of, text_of, tributary};

fn delivery(number: u64, profile: u8) -> Delivery {
    Delivery {
        id: format!("d-{number}"),
        activation: "cart".into(),
        step: "remind".into(),
        destination: "crm".into(),
        profile_id: ProfileId([profile; 16]),
        lane: profile.into(),
        body: format!("{{\"number\":{number}}}"),
        created_at: clock::now_us(),
        dry_run: false,
        consent: None,
    }
}

/// A worker and, in the place of the engine, a task that records what it reports.
#[derive(Clone)]
struct Bench {
    store: MemoryStore,
    handle: Handle,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    health: Arc<Mutex<Vec<Health>>>,
}

impl Bench {
    fn start(destination: Arc<dyn Destination>, plan: DeliveryPlan) -> Bench {
        Bench::over(MemoryStore::default(), 0, destination, plan)
    }

    /// Over what another process has left, below the number `known`.
    fn over(store: MemoryStore, known: u64, destination: Arc<dyn Destination>, plan: DeliveryPlan) -> Bench {
        let (reports, mut made) = mpsc::channel(64);
        let health: Arc<Mutex<Vec<Health>>> = Arc::default();
        let told = health.clone();
        let worker = Worker {
            name: "crm".to_string(),
            destination,
            plan,
            store: Arc::new(store.clone()),
            gate: Arc::new(NoGate),
            reports,
            tell: Box::new(move |health| told.lock().unwrap().push(health)),
        };
        let (handle, work) = worker.start(known);
        tokio::spawn(work);
        let bench = Bench { store, handle, attempts: Arc::default(), health };
        let recording = bench.clone();
        tokio::spawn(async move {
            while let Some(report) = made.recv().await {
                // As long as a commit takes.
                clock::sleep(Duration::from_millis(2)).await;
                recording.record(report).await;
            }
        });
        bench
    }

    async fn put(&self, queued: &Queued) {
        let mut batch = WriteBatch::default();
        let key = keys::numbered_name(Tag::Delivery, "crm", queued.number);
        batch.put(key, codec::encode(Queued::VERSION, queued));
        self.store.commit(batch).await.unwrap();
    }

    async fn queue(&self, number: u64, profile: u8) {
        let queued = Queued::new(number, delivery(number, profile));
        self.put(&queued).await;
        self.handle.queued(queued);
    }

    async fn record(&self, report: Report) {
        match report {
            Report::Begun { queued, done } => {
                for queued in queued {
                    self.put(&Queued { begun: true, ..queued }).await;
                }
                let _ = done.send(());
            }
            Report::Attempted(attempt) => {
                let number = attempt.queued.number;
                match attempt.outcome {
                    AttemptOutcome::Retry { next_attempt_at } => self.put(&attempt.queued.again(next_attempt_at)).await,
                    _ => {
                        let mut batch = WriteBatch::default();
                        batch.delete(keys::numbered_name(Tag::Delivery, "crm", number));
                        self.store.commit(batch).await.unwrap();
                    }
                }
                self.attempts.lock().unwrap().push(attempt);
                self.handle.recorded(number);
            }
            Report::Failed(error) => panic!("{error}"),
            Report::Broken(error) => panic!("{error}"),
        }
    }

    fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap().clone()
    }

    async fn until_empty(&self) {
        while !self.store.dump().is_empty() {
            clock::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What a receiver does with a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Answers(u16),
    /// So often with this status and header, then 204.
    First(u16, &'static str, usize),
    /// The header holds the date two seconds from now.
    FirstWithDate,
    Hangs,
    ResetsBefore,
    ResetsAfter,
    /// To a receiver of its own, which must hear nothing.
    Redirects,
    /// The body of the answer, byte by byte, for ever.
    Drips,
    /// The same of the head.
    DripsHead,
    /// A body without end, as fast as it goes.
    Floods,
    FloodsHead,
    Garbage,
}

#[derive(Default)]
struct Heard {
    /// Id and body of each request that came in whole.
    requests: Mutex<Vec<(String, String)>>,
    connections: AtomicUsize,
    bytes_sent: AtomicUsize,
    redirected: AtomicBool,
}

async fn receiver(way: Way) -> (String, Arc<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let heard: Arc<Heard> = Arc::default();
    let (all, elsewhere) = (heard.clone(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let location = format!("http://{}/inside", elsewhere.local_addr().unwrap());
    let redirected = heard.clone();
    tokio::spawn(async move {
        if elsewhere.accept().await.is_ok() {
            redirected.redirected.store(true, Ordering::Relaxed);
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, way, all.clone(), location.clone()));
        }
    });
    (url, heard)
}

async fn serve(mut stream: TcpStream, way: Way, heard: Arc<Heard>, location: String) -> Option<()> {
    heard.connections.fetch_add(1, Ordering::Relaxed);
    if way == Way::ResetsBefore {
        return reset(stream);
    }
    loop {
        let before = {
            let request = read_request(&mut stream).await?;
            let mut requests = heard.requests.lock().unwrap();
            requests.push(request);
            requests.len() - 1
        };
        let empty = |status: u16, header: &str| format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{header}\r\n");
        let answer = match way {
            Way::Answers(status) => empty(status, ""),
            Way::First(status, header, times) if before < times => empty(status, header),
            Way::FirstWithDate if before == 0 => {
                let at = chrono::DateTime::from_timestamp_micros(clock::now_us() + 2_000_000).unwrap();
                empty(429, &format!("retry-after: {}\r\n", at.format("%a, %d %b %Y %H:%M:%S GMT")))
            }
            Way::First(..) | Way::FirstWithDate => empty(204, ""),
            Way::Redirects => empty(307, &format!("location: {location}\r\n")),
            Way::Garbage => "SSH-2.0-OpenSSH_9.6\r\n\r\n".to_string(),
            Way::Hangs => return std::future::pending().await,
            Way::ResetsBefore | Way::ResetsAfter => return reset(stream),
            Way::Drips | Way::DripsHead | Way::Floods | Way::FloodsHead => {
                return pour(stream, way, &heard).await;
            }
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

fn reset(stream: TcpStream) -> Option<()> {
    stream.set_zero_linger().ok()
}

async fn pour(mut stream: TcpStream, way: Way, heard: &Heard) -> Option<()> {
    let (head, part, pause) = match way {
        Way::Drips => ("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n", "x".to_string(), 20),
        Way::DripsHead => ("HTTP/1.1 200 OK\r\nx: ", "x".to_string(), 20),
        Way::Floods => ("HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n", "x".repeat(65_536), 0),
        _ => ("HTTP/1.1 200 OK\r\nx: ", "x".repeat(65_536), 0),
    };
    stream.write_all(head.as_bytes()).await.ok()?;
    loop {
        stream.write_all(part.as_bytes()).await.ok()?;
        heard.bytes_sent.fetch_add(part.len(), Ordering::Relaxed);
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// Id and body.
async fn read_request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&bytes).to_string();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_string()).next()
        };
        let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            return Some((header("webhook-id")?, body.to_string()));
        }
    }
}

/// `retry_for: 1s` means three attempts, the second within one and the third within three seconds.
#[test]
fn a_receiver_that_fails_in_any_way_ends_in_the_right_outcome_after_the_right_attempts() {
    struct Case {
        way: Way,
        /// Of each attempt, and a part of the last one's detail.
        outcomes: &'static [&'static str],
        detail: &'static str,
        /// Between the first two attempts at least.
        apart_ms: i64,
        /// Requests that came in whole.
        requests: usize,
    }
    const GIVEN_UP: &[&str] = &["retry", "retry", "failed"];
    const SENT: &[&str] = &["sent"];
    const AGAIN: &[&str] = &["retry", "sent"];
    let case = |way, outcomes, detail, apart_ms, requests| Case { way, outcomes, detail, apart_ms, requests };
    let cases = vec![
        case(Way::Answers(200), SENT, "HTTP 200", 0, 1),
        case(Way::Hangs, GIVEN_UP, "no answer within 400ms; given up after 3 attempts", 0, 3),
        case(Way::ResetsBefore, GIVEN_UP, "given up after 3 attempts", 0, 0),
        case(Way::ResetsAfter, GIVEN_UP, "given up after 3 attempts", 0, 3),
        case(Way::First(429, "retry-after: 1\r\n", 1), AGAIN, "HTTP 204", 1_000, 2),
        case(Way::FirstWithDate, AGAIN, "HTTP 204", 900, 2),
        case(Way::First(429, "retry-after: soon\r\n", 1), AGAIN, "HTTP 204", 0, 2),
        case(Way::First(503, "", 2), &["retry", "retry", "sent"], "HTTP 204", 0, 3),
        case(Way::First(500, "retry-after: 1\r\n", 1), AGAIN, "HTTP 204", 1_000, 2),
        case(Way::Answers(503), GIVEN_UP, "HTTP 503; given up after 3 attempts", 0, 3),
        case(Way::Answers(408), GIVEN_UP, "HTTP 408; given up after 3 attempts", 0, 3),
        case(Way::Answers(400), &["failed"], "HTTP 400", 0, 1),
        case(Way::Answers(404), &["failed"], "HTTP 404", 0, 1),
        case(Way::Answers(410), &["failed"], "HTTP 410", 0, 1),
        case(Way::Answers(422), &["failed"], "HTTP 422", 0, 1),
        case(Way::Redirects, GIVEN_UP, "redirects are not followed", 0, 3),
        // The status has come: what follows it counts for nothing.
        case(Way::Drips, SENT, "HTTP 200", 0, 1),
        case(Way::Floods, SENT, "HTTP 200", 0, 1),
        case(Way::DripsHead, GIVEN_UP, "no answer within 400ms", 0, 3),
        case(Way::FloodsHead, GIVEN_UP, "given up after 3 attempts", 0, 3),
        case(Way::Garbage, GIVEN_UP, "given up after 3 attempts", 0, 3),
    ];
    let _ = rustls::crypto::ring::default_provider().install_default();
    let problems: Vec<String> = block_on(async move {
        let each = cases.into_iter().enumerate().map(|(number, case)| async move {
            let (url, heard) = receiver(case.way).await;
            let webhook =
                Webhook::new(&url, &["secret".to_string()], &BTreeMap::new(), Reach::new(true, Arc::default()))
                    .unwrap();
            let plan = DeliveryPlan {
                timeout: Duration::from_millis(400),
                retry_for: Duration::from_secs(1),
                ..DeliveryPlan::default()
            };
            let bench = Bench::start(Arc::new(webhook), plan);
            bench.queue(number as u64, 1).await;
            bench.until_empty().await;
            // What a redirect or a drip would still bring.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let attempts = bench.attempts();
            let outcomes: Vec<&str> = attempts.iter().map(|attempt| attempt.outcome.name()).collect();
            let detail = attempts.last().map(|last| last.detail.clone()).unwrap_or_default();
            let requests = heard.requests.lock().unwrap().clone();
            let distinct: BTreeSet<&(String, String)> = requests.iter().collect();
            let apart_ms =
                attempts.windows(2).next().map_or(0, |two| (two[1].attempted_at - two[0].attempted_at) / 1_000);
            let sent = heard.bytes_sent.load(Ordering::Relaxed);
            println!("{:<45} {outcomes:?} {detail}", format!("{:?}", case.way));
            let right = outcomes == case.outcomes
                && detail.contains(case.detail)
                && requests.len() == case.requests
                && distinct.len() == case.requests.min(1)
                && distinct.iter().all(|(id, body)| {
                    *id == format!("d-{number}") && *body == format!("{{\"number\":{number}}}")
                })
                && apart_ms >= case.apart_ms
                && (heard.connections.load(Ordering::Relaxed) == outcomes.len() || case.requests > 0)
                && !heard.redirected.load(Ordering::Relaxed)
                // What is on its way in the buffers of the sockets.
                && sent < 20_000_000;
            (!right).then(|| {
                format!("{:?}: {outcomes:?} {detail:?}, {requests:?}, {apart_ms} ms apart, {sent} bytes", case.way)
            })
        });
        futures::future::join_all(each).await.into_iter().flatten().collect()
    });
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A destination in memory: it answers after a while, or is away.
struct Side {
    away: AtomicBool,
    takes_ms: u64,
    asked: AtomicUsize,
    taken: Mutex<Vec<Delivery>>,
    repeats: bool,
    /// Requests under way now, and the most there were.
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Side {
    fn new(takes_ms: u64) -> Side {
        Side {
            away: AtomicBool::new(false),
            takes_ms,
            asked: AtomicUsize::new(0),
            taken: Mutex::default(),
            repeats: true,
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        }
    }

    async fn ask(&self, deliveries: &[&Delivery]) -> Outcome {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        clock::sleep(Duration::from_millis(self.takes_ms)).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Outcome::Retry { detail: "connection refused".into(), after: None };
        }
        self.taken.lock().unwrap().extend(deliveries.iter().map(|delivery| (*delivery).clone()));
        Outcome::Sent("taken".into())
    }
}

#[async_trait]
impl Destination for Side {
    async fn send(&self, delivery: &Delivery, _: TimeUs) -> Outcome {
        self.ask(&[delivery]).await
    }

    async fn send_batch(&self, deliveries: &[&Delivery], _: TimeUs) -> Vec<Outcome> {
        let outcome = self.ask(deliveries).await;
        vec![outcome; deliveries.len()]
    }

    fn drops_repeats(&self) -> bool {
        self.repeats
    }
}

/// Runs with a clock that costs nothing.
fn in_simulated_time<T>(run: impl Future<Output = T>) -> T {
    let _clock = simulated::start(1_772_000_000_000_000);
    let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(simulated::advance).build().unwrap();
    runtime.block_on(run)
}

/// Milliseconds from when each delivery was set off until it was recorded as sent, the slowest of a hundred.
fn p99_ms(bench: &Bench) -> i64 {
    let mut all: Vec<i64> =
        bench.attempts().iter().map(|attempt| attempt.attempted_at - attempt.queued.delivery.created_at).collect();
    all.sort_unstable();
    all[all.len() * 99 / 100] / 1_000
}

/// Promise of delivery: one destination that is dead for an hour under load holds up no other, takes no more memory than its window,
/// uses up next to no attempts, and is drained in order afterwards.
#[test]
fn a_destination_that_is_dead_for_an_hour_under_load_holds_up_nobody_and_is_drained_in_order() {
    const LOAD: u64 = 20_000;
    let live = async |dead: bool| {
        let (other, side) = (Arc::new(Side::new(20)), Arc::new(Side::new(20)));
        let in_order = DeliveryPlan { in_order: true, ..DeliveryPlan::default() };
        let good = Bench::start(other.clone(), DeliveryPlan::default());
        let bad = Bench::start(side.clone(), in_order);
        side.away.store(dead, Ordering::Relaxed);
        for number in 0..LOAD {
            good.queue(2 * number, (number % 50) as u8).await;
            bad.queue(2 * number + 1, (number % 50) as u8).await;
            clock::sleep(Duration::from_millis(180)).await;
        }
        let asked = side.asked.load(Ordering::Relaxed);
        let breaker = bad.health.lock().unwrap().last().unwrap().breaker;
        side.away.store(false, Ordering::Relaxed);
        let began = simulated::elapsed_us();
        good.until_empty().await;
        bad.until_empty().await;
        let drained_s = (simulated::elapsed_us() - began) / 1_000_000;
        let held = bad.health.lock().unwrap().iter().map(|health| health.held).max();
        (p99_ms(&good), side, bad, asked, breaker, held.unwrap_or_default(), drained_s)
    };
    in_simulated_time(async {
        let (calm, ..) = live(false).await;
        let (p99, side, bad, asked, breaker, held, drained_s) = live(true).await;
        println!(
            "p99 of the other {calm} ms without, {p99} ms with; {asked} requests to the dead one in an hour, {held} of {LOAD} held; \
             drained in {drained_s} s"
        );
        assert_eq!(p99, calm);
        assert!(matches!(breaker, BreakerState::Open | BreakerState::HalfOpen));
        assert!(asked < 60, "{asked} requests to a dead destination");
        assert!(held <= 1_100, "{held} in memory");
        let taken = side.taken.lock().unwrap();
        assert_eq!(taken.len() as u64, LOAD);
        let number = |delivery: &Delivery| delivery.id[2..].parse::<u64>().unwrap();
        let mut latest: BTreeMap<ProfileId, u64> = BTreeMap::new();
        for delivery in taken.iter() {
            let before = latest.insert(delivery.profile_id, number(delivery));
            assert!(before.is_none_or(|before| before < number(delivery)), "{} came after {before:?}", delivery.id);
        }
        let most = bad.attempts().iter().map(|attempt| attempt.queued.attempts).max().unwrap();
        assert!(most < 10, "{most} attempts used up");
        assert_eq!(bad.health.lock().unwrap().last().unwrap().breaker, BreakerState::Closed);
    });
}

/// Rate, concurrency and batches are kept to, whatever waits.
#[test]
fn rate_concurrency_and_batches_are_kept_to() {
    in_simulated_time(async {
        let side = Arc::new(Side::new(100));
        let plan = DeliveryPlan { concurrency: 3, ..DeliveryPlan::default() };
        let bench = Bench::start(side.clone(), plan);
        for number in 0..60 {
            bench.queue(number, number as u8).await;
        }
        bench.until_empty().await;
        assert_eq!(side.most_at_once.load(Ordering::Relaxed), 3);

        let side = Arc::new(Side::new(1));
        let limit = RateLimit { requests: 5, per: Duration::from_secs(10) };
        let bench = Bench::start(side.clone(), DeliveryPlan { rate_limit: Some(limit), ..DeliveryPlan::default() });
        let began = simulated::elapsed_us();
        for number in 0..23 {
            bench.queue(number, number as u8).await;
        }
        bench.until_empty().await;
        let took_s = (simulated::elapsed_us() - began) / 1_000_000;
        assert_eq!(took_s, 40, "23 requests at 5 per 10 s");

        let side = Arc::new(Side::new(1));
        let batch = BatchPlan { max: 10, within: Duration::from_secs(5) };
        let plan = DeliveryPlan { batch: Some(batch), concurrency: 1, ..DeliveryPlan::default() };
        let bench = Bench::start(side.clone(), plan);
        let began = simulated::elapsed_us();
        for number in 0..25 {
            bench.queue(number, number as u8).await;
        }
        bench.until_empty().await;
        let took_s = (simulated::elapsed_us() - began) / 1_000_000;
        assert_eq!((side.asked.load(Ordering::Relaxed), took_s), (3, 5), "10, 10, and 5 after five seconds");
    });
}

/// One profile's waiting retry holds back that profile alone.
#[test]
fn a_waiting_retry_holds_back_only_its_profile() {
    struct Picky(Side);
    #[async_trait]
    impl Destination for Picky {
        async fn send(&self, delivery: &Delivery, at: TimeUs) -> Outcome {
            if delivery.id == "d-0" && self.0.away.load(Ordering::Relaxed) {
                return Outcome::Retry { detail: "not this one".into(), after: Some(Duration::from_secs(3_600)) };
            }
            self.0.send(delivery, at).await
        }
    }
    in_simulated_time(async {
        let picky = Arc::new(Picky(Side::new(10)));
        picky.0.away.store(true, Ordering::Relaxed);
        let bench = Bench::start(picky.clone(), DeliveryPlan { in_order: true, ..DeliveryPlan::default() });
        bench.queue(0, 0).await;
        clock::sleep(Duration::from_secs(1)).await;
        picky.0.away.store(false, Ordering::Relaxed);
        for number in 1..3_000 {
            bench.queue(number, (number % 3) as u8).await;
        }
        clock::sleep(Duration::from_secs(600)).await;
        let taken = |profile: u8| {
            picky.0.taken.lock().unwrap().iter().filter(|delivery| delivery.profile_id.0[0] == profile).count()
        };
        assert_eq!((taken(0), taken(1), taken(2)), (0, 1_000, 1_000), "after ten minutes");
        bench.until_empty().await;
        assert_eq!(taken(0), 1_000);
    });
}

/// A request whose beginning is recorded and whose end is not is uncertain after a restart, where the other side cannot tell a
/// repeat; it is sent again where it can.
#[test]
fn what_was_begun_before_a_crash_is_uncertain_where_a_repeat_would_be_done_twice() {
    in_simulated_time(async {
        for (repeats, wanted) in [(true, ["sent", "sent"]), (false, ["uncertain", "sent"])] {
            let side = Arc::new(Side { repeats, ..Side::new(5) });
            let store = MemoryStore::default();
            let mut batch = WriteBatch::default();
            for (number, begun) in [(0, true), (1, false)] {
                let queued = Queued { begun, ..Queued::new(number, delivery(number, 1)) };
                let key = keys::numbered_name(Tag::Delivery, "crm", number);
                batch.put(key, codec::encode(Queued::VERSION, &queued));
            }
            store.commit(batch).await.unwrap();
            let bench = Bench::over(store, 2, side.clone(), DeliveryPlan::default());
            bench.until_empty().await;
            let mut attempts = bench.attempts();
            attempts.sort_by_key(|attempt| attempt.queued.number);
            let found: Vec<&str> = attempts.iter().map(|attempt| attempt.outcome.name()).collect();
            assert_eq!(found, wanted);
            let taken: Vec<String> = side.taken.lock().unwrap().iter().map(|delivery| delivery.id.clone()).collect();
            assert_eq!(taken.contains(&"d-0".to_string()), repeats, "{taken:?}");
        }
        // Nor is one repeated that was not answered in time.
        let side = Arc::new(Side { repeats: false, ..Side::new(60_000) });
        let bench = Bench::start(side.clone(), DeliveryPlan::default());
        bench.queue(0, 1).await;
        bench.until_empty().await;
        let attempts = bench.attempts();
        assert_eq!((attempts.len(), attempts[0].outcome), (1, AttemptOutcome::Uncertain), "{attempts:?}");
        assert!(attempts[0].queued.begun || side.asked.load(Ordering::Relaxed) == 1);
    });
}

/// A receiver whose answer can be changed; None: it does not answer. It knows when each request came.
#[derive(Clone, Default)]
struct Switch {
    status: Arc<Mutex<Option<u16>>>,
    /// Id, body, and the wall clock.
    heard: Arc<Mutex<Vec<(String, String, TimeUs)>>>,
}

impl Switch {
    fn start(status: Option<u16>) -> (String, Switch) {
        let switch = Switch { status: Arc::new(Mutex::new(status)), heard: Arc::default() };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let shared = switch.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((mut stream, _)) = listener.accept().await {
                    let switch = shared.clone();
                    tokio::spawn(async move {
                        while let Some((id, body)) = read_request(&mut stream).await {
                            switch.heard.lock().unwrap().push((id, body, clock::now_us()));
                            let status = *switch.status.lock().unwrap();
                            let Some(status) = status else { return std::future::pending().await };
                            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                            if stream.write_all(answer.as_bytes()).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        });
        (url, switch)
    }

    fn answer(&self, status: u16) {
        *self.status.lock().unwrap() = Some(status);
    }

    fn heard(&self) -> Vec<(String, String, TimeUs)> {
        self.heard.lock().unwrap().clone()
    }
}

fn ping(number: usize) -> String {
    let now = clock::now_us();
    format!(
        r#"{{"type":"track","event":"Ping","messageId":"m{number}","userId":"u{number}","properties":{{"at":{now}}}}}"#
    ) + "\n"
}

fn append(folder: &Path, text: &str) {
    use std::io::Write;
    let path = folder.join("events.ndjson");
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

const PIPELINE_HEAD: &str = r#"pipeline: delivery
sources:
  site: { file: { path: events.ndjson }, format: { json: segment } }
identity: { identifiers: [user_id] }
"#;

fn write_pipeline(folder: &Path, destinations: &[(&str, &str, &str)]) {
    let mut yaml = format!("{PIPELINE_HEAD}destinations:\n");
    for (name, url, more) in destinations {
        yaml += &format!("  {name}: {{ webhook: {{ url: \"{url}\", allow_private: true }}{more} }}\n");
    }
    yaml += "activations:\n";
    for (name, ..) in destinations {
        yaml += &format!(
            "  to_{name}: {{ trigger: {{ event: Ping }}, consent: none, status: live, do: [ {{ id: tell, send: {{ to: {name}, \
             body: {{ at: \"{{{{ event.properties.at }}}}\" }} }} }} ] }}\n"
        );
    }
    std::fs::write(folder.join("delivery.yaml"), yaml).unwrap();
}

fn program(folder: &Path, args: &[&str]) -> std::process::Command {
    let mut command = tributary(args);
    let data = folder.join("data");
    command
        .args(["-C", folder.to_str().unwrap(), "--data", data.to_str().unwrap()])
        .env("TRIBUTARY_LISTEN", "127.0.0.1:0");
    command
}

/// The rows of `deliveries list` without the header, each by its columns.
fn listed(folder: &Path, more: &[&str]) -> Vec<Vec<String>> {
    let args = [&["deliveries", "list", "--output", "csv"], more].concat();
    let text = output_of(program(folder, &args));
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.records().map(|row| row.unwrap().iter().map(str::to_string).collect()).collect()
}

#[test]
fn what_was_given_up_is_listed_sent_again_with_the_same_id_and_body_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (url, switch) = Switch::start(Some(404));
    write_pipeline(folder, &[("crm", &url, ", retry_for: 1s")]);
    append(folder, &(0..3).map(ping).collect::<String>());
    output_of(program(folder, &["run", "--drain"]));
    let first = switch.heard();
    assert_eq!(first.len(), 3);
    let failed = listed(folder, &["--state", "failed", "--destination", "crm"]);
    assert_eq!(failed.len(), 3);
    for row in &failed {
        assert_eq!((row[1].as_str(), row[2].as_str(), row[3].as_str()), ("crm", "failed", "1"), "{row:?}");
        assert!(row[7].ends_with(": HTTP 404"), "{row:?}");
        assert!(first.iter().any(|(id, ..)| *id == row[0]), "{row:?}");
    }
    assert!(listed(folder, &["--destination", "other"]).is_empty());
    assert!(listed(folder, &["--state", "queued"]).is_empty());
    output_of(program(folder, &["run", "--drain"]));
    assert_eq!(switch.heard().len(), 3, "it is not repeated by itself");
    let explained = |id: &str| output_of(program(folder, &["explain", "delivery", id, "--output", "table"]));
    let text = explained(&failed[0][0]);
    assert!(text.starts_with(&format!("delivery {} is failed\nset off at ", failed[0][0])), "{text}");
    assert!(text.contains("  attempt 1 at ") && text.contains(": failed, HTTP 404\nit was given up ("), "{text}");
    let unknown = program(folder, &["explain", "delivery", "x"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(1), "{}", text_of(&unknown));
    let quoted = program(folder, &["explain", "delivery", "x' OR '1'='1"]).output().unwrap();
    assert!(text_of(&quoted).contains("is no id of a delivery"), "{}", text_of(&quoted));

    // With no process: they wait for the next run.
    output_of(program(folder, &["deliveries", "retry", "--all"]));
    assert_eq!(switch.heard().len(), 3, "nothing was sent yet");
    assert_eq!(listed(folder, &["--state", "queued"]).len(), 3);
    let text = explained(&failed[0][0]);
    assert!(
        text.contains("it waits: put into the queue again by hand; at most 3 more attempts; no process is running"),
        "{text}"
    );
    switch.answer(200);
    output_of(program(folder, &["run", "--drain"]));
    let text = explained(&failed[0][0]);
    assert!(text.contains("attempt 2 at ") && text.contains("it was taken"), "{text}");
    let again = switch.heard().split_off(3);
    let pairs = |heard: &[(String, String, TimeUs)]| -> BTreeSet<(String, String)> {
        heard.iter().map(|(id, body, _)| (id.clone(), body.clone())).collect()
    };
    assert_eq!((again.len(), pairs(&again)), (3, pairs(&first)));
    assert!(listed(folder, &[]).is_empty());

    // Through the running process.
    switch.answer(422);
    let running = Running::start(program(folder, &["run"]));
    append(folder, &(3..6).map(ping).collect::<String>());
    let failed = eventually("three are given up", || listed(folder, &[]), |rows| rows.len() == 3);
    switch.answer(200);
    output_of(program(folder, &["deliveries", "retry", &failed[0][0]]));
    output_of(program(folder, &["deliveries", "drop", &failed[1][0]]));
    let sent = |id: &str| switch.heard().iter().filter(|(other, ..)| other == id).count();
    eventually("it is sent again", || sent(&failed[0][0]), |count| *count == 2);
    eventually("one is left", || listed(folder, &[]), |rows| rows.len() == 1 && rows[0][0] == failed[2][0]);
    let missing = program(folder, &["deliveries", "drop", "nothing"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(text_of(&missing).contains("0 of 1 were found"), "{}", text_of(&missing));
    output_of(program(folder, &["deliveries", "drop", "--all"]));
    eventually("none is left", || listed(folder, &[]).len(), |count| *count == 0);
    assert_eq!((sent(&failed[1][0]), sent(&failed[2][0])), (1, 1), "dropped ones are not sent");
    drop(running);

    // What waits for a destination that is gone can be neither sent nor, unless it is dropped, forgotten.
    append(folder, &ping(6));
    output_of(program(folder, &["run", "--drain"]));
    switch.answer(404);
    append(folder, &(7..9).map(ping).collect::<String>());
    output_of(program(folder, &["run", "--drain"]));
    let failed = listed(folder, &[]);
    output_of(program(folder, &["deliveries", "retry", &failed[0][0]]));
    std::fs::write(folder.join("delivery.yaml"), PIPELINE_HEAD).unwrap();
    let refused = program(folder, &["deliveries", "retry", "--all"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text_of(&refused).contains("1 are for destinations that are not defined any more"),
        "{}",
        text_of(&refused)
    );
    assert_eq!(listed(folder, &["--state", "queued"]).len(), 1);
    output_of(program(folder, &["deliveries", "drop", "--all", "--destination", "crm"]));
    assert!(listed(folder, &[]).is_empty());
}

/// The real program with real connections: one destination hangs with every request; how long the other's events take does not
/// change, and `status` shows the breaker.
#[test]
fn one_destination_that_hangs_does_not_slow_another_down() {
    let p99_ms = |hangs: bool| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (good, heard) = Switch::start(Some(200));
        let (bad, _bad) = Switch::start((!hangs).then_some(200));
        write_pipeline(folder, &[("good", &good, ""), ("bad", &bad, ", timeout: 500ms")]);
        append(folder, "");
        let running = Running::start(program(folder, &["run"]));
        append(folder, &ping(0));
        eventually("the first arrives", || heard.heard().len(), |count| *count == 1);
        for number in 1..300 {
            append(folder, &ping(number));
            std::thread::sleep(Duration::from_millis(10));
        }
        let all = eventually("all arrive", || heard.heard(), |heard| heard.len() == 300);
        if hangs {
            let status = || output_of(program(folder, &["status", "--output", "csv"]));
            let status = eventually("the breaker opens", status, |text| text.contains("breaker,bad,"));
            assert!(status.contains("oldest delivery,bad,") && !status.contains("breaker,good"), "{status}");
        }
        drop(running);
        let latency = |(_, body, came): &(String, String, TimeUs)| {
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            (came - body["at"].as_i64().unwrap()) / 1_000
        };
        let mut all: Vec<i64> = all.iter().skip(1).map(latency).collect();
        all.sort_unstable();
        all[all.len() * 99 / 100]
    };
    let (calm, with) = (p99_ms(false), p99_ms(true));
    println!("p99 from the event to the good destination: {calm} ms, with one that hangs {with} ms");
    assert!(with <= 3 * calm + 300, "{with} ms, and {calm} ms without");
}
