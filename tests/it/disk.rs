//! A disk that is full, and one that fails: the process says which and what to do, and goes on with nothing lost.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cdnow::{EXPECTED, FIGURES, path};
use crate::support::{Running, eventually, output_of, text_of, tributary};

fn run(data: &Path) -> Command {
    let mut command = tributary(&["run", "--drain", "-C", "pipelines/cdnow", "--data", path(data)]);
    command.env("TRIBUTARY_BATCH_RECORDS", "2000").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn assert_whole(data: &Path) {
    let args = ["query", FIGURES, "-C", "pipelines/cdnow", "--data", path(data), "--output", "csv"];
    let figures = output_of(tributary(&args));
    assert_eq!(figures.lines().nth(1).expect("a row").split(',').collect::<Vec<_>>(), EXPECTED);
}

/// A small disk of one's own, gone when the test is.
struct Disk(tempfile::TempDir);

impl Disk {
    /// None, with a word on why, where this user may not mount.
    fn of_mb(mb: u32) -> Option<Disk> {
        let folder = tempfile::tempdir().expect("folder");
        let size = format!("size={mb}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none", path(folder.path())]).output();
        match mount {
            Ok(output) if output.status.success() => Some(Disk(folder)),
            Ok(output) => {
                println!("skipped: mounting a small tmpfs needs root: {}", text_of(&output).trim());
                None
            }
            Err(error) => {
                println!("skipped: there is no `mount`: {error}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    /// Takes all room but this much.
    fn fill(&self, left_bytes: usize) {
        let mut file = std::fs::File::create(self.ballast()).expect("file");
        let block = vec![0u8; 1 << 16];
        let mut written = 0u64;
        while file.write_all(&block).is_ok() {
            written += block.len() as u64;
        }
        file.set_len(written.saturating_sub(left_bytes as u64)).expect("shortened");
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_nothing_is_lost_when_there_is_room_again() {
    let Some(disk) = Disk::of_mb(160) else { return };
    let data = disk.0.path().join("data");
    // Room for the start and some commits.
    disk.fill(2 << 20);
    let mut running = Running::start(run(&data));
    let mut stderr = running.0.stderr.take().expect("piped");
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("text");
        said
    });
    let mut ended = None;
    for _ in 0..3_000 {
        ended = running.0.try_wait().expect("a child");
        if ended.is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let said = said.join().expect("text");
    assert_eq!(ended.and_then(|ended| ended.code()), Some(3), "{said}");
    for part in
        ["has not taken a commit for", path(&data), "No space left", "disk is full", "make room there and start again"]
    {
        assert!(said.contains(part), "`{part}` is not said: {said}");
    }
    disk.free();
    let last = run(&data).output().expect("the program starts");
    assert!(last.status.success(), "{}", text_of(&last));
    assert_whole(&data);
}

#[test]
fn room_that_is_made_in_time_is_all_it_takes() {
    let Some(disk) = Disk::of_mb(160) else { return };
    let data = disk.0.path().join("data");
    disk.fill(2 << 20);
    let mut running = Running::start(run(&data));
    // The store has failed to write for some seconds, and says so.
    let said = BufReader::new(running.0.stderr.take().expect("piped"));
    let mut lines = said.lines().map(|line| line.expect("text"));
    assert!(lines.any(|line| line.contains("has not taken a commit for")), "it says what it waits for");
    assert!(running.0.try_wait().expect("a child").is_none(), "it waits");
    disk.free();
    // Read to the end, so that nothing blocks it.
    let rest: Vec<String> = lines.collect();
    let ended = eventually("it ends", || running.0.try_wait().expect("a child"), Option::is_some);
    assert_eq!(ended.and_then(|ended| ended.code()), Some(0), "{rest:?}");
    assert_whole(&data);
}

#[test]
fn a_write_that_fails_stops_the_process_before_anything_of_it_leaves() {
    // The store's own write, and the commit before it comes there.
    for (point, text) in [("write-wal-sst-io-error", "oops"), ("before_commit", "Input/output error")] {
        let folder = tempfile::tempdir().expect("folder");
        let data = folder.path().join("data");
        for passing in [1, 4, 9] {
            let armed = format!("{point}={passing}*off->return({text})");
            let failed = run(&data).env("FAILPOINTS", armed).output().expect("the program starts");
            let said = text_of(&failed);
            assert_eq!(failed.status.code(), Some(3), "{point}: {said}");
            assert!(said.contains("the state storage cannot be used") && said.contains(text), "{point}: {said}");
        }
        let last = run(&data).output().expect("the program starts");
        assert!(last.status.success(), "{}", text_of(&last));
        assert_whole(&data);
    }
}
