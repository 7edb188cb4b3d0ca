//! The operations: what each reaches before the process is locked in, and what it does after that.
//!
//! Owns which code carries out which operation. Each has a file of its own subject below; the table of them, with arguments
//! and limits, is [`lucarne_seal::operation`].

mod health;
mod memory;
pub(crate) mod patch;
mod power;
mod registers;

use std::fs::File;

use lucarne_seal::{
    operation::{Operation, OperationName},
    receipt::Consistency,
    request::RequestId,
};
use serde::Serialize;

use self::health::Health;
use crate::{
    confinement::Needs,
    content::Content,
    guest_memory::Passage,
    monitor::Monitor,
    order::{Done, Failure, Machine, Order},
    standstill,
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
    /// And a pipe into which the machine writes its guest's memory.
    Memory(Monitor, Passage),
    Host,
}

/// What an operation found, besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    consistency: Consistency,
    paused_nanoseconds: u64,
}

impl Found {
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
        match &order.operation {
            Operation::HostHealth(_) => Ok(Self { way: Way::Host, needs: health::needs() }),
            operation => {
                let machine = machine(order)?;
                let mut monitor = Monitor::connect(&machine.monitor)?;
                let marks = Some(standstill::directory(machine).to_owned());
                let way = match operation {
                    Operation::GuestMemoryRead(_) | Operation::GuestMemoryWrite(_) => {
                        let passage = Passage::open(&mut monitor, machine.process)?;
                        Way::Memory(monitor, passage)
                    }
                    _ => Way::Machine(monitor),
                };
                // What is to be undone needs the machine once more.
                let connects =
                    matches!(operation, Operation::GuestMemoryWrite(write) if write.revert_after_seconds.get() > 0);
                Ok(Self { way, needs: Needs { marks, connects, ..Needs::default() } })
            }
        }
    }

    pub(crate) const fn needs(&self) -> &Needs {
        &self.needs
    }

    /// What is to be undone later is the process's to wait for.
    pub(crate) fn carry_out(self, order: &Order, out: File) -> Result<(Done, Option<Undo>), Failure> {
        let mut content = Content::begin(&order.terms, out)?;
        let mut undo = None;
        let found = match (&order.operation, self.way) {
            (Operation::HostHealth(_), Way::Host) => {
                document(order, &mut content, &Health::now()?)?;
                Found { consistency: Consistency::Torn, paused_nanoseconds: 0 }
            }
            (Operation::GuestMemoryRead(read), Way::Memory(monitor, passage)) => {
                memory::read(read, machine(order)?, (monitor, passage), &mut content)?
            }
            (Operation::GuestMemoryWrite(write), Way::Memory(mut monitor, mut passage)) => {
                let (patched, found, later) = patch::write(write, machine(order)?, &mut monitor, &mut passage)?;
                undo = later;
                passage.close(&mut monitor)?;
                document(order, &mut content, &patched)?;
                found
            }
            (Operation::GuestRegisters(_), Way::Machine(monitor)) => {
                let (registers, paused) = registers::read(monitor, machine(order)?)?;
                document(order, &mut content, &registers)?;
                Found::at_once(paused)
            }
            (operation, Way::Machine(mut monitor)) => {
                document(order, &mut content, &power::switch(operation, &mut monitor, machine(order)?)?)?;
                Found::at_once(0)
            }
            (operation, _) => {
                return Err(Failure::Impossible(format!("this host does not carry out {}", operation.name())));
            }
        };
        content.finish(order.operation.name().format())?;
        let Found { consistency, paused_nanoseconds } = found;
        Ok((Done { consistency, paused_nanoseconds }, undo))
    }
}

fn machine(order: &Order) -> Result<&Machine, Failure> {
    order.machine.as_ref().ok_or_else(|| Failure::impossible("the order names no machine"))
}

fn document<T: Serialize>(order: &Order, content: &mut Content, result: &T) -> Result<(), Failure> {
    let document = Document { request: &order.request, operation: order.operation.name(), result };
    let text = serde_json::to_vec(&document).map_err(|error| Failure::broken("write the result")(error.into()))?;
    content.push(&text)
}
