//! The bodies of the events.

use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub enum Bodies {
    /// About 60 bytes each: about 350 bytes an event
    Small,
    /// Bodies of a real network controller: most some hundred bytes, the longest 16 KB
    Real,
    /// 10 KB each, of the same text
    Large,
}

/// The texts to choose from.
pub struct Texts {
    of_requests: Vec<String>,
    of_responses: Vec<String>,
}

impl Texts {
    pub fn of(bodies: Bodies) -> Texts {
        let requests = texts(include_str!("../../tests/bodies/requests.jsonl"));
        let responses = texts(include_str!("../../tests/bodies/responses.jsonl"));
        let (of_requests, of_responses) = match bodies {
            Bodies::Small => (Vec::new(), Vec::new()),
            Bodies::Real => (requests, responses),
            Bodies::Large => (cut(&requests), cut(&responses)),
        };
        Texts {
            of_requests,
            of_responses,
        }
    }

    /// An event with the same id always gets the same body.
    pub fn put_into(&self, event: &mut Value) {
        let mut hasher = DefaultHasher::new();
        event["id"].as_str().hash(&mut hasher);
        let chosen = hasher.finish() as usize;
        for (name, texts) in [
            ("request", &self.of_requests),
            ("response", &self.of_responses),
        ] {
            if !texts.is_empty() && event["data"][name].is_object() {
                event["data"][name]["body"] = texts[chosen % texts.len()].as_str().into();
            }
        }
    }
}

fn texts(lines: &str) -> Vec<String> {
    let body = |line| {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        line["body"].as_str().expect("a body").to_owned()
    };
    lines.lines().map(body).collect()
}

/// Pieces of 10 KB of all texts together; each piece begins at another place.
fn cut(texts: &[String]) -> Vec<String> {
    const SIZE: usize = 10 << 10;
    let all: Vec<char> = texts.concat().chars().collect();
    let starts = (0..all.len()).step_by(997);
    let piece = |start| all.iter().cycle().skip(start).take(SIZE).collect();
    starts.map(piece).collect()
}
