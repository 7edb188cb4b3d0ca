//! The life of one sealing process: harden, be told, reach, lock in, carry out, answer.
//!
//! Owns that order. Its standard input is a socket, by which the order comes, behind it what only the agent has, and the answer goes; its standard output takes
//! the age file. Nothing else of it goes anywhere.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::ExitCode,
};

use lucarne_seal::receipt::Consistency;

use crate::{
    confinement,
    operations::Reached,
    order::{Done, Failure, Machine, Task, Told},
    undo::{self, Undo},
};

/// More than any order has: its request has at most 64 KiB.
const LONGEST_ORDER: u32 = 256 << 10;

/// Carries out the one order that comes by standard input, and answers there. To be called before the process has any other
/// thread: a thread that is there already would not be locked in.
pub fn serve_one() -> ExitCode {
    // What a failure within itself would print could be of what it read.
    std::panic::set_hook(Box::new(|info| eprintln!("a sealing process failed within itself: {:?}", info.location())));
    let Ok((mut link, out)) = descriptors() else { return ExitCode::from(2) };
    match serve(&mut link, out) {
        Ok((done, later)) => {
            if !answer(link, Ok(done)) {
                return ExitCode::FAILURE;
            }
            later.map_or(ExitCode::SUCCESS, |later| later.undo())
        }
        // Without an answer the result counts as not whole.
        Err(failure) => {
            if answer(link, Err(failure)) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// And hangs up.
fn answer(mut link: UnixStream, outcome: Result<Done, Failure>) -> bool {
    let line = serde_json::to_vec(&Told::from(outcome)).map_err(io::Error::from);
    let told = line.and_then(|line| link.write_all(&line)).and_then(|()| link.shutdown(Shutdown::Both));
    // Shut down, it has ended for the other side, whoever has copies of it.
    told.is_ok()
}

/// What is left to do when the answer is given.
struct Later {
    undo: Undo,
    machine: Machine,
}

impl Later {
    fn undo(self) -> ExitCode {
        match self.undo.wait_and_undo(&self.machine) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }
}

fn descriptors() -> io::Result<(UnixStream, File)> {
    let link = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let out = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    Ok((UnixStream::from(link), File::from(out)))
}

fn serve(link: &mut UnixStream, out: File) -> Result<(Done, Option<Later>), Failure> {
    confinement::harden()?;
    match read_task(link)? {
        Task::CarryOut(order) => {
            let reached = Reached::open(&order)?;
            confinement::lock_in(reached.needs())?;
            let (done, undo) = reached.carry_out(&order, link, out)?;
            Ok((done, undo.zip(order.machine).map(|(undo, machine)| Later { undo, machine })))
        }
        Task::Undo(machine) => {
            let undo = Undo::left_behind(&machine).ok_or_else(|| Failure::impossible("there is nothing to undo"))?;
            confinement::lock_in(&undo::needs(undo.place(), &machine))?;
            let done = Done { consistency: Consistency::Instant, paused_nanoseconds: 0 };
            Ok((done, Some(Later { undo, machine })))
        }
    }
}

fn read_task(link: &mut UnixStream) -> Result<Task, Failure> {
    let mut length = [0; 4];
    link.read_exact(&mut length).map_err(Failure::broken("read the order"))?;
    let length = u32::from_be_bytes(length);
    let strange = |cause: String| Failure::Broken { doing: "understand the order", cause };
    if length > LONGEST_ORDER {
        return Err(strange("it is too long".to_owned()));
    }
    let mut text = vec![0; length as usize];
    link.read_exact(&mut text).map_err(Failure::broken("read the order"))?;
    serde_json::from_slice(&text).map_err(|error| strange(error.to_string()))
}
