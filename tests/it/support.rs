//! What the tests share: the servers, the program as a child process, questions to ClickHouse.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The servers' addresses.
pub struct Servers {
    dir: PathBuf,
    pub kafka: String,
    pub clickhouse: String,
    pub registry: String,
    /// One that takes mail as it comes, and one that wants STARTTLS and a password.
    pub smtp: String,
    pub smtp_tls: String,
    /// Where its `messages.ndjson` and `ca.pem` are.
    pub smtp_folder: PathBuf,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(args: &[&str]) -> BTreeMap<String, String> {
    let output = Command::new(root().join("tests/support/servers"))
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .expect("tests/support/servers can be started");
    assert!(output.status.success(), "tests/support/servers {args:?} failed, see above");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

impl Servers {
    /// Brings up servers of one's own. They go down when this process is gone, however it ends.
    pub fn up(names: &[&str]) -> Servers {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tributary-it-{}-{count}", std::process::id()));
        let dir_text = dir.to_str().expect("utf-8").to_string();
        let mut args = vec!["up", dir_text.as_str()];
        args.extend(names);
        let addresses = script(&args);
        let watch = format!(
            "while kill -0 {} 2>/dev/null; do sleep 1; done; '{}' down '{dir_text}'",
            std::process::id(),
            root().join("tests/support/servers").display()
        );
        let quiet = Stdio::null;
        Command::new("sh").arg("-c").arg(watch).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().expect("sh");
        let address = |key: &str| addresses.get(key).cloned().unwrap_or_default();
        Servers {
            dir,
            kafka: address("KAFKA_BROKERS"),
            clickhouse: address("CLICKHOUSE_URL"),
            registry: address("SCHEMA_REGISTRY_URL"),
            smtp: address("SMTP_URL"),
            smtp_tls: address("SMTP_TLS_URL"),
            smtp_folder: address("SMTP_FOLDER").into(),
        }
    }

    pub fn stop(&self, name: &str) {
        script(&["stop", self.dir.to_str().expect("utf-8"), name, "--kill"]);
    }

    pub fn start(&self, name: &str) {
        script(&["start", self.dir.to_str().expect("utf-8"), name]);
    }

    pub fn down(&self) {
        script(&["down", self.dir.to_str().expect("utf-8")]);
    }
}

/// The servers that all tests share; never stopped or disturbed by one.
pub fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| Servers::up(&["kafka", "clickhouse", "registry"]))
}

/// Python with DuckDB, pandas, psycopg and SQLAlchemy, and the program as `tributary`.
pub fn python(script: &str) -> Command {
    static PATH: OnceLock<String> = OnceLock::new();
    let path = PATH.get_or_init(|| script_line("PYTHONPATH"));
    let mut command = Command::new("python3");
    command.args(["-c", script]).env("PYTHONPATH", path).env("TRIBUTARY_LOG", "warn");
    let program = Path::new(env!("CARGO_BIN_EXE_tributary")).parent().expect("a folder").to_path_buf();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(program).chain(std::env::split_paths(&others));
    command.env("PATH", std::env::join_paths(all).expect("paths"));
    for name in ["KAFKA_BROKERS", "CLICKHOUSE_URL", "SCHEMA_REGISTRY_URL"] {
        command.env_remove(name);
    }
    command
}

fn script_line(key: &str) -> String {
    script(&["python"]).remove(key).expect("tests/support/servers python prints it")
}

/// The program, in an environment that names no server. Logs only warnings.
pub fn tributary(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    for name in ["KAFKA_BROKERS", "CLICKHOUSE_URL", "CLICKHOUSE_DATABASE", "SCHEMA_REGISTRY_URL", "CLICKHOUSE_USER"] {
        command.env_remove(name);
    }
    command.env("TRIBUTARY_LISTEN", "127.0.0.1:0").env("TRIBUTARY_LOG", "warn").args(args).current_dir(root());
    command
}

/// Runs to the end, which must be good, and gives what was printed.
pub fn output_of(mut command: Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?} ended with {:?}\n{}", output.status, text_of(&output));
    String::from_utf8(output.stdout).expect("text")
}

pub fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A copy of a shipped pipeline that a test may change.
pub fn copy_pipeline(name: &str, to: &Path, replace: &[(&str, &str)]) -> PathBuf {
    let target = to.join(name);
    copy_folder(&root().join("pipelines").join(name), &target, replace);
    target
}

fn copy_folder(from: &Path, to: &Path, replace: &[(&str, &str)]) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("folder") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("name"));
        if path.is_dir() {
            copy_folder(&path, &target, replace);
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            let mut text = std::fs::read_to_string(&path).expect("text");
            for (old, new) in replace {
                text = text.replace(old, new);
            }
            std::fs::write(target, text).expect("file");
        } else {
            std::fs::copy(path, target).expect("file");
        }
    }
}

/// Asks ClickHouse directly, past the program: tab-separated lines.
pub fn clickhouse(url: &str, database: &str, sql: &str) -> String {
    let url = format!("{url}/?database={database}");
    let sql = sql.to_string();
    block_on(async move {
        let client = reqwest::Client::builder().no_proxy().build().expect("client");
        let response = client.post(url).body(sql.clone()).send().await.expect("ClickHouse answers");
        let status = response.status();
        let text = response.text().await.expect("text");
        assert!(status.is_success(), "{sql}\n{text}");
        text.trim_end().to_string()
    })
}

/// On a thread of its own, so that it can be called from anywhere.
pub fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let _ = rustls::crypto::ring::default_provider().install_default();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(future)
    })
    .join()
    .expect("the future ends well")
}

/// A child that is killed when the test is done with it.
pub struct Running(pub Child);

impl Running {
    pub fn start(mut command: Command) -> Running {
        Running(command.spawn().expect("the program starts"))
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks until the answer is as wanted; fails with the last answer after a bounded time.
pub fn eventually<T: std::fmt::Debug>(what: &str, mut ask: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let mut last = ask();
    for _ in 0..600 {
        if wanted(&last) {
            return last;
        }
        std::thread::sleep(Duration::from_millis(100));
        last = ask();
    }
    panic!("{what}: did not come true within a minute; last: {last:?}");
}

/// A name that no other test uses.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
