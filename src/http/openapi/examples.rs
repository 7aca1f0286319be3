//! Examples from a sample operation of `demo/`: its events, and the responses that the fold
//! makes of them.

use crate::domain::{Operation, OperationId};
use crate::wire::cloudevent::decode_structured;
use crate::wire::document::{Bodies, bytes};
use crate::wire::time::TimeStyle;
use std::fmt::Write;

const STORIES: &str = include_str!("../../../demo/stories.events.jsonl");
/// Two clusters, one of which refuses; the other is rolled back.
pub const OPERATION: &str = "0001561626000500";

fn story() -> impl Iterator<Item = &'static str> {
    let subject = format!("\"subject\": \"{OPERATION}\"");
    STORIES.lines().filter(move |line| line.contains(&subject))
}

fn document(bodies: Bodies) -> String {
    let mut operation = Operation::default();
    for line in story() {
        operation.absorb(decode_structured(line.as_bytes()).expect("a story has events"));
    }
    let document = bytes(
        OperationId(OPERATION),
        &operation,
        bodies,
        &TimeStyle::default(),
    );
    let document = document.expect("a story begins with its creation");
    String::from_utf8(document).expect("JSON is UTF-8")
}

fn history() -> String {
    let mut text = String::from("{\"events\":[");
    for (n, event) in story().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let offset = 1042 + n;
        write!(
            text,
            "{comma}{{\"position\":\"3:{offset}\",\"arrived\":\"2019-06-27T08:30:02.000Z\",\"event\":{event}}}"
        )
        .expect("memory takes it");
    }
    text + "]}"
}

/// The schemas that have an example.
const NAMES: [&str; 8] = [
    "Event",
    "Events",
    "EventData",
    "OperationDocument",
    "OperationList",
    "History",
    "Accepted",
    "DeadLetters",
];

/// JSON text with its members in the order of the ledger.
fn of(schema: &str) -> String {
    match schema {
        "Event" => story().next().expect("a story has events").to_owned(),
        "Events" => format!("[{}]", story().collect::<Vec<_>>().join(",")),
        "EventData" => r#"{"sub_status":"step 2 of 3"}"#.to_owned(),
        "OperationDocument" => document(Bodies::Shown),
        "OperationList" => format!("{{\"operations\":[{}]}}", document(Bodies::LeftOut)),
        "History" => history(),
        "Accepted" => r#"{"accepted":2,"positions":["3:1042","5:7"]}"#.to_owned(),
        "DeadLetters" => r#"{"dead_letters":[{"position":"3:1043","arrived":"2019-06-27T08:30:02.000Z","reason":"key_mismatch","detail":"key: must be the subject.","key":"another","headers":{},"value_base64":"e30="}]}"#.to_owned(),
        other => panic!("{other} has no example"),
    }
}

/// Stands for an example until the document is text: a JSON tree would sort its members.
pub fn placeholder(schema: &str) -> Option<String> {
    let has_example = NAMES.contains(&schema);
    has_example.then(|| format!("example of {schema}"))
}

/// Replaces the placeholders in the document.
pub fn put_into(document: String) -> String {
    NAMES.iter().fold(document, |document, schema| {
        let placeholder = format!("\"example of {schema}\"");
        document.replace(&placeholder, &of(schema))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_example_of_the_reference_has_two_clusters_and_a_rollback() {
        let events = of("Events");
        let events: Vec<Value> = serde_json::from_str(&events).unwrap();
        assert!(events.len() > 5, "{}", events.len());
        let document: Value = serde_json::from_str(&document(Bodies::Shown)).unwrap();
        assert_eq!(document["rollbacks"]["result"], "completed", "{document}");
        assert_eq!(document["target_clusters"].as_array().unwrap().len(), 2);
    }
}
