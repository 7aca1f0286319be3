//! The state of one operation: a join-semilattice of registers, which keep the earliest or the
//! latest value, and of maps of registers (rules F1 to F11 in docs/events.md).
//!
//! `absorb` is the fold. Live projection, recovery, replay and rebuild all call it; nothing
//! else interprets events. It cannot fail: contradictions are anomalies, never a reason to
//! stop.

use super::anomaly::{Anomalies, Anomaly};
use super::body::Body;
use super::event::{Ending, Event, Kind, LaneId, Notification, OrderKey, Request, Response, Text};
use super::register::{Earliest, Joined, Latest};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    Unexecuted,
    Executing,
    Completed,
    Failed,
    Canceled,
}

impl Status {
    pub const ALL: [Status; 5] = [
        Status::Unexecuted,
        Status::Executing,
        Status::Completed,
        Status::Failed,
        Status::Canceled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Unexecuted => "unexecuted",
            Status::Executing => "executing",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Canceled => "canceled",
        }
    }

    pub fn parse(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|s| s.as_str() == text)
    }

    pub fn has_ended(self) -> bool {
        match self {
            Status::Unexecuted | Status::Executing => false,
            Status::Completed | Status::Failed | Status::Canceled => true,
        }
    }
}

/// A request to a cluster or a rollback, with its response. The response may arrive first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lane<'a> {
    pub request: Earliest<'a, Request<'a>>,
    pub response: Latest<'a, Response<'a>>,
}

impl<'a> Lane<'a> {
    pub fn join(&mut self, other: Lane<'a>) {
        self.request.join(other.request);
        self.response.join(other.response);
    }

    /// A response whose request has not arrived.
    pub fn is_waiting(&self) -> bool {
        self.request.get().is_none() && self.response.get().is_some()
    }
}

pub type Lanes<'a> = BTreeMap<LaneId<'a>, Lane<'a>>;
/// The request and the webhook receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct Creation<'a> {
    pub request: Request<'a>,
    pub notification: Option<Notification<'a>>,
}

/// The effect of adding an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absorbed {
    Plainly,
    /// Another terminal event counts than before.
    Revised,
    /// The event shares its order key with a different one, and the text of a body decides
    /// which of the two counts, but only its digest is known here. Add the event again with the
    /// text.
    Undecided,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Operation<'a> {
    pub created: Earliest<'a, Creation<'a>>,
    /// Whether an event has been seen that makes the status `executing`.
    pub begun: bool,
    pub sub_status: Latest<'a, Option<Text<'a>>>,
    pub ending: Earliest<'a, Ending<'a>>,
    /// Order keys of the first and the last event of any kind.
    pub span: Option<(OrderKey<'a>, OrderKey<'a>)>,
    pub clusters: Lanes<'a>,
    pub rollbacks: Lanes<'a>,
}

impl<'a> Operation<'a> {
    /// Adds one event.
    pub fn absorb(&mut self, event: Event<'a>) -> Absorbed {
        let key = event.key;
        self.extend_span(&key, &key);
        let ended = self.ending.get().is_some();
        let joined = match event.kind {
            Kind::Created {
                request,
                notification,
            } => self.created.offer(
                key,
                Creation {
                    request,
                    notification,
                },
            ),
            Kind::Started => {
                self.begun = true;
                Joined::Kept
            }
            Kind::Progressed { sub_status } => self.sub_status.offer(key, sub_status),
            Kind::RequestSent { lane, request } => {
                self.begun = true;
                let lane = self.clusters.entry(lane).or_default();
                lane.request.offer(key, request)
            }
            Kind::ResponseReceived { lane, response } => {
                self.begun = true;
                let lane = self.clusters.entry(lane).or_default();
                lane.response.offer(key, response)
            }
            Kind::RollbackAttempted {
                lane,
                request,
                response,
            } => {
                self.begun = true;
                let lane = self.rollbacks.entry(lane).or_default();
                let response = match response {
                    Some(response) => lane.response.offer(key.clone(), response),
                    None => Joined::Kept,
                };
                response.max(lane.request.offer(key, request))
            }
            Kind::RollbackResponseReceived { lane, response } => {
                self.begun = true;
                let lane = self.rollbacks.entry(lane).or_default();
                lane.response.offer(key, response)
            }
            Kind::Ended(ending) => {
                let joined = self.ending.offer(key, ending);
                if joined == Joined::Replaced && ended {
                    return Absorbed::Revised;
                }
                joined
            }
        };
        match joined {
            Joined::Undecided => Absorbed::Undecided,
            Joined::Kept | Joined::Replaced => Absorbed::Plainly,
        }
    }

