//! Records of a topic, valid or not.

/// A record that need not be an event.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub value: Option<Vec<u8>>,
}

impl Raw {
    pub fn value(value: impl Into<Vec<u8>>) -> Raw {
        Raw {
            value: Some(value.into()),
            ..Raw::default()
        }
    }

    pub fn on(mut self, partition: i32) -> Raw {
        self.partition = Some(partition);
        self
    }

    pub fn key(mut self, key: &str) -> Raw {
        self.key = Some(key.into());
        self
    }

    pub fn header(mut self, name: &str, value: Option<&str>) -> Raw {
        self.headers.push((name.into(), value.map(Into::into)));
        self
    }
}
