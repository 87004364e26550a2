//! Audiences: lists of people that another side keeps. A person belongs who is in a segment, has agreed, and is not suppressed.
//!
//! What the other side has of a person is remembered with them ([`Listed`]), and the difference to what it should have is sent, one
//! identifier at a time: so whoever leaves is removed by exactly those that were sent, whatever they are called by then. Each has a
//! lane of its own, so that their order holds whoever has them meanwhile. A pure function of the person and the moment.

use serde::{Deserialize, Serialize};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_128;

use super::plan::Consent;
use super::{ActivationPlan, Delivery, Fate, Rendered};
use crate::event::{ProfileId, TimeUs};
use crate::journey::{Journeys, Listed};

/// A checked audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudiencePlan {
    pub name: String,
    pub segment: String,
    /// A destination.
    pub to: String,
    /// The identifier types that people are matched by, by index.
    pub kinds: Vec<u16>,
    /// None: it needs nobody's consent.
    pub consent: Option<Consent>,
    /// Members are sent again after so long.
    pub reconcile_us: Option<TimeUs>,
}

/// An audience that a state knows. At another destination it is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownAudience {
    pub number: u32,
    pub name: String,
    pub to: String,
    /// False: its definition is gone, and whoever was sent is removed.
    pub is_defined: bool,
}

/// Gives every audience its number, and notes which are defined no more.
pub fn number_audiences(known: &mut Vec<KnownAudience>, plans: &[AudiencePlan]) {
    for one in known.iter_mut() {
        one.is_defined = plans.iter().any(|plan| plan.name == one.name && plan.to == one.to);
    }
    for plan in plans {
        if known.iter().any(|one| one.name == plan.name && one.to == plan.to) {
            continue;
        }
        let number = known.iter().map(|one| one.number).max().unwrap_or_default() + 1;
        known.push(KnownAudience { number, name: plan.name.clone(), to: plan.to.clone(), is_defined: true });
    }
}

/// What decides whether a person belongs.
pub trait Standing {
    fn is_member(&self, segment: u16) -> bool;
    /// What the trait of a purpose holds, if anything; None: it does not know the past yet.
    fn said(&self, column: &str) -> Option<Option<bool>>;
}

/// Whose turn it is, and when.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub id: ProfileId,
    /// How far deliveries of a person of this id may have been counted before.
    pub counted: u32,
    pub now: TimeUs,
    /// It may be later already: timers that are overdue have moments of their own.
    pub present: TimeUs,
}

/// All audiences, bound to the segments.
#[derive(Default)]
pub struct Audiences {
    all: Vec<Bound>,
    /// Whoever is in one of these segments belongs nowhere.
    suppression: Vec<u16>,
    /// Names of the identifier types.
    types: Vec<String>,
}

struct Bound {
    known: KnownAudience,
    /// With the index of its segment; None: it is defined no more.
    plan: Option<(AudiencePlan, u16)>,
    has_destination: bool,
}

impl Audiences {
    /// `segments`, `suppression`: names of segments, the former in the order of their indices; `types`: names of the identifier
    /// types; `destinations`: those that are defined.
    pub fn new(
        plans: &[AudiencePlan],
        known: &[KnownAudience],
        segments: &[String],
        suppression: &[String],
        types: Vec<String>,
        destinations: &[String],
    ) -> Audiences {
        let index = |name: &String| segments.iter().position(|known| known == name).map(|index| index as u16);
        let bind = |known: &KnownAudience| {
            let plan = plans.iter().find(|plan| plan.name == known.name && plan.to == known.to);
            Bound {
                known: known.clone(),
                plan: plan.and_then(|plan| Some((plan.clone(), index(&plan.segment)?))),
                has_destination: destinations.contains(&known.to),
            }
        };
        let suppression = suppression.iter().filter_map(index).collect();
        Audiences { all: known.iter().map(bind).collect(), suppression, types }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Also of those that are defined no more.
    pub fn destinations(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|bound| bound.known.to.as_str())
    }

