//! Decodes one record. Total: every sequence of bytes has a result.

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
    /// A record of the control log, with its time.
    Control(Timestamp, Control),
    /// An unknown record of the control log. Ignored.
    Foreign,
    /// No slice wants it that it was read for.
    LeftOut,
    /// The projector halts before it.
    Halt(Halt),
}

/// The settings that decide about a record.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub source: Source,
    /// Bytes of the largest event.
    pub max_size: usize,
    /// How far an event's time may be ahead of its arrival before that is counted.
    pub clock_ahead: Duration,
    /// Whether dead letters are also sent to a topic.
    pub forward_dead_letters: bool,
}

impl Rules {
    /// For the control log, which only the ledger writes.
    pub const CONTROL: Rules = Rules {
        source: Source::Control,
        ..Rules::NONE
    };
    /// Accepts every event and counts nothing.
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
