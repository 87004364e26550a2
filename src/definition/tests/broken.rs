//! Broken definitions and what is said about them, to the letter.

use super::{SOURCE, check};

#[test]
fn typos_in_keys_and_sections() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  orders: { count: "*", evnet: Order Completed }
  carts: { cuont: "*" }
segmnts: {}
"#,
            ),
        ],
        r#"error: trait `orders` has no key `evnet`
 --> p.yaml:2:25
  |
2 |   orders: { count: "*", evnet: Order Completed }
  |                         ^^^^^
  = help: did you mean `event`?
error: trait `carts` has no key `cuont`
 --> p.yaml:3:12
  |
3 |   carts: { cuont: "*" }
  |            ^^^^^
  = help: did you mean `count`?
error: a pipeline file has no key `segmnts`
 --> p.yaml:4:1
  |
4 | segmnts: {}
  | ^^^^^^^
  = help: did you mean `segments`?"#,
    );
}

#[test]
fn typos_in_names_and_functions_point_into_the_expression() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  total: { sum: roud(properties.total), where: "properties.total >" }
  name:
    latest: >
      upper(
        propertis.name
      )
  code:
    latest: "upper('\u00e9\t') || tiemstamp"
  size:
    latest: |-
      CASE WHEN timestamp IS NULL
        THEN tiemstamp END
  more:
    latest: 'concat(''x'', tiemstamp)'
"#,
            ),
        ],
        r#"error: unknown function `roud`
 --> p.yaml:2:17
  |
2 |   total: { sum: roud(properties.total), where: "properties.total >" }
  |                 ^^^^
  = help: did you mean `round`?
error: this is not SQL: Expected: an expression, found: EOF
 --> p.yaml:2:67
  |
2 |   total: { sum: roud(properties.total), where: "properties.total >" }
  |                                                                   ^
error: unknown name `propertis.name`
 --> p.yaml:6:9
  |
6 |         propertis.name
  |         ^^^^^^^^^^^^^^
  = help: did you mean `properties.name`?
error: unknown name `tiemstamp`
 --> p.yaml:9:35
  |
9 |     latest: "upper('\u00e9\t') || tiemstamp"
  |                                   ^^^^^^^^^
  = help: did you mean `timestamp`?
error: unknown name `tiemstamp`
  --> p.yaml:13:14
   |
13 |         THEN tiemstamp END
   |              ^^^^^^^^^
   = help: did you mean `timestamp`?
error: unknown name `tiemstamp`
  --> p.yaml:15:28
   |
15 |     latest: 'concat(''x'', tiemstamp)'
   |                            ^^^^^^^^^
   = help: did you mean `timestamp`?"#,
    );
}

#[test]
fn types_that_do_not_fit() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  a: { sum: type }
  b: { max: "type = 'x'" }
  c: { latest: type, where: timestamp }
  d: { latest: "*" }
segments:
  e: a.b
  f: last_seen
  g: "events > 'many'"
"#,
            ),
        ],
        r#"error: `sum` needs a number, this is a text
 --> p.yaml:2:13
  |
2 |   a: { sum: type }
  |             ^^^^
  = help: CAST(type AS DOUBLE)
error: `min` and `max` need a number, a timestamp or a text, this is a boolean
 --> p.yaml:3:13
  |
3 |   b: { max: "type = 'x'" }
  |             ^^^^^^^^^^^^
  = help: CAST(type = 'x' AS DOUBLE)
error: `where` must be true or false, this is a timestamp
 --> p.yaml:4:29
  |
4 |   c: { latest: type, where: timestamp }
  |                             ^^^^^^^^^
  = help: compare it with something, or test IS NOT NULL
error: only `count` can take `*`
 --> p.yaml:5:16
  |
5 |   d: { latest: "*" }
  |                ^^^
error: segment `f` must be true or false, this is a timestamp
 --> p.yaml:8:6
  |
8 |   f: last_seen
  |      ^^^^^^^^^
  = help: compare it with something, or test IS NOT NULL
error: a whole number and a text do not go together
 --> p.yaml:9:16
  |
9 |   g: "events > 'many'"
  |                ^^^^^^
  = help: compare like with like: quote the number, or CAST(… AS double)"#,
    );
}

#[test]
fn segments_in_a_circle() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"segments:
  a: "in_segment('b')"
  b: "in_segment('c') AND events > 1"
  c: "in_segment('a')"
  d: "in_segment('a')"
  e: "in_segment('e')"
  f: "in_segment('h')"
"#,
            ),
        ],
        r#"error: segments refer to each other in a circle: a → b → c → a
 --> p.yaml:2:3
  |
2 |   a: "in_segment('b')"
  |   ^
error: segments refer to each other in a circle: e → e
 --> p.yaml:6:3
  |
6 |   e: "in_segment('e')"
  |   ^
error: unknown segment `h`
 --> p.yaml:7:7
  |
7 |   f: "in_segment('h')"
  |       ^^^^^^^^^^^^^^
  = help: did you mean `in_segment('a')`?"#,
    );
}

