use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;

use super::super::{SourcePlan, spawn};
use super::*;
use crate::decode::{DecodePlan, Format, Framing, SchemaOrigin};

/// A folder, a reader over it, and a clock that stands still until it is moved.
struct Bench {
    folder: tempfile::TempDir,
    plan: FilePlan,
    limits: ReadLimits,
    positions: Positions,
    schemas: Arc<Schemas>,
}

thread_local! {
    static NOW_US: AtomicI64 = const { AtomicI64::new(1_000_000_000) };
}

fn clock() -> TimeUs {
    NOW_US.with(|now| now.load(Ordering::Relaxed))
}

fn wait(us: i64) {
    NOW_US.with(|now| now.fetch_add(us, Ordering::Relaxed));
}

const CSV: FileFormat = FileFormat::Csv { delimiter: b',' };

fn bench(path: &str, format: FileFormat) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let plan = FilePlan { name: "archive".into(), path: path.into(), base: folder.path().into(), format };
    let avro = Format::Avro {
        framing: Framing::SingleObject,
        schemas: SchemaOrigin::Folder(folder.path().to_path_buf()),
        reader: None,
    };
    let decode = DecodePlan { source: "archive".into(), format: avro };
    let schemas = Arc::new(Schemas::open(&decode, None).unwrap());
    let limits = ReadLimits { until_end: true, ..ReadLimits::default() };
    Bench { folder, plan, limits, positions: Positions::new(), schemas }
}

impl Bench {
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    fn append(&self, name: &str, content: &str) {
        let path = self.folder.path().join(name);
        std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(content.as_bytes()).unwrap();
    }

    fn at(mut self, topic: &str, next: i64) -> Self {
        self.positions.insert((topic.to_string(), 0), super::super::Next::at(next));
        self
    }

    fn following(mut self) -> Self {
        self.limits.until_end = false;
        self
    }

    fn reader(&self) -> Reader {
        let schemas = Some(self.schemas.clone());
        Reader::new(self.plan.clone(), self.positions.clone(), self.limits, schemas, clock)
    }

    /// What a drain reads, as text.
    fn read(&self) -> String {
        pass(&mut self.reader())
    }

    fn start(&self) -> Result<super::super::SourceHandle, SourceError> {
        let plan = SourcePlan::File(self.plan.clone());
        spawn(&plan, self.positions.clone(), self.limits, Some(self.schemas.clone()))
    }
}

/// One pass; an event a line, records as `topic@row payload`.
fn pass(reader: &mut Reader) -> String {
    let mut events = Vec::new();
    let ended = reader.pass(&mut |event| {
        events.push(event);
        true
    });
    let mut text = String::new();
    for event in &events {
        match event {
            SourceEvent::Records(batch) => {
                for record in &batch.records {
                    let payload = String::from_utf8_lossy(batch.payload(record));
                    assert_eq!((record.timestamp, record.partition), (clock(), 0));
                    writeln!(text, "{}@{} {payload}", batch.topics[record.topic as usize], record.offset).unwrap();
                }
            }
            SourceEvent::Behind(..) | SourceEvent::AtEnd(..) => unreachable!("files have no partitions"),
            SourceEvent::Rejects(rejects) => {
                for reject in rejects {
                    let payload = String::from_utf8_lossy(&reject.payload);
                    let payload = payload.chars().take(60).collect::<String>();
                    let position = &reject.position;
                    writeln!(text, "{}@{} !{} {payload:?}", position.topic, position.offset, reject.code).unwrap();
                }
            }
            SourceEvent::CaughtUp => writeln!(text, "caught up").unwrap(),
            SourceEvent::Lag(_) => {}
            SourceEvent::Fatal(reason) => writeln!(text, "fatal: {reason}").unwrap(),
            SourceEvent::Unavailable(reason) => writeln!(text, "unavailable: {reason}").unwrap(),
            SourceEvent::Assigned(_) => writeln!(text, "assigned").unwrap(),
        }
    }
    assert_eq!(ended.is_err(), text.contains("fatal"));
    text
}

