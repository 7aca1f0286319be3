//! The two registers that operation state is made of. Each has one mutation,
//! the join, so that a wrong order cannot be written.

use super::canonical::Value;
use super::event::OrderKey;
use std::cmp::Ordering;

/// What a register holds once something was offered to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Register<'a, V> {
    pub key: OrderKey<'a>,
    pub value: V,
    /// Several distinct values were offered. Only ever turns true.
    pub contested: bool,
}

/// What came of an offer; of several the last in this order has to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Joined {
    /// What is held is what was held.
    Kept,
    Replaced,
    /// Of two values under one order key the text decides, and one has a body that is only
    /// named. It is held that they differ; the offer has to be made again with the text.
    Undecided,
}

#[derive(Debug, Clone, PartialEq)]
struct Keeping<'a, V>(Option<Register<'a, V>>);

impl<'a, V: Value> Keeping<'a, V> {
    /// Keeps the better of the two by order key, then by canonical text.
    fn join(&mut self, preferred: Ordering, offered: Register<'a, V>) -> Joined {
        let Some(held) = &mut self.0 else {
            self.0 = Some(offered);
            return Joined::Replaced;
        };
        let differs = held.value != offered.value;
        let contested = held.contested | offered.contested | differs;
        let order = match offered.key.cmp(&held.key) {
            Ordering::Equal if differs => by_text(&offered.value, &held.value),
            order => Some(order),
        };
        if order == Some(preferred) {
            *held = offered;
        }
        held.contested = contested;
        match order {
            Some(order) if order == preferred => Joined::Replaced,
            Some(_) => Joined::Kept,
            None => Joined::Undecided,
        }
    }
}

fn by_text(a: &impl Value, b: &impl Value) -> Option<Ordering> {
    let (mut a_text, mut b_text) = (String::new(), String::new());
    a.canonical(&mut a_text)?;
    b.canonical(&mut b_text)?;
    Some(a_text.cmp(&b_text))
}

macro_rules! register {
    ($name:ident, $preferred:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name<'a, V>(Keeping<'a, V>);

        impl<V> Default for $name<'_, V> {
            fn default() -> Self {
                $name(Keeping(None))
            }
        }

        impl<'a, V: Value> $name<'a, V> {
            /// A register as it was stored.
            pub fn restore(held: Option<Register<'a, V>>) -> Self {
                $name(Keeping(held))
            }

            pub fn offer(&mut self, key: OrderKey<'a>, value: V) -> Joined {
                self.0.join(
                    $preferred,
                    Register {
                        key,
                        value,
                        contested: false,
                    },
                )
            }

            pub fn join(&mut self, other: Self) -> Joined {
                match other.0.0 {
                    Some(offered) => self.0.join($preferred, offered),
                    None => Joined::Kept,
                }
            }

            /// The order key, and the value, which is to stay the same.
            pub(super) fn parts_mut(&mut self) -> Option<(&OrderKey<'a>, &mut V)> {
                let held = self.0.0.as_mut()?;
                Some((&held.key, &mut held.value))
            }

            pub fn get(&self) -> Option<&Register<'a, V>> {
                self.0.0.as_ref()
            }

            pub fn value(&self) -> Option<&V> {
                self.get().map(|held| &held.value)
            }

            pub fn is_contested(&self) -> bool {
                self.get().is_some_and(|held| held.contested)
            }
        }
    };
}

register!(
    Earliest,
    Ordering::Less,
    "Keeps the offer with the smallest order key; of a tie the smaller text."
);
register!(
    Latest,
    Ordering::Greater,
    "Keeps the offer with the largest order key; of a tie the larger text."
);
