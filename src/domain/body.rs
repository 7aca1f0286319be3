//! Bodies of requests and responses: opaque text, kept and shown unchanged. The fold needs to
//! know only whether two bodies are equal. So the state of an operation has the digest of a
//! large body, and the history has its text once, with the event that brought it.

use super::event::Text;
use std::borrow::Cow;

/// The first bytes of a text's BLAKE3.
pub type Digest = [u8; 16];

#[derive(Debug, Clone)]
pub enum Body<'a> {
    Text(Text<'a>),
    /// Only the digest is known here. The text is in the history.
    Named(Digest),
}

/// In bytes. A text of at least this length is stored in a state by its digest.
pub const LARGE: usize = 4 << 10;

impl Body<'_> {
    pub fn is_large(&self) -> bool {
        self.known().is_none_or(|text| text.len() >= LARGE)
    }

    /// The same body, by its digest if it is large.
    pub fn name(&mut self) {
        if self.is_large() {
            *self = Body::Named(self.digest());
        }
    }

    pub fn digest(&self) -> Digest {
        match self {
            Body::Text(text) => {
                let mut digest = Digest::default();
                digest.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
                digest
            }
            Body::Named(digest) => *digest,
        }
    }

    /// `None` if it is only named.
    pub fn known(&self) -> Option<&str> {
        match self {
            Body::Text(text) => Some(text),
            Body::Named(_) => None,
        }
    }

    /// The text. Panics if only the digest is known.
    pub fn text(&self) -> &str {
        self.known()
            .expect("a body is looked up before its text is asked for")
    }

    /// The same value, borrowing from this one.
    pub(super) fn share(&self) -> Body<'_> {
        match self {
            Body::Text(text) => Body::Text(Cow::Borrowed(text)),
            Body::Named(digest) => Body::Named(*digest),
        }
    }
}

impl PartialEq for Body<'_> {
    fn eq(&self, other: &Body) -> bool {
        match (self, other) {
            (Body::Text(a), Body::Text(b)) => a == b,
            // A small body is never stored by its digest.
            (a, b) => a.is_large() && b.is_large() && a.digest() == b.digest(),
        }
    }
}

impl<'a> From<Text<'a>> for Body<'a> {
    fn from(text: Text<'a>) -> Body<'a> {
        Body::Text(text)
    }
}

impl From<String> for Body<'_> {
    fn from(text: String) -> Self {
        Body::Text(text.into())
    }
}
