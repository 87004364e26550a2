//! `demo`: a small shop, start to finish, with no server.
//!
//! 1. a folder with the shop's pipeline (the one in `pipelines/shop`) and a month of made-up events (`shop`);
//! 2. a receiver for its webhooks (`receiver`);
//! 3. the engine itself, as `run --drain` wires it, into the local lake;
//! 4. what has come out, in the words of SQL that everybody can type (`story`).

mod receiver;
mod shop;
mod story;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;

use self::receiver::Receiver;
use self::shop::Shop;
use self::story::Story;
use super::output::print;
use super::run::{RunOptions, Session};
use super::{Exit, Failure, NodeConfig, progress, status};
use crate::clock;
use crate::definition::{self, Mode};
use crate::engine::{Outcome, SharedStatus, control};
use crate::query::Target;
use crate::telemetry;

#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Another seed makes other people, orders and mishaps
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// How many lines the shop sends
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(shop::EVENTS_MIN..=shop::EVENTS_MAX))]
    events: u64,
    /// Where pipeline, events and state are kept; replaced when a demo made it
    #[arg(long, value_name = "DIR", default_value = "tributary-demo")]
    keep: PathBuf,
}

/// Where state and lake live below the folder: the default, so that nothing has to be said when typing in it.
const DATA: &str = "tributary-data";
/// Says that the folder was made here and may be replaced.
const MARKER: &str = ".tributary-demo";
const SECRET: &str = "webhook-secret";
const EVENTS: &str = "data/events.ndjson";
const MAILS: &str = "mails.ndjson";

/// The files of the pipeline, as they ship. Its sample events are left out: the demo brings its own.
const PIPELINE: [(&str, &str); 9] = [
    ("shop.yaml", include_str!("../../pipelines/shop/shop.yaml")),
    ("traits.yaml", include_str!("../../pipelines/shop/traits.yaml")),
    ("segments.yaml", include_str!("../../pipelines/shop/segments.yaml")),
    ("activations.yaml", include_str!("../../pipelines/shop/activations.yaml")),
    ("campaigns.yaml", include_str!("../../pipelines/shop/campaigns.yaml")),
    ("data/catalogue.csv", include_str!("../../pipelines/shop/data/catalogue.csv")),
    ("data/staff.csv", include_str!("../../pipelines/shop/data/staff.csv")),
    ("schemas/events/checkout_started.avsc", include_str!("../../pipelines/shop/schemas/events/checkout_started.avsc")),
    ("schemas/events/product_ordered.avsc", include_str!("../../pipelines/shop/schemas/events/product_ordered.avsc")),
];

/// The receiver is out of order for so many requests.
const REFUSED_FIRST: u64 = 5;
/// Records of a batch: small, so that people are seen to change between commits as in a stream that is followed live.
const BATCH_RECORDS: usize = 1_000;

/// `tributary demo`.
pub async fn demo(config: &NodeConfig, options: DemoOptions) -> Result<Exit, Failure> {
    telemetry::init_logs("warn", config.log_format);
    let began = clock::instant();
    let folder = options.keep.as_path();
    let data = folder.join(DATA);
    let config = NodeConfig { data: data.display().to_string(), batch_records: BATCH_RECORDS, ..config.clone() };
    if status::running(&config).await.is_some() {
        return Err(Failure::environment(format!("a tributary is running in {}: stop it first", folder.display())));
    }
    clear(folder)?;

    let shop = Shop::new(options.seed, options.events);
    let secret = control::new_token().map_err(Failure::environment)?;
    let receiver = Receiver::start(&secret, REFUSED_FIRST).await.map_err(Failure::environment)?;
    write(folder, &shop, &receiver.url(), &secret)?;
    story::open(folder, options.seed, &shop.truth);

    let (pipeline, _) = definition::load(folder, Mode::Run).map_err(|findings| {
        let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Failure::fatal(format!("the shop's own pipeline has findings:\n{}", findings.join("\n")))
    })?;
    let status = SharedStatus::default();
    let (engine, input) = mpsc::channel(1024);
    let started = clock::instant();
    let session = Session::open(&config, false).await?;
    let run_options = RunOptions { drain: true, ..RunOptions::default() };
    let drawing = progress::draw(status.clone());
    let outcome = session.run(&pipeline, &config, &run_options, true, status.clone(), engine, input).await;
    drawing.finish();
    if outcome? == Outcome::Fenced {
        return Ok(Exit::TakenOver);
    }
    let took: Duration = started.elapsed();

    let story = Story {
        program: program(folder),
        folder,
        target: Target::Lake { root: config.data.clone() },
        segments: &pipeline.segments,
        totals: status.read().totals,
        truth: &shop.truth,
        received: receiver.received(),
        took,
        began,
    };
    let right = story.tell().await?;
    if !right {
        print("\nThese figures should be equal: this is a fault of Tributary. Please report it with the seed.");
        return Ok(Exit::Fatal);
    }
    Ok(Exit::Well)
}

