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

#[derive(Debug, Clone, PartialEq)]
struct Keeping<'a, V>(Option<Register<'a, V>>);

impl<'a, V: Value> Keeping<'a, V> {
    /// Keeps the better of the two by order key, then by canonical text.
    /// True if what is held changed.
    fn join(&mut self, preferred: Ordering, offered: Register<'a, V>) -> bool {
        let Some(held) = &mut self.0 else {
            self.0 = Some(offered);
            return true;
        };
        let differs = held.value != offered.value;
        let contested = held.contested | offered.contested | differs;
        let order = offered.key.cmp(&held.key).then_with(|| {
            if !differs {
                return Ordering::Equal;
            }
            let (mut a, mut b) = (String::new(), String::new());
            offered.value.canonical(&mut a);
            held.value.canonical(&mut b);
            a.cmp(&b)
        });
        let changed = order == preferred;
        if changed {
            *held = offered;
        }
        held.contested = contested;
        changed
    }
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

            /// True if what is held changed.
            pub fn offer(&mut self, key: OrderKey<'a>, value: V) -> bool {
                self.0.join(
                    $preferred,
                    Register {
                        key,
                        value,
                        contested: false,
                    },
                )
            }

            pub fn join(&mut self, other: Self) -> bool {
                match other.0.0 {
                    Some(offered) => self.0.join($preferred, offered),
                    None => false,
                }
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
