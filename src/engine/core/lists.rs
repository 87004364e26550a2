//! Lists: segments of those who have one of certain identifiers.

use hashbrown::{HashMap, HashSet};

/// The identifiers of every list, by their hashes.
#[derive(Debug, Default)]
pub struct Lists {
    /// By index of the segment.
    of_segment: HashMap<u16, HashSet<u128>>,
}

impl Lists {
    pub fn is_empty(&self) -> bool {
        self.of_segment.is_empty()
    }

    #[expect(dead_code, reason = "the lists come from the definitions")]
    pub fn set(&mut self, segment: u16, identifiers: HashSet<u128>) {
        self.of_segment.insert(segment, identifiers);
    }

    pub fn segments(&self) -> impl Iterator<Item = u16> + '_ {
        self.of_segment.keys().copied()
    }

    pub fn holds(&self, segment: u16, identifier: u128) -> bool {
        self.of_segment.get(&segment).is_some_and(|list| list.contains(&identifier))
    }
}
