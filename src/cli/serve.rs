//! `opledger serve`: runs a ledger until it is told to stop.

use crate::app::{self, Ledger};
use crate::cli::config::{KafkaFlags, Source, ignored};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::text::clean;
use crate::config::{Config, LogFormat, Overrides, Telemetry};
use crate::{data_folder, metrics, store};
use clap::ValueHint;
use std::io::IsTerminal;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  opledger serve
  opledger serve --data /var/lib/opledger --listen 0.0.0.0:8470
  opledger serve --config /etc/opledger.toml
  opledger serve --kafka kafka:9092 --topic workers.events
  opledger serve --kafka 127.0.0.1:9092 --create-topics

Stops on Ctrl-C or SIGTERM: requests get a grace, then everything is flushed.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder that holds the ledger's data, made if it is not there [default: ./opledger-data]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data: Option<String>,

    /// Address to serve HTTP at [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,

    #[command(flatten)]
    kafka: KafkaFlags,

    /// Make the topics that are missing
    #[arg(long)]
    create_topics: bool,

    #[command(flatten)]
    source: Source,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let config = args.source.read(Overrides {
        data: args.data,
        listen: args.listen,
        create_topics: args.create_topics,
        ..args.kafka.overrides()
    })?;
    start_logging(&config.telemetry)?;
    for variable in &config.ignored {
        tracing::warn!("{}", ignored(variable));
    }
    allow_many_connections();
    let runtime = tokio::runtime::Runtime::new().map_err(unexpected)?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Failure> {
    let metrics = metrics::install().map_err(unexpected)?;
    let address = config.server.listen;
    // Before the folder is opened, so that a wrong address costs nothing.
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| Failure::Listen { address, source })?;
    let address = listener.local_addr().map_err(unexpected)?;
    let data = config.data.display().to_string();
    let log = match config.kafka.bootstrap.as_str() {
        "" => String::new(),
        bootstrap => format!(", the log is {} at {bootstrap}", config.kafka.topic),
    };
    // Before anything is opened: process 1 of a container is deaf to a signal that
    // nobody asked for.
    let stop = told_to_stop()?;
    let opened = tokio::task::spawn_blocking(move || Ledger::open(config)).await;
    let ledger = opened.map_err(unexpected)??;
    announce(&format!(
        "opledger serves http://{address} from {data}{log}"
    ));
    ledger.serve(listener, metrics, stop).await;
    tracing::info!("stopped");
    Ok(())
}

/// One line for people, and for scripts that wait for it. A ledger serves all the same
/// where nobody can read it.
fn announce(line: &str) {
    let mut out = Output::new();
    if let Err(failure) = out.line(clean(line)).and_then(|()| out.flush()) {
        tracing::warn!("{}", failure.report());
    }
}

fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unexpected)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unexpected)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: no new connections, a grace for the rest");
    })
}

fn start_logging(telemetry: &Telemetry) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&telemetry.log)
        .map_err(|error| Failure::Configuration(format!("telemetry.log: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match telemetry.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

/// The soft limit on descriptors is often 1024; the hard one is what may be used.
fn allow_many_connections() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

fn unexpected(error: impl std::fmt::Display) -> Failure {
    Failure::Unexpected(error.to_string())
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Failure {
        match error {
            app::Error::Folder(error) => error.into(),
            app::Error::Store(error) => error.into(),
            app::Error::Setting(what) => Failure::Configuration(what),
            app::Error::Log { .. } => Failure::DataFolder(error.to_string()),
            app::Error::Kafka(error) => Failure::Configuration(error.to_string()),
            app::Error::Thread(error) => unexpected(error),
        }
    }
}

impl From<data_folder::Error> for Failure {
    fn from(error: data_folder::Error) -> Failure {
        Failure::DataFolder(error.to_string())
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Failure {
        match error {
            store::Error::Setting(what) => Failure::Configuration(what),
            store::Error::Closed(_)
            | store::Error::NoSpace(_)
            | store::Error::Io(_)
            | store::Error::Corrupt(_)
            | store::Error::Newer(_)
            | store::Error::InUse(_) => Failure::DataFolder(error.to_string()),
        }
    }
}
