//! The note next to a file: how much of the file has been acknowledged. Without it the next run
//! only sends events again. So it is replaced atomically but not synced, and any doubt about it
//! means starting at the first line.

use crate::cli::text::clean;
use crate::wire::position::Token;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

/// A point in the file up to which the ledger has everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    pub offset: u64,
    pub line: u64,
    /// The digest of everything before it: a corrected line there was not sent.
    pub digest: blake3::Hash,
    /// Merged over all that was acknowledged. `None` at the beginning.
    pub token: Option<Token>,
}

impl ResumePoint {
    pub fn beginning() -> ResumePoint {
        ResumePoint {
            offset: 0,
            line: 0,
            digest: blake3::hash(b""),
            token: None,
        }
    }
}

/// The content of the note.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    url: String,
    acknowledged_bytes: u64,
    acknowledged_lines: u64,
    acknowledged_blake3: String,
    position: String,
}

pub struct Resume {
    path: PathBuf,
    url: String,
}

pub enum FoundNote {
    Nothing,
    /// The file before it was read and compared.
    Point(ResumePoint, Box<blake3::Hasher>),
    /// There is a note, but it is not about this file or this ledger.
    Other(String),
}

impl Resume {
    pub fn new(file_path: &Path, url: String) -> Resume {
        let mut path = file_path.as_os_str().to_owned();
        path.push(".opledger-resume");
        Resume {
            path: path.into(),
            url,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compares the note with the whole acknowledged part of the file: reading it again is much
    /// quicker than sending it again.
    pub fn find(&self, file: &mut File) -> FoundNote {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return FoundNote::Nothing,
            Err(error) => return FoundNote::Other(format!("{}: {error}", self.shown())),
        };
        let damaged = || FoundNote::Other(format!("{} cannot be understood", self.shown()));
        let Ok(note) = serde_json::from_slice::<Note>(&text) else {
            return damaged();
        };
        let (Ok(token), Ok(digest)) = (
            note.position.parse(),
            blake3::Hash::from_hex(&note.acknowledged_blake3),
        ) else {
            return damaged();
        };
        if note.url != self.url {
            return FoundNote::Other(format!("the last run was for {}", clean(&note.url)));
        }
        let point = ResumePoint {
            offset: note.acknowledged_bytes,
            line: note.acknowledged_lines,
            digest,
            token: Some(token),
        };
        match read_again(file, point.offset) {
            Ok(read) if read.finalize() == digest => FoundNote::Point(point, Box::new(read)),
            Ok(_) => FoundNote::Other(format!(
                "what the last run had sent, lines 1 to {}, was changed since",
                point.line
            )),
            Err(why) => FoundNote::Other(why.to_string()),
        }
    }

    pub fn save(&self, point: &ResumePoint) -> io::Result<()> {
        let Some(token) = &point.token else {
            return Ok(());
        };
        let note = Note {
            url: self.url.clone(),
            acknowledged_bytes: point.offset,
            acknowledged_lines: point.line,
            acknowledged_blake3: point.digest.to_hex().to_string(),
            position: token.to_string(),
        };
        let text = serde_json::to_vec_pretty(&note).expect("strings and numbers always serialise");
        let mut new = self.path.as_os_str().to_owned();
        new.push(".new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.path)
    }

    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn shown(&self) -> String {
        clean(&self.path.to_string_lossy())
    }
}

/// A digest of the first `len` bytes. The file's position is after them.
fn read_again(file: &mut File, len: u64) -> io::Result<blake3::Hasher> {
    let mut read = blake3::Hasher::new();
    file.rewind()?;
    let found = io::copy(&mut (&mut *file).take(len), &mut read)?;
    if found < len {
        let why = "the file is shorter than what the last run had sent of it";
        return Err(io::Error::other(why));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://127.0.0.1:8470";

    struct Scene {
        folder: tempfile::TempDir,
    }

    impl Scene {
        fn new(content: &[u8]) -> Scene {
            let folder = tempfile::tempdir().unwrap();
            let scene = Scene { folder };
            scene.write(content);
            scene
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("events.jsonl")
        }

        fn write(&self, content: &[u8]) {
            fs::write(self.file(), content).unwrap();
        }

        fn resume(&self, url: &str) -> Resume {
            Resume::new(&self.file(), url.into())
        }

        fn find(&self, url: &str) -> FoundNote {
            self.resume(url).find(&mut File::open(self.file()).unwrap())
        }
    }

    fn point(content: &[u8], offset: usize) -> ResumePoint {
        ResumePoint {
            offset: offset as u64,
            line: 3,
            digest: blake3::hash(&content[..offset]),
            token: Some("abcd1234;0:7,2:9".parse().unwrap()),
        }
    }

    #[test]
    fn a_saved_point_is_found_until_it_is_removed() {
        let content = b"x".repeat(200_000);
        let scene = Scene::new(&content);
        let resume = scene.resume(URL);
        assert!(matches!(scene.find(URL), FoundNote::Nothing));
        for offset in [10, 65_536, 150_000, 200_000] {
            let saved = point(&content, offset);
            resume.save(&saved).unwrap();
            let mut file = File::open(scene.file()).unwrap();
            let FoundNote::Point(found, read) = resume.find(&mut file) else {
                panic!("not found at {offset}");
            };
            assert_eq!((found, read.finalize()), (saved.clone(), saved.digest));
            assert_eq!(file.stream_position().unwrap(), offset as u64);
        }
        // No other file is left.
        assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 2);
        resume.remove().unwrap();
        resume.remove().unwrap();
        assert!(matches!(scene.find(URL), FoundNote::Nothing));
    }

    #[test]
    fn before_the_first_acknowledgement_there_is_nothing_to_save() {
        let scene = Scene::new(b"x");
        scene.resume(URL).save(&ResumePoint::beginning()).unwrap();
        assert!(matches!(scene.find(URL), FoundNote::Nothing));
    }

    #[test]
    fn a_change_after_the_resume_point_does_not_prevent_resuming() {
        let scene = Scene::new(b"one\ntwo\n");
        scene.resume(URL).save(&point(b"one\n", 4)).unwrap();
        for content in ["one\ntwo\nthree\n", "one\n2\n", "one\n"] {
            scene.write(content.as_bytes());
            assert!(
                matches!(scene.find(URL), FoundNote::Point(..)),
                "{content:?}"
            );
        }
    }

    #[test]
    fn any_changed_byte_before_the_resume_point_is_detected() {
        let content = b"x\n".repeat(100_000);
        let scene = Scene::new(&content);
        scene.resume(URL).save(&point(&content, 150_000)).unwrap();
        for at in [0, 1, 70_000, 84_464, 149_999] {
            let mut corrected = content.clone();
            corrected[at] ^= 1;
            scene.write(&corrected);
            let FoundNote::Other(why) = scene.find(URL) else {
                panic!("byte {at} was not missed");
            };
            assert!(why.contains("lines 1 to 3, was changed"), "{why}");
        }
        scene.write(&content);
        assert!(matches!(scene.find(URL), FoundNote::Point(..)));
    }

    #[test]
    fn a_changed_file_or_another_ledger_is_not_resumed() {
        let scene = Scene::new(b"one\ntwo\n");
        let note = scene.resume(URL).path().to_owned();
        scene.resume(URL).save(&point(b"one\n", 4)).unwrap();
        let saved = fs::read(&note).unwrap();
        let is_other = |url| matches!(scene.find(url), FoundNote::Other(_));
        assert!(is_other("http://127.0.0.1:1"));
        for content in ["two\ntwo\n", "", "one"] {
            scene.write(content.as_bytes());
            assert!(is_other(URL), "{content:?}");
        }
        scene.write(b"one\ntwo\n");
        assert!(!is_other(URL));
        for len in 0..saved.len() {
            fs::write(&note, &saved[..len]).unwrap();
            assert!(is_other(URL), "{len}");
        }
        // The note is also refused if its numbers point beyond the file.
        let far = String::from_utf8(saved).unwrap();
        let far = far.replace("\"acknowledged_bytes\": 4", "\"acknowledged_bytes\": 4000");
        fs::write(&note, far).unwrap();
        assert!(is_other(URL));
    }
}
