//! What is wrong with analyses, at its place.

use super::{SOURCE, check};

const CONTRACT: (&str, &str) = (
    "schemas/events/bought.avsc",
    r#"{ "type": "record", "name": "Bought", "event": "Bought", "fields": [ { "name": "total", "type": "double" } ] }"#,
);

#[test]
fn every_mistake_is_told_at_its_place() {
    check(
        &[
            SOURCE,
            CONTRACT,
            (
                "p.yaml",
                r#"analyses:
  a: { funnel: { steps: [Bought], within: 1d } }
  b: { funnel: { steps: [Bought, Baught], within: 0d, mode: strict } }
  c: { funnel: { steps: [Bought, Bought], mode: [any_order, strict_order] } }
  d: { trend: { of: Bought, measures: { time: count, money: { sum: properties.totl }, each: { ratio: [money, peple] } } } }
  e: { retention: { return: Bought, every: year } }
  f: { attribution: { conversion: Bought, channel: context.campaign.source, models: [lst_touch], position: [40, 40, 40], order: 9 } }
  g: { paths: { from: Bought, to: Bought } }
  h: { trend: {}, segment: vip }
  i: { trend: {}, funnel: {} }
  j: { funnel: { steps: [Bought, { event: [Bought, Baught], where: properties.total } ] } }
"#,
            ),
        ],
        r#"error: a funnel has 2 to 32 steps, not 1
 --> p.yaml:2:25
  |
2 |   a: { funnel: { steps: [Bought], within: 1d } }
  |                         ^^^^^^^^
error: `within` must be longer than nothing
 --> p.yaml:3:51
  |
3 |   b: { funnel: { steps: [Bought, Baught], within: 0d, mode: strict } }
  |                                                   ^^
error: there is no mode `strict`
 --> p.yaml:3:61
  |
3 |   b: { funnel: { steps: [Bought, Baught], within: 0d, mode: strict } }
  |                                                             ^^^^^^
  = help: there are `strict_deduplication`, `strict_order`, `strict_increase`, `strict_once`, `allow_reentry` and `any_order`
error: `any_order` goes with no other mode
 --> p.yaml:4:43
  |
4 |   c: { funnel: { steps: [Bought, Bought], mode: [any_order, strict_order] } }
  |                                           ^^^^
error: `time` is a column of its own: a measure needs another name
 --> p.yaml:5:41
  |
5 |   d: { trend: { of: Bought, measures: { time: count, money: { sum: properties.totl }, each: { ratio: [money, peple] } } } }
  |                                         ^^^^
error: unknown name `properties.totl`
 --> p.yaml:5:68
  |
5 |   d: { trend: { of: Bought, measures: { time: count, money: { sum: properties.totl }, each: { ratio: [money, peple] } } } }
  |                                                                    ^^^^^^^^^^^^^^^
  = help: did you mean `properties.total`?
error: there is no measure `peple`
 --> p.yaml:5:110
  |
5 |   d: { trend: { of: Bought, measures: { time: count, money: { sum: properties.totl }, each: { ratio: [money, peple] } } } }
  |                                                                                                              ^^^^^
  = help: there are `time` and `money`
error: `retention` needs `start`
 --> p.yaml:6:8
  |
6 |   e: { retention: { return: Bought, every: year } }
  |        ^^^^^^^^^
error: `every` is one of `hour`, `day`, `week` and `month`, not `year`
 --> p.yaml:6:44
  |
6 |   e: { retention: { return: Bought, every: year } }
  |                                            ^^^^
error: there is no model `lst_touch`
 --> p.yaml:7:86
  |
7 |   f: { attribution: { conversion: Bought, channel: context.campaign.source, models: [lst_touch], position: [40, 40, 40], order: 9 } }
  |                                                                                      ^^^^^^^^^
  = help: did you mean `last_touch`?
error: the numbers of `position` are percentages that add up to 100
 --> p.yaml:7:108
  |
7 |   f: { attribution: { conversion: Bought, channel: context.campaign.source, models: [lst_touch], position: [40, 40, 40], order: 9 } }
  |                                                                                                            ^^^^^^^^^^^^
error: `order` is 3 at most, not 9
 --> p.yaml:7:129
  |
7 |   f: { attribution: { conversion: Bought, channel: context.campaign.source, models: [lst_touch], position: [40, 40, 40], order: 9 } }
  |                                                                                                                                 ^
error: `paths` has both `from` and `to`: only one can hold
 --> p.yaml:8:31
  |
8 |   g: { paths: { from: Bought, to: Bought } }
  |                               ^^
error: there is no segment `vip`
 --> p.yaml:9:28
  |
9 |   h: { trend: {}, segment: vip }
  |                            ^^^
error: analysis `i` has both `trend` and `funnel`: only one can hold
  --> p.yaml:10:19
   |
10 |   i: { trend: {}, funnel: {} }
   |                   ^^^^^^
error: no contract knows the event `Baught`
  --> p.yaml:11:52
   |
11 |   j: { funnel: { steps: [Bought, { event: [Bought, Baught], where: properties.total } ] } }
   |                                                    ^^^^^^
   = help: did you mean `Bought`?
error: `where` must be true or false, this is a number
  --> p.yaml:11:68
   |
11 |   j: { funnel: { steps: [Bought, { event: [Bought, Baught], where: properties.total } ] } }
   |                                                                    ^^^^^^^^^^^^^^^^
   = help: compare it with something, or test IS NOT NULL"#,
    );
}

