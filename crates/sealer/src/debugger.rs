//! QEMU's own debugger interface, by which a guest's memory is written.
//!
//! Owns the few packets of GDB's remote protocol that this needs, and the descriptor that they go over. Why not into the
//! memory itself: where processors are emulated, QEMU keeps what it has translated, and only a write that it does itself makes
//! it translate anew. The guest stands still while a debugger is there.

use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use serde_json::json;

use crate::{monitor::Monitor, order::Failure};

const DOING: &str = "write the guest's memory";
const PATIENCE: Duration = Duration::from_secs(30);
/// What QEMU calls the descriptor, and the device that has it.
const NAME: &str = "sealed-debugger";
/// Octets in one packet: QEMU takes packets of 4096 characters.
const PIECE: usize = 1024;
/// The longest answer: to what is asked here it is a word.
const LONGEST_ANSWER: usize = 4096;

/// A debugger of a guest that stands still. [`Debugger::leave`] takes it away.
#[derive(Debug)]
pub(crate) struct Debugger {
    stream: UnixStream,
}

impl Debugger {
    pub(crate) fn attach(monitor: &mut Monitor) -> Result<Self, Failure> {
        let doing = "debug the guest";
        let (stream, theirs) = UnixStream::pair().map_err(Failure::broken(doing))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(Failure::broken(doing))?;
        monitor.ask_with(doing, ("getfd", json!({ "fdname": NAME })), theirs.as_fd())?;
        let address = json!({ "type": "fd", "data": { "str": NAME } });
        let socket = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        monitor.ask(doing, "chardev-add", json!({ "id": NAME, "backend": socket }))?;
        let said = monitor.ask_in_words(doing, &format!("gdbserver chardev:{NAME}"))?;
        if !said.contains("Waiting for gdb connection") {
            monitor.ask(doing, "chardev-remove", json!({ "id": NAME }))?;
            return Err(Failure::Broken { doing, cause: said.trim().to_owned() });
        }
        let mut debugger = Self { stream };
        match debugger.tell("Qqemu.PhyMemMode:1") {
            Ok(()) => Ok(debugger),
            Err(failure) => debugger.leave(monitor).and(Err(failure)),
        }
    }

    /// Replaces physical memory from `address` on.
    pub(crate) fn write(&mut self, address: u64, octets: &[u8]) -> Result<(), Failure> {
        let mut at = address;
        for piece in octets.chunks(PIECE) {
            let digits: String = piece.iter().map(|octet| format!("{octet:02x}")).collect();
            self.tell(&format!("M{at:x},{:x}:{digits}", piece.len()))?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// The guest may go on after that.
    pub(crate) fn leave(mut self, monitor: &mut Monitor) -> Result<(), Failure> {
        // The next debugger finds addresses as they usually are.
        let told = self.tell("Qqemu.PhyMemMode:0");
        monitor.ask_in_words("stop debugging the guest", "gdbserver none")?;
        told
    }

    fn tell(&mut self, packet: &str) -> Result<(), Failure> {
        match self.ask(packet).map_err(Failure::broken(DOING))?.as_str() {
            "OK" => Ok(()),
            other => Err(Failure::Broken { doing: DOING, cause: format!("the machine answered `{other}`") }),
        }
    }

    /// Sends a packet and returns what answers it.
    fn ask(&mut self, packet: &str) -> io::Result<String> {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.stream.write_all(format!("${packet}#{sum:02x}").as_bytes())?;
        let mut answer = Vec::new();
        loop {
            let mut octet = [0];
            self.stream.read_exact(&mut octet)?;
            match (octet[0], answer.is_empty()) {
                // That it has come, and what was said unasked before.
                (b'+', true) => {}
                (b'$', true) => answer.push(b'$'),
                (b'#', false) => break,
                (_, true) => return Err(io::Error::new(io::ErrorKind::InvalidData, "not the debugger's protocol")),
                (_, false) if answer.len() > LONGEST_ANSWER => return Err(io::ErrorKind::FileTooLarge.into()),
                (other, false) => answer.push(other),
            }
        }
        self.stream.read_exact(&mut [0; 2])?;
        self.stream.write_all(b"+")?;
        Ok(String::from_utf8_lossy(&answer[1..]).into_owned())
    }
}
