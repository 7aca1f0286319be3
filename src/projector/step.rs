//! What one record amounts to. Total: any bytes give a step.

use super::halt::Halt;
use super::source::Source;
use crate::domain::{Event, Timestamp};
use crate::event_log::Logged;
use crate::wire::cloudevent;
use crate::wire::control_record::{self, Control, Decoded};
use crate::wire::fault::{Fault, Rule};
use std::time::Duration;

#[derive(Debug)]
pub enum Step<'r> {
    Apply(Event<'r>),
    /// Kept whole, with the reason; the partition moves on.
    DeadLetter(Fault),
    /// Of the control log, with its time.
    Control(Timestamp, Control),
    /// Of the control log, and none of ours: nothing follows from it.
    Foreign,
    /// The projector stops before it.
    Halt(Halt),
}

/// What records are judged by, beside what they say.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub source: Source,
    /// Bytes of the largest event.
    pub max_size: usize,
    /// How far an event's time may be ahead of its arrival before that is told.
    pub clock_ahead: Duration,
    /// Dead letters are to be carried to a topic of their own as well.
    pub forward_dead_letters: bool,
}

impl Rules {
    /// Of the control log: the ledger alone writes it.
    pub const CONTROL: Rules = Rules {
        source: Source::Control,
        ..Rules::NONE
    };
    /// Takes every event and tells nothing.
    pub const NONE: Rules = Rules {
        source: Source::Events,
        max_size: usize::MAX,
        clock_ahead: Duration::MAX,
        forward_dead_letters: false,
    };
}

pub fn step<'r>(logged: &'r Logged, rules: &Rules) -> Step<'r> {
    let record = &logged.record;
    if rules.source == Source::Control {
        return match control_record::decode(record) {
            Decoded::Control { at, control } => Step::Control(at, control),
            Decoded::Newer(kind) => Step::Halt(Halt::NewerControl(kind)),
            Decoded::Unreadable => {
                tracing::warn!(at = %logged.at, "ignoring an unknown record of the control log");
                Step::Foreign
            }
        };
    }
    if record.size() > rules.max_size {
        let what = format!("an event is at most {} bytes.", rules.max_size);
        return Step::DeadLetter(Fault::new(Rule::Size, "", what));
    }
    match cloudevent::decode(record) {
        Ok(event) => Step::Apply(event),
        Err(fault) => Step::DeadLetter(fault),
    }
}
