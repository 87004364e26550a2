//! Who is running on this state: a small object beside it that the running process renews (SEMANTICS §12).
//!
//! 1. [`acquire`] waits until nobody else is running, or takes over, and writes an instance id of its own. From then on a
//!    task renews it every second. Where it finds another instance's id it reports that the state is lost; the process
//!    then stops for good, so two never fight.
//! 2. [`Heartbeat::run`] adds where commands are taken.
//! 3. [`Running::release`] removes it, so that the next start need not wait.
//!
//! This is courtesy, not the guard: between reading and writing the object another process can write it. The guard is
//! the store, which fences the writer that was there before; the heartbeat spares a running process from being fenced
//! by accident, and tells a person who is there.
//!
//! The clocks of two machines are never compared: whoever waits sees with its own clock whether the sequence moves.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::location::{Location, LocationError};

const OBJECT: &str = "heartbeat.json";
const INTERVAL: Duration = Duration::from_secs(1);

/// A heartbeat that has not moved for this many of its intervals is taken for dead.
const INTERVALS_SILENT: u32 = 3;

/// A stored interval is not trusted beyond these.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, thiserror::Error)]
pub enum HeartbeatError {
    #[error(transparent)]
    Location(#[from] LocationError),
    /// Worth a retry (exit 3).
    #[error("the heartbeat beside the state cannot be read or written: {0}")]
    Storage(String),
}

/// What the object says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatInfo {
    /// Random: names this run of a process.
    pub instance: String,
    /// For people; judgements use `machine`.
    pub host: String,
    /// The boot and the process namespace that `pid` is meant in, where the system tells them.
    pub machine: Option<String>,
    pub pid: u32,
    /// Ticks since boot, so that a process that was given the same id again is not taken for this one.
    pub process_start: Option<u64>,
    /// `host:port` where the process takes commands, once it listens.
    pub control_address: Option<String>,
    /// Moves with every renewal.
    pub sequence: u64,
    pub interval_ms: u64,
}

/// The state is ours, and is renewed while this lives: opening the store may take longer than others wait.
#[derive(Debug)]
pub struct Heartbeat {
    running: Running,
    control_address: watch::Sender<Option<String>>,
}

/// A heartbeat of a process that is at work. Without [`Running::release`] it ends when this is dropped, and its object
/// stays as that of a dead process.
#[derive(Debug)]
pub struct Running {
    place: Place,
    instance: String,
    lost: watch::Receiver<bool>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Waits until the state is free and takes it. It is free at once where there is no heartbeat (never run, or cleanly
/// stopped) or where its process, on this machine, is dead; else when the heartbeat has not moved for three of its
/// intervals. With `takeover` it is taken at once, whoever has it. `on_wait` is told, in a sentence for people, who is
/// waited for; once for each holder.
pub async fn acquire(
    location: &Location,
    takeover: bool,
    on_wait: impl FnMut(&str),
) -> Result<Heartbeat, HeartbeatError> {
    let place = Place::of(location.create()?);
    acquire_at(place, own_info(INTERVAL), takeover, INTERVAL, on_wait).await
}

/// Who is running on this state, or was when it stopped without saying so.
pub async fn read(location: &Location) -> Option<HeartbeatInfo> {
    let place = Place::of(location.objects().ok()?);
    parse(&place.read().await.ok()??)
}

impl Heartbeat {
    /// Says where commands are taken, if anywhere.
    pub fn run(self, control_address: Option<String>) -> Running {
        // Nobody listens where the state is lost already.
        let _ = self.control_address.send(control_address);
        self.running
    }

    fn start(place: Place, info: HeartbeatInfo, interval: Duration) -> Heartbeat {
        let (found, lost) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let (control_address, address) = watch::channel(None);
        let instance = info.instance.clone();
        let renewal = Renewal { place: place.clone(), info, interval };
        let task = tokio::spawn(renewal.run(found, address, stopped));
        Heartbeat { running: Running { place, instance, lost, stop, task }, control_address }
    }
}

/// What the task does.
struct Renewal {
    place: Place,
    info: HeartbeatInfo,
    interval: Duration,
}

impl Renewal {
    async fn run(
        mut self,
        lost: watch::Sender<bool>,
        mut address: watch::Receiver<Option<String>>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                // Said at once; the sender is gone when it has been said.
                Ok(()) = address.changed() => self.info.control_address = address.borrow_and_update().clone(),
                _ = ticks.tick() => {}
            }
            match self.renew().await {
                Ok(true) => {}
                Ok(false) => {
                    lost.send_replace(true);
                    return;
                }
                // Storage that stays away also stops the commits, which end the process; here it is only said.
                Err(error) => tracing::warn!(%error, "the heartbeat was not renewed"),
            }
        }
    }

