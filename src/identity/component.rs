//! A component: the identifiers that are one person, the links that hold them together, the ids it was known by.
//!
//! The three lists only grow at their end (but for an identifier that goes to another person), so a component is
//! stored in pages: the first of each list in the component's own entry, the others in entries of their own. What a
//! change writes follows what is new, not how large the component has become.
//!
//! There are millions of components in memory, of two or three identifiers each: hence lists that grow by what is
//! needed while they are short, and narrow figures beside them.

use serde::{Deserialize, Serialize};

use super::IdentityPlan;
use super::corrections::Named;
use crate::event::{ProfileId, ProfileNumber, TimeUs};
use crate::state::cache::Weigh;
use crate::state::{StoreError, WriteBatch, codec, keys};

/// Entries of a list in one page. Nearly every person fits the first.
const PAGE: usize = 32;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Component {
    /// The public id as of the last commit.
    pub id: ProfileId,
    identifiers: Paged<Identifier>,
    links: Paged<Link>,
    former_ids: Paged<ProfileId>,
    /// Identifiers by kind, once there are more than a page: fewer are counted when asked for.
    counts: Option<Box<Counts>>,
    /// Index of the best identifier: by priority of its type, then by hash.
    best: u32,
    /// `id` was made of the best identifier.
    named: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identifier {
    pub hash: u128,
    pub kind: u16,
    pub value: Box<str>,
    /// The timestamp of the event that brought it to this person.
    pub linked_at: TimeUs,
    /// Where identifiers are reassigned: the latest event (timestamp, message id) that had it with this person, beside a
    /// better identifier. None: it was only seen alone, which does not say whose it is.
    pub confirmed: Option<Box<(TimeUs, Box<str>)>>,
}

impl Identifier {
    pub fn is(&self, named: &Named) -> bool {
        self.kind == named.kind && self.value == named.value
    }
}

/// A link that joined what was apart, with the event that made it. Those of a component are a spanning tree; the
/// links that only confirm it are in the history of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub a: u128,
    pub b: u128,
    pub message_id: Box<str>,
    /// `source:topic/partition@offset`.
    pub position: Box<str>,
    pub linked_at: TimeUs,
}

impl Component {
    pub fn identifiers(&self) -> &[Identifier] {
        &self.identifiers.items
    }

    pub fn links(&self) -> &[Link] {
        &self.links.items
    }

    /// Ids under which this person was known before; they answer look-ups for ever.
    pub fn former_ids(&self) -> &[ProfileId] {
        &self.former_ids.items
    }

    /// None only while a component is being made.
    pub fn best(&self) -> Option<&Identifier> {
        self.identifiers.items.get(self.best as usize)
    }

    pub fn count_of(&self, kind: u16) -> u32 {
        match &self.counts {
            Some(counts) => counts.0.get(kind as usize).copied().unwrap_or(0),
            None => self.identifiers().iter().filter(|known| known.kind == kind).count() as u32,
        }
    }

