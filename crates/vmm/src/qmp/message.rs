//! The lines of QMP, QEMU's control protocol (docs/interop/qmp-spec.txt): what each says.
//!
//! Owns parsing and building. Unknown events and fields are let through, so that a newer QEMU is no error.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde_json::{Value, json};

/// One line from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Greeting,
    Return { id: u64, value: Value },
    Error { id: u64, reason: String },
    Event(Event),
}

/// Something happened in QEMU.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

impl Message {
    /// None when the line is not of the protocol.
    pub fn parse(line: &str) -> Option<Self> {
        let Ok(Value::Object(mut object)) = serde_json::from_str(line) else { return None };
        if object.contains_key("QMP") {
            return Some(Self::Greeting);
        }
        if let Some(Value::String(name)) = object.remove("event") {
            return Some(Self::Event(Event { name, data: object.remove("data").unwrap_or_default() }));
        }
        let id = object.get("id").and_then(Value::as_u64)?;
        if let Some(value) = object.remove("return") {
            return Some(Self::Return { id, value });
        }
        let reason = object.get("error")?.get("desc")?.as_str()?.to_owned();
        Some(Self::Error { id, reason })
    }
}

/// The line that asks QEMU to do something.
pub fn command(id: u64, name: &str, arguments: &Value) -> String {
    json!({ "execute": name, "arguments": arguments, "id": id }).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line: String) { let _ = Message::parse(&line); }
    }

    #[test]
    fn the_lines_of_a_real_conversation_are_understood() {
        let greeting =
            r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#;
        assert_eq!(Message::parse(greeting), Some(Message::Greeting));
        let done = r#"{"return": {}, "id": 3}"#;
        assert_eq!(Message::parse(done), Some(Message::Return { id: 3, value: json!({}) }));
        let refused = r#"{"id": 4, "error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}"#;
        assert_eq!(Message::parse(refused), Some(Message::Error { id: 4, reason: "Device 'x' not found".into() }));
        let event = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}"#;
        assert_eq!(Message::parse(event), Some(Message::Event(Event { name: "RESUME".into(), data: Value::Null })));
    }

    #[test]
    fn a_line_that_is_not_of_the_protocol_is_nothing() {
        for line in ["", "[]", "{}", "{\"return\": {}}", "{\"id\": 1, \"error\": 7}", "\u{0}"] {
            assert_eq!(Message::parse(line), None, "{line}");
        }
    }
}
