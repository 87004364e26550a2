//! Groups: what is said about broken ones, and what a sound one comes to.

use super::{SOURCE, check};

#[test]
fn typos_unknown_columns_and_names_written_twice() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"groups:
  account:
    ident: group_id
    id: group_idd
    traits:
      active_users: { distinct: profile_id, windw: 7d }
    segments:
      people: "in_segment('buyers')"
  shop:
    id: timestamp
    traits: { who: { distinct: profile_id }, who: { count: "*" } }
  shop: {}
  person:
"#,
            ),
        ],
        r#"error: group `account` has no key `ident`
 --> p.yaml:3:5
  |
3 |     ident: group_id
  |     ^^^^^
  = help: there are `id`, `traits` and `segments`
error: unknown name `group_idd`
 --> p.yaml:4:9
  |
4 |     id: group_idd
  |         ^^^^^^^^^
  = help: did you mean `group_id`?
error: trait `active_users` has no key `windw`
 --> p.yaml:6:45
  |
6 |       active_users: { distinct: profile_id, windw: 7d }
  |                                             ^^^^^
  = help: did you mean `window`?
error: unknown segment `buyers`
 --> p.yaml:8:16
  |
8 |       people: "in_segment('buyers')"
  |                ^^^^^^^^^^^^^^^^^^^
  = help: did you mean `in_segment('people')`?
error: the `id` of a group must be a text, this is a timestamp
  --> p.yaml:10:9
   |
10 |     id: timestamp
   |         ^^^^^^^^^
   = help: CAST(timestamp AS VARCHAR)
error: `who` is written twice
  --> p.yaml:11:46
   |
11 |     traits: { who: { distinct: profile_id }, who: { count: "*" } }
   |                                              ^^^
   = help: first written at p.yaml:11:15
error: `shop` is written twice
  --> p.yaml:12:3
   |
12 |   shop: {}
   |   ^^^^
   = help: first written at p.yaml:9:3
error: group `person` is empty
  --> p.yaml:13:3
   |
13 |   person:
   |   ^^^^^^"#,
    );
}

#[test]
fn people_and_groups_do_not_read_each_other() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  orders: { count: "*", event: Order Completed }
  whose:  { distinct: profile_id }
  theirs: { formula: account.users.count }
groups:
  account:
    traits:
      users:    { distinct: profile_id }
      ratio:    { formula: orders / users.count }
      both:     { latest: "concat(profile_id, 'x')" }
      oldest:   { min: profile_id }
      mine:     { count: "*", where: "profile_id = 'x'" }
      named:    { count: "*", where: "event = 'profile_id'" }
      group_id: { count: "*" }
      sessions: { count: "*" }
      value:    { rfm: { recency: last_seen, frequency: events, monetary: events, every: 1d } }
    segments:
      weekly_active: "users.cuont >= 3"
      half:          { sample: 50% }
segments:
  buyers: "account.users.count > 1"
"#,
            ),
        ],
        r#"error: a person's own traits cannot read `profile_id`
 --> p.yaml:3:23
  |
3 |   whose:  { distinct: profile_id }
  |                       ^^^^^^^^^^
  = help: it is for the traits of `groups`, which count people
error: unknown name `account.users.count`
 --> p.yaml:4:22
  |
4 |   theirs: { formula: account.users.count }
  |                      ^^^^^^^^^^^^^^^^^^^
  = help: people and groups cannot read each other's traits
error: unknown name `orders`
 --> p.yaml:9:28
  |
9 |       ratio:    { formula: orders / users.count }
  |                            ^^^^^^
  = help: people and groups cannot read each other's traits
error: `profile_id` cannot be part of an expression
  --> p.yaml:10:27
   |
10 |       both:     { latest: "concat(profile_id, 'x')" }
   |                           ^^^^^^^^^^^^^^^^^^^^^^^^^
   = help: `profile_id` changes when people merge: write it by itself, as in `distinct: profile_id`
error: `profile_id` changes when people merge, so it has no order
  --> p.yaml:11:24
   |
11 |       oldest:   { min: profile_id }
   |                        ^^^^^^^^^^
   = help: distinct: profile_id
error: `profile_id` cannot be part of an expression
  --> p.yaml:12:38
   |
12 |       mine:     { count: "*", where: "profile_id = 'x'" }
   |                                      ^^^^^^^^^^^^^^^^^^
   = help: `profile_id` changes when people merge: write it by itself, as in `distinct: profile_id`
error: `group_id` is taken in every group: a trait needs another name
  --> p.yaml:14:7
   |
14 |       group_id: { count: "*" }
   |       ^^^^^^^^
error: `sessions` is taken in every group: a trait needs another name
  --> p.yaml:15:7
   |
15 |       sessions: { count: "*" }
   |       ^^^^^^^^
error: `rfm` compares people, so far not groups
  --> p.yaml:16:35
   |
16 |       value:    { rfm: { recency: last_seen, frequency: events, monetary: events, every: 1d } }
   |                                   ^^^^^^^^^
error: unknown name `users.cuont`
  --> p.yaml:18:23
   |
18 |       weekly_active: "users.cuont >= 3"
   |                       ^^^^^^^^^^^
   = help: did you mean `users.count`?
error: samples and lists are of people, so far not of groups
  --> p.yaml:19:7
   |
19 |       half:          { sample: 50% }
   |       ^^^^
   = help: write a condition over traits
error: unknown name `account.users.count`
  --> p.yaml:21:12
   |
21 |   buyers: "account.users.count > 1"
   |            ^^^^^^^^^^^^^^^^^^^
   = help: people and groups cannot read each other's traits"#,
    );
}

#[test]
fn activations_and_tests_name_groups_rightly_or_are_told() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"groups:
  account:
    traits:   { users: { distinct: profile_id } }
    segments: { many: "users.count > 2" }
destinations:
  crm: { webhook: { url: "https://crm.example/hook", secret: "${env:S}" } }
activations:
  a:
    trigger: { enters: account.many }
    do: [ { id: tell, send: { to: crm } } ]
    consent: none
tests:
  - name: x
    steps:
      - expect:
          groups: { account: { acme: { user: 1 } }, acount: { acme: { events: 1 } } }
          group_segments: { account.much: [acme] }
"#,
            ),
        ],
        r#"error: `account.many` is of a group
 --> p.yaml:9:24
  |
9 |     trigger: { enters: account.many }
  |                        ^^^^^^^^^^^^
  = help: a group cannot set off an activation so far, only people can
error: there is no trait `user`
  --> p.yaml:16:40
   |
16 |           groups: { account: { acme: { user: 1 } }, acount: { acme: { events: 1 } } }
   |                                        ^^^^
   = help: did you mean `users`?
error: there is no group `acount`
  --> p.yaml:16:53
   |
16 |           groups: { account: { acme: { user: 1 } }, acount: { acme: { events: 1 } } }
   |                                                     ^^^^^^
   = help: did you mean `account`?
error: there is no segment of a group `account.much`
  --> p.yaml:17:29
   |
17 |           group_segments: { account.much: [acme] }
   |                             ^^^^^^^^^^^^
   = help: did you mean `account.many`?"#,
    );
}
