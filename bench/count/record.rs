//! The counts, the tools that they were counted with, and how much counts may differ.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Instructions per unit of work, by the name of the work.
pub type Counts = BTreeMap<String, f64>;

#[derive(Serialize, Deserialize)]
pub struct Record {
    pub tools: Tools,
    pub counts: Counts,
}

/// The tools that counts depend on, besides the code.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub struct Tools {
    rustc: String,
    valgrind: String,
    libc: String,
}

/// In percent. A change that matters is larger; the effect of hash seeds and memory
/// addresses is smaller.
const ALLOWED: f64 = 3.0;
/// With another compiler or C library. It still catches large regressions.
const ALLOWED_WITH_OTHER_TOOLS: f64 = 15.0;

impl Tools {
    pub fn here() -> anyhow::Result<Tools> {
        let said = |program: &str, argument: &str| {
            let output = Command::new(program).arg(argument).output();
            let output = output.with_context(|| format!("{program} {argument}"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let line = text.lines().next().unwrap_or_default();
            anyhow::Ok(line.to_owned())
        };
        Ok(Tools {
            rustc: said("rustc", "--version")?,
            valgrind: said("valgrind", "--version")?,
            libc: said("ldd", "--version")?,
        })
    }
}

impl Record {
    pub fn read(file: &Path) -> anyhow::Result<Record> {
        let text = std::fs::read_to_string(file);
        let text = text.with_context(|| format!("{}: --accept makes it", file.display()))?;
        serde_json::from_str(&text).with_context(|| file.display().to_string())
    }

    pub fn text(&self) -> String {
        let mut rounded = self.counts.clone();
        rounded
            .values_mut()
            .for_each(|count| *count = count.round());
        let record = serde_json::json!({ "tools": self.tools, "counts": rounded });
        format!("{record:#}\n")
    }

    fn allowed(&self, found: &Record) -> f64 {
        match self.tools == found.tools {
            true => ALLOWED,
            false => ALLOWED_WITH_OTHER_TOOLS,
        }
    }

    /// The increase in percent; `None` if only one of them has this count.
    fn change(&self, found: &Record, name: &str) -> Option<f64> {
        let (before, now) = (self.counts.get(name)?, found.counts.get(name)?);
        Some((now / before - 1.0) * 100.0)
    }

    fn names<'r>(&'r self, found: &'r Record) -> Vec<&'r String> {
        let mut names: Vec<_> = self.counts.keys().chain(found.counts.keys()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Whether no count exceeds its limit, and all are recorded.
    pub fn fits(&self, found: &Record) -> bool {
        let allowed = self.allowed(found);
        let fits = |name: &&String| self.change(found, name).is_some_and(|by| by <= allowed);
        self.names(found).iter().all(fits)
    }

    pub fn compare(&self, found: &Record) -> String {
        let allowed = self.allowed(found);
        let mut out =
            String::from("| instructions | recorded | now | |\n| :-- | --: | --: | :-- |\n");
        let show = |counts: &Counts, name: &str| {
            let count = counts.get(name);
            count.map_or("-".to_owned(), |count| format!("{count:.0}"))
        };
        let mut is_less = false;
        for name in self.names(found) {
            let verdict = match self.change(found, name) {
                None => "not recorded, or not counted".to_owned(),
                Some(by) if by > allowed => format!("{by:+.1} %: more than {allowed} % more"),
                Some(by) => {
                    is_less |= by < -allowed;
                    format!("{by:+.1} %")
                }
            };
            let (before, now) = (show(&self.counts, name), show(&found.counts, name));
            writeln!(out, "| {name} | {before} | {now} | {verdict} |").expect("memory takes it");
        }
        if self.tools != found.tools {
            let tools =
                |tools: &Tools| format!("{}, {}, {}", tools.rustc, tools.valgrind, tools.libc);
            out += &format!(
                "Recorded with {}; this is {}: up to {allowed} % more is let pass.\n",
                tools(&self.tools),
                tools(&found.tools)
            );
        }
        if !self.fits(found) {
            out += "Find what costs more, or record it: make accept-counts\n";
        } else if is_less {
            out += "Some of it costs less than is recorded. To keep that: make accept-counts\n";
        }
        out
    }
}