#[test]
fn what_reads_something_broken_is_not_reported_as_well() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  orders: { cuont: "*" }
segments:
  vip: "orders > 3"
  fan: "in_segment('vip')"
activations:
  a: { trigger: { enters: vip }, consent: none, do: [ { id: s, send: { to: crm, body: "{{ profile.traits.orders }}" } } ] }
destinations:
  crm: { webhook: { url: "ftp://x.example" } }
"#,
            ),
        ],
        r#"error: trait `orders` has no key `cuont`
 --> p.yaml:2:13
  |
2 |   orders: { cuont: "*" }
  |             ^^^^^
  = help: did you mean `count`?
error: `url` cannot be used: only http and https can be called
 --> p.yaml:9:26
  |
9 |   crm: { webhook: { url: "ftp://x.example" } }
  |                          ^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn secrets_are_refused_and_never_shown() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"sources:
  k:
    kafka: { brokers: "b:1", topics: [t], settings: { sasl.password: hunter2, sasl.username: u, strt: x } }
    format: { jsno: segment }
destinations:
  crm: { webhook: { url: "https://x.example", secret: hunter2, secrte: x } }
  erp: { webhook: { url: "https://x.example", secret: "${env:A:-hunter2}", headers: { Authorization: Bearer hunter2, X-Shop: a } } }
warehouse: { clickhouse: { url: "http://u:hunter2@h:8123", database: shop, password: "hunter2" } }
identity: { identifiers: [email], key: hunter2 }
"#,
            ),
        ],
        r#"error: setting `sasl.password` is a secret and must not be written down here
 --> p.yaml:3:70
  |
3 |     kafka: { brokers: "b:1", topics: [t], settings: { sasl.password: *******, sasl.username: u, strt: x } }
  |                                                                      ^^^^^^^
  = help: write "${env:NAME}" or "${file:path}" and nothing else
error: `format` has no key `jsno`
 --> p.yaml:4:15
  |
4 |     format: { jsno: segment }
  |               ^^^^
  = help: did you mean `json`?
error: `secret` is a secret and must not be written down here
 --> p.yaml:6:55
  |
6 |   crm: { webhook: { url: "https://x.example", secret: *******, secrte: x } }
  |                                                       ^^^^^^^
  = help: write "${env:NAME}" or "${file:path}" and nothing else
error: `webhook` has no key `secrte`
 --> p.yaml:6:64
  |
6 |   crm: { webhook: { url: "https://x.example", secret: *******, secrte: x } }
  |                                                                ^^^^^^
  = help: did you mean `secret`?
error: `secret` is a secret and must not be written down here
 --> p.yaml:7:55
  |
7 |   erp: { webhook: { url: "https://x.example", secret: *******************, headers: { Authorization: **************, X-Shop: a } } }
  |                                                       ^^^^^^^^^^^^^^^^^^^
  = help: write "${env:NAME}" or "${file:path}" and nothing else
error: header `Authorization` is a secret and must not be written down here
 --> p.yaml:7:102
  |
7 |   erp: { webhook: { url: "https://x.example", secret: *******************, headers: { Authorization: **************, X-Shop: a } } }
  |                                                                                                      ^^^^^^^^^^^^^^
  = help: write "Bearer ${env:NAME}" or the like
error: `url` cannot be used: a password in a URL would be seen in logs
 --> p.yaml:8:33
  |
8 | warehouse: { clickhouse: { url: *************************, database: shop, password: ********* } }
  |                                 ^^^^^^^^^^^^^^^^^^^^^^^^^
error: `password` is a secret and must not be written down here
 --> p.yaml:8:86
  |
8 | warehouse: { clickhouse: { url: *************************, database: shop, password: ********* } }
  |                                                                                      ^^^^^^^^^
  = help: write "${env:NAME}" or "${file:path}" and nothing else
error: `key` is a secret and must not be written down here
 --> p.yaml:9:40
  |
9 | identity: { identifiers: [email], key: ******* }
  |                                        ^^^^^^^
  = help: write "${env:NAME}" or "${file:path}" and nothing else"#,
    );
}

#[test]
fn a_name_twice() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  a: { latest: type }
dedupe: { within: 1d }
"#,
            ),
            (
                "q.yaml",
                r#"traits:
  a: { latest: event }
dedupe: { within: 2d }
sources:
  web: { file: { path: x }, format: { json: segment } }
"#,
            ),
        ],
        r#"error: trait `a` is defined twice
 --> q.yaml:2:3
  |
2 |   a: { latest: event }
  |   ^
  = help: first defined at p.yaml:2:3
error: `dedupe` is defined twice
 --> q.yaml:3:1
  |
3 | dedupe: { within: 2d }
  | ^^^^^^
  = help: first written at p.yaml:3:1
error: source `web` is defined twice
 --> q.yaml:5:3
  |
5 |   web: { file: { path: x }, format: { json: segment } }
  |   ^^^
  = help: first defined at a_source.yaml:2:3"#,
    );
}