    /// False: another instance has taken the state.
    async fn renew(&mut self) -> Result<bool, HeartbeatError> {
        let found = self.place.read().await?.as_ref().and_then(parse);
        // Where the object is gone or unreadable nobody has taken the state: it is written again.
        if found.is_some_and(|found| found.instance != self.info.instance) {
            return Ok(false);
        }
        self.info.sequence += 1;
        self.place.write(&self.info).await?;
        Ok(true)
    }
}

impl Running {
    /// Turns true when another instance has taken over: stop for good (exit 4).
    pub fn lost(&self) -> watch::Receiver<bool> {
        self.lost.clone()
    }

    /// Stops renewing and removes the object, if it is still ours. Errors are left to time: an object that does not move
    /// is taken for dead.
    pub async fn release(self) {
        let _ = self.stop.send(());
        // A renewal that is under way must not write the object again after it was removed.
        let _ = self.task.await;
        let found = self.place.read().await.ok().flatten().as_ref().and_then(parse);
        if found.is_some_and(|found| found.instance == self.instance) {
            self.place.remove().await;
        }
    }
}

/// Where the object lies.
#[derive(Debug, Clone)]
struct Place {
    objects: Arc<dyn ObjectStore>,
    path: ObjectPath,
}

impl Place {
    fn of((objects, prefix): (Arc<dyn ObjectStore>, ObjectPath)) -> Place {
        Place { objects, path: prefix.join(OBJECT) }
    }

    async fn read(&self) -> Result<Option<Bytes>, HeartbeatError> {
        let found = match self.objects.get(&self.path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(HeartbeatError::Storage(error.to_string())),
        }
    }

    async fn write(&self, info: &HeartbeatInfo) -> Result<(), HeartbeatError> {
        let text = serde_json::to_vec_pretty(info).map_err(|error| HeartbeatError::Storage(error.to_string()))?;
        let written = self.objects.put(&self.path, text.into()).await;
        written.map(drop).map_err(|error| HeartbeatError::Storage(error.to_string()))
    }

    async fn remove(&self) {
        if let Err(error) = self.objects.delete(&self.path).await {
            tracing::warn!(%error, "the heartbeat was not removed");
        }
    }
}

async fn acquire_at(
    place: Place,
    info: HeartbeatInfo,
    mut takeover: bool,
    interval: Duration,
    mut on_wait: impl FnMut(&str),
) -> Result<Heartbeat, HeartbeatError> {
    loop {
        let holder = match place.read().await? {
            Some(found) if takeover || is_dead(&found) => parse(&found),
            Some(found) => wait_for_silence(&place, found, interval, &mut on_wait).await?,
            None => None,
        };
        if write_and_settle(&place, &info, holder.as_ref(), interval).await? {
            return Ok(Heartbeat::start(place, info, interval));
        }
        // Another start came later, and has it: it is waited for like any other, also when this one was to take over.
        takeover = false;
    }
}

/// Writes our id and looks again after a moment. Of two that start at once the later writer wins: true when ours is
/// (still) there. A holder whose renewal was under way may have written over it once: then it is written again.
async fn write_and_settle(
    place: &Place,
    info: &HeartbeatInfo,
    holder: Option<&HeartbeatInfo>,
    interval: Duration,
) -> Result<bool, HeartbeatError> {
    for _ in 0..2 {
        place.write(info).await?;
        tokio::time::sleep(interval / 4).await;
        let found = place.read().await?.as_ref().and_then(parse);
        let Some(found) = found else { continue };
        if found.instance == info.instance {
            return Ok(true);
        }
        if holder.is_none_or(|holder| holder.instance != found.instance) {
            return Ok(false);
        }
    }
    Ok(false)
}

/// Returns what was there last once it has not changed for long enough, by our own clock; nothing if it was removed.
async fn wait_for_silence(
    place: &Place,
    mut last: Bytes,
    poll: Duration,
    on_wait: &mut impl FnMut(&str),
) -> Result<Option<HeartbeatInfo>, HeartbeatError> {
    let mut told: Option<String> = None;
    let mut moved = Instant::now();
    loop {
        // What cannot be read is waited for as well: a newer version may be running.
        let holder = parse(&last);
        let instance = holder.as_ref().map(|holder| holder.instance.clone()).unwrap_or_default();
        if told.as_ref() != Some(&instance) {
            on_wait(&who_is_waited_for(holder.as_ref()));
            told = Some(instance);
        }
        let interval = holder.as_ref().map_or(INTERVAL, |holder| Duration::from_millis(holder.interval_ms));
        if moved.elapsed() >= interval.clamp(INTERVAL_MIN, INTERVAL_MAX) * INTERVALS_SILENT {
            return Ok(holder);
        }
        tokio::time::sleep(poll / 2).await;
        match place.read().await? {
            None => return Ok(None),
            Some(found) if is_dead(&found) => return Ok(parse(&found)),
            Some(found) if found != last => {
                last = found;
                moved = Instant::now();
            }
            Some(_) => {}
        }
    }
}

