//! What a rebuild writes to the disk and in which order, seen from outside by its system calls.
//! Also: no other user may read a ledger's data.

use crate::support::server::Server;
use opledger::store::rocks::{self, Rocks};
use opledger::store::{Batch, Db, Durability, Family};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn created(n: usize) -> Value {
    json!({"specversion": "1.0", "id": "e", "source": "/w", "subject": format!("operation-{n}"),
        "type": "opledger.operation.created.v1", "time": "2024-05-06T07:08:09Z",
        "data": {"request": {"uri": "/x", "method": "PUT"}}})
}

fn filled(data: &Path) {
    let server = Server::on(data, &[]);
    let events: Vec<_> = (0..300).map(created).collect();
    let token = server.publish(&events);
    assert!(server.document("operation-1", &token).is_some());
    assert!(server.terminate().success());
}

/// The names and contents that a power loss could still undo, given the calls so far.
#[derive(Default)]
struct Disk {
    /// Files written to and not synced since.
    files: BTreeSet<PathBuf>,
    /// Folders in which a name was added or removed, not synced since.
    folders: BTreeSet<PathBuf>,
}

impl Disk {
    fn name_changed(&mut self, path: &Path) {
        self.folders.insert(path.parent().unwrap().to_owned());
    }

    fn renamed(&mut self, from: &Path, to: &Path) {
        self.name_changed(from);
        self.name_changed(to);
        for paths in [&mut self.files, &mut self.folders] {
            let moved = paths.iter().filter_map(|path| {
                let rest = path.strip_prefix(from).ok()?;
                Some((path.clone(), to.join(rest)))
            });
            for (was, is) in moved.collect::<Vec<_>>() {
                paths.remove(&was);
                // Joining an empty path would add a trailing slash.
                paths.insert(is.components().collect());
            }
        }
    }

    fn removed(&mut self, path: &Path) {
        self.files.remove(path);
        self.folders.remove(path);
        self.name_changed(path);
    }
}

/// A call that has returned, with its result.
struct Call {
    name: String,
    /// In the order of the arguments.
    paths: Vec<PathBuf>,
    creates: bool,
}

impl Call {
    fn of(text: &str) -> Option<Call> {
        let (name, rest) = text.split_once('(')?;
        let (arguments, result) = rest.rsplit_once(" = ")?;
        if result.starts_with('-') {
            return None;
        }
        // A quoted name is relative to the folder before it, if one is open.
        let mut paths = Vec::new();
        let mut folder = None;
        let mut left = arguments;
        while let Some(at) = left.find(['<', '"']) {
            let end = if left[at..].starts_with('<') {
                '>'
            } else {
                '"'
            };
            let inner = &left[at + 1..];
            let length = inner.find(end)?;
            let text = Path::new(&inner[..length]);
            match (end, &folder) {
                ('>', _) => folder = Some(text.to_owned()),
                (_, Some(folder)) => paths.push(folder.join(text)),
                (_, None) => paths.push(text.to_owned()),
            }
            left = &inner[length + 1..];
            // The data of a write is not a name.
            if name.contains("write") || name.contains("sync") {
                break;
            }
        }
        if paths.is_empty() {
            paths.extend(folder);
        }
        Some(Call {
            creates: arguments.contains("O_CREAT"),
            name: name.to_owned(),
            paths,
        })
    }
}

/// Calls of all threads in the order in which they returned.
fn calls(trace: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, String> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (thread, text) = line.split_once(' ').unwrap();
        let text = text.trim_start();
        if let Some(begin) = text.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, begin.to_owned());
            continue;
        }
        let whole = match text.strip_prefix("<... ") {
            None => text.to_owned(),
            Some(rest) => {
                let rest = rest.split_once(" resumed>").unwrap().1;
                begun.remove(thread).unwrap_or_default() + rest
            }
        };
        calls.extend(Call::of(&whole));
    }
    calls
}