#[test]
fn names_that_are_taken_or_no_names() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  events: { count: "*" }
  profile_id: { latest: type }
  _x: { latest: type }
  Big Spender: { latest: type }
aggregates:
  profiles: SELECT type, count(*) AS n FROM events GROUP BY type
"#,
            ),
        ],
        r#"error: every profile has `events` already: a trait needs another name
 --> p.yaml:2:3
  |
2 |   events: { count: "*" }
  |   ^^^^^^
error: every profile has `profile_id` already: a trait needs another name
 --> p.yaml:3:3
  |
3 |   profile_id: { latest: type }
  |   ^^^^^^^^^^
error: trait: `_x` cannot be a name
 --> p.yaml:4:3
  |
4 |   _x: { latest: type }
  |   ^^
  = help: names are a-z, 0-9 and _, and begin with a letter
error: trait: `Big Spender` cannot be a name
 --> p.yaml:5:3
  |
5 |   Big Spender: { latest: type }
  |   ^^^^^^^^^^^
  = help: names are a-z, 0-9 and _, and begin with a letter
error: there is a table `profiles` already: an aggregate needs another name
 --> p.yaml:7:3
  |
7 |   profiles: SELECT type, count(*) AS n FROM events GROUP BY type
  |   ^^^^^^^^"#,
    );
}

#[test]
fn references_to_nothing() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"segments:
  vip: "events > 10"
destinations:
  crm: { webhook: { url: "https://x.example" } }
activations:
  a:
    trigger: { enters: vpi }
    consent: none
    do:
      - { id: s, send: { to: crn, body: { a: "Dear {{ profile.traits.nmae }}", b: "{{ profil.id }}", c: "{{ event.type }}" } } }
      - { id: s, send: { to: crm, body: "{{ profile.id" } }
      - { id: t, send: { to: crm, body: "${env:TOKEN}" } }
      - { id: u, send: { to: crm, body: [ "{{ profile.trait.name }} {{ segment }}" ] } }
  b:
    trigger: { event: X }
    consent: none
    do: [ { id: s, send: { to: crm, body: "{{ event.propertys.a }} {{ segment }}" } } ]
transforms:
  - enrich: { table: catalog, key: properties.sku, as: product }
    source: wbe
  - enrich: { table: catalogue, key: "1 +", as: event }
tables:
  catalogue: { file: nothing.csv, key: skku, columns: { sku: string } }
"#,
            ),
        ],
        r#"error: there is no segment `vpi`
 --> p.yaml:7:24
  |
7 |     trigger: { enters: vpi }
  |                        ^^^
  = help: did you mean `vip`?
error: there is no destination `crn`
  --> p.yaml:10:30
   |
10 |       - { id: s, send: { to: crn, body: { a: "Dear {{ profile.traits.nmae }}", b: "{{ profil.id }}", c: "{{ event.type }}" } } }
   |                              ^^^
   = help: did you mean `crm`?
error: there is no trait `nmae`
  --> p.yaml:10:70
   |
10 |       - { id: s, send: { to: crn, body: { a: "Dear {{ profile.traits.nmae }}", b: "{{ profil.id }}", c: "{{ event.type }}" } } }
   |                                                                      ^^^^
   = help: there are `first_seen`, `last_seen`, `events` and `sessions`
error: this template cannot know `profil`
  --> p.yaml:10:87
   |
10 |       - { id: s, send: { to: crn, body: { a: "Dear {{ profile.traits.nmae }}", b: "{{ profil.id }}", c: "{{ event.type }}" } } }
   |                                                                                       ^^^^^^
   = help: did you mean `profile`?
error: this template cannot know `event`
  --> p.yaml:10:109
   |
10 |       - { id: s, send: { to: crn, body: { a: "Dear {{ profile.traits.nmae }}", b: "{{ profil.id }}", c: "{{ event.type }}" } } }
   |                                                                                                             ^^^^^
   = help: there are `profile`, `activation`, `trigger`, `journey` and `segment`
error: activation `a` has two steps `s`
  --> p.yaml:11:15
   |
11 |       - { id: s, send: { to: crm, body: "{{ profile.id" } }
   |               ^
   = help: a step's id is part of the idempotency key of what it sends
error: the template cannot be read: unexpected end of input, expected end of variable block
  --> p.yaml:11:41
   |
11 |       - { id: s, send: { to: crm, body: "{{ profile.id" } }
   |                                         ^^^^^^^^^^^^^^^
error: `${…}` is not filled in inside a body: bodies are kept and shown
  --> p.yaml:12:41
   |
12 |       - { id: t, send: { to: crm, body: "${env:TOKEN}" } }
   |                                         ^^^^^^^^^^^^^^
   = help: put it into a header of the destination
error: a profile has no `trait`
  --> p.yaml:13:55
   |
13 |       - { id: u, send: { to: crm, body: [ "{{ profile.trait.name }} {{ segment }}" ] } }
   |                                                       ^^^^^
   = help: did you mean `traits`?
error: an event has no `propertys`
  --> p.yaml:17:53
   |
