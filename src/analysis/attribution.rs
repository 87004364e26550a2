//! Attribution: which channels conversions are owed to, by several models at once.
//!
//! The statement gives what people were touched by, conversion by conversion; the credit is worked out here, since no
//! SQL says a Markov chain. Whatever the model, the credit adds up to the conversions and to their value.

mod markov;

use std::collections::BTreeMap;

use super::{EventFilter, Sql};
use crate::event::TimeUs;
use crate::expression::{Dialect, Expression};

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
            sums.clear();
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
        // The chain's credit is not made of touches.
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

impl Sql<'_> {
    /// A row for each conversion and touch before it, in order of people, conversions and touches: `profile_id`, `conversion`
    /// (its message id; null for touches that no conversion followed in time), `value`, `channel` (null where the conversion has no
    /// touch, empty for a direct visit), `before_us`.
    pub(super) fn attribution(&self, plan: &AttributionPlan) -> String {
        let value = plan.value.as_ref().map_or_else(|| "0.0".to_string(), |value| self.value(value));
        let columns = vec![
            ("is_conversion", self.is(&plan.conversion)),
            ("is_touch", self.is(&plan.touch)),
            ("value", format!("coalesce(toFloat64({value}), 0.0)")),
            ("channel", format!("coalesce(CAST({} AS {}), '')", self.value(&plan.channel), self.text_type())),
        ];
        let mut expressions = self.expressions(&[&plan.conversion, &plan.touch]);
        expressions.extend(&plan.value);
        expressions.push(&plan.channel);
        let either = format!("({}) OR ({})", self.is(&plan.conversion), self.is(&plan.touch));
        let events = self.events(&expressions, &columns, Some(&either));
        let null = match self.dialect {
            Dialect::ClickHouse => "CAST(NULL AS Nullable(String))",
            Dialect::DataFusion => "CAST(NULL AS VARCHAR)",
        };
        let lookback = plan.lookback_us;
        let pair = format!(
            "FROM conversions AS c JOIN touches AS t ON c.profile_id = t.profile_id WHERE t.at_us <= c.at_us AND c.at_us - t.at_us <= {lookback}"
        );
        format!(
            "WITH {events},\nconversions AS (\n  SELECT v.profile_id AS profile_id, v.message_id AS id, v.value AS value, \
             toUnixTimestamp64Micro(v.\"timestamp\") AS at_us FROM event_values AS v WHERE v.is_conversion\n),\ntouches AS (\n  SELECT \
             v.profile_id AS profile_id, v.message_id AS id, v.channel AS channel, toUnixTimestamp64Micro(v.\"timestamp\") AS at_us FROM event_values AS v \
             WHERE v.is_touch\n),\nfollowed AS (\n  SELECT c.profile_id AS profile_id, c.id AS conversion, t.id AS touch, c.value AS value, \
             c.at_us AS at_us, t.channel AS channel, c.at_us - t.at_us AS before_us {pair}\n)\n\
             SELECT a.profile_id AS profile_id, a.conversion AS conversion, a.value AS value, a.channel AS channel, a.before_us AS before_us\nFROM (\n  \
             SELECT f.profile_id AS profile_id, f.conversion AS conversion, f.touch AS touch, f.value AS value, f.at_us AS at_us, f.channel AS channel, \
             f.before_us AS before_us FROM followed AS f\n  \
             UNION ALL SELECT c.profile_id, c.id, '', c.value, c.at_us, {null}, toInt64(0) FROM conversions AS c WHERE c.id NOT IN (SELECT f.conversion \
             FROM followed AS f)\n  UNION ALL SELECT t.profile_id, {null}, t.id, 0.0, toInt64(9000000000000000000), t.channel, \
             toInt64(0) - t.at_us FROM touches AS t WHERE t.id NOT IN (SELECT f.touch FROM followed AS f)\n) AS a\n\
             ORDER BY a.profile_id, a.at_us, a.conversion, a.before_us DESC, a.touch"
        )
    }
}

#[cfg(test)]
mod tests;
