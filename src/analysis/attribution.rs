//! Attribution: which channels conversions are owed to, by several models at once.
//!
//! The statement gives the conversions and touches of people; which touch counts for which conversion, and the credit, are
//! worked out here, since no SQL says a Markov chain. Whatever the model, the credit adds up to the conversions and to their value.

mod markov;

use std::collections::BTreeMap;

use super::{EventFilter, Sql};
use crate::event::TimeUs;
use crate::expression::Expression;

#[derive(Debug, Clone)]
pub struct AttributionPlan {
    pub conversion: EventFilter,
    /// A number of the conversion; None: only conversions are counted.
    pub value: Option<Expression>,
    pub touch: EventFilter,
    /// A text of the touch; without one it is a direct visit.
    pub channel: Expression,
    /// Touches so long before a conversion count for it.
    pub lookback_us: TimeUs,
    pub models: Vec<Model>,
    /// Direct visits count as a channel of their own; else only where nothing else was there.
    pub counts_direct: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Model {
    FirstTouch,
    LastTouch,
    Linear,
    /// A touch counts half as much for each half-life that it lies before the conversion.
    TimeDecay {
        half_life_us: TimeUs,
    },
    /// Shares of the first and of the last touch, from 0 to 1; those between share the rest.
    PositionBased {
        first: f64,
        last: f64,
    },
    /// Channels share by what would be lost without each: the removal effect in a Markov chain whose states are the last `order`
    /// channels (Anderl et al., *Mapping the customer journey*, 2016). `order` is 1 to 3.
    Markov {
        order: usize,
    },
    /// The Shapley value of the game in which channels earn the conversions of all paths that need no others. Such a game is
    /// a sum of unanimity games, so each path's conversion is shared evenly by its different channels (Zhao et al., 2018).
    Shapley,
}

impl Model {
    pub const NAMES: [&'static str; 7] =
        ["first_touch", "last_touch", "linear", "time_decay", "position_based", "markov", "shapley"];

    pub fn name(self) -> &'static str {
        match self {
            Model::FirstTouch => "first_touch",
            Model::LastTouch => "last_touch",
            Model::Linear => "linear",
            Model::TimeDecay { .. } => "time_decay",
            Model::PositionBased { .. } => "position_based",
            Model::Markov { .. } => "markov",
            Model::Shapley => "shapley",
        }
    }
}

/// A visit that no channel is known of.
pub const DIRECT: &str = "(direct)";
/// Conversions that nothing came before.
pub const NONE: &str = "(none)";

/// What one person was touched by before one conversion, or without any.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Touches {
    pub converted: bool,
    pub value: f64,
    /// In order of time: the channel (empty: a direct visit), and how long before the conversion.
    pub touches: Vec<(String, TimeUs)>,
}

/// What a channel is owed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Credit {
    pub conversions: f64,
    pub value: f64,
}

/// What each model owes each channel, the models in the order of the plan.
///
/// # Errors
/// A Markov chain with too many states to be solved, and what to do.
pub fn credit(
    plan: &AttributionPlan,
    all: impl IntoIterator<Item = Touches>,
) -> Result<Vec<(Model, BTreeMap<String, Credit>)>, String> {
    let mut sums: Vec<BTreeMap<String, Credit>> = vec![BTreeMap::new(); plan.models.len()];
    let mut chain = markov::Paths::default();
    let (mut owed, mut untouched) = (Credit::default(), Credit::default());
    for mut one in all {
        let any_named = one.touches.iter().any(|(channel, _)| !channel.is_empty());
        if any_named && !plan.counts_direct {
            one.touches.retain(|(channel, _)| !channel.is_empty());
        }
        one.touches
            .iter_mut()
            .filter(|(channel, _)| channel.is_empty())
            .for_each(|(channel, _)| *channel = DIRECT.into());
        chain.add(&one);
        if !one.converted {
            continue;
        }
        if one.touches.is_empty() {
            untouched.conversions += 1.0;
            untouched.value += one.value;
            continue;
        }
        owed.conversions += 1.0;
        owed.value += one.value;
        for (model, sums) in plan.models.iter().zip(&mut sums) {
            if matches!(model, Model::Markov { .. }) {
                // Its credit is not made of touches.
                continue;
            }
            let weights = weights(*model, &one.touches);
            let total: f64 = weights.iter().sum();
            for ((channel, _), weight) in one.touches.iter().zip(weights) {
                let share = weight / total;
                let credit = sums.entry(channel.clone()).or_default();
                credit.conversions += share;
                credit.value += share * one.value;
            }
        }
    }
    for (model, sums) in plan.models.iter().zip(&mut sums) {
        if let Model::Markov { order } = model {
            for (channel, share) in chain.shares(*order)? {
                let credit = Credit { conversions: share * owed.conversions, value: share * owed.value };
                sums.insert(channel, credit);
            }
        }
        if untouched.conversions > 0.0 {
            sums.insert(NONE.to_string(), untouched.clone());
        }
    }
    Ok(plan.models.iter().copied().zip(sums).collect())
}

