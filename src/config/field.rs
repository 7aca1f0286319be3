//! The kinds of settings: how each is parsed, how it is shown, and the message for a value that
//! is something else.
//!
//! The constructors are the vocabulary of the table of settings.

use super::Choice;
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};
use crate::wire::host::{normal, without_port};
use chrono::FixedOffset;
use ipnet::IpNet;
use std::fmt::{Display, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// The value that a source gives to a setting.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    /// A string in TOML.
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// A type that no setting has: its name, with an article.
    Other(&'static str),
    /// From a variable or a flag, which have no types: its text decides.
    Word(String),
}

impl Raw {
    /// In the form in which it was given.
    pub(super) fn show(&self) -> Option<String> {
        match self {
            Raw::Text(text) | Raw::Word(text) => Some(quoted(text)),
            Raw::Integer(number) => Some(number.to_string()),
            Raw::Boolean(value) => Some(value.to_string()),
            Raw::Other(_) => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Raw::Text(_) | Raw::Word(_) => "a string",
            Raw::Integer(_) => "an integer",
            Raw::Boolean(_) => "a boolean",
            Raw::Other(kind) => kind,
        }
    }

    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Raw::Text(text) | Raw::Word(text) => Ok(text),
            other => Err(format!("is {}, not a string", other.kind())),
        }
    }

    fn whole<T: TryFrom<u64>>(&self) -> Result<T, String> {
        let number = match self {
            Raw::Integer(number) => u64::try_from(*number).map_err(|_| "is out of range")?,
            Raw::Word(word) if word.is_empty() || word.bytes().any(|b| !b.is_ascii_digit()) => {
                return Err("is not a whole number".into());
            }
            Raw::Word(digits) => digits.parse().map_err(|_| "is out of range")?,
            other => return Err(format!("is {}, not an integer", other.kind())),
        };
        T::try_from(number).map_err(|_| "is out of range".into())
    }
}

/// A TOML string on one line. A string that is not ASCII is written as a basic string, so that the
/// code that prints it may escape any of its characters.
pub(super) fn quoted(text: &str) -> String {
    if text.is_ascii() && !text.contains(['\n', '\r']) {
        return toml::Value::from(text).to_string();
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_ascii_control() => {
                write!(quoted, "\\u{:04X}", c as u32).expect("memory takes any text");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// One place of the configuration that a setting is written to.
pub(super) trait Slot {
    /// The error is a predicate, without the value.
    fn set(&mut self, raw: &Raw) -> Result<(), String>;
    /// As a value in TOML.
    fn show(&self) -> String;
    fn remedy(&self) -> &str;
}

struct Field<'c, T> {
    at: &'c mut T,
    read: fn(&Raw) -> Result<T, String>,
    show: fn(&T) -> String,
    range: Option<RangeInclusive<T>>,
    remedy: String,
}

impl<T: PartialOrd> Slot for Field<'_, T> {
    fn set(&mut self, raw: &Raw) -> Result<(), String> {
        let value = (self.read)(raw)?;
        let range = self.range.as_ref();
        if range.is_some_and(|range| !range.contains(&value)) {
            return Err("is out of range".into());
        }
        *self.at = value;
        Ok(())
    }

    fn show(&self) -> String {
        (self.show)(self.at)
    }

    fn remedy(&self) -> &str {
        &self.remedy
    }
}

pub(super) type Boxed<'c> = Box<dyn Slot + 'c>;

fn field<'c, T: PartialOrd>(
    at: &'c mut T,
    remedy: impl Into<String>,
    show: fn(&T) -> String,
    read: fn(&Raw) -> Result<T, String>,
) -> Field<'c, T> {
    Field {
        at,
        read,
        show,
        range: None,
        remedy: remedy.into(),
    }
}

impl<'c, T: PartialOrd> Field<'c, T> {
    fn within(mut self, range: RangeInclusive<T>) -> Boxed<'c> {
        self.range = Some(range);
        Box::new(self)
    }
}

/// A string that passes a check.
fn text<'c>(
    at: &'c mut String,
    remedy: &str,
    read: fn(&Raw) -> Result<String, String>,
) -> Boxed<'c> {
    Box::new(field(at, remedy, |text| quoted(text), read))
}

