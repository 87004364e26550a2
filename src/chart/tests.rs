use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use resvg::tiny_skia::Pixmap;
use resvg::usvg::roxmltree::{Document, Node};

use super::text::{FAMILY, number, share, share_short, width};
use super::{Subject, png, sparkline, svg, time};
use crate::analysis::Period;

const DAY_US: i64 = 86_400_000_000;
/// 2026-03-01.
const START_US: i64 = 1_772_323_200_000_000;

fn subject(kind: &'static str) -> Subject {
    Subject {
        title: "the title".into(),
        about: "what it is about".into(),
        kind,
        every: Some(Period::Day),
        zone: chrono_tz::UTC,
        countable: vec!["orders".into()],
        units: vec![("orders".into(), "events")],
    }
}

enum Column {
    Texts(Vec<String>),
    Numbers(Vec<Option<f64>>),
    Whole(Vec<i64>),
    Times(Vec<i64>),
}

fn batch(columns: Vec<(&str, Column)>) -> RecordBatch {
    let columns = columns.into_iter().map(|(name, column)| {
        let column: ArrayRef = match column {
            Column::Texts(texts) => Arc::new(StringArray::from(texts)),
            Column::Numbers(numbers) => Arc::new(Float64Array::from(numbers)),
            Column::Whole(numbers) => Arc::new(Int64Array::from(numbers)),
            Column::Times(times) => Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        };
        (name, column)
    });
    RecordBatch::try_from_iter(columns).expect("columns")
}

/// A text with where it lies: left, top, right, bottom.
#[derive(Debug)]
struct Words {
    text: String,
    place: [f64; 4],
}

fn attribute(node: Node, name: &str) -> f64 {
    node.attribute(name).unwrap_or_else(|| panic!("{name} of {node:?}")).parse().expect("a number")
}

fn words(svg: &str) -> Vec<Words> {
    let document = Document::parse(svg).expect("XML");
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    let words = texts.map(|node| {
        assert_eq!(node.attribute("font-family"), Some(FAMILY));
        let text = node.text().unwrap_or_default().trim().to_string();
        let (x, y, size) = (attribute(node, "x"), attribute(node, "y"), attribute(node, "font-size"));
        let wide = f64::from(width(&text, size.round() as i32));
        let left = match node.attribute("text-anchor") {
            Some("start") => 0.0,
            Some("middle") => wide / 2.0,
            _ => wide,
        };
        let (top, bottom) = match node.attribute("dy") {
            Some("0.76em") => (0.0, size),
            Some("0.5ex") => (size / 2.0, size / 2.0),
            _ => (size, 0.0),
        };
        // What is written upwards begins at the place and goes up.
        let place = match node.attribute("transform") {
            None => [x - left, y - top, x - left + wide, y + bottom],
            Some(_) => [x - top, y - wide + left, x + bottom, y + left],
        };
        Words { text, place }
    });
    words.filter(|words| !words.text.is_empty()).collect()
}

fn has(svg: &str, text: &str) -> bool {
    words(svg).iter().any(|words| words.text == text)
}

/// Each text lies within the picture and none over another; the PNG is of the promised size, and not blank.
fn is_legible(svg: &str, of: &str, is_drawn: bool) {
    let document = Document::parse(svg).expect("XML");
    let (wide, high) = (attribute(document.root_element(), "width"), attribute(document.root_element(), "height"));
    assert!(wide == 960.0 && high >= 200.0);
    let words = words(svg);
    for (place, one) in words.iter().enumerate() {
        let [left, top, right, bottom] = one.place;
        assert!(left >= 0.0 && top >= 0.0 && right <= wide + 1.0 && bottom <= high, "{of}: outside: {one:?}\n{svg}");
        for other in &words[place + 1..] {
            let apart = right <= other.place[0] + 1.0
                || other.place[2] <= left + 1.0
                || bottom <= other.place[1] + 1.0
                || other.place[3] <= top + 1.0;
            assert!(apart, "{of}: one over the other: {one:?} {other:?}\n{svg}");
        }
    }
    if !is_drawn {
        return;
    }
    let points = Pixmap::decode_png(&png::png(svg).expect("a PNG")).expect("a PNG");
    assert_eq!((f64::from(points.width()), f64::from(points.height())), (wide * 2.0, high * 2.0));
    let dark = points.pixels().iter().filter(|point| point.red() < 128 && point.blue() < 200).count();
    assert!(dark > 300, "{of}: {dark} dark points");
}