    /// When the identifiers of a kind were linked.
    pub fn linked_at(&self, kind: u16) -> impl Iterator<Item = TimeUs> + '_ {
        self.identifiers().iter().filter(move |known| known.kind == kind).map(|known| known.linked_at)
    }

    pub fn add(&mut self, identifier: Identifier) {
        let better = self.best().is_none_or(|best| (identifier.kind, identifier.hash) < (best.kind, best.hash));
        if better {
            self.best = self.identifiers.items.len() as u32;
            self.named = false;
        }
        match &mut self.counts {
            Some(counts) => counts.add(identifier.kind),
            None if self.identifiers.items.len() == PAGE => {
                let mut counts = Counts::default();
                let known = self.identifiers.items.iter().map(|known| known.kind);
                known.chain([identifier.kind]).for_each(|kind| counts.add(kind));
                self.counts = Some(Box::new(counts));
            }
            None => {}
        }
        self.identifiers.push(identifier);
    }

    pub fn add_link(&mut self, link: Link) {
        self.links.push(link);
    }

    pub fn add_former_id(&mut self, id: ProfileId) {
        self.former_ids.push(id);
    }

    /// For one that is absorbed: its former ids are told apart from those of the survivor first.
    pub fn take_former_ids(&mut self) -> Vec<ProfileId> {
        std::mem::take(&mut self.former_ids.items)
    }

    /// Takes an identifier out that goes to another person, with the links that it held.
    pub fn remove(&mut self, hash: u128) -> Option<Identifier> {
        let index = self.identifiers.items.iter().position(|known| known.hash == hash)?;
        let last = self.identifiers.items.len() - 1;
        let removed = self.identifiers.swap_remove(index);
        if let Some(count) = self.counts.as_mut().and_then(|counts| counts.0.get_mut(removed.kind as usize)) {
            *count -= 1;
        }
        if self.best as usize == index {
            let best = self.identifiers().iter().enumerate().min_by_key(|(_, known)| (known.kind, known.hash));
            self.best = best.map_or(0, |(index, _)| index as u32);
            self.named = false;
        } else if self.best as usize == last {
            self.best = index as u32;
        }
        while let Some(index) = self.links.items.iter().position(|link| link.a == hash || link.b == hash) {
            self.links.swap_remove(index);
        }
        Some(removed)
    }

    pub fn confirm(&mut self, hash: u128, at: TimeUs, message_id: &str) {
        let Some(index) = self.identifiers.items.iter().position(|known| known.hash == hash) else { return };
        let known = &mut self.identifiers.items[index];
        if known.confirmed.as_ref().is_none_or(|confirmed| (at, message_id) > (confirmed.0, &*confirmed.1)) {
            known.confirmed = Some(Box::new((at, message_id.into())));
            self.identifiers.clean = self.identifiers.clean.min(index as u32);
        }
    }

    /// Takes over the identifiers and links of an absorbed component.
    pub fn absorb(&mut self, other: Component) {
        other.identifiers.items.into_iter().for_each(|identifier| self.add(identifier));
        other.links.items.into_iter().for_each(|link| self.add_link(link));
    }

    /// The id that follows from the identifiers. The hash is only made when the best identifier is another one.
    pub fn derive_id(&mut self, plan: &IdentityPlan) -> Option<ProfileId> {
        let best = self.best()?;
        if self.named {
            return Some(self.id);
        }
        let id = plan.profile_id(best.kind, &best.value);
        self.named = true;
        Some(id)
    }

    /// For one that was made beside the store: the next write writes all of it.
    pub fn forget_stored(&mut self) {
        (self.identifiers.clean, self.identifiers.stored) = (0, 0);
        (self.links.clean, self.links.stored) = (0, 0);
        (self.former_ids.clean, self.former_ids.stored) = (0, 0);
    }

    /// Stages what changed since the component was last written.
    pub fn write(&mut self, number: ProfileNumber, out: &mut WriteBatch) {
        let head = Head {
            id: self.id,
            lengths: [self.identifiers.items.len(), self.links.items.len(), self.former_ids.items.len()]
                .map(|length| length as u32),
            identifiers: self.identifiers.first(),
            links: self.links.first(),
            former_ids: self.former_ids.first(),
        };
        out.put(keys::component(number), codec::encode(Head::VERSION, &head));
        self.identifiers.write(number, List::Identifiers, out);
        self.links.write(number, List::Links, out);
        self.former_ids.write(number, List::FormerIds, out);
    }

    /// Stages the removal of everything that is stored.
    pub fn delete(&self, number: ProfileNumber, out: &mut WriteBatch) {
        out.delete(keys::component(number));
        self.identifiers.delete(number, List::Identifiers, out);
        self.links.delete(number, List::Links, out);
        self.former_ids.delete(number, List::FormerIds, out);
    }

    /// The component from its own entry. True: it has further pages, to be given to [`Component::read_page`] in key
    /// order; then [`Component::finish`].
    pub fn read(bytes: &[u8]) -> Result<(Component, bool), StoreError> {
        let head: Head = codec::decode(Head::VERSION, "component", bytes)?;
        let more = head.lengths.iter().any(|length| *length as usize > PAGE);
        let mut component = Component { id: head.id, ..Component::default() };
        component.identifiers.items = head.identifiers.into_owned();
        component.links.items = head.links.into_owned();
        component.former_ids.items = head.former_ids.into_owned();
        if !more {
            component.finish();
        }
        Ok((component, more))
    }

    pub fn read_page(&mut self, key: &[u8], bytes: &[u8]) -> Result<(), StoreError> {
        match keys::parse_component_page(key) {
            Some(list) if list == List::Identifiers as u8 => self.identifiers.read(bytes),
            Some(list) if list == List::Links as u8 => self.links.read(bytes),
            Some(list) if list == List::FormerIds as u8 => self.former_ids.read(bytes),
            _ => Err(StoreError::Damaged("a component's page has an unknown key".to_string())),
        }
    }

    /// Counts and compares what was read, once it is whole.
    pub fn finish(&mut self) {
        let identifiers = std::mem::take(&mut self.identifiers.items);
        identifiers.into_iter().for_each(|identifier| self.add(identifier));
        self.named = self.best().is_some();
        for (clean, stored, length) in [
            (&mut self.identifiers.clean, &mut self.identifiers.stored, self.identifiers.items.len()),
            (&mut self.links.clean, &mut self.links.stored, self.links.items.len()),
            (&mut self.former_ids.clean, &mut self.former_ids.stored, self.former_ids.items.len()),
        ] {
            (*clean, *stored) = (length as u32, length as u32);
        }
    }
}