    /// Those whose deliveries are known by their names; an activation may have the name of one that is gone.
    pub fn known(&self, activations: &[ActivationPlan]) -> Vec<KnownAudience> {
        let is_taken = |name: &str| activations.iter().any(|activation| activation.name == name);
        self.all.iter().map(|bound| bound.known.clone()).filter(|known| !is_taken(&known.name)).collect()
    }

    /// Whether something may have to be said of a person; only then their identifiers are needed. `is_time`: nothing has
    /// happened but that it is later, so whoever was sent has the same identifiers as before.
    pub fn concern(&self, journeys: Option<&Journeys>, standing: &dyn Standing, now: TimeUs, is_time: bool) -> bool {
        self.all.iter().any(|bound| {
            let listed = journeys.and_then(|journeys| journeys.listed(bound.known.number));
            let is_sent = listed.is_some_and(|listed| !listed.sent.is_empty());
            let is_due = listed.is_some_and(|listed| bound.due(listed) <= now);
            match self.belongs(bound, standing) {
                Some(true) => !is_time || !is_sent || is_due,
                Some(false) => is_sent,
                None => is_due,
            }
        })
    }

    /// Sends the difference between what a person's destinations have and should have. `identifiers`: all of the person's.
    pub fn settle(
        &self,
        journeys: &mut Journeys,
        at: Moment,
        identifiers: &[(u16, &str)],
        standing: &dyn Standing,
    ) -> Vec<Rendered> {
        let Moment { id, counted, now, .. } = at;
        let mut rendered = Vec::new();
        for bound in &self.all {
            let place = journeys.listed.iter().position(|listed| listed.audience == bound.known.number);
            let Some(belongs) = self.belongs(bound, standing) else {
                // What a person has agreed to is not known yet: everything stays, and is not asked for in vain.
                if let Some(listed) = place.map(|place| &mut journeys.listed[place])
                    && bound.due(listed) <= now
                {
                    listed.sent_at = bound.sent_at(at);
                }
                continue;
            };
            let wanted = if belongs { bound.wanted(identifiers) } else { Vec::new() };
            if wanted.is_empty() && place.is_none() {
                continue;
            }
            let place = place.unwrap_or_else(|| {
                let (who, told) = (id.0, counted);
                let listed = Listed { audience: bound.known.number, who, told, sent: Vec::new(), sent_at: TimeUs::MIN };
                journeys.listed.push(listed);
                journeys.listed.len() - 1
            });
            let listed = &mut journeys.listed[place];
            let lacks = |all: &[(u16, Box<str>)], than: &[(u16, Box<str>)]| -> Vec<(u16, Box<str>)> {
                all.iter().filter(|one| !than.contains(one)).cloned().collect()
            };
            for one in lacks(&listed.sent, &wanted) {
                rendered.push(self.render(bound, listed, (id, now), "remove", &one));
            }
            let is_due = listed.sent.is_empty() || bound.due(listed) <= now;
            let added = if is_due { wanted.clone() } else { lacks(&wanted, &listed.sent) };
            if is_due && !added.is_empty() {
                listed.sent_at = bound.sent_at(at);
            }
            for one in added {
                rendered.push(self.render(bound, listed, (id, now), "add", &one));
            }
            listed.sent = wanted;
        }
        journeys.listed.sort_by_key(|listed| listed.audience);
        rendered
    }

    /// When the next of a person's audiences is to be sent again; [`TimeUs::MAX`]: never.
    pub fn next_due(&self, journeys: Option<&Journeys>) -> TimeUs {
        let listed = journeys.iter().flat_map(|journeys| &journeys.listed);
        let due = listed.filter_map(|listed| {
            let bound = self.all.iter().find(|bound| bound.known.number == listed.audience)?;
            Some(bound.due(listed))
        });
        due.min().unwrap_or(TimeUs::MAX)
    }

    /// Whether a person belongs; None: that cannot be said now.
    fn belongs(&self, bound: &Bound, standing: &dyn Standing) -> Option<bool> {
        let Some((plan, segment)) = &bound.plan else { return Some(false) };
        let is_suppressed = || self.suppression.iter().any(|segment| standing.is_member(*segment));
        if !standing.is_member(*segment) || is_suppressed() {
            return Some(false);
        }
        match &plan.consent {
            None => Some(true),
            Some(consent) => Some(standing.said(&consent.column)?.unwrap_or(consent.default)),
        }
    }

