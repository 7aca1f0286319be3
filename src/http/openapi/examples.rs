//! Examples out of a story of `demo/`: its events, and the answers that follow from
//! them by the fold itself.

use crate::domain::Operation;
use crate::query::document::bytes;
use crate::wire::cloudevent::decode_structured;
use crate::wire::document::Bodies;
use crate::wire::time::TimeStyle;
use serde_json::{Value, json};

const STORIES: &str = include_str!("../../../demo/stories.events.jsonl");
/// Two clusters, one of which refuses; the other is rolled back.
pub const OPERATION: &str = "0001561626000500";

fn story() -> impl Iterator<Item = &'static str> {
    let subject = format!("\"subject\": \"{OPERATION}\"");
    STORIES.lines().filter(move |line| line.contains(&subject))
}

fn events() -> Vec<Value> {
    let events = story().map(serde_json::from_str);
    events.collect::<Result<_, _>>().expect("a story is JSON")
}

fn document(bodies: Bodies) -> Value {
    let mut operation = Operation::default();
    for line in story() {
        operation.absorb(decode_structured(line.as_bytes()).expect("a story has events"));
    }
    let document = bytes(OPERATION, &operation, bodies, &TimeStyle::default());
    let document = document.expect("a story begins with its creation");
    serde_json::from_slice(&document).expect("a document is JSON")
}

/// By the name of a schema.
pub fn of(schema: &str) -> Option<Value> {
    Some(match schema {
        "event" => events().swap_remove(0),
        "events" => Value::from(events()),
        "operation-document" => document(Bodies::Shown),
        "operation-list" => json!({"operations": [document(Bodies::LeftOut)]}),
        "history" => {
            let entry = |(n, event): (usize, Value)| {
                json!({
                    "position": format!("3:{}", 1042 + n),
                    "arrived": "2019-06-27T08:30:02.000Z",
                    "event": event,
                })
            };
            let entries: Vec<Value> = events().into_iter().enumerate().map(entry).collect();
            json!({"events": entries})
        }
        "accepted" => json!({"accepted": 2, "positions": ["3:1042", "5:7"]}),
        "dead-letters" => json!({"dead_letters": [{
            "position": "3:1043",
            "arrived": "2019-06-27T08:30:02.000Z",
            "reason": "key_mismatch",
            "detail": "key: must be the subject.",
            "key": "another",
            "headers": {},
            "value_base64": "e30=",
        }]}),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_is_worth_showing() {
        assert!(events().len() > 5, "{}", events().len());
        let document = document(Bodies::Shown);
        assert_eq!(document["rollbacks"]["result"], "completed", "{document}");
        assert_eq!(
            document["target_clusters"].as_array().map(Vec::len),
            Some(2)
        );
    }
}
