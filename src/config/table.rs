//! Sets the settings of `Config::table` from the layers, and shows them.

use super::field::{Boxed, Raw, quoted};
use super::problem::{MASK, Problem, SettingSource, is_secret};
use super::{Options, Sources};
use std::fmt::Write;
use std::mem::discriminant;
use strsim::osa_distance;

pub(super) struct SettingsTable<'c> {
    pub settings: Vec<(&'static str, Boxed<'c>)>,
    /// Sections whose keys are not known here.
    pub free: Vec<(&'static str, &'c mut Options)>,
}

/// The entry of a layer for one key.
pub(super) enum LayerEntry {
    Given(Given),
    Wrong(Problem),
    /// The name of a variable that is not a setting, and does not resemble one.
    Ignored(String),
}

/// The result of setting all values of the layers.
pub(super) struct AppliedLayers {
    pub sources: Sources,
    pub problems: Vec<Problem>,
    /// Names of variables.
    pub ignored: Vec<String>,
}

/// One value, from one place.
pub(super) struct Given {
    pub key: String,
    pub source: SettingSource,
    pub raw: Raw,
    /// A problem must not repeat it: a secret, or the content of a user's file.
    pub hidden: bool,
}

impl SettingsTable<'_> {
    pub fn keys(&self) -> Keys {
        Keys {
            settings: self.settings.iter().map(|(key, _)| *key).collect(),
            free: self.free.iter().map(|(section, _)| *section).collect(),
        }
    }

    /// Takes the layers in ascending precedence. A value that a later layer overrides must be
    /// valid, too: otherwise its problem would appear on the day when the later value is removed.
    pub fn apply(&mut self, layers: Vec<LayerEntry>) -> AppliedLayers {
        let mut sources = Sources::new();
        let mut problems = Vec::new();
        let mut ignored = Vec::new();
        for entry in layers {
            match entry {
                LayerEntry::Wrong(problem) => problems.push(problem),
                LayerEntry::Ignored(name) => ignored.push(name),
                LayerEntry::Given(given) => {
                    let before = sources.insert(given.key.clone(), given.source.clone());
                    problems.extend(twice(&given, before));
                    problems.extend(self.set(&given));
                }
            }
        }
        AppliedLayers {
            sources,
            problems,
            ignored,
        }
    }

    fn set(&mut self, given: &Given) -> Option<Problem> {
        let (outcome, remedy) = if let Some((section, name)) = self.keys().free_of(&given.key) {
            let free = self.free.iter_mut().find(|(key, _)| *key == section);
            let (_, options) = free.expect("the section is one of these");
            let text = match &given.raw {
                Raw::Integer(number) => Ok(number.to_string()),
                Raw::Boolean(value) => Ok(value.to_string()),
                raw => raw.text().map(str::to_owned),
            };
            let outcome = text.map(|text| drop(options.0.insert(name.into(), text)));
            (outcome, "give a string")
        } else {
            let setting = self.settings.iter_mut().find(|(key, _)| *key == given.key);
            let (_, slot) = setting.expect("layers check the keys");
            (slot.set(&given.raw), slot.remedy())
        };
        outcome.err().map(|fault| Problem {
            source: given.source.clone(),
            key: Some(given.key.clone()),
            value: match given.raw.show() {
                Some(_) if given.hidden || is_secret(&given.key) => Some(MASK.into()),
                shown => shown,
            },
            fault,
            remedy: remedy.into(),
        })
    }

    /// A configuration file with every setting, each with its source unless that is the default.
    pub fn show(&self, sources: &Sources) -> String {
        let mut out = String::new();
        let mut current = "";
        for (key, slot) in &self.settings {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
            if section != current {
                header(&mut out, section);
                current = section;
            }
            line(&mut out, key, name, slot.show(), sources);
        }
        for (section, options) in &self.free {
            header(&mut out, section);
            for (name, value) in &options.0 {
                let key = format!("{section}.{name}");
                let name = bare_or_quoted(name);
                line(&mut out, &key, &name, quoted(value), sources);
            }
        }
        out
    }
}

/// Within one layer it is unclear which of two values is meant.
fn twice(given: &Given, before: Option<SettingSource>) -> Option<Problem> {
    let other = before.filter(|other| discriminant(other) == discriminant(&given.source))?;
    let fault = format!("is given twice, also by {other}");
    let (source, key) = (given.source.clone(), Some(&*given.key));
    Some(Problem::new(source, key, fault, "keep one of them"))
}

fn header(out: &mut String, section: &str) {
    let gap = if out.is_empty() { "" } else { "\n" };
    writeln!(out, "{gap}[{section}]").expect("memory takes any text");
}

fn line(out: &mut String, key: &str, name: &str, value: String, sources: &Sources) {
    let value = if is_secret(key) { quoted(MASK) } else { value };
    // The name of a file may have several lines, but a comment has one.
    let source = sources
        .get(key)
        .map(|source| format!(" # {source}").replace('\n', "\\n"));
    writeln!(out, "{name} = {value}{}", source.unwrap_or_default()).expect("memory takes any text");
}

fn bare_or_quoted(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !name.is_empty() && name.bytes().all(bare) {
        name.into()
    } else {
        quoted(name)
    }
}

/// The names in the table.
pub(super) struct Keys {
    pub settings: Vec<&'static str>,
    pub free: Vec<&'static str>,
}

impl Keys {
    /// Whether a value belongs there.
    pub fn is_setting(&self, key: &str) -> bool {
        self.settings.contains(&key)
    }

    /// The free-form section of a key, and its name there (which may have dots).
    pub fn free_of<'k>(&self, key: &'k str) -> Option<(&'static str, &'k str)> {
        self.free.iter().find_map(|section| {
            let name = key.strip_prefix(section)?.strip_prefix('.')?;
            Some((*section, name))
        })
    }

    pub fn is_section(&self, name: &str) -> bool {
        self.sections().any(|section| section == name)
    }

    /// Above `kafka.options` there is `kafka`, with or without settings of its own.
    fn sections(&self) -> impl Iterator<Item = &str> {
        let above = |key: &'static str| key.match_indices('.').map(move |(dot, _)| &key[..dot]);
        let settings = self.settings.iter().flat_map(move |key| above(key));
        let free = self.free.iter();
        settings.chain(free.flat_map(move |key| above(key).chain([*key])))
    }

    pub fn nearest_section(&self, name: &str) -> Option<&str> {
        nearest(name, self.sections())
    }

    pub fn nearest_setting(&self, key: &str) -> Option<&'static str> {
        nearest(key, self.settings.iter().copied())
    }
}

/// The name that was probably meant. The right name in a wrong section counts as close.
fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let last = |key: &'_ str| key.rfind('.').map_or(0, |dot| dot + 1);
    let own = &name[last(name)..];
    let (distance, found) = known
        .map(|key| {
            let elsewhere = 1 + osa_distance(own, &key[last(key)..]);
            (osa_distance(name, key).min(elsewhere), key)
        })
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + own.chars().count() / 3).then_some(found)
}