pub(super) fn count<'c, T>(at: &'c mut T, range: RangeInclusive<T>) -> Boxed<'c>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    let (from, to) = (range.start(), range.end());
    let remedy = format!("give a whole number from {from} to {to}");
    field(at, remedy, T::to_string, Raw::whole).within(range)
}

pub(super) fn bytes(at: &mut u64, range: RangeInclusive<u64>) -> Boxed<'_> {
    let (from, to) = (show_bytes(*range.start()), show_bytes(*range.end()));
    let remedy = format!("give a number of bytes from {from} to {to}, such as \"4MiB\"");
    let show = |bytes: &u64| quoted(&show_bytes(*bytes));
    let field = field(at, remedy, show, |raw| match raw {
        Raw::Integer(_) => raw.whole(),
        _ => parse_bytes(raw.text()?).map_err(|fault| fault.to_string()),
    });
    field.within(range)
}

pub(super) fn duration(at: &mut Duration, range: RangeInclusive<Duration>) -> Boxed<'_> {
    let (from, to) = (show_duration(*range.start()), show_duration(*range.end()));
    let remedy = format!("give a duration from {from} to {to}, such as \"250ms\" or \"5s\"");
    let show = |duration: &Duration| quoted(&show_duration(*duration));
    let field = field(at, remedy, show, |raw| match raw {
        Raw::Integer(_) => Err("has no unit".into()),
        _ => parse_duration(raw.text()?).map_err(|fault| fault.to_string()),
    });
    field.within(range)
}

pub(super) fn folder(at: &mut PathBuf) -> Boxed<'_> {
    let show = |path: &PathBuf| quoted(&path.to_string_lossy());
    let read = |raw: &Raw| match raw.text()? {
        "" => Err("is empty".into()),
        path => Ok(path.into()),
    };
    Box::new(field(at, "give the path of a folder", show, read))
}

pub(super) fn switch(at: &mut bool) -> Boxed<'_> {
    let read = |raw: &Raw| match raw {
        Raw::Boolean(value) => Ok(*value),
        _ => match raw.text()? {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is neither true nor false".into()),
        },
    };
    Box::new(field(at, "give true or false", bool::to_string, read))
}

/// Any text that can be seen.
pub(super) fn name(at: &mut String) -> Boxed<'_> {
    text(at, "give a name", |raw| match raw.text()? {
        "" => Err("is empty".into()),
        text if text.contains(char::is_control) => Err("has control characters".into()),
        text => Ok(text.into()),
    })
}

/// Kafka's rule for the names of topics, with room for the suffix of derived names.
pub(super) fn topic_name(at: &mut String) -> Boxed<'_> {
    let remedy = "give 1 to 230 of [a-zA-Z0-9._-], and not . or ..";
    text(at, remedy, |raw| {
        let text = raw.text()?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let is_one = (1..=230).contains(&text.len()) && text.bytes().all(allowed);
        match is_one && text != "." && text != ".." {
            true => Ok(text.into()),
            false => Err("is not the name of a topic".into()),
        }
    })
}

/// Kafka's bootstrap servers, or nothing.
pub(super) fn servers(at: &mut String) -> Boxed<'_> {
    let remedy = "give such as \"127.0.0.1:9092\" or \"kafka-1:9092,kafka-2:9092\", or \"\" for \
                  the embedded log";
    text(at, remedy, |raw| {
        let text = raw.text()?;
        let has_port = |server: &str| {
            let (host, port) = server.trim().rsplit_once(':').unwrap_or_default();
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        match text.is_empty() || text.split(',').all(has_port) {
            true => Ok(text.into()),
            false => Err("is not host:port, several separated by commas".into()),
        }
    })
}

pub(super) fn address(at: &mut SocketAddr) -> Boxed<'_> {
    let remedy = "give both, such as \"127.0.0.1:8470\" or \"[::]:8470\"";
    let show = |address: &SocketAddr| quoted(&address.to_string());
    Box::new(field(at, remedy, show, |raw| {
        let address = raw.text()?.parse();
        address.map_err(|_| "is not an IP address with a port".into())
    }))
}

/// Values separated by commas, or none.
fn several<T>(raw: &Raw, one: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    match raw.text()?.trim() {
        "" => Ok(Vec::new()),
        text => text.split(',').map(|text| one(text.trim())).collect(),
    }
}

