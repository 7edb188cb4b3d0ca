//! Where flow exports of any meter go to be counted: a UDP socket that reads as much of each message as counting needs.
//!
//! Owns the counting of IPFIX (RFC 7011) and of nfdump's own export protocol. What the records say is not looked at.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::net::sockopt;

/// What has arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Records of flows; those that only describe others do not count.
    pub records: u64,
    pub messages: u64,
    pub octets: u64,
    /// Of the template with the most; 0 where the protocol has none.
    pub fields: usize,
    /// For each template, how long its fields are; none for templates of options.
    templates: HashMap<u16, Option<Vec<u16>>>,
}

/// The length that stands for "the record says how long".
const VARIABLE: u16 = u16::MAX;
const TEMPLATES: u16 = 2;
const OPTIONS_TEMPLATES: u16 = 3;
const FIRST_DATA: u16 = 256;
const IPFIX: u16 = 10;
/// The version that nfdump's own protocol says.
const NFDUMP: u16 = 240;
/// What the socket may hold: bursts of an exporter that ends.
const ROOM: usize = 256 << 20;
/// Silence after which nothing more is on its way.
const SILENCE: Duration = Duration::from_millis(300);

/// A socket on the loopback, and the thread that empties it.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Arrived>>,
}

impl Sink {
    pub fn open() -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        sockopt::set_socket_recv_buffer_size_force(&socket, ROOM).or_else(|_| {
            // Without privileges the system's own limit is what there is.
            sockopt::set_socket_recv_buffer_size(&socket, ROOM)
        })?;
        socket.set_read_timeout(Some(SILENCE))?;
        let address = socket.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = thread::spawn(move || empty(&socket, &seen));
        Ok(Self { address, over, thread })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What arrived until now, and is still on its way.
    pub fn close(self) -> io::Result<Arrived> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| io::Error::other("the sink's thread panicked"))?
    }
}

fn empty(socket: &UdpSocket, over: &AtomicBool) -> io::Result<Arrived> {
    let (mut arrived, mut message) = (Arrived::default(), vec![0; 1 << 16]);
    loop {
        match socket.recv(&mut message) {
            Ok(length) => arrived.take(&message[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if over.load(Ordering::Relaxed) {
                    return Ok(arrived);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

impl Arrived {
    fn take(&mut self, message: &[u8]) {
        self.messages += 1;
        self.octets += message.len() as u64;
        match word(message, 0) {
            Some(IPFIX) => self.take_sets(message.get(16..).unwrap_or_default()),
            // Version, length, time, sequence, count of records.
            Some(NFDUMP) => {
                self.records += message
                    .get(12..16)
                    .map_or(0, |count| count.iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet)))
            }
            _ => {}
        }
    }

    fn take_sets(&mut self, mut sets: &[u8]) {
        while let (Some(id), Some(length)) = (word(sets, 0), word(sets, 2)) {
            let Some(set) = sets.get(4..usize::from(length)) else { return };
            match id {
                TEMPLATES | OPTIONS_TEMPLATES => self.take_templates(set, id == OPTIONS_TEMPLATES),
                FIRST_DATA.. => self.records += self.count(id, set),
                _ => {}
            }
            sets = &sets[usize::from(length)..];
        }
    }

    fn take_templates(&mut self, mut set: &[u8], of_options: bool) {
        while let (Some(id @ FIRST_DATA..), Some(count)) = (word(set, 0), word(set, 2)) {
            set = set.get(if of_options { 6 } else { 4 }..).unwrap_or_default();
            let mut lengths = Vec::new();
            for _ in 0..count {
                let (Some(element), Some(length)) = (word(set, 0), word(set, 2)) else { return };
                lengths.push(length);
                // The number of an enterprise follows its element.
                set = set.get(if element & 0x8000 == 0 { 4 } else { 8 }..).unwrap_or_default();
            }
            if !of_options {
                self.fields = self.fields.max(lengths.len());
            }
            self.templates.insert(id, (!of_options).then_some(lengths));
        }
    }

    fn count(&self, template: u16, mut set: &[u8]) -> u64 {
        let Some(Some(lengths)) = self.templates.get(&template) else { return 0 };
        let mut records = 0;
        // What is left and shorter than any record is padding.
        while let Some(rest) = skip(lengths, set).filter(|_| !lengths.is_empty()) {
            (records, set) = (records + 1, rest);
        }
        records
    }
}

/// What follows one record.
fn skip<'a>(lengths: &[u16], mut set: &'a [u8]) -> Option<&'a [u8]> {
    for length in lengths {
        let (head, octets) = match (*length, set.first()) {
            (VARIABLE, Some(255)) => (3, word(set, 1)?),
            (VARIABLE, first) => (1, u16::from(*first?)),
            (fixed, _) => (0, fixed),
        };
        set = set.get(head + usize::from(octets)..)?;
    }
    Some(set)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use lucarne_flows::ipfix::Exporter;
    use lucarne_model::Moment;

    use super::*;
    use crate::flow_mix::FlowMix;

    #[test]
    fn every_record_that_is_sent_is_counted_and_descriptions_are_not() {
        let records = FlowMix::new(3, Moment::from_secs(1_768_478_400)).records(500);
        let mut arrived = Arrived::default();
        for message in Exporter::new(1).encode(&records, Moment::from_secs(1_768_482_000)) {
            arrived.take(&message);
        }
        assert_eq!(arrived.records, records.len() as u64);
        assert!(arrived.fields > 40 && arrived.messages > 1);
    }

    #[test]
    fn octets_that_are_no_message_count_as_nothing() {
        let mut arrived = Arrived::default();
        for message in [&[0, 10][..], &[0, 10, 0, 0], &[0xff; 40], &[0, 240, 0, 9]] {
            arrived.take(message);
        }
        assert_eq!((arrived.records, arrived.messages), (0, 4));
    }
}
