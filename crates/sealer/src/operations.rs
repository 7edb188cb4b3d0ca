//! The operations: what each reaches before the process is locked in, and what it does after that.
//!
//! Owns which code carries out which operation. Each has a file of its own subject below; the table of them, with arguments
//! and limits, is [`lucarne_seal::operation`].

mod dump;
mod health;
pub(crate) mod hypervisor;
mod kernel;
mod memory;
pub(crate) mod patch;
mod power;
mod process_dump;
mod registers;
mod sample;
mod show;

use std::{fs::File, io::Read};

use lucarne_seal::{
    operation::{Operation, OperationName},
    receipt::Consistency,
    request::RequestId,
};
use serde::Serialize;

use self::{dump::Dump, health::Health, process_dump::ProcessDump};
use crate::{
    confinement::Needs,
    content::Content,
    guest_memory::Passage,
    monitor::Monitor,
    order::{Done, Failure, Machine, Order},
    process_memory::ProcessMemory,
    standstill,
    threads::StoppedThreads,
    undo::Undo,
};

/// What was opened while the process still could.
#[derive(Debug)]
pub(crate) struct Reached {
    way: Way,
    needs: Needs,
}

#[derive(Debug)]
enum Way {
    Machine(Monitor),
    /// And a pipe into which the machine writes its guest's memory, or a picture.
    Memory(Monitor, Passage),
    Process(Monitor, ProcessMemory),
    /// The machine's process, whose threads stand.
    Threads(StoppedThreads),
    Console,
    Dump(Box<Dump>),
    ProcessDump(Box<ProcessDump>),
    Host,
}

/// What an operation found, besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    consistency: Consistency,
    paused_nanoseconds: u64,
}

impl Found {
    /// Read while it changed.
    const fn while_it_runs() -> Self {
        Self { consistency: Consistency::Torn, paused_nanoseconds: 0 }
    }
    const fn at_once(paused_nanoseconds: u64) -> Self {
        Self { consistency: Consistency::Instant, paused_nanoseconds }
    }
}

/// A result in JSON says itself which request it is of; of others the receipt says it.
#[derive(Serialize)]
struct Document<'a, T> {
    request: &'a RequestId,
    operation: OperationName,
    result: T,
}

impl Reached {
    pub(crate) fn open(order: &Order) -> Result<Self, Failure> {
        let host = |needs| Ok(Self { way: Way::Host, needs });
        match &order.operation {
            Operation::HostHealth(_) => host(health::needs()),
            Operation::HostKernelRead(_) => host(kernel::needs()),
            Operation::HostSample(_) => host(sample::needs()),
            Operation::HostFlows(_) | Operation::GuestStart(_) => host(Needs::default()),
            operation => Self::open_machine(operation, machine(order)?),
        }
    }

    fn open_machine(operation: &Operation, machine: &Machine) -> Result<Self, Failure> {
        let mut needs = Needs::default();
        let way = match operation {
            Operation::GuestConsole(_) => {
                needs.reads.push(machine.console.clone());
                Way::Console
            }
            Operation::HypervisorRegisters(_) => {
                let stopped = StoppedThreads::of(machine.process);
                Way::Threads(stopped.map_err(Failure::broken("stop the threads of the machine's process"))?)
            }
            Operation::GuestMemoryDump(_) => {
                needs.marks = Some(standstill::directory(machine).to_owned());
                Way::Dump(Box::new(Dump::reach(machine)?))
            }
            Operation::HypervisorMemoryDump(asked) => Way::ProcessDump(Box::new(ProcessDump::reach(asked, machine)?)),
            operation => {
                let mut monitor = Monitor::connect(&machine.monitor)?;
                needs.marks = Some(standstill::directory(machine).to_owned());
                // What is to be undone needs the machine once more.
                needs.connects = reverts(operation);
                match operation {
                    Operation::GuestMemoryRead(_) | Operation::GuestMemoryWrite(_) | Operation::GuestScreenshot(_) => {
                        let passage = Passage::open(&mut monitor, machine.process)?;
                        Way::Memory(monitor, passage)
                    }
                    Operation::HypervisorMemoryRead(_) | Operation::HypervisorPatch(_) => {
                        needs.inspects = operation.name() == OperationName::HypervisorPatch;
                        let memory = ProcessMemory::open(machine.process, needs.inspects, &mut monitor)?;
                        Way::Process(monitor, memory)
                    }
                    _ => Way::Machine(monitor),
                }
            }
        };
        Ok(Self { way, needs })
    }

    pub(crate) const fn needs(&self) -> &Needs {
        &self.needs
    }

