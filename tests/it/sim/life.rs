//! How a world goes: processes that are started and killed while the log comes into being, then rest.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tributary::clock::{self, simulated};
use tributary::engine::{Input, Outcome, Stop};

use super::faults::Fault;
use super::{Started, World, asks, check, millis, start};

/// Until everything has come to rest.
pub async fn live_through(world: &Arc<Mutex<World>>) -> Result<(), String> {
    let lock = || world.lock().expect("no panic while it is held");
    let ends_us = lock().log.ends_us + 1_000_000;
    asks::begin(world, ends_us);
    let mut current: Option<Started> = None;
    let mut before: Vec<Started> = Vec::new();
    while simulated::elapsed_us() < ends_us {
        let Some(running) = &current else {
            let pause = lock().faults.random.u64(0..3_000);
            clock::sleep(millis(pause)).await;
            current = Some(start(world, false));
            continue;
        };
        let tick_us = lock().faults.random.i64(1_000..=ends_us / 4) as u64;
        let number = running.instance.number;
        tokio::select! {
            biased;
            () = running.instance.died.notified() => {
                running.kill();
                current = None;
                lock().deaths += 1;
                check::now(&lock())?;
            }
            () = clock::sleep(Duration::from_micros(tick_us)) => {
                let strikes = |fault| lock().faults.strikes(fault, number);
                if strikes(Fault::ClockForward) {
                    let by_us = lock().faults.random.i64(0..7_200_000_000);
                    simulated::jump(by_us);
                }
                if strikes(Fault::ClockBack) {
                    let by_us = lock().faults.random.i64(0..7_200_000_000);
                    simulated::jump(-by_us);
                }
                if strikes(Fault::CrashByClock) {
                    running.instance.die();
                } else if strikes(Fault::Takeover) {
                    let next = start(world, false);
                    let old = current.replace(next).expect("it is running");
                    // Sooner or later its heartbeat tells it, if no commit did.
                    let (input, late) = (old.input.clone(), lock().faults.random.u64(0..120_000));
                    tokio::spawn(async move {
                        clock::sleep(millis(late)).await;
                        let _ = input.send(Input::Stop(Stop::Fenced)).await;
                    });
                    before.push(old);
                } else if strikes(Fault::Stop) {
                    let _ = running.input.try_send(Input::Stop(Stop::Asked));
                }
            }
        }
    }
    before.iter().chain(&current).for_each(Started::kill);
    lock().deaths += 1;
    check::now(&lock())?;
    lock().faults.calm = true;
    // What counts people who were taken apart is counted anew at the next start.
    drain(world).await?;
    while check::is_to_be_counted_anew(&lock()) {
        drain(world).await?;
    }
    lock().server.settle(i64::MAX);
    Ok(())
}

/// All is well from here on, and everything that waits gets through.
async fn drain(world: &Arc<Mutex<World>>) -> Result<(), String> {
    let last = start(world, true);
    tokio::select! {
        biased;
        () = last.instance.died.notified() => {}
        () = clock::sleep(Duration::from_secs(40 * 86_400)) => return Err("it does not come to rest".to_string()),
    }
    let ended = world.lock().expect("no panic while it is held").ended.get(&last.instance.number).cloned();
    match ended {
        Some(Ok(Outcome::Stopped)) => Ok(()),
        other => Err(format!("the last process ended with {other:?}")),
    }
}
