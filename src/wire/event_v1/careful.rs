//! The careful way: the whole input as a tree, then the members that mean
//! something in an event of its type, each fault with the member's name.

use super::{RawData, RawEvent, RawNotification, RawRequest, RawResponse, Type};
use crate::domain::Text;
use crate::wire::fault::{Fault, Rule};
use crate::wire::json::Json;
use std::borrow::Cow;

pub fn envelope(json: &[u8]) -> Result<RawEvent<'static>, Fault> {
    let tree = Json::parse(json).map_err(|what| Fault::new(Rule::Format, "", what))?;
    let mut object = Object::new(tree, String::new())?;
    let mut raw = RawEvent {
        specversion: object.text("specversion")?,
        id: object.text("id")?,
        source: object.text("source")?,
        kind: object.text("type")?,
        subject: object.text("subject")?,
        time: object.text("time")?,
        datacontenttype: object.text("datacontenttype")?,
        ..RawEvent::default()
    };
    if let Some(tree) = object.take("data")? {
        raw.data = data_members(tree, super::event_type(raw.kind.clone())?)?;
    }
    Ok(raw)
}

/// `data` on its own, as the binary mode carries it.
pub fn data(json: &[u8], kind: Type) -> Result<RawData<'static>, Fault> {
    match Json::parse(json).map_err(|what| Fault::new(Rule::Format, "data", what))? {
        Json::Null => Ok(RawData::default()),
        tree => data_members(tree, kind),
    }
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
struct Object {
    members: Vec<(String, Json)>,
    path: String,
}

impl Object {
    fn new(tree: Json, path: String) -> Result<Object, Fault> {
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
    fn take(&mut self, name: &str) -> Result<Option<Json>, Fault> {
        let mut found = (0..self.members.len()).filter(|i| self.members[*i].0 == name);
        let (first, second) = (found.next(), found.next());
        drop(found);
        if second.is_some() {
            return Err(self.fault(name, "given more than once."));
        }
        Ok(first
            .map(|at| self.members.swap_remove(at).1)
            .filter(|value| !matches!(value, Json::Null)))
    }

    fn text(&mut self, name: &str) -> Result<Option<Text<'static>>, Fault> {
        match self.take(name)? {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(Cow::Owned(text))),
            Some(_) => Err(self.fault(name, "must be a string.")),
        }
    }

    fn object(&mut self, name: &str) -> Result<Option<Object>, Fault> {
        let path = self.path_of(name);
        self.take(name)?
            .map(|tree| Object::new(tree, path))
            .transpose()
    }

    /// JSON knows one kind of number: 200.0 and 2e2 are integers too. One beyond
    /// 64 bits is out of every range of ours, so any such number stands for it.
    fn integer(&mut self, name: &str) -> Result<Option<i64>, Fault> {
        match self.take(name)? {
            None => Ok(None),
            Some(Json::Integer(i)) => Ok(Some(i)),
            Some(Json::Float(f)) if f.fract() == 0.0 => Ok(Some(f as i64)),
            Some(_) => Err(self.fault(name, "must be an integer.")),
        }
    }
}
