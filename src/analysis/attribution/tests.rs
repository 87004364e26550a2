//! Credit against independent brute force on small cases, and the conservation laws on all.

use super::*;
use crate::expression::ColumnScope;

const DAY_US: TimeUs = 86_400_000_000;

fn plan(models: Vec<Model>, counts_direct: bool) -> AttributionPlan {
    let mut scope = ColumnScope::new();
    scope.add_column("channel", arrow::datatypes::DataType::Utf8);
    AttributionPlan {
        conversion: EventFilter::default(),
        value: None,
        touch: EventFilter::default(),
        channel: Expression::compile("channel", &scope).unwrap(),
        lookback_us: 30 * DAY_US,
        models,
        counts_direct,
    }
}

fn credit(
    plan: &AttributionPlan,
    all: impl IntoIterator<Item = Touches<'static>>,
) -> Result<Vec<(Model, BTreeMap<String, Credit>)>, String> {
    let mut credits = Credits::new(plan);
    all.into_iter().for_each(|one| credits.add(one));
    credits.finish()
}

fn path(converted: bool, value: f64, channels: &[(&'static str, i64)]) -> Touches<'static> {
    let touches = channels.iter().map(|(channel, days)| (*channel, days * DAY_US)).collect();
    Touches { converted, value, touches }
}

fn of(model: Model, all: &[Touches<'static>]) -> BTreeMap<String, f64> {
    let credit = credit(&plan(vec![model], false), all.iter().cloned()).unwrap();
    credit[0].1.iter().map(|(channel, credit)| (channel.clone(), credit.conversions)).collect()
}

fn near(found: &BTreeMap<String, f64>, expected: &BTreeMap<String, f64>, what: &str) {
    let names: Vec<&String> = expected.iter().filter(|(_, v)| **v != 0.0).map(|(name, _)| name).collect();
    assert_eq!(found.iter().filter(|(_, v)| **v != 0.0).map(|(name, _)| name).collect::<Vec<_>>(), names, "{what}");
    for (name, value) in expected {
        let found = found.get(name).copied().unwrap_or_default();
        assert!((found - value).abs() < 1e-9, "{what}: {name} {found}, should be {value}");
    }
}

#[test]
fn the_simple_models_as_a_table() {
    let four = [path(true, 10.0, &[("mail", 21), ("ads", 14), ("mail", 7), ("search", 0)])];
    let decay = |days: f64| (-days / 7.0f64).exp2();
    let all: f64 = [21.0, 14.0, 7.0, 0.0].map(decay).iter().sum();
    for (model, expected) in [
        (Model::FirstTouch, vec![("mail", 1.0)]),
        (Model::LastTouch, vec![("search", 1.0)]),
        (Model::Linear, vec![("ads", 0.25), ("mail", 0.5), ("search", 0.25)]),
        (
            Model::TimeDecay { half_life_us: 7 * DAY_US },
            vec![("ads", decay(14.0) / all), ("mail", (decay(21.0) + decay(7.0)) / all), ("search", 1.0 / all)],
        ),
        (Model::PositionBased { first: 0.4, last: 0.4 }, vec![("ads", 0.1), ("mail", 0.5), ("search", 0.4)]),
        (Model::Shapley, vec![("ads", 1.0 / 3.0), ("mail", 1.0 / 3.0), ("search", 1.0 / 3.0)]),
    ] {
        let expected = expected.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        near(&of(model, &four), &expected, model.name());
    }
}

#[test]
fn direct_visits_count_where_nothing_else_was_there_or_where_they_are_asked_for() {
    let all = [path(true, 1.0, &[("", 3), ("mail", 2), ("", 1)]), path(true, 1.0, &[("", 3)]), path(true, 1.0, &[])];
    let named = |all: &[(&str, f64)]| all.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    near(&of(Model::LastTouch, &all), &named(&[(DIRECT, 1.0), (NONE, 1.0), ("mail", 1.0)]), "ignored");
    let counted = credit(&plan(vec![Model::LastTouch], true), all).unwrap();
    let counted = counted[0].1.iter().map(|(name, credit)| (name.clone(), credit.conversions)).collect();
    near(&counted, &named(&[(DIRECT, 2.0), (NONE, 1.0)]), "counted");
}

fn random(rng: &mut fastrand::Rng, channels: usize, paths: usize) -> Vec<Touches<'static>> {
    let names = ["ads", "mail", "search", "social", "tv"];
    (0..paths)
        .map(|_| {
            let count = rng.usize(1..6);
            let all: Vec<(&'static str, i64)> =
                (0..count).map(|place| (names[rng.usize(0..channels)], (count - place) as i64)).collect();
            path(rng.u8(0..3) == 0, f64::from(rng.u32(1..100)), &all)
        })
        .collect()
}

/// Shapley by its definition: the mean, over all orders of the channels, of what each adds.
#[test]
fn shapley_is_the_mean_over_all_orderings() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let channels = rng.usize(1..6);
        let all = random(&mut rng, channels, 40);
        let mut names: Vec<String> =
            all.iter().flat_map(|one| one.touches.iter().map(|(c, _)| c.to_string())).collect();
        names.sort();
        names.dedup();
        let earned = |set: &[String]| {
            let within = |one: &&Touches| {
                one.converted && one.touches.iter().all(|(channel, _)| set.iter().any(|name| name == channel))
            };
            all.iter().filter(within).count() as f64
        };
        let mut expected: BTreeMap<String, f64> = BTreeMap::new();
        let orders = orderings(&names);
        for order in &orders {
            for place in 0..order.len() {
                let adds = earned(&order[..=place]) - earned(&order[..place]);
                *expected.entry(order[place].clone()).or_default() += adds / orders.len() as f64;
            }
        }
        near(&of(Model::Shapley, &all), &expected, &format!("seed {seed}"));
    }
}

fn orderings(names: &[String]) -> Vec<Vec<String>> {
    if names.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for place in 0..names.len() {
        let mut rest = names.to_vec();
        let first = rest.remove(place);
        all.extend(orderings(&rest).into_iter().map(|mut order| {
            order.insert(0, first.clone());
            order
        }));
    }
    all
}

/// Markov by walking the chain: the probability mass is moved on step by step until none is left, once with each channel taken out.
#[test]
fn markov_is_what_walking_the_chain_without_a_channel_loses() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let channels = rng.usize(1..5);
        let all = random(&mut rng, channels, 60);
        for order in 1..=3 {
            let walk = |without: Option<&str>| -> f64 {
                let mut counts: BTreeMap<Vec<&str>, BTreeMap<Option<Vec<&str>>, f64>> = BTreeMap::new();
                let mut wins: BTreeMap<Vec<&str>, f64> = BTreeMap::new();
                for one in &all {
                    let mut state: Vec<&str> = Vec::new();
                    for (channel, _) in &one.touches {
                        let mut next = state.clone();
                        next.push(channel);
                        let next = next[next.len().saturating_sub(order)..].to_vec();
                        *counts.entry(state).or_default().entry(Some(next.clone())).or_default() += 1.0;
                        state = next;
                    }
                    *counts.entry(state.clone()).or_default().entry(None).or_default() += 1.0;
                    *wins.entry(state).or_default() += if one.converted { 1.0 } else { 0.0 };
                }
                let mut mass: BTreeMap<Vec<&str>, f64> = BTreeMap::from([(Vec::new(), 1.0)]);
                let mut won = 0.0;
                for _ in 0..5_000 {
                    let mut later: BTreeMap<Vec<&str>, f64> = BTreeMap::new();
                    for (state, here) in mass {
                        let total: f64 = counts[&state].values().sum();
                        won += here * wins.get(&state).copied().unwrap_or_default() / total;
                        for (next, count) in &counts[&state] {
                            if let Some(next) = next.as_ref().filter(|next| next.last().copied() != without) {
                                *later.entry(next.clone()).or_default() += here * count / total;
                            }
                        }
                    }
                    mass = later;
                    if mass.values().sum::<f64>() < 1e-16 {
                        break;
                    }
                }
                won
            };
            let conversions = all.iter().filter(|one| one.converted).count() as f64;
            let whole = walk(None);
            if whole == 0.0 {
                continue;
            }
            let mut names: Vec<&str> = all.iter().flat_map(|one| one.touches.iter().map(|(c, _)| *c)).collect();
            names.sort_unstable();
            names.dedup();
            let effects: Vec<f64> = names.iter().map(|name| 1.0 - walk(Some(name)) / whole).collect();
            let total: f64 = effects.iter().sum();
            let expected =
                names.iter().zip(&effects).map(|(name, e)| (name.to_string(), e / total * conversions)).collect();
            near(&of(Model::Markov { order }, &all), &expected, &format!("seed {seed}, order {order}"));
        }
    }
}