    fn render(
        &self,
        bound: &Bound,
        listed: &mut Listed,
        (id, now): (ProfileId, TimeUs),
        op: &str,
        (kind, value): &(u16, Box<str>),
    ) -> Rendered {
        let KnownAudience { name, to, .. } = &bound.known;
        let who = u128::from_be_bytes(listed.who);
        let cause = format!("audience\0{name}\0{to}\0{who:032x}\0{}\0{op}", listed.told);
        listed.told += 1;
        let kind = self.types.get(usize::from(*kind)).map_or("", String::as_str);
        let body =
            json!({ "op": op, "identifiers": { kind: [value] }, "audience": name, "profile_id": id.to_string() });
        // Taking something back needs nobody's consent.
        let consent = bound.plan.as_ref().filter(|_| op == "add").and_then(|(plan, _)| plan.consent.as_ref());
        let delivery = Delivery {
            id: format!("msg_{:032x}", xxh3_128(cause.as_bytes())),
            activation: name.clone(),
            step: op.to_string(),
            destination: to.clone(),
            profile_id: id,
            lane: xxh3_128(format!("{kind}\0{value}").as_bytes()),
            body: body.to_string(),
            created_at: now,
            dry_run: false,
            consent: consent.map(|consent| consent.purpose.clone()),
        };
        let fate = match bound.has_destination {
            true => Fate::Send,
            false => Fate::Skipped(format!("there is no destination {to} any more")),
        };
        Rendered { delivery, fate }
    }
}

impl Bound {
    /// What the other side should have of a member.
    fn wanted(&self, identifiers: &[(u16, &str)]) -> Vec<(u16, Box<str>)> {
        let kinds = self.plan.as_ref().map_or(&[][..], |(plan, _)| &plan.kinds);
        let mine = identifiers.iter().filter(|(kind, _)| kinds.contains(kind));
        let mut wanted: Vec<(u16, Box<str>)> = mine.map(|(kind, value)| (*kind, Box::from(*value))).collect();
        wanted.sort_unstable();
        wanted
    }

    /// What counts as the time of sending, so that what a pause or a fast replay has missed is sent once.
    fn sent_at(&self, at: Moment) -> TimeUs {
        let every_us = self.plan.as_ref().and_then(|(plan, _)| plan.reconcile_us);
        at.now + every_us.map_or(0, |every_us| (at.present - at.now).max(0) / every_us * every_us)
    }

