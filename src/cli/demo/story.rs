//! What the demo tells: sections of short lines, 80 columns, each number by SQL over the tables that the run has made.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::receiver::Received;
use super::shop::{Truth, money};
use super::{EVENTS, REFUSED_FIRST};
use crate::cli::Failure;
use crate::cli::output::print;
use crate::engine::Totals;
use crate::query::{self, Target};
use crate::segment::SegmentPlan;

/// Everything that there is to tell.
pub struct Story<'a> {
    /// How the program is called in the folder.
    pub program: String,
    pub folder: &'a Path,
    pub target: Target,
    pub segments: &'a [SegmentPlan],
    pub totals: Totals,
    pub truth: &'a Truth,
    pub received: Received,
    pub took: Duration,
}

/// Said before the run, which takes a while.
pub fn open(folder: &Path, seed: u64, truth: &Truth) {
    say("Tributary demo: a month of a small shop, from its events to one profile per person,");
    say("on this machine alone.");
    say("");
    say(&format!(
        "{} has been written: {} lines (seed {seed}).",
        folder.join(EVENTS).display(),
        grouped(truth.records)
    ));
    say("The pipeline beside it reads them as a stream, in batches ...");
}

/// A figure that the shop's maker knows, and what Tributary has found.
struct Compared {
    name: &'static str,
    made: String,
    found: String,
}