/// Rectangles of a colour: left, top, width, height.
fn bars(svg: &str, colour: &str) -> Vec<[f64; 4]> {
    let document = Document::parse(svg).expect("XML");
    let found =
        document.descendants().filter(|node| node.has_tag_name("rect") && node.attribute("fill") == Some(colour));
    found.map(|node| ["x", "y", "width", "height"].map(|name| attribute(node, name))).collect()
}

fn name(random: &mut fastrand::Rng) -> String {
    const WORDS: [&str; 8] =
        ["Order", "Completed", "", "a&b <c>", "Wagenknäufe", "of", "Products that were looked at", "\u{1}x"];
    let count = random.usize(0..9);
    (0..count).map(|_| WORDS[random.usize(0..WORDS.len())]).collect::<Vec<_>>().join(" ")
}

/// Answers of every kind, with the columns that the kinds promise, and values of all sizes.
fn random_answer(random: &mut fastrand::Rng, kind: &'static str) -> RecordBatch {
    let is_short = random.bool();
    let periods = random.i64(1..if is_short { 8 } else { 90 });
    let names: Vec<String> = (0..random.usize(1..30)).map(|_| name(random)).collect();
    let size = 10f64.powi(random.i32(-3..10));
    let whole = random.bool();
    let mut value = || {
        let value = random.f64() * size;
        Some(if whole { value.round() } else { value })
    };
    let mut rows: Vec<(i64, usize)> = Vec::new();
    for period in 0..periods {
        rows.extend((0..names.len()).map(|name| (period, name)));
    }
    let times = |rows: &[(i64, usize)]| Column::Times(rows.iter().map(|(p, _)| START_US + p * DAY_US).collect());
    let named = |rows: &[(i64, usize)]| Column::Texts(rows.iter().map(|(_, n)| names[*n].clone()).collect());
    let mut values = |count: usize| Column::Numbers((0..count).map(|_| value()).collect());
    let shares = |count: usize| Column::Numbers((0..count).map(|n| Some((n % 97) as f64 / 97.0)).collect());
    let count = rows.len();
    let once: Vec<(i64, usize)> = (0..names.len()).map(|name| (0, name)).collect();
    let few = once.len();
    match kind {
        "trend" if count.is_multiple_of(3) => {
            batch(vec![("by", named(&once)), ("orders", values(few)), ("revenue", values(few))])
        }
        "trend" => batch(vec![
            ("time", times(&rows)),
            ("by", named(&rows)),
            ("orders", values(count)),
            ("revenue", values(count)),
            ("least", values(count)),
        ]),
        "funnel" => batch(vec![
            ("step", Column::Whole((1..=few as i64).collect())),
            ("name", named(&once)),
            ("people", values(few)),
            ("of_start", shares(few)),
            ("of_step_before", shares(few)),
            ("median_s", values(few)),
        ]),
        "retention" => {
            let cells: Vec<(i64, i64)> = (0..periods).flat_map(|c| (0..periods - c).map(move |p| (c, p))).collect();
            batch(vec![
                ("cohort", Column::Times(cells.iter().map(|(c, _)| START_US + c * DAY_US).collect())),
                ("period", Column::Whole(cells.iter().map(|(_, p)| *p).collect())),
                ("people", values(cells.len())),
                ("returned", values(cells.len())),
                ("share", shares(cells.len())),
            ])
        }
        "attribution" => {
            let models = ["first_touch", "last_touch", "linear", "markov", "shapley"];
            let rows: Vec<(usize, usize)> = (0..models.len()).flat_map(|m| (0..few).map(move |n| (m, n))).collect();
            batch(vec![
                ("model", Column::Texts(rows.iter().map(|(m, _)| models[*m].to_string()).collect())),
                ("channel", Column::Texts(rows.iter().map(|(_, n)| names[*n].clone()).collect())),
                ("conversions", values(rows.len())),
                ("value", values(rows.len())),
                ("share", shares(rows.len())),
            ])
        }
        "paths" => batch(vec![("path", named(&once)), ("people", values(few)), ("share", shares(few))]),
        "sizes" => batch(vec![
            ("time", times(&rows)),
            ("segment", named(&rows)),
            ("people", values(count)),
            ("entered", values(count)),
            ("exited", values(count)),
        ]),
        "flow" | "overlap" | "transitions" => {
            let pairs: Vec<(usize, usize)> = (0..few).flat_map(|a| (0..few).map(move |b| (a, b))).collect();
            let (down, across) = match kind {
                "flow" => ("from_segment", "to_segment"),
                "overlap" => ("segment", "other_segment"),
                _ => ("event", "next_event"),
            };
            batch(vec![
                (down, Column::Texts(pairs.iter().map(|(a, _)| names[*a].clone()).collect())),
                (across, Column::Texts(pairs.iter().map(|(_, b)| names[*b].clone()).collect())),
                ("people", values(pairs.len())),
                ("share", shares(pairs.len())),
            ])
        }
        "lift" => batch(vec![
            ("trait", named(&once)),
            ("value", named(&once)),
            ("low", Column::Numbers((0..few).map(|n| (n % 2 == 0).then_some(n as f64)).collect())),
            ("high", Column::Numbers((0..few).map(|n| (n % 2 == 0).then_some(n as f64 + 1.0)).collect())),
            ("people", values(few)),
            ("share", shares(few)),
            ("share_of_rest", shares(few)),
            ("lift", Column::Numbers((0..few).map(|n| (n % 5 != 4).then_some(n as f64 / 3.0)).collect())),
        ]),
        _ => batch(vec![
            ("time", times(&rows)),
            ("by", named(&rows)),
            ("measure", Column::Texts(vec!["orders".into(); count])),
            ("value", values(count)),
            ("expected", values(count)),
            ("low", Column::Numbers(vec![Some(size * 0.2); count])),
            ("high", Column::Numbers(vec![Some(size * 0.9); count])),
            ("score", values(count)),
            ("anomaly", Column::Texts((0..count).map(|n| ["", "", "high", "", "low"][n % 5].into()).collect())),
        ]),
    }
}