#[test]
fn every_mistake_of_segments_series_and_alerts_is_told_at_its_place() {
    check(
        &[
            SOURCE,
            CONTRACT,
            (
                "p.yaml",
                r#"traits: { orders: { count: "*", event: Bought }, seen: { latest: timestamp } }
segments: { buyers: "orders > 0" }
aggregates:
  by_hour: "SELECT date_trunc('hour', timestamp) AS hour, count(*) AS orders, max(event) AS most FROM events GROUP BY 1"
  by_event: "SELECT event, count(*) AS events FROM events GROUP BY 1"
analyses:
  a: { sizes: { of: [buyers, bayers], every: year } }
  b: { flow: {}, by: event }
  c: { lift: { of: vip, traits: [order, seen] } }
  d: { lift: {} }
  e: { anomalies: { of: Baught, alpha: 0.7 } }
  f: { anomalies: { every: day, season: 99999, most: half } }
  g: { transitions: { of: Bought, within: 0s, top: 0 } }
alerts:
  h: { watch: by_hours, value: orders, every: hour }
  i: { watch: by_hour, value: most, every: hour }
  j: { watch: by_event, value: events, every: week }
  k: { watch: by_event, value: events, every: day }
  l: { watch: by_hour, value: orders, every: hour, threshold: -1, season: 20000 }
"#,
            ),
        ],
        r#"error: `every` is one of `hour`, `day`, `week` and `month`, not `year`
 --> p.yaml:7:46
  |
7 |   a: { sizes: { of: [buyers, bayers], every: year } }
  |                                              ^^^^
error: `flow` is of segments and not of events: `by` does not go with it
 --> p.yaml:8:18
  |
8 |   b: { flow: {}, by: event }
  |                  ^^
error: there is no segment `vip`
 --> p.yaml:9:20
  |
9 |   c: { lift: { of: vip, traits: [order, seen] } }
  |                    ^^^
  = help: there is `buyers`
error: there is no trait with texts, numbers or booleans `order`
 --> p.yaml:9:34
  |
9 |   c: { lift: { of: vip, traits: [order, seen] } }
  |                                  ^^^^^
  = help: did you mean `orders`?
error: there is no trait with texts, numbers or booleans `seen`
 --> p.yaml:9:41
  |
9 |   c: { lift: { of: vip, traits: [order, seen] } }
  |                                         ^^^^
  = help: there is `orders`
error: `lift` needs `of`
  --> p.yaml:10:8
   |
10 |   d: { lift: {} }
   |        ^^^^
error: `anomalies` needs `every`
  --> p.yaml:11:8
   |
11 |   e: { anomalies: { of: Baught, alpha: 0.7 } }
   |        ^^^^^^^^^
error: `alpha` is a number between 0 and 0.5, not `0.7`
  --> p.yaml:11:40
   |
11 |   e: { anomalies: { of: Baught, alpha: 0.7 } }
   |                                        ^^^
error: `season` is 10000 at most, not 99999
  --> p.yaml:12:41
   |
12 |   f: { anomalies: { every: day, season: 99999, most: half } }
   |                                         ^^^^^
error: `most` is a number between 0 and 0.5, not `half`
  --> p.yaml:12:54
   |
12 |   f: { anomalies: { every: day, season: 99999, most: half } }
   |                                                      ^^^^
error: `within` must be longer than nothing
  --> p.yaml:13:43
   |
13 |   g: { transitions: { of: Bought, within: 0s, top: 0 } }
   |                                           ^^
error: `top` is a whole number from 1 on, not `0`
  --> p.yaml:13:52
   |
13 |   g: { transitions: { of: Bought, within: 0s, top: 0 } }
   |                                                    ^
error: there is no aggregate `by_hours`
  --> p.yaml:15:15
   |
15 |   h: { watch: by_hours, value: orders, every: hour }
   |               ^^^^^^^^
   = help: did you mean `by_hour`?
error: there is no sum or count `most`
  --> p.yaml:16:31
   |
16 |   i: { watch: by_hour, value: most, every: hour }
   |                               ^^^^
   = help: there is `orders`
error: `every` is one of `minute`, `hour` and `day`, not `week`
  --> p.yaml:17:47
   |
17 |   j: { watch: by_event, value: events, every: week }
   |                                               ^^^^
error: `by_event` has no key that is a time
  --> p.yaml:18:15
   |
18 |   k: { watch: by_event, value: events, every: day }
   |               ^^^^^^^^
   = help: group by one, as date_trunc('hour', timestamp) AS hour
error: `season` is 10080 periods at most, not 20000
  --> p.yaml:19:75
   |
19 |   l: { watch: by_hour, value: orders, every: hour, threshold: -1, season: 20000 }
   |                                                                           ^^^^^"#,
    );
}
