//! Clients of PostgreSQL's protocol, in builds with `serve-sql`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use super::*;

/// `serve-sql`, killed with the test.
struct Serving {
    child: Child,
    port: u16,
}

impl Serving {
    fn start(mut command: Command) -> Serving {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let line = lines
            .find(|line| line.as_ref().map_or(true, |line| line.contains("psql -h")))
            .expect("a line")
            .expect("text");
        let port = line.split_once(" -p ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok()).expect("a port");
        // What it says later has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Serving { child, port }
    }

    /// By SIGTERM; it ends well and soon.
    fn stop(mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill");
        assert!(asked.success());
        assert!(self.child.wait().expect("an end").success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What clients do: PORT and the Python of the page come before.
const CLIENT: &str = r#"
import concurrent.futures, socket
address = f"host=127.0.0.1 port={PORT} user=analyst dbname=tributary"

db = psycopg.connect(address, autocommit=True)

# Every table and view, row by row.
rows = 0
for name in names:
    cursor = db.execute(f'SELECT * FROM "{name}"')
    columns = [column.name for column in cursor.description]
    found = cursor.fetchall()
    assert len(found) == len(ours(f'SELECT * FROM "{name}"')), name
    # A map comes as the text of its JSON.
    maps = [place for place, column in enumerate(columns) if column == "identifiers"]
    rows += same(name, columns, [[json.loads(value) if place in maps and value else value for place, value in enumerate(row)] for row in found])
print("ROWS", rows)

# ClickHouse's functions and forms, by either protocol.
funnel = """SELECT level, count(*) AS people FROM (SELECT profile_id, windowFunnel(86400)(toDateTime(timestamp),
  event = 'Product Viewed', event = 'Product Added', event = 'Order Completed') AS level
  FROM events WHERE profile_id IS NOT NULL GROUP BY profile_id) AS funnel GROUP BY level ORDER BY level"""
counted = "SELECT countIf(event = 'Order Completed') AS orders, uniq(profile_id) AS people FROM current_events"
for sql in (funnel, counted):
    expected = [tuple(row.values()) for row in ours(sql)]
    assert db.execute(sql).fetchall() == expected, sql
    assert db.execute(sql, prepare=True).fetchall() == expected, sql
    assert psycopg.ClientCursor(db).execute(sql).fetchall() == expected, sql

# Prepared, with parameters of several types, also in binary.
sql = "SELECT count(*) FROM current_events WHERE event = %s AND timestamp >= %s"
import datetime
since = datetime.datetime(2026, 3, 2, tzinfo=datetime.timezone.utc)
for binary in (False, True):
    for event in ("Order Completed", "Product Viewed", "it's none"):
        found = db.execute(sql, [event, since], prepare=True, binary=binary).fetchone()[0]
        text = event.replace("'", "''")
        assert found == ours(f"SELECT count(*) AS n FROM current_events WHERE event = '{text}' AND timestamp >= TIMESTAMP '2026-03-02T00:00:00Z'")[0]["n"]
assert db.execute("SELECT count(*) FROM current_profiles WHERE orders >= %s", [2]).fetchone()[0] == ours("SELECT count(*) AS n FROM current_profiles WHERE orders >= 2")[0]["n"]

# What tools ask when they connect.
for sql in (
    "SELECT version()", "SELECT current_database(), current_schema()", "SHOW server_version", "SET application_name = 'tool'", "SET extra_float_digits = 3",
    "SELECT n.nspname, c.relname, c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v') AND n.nspname = 'public'",
    "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid WHERE c.relname = 'events' AND a.attnum > 0",
    "SELECT t.oid, t.typname FROM pg_catalog.pg_type t WHERE t.typname = 'text'",
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
    "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'events'",
):
    result = db.execute(sql)
    if not sql.startswith("SET"): assert result.fetchall(), sql
# psql's \d, word for word.
listed = db.execute("""SELECT n.nspname as "Schema", c.relname as "Name",
  CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence' WHEN 't' THEN 'TOAST table' WHEN 'f' THEN 'foreign table' WHEN 'p' THEN 'partitioned table' WHEN 'I' THEN 'partitioned index' END as "Type",
  pg_catalog.pg_get_userbyid(c.relowner) as "Owner"
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
WHERE c.relkind IN ('r','p','v','m','S','f','') AND n.nspname <> 'pg_catalog' AND n.nspname !~ '^pg_toast' AND n.nspname <> 'information_schema'
  AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1,2""").fetchall()
missing = set(names) - {row[1] for row in listed}
assert not missing, f"\\d does not list {missing}: {listed}"

# Nothing is written, and an error leaves the connection as it was.
before = ours("SELECT count(*) AS n FROM events")
for sql in ("INSERT INTO events SELECT * FROM events", "CREATE TABLE mine (x INT)", "CREATE TABLE mine AS SELECT 1", "DROP TABLE events", "DELETE FROM events",
            "UPDATE events SET event = 'x'", "COPY (SELECT 1) TO '/tmp/mine.csv'", "TRUNCATE events", "CREATE VIEW mine AS SELECT 1", "ALTER TABLE events ADD COLUMN x INT",
            "SELECT 1 INTO mine", "EXPLAIN ANALYZE INSERT INTO events SELECT * FROM events",
            "CREATE EXTERNAL TABLE mine STORED AS CSV LOCATION '/etc/passwd'", "DECLARE c CURSOR FOR SELECT 1 INTO mine"):
    for ask in (db.execute, psycopg.ClientCursor(db).execute):
        try:
            ask(sql)
        except psycopg.Error as error:
            said = str(error)
        else:
            raise AssertionError(f"{sql} was taken")
        if sql.startswith(("INSERT", "DROP", "CREATE TABLE", "COPY", "DELETE")): assert "read only" in said, f"{sql}: {said}"
        assert db.execute("SELECT 1").fetchone() == (1,)
assert ours("SELECT count(*) AS n FROM events") == before
for sql, part in (("SELECT evnt FROM events", "did you mean"), ("SELECT * FROM evnts", "did you mean events"), ("SELEC 1", ""), ("SELECT 'a' / 0 FROM events", "")):
    try:
        db.execute(sql).fetchall()
    except psycopg.Error as error:
        assert part in str(error), f"{sql}: {error}"
    else:
        raise AssertionError(sql)
    assert db.execute("SELECT 1").fetchone() == (1,)

# A transaction, a cursor, many at once, some of them broken.
with psycopg.connect(address) as other:
    other.execute("SELECT 1"); other.commit(); other.execute("SELECT 2"); other.rollback()
for _ in range(5):
    with socket.create_connection(("127.0.0.1", PORT)) as wild: wild.sendall(b"\x00\x00\xff\xffnonsense that is no message")
half = socket.create_connection(("127.0.0.1", PORT)); half.sendall(b"\x00\x00")
LEAST = (0, 13, 15)
def many(number):
    with psycopg.connect(address, autocommit=True) as one:
        return [one.execute("SELECT count(*) FROM current_events WHERE length(event) > %s", [LEAST[number % 3]]).fetchone()[0] for _ in range(5)]
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    answers = list(pool.map(many, range(60)))
expected = [ours(f"SELECT count(*) AS n FROM current_events WHERE length(event) > {least}")[0]["n"] for least in LEAST]
assert answers == [[expected[number % 3]] * 5 for number in range(60)]
print("WELL")
"#;

#[test]
fn clients_of_postgres_get_what_query_gives_and_can_change_nothing() {
    let shop = Shop::run();
    let serving = Serving::start(shop.command(&["serve-sql", "--listen", "127.0.0.1:0"]));
    // The page's lines, at the port that was free.
    let code = documented("## BI tools").replace("port=5433", &format!("port={}", serving.port));
    let script = format!("PORT = {}\n{code}\n{COMPARE}\n{CLIENT}", serving.port);
    let lines = shop.python(&script);
    assert_eq!(lines.last().map(String::as_str), Some("WELL"), "{lines:?}");
    let members = shop.query("SELECT count(*) FROM segment_members WHERE segment = 'customers'");
    assert_eq!(lines.first().map(String::as_str), members.lines().nth(1), "{lines:?}");
    serving.stop();
}

/// What Superset and others find the tables with: it asks the catalog for much more than there is.
const SQLALCHEMY: &str = r#"
import sqlalchemy as sa, pandas
engine = sa.create_engine(f"postgresql+psycopg://analyst@127.0.0.1:{PORT}/tributary")
inspector = sa.inspect(engine)
assert inspector.get_schema_names() == ["public"], inspector.get_schema_names()
found = inspector.get_table_names() + inspector.get_view_names()
assert sorted(found) == sorted(names), set(found) ^ set(names)
for name in names:
    columns = [column["name"] for column in inspector.get_columns(name)]
    with engine.connect() as connection:
        assert columns == list(connection.execute(sa.text(f'SELECT * FROM "{name}" LIMIT 1')).keys()), name
    assert not inspector.get_pk_constraint(name)["constrained_columns"] and not inspector.get_foreign_keys(name) and not inspector.get_indexes(name)
orders = pandas.read_sql(sa.text("SELECT * FROM current_profiles WHERE orders >= :least"), engine, params={"least": 1})
assert len(orders) == ours("SELECT count(*) AS n FROM current_profiles WHERE orders >= 1")[0]["n"]
assert len(pandas.read_sql_table("segment_members", engine)) == len(ours("SELECT * FROM segment_members"))
# What failed is undone as far as the savepoint.
with engine.begin() as connection:
    for sql in ("SELECT 1", "SELECT nothing FROM events", "SELECT 1"):
        try:
            with connection.begin_nested(): connection.execute(sa.text(sql))
        except sa.exc.DBAPIError as error:
            assert "no column" in str(error), error
        else:
            assert "nothing" not in sql, sql
    assert connection.execute(sa.text("SELECT current_setting('server_version_num')")).scalar() == "160006"
print("WELL")
"#;

#[test]
fn sqlalchemy_finds_the_tables_and_columns_and_pandas_reads_them() {
    let shop = Shop::run();
    let serving = Serving::start(shop.command(&["serve-sql", "--listen", "127.0.0.1:0"]));
    assert_eq!(shop.python(&format!("PORT = {}\n{COMPARE}\n{SQLALCHEMY}", serving.port)), ["WELL"]);
    serving.stop();
}

#[test]
fn what_is_committed_meanwhile_is_seen_by_statements_that_were_prepared_before() {
    let shop = Shop::run();
    let serving = Serving::start(shop.command(&["serve-sql", "--listen", "127.0.0.1:0", "--timeout", "5"]));
    let event = r#"{"type":"track","event":"Order Completed","userId":"late","messageId":"late-1","timestamp":"2026-03-05T00:00:00Z","properties":{"order_id":"o-late","total":5.0,"currency":"EUR"}}"#;
    let script = r#"
import subprocess, psycopg
db = psycopg.connect(f"host=127.0.0.1 port={PORT} user=a dbname=tributary", autocommit=True)
count = lambda: db.execute("SELECT count(*) FROM events", prepare=True).fetchone()[0]
first = [count() for _ in range(8)]
with open("pipelines/shop/data/events.ndjson", "a") as file: file.write(EVENT + "\n")
subprocess.run(["tributary", "run", "--drain", "--no-send", "-C", "pipelines/shop"], check=True, capture_output=True)
print(first[0], len(set(first)), count())
try:
    db.execute("SELECT sum(value % 7) FROM generate_series(1, 1000000000000)").fetchall()
except psycopg.Error as error: print(error.sqlstate, str(error).splitlines()[0])
print(db.execute("SELECT 1").fetchone()[0])
"#;
    let lines = shop.python(&format!("PORT = {}\nEVENT = {event:?}\n{script}", serving.port));
    let counts: Vec<u64> = lines[0].split(' ').map(|number| number.parse().expect("a number")).collect();
    assert_eq!((counts[1], counts[2]), (1, counts[0] + 1), "{lines:?}");
    assert_eq!(lines[1..], ["57014 the statement took longer than 5 s and was ended", "1"]);
    serving.stop();
}

#[test]
fn a_password_is_asked_for_where_there_is_one_and_needed_beyond_this_machine() {
    let shop = Shop::run();
    let mut command = shop.command(&["serve-sql", "--listen", "127.0.0.1:0"]);
    command.env("TRIBUTARY_SQL_PASSWORD", "open sesame").env("TRIBUTARY_LOG", "trace");
    let serving = Serving::start(command);
    let script = r#"
import psycopg
def ask(password):
    try:
        with psycopg.connect(f"host=127.0.0.1 port={PORT} user=a dbname=tributary", password=password) as db: return db.execute("SELECT 1").fetchone()[0]
    except psycopg.Error as error: return "refused"
print(ask("open sesame"), ask("wrong"), ask(None), ask("open sesame"))
"#;
    assert_eq!(shop.python(&format!("PORT = {}\n{script}", serving.port)), ["1 refused refused 1"]);
    serving.stop();
    let said = |mut command: Command, part: &str| {
        let output = command.output().expect("the program starts");
        assert!(output.status.code() == Some(1) && text_of(&output).contains(part), "{}", text_of(&output));
    };
    said(shop.command(&["serve-sql", "--listen", "0.0.0.0:0"]), "TRIBUTARY_SQL_PASSWORD");
    let mut command = shop.command(&["serve-sql"]);
    command.env("CLICKHOUSE_URL", "http://127.0.0.1:9").env("CLICKHOUSE_DATABASE", "shop");
    said(command, "connect to ClickHouse itself, database shop");
}