17 |     do: [ { id: s, send: { to: crm, body: "{{ event.propertys.a }} {{ segment }}" } } ]
   |                                                     ^^^^^^^^^
   = help: did you mean `properties`?
error: this template cannot know `segment`
  --> p.yaml:17:71
   |
17 |     do: [ { id: s, send: { to: crm, body: "{{ event.propertys.a }} {{ segment }}" } } ]
   |                                                                       ^^^^^^^
   = help: there are `profile`, `activation`, `trigger`, `journey` and `event`
error: there is no table `catalog`
  --> p.yaml:19:22
   |
19 |   - enrich: { table: catalog, key: properties.sku, as: product }
   |                      ^^^^^^^
   = help: did you mean `catalogue`?
error: there is no source `wbe`
  --> p.yaml:20:13
   |
20 |     source: wbe
   |             ^^^
   = help: did you mean `web`?
error: this is not SQL: Expected: an expression, found: EOF
  --> p.yaml:21:42
   |
21 |   - enrich: { table: catalogue, key: "1 +", as: event }
   |                                          ^
error: `event` is a column of every event
  --> p.yaml:21:49
   |
21 |   - enrich: { table: catalogue, key: "1 +", as: event }
   |                                                 ^^^^^
error: the table nothing.csv cannot be read: No such file or directory (os error 2)
  --> p.yaml:23:22
   |
23 |   catalogue: { file: nothing.csv, key: skku, columns: { sku: string } }
   |                      ^^^^^^^^^^^
error: the key `skku` is not among the columns
  --> p.yaml:23:40
   |
23 |   catalogue: { file: nothing.csv, key: skku, columns: { sku: string } }
   |                                        ^^^^
   = help: did you mean `sku`?"#,
    );
}

#[test]
fn durations_and_choices() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"dedupe: { within: 7x }
contracts: lax
timezone: Berlin
warehouse: clickhouse
transforms:
  - filter: "true"
    set: { message_id: type }
  - event: X
  - unnest: { from: products, as: X }
activations:
  a: { trigger: { event: X }, consent: none, status: on, do: [] }
"#,
            ),
        ],
        r#"error: `7x` is not a duration: unknown time unit "x", supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations)
 --> p.yaml:1:19
  |
1 | dedupe: { within: 7x }
  |                   ^^
  = help: write 30s, 15m, 2h, 7d or 1h 30m
error: `contracts` is one of `strict` and `flag`, not `lax`
 --> p.yaml:2:12
  |
2 | contracts: lax
  |            ^^^
error: `Berlin` is not the name of a time zone
 --> p.yaml:3:11
  |
3 | timezone: Berlin
  |           ^^^^^^
  = help: write UTC or a name like Europe/Berlin
error: there is no warehouse `clickhouse`
 --> p.yaml:4:12
  |
4 | warehouse: clickhouse
  |            ^^^^^^^^^^
  = help: write lake, or { clickhouse: { url: …, database: … } }
error: a transform has both `filter` and `set`: only one can hold
 --> p.yaml:7:5
  |
7 |     set: { message_id: type }
  |     ^^^
error: a transform needs one of `filter`, `set`, `unnest` and `enrich`
 --> p.yaml:8:5
  |
8 |   - event: X
  |     ^^^^^^^^
error: `from` is the path of a list in the event
 --> p.yaml:9:21
  |
9 |   - unnest: { from: products, as: X }
  |                     ^^^^^^^^
  = help: write properties.NAME
error: `status` is one of `paused`, `dry_run` and `live`, not `on`
  --> p.yaml:11:54
   |
11 |   a: { trigger: { event: X }, consent: none, status: on, do: [] }
   |                                                      ^^
error: activation `a` does nothing: `do` is empty
  --> p.yaml:11:62
   |
11 |   a: { trigger: { event: X }, consent: none, status: on, do: [] }
   |                                                              ^^"#,
    );
}

#[test]
fn what_comes_later_is_refused_by_name() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"identity:
  identifiers:
    - email
    - Email
    - email
dedupe: { within: 7d, prefer: [erp] }
traits:
  a: { most_frequent: type, window: 7d }
  b: { stages: [] }
segments:
  ten: { sample: 10% }
activations:
  a: { trigger: { schedule: daily, over: ten }, consent: none, do: [ { id: x, emit: Y } ] }
"#,
            ),
        ],
        r#"error: identifier type: `Email` cannot be a name
 --> p.yaml:4:7
  |
4 |     - Email
  |       ^^^^^
  = help: names are a-z, 0-9 and _, and begin with a letter
error: identifier type `email` is listed twice
 --> p.yaml:5:7
  |
5 |     - email
  |       ^^^^^
error: `prefer` is not there yet
 --> p.yaml:6:23
  |
6 | dedupe: { within: 7d, prefer: [erp] }
  |                       ^^^^^^
error: `stages` is empty
 --> p.yaml:9:16
  |
9 |   b: { stages: [] }
  |                ^^
error: `emit` is a map, this is a single value
  --> p.yaml:13:85
   |
