//! `guest.memory.dump`.
//!
//! Owns the order. What takes long is done before the guest is stopped or after it goes on: its pager captures its memory, for which
//! it stands still for some milliseconds, and its processors' registers are asked for meanwhile. A guest without a pager has nobody
//! who keeps what it would write over, so it stands until all of it is sealed. In either case all is of one instant, or there
//! is no dump: one that would keep the guest standing for longer than it may is given up, and the guest goes on first.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lucarne_model::{AccountId, HostId, InstanceId};
use lucarne_pager::capture::{Capture, CaptureError, LONGEST as LONGEST_CAPTURE, Still, Taken};
use lucarne_seal::{operation::Operation, request::RequestId};
use serde::Serialize;
use serde_json::json;

use super::Found;
use crate::{
    content::Content,
    core_file::{CoreFile, Occupied, PAGE, Part},
    core_notes,
    guest_memory::{self, Passage},
    memory_map::MemoryMap,
    monitor::Monitor,
    order::{Failure, Machine, Order},
    standstill::Standstill,
};

const CAPTURING: &str = "capture the guest's memory";
const REGISTERS: &str = "read the registers of the guest's processors";
/// How long the pager may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Whose the note is that says what a core is of, and its type.
const OURS: (&str, u32) = ("Lucarne", 1);
const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// All that a dump needs, reached while it could be.
#[derive(Debug)]
pub(super) struct Dump {
    monitor: Monitor,
    passage: Passage,
    map: MemoryMap,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Captured(Capture),
    Standing(Still),
}

/// What a core says of itself, in a note.
#[derive(Serialize)]
struct About<'a> {
    request: &'a RequestId,
    host: HostId,
    instance: InstanceId,
    generation: u64,
    account: AccountId,
    /// Microseconds since 1970.
    instant: u64,
}

impl Dump {
    /// Arms the capture last: from then on the guest's writes cost it something.
    pub(super) fn reach(machine: &Machine) -> Result<Self, Failure> {
        let mut monitor = Monitor::connect(&machine.monitor)?;
        let passage = Passage::open(&mut monitor, machine.process)?;
        let map = guest_memory::map(&mut monitor)?;
        let memory = match &machine.pager {
            Some(control) => Capture::begin(control, LONGEST_CAPTURE, PATIENCE).map(Memory::Captured),
            None => Still::of(machine.process).map(Memory::Standing),
        };
        Ok(Self { monitor, passage, map, memory: memory.map_err(not_captured)? })
    }

    pub(super) fn carry_out(self, order: &Order, machine: &Machine, content: &mut Content) -> Result<Found, Failure> {
        let Self { mut monitor, mut passage, map, mut memory } = self;
        let Operation::GuestMemoryDump(asked) = &order.operation else {
            return Err(Failure::impossible("the order is for something else than a dump"));
        };
        let most = Duration::from_millis(asked.most_pause_milliseconds.get());
        let standstill = Standstill::begin(&mut monitor, machine)?;
        let mut notes = registers(standstill.monitor, &mut passage, &map)?;
        notes.extend(about(order, machine)?);
        let (standstill, paused) = match &mut memory {
            Memory::Captured(capture) => {
                capture.freeze(left(&standstill, most)?).map_err(not_captured)?;
                // One that stood for longer goes on before anything else is done about it.
                let was_in_time = left(&standstill, most);
                let paused = standstill.end()?;
                was_in_time?;
                (None, paused)
            }
            Memory::Standing(_) => (Some(standstill), 0),
        };
        let in_time = || standstill.as_ref().map_or(Ok(()), |standstill| left(standstill, most).map(drop));
        pour(&mut memory, &map, notes, &in_time, content)?;
        let stood = standstill.map_or(Ok(paused), Standstill::end)?;
        // The capture is over, and the guest writes freely.
        drop(memory);
        passage.close(&mut monitor)?;
        Ok(Found::at_once(stood))
    }
}

/// For how long the guest may go on standing.
fn left(standstill: &Standstill<'_>, most: Duration) -> Result<Duration, Failure> {
    let left = most.checked_sub(standstill.stood()).filter(|left| !left.is_zero());
    let too_long =
        || Failure::Impossible(format!("the guest would stand still for longer than {} ms", most.as_millis()));
    left.ok_or_else(too_long)
}

