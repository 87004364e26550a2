//! `now`: what time it is for the state (SEMANTICS §1).

use super::*;

impl Loop {
    /// SEMANTICS §1: the least of the wall clock and, over the partitions not yet read to their end, the broker's timestamp
    /// of the last record consumed. Where nothing but files is read, the time of their events.
    pub(super) fn now(&self, batch: Option<&Prepared>) -> TimeUs {
        let before = self.core.record.now;
        if !self.options.read {
            return before;
        }
        if self.pipeline.sources.iter().all(SourcePlan::is_file) {
            let happened = batch.map_or(TimeUs::MIN, |batch| batch.happened);
            return now_of_files(before, clock::now_us(), happened);
        }
        let waiting = self.caught_up.iter().filter(|(_, caught_up)| !**caught_up).map(|(name, _)| name.as_str());
        self.reading_times.now(before, clock::now_us(), waiting)
    }
}

/// The latest time of an event, no later than the wall clock.
fn now_of_files(before: TimeUs, wall: TimeUs, happened: TimeUs) -> TimeUs {
    before.max(happened.min(wall))
}

/// How far each partition is read that is not read to its end.
#[derive(Debug, Default)]
pub(super) struct ReadTimes {
    /// Source → topic and partition → the broker's timestamp of the last record.
    sources: BTreeMap<String, BTreeMap<(Arc<str>, i32), TimeUs>>,
}

impl ReadTimes {
    /// `waiting` are the sources that are not read to their end. One of which nothing is known yet may have records of any
    /// time: nothing passes.
    fn now<'s>(&self, before: TimeUs, wall: TimeUs, waiting: impl Iterator<Item = &'s str>) -> TimeUs {
        let read = waiting.map(|source| self.of(source).unwrap_or(before));
        read.fold(wall, TimeUs::min).max(before)
    }

    pub(super) fn read(&mut self, batch: &Prepared) {
        for ((topic, partition), at) in &batch.read_until {
            self.read_until(&batch.source, topic.clone(), *partition, *at);
        }
    }

    fn read_until(&mut self, source: &str, topic: Arc<str>, partition: i32, at: TimeUs) {
        self.sources.entry(source.to_string()).or_default().insert((topic, partition), at);
    }

    /// Records are waiting, whose times nobody knows.
    pub(super) fn behind(&mut self, source: &str, topic: Arc<str>, partition: i32) {
        self.sources.entry(source.to_string()).or_default().entry((topic, partition)).or_insert(TimeUs::MIN);
    }

    pub(super) fn at_end(&mut self, source: &str, topic: &Arc<str>, partition: i32) {
        if let Some(partitions) = self.sources.get_mut(source) {
            partitions.remove(&(topic.clone(), partition));
        }
    }

    pub(super) fn all_at_end(&mut self, source: &str) {
        self.sources.remove(source);
    }

    fn of(&self, source: &str) -> Option<TimeUs> {
        self.sources.get(source)?.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        /// Source, partition, the broker's timestamp of the last record read.
        Read(&'static str, i32, TimeUs),
        Behind(&'static str, i32),
        AtEnd(&'static str, i32),
        CaughtUp(&'static str),
    }
    use Step::*;

    /// SEMANTICS §1: the wall clock is at 100, two sources are read, and `now` was 10.
    #[test]
    fn now_is_the_least_of_the_wall_clock_and_what_is_being_read() {
        let rows: [(&str, &[Step], TimeUs); 12] = [
            ("nothing is known yet: time stands", &[], 10),
            ("one source is read to its end, the other is not heard of", &[CaughtUp("a")], 10),
            ("both are read to their end", &[CaughtUp("a"), CaughtUp("b")], 100),
            ("one is being read", &[Read("a", 0, 50), CaughtUp("b")], 50),
            ("the one furthest behind counts", &[Read("a", 0, 50), Read("b", 0, 40)], 40),
            ("and of its partitions", &[Read("a", 0, 50), Read("a", 1, 30), CaughtUp("b")], 30),
            (
                "a partition that is read to its end holds up nothing",
                &[Read("a", 0, 50), Read("a", 1, 30), AtEnd("a", 1), CaughtUp("b")],
                50,
            ),
            (
                "one whose first record is not read yet may have any time",
                &[Behind("a", 0), Behind("a", 1), Read("a", 0, 50), CaughtUp("b")],
                10,
            ),
            (
                "until it is read",
                &[Behind("a", 0), Behind("a", 1), Read("a", 0, 50), Read("a", 1, 60), CaughtUp("b")],
                50,
            ),
            ("records after the end", &[CaughtUp("a"), CaughtUp("b"), Read("a", 0, 90)], 90),
            ("older ones than now do not turn time back", &[CaughtUp("b"), Read("a", 0, 5)], 10),
            ("a broker's clock ahead of ours", &[CaughtUp("b"), Read("a", 0, 500)], 100),
        ];
        for (what, steps, expect) in rows {
            let mut times = ReadTimes::default();
            let mut caught_up = BTreeMap::from([("a", false), ("b", false)]);
            for step in steps {
                match step {
                    Read(source, partition, at) => {
                        times.read_until(source, "t".into(), *partition, *at);
                        caught_up.insert(source, false);
                    }
                    Behind(source, partition) => times.behind(source, "t".into(), *partition),
                    AtEnd(source, partition) => times.at_end(source, &"t".into(), *partition),
                    CaughtUp(source) => {
                        times.all_at_end(source);
                        caught_up.insert(source, true);
                    }
                }
            }
            let waiting = caught_up.iter().filter(|(_, caught_up)| !**caught_up).map(|(name, _)| *name);
            assert_eq!(times.now(10, 100, waiting), expect, "{what}");
        }
    }

    /// SEMANTICS §1: now follows the events of files, never backwards and never beyond the wall clock.
    #[test]
    fn files_carry_their_time() {
        // (before, wall clock, latest event, now)
        for (before, wall, happened, expect) in [
            (10, 100, 50, 50),
            (60, 100, 50, 60),
            (10, 100, TimeUs::MIN, 10),
            (10, 100, 500, 100),
            (110, 100, 500, 110),
        ] {
            assert_eq!(now_of_files(before, wall, happened), expect, "{before} {wall} {happened}");
        }
    }
}