const KINDS: [&str; 11] = [
    "trend",
    "funnel",
    "retention",
    "attribution",
    "paths",
    "sizes",
    "flow",
    "overlap",
    "transitions",
    "lift",
    "anomalies",
];

#[test]
fn whatever_the_answer_no_label_is_cut_off_or_lies_over_another() {
    let seed = std::env::var("CHART_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    eprintln!("CHART_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..8 {
        for kind in KINDS {
            let answer = random_answer(&mut random, kind);
            let drawn = svg(&subject(kind), std::slice::from_ref(&answer)).expect("a picture");
            is_legible(&drawn, &format!("{kind}, round {round}"), round == 0);
            assert_eq!(drawn, svg(&subject(kind), &[answer]).expect("a picture"), "the same answer, another picture");
        }
    }
}

#[test]
fn bars_are_as_long_as_their_numbers_and_say_them() {
    let people = [51_234.0, 25_617.0, 1_000.0, 0.0];
    let answer = batch(vec![
        ("step", Column::Whole(vec![1, 2, 3, 4])),
        ("name", Column::Texts(["Seen", "Added", "Paid", "Back"].map(str::to_string).to_vec())),
        ("people", Column::Whole(people.map(|people| people as i64).to_vec())),
        ("of_start", Column::Numbers(people.map(|n| Some(n / people[0])).to_vec())),
        ("of_step_before", Column::Numbers(vec![Some(1.0), Some(0.5), Some(1_000.0 / 25_617.0), Some(0.0)])),
        ("median_s", Column::Numbers(vec![None, Some(90.0), Some(7_200.0), None])),
    ]);
    let drawn = svg(&subject("funnel"), &[answer]).expect("a picture");
    for text in [
        "51,234 people",
        "25,617 people, 50% of the start, median 1.5 min",
        "1,000 people, 2% of the start, 3.9% of the step before, median 2 h",
        "0 people, 0% of the start, 0% of the step before",
        "1. Seen",
        "4. Back",
        "people",
        "the title",
        "what it is about",
    ] {
        assert!(has(&drawn, text), "{text}: {:?}", words(&drawn));
    }
    let bars = bars(&drawn, "#0072B2");
    assert_eq!(bars.len(), 4);
    for (bar, people) in bars.iter().zip(people) {
        let expected = bars[0][2] * people / 51_234.0;
        assert!((bar[2] - expected).abs() <= 1.5, "{bar:?} for {people}, of {:?}", bars[0]);
    }
}

#[test]
fn lines_go_through_their_values_and_a_period_without_a_row_is_nothing() {
    // The third day has no row.
    let days = [0, 1, 3, 4];
    let orders = [10.0, 40.0, 20.0, 30.0];
    let answer = batch(vec![
        ("time", Column::Times(days.map(|day| START_US + day * DAY_US).to_vec())),
        ("orders", Column::Numbers(orders.map(Some).to_vec())),
        ("basket", Column::Numbers(vec![Some(1.5), Some(2.5), None, Some(2.0)])),
    ]);
    let drawn = svg(&subject("trend"), &[answer]).expect("a picture");
    let document = Document::parse(&drawn).expect("XML");
    let lines: Vec<Vec<(f64, f64)>> = document
        .descendants()
        .filter(|node| node.has_tag_name("polyline") && node.attribute("stroke") == Some("#0072B2"))
        .map(|node| {
            let points = node.attribute("points").expect("points").split_whitespace();
            points
                .map(|point| point.split_once(',').expect("x,y"))
                .map(|(x, y)| (x.parse().expect("x"), y.parse().expect("y")))
                .collect()
        })
        .collect();
    // Orders are counted: 0 on the third day. The basket of no order is not known: its line ends before.
    assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [5, 2], "{lines:?}");
    let line = &lines[0];
    let per_order = (line[2].1 - line[1].1) / 40.0;
    for (point, value) in line.iter().zip([10.0, 40.0, 0.0, 20.0, 30.0]) {
        assert!((line[2].1 - point.1 - value * per_order).abs() <= 1.5, "{line:?}");
    }
    let apart: Vec<f64> = line.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(apart.iter().all(|x| (x - apart[0]).abs() <= 1.5), "{apart:?}");
    for text in ["orders (events)", "basket", "day (UTC)", "Mar 1", "Mar 5", "40"] {
        assert!(has(&drawn, text), "{text}: {:?}", words(&drawn));
    }
}

