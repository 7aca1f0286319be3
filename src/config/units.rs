//! Byte counts and durations as people write them: `64KiB`, `250ms`.
//!
//! Only whole numbers: `1.5s` is `1500ms`, so that parsing a shown value gives the same value.

use std::time::Duration;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// From the largest: showing takes the first that divides.
const BYTES: [(&str, u64); 4] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];
const MILLIS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads on after the key and its value, so the texts are predicates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnitFault {
    #[error("does not start with a whole number")]
    NoNumber,
    #[error("has no unit (one of {})", names(.0))]
    NoUnit(&'static [(&'static str, u64)]),
    #[error("has an unknown unit (known are {})", names(.0))]
    UnknownUnit(&'static [(&'static str, u64)]),
    #[error("is too large to count")]
    TooLarge,
}

fn names(units: &[(&str, u64)]) -> String {
    let names: Vec<_> = units.iter().rev().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// A number without a unit counts bytes.
pub(super) fn parse_bytes(text: &str) -> Result<u64, UnitFault> {
    match parse(text, &BYTES) {
        Err(UnitFault::NoUnit(_)) => text.parse().map_err(|_| UnitFault::TooLarge),
        other => other,
    }
}

pub(super) fn show_bytes(bytes: u64) -> String {
    show(bytes, &BYTES)
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, UnitFault> {
    parse(text, &MILLIS).map(Duration::from_millis)
}

/// Truncated to the millisecond, which is as fine as a setting can be.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(millis, &MILLIS)
}

fn parse(text: &str, units: &'static [(&'static str, u64)]) -> Result<u64, UnitFault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitFault::NoNumber);
    }
    if unit.is_empty() {
        return Err(UnitFault::NoUnit(units));
    }
    let (_, size) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or(UnitFault::UnknownUnit(units))?;
    let number: u64 = number.parse().map_err(|_| UnitFault::TooLarge)?;
    number.checked_mul(*size).ok_or(UnitFault::TooLarge)
}

fn show(amount: u64, units: &[(&str, u64)]) -> String {
    let fits = |size: u64| amount >= size && amount.is_multiple_of(size);
    let (name, size) = units
        .iter()
        .find(|(_, size)| fits(*size))
        .or(units.last())
        .expect("both lists of units have entries");
    format!("{}{name}", amount / size)
}
