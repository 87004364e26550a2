//! The `sessions` section and the time zone that it follows.

use chrono_tz::Tz;

use super::{SOURCE, check, load_files};
use crate::definition::Mode;
use crate::session::SessionsPlan;

fn plan(text: &str) -> SessionsPlan {
    load_files(&[SOURCE, ("p.yaml", text)], Mode::Run)
        .unwrap_or_else(|findings| panic!("{text}\n{findings}"))
        .0
        .sessions
}

#[test]
fn what_is_left_out_is_usual() {
    let usual = plan("");
    assert_eq!(usual.gap_us, 1_800_000_000);
    assert_eq!((usual.split_on_campaign, usual.split_on_midnight, &usual.events), (false, None, &None));
    for same in ["sessions: {}", "sessions: { gap: 30m }", "sessions: { gap: 1800s }", "sessions: { split_on: [] }"] {
        assert_eq!(plan(same), usual, "{same}");
    }
}

#[test]
fn what_is_written_is_the_plan_and_its_version() {
    let usual = plan("").version;
    let zones = [
        ("sessions: { split_on: midnight }", Tz::UTC),
        ("timezone: UTC\nsessions: { split_on: [midnight] }", Tz::UTC),
        ("timezone: Europe/Berlin\nsessions: { split_on: midnight }", Tz::Europe__Berlin),
    ];
    for (text, zone) in zones {
        assert_eq!(plan(text).split_on_midnight, Some(zone), "{text}");
    }
    assert_eq!(plan(zones[0].0), plan(zones[1].0));
    let all = plan("sessions: { gap: 1h, split_on: [campaign, midnight], events: [page, Order Completed] }");
    assert_eq!((all.gap_us, all.split_on_campaign, all.split_on_midnight), (3_600_000_000, true, Some(Tz::UTC)));
    let taken = [("page", None), ("track", Some("Order Completed")), ("track", Some("Cart Viewed")), ("screen", None)];
    assert_eq!(taken.map(|(event_type, event)| all.takes(event_type, event)), [true, true, false, false]);

    let mut versions = vec![usual, all.version];
    versions.extend(zones[1..].iter().map(|(text, _)| plan(text).version));
    for text in ["sessions: { gap: 31m }", "sessions: { split_on: campaign }", "sessions: { events: page }"] {
        versions.push(plan(text).version);
    }
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 7, "each means something else");
    // Where nothing is cut at midnight, the zone says nothing.
    assert_eq!(plan("timezone: Europe/Berlin").version, usual);
}

#[test]
fn the_time_zone_says_what_follows_it() {
    check(
        &[SOURCE, ("p.yaml", "timezone: America/New_York\n")],
        r#"warning: only `sessions` with `split_on: midnight` follow this time zone so far
 --> p.yaml:1:11
  |
1 | timezone: America/New_York
  |           ^^^^^^^^^^^^^^^^
  = help: expressions cut days and hours in UTC; write UTC to say that this is meant"#,
    );
    check(
        &[SOURCE, ("p.yaml", "timezone: Europe/Belrin\n")],
        r#"error: `Europe/Belrin` is not the name of a time zone
 --> p.yaml:1:11
  |
1 | timezone: Europe/Belrin
  |           ^^^^^^^^^^^^^
  = help: did you mean `Europe/Berlin`?"#,
    );
}

#[test]
fn all_that_is_wrong_is_said() {
    check(
        &[
            SOURCE,
            ("p.yaml", "sessions: { gap: 0s, split_on: [midnigth, campaign], evnets: page }\n"),
            ("q.yaml", "sessions: { gap: soon }\n"),
        ],
        r#"error: `gap` must be longer than nothing
 --> p.yaml:1:18
  |
1 | sessions: { gap: 0s, split_on: [midnigth, campaign], evnets: page }
  |                  ^^
error: `split_on` is one of `campaign` and `midnight`, not `midnigth`
 --> p.yaml:1:33
  |
1 | sessions: { gap: 0s, split_on: [midnigth, campaign], evnets: page }
  |                                 ^^^^^^^^
  = help: did you mean `midnight`?
error: `sessions` has no key `evnets`
 --> p.yaml:1:54
  |
1 | sessions: { gap: 0s, split_on: [midnigth, campaign], evnets: page }
  |                                                      ^^^^^^
  = help: did you mean `events`?
error: `sessions` is defined twice
 --> q.yaml:1:1
  |
1 | sessions: { gap: soon }
  | ^^^^^^^^
  = help: first written at p.yaml:1:1"#,
    );
    let contract =
        r#"{"type": "record", "name": "CartEmptied", "doc": "", "fields": [{"name": "total", "type": "double"}]}"#;
    check(
        &[
            SOURCE,
            ("schemas/events/cart_emptied.avsc", contract),
            ("p.yaml", "sessions: { events: [page, Cart Emtied] }\n"),
        ],
        r#"error: no contract knows the event `Cart Emtied`
 --> p.yaml:1:28
  |
1 | sessions: { events: [page, Cart Emtied] }
  |                            ^^^^^^^^^^^
  = help: did you mean `Cart Emptied`?"#,
    );
    check(
        &[SOURCE, ("p.yaml", "sessions: midnight\n")],
        r#"error: `sessions` is a map, this is a single value
 --> p.yaml:1:11
  |
1 | sessions: midnight
  |           ^^^^^^^^
  = help: its keys are `gap`, `lateness`, `split_on` and `events`"#,
    );
}
