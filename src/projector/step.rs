//! What one record amounts to. Total: any bytes give a step.

use crate::domain::Event;
use crate::event_log::Logged;
use crate::wire::cloudevent;
use crate::wire::fault::{Fault, Rule};
use std::time::Duration;

#[derive(Debug)]
pub enum Step<'r> {
    Apply(Event<'r>),
    /// Kept whole, with the reason; the partition moves on.
    DeadLetter(Fault),
}

/// What records are judged by, beside what they say.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Bytes of the largest event.
    pub max_size: usize,
    /// How far an event's time may be ahead of its arrival before that is told.
    pub clock_ahead: Duration,
    /// Dead letters are to be carried to a topic of their own as well.
    pub forward_dead_letters: bool,
}

impl Rules {
    /// Takes everything and tells nothing.
    pub const NONE: Rules = Rules {
        max_size: usize::MAX,
        clock_ahead: Duration::MAX,
        forward_dead_letters: false,
    };
}

pub fn step<'r>(logged: &'r Logged, rules: &Rules) -> Step<'r> {
    let record = &logged.record;
    if record.size() > rules.max_size {
        let what = format!("an event is at most {} bytes.", rules.max_size);
        return Step::DeadLetter(Fault::new(Rule::Size, "", what));
    }
    match cloudevent::decode(record) {
        Ok(event) => Step::Apply(event),
        Err(fault) => Step::DeadLetter(fault),
    }
}
