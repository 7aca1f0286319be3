//! Counts the instructions of the hot paths under callgrind and compares them with the
//! recorded counts. Seconds depend on the machine and its other work; instructions do
//! not, so a change of a few percent is visible.
//!
//!     cargo run --release --example count
//!     cargo run --release --example count -- --accept
//!
//! The same work gives the same count within a few tenths of a percent, on any processor
//! with AVX2, because callgrind emulates the same set of features on all of them. Another
//! compiler or C library gives other counts.

#[path = "../load/bodies.rs"]
mod bodies;
#[allow(dead_code)]
#[path = "../../tests/support/generate.rs"]
mod generate;
mod record;
#[allow(dead_code)]
#[path = "../../tests/support/reference.rs"]
mod reference;
#[path = "../../tests/support/root.rs"]
mod root;
mod work;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use record::{Counts, Record, Tools};
use root::root;
use std::process::{Command, ExitCode};

/// The same allocator as in opledger.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Count the instructions of the hot paths, and compare them with bench/counts.json
#[derive(Parser)]
#[command(name = "count")]
struct Args {
    /// Write the counts into bench/counts.json
    #[arg(long)]
    accept: bool,
    /// Only do the work, without counting, for use with other tools
    #[arg(long)]
    work: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.work {
        work::all();
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(fits) if fits => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("count: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    if let Some(why) = incomparable() {
        println!("count: not counted: {why}");
        return Ok(true);
    }
    let file = root().join("bench/counts.json");
    let found = Record {
        tools: Tools::here()?,
        counts: count()?,
    };
    if args.accept {
        std::fs::write(&file, found.text()).with_context(|| file.display().to_string())?;
    }
    let recorded = Record::read(&file)?;
    print!("{}", recorded.compare(&found));
    Ok(recorded.fits(&found))
}

/// The reason why counts would not be comparable here.
fn incomparable() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        return None;
    }
    Some("the recorded figures are of x86-64 with AVX2")
}

/// Runs the work in a process of its own, under callgrind, which writes a file for each
/// piece of work.
fn count() -> anyhow::Result<Counts> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("out");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={}", work::COUNTED))
        .arg(format!("--dump-after={}", work::COUNTED))
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(std::env::current_exe()?)
        .arg("--work")
        // Otherwise the counts depend on the address of the stack and on the time of day.
        .env_clear()
        .env("MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1");
    let done = valgrind
        .output()
        .context("valgrind: is it installed? (scripts/setup-counts)")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "valgrind: {}\n{said}", done.status);
    let told = String::from_utf8(done.stdout)?;
    let mut counts = Counts::new();
    for (at, line) in told.lines().enumerate() {
        let (name, units) = line.split_once('\t').context("a name and a number")?;
        let file = output.with_added_extension((at + 1).to_string());
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let total: u64 = total.context("no totals")?.trim().parse()?;
        counts.insert(name.to_owned(), total as f64 / units.parse::<f64>()?);
    }
    if counts.is_empty() {
        bail!("nothing was counted");
    }
    Ok(counts)
}