#[test]
fn whatever_the_model_the_credit_is_the_conversions_and_their_value() {
    let models = vec![
        Model::FirstTouch,
        Model::LastTouch,
        Model::Linear,
        Model::TimeDecay { half_life_us: DAY_US },
        Model::PositionBased { first: 0.4, last: 0.4 },
        Model::PositionBased { first: 0.0, last: 0.0 },
        Model::Markov { order: 1 },
        Model::Markov { order: 3 },
        Model::Shapley,
    ];
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut all = random(&mut rng, 5, 2_000);
        all.push(path(true, 5.0, &[]));
        let conversions = all.iter().filter(|one| one.converted).count() as f64;
        let value: f64 = all.iter().filter(|one| one.converted).map(|one| one.value).sum();
        for (model, credit) in credit(&plan(models.clone(), false), all).unwrap() {
            let found: f64 = credit.values().map(|credit| credit.conversions).sum();
            assert!((found - conversions).abs() < 1e-6, "seed {seed}: {model:?} {found} of {conversions}");
            let found: f64 = credit.values().map(|credit| credit.value).sum();
            assert!((found - value).abs() < 1e-6 * value, "seed {seed}: {model:?} {found} of {value}");
        }
    }
}

#[test]
fn a_touch_counts_for_every_conversion_that_follows_in_time() {
    let contact = |days: i64, conversion: Option<f64>, channel: Option<&'static str>| Contact {
        at_us: days * DAY_US,
        conversion,
        channel,
    };
    let contacts = [
        contact(0, None, Some("ads")),
        contact(10, Some(5.0), None),
        // At the very time of the conversion, and one that is both.
        contact(10, None, Some("mail")),
        contact(30, Some(7.0), Some("search")),
        contact(31, None, Some("")),
    ];
    let left = Touches { touches: vec![("", 0)], ..Touches::default() };
    let of = |lookback_us| touches(lookback_us, &contacts).collect::<Vec<_>>();
    assert_eq!(
        of(30 * DAY_US),
        [
            path(true, 5.0, &[("ads", 10), ("mail", 0)]),
            path(true, 7.0, &[("ads", 30), ("mail", 20), ("search", 0)]),
            left.clone()
        ]
    );
    assert_eq!(of(30 * DAY_US - 1)[1], path(true, 7.0, &[("mail", 20), ("search", 0)]));
    assert_eq!(of(5 * DAY_US)[2].touches.len(), 2, "nothing followed the first in time");
}

