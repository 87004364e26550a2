//! List segments: whoever has one of the listed identifiers is in, whatever happened in which order: events, merges,
//! splits, changes of the file, changes by command, crashes.

use std::collections::BTreeSet;
use std::path::Path;

use tributary::identity::Correction;

use crate::support::{Running, eventually, output_of, tributary};
use crate::world::{Seen, World, for_seeds, random_events};
use crate::{order, support};

const SEGMENTS: &str = r#"segments:
  staff:     { list: lists/staff.csv, match: email }
  devices:   { list: lists/devices.txt, match: anonymous_id }
  busy:      "events > 2"
  outsiders: "events > 2 AND NOT in_segment('staff')"
  inside:    "in_segment('staff') AND in_segment('devices')"
destinations:
  crm: { webhook: { url: "http://127.0.0.1:9/" } }
activations:
  hello: { trigger: { enters: staff }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
  bye:   { trigger: { exits: staff }, consent: none, do: [ { id: tell, send: { to: crm } } ] }
"#;

fn write(folder: &Path) {
    let head = order::PIPELINE.split("traits:").next().expect("text");
    std::fs::create_dir_all(folder.join("lists")).expect("folder");
    std::fs::write(folder.join("lists.yaml"), format!("{head}{SEGMENTS}")).expect("file");
}

/// The files, and what people have said since.
#[derive(Debug, Default)]
struct Lists {
    files: [BTreeSet<String>; 2],
    added: [BTreeSet<String>; 2],
    removed: [BTreeSet<String>; 2],
}

const NAMES: [(&str, &str); 2] = [("staff", "email"), ("devices", "anonymous_id")];

impl Lists {
    fn random_file(&mut self, which: usize, random: &mut fastrand::Rng) {
        self.files[which] = (0..random.usize(0..6)).map(|_| value(which, random)).collect();
    }

    fn write_files(&self, folder: &Path) {
        let rows: String = self.files[0].iter().map(|email| format!("Someone, {email} \n")).collect();
        std::fs::write(folder.join("lists/staff.csv"), format!("name,email\n{rows}")).expect("file");
        let lines: String = self.files[1].iter().map(|id| format!("{id}\n\n")).collect();
        std::fs::write(folder.join("lists/devices.txt"), lines).expect("file");
    }

    fn edit(&mut self, which: usize, values: &[String], add: bool) {
        for value in values {
            let (to, from) = match add {
                true => (&mut self.added, &mut self.removed),
                false => (&mut self.removed, &mut self.added),
            };
            to[which].insert(value.clone());
            from[which].remove(value);
        }
    }

    fn holds(&self, which: usize, value: &str) -> bool {
        (self.files[which].contains(value) && !self.removed[which].contains(value)) || self.added[which].contains(value)
    }

    /// The members of every segment, worked out from the identifiers of everyone.
    fn members(&self, seen: &Seen) -> BTreeSet<(String, String)> {
        let mut members = BTreeSet::new();
        let mut add = |segment: &str, id: &str| {
            members.insert((segment.to_string(), id.to_string()));
        };
        let of = |which: usize| -> BTreeSet<&String> {
            let mine = seen.identifiers.iter().filter(|(name, _)| {
                name.strip_prefix(NAMES[which].1)
                    .and_then(|v| v.strip_prefix(':'))
                    .is_some_and(|v| self.holds(which, v))
            });
            mine.map(|(_, id)| id).collect()
        };
        let (staff, devices) = (of(0), of(1));
        staff.iter().for_each(|id| add("staff", id));
        devices.iter().for_each(|id| add("devices", id));
        staff.intersection(&devices).for_each(|id| add("inside", id));
        for id in seen.profiles.keys() {
            if seen.events.values().filter(|owner| owner.as_ref() == Some(id)).count() > 2 {
                add("busy", id);
                if !staff.contains(id) {
                    add("outsiders", id);
                }
            }
        }
        members
    }
}

/// Some that events have, and some that none has.
fn value(which: usize, random: &mut fastrand::Rng) -> String {
    match which {
        0 => format!("e{}@shop.example", random.u8(0..15)),
        _ => format!("a{}", random.u8(0..30)),
    }
}

#[test]
fn members_are_those_with_a_listed_identifier_whatever_happens() {
    for_seeds("LISTS_SEED", 40, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().expect("folder");
        write(folder.path());
        let mut lists = Lists::default();
        (0..2).for_each(|which| lists.random_file(which, &mut random));
        lists.write_files(folder.path());
        let mut world = World::new(folder.path());
        let count = random.usize(20..150);
        let events = random_events(&mut random, count, 0);
        world.clock = events.iter().map(|event| event.timestamp).max().expect("an event");
        let mut rest = events.as_slice();
        let mut files = 0;
        while !rest.is_empty() || world.core.fill.is_some() {
            match random.u8(0..20) {
                0..8 => {
                    let (batch, after) = rest.split_at(random.usize(0..=rest.len().min(15)));
                    rest = after;
                    if !batch.is_empty() {
                        world.apply(batch);
                    }
                }
                8..14 => {
                    let which = random.usize(0..2);
                    let mut values: Vec<String> = (0..random.usize(1..4)).map(|_| value(which, &mut random)).collect();
                    values.dedup();
                    let add = random.bool();
                    let edited = world.edit_list(NAMES[which].0, NAMES[which].1, &values, add);
                    assert_eq!(edited.refused, None);
                    lists.edit(which, &values, add);
                }
                14 => world.restart(),
                15 if files < 5 => {
                    files += 1;
                    lists.random_file(random.usize(0..2), &mut random);
                    lists.write_files(folder.path());
                    world.redefine(folder.path());
                }
                16 => {
                    let names: Vec<String> = world.seen().identifiers.into_keys().collect();
                    if names.len() > 1 && world.core.fill.is_none() {
                        let mut pick = || world.named(&names[random.usize(0..names.len())]);
                        let correction = match (pick(), pick()) {
                            (a, b) if a == b => Correction::Ban(a),
                            (a, b) => Correction::Cut(a, b),
                        };
                        world.correct(correction, None);
                    }
                }
                _ => drop(world.sweep()),
            }
            if world.core.fill.is_none() {
                let seen = world.seen();
                assert_eq!(seen.members, lists.members(&seen), "seed {seed}");
            }
        }
        world.restart();
        world.apply(&random_events(&mut random, 20, 1_000));
        let seen = world.seen();
        assert_eq!(seen.members, lists.members(&seen), "after a restart (seed {seed})");
    });
}

