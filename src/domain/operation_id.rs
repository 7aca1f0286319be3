//! The id of an operation.

use std::fmt;
use std::ops::Deref;

/// So that no other text is taken for it: a source, an event's id, a cluster's. Made where an
/// operation is named from outside, or read from an event or a key; costs what a `&str` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId<'a>(pub &'a str);

impl Deref for OperationId<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.0
    }
}

impl fmt::Display for OperationId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }
}
