//! One writer: a second process waits, or takes over with `--takeover`; the first then stops for good (exit 4).

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use crate::cdnow::produce;
use crate::support::{Running, copy_pipeline, eventually, output_of, servers, text_of, tributary, unique};

struct Setup {
    folder: tempfile::TempDir,
    topic: String,
}

impl Setup {
    fn new() -> Setup {
        let setup = Setup { folder: tempfile::tempdir().expect("folder"), topic: unique("fencing") };
        produce(&setup.topic, &servers().kafka);
        copy_pipeline("cdnow", setup.folder.path(), &[("cdnow.orders", &setup.topic)]);
        setup
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = tributary(args);
        command.arg("-C").arg(self.folder.path().join("cdnow")).arg("--data").arg(self.data());
        command.env("KAFKA_BROKERS", &servers().kafka).stderr(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// Waits until the running process says in its status that all orders are in.
    fn wait_for_orders(&self) {
        eventually("all orders are applied", || self.total("events"), |events| *events == 69_659);
    }

    fn total(&self, name: &str) -> i64 {
        let output = self.command(&["status", "--output", "json"]).output().expect("the program starts");
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["totals"][name].as_i64().unwrap_or(-1)
    }
}

fn stderr_of(running: &mut Running) -> String {
    let mut text = String::new();
    if let Some(stderr) = running.0.stderr.as_mut() {
        let _ = stderr.read_to_string(&mut text);
    }
    text
}

fn exit_code(running: &mut Running) -> i32 {
    let ended = eventually("the process ends", || running.0.try_wait().expect("a child"), Option::is_some);
    ended.and_then(|status| status.code()).unwrap_or(-1)
}

#[test]
fn a_takeover_stops_the_first_for_good_and_it_writes_nothing_after() {
    let setup = Setup::new();
    let mut first = Running::start(setup.command(&["run"]));
    setup.wait_for_orders();
    let mut second = Running::start(setup.command(&["run", "--takeover"]));
    assert_eq!(exit_code(&mut first), 4);
    let said = stderr_of(&mut first);
    assert!(said.contains("taken over"), "the first says why it stopped: {said}");

    // The second goes on with the same state; more orders are applied once.
    eventually("the second answers", || setup.total("events"), |events| *events == 69_659);
    produce(&setup.topic, &servers().kafka);
    eventually("the second reads on", || setup.total("records"), |records| *records == 2 * 69_659);
    assert_eq!(setup.total("events"), 69_659);
    second.kill();
    // What is left is whole: a third process opens it and finds nothing more to do.
    let last = setup.command(&["run", "--drain"]).output().expect("the program starts");
    assert!(last.status.success(), "{}", text_of(&last));
    assert_eq!(setup.total("records"), 2 * 69_659);
    assert_eq!(setup.total("events"), 69_659);
}

#[test]
fn without_the_flag_the_second_waits_while_the_first_is_alive() {
    let setup = Setup::new();
    let mut first = Running::start(setup.command(&["run"]));
    setup.wait_for_orders();
    let mut second = Running::start(setup.command(&["run", "--drain"]));
    // Longer than the time after which a silent holder would be taken for dead.
    std::thread::sleep(Duration::from_secs(5));
    assert!(second.0.try_wait().expect("a child").is_none(), "the second waits");
    assert!(first.0.try_wait().expect("a child").is_none(), "the first goes on");
    first.kill();
    assert_eq!(exit_code(&mut second), 0, "{}", stderr_of(&mut second));
    let said = stderr_of(&mut second);
    assert!(said.contains("--takeover"), "the second says whom it waits for and what to do: {said}");
}

#[test]
fn rejected_replay_beside_a_running_process_goes_through_it() {
    let setup = Setup::new();
    let mut first = Running::start(setup.command(&["run"]));
    setup.wait_for_orders();
    let output = setup.command(&["rejected", "replay"]).output().expect("the program starts");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("0 tried again"));
    assert!(first.0.try_wait().expect("a child").is_none(), "the running process goes on");
    let _ = output_of(setup.command(&["status"]));
}
