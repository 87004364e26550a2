//! What people ask of the running process at random moments: corrections of identity, and changes of lists. Whoever gets no answer, or
//! hears that it cannot be done now, asks again some time later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::Array;
use tokio::sync::oneshot;
use tributary::clock::{self, simulated};
use tributary::engine::{Command, CorrectionRequest, Input, ListRequest};
use tributary::event::ProfileId;
use tributary::identity::{Correction, Named};

use super::check::text;
use super::definitions::{LISTS, list_value};
use super::source::SOURCES;
use super::tables::in_order;
use super::{World, millis};
use crate::world::Event;

/// What was asked for, and is known of it.
#[derive(Debug, Default)]
pub struct Asked {
    /// Corrections that are said to be in force.
    pub corrected: Vec<Correction>,
    /// Whether a value was added to the list `staff` or taken out, by what was said last; None: nobody knows.
    pub listed: BTreeMap<String, Option<bool>>,
    /// Identifiers that a correction was asked for about.
    named: Vec<Named>,
    /// Why something was refused.
    pub refused: Vec<String>,
    pub corrections: u32,
    pub edits: u32,
}

/// So often the same is asked again.
const TRIES: usize = 12;

/// Some people begin to ask, one thing after the other.
pub fn begin(world: &Arc<Mutex<World>>, ends_us: i64) {
    for person in 0..3 {
        let mut moments: Vec<u64> = {
            let random = &mut world.lock().expect("no panic while it is held").faults.random;
            let count = random.usize(0..7).saturating_sub(2);
            (0..count).map(|_| random.i64(0..ends_us) as u64).collect()
        };
        moments.sort_unstable();
        let world = world.clone();
        tokio::task::spawn_local(async move {
            for moment in moments {
                let wait_us = moment.saturating_sub(simulated::elapsed_us() as u64);
                clock::sleep(std::time::Duration::from_micros(wait_us)).await;
                match person {
                    0 => edit_list(&world).await,
                    _ => correct(&world).await,
                }
            }
        });
    }
}

/// Asks until there is an answer that is `final_`.
async fn ask<A>(
    world: &Arc<Mutex<World>>,
    command: impl Fn(oneshot::Sender<A>) -> Command,
    is_final: impl Fn(&A) -> bool,
) -> Option<A> {
    for _ in 0..TRIES {
        let control = world.lock().expect("no panic while it is held").control.clone();
        if let Some(control) = control {
            let (answer, answered) = oneshot::channel();
            if control.send(Input::Command(command(answer))).await.is_ok()
                && let Ok(answer) = answered.await
                && is_final(&answer)
            {
                return Some(answer);
            }
        }
        let pause = world.lock().expect("no panic while it is held").faults.random.u64(0..60_000);
        clock::sleep(millis(pause)).await;
    }
    None
}

async fn edit_list(world: &Arc<Mutex<World>>) {
    let lock = || world.lock().expect("no panic while it is held");
    let request = {
        let random = &mut lock().faults.random;
        let (segment, identifier_type) = *random.choice(&LISTS).expect("one");
        let mut values: Vec<String> = (0..random.usize(1..4)).map(|_| list_value(segment, random)).collect();
        values.sort_unstable();
        values.dedup();
        ListRequest {
            segment: segment.to_string(),
            identifier_type: identifier_type.to_string(),
            values,
            add: random.bool(),
        }
    };
    let is_staff = request.segment == "staff";
    let know = |says: Option<bool>| {
        if is_staff {
            let listed = &mut lock().asked.listed;
            for value in &request.values {
                listed.insert(value.clone(), says);
            }
        }
    };
    know(None);
    lock().faults.note(0, format!("asks for {request:?}"));
    let command = |answer| Command::EditList { request: request.clone(), answer };
    let edited = ask(world, command, |_| true).await;
    let Some(edited) = edited else { return };
    lock().faults.note(0, format!("is told {edited:?}"));
    match edited.refused {
        None => {
            lock().asked.edits += 1;
            know(Some(request.add));
        }
        Some(reason) => lock().asked.refused.push(reason),
    }
}

