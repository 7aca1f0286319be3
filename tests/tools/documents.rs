//! What the documents say of the program, against the program: its settings, its metrics,
//! its exit statuses, its formats and the versions of what it is tested with.

use opledger::config::Config;
use opledger::projector::meta;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of tables, as cells.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter_map(|line| {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(str::trim).collect())
    })
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
fn the_readme_lists_every_setting_with_its_default() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("## Configuration").expect("a chapter");
    let (chapter, _) = rest.split_once("\n## ").expect("another one after it");
    let mut complaints = Vec::new();
    let rows: Vec<_> = rows(chapter).filter(|cells| cells.len() == 2).collect();
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
        "README, Configuration:\n{}",
        complaints.join("\n")
    );
}

/// In the source: a metric appears at `/metrics` only once there is something to say.
fn described() -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    for file in ["src/metrics.rs", "src/event_log/kafka/stats.rs"] {
        let source = read(file);
        for kind in ["counter", "gauge", "histogram"] {
            for (at, call) in source.match_indices(&format!("describe_{kind}!(")) {
                let mut strings = source[at + call.len()..].split('"').skip(1).step_by(2);
                let name = strings.next().expect("a name").to_owned();
                found.push((name, kind, strings.next().expect("a text").to_owned()));
            }
        }
    }
    assert!(found.len() > 40);
    found
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let guide = read("docs/operations.md");
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
    let missing: Vec<_> = known.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&known).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "docs/operations.md, Metrics: missing {missing:?}, too many {gone:?}"
    );
}

#[test]
fn the_exit_statuses_of_the_readme_are_those_of_the_help() {
    let help = Command::new(env!("CARGO_BIN_EXE_opledger"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, statuses) = help.split_once("Exit status:\n").expect("a list");
    let helped: Vec<&str> = statuses
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let readme = read("README.md");
    let (_, table) = readme.split_once("| status | meaning |").expect("a table");
    let (table, _) = table.split_once("\n\n").expect("an end");
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
    assert!(
        row[2].starts_with(&format!(
            "1 to {format}. An older store is stamped {format} "
        )),
        "{}",
        row[2]
    );
    let fold = meta::FOLD;
    let row = rows(&guide)
        .find(|cells| cells[0] == "fold")
        .expect("a row");
    assert_eq!((row[1], row[2]), (&*fold.to_string(), &*fold.to_string()));
    assert!(read("CHANGELOG.md").contains(&format!("store formats\n1 to {format}, fold")));
    assert!(read("README.md").contains(&format!("\"store_format\":{format},")));
    assert!(read("README.md").contains(&format!("\"fold_version\":{fold},")));
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
    assert!(read("README.md").contains(&format!("(tested with {major_minor})")));
}
