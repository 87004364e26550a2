//! `now`: what time it is for the state (SEMANTICS §1).

use super::*;

impl Loop {
    /// SEMANTICS §1: the least of the wall clock and, over the partitions not yet read to their end, the broker's timestamp
    /// of the last record consumed. Where nothing but files is read, the time of their events.
    pub(super) fn now(&self, batch: Option<&Prepared>) -> TimeUs {
        let wall = clock::now_us();
        let before = self.core.record.now;
        if !self.options.read {
            return before;
        }
        if self.pipeline.sources.iter().all(SourcePlan::is_file) {
            let happened = batch.map_or(TimeUs::MIN, |batch| batch.happened);
            return before.max(happened).min(wall.max(before));
        }
        let waiting = self.caught_up.iter().filter(|(_, caught_up)| !**caught_up).map(|(name, _)| name.as_str());
        waiting.map(|source| self.reading_times.of(source).unwrap_or(before)).fold(wall, TimeUs::min)
    }
}

/// How far each partition is read that is not read to its end.
#[derive(Debug, Default)]
pub(super) struct ReadTimes {
    /// Source → topic and partition → the broker's timestamp of the last record.
    sources: BTreeMap<String, BTreeMap<(Arc<str>, i32), TimeUs>>,
}

impl ReadTimes {
    pub(super) fn read(&mut self, batch: &Prepared) {
        let partitions = self.sources.entry(batch.source.to_string()).or_default();
        for (place, at) in &batch.read_until {
            partitions.insert(place.clone(), *at);
        }
    }

    pub(super) fn at_end(&mut self, source: &str, topic: &Arc<str>, partition: i32) {
        if let Some(partitions) = self.sources.get_mut(source) {
            partitions.remove(&(topic.clone(), partition));
        }
    }

    pub(super) fn all_at_end(&mut self, source: &str) {
        self.sources.remove(source);
    }

    pub(super) fn of(&self, source: &str) -> Option<TimeUs> {
        self.sources.get(source)?.values().min().copied()
    }
}
