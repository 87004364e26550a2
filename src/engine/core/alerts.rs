//! Alerts: each group's series of an aggregate, and the events that say that one is odd.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::*;
use crate::aggregate::{Alert, AlertPlan, GROUPS_MAX, Past, Series};

/// The event that an alert makes.
const EVENT: &str = "Anomaly Detected";

/// Under `Tag::Alert`.
#[derive(Debug, Serialize, Deserialize)]
struct SeriesRecord {
    /// A series is of one definition.
    definition: u64,
    group: String,
    series: Series,
}

impl SeriesRecord {
    const VERSION: u8 = 1;
    const VERSION_OF_PAST: u8 = 1;
}

struct Watched {
    plan: AlertPlan,
    definition: u64,
    /// By the keys of the group, as JSON.
    series: BTreeMap<String, (Series, Past)>,
}

#[derive(Default)]
pub struct Alerts {
    watched: Vec<Watched>,
}

impl Alerts {
    /// Reads the series of these alerts, and forgets those of others.
    pub async fn load(store: &dyn Store, plans: &[AlertPlan]) -> Result<Alerts, StoreError> {
        let mut alerts = Alerts::default();
        for plan in plans {
            for direction in ["high", "low"] {
                // From the start, so that the first one is an increase.
                metrics::counter!("tributary_alerts_total", "alert" => plan.name.clone(), "direction" => direction)
                    .absolute(0);
            }
            let definition = xxh3_128(format!("{plan:?}").as_bytes()) as u64;
            alerts.watched.push(Watched { plan: plan.clone(), definition, series: BTreeMap::new() });
        }
        let mut writes = WriteBatch::default();
        for (key, value) in scan_all(store, &keys::prefix(Tag::Alert)).await? {
            let record: SeriesRecord = codec::decode(SeriesRecord::VERSION, "series of an alert", &value)?;
            let past = keys::with_tag(&key, Tag::AlertPast);
            let of = alerts.watched.iter_mut().find(|watched| {
                watched.definition == record.definition && key_of(Tag::Alert, &watched.plan, &record.group) == key
            });
            match of {
                Some(watched) => {
                    let past = load::load_one(store, &past, SeriesRecord::VERSION_OF_PAST, "past of an alert").await?;
                    watched.series.insert(record.group, (record.series, past));
                }
                None => {
                    writes.delete(key);
                    writes.delete(past);
                }
            }
        }
        if !writes.is_empty() {
            store.commit(writes).await?;
        }
        Ok(alerts)
    }

    /// Takes in the partial rows of an aggregate at `now`.
    pub fn take(&mut self, aggregate: &str, rows: &RecordBatch, now: TimeUs, writes: &mut WriteBatch) {
        for watched in self.watched.iter_mut().filter(|watched| watched.plan.aggregate == aggregate) {
            let mut touched = BTreeSet::new();
            for (group, period, sum) in watched.plan.read(rows) {
                if watched.series.len() >= GROUPS_MAX && !watched.series.contains_key(&group) {
                    metrics::counter!("tributary_alert_groups_left_out_total", "alert" => watched.plan.name.clone())
                        .increment(1);
                    continue;
                }
                let (series, _) = watched.series.entry(group.clone()).or_default();
                if watched.plan.add(series, period, sum, now) {
                    touched.insert(group);
                }
            }
            touched.iter().for_each(|group| watched.put(group, writes));
        }
    }

    /// What is odd of the periods that are over at `now`: the alert's plan, the keys of the group, and what it says.
    fn judge(&mut self, now: TimeUs, writes: &mut WriteBatch) -> Vec<(AlertPlan, String, Alert)> {
        let mut odd = Vec::new();
        for watched in &mut self.watched {
            let due: Vec<String> = watched
                .series
                .iter()
                .filter(|(_, (series, _))| watched.plan.is_due(series, now))
                .map(|(group, _)| group.clone())
                .collect();
            for group in due {
                let Some((series, past)) = watched.series.get_mut(&group) else { continue };
                let alerts = watched.plan.judge(series, past, now);
                odd.extend(alerts.into_iter().map(|alert| (watched.plan.clone(), group.clone(), alert)));
                if watched.plan.is_forgotten(series, past) {
                    watched.series.remove(&group);
                    writes.delete(key_of(Tag::Alert, &watched.plan, &group));
                    writes.delete(key_of(Tag::AlertPast, &watched.plan, &group));
                    continue;
                }
                let past = codec::encode(SeriesRecord::VERSION_OF_PAST, past);
                writes.put(key_of(Tag::AlertPast, &watched.plan, &group), past);
                watched.put(&group, writes);
            }
        }
        odd
    }
}

impl Watched {
    fn put(&self, group: &str, writes: &mut WriteBatch) {
        let Some((series, _)) = self.series.get(group) else { return };
        let record = SeriesRecord { definition: self.definition, group: group.to_string(), series: series.clone() };
        writes.put(key_of(Tag::Alert, &self.plan, group), codec::encode(SeriesRecord::VERSION, &record));
    }
}

fn key_of(tag: Tag, plan: &AlertPlan, group: &str) -> Bytes {
    keys::numbered_name(tag, &plan.name, xxh3_128(group.as_bytes()) as u64)
}

impl Core {
    /// Periods that are over by now are judged; what is odd becomes an event, which comes in after this commit.
    pub(super) fn judge_alerts(&mut self, staged: &mut Staged) {
        let now = self.record.now;
        for (plan, group, alert) in self.alerts.judge(now, &mut staged.writes) {
            let cause = format!("{}\0{group}\0{}", plan.name, alert.starts_at);
            let direction = if alert.score > 0.0 { "high" } else { "low" };
            metrics::counter!("tributary_alerts_total", "alert" => plan.name.clone(), "direction" => direction)
                .increment(1);
            tracing::warn!(alert = %plan.name, %group, since = %time_text(alert.starts_at), value = alert.value,
                expected = alert.expected, "a series is odd");
            let envelope = json!({
                "type": "track",
                "event": EVENT,
                "message_id": format!("alert_{:032x}", xxh3_128(cause.as_bytes())),
                "timestamp": time_text(alert.ends_at),
                "properties": {
                    "alert": plan.name,
                    "aggregate": plan.aggregate,
                    "measure": plan.value_name,
                    "group": serde_json::from_str::<Value>(&group).unwrap_or_default(),
                    "period_start": time_text(alert.starts_at),
                    "value": alert.value,
                    "expected": alert.expected,
                    "score": alert.score,
                    "direction": direction,
                },
            });
            self.emit(&envelope, now, staged);
        }
    }
}
