//! Parses server-sent events from pieces of a stream.

/// One event; `data` is `None` for a position without data.
#[derive(Debug, PartialEq)]
pub struct SseEvent {
    pub kind: String,
    pub id: Option<String>,
    pub data: Option<String>,
}

#[derive(Default)]
pub struct SseSplitter {
    rest: Vec<u8>,
}

impl SseSplitter {
    pub fn push(&mut self, piece: &[u8]) {
        self.rest.extend_from_slice(piece);
    }

    /// The next whole event, if there is one. Skips comments.
    pub fn next(&mut self) -> Option<SseEvent> {
        loop {
            let end = self.rest.windows(2).position(|two| two == b"\n\n")?;
            let block: Vec<u8> = self.rest.drain(..end + 2).collect();
            if let Some(block) = read(&String::from_utf8_lossy(&block)) {
                return Some(block);
            }
        }
    }
}

fn read(text: &str) -> Option<SseEvent> {
    let mut block = SseEvent {
        kind: "message".into(),
        id: None,
        data: None,
    };
    for line in text.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => block.kind = value.to_owned(),
            "id" => block.id = Some(value.to_owned()),
            "data" => match &mut block.data {
                None => block.data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            _ => {}
        }
    }
    (block.id.is_some() || block.data.is_some()).then_some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_the_stream_is_split() {
        let text = ": hello\n\nevent: document\nid: a;0:1\ndata: {\"é\":1}\n\nid: a;0:2\n\ndata: x\ndata: y\n\n";
        let mut expected = Vec::new();
        for size in 1..text.len() {
            let mut splitter = SseSplitter::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                splitter.push(piece);
                found.extend(std::iter::from_fn(|| splitter.next()));
            }
            let read: Vec<_> = found
                .iter()
                .map(|block| (&*block.kind, block.id.as_deref(), block.data.as_deref()))
                .collect();
            assert_eq!(
                read,
                [
                    ("document", Some("a;0:1"), Some("{\"é\":1}")),
                    ("message", Some("a;0:2"), None),
                    ("message", None, Some("x\ny")),
                ]
            );
            expected = found;
        }
        assert_eq!(expected.len(), 3);
    }
}
