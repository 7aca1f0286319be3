//! The documents are consistent with each other, and with the files, tests and words that they
//! name: links, anchors, the summary.

use super::documents::{assert_documented, code, read, rows, sources};
use crate::support::root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// All documents for readers, from the root of the repository.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = !name.starts_with('.') && !["target", "vendor", "bin"].contains(&&*name);
            if entry.file_type().unwrap().is_dir() && is_ours {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 50);
    found
}

/// The text without code blocks.
fn prose(path: &Path) -> String {
    let mut is_code = false;
    let mut prose = String::new();
    for line in read(path).lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// The anchors of headings, as GitHub and mdBook build them.
fn anchors(prose: &str) -> BTreeSet<String> {
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            text.chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut known: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    let mut complaints = Vec::new();
    let mut links = 0;
    for document in documents() {
        let text = prose(&document);
        for (at, _) in text.match_indices("](") {
            let (target, _) = text[at + 2..].split_once(')').expect("a link that ends");
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            links += 1;
            let (file, anchor) = match target.split_once('#') {
                Some((file, anchor)) => (file, Some(anchor)),
                None => (target, None),
            };
            let file = match file {
                "" => document.clone(),
                file => document.parent().expect("a folder").join(file),
            };
            let Ok(path) = root().join(&file).canonicalize() else {
                complaints.push(format!("{}: {target}: no such file", document.display()));
                continue;
            };
            if let Some(anchor) = anchor {
                let known = known.entry(path).or_insert_with(|| anchors(&prose(&file)));
                if !known.contains(anchor) {
                    complaints.push(format!("{}: {target}: no such heading", document.display()));
                }
            }
        }
    }
    assert!(links > 100, "{links}");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_summary_names_every_chapter_by_its_title() {
    let summary = read("docs/SUMMARY.md");
    let named: Vec<(String, String)> = summary
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ["))
        .map(|rest| {
            let (title, rest) = rest.split_once("](").expect("a link");
            let path = rest.strip_suffix(')').expect("a link that ends the line");
            (path.to_owned(), title.to_owned())
        })
        .collect();
    let once: BTreeSet<_> = named.iter().cloned().collect();
    assert_eq!(
        once.len(),
        named.len(),
        "docs/SUMMARY.md names a chapter twice"
    );
    let mut chapters = BTreeSet::new();
    for document in documents() {
        let Ok(path) = document.strip_prefix("docs") else {
            continue;
        };
        if path != Path::new("SUMMARY.md") {
            let text = read(&document);
            let title = text.lines().next().and_then(|line| line.strip_prefix("# "));
            let title = title.unwrap_or_else(|| panic!("{} has no title", document.display()));
            chapters.insert((path.display().to_string(), title.to_owned()));
        }
    }
    assert_documented(&once, &chapters, "docs/SUMMARY.md");
}

#[test]
fn a_busy_engineer_finishes_the_readme() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "README.md has {lines} lines, at most 200");
}

#[test]
fn tests_of_the_guarantees_exist() {
    let mut complaints = Vec::new();
    let guarantees = read("docs/guarantees.md");
    let mut count = 0;
    for cells in rows(&guarantees).filter(|cells| cells.len() == 2) {
        for name in code(cells[1]).filter(|name| name.contains('/') || *name == "scale") {
            count += 1;
            let test = root().join("tests").join(name);
            if !test.is_dir() && !test.with_extension("rs").is_file() {
                complaints.push(format!("docs/guarantees.md: no {name} in tests/"));
            }
        }
    }
    assert!(count > 30, "{count}");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn tests_that_guard_an_invariant_exist() {
    let sources = sources();
    let mut complaints = Vec::new();
    let mut count = 0;
    let invariants = read("docs/invariants.md");
    let architecture = read("ARCHITECTURE.md");
    let (_, architecture) = architecture.split_once("## Invariants").expect("a chapter");
    let (architecture, _) = architecture
        .split_once("\n## ")
        .expect("another one after it");
    for (place, text) in [
        ("docs/invariants.md", &*invariants),
        ("ARCHITECTURE.md", architecture),
    ] {
        for cells in rows(text).filter(|cells| cells.len() == 2) {
            for name in code(cells[1]) {
                count += 1;
                let is_there = match name.contains(['/', '.']) {
                    true => root().join("tests").join(name).exists() || root().join(name).exists(),
                    false => sources.contains(&format!("fn {name}(")),
                };
                if !is_there {
                    complaints.push(format!("{place}: there is no test {name}"));
                }
            }
        }
    }
    assert!(count > 80, "{count}");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn files_that_the_architecture_names_exist() {
    let architecture = read("ARCHITECTURE.md");
    let (_, tables) = architecture
        .split_once("## To change, open")
        .expect("a chapter");
    let (tables, _) = tables
        .split_once("## Data on disk")
        .expect("another one after it");
    let mut complaints = Vec::new();
    let mut count = 0;
    for cells in rows(tables) {
        // A bare name is in the folder of the path before it.
        let mut folder = PathBuf::new();
        for name in cells.iter().flat_map(|cell| code(cell)) {
            let is_path = name.ends_with('/')
                || [".rs", ".json", ".toml", ".md", ".yml", ".mjs"]
                    .iter()
                    .any(|extension| name.ends_with(extension));
            if !is_path {
                continue;
            }
            count += 1;
            let places = [PathBuf::new(), "src".into(), "tests".into(), folder.clone()];
            match places
                .iter()
                .find(|place| root().join(place).join(name).exists())
            {
                Some(place) => {
                    let path = place.join(name);
                    folder = match name.ends_with('/') {
                        true => path,
                        false => path.parent().expect("a folder").to_owned(),
                    };
                }
                None => complaints.push(format!("there is no {name}")),
            }
        }
    }
    assert!(count > 80, "{count}");
    assert!(
        complaints.is_empty(),
        "ARCHITECTURE.md:\n{}",
        complaints.join("\n")
    );
    let words = architecture.split_whitespace().count();
    assert!(
        words <= 2400,
        "ARCHITECTURE.md has {words} words, four pages have 2400"
    );
}

#[test]
fn words_of_the_glossary_are_words_of_the_code() {
    let sources = sources().to_lowercase();
    let architecture = read("ARCHITECTURE.md");
    let (_, glossary) = architecture.split_once("## Glossary").expect("a chapter");
    let mut seen = BTreeSet::new();
    let mut complaints = Vec::new();
    for cells in rows(glossary).filter(|cells| !["word", "---"].contains(&cells[0])) {
        for word in cells[0].split(" · ") {
            if !seen.insert(word) {
                complaints.push(format!("{word} is explained twice"));
            }
            let in_code = [
                word.to_owned(),
                word.replace(' ', "_"),
                word.replace(' ', ""),
            ];
            if !in_code.iter().any(|word| sources.contains(word)) {
                complaints.push(format!("no file names {word}"));
            }
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
    assert!(
        complaints.is_empty(),
        "ARCHITECTURE.md, Glossary: {complaints:?}"
    );
}
