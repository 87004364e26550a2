//! How deliveries go to a destination: what is left out, what is written, and what is said of what is wrong.

use std::time::Duration;

use super::{Mode, SOURCE, check, load_files};
use crate::activation::{BatchPlan, DeliveryPlan, RateLimit, Redaction};

#[test]
fn what_is_left_out_is_the_default_and_what_is_written_counts() {
    let file = r#"destinations:
  plain: { webhook: { url: "https://x.example" } }
  topic: { kafka: { brokers: b, topic: t } }
  whole:
    kafka: { brokers: b, topic: t }
    rate_limit: 10 per 1s
    concurrency: 3
    timeout: 30s
    retry_for: 1h 30m
    order: profile
    batch: { max: 500, within: 5s }
    redact: [Email, phone]
"#;
    let (pipeline, _) = load_files(&[SOURCE, ("p.yaml", file)], Mode::Run).unwrap();
    let found: Vec<&DeliveryPlan> = pipeline.destinations.iter().map(|plan| &plan.delivery).collect();
    let default = DeliveryPlan::default();
    assert_eq!((default.concurrency, default.timeout, default.in_order), (16, Duration::from_secs(15), false));
    let topic = DeliveryPlan { timeout: Duration::from_secs(60), ..default.clone() };
    let whole = DeliveryPlan {
        rate_limit: Some(RateLimit { requests: 10, per: Duration::from_secs(1) }),
        concurrency: 3,
        timeout: Duration::from_secs(30),
        retry_for: Duration::from_secs(5_400),
        in_order: true,
        batch: Some(BatchPlan { max: 500, within: Duration::from_secs(5) }),
        redact: Some(Redaction::Keys(vec!["email".into(), "phone".into()])),
    };
    assert_eq!(found, [&default, &topic, &whole]);
}

#[test]
fn every_mistake_is_told_at_its_place() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"destinations:
  a:
    kafka: { brokers: b, topic: t }
    rate_limit: 10/s
    concurrency: 0
    timeout: 15
    retry_for: 2y
    order: profil
    batch: { max: 100000, wihtin: 5s }
  b:
    webhook: { url: "https://x.example" }
    rate_limit: 0 per 1s
    concurrency: 2000
    batch: { max: 2, within: 1s }
  c:
    rate_limit: 5 per 2d
    concurency: 3
"#,
            ),
        ],
        r#"error: `rate_limit` is a number per a time, from 1 to 100000, not `10/s`
 --> p.yaml:4:17
  |
4 |     rate_limit: 10/s
  |                 ^^^^
  = help: write 10 per 1s, or 500 per 1m
error: `concurrency` is a whole number from 1 on, not `0`
 --> p.yaml:5:18
  |
5 |     concurrency: 0
  |                  ^
error: `15` is not a duration: time unit needed, for example 15sec or 15ms
 --> p.yaml:6:14
  |
6 |     timeout: 15
  |              ^^
  = help: write 30s, 15m, 2h, 7d or 1h 30m
error: `retry_for` is 365 days at most
 --> p.yaml:7:16
  |
7 |     retry_for: 2y
  |                ^^
error: `order` is one of `none` and `profile`, not `profil`
 --> p.yaml:8:12
  |
8 |     order: profil
  |            ^^^^^^
  = help: did you mean `profile`?
error: `max` is 10000 at most, not 100000
 --> p.yaml:9:19
  |
9 |     batch: { max: 100000, wihtin: 5s }
  |                   ^^^^^^
error: `batch` has no key `wihtin`
 --> p.yaml:9:27
  |
9 |     batch: { max: 100000, wihtin: 5s }
  |                           ^^^^^^
  = help: did you mean `within`?
error: `rate_limit` is a number per a time, from 1 to 100000, not `0 per 1s`
  --> p.yaml:12:17
   |
12 |     rate_limit: 0 per 1s
   |                 ^^^^^^^^
   = help: write 10 per 1s, or 500 per 1m
error: `concurrency` is 1000 at most, not 2000
  --> p.yaml:13:18
   |
13 |     concurrency: 2000
   |                  ^^^^
error: a webhook takes one delivery per request
  --> p.yaml:14:5
   |
14 |     batch: { max: 2, within: 1s }
   |     ^^^^^
   = help: leave `batch` out; `concurrency` says how many requests are under way at once
error: the time of `rate_limit` is a day at most
  --> p.yaml:16:17
   |
16 |     rate_limit: 5 per 2d
   |                 ^^^^^^^^
error: destination `c` has no key `concurency`
  --> p.yaml:17:5
   |
17 |     concurency: 3
   |     ^^^^^^^^^^
   = help: did you mean `concurrency`?"#,
    );
}