/// Makes room. Only what a demo made is ever removed.
fn clear(folder: &Path) -> Result<(), Failure> {
    let shown = folder.display();
    let failed = |error: std::io::Error| Failure::environment(format!("{shown}: {error}"));
    let refused = |what: String| {
        let message = format!("{what}, and is left as it is; take another folder with --keep DIR");
        Failure { exit: Exit::Usage, message }
    };
    if std::fs::symlink_metadata(folder).is_err() {
        return std::fs::create_dir_all(folder).map_err(failed);
    }
    if !folder.is_dir() {
        return Err(refused(format!("{shown} is no folder")));
    }
    let mut files = Vec::new();
    files_below(folder, folder, &mut files).map_err(failed)?;
    if files.is_empty() {
        return Ok(());
    }
    if !files.iter().any(|file| file == Path::new(MARKER)) {
        return Err(refused(format!("{shown} was not made by a demo")));
    }
    let own = |file: &PathBuf| {
        let fixed = [MARKER, SECRET, EVENTS, MAILS];
        fixed.iter().chain(PIPELINE.iter().map(|(name, _)| name)).any(|known| file == Path::new(known))
    };
    if let Some(foreign) = files.iter().find(|file| !own(file)) {
        return Err(refused(format!("{shown} holds {}, which no demo has made", foreign.display())));
    }
    match std::fs::remove_dir_all(folder.join(DATA)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    files.iter().try_for_each(|file| std::fs::remove_file(folder.join(file))).map_err(failed)
}

/// All files but those of the state and the lake, by their paths below `root`.
fn files_below(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let below = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
        if path.is_dir() && !path.is_symlink() {
            if below != Path::new(DATA) {
                files_below(root, &path, found)?;
            }
        } else {
            found.push(below);
        }
    }
    Ok(())
}

fn write(folder: &Path, shop: &Shop, url: &str, secret: &str) -> Result<(), Failure> {
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, bytes));
        made.map_err(|error| Failure::environment(format!("{}: {error}", path.display())))
    };
    put(MARKER, b"Made by `tributary demo`, which replaces this folder when it runs again.\n")?;
    for (name, text) in PIPELINE {
        put(name, for_the_demo(name, text, url).as_bytes())?;
    }
    put(SECRET, format!("{secret}\n").as_bytes())?;
    put(EVENTS, &shop.lines)
}

/// The shipped text with what the environment would decide decided: files in, the lake out, webhooks to the receiver.
/// So the commands that the demo names work wherever they are typed.
fn for_the_demo(name: &str, text: &str, url: &str) -> String {
    match name {
        "shop.yaml" => {
            let text =
                without(text, "  site:\n", "\n# A small table").replace("    unless: \"${env:KAFKA_BROKERS:-}\"\n", "");
            let text = without(&text, "# Where the tables go", "")
                .replace("  site_files:", "  site:")
                .replace(" -C pipelines/shop", "");
            let text = text.replace("the files in data/, or from Kafka when KAFKA_BROKERS is set. Nothing\n# has to be mapped, the shape is known.", "the files in data/. Nothing has to be mapped, the\n# shape is known.");
            format!("{text}# Where the tables go: Parquet files beside the state.\nwarehouse: lake\n")
        }
        // There is no mail server: what would be mailed is written down.
        "campaigns.yaml" => {
            let before = text.split("  mail:\n").next().unwrap_or_default();
            let after = without(&text[before.len()..], "  mail:\n", "\nactivations:");
            format!("{before}  mail: {{ file: {{ path: {MAILS} }}, channel: email }}\n{after}")
        }
        "activations.yaml" => text
            .replace("${env:SHOP_WEBHOOK_URL:-http://127.0.0.1:8087/hook}", url)
            .replace("${env:SHOP_WEBHOOK_SECRET}", &format!("${{file:{SECRET}}}")),
        _ => text.to_string(),
    }
}

