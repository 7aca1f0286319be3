//! Prints the documents of a log without a server: one JSON document per line, oldest operation
//! first.

use crate::domain::OperationId;
use crate::feed::documents;
use crate::rows::lists;
use crate::store::{self, Db};
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
    lists::each(db, &mut |id| {
        written = write_document(db, id, times, out).map(drop);
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
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
