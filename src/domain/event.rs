//! One event, decoded and checked. Its strings borrow from the record if they can, so folding a
//! record copies nothing.

use super::body::Body;
use super::operation_id::OperationId;
use super::time::Timestamp;
use std::borrow::Cow;

/// Text that borrows from the record unless JSON escapes prevent it.
pub type Text<'a> = Cow<'a, str>;

/// Defines "earliest" and "latest" everywhere in the fold: compared left to right, strings by their
/// bytes. The field order is the comparison.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderKey<'a> {
    pub time: Timestamp,
    pub source: Text<'a>,
    pub id: Text<'a>,
}

/// Something that happened to the operation `operation_id`.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    pub operation_id: Text<'a>,
    pub key: OrderKey<'a>,
    pub kind: Kind<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind<'a> {
    Created {
        request: Request<'a>,
        notification: Option<Notification<'a>>,
    },
    Started,
    /// `None` clears the sub-status.
    Progressed {
        sub_status: Option<Text<'a>>,
    },
    RequestSent {
        lane: LaneId<'a>,
        request: Request<'a>,
    },
    ResponseReceived {
        lane: LaneId<'a>,
        response: Response<'a>,
    },
    RollbackAttempted {
        lane: LaneId<'a>,
        request: Request<'a>,
        response: Option<Response<'a>>,
    },
    RollbackResponseReceived {
        lane: LaneId<'a>,
        response: Response<'a>,
    },
    Ended(Ending<'a>),
}

/// Identifies a request to a cluster together with its response.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneId<'a> {
    pub cluster_id: Text<'a>,
    pub request_id: Text<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Post,
    Put,
    Delete,
    Patch,
}

impl Method {
    pub const ALL: [Method; 4] = [Method::Post, Method::Put, Method::Delete, Method::Patch];

    pub fn as_str(self) -> &'static str {
        match self {
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Patch => "PATCH",
        }
    }

    pub fn parse(text: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|m| m.as_str() == text)
    }
}

/// The body is opaque: text that is never parsed, `""` if there was none.
#[derive(Debug, Clone, PartialEq)]
pub struct Request<'a> {
    pub uri: Text<'a>,
    pub method: Method,
    pub body: Body<'a>,
}

/// A cluster's response. An empty body and no body are different.
#[derive(Debug, Clone, PartialEq)]
pub struct Response<'a> {
    pub status_code: Option<u16>,
    pub body: Option<Body<'a>>,
}

/// The response to the operation's own request, always with both fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome<'a> {
    pub status_code: u16,
    pub body: Body<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ending<'a> {
    Completed(Outcome<'a>),
    Failed(Outcome<'a>),
    Canceled,
}

/// The webhook receiver that gets the document when the operation has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification<'a> {
    pub address: Text<'a>,
    pub port: u16,
}

/// The same value, borrowing from this one: nothing is copied.
fn share<'b>(text: &'b Text) -> Text<'b> {
    Cow::Borrowed(text)
}

impl Event<'_> {
    pub fn operation(&self) -> OperationId<'_> {
        OperationId(&self.operation_id)
    }

    pub fn share(&self) -> Event<'_> {
        Event {
            operation_id: share(&self.operation_id),
            key: OrderKey {
                time: self.key.time,
                source: share(&self.key.source),
                id: share(&self.key.id),
            },
            kind: self.kind.share(),
        }
    }
}

impl<'a> Kind<'a> {
    pub fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Body<'a>> {
        let (request, response) = match self {
            Kind::Created { request, .. } | Kind::RequestSent { request, .. } => {
                (Some(&mut request.body), None)
            }
            Kind::ResponseReceived { response, .. }
            | Kind::RollbackResponseReceived { response, .. } => (None, response.body.as_mut()),
            Kind::RollbackAttempted {
                request, response, ..
            } => {
                let response = response.as_mut();
                let response = response.and_then(|response| response.body.as_mut());
                (Some(&mut request.body), response)
            }
            Kind::Ended(Ending::Completed(outcome) | Ending::Failed(outcome)) => {
                (None, Some(&mut outcome.body))
            }
            Kind::Started | Kind::Progressed { .. } | Kind::Ended(Ending::Canceled) => (None, None),
        };
        request.into_iter().chain(response)
    }

    fn share(&self) -> Kind<'_> {
        match self {
            Kind::Created {
                request,
                notification,
            } => Kind::Created {
                request: request.share(),
                notification: notification.as_ref().map(|to| Notification {
                    address: share(&to.address),
                    port: to.port,
                }),
            },
            Kind::Started => Kind::Started,
            Kind::Progressed { sub_status } => Kind::Progressed {
                sub_status: sub_status.as_ref().map(share),
            },
            Kind::RequestSent { lane, request } => Kind::RequestSent {
                lane: lane.share(),
                request: request.share(),
            },
            Kind::ResponseReceived { lane, response } => Kind::ResponseReceived {
                lane: lane.share(),
                response: response.share(),
            },
            Kind::RollbackAttempted {
                lane,
                request,
                response,
            } => Kind::RollbackAttempted {
                lane: lane.share(),
                request: request.share(),
                response: response.as_ref().map(Response::share),
            },
            Kind::RollbackResponseReceived { lane, response } => Kind::RollbackResponseReceived {
                lane: lane.share(),
                response: response.share(),
            },
            Kind::Ended(Ending::Completed(outcome)) => {
                Kind::Ended(Ending::Completed(outcome.share()))
            }
            Kind::Ended(Ending::Failed(outcome)) => Kind::Ended(Ending::Failed(outcome.share())),
            Kind::Ended(Ending::Canceled) => Kind::Ended(Ending::Canceled),
        }
    }
}

impl LaneId<'_> {
    pub fn share(&self) -> LaneId<'_> {
        LaneId {
            cluster_id: share(&self.cluster_id),
            request_id: share(&self.request_id),
        }
    }
}

impl Request<'_> {
    fn share(&self) -> Request<'_> {
        Request {
            uri: share(&self.uri),
            method: self.method,
            body: self.body.share(),
        }
    }
}

impl Response<'_> {
    fn share(&self) -> Response<'_> {
        Response {
            status_code: self.status_code,
            body: self.body.as_ref().map(Body::share),
        }
    }
}

impl Outcome<'_> {
    fn share(&self) -> Outcome<'_> {
        Outcome {
            status_code: self.status_code,
            body: self.body.share(),
        }
    }
}
