//! Pictures of analyses: those in the documentation are what the program draws, and they say what the answers say.
//!
//! `UPDATE_CHARTS=1 cargo test --test it -- charts` draws them anew, where a definition or the drawing has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use resvg::tiny_skia::Pixmap;
use resvg::usvg::roxmltree::Document;

use crate::support::{copy_pipeline, output_of, root, text_of, tributary};

/// A pipeline that has run into the lake.
struct Lake {
    folder: tempfile::TempDir,
    pipeline: PathBuf,
}

impl Lake {
    fn run(make: impl FnOnce(&Path) -> PathBuf) -> Lake {
        let folder = tempfile::tempdir().expect("folder");
        let pipeline = make(folder.path());
        let lake = Lake { folder, pipeline };
        output_of(lake.command(&["run", "--drain", "--no-send"]));
        lake
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = tributary(args);
        command.arg("-C").arg(&self.pipeline).arg("--data").arg(self.folder.path().join("data"));
        command.env("SHOP_WEBHOOK_SECRET", "whsec_c2hvcA==");
        command
    }

    /// The answer, and its picture as SVG and PNG.
    fn draw(&self, name: &str, more: &[&str]) -> (Vec<BTreeMap<String, String>>, String, Pixmap) {
        let file = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        let mut answer = String::new();
        for ending in ["svg", "png"] {
            let path = file(ending);
            let args = [&["analyze", name, "--output", "csv", "--chart", path.to_str().expect("utf-8")], more].concat();
            answer = output_of(self.command(&args));
        }
        let svg = std::fs::read_to_string(file("svg")).expect("an SVG");
        let png = Pixmap::decode_png(&std::fs::read(file("png")).expect("a file")).expect("a PNG");
        let mut reader = csv::Reader::from_reader(answer.as_bytes());
        (reader.deserialize().map(|row| row.expect("a row")).collect(), svg, png)
    }
}

fn shop() -> Lake {
    Lake::run(|folder| copy_pipeline("shop", folder, &[]))
}

fn cdnow() -> Lake {
    Lake::run(|folder| {
        let file = root().join("tests/data/cdnow_master.csv");
        copy_pipeline("cdnow", folder, &[("../../tests/data/cdnow_master.csv", file.to_str().expect("utf-8"))])
    })
}

fn texts(svg: &str) -> Vec<String> {
    let document = Document::parse(svg).expect("XML");
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    texts.map(|node| node.text().unwrap_or_default().trim().to_string()).collect()
}

