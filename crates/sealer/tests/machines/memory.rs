//! Reading a guest's memory.

use lucarne_seal::{operation::OperationName::GuestMemoryRead, padding::Padding, receipt::Consistency};
use lucarne_sealer::Failure;
use serde_json::json;

use crate::house::{COUNTERS, House, SECRET};

#[test]
fn memory_is_read_of_one_instant_and_opens_with_the_stock_tool() {
    let secret: [u8; 32] = std::array::from_fn(|at| at as u8 * 7 + 1);
    let house = House::with_secret(&secret);
    let (done, content) = house.read("physical", SECRET, 32);
    assert_eq!(content, secret);
    assert_eq!(done.consistency, Consistency::Instant);
    assert!(done.paused_nanoseconds > 0);
    for _ in 0..5 {
        let (_, piece) = house.read("physical", 0, 0x10000);
        let count = |at: u64| u32::from_le_bytes(piece[at as usize..][..4].try_into().unwrap());
        let apart = count(COUNTERS.0).wrapping_sub(count(COUNTERS.1));
        assert!(apart <= 1, "the counters are {apart} apart");
    }
    assert_eq!(house.status(), "running");
}

#[test]
fn the_largest_piece_is_read_and_one_that_is_not_memory_or_too_long_is_refused() {
    let house = House::with_secret(&[9; 32]);
    let (done, content) = house.read("physical", 0, 16 << 20);
    assert_eq!((content.len(), &content[SECRET as usize..][..32]), (16 << 20, &[9; 32][..]));
    eprintln!("16 MiB: the guest stood still for {} us", done.paused_nanoseconds / 1000);
    for (address, length) in [("0xfec00000", 4), ("0x1fff000", 8192), ("0xffffffffffffffff", 2), ("0xd0000000", 1)] {
        let read = house.ask(GuestMemoryRead, json!({"space": "physical", "address": address, "length": length}));
        assert!(matches!(read, Err(Failure::Impossible(_))), "{address}: {read:?}");
    }
    // The guest has no paging.
    let kernel = house.ask(GuestMemoryRead, json!({"space": "kernel", "address": "0xffffffff81000000", "length": 1}));
    assert!(matches!(kernel, Err(Failure::Impossible(_))), "{kernel:?}");
    let mut order = house.order(GuestMemoryRead, json!({"space": "physical", "address": "0x0", "length": 4096}));
    order.terms.most_octets = 4095.try_into().unwrap();
    assert_eq!(house.carry_out(order.clone()).unwrap_err(), Failure::TooLong { most: 4095 });
    order.terms.most_octets = 4096.try_into().unwrap();
    order.terms.padding = Padding::PowerOfTwo;
    assert_eq!(house.carry_out(order).unwrap().1.len(), 4096);
    assert_eq!(house.status(), "running");
}