13 |   a: { trigger: { schedule: daily, over: ten }, consent: none, do: [ { id: x, emit: Y } ] }
   |                                                                                     ^
   = help: its keys are `event` and `properties`"#,
    );
}

#[test]
fn yaml_unquoted_on_and_a_comma_in_a_flow_map() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  on: { count: "*" }
  name: { latest: coalesce(traits.a, traits.b), event: X }
"#,
            ),
        ],
        r#"error: `on` as a key is a boolean or null to many YAML readers
 --> p.yaml:2:3
  |
2 |   on: { count: "*" }
  |   ^^
  = help: quote it: "on"
error: the comma ends the value here: inside { … } and [ … ] an expression with a comma must be quoted
 --> p.yaml:3:19
  |
3 |   name: { latest: coalesce(traits.a, traits.b), event: X }
  |                   ^^^^^^^^^^^^^^^^^
  = help: write "coalesce(traits.a, traits.b)""#,
    );
}

#[test]
fn yaml_unquoted_template() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"destinations: { crm: { webhook: { url: "https://x.example" } } }
activations:
  a: { trigger: { event: X }, consent: none, do: [ { id: s, send: { to: crm, body: { a: {{ profile.id }} } } } ] }
"#,
            ),
        ],
        r#"error: a map cannot be a key: `{{` opens two YAML maps
 --> p.yaml:3:89
  |
3 |   a: { trigger: { event: X }, consent: none, do: [ { id: s, send: { to: crm, body: { a: {{ profile.id }} } } } ] }
  |                                                                                         ^^^^^^^^^^^^^^^^
  = help: quote the template: "{{ … }}""#,
    );
}

#[test]
fn yaml_a_tab() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
	orders: 1
"#,
            ),
        ],
        r#"error: a tab where YAML wants spaces
 --> p.yaml:2:2
  |
2 | 	orders: 1
  | 	^
  = help: indent with spaces"#,
    );
}

#[test]
fn yaml_an_unquoted_star() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  orders: { count: * }
"#,
            ),
        ],
        r#"error: an unquoted `*` or `&` begins an alias or anchor in YAML
 --> p.yaml:2:20
  |
2 |   orders: { count: * }
  |                    ^
  = help: quote the value: "*""#,
    );
}

#[test]
fn yaml_text_behind_a_quote() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  a:
    latest: type
    where: 'x' = type
"#,
            ),
        ],
        r#"error: text after the closing quote
 --> p.yaml:4:16
  |
4 |     where: 'x' = type
  |                ^
  = help: a value that begins with a quote must be quoted whole: "'a' || b""#,
    );
}

#[test]
fn yaml_a_key_twice() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  a:
    latest: type
    latest: event
"#,
            ),
        ],
        r#"error: `latest` is written twice
 --> p.yaml:4:5
  |
4 |     latest: event
  |     ^^^^^^
  = help: first written at p.yaml:3:5"#,
    );
}

#[test]
fn yaml_a_colon_too_many() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  a: latest: type
"#,
            ),
        ],
        r#"error: a second `: ` in the same line
 --> p.yaml:2:12
  |
2 |   a: latest: type
  |            ^
  = help: quote the value if the colon belongs to it"#,
    );
}

#[test]
fn yaml_a_brace_that_is_not_closed() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  a: { latest: type
segments: {}
"#,
            ),
        ],
        r#"error: a `{ … }` or `[ … ]` that does not end as it should
 --> p.yaml:3:9
  |
3 | segments: {}
  |         ^
  = help: close it; inside, an expression with a comma, bracket or quote must be quoted"#,
    );
}

#[test]
fn yaml_an_unclosed_quote() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  a: { latest: "type }
"#,
            ),
        ],
        r#"error: a quote that is never closed
 --> p.yaml:2:16
  |
2 |   a: { latest: "type }
  |                ^
  = help: close it, or double it inside '…'"#,
    );
}

#[test]
fn yaml_tags_and_merge_keys() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  a: !env X
  b: { <<: x, latest: type }
"#,
            ),
        ],
        r#"error: YAML tags (`!…`) mean nothing here
 --> p.yaml:2:11
  |
2 |   a: !env X
  |           ^
  = help: quote the value if it begins with `!`
error: trait `a` is a map, this is a single value
 --> p.yaml:2:11
  |
2 |   a: !env X
  |           ^
  = help: its keys are `latest`, `first`, `count`, `sum`, `min`, `max`, `mean`, `most_frequent`, `least_frequent`, `distinct`, `gap`, `funnel`, `sequence`, `formula` and 13 more
error: merge keys (`<<`) are not supported
 --> p.yaml:3:8
  |
3 |   b: { <<: x, latest: type }
  |        ^^
  = help: write the entries out"#,
    );
}