    /// What is to be undone later is the process's to wait for.
    /// `given` is what the agent has for it.
    pub(crate) fn carry_out(
        self,
        order: &Order,
        given: &mut dyn Read,
        out: File,
    ) -> Result<(Done, Option<Undo>), Failure> {
        let mut content = Content::begin(&order.terms, out)?;
        let (found, undo) = match self.way {
            Way::Host => (on_host(order, given, &mut content)?, None),
            Way::Console => {
                if let Operation::GuestConsole(console) = &order.operation {
                    show::console(console, machine(order)?, &mut content)?;
                }
                (Found::while_it_runs(), None)
            }
            Way::Threads(stopped) => {
                let (threads, paused) = hypervisor::registers(stopped)?;
                document(order, &mut content, &threads)?;
                (Found::at_once(paused), None)
            }
            Way::Dump(dump) => (dump.carry_out(order, machine(order)?, &mut content)?, None),
            Way::ProcessDump(dump) => (dump.carry_out(order, machine(order)?, &mut content)?, None),
            Way::Machine(monitor) => (on_machine(order, monitor, &mut content)?, None),
            Way::Memory(monitor, passage) => in_memory(order, (monitor, passage), &mut content)?,
            Way::Process(monitor, memory) => in_process(order, (monitor, memory), &mut content)?,
        };
        content.finish(order.operation.name().format())?;
        let Found { consistency, paused_nanoseconds } = found;
        Ok((Done { consistency, paused_nanoseconds }, undo))
    }
}

fn on_host(order: &Order, given: &mut dyn Read, content: &mut Content) -> Result<Found, Failure> {
    match &order.operation {
        Operation::HostHealth(_) => document(order, content, &Health::now()?)?,
        Operation::HostSample(sample) => document(order, content, &sample::take(sample)?)?,
        Operation::HostKernelRead(read) => content.push(&kernel::read(read)?)?,
        Operation::HostFlows(_) => given_document(order, given, content)?,
        Operation::GuestStart(_) => {
            given_document(order, given, content)?;
            return Ok(Found::at_once(0));
        }
        other => return Err(not_carried_out(other.name())),
    }
    Ok(Found::while_it_runs())
}

fn on_machine(order: &Order, mut monitor: Monitor, content: &mut Content) -> Result<Found, Failure> {
    let machine = machine(order)?;
    match &order.operation {
        Operation::GuestRegisters(_) => {
            let (registers, paused) = registers::read(monitor, machine)?;
            document(order, content, &registers)?;
            Ok(Found::at_once(paused))
        }
        Operation::HypervisorSet(set) => {
            document(order, content, &hypervisor::set(set, &mut monitor)?)?;
            Ok(Found::at_once(0))
        }
        operation => {
            document(order, content, &power::switch(operation, &mut monitor, machine)?)?;
            Ok(Found::at_once(0))
        }
    }
}

fn in_memory(
    order: &Order,
    (mut monitor, mut passage): (Monitor, Passage),
    content: &mut Content,
) -> Result<(Found, Option<Undo>), Failure> {
    let found = match &order.operation {
        Operation::GuestMemoryRead(read) => {
            (memory::read(read, machine(order)?, (&mut monitor, &mut passage), content)?, None)
        }
        Operation::GuestMemoryWrite(write) => {
            let (patched, found, undo) = patch::write(write, machine(order)?, &mut monitor, &mut passage)?;
            document(order, content, &patched)?;
            (found, undo)
        }
        _ => {
            show::screenshot(&mut monitor, &mut passage, content)?;
            (Found::while_it_runs(), None)
        }
    };
    passage.close(&mut monitor)?;
    Ok(found)
}

fn in_process(
    order: &Order,
    (mut monitor, memory): (Monitor, ProcessMemory),
    content: &mut Content,
) -> Result<(Found, Option<Undo>), Failure> {
    match &order.operation {
        Operation::HypervisorMemoryRead(read) => {
            content.push(&memory.read(read.address.0, read.length.get())?)?;
            Ok((Found::while_it_runs(), None))
        }
        Operation::HypervisorPatch(patch) => {
            let (patched, paused, undo) = hypervisor::patch(patch, machine(order)?, &memory, &mut monitor)?;
            document(order, content, &patched)?;
            Ok((Found::at_once(paused), undo))
        }
        other => Err(not_carried_out(other.name())),
    }
}

/// Whether it is to be undone later.
const fn reverts(operation: &Operation) -> bool {
    match operation {
        Operation::GuestMemoryWrite(write) => write.revert_after_seconds.get() > 0,
        Operation::HypervisorPatch(patch) => patch.revert_after_seconds.get() > 0,
        _ => false,
    }
}

fn not_carried_out(operation: OperationName) -> Failure {
    Failure::Impossible(format!("this host does not carry out {operation}"))
}

fn machine(order: &Order) -> Result<&Machine, Failure> {
    order.machine.as_ref().ok_or_else(|| Failure::impossible("the order names no machine"))
}

fn document<T: Serialize>(order: &Order, content: &mut Content, result: &T) -> Result<(), Failure> {
    content.push(&written(order, result)?)
}

fn written<T: Serialize>(order: &Order, result: &T) -> Result<Vec<u8>, Failure> {
    let document = Document { request: &order.request, operation: order.operation.name(), result };
    serde_json::to_vec(&document).map_err(|error| Failure::broken("write the result")(error.into()))
}

/// A document of which the result is what the agent gave, which is JSON already.
fn given_document(order: &Order, given: &mut dyn Read, content: &mut Content) -> Result<(), Failure> {
    const NOTHING: &[u8] = b"null}";
    let around = written(order, &())?;
    content.push(around.strip_suffix(NOTHING).unwrap_or(&around))?;
    let mut part = vec![0; 64 << 10];
    loop {
        match given.read(&mut part).map_err(Failure::broken("take what the agent has"))? {
            0 => return content.push(b"}"),
            read => content.push(part.get(..read).unwrap_or_default())?,
        }
    }
}
