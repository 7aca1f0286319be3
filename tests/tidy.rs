//! The project's own rules, as a test: allowed dependencies, what each file must have, and what
//! must not be left in. Each failure says what to do instead.

#[path = "support/root.rs"]
mod root;

use root::root;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

struct Source {
    path: String,
    text: String,
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = root();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let text = fs::read_to_string(path).unwrap();
            sources.push(Source { path: name, text });
        }
    }
    assert!(!sources.is_empty());
    sources
}

/// Lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

fn fail_if_any(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn dependencies_point_inwards() {
    // A folder, and the names that its files must not use.
    let walls: &[(&str, &[&str], &str)] = &[
        (
            "src/domain/",
            &[
                "crate::wire",
                "crate::store",
                "crate::event_log",
                "crate::projector",
                "crate::rows",
                "crate::feed",
                "crate::query",
                "crate::http",
                "tokio",
                "rdkafka",
                "rocksdb",
                "axum",
                "serde",
                "tracing",
                "SystemTime",
                "Instant",
                "chrono",
                "std::fs",
                "std::net",
                "std::thread",
            ],
            "the domain is pure: pass values in, hand values out",
        ),
        (
            "src/wire/",
            &[
                "crate::store",
                "crate::event_log",
                "crate::projector",
                "crate::rows",
                "crate::feed",
                "crate::query",
                "crate::http",
                "tokio",
                "rocksdb",
                "axum",
            ],
            "wire only converts between bytes and the domain",
        ),
        (
            "src/store/",
            &[
                "crate::event_log",
                "crate::projector",
                "crate::rows",
                "crate::feed",
                "crate::query",
                "crate::http",
                "axum",
            ],
            "the store knows rows, not its readers or writers",
        ),
        (
            "src/event_log/",
            &[
                "crate::projector",
                "crate::rows",
                "crate::feed",
                "crate::query",
                "crate::http",
                "axum",
            ],
            "the log knows records, not their processing",
        ),
        (
            "src/rows/",
            &[
                "crate::feed",
                "crate::query",
                "crate::projector",
                "crate::http",
                "axum",
            ],
            "rows know how operations are stored, not their readers or writers",
        ),
        (
            "src/feed/",
            &["crate::query", "crate::projector", "crate::http", "axum"],
            "the feed reports changes, and does not know its readers",
        ),
        (
            "src/query/",
            &["crate::projector", "crate::http", "axum"],
            "reads do not go through the projector",
        ),
        (
            "src/projector/",
            &["crate::query", "crate::http", "axum"],
            "the projector serves no requests: it reads rows",
        ),
        (
            "src/webhook/",
            &["crate::http", "axum", "reqwest"],
            "webhooks need no server, and no HTTP client that resolves names",
        ),
        (
            "src/audit/",
            &["crate::http", "axum"],
            "audits need no server",
        ),
    ];
    let mut complaints = Vec::new();
    for source in sources(&["src"]) {
        for (folder, banned, instead) in walls {
            for word in banned.iter().filter(|_| source.path.starts_with(folder)) {
                let tests = source
                    .text
                    .find("#[cfg(test)]")
                    .unwrap_or(source.text.len());
                if code(&source.text[..tests]).any(|line| line.contains(word)) {
                    complaints.push(format!("{} names {word}: {instead}", source.path));
                }
            }
        }
    }
    fail_if_any(complaints);
}

#[test]
fn one_place_for_each() {
    // Printing panics if the write fails, and hangs the caller if the write blocks.
    const WRITES: &str = "log it, or use output::note, cli::output::say or cli::output::Output";
    // As plain numbers, a last offset looks like a next one, and a partition like a count.
    const POSITION: &str = "src/wire/position.rs";
    const TYPED: &str = "use Partition, Offset, LastOffsets or NextOffsets";
    // Two writers could each overwrite what the other has read. A store writer names this file.
    const WRITER: &str = "src/projector/projection.rs";
    const WRITTEN: &str = "hand the rows to StoreWriter::change or StoreWriter::write";
    let places = [
        ("rocksdb::", "src/store/rocks", "go through store::Db"),
        (
            "rdkafka::",
            "src/event_log/kafka",
            "go through event_log::EventLog",
        ),
        ("Durability::", WRITER, WRITTEN),
        ("StatusCode::BAD", "src/http/error.rs", "return a Refusal"),
        (
            "StatusCode::INTERNAL",
            "src/http/error.rs",
            "return a Refusal",
        ),
        (
            "StatusCode::NOT_FOUND",
            "src/http/error.rs",
            "return a Refusal",
        ),
        ("std::process::exit", "src/main.rs", "return a Failure"),
        ("Map<u32,", POSITION, TYPED),
        ("partition: u32", POSITION, TYPED),
        ("(u32, u64)", POSITION, TYPED),
        ("print!(", "src/output.rs", WRITES),
        ("println!(", "src/output.rs", WRITES),
        ("io::stdout()", "src/output.rs", WRITES),
        ("io::stderr()", "src/output.rs", WRITES),
        ("io::stderr)", "src/output.rs", WRITES),
    ];
    let mut complaints = Vec::new();
    for source in sources(&["src"]) {
        let tests = source.text.find("mod tests {").unwrap_or(source.text.len());
        for (word, place, instead) in places {
            let text = match place == WRITER {
                true if source.path.starts_with("src/store/") => "",
                true if source.path.ends_with("/tests.rs") => "",
                true => &source.text[..tests],
                false => &source.text,
            };
            if !source.path.starts_with(place) && code(text).any(|l| l.contains(word)) {
                complaints.push(format!("{} names {word}: {instead}", source.path));
            }
        }
    }
    fail_if_any(complaints);
}

#[test]
fn only_rows_knows_how_the_ledger_is_stored() {
    // It reads a log of an older format, which is a separate database.
    const OLD_LOG: &str = "src/event_log/embedded/upgrade.rs";
    let mut complaints = Vec::new();
    for source in sources(&["src"]) {
        let is_inside = ["src/rows/", "src/store/", OLD_LOG];
        if is_inside
            .iter()
            .any(|inside| source.path.starts_with(inside))
        {
            continue;
        }
        let tests = source.text.find("mod tests {").unwrap_or(source.text.len());
        for word in ["Family::", "keys::", "rows::keys"] {
            let names_it = code(&source.text[..tests]).any(|line| line.contains(word));
            if names_it && !source.path.ends_with("/tests.rs") {
                let path = &source.path;
                complaints.push(format!("{path} names {word}: give rows/ a function for it"));
            }
        }
    }
    fail_if_any(complaints);
}

#[test]
fn every_file_says_what_it_is_and_can_be_read_in_one_sitting() {
    let mut complaints = Vec::new();
    for source in sources(&["src", "tests"]) {
        if !source.text.starts_with("//!") {
            complaints.push(format!("{} does not open with //!", source.path));
        }
        let lines = source.text.lines().count();
        if lines > 600 {
            complaints.push(format!("{} has {lines} lines: split it", source.path));
        }
    }
    fail_if_any(complaints);
}

#[test]
fn nothing_is_left_behind() {
    // Written in two parts, so that this file does not find itself.
    let banned = [
        (concat!("to", "do!("), "write it"),
        (concat!("unimpl", "emented!("), "write it"),
        (concat!("db", "g!("), "use tracing, or nothing"),
        (
            concat!("#[ig", "nore"),
            "assert the present behaviour, and say why it is wrong",
        ),
        (concat!("FIX", "ME"), "fix it"),
        (
            concat!("env!(\"CARGO_MAN", "IFEST_DIR\")"),
            "it may be another checkout, where this was compiled: use tests/support/root.rs",
        ),
    ];
    let mut complaints = Vec::new();
    for source in sources(&["src", "tests"]) {
        for (word, instead) in banned {
            if source.text.contains(word) {
                complaints.push(format!("{} has {word}: {instead}", source.path));
            }
        }
        let tests = source
            .text
            .find("#[cfg(test)]")
            .unwrap_or(source.text.len());
        if source.path.starts_with("src/")
            && code(&source.text[..tests]).any(|l| l.contains(".unwrap()"))
        {
            complaints.push(format!(
                "{} unwraps: expect(\"why it cannot fail\") or a typed error",
                source.path
            ));
        }
    }
    fail_if_any(complaints);
}

/// Each test program that uses the crate links RocksDB and librdkafka, and compiles all of
/// `tests/support`. A file that no program includes is never compiled, so its tests never run.
#[test]
fn test_programs_are_few_and_every_file_belongs_to_one() {
    let programs = [
        "pure/main.rs",
        "scale.rs",
        "simulated/main.rs",
        "soak.rs",
        "system.rs",
        "tidy.rs",
    ];
    let files = sources(&["tests"]);
    let mut complaints = Vec::new();
    for file in &files {
        let name = file.path.strip_prefix("tests/").unwrap();
        let (folder, stem) = match name.trim_end_matches(".rs").rsplit_once('/') {
            None | Some((_, "main")) => {
                if !programs.contains(&name) {
                    complaints.push(format!(
                        "{} is a new test program: make it a module of an existing one",
                        file.path
                    ));
                }
                continue;
            }
            Some((folder, "mod")) => folder.rsplit_once('/').unwrap_or(("", folder)),
            Some(found) => found,
        };
        let parents = match folder {
            "" => programs.map(|program| format!("tests/{program}")).to_vec(),
            _ => ["main", "mod"]
                .map(|parent| format!("tests/{folder}/{parent}.rs"))
                .to_vec(),
        };
        let names_it = format!("mod {stem};");
        let is_named = |parent: &Source| {
            let is_parent = parents.contains(&parent.path);
            is_parent && code(&parent.text).any(|line| line.trim_start_matches("pub ") == names_it)
        };
        // Every program includes `support`.
        if stem != "support" && !files.iter().any(is_named) {
            complaints.push(format!("{} is of no program: `{names_it}`", file.path));
        }
    }
    fail_if_any(complaints);
}

/// Cargo enables a feature for everything in the same build. The tests' dependencies could then
/// change the program under test, which would differ from the one that `make build` installs.
#[test]
fn test_dependencies_enable_no_feature_of_the_program() {
    let resolved = |edges: &str| -> Vec<String> {
        let cargo = std::process::Command::new(env!("CARGO"))
            .args([
                "tree",
                "--locked",
                "--offline",
                "--prefix",
                "none",
                "--no-dedupe",
            ])
            .args(["--format", "{p} {f}", "--edges", edges])
            .current_dir(root())
            .output()
            .unwrap();
        let text = String::from_utf8(cargo.stdout).unwrap();
        assert!(
            cargo.status.success(),
            "{}",
            String::from_utf8_lossy(&cargo.stderr)
        );
        text.lines().map(str::to_owned).collect()
    };
    let tested = resolved("normal,build,dev");
    let mut installed = resolved("normal,build");
    installed.sort();
    installed.dedup();
    let others = installed.iter().filter(|package| !tested.contains(package));
    let complaints = others.map(|package| {
        let name = package.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let with_tests = tested.iter().find(|other| other.starts_with(&name));
        format!(
            "Cargo.toml: name the features among [dependencies] that the tests enable:\n  {package}\n  {}",
            with_tests.map_or("", |other| other)
        )
    });
    fail_if_any(complaints.collect());
}

/// Layers whose types are named after what they describe: the client's after the API, the
/// configuration's after its sections.
const LAYERS: &[&str] = &["src/client/", "src/config.rs", "src/config/"];

/// Names that are always written with their module: `get::Args`, `store::Error`.
const QUALIFIED: &[&str] = &["Args", "Error"];

#[test]
fn a_type_name_is_defined_once() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources(&["src"]) {
        if LAYERS.iter().any(|layer| source.path.starts_with(layer)) {
            continue;
        }
        for line in code(&source.text) {
            if let Some(name) = defined_type(line) {
                places
                    .entry(name.to_owned())
                    .or_default()
                    .push(source.path.clone());
            }
        }
    }
    places.retain(|name, files| files.len() > 1 && !QUALIFIED.contains(&&**name));
    let complaints = places.iter().map(|(name, files)| {
        format!(
            "{name} names {} types, in {}: name each for what it is",
            files.len(),
            files.join(", ")
        )
    });
    fail_if_any(complaints.collect());
}

/// The type that a line defines, except associated types.
fn defined_type(line: &str) -> Option<&str> {
    let is_inner = line.starts_with(' ');
    let mut words = line.split_whitespace();
    let mut word = words.next()?;
    while word.starts_with("pub") || word == "unsafe" || word == "in" {
        word = words.next()?;
    }
    let is_type =
        matches!(word, "struct" | "enum" | "trait" | "union") || (word == "type" && !is_inner);
    let name = words
        .next()
        .filter(|name| is_type && name.starts_with(char::is_uppercase))?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
    Some(&name[..end.unwrap_or(name.len())])
}
