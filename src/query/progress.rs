//! How far the store is, for everyone who reads: the applied positions, what the
//! projector is doing, and waiting for a position without polling.

use crate::wire::position::{Positions, Token};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// What the store holds, and the same as text. The log is the store's own: if the
/// projector has halted because it is pointed at another, reads still say which
/// log they come from.
#[derive(Debug)]
pub struct Applied {
    pub token: Token,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    Starting,
    Running,
    /// Trying again; nothing is lost and nothing moves.
    Waiting(String),
    /// Stopped until someone acts.
    Halted(String),
    Stopped,
}

pub struct Progress {
    applied: watch::Sender<Arc<Applied>>,
    doing: watch::Sender<Doing>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum WaitError {
    /// The token belongs to another log.
    OtherLog,
    /// Not reached by the deadline.
    TimedOut,
}

impl Progress {
    /// Begins with what the store holds.
    pub fn new(held: Token) -> Progress {
        Progress {
            applied: watch::Sender::new(Applied::new(held)),
            doing: watch::Sender::new(Doing::Starting),
        }
    }

    /// Read it *before* the store: what is read then holds at least this much.
    pub fn applied(&self) -> Arc<Applied> {
        self.applied.borrow().clone()
    }

    pub fn doing(&self) -> Doing {
        self.doing.borrow().clone()
    }

    /// After the write that these positions were part of.
    pub fn publish(&self, held: Token) {
        self.applied.send_replace(Applied::new(held));
    }

    pub fn set_doing(&self, doing: Doing) {
        self.doing.send_replace(doing);
    }

    /// Returns once the store holds all that the token names.
    pub async fn wait_for(&self, token: &Token, deadline: Instant) -> Result<(), WaitError> {
        if token.log != self.applied().token.log {
            return Err(WaitError::OtherLog);
        }
        let mut applied = self.applied.subscribe();
        let reached =
            applied.wait_for(|applied| covers(&applied.token.positions, &token.positions));
        match tokio::time::timeout_at(deadline.into(), reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(WaitError::TimedOut),
        }
    }
}

impl Applied {
    fn new(token: Token) -> Arc<Applied> {
        Arc::new(Applied {
            text: token.to_string(),
            token,
        })
    }
}

pub fn covers(held: &Positions, wanted: &Positions) -> bool {
    wanted
        .iter()
        .all(|(partition, offset)| held.get(partition).is_some_and(|held| held >= offset))
}
