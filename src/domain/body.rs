//! Bodies of requests and answers: opaque text, kept and shown as it came. The fold asks
//! no more than whether two are the same, so a large one is not kept with the state: its
//! digest is, and its text once, with the event that brought it.

use super::event::Text;
use std::borrow::Cow;

/// The first bytes of a text's BLAKE3.
pub type Digest = [u8; 16];

#[derive(Debug, Clone)]
pub enum Body<'a> {
    Text(Text<'a>),
    /// The text is in the history.
    Named(Digest),
}

/// In bytes. A text of so many or more is named where it is stored with a state.
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

    /// For whoever has seen to it that it is known.
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
            // What is small is never named.
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