#[test]
fn sources() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"sources:
  a: { kafka: { topics: [t], brokers: b }, format: avro }
  b: { kafka: { topics: [t], brokers: b }, format: csv }
  c: { file: { path: x.csv }, format: { csv: { columns: { n: long } } } }
  g: { file: { path: none.csv }, format: csv, map: { event: a } }
  d: { file: { path: x.csv }, kafka: { topics: [t] }, format: jsn }
  e:
    file: { path: x.csv }
    format: { csv: { columns: { n: long, at: string } } }
    map:
      message_id: n
      timestamp: at
      evnt: at
      event: { value: 1 }
      properties: { a.b: n, x: m }
      identifiers: { emial: at }
  f: { kafka: { topics: [t], brokers: "${evn:B}" }, format: { avro: { schema: no.avsc } } }
"#,
            ),
        ],
        r#"error: where the schemas come from is not said
 --> p.yaml:2:52
  |
2 |   a: { kafka: { topics: [t], brokers: b }, format: avro }
  |                                                    ^^^^
  = help: { avro: { registry: URL } }, { avro: { schemas: FOLDER } } or { avro: { schema: FILE } }
error: `csv` is a format of files
 --> p.yaml:3:52
  |
3 |   b: { kafka: { topics: [t], brokers: b }, format: csv }
  |                                                    ^^^
error: source `c` needs `map`: its records are not in the standard envelope
 --> p.yaml:4:3
  |
4 |   c: { file: { path: x.csv }, format: { csv: { columns: { n: long } } } }
  |   ^
  = help: map: { event: { value: … }, timestamp: …, properties: { … } }
error: the header of none.csv cannot be read: No such file or directory (os error 2)
 --> p.yaml:5:22
  |
5 |   g: { file: { path: none.csv }, format: csv, map: { event: a } }
  |                      ^^^^^^^^
  = help: or write { csv: { columns: { name: string, … } } }
error: source `d` has both `kafka` and `file`: only one can hold
 --> p.yaml:6:8
  |
6 |   d: { file: { path: x.csv }, kafka: { topics: [t] }, format: jsn }
  |        ^^^^
error: there is no format `jsn`
 --> p.yaml:6:63
  |
6 |   d: { file: { path: x.csv }, kafka: { topics: [t] }, format: jsn }
  |                                                               ^^^
  = help: write `avro`, `{ avro: … }`, `{ json: segment }`, `{ json: { schema: … } }`, `csv` or `{ csv: … }`
error: a text is wanted here, this is a whole number
  --> p.yaml:11:19
   |
11 |       message_id: n
   |                   ^
   = help: CAST(n AS VARCHAR)
error: a timestamp is wanted here, this is a text
  --> p.yaml:12:18
   |
12 |       timestamp: at
   |                  ^^
   = help: CAST(at AS TIMESTAMP)
error: there is no column `evnt` to write
  --> p.yaml:13:7
   |
13 |       evnt: at
   |       ^^^^
   = help: did you mean `event`?
error: a text is wanted here: quote it
  --> p.yaml:14:23
   |
14 |       event: { value: 1 }
   |                       ^
error: `properties.a.b` is too deep: `map` writes keys at the top
  --> p.yaml:15:21
   |
15 |       properties: { a.b: n, x: m }
   |                     ^^^
error: unknown name `m`
  --> p.yaml:15:32
   |
15 |       properties: { a.b: n, x: m }
   |                                ^
   = help: did you mean `n`?
warning: `identity.identifiers` does not list `emial`
  --> p.yaml:16:22
   |
16 |       identifiers: { emial: at }
   |                      ^^^^^
   = help: there are `user_id` and `anonymous_id`
error: `${evn:B}` is neither an environment variable nor a file
  --> p.yaml:17:39
   |
17 |   f: { kafka: { topics: [t], brokers: "${evn:B}" }, format: { avro: { schema: no.avsc } } }
   |                                       ^^^^^^^^^^
   = help: write ${env:NAME}, ${env:NAME:-default} or ${file:path}"#,
    );
}

#[test]
fn aggregates() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"aggregates:
  a: SELECT type, count(*) AS n FROM events
  b: SELECT count(DISTINCT type) AS n FROM events
  c: SELECT avg(index) AS n FROM events
  d: SELECT type, sum(type) AS n FROM profiles GROUP BY 1
  e: SELECT type, sum(type) AS n FROM events GROUP BY type
  f: SELECT count(*) AS n FROM events GROUP BY type
  g: SELECT count(*) FROM events WHERE index
  h: >
    SELECT type,
      max(tpye) AS n
    FROM events GROUP BY 1 LIMIT 5
  i: >
    SELECT type,
      max(tpye) AS n
    FROM events GROUP BY 1
"#,
            ),
        ],
        r#"error: `type` is not grouped by
 --> p.yaml:2:13
  |
2 |   a: SELECT type, count(*) AS n FROM events
  |             ^^^^
  = help: add it: GROUP BY … 1; or make it a measure with min or max
error: DISTINCT cannot be combined over partial rows
 --> p.yaml:3:13
  |
3 |   b: SELECT count(DISTINCT type) AS n FROM events
  |             ^^^^^^^^^^^^^^^^^^^
  = help: count with a query over `events`
error: avg cannot be combined over partial rows
 --> p.yaml:4:13
  |
