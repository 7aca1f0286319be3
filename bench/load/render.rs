//! Events as requests, rendered before any clock starts.

use crate::generate::{Rng, realistic};
use crate::http;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::IntoIter;

const ONE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// One publish.
pub struct Post {
    pub request: Vec<u8>,
    head: usize,
    pub events: usize,
    /// The operation of the last event.
    pub operation_id: String,
}

/// The publishes of each sender, in order.
pub type Work = Vec<Arc<Vec<Post>>>;

impl Post {
    fn of(events: Vec<Value>) -> Post {
        let count = events.len();
        let subject = events.last().and_then(|event| event["subject"].as_str());
        let operation_id = subject.expect("an event has a subject").to_owned();
        let (content_type, body) = match &events[..] {
            [event] => (ONE, event.to_string()),
            _ => (BATCH, Value::Array(events).to_string()),
        };
        let request = http::post("/v1/events", content_type, body.as_bytes());
        Post {
            head: request.len() - body.len(),
            request,
            events: count,
            operation_id,
        }
    }

    pub fn body(&self) -> &[u8] {
        &self.request[self.head..]
    }
}

/// All events, divided into publishes.
pub fn posts(events: impl Iterator<Item = Value>, batch: usize) -> Vec<Post> {
    let mut events = events.peekable();
    let mut posts = Vec::new();
    while events.peek().is_some() {
        posts.push(Post::of(events.by_ref().take(batch).collect()));
    }
    posts
}

/// Renders the publishes of all senders in parallel.
pub fn for_each_sender(senders: usize, posts: impl Fn(usize) -> Vec<Post> + Sync) -> Work {
    std::thread::scope(|scope| {
        let posts = &posts;
        let threads = (0..senders).map(|sender| scope.spawn(move || posts(sender)));
        let threads: Vec<_> = threads.collect();
        let rendered = threads.into_iter().map(|thread| thread.join());
        rendered
            .map(|posts| Arc::new(posts.expect("rendering does not panic")))
            .collect()
    })
}

/// Deals publishes out to the senders in turn, so that their order stays about the
/// same.
pub fn deal(posts: Vec<Post>, senders: usize) -> Work {
    let mut dealt: Vec<Vec<Post>> = (0..senders).map(|_| Vec::new()).collect();
    for (at, post) in posts.into_iter().enumerate() {
        dealt[at % senders].push(post);
    }
    dealt.into_iter().map(Arc::new).collect()
}

/// All ordinary operations up to a number, one after the other.
pub fn operations(
    count: u64,
    senders: usize,
    batch: usize,
    keep: fn(Vec<Value>) -> Vec<Value>,
) -> Work {
    for_each_sender(senders, |sender| {
        let own = (sender as u64..count).step_by(senders);
        posts(own.flat_map(|i| keep(realistic(i))), batch)
    })
}

pub fn operation_id(i: u64) -> String {
    let first = &realistic(i)[0];
    first["subject"].as_str().expect("a subject").to_owned()
}

/// An endless sequence of ordinary operations for one sender: a fixed number is active at
/// once, and their events alternate.
pub struct Busy {
    next: u64,
    step: u64,
    going_on: VecDeque<IntoIter<Value>>,
}

impl Busy {
    pub fn new(sender: usize, senders: usize, in_flight: usize) -> Busy {
        let mut busy = Busy {
            next: sender as u64,
            step: senders as u64,
            going_on: VecDeque::new(),
        };
        for _ in 0..in_flight {
            let operation = busy.begin();
            busy.going_on.push_back(operation);
        }
        busy
    }

    fn begin(&mut self) -> IntoIter<Value> {
        let operation = realistic(self.next).into_iter();
        self.next += self.step;
        operation
    }
}

impl Iterator for Busy {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let mut operation = self.going_on.pop_front()?;
        let event = operation.next();
        if operation.len() == 0 {
            operation = self.begin();
        }
        self.going_on.push_back(operation);
        event
    }
}

/// The same events from workers that retry and race: one in fifty is repeated, one in
/// twenty is late.
pub struct Unruly<I: Iterator> {
    events: I,
    rng: Rng,
    late: Vec<I::Item>,
    /// The events of which one is repeated.
    recent: VecDeque<I::Item>,
}

impl<I: Iterator> Unruly<I> {
    const RECENT: usize = 1000;

    pub fn new(events: I) -> Unruly<I> {
        Unruly {
            events,
            rng: Rng::new(1),
            late: Vec::new(),
            recent: VecDeque::new(),
        }
    }
}

impl<I: Iterator<Item: Clone>> Iterator for Unruly<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        if self.rng.chance(2) && !self.recent.is_empty() {
            let at = self.rng.below(self.recent.len());
            return Some(self.recent[at].clone());
        }
        // On average some hundred others arrive before a late event.
        let event = if self.late.len() > 10 && self.rng.chance(5) {
            let at = self.rng.below(self.late.len());
            self.late.swap_remove(at)
        } else {
            loop {
                let Some(event) = self.events.next() else {
                    return self.late.pop();
                };
                if !self.rng.chance(5) {
                    break event;
                }
                self.late.push(event);
            }
        };
        if self.recent.len() == Self::RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(event.clone());
        Some(event)
    }
}
