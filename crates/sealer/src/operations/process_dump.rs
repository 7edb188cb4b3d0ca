//! `hypervisor.memory.dump`: the process that plays a guest's machine, as a core that debuggers open.
//!
//! Owns which of its pages are in the core: those that it has for itself. Pages of files that it has not changed are in those
//! files, and the core says in which; what it never touched is zeros. Its guest's memory is not in it: that is asked for by
//! `guest.memory.dump`, for which another right is needed. Its threads stand for as long as it may, so that all is of one instant;
//! or they stand only while their registers are read, and the rest is read while they run.

use std::time::Duration;

use lucarne_seal::{operation::HypervisorMemoryDump, receipt::Consistency};

use super::{Found, dump};
use crate::{
    content::Content,
    core_file::{CoreFile, Occupied, PAGE, Part},
    core_notes, guest_memory,
    monitor::Monitor,
    order::{Failure, Machine, Order},
    process_memory::ProcessMemory,
    threads::StoppedThreads,
};

const DOING: &str = "read the memory of the machine's process";
/// Octets that are read at once.
const STEP: u64 = 256 << 10;

#[derive(Debug)]
pub(super) struct ProcessDump {
    memory: ProcessMemory,
    parts: Vec<Part>,
    occupied: Vec<u64>,
    notes: Vec<u8>,
    threads: Threads,
}

/// Those of the process, whose registers were read.
#[derive(Debug)]
enum Threads {
    Stand(StoppedThreads, Duration),
    /// And stood for so many nanoseconds.
    Run(u64),
}

impl ProcessDump {
    pub(super) fn reach(asked: &HypervisorMemoryDump, machine: &Machine) -> Result<Self, Failure> {
        // Once its threads stand it answers no more.
        let places = guest_memory::places(&mut Monitor::connect(&machine.monitor)?)?;
        let stopped = StoppedThreads::of(machine.process);
        let stopped = stopped.map_err(Failure::broken("stop the threads of the machine's process"))?;
        let mut notes = Vec::new();
        for thread in stopped.iter() {
            let registers = stopped.registers(thread).map_err(Failure::broken("read registers"))?;
            notes.extend(core_notes::thread(thread.unsigned_abs(), &registers));
        }
        let threads = match asked.most_pause_milliseconds.get() {
            0 => Threads::Run(stopped.end()),
            most => Threads::Stand(stopped, Duration::from_millis(most)),
        };
        let memory = ProcessMemory::open_beside(machine.process, false, &places)?;
        notes.extend(core_notes::auxiliary(&memory.auxiliary()?));
        notes.extend(core_notes::files(memory.files()));
        let (parts, occupied) = lay_out(&memory)?;
        Ok(Self { memory, parts, occupied, notes, threads })
    }

    pub(super) fn carry_out(
        mut self,
        order: &Order,
        machine: &Machine,
        content: &mut Content,
    ) -> Result<Found, Failure> {
        self.notes.extend(dump::about(order, machine)?);
        let core = CoreFile::new(&self.parts, Occupied(&self.occupied), std::mem::take(&mut self.notes));
        let core = core.map_err(|error| Failure::Broken { doing: DOING, cause: error.to_string() })?;
        content.expect(core.length())?;
        content.push(&core.head())?;
        let mut parts = self.parts.iter().peekable();
        for (first, count) in core.stored() {
            let part = loop {
                match parts.peek() {
                    Some(part) if first < part.first + part.pages => break *part,
                    Some(_) => parts.next(),
                    None => return Err(Failure::Broken { doing: DOING, cause: "a page is of no mapping".to_owned() }),
                };
            };
            let begins = part.address + (first - part.first) * PAGE;
            self.pour(begins, begins + count * PAGE, content)?;
        }
        Ok(match self.threads {
            Threads::Stand(stopped, _) => Found::at_once(stopped.end()),
            Threads::Run(paused_nanoseconds) => Found { consistency: Consistency::Torn, paused_nanoseconds },
        })
    }

    /// All from one address to behind another, while there is time.
    fn pour(&self, mut at: u64, end: u64, content: &mut Content) -> Result<(), Failure> {
        while at < end {
            let length = STEP.min(end - at);
            match &self.threads {
                Threads::Stand(stopped, most) if stopped.stood() >= *most => {
                    let most = most.as_millis();
                    return Err(Failure::Impossible(format!("the guest would stand still for longer than {most} ms")));
                }
                Threads::Stand(..) => content.push(&self.memory.read(at, length)?)?,
                Threads::Run(_) => self.pour_what_is_there(at, length, content)?,
            }
            at += length;
        }
        Ok(())
    }

    /// What runs may have given a page back by now, which reads as zeros then, as one does that it never had.
    fn pour_what_is_there(&self, at: u64, length: u64, content: &mut Content) -> Result<(), Failure> {
        if let Ok(octets) = self.memory.read(at, length) {
            return content.push(&octets);
        }
        for page in (at..at + length).step_by(PAGE as usize) {
            let octets = self.memory.read(page, PAGE);
            content.push(&octets.unwrap_or_else(|_| vec![0; PAGE as usize]))?;
        }
        Ok(())
    }
}

/// Where the mappings are, their pages numbered one mapping behind the other; and which of those pages it has for itself.
fn lay_out(memory: &ProcessMemory) -> Result<(Vec<Part>, Vec<u64>), Failure> {
    let (mut parts, mut occupied, mut next) = (Vec::new(), Vec::new(), 0_u64);
    for mapping in memory.own() {
        let pages = memory.pages(mapping)?;
        // What cannot be read at all, such as memory that the kernel hides, is left out.
        let readable = pages.iter().position(|page| *page).map(|at| mapping.first + at as u64 * PAGE);
        let is_readable = readable.is_some_and(|address| memory.read(address, 1).is_ok());
        let first = next;
        for page in &pages {
            let (word, bit) = ((next / 64) as usize, next % 64);
            occupied.resize(word + 1, 0_u64);
            occupied[word] |= u64::from(*page && is_readable) << bit;
            next += 1;
        }
        parts.push(Part { address: mapping.first, first, pages: pages.len() as u64 });
    }
    Ok((parts, occupied))
}
