//! The documents describe the program correctly: its settings, metrics, alerts, routes, exit
//! statuses and formats, the tests and files that they name, and the versions of the tools that
//! it is tested with.

use crate::support::root;
use crate::support::server::Server;
use axum::http::StatusCode;
use opledger::config::Config;
use opledger::rows::meta;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts between backticks.
pub fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of tables, as cells.
pub fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter_map(|line| {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(str::trim).collect())
    })
}

/// Reports what a document lacks and what it should not have, instead of both whole lists.
#[track_caller]
pub fn assert_documented<T: Ord + std::fmt::Debug>(
    documented: &BTreeSet<T>,
    known: &BTreeSet<T>,
    place: &str,
) {
    let missing: Vec<_> = known.difference(documented).collect();
    let gone: Vec<_> = documented.difference(known).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "{place}: missing {missing:?}, too many {gone:?}"
    );
}

/// All Rust source text.
pub fn sources() -> String {
    let mut found = String::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push_str(&read(&path));
            }
        }
    }
    found
}

/// The settings with their defaults, as `opledger config show` prints them.
fn settings() -> Vec<(String, String, String)> {
    let shown = Config::default().show();
    let mut section = String::new();
    let mut found = Vec::new();
    for line in shown.lines() {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name.to_owned();
        } else if let Some((name, value)) = line.split_once(" = ") {
            found.push((
                section.clone(),
                name.to_owned(),
                value.trim_matches('"').to_owned(),
            ));
        }
    }
    found
}

#[test]
fn every_setting_is_listed_with_its_default() {
    let chapter = read("docs/configuration.md");
    let mut complaints = Vec::new();
    let rows: Vec<_> = rows(&chapter).filter(|cells| cells.len() == 2).collect();
    for (section, name, default) in settings() {
        let head = match &*section {
            "" => String::new(),
            section => format!("`[{section}]`"),
        };
        let of_section = rows.iter().filter(|cells| cells[0] == head);
        let named = format!("`{name}` (");
        let mut told = of_section.filter_map(|cells| Some(cells[1].split_once(&named)?.1));
        let Some(told) = told.next() else {
            complaints.push(format!("[{section}] has no `{name}` ({default})"));
            continue;
        };
        let (told, _) = told.split_once(')').expect("a bracket that is closed");
        let told = told.trim_start_matches('`');
        let wanted = match &*default {
            "" => "nothing",
            " " => "a space",
            other => other,
        };
        let rest = told.strip_prefix(wanted);
        let ends = |rest: &str| rest.is_empty() || rest.starts_with(['`', ':', ';', ',', ' ']);
        if !rest.is_some_and(ends) {
            complaints.push(format!("[{section}] {name} is {default}, not {told}"));
        }
    }
    let known: BTreeSet<_> = settings().into_iter().map(|(_, name, _)| name).collect();
    for cells in rows
        .iter()
        .filter(|cells| !cells[0].starts_with("`[kafka."))
    {
        for (at, name) in code(cells[1]).enumerate() {
            let is_name = cells[1].contains(&format!("`{name}` ("));
            if is_name && !known.contains(name) {
                complaints.push(format!(
                    "{} number {at} names {name}, which is no setting",
                    cells[0]
                ));
            }
        }
    }
    assert!(
        complaints.is_empty(),
        "docs/configuration.md:\n{}",
        complaints.join("\n")
    );
}

/// Read from the source: some metrics appear at `/metrics` only after their first value.
fn described() -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    for line in read("src/metrics.rs").lines() {
        let mut words = line.trim().split('"');
        let kind = words.next().unwrap_or_default().trim_end();
        let mut kinds = ["counter", "gauge", "histogram"].into_iter();
        if let Some(kind) = kinds.find(|known| *known == kind) {
            let name = words.next().expect("a name").to_owned();
            found.push((name, kind, words.nth(1).expect("a text").to_owned()));
        }
    }
    assert!(found.len() > 40);
    found
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let guide = read("docs/monitoring.md");
    let mut documented = BTreeSet::new();
    for cells in rows(&guide).filter(|cells| cells.len() == 4) {
        for name in code(cells[0]).filter(|name| name.starts_with("opledger_")) {
            assert!(
                documented.insert((name.to_owned(), cells[1].to_owned())),
                "{name} is listed twice"
            );
        }
    }
    let described = described();
    let known: BTreeSet<_> = described
        .iter()
        .map(|(name, kind, _)| (name.clone(), (*kind).to_owned()))
        .collect();
    assert_documented(&documented, &known, "docs/monitoring.md, Metrics");
}

