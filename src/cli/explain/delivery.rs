//! `explain delivery ID`: every attempt, what is to come, and why.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::activation::time_text;
use crate::cli::deliveries::{DeliveryState, Held, held};
use crate::cli::output::{Output, print};
use crate::cli::{Exit, Failure, Global, NodeConfig, run, say, status};
use crate::definition::Pipeline;
use crate::engine::Status;
use crate::query;
use crate::sink::delivery::{BreakerState, attempts_within};

/// One row of `deliveries`: attempt, outcome, detail, when.
type Attempt = [String; 4];

pub async fn explain(global: &Global, config: &NodeConfig, pipeline: &Pipeline, id: &str) -> Result<Exit, Failure> {
    // It goes into a statement.
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        return Err(Failure::findings(format!(
            "`{id}` is no id of a delivery: they stand in `deliveries` and in `webhook-id`"
        )));
    }
    let target = run::tables_of(pipeline, config);
    let sql = format!(
        "SELECT attempt, CAST(outcome AS VARCHAR) AS outcome, detail, attempted_at, CAST(activation AS VARCHAR) AS activation, \
         CAST(step AS VARCHAR) AS step, CAST(destination AS VARCHAR) AS destination, profile_id, body \
         FROM deliveries WHERE delivery_id = '{id}' ORDER BY _batch, _seq"
    );
    let (rows, problem) = match query::query(&target, &sql).await {
        Ok(found) => (super::profile::rows::<9>(&found), None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let held = held(config, None, 1, |held| held.queued().delivery.id == id).await?.into_iter().next();
    let Some(mut told) = About::of(&rows, held.as_ref()) else {
        let tables = problem.map(|problem| format!(", and the tables cannot be asked: {problem}")).unwrap_or_default();
        return Err(Failure::findings(format!("no delivery has the id {id}{tables}")));
    };
    let plan = pipeline.destinations.iter().find(|plan| plan.name == told.destination);
    if let Some(redaction) = plan.and_then(|plan| plan.delivery.redact.as_ref()) {
        told.body = redaction.shown(&told.body).into_owned();
    }
    let running = running(config).await;
    let comes = to_come(pipeline, &told, &rows, held.as_ref(), running.as_ref());
    let attempts: Vec<Attempt> = rows.iter().map(|row| std::array::from_fn(|index| row[index].clone())).collect();
    if Output::or_default(global.output) == Output::Json {
        print(&as_json(id, &told, &attempts, &comes).to_string());
    } else {
        print(&as_text(id, &told, &attempts, &comes));
    }
    if let Some(problem) = problem {
        say(&format!("attempts are left out: {problem}"));
    }
    Ok(Exit::Well)
}

/// What a delivery is, from the state or the tables.
struct About {
    activation: String,
    step: String,
    destination: String,
    profile_id: String,
    body: String,
    created_at: Option<String>,
    state: String,
}

impl About {
    fn of(rows: &[[String; 9]], held: Option<&Held>) -> Option<About> {
        if let Some(held) = held {
            let delivery = &held.queued().delivery;
            return Some(About {
                activation: delivery.activation.clone(),
                step: delivery.step.clone(),
                destination: delivery.destination.clone(),
                profile_id: delivery.profile_id.to_string(),
                body: delivery.body.clone(),
                created_at: Some(time_text(delivery.created_at)),
                state: held.state().name().to_string(),
            });
        }
        let [_, outcome, _, _, activation, step, destination, profile_id, body] = rows.last()?.clone();
        Some(About { activation, step, destination, profile_id, body, created_at: None, state: outcome })
    }
}

async fn running(config: &NodeConfig) -> Option<Status> {
    let text = status::running(config).await?.get("/control/status").await.ok()?;
    serde_json::from_str(&text).ok()
}

/// What becomes of it, and why.
fn to_come(
    pipeline: &Pipeline,
    told: &About,
    rows: &[[String; 9]],
    held: Option<&Held>,
    running: Option<&Status>,
) -> String {
    let Some(held) = held else {
        return match told.state.as_str() {
            "sent" => "it was taken: nothing more is sent".to_string(),
            "dry_run" => "it was recorded and never sent".to_string(),
            "retry" => "it is not in the state any more; its last attempts are not in the tables yet".to_string(),
            _ if rows.is_empty() => "nothing is known of it".to_string(),
            _ => "it was given up and dropped since, or could not be made: nothing more is sent".to_string(),
        };
    };
    if held.state() != DeliveryState::Queued {
        let why = match held.state() {
            DeliveryState::Uncertain => "it may have been taken, and the destination could not tell a repeat",
            _ => "it was given up",
        };
        return format!("{why} ({}); `tributary deliveries retry` sends it again, `drop` forgets it", held.reason());
    }
    let Some(plan) = pipeline.destinations.iter().find(|plan| plan.name == told.destination) else {
        return format!("it waits, and there is no destination `{}` any more", told.destination);
    };
    let left = attempts_within(plan.delivery.retry_for).saturating_sub(held.queued().attempts_in_round());
    let mut text = format!("it waits: {}; at most {left} more attempts", held.reason());
    match running.map(|status| status.destinations.get(&told.destination)) {
        None => text += "; no process is running that would send it",
        Some(Some(status)) if status.breaker != BreakerState::Closed => {
            text += "; the destination does not answer and is only asked now and then (its breaker is open)";
        }
        Some(_) => {}
    }
    if plan.delivery.in_order {
        text += "; those of this profile before it go first";
    }
    text
}

fn as_text(id: &str, told: &About, attempts: &[Attempt], comes: &str) -> String {
    let About { activation, step, destination, profile_id, body, created_at, state } = told;
    let mut text = format!("delivery {id} is {state}\n");
    let since = created_at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
    // Writing to a string does not fail.
    let _ = writeln!(text, "set off{since} by {activation}, step {step}, for profile {profile_id}, to {destination}");
    for [attempt, outcome, detail, at] in attempts {
        let _ = writeln!(text, "  attempt {attempt} at {at}: {outcome}, {detail}");
    }
    let _ = writeln!(text, "{comes}\nbody: {body}");
    text
}

fn as_json(id: &str, told: &About, attempts: &[Attempt], comes: &str) -> Value {
    let attempt = |[attempt, outcome, detail, at]: &Attempt| {
        let number: Option<u32> = attempt.parse().ok();
        json!({ "attempt": number, "outcome": outcome, "detail": detail, "attempted_at": at })
    };
    json!({
        "delivery_id": id,
        "state": told.state,
        "activation": told.activation,
        "step": told.step,
        "destination": told.destination,
        "profile_id": told.profile_id,
        "created_at": told.created_at,
        "attempts": attempts.iter().map(attempt).collect::<Vec<_>>(),
        "to_come": comes,
        "body": told.body,
    })
}
