//! The files of a store, and ways to damage them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

pub fn files(folder: &Path, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let meant = entries.filter(|entry| is_meant(entry.file_name().to_str().unwrap()));
    let mut paths: Vec<_> = meant.map(|entry| entry.path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "there are such files");
    paths
}

pub fn manifest(store: &Path) -> PathBuf {
    files(store, |name| name.starts_with("MANIFEST-"))
        .pop()
        .unwrap()
}

pub fn wals(store: &Path) -> Vec<PathBuf> {
    files(store, |name| name.ends_with(".log"))
}

/// The family of a table, from its properties: `name` follows the family's number, and the byte
/// before `name` is the length of the value.
pub fn family(table: &Path) -> Option<String> {
    let bytes = fs::read(table).unwrap();
    let find = |what: &[u8], from: usize| {
        let places = bytes[from..].windows(what.len());
        Some(from + what.len() + places.into_iter().position(|window| window == what)?)
    };
    let number = find(b"column.family.id", 0)?;
    let name = find(b"name", number)?;
    let length = bytes[name - b"name".len() - 1];
    Some(String::from_utf8_lossy(&bytes[name..name + usize::from(length)]).into_owned())
}

/// The largest table of a family.
pub fn sst(store: &Path, of: &str) -> PathBuf {
    let tables = files(store, |name| name.ends_with(".sst")).into_iter();
    let meant = tables.filter(|table| family(table).as_deref() == Some(of));
    let size = |path: &PathBuf| path.metadata().unwrap().len();
    let largest = meant.max_by_key(size);
    largest.unwrap_or_else(|| panic!("no table of {of}"))
}

pub fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

pub fn length(path: &Path) -> u64 {
    path.metadata().unwrap().len()
}

pub fn flip_part(path: &Path, percent: u64) {
    flip(path, length(path) * percent / 100);
}

pub fn cut_to(path: &Path, percent: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(length(path) * percent / 100).unwrap();
}

pub fn zero(path: &Path, from_percent: u64, bytes: usize) {
    let file = File::options().write(true).open(path).unwrap();
    let at = length(path) * from_percent / 100;
    file.write_all_at(&vec![0; bytes], at).unwrap();
}