/// The registers of all processors, as notes of a core. QEMU is told to dump some octets of firmware and nothing of the guest, for
/// the sake of what it writes in front of them.
fn registers(monitor: &mut Monitor, passage: &mut Passage, map: &MemoryMap) -> Result<Vec<u8>, Failure> {
    let protocol = format!("file:{}", passage.name());
    let begin = map.firmware().unwrap_or_default();
    let arguments = json!({ "paging": false, "protocol": protocol, "begin": begin, "length": 16 });
    monitor.ask(REGISTERS, "dump-guest-memory", arguments)?;
    let core = passage.take_rest()?;
    let broken = |error: core_notes::NotUnderstood| Failure::Broken { doing: REGISTERS, cause: error.to_string() };
    core_notes::processors(&core).map_err(broken)
}

/// The note by which a core says what it is of.
pub(super) fn about(order: &Order, machine: &Machine) -> Result<Vec<u8>, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let about = About {
        request: &order.request,
        host: order.host,
        instance: machine.instance,
        generation: machine.generation,
        account: machine.account,
        instant: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
    };
    let text = serde_json::to_vec(&about).map_err(|error| Failure::broken("write the result")(error.into()))?;
    Ok(core_notes::note(OURS.0, OURS.1, &text))
}

/// The core, octet by octet, while `in_time` says so.
fn pour(
    memory: &mut Memory,
    map: &MemoryMap,
    notes: Vec<u8>,
    in_time: &dyn Fn() -> Result<(), Failure>,
    content: &mut Content,
) -> Result<(), Failure> {
    let parts: Vec<Part> = map.own().into_iter().map(part).collect();
    let occupied = memory.occupied()?;
    let broken = |cause: String| Failure::Broken { doing: CAPTURING, cause };
    let core =
        CoreFile::new(&parts, Occupied(&occupied), notes).map_err(|out_of_order| broken(out_of_order.to_string()))?;
    content.expect(core.length())?;
    content.push(&core.head())?;
    let mut stored = core.stored().peekable();
    while let Some(taken) = memory.next()? {
        in_time()?;
        if occupied.get((taken.first() / 64) as usize) != Some(&taken.occupied()) {
            return Err(broken("a page is not what it was".to_owned()));
        }
        let end = taken.first() + taken.count();
        let mut at = taken.first();
        while let Some((first, count)) = stored.peek().copied().filter(|(first, _)| *first < end) {
            at = at.max(first);
            let until = end.min(first + count);
            at = push(&taken, at, until, content)?;
            if at < first + count {
                break;
            }
            stored.next();
        }
    }
    match stored.next() {
        None => Ok(()),
        Some(_) => Err(broken("it has less than the machine says".to_owned())),
    }
}

/// These pages, of which some may be zeros that are stored all the same. Returns `until`.
fn push(taken: &Taken<'_>, mut at: u64, until: u64, content: &mut Content) -> Result<u64, Failure> {
    while at < until {
        let (count, contents) = taken.alike(at - taken.first(), until - at);
        match contents {
            Some(contents) => content.push(contents)?,
            None => (0..count).try_for_each(|_| content.push(&ZEROS))?,
        }
        at += count;
    }
    Ok(at)
}

const fn part(piece: crate::memory_map::Piece) -> Part {
    Part { address: piece.address, first: piece.offset / PAGE, pages: piece.length / PAGE }
}

impl Memory {
    fn occupied(&mut self) -> Result<Vec<u64>, Failure> {
        let occupied = match self {
            Self::Captured(capture) => capture.occupied(),
            Self::Standing(still) => still.occupied(),
        };
        occupied.map_err(not_captured)
    }

    fn next(&mut self) -> Result<Option<Taken<'_>>, Failure> {
        let taken = match self {
            Self::Captured(capture) => capture.next(),
            Self::Standing(still) => still.next(),
        };
        taken.map_err(not_captured)
    }
}

fn not_captured(error: CaptureError) -> Failure {
    let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
    Failure::Broken { doing: CAPTURING, cause: format!("{error}{cause}") }
}