fn help() -> String {
    let help = Command::new(env!("CARGO_BIN_EXE_opledger"))
        .arg("--help")
        .output()
        .unwrap();
    String::from_utf8(help.stdout).unwrap()
}

#[test]
fn the_table_of_commands_is_that_of_the_help() {
    let help = help();
    let (_, commands) = help.split_once("Commands:\n").expect("a list");
    let (commands, _) = commands.split_once("\n\n").expect("an end");
    let helped: BTreeSet<&str> = commands
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    let chapter = read("docs/cli.md");
    let (_, table) = chapter
        .split_once("| command | works on | what it does |")
        .expect("a table");
    let (table, _) = table.split_once("\n\n").expect("an end");
    let documented: BTreeSet<&str> = rows(table)
        .flat_map(|cells| code(cells[0]).collect::<Vec<_>>())
        .filter_map(|command| command.split_whitespace().next())
        .collect();
    assert_documented(&documented, &helped, "docs/cli.md, commands");
}

#[test]
fn the_exit_statuses_are_those_of_the_help() {
    let help = help();
    let (_, statuses) = help.split_once("Exit status:\n").expect("a list");
    let helped: Vec<&str> = statuses
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let chapter = read("docs/cli.md");
    let (_, table) = chapter.split_once("| status | meaning |").expect("a table");
    let told: Vec<&str> = rows(table)
        .map(|cells| cells[0])
        .filter(|cell| !cell.starts_with('-'))
        .collect();
    assert_eq!(told, helped);
}

#[test]
fn documents_name_the_store_format_and_the_fold_that_the_program_writes() {
    let format = meta::FORMAT;
    let guide = read("docs/operations.md");
    let row = rows(&guide)
        .find(|cells| cells[0] == "stored format")
        .expect("a row");
    assert_eq!(row[1], format.to_string());
    assert_eq!(row[2], format.to_string());
    let fold = meta::FOLD;
    let row = rows(&guide)
        .find(|cells| cells[0] == "fold")
        .expect("a row");
    assert_eq!((row[1], row[2]), (&*fold.to_string(), &*fold.to_string()));
    assert!(read("CHANGELOG.md").contains(&format!("store format\n{format}, fold")));
    assert!(read("docs/kafka.md").contains(&format!("\"store_format\":{format},")));
    assert!(read("docs/kafka.md").contains(&format!("\"fold_version\":{fold},")));
}

#[test]
fn one_version_of_kafka_is_named_everywhere() {
    let pom = read("scripts/kafka/pom.xml");
    let (_, rest) = pom.split_once("<kafka.version>").expect("a version");
    let (version, _) = rest.split_once('<').expect("an end");
    let image = format!("apache/kafka:{version}");
    for file in ["docker-compose.yml", "tests/support/broker.rs"] {
        assert!(read(file).contains(&image), "{file} does not name {image}");
    }
    let (major_minor, _) = version.rsplit_once('.').expect("three numbers");
    assert!(read("docs/kafka.md").contains(&format!("(tested with {major_minor})")));
}