/// Identifiers by kind.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts(Vec<u32>);

impl Counts {
    fn add(&mut self, kind: u16) {
        let kind = kind as usize;
        if self.0.len() <= kind {
            self.0.resize(kind + 1, 0);
        }
        self.0[kind] += 1;
    }
}

/// A component's own entry: the first page of each list.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    id: ProfileId,
    /// Of the whole lists: identifiers, links, former ids.
    lengths: [u32; 3],
    identifiers: std::borrow::Cow<'a, [Identifier]>,
    links: std::borrow::Cow<'a, [Link]>,
    former_ids: std::borrow::Cow<'a, [ProfileId]>,
}

impl Head<'_> {
    const VERSION: u8 = 2;
}

#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum List {
    Identifiers = 0,
    Links = 1,
    FormerIds = 2,
}

/// A list that is stored in pages.
#[derive(Debug, Clone, PartialEq)]
struct Paged<T> {
    items: Vec<T>,
    /// So many entries are stored as they are.
    clean: u32,
    /// So many entries are stored.
    stored: u32,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Paged { items: Vec::new(), clean: 0, stored: 0 }
    }
}

impl<T: Clone + Serialize + for<'de> Deserialize<'de>> Paged<T> {
    const VERSION: u8 = 1;

    fn first(&self) -> std::borrow::Cow<'_, [T]> {
        std::borrow::Cow::Borrowed(&self.items[..self.items.len().min(PAGE)])
    }

    /// The first entries one by one, since most lists end there.
    fn push(&mut self, item: T) {
        const EXACT: usize = 4;
        if self.items.len() == self.items.capacity() && self.items.len() < EXACT {
            self.items.reserve_exact(1);
        }
        self.items.push(item);
    }

    fn swap_remove(&mut self, index: usize) -> T {
        self.clean = self.clean.min(index as u32);
        self.items.swap_remove(index)
    }

    fn write(&mut self, number: ProfileNumber, list: List, out: &mut WriteBatch) {
        let key = |page: usize| keys::component_page(number, list as u8, page as u32);
        let pages = self.items.len().div_ceil(PAGE);
        // The page that the first new entry falls into; none when there is no new one.
        let clean = self.clean as usize;
        let first = if clean < self.items.len() { clean / PAGE } else { pages };
        for page in first.max(1)..pages {
            let end = ((page + 1) * PAGE).min(self.items.len());
            let items = &self.items[page * PAGE..end];
            out.put(key(page), codec::encode(Self::VERSION, &items));
        }
        (pages.max(1)..self.stored_pages()).for_each(|page| out.delete(key(page)));
        (self.clean, self.stored) = (self.items.len() as u32, self.items.len() as u32);
    }

    fn stored_pages(&self) -> usize {
        (self.stored as usize).div_ceil(PAGE)
    }

    /// What the list holds on the heap, guessed by its first entry: to weigh a component must not cost more as it grows.
    fn weigh(&self, texts: impl Fn(&T) -> usize) -> usize {
        self.items.capacity() * size_of::<T>() + self.items.len() * self.items.first().map_or(0, texts)
    }

    fn delete(&self, number: ProfileNumber, list: List, out: &mut WriteBatch) {
        for page in 1..self.stored_pages() {
            out.delete(keys::component_page(number, list as u8, page as u32));
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let items: Vec<T> = codec::decode(Self::VERSION, "page of a component", bytes)?;
        self.items.extend(items);
        Ok(())
    }
}

