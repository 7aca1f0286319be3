//! The kinds of settings: how each is read from what was given, how it is shown,
//! and what to say to someone who gave something else.
//!
//! The constructors are the vocabulary of the table of settings.

use super::Choice;
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};
use crate::wire::host::{normal, without_port};
use ipnet::IpNet;
use std::fmt::{Display, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// What was given for a setting.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    /// A string in TOML.
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// What no setting is: its name, with an article.
    Other(&'static str),
    /// From a variable or a flag, which have no types: stands for what it looks like.
    Word(String),
}

impl Raw {
    /// As the person who gave it would recognise it.
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

/// A TOML string on one line. One that is not ASCII is of the kind that takes escapes, so that
/// whoever prints it may write any of its characters as one.
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

pub(super) fn count<'c, T>(at: &'c mut T, range: RangeInclusive<T>) -> Boxed<'c>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    let (from, to) = (range.start(), range.end());
    let remedy = format!("give a whole number from {from} to {to}");
    Box::new(Field {
        at,
        read: Raw::whole,
        show: T::to_string,
        range: Some(range),
        remedy,
    })
}

pub(super) fn bytes(at: &mut u64, range: RangeInclusive<u64>) -> Boxed<'_> {
    let (from, to) = (show_bytes(*range.start()), show_bytes(*range.end()));
    Box::new(Field {
        at,
        read: |raw| match raw {
            Raw::Integer(_) => raw.whole(),
            _ => parse_bytes(raw.text()?).map_err(|fault| fault.to_string()),
        },
        show: |bytes| quoted(&show_bytes(*bytes)),
        range: Some(range),
        remedy: format!("give a number of bytes from {from} to {to}, such as \"4MiB\""),
    })
}

pub(super) fn duration(at: &mut Duration, range: RangeInclusive<Duration>) -> Boxed<'_> {
    let (from, to) = (show_duration(*range.start()), show_duration(*range.end()));
    Box::new(Field {
        at,
        read: |raw| match raw {
            Raw::Integer(_) => Err("has no unit".into()),
            _ => parse_duration(raw.text()?).map_err(|fault| fault.to_string()),
        },
        show: |duration| quoted(&show_duration(*duration)),
        range: Some(range),
        remedy: format!("give a duration from {from} to {to}, such as \"250ms\" or \"5s\""),
    })
}

pub(super) fn folder(at: &mut PathBuf) -> Boxed<'_> {
    Box::new(Field {
        at,
        read: |raw| match raw.text()? {
            "" => Err("is empty".into()),
            path => Ok(path.into()),
        },
        show: |path| quoted(&path.to_string_lossy()),
        range: None,
        remedy: "give the path of a folder".into(),
    })
}

pub(super) fn switch(at: &mut bool) -> Boxed<'_> {
    Box::new(Field {
        at,
        read: |raw| match raw {
            Raw::Boolean(value) => Ok(*value),
            _ => match raw.text()? {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err("is neither true nor false".into()),
            },
        },
        show: bool::to_string,
        range: None,
        remedy: "give true or false".into(),
    })
}

/// Any text that can be seen.
pub(super) fn name(at: &mut String) -> Boxed<'_> {
    Box::new(Field {
        at,
        read: |raw| match raw.text()? {
            "" => Err("is empty".into()),
            text if text.contains(char::is_control) => Err("has control characters".into()),
            text => Ok(text.into()),
        },
        show: |text| quoted(text),
        range: None,
        remedy: "give a name".into(),
    })
}

/// Kafka's rule for the names of topics, with room for the names made of it.
pub(super) fn topic_name(at: &mut String) -> Boxed<'_> {
    Box::new(Field {
        at,
        read: |raw| {
            let text = raw.text()?;
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            let is_one = (1..=230).contains(&text.len()) && text.bytes().all(allowed);
            match is_one && text != "." && text != ".." {
                true => Ok(text.into()),
                false => Err("is not the name of a topic".into()),
            }
        },
        show: |text| quoted(text),
        range: None,
        remedy: "give 1 to 230 of [a-zA-Z0-9._-], and not . or ..".into(),
    })
}

/// Kafka's bootstrap servers, or nothing.
pub(super) fn servers(at: &mut String) -> Boxed<'_> {
    Box::new(Field {
        at,
        read: |raw| {
            let text = raw.text()?;
            let has_port = |server: &str| {
                let (host, port) = server.trim().rsplit_once(':').unwrap_or_default();
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            };
            match text.is_empty() || text.split(',').all(has_port) {
                true => Ok(text.into()),
                false => Err("is not host:port, several separated by commas".into()),
            }
        },
        show: |text| quoted(text),
        range: None,
        remedy: "give such as \"127.0.0.1:9092\" or \"kafka-1:9092,kafka-2:9092\", or \"\" for \
                 the embedded log"
            .into(),
    })
}

