//! `opledger digest`: a digest of the store's content.

use crate::app;
use crate::cli::config::{DataArgs, KafkaFlags};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::data_folder::DataFolder;
use crate::domain::Slices;
use crate::rows::digest::StoreDigest;
use crate::rows::{self, meta};
use crate::store;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  opledger digest --data /var/lib/opledger
  opledger digest --data copy --json

The ledger must not be running. Two stores that have applied the same events have the
same digest. Which log they came from, their order, batches, restarts and rebuilds do
not affect it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,

    /// Print JSON, with the digest of each of the 64 slices; they add up to the whole
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let config = args.data.load(KafkaFlags::default())?;
    let folder = DataFolder::open_stored(&config.data)?;
    let store = rows::open(&folder.store(), app::memory(&config))?;
    let position = meta::token(&store)?.map(|token| token.to_string());
    let digest = store::view(&store, StoreDigest::of)?;
    let mut out = Output::new();
    match args.json {
        true => {
            let slices = Slices::ALL.iter();
            let slices: Vec<_> = slices
                .map(|slice| digest.of_slice(slice).to_string())
                .collect();
            let text = json!({
                "position": position,
                "digest": digest.whole().to_string(),
                "slices": slices,
            });
            out.line(text.to_string())?;
        }
        false => {
            out.line(digest.whole().to_string())?;
            out.line(format!(
                "at {}",
                position.as_deref().unwrap_or("the beginning")
            ))?;
        }
    }
    out.flush()
}
