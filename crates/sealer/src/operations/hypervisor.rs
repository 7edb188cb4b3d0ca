//! `hypervisor.memory.read`, `hypervisor.registers`, `hypervisor.patch`, `hypervisor.set`.
//!
//! Owns that a patch is made only of what was expected, while no thread stands in it, and all of it or nothing.

use std::collections::BTreeMap;

use lucarne_seal::operation::{HypervisorPatch, HypervisorSet};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    monitor::Monitor,
    order::{Failure, Machine},
    process_memory::ProcessMemory,
    threads::StoppedThreads,
    undo::{Place, Undo},
};

const STOPPING: &str = "stop the threads of the machine's process";
const SETTING: &str = "set the property";
/// How often a thread may be found in the code that is to be replaced.
const TRIES: usize = 20;

#[derive(Clone, Debug, Serialize)]
pub(super) struct Thread {
    id: i32,
    registers: BTreeMap<&'static str, String>,
}

/// The registers of threads that stand, and for how many nanoseconds they stood.
pub(super) fn registers(stopped: StoppedThreads) -> Result<(Vec<Thread>, u64), Failure> {
    let of = |id| -> Result<Thread, Failure> {
        let registers = stopped.registers(id).map_err(Failure::broken("read registers"))?;
        Ok(Thread { id, registers: registers.into_iter().map(|(name, value)| (name, format!("{value:#x}"))).collect() })
    };
    let threads = stopped.iter().map(of).collect::<Result<_, _>>()?;
    Ok((threads, stopped.end()))
}

/// What was replaced in the machine's process.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Patched {
    /// In microseconds since 1970; none: it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverts_at: Option<u64>,
}

pub(super) fn patch(
    patch: &HypervisorPatch,
    machine: &Machine,
    memory: &ProcessMemory,
    monitor: &mut Monitor,
) -> Result<(Patched, u64, Option<Undo>), Failure> {
    let octets = (patch.change.expected(), patch.change.replacement());
    let undo = match patch.revert_after_seconds.get() {
        0 => None,
        seconds => Some(Undo::keep(Place::Process(patch.address.0), octets, (seconds, monitor))?),
    };
    let made = replace(patch.address.0, octets, machine, memory);
    if let (Err(_), Some(undo)) = (&made, &undo) {
        undo.forget(monitor)?;
    }
    Ok((Patched { reverts_at: undo.as_ref().map(Undo::due) }, made?, undo))
}

/// Replaces what is expected, and returns for how many nanoseconds the process stood for that.
pub(crate) fn replace(
    address: u64,
    (expected, replacement): (&[u8], &[u8]),
    machine: &Machine,
    memory: &ProcessMemory,
) -> Result<u64, Failure> {
    let stopped = stop_outside(machine, address, expected.len() as u64)?;
    if memory.read(address, expected.len() as u64)? != expected {
        return Err(Failure::impossible("what is there is not what is expected"));
    }
    let written = memory.write(address, replacement);
    if written.is_err() || memory.read(address, replacement.len() as u64)? != replacement {
        memory.write(address, expected)?;
        return written.and(Err(Failure::impossible("the memory did not take what was written, and is as it was")));
    }
    Ok(stopped.end())
}

/// The process with no thread between these addresses.
fn stop_outside(machine: &Machine, address: u64, length: u64) -> Result<StoppedThreads, Failure> {
    for _ in 0..TRIES {
        let stopped = StoppedThreads::of(machine.process).map_err(Failure::broken(STOPPING))?;
        let mut within = false;
        for thread in stopped.iter() {
            let registers = stopped.registers(thread).map_err(Failure::broken("read registers"))?;
            within |= registers["rip"].wrapping_sub(address) < length;
        }
        if !within {
            return Ok(stopped);
        }
    }
    Err(Failure::impossible("a thread of the machine's process is always in what is to be replaced"))
}

/// What the property was, and what it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Set {
    before: Value,
    after: Value,
}

pub(super) fn set(set: &HypervisorSet, monitor: &mut Monitor) -> Result<Set, Failure> {
    let property = json!({ "path": set.device.as_str(), "property": set.property.as_str() });
    let before = monitor.ask(SETTING, "qom-get", property.clone())?;
    let wanted = like(&before, set.value.as_str())
        .ok_or_else(|| Failure::impossible("the property is not of the kind of that value"))?;
    let mut change = property.clone();
    change["value"] = wanted.clone();
    monitor.ask(SETTING, "qom-set", change)?;
    let after = monitor.ask(SETTING, "qom-get", property)?;
    match after == wanted {
        true => Ok(Set { before, after }),
        false => Err(Failure::impossible("the property did not take the value")),
    }
}

/// The text as a value of the kind that the property has.
fn like(before: &Value, text: &str) -> Option<Value> {
    match before {
        Value::Bool(_) => text.parse().ok().map(Value::Bool),
        Value::Number(_) => text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from)).ok(),
        Value::String(_) => Some(Value::from(text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_of_the_kind_that_the_property_has() {
        assert_eq!(like(&json!(true), "false"), Some(json!(false)));
        assert_eq!(like(&json!(1), "18446744073709551615"), Some(json!(u64::MAX)));
        assert_eq!(like(&json!("x"), "7"), Some(json!("7")));
        for (before, text) in [(json!(true), "1"), (json!(1), "many"), (json!({}), "x"), (json!(null), "x")] {
            assert_eq!(like(&before, text), None, "{before}");
        }
    }
}
