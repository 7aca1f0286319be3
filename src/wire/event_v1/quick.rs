//! The quick way: one pass, strings borrowed from the record where JSON has no
//! escapes. It knows no event types: a member is read as its name says. Where
//! that fails it gives up without a reason, and the careful way decides.

use super::{RawData, RawEvent, RawNotification, RawRequest, RawResponse};
use crate::domain::Text;
use crate::wire::json::Skip;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

pub fn envelope(json: &[u8]) -> Option<RawEvent<'_>> {
    serde_json::from_slice::<Members<RawEvent>>(json)
        .ok()
        .map(|m| m.0)
}

/// The event that the input begins with, and where it ends.
pub fn first_envelope(json: &[u8]) -> Option<(RawEvent<'_>, usize)> {
    let mut values = serde_json::Deserializer::from_slice(json).into_iter::<Members<RawEvent>>();
    let raw = values.next()?.ok()?.0;
    Some((raw, values.byte_offset()))
}

pub fn data(json: &[u8]) -> Option<RawData<'_>> {
    serde_json::from_slice::<Members<RawData>>(json)
        .ok()
        .map(|m| m.0)
}

/// A JSON object whose known members fill the fields of `T`.
struct Members<T>(T);

trait Fields<'de>: Default {
    /// Reads the member's value into its field, or says that the name is unknown.
    fn take<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error>;
}

impl<'de, T: Fields<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Fields<'de>> Visitor<'de> for Object<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<T>, A::Error> {
                let mut fields = T::default();
                while let Some(Str(name)) = map.next_key()? {
                    if !fields.take(&name, &mut map)? {
                        map.next_value::<Skip>()?;
                    }
                }
                Ok(Members(fields))
            }
        }
        deserializer.deserialize_map(Object(PhantomData))
    }
}

/// A string that borrows if it can.
struct Str<'a>(Text<'a>);

impl<'de> Deserialize<'de> for Str<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Str<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E>(self, text: String) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(Borrowing)
    }
}

/// Fills a field once; null counts as absent. A second mention of a member is
/// left to the careful way, which names it.
fn once<'de, A, T, W>(
    field: &mut Option<T>,
    map: &mut A,
    unwrap: fn(W) -> T,
) -> Result<bool, A::Error>
where
    A: MapAccess<'de>,
    W: Deserialize<'de>,
{
    if field.is_some() {
        return Err(A::Error::custom("duplicate member"));
    }
    *field = map.next_value::<Option<W>>()?.map(unwrap);
    if field.is_none() {
        // A null: a later mention could not be told from the first one.
        return Err(A::Error::custom("null member"));
    }
    Ok(true)
}

fn text<'de, A: MapAccess<'de>>(
    field: &mut Option<Text<'de>>,
    map: &mut A,
) -> Result<bool, A::Error> {
    once(field, map, |text: Str<'de>| text.0)
}

fn object<'de, A, T>(field: &mut Option<T>, map: &mut A) -> Result<bool, A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    once(field, map, |members: Members<T>| members.0)
}

impl<'de> Fields<'de> for RawEvent<'de> {
    fn take<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "specversion" => text(&mut self.specversion, map),
            "id" => text(&mut self.id, map),
            "source" => text(&mut self.source, map),
            "type" => text(&mut self.kind, map),
            "subject" => text(&mut self.subject, map),
            "time" => text(&mut self.time, map),
            "datacontenttype" => text(&mut self.datacontenttype, map),
            "data" => {
                if self.seen_data {
                    return Err(A::Error::custom("duplicate member"));
                }
                self.seen_data = true;
                self.data = map.next_value::<Members<RawData>>()?.0;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl<'de> Fields<'de> for RawData<'de> {
    fn take<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "request" => object(&mut self.request, map),
            "notification" => object(&mut self.notification, map),
            "sub_status" => text(&mut self.sub_status, map),
            "cluster_id" => text(&mut self.cluster_id, map),
            "request_id" => text(&mut self.request_id, map),
            "response" => object(&mut self.response, map),
            "reason" => text(&mut self.reason, map),
            _ => Ok(false),
        }
    }
}

impl<'de> Fields<'de> for RawRequest<'de> {
    fn take<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "uri" => text(&mut self.uri, map),
            "method" => text(&mut self.method, map),
            "body" => text(&mut self.body, map),
            _ => Ok(false),
        }
    }
}

impl<'de> Fields<'de> for RawResponse<'de> {
    fn take<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "status_code" => once(&mut self.status_code, map, |code: i64| code),
            "body" => text(&mut self.body, map),
            _ => Ok(false),
        }
    }
}

impl<'de> Fields<'de> for RawNotification<'de> {
    fn take<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "address" => text(&mut self.address, map),
            "port" => once(&mut self.port, map, |port: i64| port),
            _ => Ok(false),
        }
    }
}