/// The text without the part from `from` up to `to`; to the end where `to` is empty.
fn without(text: &str, from: &str, to: &str) -> String {
    let Some(start) = text.find(from) else { return text.to_string() };
    let end = text[start..].find(to).filter(|_| !to.is_empty()).map_or(text.len(), |at| start + at);
    format!("{}{}", &text[..start], &text[end..])
}

/// How this program is called in that folder: by its name where a shell finds it, else by its path.
fn program(folder: &Path) -> String {
    let Ok(this) = std::env::current_exe() else { return "tributary".to_string() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let name = this.file_name().unwrap_or_default();
    let canonical = |path: PathBuf| path.canonicalize().ok();
    let first = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|found| found.is_file());
    if first.and_then(canonical) == canonical(this.clone()) {
        return name.to_string_lossy().into_owned();
    }
    // From a folder in the working folder, a program below the working folder is one step up and down again.
    let here = std::env::current_dir().unwrap_or_default();
    let mut parts = folder.components();
    match (this.strip_prefix(&here), parts.next(), parts.next()) {
        (Ok(below), Some(std::path::Component::Normal(_)), None) => format!("../{}", below.display()),
        _ => this.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_pipeline_asks_nothing_of_the_environment() {
        for (name, text) in PIPELINE {
            let text = for_the_demo(name, text, "http://127.0.0.1:1/hook");
            assert!(!text.contains("${env:"), "{name}:\n{text}");
            assert!(!text.to_lowercase().contains("kafka") && !text.contains("clickhouse"), "{name}:\n{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        let shop = Shop::new(1, 1_000);
        write(folder.path(), &shop, "http://127.0.0.1:1/hook", "secret").unwrap();
        let (pipeline, warnings) = definition::load(folder.path(), Mode::Run).unwrap();
        assert_eq!(warnings, []);
        assert!(pipeline.warehouse == definition::Warehouse::Lake);
        let names: Vec<&str> = pipeline.sources.iter().map(|source| &**source.name()).collect();
        assert_eq!(names, ["site"]);
    }

    #[test]
    fn only_what_a_demo_has_made_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("demo");
        let shop = Shop::new(1, 1_000);
        let make = || write(&folder, &shop, "http://127.0.0.1:1/hook", "secret").unwrap();
        clear(&folder).unwrap();
        make();
        std::fs::create_dir_all(folder.join(DATA).join("state")).unwrap();
        std::fs::write(folder.join(DATA).join("state/x"), "x").unwrap();
        clear(&folder).unwrap();
        assert!(!folder.join(DATA).exists() && !folder.join(EVENTS).exists());

        make();
        for foreign in ["notes.txt", "data/mine.ndjson", "schemas/events/mine.avsc"] {
            std::fs::write(folder.join(foreign), "mine").unwrap();
            let said = clear(&folder).unwrap_err();
            assert_eq!(said.exit, Exit::Usage);
            assert!(said.message.contains(foreign), "{}", said.message);
            assert!(folder.join(EVENTS).exists(), "nothing is removed");
            std::fs::remove_file(folder.join(foreign)).unwrap();
        }

        std::fs::remove_file(folder.join(MARKER)).unwrap();
        assert!(clear(&folder).unwrap_err().message.contains("was not made by a demo"));
        let file = parent.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        assert!(clear(&file).is_err());
    }
}
