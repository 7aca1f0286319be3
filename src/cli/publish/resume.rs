//! The note beside a file that says how far it has been acknowledged. Losing it,
//! or mistrusting it, costs sending again and nothing else; so it is replaced
//! atomically but not synced, and anything odd about it means starting over.

use crate::wire::position::Token;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How much of the acknowledged part is compared. All of it would mean reading
/// the whole file again.
const TAIL: u64 = 64 << 10;

/// How far the ledger has everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Point {
    pub offset: u64,
    pub line: u64,
    /// Merged over all that was acknowledged. `None` at the beginning.
    pub token: Option<Token>,
}

/// The content of the note.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    url: String,
    file_length: u64,
    acknowledged_bytes: u64,
    acknowledged_lines: u64,
    tail_blake3: String,
    position: String,
}

pub struct Resume {
    path: PathBuf,
    file: File,
    url: String,
    /// Of the file, when this run began.
    length: u64,
}

pub enum Found {
    Nothing,
    Point(Point),
    /// There is a note, but it is not about this file or this ledger.
    Other(&'static str),
}

impl Resume {
    pub fn new(file_path: &Path, file: File, length: u64, url: String) -> Resume {
        let mut path = file_path.as_os_str().to_owned();
        path.push(".opledger-resume");
        Resume {
            path: path.into(),
            file,
            url,
            length,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn find(&self) -> Found {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(_) => return Found::Other("the note of the last run cannot be read"),
        };
        let Ok(note) = serde_json::from_slice::<Note>(&text) else {
            return Found::Other("the note of the last run is damaged");
        };
        let Ok(token) = note.position.parse() else {
            return Found::Other("the note of the last run is damaged");
        };
        if note.url != self.url {
            return Found::Other("the last run was for another address");
        }
        if self.length < note.file_length {
            return Found::Other("the file is shorter than it was");
        }
        match self.tail(note.acknowledged_bytes) {
            Ok(tail) if tail == note.tail_blake3 => Found::Point(Point {
                offset: note.acknowledged_bytes,
                line: note.acknowledged_lines,
                token: Some(token),
            }),
            Ok(_) | Err(_) => Found::Other("the file is not what it was"),
        }
    }

    pub fn save(&self, point: &Point) -> io::Result<()> {
        let Some(token) = &point.token else {
            return Ok(());
        };
        let note = Note {
            url: self.url.clone(),
            file_length: self.length,
            acknowledged_bytes: point.offset,
            acknowledged_lines: point.line,
            tail_blake3: self.tail(point.offset)?,
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

    /// What stands just before `end`.
    fn tail(&self, end: u64) -> io::Result<String> {
        let from = end.saturating_sub(TAIL);
        let mut bytes = vec![0; (end - from) as usize];
        self.file.read_exact_at(&mut bytes, from)?;
        Ok(blake3::hash(&bytes).to_hex().to_string())
    }
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
            let file = File::open(self.file()).unwrap();
            let length = file.metadata().unwrap().len();
            Resume::new(&self.file(), file, length, url.into())
        }
    }

    fn point(offset: u64) -> Point {
        Point {
            offset,
            line: 3,
            token: Some("abcd1234;0:7,2:9".parse().unwrap()),
        }
    }

    #[test]
    fn a_saved_point_is_found_until_it_is_removed() {
        let scene = Scene::new(&b"x".repeat(200_000));
        let resume = scene.resume(URL);
        assert!(matches!(resume.find(), Found::Nothing));
        for offset in [10, 65_536, 150_000, 200_000] {
            resume.save(&point(offset)).unwrap();
            assert!(matches!(scene.resume(URL).find(), Found::Point(p) if p == point(offset)));
        }
        // Nothing else is left lying about.
        assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 2);
        resume.remove().unwrap();
        resume.remove().unwrap();
        assert!(matches!(resume.find(), Found::Nothing));
    }

    #[test]
    fn before_the_first_acknowledgement_there_is_nothing_to_save() {
        let scene = Scene::new(b"x");
        scene.resume(URL).save(&Point::default()).unwrap();
        assert!(matches!(scene.resume(URL).find(), Found::Nothing));
    }

    #[test]
    fn a_file_that_grew_is_the_same_one() {
        let scene = Scene::new(b"one\ntwo\n");
        scene.resume(URL).save(&point(4)).unwrap();
        scene.write(b"one\ntwo\nthree\n");
        assert!(matches!(scene.resume(URL).find(), Found::Point(_)));
    }

    #[test]
    fn anything_else_is_another_one() {
        let scene = Scene::new(b"one\ntwo\n");
        let note = scene.resume(URL).path().to_owned();
        scene.resume(URL).save(&point(4)).unwrap();
        let saved = fs::read(&note).unwrap();
        let is_other = |url| matches!(scene.resume(url).find(), Found::Other(_));
        assert!(is_other("http://127.0.0.1:1"));
        for content in ["one\n", "two\ntwo\n", "", "one"] {
            scene.write(content.as_bytes());
            assert!(is_other(URL), "{content:?}");
        }
        scene.write(b"one\ntwo\n");
        assert!(!is_other(URL));
        for len in 0..saved.len() {
            fs::write(&note, &saved[..len]).unwrap();
            assert!(is_other(URL), "{len}");
        }
        // The note is also refused where its numbers point behind the file.
        let far = String::from_utf8(saved).unwrap();
        let far = far.replace("\"acknowledged_bytes\": 4", "\"acknowledged_bytes\": 4000");
        fs::write(&note, far).unwrap();
        assert!(is_other(URL));
    }
}
