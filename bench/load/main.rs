//! Measures a running ledger from outside: starts the built binary in a folder of
//! its own, loads it over loopback, and prints a table. The top of each module says
//! which quantity it measures, and the limit that it compares with.
//!
//!     cargo run --release --example load -- ingest
//!
//! The load shares the machine with the measured process. So each row also has the
//! processor time of that process, which hardly depends on the load.

mod args;
mod bodies;
mod catch_up;
mod fill;
#[allow(dead_code)]
#[path = "../../tests/support/generate.rs"]
mod generate;
mod get;
mod hammer;
mod http;
mod ingest;
mod kafka_latency;
mod latency;
mod lists;
mod memory;
mod produce;
mod publish;
// `generate` needs it.
#[allow(dead_code)]
#[path = "../../tests/support/reference.rs"]
mod reference;
mod render;
mod report;
mod scale;
mod serial;
mod server;
mod static_server;
mod threads;
mod times;
mod topic;
mod watch;
mod wide;

use anyhow::{Context, bail};
use args::{Args, What};
use clap::Parser;
use report::Report;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: Args) -> anyhow::Result<()> {
    if let What::StaticServer { file } = &args.what {
        return static_server::serve(file).await;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    // Returning drops the servers and folders, which kills the processes and removes the files.
    let reports = tokio::select! {
        reports = measure(&args) => reports?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    let tables: Vec<_> = reports.iter().map(Report::markdown).collect();
    print!("{}", tables.join("\n"));
    if let Some(file) = &args.json {
        let text = report::json(&reports);
        std::fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

async fn measure(args: &Args) -> anyhow::Result<Vec<Report>> {
    let setup = args.setup()?;
    let report = match &args.what {
        What::Ingest(options) => ingest::measure(&setup, options).await,
        What::Get(options) => get::measure(&setup, options).await,
        What::Latency(options) => latency::measure(&setup, options).await,
        What::Memory(options) => memory::measure(&setup, options).await,
        What::Wide(options) => wide::measure(&setup, options).await,
        What::CatchUp(options) => catch_up::measure(&setup, options).await,
        What::KafkaLatency(options) => kafka_latency::measure(&setup, options).await,
        What::Lists(options) => lists::measure(&setup, options).await,
        What::Watch(options) => watch::measure(&setup, options).await,
        What::Fill(options) => fill::fill(options).await,
        What::Hammer(options) => hammer::measure(options).await,
        What::Scale(options) => return scale::measure(&setup, options).await,
        What::Serial(options) => return serial::measure(&setup, options).await,
        What::StaticServer { .. } => unreachable!("it measures nothing"),
    };
    Ok(vec![report?])
}
