//! Prints the documents of a log without a server: one JSON document per line, oldest operation
//! first.

use crate::domain::OperationId;
use crate::feed::documents;
use crate::store::{self, Db, Direction, Family, keys};
use crate::wire::time::TimeStyle;
use std::io::{self, Write};
use std::ops::ControlFlow;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

pub fn write_documents(db: &dyn Db, times: &TimeStyle, out: &mut dyn Write) -> Result<(), Error> {
    let mut written = Ok(());
    store::view(db, |view| {
        view.scan(
            Family::ByTime,
            keys::ALL,
            Direction::Forward,
            &mut |key, _| {
                let Some(id) = keys::operation_of_by_time(key) else {
                    return ControlFlow::Continue(());
                };
                written = write_document(db, id, times, out).map(drop);
                if written.is_err() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )
    })?;
    written
}

/// False if there is no such document.
pub fn write_document(
    db: &dyn Db,
    operation_id: OperationId,
    times: &TimeStyle,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let Some(mut document) = documents::read(db, operation_id, times)? else {
        return Ok(false);
    };
    document.push(b'\n');
    out.write_all(&document)?;
    Ok(true)
}
