//! Where a person is in journeys, and what journeys must remember of it. Stored with the profile; `activation` walks it.
//!
//! Numbers stand for definitions: an activation keeps its number under its name, each version of it has one of its own
//! (`plan`). So a run goes on along the version that it began with.

use serde::{Deserialize, Serialize};

use crate::event::TimeUs;

/// One person's journeys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journeys {
    /// Those under way, in order of entry.
    pub runs: Vec<Run>,
    /// By number of the activation: those whose next entry depends on it.
    pub past: Vec<Past>,
    /// By number of the cap: when what counts against it was sent.
    pub sends: Vec<Sends>,
    /// By number of the audience: what its destination was told.
    pub listed: Vec<Listed>,
}

/// One way through a journey, waiting at a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub activation: u32,
    pub plan: u32,
    /// The entry's id, a hash of what caused it (SEMANTICS §7); it stays through merges.
    pub entry: [u8; 16],
    /// When what caused it happened.
    pub entered_at: TimeUs,
    /// The step at which it waits, by its place in the plan.
    pub step: u16,
    /// When it goes on by itself; [`TimeUs::MAX`]: never.
    pub due: TimeUs,
    /// The arm of each split of the plan, chosen at entry.
    pub arms: Vec<u8>,
    /// The hash of the best identifier at entry: whom it follows when the person is taken apart.
    pub who: [u8; 16],
    /// What later templates read of the cause, as JSON.
    pub memory: Option<Box<str>>,
}

/// Entries into one activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    pub activation: u32,
    pub entries: u32,
    pub last_at: TimeUs,
}

/// The latest times at which something was sent that counts against a cap, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sends {
    pub cap: u32,
    pub at: Vec<TimeUs>,
}

/// What an audience's destination was told of a person. It stays when all is taken back, since ids are counted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub audience: u32,
    /// The profile id at the first of its deliveries: part of their ids, with [`Listed::told`].
    pub who: [u8; 16],
    /// Deliveries so far.
    pub told: u32,
    /// The identifiers that the other side has, by type and value, in order.
    pub sent: Vec<(u16, Box<str>)>,
    /// When all of them were last sent.
    pub sent_at: TimeUs,
}

/// So many sends are remembered of a cap at most; more than any cap may count.
pub const SENDS_MAX: usize = 100;