/// A change by command sets off activations, one of the file does not; causes tell them apart.
#[test]
fn an_edit_sets_off_activations_and_a_changed_file_does_not() {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path());
    let mut lists = Lists::default();
    lists.write_files(folder.path());
    let mut world = World::new(folder.path());
    let mut random = fastrand::Rng::with_seed(1);
    world.apply(&random_events(&mut random, 12, 0));
    let known = world.seen().identifiers;
    let emails: Vec<String> = known.keys().filter_map(|name| Some(name.strip_prefix("email:")?.to_string())).collect();
    let (one, other) = (
        emails[0].clone(),
        emails.iter().find(|e| known[&format!("email:{e}")] != known[&format!("email:{}", emails[0])]),
    );
    let other = other.expect("two people").clone();

    let edited = world.edit_list("staff", "email", std::slice::from_ref(&one), true);
    assert_eq!((edited.changed, edited.people, edited.entered), (1, 1, 1));
    let again = world.edit_list("staff", "email", std::slice::from_ref(&one), true);
    assert_eq!((again.changed, again.people, again.entered, again.exited), (0, 1, 0, 0));
    let sent = |world: &World| -> Vec<String> {
        world.rows("deliveries").iter().map(|row| row["activation"].clone()).collect()
    };
    assert_eq!(sent(&world), ["hello"]);

    lists.files[0].insert(other);
    lists.write_files(folder.path());
    world.redefine(folder.path());
    while world.sweep() {}
    assert_eq!(sent(&world), ["hello"], "a file's people enter silently");
    let causes: Vec<String> =
        world.rows("segment_changes").iter().filter(|r| r["segment"] == "staff").map(|r| r["cause"].clone()).collect();
    assert_eq!(causes, ["edit", "fill"]);

    world.edit_list("staff", "email", &[one], false);
    assert_eq!(sent(&world), ["hello", "bye"]);
    let refused = world.edit_list("busy", "email", &[], true).refused.expect("refused");
    assert!(refused.contains("busy is no list"), "{refused}");
}

