//! The schemas and the code say the same, tested both ways: what one takes the
//! other takes, and what one refuses the other refuses.

mod support;

use jsonschema::Validator;
use opledger::domain::Operation;
use opledger::query::document::bytes;
use opledger::wire::cloudevent::decode_structured;
use opledger::wire::document::Bodies;
use opledger::wire::time::TimeStyle;
use serde_json::{Value, json};
use support::generate::{self, Rng};

fn schema(name: &str) -> Value {
    let path = format!("{}/schemas/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::new(schema).unwrap()
}

fn taken(event: &Value) -> bool {
    decode_structured(event.to_string().as_bytes()).is_ok()
}

/// Puts something else in the place of one member, or removes it.
fn mutate(rng: &mut Rng, value: &mut Value) {
    let Value::Object(members) = value else {
        return;
    };
    let names: Vec<String> = members.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = rng.pick(&names).clone();
    if members[&name].is_object() && rng.chance(70) {
        return mutate(rng, &mut members[&name]);
    }
    // What a schema cannot say is left alone: the calendar, URI syntax.
    let texts = if matches!(name.as_str(), "time" | "source") {
        1
    } else {
        4
    };
    match rng.below(5) {
        0 => {
            members.remove(&name);
        }
        1 => members[&name] = Value::Null,
        2 => {
            members[&name] = rng
                .pick(&[json!(7), json!(true), json!([]), json!({})])
                .clone()
        }
        3 => {
            members[&name] = rng
                .pick(&[json!(99), json!(600), json!(70_000), json!(-1)])
                .clone()
        }
        _ => {
            let text = ["", "GET", "a/b", &"x".repeat(9_000)][rng.below(texts)].to_owned();
            members[&name] = json!(text);
        }
    }
}

#[test]
fn the_event_schema_takes_what_the_decoder_takes_and_nothing_else() {
    let validator = validator(&schema("event"));
    let mut rng = Rng::new(23);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3_000 {
        let event = generate::operation(&mut rng, "op-1", 1).remove(0);
        assert!(taken(&event) && validator.is_valid(&event), "{event}");
        let mut mutant = event.clone();
        mutate(&mut rng, &mut mutant);
        let is_taken = taken(&mutant);
        assert_eq!(validator.is_valid(&mutant), is_taken, "{mutant}");
        if is_taken { good += 1 } else { bad += 1 }
    }
    assert!(good > 100 && bad > 100, "both happen: {good} and {bad}");
}

#[test]
fn documents_and_lists_keep_their_schema() {
    let whole = schema("operation-document");
    let document = validator(&whole);
    let within = |name: &str| {
        let mut list = whole.clone();
        let object = list.as_object_mut().unwrap();
        for keyword in [
            "type",
            "additionalProperties",
            "required",
            "properties",
            "allOf",
        ] {
            object.remove(keyword);
        }
        object.insert("$ref".into(), json!(format!("#/$defs/{name}")));
        validator(&list)
    };
    let (details, ids) = (within("detail_list"), within("id_list"));
    assert!(ids.is_valid(&json!({"operation_ids": ["a", "b"]})));
    assert!(!ids.is_valid(&json!({"operation_ids": ["log"]})));
    let mut rng = Rng::new(29);
    for _ in 0..500 {
        let size = rng.below(20);
        let texts: Vec<String> = generate::operation(&mut rng, "op-1", size)
            .iter()
            .map(Value::to_string)
            .collect();
        let mut op = Operation::default();
        for text in &texts {
            op.absorb(decode_structured(text.as_bytes()).unwrap());
        }
        let render = |bodies| {
            let json = bytes("op-1", &op, bodies, &TimeStyle::default())?;
            Some(serde_json::from_slice::<Value>(&json).unwrap())
        };
        let Some(mut shown) = render(Bodies::Shown) else {
            continue;
        };
        assert!(document.is_valid(&shown), "{shown}");
        let bare = render(Bodies::LeftOut).unwrap();
        assert!(details.is_valid(&json!({"operations": [bare]})));
        assert!(
            !details.is_valid(&json!({"operations": [shown]})),
            "bodies are left out"
        );
        shown["sub_status"] = Value::Null;
        assert!(!document.is_valid(&shown), "nothing is ever null");
    }
}
