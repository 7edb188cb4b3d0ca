//! Histories as Zeek writes them: its rules (`update_history`, `ScaledHistoryEntry` and the table of `conn.log`) row by row.

use lucarne_model::{flow::Direction, security_group::TCP};

use super::{
    Packet,
    measure_tests::{Exchange, segment},
};
use crate::phase::{ACK, FIN, RST, SYN};

const OUT: Direction = Direction::Egress;
const IN: Direction = Direction::Ingress;

/// Who sends, and what.
type Sent = (Direction, Packet);

/// Out: sequence numbers from 1001; in: from 5001.
fn out(sequence: u32, acknowledgement: u32, data: u16, flags: u16) -> Sent {
    (OUT, segment(sequence, acknowledgement, data, flags))
}
fn back(sequence: u32, acknowledgement: u32, data: u16, flags: u16) -> Sent {
    (IN, segment(sequence, acknowledgement, data, flags))
}
fn closed(sent: Sent) -> Sent {
    (sent.0, Packet { window: 0, ..sent.1 })
}

/// The history of what was opened by a SYN of 1000, answered by one of 5000, and went on with `packets`.
fn history(packets: &[Sent]) -> String {
    let mut tcp = Exchange::new(TCP, segment(1000, 0, 0, SYN));
    let opening = [back(5000, 1001, 0, SYN | ACK), out(1001, 5001, 0, ACK)];
    for (direction, packet) in opening.into_iter().chain(packets.iter().copied()) {
        tcp.after(100).send(direction, packet);
    }
    tcp.records().0.history.to_string()
}

#[test]
fn histories_are_as_zeek_writes_them() {
    let again = |sent: Sent, times: usize| vec![sent; times];
    let rows: Vec<(&str, Vec<Sent>, &str)> = vec![
        ("an open connection", vec![], "ShA"),
        ("data and acknowledgement have a letter a side", again(out(1001, 5001, 0, ACK), 9), "ShA"),
        ("data", vec![out(1001, 5001, 10, ACK), back(5001, 1011, 0, ACK), back(5001, 1011, 10, ACK)], "ShADad"),
        ("a SYN again", vec![out(1000, 0, 0, SYN), back(5000, 1001, 0, SYN | ACK)], "ShA"),
        ("a late SYN again", vec![out(1001, 5001, 900, ACK), out(1000, 0, 0, SYN)], "ShAD"),
        ("another SYN", vec![out(900_000_000, 0, 0, SYN)], "ShAS"),
        ("another answer to it", vec![back(900_000_000, 1001, 0, SYN | ACK)], "ShAh"),
        ("a FIN again", again(out(1001, 5001, 0, FIN | ACK), 3), "ShAF"),
        ("a FIN with data is no data", vec![out(1001, 5001, 10, FIN | ACK)], "ShAF"),
        ("another FIN", vec![out(1001, 5001, 0, FIN | ACK), out(1002, 5001, 4, FIN | ACK)], "ShAFF"),
        ("a reset again", again(back(5001, 1001, 0, RST), 2), "ShAr"),
        ("another reset", vec![back(5001, 1001, 0, RST), back(5044, 1001, 0, RST)], "ShArr"),
        ("FIN and reset", again(out(1001, 5001, 0, FIN | RST), 2), "ShAI"),
        ("SYN and FIN", again(back(5001, 1001, 0, SYN | FIN), 2), "ShAq"),
        ("SYN and reset", vec![out(1001, 5001, 0, SYN | RST)], "ShAQ"),
        ("all three", vec![out(1001, 5001, 0, SYN | FIN | RST)], "ShAI"),
        ("sent again, 1 time", again(out(1001, 5001, 9, ACK), 2), "ShADT"),
        ("sent again, 9 times", again(out(1001, 5001, 9, ACK), 10), "ShADT"),
        ("sent again, 10 times", again(out(1001, 5001, 9, ACK), 11), "ShADTT"),
        ("sent again, 99 times", again(out(1001, 5001, 9, ACK), 100), "ShADTT"),
        ("sent again, 100 times", again(out(1001, 5001, 9, ACK), 101), "ShADTTT"),
        ("sent again, 1000 times", again(out(1001, 5001, 9, ACK), 1001), "ShADTTTT"),
        ("a closed window", vec![closed(back(5001, 1001, 0, ACK))], "ShAaw"),
        ("10 closed windows", again(closed(back(5001, 1001, 0, ACK)), 10), "ShAaww"),
        ("a reset has no window", vec![closed(back(5001, 1001, 0, RST))], "ShAr"),
        (
            "nobody sends to whom has said FIN to the other",
            vec![out(1001, 5001, 0, FIN | ACK), closed(back(5001, 1002, 0, ACK))],
            "ShAFa",
        ),
        (
            "but who has said FIN can still be sent to",
            vec![out(1001, 5001, 0, FIN | ACK), closed(out(1002, 5001, 0, ACK))],
            "ShAFW",
        ),
        ("a hole", vec![out(1001, 5001, 10, ACK), out(1111, 5001, 10, ACK)], "ShAD"),
        (
            "a hole that is acknowledged is a gap",
            vec![out(1001, 5001, 10, ACK), out(1111, 5001, 10, ACK), back(5001, 1121, 0, ACK)],
            "ShADaG",
        ),
        (
            "one that is filled before is none",
            vec![
                out(1001, 5001, 10, ACK),
                out(1021, 5001, 10, ACK),
                back(5001, 1011, 0, ACK),
                out(1011, 5001, 10, ACK),
                back(5001, 1031, 0, ACK),
            ],
            "ShADaT",
        ),
        ("9 gaps", gaps(9), "ShAdg"),
        ("10 gaps", gaps(10), "ShAdgg"),
    ];
    for (name, packets, expected) in rows {
        assert_eq!(history(&packets), expected, "{name}");
    }
}

/// The responder's data has so many holes, each acknowledged.
fn gaps(count: u32) -> Vec<Sent> {
    let hole = |n: u32| [back(5101 + 200 * n, 1001, 100, ACK), out(1001, 5201 + 200 * n, 0, ACK)];
    (0..count).flat_map(hole).collect()
}
