//! What the demo tells: sections of short lines, 80 columns, each number by SQL over the tables that the run has made.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::receiver::Received;
use super::shop::Truth;
use super::{EVENTS, MAILS, REFUSED_FIRST};
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
    /// Of the run.
    pub took: Duration,
    /// When the whole began.
    pub began: Instant,
}

/// Said before the run, which takes a while.
pub fn open(folder: &Path, seed: u64, truth: &Truth) {
    say("Tributary demo: a month of a small shop, from its events to one profile per");
    say("person, on this machine alone, with no server.");
    say("");
    say(&format!(
        "{} has been written: {} lines (seed {seed}).",
        folder.join(EVENTS).display(),
        grouped(truth.records)
    ));
    say("The pipeline beside it reads them as a stream, in small batches ...");
}

/// A figure that is known, and what Tributary has found.
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
        let user = self.one_person().await?;
        self.segments().await?;
        self.webhooks().await?;
        self.campaigns().await?;
        self.questions().await?;
        let right = self.compare().await?;
        self.next(user.as_deref().unwrap_or("u1"));
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
        row(rejected, "were rejected: section 2");
        row(taken, &format!("events were taken, {} of them more than a day late", grouped(late)));
        row(made, "events more, one for each product of an order (`unnest`)");
        say("");
        say("By kind:");
        say("");
        for row in self.rows(BY_EVENT).await? {
            say(&format!("  {:>8}  {}", grouped_text(&row[1]), row[0]));
        }
        Ok(())
    }

    async fn rejected(&self) -> Result<(), Failure> {
        title("2  What was rejected, and why");
        say("Bad input never stops the stream and is never dropped silently: the bytes are");
        say("kept with reason and place, and can be read again after a fix.");
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
        paragraph(&format!(
            "{nobody} events that name the user \"null\" were taken, but that name was set aside: it stands for nobody. \
             Otherwise these {others} devices would have become one person."
        ));
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
        let given_up = self.number("SELECT count(*) FROM profile_ids").await?;
        say(&format!("  {:>8}  identifiers became {} profiles", grouped(identifiers), grouped(profiles)));
        say("");
        paragraph(&format!(
            "{} ids of profiles were given up on the way, when two profiles turned out to be one person, or a person \
             became known by something better than a device. They stay valid in all tables.",
            grouped(given_up)
        ));
        say("");
        paragraph(&format!(
            "The shop was made up with {} people. The {} profiles more are further devices on which their owners never \
             logged in: nothing in the data could tell.",
            grouped(self.truth.persons),
            grouped(profiles.saturating_sub(self.truth.persons))
        ));
        Ok(())
    }

    /// The person with the most ids given up; gives their user id, for the last section.
    async fn one_person(&self) -> Result<Option<String>, Failure> {
        title("4  One person, step by step");
        let sql =
            "SELECT profile_id, count(*) AS n FROM profile_ids GROUP BY profile_id ORDER BY n DESC, profile_id LIMIT 1";
        let Some(id) = self.rows(sql).await?.into_iter().next().map(|row| row[0].clone()) else { return Ok(None) };
        paragraph(
            "A profile has its id from the best that is known of the person: customer number, else user id, else e-mail \
             address, else a device (the order under `identity:`). What changed that, in the order of arrival:",
        );
        say("");
        // The events say under which id they were processed, the merges what became of that id.
        let ids = format!("SELECT old_profile_id FROM profile_ids WHERE profile_id = '{id}'");
        let mut ids: Vec<String> = self.rows(&ids).await?.into_iter().flatten().collect();
        ids.push(id.clone());
        let ids = format!("('{}')", ids.join("', '"));
        let merges = format!(
            "SELECT message_id, old_profile_id, profile_id, cause FROM profile_merges \
             WHERE old_profile_id IN {ids} ORDER BY _batch, _seq"
        );
        let merges = self.rows(&merges).await?;
        let sql = format!(
            "SELECT timestamp, coalesce(event, type), message_id, profile_id, \
             sent_at > timestamp + INTERVAL '1 day', anonymous_id, nullif(user_id, 'null'), \
             coalesce(identifiers['email'], JSONExtractString(traits, 'email')), identifiers['customer_no'] \
             FROM events WHERE profile_id IN {ids} AND \"index\" = 0 ORDER BY _batch, _seq"
        );
        let (mut known, mut shown, mut given_up) = (Vec::<String>::new(), Vec::<String>::new(), Vec::<String>::new());
        let mut user = None;
        for row in &self.rows(&sql).await? {
            let [at, event, message, profile, late, identifiers @ ..] = row.as_slice() else { continue };
            let named: Vec<&str> = identifiers.iter().map(String::as_str).filter(|value| !value.is_empty()).collect();
            user = user.or_else(|| identifiers.get(1).filter(|user| !user.is_empty()).cloned());
            let new = named.iter().any(|value| !known.iter().any(|k| k == value));
            // Ids that were given up before only point further now.
            let caused = merges.iter().filter(|merge| merge[0] == *message && !given_up.contains(&merge[1]));
            let caused: Vec<&Vec<String>> = caused.collect();
            if !new && caused.is_empty() {
                continue;
            }
            let when = at.get(5..16).unwrap_or(at).replace('T', " ");
            let late = if late == "true" { " (days late)" } else { "" };
            say(&format!("  {when}  {event}{late}: {}", named.join(" + ")));
            for merge in &caused {
                let (old, new) = (short(&merge[1]), short(&merge[2]));
                say(&match merge[3].as_str() {
                    "merge" => format!("{:17}{old} is the same person: now {new}", ""),
                    _ => format!("{:17}{old} is known by something better: now {new}", ""),
                });
            }
            if caused.is_empty() {
                let id = short(profile);
                let seen = known.iter().any(|value| named.contains(&value.as_str()));
                say(&match (seen, shown.contains(profile)) {
                    (true, _) => format!("{:17}still {id}", ""),
                    (false, true) => format!("{:17}{id} at once: a later event of the same batch says so", ""),
                    (false, false) => format!("{:17}a new profile: {id}", ""),
                });
            }
            shown.push(profile.clone());
            shown.extend(caused.iter().map(|merge| merge[2].clone()));
            known.extend(named.iter().map(|value| value.to_string()));
            given_up.extend(caused.iter().map(|merge| merge[1].clone()));
        }
        let sql = format!(
            "SELECT events, orders, CAST(revenue AS DECIMAL(18, 2)) FROM current_profiles WHERE profile_id = '{id}'"
        );
        if let Some([events, orders, revenue]) = self.rows(&sql).await?.first().map(Vec::as_slice) {
            say("");
            say(&format!("So {} has all of it: {events} events, orders {orders}, revenue {revenue}.", short(&id)));
        }
        Ok(user)
    }

    async fn segments(&self) -> Result<(), Failure> {
        title("5  Segments");
        let changes = "SELECT segment, change, count(*) FROM segment_changes WHERE cause IN ('event', 'time') \
                       GROUP BY segment, change";
        let changes = self.rows(changes).await?;
        let sizes = self.rows("SELECT segment, count(*) FROM segment_members GROUP BY segment").await?;
        let of = |segment: &str, change: &str| -> i64 {
            let found = changes.iter().find(|row| row[0] == segment && row[1] == change);
            found.and_then(|row| row[2].parse().ok()).unwrap_or_default()
        };
        say("  entered    left  merged  members");
        for plan in self.segments {
            let size = sizes.iter().find(|row| row[0] == plan.name).and_then(|row| row[1].parse().ok()).unwrap_or(0);
            let (entered, left) = (of(&plan.name, "entered"), of(&plan.name, "exited"));
            let merged = entered - left - size;
            let condition = cut(&plan.rule.text(), 80 - 54);
            say(&format!("  {entered:>7} {left:>7} {merged:>7} {size:>8}  {:<15} {condition}", plan.name));
        }
        say("");
        say("`merged`: no more members, since their profile became part of another.");
        Ok(())
    }

    async fn webhooks(&self) -> Result<(), Failure> {
        title("6  Webhooks");
        let received = &self.received;
        say("The demo started a receiver of its own, which checked every signature");
        say(&format!("(Standard Webhooks) and answered its first {REFUSED_FIRST} requests with 500.",));
        say("");
        let row = |count: u64, text: &str| say(&format!("  {:>8}  {text}", grouped(count)));
        let signed = received.requests - received.bad_signatures;
        row(received.requests, &format!("requests came in, {} of them rightly signed", grouped(signed)));
        row(received.refused, &format!("were refused; {} came again, with the same id and body", received.repeats));
        row(received.messages.len() as u64, "different messages were taken");
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        for body in received.messages.values() {
            let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            *kinds.entry(body["kind"].as_str().unwrap_or("?").to_string()).or_default() += 1;
        }
        for (kind, count) in kinds {
            say(&format!("  {:>8}    {kind}", grouped(count)));
        }
        let welcome = received.messages.iter().find(|(_, body)| body.contains('@'));
        if let Some((id, body)) = welcome.or(received.messages.iter().next()) {
            say("");
            say("One of them:");
            say("");
            say(&format!("  webhook-id: {id}"));
            say(&format!("  {body}"));
        }
        Ok(())
    }

    async fn campaigns(&self) -> Result<(), Failure> {
        title("7  Campaigns");
        say("Four journeys write mails to people who have agreed to it: three a week at most,");
        say(&format!("none at night. Here they go to {}.", self.folder.join(MAILS).display()));
        say("");
        for row in self.rows(CAMPAIGNS).await? {
            say(&format!("  {:>8}  {}", row[0], cut(&row[1..].join(": "), 68)));
        }
        let mail = self.rows(ONE_MAIL).await?;
        if let Some(body) = mail.first().and_then(|row| row.first()) {
            let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            say("");
            say("One of them:");
            say("");
            for part in ["to", "subject", "text"] {
                say(&format!("  {part}: {}", cut(body[part].as_str().unwrap_or_default(), 70)));
            }
        }
        Ok(())
    }

    async fn questions(&self) -> Result<(), Failure> {
        title("8  Three questions, in SQL");
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
        title("9  Is it right?");
        say("The shop was made up, so what happened in it is known. Tributary had only its");
        say("lines.");
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
        rows.push(Compared { name: "revenue in cents", made: grouped(truth.revenue_cents), found: grouped(revenue) });
        say(&format!("  {:<22} {:>12} {:>12}", "", "happened", "found"));
        let mut right = true;
        for Compared { name, made, found } in &rows {
            let mark = if made == found { "" } else { "  <- not equal" };
            right &= made == found;
            say(&format!("  {name:<22} {made:>12} {found:>12}{mark}"));
        }
        Ok(right)
    }

    fn next(&self, user: &str) {
        let Story { program, folder, .. } = self;
        say("");
        say(&format!("All of this took {:.1} s.", self.began.elapsed().as_secs_f64()));
        title("What next");
        say("Everything is still there to look at:");
        say("");
        say(&format!("  cd {}", folder.display()));
        say(&format!("  {program} query \"SELECT * FROM current_profiles LIMIT 5\""));
        say(&format!("  {program} status"));
        say(&format!("  {program} rejected list -n 5"));
        say(&format!("  {program} peek site -n 1"));
        say("");
        say("An order more for the person of section 4; only what is new is read:");
        say("");
        say(&format!("  echo '{{\"event\":\"Order Completed\",\"userId\":\"{user}\",\"properties\":' \\"));
        say("    '{\"order_id\":\"mine\",\"total\":12.50}}' >> data/events.ndjson");
        say(&format!("  {program} run --drain --no-send"));
        say(&format!("  {program} query \"SELECT email, orders, revenue FROM current_profiles"));
        say("    ORDER BY last_seen DESC LIMIT 1\"");
        say("");
        say("The definitions are the *.yaml there. Change one, and see what `check` says:");
        say("");
        say(&format!("  {program} check"));
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
const CAMPAIGNS: &str = "SELECT n, what, how FROM (SELECT count(*) AS n, activation || ', ' || step AS what, \
     CASE WHEN outcome = 'sent' THEN 'sent' ELSE detail END AS how FROM deliveries WHERE destination = 'mail' GROUP BY 2, 3) \
     ORDER BY how = 'sent' DESC, what, how";
const ONE_MAIL: &str =
    "SELECT body FROM deliveries WHERE destination = 'mail' AND outcome = 'sent' ORDER BY delivery_id LIMIT 1";
const BIG_ORDERS: &str =
    "SELECT count(DISTINCT delivery_id) FROM deliveries WHERE activation = 'big_order' AND outcome = 'sent'";
const BY_EVENT: &str =
    "SELECT coalesce(event, type) AS name, count(*) AS n FROM events GROUP BY 1 ORDER BY n DESC, name";

const QUESTIONS: [(&str, &str); 3] = [
    (
        "Which days brought most? (from `aggregates:`)",
        "SELECT CAST(day AS DATE) AS day, orders,\n\
         \x20      CAST(revenue AS DECIMAL(18, 2)) AS revenue\n\
         FROM revenue_by_day ORDER BY revenue DESC LIMIT 3",
    ),
    (
        "Where do good customers come from? (from `traits:` and `segments:`)",
        "SELECT coalesce(first_source, 'none') AS source, count(*) AS people,\n\
         \x20      CAST(sum(revenue) AS DECIMAL(18, 2)) AS revenue\n\
         FROM current_profiles AS p\n\
         JOIN segment_members AS m ON m.profile_id = p.profile_id\n\
         WHERE segment = 'high_value' GROUP BY 1 ORDER BY revenue DESC",
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
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
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

/// The beginning of a text that is too long.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let start: String = text.chars().take(width - 3).collect();
    format!("{start}...")
}

fn paragraph(text: &str) {
    wrapped(text, 0);
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