pub(super) fn address(at: &mut SocketAddr) -> Boxed<'_> {
    Box::new(Field {
        at,
        read: |raw| {
            let address = raw.text()?.parse();
            address.map_err(|_| "is not an IP address with a port".into())
        },
        show: |address| quoted(&address.to_string()),
        range: None,
        remedy: "give both, such as \"127.0.0.1:8470\" or \"[::]:8470\"".into(),
    })
}

/// Names and addresses without ports, separated by commas, or none.
pub(super) fn host_names(at: &mut Vec<String>) -> Boxed<'_> {
    fn one(text: &str) -> Result<String, String> {
        // An IPv6 address needs no brackets where no port can follow.
        let is_host = text.parse::<Ipv6Addr>().is_ok() || without_port(text) == Some(text);
        match is_host && !text.is_empty() {
            true => Ok(normal(text)),
            false => Err("holds what is not the name of a host".into()),
        }
    }
    Box::new(Field {
        at,
        read: |raw| match raw.text()?.trim() {
            "" => Ok(Vec::new()),
            text => text.split(',').map(|text| one(text.trim())).collect(),
        },
        show: |hosts| quoted(&hosts.join(", ")),
        range: None,
        remedy: "give names without ports, such as \"ledger.example, 10.1.2.3\", or \"\" for none"
            .into(),
    })
}

pub(super) fn choice<T: Choice>(at: &mut T) -> Boxed<'_> {
    let names: Vec<_> = T::ALL.iter().map(|(name, _)| quoted(name)).collect();
    Box::new(Field {
        at,
        read: |raw| {
            let text = raw.text()?;
            let named = T::ALL.iter().find(|(name, _)| *name == text);
            let (_, value) = named.ok_or("is not one of the choices")?;
            Ok(*value)
        },
        show: |value| {
            let named = T::ALL.iter().find(|(_, other)| other == value);
            quoted(named.expect("every value of a choice has a name").0)
        },
        range: None,
        remedy: format!("give {}", names.join(" or ")),
    })
}

/// The subscriber reads it again; here only so that a start fails on it early.
pub(super) fn log_filter(at: &mut String) -> Boxed<'_> {
    Box::new(Field {
        at,
        read: |raw| match raw.text()? {
            "" => Err("is empty".into()),
            text => match EnvFilter::try_new(text) {
                Ok(_) => Ok(text.into()),
                Err(_) => Err("is not a filter".into()),
            },
        },
        show: |filter| quoted(filter),
        range: None,
        remedy: "give a level (off, error, warn, info, debug, trace) or directives such as \
                 \"info,opledger::http=debug\""
            .into(),
    })
}

/// Goes unescaped into JSON strings, so what would need an escape there is refused.
pub(super) fn separator(at: &mut String) -> Boxed<'_> {
    Box::new(Field {
        at,
        read: |raw| {
            let text = raw.text()?;
            if text.chars().count() > 1 {
                return Err("is longer than one character".into());
            }
            if text.contains(|c: char| c.is_control() || c == '"' || c == '\\') {
                return Err("would need an escape in JSON".into());
            }
            Ok(text.into())
        },
        show: |separator| quoted(separator),
        range: None,
        remedy: "give one character, such as \" \", \"_\" or \"T\", or none".into(),
    })
}

/// Networks as CIDR, separated by commas, or none. A single address is a network of one.
pub(super) fn networks(at: &mut Vec<IpNet>) -> Boxed<'_> {
    fn one(text: &str) -> Result<IpNet, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let network: IpNet = text.parse().map_err(|_| "holds what is no network")?;
        match network.trunc() == network {
            true => Ok(network),
            false => Err("holds a network with bits behind its prefix".into()),
        }
    }
    Box::new(Field {
        at,
        read: |raw| match raw.text()?.trim() {
            "" => Ok(Vec::new()),
            text => text.split(',').map(|text| one(text.trim())).collect(),
        },
        show: |networks| {
            let networks: Vec<_> = networks.iter().map(IpNet::to_string).collect();
            quoted(&networks.join(", "))
        },
        range: None,
        remedy: "give such as \"10.1.0.0/16, 192.168.7.5, fd00::/8\", or \"\" for none".into(),
    })
}

/// Seconds east of UTC.
pub(super) fn utc_offset(at: &mut i32) -> Boxed<'_> {
    Box::new(Field {
        at,
        read: |raw| parse_offset(raw.text()?).ok_or("is not an offset from UTC".into()),
        show: |seconds| {
            let sign = if *seconds < 0 { '-' } else { '+' };
            let minutes = seconds.abs() / 60;
            quoted(&format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60))
        },
        range: None,
        remedy: "give a sign, hours (to 23) and minutes (to 59), such as \"+09:00\"".into(),
    })
}

fn parse_offset(text: &str) -> Option<i32> {
    let number = |tens: u8, ones: u8| {
        let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
        digits.then(|| i32::from(tens - b'0') * 10 + i32::from(ones - b'0'))
    };
    let &[sign, h1, h2, b':', m1, m2] = text.as_bytes() else {
        return None;
    };
    let sign = match sign {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = (number(h1, h2)?, number(m1, m2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}
