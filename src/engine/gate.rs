//! Consent when a message is sent at last: a person may have changed their mind since it was set off.

use std::sync::Arc;

use async_trait::async_trait;

use crate::activation::{Consent, Delivery};
use crate::profile::{Profile, ProfileRecord, Scalar, Slots, TraitPlan};
use crate::sink::delivery::Gate;
use crate::state::{Store, StoreError, codec, keys};

/// Looks at people as the state has them.
pub struct SendGate {
    pub store: Arc<dyn Store>,
    pub slots: Slots,
    pub traits: Vec<TraitPlan>,
    /// Of all activations.
    pub consents: Vec<Consent>,
    /// Segments, by index and name: whoever is in one of them is sent nothing.
    pub suppression: Vec<(u16, String)>,
}

#[async_trait]
impl Gate for SendGate {
    async fn refusal(&self, delivery: &Delivery) -> Result<Option<String>, StoreError> {
        let purpose = delivery.consent.as_ref();
        let consent = purpose.and_then(|purpose| self.consents.iter().find(|consent| consent.purpose == *purpose));
        if consent.is_none() && self.suppression.is_empty() {
            return Ok(None);
        }
        // Someone who was merged meanwhile is found under the id of then; someone who is gone cannot be asked.
        let Some(number) = self.store.get(&keys::alias(delivery.profile_id)).await? else { return Ok(None) };
        let number = codec::decode(1, "alias", &number)?;
        let Some(value) = self.store.get(&keys::profile(number)).await? else { return Ok(None) };
        let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", &value)?;
        let profile = record.load(&self.slots);
        if let Some((_, name)) = self.suppression.iter().find(|(segment, _)| profile.membership(*segment).member) {
            return Ok(Some(format!("suppressed since it was set off: the person is in {name}")));
        }
        let refusal = consent.and_then(|consent| consent.refusal(said(&self.traits, &profile, &consent.column)));
        Ok(refusal.map(|why| format!("{why}, since it was set off")))
    }
}

/// The value of a boolean trait as it is stored.
pub fn said(traits: &[TraitPlan], profile: &Profile, column: &str) -> Option<bool> {
    let index = traits.iter().position(|plan| plan.name == column)?;
    match profile.trait_state(index as u16)?.plain_value(traits[index].event_rule()?, "")? {
        Scalar::Boolean(said) => Some(said),
        _ => None,
    }
}
