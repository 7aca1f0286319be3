//! Before anything is sent: reads the whole control log and finds the deliveries that must be
//! held.

use super::{Parts, WebhookHandle, WebhookState, lock};
use crate::projector::control::{self, ControlLog, State};
use crate::store;
use crate::wire::control_record::Control;
use crate::wire::position::{NextOffsets, Offset};
use std::time::Duration;

/// Waits until the control log is read and it is known which deliveries are held: those that
/// were due before the returned offsets, because they may have been made before. Without
/// offsets no delivery is held.
pub async fn begin(parts: &Parts, control: &ControlLog, handle: &WebhookHandle) -> NextOffsets {
    let mut pause = Duration::from_millis(50);
    loop {
        let mut state = control.state();
        let why = loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Following => break begin_now(parts, control).await,
                State::Starting => {}
                State::Waiting(why) => *lock(&handle.doing) = WebhookState::Waiting(why),
                State::Halted(why) => *lock(&handle.doing) = WebhookState::Halted(why),
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        match why {
            Ok(ends) => return ends,
            Err(why) => {
                *lock(&handle.doing) = WebhookState::Waiting(why);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

async fn begin_now(parts: &Parts, control: &ControlLog) -> Result<NextOffsets, String> {
    let text = |error: store::Error| error.to_string();
    let applied = parts.progress.applied();
    let token = applied.token.as_ref();
    let log = token.ok_or("the log was not reached yet")?.log;
    let ends = match control::begun(&*parts.db, log).map_err(text)? {
        Some(ends) => ends,
        None => {
            let ends = match parts.begins.clone() {
                Some(ends) => ends,
                None => {
                    let (db_log, asked) = (parts.log.clone(), parts.log.id());
                    if asked != Some(log) {
                        return Err("the log is not the store's".into());
                    }
                    let asking = tokio::task::spawn_blocking(move || db_log.readable());
                    let ends = asking.await.map_err(|error| error.to_string())?;
                    ends.map_err(|error| error.to_string())?
                }
            };
            let ends: NextOffsets = ends
                .into_iter()
                .filter(|(_, end)| *end > Offset::ZERO)
                .collect();
            if !ends.is_empty() {
                tracing::warn!(
                    "the control log knows nothing of this log: notifications that are due \
                     already are held until they are released"
                );
            }
            let begun = Control::Begun { log, ends };
            control
                .record(&[begun])
                .await
                .map_err(|error| error.to_string())?;
            let begun = control::begun(&*parts.db, log).map_err(text)?;
            begun.ok_or("what was recorded is not there")?
        }
    };
    // A row's position decides whether it is held, so all rows before the offsets must be in
    // the store.
    parts.progress.wait_until_behind(&ends).await;
    Ok(ends)
}
