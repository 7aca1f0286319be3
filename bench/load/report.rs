//! The figures of one measurement, as a Markdown table and as JSON.

use serde_json::{Map, Value, json};
use std::time::Duration;

/// Names and figures. A missing figure is `null`.
pub type Cells = Vec<(&'static str, Value)>;

pub struct Report {
    what: &'static str,
    /// The settings that the figures depend on.
    settings: Cells,
    rows: Vec<(String, Cells)>,
}

impl Report {
    pub fn new(what: &'static str, settings: Cells) -> Report {
        Report {
            what,
            settings,
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, of: impl Into<String>, cells: Cells) {
        self.rows.push((of.into(), cells));
    }

    /// Columns are in the order in which they first occur.
    pub fn markdown(&self) -> String {
        let mut columns: Vec<&str> = Vec::new();
        for (name, _) in self.rows.iter().flat_map(|(_, cells)| cells) {
            if !columns.contains(name) {
                columns.push(name);
            }
        }
        let line =
            |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
        let mut out = format!("**{}**: {}.\n\n", self.what, list(&self.settings));
        out += &line("", columns.iter().map(|name| name.to_string()).collect());
        out += &line(":--", columns.iter().map(|_| "--:".into()).collect());
        for (of, cells) in &self.rows {
            let find = |column: &&str| cells.iter().find(|(name, _)| name == column);
            let found = columns.iter().map(find);
            let shown = found.map(|cell| cell.map_or(String::new(), |(_, value)| show(value)));
            out += &line(of, shown.collect());
        }
        out + &format!("\n{}\n", machine())
    }

    fn value(&self) -> Value {
        let object = |cells: &Cells| -> Map<String, Value> {
            let cells = cells
                .iter()
                .map(|(name, value)| (name.to_string(), value.clone()));
            cells.collect()
        };
        let row = |(of, cells): &(String, Cells)| json!({ "of": of, "figures": object(cells) });
        json!({
            "what": self.what,
            "settings": object(&self.settings),
            "machine": machine(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// One measurement as an object, several as an array.
pub fn json(reports: &[Report]) -> String {
    let all = match reports {
        [one] => one.value(),
        several => several.iter().map(Report::value).collect(),
    };
    format!("{all:#}\n")
}

fn list(cells: &Cells) -> String {
    let cells = cells
        .iter()
        .map(|(name, value)| format!("{name} {}", show(value)));
    cells.collect::<Vec<_>>().join(", ")
}

/// Three significant digits, or all digits before the point.
fn show(value: &Value) -> String {
    let Value::Number(number) = value else {
        return value.as_str().unwrap_or("").to_owned();
    };
    if let Some(whole) = number.as_u64() {
        return grouped(whole);
    }
    let number = number.as_f64().unwrap_or(f64::NAN);
    match number.abs() {
        100.0.. => grouped(number.round() as u64),
        10.0.. => format!("{number:.1}"),
        1.0.. => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub fn mib(bytes: u64) -> Value {
    json!(bytes as f64 / f64::from(1 << 20))
}

pub fn per_second(count: usize, took: Duration) -> Value {
    json!(count as f64 / took.as_secs_f64())
}

pub fn mib_per_second(bytes: usize, took: Duration) -> Value {
    json!(bytes as f64 / took.as_secs_f64() / f64::from(1 << 20))
}

/// The machine, and its load.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |path, name| {
        let text = read(path);
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or("?".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    format!(
        "{cores} cores of {}, memory {}, Linux {}; load average at the end {}.",
        field("/proc/cpuinfo", "model name"),
        field("/proc/meminfo", "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or("?"),
    )
}
