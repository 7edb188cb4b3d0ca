//! Recordings of networks, as they are played into duplicates.

use std::{io::Cursor, sync::Arc, time::Duration};

use lucarne_bench::trace;
use lucarne_model::{Cidr, MacAddress, Moment, replay::ReplaySpeed};
use lucarne_replica::{
    AddressMap,
    replay::{
        capture::Capture,
        cast::{Cast, Wanted},
        player::{Play, Player},
        recorded::{self, Talk},
    },
};
use lucarne_switch::ports::{Batch, Port as _, pcap::PcapPort};

/// Players are asked no more often, for a few octets may say that something goes on for years.
const POLLS: usize = 2000;

/// Reads a recording, and plays it against nobody but its own frames.
pub(crate) fn recording(octets: &[u8]) -> bool {
    let recorded = recorded::read(octets, Cidr::ANY);
    let said: usize = recorded.sessions.iter().map(|session| said(&session.talk)).sum();
    assert!(said <= octets.len(), "more was said than was recorded");
    let Ok(Cast { clients, .. }) = Cast::new(&recorded, Wanted::All) else { return false };
    let play = Play {
        clients,
        speed: ReplaySpeed::Max,
        times: 1,
        amplify: 2,
        addresses: AddressMap::default(),
        mac: MacAddress::from_bits(1),
        mtu: 1400,
        patience: Duration::from_secs(1),
        seed: 1,
    };
    let Ok(mut player) = Player::new(Arc::new(recorded), play) else { return false };
    let mut now = Moment::from_secs(1);
    let mut frames = Capture::new(octets).flatten();
    for _ in 0..POLLS {
        let Some(next) = player.poll(now) else { break };
        player.frames().for_each(|frame| assert!(frame.len() <= octets.len() + 1414, "a frame of {}", frame.len()));
        assert!(next >= now, "the player looks back");
        match frames.next() {
            Some(frame) => player.handle_frame(now, frame.octets),
            None => now = next,
        }
    }
    assert!(player.reports().iter().all(|report| report.score.is_none_or(|score| score <= 100)));
    true
}

fn said(talk: &Talk) -> usize {
    match talk {
        Talk::Tcp(connection) => {
            for stream in [&connection.sent, &connection.answered] {
                assert!(stream.pieces.is_sorted_by_key(|piece| piece.end), "pieces go backwards");
                assert_eq!(stream.pieces.last().map_or(0, |piece| piece.end), stream.octets.len());
            }
            connection.sent.octets.len() + connection.answered.octets.len()
        }
        Talk::Udp(talk) => {
            let sent: usize = talk.sent.iter().map(|(_, octets)| octets.len()).sum();
            sent + talk.answered.iter().map(|answer| answer.octets.len()).sum::<usize>()
        }
        Talk::Packets(packets) => packets.iter().map(|(_, octets)| octets.len()).sum(),
    }
}

/// Frames of the benches' trace, in blocks of pcapng.
pub(crate) fn recording_seeds() -> Vec<Vec<u8>> {
    let block = |kind: u32, body: &[u8]| {
        let length = (body.len().next_multiple_of(4) as u32 + 12).to_le_bytes();
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        [&kind.to_le_bytes()[..], &length, body, &padding, &length].concat()
    };
    let mut capture = Vec::new();
    let Ok(mut port) = trace::write(1, 3, &mut capture).map(|_| PcapPort::open(Cursor::new(&capture))) else {
        return Vec::new();
    };
    let Ok(port) = &mut port else { return Vec::new() };
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let mut file = [block(0x0a0d_0d0a, &section), block(1, &[1, 0, 0, 0, 0, 0, 0, 0])].concat();
    let mut batch = Batch::new(1, 1514);
    while port.receive(&mut batch).is_ok() && !batch.is_empty() {
        for frame in batch.iter() {
            let length = (frame.len() as u32).to_le_bytes();
            let micros = (port.captured().as_micros() as u32).to_le_bytes();
            file.extend(block(6, &[&[0; 8][..], &micros, &length, &length, frame].concat()));
        }
        batch.clear();
    }
    vec![file]
}
