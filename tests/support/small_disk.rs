//! A small file system under one folder of a ledger, and ways to fill it.

use super::server::Server;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Runs the binary in a mount namespace of its own with a tmpfs at `folder`. The small disk
/// vanishes with the process. No rights are needed where user namespaces are allowed. `options` are
/// those of the mount, such as `size=48m`.
pub fn mounted_at(folder: &Path, options: &str) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let script = format!(
        "mount -t tmpfs -o '{options}' tmpfs '{}' && exec '{}' \"$@\"",
        folder.display(),
        env!("CARGO_BIN_EXE_opledger")
    );
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command
}

/// A small disk that outlives the processes on it, until it is dropped.
pub struct Disk {
    keeper: Child,
    folder: PathBuf,
    seen: PathBuf,
}

impl Disk {
    /// A tmpfs at `folder`, which is created, in a mount namespace that a process of its own keeps
    /// open. `options` as for [`mounted_at`].
    pub fn mount(folder: &Path, options: &str) -> Disk {
        std::fs::create_dir_all(folder).unwrap();
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let script = format!(
            "mount -t tmpfs -o '{options}' tmpfs '{}' && echo mounted && exec cat",
            folder.display()
        );
        command.args(["--mount", "sh", "-c", &script]);
        // The process exits when its input closes, so it never outlives the test.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().unwrap();
        let mut said = String::new();
        let stdout = keeper.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        assert_eq!(
            said, "mounted\n",
            "a small disk needs user namespaces, or root"
        );
        Disk {
            seen: format!("/proc/{}/root{}", keeper.id(), folder.display()).into(),
            folder: folder.to_owned(),
            keeper,
        }
    }

    /// Runs the binary in the namespace of the disk.
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg(format!("--target={}", self.keeper.id()));
        command.args(["--mount", env!("CARGO_BIN_EXE_opledger")]);
        command
    }

    /// The folder's path for the ledger.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the same folder for the test.
    pub fn seen(&self) -> &Path {
        &self.seen
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The path of the same folder for the test.
pub fn seen(server: &Server, folder: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", server.pid(), folder.display()))
}

/// The resource that a disk lacks.
#[derive(Debug, Clone, Copy)]
pub enum Shortage {
    /// No byte is left.
    Bytes,
    /// Bytes are left, but no new file can be created. The free space does not show it.
    Files,
}

/// Uses everything that is left in a folder until it is dropped.
pub struct Ballast(PathBuf);

impl Ballast {
    pub fn fill(folder: &Path, shortage: Shortage) -> Ballast {
        let ballast = Ballast(folder.join("ballast"));
        std::fs::create_dir(&ballast.0).unwrap();
        match shortage {
            Shortage::Bytes => {
                let mut file = File::create(ballast.0.join("bytes")).unwrap();
                for size in [1 << 20, 4 << 10, 1] {
                    while file.write_all(&vec![1; size]).is_ok() {}
                }
            }
            Shortage::Files => {
                let mut files = (0..).map(|n| File::create(ballast.0.join(format!("{n}"))));
                while files.next().is_some_and(|file| file.is_ok()) {}
            }
        }
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // If a test has failed, the disk may be gone with its server.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
