//! Splits: which arm of which a person is dealt.

use xxhash_rust::xxh3::xxh3_128;

use super::plan::Arm;
use crate::event::ProfileId;

/// By a hash of activation, step and person, so that it is the same at each entry, and that of another split says nothing
/// about it.
pub fn arm_of(activation: &str, step: &str, id: ProfileId, arms: &[Arm]) -> u8 {
    let text = format!("split\0{activation}\0{step}\0{id}");
    let at = (xxh3_128(text.as_bytes()) >> 96) as u64;
    arms.iter().position(|arm| at < arm.upto).unwrap_or_default() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arms(shares: &[f64]) -> Vec<Arm> {
        let mut whole = 0.0;
        let mut arm = |share: &f64| {
            whole += share;
            Arm { name: String::new(), upto: (whole * (1u64 << 32) as f64).round() as u64, first: None }
        };
        shares.iter().map(&mut arm).collect()
    }

    /// Of a million people, by the ids that profiles have.
    fn people() -> impl Iterator<Item = ProfileId> {
        (0..1_000_000u128).map(|number| ProfileId(xxh3_128(&number.to_be_bytes()).to_be_bytes()))
    }

    /// Pearson's chi-squared of counts against what is expected of them.
    fn chi_squared(counts: &[(f64, f64)]) -> f64 {
        counts.iter().map(|(found, expected)| (found - expected).powi(2) / expected).sum()
    }

    /// Arms are dealt alike by every process, also after a restart: these were worked out by another program, with another
    /// implementation of XXH3.
    #[test]
    fn a_person_is_dealt_the_same_arm_by_any_process() {
        let dealt = (0..24u128).map(|number| {
            let arm = arm_of("nurture", "test", ProfileId(number.to_be_bytes()), &arms(&[0.5, 0.5]));
            if arm == 0 { 'a' } else { 'b' }
        });
        assert_eq!(dealt.collect::<String>(), "abaabaabbbabbaaabaababaa");
    }

    /// With 3 degrees of freedom chi-squared is above 21.1 once in ten thousand times.
    #[test]
    fn shares_of_a_split_hold_over_a_million_people_and_two_splits_are_independent() {
        let shares = [0.45, 0.45, 0.08, 0.02];
        let all = arms(&shares);
        let mut both = vec![[0u32; 4]; 4];
        for id in people() {
            let first = arm_of("win_back", "test", id, &all);
            assert_eq!(arm_of("win_back", "test", id, &all), first, "the same again");
            both[usize::from(first)][usize::from(arm_of("cart", "test", id, &all))] += 1;
        }
        let of_first: Vec<f64> = both.iter().map(|row| row.iter().sum::<u32>().into()).collect();
        let of_second: Vec<f64> = (0..4).map(|arm| both.iter().map(|row| row[arm]).sum::<u32>().into()).collect();
        for (name, counts) in [("win_back", &of_first), ("cart", &of_second)] {
            let pairs: Vec<(f64, f64)> = counts.iter().zip(shares).map(|(n, share)| (*n, share * 1e6)).collect();
            assert!(chi_squared(&pairs) < 21.1, "{name}: {counts:?}");
        }
        let cells = (0..16).map(|cell| {
            let (first, second) = (cell / 4, cell % 4);
            (f64::from(both[first][second]), of_first[first] * of_second[second] / 1e6)
        });
        // Nine degrees of freedom: 33.7 at one in ten thousand.
        let found = chi_squared(&cells.collect::<Vec<_>>());
        assert!(found < 33.7, "{found}: {both:?}");
        // Another step of the same activation is another split.
        let same =
            people().take(10_000).filter(|id| arm_of("cart", "again", *id, &all) == arm_of("cart", "test", *id, &all));
        assert!((3_600..4_800).contains(&same.count()), "as many as by chance");
    }
}
