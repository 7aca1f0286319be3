//! What one record amounts to. Total: any bytes give a step.

use crate::domain::Event;
use crate::event_log::Logged;
use crate::wire::cloudevent;
use crate::wire::fault::Fault;

#[derive(Debug)]
pub enum Step<'r> {
    Apply(Event<'r>),
    /// Kept whole, with the reason; the partition moves on.
    DeadLetter(Fault),
}

pub fn step(logged: &Logged) -> Step<'_> {
    match cloudevent::decode(&logged.record) {
        Ok(event) => Step::Apply(event),
        Err(fault) => Step::DeadLetter(fault),
    }
}
