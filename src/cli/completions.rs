//! `opledger completions`: a script with which a shell completes the command line.

use crate::cli::Cli;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use clap::CommandFactory;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  opledger completions bash > ~/.local/share/bash-completion/completions/opledger
  opledger completions zsh  > ~/.zfunc/_opledger
  opledger completions fish > ~/.config/fish/completions/opledger.fish";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    // Into memory first: the generator panics where a write fails.
    clap_complete::generate(args.shell, &mut Cli::command(), "opledger", &mut script);
    let mut out = Output::new();
    out.write(script)?;
    out.flush()
}
