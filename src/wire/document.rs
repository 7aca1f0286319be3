//! The operation document as JSON: fields in the order of the specification, absent instead of
//! null, bodies unchanged. Written directly into the response's buffer, without a tree.

use super::time::TimeStyle;
use crate::domain::{
    Body, Document, Operation, OperationId, Request, TargetCluster, Timestamp, document,
};

/// The detail list shows documents without any body. Those that are shown must be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bodies {
    Shown,
    LeftOut,
}

/// The document of an operation; `None` while it has none.
pub fn bytes(
    operation_id: OperationId,
    op: &Operation,
    bodies: Bodies,
    times: &TimeStyle,
) -> Option<Vec<u8>> {
    Some(rendered(&document(operation_id, op)?, bodies, times))
}

/// The document as separate bytes.
pub fn rendered(document: &Document, bodies: Bodies, times: &TimeStyle) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    render(document, bodies, times, &mut out);
    out
}

pub fn render(doc: &Document, bodies: Bodies, times: &TimeStyle, out: &mut Vec<u8>) {
    let mut w = Writer { out, bodies, times };
    w.raw("{\"operation_id\":");
    w.text(doc.operation_id);
    w.raw(",\"occurred_time\":");
    w.time(doc.occurred_time);
    w.raw(",\"last_update_time\":");
    w.time(doc.last_update_time);
    w.raw(",\"status\":");
    w.text(doc.status.as_str());
    if let Some(sub_status) = doc.sub_status {
        w.raw(",\"sub_status\":");
        w.text(sub_status);
    }
    w.raw(",\"request\":");
    w.request(doc.request);
    if let Some(outcome) = doc.response {
        w.raw(",\"response\":");
        w.response(Some(outcome.status_code), Some(&outcome.body));
    }
    w.raw(",\"target_clusters\":");
    w.entries(&doc.target_clusters);
    if let Some(rollbacks) = &doc.rollbacks {
        w.raw(",\"rollbacks\":{\"result\":");
        w.text(rollbacks.result.as_str());
        w.raw(",\"occurred_time\":");
        w.time(rollbacks.occurred_time);
        w.raw(",\"target_clusters\":");
        w.entries(&rollbacks.target_clusters);
        w.raw("}");
    }
    w.raw("}");
}

/// A JSON string.
pub fn text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing to memory cannot fail");
}

struct Writer<'w> {
    out: &'w mut Vec<u8>,
    bodies: Bodies,
    times: &'w TimeStyle,
}

impl Writer<'_> {
    fn raw(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    fn text(&mut self, value: &str) {
        text(value, self.out);
    }

    fn time(&mut self, time: Timestamp) {
        self.out.push(b'"');
        self.times.write(time, self.out);
        self.out.push(b'"');
    }

    fn request(&mut self, request: &Request) {
        self.raw("{\"uri\":");
        self.text(&request.uri);
        self.raw(",\"method\":");
        self.text(request.method.as_str());
        if self.bodies == Bodies::Shown {
            self.raw(",\"body\":");
            self.text(request.body.text());
        }
        self.raw("}");
    }

    fn response(&mut self, status_code: Option<u16>, body: Option<&Body>) {
        self.raw("{");
        if let Some(code) = status_code {
            self.raw("\"status_code\":");
            self.raw(itoa::Buffer::new().format(code));
        }
        if let (Some(body), Bodies::Shown) = (body, self.bodies) {
            self.raw(if status_code.is_some() {
                ",\"body\":"
            } else {
                "\"body\":"
            });
            self.text(body.text());
        }
        self.raw("}");
    }

    fn entries(&mut self, entries: &[TargetCluster]) {
        self.raw("[");
        for (i, entry) in entries.iter().enumerate() {
            self.raw(if i == 0 {
                "{\"cluster_id\":"
            } else {
                ",{\"cluster_id\":"
            });
            self.text(entry.cluster_id);
            self.raw(",\"request\":");
            self.request(entry.request);
            if let Some(response) = entry.response {
                self.raw(",\"response\":");
                self.response(response.status_code, response.body.as_ref());
            }
            self.raw("}");
        }
        self.raw("]");
    }
}
