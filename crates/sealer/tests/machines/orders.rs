//! What a sealing process is told.

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::house::program;

fn answer(order: &[u8]) -> (Value, Vec<u8>) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(program().path);
    let child = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(command);
    // It may stop reading before it has all.
    let _ = ours.write_all(&[&(order.len() as u32).to_be_bytes()[..], order].concat());
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut told = Vec::new();
    ours.read_to_end(&mut told).unwrap();
    let out = child.wait_with_output().unwrap().stdout;
    (serde_json::from_slice(&told).unwrap(), out)
}

#[test]
fn an_order_that_is_not_one_is_refused_and_nothing_comes_of_it() {
    let good = json!({"carry-out": {
        "request": "0707070707070707070707070707070707070707070707070707070707070707",
        "host": "host-00000000000000001",
        "operation": {"name": "host.health", "version": 1, "arguments": {}},
        "machine": null,
        "terms": {
            "recipients": ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"],
            "most_octets": 1 << 20,
            "padding": "none",
        },
    }});
    let (told, out) = answer(good.to_string().as_bytes());
    assert_eq!(told["outcome"], "done", "{told}");
    assert!(out.starts_with(b"age-encryption.org/v1\n"));
    let changed = |pointer: &str, value: Value| {
        let mut order = good.clone();
        *order["carry-out"].pointer_mut(pointer).unwrap() = value;
        order.to_string().into_bytes()
    };
    let orders = [
        b"".to_vec(),
        b"{}".to_vec(),
        json!({"undo": {}}).to_string().into_bytes(),
        vec![b' '; 1 << 20],
        changed("/operation/name", json!("host.shell")),
        changed("/operation/version", json!(2)),
        changed("/operation/arguments", json!({"path": "/etc/shadow"})),
        changed("/terms/recipients", json!(["age1"])),
        changed("/terms/most_octets", json!(0)),
        changed("/terms/padding", json!("some")),
        // An operation on a guest, and none is named.
        changed("/operation/name", json!("guest.pause")),
    ];
    for order in orders {
        let (told, out) = answer(&order);
        let order = String::from_utf8_lossy(&order);
        assert!(matches!(told["outcome"].as_str(), Some("broken" | "impossible")), "{}: {told}", order.trim());
        assert!(out.is_empty(), "{}", order.trim());
    }
}
