//! A process that is measured: the ledger, or a server that it is compared with. Reads
//! the kernel's figures about it, and kills it when dropped.

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
    /// Kept open, so that the process can continue to print.
    output: BufReader<ChildStdout>,
}

impl Server {
    pub fn ledger(setup: &Setup, data: &Path) -> anyhow::Result<Server> {
        Server::ledger_set(setup, data, &[], &[])
    }

    /// With as many connections allowed as event streams.
    pub fn ledger_for_many(setup: &Setup, data: &Path) -> anyhow::Result<Server> {
        let many = ("OPLEDGER_SERVER__MAX_CONNECTIONS", "25000");
        Server::ledger_set(setup, data, &[], &[many])
    }

    pub fn ledger_on(setup: &Setup, data: &Path, topic: &Topic) -> anyhow::Result<Server> {
        Server::ledger_on_set(setup, data, topic, &[])
    }

    pub fn ledger_on_set(
        setup: &Setup,
        data: &Path,
        topic: &Topic,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Server> {
        let kafka = ["--kafka", &topic.bootstrap, "--topic", &topic.name];
        Server::ledger_set(setup, data, &kafka, settings)
    }

    /// Waits until it has compared its log with its store. It accepts no event before.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.address).await?;
        while connection.call(&http::get("/readyz", "")).await?.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// The name of its log, once the ledger has reached it.
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

    /// Sets these variables unless the environment has them already.
    pub fn ledger_set(
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
        // From here on, dropping `Server` kills the process.
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

    /// The target for `hammer`.
    pub fn target(&self) -> Target {
        Target {
            address: self.address,
            process: Some(self.process()),
        }
    }

    /// Waits until the process is idle.
    pub async fn settle(&self) -> anyhow::Result<()> {
        loop {
            let before = self.process().cpu()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.process().cpu()? - before < 0.03 {
                return Ok(());
            }
        }
    }

    /// Stops it as an operator would; returns once it has flushed and exited.
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

/// The kernel's figures about a process.
pub struct Process(pub u32);

impl Process {
    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("{path}: has it ended?"))
    }

    /// The number after `name:` in a file of lines.
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

    /// The maximum since the start or the last `forget_peak`, in bytes.
    pub fn resident_peak(&self) -> anyhow::Result<u64> {
        Ok(self.figure("status", "VmHWM:")? * 1024)
    }

    pub fn forget_peak(&self) -> anyhow::Result<()> {
        let path = format!("/proc/{}/clear_refs", self.0);
        fs::write(&path, "5").context(path)
    }

    /// Bytes that the process read from the disk.
    pub fn disk_read(&self) -> anyhow::Result<u64> {
        self.figure("io", "read_bytes:")
    }

    /// Bytes that the process wrote, also those that are not on the disk yet.
    pub fn disk_written(&self) -> anyhow::Result<u64> {
        self.figure("io", "write_bytes:")
    }

    /// Processor time of all its threads, in seconds.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        let stat = self.proc("stat")?;
        // The name may contain parentheses, so it ends at the last one.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let mut ticks = 0;
        for field in fields.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
        // Linux always reports hundredths of a second here.
        Ok(ticks as f64 / 100.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have exited already; either way it is gone after this.
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

/// Drops a folder's files from the kernel's cache, so that they are read from the
/// disk again.
pub fn evict(folder: &Path) -> anyhow::Result<()> {
    each_file(folder, &mut |path, _| {
        let file = fs::File::open(path)?;
        // Only pages that are written back can be dropped.
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
        // RocksDB may have removed the file meanwhile.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            each_file(&entry.path(), visit)?;
        } else {
            visit(&entry.path(), &meta)?;
        }
    }
    Ok(())
}
