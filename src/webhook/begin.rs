//! Before anything is sent: reads the whole control log and finds the deliveries that must be
//! held.

use super::control_log::ControlLog;
use super::{Parts, WebhookHandle, WebhookState, lock};
use crate::feed::progress;
use crate::rows::outbox;
use crate::store;
use crate::wire::control_record::Control;
use crate::wire::position::{NextOffsets, Offset};
use crate::worker::Pauses;
use std::time::Duration;

/// Waits until the control log is read and it is known which deliveries are held: those that
/// were due before the returned offsets, because they may have been made before. Without
/// offsets no delivery is held.
pub async fn begin(parts: &Parts, control: &ControlLog, handle: &WebhookHandle) -> NextOffsets {
    let mut pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut reading = control.watch_doing();
    loop {
        let doing = match reading.borrow_and_update().clone() {
            progress::Doing::Running => None,
            progress::Doing::Starting | progress::Doing::Stopped => Some(WebhookState::Starting),
            progress::Doing::Waiting(why) => Some(WebhookState::Waiting(why)),
            progress::Doing::Halted(why) => Some(WebhookState::Halted(why)),
        };
        let is_running = doing.is_none();
        if let Some(doing) = doing {
            *lock(&handle.doing) = doing;
        }
        tokio::select! {
            begun = begin_now(parts, control), if is_running => match begun {
                Ok(ends) => return ends,
                Err(why) => {
                    *lock(&handle.doing) = WebhookState::Waiting(why);
                    tokio::time::sleep(pauses.next_pause()).await;
                }
            },
            changed = reading.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
        }
    }
}

async fn begin_now(parts: &Parts, control: &ControlLog) -> Result<NextOffsets, String> {
    control.wait_until_read().await?;
    let text = |error: store::Error| error.to_string();
    let applied = parts.progress.applied();
    let token = applied.token.as_ref();
    let log = token.ok_or("the log was not reached yet")?.log;
    let ends = match outbox::begun(parts.writer.db(), log).map_err(text)? {
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
            let begun = outbox::begun(parts.writer.db(), log).map_err(text)?;
            begun.ok_or("what was recorded is not there")?
        }
    };
    // A row's position decides whether it is held, so all rows before the offsets must be in
    // the store.
    parts.progress.wait_until_behind(&ends).await;
    Ok(ends)
}