#[test]
fn a_rebuild_is_on_the_disk_before_it_takes_the_place_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (data, trace) = (folder.join("data"), folder.join("trace"));
    filled(&data);
    let traced = "trace=openat,write,writev,pwrite64,fsync,fdatasync,mkdir,mkdirat,\
                  rename,renameat,renameat2,unlink,unlinkat,rmdir";
    let rebuilt = Command::new("strace")
        .args(["-f", "-y", "-qq", "-s", "8", "-e", traced, "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_opledger"))
        .args(["rebuild", "--data"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let [store, new, old] = ["store", "store.new", "store.old"].map(|name| data.join(name));
    let mut disk = Disk::default();
    let mut renames = Vec::new();
    for call in calls(&std::fs::read_to_string(&trace).unwrap()) {
        let [path, ..] = &call.paths[..] else {
            continue;
        };
        match &*call.name {
            "openat" if call.creates => disk.name_changed(path),
            "mkdir" | "mkdirat" => disk.name_changed(path),
            "write" | "writev" | "pwrite64" => drop(disk.files.insert(path.clone())),
            "fsync" | "fdatasync" => {
                disk.files.remove(path);
                disk.folders.remove(path);
            }
            "rename" | "renameat" | "renameat2" => {
                let to = &call.paths[1];
                if *path == store || *path == new {
                    renames.push((path.clone(), to.clone()));
                    // RocksDB's own log files are only for people to read.
                    let is_kept = |file: &&PathBuf| {
                        file.starts_with(&new) && !file.to_string_lossy().contains("/LOG")
                    };
                    let unsynced: Vec<_> = disk.files.iter().filter(is_kept).collect();
                    assert_eq!(unsynced, Vec::<&PathBuf>::new(), "{path:?} is renamed");
                    let in_names = [&new, &data].map(|folder| disk.folders.contains(folder));
                    assert_eq!(in_names, [false; 2], "names, when {path:?} is renamed");
                }
                disk.renamed(path, to);
            }
            "unlink" | "unlinkat" | "rmdir" => {
                if path.starts_with(&old) && path != &old {
                    assert_eq!(
                        renames.len(),
                        2,
                        "{path:?} is removed before it is replaced"
                    );
                    assert!(
                        !disk.folders.contains(&data),
                        "{path:?} is removed while the names may come back as they were"
                    );
                }
                disk.removed(path);
            }
            _ => {}
        }
    }
    let expected = [(store.clone(), old), (new, store)];
    assert_eq!(renames, expected);
}

fn open_to_others(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().unwrap().map(|entry| entry.unwrap()) {
        let metadata = entry.metadata().unwrap();
        if metadata.permissions().mode() & 0o077 != 0 {
            found.push(entry.path());
        }
        if metadata.is_dir() {
            open_to_others(&entry.path(), found);
        }
    }
}

/// Checks the data folder itself, too.
fn assert_closed(data: &Path, when: &str) {
    let mode = data.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "the data folder, {when}");
    let mut found = Vec::new();
    open_to_others(data, &mut found);
    assert_eq!(found, Vec::<PathBuf>::new(), "{when}");
}

#[test]
fn a_store_of_another_format_is_refused_and_can_be_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    filled(&data);
    let memory = rocks::MemoryBudget {
        block_cache: 8 << 20,
        write_buffers: 32 << 20,
    };
    let store = Rocks::open(&data.join("store"), Family::LEDGER, memory).unwrap();
    let mut batch = Batch::default();
    batch.put(Family::Meta, b"format", &[6]);
    store.write(&batch, Durability::Synced).unwrap();
    drop(store);
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opledger"));
        command.args(args).arg("--data").arg(&data);
        command.output().unwrap()
    };
    let refused = run(&["serve", "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(7), "{said}");
    assert!(said.contains("another format: it is 6"), "{said}");
    assert!(said.contains("run `opledger rebuild`"), "{said}");
    let rebuilt = run(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let server = Server::on(&data, &[]);
    let token = server.publish(&[created(0)]);
    assert!(server.document("operation-299", &token).is_some());
    assert!(server.terminate().success());
}

#[test]
fn no_other_user_may_read_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let settings = [("NOTIFICATIONS__ALLOW", "127.0.0.1")];
    let server = Server::on(&data, &settings);
    let token = server.publish(&[created(0)]);
    assert!(server.document("operation-0", &token).is_some());
    assert!(data.join("control").exists());
    assert_closed(&data, "while it runs");
    assert!(server.terminate().success());
    let rebuilt = Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(["rebuild", "--data"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    assert_closed(&data, "after a rebuild");
    // Permissions as an earlier version left them.
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&data, open.clone()).unwrap();
    std::fs::set_permissions(data.join("store"), open).unwrap();
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(data.join("store").join("CURRENT"), readable).unwrap();
    let server = Server::on(&data, &settings);
    assert_closed(&data, "after a start");
    assert!(server.terminate().success());
}
