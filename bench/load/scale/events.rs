//! The events of very many short operations, written without a JSON library, so that
//! the producer is not the bottleneck.

use crate::reference;
use crate::render::Unruly;
use serde_json::Value;
use std::ops::Range;

/// Events of each operation.
pub const EVENTS: u64 = 5;

/// The limit that keeps all times within one day.
pub const MOST: u64 = 50_000_000;

/// When the first operation was accepted: milliseconds of the day, and since 1970.
const DAWN: u64 = 26_139_123;
const ACCEPTED: u64 = 1_561_619_739_123;

pub fn operation_id(operation: u64) -> String {
    format!("000{}", ACCEPTED + operation)
}

/// The `number`th event of an operation.
#[derive(Clone, Copy)]
pub struct Event {
    pub operation: u64,
    pub number: u64,
}

impl Event {
    /// Key and value. About 330 bytes, as in the other measurements.
    pub fn render(self) -> (String, String) {
        let Event { operation, number } = self;
        let id = operation_id(operation);
        let request = |cluster: u64| {
            let line = operation % 1000;
            format!(
                r#"{{"uri":"/v1/slices/l2vpn/{line}/cps","method":"PUT","body":"{{\"action\":\"update_remark_menu\",\"cp\":{cluster},\"remark_menu\":\"af1\"}}"}}"#
            )
        };
        const DONE: &str = r#"{"status_code":200,"body":"{\"updated_cp_ids\":[\"7\",\"8\"]}"}"#;
        let (kind, after, data) = match number {
            0 => (
                "operation.created",
                0,
                format!(r#"{{"request":{}}}"#, request(0)),
            ),
            1 => ("operation.started", 17, "{}".to_owned()),
            2 => (
                "cluster.request_sent",
                85,
                format!(r#"{{"cluster_id":"1","request":{}}}"#, request(1)),
            ),
            3 => (
                "cluster.response_received",
                890,
                format!(r#"{{"cluster_id":"1","response":{DONE}}}"#),
            ),
            _ => (
                "operation.completed",
                1400,
                format!(r#"{{"response":{DONE}}}"#),
            ),
        };
        let worker = u64::from(number == 2 || number == 3);
        let time = time(DAWN + operation + after);
        let number = number + 1;
        let value = format!(
            r#"{{"specversion":"1.0","id":"{id}-{number}","source":"/workers/{worker}","type":"opledger.{kind}.v1","subject":"{id}","time":"{time}","datacontenttype":"application/json","data":{data}}}"#
        );
        (id, value)
    }
}

fn time(millis: u64) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("2019-06-27T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The document that the ledger has to serve once it has all events.
pub fn document(operation: u64) -> Value {
    let event = |number| {
        let (_, value) = Event { operation, number }.render();
        serde_json::from_str(&value).expect("it is JSON")
    };
    let events: Vec<Value> = (0..EVENTS).map(event).collect();
    reference::document(&events).expect("there are events")
}

/// All events of a range of operations, with a fixed number active at the same time.
pub struct Events {
    operations: Range<u64>,
    /// The number of operations that begin between two events of one operation.
    pace: u64,
    round: u64,
    number: u64,
}

impl Events {
    pub fn new(operations: Range<u64>, in_flight: u64) -> Events {
        Events {
            round: operations.start,
            operations,
            pace: (in_flight / (EVENTS - 1)).max(1),
            number: 0,
        }
    }

    /// Begins no operation from this one on; those that have begun continue.
    pub fn until(mut self, end: u64) -> Events {
        self.operations.end = end;
        self
    }

    /// The events as workers send them that retry and race.
    pub fn unruly(self) -> Unruly<Events> {
        Unruly::new(self)
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        while self.round < self.operations.end + (EVENTS - 1) * self.pace {
            let number = self.number;
            let operation = self.round.checked_sub(number * self.pace);
            self.number = (number + 1) % EVENTS;
            self.round += u64::from(self.number == 0);
            if let Some(operation) = operation.filter(|one| self.operations.contains(one)) {
                return Some(Event { operation, number });
            }
        }
        None
    }
}
