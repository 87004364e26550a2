//! What must hold of journeys in a world: every entry goes a way that the definition allows, step by step, each step once, at
//! its time, and none stands still that should have gone on.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use regex::Regex;
use tributary::activation::time_text;

use super::check::{Checked, ensure, text};

/// A journey with all kinds of steps.
pub const NURTURE: &str = r#"  nurture:
    trigger: { enters: customers }
    consent: none
    status: live
    re_entry: after 1h
    exit_when: { enters: staff }
    do:
      - { id: hello, send: { to: crm, body: "{{ journey.id }}" } }
      - { id: pause, wait: 20m }
      - id: more
        wait_for: { event: Order Completed, timeout: 1h }
        on_event: [ { id: again, send: { to: ads, body: "{{ profile.id }}" } } ]
        on_timeout:
          - id: worth
            branch: "orders >= 2"
            then: [ { id: coupon, send: { to: crm, body: coupon } }, { id: late, wait_until: "09:00" } ]
      - id: arm
        split: { a: { share: 50%, do: [ { id: bye, send: { to: ads, body: bye } } ] }, b: { share: 50% } }
"#;

/// The ways through it, as `step:what` in order. An end may come wherever it waits.
const WAYS: &str = r"^:entered hello:sent pause:waits (END|pause:waited more:waits (END|more:timed_out worth:then coupon:sent late:waits END|(more:matched again:sent |more:timed_out worth:else |more:timed_out worth:then coupon:sent late:waits late:waited )arm:arm (bye:sent )?:left completed))$";

/// What stands where it may still wait, or has been left early.
const END: &str = "(:left exit_when|:left merge|:left correction|)";

/// Of one entry, in order.
#[derive(Default)]
struct Way<'r> {
    activation: &'r str,
    /// The last that it was told of.
    profile: &'r str,
    steps: Vec<(&'r str, &'r str, &'r str, i64)>,
}

/// `now` is the time up to which the world has come.
pub fn hold(tables: &BTreeMap<String, RecordBatch>, now: i64) -> Checked {
    let Some(rows) = tables.get("journey_steps") else { return Ok(()) };
    let at = rows.column_by_name("happened_at").expect("happened_at").as_primitive::<TimestampMicrosecondType>();
    let mut ways: BTreeMap<&str, Way<'_>> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let value = |column: &str| text(rows, column).value(row);
        let way = ways.entry(value("entry_id")).or_default();
        way.activation = value("activation");
        way.profile = value("profile_id");
        way.steps.push((value("step"), value("what"), value("detail"), at.value(row)));
    }
    let allowed = Regex::new(&WAYS.replace("END", END)).expect("a regular expression");
    for (entry, way) in &ways {
        ensure!(way.activation == "nurture", "{} is no journey", way.activation);
        let told = |(step, what, detail, _): &(&str, &str, &str, i64)| match *what {
            "left" => format!("{step}:{what} {detail}"),
            _ => format!("{step}:{what}"),
        };
        let gone: Vec<String> = way.steps.iter().map(told).collect();
        let ends = way.steps.last().is_some_and(|(_, what, ..)| *what == "left");
        let gone = gone.join(" ") + if ends { "" } else { " " };
        ensure!(allowed.is_match(&gone), "entry {entry} went a way that is none: {gone}");
        for pair in way.steps.windows(2) {
            let ((_, what, until, _), (_, next, _, then)) = (pair[0], pair[1]);
            if what == "waits" && matches!(next, "waited" | "timed_out") {
                ensure!(until == time_text(then), "entry {entry} was to wait until {until} and went on at {then}");
            }
        }
        if let Some((step, "waits", until, _)) = way.steps.last() {
            ensure!(
                *until > time_text(now).as_str(),
                "entry {entry} of {} waits at {step} until {until}, and it is {}: {:?}",
                way.profile,
                time_text(now),
                way.steps
            );
        }
    }
    Ok(())
}
