//! RFC 8785 canonical JSON of a register's value. It decides between two events with the same
//! order key, and is computed only then.

use super::event::{Ending, Notification, Outcome, Request, Response, Text};
use super::operation::Creation;

/// A value of a register. Different values must have different canonical texts: the join is
/// only a join if a tie has one winner. `None` if the text of a body is not known here.
pub trait Value: PartialEq {
    fn canonical(&self, out: &mut String) -> Option<()>;
}

/// Members must be written in RFC 8785 order (by name, all of ours are ASCII).
fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

impl Value for Request<'_> {
    fn canonical(&self, out: &mut String) -> Option<()> {
        out.push_str("{\"body\":");
        string(self.body.known()?, out);
        out.push_str(",\"method\":");
        string(self.method.as_str(), out);
        out.push_str(",\"uri\":");
        string(&self.uri, out);
        out.push('}');
        Some(())
    }
}

impl Value for Response<'_> {
    fn canonical(&self, out: &mut String) -> Option<()> {
        out.push('{');
        if let Some(body) = &self.body {
            out.push_str("\"body\":");
            string(body.known()?, out);
        }
        if let Some(code) = self.status_code {
            if self.body.is_some() {
                out.push(',');
            }
            out.push_str(&format!("\"status_code\":{code}"));
        }
        out.push('}');
        Some(())
    }
}

impl Value for Ending<'_> {
    fn canonical(&self, out: &mut String) -> Option<()> {
        let (outcome, status): (Option<&Outcome>, _) = match self {
            Ending::Completed(outcome) => (Some(outcome), "completed"),
            Ending::Failed(outcome) => (Some(outcome), "failed"),
            Ending::Canceled => (None, "canceled"),
        };
        out.push('{');
        if let Some(Outcome { status_code, body }) = outcome {
            out.push_str("\"response\":{\"body\":");
            string(body.known()?, out);
            out.push_str(&format!(",\"status_code\":{status_code}}},"));
        }
        out.push_str(&format!("\"status\":\"{status}\"}}"));
        Some(())
    }
}

impl Value for Option<Text<'_>> {
    fn canonical(&self, out: &mut String) -> Option<()> {
        match self {
            Some(text) => string(text, out),
            None => out.push_str("null"),
        }
        Some(())
    }
}

/// The value of a creation. The request decides a tie. If the requests are equal, the
/// notification decides, so that a tie has one winner.
impl Value for Creation<'_> {
    fn canonical(&self, out: &mut String) -> Option<()> {
        self.request.canonical(out)?;
        if let Some(Notification { address, port }) = &self.notification {
            out.push_str("{\"address\":");
            string(address, out);
            out.push_str(&format!(",\"port\":{port}}}"));
        }
        Some(())
    }
}
