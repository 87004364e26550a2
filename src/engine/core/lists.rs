//! Lists: segments of those who have one of certain identifiers, from a file and by command.

use serde::{Deserialize, Serialize};

use super::*;
use crate::identity::IdentityPlan;
use crate::segment::{ListPlan, SegmentPlan, SegmentRule};

/// What someone has said about one value of a list, under `Tag::List` by segment and identifier hash. It counts before what
/// the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEdit {
    /// False: taken out.
    pub added: bool,
    pub identifier_type: String,
    pub value: String,
}

impl ListEdit {
    pub const VERSION: u8 = 1;
}

/// The identifiers of every list, by their hashes.
#[derive(Debug, Default)]
pub struct Lists {
    /// By index of the segment.
    of_segment: BTreeMap<u16, List>,
}

#[derive(Debug)]
struct List {
    plan: ListPlan,
    /// Whether it was added or taken out.
    edits: HashMap<u128, bool>,
}

impl Lists {
    pub async fn load(
        store: &dyn Store,
        segments: &[SegmentPlan],
        identity: &IdentityPlan,
    ) -> Result<Lists, StoreError> {
        let mut lists = Lists::default();
        for (index, segment) in segments.iter().enumerate() {
            let SegmentRule::List(plan) = &segment.rule else { continue };
            let edits = ListEdit::load(store, &segment.name, identity.types[usize::from(plan.kind)].name.as_str());
            let edits = edits.await?.into_iter().map(|(hash, edit)| (hash, edit.added)).collect();
            lists.of_segment.insert(index as u16, List { plan: plan.clone(), edits });
        }
        Ok(lists)
    }

    pub fn is_empty(&self) -> bool {
        self.of_segment.is_empty()
    }

    pub fn segments(&self) -> impl Iterator<Item = u16> + '_ {
        self.of_segment.keys().copied()
    }

    pub fn holds(&self, segment: u16, identifier: u128) -> bool {
        self.of_segment.get(&segment).is_some_and(|list| list.holds(identifier))
    }
}

impl List {
    fn holds(&self, identifier: u128) -> bool {
        let edit = self.edits.get(&identifier).copied();
        edit.unwrap_or_else(|| self.plan.identifiers.contains_key(&identifier))
    }
}

impl ListEdit {
    /// All that was said about a list, by identifier hash. What was said of another type of identifiers is left aside.
    pub async fn load(
        store: &dyn Store,
        segment: &str,
        identifier_type: &str,
    ) -> Result<Vec<(u128, ListEdit)>, StoreError> {
        let mut edits = Vec::new();
        for (key, value) in scan_all(store, &keys::named_prefix(Tag::List, segment)).await? {
            let edit: ListEdit = codec::decode(ListEdit::VERSION, "edit of a list", &value)?;
            let Some(hash) = keys::parse_named_hash(&key) else {
                return Err(StoreError::Damaged("the key of a list's edit has another length".to_string()));
            };
            if edit.identifier_type == identifier_type {
                edits.push((hash, edit));
            }
        }
        Ok(edits)
    }
}

impl Core {
    /// Changes a list, and judges whoever has one of the values; what that sets off is the edit's. All commits before must be
    /// durable.
    pub(super) async fn edit_list(
        &mut self,
        request: &ListRequest,
        staged: &mut Staged,
    ) -> Result<ListEdited, EngineError> {
        let refused = |reason: String| Ok(ListEdited { refused: Some(reason), ..ListEdited::default() });
        let index = self.segment_names.iter().position(|name| *name == request.segment);
        let segment = index.map(|index| index as u16).filter(|index| self.lists.of_segment.contains_key(index));
        let Some(segment) = segment else {
            return refused(format!("segment {} is no list in the running process; restart it first", request.segment));
        };
        let kind = self.lists.of_segment[&segment].plan.kind;
        let identity = self.identities.plan();
        if identity.types[usize::from(kind)].name != request.identifier_type {
            return refused(format!("{} has another identifier type in the running process", request.segment));
        }
        let hashes: Vec<u128> = request.values.iter().map(|value| identity.identifier_hash(kind, value)).collect();
        let mut numbers: Vec<ProfileNumber> = Vec::new();
        for hash in &hashes {
            numbers.extend(self.number_of_hash(*hash).await?);
        }
        numbers.sort_unstable();
        numbers.dedup();

        // What comes before the edit is judged by the list as it was.
        let mut findings = Findings::default();
        let mut profiles = self.take_stored(&mut numbers).await?;
        let stored: Vec<TimeUs> = profiles.iter().map(|profile| profile.timer).collect();
        let missing = numbers.iter().copied().filter(|n| self.identities.components.get(n).is_none()).collect();
        self.load_components(missing).await?;
        self.note_for_scan(&numbers, &profiles, staged)?;
        self.sweep_ahead(&mut profiles, &numbers, &numbers, &mut findings, staged).await?;
        self.fire_due(&mut profiles, &numbers, &mut findings, staged).await?;

        let mut changed = 0;
        for (hash, value) in hashes.into_iter().zip(&request.values) {
            let Some(list) = self.lists.of_segment.get_mut(&segment) else { continue };
            changed += u64::from(list.holds(hash) != request.add);
            list.edits.insert(hash, request.add);
            let edit =
                ListEdit { added: request.add, identifier_type: request.identifier_type.clone(), value: value.clone() };
            let key = keys::named_hash(Tag::List, &request.segment, hash);
            staged.writes.put(key, codec::encode(ListEdit::VERSION, &edit));
        }

        let before = findings.transitions.len();
        self.relinked = numbers.iter().copied().collect();
        let round = Round {
            numbers: &numbers,
            now: &vec![self.record.now; profiles.len()],
            touch: &Touch::default(),
            new: &[],
            whole: &[],
            shown: &HashMap::new(),
            moved: &[],
            cause: Cause::Edit,
            events: None,
            activate: true,
        };
        self.judge(&mut profiles, round, &mut findings, staged).await?;
        self.relinked.clear();
        let entered = findings.transitions[before..].iter().filter(|transition| transition.entered).count();
        let exited = findings.transitions.len() - before - entered;
        let people = profiles.len() as u64;
        self.add_changed(&profiles, &findings, staged)?;
        self.put_profiles(&numbers, profiles, &stored, staged);
        Ok(ListEdited { refused: None, changed, people, entered: entered as u64, exited: exited as u64 })
    }
}
