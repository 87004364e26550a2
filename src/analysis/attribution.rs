//! Attribution: which channels conversions are owed to, by several models at once.
//!
//! The statement gives the conversions and touches of people; which touch counts for which conversion, and the credit, are
//! worked out here, since no SQL says a Markov chain. Whatever the model, the credit adds up to the conversions and to their value.

mod markov;

use std::collections::{BTreeMap, HashMap, HashSet};

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
pub struct Touches<'c> {
    pub converted: bool,
    pub value: f64,
    /// In order of time: the channel (empty: a direct visit), and how long before the conversion.
    pub touches: Vec<(&'c str, TimeUs)>,
}

/// What a channel is owed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Credit {
    pub conversions: f64,
    pub value: f64,
}

/// Credit, summed up path by path: nothing is kept of a path, however many there are.
pub struct Credits<'p> {
    plan: &'p AttributionPlan,
    /// The channels so far, each with its place in the sums.
    places: HashMap<String, usize>,
    /// Of each model but Markov, by channel.
    sums: Vec<Vec<Credit>>,
    chains: Vec<Option<markov::Counts>>,
    owed: Credit,
    untouched: Credit,
}

impl<'p> Credits<'p> {
    pub fn new(plan: &'p AttributionPlan) -> Credits<'p> {
        let chains = plan.models.iter().map(|model| match model {
            Model::Markov { order } => Some(markov::Counts::new(*order)),
            _ => None,
        });
        Credits {
            plan,
            places: HashMap::new(),
            sums: vec![Vec::new(); plan.models.len()],
            chains: chains.collect(),
            owed: Credit::default(),
            untouched: Credit::default(),
        }
    }

    pub fn add(&mut self, mut one: Touches<'_>) {
        let any_named = one.touches.iter().any(|(channel, _)| !channel.is_empty());
        if any_named && !self.plan.counts_direct {
            one.touches.retain(|(channel, _)| !channel.is_empty());
        }
        if one.touches.is_empty() {
            if one.converted {
                self.untouched.add(1.0, one.value);
            }
            return;
        }
        let touches: Vec<(usize, TimeUs)> =
            one.touches.iter().map(|(channel, before_us)| (self.place(channel), *before_us)).collect();
        for chain in self.chains.iter_mut().flatten() {
            chain.add(touches.iter().map(|(channel, _)| *channel), one.converted);
        }
        if !one.converted {
            return;
        }
        self.owed.add(1.0, one.value);
        for (model, sums) in self.plan.models.iter().zip(&mut self.sums) {
            if matches!(model, Model::Markov { .. }) {
                // Its credit is not made of touches.
                continue;
            }
            let weights = weights(*model, &touches);
            let total: f64 = weights.iter().sum();
            sums.resize(self.places.len(), Credit::default());
            for ((channel, _), weight) in touches.iter().zip(weights) {
                let share = weight / total;
                sums[*channel].add(share, share * one.value);
            }
        }
    }

    fn place(&mut self, channel: &str) -> usize {
        let channel = if channel.is_empty() { DIRECT } else { channel };
        if let Some(place) = self.places.get(channel) {
            return *place;
        }
        let place = self.places.len();
        self.places.insert(channel.to_string(), place);
        place
    }

    /// What each model owes each channel, the models in the order of the plan.
    ///
    /// # Errors
    /// A Markov chain with too many states to be solved, and what to do.
    pub fn finish(self) -> Result<Vec<(Model, BTreeMap<String, Credit>)>, String> {
        let mut names = vec![String::new(); self.places.len()];
        self.places.into_iter().for_each(|(channel, place)| names[place] = channel);
        let mut all = Vec::new();
        for ((model, sums), chain) in self.plan.models.iter().zip(self.sums).zip(self.chains) {
            let mut credit: BTreeMap<String, Credit> = match chain {
                None => names.iter().cloned().zip(sums).filter(|(_, credit)| credit.conversions > 0.0).collect(),
                Some(chain) => chain
                    .shares(&names)?
                    .into_iter()
                    .map(|(channel, share)| (channel, self.owed.times(share)))
                    .collect(),
            };
            if self.untouched.conversions > 0.0 {
                credit.insert(NONE.to_string(), self.untouched.clone());
            }
            all.push((*model, credit));
        }
        Ok(all)
    }
}

impl Credit {
    fn add(&mut self, conversions: f64, value: f64) {
        self.conversions += conversions;
        self.value += value;
    }

