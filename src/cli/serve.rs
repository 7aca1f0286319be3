//! `opledger serve`: runs a ledger until Ctrl-C or SIGTERM.

use crate::app::{self, Ledger};
use crate::cli::config::{ConfigSource, KafkaFlags, ignored};
use crate::cli::failure::Failure;
use crate::cli::text::clean;
use crate::config::{Config, Overrides};
use crate::event_log::embedded::{LogOpenError, Why};
use crate::{data_folder, descriptors, logging, metrics, store};
use clap::ValueHint;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const EXAMPLES: &str = "\
Examples:
  opledger serve
  opledger serve --data /var/lib/opledger --listen 0.0.0.0:8470
  opledger serve --config /etc/opledger.toml
  opledger serve --kafka kafka:9092 --topic workers.events
  opledger serve --kafka 127.0.0.1:9092 --create-topics

Stops on Ctrl-C or SIGTERM: drains open requests, then flushes the store.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The ledger's data folder, created if it does not exist [default: ./opledger-data]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data: Option<String>,

    /// Address to serve HTTP at [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,

    #[command(flatten)]
    kafka: KafkaFlags,

    /// Create missing topics
    #[arg(long)]
    create_topics: bool,

    #[command(flatten)]
    source: ConfigSource,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut config = args.source.read(Overrides {
        data: args.data,
        listen: args.listen,
        create_topics: args.create_topics,
        ..args.kafka.overrides()
    })?;
    // Dropped last, so that errors at the end are logged, too.
    let _logging = logging::start(&config.telemetry)?;
    for variable in &config.ignored {
        tracing::warn!("{}", ignored(variable));
    }
    config.server.max_connections = descriptors::connections(descriptors::limit(), &config);
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
    // Before anything is opened: process 1 of a container gets only signals that have a handler.
    let stop = stop_signal()?;
    let opened = tokio::task::spawn_blocking(move || Ledger::open(config)).await;
    let ledger = opened.map_err(unexpected)??;
    // One line for people, and for scripts that wait for it.
    let line = format!("opledger serves http://{address} from {data}{log}");
    logging::announce(clean(&line) + "\n");
    ledger.serve(listener, metrics, stop).await;
    tracing::info!("stopped");
    Ok(())
}

fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unexpected)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unexpected)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: no new connections, draining open requests");
    })
}

fn unexpected(error: impl std::fmt::Display) -> Failure {
    Failure::Unexpected(error.to_string())
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Failure {
        match error {
            app::Error::Folder(error) => error.into(),
            app::Error::Store(error) => error.into(),
            app::Error::Log(error) => error.into(),
            app::Error::Kafka(error) => Failure::Configuration(error.to_string()),
            app::Error::Thread(error) => unexpected(error),
        }
    }
}

impl From<logging::Error> for Failure {
    fn from(error: logging::Error) -> Failure {
        match error {
            logging::Error::Filter(_) => Failure::Configuration(error.to_string()),
            logging::Error::Thread(_) => unexpected(error),
        }
    }
}

impl From<data_folder::Error> for Failure {
    fn from(error: data_folder::Error) -> Failure {
        Failure::DataFolder(error.to_string())
    }
}

impl From<LogOpenError> for Failure {
    fn from(error: LogOpenError) -> Failure {
        let remedy = error.remedy().map(|remedy| format!("\n  {remedy}"));
        let text = format!("{error}{}", remedy.unwrap_or_default());
        match error.why {
            Why::Setting(_) => Failure::Configuration(text),
            Why::Damaged(_)
            | Why::BeyondRepair(_)
            | Why::OldForm(_)
            | Why::Newer { .. }
            | Why::Disk(_) => Failure::DataFolder(text),
        }
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
            | store::Error::OtherFormat(_)
            | store::Error::InUse(_) => Failure::DataFolder(error.to_string()),
        }
    }
}
