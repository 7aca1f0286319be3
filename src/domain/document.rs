//! The operation document as a view of the state: what it contains, in which order. Its JSON is
//! in `wire::document`.

use super::event::{Ending, LaneId, OrderKey, Outcome, Request, Response};
use super::operation::{Lane, Lanes, Operation, Status};
use super::operation_id::OperationId;
use super::time::Timestamp;
use std::collections::HashMap;

/// Fields in the order of the specification; what does not apply is `None`.
#[derive(Debug, PartialEq)]
pub struct Document<'s> {
    pub operation_id: &'s str,
    pub occurred_time: Timestamp,
    pub last_update_time: Timestamp,
    pub status: Status,
    pub sub_status: Option<&'s str>,
    pub request: &'s Request<'s>,
    pub response: Option<&'s Outcome<'s>>,
    pub target_clusters: Vec<TargetCluster<'s>>,
    pub rollbacks: Option<Rollbacks<'s>>,
}

#[derive(Debug, PartialEq)]
pub struct TargetCluster<'s> {
    pub cluster_id: &'s str,
    pub request: &'s Request<'s>,
    pub response: Option<&'s Response<'s>>,
}

#[derive(Debug, PartialEq)]
pub struct Rollbacks<'s> {
    pub result: RollbackResult,
    pub occurred_time: Timestamp,
    pub target_clusters: Vec<TargetCluster<'s>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RollbackResult {
    Completed,
    Failed,
    /// Undecided: a response is missing or has no status code.
    None,
}

impl RollbackResult {
    pub const ALL: [RollbackResult; 3] = [
        RollbackResult::Completed,
        RollbackResult::Failed,
        RollbackResult::None,
    ];

    pub fn parse(text: &str) -> Option<RollbackResult> {
        RollbackResult::ALL.into_iter().find(|r| r.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            RollbackResult::Completed => "completed",
            RollbackResult::Failed => "failed",
            RollbackResult::None => "none",
        }
    }
}

/// `None` until the creation has arrived (F1).
pub fn document<'s>(operation_id: OperationId<'s>, op: &'s Operation<'s>) -> Option<Document<'s>> {
    let created = op.created.get()?;
    let (_, last) = op.span.as_ref()?;
    let status = op.status();
    let ending = op.ending.get();
    let clusters = opened(&op.clusters);
    Some(Document {
        operation_id: operation_id.0,
        occurred_time: created.key.time,
        last_update_time: ending.map_or(last.time, |end| end.key.time),
        status,
        sub_status: match status {
            Status::Executing => op.sub_status.value().and_then(|text| text.as_deref()),
            Status::Unexecuted | Status::Completed | Status::Failed | Status::Canceled => None,
        },
        request: &created.value.request,
        response: match ending.map(|end| &end.value) {
            Some(Ending::Completed(outcome) | Ending::Failed(outcome)) => Some(outcome),
            Some(Ending::Canceled) | None => None,
        },
        rollbacks: rollbacks(op, &clusters),
        target_clusters: clusters.into_iter().map(entry).collect(),
    })
}

/// A lane whose request is known.
struct Opened<'s> {
    key: &'s OrderKey<'s>,
    id: &'s LaneId<'s>,
    request: &'s Request<'s>,
    lane: &'s Lane<'s>,
}

/// Lanes that have a request, in the order of the first one (F6, F7).
fn opened<'s>(lanes: &'s Lanes<'s>) -> Vec<Opened<'s>> {
    let mut opened: Vec<Opened<'s>> = lanes
        .iter()
        .filter_map(|(id, lane)| {
            let request = lane.request.get()?;
            Some(Opened {
                key: &request.key,
                id,
                request: &request.value,
                lane,
            })
        })
        .collect();
    // The sort is stable and the map is ordered by lane id, so lanes with equal keys stay
    // ordered by id.
    opened.sort_by_key(|lane| lane.key);
    opened
}

fn entry(lane: Opened<'_>) -> TargetCluster<'_> {
    TargetCluster {
        cluster_id: &lane.id.cluster_id,
        request: lane.request,
        response: lane.lane.response.value(),
    }
}

/// The result of F9, of the attempts that are known.
pub(super) fn rollback_result(rollbacks: &Lanes) -> Option<RollbackResult> {
    let attempted = || {
        rollbacks
            .values()
            .filter(|lane| lane.request.get().is_some())
    };
    let codes = || attempted().map(|lane| lane.response.value().and_then(|r| r.status_code));
    attempted().next()?;
    let is_2xx = |code: u16| (200..300).contains(&code);
    Some(if codes().flatten().any(|code| !is_2xx(code)) {
        RollbackResult::Failed
    } else if codes().all(|code| code.is_some()) {
        RollbackResult::Completed
    } else {
        RollbackResult::None
    })
}

/// F8 and F9.
fn rollbacks<'s>(op: &'s Operation<'s>, clusters: &[Opened<'s>]) -> Option<Rollbacks<'s>> {
    let mut lanes = opened(&op.rollbacks);
    let occurred_time = lanes.first()?.key.time;
    let rank: HashMap<(&str, &str), usize> = clusters
        .iter()
        .enumerate()
        .map(|(rank, lane)| ((&*lane.id.cluster_id, &*lane.id.request_id), rank))
        .collect();
    // Stable again: lanes without a rank keep the order of their first attempts.
    lanes.sort_by_key(|lane| {
        *rank
            .get(&(&*lane.id.cluster_id, &*lane.id.request_id))
            .unwrap_or(&usize::MAX)
    });
    Some(Rollbacks {
        result: rollback_result(&op.rollbacks)?,
        occurred_time,
        target_clusters: lanes.into_iter().map(entry).collect(),
    })
}