/// Names and addresses without ports.
pub(super) fn host_names(at: &mut Vec<String>) -> Boxed<'_> {
    fn one(text: &str) -> Result<String, String> {
        // Without a port, an IPv6 address needs no brackets.
        let is_host = text.parse::<Ipv6Addr>().is_ok() || without_port(text) == Some(text);
        match is_host && !text.is_empty() {
            true => Ok(normal(text)),
            false => Err("holds what is not the name of a host".into()),
        }
    }
    let remedy = "give names without ports, such as \"ledger.example, 10.1.2.3\", or \"\" for none";
    let show = |hosts: &Vec<String>| quoted(&hosts.join(", "));
    Box::new(field(at, remedy, show, |raw| several(raw, one)))
}

/// Networks as CIDR. A single address is a network of one.
pub(super) fn networks(at: &mut Vec<IpNet>) -> Boxed<'_> {
    fn one(text: &str) -> Result<IpNet, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let network: IpNet = text
            .parse()
            .map_err(|_| "has an entry that is not a network")?;
        match network.trunc() == network {
            true => Ok(network),
            false => Err("has a network with bits after its prefix".into()),
        }
    }
    let remedy = "give such as \"10.1.0.0/16, 192.168.7.5, fd00::/8\", or \"\" for none";
    let show = |networks: &Vec<IpNet>| {
        let networks: Vec<_> = networks.iter().map(IpNet::to_string).collect();
        quoted(&networks.join(", "))
    };
    Box::new(field(at, remedy, show, |raw| several(raw, one)))
}

pub(super) fn choice<T: Choice>(at: &mut T) -> Boxed<'_> {
    let names: Vec<_> = T::ALL.iter().map(|(name, _)| quoted(name)).collect();
    let remedy = format!("give {}", names.join(" or "));
    let show = |value: &T| {
        let named = T::ALL.iter().find(|(_, other)| other == value);
        quoted(named.expect("every value of a choice has a name").0)
    };
    Box::new(field(at, remedy, show, |raw| {
        let text = raw.text()?;
        let named = T::ALL.iter().find(|(name, _)| *name == text);
        let (_, value) = named.ok_or("is not one of the choices")?;
        Ok(*value)
    }))
}

/// Only a check: the subscriber reads it again.
pub(super) fn log_filter(at: &mut String) -> Boxed<'_> {
    let remedy = "give a level (off, error, warn, info, debug, trace) or directives such as \
                  \"info,opledger::http=debug\"";
    text(at, remedy, |raw| match raw.text()? {
        "" => Err("is empty".into()),
        text => match EnvFilter::try_new(text) {
            Ok(_) => Ok(text.into()),
            Err(_) => Err("is not a filter".into()),
        },
    })
}

/// It is written into JSON strings unescaped.
pub(super) fn separator(at: &mut String) -> Boxed<'_> {
    let remedy = "give one character, such as \" \", \"_\" or \"T\", or none";
    text(at, remedy, |raw| {
        let text = raw.text()?;
        if text.chars().count() > 1 {
            return Err("is longer than one character".into());
        }
        if text.contains(|c: char| c.is_control() || c == '"' || c == '\\') {
            return Err("would need an escape in JSON".into());
        }
        Ok(text.into())
    })
}

/// Seconds east of UTC.
pub(super) fn utc_offset(at: &mut i32) -> Boxed<'_> {
    fn shown(seconds: i32) -> String {
        let offset = FixedOffset::east_opt(seconds);
        offset.map(|offset| offset.to_string()).unwrap_or_default()
    }
    let remedy = "give a sign, hours (to 23) and minutes (to 59), such as \"+09:00\"";
    let show = |seconds: &i32| quoted(&shown(*seconds));
    Box::new(field(at, remedy, show, |raw| {
        let text = raw.text()?;
        let read = text
            .parse()
            .map(|offset: FixedOffset| offset.local_minus_utc());
        // chrono reads other forms, too.
        let read = read
            .ok()
            .filter(|seconds| text.get(1..) == shown(*seconds).get(1..));
        read.ok_or("is not an offset from UTC".into())
    }))
}
