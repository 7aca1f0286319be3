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

impl Source {
    pub fn load(&self, data: Option<String>, listen: Option<String>) -> Result<Config, Failure> {
        let flags = Overrides { data, listen };
        let loaded = Config::load(self.config.as_deref(), variables(), flags);
        loaded.map_err(|error| Failure::Configuration(error.to_string()))
    }
}

pub fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Check(source) => {
            source.load(None, None)?;
            println!("the configuration is valid");
        }
        Action::Show(source) => print!("{}", source.load(None, None)?.show()),
    }
    Ok(())
}
