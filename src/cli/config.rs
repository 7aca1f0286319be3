//! `opledger config`: checks the configuration, or shows the settings in force. Also how every command
//! on a data folder loads its settings.

use crate::app;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::cli::text::{clean, clean_toml};
use crate::config::{Config, Overrides, variables};
use crate::event_log::kafka::Kafka;
use clap::{Subcommand, ValueHint};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  opledger config check --config /etc/opledger.toml
  opledger config show";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: ConfigAction,
}

#[derive(Debug, Subcommand)]
enum ConfigAction {
    /// Report everything that is wrong with the configuration
    Check(ConfigSource),
    /// Print the effective settings, secrets masked
    Show(ConfigSource),
}

/// Defaults < this file < environment (OPLEDGER_SECTION__KEY) < flags.
#[derive(Debug, clap::Args)]
pub struct ConfigSource {
    /// Configuration file (TOML)
    // Help must not show the values of variables.
    #[arg(
        long,
        value_name = "FILE",
        env = "OPLEDGER_CONFIG",
        hide_env_values = true
    )]
    #[arg(value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

/// The ledger's data folder, with its configuration.
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    /// The ledger's data folder [default: ./opledger-data]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data: Option<String>,

    #[command(flatten)]
    source: ConfigSource,
}

impl DataArgs {
    pub fn load(self, kafka: KafkaFlags) -> Result<Config, Failure> {
        let data = self.data;
        self.source.load(Overrides {
            data,
            ..kafka.overrides()
        })
    }
}

const NO_CLUSTER: &str = "--topic requires --kafka";

/// The event log on Kafka, instead of the embedded one.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct KafkaFlags {
    /// Brokers of the Kafka cluster with the event log, as host:port
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: Option<String>,

    /// Topic of the workers' events [default: opledger.events]
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
}

impl KafkaFlags {
    /// For commands that use Kafka only with the flag.
    pub fn is_given(&self) -> Result<bool, Failure> {
        match (&self.kafka, &self.topic) {
            (None, Some(_)) => Err(Failure::Usage(NO_CLUSTER.into())),
            (kafka, _) => Ok(kafka.is_some()),
        }
    }

    pub fn overrides(self) -> Overrides {
        Overrides {
            kafka: self.kafka,
            topic: self.topic,
            ..Overrides::default()
        }
    }
}

impl ConfigSource {
    pub fn load(&self, flags: Overrides) -> Result<Config, Failure> {
        let config = self.read(flags)?;
        for name in &config.ignored {
            note(format!("opledger: {}", ignored(name)));
        }
        Ok(config)
    }

    /// For commands that report ignored variables themselves.
    pub fn read(&self, flags: Overrides) -> Result<Config, Failure> {
        let has_topic = flags.topic.is_some();
        let loaded = Config::load(self.config.as_deref(), variables(), flags);
        let config = loaded.map_err(|error| Failure::Configuration(error.to_string()))?;
        if has_topic && !app::uses_kafka(&config) {
            return Err(Failure::Usage(NO_CLUSTER.into()));
        }
        Ok(config)
    }
}

pub fn ignored(variable: &str) -> String {
    format!(
        "the variable {} is not a setting and is ignored",
        clean(variable)
    )
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut out = Output::new();
    match args.action {
        ConfigAction::Check(source) => {
            let config = source.load(Overrides::default())?;
            // Only librdkafka knows its options.
            let checked = Kafka::check(&app::kafka(&config, app::Topics::Leave));
            checked.map_err(app::Error::Kafka)?;
            out.line("the configuration is valid")?;
        }
        ConfigAction::Show(source) => {
            out.write(clean_toml(&source.load(Overrides::default())?.show()))?;
        }
    }
    out.flush()
}