impl Weigh for Component {
    fn weigh(&self) -> usize {
        let confirmed = |known: &Identifier| known.confirmed.as_ref().map_or(0, |c| size_of_val(&**c) + c.1.len());
        self.identifiers.weigh(|known| known.value.len() + confirmed(known))
            + self.links.weigh(|link| link.message_id.len() + link.position.len())
            + self.former_ids.weigh(|_| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::memory::MemoryStore;
    use crate::state::{Store, Write, scan_all};

    async fn load(number: ProfileNumber, store: &dyn Store) -> Component {
        let head = store.get(&keys::component(number)).await.unwrap().unwrap();
        let (mut component, more) = Component::read(&head).unwrap();
        if more {
            for (key, page) in scan_all(store, &keys::component_pages(number)).await.unwrap() {
                component.read_page(&key, &page).unwrap();
            }
            component.finish();
        }
        component
    }

    fn identifier(number: u32) -> Identifier {
        let hash = u128::from(number.wrapping_mul(2_654_435_761)) + 1;
        Identifier {
            hash,
            kind: (number % 3) as u16,
            value: format!("v{number}").into(),
            linked_at: 7,
            confirmed: None,
        }
    }

    fn link(number: u32) -> Link {
        let (a, b) = (identifier(number).hash, identifier(number + 1).hash);
        Link { a, b, message_id: format!("m{number}").into(), position: "s:t/0@1".into(), linked_at: 7 }
    }

    /// Whatever was added and removed between the writes, what is read back is the component, and a write touches
    /// only the pages that changed.
    #[tokio::test]
    async fn a_component_is_read_back_as_it_was_and_written_in_pages() {
        let store = MemoryStore::default();
        let mut random = fastrand::Rng::with_seed(3);
        let mut component = Component::default();
        let mut next = 0;
        for round in 0..60 {
            for _ in 0..random.usize(0..40) {
                component.add(identifier(next));
                component.add_link(link(next));
                if random.bool() {
                    component.add_former_id(ProfileId([next as u8; 16]));
                }
                next += 1;
            }
            if random.u8(0..3) == 0 && component.identifiers().len() > 2 {
                let best = component.best().unwrap().hash;
                let at = random.usize(0..component.identifiers().len());
                let hash = component.identifiers()[at].hash;
                if hash != best {
                    component.remove(hash);
                }
            }
            let mut out = WriteBatch::default();
            component.write(9, &mut out);
            store.commit(out).await.unwrap();
            if component.identifiers().is_empty() {
                continue;
            }
            let read = load(9, &store).await;
            assert_eq!(read.identifiers(), component.identifiers(), "round {round}");
            assert_eq!(read.links(), component.links(), "round {round}");
            assert_eq!(read.former_ids(), component.former_ids(), "round {round}");
            assert_eq!(read.best(), component.best(), "round {round}");
            for kind in 0..3 {
                let counted = component.identifiers().iter().filter(|known| known.kind == kind).count() as u32;
                assert_eq!((read.count_of(kind), component.count_of(kind)), (counted, counted), "round {round}");
            }
        }
        component.add(identifier(next));
        let mut out = WriteBatch::default();
        component.write(9, &mut out);
        let puts = out.writes.iter().filter(|write| matches!(write, Write::Put(..))).count();
        assert_eq!(puts, 2, "one identifier more: the component's own entry and one page");

        let mut out = WriteBatch::default();
        component.delete(9, &mut out);
        store.commit(out).await.unwrap();
        let left = store.scan(&keys::component_pages(9), None, 10).await.unwrap();
        assert_eq!(left, Vec::new(), "nothing is left behind");
    }

    /// There are millions of them: four GiB hold four million people with ten million identifiers (benches/README.md).
    #[test]
    fn a_component_stays_narrow() {
        assert!(size_of::<Component>() <= 128, "{} bytes", size_of::<Component>());
        assert!(size_of::<Identifier>() <= 64, "{} bytes", size_of::<Identifier>());
    }
}