/// By asking of each pair, whether one follows the other in time.
#[test]
fn touches_are_those_of_every_pair_in_time() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut times: Vec<i64> = (0..rng.usize(0..30)).map(|_| rng.i64(0..20) * DAY_US).collect();
        times.sort_unstable();
        let contacts: Vec<Contact> = times
            .iter()
            .map(|at_us| Contact {
                at_us: *at_us,
                conversion: (rng.u8(0..3) == 0).then(|| rng.f64()),
                channel: rng.bool().then(|| ["", "ads", "mail"][rng.usize(0..3)]),
            })
            .collect();
        let lookback_us = rng.i64(0..8) * DAY_US;
        let follows = |touch: &Contact, at_us| touch.at_us <= at_us && at_us - touch.at_us <= lookback_us;
        let mut expected: Vec<Touches> = Vec::new();
        for conversion in contacts.iter().filter(|contact| contact.conversion.is_some()) {
            let before = contacts.iter().filter(|touch| touch.channel.is_some() && follows(touch, conversion.at_us));
            let touches = before.map(|t| (t.channel.unwrap(), conversion.at_us - t.at_us)).collect();
            expected.push(Touches { converted: true, value: conversion.conversion.unwrap(), touches });
        }
        let lost = contacts.iter().filter(|touch| {
            let is_followed = |other: &Contact| other.conversion.is_some() && follows(touch, other.at_us);
            touch.channel.is_some() && !contacts.iter().any(is_followed)
        });
        let lost: Vec<_> = lost.map(|touch| (touch.channel.unwrap(), 0)).collect();
        expected.extend((!lost.is_empty()).then(|| Touches { touches: lost, ..Touches::default() }));
        assert_eq!(touches(lookback_us, &contacts).collect::<Vec<_>>(), expected, "seed {seed}");
    }
}
