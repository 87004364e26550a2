//! Whom segments share: the same text for both engines.

/// Each two segments that share members, both ways round.
pub(super) const SEGMENT_OVERLAP: &str = "\
SELECT p.segment AS segment, p.other_segment AS other_segment, s.members AS members, p.in_both AS in_both, \
CAST(p.in_both AS DOUBLE) / CAST(s.members AS DOUBLE) AS share \
FROM (SELECT a.segment AS segment, b.segment AS other_segment, CAST(count(*) AS BIGINT) AS in_both \
FROM segment_members AS a JOIN segment_members AS b ON a.profile_id = b.profile_id \
WHERE a.segment <> b.segment GROUP BY a.segment, b.segment) AS p \
JOIN (SELECT m.segment AS segment, CAST(count(*) AS BIGINT) AS members FROM segment_members AS m GROUP BY m.segment) AS s \
ON p.segment = s.segment";

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use arrow::array::RecordBatch;

    use crate::sink::tables::{self, Table, tests::batch};

    /// Commits of random entries and exits, and for each query its answer as CSV without the header, worked out row by row.
    pub(crate) struct Memberships {
        pub tables: Vec<Table>,
        pub commits: Vec<Vec<(Table, RecordBatch)>>,
        pub answers: Vec<(&'static str, String)>,
    }

    const SIZES: &str = "SELECT segment, hour, entered, exited, members FROM segment_sizes ORDER BY segment, hour";
    const OVERLAP: &str = "SELECT segment, other_segment, members, in_both, CAST(round(share * 1000) AS BIGINT) FROM segment_overlap ORDER BY 1, 2";
    const LAST: &str = "SELECT z.segment, z.members FROM segment_sizes AS z JOIN (SELECT segment, max(hour) AS hour FROM \
                        segment_sizes GROUP BY segment) AS l ON z.segment = l.segment AND z.hour = l.hour \
                        WHERE z.members > 0 ORDER BY 1";
    const MEMBERS: &str = "SELECT segment, count(*) FROM segment_members GROUP BY segment ORDER BY 1";

    pub(crate) fn memberships(seed: u64) -> Memberships {
        let mut random = fastrand::Rng::with_seed(seed);
        let table = tables::segment_changes();
        let mut members: BTreeSet<(String, String)> = BTreeSet::new();
        let mut hours: BTreeMap<(String, u32), (i64, i64)> = BTreeMap::new();
        let mut commits = Vec::new();
        for commit in 1..=20u64 {
            let mut rows: [Vec<String>; 5] = Default::default();
            for _ in 0..random.usize(1..30) {
                let segment = format!("s{}", random.u8(0..4));
                let profile = format!("p{}", random.u8(0..12));
                let member = (segment.clone(), profile.clone());
                let entered = !members.contains(&member);
                match entered {
                    true => members.insert(member),
                    false => members.remove(&member),
                };
                // A timer that is caught up on carries an hour of before.
                let hour = (commit as u32 / 2 + random.u32(0..3)).saturating_sub(random.u32(0..2));
                let counts = hours.entry((segment.clone(), hour)).or_default();
                counts.0 += i64::from(entered);
                counts.1 += i64::from(!entered);
                let (minute, second) = (random.u8(0..60), random.u8(0..60));
                let at = format!("2026-03-01T{hour:02}:{minute:02}:{second:02}.5Z");
                let change = if entered { "entered" } else { "exited" };
                let cause = ["event", "time", "merge", "split", "fill", "edit"][random.usize(0..6)];
                for (column, value) in rows.iter_mut().zip([segment, profile, change.into(), cause.into(), at]) {
                    column.push(value);
                }
            }
            let names = ["segment", "profile_id", "change", "cause", "changed_at"];
            let given = names.iter().zip(&rows);
            let given: Vec<(&str, Vec<Option<&str>>)> = given
                .map(|(name, values)| (*name, values.iter().map(|value| Some(value.as_str())).collect()))
                .collect();
            commits.push(vec![(table.clone(), batch(&table, commit, &given))]);
        }
        let mut sizes = Vec::new();
        let mut running: BTreeMap<&str, i64> = BTreeMap::new();
        for ((segment, hour), (entered, exited)) in &hours {
            let members = running.entry(segment).or_default();
            *members += entered - exited;
            sizes.push((segment, hour, entered, exited, *members));
        }
        let sizes: Vec<String> = sizes
            .iter()
            .map(|(segment, hour, entered, exited, members)| {
                format!("{segment},2026-03-01T{hour:02}:00:00Z,{entered},{exited},{members}")
            })
            .collect();
        let of = |segment: &str| -> BTreeSet<&String> {
            members.iter().filter(|(other, _)| other == segment).map(|(_, profile)| profile).collect()
        };
        let segments: BTreeSet<&String> = members.iter().map(|(segment, _)| segment).collect();
        let counts: Vec<String> = segments.iter().map(|segment| format!("{segment},{}", of(segment).len())).collect();
        let mut overlap = Vec::new();
        for (a, b) in segments.iter().flat_map(|a| segments.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b) {
            let (mine, both) = (of(a).len(), of(a).intersection(&of(b)).count());
            if both > 0 {
                overlap.push(format!("{a},{b},{mine},{both},{:.0}", (both as f64 / mine as f64 * 1000.0).round()));
            }
        }
        let answers = vec![
            (SIZES, sizes.join("\n")),
            (OVERLAP, overlap.join("\n")),
            (MEMBERS, counts.join("\n")),
            (LAST, counts.join("\n")),
        ];
        Memberships { tables: vec![table], commits, answers }
    }
}