/// How much each touch counts; not all 0.
fn weights(model: Model, touches: &[(String, TimeUs)]) -> Vec<f64> {
    let count = touches.len();
    let at = |place: usize| (0..count).map(|index| if index == place { 1.0 } else { 0.0 }).collect();
    match model {
        Model::FirstTouch => at(0),
        Model::LastTouch => at(count.saturating_sub(1)),
        Model::Linear | Model::Markov { .. } => vec![1.0; count],
        Model::TimeDecay { half_life_us } => {
            // From the latest touch on, so that none of those long ago comes to nothing.
            let latest = touches.last().map_or(0, |(_, before_us)| *before_us);
            let halves = |before_us: TimeUs| (before_us - latest) as f64 / half_life_us as f64;
            touches.iter().map(|(_, before_us)| (-halves(*before_us)).exp2()).collect()
        }
        Model::PositionBased { first, last } => match count {
            0 => Vec::new(),
            1 => vec![1.0],
            2 if first + last > 0.0 => vec![first, last],
            2 => vec![1.0, 1.0],
            _ => {
                let mut weights = vec![(1.0 - first - last) / (count - 2) as f64; count];
                weights[0] = first;
                weights[count - 1] = last;
                weights
            }
        },
        Model::Shapley => {
            // Each channel once: by its first touch.
            let is_first = |place: usize| !touches[..place].iter().any(|(channel, _)| *channel == touches[place].0);
            (0..count).map(|place| if is_first(place) { 1.0 } else { 0.0 }).collect()
        }
    }
}

/// An event of one person that is a conversion, a touch, or both.
#[derive(Debug, Clone, PartialEq)]
pub struct Contact {
    pub at_us: TimeUs,
    /// What it is worth, where it is a conversion.
    pub conversion: Option<f64>,
    /// Where it is a touch; empty for a direct visit.
    pub channel: Option<String>,
}

/// What a person was touched by before each conversion, and in the end without one; `contacts` are in order of time.
pub fn touches(lookback_us: TimeUs, contacts: &[Contact]) -> Vec<Touches> {
    // Those from a time on and up to another; who has been a customer for long, or is a robot, has very many.
    let between = |from: TimeUs, to: TimeUs| {
        let start = contacts.partition_point(|contact| contact.at_us < from);
        &contacts[start..contacts.partition_point(|contact| contact.at_us <= to).max(start)]
    };
    let mut all = Vec::new();
    for conversion in contacts {
        let Some(value) = conversion.conversion else { continue };
        let before = between(conversion.at_us - lookback_us, conversion.at_us).iter();
        let touches = before.filter_map(|touch| Some((touch.channel.clone()?, conversion.at_us - touch.at_us)));
        all.push(Touches { converted: true, value, touches: touches.collect() });
    }
    let converts: Vec<TimeUs> = contacts.iter().filter(|one| one.conversion.is_some()).map(|one| one.at_us).collect();
    let is_followed = |touch: &Contact| {
        let next = converts.get(converts.partition_point(|at_us| *at_us < touch.at_us));
        next.is_some_and(|at_us| at_us - touch.at_us <= lookback_us)
    };
    let left = contacts.iter().filter(|contact| contact.channel.is_some() && !is_followed(contact));
    let touches: Vec<(String, TimeUs)> = left.filter_map(|touch| Some((touch.channel.clone()?, 0))).collect();
    if !touches.is_empty() {
        all.push(Touches { touches, ..Touches::default() });
    }
    all
}

impl Sql<'_> {
    /// A row for each conversion and touch, in order of people and time: `profile_id`, `at_us` (UTC), `is_conversion`, `value`,
    /// `is_touch`, `channel` (empty for a direct visit).
    pub(super) fn attribution(&self, plan: &AttributionPlan) -> String {
        let value = plan.value.as_ref().map_or_else(|| "0.0".to_string(), |value| self.value(value));
        let (is_conversion, is_touch) = (self.is(&plan.conversion), self.is(&plan.touch));
        let columns = vec![
            ("at_us", "toUnixTimestamp64Micro(e.\"timestamp\")".to_string()),
            ("is_conversion", format!("CASE WHEN {is_conversion} THEN 1 ELSE 0 END")),
            ("value", format!("coalesce(toFloat64({value}), 0.0)")),
            ("is_touch", format!("CASE WHEN {is_touch} THEN 1 ELSE 0 END")),
            ("channel", format!("coalesce(CAST({} AS {}), '')", self.value(&plan.channel), self.text_type())),
        ];
        let mut expressions = self.expressions(&[&plan.conversion, &plan.touch]);
        expressions.extend(&plan.value);
        expressions.push(&plan.channel);
        let either = format!("({is_conversion}) OR ({is_touch})");
        let events = self.events(&expressions, &columns, Some(&either));
        format!(
            "WITH {events}\nSELECT v.profile_id AS profile_id, v.at_us AS at_us, v.is_conversion AS is_conversion, v.value AS value, \
             v.is_touch AS is_touch, v.channel AS channel\nFROM event_values AS v\nORDER BY v.profile_id, v.at_us, v.message_id"
        )
    }
}

#[cfg(test)]
mod tests;
