//! The careful decoder: reads the whole input as a tree, then the members that the event's type
//! uses. Each fault has the member's name.

use super::{RawData, RawEvent, RawNotification, RawRequest, RawResponse, Type};
use crate::domain::Text;
use crate::wire::fault::{Fault, Rule};
use crate::wire::json::{Json, JsonFault, LEVELS};
use crate::wire::number;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

pub fn envelope(json: &[u8]) -> Result<RawEvent<'static>, Fault> {
    let tree = Json::parse(json).map_err(|unreadable| fault(unreadable, "", ""))?;
    let mut object = Object::new(tree, String::new())?;
    let mut raw = RawEvent {
        specversion: object.text("specversion")?,
        id: object.text("id")?,
        source: object.text("source")?,
        kind: object.text("type")?,
        subject: object.text("subject")?,
        time: object.text("time")?,
        datacontenttype: object.text("datacontenttype")?,
        data_base64: object.text("data_base64")?,
        ..RawEvent::default()
    };
    if let Some(tree) = object.take("data") {
        raw.has_data = true;
        raw.data = data_members(tree, super::event_type(raw.kind.clone())?)?;
    }
    Ok(raw)
}

/// `data` on its own, as the binary mode carries it. It has a level less than an event, in
/// which it is shown.
pub fn data(json: &[u8], kind: Type) -> Result<RawData<'static>, Fault> {
    lone_data(json, kind, "data")
}

/// `data` as bytes, which the JSON format uses for data that is not JSON to the sender.
pub fn data_base64(text: &str, kind: Type) -> Result<RawData<'static>, Fault> {
    let json = STANDARD.decode(text);
    let json = json.map_err(|_| Fault::new(Rule::Format, "data_base64", "must be base64."))?;
    lone_data(&json, kind, "data_base64")
}

fn lone_data(json: &[u8], kind: Type, name: &str) -> Result<RawData<'static>, Fault> {
    match Json::parse_within(json, LEVELS - 1) {
        Err(unreadable) => Err(fault(unreadable, name, "data")),
        Ok(Json::Null) => Ok(RawData::default()),
        Ok(tree) => data_members(tree, kind),
    }
}

/// In the whole, which has a name, or in a member of it.
fn fault(unreadable: JsonFault, whole: &str, parent: &str) -> Fault {
    let field = match (parent, unreadable.path.as_str()) {
        (_, "") => whole.to_owned(),
        ("", path) => path.to_owned(),
        (parent, path) => format!("{parent}.{path}"),
    };
    Fault::new(Rule::Format, &field, unreadable.what)
}

fn data_members(tree: Json, kind: Type) -> Result<RawData<'static>, Fault> {
    let mut object = Object::new(tree, "data".into())?;
    let mut raw = RawData::default();
    for member in kind.members() {
        match *member {
            "request" => raw.request = object.object("request")?.map(request).transpose()?,
            "notification" => {
                raw.notification = object
                    .object("notification")?
                    .map(notification)
                    .transpose()?;
            }
            "sub_status" => raw.sub_status = object.text("sub_status")?,
            "cluster_id" => raw.cluster_id = object.text("cluster_id")?,
            "request_id" => raw.request_id = object.text("request_id")?,
            "response" => raw.response = object.object("response")?.map(response).transpose()?,
            "reason" => raw.reason = object.text("reason")?,
            other => unreachable!("no member of data is called {other}"),
        }
    }
    Ok(raw)
}

fn request(mut object: Object) -> Result<RawRequest<'static>, Fault> {
    Ok(RawRequest {
        uri: object.text("uri")?,
        method: object.text("method")?,
        body: object.text("body")?,
    })
}

fn response(mut object: Object) -> Result<RawResponse<'static>, Fault> {
    Ok(RawResponse {
        status_code: object.integer("status_code")?,
        body: object.text("body")?,
    })
}

fn notification(mut object: Object) -> Result<RawNotification<'static>, Fault> {
    Ok(RawNotification {
        address: object.text("address")?,
        port: object.integer("port")?,
    })
}

/// A JSON object that knows its own path.
struct Object<'j> {
    members: Vec<(Cow<'j, str>, Json<'j>)>,
    path: String,
}

impl<'j> Object<'j> {
    fn new(tree: Json<'j>, path: String) -> Result<Object<'j>, Fault> {
        match tree {
            Json::Object(members) => Ok(Object { members, path }),
            _ => Err(Fault::new(Rule::Format, &path, "must be a JSON object.")),
        }
    }

    fn path_of(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    fn fault(&self, name: &str, what: &str) -> Fault {
        Fault::new(Rule::Format, &self.path_of(name), what)
    }

    /// The member's value; `None` if it is missing or null.
    fn take(&mut self, name: &str) -> Option<Json<'j>> {
        let at = self.members.iter().position(|(given, _)| given == name)?;
        let value = self.members.swap_remove(at).1;
        (value != Json::Null).then_some(value)
    }

    fn text(&mut self, name: &str) -> Result<Option<Text<'static>>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(Cow::Owned(text.into_owned()))),
            Some(_) => Err(self.fault(name, "must be a string.")),
        }
    }

    fn object(&mut self, name: &str) -> Result<Option<Object<'j>>, Fault> {
        let path = self.path_of(name);
        let tree = self.take(name);
        tree.map(|tree| Object::new(tree, path)).transpose()
    }

    /// JSON knows one kind of number: 200.0 and 2e2 are integers too. One beyond
    /// 64 bits is out of all our ranges, so it is clamped.
    fn integer(&mut self, name: &str) -> Result<Option<i64>, Fault> {
        let integer = match self.take(name) {
            None => return Ok(None),
            Some(Json::Number(text)) => number::as_integer(text),
            Some(_) => None,
        };
        let integer = integer.ok_or_else(|| self.fault(name, "must be an integer."))?;
        Ok(Some(integer))
    }
}
