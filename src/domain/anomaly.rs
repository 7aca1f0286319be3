//! Anomalies: contradictions and gaps between the events of one operation. They are flags of
//! the state, so the order of the events does not affect them.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Anomaly {
    /// Two creations with different content.
    CreatedAgain = 0,
    /// An event earlier than the creation.
    BeforeCreated = 1,
    /// A second, different terminal event.
    TerminalConflict = 2,
    /// An event later than the terminal event that counts.
    EventAfterTerminal = 3,
    /// A response whose request has not arrived.
    ResponseWithoutRequest = 4,
    /// Two responses to one request with different content.
    ResponseReplaced = 5,
}

impl Anomaly {
    pub const ALL: [Anomaly; 6] = [
        Anomaly::CreatedAgain,
        Anomaly::BeforeCreated,
        Anomaly::TerminalConflict,
        Anomaly::EventAfterTerminal,
        Anomaly::ResponseWithoutRequest,
        Anomaly::ResponseReplaced,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Anomaly::CreatedAgain => "created_again",
            Anomaly::BeforeCreated => "before_created",
            Anomaly::TerminalConflict => "terminal_conflict",
            Anomaly::EventAfterTerminal => "event_after_terminal",
            Anomaly::ResponseWithoutRequest => "response_without_request",
            Anomaly::ResponseReplaced => "response_replaced",
        }
    }
}

/// A set of anomalies, one bit each (bit = discriminant). The bits are stored, so a number is
/// never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Anomalies(pub u8);

impl Anomalies {
    pub fn put(&mut self, anomaly: Anomaly, holds: bool) {
        self.0 |= u8::from(holds) << anomaly as u8;
    }

    pub fn contains(self, anomaly: Anomaly) -> bool {
        self.0 & 1 << anomaly as u8 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Anomaly> {
        Anomaly::ALL.into_iter().filter(move |a| self.contains(*a))
    }
}
