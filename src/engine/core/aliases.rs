//! Whose an id is, for a fill: it asks for the ids of all events of the past, which the store would look up one by one.

use super::*;
use crate::state::Write;

/// What an entry takes in memory, at the fill of a hash table.
const ENTRY_BYTES: usize = 48;

/// All ids that profiles ever had, while a fill is under way.
pub(super) struct Aliases(HashMap<ProfileId, ProfileNumber>);

impl Aliases {
    /// Reads all ids; None where there are too many. Nothing may be on its way to the store.
    pub(super) async fn load(
        store: &dyn Store,
        profiles: u64,
        bytes_max: usize,
    ) -> Result<Option<Aliases>, StoreError> {
        if (profiles as usize).saturating_mul(ENTRY_BYTES) > bytes_max {
            return Ok(None);
        }
        let mut aliases = Aliases(HashMap::new());
        for (key, value) in scan_all(store, &keys::prefix(Tag::Alias)).await? {
            let id = keys::parse_alias(&key);
            let id = id.ok_or_else(|| StoreError::Damaged("the key of an id has another length".to_string()))?;
            aliases.0.insert(id, codec::decode(1, "alias", &value)?);
        }
        Ok(Some(aliases))
    }

    /// Takes in what a commit changes.
    pub(super) fn note(&mut self, writes: &WriteBatch) {
        for write in &writes.writes {
            let (Write::Put(key, _) | Write::Delete(key)) = write;
            let Some(id) = keys::parse_alias(key) else { continue };
            let number = match write {
                Write::Put(_, value) => codec::decode(1, "alias", value).ok(),
                Write::Delete(_) => None,
            };
            match number {
                Some(number) => self.0.insert(id, number),
                None => self.0.remove(&id),
            };
        }
    }

    pub(super) fn get(&self, id: ProfileId) -> Option<ProfileNumber> {
        self.0.get(&id).copied()
    }
}