#[test]
fn the_table_of_routes_is_that_of_the_interface() {
    let server = Server::start();
    let api = server.get("/openapi.json").json();
    // These are for browsers, and /openapi.json does not describe them.
    let mut served: BTreeSet<String> = ["GET /", "GET /docs"].map(str::to_owned).into();
    for (path, methods) in api["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            served.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let chapter = read("docs/http.md");
    let (_, table) = chapter
        .split_once("| request | response |")
        .expect("a table");
    let (table, _) = table.split_once("\n\n").expect("an end");
    let documented: BTreeSet<String> = rows(table)
        .flat_map(|cells| code(cells[0]).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_documented(&documented, &served, "docs/http.md, the first table");
}

#[test]
fn the_statuses_of_errors_are_those_of_the_one_place_that_gives_them() {
    let source = read("src/http/error.rs");
    let given: BTreeSet<String> = (400..600)
        .filter_map(|number| StatusCode::from_u16(number).ok())
        .filter(|status| {
            let name = status.canonical_reason().unwrap_or("none");
            let name = name.to_uppercase().replace([' ', '-'], "_");
            source
                .match_indices(&format!("::{name}"))
                .any(|(at, found)| !source[at + found.len()..].starts_with('_'))
        })
        .map(|status| status.as_str().to_owned())
        .collect();
    assert!(given.len() > 10, "{given:?}");
    let chapter = read("docs/http.md");
    let (_, table) = chapter
        .split_once("| status | code | when |")
        .expect("a table");
    let (table, _) = table.split_once("\n\n").expect("an end");
    let documented: BTreeSet<String> = rows(table)
        .filter(|cells| !cells[0].starts_with('-'))
        .flat_map(|cells| cells[0].split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_documented(&documented, &given, "docs/http.md, Errors");
}

#[test]
fn the_table_of_alerts_is_that_of_the_rules() {
    let rules = read("deploy/alerts.yml");
    let defined: BTreeSet<(String, String)> = rules
        .split("- alert: ")
        .skip(1)
        .map(|rule| {
            let (name, rest) = rule.split_once('\n').expect("a name");
            let (_, severity) = rest.split_once("severity: ").expect("a severity");
            let severity = severity.chars().take_while(char::is_ascii_alphabetic);
            (severity.collect(), name.trim().to_owned())
        })
        .collect();
    assert!(defined.len() > 10);
    let chapter = read("docs/monitoring.md");
    let (_, table) = chapter
        .split_once("| severity | alerts |")
        .expect("a table");
    let (table, _) = table.split_once("\n\n").expect("an end");
    let mut documented = BTreeSet::new();
    for cells in rows(table).filter(|cells| cells[0].starts_with('`')) {
        let severity = code(cells[0]).next().expect("a severity");
        for name in cells[1].split(", ") {
            documented.insert((severity.to_owned(), name.to_owned()));
        }
    }
    assert_documented(&documented, &defined, "docs/monitoring.md, Alerts");
}

/// An operator searches for a message by its text. The text in braces differs from case to
/// case.
#[test]
fn messages_of_halts_are_those_of_the_program() {
    let mut program = String::new();
    // The messages as they are printed, in any layout of the source.
    let sources = sources();
    let mut lines = sources.lines();
    while let Some(line) = lines.next() {
        let mut line = line.to_owned();
        while let Some(begun) = line.strip_suffix('\\') {
            line = format!("{begun}{}", lines.next().expect("the rest").trim_start());
        }
        program.push_str(&line);
        program.push('\n');
    }
    let guide = read("docs/operations.md");
    let (_, table) = guide
        .split_once("| message | cause | ways out |")
        .expect("a table");
    let (table, _) = table.split_once("\n\n").expect("an end");
    let mut complaints = Vec::new();
    let mut count = 0;
    for cells in rows(table).filter(|cells| cells[0].starts_with('`')) {
        count += 1;
        let message = cells[0]
            .strip_prefix('`')
            .and_then(|text| text.strip_suffix('`'));
        let message = message.expect("a message in backticks");
        for piece in message.split(['{', '}']).step_by(2) {
            if piece.len() > 3 && !program.contains(piece) {
                complaints.push(format!("{message}\n    nothing prints {piece:?}"));
            }
        }
    }
    assert!(count > 10, "{count}");
    assert!(
        complaints.is_empty(),
        "docs/operations.md, Halts:\n{}",
        complaints.join("\n")
    );
}
