//! being written
use crate::cli::failure::Failure;
#[derive(Debug, clap::Args)]
pub struct Args {}
pub async fn run(_: Args) -> Result<(), Failure> {
    Ok(())
}
