//! The life of one sealing process: harden, be told, reach, lock in, carry out, answer.
//!
//! Owns that order. Its standard input is a socket, by which the order comes and the answer goes; its standard output takes
//! the age file. Nothing else of it goes anywhere.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
};

use crate::{
    confinement,
    operations::Reached,
    order::{Done, Failure, Order, Told},
};

/// More than any order has: its request has at most 64 KiB.
const LONGEST_ORDER: u64 = 256 << 10;

/// Carries out the one order that comes by standard input, and answers there. To be called before the process has any other
/// thread: a thread that is there already would not be locked in.
pub fn serve_one() -> ExitCode {
    // What a failure within itself would print could be of what it read.
    std::panic::set_hook(Box::new(|info| eprintln!("a sealing process failed within itself: {:?}", info.location())));
    let Ok((mut link, out)) = descriptors() else { return ExitCode::from(2) };
    let told = Told::from(serve(&mut link, out));
    let answered = serde_json::to_vec(&told).map_err(io::Error::from).and_then(|line| link.write_all(&line));
    // Without an answer the result counts as not whole.
    if answered.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn descriptors() -> io::Result<(UnixStream, File)> {
    let link = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let out = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    Ok((UnixStream::from(link), File::from(out)))
}

fn serve(link: &mut UnixStream, out: File) -> Result<Done, Failure> {
    confinement::harden()?;
    let order = read_order(link)?;
    let reached = Reached::open(&order)?;
    confinement::lock_in(reached.needs())?;
    reached.carry_out(&order, out)
}

fn read_order(link: &mut UnixStream) -> Result<Order, Failure> {
    let mut text = Vec::new();
    link.take(LONGEST_ORDER + 1).read_to_end(&mut text).map_err(Failure::broken("read the order"))?;
    let strange = |cause: String| Failure::Broken { doing: "understand the order", cause };
    if text.len() as u64 > LONGEST_ORDER {
        return Err(strange("it is too long".to_owned()));
    }
    serde_json::from_slice(&text).map_err(|error| strange(error.to_string()))
}
