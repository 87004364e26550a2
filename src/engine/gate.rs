//! Consent when a message is sent at last: a person may have changed their mind since it was set off. And audiences: what was
//! taken back since must not be sent, nor taken back what was sent anew. What is sent of an identifier goes in order, so what was
//! skipped is what a later delivery undoes or does.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::activation::{Consent, Delivery, KnownAudience};
use crate::identity::IdentityPlan;
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
    pub audiences: Vec<KnownAudience>,
    pub identity: IdentityPlan,
}

/// What counts of an audience's body: one identifier.
#[derive(serde::Deserialize)]
struct AudienceBody {
    identifiers: BTreeMap<String, Vec<String>>,
}

impl SendGate {
    async fn profile(&self, number: &[u8]) -> Result<Option<Profile>, StoreError> {
        let number = codec::decode(1, "alias", number)?;
        let Some(value) = self.store.get(&keys::profile(number)).await? else { return Ok(None) };
        let record: ProfileRecord = codec::decode(ProfileRecord::VERSION, "profile", &value)?;
        Ok(Some(record.load(&self.slots)))
    }

    /// Why an audience's delivery is out of date: the other side is to have the identifier now, or is not to.
    async fn out_of_date(
        &self,
        delivery: &Delivery,
        audience: &KnownAudience,
    ) -> Result<Option<&'static str>, StoreError> {
        let Ok(body) = serde_json::from_str::<AudienceBody>(&delivery.body) else { return Ok(None) };
        let Some((name, value)) = body.identifiers.iter().find_map(|(name, values)| Some((name, values.first()?)))
        else {
            return Ok(None);
        };
        let types = &self.identity.types;
        let Some(kind) = types.iter().position(|known| known.name == *name) else { return Ok(None) };
        let kind = kind as u16;
        let owner = match self.store.get(&keys::identifier(self.identity.identifier_hash(kind, value))).await? {
            Some(number) => self.profile(&number).await?,
            None => None,
        };
        let journeys = owner.as_ref().and_then(|owner| owner.journeys.as_deref());
        let listed = journeys.and_then(|journeys| journeys.listed(audience.number));
        let held = listed.is_some_and(|listed| listed.sent.iter().any(|(k, v)| *k == kind && **v == **value));
        Ok(match (delivery.step.as_str(), held) {
            ("add", false) => Some("the person has left the audience since it was set off"),
            ("remove", true) => Some("the person is in the audience again since it was set off"),
            _ => None,
        })
    }
}

#[async_trait]
impl Gate for SendGate {
    async fn refusal(&self, delivery: &Delivery) -> Result<Option<String>, StoreError> {
        let is_of = |known: &&KnownAudience| known.name == delivery.activation && known.to == delivery.destination;
        if let Some(audience) = self.audiences.iter().find(is_of) {
            // Consent and suppression are part of who is in it.
            return Ok(self.out_of_date(delivery, audience).await?.map(str::to_string));
        }
        let purpose = delivery.consent.as_ref();
        let consent = purpose.and_then(|purpose| self.consents.iter().find(|consent| consent.purpose == *purpose));
        if consent.is_none() && self.suppression.is_empty() {
            return Ok(None);
        }
        // Someone who was merged meanwhile is found under the id of then; someone who is gone cannot be asked.
        let Some(number) = self.store.get(&keys::alias(delivery.profile_id)).await? else { return Ok(None) };
        let Some(profile) = self.profile(&number).await? else { return Ok(None) };
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