/// 1234 → 1,234.
fn grouped(number: &str) -> String {
    let mut out = String::new();
    for (place, digit) in number.chars().enumerate() {
        if place > 0 && (number.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn people(number: &str) -> String {
    format!("{} {}", grouped(number), if number == "1" { "person" } else { "people" })
}

/// The picture in the documentation is the one drawn now.
fn is_documented(name: &str, svg: &str) {
    let path = root().join(format!("docs/charts/{name}.svg"));
    if std::env::var_os("UPDATE_CHARTS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        std::fs::write(&path, svg).expect("file");
    }
    let documented = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(documented == svg, "{} is another picture: UPDATE_CHARTS=1 draws it anew", path.display());
    let docs = std::fs::read_to_string(root().join("docs/analytics.md")).expect("docs");
    assert!(docs.contains(&format!("(charts/{name}.svg)")), "docs/analytics.md does not show {name}");
}

fn is_drawn(png: &Pixmap, svg: &str) {
    let document = Document::parse(svg).expect("XML");
    let size =
        |name| document.root_element().attribute(name).and_then(|text| text.parse::<u32>().ok()).expect("a size");
    assert_eq!((png.width(), png.height()), (size("width") * 2, size("height") * 2));
    assert!(size("width") == 960 && size("height") >= 150);
    let dark = png.pixels().iter().filter(|point| point.red() < 100).count();
    assert!(dark > 1_000, "{dark} dark points");
}

#[test]
fn pictures_of_the_shop_say_what_its_answers_say() {
    let lake = shop();
    for name in ["checkout", "revenue", "channels", "before_orders", "next_steps"] {
        let (answer, svg, png) = lake.draw(name, &[]);
        is_documented(name, &svg);
        is_drawn(&png, &svg);
        let texts = texts(&svg);
        let has = |part: &str| assert!(texts.iter().any(|text| text.contains(part)), "{name}: no {part} in {texts:?}");
        assert!(!answer.is_empty());
        has(name);
        for row in &answer {
            match name {
                "checkout" => {
                    has(&format!("{}. {}", row["step"], row["name"]));
                    has(&people(&row["people"]));
                }
                "channels" => {
                    has(if row["channel"].is_empty() { "(none)" } else { &row["channel"] });
                    has(&row["model"]);
                }
                "next_steps" => {
                    has(&row["event"]);
                    has(if row["next_event"].is_empty() { "(nothing)" } else { &row["next_event"] });
                }
                "before_orders" => has(&people(&row["people"])),
                _ => {}
            }
        }
        if name == "revenue" {
            for part in ["orders (events)", "buyers (people)", "revenue", "median_order", "per_buyer", "day (UTC)"] {
                has(part);
            }
        }
    }
    // Told apart, by time, without events; a picture beside the table on a terminal has lines of text.
    let (_, svg, _) = lake.draw("revenue", &["--by", "context.campaign.source"]);
    assert!(texts(&svg).iter().any(|text| text.contains("by context.campaign.source")));
    let (answer, svg, png) = lake.draw("revenue", &["--from", "2030-01-01"]);
    is_drawn(&png, &svg);
    assert!(answer.is_empty() && texts(&svg).iter().any(|text| text == "no events in this range"));
    let table = output_of(lake.command(&["analyze", "revenue", "--output", "table"]));
    let spark = table.lines().find(|line| line.contains("per_buyer") && line.contains('█'));
    assert!(spark.is_some(), "{table}");
}

#[test]
fn pictures_of_cdnow_say_what_its_answers_say() {
    let lake = cdnow();
    for name in ["cohorts", "months", "again", "odd_days", "shared", "what_makes_loyal", "sizes", "moves"] {
        let more: &[&str] = if name == "moves" { &["--from", "1997-04-01"] } else { &[] };
        let (answer, svg, png) = lake.draw(name, more);
        // The log is in order of customers, so everyone enters a segment at its end: no picture to show.
        if !["sizes", "moves"].contains(&name) {
            is_documented(name, &svg);
        }
        is_drawn(&png, &svg);
        let texts = texts(&svg);
        let count = |text: &str| texts.iter().filter(|known| *known == text).count();
        if name == "cohorts" {
            // Each cell is there: as many of each percentage as the answer has.
            let mut shares: BTreeMap<String, usize> = BTreeMap::new();
            for row in &answer {
                let share = row["share"].parse::<f64>().expect("a share") * 100.0;
                let text = if share >= 9.95 || share == 0.0 { format!("{share:.0}%") } else { format!("{share:.1}%") };
                *shares.entry(text.replace(".0%", "%")).or_default() += 1;
                assert!(count(&grouped(&row["people"])) >= 1, "{row:?}");
            }
            assert!(shares.len() > 20);
            for (share, times) in shares {
                assert_eq!(count(&share), times, "{share}");
            }
            assert!(count("Jan 1997") == 1 && count("Mar 1997") == 1);
        }
        let has = |part: &str| assert!(texts.iter().any(|text| text.contains(part)), "{name}: no {part} in {texts:?}");
        for row in &answer {
            match name {
                "shared" => [&row["segment"], &row["other_segment"]].into_iter().for_each(|segment| has(segment)),
                "sizes" => has(&row["segment"]),
                "what_makes_loyal" => has(&people(&row["people"])),
                "odd_days" if !row["anomaly"].is_empty() => has(&row["anomaly"]),
                _ => {}
            }
        }
        if name == "months" {
            let document = Document::parse(&svg).expect("XML");
            let lines = document.descendants().filter(|node| node.has_tag_name("polyline"));
            let full =
                lines.filter(|node| node.attribute("points").is_some_and(|p| p.split_whitespace().count() == 18));
            assert_eq!(full.count(), 5, "a line through 18 months for each measure");
        }
    }
}

#[test]
fn what_cannot_be_drawn_is_said_before_anything_is_asked() {
    let lake = shop();
    let failed = |args: &[&str], code: i32, part: &str| {
        let output = lake.command(args).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(code), "{}", text_of(&output));
        assert!(text_of(&output).contains(part), "{}", text_of(&output));
    };
    failed(&["analyze", "checkout", "--chart", "checkout.pdf"], 1, "let the name end in .svg or .png");
    failed(&["analyze", "checkout", "--chart", "/no/such/folder/checkout.svg"], 3, "in a folder that can be written");
    failed(&["analyze", "--chart", "checkout.svg"], 2, "NAME");
    failed(&["analyze", "checkout", "--sql", "--chart", "checkout.svg"], 2, "--chart");
}
