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