#[test]
fn a_triangle_of_cohorts_says_each_share_and_is_darker_where_more_came_back() {
    let cells = [(0, 0, 200, 200), (0, 1, 200, 50), (0, 2, 200, 10), (1, 0, 80, 80), (1, 1, 80, 4)];
    let answer = batch(vec![
        ("cohort", Column::Times(cells.map(|(cohort, ..)| START_US + cohort * DAY_US).to_vec())),
        ("period", Column::Whole(cells.map(|(_, period, ..)| period).to_vec())),
        ("people", Column::Whole(cells.map(|(_, _, people, _)| people).to_vec())),
        ("returned", Column::Whole(cells.map(|(.., returned)| returned).to_vec())),
    ]);
    let drawn = svg(&subject("retention"), &[answer]).expect("a picture");
    let texts: Vec<String> = words(&drawn).into_iter().map(|words| words.text).collect();
    for text in ["2026-03-01", "2026-03-02", "200", "80", "25%", "5%", "0", "1", "2"] {
        assert!(texts.iter().any(|known| known == text), "{text}: {texts:?}");
    }
    assert_eq!(texts.iter().filter(|text| *text == "100%").count(), 2);
    assert_eq!(texts.iter().filter(|text| text.ends_with('%')).count(), cells.len(), "{texts:?}");
    // Of the two that began with the same, 25 % is darker than 5 %.
    let document = Document::parse(&drawn).expect("XML");
    let fills: Vec<u32> = document
        .descendants()
        .filter(|node| node.has_tag_name("rect"))
        .filter_map(|node| u32::from_str_radix(node.attribute("fill")?.strip_prefix('#')?, 16).ok())
        .skip(1)
        .collect();
    let light = |fill: u32| (fill >> 16) + (fill >> 8 & 255) + (fill & 255);
    assert_eq!(fills.len(), cells.len());
    assert!(light(fills[1]) < light(fills[2]) && light(fills[1]) < light(fills[4]), "{fills:x?}");
}

#[test]
fn of_many_values_those_that_weigh_most_are_drawn_and_the_rest_is_named() {
    let names: Vec<String> = (0..11).map(|n| format!("value {n}")).collect();
    let answer = batch(vec![
        ("time", Column::Times(vec![START_US; 11])),
        ("by", Column::Texts(names)),
        ("orders", Column::Whole((0..11).collect())),
    ]);
    let drawn = svg(&subject("trend"), &[answer]).expect("a picture");
    assert!(has(&drawn, "value 10") && has(&drawn, "value 3") && !has(&drawn, "value 2"));
    assert!(has(&drawn, "not shown: 3 more values (value 2, value 1, value 0)"), "{:?}", words(&drawn));
}

