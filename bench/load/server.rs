//! A process that is measured: the ledger, or what it is compared with. Tells
//! what the kernel knows of it, and ends it when dropped.

use crate::args::Setup;
use crate::hammer::Target;
use crate::http::{self, Connection};
use crate::topic::Topic;
use anyhow::{Context, ensure};
use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// Open, so that it may go on printing.
    output: BufReader<ChildStdout>,
}

impl Server {
    pub fn ledger(setup: &Setup, data: &Path) -> anyhow::Result<Server> {
        Server::ledger_with(setup, data, &[])
    }

    /// With room for as many connections as there may be event streams.
    pub fn ledger_for_many(setup: &Setup, data: &Path) -> anyhow::Result<Server> {
        let many = ("OPLEDGER_SERVER__MAX_CONNECTIONS", "25000");
        Server::ledger_set(setup, data, &[], &[many])
    }

    pub fn ledger_on(setup: &Setup, data: &Path, topic: &Topic) -> anyhow::Result<Server> {
        Server::ledger_with(
            setup,
            data,
            &["--kafka", &topic.bootstrap, "--topic", &topic.name],
        )
    }

    /// Waits until it has compared its log with its store. It accepts no event before.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.address).await?;
        while connection.call(&http::get("/readyz", "")).await?.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// What its log is called, once it has reached it.
    pub async fn log(&self) -> anyhow::Result<String> {
        let mut connection = Connection::open(self.address).await?;
        loop {
            let answer = connection.call(&http::get("/version", "")).await?;
            answer.expect(200)?;
            let version: serde_json::Value = serde_json::from_slice(answer.body)?;
            if let Some(log) = version["log"].as_str() {
                return Ok(log.to_owned());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn ledger_with(setup: &Setup, data: &Path, more: &[&str]) -> anyhow::Result<Server> {
        Server::ledger_set(setup, data, more, &[])
    }

    /// Unless the environment sets them already.
    fn ledger_set(
        setup: &Setup,
        data: &Path,
        more: &[&str],
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Server> {
        let mut command = Command::new(&setup.binary);
        for (name, value) in settings {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        command.args(["serve"]).args(more);
        command.args(["--listen", "127.0.0.1:0", "--data"]);
        command.arg(data);
        if std::env::var_os("OPLEDGER_TELEMETRY__LOG").is_none() {
            command.env("OPLEDGER_TELEMETRY__LOG", "warn");
        }
        Server::start(command).context("starting the ledger")
    }

    /// Takes the address from the first line, which has `http://ADDRESS`.
    pub fn start(mut command: Command) -> anyhow::Result<Server> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("it has no output")?;
        // From here on it is ended whatever happens.
        let mut server = Server {
            child,
            address: SocketAddr::from(([0; 4], 0)),
            output: BufReader::new(output),
        };
        let mut line = String::new();
        server.output.read_line(&mut line)?;
        let rest = line.split_once("http://").map(|(_, rest)| rest);
        let address = rest.and_then(|rest| rest.split_whitespace().next());
        server.address = address
            .with_context(|| format!("it said {line:?}"))?
            .parse()?;
        Ok(server)
    }

    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// To be hammered at.
    pub fn target(&self) -> Target {
        Target {
            address: self.address,
            process: Some(self.process()),
        }
    }

    /// Waits until it does nothing any more.
    pub async fn settle(&self) -> anyhow::Result<()> {
        loop {
            let before = self.process().cpu()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.process().cpu()? - before < 0.03 {
                return Ok(());
            }
        }
    }

    /// As an operator stops it; returns once it has flushed and ended.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the ledger ended with {status}");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What the kernel knows of a process.
pub struct Process(pub u32);

impl Process {
    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("{path}: has it ended?"))
    }

    /// The number behind `name:` in a file of lines.
    fn figure(&self, file: &str, name: &str) -> anyhow::Result<u64> {
        let text = self.proc(file)?;
        let mut words = text.split_whitespace().skip_while(|word| *word != name);
        let value = words.nth(1).with_context(|| format!("no {name} in {file}"));
        Ok(value?.parse()?)
    }

    /// Bytes.
    pub fn resident(&self) -> anyhow::Result<u64> {
        Ok(self.figure("status", "VmRSS:")? * 1024)
    }

    /// Bytes, the most since the start or the last `forget_peak`.
    pub fn resident_peak(&self) -> anyhow::Result<u64> {
        Ok(self.figure("status", "VmHWM:")? * 1024)
    }

    pub fn forget_peak(&self) -> anyhow::Result<()> {
        let path = format!("/proc/{}/clear_refs", self.0);
        fs::write(&path, "5").context(path)
    }

    /// Bytes that it made the disk read.
    pub fn disk_read(&self) -> anyhow::Result<u64> {
        self.figure("io", "read_bytes:")
    }

    /// Bytes that it had written to the disk, or will.
    pub fn disk_written(&self) -> anyhow::Result<u64> {
        self.figure("io", "write_bytes:")
    }

    /// Processor time of all its threads, in seconds.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        let stat = self.proc("stat")?;
        // The name may hold anything, but the last parenthesis ends it.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let mut ticks = 0;
        for field in fields.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
        // Linux tells them in hundredths, whatever it counts in.
        Ok(ticks as f64 / 100.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes on disk below a folder.
pub fn disk(folder: &Path) -> anyhow::Result<u64> {
    let mut total = 0;
    each_file(folder, &mut |_, meta| {
        total += meta.blocks() * 512;
        Ok(())
    })?;
    Ok(total)
}

/// Makes the kernel forget what it keeps of a folder's files, so that they are
/// read from the disk again.
pub fn evict(folder: &Path) -> anyhow::Result<()> {
    each_file(folder, &mut |path, _| {
        let file = fs::File::open(path)?;
        // Only what is written can be forgotten.
        file.sync_all()?;
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    })
}

fn each_file(
    folder: &Path,
    visit: &mut dyn FnMut(&Path, &fs::Metadata) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // RocksDB removes files meanwhile.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            each_file(&entry.path(), visit)?;
        } else {
            visit(&entry.path(), &meta)?;
        }
    }
    Ok(())
}