fn who_is_waited_for(holder: Option<&HeartbeatInfo>) -> String {
    match holder {
        Some(holder) => format!(
            "another instance is running on {} (process {}); waiting for it to stop, or give --takeover to take over at once",
            holder.host, holder.pid
        ),
        None => "another instance, whose heartbeat this version cannot read, may be running on this state; \
                 waiting for it to stop, or give --takeover to take over at once"
            .to_string(),
    }
}

fn parse(bytes: &Bytes) -> Option<HeartbeatInfo> {
    serde_json::from_slice(bytes).ok()
}

/// Whether the process is certainly gone: it ran in this boot and process namespace, and its id is free or given to
/// another. Of other machines nothing is certain.
fn is_dead(bytes: &Bytes) -> bool {
    let Some(holder) = parse(bytes) else { return false };
    let is_here = holder.machine.is_some() && holder.machine == machine();
    is_here && holder.process_start.is_some() && process_start(holder.pid) != holder.process_start
}

fn own_info(interval: Duration) -> HeartbeatInfo {
    // The standard library seeds its hash maps from the system's randomness: two of them make 128 bits.
    let random = || RandomState::new().hash_one(std::process::id());
    HeartbeatInfo {
        instance: format!("{:016x}{:016x}", random(), random()),
        host: host(),
        machine: machine(),
        pid: std::process::id(),
        process_start: process_start(std::process::id()),
        control_address: None,
        sequence: 0,
        interval_ms: interval.as_millis() as u64,
    }
}

fn host() -> String {
    let named = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let named = named.map(|name| name.trim().to_string()).filter(|name| !name.is_empty());
    named.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| "an unnamed host".to_string())
}