#[test]
fn an_answer_without_rows_says_so() {
    let answer = batch(vec![("time", Column::Times(vec![])), ("orders", Column::Whole(vec![]))]);
    let drawn = svg(&subject("trend"), &[answer]).expect("a picture");
    assert!(has(&drawn, "no events in this range"));
    is_legible(&drawn, "nothing", true);
    assert!(svg(&subject("trend"), &[]).is_err());
    let other = batch(vec![("step", Column::Whole(vec![1]))]);
    assert!(svg(&subject("funnel"), &[other]).expect_err("no such columns").contains("`name`"));
}

#[test]
fn what_stands_out_is_marked() {
    let count = 30;
    let answer = batch(vec![
        ("time", Column::Times((0..count).map(|day| START_US + day * DAY_US).collect())),
        ("measure", Column::Texts(vec!["orders".into(); count as usize])),
        ("value", Column::Numbers((0..count).map(|day| Some(if day == 12 { 91.0 } else { 40.0 })).collect())),
        ("expected", Column::Numbers(vec![Some(41.0); count as usize])),
        ("low", Column::Numbers(vec![Some(30.0); count as usize])),
        ("high", Column::Numbers(vec![Some(50.0); count as usize])),
        (
            "anomaly",
            Column::Texts((0..count).map(|day| if day == 12 { "high".into() } else { String::new() }).collect()),
        ),
    ]);
    let drawn = svg(&subject("anomalies"), &[answer]).expect("a picture");
    assert!(has(&drawn, "high 91"), "{:?}", words(&drawn));
    let document = Document::parse(&drawn).expect("XML");
    let rings = document.descendants().filter(|node| node.has_tag_name("circle") && node.attribute("r") == Some("6"));
    assert_eq!(rings.count(), 1);
    assert!(
        document.descendants().any(|node| node.has_tag_name("polygon") && node.attribute("opacity") == Some("0.15"))
    );
}

#[test]
fn numbers_are_written_for_people() {
    let cases = [
        (0.0, "0"),
        (1_234_567.4, "1,234,567"),
        (-1_234.0, "−1,234"),
        (12.345, "12.3"),
        (0.001_234, "0.00123"),
        (999.6, "1,000"),
        (f64::NAN, "–"),
        (-0.000_000_000_01, "0"),
    ];
    for (value, text) in cases {
        assert_eq!(number(value), text, "{value}");
    }
    assert_eq!((share(0.4567), share(1.0), share(0.0)), ("45.7%".into(), "100%".into(), "0%".into()));
    assert_eq!((share_short(0.4567), share_short(0.0123)), ("46%".into(), "1.2%".into()));
}

#[test]
fn ticks_of_time_are_round_in_the_zone_and_few() {
    let berlin: chrono_tz::Tz = "Europe/Berlin".parse().expect("a zone");
    // Over the night to summer time, 2026-03-29.
    let from = 1_774_652_400_000_000;
    let days = time::periods(Period::Day, from, from + 3 * DAY_US, berlin);
    let apart: Vec<i64> = days.windows(2).map(|pair| (pair[1] - pair[0]) / 3_600_000_000).collect();
    assert_eq!(apart, [24, 23, 24], "{days:?}");
    for (every, span_days) in
        [(Period::Hour, 1), (Period::Day, 10), (Period::Day, 400), (Period::Week, 90), (Period::Month, 4_000)]
    {
        for most in 2..12 {
            let last = from + span_days * DAY_US;
            let ticks = time::ticks(Some(every), from, last, berlin, most);
            assert!((1..=most).contains(&ticks.len()), "{every:?} {span_days} {most}: {ticks:?}");
            assert!(ticks.iter().all(|(time, label)| (from..=last).contains(time) && !label.is_empty()), "{ticks:?}");
        }
    }
}

#[test]
fn a_line_of_text_follows_its_values() {
    assert_eq!(sparkline(&[Some(0.0), Some(7.0), None, Some(14.0)]), "▁▅ █");
    assert_eq!(sparkline(&[Some(3.0); 4]), "████");
    assert_eq!(sparkline(&vec![Some(1.0); 1_000]).chars().count(), 59);
}
