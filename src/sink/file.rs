//! A file as a destination: one line of JSON per delivery, appended. A line is on disk before its delivery counts as sent.
//!
//! After a crash a delivery that was written and not recorded comes again. So the ids of the file's last lines are read
//! when it is opened, and a delivery that is among them is not written once more. Deliveries are recorded soon after they
//! are written, so what comes again stands near the end; the last 64 MiB are looked at.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Destination, Outcome};
use crate::activation::{Delivery, time_text};
use crate::event::TimeUs;

const LOOKED_AT_BYTES: u64 = 64 << 20;
/// How every line begins.
const LINE_START: &str = "{\"id\":\"";

/// A file that deliveries are appended to.
pub struct FileDestination(Arc<Shared>);

struct Shared {
    path: PathBuf,
    /// Opened at the first delivery.
    open: Mutex<Option<Open>>,
}

struct Open {
    file: File,
    /// The end of the last whole line.
    length: u64,
    /// Ids that an earlier process has written, hashed.
    before: HashSet<u128>,
}

#[derive(Serialize)]
struct Line<'d> {
    id: &'d str,
    activation: &'d str,
    step: &'d str,
    profile_id: String,
    body: &'d RawValue,
    created_at: String,
}

impl FileDestination {
    pub fn new(path: PathBuf) -> FileDestination {
        FileDestination(Arc::new(Shared { path, open: Mutex::new(None) }))
    }
}

#[async_trait]
impl Destination for FileDestination {
    async fn send(&self, delivery: &Delivery, attempted_at: TimeUs) -> Outcome {
        let outcomes = self.send_batch(&[delivery], attempted_at).await;
        outcomes
            .into_iter()
            .next()
            .unwrap_or_else(|| Outcome::Retry { detail: "nothing was written".into(), after: None })
    }

    /// One write and one flush to disk for all of them.
    async fn send_batch(&self, deliveries: &[&Delivery], _attempted_at: TimeUs) -> Vec<Outcome> {
        let lines: Vec<Result<(u128, String), String>> = deliveries.iter().map(|delivery| line(delivery)).collect();
        let (shared, count) = (self.0.clone(), lines.len());
        let written = tokio::task::spawn_blocking(move || shared.append(&lines)).await;
        let retry = |detail: String| vec![Outcome::Retry { detail, after: None }; count];
        match written {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(detail)) => retry(detail),
            Err(_) => retry("the write was interrupted".to_string()),
        }
    }
}

fn hash(id: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(id.as_bytes())
}

fn line(delivery: &Delivery) -> Result<(u128, String), String> {
    let body: &RawValue = serde_json::from_str(&delivery.body).map_err(|_| "the body is no JSON".to_string())?;
    let line = Line {
        id: &delivery.id,
        activation: &delivery.activation,
        step: &delivery.step,
        profile_id: delivery.profile_id.to_string(),
        body,
        created_at: time_text(delivery.created_at),
    };
    let text = serde_json::to_string(&line).map_err(|error| error.to_string())?;
    Ok((hash(&delivery.id), text))
}

impl Shared {
    /// Writes what is not there yet. What went wrong, for people; then nothing counts as written.
    fn append(&self, lines: &[Result<(u128, String), String>]) -> Result<Vec<Outcome>, String> {
        let said = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let mut guard = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match guard.take() {
            Some(open) => guard.insert(open),
            None => guard.insert(self.open()?),
        };
        let mut text = String::new();
        let mut outcomes = Vec::with_capacity(lines.len());
        for line in lines {
            outcomes.push(match line {
                Err(detail) => Outcome::Failed(detail.clone()),
                Ok((id, _)) if open.before.contains(id) => Outcome::Sent("was there already".to_string()),
                Ok((_, line)) => {
                    text.push_str(line);
                    text.push('\n');
                    Outcome::Sent("written".to_string())
                }
            });
        }
        let written = open.file.write_all(text.as_bytes()).and_then(|()| open.file.sync_data());
        if let Err(error) = written {
            // A part of it may stand there: it is taken back, or found when the file is opened again.
            let _ = open.file.set_len(open.length);
            *guard = None;
            return Err(said(error));
        }
        open.length += text.len() as u64;
        Ok(outcomes)
    }

