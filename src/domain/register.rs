//! The two registers that the state of an operation consists of. Each can only be changed by
//! its join, so the order of offers cannot affect it.

use super::canonical::Value;
use super::event::OrderKey;
use std::cmp::Ordering;

/// The content of a register after the first offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Register<'a, V> {
    pub key: OrderKey<'a>,
    pub value: V,
    /// Whether several distinct values were offered. Never becomes false again.
    pub contested: bool,
}

/// The result of an offer, ordered by importance: of several results the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Joined {
    /// The value is unchanged.
    Kept,
    Replaced,
    /// The two values have the same order key and the text of a body decides, but only its
    /// digest is known. The register is marked as contested; the offer must be repeated with
    /// the text.
    Undecided,
}

/// Keeps the offer with the smallest order key; of a tie the smaller text.
pub type Earliest<'a, V> = Keeping<'a, V, false>;
/// Keeps the offer with the largest order key; of a tie the larger text.
pub type Latest<'a, V> = Keeping<'a, V, true>;

#[derive(Debug, Clone, PartialEq)]
pub struct Keeping<'a, V, const LATEST: bool>(Option<Register<'a, V>>);

impl<V, const LATEST: bool> Default for Keeping<'_, V, LATEST> {
    fn default() -> Self {
        Keeping(None)
    }
}

impl<'a, V: Value, const LATEST: bool> Keeping<'a, V, LATEST> {
    /// A register from its stored content.
    pub fn restore(kept: Option<Register<'a, V>>) -> Self {
        Keeping(kept)
    }

    pub fn offer(&mut self, key: OrderKey<'a>, value: V) -> Joined {
        self.put(Register {
            key,
            value,
            contested: false,
        })
    }

    pub fn join(&mut self, other: Self) -> Joined {
        match other.0 {
            Some(offered) => self.put(offered),
            None => Joined::Kept,
        }
    }

    /// Keeps the better of the two by order key, then by canonical text.
    fn put(&mut self, offered: Register<'a, V>) -> Joined {
        let preferred = match LATEST {
            true => Ordering::Greater,
            false => Ordering::Less,
        };
        let Some(kept) = &mut self.0 else {
            self.0 = Some(offered);
            return Joined::Replaced;
        };
        let differs = kept.value != offered.value;
        let contested = kept.contested | offered.contested | differs;
        let order = match offered.key.cmp(&kept.key) {
            Ordering::Equal if differs => by_text(&offered.value, &kept.value),
            order => Some(order),
        };
        if order == Some(preferred) {
            *kept = offered;
        }
        kept.contested = contested;
        match order {
            Some(order) if order == preferred => Joined::Replaced,
            Some(_) => Joined::Kept,
            None => Joined::Undecided,
        }
    }

    /// The order key, and the value, which must stay equal.
    pub(super) fn parts_mut(&mut self) -> Option<(&OrderKey<'a>, &mut V)> {
        let kept = self.0.as_mut()?;
        Some((&kept.key, &mut kept.value))
    }

    pub fn get(&self) -> Option<&Register<'a, V>> {
        self.0.as_ref()
    }

    pub fn value(&self) -> Option<&V> {
        self.get().map(|kept| &kept.value)
    }

    pub fn is_contested(&self) -> bool {
        self.get().is_some_and(|kept| kept.contested)
    }
}

fn by_text(a: &impl Value, b: &impl Value) -> Option<Ordering> {
    let (mut a_text, mut b_text) = (String::new(), String::new());
    a.canonical(&mut a_text)?;
    b.canonical(&mut b_text)?;
    Some(a_text.cmp(&b_text))
}
