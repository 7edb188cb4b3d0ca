//! `clock`: asks the network's clock for the time (NTP, RFC 5905), and writes the answer's octets as they came.
//!
//! Without std and libc, for guests that have neither, and no other program that sends a datagram. Ends with 1 when nothing came within
//! five seconds.
#![no_std]
#![no_main]

#[path = "../../images/bare.rs"]
mod bare;

use bare::{call, exit};

const WRITE: usize = 1;
const SOCKET: usize = 41;
const SEND_TO: usize = 44;
const RECEIVE_FROM: usize = 45;
const SET_OPTION: usize = 54;

const INTERNET: usize = 2;
const DATAGRAM: usize = 2;
const SOCKET_LEVEL: usize = 1;
const RECEIVE_TIMEOUT: usize = 20;

/// `struct sockaddr_in` of 169.254.169.123, port 123.
const CLOCK: [u8; 16] = [2, 0, 0, 123, 169, 254, 169, 123, 0, 0, 0, 0, 0, 0, 0, 0];
/// A client's, in version 4.
const REQUEST: u8 = 0o43;

extern "C" fn main(_stack: *const usize) -> ! {
    exit(if ask().is_some() { 0 } else { 1 })
}

fn ask() -> Option<()> {
    let socket = call(SOCKET, [INTERNET, DATAGRAM, 0, 0, 0, 0])?;
    let five_seconds: [u64; 2] = [5, 0];
    let timeout =
        [socket, SOCKET_LEVEL, RECEIVE_TIMEOUT, five_seconds.as_ptr() as usize, size_of_val(&five_seconds), 0];
    call(SET_OPTION, timeout)?;
    let mut message = [0_u8; 48];
    message[0] = REQUEST;
    let place = CLOCK;
    call(SEND_TO, [socket, message.as_ptr() as usize, message.len(), 0, place.as_ptr() as usize, place.len()])?;
    let came = call(RECEIVE_FROM, [socket, message.as_mut_ptr() as usize, message.len(), 0, 0, 0])?;
    call(WRITE, [1, message.as_ptr() as usize, came, 0, 0, 0]).map(drop)
}
