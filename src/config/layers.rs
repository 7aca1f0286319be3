//! The places that settings come from: a TOML file, environment variables, flags.
//!
//! Each source yields its values, or its problems, under the same keys. Whether a value suits its
//! setting is not checked here.

use super::Overrides;
use super::field::Raw;
use super::problem::{Problem, SettingSource};
use super::table::{Given, Keys, LayerEntry};
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const PREFIX: &str = "OPLEDGER_";
const FILE: &str = "_FILE";
/// Read by the command line, and no settings.
const NOT_SETTINGS: [&str; 2] = ["CONFIG", "URL"];

pub(super) fn file(path: &Path, keys: &Keys) -> Vec<LayerEntry> {
    let unreadable = |line, fault: String, remedy| {
        let path = path.into();
        let source = SettingSource::File { path, line };
        LayerEntry::Wrong(Problem::new(source, None, fault, remedy))
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let fault = format!("cannot be read: {error}");
            let remedy = "give the path of a readable file";
            return vec![unreadable(0, fault, remedy)];
        }
    };
    let (table, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        // The parser recovers by guessing, so the keys that it found are not checked. The
        // error's own text would quote the line, which may contain a secret.
        let broken = errors.iter().map(|error| {
            let line = error.span().map_or(0, |span| line_at(&text, span.start));
            let fault = format!("is not TOML: {}", error.message());
            unreadable(line, fault, "correct the line")
        });
        return broken.collect();
    }
    let mut walk = TomlWalk {
        path,
        text: &text,
        keys,
        found: Vec::new(),
    };
    walk.table("", table.into_inner());
    walk.found
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.bytes().take(offset);
    1 + before.filter(|byte| *byte == b'\n').count()
}

struct TomlWalk<'f> {
    path: &'f Path,
    text: &'f str,
    keys: &'f Keys,
    found: Vec<LayerEntry>,
}

impl TomlWalk<'_> {
    fn table(&mut self, section: &str, table: DeTable<'_>) {
        for (name, value) in table {
            let key = match section {
                "" => name.get_ref().to_string(),
                _ => format!("{section}.{}", name.get_ref()),
            };
            let source = SettingSource::File {
                path: self.path.into(),
                line: line_at(self.text, name.span().start),
            };
            self.value(key, source, value);
        }
    }

    fn value(&mut self, key: String, source: SettingSource, value: Spanned<DeValue<'_>>) {
        let keys = self.keys;
        let free = keys.free_of(&key).is_some();
        let section = keys.is_section(&key);
        let (fault, remedy) = match value.into_inner() {
            // A dotted key is a table within a table.
            DeValue::Table(inner) if free || section => return self.table(&key, inner),
            value if free || keys.is_setting(&key) => {
                return self.found.push(LayerEntry::Given(Given {
                    key,
                    source,
                    raw: raw(value),
                    hidden: false,
                }));
            }
            _ if section => ("is a section", format!("put its settings under [{key}]")),
            DeValue::Table(_) => {
                let nearest = keys.nearest_section(&key);
                let remedy = instead(nearest.map(|name| format!("[{name}]")));
                ("is not a section", remedy)
            }
            _ => {
                let nearest = keys.nearest_setting(&key);
                ("is not a setting", instead(nearest.map(str::to_owned)))
            }
        };
        let problem = Problem::new(source, Some(&key), fault, remedy);
        self.found.push(LayerEntry::Wrong(problem));
    }
}