    fn open(&self) -> Result<Open, String> {
        let said = |error: std::io::Error| format!("{}: {error}", self.path.display());
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(said)?;
        }
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path).map_err(said)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!("{}: another process or destination writes to it", self.path.display()));
            }
            Err(TryLockError::Error(error)) => return Err(said(error)),
        }
        let length = file.metadata().map_err(said)?.len();
        let from = length.saturating_sub(LOOKED_AT_BYTES);
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut tail)).map_err(said)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let torn = &tail[whole..];
        let mut length = length;
        if !torn.is_empty() {
            let ours = torn.len() < LINE_START.len() && LINE_START.as_bytes().starts_with(torn)
                || torn.starts_with(LINE_START.as_bytes());
            if ours && serde_json::from_slice::<&RawValue>(torn).is_err() {
                length = from + whole as u64;
                file.set_len(length).map_err(said)?;
            } else {
                file.write_all(b"\n").map_err(said)?;
                length += 1;
            }
        }
        Ok(Open { file, length, before: ids(&tail) })
    }
}

/// The ids of the whole lines in it.
fn ids(tail: &[u8]) -> HashSet<u128> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let lines = tail.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice::<Id>(line).ok()).map(|line| hash(&line.id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ProfileId;

    fn delivery(id: &str) -> Delivery {
        Delivery {
            id: id.into(),
            activation: "welcome".into(),
            step: "mail".into(),
            destination: "out".into(),
            profile_id: ProfileId([7; 16]),
            lane: 7,
            body: "{\"to\":\"ann@x.example\",\"n\":1.50}".into(),
            created_at: 1_767_225_600_000_000,
            dry_run: false,
            consent: None,
        }
    }

    fn written(path: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let id =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_string();
        text.lines().map(id).collect()
    }

    #[tokio::test]
    async fn a_delivery_is_a_line_with_its_body_to_the_letter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out/mail.ndjson");
        let file = FileDestination::new(path.clone());
        assert_eq!(file.send(&delivery("a"), 0).await, Outcome::Sent("written".into()));
        let not_json = Delivery { body: "{".into(), ..delivery("b") };
        let outcomes = file.send_batch(&[&not_json, &delivery("c")], 0).await;
        assert_eq!(outcomes, [Outcome::Failed("the body is no JSON".into()), Outcome::Sent("written".into())]);
        let text = std::fs::read_to_string(&path).unwrap();
        let first = format!(
            r#"{{"id":"a","activation":"welcome","step":"mail","profile_id":"{}","body":{{"to":"ann@x.example","n":1.50}},"created_at":"2026-01-01T00:00:00.000Z"}}"#,
            ProfileId([7; 16])
        );
        assert_eq!(text.lines().next(), Some(first.as_str()));
        assert_eq!(written(&path), ["a", "c"]);
    }

    /// Each row: what stands in the file when a process opens it, and the ids after `b` was sent (again).
    #[tokio::test]
    async fn a_repeat_after_a_crash_is_not_written_twice_whatever_the_crash_left() {
        let (a, b) = (line(&delivery("a")).unwrap().1, line(&delivery("b")).unwrap().1);
        let mut rows = vec![
            (String::new(), vec!["b"]),
            (format!("{a}\n"), vec!["a", "b"]),
            (format!("{a}\n{b}\n"), vec!["a", "b"]),
            (format!("{a}\n{b}"), vec!["a", "b"]),
            (format!("{b}\n{a}\n"), vec!["b", "a"]),
        ];
        // Torn at every byte of its line.
        rows.extend((1..b.len()).map(|cut| (format!("{a}\n{}", &b[..cut]), vec!["a", "b"])));
        let folder = tempfile::tempdir().unwrap();
        for (number, (left, expected)) in rows.into_iter().enumerate() {
            let path = folder.path().join(format!("{number}.ndjson"));
            std::fs::write(&path, &left).unwrap();
            let outcome = FileDestination::new(path.clone()).send(&delivery("b"), 0).await;
            assert!(matches!(outcome, Outcome::Sent(_)), "{left}");
            assert_eq!(written(&path), expected, "{left}");
        }
    }

    #[tokio::test]
    async fn nobody_elses_text_is_taken_back_and_nobody_else_writes_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "not ours").unwrap();
        let file = FileDestination::new(path.clone());
        file.send(&delivery("a"), 0).await;
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("not ours\n{\"id\":\"a\""));
        let second = FileDestination::new(path.clone()).send(&delivery("b"), 0).await;
        assert!(matches!(&second, Outcome::Retry { detail, .. } if detail.contains("another process")), "{second:?}");
        drop(file);
        assert_eq!(FileDestination::new(path).send(&delivery("b"), 0).await, Outcome::Sent("written".into()));
    }
}