4 |   c: SELECT avg(index) AS n FROM events
  |             ^^^^^^^^^
  = help: keep sum(x) and count(x), and divide them in the query
error: an aggregate reads `events`, not `profiles`
 --> p.yaml:5:39
  |
5 |   d: SELECT type, sum(type) AS n FROM profiles GROUP BY 1
  |                                       ^^^^^^^^
  = help: the form is SELECT keys and measures FROM events [WHERE …] GROUP BY keys
error: only numbers can be summed up
 --> p.yaml:6:23
  |
6 |   e: SELECT type, sum(type) AS n FROM events GROUP BY type
  |                       ^^^^
  = help: write CAST(… AS double) where it holds one
error: `type` is not among the columns
 --> p.yaml:7:48
  |
7 |   f: SELECT count(*) AS n FROM events GROUP BY type
  |                                                ^^^^
  = help: a group must also be a column of the SELECT; name it by position, alias or as it is written there
error: this column needs a name
 --> p.yaml:8:13
  |
8 |   g: SELECT count(*) FROM events WHERE index
  |             ^^^^^
  = help: write count(*) AS some_name
error: LIMIT is not possible in an aggregate
  --> p.yaml:10:5
   |
10 |     SELECT type,
   |     ^^^^^^^^^^^^
   = help: the form is SELECT keys and measures FROM events [WHERE …] GROUP BY keys
error: unknown name `tpye`
  --> p.yaml:15:11
   |
15 |       max(tpye) AS n
   |           ^^^^
   = help: did you mean `type`?"#,
    );
}

#[test]
fn event_names_are_checked_where_the_pipeline_has_contracts() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"traits:
  a: { count: "*", event: Ordr Completed }
  b: { count: "*", event: [Order Completed, Cart Emptied] }
  c: { sum: properties.totl, event: Cart Emptied }
activations:
  a: { trigger: { event: Cart Emtied }, consent: none, do: [ { id: s, send: { to: crm } } ] }
destinations: { crm: { webhook: { url: "https://x.example" } } }
"#,
            ),
            (
                "schemas/events/cart.avsc",
                r#"{"type": "record", "name": "CartEmptied", "fields": [{"name": "total", "type": "double"}]}"#,
            ),
            (
                "schemas/events/bad.avsc",
                r#"{"type": "record", "name": "Bad", "fields": [{"name": "total", "type": "dobule"}]}"#,
            ),
        ],
        r#"error: no contract knows the event `Ordr Completed`
 --> p.yaml:2:27
  |
2 |   a: { count: "*", event: Ordr Completed }
  |                           ^^^^^^^^^^^^^^
  = help: did you mean `Order Completed`?
error: unknown name `properties.totl`
 --> p.yaml:4:13
  |
4 |   c: { sum: properties.totl, event: Cart Emptied }
  |             ^^^^^^^^^^^^^^^
  = help: did you mean `properties.total`?
error: no contract knows the event `Cart Emtied`
 --> p.yaml:6:26
  |
6 |   a: { trigger: { event: Cart Emtied }, consent: none, do: [ { id: s, send: { to: crm } } ] }
  |                          ^^^^^^^^^^^
  = help: did you mean `Cart Emptied`?
error: not an Avro schema: Unknown primitive type: dobule
 --> schemas/events/bad.avsc"#,
    );
}

