//! The files of list segments.

use super::*;
use crate::segment::SegmentRule;

const PIPELINE: &str = "identity:
  identifiers: [user_id, { email: { normalize: email, block: [info@x.example] } }]
segments:
";

/// With these segments and files.
#[track_caller]
fn said(segments: &str, files: &[(&str, &str)], expect: &str) {
    let text = format!("{PIPELINE}{segments}");
    let mut all = vec![SOURCE, ("b.yaml", &text)];
    all.extend(files);
    check(&all, expect);
}

fn loaded(segments: &str, files: &[(&str, &str)]) -> Pipeline {
    let text = format!("{PIPELINE}{segments}");
    let mut all = vec![SOURCE, ("b.yaml", &text)];
    all.extend(files);
    load_files(&all, Mode::Check).unwrap().0
}

fn values(pipeline: &Pipeline) -> Vec<&str> {
    let SegmentRule::List(list) = &pipeline.segments[0].rule else { panic!("no list") };
    let identity = &pipeline.identity;
    assert!(list.identifiers.iter().all(|(hash, value)| *hash == identity.identifier_hash(list.kind, value)));
    let mut values: Vec<&str> = list.identifiers.values().map(AsRef::as_ref).collect();
    values.sort_unstable();
    values
}

#[test]
fn the_values_of_a_file_are_normalised() {
    let csv = "  a: { list: data/a.csv, match: email }\n";
    let text = "  a: { list: data/a.txt, match: user_id }\n";
    let cases: [(&str, &str, &str, &[&str]); 6] = [
        (csv, "data/a.csv", "name,email\nA,A@x.example\nB, b@x.example \n", &["a@x.example", "b@x.example"]),
        (csv, "data/a.csv", "\u{feff}email\r\n\"a@x.example\"\r\n\r\na@X.example\r\n", &["a@x.example"]),
        (csv, "data/a.csv", "whoever\na@x.example\n", &["a@x.example"]),
        (csv, "data/a.csv", "email\n", &[]),
        (text, "data/a.txt", " u1\n\nu2,x\n", &["u1", "u2,x"]),
        (text, "data/a.txt", "", &[]),
    ];
    for (segments, name, file, expect) in cases {
        assert_eq!(values(&loaded(segments, &[(name, file)])), expect, "{file:?}");
    }
}

#[test]
fn a_list_is_another_when_its_values_are() {
    let version = |segments: &str, file: &str| loaded(segments, &[("a.txt", file)]).segments[0].version;
    let emails = "  a: { list: a.txt, match: email }\n";
    let base = version(emails, "a@x.example\nb@x.example\n");
    assert_eq!(base, version(emails, "B@x.example\n\na@x.example"), "the order and the spelling do not matter");
    assert_ne!(base, version(emails, "a@x.example\n"));
    assert_ne!(base, version("  a: { list: a.txt, match: user_id }\n", "a@x.example\nb@x.example\n"));
}

#[test]
fn lines_that_are_no_value_are_warned_of() {
    said(
        "  a: { list: data/a.csv, match: email }\n",
        &[("data/a.csv", "id,email\n1,a@x.example\n2,nobody\n3,\n4,Info@x.example\n")],
        "warning: this is no email: the line is left out
 --> data/a.csv:3:1
  |
3 | nobody
  | ^^^^^^
warning: this email stands for nobody: the line is left out
 --> data/a.csv:5:1
  |
5 | Info@x.example
  | ^^^^^^^^^^^^^^",
    );
    said(
        "  a: { list: a.csv, match: email }\n",
        &[("a.csv", "a@x.example\nb@x.example\n")],
        "warning: a CSV begins with the names of its columns, and this looks like a email
 --> a.csv:1:1
  |
1 | a@x.example
  | ^^^^^^^^^^^",
    );
    let many = "no\n".repeat(30);
    let text = format!("{PIPELINE}  a: {{ list: a.txt, match: email }}\n");
    let (_, warnings) = load_files(&[SOURCE, ("b.yaml", &text), ("a.txt", &many)], Mode::Check).unwrap();
    assert_eq!(warnings.matches("this is no email").count(), 20);
    assert!(warnings.contains("10 more lines of this list are no email and left out"), "{warnings}");
}

#[test]
fn a_list_that_cannot_be_is_an_error() {
    let csv = [("a.csv", "id,mail\n1,a@x.example\n")];
    for (segment, place, message) in [
        ("{ list: a.csv, match: email }", "b.yaml:4:14", "PIPELINE/a.csv has no column `email`, only id, mail"),
        ("{ list: b.csv, match: email }", "b.yaml:4:14", "PIPELINE/b.csv cannot be read: No such file"),
        ("{ list: a.csv, match: emial }", "b.yaml:4:28", "there is no identifier type `emial`"),
        ("{ list: a.csv }", "b.yaml:4:3", "segment `a` needs `match`"),
        ("{ match: email }", "b.yaml:4:3", "segment `a` needs one of `sample` and `list`"),
        ("{ sample: 10%, match: email }", "b.yaml:4:21", "`match` goes with `list`"),
        ("{ sample: 10%, list: a.csv }", "b.yaml:4:21", "segment `a` has both `sample` and `list`"),
    ] {
        let text = format!("{PIPELINE}  a: {segment}\n");
        let mut files = vec![SOURCE, ("b.yaml", text.as_str())];
        files.extend(csv);
        let said = load_files(&files, Mode::Check).expect_err(segment);
        let first = said.replace("error: ", "");
        let message = message.replace("PIPELINE/", "");
        assert!(first.contains(&message) && said.contains(place), "{segment}\n{said}");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
    }
}
