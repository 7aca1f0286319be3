//! A small file system under one folder of a ledger, and ways to fill it.

use super::server::Server;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the binary in a mount namespace of its own with a tmpfs at `folder`, so
/// that the small disk vanishes with it and no rights are needed where user
/// namespaces are allowed. `options` are those of the mount, such as `size=48m`.
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

/// The same folder, seen from here.
pub fn seen(server: &Server, folder: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", server.pid(), folder.display()))
}

/// What a disk can run out of.
#[derive(Debug, Clone, Copy)]
pub enum Shortage {
    /// To the last byte.
    Bytes,
    /// There are bytes, but no new file can be made: whoever looks at the free
    /// space sees nothing of it.
    Files,
}

/// Takes all that is left in a folder until it is dropped.
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
        // Where a test has failed the disk may be gone with its server.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