fn raw(value: DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("an integer beyond 64 bits"), Raw::Integer),
        DeValue::Boolean(value) => Raw::Boolean(value),
        DeValue::Float(_) => Raw::Other("a float"),
        DeValue::Datetime(_) => Raw::Other("a date or time"),
        DeValue::Array(_) => Raw::Other("an array"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

fn instead(nearest: Option<String>) -> String {
    match nearest {
        Some(name) => format!("the nearest is {name}"),
        None => "remove it (the sample file lists all settings)".into(),
    }
}

/// `OPLEDGER_SERVER__LISTEN`, or `OPLEDGER_SERVER__LISTEN_FILE` for the content of
/// a file.
pub(super) fn environment(
    env: impl Iterator<Item = (String, String)>,
    keys: &Keys,
) -> Vec<LayerEntry> {
    // In order of names, so that two starts report the same problems in the same order.
    let variables: BTreeMap<_, _> = env.collect();
    let ours = variables.into_iter().filter_map(|(name, value)| {
        let rest = name.strip_prefix(PREFIX)?;
        // `docker compose` gives `""` for `${X:-}`: it counts as not given.
        let foreign =
            value.is_empty() || NOT_SETTINGS.contains(&rest) || is_service_link(rest, &value);
        (!foreign).then(|| variable(rest, value, keys))
    });
    ours.collect()
}

fn variable(rest: &str, value: String, keys: &Keys) -> LayerEntry {
    let source = SettingSource::Variable(format!("{PREFIX}{rest}"));
    let wrong = |key: String, fault: &str, remedy: String| {
        LayerEntry::Wrong(Problem::new(source.clone(), Some(&key), fault, remedy))
    };
    let Some((key, is_file)) = key_of(rest, keys) else {
        let (stem, suffix) = match rest.strip_suffix(FILE) {
            Some(stem) => (stem, FILE),
            None => (rest, ""),
        };
        let key = dotted(stem);
        let meant = meant(stem, keys);
        let is_setting = meant.is_some() || rest.contains("__");
        let nearest = meant.or_else(|| keys.nearest_setting(&key));
        let nearest = nearest.map(|key| format!("{PREFIX}{}{suffix}", shouted(key)));
        return match is_setting {
            true => wrong(key, "is not a setting", instead(nearest)),
            // Somebody's own, such as the name of a container.
            false => LayerEntry::Ignored(format!("{PREFIX}{rest}")),
        };
    };
    let text = match is_file.then(|| std::fs::read_to_string(&value)) {
        None => value,
        Some(Ok(content)) => without_line_end(content),
        Some(Err(error)) => {
            // Without the path: some users put the secret itself here.
            let fault = format!("is in a file that cannot be read: {error}");
            let remedy = "give the path of a file, not the value".into();
            return wrong(key, &fault, remedy);
        }
    };
    if text.contains(char::REPLACEMENT_CHARACTER) {
        // The caller replaced text that is not UTF-8: see `config::variables`.
        return wrong(key, "is not UTF-8", "give it in UTF-8".into());
    }
    LayerEntry::Given(Given {
        key,
        source,
        raw: Raw::Word(text),
        hidden: is_file,
    })
}

/// The key that a variable gives, and whether it names a file. A setting whose own
/// name ends like that comes first; in a free-form section it always is a file.
fn key_of(rest: &str, keys: &Keys) -> Option<(String, bool)> {
    let setting = |name: &str| keys.settings.iter().find(|key| shouted(key) == name);
    if let Some(key) = setting(rest) {
        return Some((key.to_string(), false));
    }
    let (stem, is_file) = match rest.strip_suffix(FILE) {
        Some(stem) => (stem, true),
        None => (rest, false),
    };
    let free = || {
        keys.free.iter().find_map(|section| {
            let name = stem.strip_prefix(&shouted(section))?.strip_prefix("__")?;
            (!name.is_empty()).then(|| format!("{section}.{}", dotted(name)))
        })
    };
    let key = setting(stem).map(|key| key.to_string()).or_else(free)?;
    Some((key, is_file))
}

/// The setting that a variable of another name was probably meant for. A name that only resembles
/// one is ignored.
fn meant<'k>(stem: &str, keys: &'k Keys) -> Option<&'k str> {
    let allowed = (stem.len() / 4).max(1);
    let resembles = |key: &&&str| {
        let name = shouted(key);
        let without_section = name.rsplit("__").next();
        without_section == Some(stem)
            || stem.starts_with(&format!("{name}_"))
            || strsim::osa_distance(stem, &name) <= allowed
    };
    let mut candidates: Vec<_> = keys.settings.iter().filter(resembles).collect();
    candidates.sort_by_key(|key| strsim::osa_distance(stem, &shouted(key)));
    candidates.first().map(|key| **key)
}

fn shouted(key: &str) -> String {
    key.replace('.', "__").to_ascii_uppercase()
}

fn dotted(name: &str) -> String {
    name.replace("__", ".").to_ascii_lowercase()
}

/// Editors and `echo` add a line end that is not part of a secret.
fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// Kubernetes gives each pod variables about the services beside it, such as
/// `OPLEDGER_PORT=tcp://10.0.0.1:80` or `OPLEDGER_WEB_SERVICE_HOST`. A service that
/// is called opledger must not keep opledger from starting.
fn is_service_link(rest: &str, value: &str) -> bool {
    let followed = |word: &str, by: fn(&str) -> bool| {
        rest.match_indices(word).any(|(at, _)| {
            let (before, after) = (&rest[..at], &rest[at + word.len()..]);
            (before.is_empty() || before.ends_with('_')) && by(after)
        })
    };
    let digit = |after: &str| after.starts_with(|c: char| c.is_ascii_digit());
    !rest.contains("__")
        && (followed("SERVICE_HOST", str::is_empty)
            || followed("SERVICE_PORT", |after| {
                after.is_empty() || after.starts_with('_')
            })
            || followed("PORT", str::is_empty) && value.contains("://")
            || followed("PORT_", digit))
}

pub(super) fn flags(overrides: Overrides) -> Vec<LayerEntry> {
    let Overrides {
        data,
        listen,
        kafka,
        topic,
        create_topics,
    } = overrides;
    let create_topics = create_topics.then(|| "true".to_owned());
    let flags = [
        ("data", "--data", data),
        ("server.listen", "--listen", listen),
        ("kafka.bootstrap", "--kafka", kafka),
        ("kafka.topic", "--topic", topic),
        ("kafka.create_topics", "--create-topics", create_topics),
    ];
    let given = flags.into_iter().filter_map(|(key, flag, value)| {
        Some(LayerEntry::Given(Given {
            key: key.into(),
            source: SettingSource::Flag(flag),
            raw: Raw::Word(value?),
            hidden: false,
        }))
    });
    given.collect()
}
