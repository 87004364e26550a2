//! Traits over rows of events against the real ClickHouse engine. `best` of a funnel is `windowFunnel`: thousands of
//! small sets of events with few distinct times, so that ties, re-entry, gaps equal to the window and events that meet
//! several steps are common. A quantile of gaps is `quantileExact`.

use std::fmt::Write;

use tributary::profile::{Funnel, FunnelModes, FunnelPlan, Gap, GapPlan, GapStatistic, Point};

use crate::support::{clickhouse, servers};

/// For each combination of modes.
const CASES: usize = 2_000;
/// The least unit of time of the events, in microseconds.
const TICK_US: i64 = 250_000;
const START_US: i64 = 1_767_225_600_000_000;

const MODES: [&str; 5] = ["strict_deduplication", "strict_order", "strict_increase", "strict_once", "allow_reentry"];

struct Case {
    plan: FunnelPlan,
    points: Vec<Point>,
}

/// Events that mostly go through the steps in order, with ties and noise.
fn random_case(random: &mut fastrand::Rng, steps: u8, within_us: i64, modes: FunnelModes) -> Case {
    let span = random.i64(1..12);
    let (count, several, none) = (random.usize(0..12), random.f64() * 0.5, random.f64() * 0.3);
    let points = (0..count).map(|number| {
        let tick = random.i64(0..span);
        let mut met = if random.bool() { 1 << (tick * i64::from(steps) / span) } else { 1u32 << random.u8(0..steps) };
        if random.f64() < several {
            met |= random.u32(0..1 << steps);
        }
        if random.f64() < none {
            met = 0;
        }
        // Rows of one time go to the engine by id, which `strict_once` with `strict_deduplication` sees.
        Point { at: START_US + tick * TICK_US, id: number as u32, steps: met, without: 0 }
    });
    let mut points: Vec<Point> = points.collect();
    points.sort_by_key(|point| (point.at, point.id));
    Case { plan: FunnelPlan { steps, within_us, modes }, points }
}

/// `windowFunnel` of each case, in one query: its parameters are constants, so all cases share them.
fn engine(url: &str, cases: &[Case]) -> Vec<u8> {
    let FunnelPlan { steps, within_us, modes } = &cases[0].plan;
    let modes: String = modes.names().map(|name| format!(", '{name}'")).collect();
    let conditions: String = (0..*steps).map(|step| format!(", bitTest(steps, {step})")).collect();
    let mut rows = String::new();
    for (number, case) in cases.iter().enumerate() {
        for point in &case.points {
            write!(rows, "({number},{},{}),", point.at, point.steps).expect("text");
        }
    }
    let rows = rows.trim_end_matches(',');
    let sql = format!(
        "SELECT number, windowFunnel({within_us}{modes})(at{conditions}) FROM values('number UInt32, at UInt64, steps UInt32', {rows}) \
        GROUP BY number SETTINGS max_threads = 1, max_query_size = 100000000"
    );
    let mut levels = vec![0; cases.len()];
    for line in clickhouse(url, "default", &sql).lines() {
        let (number, level) = line.split_once('\t').expect("two columns");
        levels[number.parse::<usize>().expect("a number")] = level.parse().expect("a level");
    }
    levels
}

/// SEMANTICS §5: `best` is ClickHouse's `windowFunnel`, in every mode and combination of modes.
#[test]
fn best_is_what_the_engine_says_in_every_mode() {
    let mut combinations = Vec::new();
    for bits in 0u32..32 {
        let mut modes = FunnelModes::default();
        let named = MODES.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
        named.for_each(|(_, name)| assert!(modes.set(name), "{name} is a mode"));
        if modes.strict_order || !modes.allow_reentry {
            combinations.push(modes);
        }
    }
    let mut reached = [0; 6];
    for (number, modes) in combinations.into_iter().enumerate() {
        for round in 0..4 {
            let seed = (number * 10 + round) as u64;
            let mut random = fastrand::Rng::with_seed(seed);
            let (steps, within) = (random.u8(1..6), random.i64(0..8) * TICK_US);
            let cases: Vec<Case> = (0..CASES / 4).map(|_| random_case(&mut random, steps, within, modes)).collect();
            let expected = engine(&servers().clickhouse, &cases);
            for (case, expected) in cases.iter().zip(expected) {
                let mut funnel = Funnel::default();
                let mut points = case.points.clone();
                random.shuffle(&mut points);
                for point in points {
                    funnel.add(&case.plan, point);
                }
                let best = funnel.value(&case.plan).best;
                assert_eq!(best, expected, "seed {seed}: {:?}\n{:#?}", case.plan, case.points);
                // Folding what is old changes nothing, wherever the border is.
                let floor = START_US + random.i64(0..20) * TICK_US;
                funnel.settle(&case.plan, floor);
                assert_eq!(
                    funnel.value(&case.plan).best,
                    expected,
                    "seed {seed}, settled at {floor}: {:?}\n{:#?}",
                    case.plan,
                    case.points
                );
                reached[usize::from(best)] += 1;
            }
        }
        println!("seeds {}0 to {}3: {:?}", number, number, modes.names().collect::<Vec<_>>());
    }
    println!("cases by level: {reached:?}");
    assert!(reached.iter().all(|count| *count > 100), "the cases are worth something: {reached:?}");
}

/// SEMANTICS §11: a quantile and the mean of gaps are what the engine makes of the same times, to the last digit.
#[test]
fn gaps_are_what_the_engine_says() {
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let level = f64::from(random.u8(0..=20)) / 20.0;
        let (mut rows, mut expected) = (String::new(), String::new());
        for number in 0..500 {
            let quantile = GapPlan { keep: 100, statistic: GapStatistic::Quantile(level) };
            let mean = GapPlan { statistic: GapStatistic::Mean, ..quantile };
            let mut gap = Gap::default();
            for id in 0..random.u64(2..20) {
                let at = START_US + random.i64(0..86_400_000_000);
                gap.add(&quantile, at, id);
                write!(rows, "({number},{at}),").expect("text");
            }
            let values = (gap.value(&quantile).expect("a gap"), gap.value(&mean).expect("a gap"));
            writeln!(expected, "{number}\t{}\t{}", values.0, values.1).expect("text");
        }
        let sql = format!(
            "WITH arrayPopFront(arrayDifference(arraySort(groupArray(at)))) AS gaps \
            SELECT number, arrayReduce('quantileExact({level})', gaps) / 1e6, arrayReduce('avg', gaps) / 1e6 \
            FROM values('number UInt32, at Int64', {}) GROUP BY number ORDER BY number SETTINGS max_query_size = 10000000",
            rows.trim_end_matches(',')
        );
        println!("seed {seed}: level {level}");
        assert_eq!(
            clickhouse(&servers().clickhouse, "default", &sql),
            expected.trim_end(),
            "seed {seed}, level {level}"
        );
    }
}