impl Journeys {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.past.is_empty() && self.sends.is_empty() && self.listed.is_empty()
    }

    pub fn past(&self, activation: u32) -> Option<Past> {
        self.past.iter().find(|past| past.activation == activation).copied()
    }

    pub fn note_entry(&mut self, activation: u32, at: TimeUs) {
        self.add_past(Past { activation, entries: 1, last_at: at });
    }

    fn add_past(&mut self, new: Past) {
        match self.past.iter_mut().find(|past| past.activation == new.activation) {
            Some(past) => {
                past.entries += new.entries;
                past.last_at = past.last_at.max(new.last_at);
            }
            None => self.past.push(new),
        }
    }

    /// How many sends of a cap there were after this time.
    pub fn sent_after(&self, cap: u32, after: TimeUs) -> usize {
        let sends = self.sends.iter().find(|sends| sends.cap == cap);
        sends.map_or(0, |sends| sends.at.iter().filter(|at| **at > after).count())
    }

    /// Notes a send that counts against a cap, of which those before `forget` no longer matter.
    pub fn note_send(&mut self, cap: u32, at: TimeUs, forget: TimeUs) {
        self.add_sends(Sends { cap, at: vec![at] });
        if let Some(sends) = self.sends.iter_mut().find(|sends| sends.cap == cap) {
            sends.at.retain(|at| *at > forget);
        }
    }

    fn add_sends(&mut self, new: Sends) {
        let sends = match self.sends.iter_mut().position(|sends| sends.cap == new.cap) {
            Some(place) => &mut self.sends[place],
            None => {
                self.sends.push(Sends { cap: new.cap, at: Vec::new() });
                let last = self.sends.len() - 1;
                &mut self.sends[last]
            }
        };
        sends.at.extend(new.at);
        sends.at.sort_unstable();
        let beyond = sends.at.len().saturating_sub(SENDS_MAX);
        sends.at.drain(..beyond);
    }

    pub fn listed(&self, audience: u32) -> Option<&Listed> {
        self.listed.iter().find(|listed| listed.audience == audience)
    }

    /// What was sent of either is sent of both. Counts go on from the higher one, so that no id is used twice whichever of the two
    /// names stays.
    fn add_listed(&mut self, new: Listed) {
        let Some(mine) = self.listed.iter_mut().find(|listed| listed.audience == new.audience) else {
            self.listed.push(new);
            self.listed.sort_by_key(|listed| listed.audience);
            return;
        };
        mine.sent_at = match (mine.sent.is_empty(), new.sent.is_empty()) {
            (true, _) => new.sent_at,
            (_, true) => mine.sent_at,
            _ => mine.sent_at.min(new.sent_at),
        };
        mine.who = mine.who.min(new.who);
        mine.told = mine.told.max(new.told);
        mine.sent.extend(new.sent);
        mine.sent.sort_unstable();
        mine.sent.dedup();
    }

    /// What of [`Journeys::listed`] goes with one of those that a person is taken apart into: the identifiers for which `owns` is
    /// true. Each counts on under a name of its own; `counted` is how far ids of that name may have been used before.
    pub fn part_listed(&self, who: [u8; 16], counted: u32, owns: &dyn Fn(u16, &str) -> bool) -> Vec<Listed> {
        let part = |listed: &Listed| Listed {
            who,
            told: listed.told.max(counted),
            sent: listed.sent.iter().filter(|(kind, value)| owns(*kind, value)).cloned().collect(),
            ..listed.clone()
        };
        self.listed.iter().map(part).collect()
    }

    /// Takes over those of an absorbed person. Of an activation for which `one` is true only the run that began first goes
    /// on; of every activation an entry goes on once. Gives those that end with it.
    pub fn merge(&mut self, other: Journeys, one: &dyn Fn(u32) -> bool) -> Vec<Run> {
        other.past.into_iter().for_each(|past| self.add_past(past));
        other.sends.into_iter().for_each(|sends| self.add_sends(sends));
        other.listed.into_iter().for_each(|listed| self.add_listed(listed));
        let mut all = std::mem::take(&mut self.runs);
        all.extend(other.runs);
        // The same whichever side absorbs the other.
        all.sort_by_key(|run| (run.entered_at, run.entry));
        let mut ended = Vec::new();
        for run in all {
            let same =
                |known: &Run| known.activation == run.activation && (one(run.activation) || known.entry == run.entry);
            if self.runs.iter().any(same) {
                ended.push(run);
            } else {
                self.runs.push(run);
            }
        }
        ended
    }

    pub fn weigh(&self) -> usize {
        let runs = self.runs.iter().map(|run| run.arms.capacity() + run.memory.as_ref().map_or(0, |text| text.len()));
        let sends = self.sends.iter().map(|sends| sends.at.capacity() * size_of::<TimeUs>());
        let listed = self.listed.iter().map(|listed| {
            let values = listed.sent.iter().map(|(_, value)| value.len()).sum::<usize>();
            size_of::<Listed>() + listed.sent.capacity() * size_of::<(u16, Box<str>)>() + values
        });
        size_of::<Journeys>()
            + self.runs.capacity() * size_of::<Run>()
            + self.past.capacity() * size_of::<Past>()
            + self.sends.capacity() * size_of::<Sends>()
            + runs.sum::<usize>()
            + sends.sum::<usize>()
            + listed.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(activation: u32, entry: u8, entered_at: TimeUs) -> Run {
        Run {
            activation,
            plan: activation,
            entry: [entry; 16],
            entered_at,
            step: 0,
            due: 0,
            arms: Vec::new(),
            who: [0; 16],
            memory: None,
        }
    }

    /// A million who wait are some 55 MB more in the state, and their timers 21 bytes each.
    #[test]
    fn who_waits_takes_fifty_five_bytes() {
        let at = 1_772_000_000_123_456;
        let one = Run { plan: 130, step: 12, due: at + 86_400_000_000, arms: vec![1], ..run(17, 0xAB, at) };
        assert_eq!(postcard::to_stdvec(&one).unwrap().len(), 55);
    }

    /// SEMANTICS §10 and DESIGN §7: journeys merge by dropping duplicates.
    #[test]
    fn of_two_people_who_become_one_a_journey_goes_on_once_whoever_absorbs_whom() {
        let mine = Journeys { runs: vec![run(1, 1, 20), run(2, 2, 5)], ..Journeys::default() };
        let theirs = Journeys { runs: vec![run(1, 3, 10), run(2, 2, 5), run(2, 4, 7)], ..Journeys::default() };
        let one = |activation| activation == 1;
        let entries = |runs: &[Run]| runs.iter().map(|run| run.entry[0]).collect::<Vec<_>>();
        for (mut into, from) in [(mine.clone(), theirs.clone()), (theirs, mine)] {
            let ended = into.merge(from, &one);
            assert_eq!(entries(&into.runs), [2, 4, 3], "the one of activation 1 that began first, both entries of 2");
            assert_eq!(entries(&ended), [2, 1]);
        }
    }

    #[test]
    fn what_was_sent_and_entered_adds_up() {
        let mut mine = Journeys::default();
        mine.note_send(7, 100, 0);
        mine.note_entry(1, 50);
        let mut theirs = Journeys::default();
        theirs.note_send(7, 90, 0);
        theirs.note_entry(1, 70);
        mine.merge(theirs, &|_| true);
        assert_eq!((mine.sent_after(7, 89), mine.sent_after(7, 90), mine.sent_after(8, 0)), (2, 1, 0));
        assert_eq!(mine.past(1), Some(Past { activation: 1, entries: 2, last_at: 70 }));
        mine.note_send(7, 200, 95);
        assert_eq!(mine.sends[0].at, [100, 200]);
    }
}