#[track_caller]
fn check(format: FileFormat, content: impl AsRef<[u8]>, expect: &str) {
    let bench = bench("f", format);
    bench.write("f", content);
    let expect: String = expect.lines().map(|line| format!("f@{}\n", line.trim())).collect();
    assert_eq!(bench.read(), format!("{expect}caught up\n"));
}

#[test]
fn ndjson_is_cut_at_newlines() {
    let check = |content: &str, expect| check(FileFormat::Ndjson, content, expect);
    check("", "");
    check("{}\n", "1 {}");
    check("{}", "1 {}");
    check("{\"a\":1}\n{\"a\":2}\n", "1 {\"a\":1}\n2 {\"a\":2}");
    check("{\"a\":1}\r\n{\"a\":2}\r\n", "1 {\"a\":1}\n2 {\"a\":2}");
    check("{\"a\":1}\n\n  \n{\"a\":2}", "1 {\"a\":1}\n4 {\"a\":2}");
    check("\u{feff}{}\n\u{feff}", "1 {}\n2 \u{feff}");
    check("not json\n", "1 not json");
}

#[test]
fn csv_rows_become_objects_of_strings_by_header() {
    let check = |content: &str, expect| check(CSV, content, expect);
    check("", "");
    check("a,b\n", "");
    check("a,b\n1,2\n", r#"1 {"a":"1","b":"2"}"#);
    check("a,b\r\n1,2\r\n3,\r\n", "1 {\"a\":\"1\",\"b\":\"2\"}\n2 {\"a\":\"3\",\"b\":\"\"}");
    check("\u{feff}a,b\n1,2", r#"1 {"a":"1","b":"2"}"#);
    check(
        "a,b\n\"x, \"\"y\"\"\",\"two\nlines\"\n\n3,4\n",
        "1 {\"a\":\"x, \\\"y\\\"\",\"b\":\"two\\nlines\"}\n2 {\"a\":\"3\",\"b\":\"4\"}",
    );
    // Every cell has a name, and no name is there twice.
    check("a,,a, b \n1,2,3,4\n", r#"1 {"a":"1","_2":"2","a_3":"3","b":"4"}"#);
    let tabs = bench("f", FileFormat::Csv { delimiter: b'\t' });
    tabs.write("f", "a\tb\n1,5\t2\n");
    assert_eq!(tabs.read(), "f@1 {\"a\":\"1,5\",\"b\":\"2\"}\ncaught up\n");
}

#[test]
fn bad_csv_rows_are_rejected_one_by_one_with_the_row_as_it_stands() {
    check(
        CSV,
        "a,b\r\n1,2\r\n3\r\n\r\n4,5,\"6\"\r\n7,8\r\n",
        "1 {\"a\":\"1\",\"b\":\"2\"}\n2 !csv_fields \"3\"\n3 !csv_fields \"4,5,\\\"6\\\"\"\n4 {\"a\":\"7\",\"b\":\"8\"}",
    );
    check(CSV, b"a\nM\xfcller\nM\xc3\xbcller\n", "1 !utf8 \"M\u{fffd}ller\"\n2 {\"a\":\"Müller\"}");
}

#[test]
fn a_row_that_is_too_long_is_rejected_alone() {
    let long = "x".repeat(rows::ROW_BYTES_MAX + 1);
    let kept = "x".repeat(60);
    check(FileFormat::Ndjson, format!("{{}}\n{long}\n{{}}\n"), &format!("1 {{}}\n2 !row_too_long {kept:?}\n3 {{}}"));
    // A stray quote swallows what follows, but not more than a row may hold.
    let lines = "1,2\n".repeat((17 << 20) / 4);
    let bench = bench("f.csv", CSV);
    bench.write("f.csv", format!("a,b\n\"oops,2\n{lines}"));
    let read = bench.read();
    assert!(read.starts_with("f.csv@1 !row_too_long \"\\\"oops,2\\n\"\nf.csv@2 {\"a\":\"1\",\"b\":\"2\"}\n"));
    assert_eq!(read.lines().count(), 1 + (17 << 20) / 4 + 1);
}

const SCHEMA: &str = r#"{"type":"record","name":"Order","fields":[{"name":"no","type":"long"}]}"#;

fn container(numbers: std::ops::Range<i64>) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(SCHEMA).unwrap();
    let mut writer = apache_avro::Writer::new(&schema, Vec::new()).unwrap();
    for no in numbers {
        writer.append_value(Value::Record(vec![("no".into(), Value::Long(no))])).unwrap();
        if no % 3 == 0 {
            writer.flush().unwrap();
        }
    }
    writer.into_inner().unwrap()
}

fn avro_numbers(bench: &Bench) -> Vec<(i64, i64)> {
    let schema = apache_avro::Schema::parse_str(SCHEMA).unwrap();
    let mut numbers = Vec::new();
    let ended = bench.reader().pass(&mut |event| {
        if let SourceEvent::Records(batch) = event {
            for record in &batch.records {
                let payload = batch.payload(record);
                let fingerprint = bench.schemas.register_local(SCHEMA_AS_WRITTEN.get().unwrap()).unwrap();
                assert_eq!(payload[..2], [0xC3, 0x01]);
                assert_eq!(payload[2..10], fingerprint.to_le_bytes());
                let reader = GenericDatumReader::builder(&schema).build().unwrap();
                let value = reader.read_value(&mut &payload[10..]).unwrap();
                let Value::Record(fields) = value else { panic!("{value:?}") };
                let Value::Long(no) = fields[0].1 else { panic!("{fields:?}") };
                numbers.push((record.offset, no));
            }
        }
        true
    });
    ended.unwrap();
    numbers
}

static SCHEMA_AS_WRITTEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();

#[test]
fn datums_of_a_container_become_single_objects_with_their_schema_registered() {
    let file = container(0..10);
    let header = crate::decode::ocf::Container::open(&file[..]).unwrap();
    SCHEMA_AS_WRITTEN.get_or_init(|| header.schema_json().to_string());
    let whole: Vec<_> = (0..10).map(|no| (no + 1, no)).collect();
    for next in 1..=11 {
        let bench = bench("data", FileFormat::Avro).at("data/f.avro", next);
        bench.write("data/f.avro", &file);
        assert_eq!(avro_numbers(&bench), whole[next as usize - 1..]);
    }
}

#[test]
fn a_container_that_is_none_is_one_reject() {
    check(FileFormat::Avro, "Obj", "1 !bad_container \"Obj\"");
    let bench = bench("f", FileFormat::Avro).at("f", 2);
    bench.write("f", "Obj");
    assert_eq!(bench.read(), "caught up\n");
}

#[test]
fn a_container_may_grow_and_its_last_block_may_be_half_there() {
    let file = container(0..10);
    let whole = bench("f", FileFormat::Avro);
    whole.write("f", &file);
    let expect = whole.read();
    let bench = bench("f", FileFormat::Avro).following();
    let mut reader = bench.reader();
    let mut read = String::new();
    for length in 0..=file.len() {
        bench.write("f", &file[..length]);
        read += &pass(&mut reader).replace("caught up\n", "");
    }
    assert_eq!(read + "caught up\n", expect);
}

/// For any file and any row, what comes before it and what is read on from it make up the whole.
#[test]
fn reading_goes_on_at_any_row() {
    let csv = "a,b\n1,2\nbad\n\"x\ny\",\"\"\n\n3,4\r\n5,6";
    let ndjson = "{}\n\n{\"a\":1}\r\nbad\n{\"b\":2}";
    for (format, content) in [(CSV, csv), (FileFormat::Ndjson, ndjson)] {
        let whole = {
            let bench = bench("f", format.clone());
            bench.write("f", content);
            bench.read()
        };
        for next in 1..=6 {
            let bench = bench("f", format.clone()).at("f", next);
            bench.write("f", content);
            let row = |line: &str| {
                line.strip_prefix("f@").and_then(|rest| rest.split(' ').next()?.parse::<i64>().ok()).unwrap_or(i64::MAX)
            };
            let rest: String = whole.lines().filter(|line| row(line) >= next).map(|line| format!("{line}\n")).collect();
            assert_eq!(bench.read(), rest, "{format:?} from {next}");
        }
    }
}

/// However the bytes of a file arrive, the rows are those of the whole file.
#[test]
fn a_file_that_grows_byte_by_byte_gives_the_same_rows() {
    let csv = "a,b\r\n1,2\nbad\n\"x\ny\",\"\"\n\n3,4\r\n5,6\n";
    let ndjson = "{}\n\n{\"a\":1}\r\nbad\n{\"b\":2}\n";
    for (format, content) in [(CSV, csv), (FileFormat::Ndjson, ndjson)] {
        let whole = bench("f", format.clone());
        whole.write("f", content);
        let expect = whole.read();
        let bench = bench("f", format).following();
        let mut reader = bench.reader();
        let mut read = String::new();
        for length in 0..=content.len() {
            bench.write("f", &content[..length]);
            read += &pass(&mut reader).replace("caught up\n", "");
        }
        assert_eq!(read + "caught up\n", expect);
    }
}

#[test]
fn an_unfinished_last_row_is_taken_once_it_has_not_grown_for_a_while() {
    for (format, start, more) in
        [(CSV, "a\n1\n2", "\n3\n"), (FileFormat::Ndjson, "1\n2", "\n3\n"), (FileFormat::Ndjson, "1\n2", "\r\n3\n")]
    {
        let bench = bench("f", format).following();
        bench.write("f", start);
        let mut reader = bench.reader();
        assert!(pass(&mut reader).ends_with("caught up\n"));
        wait(UNFINISHED_FOR_US - 1);
        assert_eq!(pass(&mut reader), "");
        wait(1);
        let taken = pass(&mut reader);
        assert!(taken.starts_with("f@2 ") && taken.lines().count() == 2, "{taken}");
        assert_eq!(pass(&mut reader), "");
        // Its newline, when it comes, is not a row.
        bench.append("f", more);
        assert!(pass(&mut reader).starts_with("f@3 "));
    }
}

#[test]
fn a_restart_does_not_stumble_over_an_unfinished_row_that_was_taken() {
    for (format, content) in [(CSV, "a\n1\n2"), (FileFormat::Ndjson, "1\n2")] {
        let bench = bench("f", format).at("f", 3).following();
        bench.write("f", content);
        let mut reader = bench.reader();
        assert_eq!(pass(&mut reader), "caught up\n");
        bench.append("f", "\n3\n");
        assert!(pass(&mut reader).starts_with("f@3 "));
    }
}

#[test]
fn new_files_and_new_rows_are_found_in_the_order_of_names() {
    let bench = bench("in", FileFormat::Ndjson).following();
    bench
        .write("in/b.ndjson", "1\n")
        .write("in/a.jsonl", "2\n")
        .write("in/c.csv", "x\n")
        .write("in/sub/d.ndjson", "3\n");
    let mut reader = bench.reader();
    assert_eq!(pass(&mut reader), "in/a.jsonl@1 2\nin/b.ndjson@1 1\ncaught up\n");
    assert_eq!(pass(&mut reader), "");
    bench.append("in/b.ndjson", "4\n");
    bench.write("in/aa.ndjson", "5\n");
    assert_eq!(pass(&mut reader), "in/aa.ndjson@1 5\nin/b.ndjson@2 4\ncaught up\n");
}

#[test]
fn a_glob_and_a_folder_whose_name_looks_like_one() {
    let glob = bench("in/*-2025.csv", CSV);
    glob.write("in/b-2025.csv", "x\n1\n").write("in/a-2025.csv", "x\n2\n").write("in/a-2024.csv", "x\n3\n");
    assert_eq!(glob.read(), "in/a-2025.csv@1 {\"x\":\"2\"}\nin/b-2025.csv@1 {\"x\":\"1\"}\ncaught up\n");
    let literal = bench("in[1]/f.csv", CSV);
    literal.write("in[1]/f.csv", "x\n1\n");
    assert_eq!(literal.read(), "in[1]/f.csv@1 {\"x\":\"1\"}\ncaught up\n");
}

#[test]
fn batches_keep_within_their_limits_and_rows_in_order() {
    let mut bench = bench("f", CSV);
    let rows: String = (1..=1000).map(|n| if n % 7 == 0 { "x\n".to_string() } else { format!("{n},\n") }).collect();
    bench.write("f", format!("a,b\n{rows}"));
    bench.limits.max_records = 10;
    let mut positions = Vec::new();
    let ended = bench.reader().pass(&mut |event| {
        match event {
            SourceEvent::Records(batch) => {
                assert!(batch.records.len() <= 10);
                positions.extend(batch.records.iter().map(|record| record.offset));
            }
            SourceEvent::Rejects(rejects) => positions.extend(rejects.iter().map(|reject| reject.position.offset)),
            _ => {}
        }
        true
    });
    assert!(ended.is_ok());
    assert_eq!(positions, (1..=1000).collect::<Vec<i64>>());
}

#[test]
fn a_file_that_was_replaced_by_a_shorter_one_stops_the_source() {
    let replaced = bench("f", FileFormat::Ndjson).at("f", 9);
    replaced.write("f", "1\n2\n");
    assert!(replaced.read().contains("fatal: source archive: f has 2 rows, but 8 have been read before"));
    let shrunk = bench("f", CSV).following();
    shrunk.write("f", "a\n1\n2\n");
    let mut reader = shrunk.reader();
    pass(&mut reader);
    shrunk.write("f", "a\n");
    assert!(pass(&mut reader).contains("fatal: source archive: f has shrunk: 2 rows"));
}

#[test]
fn a_topic_is_the_path_from_the_base() {
    for (base, file, topic) in [
        ("/p", "/p/data/f.csv", "data/f.csv"),
        ("/p", "/p/./data/f.csv", "data/f.csv"),
        ("/p", "/p/../q/f.csv", "../q/f.csv"),
        ("/p", "/q/f.csv", "/q/f.csv"),
        (".", "./data/f.csv", "data/f.csv"),
        ("p", "p/f.csv", "f.csv"),
    ] {
        assert_eq!(topic_of(Path::new(base), Path::new(file)), topic, "{base} {file}");
    }
}

#[test]
fn what_is_missing_is_said_at_the_start_with_what_is_there() {
    let bench = bench("data/order.csv", CSV);
    bench.write("data/orders.csv", "x").write("data/z.csv", "x");
    let error = bench.start().unwrap_err().to_string();
    assert!(error.starts_with("source archive: data/order.csv does not exist; in "), "{error}");
    assert!(error.ends_with("data there is: orders.csv, z.csv"), "{error}");

    let mut glob = self::bench("date/*.csv", CSV);
    glob.write("data/orders.csv", "x");
    let error = glob.start().unwrap_err().to_string();
    assert!(error.contains("date/*.csv does not exist") && error.ends_with("there is: data/"), "{error}");
    // In a folder that is there, files may still come; but not for one who reads to the end only.
    glob.plan.path = "data/*.tsv".into();
    assert!(glob.start().is_err());
    let mut reader = glob.following();
    assert!(reader.start().is_ok());
    reader.plan.path = "data".into();
    assert!(reader.start().is_ok());
}

#[test]
fn a_running_source_says_it_is_caught_up_until_it_is_stopped() {
    let bench = bench("f", FileFormat::Ndjson);
    bench.write("f", "{}\n");
    let mut handle = bench.start().unwrap();
    let mut said = 0;
    let mut rows = 0;
    while said < 2 {
        match handle.events.blocking_recv().unwrap() {
            SourceEvent::Records(batch) => rows += batch.records.len(),
            SourceEvent::CaughtUp => said += 1,
            _ => {}
        }
    }
    assert_eq!(rows, 1);
    let super::super::SourceHandle { mut events, control, .. } = handle;
    drop(control);
    while events.blocking_recv().is_some() {}
}