/// As its users edit it: while the program runs, and while it does not.
#[test]
fn a_list_is_edited_by_command() {
    let folder = tempfile::tempdir().expect("folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("file");
    write(
        "people.yaml",
        r#"sources: { site: { file: { path: "site*.ndjson" }, format: { json: segment } } }
identity: { identifiers: [ user_id, { email: { normalize: email } } ] }
segments: { staff: { list: staff.csv, match: email } }
"#,
    );
    write("staff.csv", "email\nann@shop.example\n");
    let event = |user: &str| {
        format!(
            r#"{{"messageId":"{user}","type":"identify","userId":"{user}","traits":{{"email":"{user}@shop.example"}}}}"#
        )
    };
    write("site1.ndjson", &format!("{}\n{}\n{}\n", event("ann"), event("bob"), event("cid")));
    let command = |args: &[&str]| {
        let mut command = tributary(args);
        command.arg("-C").arg(folder.path()).arg("--data").arg(folder.path().join("data"));
        command
    };
    let done = |args: &[&str]| output_of(command(args));
    let members = || {
        let sql = "SELECT i.value FROM segment_members AS m JOIN current_identifiers AS i ON m.profile_id = i.profile_id \
                   WHERE i.type = 'user_id' ORDER BY 1";
        done(&["query", "--output", "csv", sql]).lines().skip(1).collect::<Vec<_>>().join(" ")
    };
    let failed = command(&["segment", "add", "staff", "bob@shop.example"]).output().expect("the program starts");
    assert_eq!(failed.status.code(), Some(3), "there is no state yet: {}", support::text_of(&failed));
    done(&["run", "--drain"]);
    assert_eq!(members(), "ann");

    done(&["segment", "add", "staff", "BOB@shop.example", "email:new@shop.example"]);
    done(&["segment", "remove", "staff", "ann@shop.example"]);
    done(&["run", "--drain"]);
    assert_eq!(members(), "bob");
    let listed = "email,from\nbob@shop.example,command\nnew@shop.example,command\n";
    assert_eq!(done(&["segment", "list", "staff", "--output", "csv"]), listed);
    for (args, says) in [
        (["segment", "add", "staff", "nobody"], "`nobody` is no email"),
        (["segment", "add", "staff", "user_id:ann"], "this list is of email, not of user_id"),
        (["segment", "add", "staf", "ann@shop.example"], "there is no segment `staf`; lists are staff"),
    ] {
        let ended = command(&args).output().expect("the program starts");
        let text = support::text_of(&ended);
        assert!(ended.status.code() == Some(1) && text.contains(says), "{text}");
    }

    let running = Running::start(command(&["run"]));
    eventually(
        "the program runs",
        || support::text_of(&command(&["status"]).output().expect("status")),
        |said| said.contains("running\n") && !said.contains("not running"),
    );
    let said =
        command(&["segment", "add", "staff", "cid@shop.example", "--output", "json"]).output().expect("an answer");
    let text = support::text_of(&said);
    assert!(text.contains(r#""changed":1,"people":1,"entered":1,"exited":0"#), "{text}");
    eventually("the tables follow", members, |now| now == "bob cid");
    drop(running);
}
