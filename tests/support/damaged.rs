//! Ledgers whose logs are damaged, kind by kind.

use super::notified::{delivered, list, quick, told};
use super::receiver::Receiver;
use super::server::{BATCH, Server};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The offset of a segment's first frame.
pub const HEAD: usize = 16 << 10;

pub fn created(operation: &str) -> Value {
    json!({"specversion": "1.0", "id": "created", "source": "/sender", "subject": operation,
        "type": "opledger.operation.created.v1", "time": "2024-05-06T07:00:00Z",
        "data": {"request": {"uri": "/x", "method": "PUT"}}})
}

pub fn opledger(arguments: &[&str], data: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_opledger"))
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env_remove("OPLEDGER_SEED")
        .output()
        .unwrap()
}

pub fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

#[track_caller]
pub fn succeeds(what: &str, arguments: &[&str], data: &Path) -> String {
    let output = opledger(arguments, data);
    let text = text(&output);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{what}, {arguments:?}: {text}"
    );
    text
}

/// A ledger that does not start; returns its message.
#[track_caller]
pub fn refuses(what: &str, data: &Path) -> String {
    let output = opledger(&["serve", "--listen", "127.0.0.1:0"], data);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(7), "{what}: {text}");
    text
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Name and content of every file in a folder, without those created ahead.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    let named = files.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    let named = named.filter(|(name, _)| !name.starts_with("spare"));
    named
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect()
}

/// A log of three segments after a kill, and its acknowledged events.
pub struct Events {
    pub folder: TempDir,
    /// The log when half of the last segment was written.
    pub older: TempDir,
    /// Each operation with the position of its event.
    pub acknowledged: BTreeMap<String, String>,
    pub token: String,
}

impl Events {
    pub fn get() -> &'static Events {
        static EVENTS: OnceLock<Events> = OnceLock::new();
        EVENTS.get_or_init(Events::make)
    }

    pub fn make() -> Events {
        let (folder, older) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut acknowledged = BTreeMap::new();
        let mut token = String::new();
        let mut publish = |server: &Server, count| {
            for _ in 0..count {
                let id = format!("op-{}", acknowledged.len());
                let answer = server.post(BATCH, json!([created(&id)]).to_string());
                assert_eq!(answer.status, 202);
                let position = &answer.json()["positions"][0];
                acknowledged.insert(id, position.as_str().unwrap().to_owned());
                token = answer.header("ledger-position").to_owned();
            }
        };
        // A change of the number of partitions begins a new segment.
        for (partitions, count) in [("2", 60), ("3", 60)] {
            let server = Server::on(folder.path(), &[("LOG__PARTITIONS", partitions)]);
            publish(&server, count);
            server.terminate();
        }
        let server = Server::on(folder.path(), &[]);
        publish(&server, 40);
        copy(&folder.path().join("log"), older.path());
        publish(&server, 40);
        server.kill();
        Events {
            folder,
            older,
            acknowledged,
            token,
        }
    }
}