#[test]
fn identity_rules_that_cannot_hold() {
    check(
        &[
            SOURCE,
            (
                "p.yaml",
                r#"identity:
  identifiers:
    - user_id: { limit: 0, from: traits.id }
    - email: { normalise: email, dots: drop }
    - mail: { normalize: emial, tags: drop }
    - other: { normalize: email, tags: yes }
    - phone: { normalize: e164, region: UK, limit: 3 per fortnight }
    - fax: { normalize: e164, region: de }
    - mobile: { normalize: trim, region: DE, limit: many }
    - card: { normalize: e164, region: Germany, block: ["/x(/", "/y/g"], from: email }
  block: "//"
  on_conflict: reasign
  max_identifiers: 1
  previous_id: anonymos_id
  source_priority: [web, erp, web]
traits:
  a: { latest: type, on_merge: erliest }
  b: { count: "*", on_merge: latest }
"#,
            ),
        ],
        r#"error: `limit` is how many one person may have, from 1 on, not `0`
 --> p.yaml:3:25
  |
3 |     - user_id: { limit: 0, from: traits.id }
  |                         ^
  = help: write 5, or 100 per 30d
error: `user_id` is a column of every event and comes from there
 --> p.yaml:3:28
  |
3 |     - user_id: { limit: 0, from: traits.id }
  |                            ^^^^
  = help: a source's `map` says what goes into the column
error: identifier type `email` has no key `normalise`
 --> p.yaml:4:16
  |
4 |     - email: { normalise: email, dots: drop }
  |                ^^^^^^^^^
  = help: did you mean `normalize`?
error: `normalize` is one of `trim`, `lower`, `digits`, `email` and `e164`, not `emial`
 --> p.yaml:5:26
  |
5 |     - mail: { normalize: emial, tags: drop }
  |                          ^^^^^
  = help: did you mean `email`?
error: `tags` is one of `keep` and `drop`, not `yes`
 --> p.yaml:6:40
  |
6 |     - other: { normalize: email, tags: yes }
  |                                        ^^^
error: `UK` is not a region with phone numbers
 --> p.yaml:7:41
  |
7 |     - phone: { normalize: e164, region: UK, limit: 3 per fortnight }
  |                                         ^^
  = help: did you mean `GB`?
error: `fortnight` is not a duration: expected number at 0
 --> p.yaml:7:52
  |
7 |     - phone: { normalize: e164, region: UK, limit: 3 per fortnight }
  |                                                    ^^^^^^^^^^^^^^^
  = help: write 30s, 15m, 2h, 7d or 1h 30m
error: `de` is not a region with phone numbers
 --> p.yaml:8:39
  |
8 |     - fax: { normalize: e164, region: de }
  |                                       ^^
  = help: did you mean `DE`?
error: `region` goes with `normalize: e164`
 --> p.yaml:9:34
  |
9 |     - mobile: { normalize: trim, region: DE, limit: many }
  |                                  ^^^^^^
  = help: write `normalize: e164` as well, or leave `region` out
error: `limit` is how many one person may have, from 1 on, not `many`
 --> p.yaml:9:53
  |
9 |     - mobile: { normalize: trim, region: DE, limit: many }
  |                                                     ^^^^
  = help: write 5, or 100 per 30d
error: `Germany` is not a region with phone numbers
  --> p.yaml:10:40
   |
10 |     - card: { normalize: e164, region: Germany, block: ["/x(/", "/y/g"], from: email }
   |                                        ^^^^^^^
   = help: regions are two letters, as DE, US or GB (ISO 3166)
error: `/x(/` cannot be used: unclosed group
  --> p.yaml:10:57
   |
10 |     - card: { normalize: e164, region: Germany, block: ["/x(/", "/y/g"], from: email }
   |                                                         ^^^^^^
error: `/y/g` cannot be used: `i` is the only flag a regular expression can have here, not `g`
  --> p.yaml:10:65
   |
10 |     - card: { normalize: e164, region: Germany, block: ["/x(/", "/y/g"], from: email }
   |                                                                 ^^^^^^
error: `from` is a path into an event's JSON, not `email`
  --> p.yaml:10:80
   |
10 |     - card: { normalize: e164, region: Germany, block: ["/x(/", "/y/g"], from: email }
   |                                                                                ^^^^^
   = help: it begins with `traits.`, `properties.` or `context.`
error: `block` is a list, this is a single value
  --> p.yaml:11:10
   |
11 |   block: "//"
   |          ^^^^
error: `on_conflict` is one of `keep` and `reassign`, not `reasign`
  --> p.yaml:12:16
   |
12 |   on_conflict: reasign
   |                ^^^^^^^
   = help: did you mean `reassign`?
error: `max_identifiers` is a whole number from 2 on, not `1`
  --> p.yaml:13:20
   |
13 |   max_identifiers: 1
   |                    ^
error: there is no identifier type `anonymos_id`
  --> p.yaml:14:16
   |
14 |   previous_id: anonymos_id
   |                ^^^^^^^^^^^
   = help: there are `user_id`, `email`, `mail`, `other`, `phone`, `fax`, `mobile` and `card`
error: there is no source `erp`
  --> p.yaml:15:26
   |
15 |   source_priority: [web, erp, web]
   |                          ^^^
   = help: there is `web`
error: source `web` is listed twice
  --> p.yaml:15:31
   |
15 |   source_priority: [web, erp, web]
   |                               ^^^
error: `on_merge` is one of `latest`, `earliest`, `survivor` and `source_priority`, not `erliest`
  --> p.yaml:17:32
   |
17 |   a: { latest: type, on_merge: erliest }
   |                                ^^^^^^^
   = help: did you mean `earliest`?
error: `on_merge` goes with `latest` and `first`
  --> p.yaml:18:20
   |
18 |   b: { count: "*", on_merge: latest }
   |                    ^^^^^^^^
   = help: what counts, adds up or compares takes in both sides of a merge anyway"#,
    );
}

#[test]
fn identity_of_nobody() {
    check(
        &[SOURCE, ("p.yaml", "identity:\n  identifiers: []\n  block: [\"/[/\"]\n  limit: 5\n")],
        r#"error: `identifiers` is an empty list: nobody would have a profile
 --> p.yaml:2:16
  |
2 |   identifiers: []
  |                ^^
error: `/[/` cannot be used: unclosed character class
 --> p.yaml:3:11
  |
3 |   block: ["/[/"]
  |           ^^^^^
error: `identity` has no key `limit`
 --> p.yaml:4:3
  |
4 |   limit: 5
  |   ^^^^^
  = help: there are `identifiers`, `block`, `on_conflict`, `max_identifiers`, `previous_id`, `source_priority` and `key`"#,
    );
}
