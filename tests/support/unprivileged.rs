//! The binary as a user with limited permissions, even if root runs the tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const NOBODY: u32 = 65534;

pub struct Unprivileged {
    folder: TempDir,
}

impl Unprivileged {
    /// The user owns `data` and has a copy of the binary. The build folder may be in root's home,
    /// which the user may not read.
    pub fn owning(data: &Path) -> Unprivileged {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(
            env!("CARGO_BIN_EXE_opledger"),
            folder.path().join("opledger"),
        )
        .unwrap();
        if rustix::process::geteuid().is_root() {
            give(data);
        }
        Unprivileged { folder }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(self.folder.path().join("opledger"));
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}
