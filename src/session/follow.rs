//! From the session that an event was stored in to the one it is in now, by the rows that were written: what the views do.

use hashbrown::HashMap;

use super::{SessionId, SessionRow};
use crate::event::TimeUs;

/// The latest row of each id, and the sessions that stand in each chain.
pub struct Follow<'r> {
    latest: HashMap<SessionId, &'r SessionRow>,
    /// By start.
    chains: HashMap<SessionId, Vec<&'r SessionRow>>,
}

impl<'r> Follow<'r> {
    /// Of rows in the order in which they were written.
    pub fn of(rows: impl Iterator<Item = &'r SessionRow>) -> Follow<'r> {
        let latest: HashMap<SessionId, &SessionRow> = rows.map(|row| (row.id, row)).collect();
        let mut chains: HashMap<SessionId, Vec<&SessionRow>> = HashMap::new();
        for row in latest.values().filter(|row| row.merged_into.is_none()) {
            chains.entry(row.chain_id).or_default().push(row);
        }
        chains.values_mut().for_each(|chain| chain.sort_unstable_by_key(|row| begin(row)));
        Follow { latest, chains }
    }

    /// The session of now of an event that was stored in `session`: one step to the chain, and there the last one that began
    /// before the event.
    pub fn session(&self, session: SessionId, at: TimeUs, message_id: &str) -> SessionId {
        let Some(row) = self.latest.get(&session) else { return session };
        let chain = self.chains.get(&row.chain_id).map_or(&[][..], Vec::as_slice);
        let begun = chain.partition_point(|row| begin(row) <= (at, message_id));
        begun.checked_sub(1).map_or(row.chain_id, |last| chain[last].id)
    }
}

fn begin(row: &SessionRow) -> (TimeUs, &str) {
    (row.started_at, &row.first_message_id)
}