/// The length of a segment up to its last byte that is not zero.
pub fn used(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

pub fn edit(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

pub fn flip(path: &Path, at: usize) {
    edit(path, |bytes| bytes[at] ^= 0x10);
}

/// Damages a log. Arguments: its folder, the segment, and an older copy of the folder.
pub type Damage = fn(&Path, &str, &Path);

/// An offset near the middle, within a block of an event.
pub fn middle(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    let half = HEAD + (used(path) - HEAD) / 2;
    let word = bytes[half..].windows(7).position(|word| word == b"subject");
    half + word.expect("an event in plain text")
}

/// Writes after the last used byte of a segment.
pub fn add(path: &Path, what: &[u8]) {
    let end = used(path).next_multiple_of(8);
    edit(path, |bytes| {
        bytes.resize(bytes.len().max(end + what.len()), 0);
        bytes[end..end + what.len()].copy_from_slice(what);
    });
}

/// Damage to a segment that every start must notice.
pub const SEGMENT: &[(&str, Damage)] = &[
    ("a bit of the head", |log, name, _| {
        flip(&log.join(name), 40)
    }),
    ("the head is zeros", |log, name, _| {
        edit(&log.join(name), |bytes| bytes[..4096].fill(0));
    }),
    ("the file is emptied", |log, name, _| {
        fs::write(log.join(name), []).unwrap();
    }),
    ("the file is deleted", |log, name, _| {
        fs::remove_file(log.join(name)).unwrap();
    }),
    ("the file is truncated within its head", |log, name, _| {
        edit(&log.join(name), |bytes| bytes.truncate(30));
    }),
    ("the file is truncated after its head", |log, name, _| {
        edit(&log.join(name), |bytes| bytes.truncate(HEAD));
    }),
    ("the file is truncated in the middle", |log, name, _| {
        let at = middle(&log.join(name));
        edit(&log.join(name), |bytes| bytes.truncate(at));
    }),
    ("the file is truncated by a byte", |log, name, _| {
        let end = used(&log.join(name));
        edit(&log.join(name), |bytes| bytes.truncate(end - 1));
    }),
    ("all of it is noise", |log, name, _| {
        edit(&log.join(name), |bytes| {
            let noise = (0u32..).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
            bytes.iter_mut().zip(noise).for_each(|(byte, n)| *byte = n);
        });
    }),
    ("a byte is added in front", |log, name, _| {
        edit(&log.join(name), |bytes| bytes.insert(0, b'x'));
    }),
];

/// Damage to the content of a segment.
pub const FRAMES: &[(&str, Damage)] = &[
    ("a bit of the first frame's head", |log, name, _| {
        flip(&log.join(name), HEAD + 9);
    }),
    ("a bit of the first block", |log, name, _| {
        flip(&log.join(name), HEAD + 120);
    }),
    ("a bit in the middle", |log, name, _| {
        flip(&log.join(name), middle(&log.join(name)));
    }),
    ("a bit of the last block", |log, name, _| {
        let end = used(&log.join(name));
        flip(&log.join(name), end - 2);
    }),
    ("bits in ten places", |log, name, _| {
        let end = used(&log.join(name));
        for n in 0..10 {
            flip(&log.join(name), HEAD + (end - HEAD - 1) * n / 10);
        }
    }),
    ("a sector in the middle is zeros", |log, name, _| {
        let at = middle(&log.join(name)) / 512 * 512;
        edit(&log.join(name), |bytes| bytes[at..at + 512].fill(0));
    }),
    (
        "four kilobytes in the middle are something else",
        |log, name, _| {
            let at = middle(&log.join(name)) / 4096 * 4096;
            edit(&log.join(name), |bytes| bytes[at..at + 4096].fill(0xA5));
        },
    ),
    ("the second half is zeros", |log, name, _| {
        let at = middle(&log.join(name));
        edit(&log.join(name), |bytes| bytes[at..].fill(0));
    }),
    ("a byte is added in the middle", |log, name, _| {
        let at = middle(&log.join(name));
        edit(&log.join(name), |bytes| bytes.insert(at, 7));
    }),
    ("an older copy of the file", |log, name, older| {
        fs::copy(older.join(name), log.join(name)).unwrap();
    }),
];

const ACKNOWLEDGED: &str = "acknowledged";

/// Damage outside the frames, which loses nothing.
pub const BESIDE: &[(&str, Damage)] = &[
    ("a slot of what was acknowledged", |log, _, _| {
        flip(&log.join(ACKNOWLEDGED), 40);
    }),
    ("its other slot", |log, _, _| {
        flip(&log.join(ACKNOWLEDGED), HEAD + 40);
    }),
    ("both slots", |log, _, _| {
        flip(&log.join(ACKNOWLEDGED), 40);
        flip(&log.join(ACKNOWLEDGED), HEAD + 40);
    }),
    ("it is missing", |log, _, _| {
        fs::remove_file(log.join(ACKNOWLEDGED)).unwrap();
    }),
    ("it is empty", |log, _, _| {
        fs::write(log.join(ACKNOWLEDGED), []).unwrap();
    }),
    ("an older copy of it", |log, _, older| {
        fs::copy(older.join(ACKNOWLEDGED), log.join(ACKNOWLEDGED)).unwrap();
    }),
    ("noise after the end", |log, name, _| {
        add(&log.join(name), &[0xA5; 999]);
    }),
    ("half a frame after the end", |log, name, _| {
        let frame = fs::read(log.join(name)).unwrap()[HEAD..HEAD + 100].to_vec();
        add(&log.join(name), &frame);
    }),
    ("a copy under a name of its own", |log, name, _| {
        fs::copy(log.join(name), log.join("copy.segment")).unwrap();
    }),
    ("the file that is written ahead is noise", |log, _, _| {
        fs::write(log.join("spare"), vec![0xA5; 1 << 16]).unwrap();
    }),
];

/// Damage that leaves the end of the log unknown.
pub const UNKNOWN: &[(&str, Damage)] = &[
    (
        "both slots are damaged, and the end truncated",
        |log, name, _| {
            flip(&log.join("acknowledged"), 40);
            flip(&log.join("acknowledged"), HEAD + 40);
            let end = used(&log.join(name));
            edit(&log.join(name), |bytes| bytes.truncate(end - 100));
        },
    ),
    (
        "the file is missing, and the end truncated",
        |log, name, _| {
            fs::remove_file(log.join("acknowledged")).unwrap();
            let end = used(&log.join(name));
            edit(&log.join(name), |bytes| bytes.truncate(end - 9));
        },
    ),
];

pub const NEWEST: &str = "0000000003.segment";
pub const OLDER: &str = "0000000002.segment";
pub const FIRST: &str = "0000000001.segment";

/// A copy of the whole ledger with its log damaged.
pub fn damaged(events: &Events, damage: Damage, name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    copy(events.folder.path(), folder.path());
    damage(&folder.path().join("log"), name, events.older.path());
    folder
}

/// A ledger that has sent notifications, and its receiver.
pub struct Notified {
    pub folder: TempDir,
    pub older: TempDir,
    pub receiver: Receiver,
}

pub const TOLD: usize = 20;

impl Notified {
    pub fn get() -> &'static Notified {
        static NOTIFIED: OnceLock<Notified> = OnceLock::new();
        NOTIFIED.get_or_init(|| {
            let (folder, older) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            let receiver = Receiver::willing();
            let server = Server::on(folder.path(), &quick(&[]));
            for n in 0..TOLD {
                let id = format!("op-{n}");
                server.publish(&told(&id, receiver.address));
                delivered(&server, &id);
                if n == TOLD / 2 {
                    copy(&folder.path().join("control"), older.path());
                }
            }
            server.kill();
            Notified {
                folder,
                older,
                receiver,
            }
        })
    }

    pub fn damaged(&self, damage: Damage) -> TempDir {
        let folder = TempDir::new().unwrap();
        copy(self.folder.path(), folder.path());
        damage(&folder.path().join("control"), FIRST, self.older.path());
        folder
    }

    /// No receiver is notified twice, even if there are new operations.
    pub fn check_told(&self, what: &str) {
        for n in 0..TOLD {
            let id = format!("op-{n}");
            assert_eq!(self.receiver.of(&id).len(), 1, "{what}: {id} is sent once");
        }
    }

    /// Notifications continue, and a new one is sent.
    pub fn goes_on(&self, what: &str, data: &Path) {
        let server = Server::on(data, &quick(&[]));
        let new = format!("new-{}", self.receiver.calls().len());
        server.publish(&told(&new, self.receiver.address));
        delivered(&server, &new);
        server.eventually("nothing waits", |server| {
            let metrics = server.metrics();
            metrics.contains("opledger_webhook_deliveries{state=\"pending\"} 0\n")
        });
        let sent = list(&server, "state=delivered").len();
        let held = list(&server, "state=held").len();
        assert!(sent + held > TOLD, "{what}: {sent} delivered, {held} held");
        server.kill();
        self.check_told(what);
    }
}