impl Story<'_> {
    /// Tells it; false when a figure is not what the shop's maker knows it to be.
    pub async fn tell(&self) -> Result<bool, Failure> {
        self.came_in().await?;
        self.rejected().await?;
        self.people().await?;
        self.one_person().await?;
        self.segments().await?;
        self.webhooks().await?;
        self.questions().await?;
        let right = self.compare().await?;
        self.next();
        Ok(right)
    }

    async fn came_in(&self) -> Result<(), Failure> {
        title("1  What came in");
        let taken = self.number("SELECT count(*) FROM events WHERE \"index\" = 0").await?;
        let made = self.number("SELECT count(*) FROM events WHERE \"index\" > 0").await?;
        let late = self.number(LATE).await?;
        let commits = self.number("SELECT count(DISTINCT _batch) FROM events").await?;
        let Totals { records, filtered, rejected, .. } = self.totals;
        let duplicates = records.saturating_sub(taken + rejected + filtered);
        let row = |count: u64, text: &str| say(&format!("  {:>8}  {text}", grouped(count)));
        row(records, &format!("lines were read, in {commits} batches, in {:.1} s", self.took.as_secs_f64()));
        row(duplicates, "were there already: sent twice, or the same order again");
        row(filtered, "came from bots; the pipeline filters them out");
        row(rejected, "could not be used: section 2");
        row(taken, &format!("events were taken, {} of them more than a day late", grouped(late)));
        row(made, "events more, one for each product of an order (`unnest`)");
        say("");
        for row in self.rows(BY_EVENT).await? {
            say(&format!("  {:>8}  {}", grouped_text(&row[1]), row[0]));
        }
        Ok(())
    }

    async fn rejected(&self) -> Result<(), Failure> {
        title("2  What was rejected, and why");
        say("Nothing is dropped silently, and nothing stops the stream. The bytes are kept with");
        say("reason and place, and can be read again after a fix (`rejected replay`).");
        say("");
        let sql = "SELECT code, count(*) AS n, min(\"offset\") AS line FROM rejected_events GROUP BY code ORDER BY n DESC, code";
        for row in self.rows(sql).await? {
            let example =
                format!("SELECT reason FROM rejected_events WHERE \"offset\" = {} AND code = '{}'", row[2], row[0]);
            let reason = self.rows(&example).await?.into_iter().flatten().next().unwrap_or_default();
            say(&format!("  {:>8}  {:<14} line {}:", row[1], row[0], row[2]));
            wrapped(&reason, 12);
        }
        let nobody = self.number(NOBODY).await?;
        let others = self
            .number("SELECT count(DISTINCT anonymous_id) FROM events WHERE flags LIKE '%blocked_identifier%'")
            .await?;
        say("");
        say(&format!("{nobody} events were taken that name the user \"null\". Such a value stands for nobody: it is"));
        say(&format!("set aside, or these {others} devices would have become one person."));
        Ok(())
    }

    async fn people(&self) -> Result<(), Failure> {
        title("3  Who is who");
        say("Two identifiers in one event belong to one person from then on.");
        say("");
        let kinds = "SELECT type, count(*) AS n FROM current_identifiers GROUP BY type ORDER BY n DESC";
        for row in self.rows(kinds).await? {
            say(&format!("  {:>8}  {}", grouped_text(&row[1]), row[0]));
        }
        let identifiers = self.number(IDENTIFIERS).await?;
        let profiles = self.number(PROFILES).await?;
        let merged = self.number("SELECT count(*) FROM profile_ids").await?;
        say(&format!("  {:>8}  identifiers became {} profiles", grouped(identifiers), grouped(profiles)));
        say("");
        say(&format!(
            "{} profile ids were given up on the way, when their person turned out to be known",
            grouped(merged)
        ));
        say(&format!(
            "already or got a better name. The maker of the shop knows of {} people: the other",
            grouped(self.truth.persons)
        ));
        say(&format!(
            "{} profiles are devices on which nobody logged in, so that nobody can know.",
            grouped(profiles.saturating_sub(self.truth.persons))
        ));
        Ok(())
    }

    async fn one_person(&self) -> Result<(), Failure> {
        title("4  One person, step by step");
        let sql =
            "SELECT profile_id, count(*) AS n FROM profile_ids GROUP BY profile_id ORDER BY n DESC, profile_id LIMIT 1";
        let Some(id) = self.rows(sql).await?.into_iter().next().map(|row| row[0].clone()) else { return Ok(()) };
        // What each identifier was worth at the time: the id its profile had after that commit.
        let merges = format!(
            "SELECT message_id, old_profile_id, profile_id, cause FROM profile_merges WHERE old_profile_id IN \
             (SELECT old_profile_id FROM profile_ids WHERE profile_id = '{id}') ORDER BY _batch, _seq"
        );
        let mut merged: BTreeMap<String, Vec<[String; 3]>> = BTreeMap::new();
        for row in self.rows(&merges).await? {
            if let [message, old, new, cause] = row.as_slice() {
                merged.entry(message.clone()).or_default().push([old.clone(), new.clone(), cause.clone()]);
            }
        }
        let sql = format!(
            "SELECT e.timestamp, coalesce(e.event, e.type), e.message_id, n.profile_id, e.anonymous_id, e.user_id, \
             coalesce(e.identifiers['email'], JSONExtractString(e.traits, 'email')), e.identifiers['customer_no'], e.flags \
             FROM current_events AS e JOIN events AS n ON n._batch = e._batch AND n._seq = e._seq \
             WHERE e.profile_id = '{id}' AND e.\"index\" = 0 ORDER BY e._batch, e._seq"
        );
        let rows = self.rows(&sql).await?;
        let mut known: Vec<String> = Vec::new();
        let mut ids_shown: Vec<String> = Vec::new();
        for row in &rows {
            let [at, event, message, profile, anonymous, user, email, customer, flags] = row.as_slice() else {
                continue;
            };
            let user = if flags.contains("blocked_identifier") { "" } else { user };
            let named = [("device", anonymous.as_str()), ("user", user), ("email", email), ("customer", customer)];
            let named: Vec<&str> = named.iter().map(|(_, value)| *value).filter(|value| !value.is_empty()).collect();
            let new = named.iter().any(|value| !known.iter().any(|k| k == value));
            let became = merged.get(message);
            if !new && became.is_none() {
                continue;
            }
            known.extend(named.iter().map(|value| value.to_string()));
            say(&format!("  {}  {:<16} {}", &at.get(5..16).unwrap_or(at).replace('T', " "), event, named.join(" + ")));
            match became {
                None if ids_shown.contains(profile) => say(&format!("{:33}  of {}", "", short(profile))),
                None => say(&format!("{:33}  a new profile, {}", "", short(profile))),
                Some(merges) => {
                    for [old, new, cause] in merges {
                        let why = if cause == "merge" { "one person" } else { "a better name" };
                        say(&format!("{:33}  {} becomes {}: {why}", "", short(old), short(new)));
                    }
                }
            }
            ids_shown.push(profile.clone());
        }
        let sql = format!("SELECT events, orders, revenue FROM current_profiles WHERE profile_id = '{id}'");
        if let Some([events, orders, revenue]) = self.rows(&sql).await?.first().map(Vec::as_slice) {
            say("");
            say(&format!("Now {}: {events} events, {orders} orders, revenue {revenue}.", short(&id)));
        }
        Ok(())
    }

    async fn segments(&self) -> Result<(), Failure> {
        title("5  Segments");
        let changes =
            "SELECT segment, change, count(*) FROM segment_changes WHERE cause = 'event' GROUP BY segment, change";
        let changes = self.rows(changes).await?;
        let sizes = self.rows("SELECT segment, count(*) FROM segment_members GROUP BY segment").await?;
        let of = |segment: &str, change: &str| {
            changes
                .iter()
                .find(|row| row[0] == segment && row[1] == change)
                .map_or("0", |row| row[2].as_str())
                .to_string()
        };
        say("   members  entered   left");
        for plan in self.segments {
            let size = sizes.iter().find(|row| row[0] == plan.name).map_or("0", |row| row[1].as_str());
            let (entered, left) = (of(&plan.name, "entered"), of(&plan.name, "exited"));
            say(&format!(
                "  {:>8} {:>8} {:>6}  {}",
                grouped_text(size),
                grouped_text(&entered),
                grouped_text(&left),
                plan.name
            ));
        }
        Ok(())
    }

    async fn webhooks(&self) -> Result<(), Failure> {
        title("6  Webhooks");
        let received = &self.received;
        say("The demo started a receiver of its own, which checked every signature");
        say(&format!("(Standard Webhooks) and answered its first {REFUSED_FIRST} requests with 500.",));
        say("");
        let row = |count: u64, text: &str| say(&format!("  {:>8}  {text}", grouped(count)));
        row(received.requests, "requests came in");
        row(received.requests - received.bad_signatures, "were signed with the right secret");
        row(received.refused, "were refused, and came again later:");
        row(received.repeats, "repeats with the same id and the same body");
        row(received.messages.len() as u64, "different messages were taken:");
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        for body in received.messages.values() {
            let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            *kinds.entry(body["kind"].as_str().unwrap_or("?").to_string()).or_default() += 1;
        }
        for (kind, count) in kinds {
            say(&format!("  {:>8}    {kind}", grouped(count)));
        }
        if let Some((id, body)) = received.messages.iter().next() {
            say("");
            say(&format!("  webhook-id: {id}"));
            say(&format!("  {body}"));
        }
        Ok(())
    }

    async fn questions(&self) -> Result<(), Failure> {
        title("7  Three questions");
        for (number, (question, sql)) in QUESTIONS.iter().enumerate() {
            if number > 0 {
                say("");
            }
            say(question);
            sql.lines().for_each(|line| say(&format!("  {line}")));
            let batches = query::query(&self.target, sql).await.map_err(Failure::fatal)?;
            print(&query::render(&batches, query::Output::Table).map_err(Failure::fatal)?);
        }
        Ok(())
    }

    async fn compare(&self) -> Result<bool, Failure> {
        title("8  Is it right?");
        say("Whoever made up the shop knows what happened; Tributary had only the lines.");
        say("");
        let truth = self.truth;
        let rejected = self.number("SELECT count(*) FROM rejected_events").await?;
        let taken = self.number("SELECT count(*) FROM events WHERE \"index\" = 0").await?;
        let Totals { records, filtered, .. } = self.totals;
        let duplicates = records.saturating_sub(taken + rejected + filtered);
        let mut rows: Vec<Compared> = Vec::new();
        let mut add = |name, made: u64, found: u64| {
            rows.push(Compared { name, made: grouped(made), found: grouped(found) });
        };
        add("lines", truth.records, records);
        add("events", truth.events, taken);
        add("duplicates", truth.duplicates, duplicates);
        add("bots", truth.bots, filtered);
        add("broken", truth.broken.values().sum(), rejected);
        add("late", truth.late, self.number(LATE).await?);
        add("identifiers", truth.identifiers, self.number(IDENTIFIERS).await?);
        add("profiles", truth.profiles, self.number(PROFILES).await?);
        add("orders", truth.orders, self.number("SELECT sum(orders) FROM revenue_by_day").await?);
        add(
            "products ordered",
            truth.ordered,
            self.number("SELECT count(*) FROM events WHERE event = 'Product Ordered'").await?,
        );
        add("webhooks: big orders", truth.big_orders, self.number(BIG_ORDERS).await?);
        let revenue = self.number("SELECT CAST(round(sum(revenue) * 100) AS BIGINT) FROM current_profiles").await?;
        rows.push(Compared { name: "revenue", made: money(truth.revenue_cents), found: money(revenue) });
        say(&format!("  {:<22} {:>12} {:>12}", "", "happened", "found"));
        let mut right = true;
        for Compared { name, made, found } in &rows {
            let mark = if made == found { "" } else { "  <- not equal" };
            right &= made == found;
            say(&format!("  {name:<22} {made:>12} {found:>12}{mark}"));
        }
        Ok(right)
    }

    fn next(&self) {
        let Story { program, folder, .. } = self;
        title("What next");
        say(&format!("  cd {}", folder.display()));
        say(&format!("  {program} query \"SELECT * FROM segment_members LIMIT 5\""));
        say(&format!("  {program} status"));
        say(&format!("  {program} rejected list -n 3"));
        say(&format!("  {program} peek site -n 1"));
        say("");
        say("Add an order of your own and run again; only what is new is read:");
        say("");
        say("  echo '{\"type\":\"track\",\"event\":\"Order Completed\",\"userId\":\"u1\",\"properties\":");
        say("    {\"order_id\":\"mine\",\"total\":12.50}}' >> data/events.ndjson");
        say(&format!("  {program} run --drain --no-send"));
    }

    async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::fatal(format!("{error}\nin: {sql}"));
        let batches = query::query(&self.target, sql).await.map_err(|error| failed(&error))?;
        let options = FormatOptions::default();
        let mut rows = Vec::new();
        for batch in &batches {
            let columns: Result<Vec<ArrayFormatter<'_>>, _> =
                batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
            let columns = columns.map_err(|error| failed(&error))?;
            rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|c| c.value(row).to_string()).collect()));
        }
        Ok(rows)
    }

    async fn number(&self, sql: &str) -> Result<u64, Failure> {
        let rows = self.rows(sql).await?;
        let text = rows.first().and_then(|row| row.first()).map_or("", String::as_str);
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|_| Failure::fatal(format!("{text} is no number\nin: {sql}")))
    }
}