async fn correct(world: &Arc<Mutex<World>>) {
    let lock = || world.lock().expect("no panic while it is held");
    let Some(request) = correction(&mut lock()) else { return };
    lock().faults.note(0, format!("asks for {request:?}"));
    let command = |answer| Command::Correct { request: request.clone(), answer };
    let corrected = ask(world, command, |corrected| !corrected.busy).await;
    let Some(corrected) = corrected else { return };
    lock().faults.note(0, format!("is told {corrected:?}"));
    let asked = &mut lock().asked;
    match corrected.refused {
        None => {
            asked.corrections += 1;
            asked.corrected.push(request.correction);
        }
        Some(reason) => asked.refused.push(reason),
    }
}

/// Something that can be corrected about the events so far.
fn correction(world: &mut World) -> Option<CorrectionRequest> {
    let now_us = simulated::elapsed_us();
    let linking: Vec<(usize, Event)> = world
        .log
        .records()
        .filter(|(.., record)| record.at_us <= now_us)
        .filter_map(|(source, _, _, record)| Some((source, record.event.clone()?)))
        .filter(|(_, event)| event.identifiers().len() > 1)
        .collect();
    let types = &world.pipelines[0].identity.types;
    let named = |text: &str| {
        let (name, value) = text.split_once(':').expect("type:value");
        let kind = types.iter().position(|kind| kind.name.as_str() == name).expect("a type");
        Named { kind: kind as u16, value: value.into() }
    };
    let identifier_types = types.iter().map(|kind| kind.name.clone()).collect();
    let random = &mut world.faults.random;
    let (source, event) = random.choice(&linking)?;
    let mut names: Vec<Named> = event.identifiers().iter().map(|name| named(name)).collect();
    random.shuffle(&mut names);
    let (correction, struck_profile) = match random.u8(0..3) {
        0 => (Correction::Cut(names[0].clone(), names[1].clone()), None),
        1 => (Correction::Ban(names[0].clone()), None),
        _ => {
            let (source, message_id) = (SOURCES[*source], event.message_id.as_str());
            let owner = owner(world, source, message_id)?;
            (Correction::Strike { source: source.into(), message_id: message_id.into() }, owner)
        }
    };
    // What a cut has set aside comes back to its event where the other is taken away as well: a rebuild of one person does not
    // follow it to the one who has it.
    let now_named: &[Named] = match &correction {
        Correction::Cut(..) => &names[..2],
        Correction::Ban(_) => &names[..1],
        Correction::Strike { .. } => &[],
    };
    if now_named.iter().any(|named| world.asked.named.contains(named)) {
        return None;
    }
    world.asked.named.extend_from_slice(now_named);
    Some(CorrectionRequest { correction, identifier_types, struck_profile, activate: false })
}

/// Whose an event is, as the tables say now; None where they do not have it.
fn owner(world: &World, source: &str, message_id: &str) -> Option<Option<ProfileId>> {
    let table = |name: &str| world.server.tables.get(name).map(|parts| in_order(parts));
    let number = |rows: &arrow::array::RecordBatch, column: &str, row: usize| {
        arrow::util::display::array_value_to_string(rows.column_by_name(column).expect("a column"), row)
            .expect("a number")
    };
    let id = |rows: &arrow::array::RecordBatch, row: usize| {
        let ids = text(rows, "profile_id");
        ids.is_valid(row).then(|| ids.value(row).to_string())
    };
    let events = table("events")?;
    let row = (0..events.num_rows()).find(|row| {
        text(&events, "message_id").value(*row) == message_id && text(&events, "source").value(*row) == source
    })?;
    let place = (number(&events, "_batch", row), number(&events, "_seq", row));
    let mut owner = id(&events, row);
    if let Some(moves) = table("event_moves") {
        let mine = (0..moves.num_rows())
            .rfind(|row| (number(&moves, "event_batch", *row), number(&moves, "event_seq", *row)) == place);
        owner = mine.map_or(owner, |row| id(&moves, row));
    }
    if let (Some(merges), Some(old)) = (table("profile_merges"), &owner) {
        let last = (0..merges.num_rows()).rfind(|row| text(&merges, "old_profile_id").value(*row) == old);
        owner = last.map_or(owner.clone(), |row| id(&merges, row));
    }
    Some(owner.and_then(|id| id.parse().ok()))
}