/// Containers can share a host name, and a boot; they do not share the namespace that process ids are meant in.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// When the process started, in ticks since boot; nothing if it is gone (or the system does not tell).
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; behind it the start is the 20th field.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    // A zombie holds its id, but runs no more.
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    fn place() -> Place {
        Place::of((Arc::new(InMemory::new()), ObjectPath::from("state")))
    }

    /// Of a process on another machine, so that nothing but its heartbeat tells whether it lives.
    fn elsewhere(instance: &str) -> HeartbeatInfo {
        HeartbeatInfo {
            instance: instance.to_string(),
            host: format!("{instance}.example"),
            machine: Some("another boot".to_string()),
            pid: 7,
            ..own_info(SHORT)
        }
    }

    async fn acquired(place: &Place, instance: &str, takeover: bool) -> (Heartbeat, Vec<String>) {
        let mut told = Vec::new();
        let taken = acquire_at(place.clone(), elsewhere(instance), takeover, SHORT, |text| told.push(text.to_string()));
        (taken.await.unwrap(), told)
    }

    async fn holder(place: &Place) -> Option<HeartbeatInfo> {
        place.read().await.unwrap().as_ref().and_then(parse)
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_state_is_taken_at_once_renewed_and_released() {
        let place = place();
        let started = Instant::now();
        let (first, told) = acquired(&place, "first", false).await;
        assert!(started.elapsed() < SHORT && told.is_empty());
        let running = first.run(Some("127.0.0.1:7654".to_string()));
        tokio::time::sleep(SHORT * 5).await;
        let found = holder(&place).await.unwrap();
        assert_eq!(found.control_address.as_deref(), Some("127.0.0.1:7654"));
        assert!(found.sequence >= 4, "{found:?}");
        assert!(!*running.lost().borrow());
        running.release().await;
        assert_eq!(holder(&place).await, None);
        let started = Instant::now();
        let (_, told) = acquired(&place, "second", false).await;
        assert!(started.elapsed() < SHORT && told.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_renewed_from_the_start_also_while_the_store_is_still_being_opened() {
        let place = place();
        let (first, _) = acquired(&place, "first", false).await;
        tokio::time::sleep(SHORT * 10).await;
        let found = holder(&place).await.unwrap();
        assert!(found.sequence >= 9, "{found:?}");
        // A start that fails lets go of it.
        drop(first);
        tokio::time::sleep(SHORT * 10).await;
        assert!(holder(&place).await.unwrap().sequence <= found.sequence + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_living_instance_is_waited_for_and_a_silent_one_taken_over() {
        let place = place();
        let (first, _) = acquired(&place, "first", false).await;
        let running = first.run(None);
        let waiting = {
            let place = place.clone();
            tokio::spawn(async move { acquired(&place, "second", false).await })
        };
        tokio::time::sleep(SHORT * 50).await;
        assert!(!waiting.is_finished());
        // It dies without a word.
        running.task.abort();
        let started = Instant::now();
        let (_, told) = waiting.await.unwrap();
        assert!(started.elapsed() >= SHORT * 2 && started.elapsed() <= SHORT * 5, "{:?}", started.elapsed());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("first.example") && told[0].contains("--takeover"), "{told:?}");
        assert_eq!(holder(&place).await.unwrap().instance, "second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_the_holder_stops_cleanly() {
        let place = place();
        let running = acquired(&place, "first", false).await.0.run(None);
        let waiting = {
            let place = place.clone();
            tokio::spawn(async move { acquired(&place, "second", false).await })
        };
        tokio::time::sleep(SHORT * 10).await;
        let started = Instant::now();
        running.release().await;
        waiting.await.unwrap();
        assert!(started.elapsed() <= SHORT, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_takeover_is_at_once_and_the_first_finds_out() {
        let place = place();
        let first = acquired(&place, "first", false).await.0.run(None);
        tokio::time::sleep(SHORT * 3).await;
        let started = Instant::now();
        let (second, told) = acquired(&place, "second", true).await;
        assert!(started.elapsed() < SHORT && told.is_empty());
        let second = second.run(None);
        let mut lost = first.lost();
        tokio::time::timeout(SHORT * 2, lost.wait_for(|lost| *lost)).await.unwrap().unwrap();
        first.release().await;
        tokio::time::sleep(SHORT * 3).await;
        assert!(!*second.lost().borrow());
        assert_eq!(holder(&place).await.unwrap().instance, "second", "the first may remove only its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_was_under_way_does_not_undo_a_takeover() {
        let place = place();
        let _first = acquired(&place, "first", false).await.0;
        let (taking, renewing) = tokio::join!(acquired(&place, "second", true), async {
            tokio::time::sleep(SHORT / 8).await;
            place.write(&elsewhere("first")).await
        });
        renewing.unwrap();
        assert_eq!(taking.0.running.instance, "second");
        assert_eq!(holder(&place).await.unwrap().instance, "second");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_start_at_once_one_wins_and_the_other_waits() {
        for takeover in [false, true] {
            let place = place();
            let start = |instance: &'static str| {
                let place = place.clone();
                tokio::spawn(async move { acquired(&place, instance, takeover).await.0.run(None) })
            };
            let starts = [start("a"), start("b"), start("c")];
            tokio::time::sleep(SHORT * 30).await;
            let winners: Vec<bool> = starts.iter().map(JoinHandle::is_finished).collect();
            assert_eq!(winners.iter().filter(|won| **won).count(), 1, "{winners:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_this_machine_a_dead_process_is_known_at_once() {
        let check = async |pid: u32, process_start: Option<u64>, at_once: bool| {
            let place = place();
            place.write(&HeartbeatInfo { pid, process_start, ..own_info(SHORT) }).await.unwrap();
            let started = Instant::now();
            acquired(&place, "second", false).await;
            assert_eq!(started.elapsed() < SHORT, at_once, "process {pid} started at {process_start:?}");
        };
        if machine().is_some() {
            check(u32::MAX, Some(1), true).await;
            check(std::process::id(), Some(1), true).await;
            check(std::process::id(), process_start(std::process::id()), false).await;
            check(std::process::id(), None, false).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_is_waited_for_and_then_written_over() {
        let place = place();
        place.objects.put(&place.path, Bytes::from("{\"of\": \"a newer version\"}").into()).await.unwrap();
        let started = Instant::now();
        let (_, told) = acquired(&place, "second", false).await;
        assert!(started.elapsed() >= INTERVAL * INTERVALS_SILENT);
        assert!(told[0].contains("cannot read"), "{told:?}");
    }

    #[tokio::test]
    async fn anyone_can_read_who_is_running() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Folder(folder.path().join("data"));
        assert_eq!(read(&location).await, None);
        let running = acquire(&location, false, |_| ()).await.unwrap().run(Some("127.0.0.1:1".to_string()));
        let found = loop {
            let found = read(&location).await.unwrap();
            if found.control_address.is_some() {
                break found;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!((found.pid, found.instance.len()), (std::process::id(), 32));
        running.release().await;
        assert_eq!(read(&location).await, None);
    }
}
