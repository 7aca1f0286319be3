//! The command line.

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Measure a ledger: starts one, loads it, prints a Markdown table
///
/// Settings of the ledger come from the environment, as in
/// OPLEDGER_PROJECTOR__HOT_CACHE=0.
#[derive(Parser)]
#[command(name = "load")]
pub struct Args {
    /// The program to measure [default: opledger, as built beside this one]
    #[arg(long, global = true, value_name = "FILE")]
    binary: Option<PathBuf>,

    /// Where to keep temporary data, on the disk to be measured [default: the temporary folder]
    #[arg(long, global = true, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// Also write the figures as JSON
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,

    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand)]
pub enum What {
    /// Events accepted and made visible, compared with bare appends to files
    Ingest(crate::ingest::Options),
    /// Documents read, hot and cold, compared with a server of one constant
    Get(crate::get::Options),
    /// From just before a publish until the document shows it
    Latency(crate::latency::Options),
    /// Resident memory with many operations, at rest and while lists are streamed
    Memory(crate::memory::Options),
    /// An event's cost in an operation with very many events, compared with small operations
    Wide(crate::wide::Options),
    /// Events read from a Kafka topic, compared with bare consumers
    CatchUp(crate::catch_up::Options),
    /// From a producer until the document shows it, compared with a bare consumer
    KafkaLatency(crate::kafka_latency::Options),
    /// The cost of ten million operations: memory, disk, restarts, reads
    Scale(crate::scale::Options),
    /// Processor time of an event by thread, with 1, 2, 4 and 8 workers
    Serial(crate::serial::Options),
    /// Pages of the list with many operations, by each filter
    Lists(crate::lists::Options),
    /// Event streams that are idle, unread, and read
    Watch(crate::watch::Options),
    /// Fill a topic, or a ledger over HTTP, with the same events each time
    Fill(crate::fill::Options),
    /// Documents read from any server
    Hammer(crate::hammer::Options),
    /// The server of one constant that `get` starts and compares with
    #[command(hide = true)]
    StaticServer { file: PathBuf },
}

/// Shared by all measurements.
pub struct Setup {
    pub binary: PathBuf,
    pub folder: PathBuf,
}

impl Args {
    pub fn setup(&self) -> anyhow::Result<Setup> {
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            // Cargo keeps examples in a folder beside the binaries.
            None => {
                let own = std::env::current_exe()?;
                let built = own.ancestors().nth(2);
                built
                    .context("no folder above this program")?
                    .join("opledger")
            }
        };
        ensure!(
            binary.is_file(),
            "{} is not there: build it, or give --binary",
            binary.display()
        );
        let folder = self.folder.clone().unwrap_or_else(std::env::temp_dir);
        let system = rustix::fs::statfs(&folder);
        let system = system.with_context(|| folder.display().to_string())?;
        const TMPFS: std::ffi::c_long = 0x0102_1994;
        ensure!(
            system.f_type != TMPFS,
            "{} is in memory, where a sync costs nothing: give --folder on a disk",
            folder.display()
        );
        Ok(Setup { binary, folder })
    }
}
