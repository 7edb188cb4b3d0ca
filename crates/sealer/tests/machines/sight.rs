//! What a guest shows, and what its host does.

use std::fs;

use lucarne_seal::operation::OperationName::{GuestConsole, GuestScreenshot, HostFlows, HostKernelRead, HostSample};
use lucarne_sealer::Failure;
use serde_json::{Value, json};

use crate::house::{House, folder};

#[test]
fn a_picture_of_the_screen_is_a_picture_and_a_machine_without_one_says_so() {
    let house = House::start(folder(), &["-device", "VGA"]);
    let (_, picture) = house.ask(GuestScreenshot, json!({})).unwrap();
    let header = String::from_utf8_lossy(&picture[..picture.len().min(15)]).into_owned();
    let words: Vec<&str> = header.split_ascii_whitespace().collect();
    let (width, height): (usize, usize) = (words[1].parse().unwrap(), words[2].parse().unwrap());
    assert_eq!((words[0], words[3]), ("P6", "255"), "{header}");
    let behind = format!("P6\n{width} {height}\n255\n").len();
    assert_eq!(picture.len(), behind + 3 * width * height);

    let blind = House::start(folder(), &[]).ask(GuestScreenshot, json!({}));
    assert!(matches!(blind, Err(Failure::Broken { .. })), "{blind:?}");
}

#[test]
fn the_end_of_the_console_is_shown() {
    let house = House::start(folder(), &[]);
    let written = b"the first line\nthe last line\n";
    let mut ring = b"LRING01\n".to_vec();
    ring.extend((written.len() as u64).to_le_bytes());
    ring.extend(written);
    ring.resize(16 + 4096, 0);
    fs::write(house.machine().console, ring).unwrap();
    assert_eq!(house.ask(GuestConsole, json!({"most_octets": 1000})).unwrap().1, written);
    assert_eq!(house.ask(GuestConsole, json!({"most_octets": 14})).unwrap().1, b"the last line\n");
}

#[test]
fn a_host_is_sampled_and_its_kernel_is_read_if_it_lets_itself() {
    let house = House::with_secret(&[1; 32]);
    let ask = |name, arguments| {
        let mut order = house.order(name, arguments);
        order.machine = None;
        house.carry_out(order)
    };
    let (_, text) = ask(HostSample, json!({"seconds": 1, "hertz": 100})).unwrap();
    let document: Value = serde_json::from_slice(&text).unwrap();
    let places = document["result"]["places"].as_array().unwrap();
    // Its guest counts, and does nothing else.
    assert!(places.iter().any(|place| place["process"] == house.qemu.id()), "{document}");

    let read = ask(HostKernelRead, json!({"symbol": "linux_banner", "offset": 0, "length": 13}));
    match fs::metadata("/proc/kcore") {
        Ok(_) => assert_eq!(read.unwrap().1, b"Linux version"),
        Err(_) => assert!(matches!(read, Err(Failure::Impossible(_))), "{read:?}"),
    }
    let asked = json!({"seconds": 60, "most_records": 10});
    let mut flows = house.order(HostFlows, asked);
    (flows.machine, flows.given) = (None, br#"{"records":[]}"#.to_vec());
    let document: Value = serde_json::from_slice(&house.carry_out(flows).unwrap().1).unwrap();
    assert_eq!((&document["operation"], &document["result"]), (&json!("host.flows"), &json!({"records": []})));
    let nothing = ask(HostKernelRead, json!({"symbol": "no such symbol", "offset": 0, "length": 1}));
    assert!(matches!(nothing, Err(Failure::Impossible(_))), "{nothing:?}");
}