    fn times(&self, share: f64) -> Credit {
        Credit { conversions: share * self.conversions, value: share * self.value }
    }
}

/// How much each touch counts; not all 0.
fn weights(model: Model, touches: &[(usize, TimeUs)]) -> Vec<f64> {
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
            let mut seen = HashSet::new();
            touches.iter().map(|(channel, _)| if seen.insert(*channel) { 1.0 } else { 0.0 }).collect()
        }
    }
}

/// An event of one person that is a conversion, a touch, or both.
#[derive(Debug, Clone, PartialEq)]
pub struct Contact<'c> {
    pub at_us: TimeUs,
    /// What it is worth, where it is a conversion.
    pub conversion: Option<f64>,
    /// Where it is a touch; empty for a direct visit.
    pub channel: Option<&'c str>,
}

/// What a person was touched by before each conversion, and in the end without one; `contacts` are in order of time.
pub fn touches<'c>(lookback_us: TimeUs, contacts: &'c [Contact<'c>]) -> impl Iterator<Item = Touches<'c>> {
    let before_each = contacts.iter().filter_map(move |conversion| {
        let (value, upto_us) = (conversion.conversion?, conversion.at_us);
        // Who has been a customer for long, or is a robot, has very many.
        let start = contacts.partition_point(|contact| contact.at_us < upto_us - lookback_us);
        let end = contacts.partition_point(|contact| contact.at_us <= upto_us);
        let before = contacts.get(start..end).unwrap_or_default().iter();
        let touches = before.filter_map(|touch| Some((touch.channel?, upto_us - touch.at_us)));
        Some(Touches { converted: true, value, touches: touches.collect() })
    });
    let converts: Vec<TimeUs> = contacts.iter().filter(|one| one.conversion.is_some()).map(|one| one.at_us).collect();
    let is_followed = move |touch: &Contact<'_>| {
        let next = converts.get(converts.partition_point(|at_us| *at_us < touch.at_us));
        next.is_some_and(|at_us| at_us - touch.at_us <= lookback_us)
    };
    let left = contacts.iter().filter(|contact| contact.channel.is_some() && !is_followed(contact));
    let left: Vec<(&str, TimeUs)> = left.filter_map(|touch| Some((touch.channel?, 0))).collect();
    let left = (!left.is_empty()).then(|| Touches { touches: left, ..Touches::default() });
    before_each.chain(left)
}

impl Sql<'_> {
    /// A row for each person who converted or was touched: lists of when (`at_us`, UTC, in order), `is_conversion`, `value`, `is_touch`
    /// and `channel` (empty for a direct visit).
    ///
    /// Rows in order of people and time cost ClickHouse three times as much at fifty million events (benches/README.md).
    pub(super) fn attribution(&self, plan: &AttributionPlan) -> String {
        let value = plan.value.as_ref().map_or_else(|| "0.0".to_string(), |value| self.value(value));
        let (is_conversion, is_touch) = (self.is(&plan.conversion), self.is(&plan.touch));
        let columns = vec![
            ("at_us", "toUnixTimestamp64Micro(e.\"timestamp\")".to_string()),
            ("is_conversion", is_conversion.clone()),
            ("value", format!("coalesce(toFloat64({value}), 0.0)")),
            ("is_touch", is_touch.clone()),
            ("channel", format!("coalesce(CAST({} AS {}), '')", self.value(&plan.channel), self.text_type())),
        ];
        let mut expressions = self.expressions(&[&plan.conversion, &plan.touch]);
        expressions.extend(&plan.value);
        expressions.push(&plan.channel);
        let either = format!("({is_conversion}) OR ({is_touch})");
        let events = self.events(&expressions, &columns, Some(&either));
        format!(
            "WITH {events},\nlists AS (\n  SELECT arraySort(groupArray(tuple(v.at_us, v.message_id, v.is_conversion, v.value, v.is_touch, v.channel))) \
             AS contacts\n  FROM event_values AS v GROUP BY v.profile_id\n)\nSELECT tupleElement(l.contacts, 1) AS at_us, \
             tupleElement(l.contacts, 3) AS is_conversion, tupleElement(l.contacts, 4) AS value, tupleElement(l.contacts, 5) AS is_touch, \
             tupleElement(l.contacts, 6) AS channel\nFROM lists AS l"
        )
    }
}

#[cfg(test)]
mod tests;
