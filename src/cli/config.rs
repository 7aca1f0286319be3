//! `opledger config`: checks the configuration, or shows what is in force. And
//! how every command that works on a data folder finds its settings.

use crate::cli::failure::Failure;
use crate::config::{Config, Overrides, variables};
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
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Tell everything that is wrong with the configuration
    Check(Source),
    /// Print the settings in force, secrets masked
    Show(Source),
}

/// Defaults < this file < environment (OPLEDGER_SECTION__KEY) < flags.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "OPLEDGER_CONFIG")]
    #[arg(value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

/// Where the workers' log is, if it is not the embedded one.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct KafkaFlags {
    /// Brokers of the Kafka cluster with the workers' log, as host:port
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: Option<String>,

    /// Topic of the workers' events [default: opledger.events]
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
}

impl KafkaFlags {
    pub fn is_given(&self) -> bool {
        self.kafka.is_some()
    }

    pub fn overrides(self) -> Overrides {
        Overrides {
            kafka: self.kafka,
            topic: self.topic,
            ..Overrides::default()
        }
    }
}

impl Source {
    pub fn load(&self, flags: Overrides) -> Result<Config, Failure> {
        let loaded = Config::load(self.config.as_deref(), variables(), flags);
        loaded.map_err(|error| Failure::Configuration(error.to_string()))
    }
}

pub fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Check(source) => {
            source.load(Overrides::default())?;
            println!("the configuration is valid");
        }
        Action::Show(source) => print!("{}", source.load(Overrides::default())?.show()),
    }
    Ok(())
}