    /// When all is sent again.
    fn due(&self, listed: &Listed) -> TimeUs {
        let every_us = self.plan.as_ref().and_then(|(plan, _)| plan.reconcile_us);
        let every_us = every_us.filter(|_| !listed.sent.is_empty());
        every_us.map_or(TimeUs::MAX, |every_us| listed.sent_at.saturating_add(every_us))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    const DAY_US: TimeUs = 86_400_000_000;

    /// A person of the model, and what decides about them.
    #[derive(Clone, Default)]
    struct Someone {
        number: u8,
        member: bool,
        suppressed: bool,
        said: Option<Option<bool>>,
        identifiers: BTreeSet<(u16, String)>,
        journeys: Journeys,
    }

    impl Standing for Someone {
        fn is_member(&self, segment: u16) -> bool {
            if segment == 0 { self.member } else { self.suppressed }
        }

        fn said(&self, _: &str) -> Option<Option<bool>> {
            self.said
        }
    }

    impl Someone {
        fn id(&self) -> ProfileId {
            ProfileId([self.number; 16])
        }

        fn settle(&mut self, audiences: &Audiences, now: TimeUs) -> Vec<Rendered> {
            let standing = Someone { journeys: Journeys::default(), ..self.clone() };
            let identifiers: Vec<(u16, &str)> =
                standing.identifiers.iter().map(|(kind, value)| (*kind, value.as_str())).collect();
            let concern = audiences.concern(Some(&self.journeys), &standing, now, false);
            let at = Moment { id: self.id(), counted: 0, now, present: now };
            let before = self.journeys.clone();
            let rendered = audiences.settle(&mut self.journeys, at, &identifiers, &standing);
            assert!(concern || (rendered.is_empty() && before == self.journeys), "what is of no concern says nothing");
            rendered
        }
    }

    fn plan(reconcile_us: Option<TimeUs>) -> AudiencePlan {
        let consent = Consent { purpose: "ads".into(), column: "consent_ads".into(), default: false };
        AudiencePlan {
            name: "vip".into(),
            segment: "good".into(),
            to: "ads".into(),
            kinds: vec![0, 1],
            consent: Some(consent),
            reconcile_us,
        }
    }

    fn audiences(plans: &[AudiencePlan], known: &mut Vec<KnownAudience>) -> Audiences {
        number_audiences(known, plans);
        let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<String>>();
        let types = texts(&["email", "phone", "cookie"]);
        Audiences::new(plans, known, &texts(&["good", "blocked"]), &texts(&["blocked"]), types, &texts(&["ads"]))
    }

    /// The other side: what it has after every add and remove.
    #[derive(Default)]
    struct OtherSide {
        held: BTreeSet<(String, String)>,
        ids: BTreeSet<String>,
    }

    impl OtherSide {
        fn take(&mut self, rendered: &[Rendered]) {
            for Rendered { delivery, .. } in rendered {
                assert!(self.ids.insert(delivery.id.clone()), "an id is used once: {delivery:?}");
                let body: Value = serde_json::from_str(&delivery.body).unwrap();
                let by_type: BTreeMap<String, Vec<String>> =
                    serde_json::from_value(body["identifiers"].clone()).unwrap();
                for one in by_type.iter().flat_map(|(name, all)| all.iter().map(|v| (name.clone(), v.clone()))) {
                    match delivery.step.as_str() {
                        "add" => _ = self.held.insert(one),
                        _ => assert!(self.held.remove(&one), "only what was sent is removed: {delivery:?}"),
                    }
                }
                assert_eq!(body["op"], delivery.step);
                assert_eq!(delivery.consent.is_some(), delivery.step == "add", "a removal needs no consent");
            }
        }
    }

    /// Whatever happens to people, the other side has the identifiers of those who belong, and no others.
    #[test]
    fn the_other_side_has_the_identifiers_of_the_members_whatever_happens() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut known = Vec::new();
            let reconcile_us = random.bool().then_some(DAY_US);
            let mut plans = vec![plan(reconcile_us)];
            let mut all = audiences(&plans, &mut known);
            let mut other = OtherSide::default();
            let mut people: Vec<Someone> = Vec::new();
            let mut numbers = 0;
            for now in 0..200 {
                let now = now * DAY_US / 3;
                let count = people.len();
                match random.u8(0..12) {
                    0 | 1 if count < 6 => {
                        numbers += 1;
                        people.push(Someone { number: numbers, said: Some(None), ..Someone::default() });
                    }
                    2 | 3 if count > 0 => {
                        let value = (random.u16(0..3), format!("v{}", random.u8(0..12)));
                        if people.iter().all(|someone| !someone.identifiers.contains(&value)) {
                            people[random.usize(0..count)].identifiers.insert(value);
                        }
                    }
                    4 if count > 0 => {
                        let someone = random.usize(0..count);
                        people[someone].identifiers.pop_first();
                    }
                    5 | 6 if count > 0 => people[random.usize(0..count)].member ^= true,
                    7 if count > 0 => people[random.usize(0..count)].suppressed ^= true,
                    8 if count > 0 => {
                        let said = [None, Some(true), Some(false)][random.usize(0..3)];
                        people[random.usize(0..count)].said = Some(said);
                    }
                    9 if count > 1 => {
                        let gone = people.swap_remove(random.usize(0..count));
                        let mine = &mut people[random.usize(0..count - 1)];
                        mine.identifiers.extend(gone.identifiers);
                        mine.member |= gone.member;
                        mine.journeys.merge(gone.journeys, &|_| true);
                    }
                    10 if count > 0 => {
                        // One identifier becomes a person of its own, as numbers that never were.
                        let someone = random.usize(0..count);
                        let live = people.swap_remove(someone);
                        let apart: BTreeSet<(u16, String)> = live.identifiers.iter().skip(1).cloned().collect();
                        let rest = live.identifiers.iter().take(1).cloned().collect();
                        for identifiers in [rest, apart] {
                            numbers += 1;
                            let mut part = Someone { number: numbers, identifiers, ..live.clone() };
                            let owns = |kind: u16, value: &str| part.identifiers.contains(&(kind, value.to_string()));
                            let listed = live.journeys.part_listed(part.id().0, 0, &owns);
                            part.journeys = Journeys { listed, ..Journeys::default() };
                            people.push(part);
                        }
                    }
                    11 if random.u8(0..4) == 0 => {
                        plans = if plans.is_empty() { vec![plan(reconcile_us)] } else { Vec::new() };
                        all = audiences(&plans, &mut known);
                    }
                    _ => {}
                }
                for someone in &mut people {
                    other.take(&someone.settle(&all, now));
                    assert!(all.next_due(Some(&someone.journeys)) > now, "no timer stands still");
                }
                let belongs = |someone: &&Someone| {
                    !plans.is_empty() && someone.member && !someone.suppressed && someone.said == Some(Some(true))
                };
                let names = ["email", "phone"];
                let wanted: BTreeSet<(String, String)> = people
                    .iter()
                    .filter(belongs)
                    .flat_map(|someone| &someone.identifiers)
                    .filter_map(|(kind, value)| Some((names.get(usize::from(*kind))?.to_string(), value.clone())))
                    .collect();
                assert_eq!(other.held, wanted, "seed {seed}");
            }
        }
    }

    #[test]
    fn everything_stays_while_it_is_not_known_what_a_person_has_agreed_to() {
        let all = audiences(&[plan(Some(DAY_US))], &mut Vec::new());
        let mut someone = Someone { member: true, said: None, ..Someone::default() };
        someone.identifiers.insert((0, "a@x".to_string()));
        assert!(someone.settle(&all, 0).is_empty(), "nobody is added unasked");
        someone.said = Some(Some(true));
        assert_eq!(someone.settle(&all, 1).len(), 1);
        someone.said = None;
        assert!(someone.settle(&all, DAY_US + 1).is_empty(), "and nobody removed");
        assert_eq!(all.next_due(Some(&someone.journeys)), 2 * DAY_US + 1, "nor asked for again and again");
        someone.member = false;
        assert_eq!(someone.settle(&all, DAY_US + 2)[0].delivery.step, "remove", "but who leaves, leaves");
    }

    #[test]
    fn what_a_pause_has_missed_is_sent_once() {
        let all = audiences(&[plan(Some(DAY_US))], &mut Vec::new());
        let mut someone = Someone { number: 1, member: true, said: Some(Some(true)), ..Someone::default() };
        someone.identifiers.insert((0, "a@x".to_string()));
        assert_eq!(someone.settle(&all, 0).len(), 1);
        // Ten and a half days later the first timer has its own moment.
        let at = Moment { id: someone.id(), counted: 0, now: DAY_US, present: DAY_US * 21 / 2 };
        let standing = someone.clone();
        assert_eq!(all.settle(&mut someone.journeys, at, &[(0, "a@x")], &standing).len(), 1);
        assert_eq!(all.next_due(Some(&someone.journeys)), 11 * DAY_US);
    }

    #[test]
    fn at_another_destination_it_is_another_audience() {
        let (mut known, here) = (Vec::new(), plan(None));
        number_audiences(&mut known, std::slice::from_ref(&here));
        let there = AudiencePlan { to: "other".into(), ..here.clone() };
        number_audiences(&mut known, &[there]);
        let states = |known: &[KnownAudience]| known.iter().map(|k| (k.number, k.is_defined)).collect::<Vec<_>>();
        assert_eq!(states(&known), [(1, false), (2, true)]);
        number_audiences(&mut known, &[here]);
        assert_eq!(states(&known), [(1, true), (2, false)]);
    }
}