const LATE: &str = "SELECT count(*) FROM events WHERE \"index\" = 0 AND sent_at > timestamp + INTERVAL '1 day'";
const NOBODY: &str = "SELECT count(*) FROM events WHERE flags LIKE '%blocked_identifier%'";
const IDENTIFIERS: &str = "SELECT count(*) FROM current_identifiers";
const PROFILES: &str = "SELECT count(*) FROM current_profiles";
const BIG_ORDERS: &str =
    "SELECT count(DISTINCT delivery_id) FROM deliveries WHERE activation = 'big_order' AND outcome = 'sent'";
const BY_EVENT: &str =
    "SELECT coalesce(event, type) AS name, count(*) AS n FROM events GROUP BY 1 ORDER BY n DESC, name";

const QUESTIONS: [(&str, &str); 3] = [
    (
        "Which days brought most? (from `aggregates:`)",
        "SELECT day, orders, revenue FROM revenue_by_day\nORDER BY revenue DESC LIMIT 3",
    ),
    (
        "Where do good customers come from? (from `traits:` and `segments:`)",
        "SELECT first_source, count(*) AS people, round(sum(revenue), 2) AS revenue\n\
         FROM current_profiles AS p JOIN segment_members AS m ON m.profile_id = p.profile_id\n\
         WHERE segment = 'high_value' GROUP BY first_source ORDER BY revenue DESC",
    ),
    (
        "What is bought? (from the events themselves, with what `enrich` added)",
        "SELECT JSONExtractString(enriched, 'product', 'category') AS category,\n\
         \x20      sum(JSONExtractInt(properties, 'quantity')) AS pieces\n\
         FROM events WHERE event = 'Product Ordered' GROUP BY 1 ORDER BY pieces DESC",
    ),
];

fn say(text: &str) {
    print(if text.is_empty() { "\n" } else { text });
}

/// Bold on a terminal, unless its owner wants none of that.
fn title(text: &str) {
    say("");
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        say(&format!("\x1b[1m{text}\x1b[0m"));
    } else {
        say(text);
    }
    say("");
}

/// 12,345
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn grouped_text(number: &str) -> String {
    number.parse().map_or_else(|_| number.to_string(), grouped)
}

/// The beginning of a profile id: enough to tell them apart here.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Words in lines of at most 80 columns.
fn wrapped(text: &str, indent: usize) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > 80 {
            say(&format!("{:indent$}{line}", ""));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    say(&format!("{:indent$}{line}", ""));
}
