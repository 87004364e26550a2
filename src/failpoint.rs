//! Named points on the way of a batch at which a test has the process die, or an operation fail.
//!
//! They are there in what `cargo test` builds and nowhere else: `fail-parallel` has its feature `failpoints` among the
//! dev-dependencies only, and without it [`pass`] and [`fail`] are empty. The environment arms them:
//!
//! ```text
//! FAILPOINTS='commit_durable=2*off->return(kill)'     dies by SIGKILL when it passes there for the third time
//! FAILPOINTS='before_commit=return(No space left)'    the operation fails with this text (where `fail` is asked)
//! FAILPOINTS='write-wal-sst-io-error=return'          SlateDB's points are in the same registry
//! ```
//!
//! `tests/it/faults.rs` dies at each of [`Point::ALL`] and fails where one was never reached.

use std::os::unix::process::CommandExt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fail_parallel::{FailPointRegistry, FailScenario};

macro_rules! points {
    ($($(#[doc = $doc:literal])* $point:ident $name:literal,)*) => {
        /// A point, in about the order in which a batch comes by.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($(#[doc = $doc])* $point,)*
        }

        impl Point {
            pub const ALL: &'static [Point] = &[$(Point::$point,)*];

            /// The name by which the environment arms it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Point::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// The state is ours, nothing is read from it yet.
    Opened "opened",
    /// Before the tables of the sink are created or looked at, and after.
    BeforeTables "before_tables",
    TablesReady "tables_ready",
    /// A batch is read from the log and not handed over yet.
    Polled "polled",
    HandedOver "handed_over",
    /// A batch is decoded and not handed to the loop yet.
    Prepared "prepared",
    BeforeApply "before_apply",
    Applied "applied",
    /// Before a commit goes to the store (may fail), and when it is durable but nobody knows.
    BeforeCommit "before_commit",
    CommitDurable "commit_durable",
    /// What a commit changes is written down, and is not an entry of the journal yet.
    JournalWritten "journal_written",
    /// What is held is in the tables and in the journal, and when it is forgotten there.
    Checkpointed "checkpointed",
    JournalForgotten "journal_forgotten",
    /// Rows and deliveries of a durable commit have gone to their workers.
    LetGo "let_go",
    /// Before a range of several commits is recorded, and when that is durable.
    BeforeSeal "before_seal",
    Sealed "sealed",
    /// After looking for what an insert of unknown fate has left.
    Probed "probed",
    /// Before a table's rows are sent (may fail), while their answer is waited for, and when it has come.
    BeforeInsert "before_insert",
    InsertSent "insert_sent",
    Inserted "inserted",
    /// Before a range is acknowledged, while that and the deletion of its rows is staged, and when it is durable.
    BeforeAcknowledge "before_acknowledge",
    OutboxDeleted "outbox_deleted",
    Acknowledged "acknowledged",
    /// Before a delivery's request, while its answer is waited for, and when it has come.
    BeforeRequest "before_request",
    RequestSent "request_sent",
    Answered "answered",
    /// Before an attempt goes to the engine, and when it is recorded durably.
    BeforeAttempt "before_attempt",
    AttemptRecorded "attempt_recorded",
    /// A fill's chunk is read, and durable; all of the past is read; a step of the sweep is staged.
    ChunkRead "chunk_read",
    ChunkAdded "chunk_added",
    HistoryRead "history_read",
    Sweep "sweep",
    /// A correction's history is read; before its switch, and when it is durable.
    RebuildRead "rebuild_read",
    BeforeSwitch "before_switch",
    Switched "switched",
    /// Before the store is closed, and after.
    BeforeClose "before_close",
    Closed "closed",
}

static REGISTRY: LazyLock<Arc<FailPointRegistry>> = LazyLock::new(|| {
    let registry = Arc::new(FailPointRegistry::new());
    if fail_parallel::has_failpoints() {
        // Armed until the process ends.
        std::mem::forget(FailScenario::setup(registry.clone()));
    }
    registry
});

/// Where the points are looked up.
pub fn registry() -> Arc<FailPointRegistry> {
    REGISTRY.clone()
}

/// Passes a point: the process dies here where it is armed to.
pub fn pass(point: Point) {
    // An operation that cannot fail goes on.
    let _ = fail(point);
}

/// Passes a point where an operation may fail.
///
/// # Errors
/// The text that it is armed with.
pub fn fail(point: Point) -> Result<(), String> {
    let _ = point;
    fail_parallel::fail_point!(registry(), point.name(), |text: Option<String>| match text.as_deref() {
        Some("kill") => die(),
        text => Err(text.unwrap_or("a fail point").to_string()),
    });
    Ok(())
}

/// Waits for an answer, and passes the point meanwhile: what was sent is on its way.
pub async fn waiting<T>(point: Point, answer: impl Future<Output = T>) -> T {
    /// Time for a request to leave on loopback; servers of the tests take longer to answer.
    const UNTIL_SENT: Duration = Duration::from_millis(3);
    if !fail_parallel::has_failpoints() {
        return answer.await;
    }
    let passing = async {
        tokio::time::sleep(UNTIL_SENT).await;
        pass(point);
        std::future::pending().await
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        never = passing => never,
    }
}

/// Ends the process by SIGKILL with nothing of it running any longer: `exec` ends all other threads at once, and the shell
/// that takes the process over kills it.
#[allow(dead_code, reason = "there is nobody to call it where the points are compiled away")]
fn die() -> ! {
    let error = std::process::Command::new("sh").args(["-c", "kill -KILL $$"]).exec();
    tracing::error!(%error, "the fail point has no shell to die by");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_names_of_their_own_and_are_armed_in_tests_only_by_name() {
        let mut names: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
        assert!(fail_parallel::has_failpoints(), "cargo test turns them on");
        assert_eq!(fail(Point::BeforeCommit), Ok(()));
    }
}
