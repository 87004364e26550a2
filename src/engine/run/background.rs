//! What the loop does besides its input: timers that are due, and definitions that come to know the past.

use super::*;
use crate::engine::core::{Chunk, FillRecord};

/// A timer further away than a day is looked at again then.
const WAIT_MAX_US: TimeUs = 86_400_000_000;

impl Loop {
    /// Returns when timers are due or people have to be judged anew.
    pub(super) fn wait_for_background(&self) -> impl Future<Output = ()> + use<> {
        let busy = self.core.is_sweeping() || self.core.next_due() <= self.core.record.now;
        // A `now` that is held back brings no timer nearer, however little it is behind; the next input looks again.
        let wall = clock::now_us();
        let wait_us = self.core.next_due().saturating_sub(wall);
        let ticks = self.now(None) >= wall;
        async move {
            if busy {
                return;
            }
            if !ticks || wait_us > WAIT_MAX_US {
                return std::future::pending().await;
            }
            clock::sleep(std::time::Duration::from_micros(wait_us.max(0) as u64)).await;
        }
    }

    /// Fires timers that are due and judges the next people of a sweep, each a commit of bounded size.
    pub(super) async fn work_in_background(&mut self) -> Result<(), EngineError> {
        let now = self.now(None);
        if self.core.must_read_timers() || self.core.is_sweeping() {
            self.finish_commit().await?;
        }
        if let Some(staged) = self.core.fire_timers(now).await? {
            self.finish_commit().await?;
            self.launch(staged, Vec::new(), None);
        }
        if self.core.is_sweeping() || self.core.scan_due() <= now {
            self.finish_commit().await?;
            if let Some(staged) = self.core.sweep(now).await? {
                failpoint::pass(Point::Sweep);
                self.launch(staged, Vec::new(), None);
            }
        }
        Ok(())
    }

    /// Starts reading the history that a fill needs, once the tables hold all of it.
    pub(super) async fn read_fill(&mut self) -> Result<(), EngineError> {
        let Some(fill) = self.core.fill.clone().filter(|fill| fill.swept.is_none()) else { return Ok(()) };
        if self.filling || self.core.rebuild.is_some() {
            return Ok(());
        }
        // A rebuild that ended after the fill was planned has moved events of before: the tables must know of that too.
        let moves = crate::sink::tables::event_moves().name;
        let waits = |(commit, tables): (&u64, &Vec<String>)| *commit <= fill.upto || tables.contains(&moves);
        if self.core.outbox.iter().any(waits) {
            return Ok(());
        }
        self.filling = true;
        let restore = Restore::new(&self.pipeline.transform.fields);
        let filter = fill.filter(self.core.slots(), &self.pipeline, self.core.record.now);
        let (history, engine, status) = (self.history.clone(), self.engine.clone(), self.status.clone());
        let rows_at_once = self.options.background_rows;
        tokio::spawn(async move {
            // Fails only when the engine is gone; the next start goes on.
            let reader = reader(&*history, restore, filter, &fill);
            if let Err(error) = fill_from(reader, &fill, rows_at_once, &engine, &status).await {
                let _ = engine.send(Input::Failed(error)).await;
            }
        });
        Ok(())
    }

    /// How far a fill is.
    pub(super) fn tell_fill(&self) {
        let text = self.core.fill.as_ref().map(|fill| fill.progress(self.core.record.next_profile));
        metrics::gauge!("tributary_fill_running").set(if text.is_some() { 1.0 } else { 0.0 });
        self.status.change(|status| status.fill = text);
    }
}

fn reader<'h>(
    history: &'h dyn History,
    restore: Restore,
    filter: HistoryFilter,
    fill: &FillRecord,
) -> HistoryReader<'h> {
    // The commit in which the last chunk ended is read again, for what is left of it.
    let after = fill.cursor.map_or(0, |(commit, _)| commit.saturating_sub(1));
    HistoryReader::new(history, restore, filter, CommitRange { after, upto: fill.upto })
}

/// Reads the events that a fill needs and hands them over, so many at a time. A side that is away only delays.
async fn fill_from(
    mut reader: HistoryReader<'_>,
    fill: &FillRecord,
    rows_at_once: usize,
    engine: &mpsc::Sender<Input>,
    status: &SharedStatus,
) -> Result<(), EngineError> {
    let mut warned = String::new();
    loop {
        let stored = match reader.next().await {
            Ok(Some(stored)) => stored,
            Ok(None) => break,
            Err(error @ EngineError::Internal(_)) => return Err(error),
            Err(error) => {
                let problem = error.to_string();
                if problem != warned {
                    tracing::warn!(%error, "a new definition waits for the history that it needs");
                    warned.clone_from(&problem);
                }
                status.change(|status| status.fill = Some(problem));
                clock::sleep(std::time::Duration::from_secs(2)).await;
                continue;
            }
        };
        let mut start = stored.places.partition_point(|place| fill.cursor.is_some_and(|cursor| *place <= cursor));
        while start < stored.len() {
            let length = rows_at_once.min(stored.len() - start);
            let part = stored.slice(start, length);
            let cursor = part.places[length - 1];
            failpoint::pass(Point::ChunkRead);
            let (done, added) = oneshot::channel();
            let command = Command::Fill { chunk: Box::new(Chunk { stored: part, cursor }), done };
            if engine.send(Input::Command(command)).await.is_err() || added.await.is_err() {
                return Ok(());
            }
            failpoint::pass(Point::ChunkAdded);
            start += length;
        }
    }
    failpoint::pass(Point::HistoryRead);
    let _ = engine.send(Input::Command(Command::HistoryRead)).await;
    Ok(())
}