    /// Every body, with the order key of the event that brought it.
    pub fn bodies_mut(&mut self) -> impl Iterator<Item = (&OrderKey<'a>, &mut Body<'a>)> {
        let created = self.created.parts_mut();
        let created = created.map(|(key, created)| (key, &mut created.request.body));
        let ending = self.ending.parts_mut();
        let ending = ending.and_then(|(key, ending)| match ending {
            Ending::Completed(outcome) | Ending::Failed(outcome) => Some((key, &mut outcome.body)),
            Ending::Canceled => None,
        });
        let lanes = self
            .clusters
            .values_mut()
            .chain(self.rollbacks.values_mut());
        let lanes = lanes.flat_map(|lane| {
            let request = lane.request.parts_mut();
            let request = request.map(|(key, request)| (key, &mut request.body));
            let response = lane.response.parts_mut();
            let response =
                response.and_then(|(key, response)| Some((key, response.body.as_mut()?)));
            request.into_iter().chain(response)
        });
        created.into_iter().chain(ending).chain(lanes)
    }

    /// The least upper bound of two states, all of whose bodies must be known. `absorb` of an
    /// event equals `join` with the state of that event alone.
    pub fn join(&mut self, other: Operation<'a>) {
        if let Some((first, last)) = &other.span {
            self.extend_span(first, last);
        }
        self.created.join(other.created);
        self.begun |= other.begun;
        self.sub_status.join(other.sub_status);
        self.ending.join(other.ending);
        for (id, lane) in other.clusters {
            self.clusters.entry(id).or_default().join(lane);
        }
        for (id, lane) in other.rollbacks {
            self.rollbacks.entry(id).or_default().join(lane);
        }
    }

    fn extend_span(&mut self, first: &OrderKey<'a>, last: &OrderKey<'a>) {
        match &mut self.span {
            None => self.span = Some((first.clone(), last.clone())),
            Some((held_first, held_last)) => {
                if first < held_first {
                    *held_first = first.clone();
                }
                if last > held_last {
                    *held_last = last.clone();
                }
            }
        }
    }

    /// Rule F2. Derived, never stored.
    pub fn status(&self) -> Status {
        match self.ending.value() {
            Some(Ending::Completed(_)) => Status::Completed,
            Some(Ending::Failed(_)) => Status::Failed,
            Some(Ending::Canceled) => Status::Canceled,
            None if self.begun => Status::Executing,
            None => Status::Unexecuted,
        }
    }

    /// The current anomalies of the set, including those of the lanes that are loaded.
    pub fn anomalies(&self) -> Anomalies {
        let (first, last) = match &self.span {
            Some((first, last)) => (Some(first), Some(last)),
            None => (None, None),
        };
        let lanes = || self.clusters.values().chain(self.rollbacks.values());
        let created = self.created.get().map(|kept| &kept.key);
        let ended = self.ending.get().map(|kept| &kept.key);
        let mut set = Anomalies::default();
        set.put(Anomaly::CreatedAgain, self.created.is_contested());
        set.put(Anomaly::BeforeCreated, created.is_some() && first < created);
        set.put(Anomaly::TerminalConflict, self.ending.is_contested());
        set.put(Anomaly::EventAfterTerminal, ended.is_some() && last > ended);
        set.put(
            Anomaly::ResponseWithoutRequest,
            lanes().any(Lane::is_waiting),
        );
        set.put(
            Anomaly::ResponseReplaced,
            lanes().any(|lane| lane.response.is_contested()),
        );
        set
    }
}
