//! The VMs that an earlier agent left running, found and taken over.
//!
//! Owns telling them apart: what runs is adopted, what was started only by half is ended.
//!
//! They are looked for among the processes and not in files of process ids: an agent killed between starting a process
//! and writing its id would leave one that nobody knows, and a number that was written down may be another's by now.

use lucarne_model::InstanceId;
use serde_json::json;

use super::{Shared, command_line, keeper::resume_later, locked, vm::Vm};
use crate::{
    driver::Machine,
    error::Error,
    process::{self, Process},
    record::Record,
};
use std::sync::Arc;

/// Takes over every VM of this state directory; see [`crate::driver::Driver::adopt`].
pub(super) async fn adopt(shared: &Shared) -> Result<Vec<Machine>, Error> {
    let ours = |arguments: &[String]| command_line::instance_of(arguments, &shared.instances);
    let found = process::find(ours).map_err(|error| Error::file("read", "/proc", error))?;
    let taken = found.into_iter().map(|(pid, instance)| take(shared, pid, instance));
    Ok(futures::future::join_all(taken).await.into_iter().flatten().collect())
}

/// None when it has ended meanwhile, or had to be.
async fn take(shared: &Shared, pid: u32, instance: InstanceId) -> Option<Machine> {
    let slot = shared.slot(instance);
    let _turn = slot.turn.lock().await;
    if let Some(vm) = slot.running() {
        return machine(&vm).await;
    }
    let process = Process::adopt(pid).ok()?;
    // From here on `process` is this one for good; between the look and this line the number could have changed hands.
    if command_line::instance_of(&process.arguments(), &shared.instances) != Some(instance) {
        return None;
    }
    match take_over(shared, instance, process.clone()).await {
        Ok(vm) => {
            let machine = machine(&vm).await;
            *locked(&slot.vm) = Some(Arc::new(vm));
            machine
        }
        Err(error) => {
            tracing::warn!(%instance, %error, "a VM of an earlier agent cannot be adopted and is ended");
            process.kill();
            process.ended().await;
            None
        }
    }
}

async fn take_over(shared: &Shared, instance: InstanceId, process: Process) -> Result<Vm, Error> {
    let directory = shared.directory(instance);
    let record = Record::read(&directory)?;
    let step = "looking at its state";
    if record.coming {
        let reason = "another host was bringing it".into();
        return Err(Error::Refused { instance, step, reason });
    }
    let vm = Vm::connect(record, directory, process, shared).await?;
    let state = vm.ask(step, "query-status", json!({})).await?;
    let is_measured = vm.measured().is_some();
    match state["status"].as_str().unwrap_or_default() {
        "running" => vm.note_release()?,
        // It was to be held, and its start was cut short before what it was measured as was written down.
        other if vm.is_to_be_held() && !is_measured => {
            return Err(Error::Refused {
                instance,
                step,
                reason: format!("its state is {other}, and it was not measured"),
            });
        }
        // It was being sent when its agent ended: the other host was not told that it has all of it, and gives it up.
        "finish-migrate" => vm.stay().await,
        // The same, and what was written to it was not seen yet.
        "paused" if vm.is_being_sent().await? => vm.stay().await,
        "io-error" => resume_later(vm.qmp().clone()),
        // It sleeps by its agent's wish.
        "paused" | "postmigrate" if vm.is_whole().await? => {}
        // Held, and all that it was measured as is written down.
        "prelaunch" if is_measured => {}
        "inmigrate" if vm.await_load().await? && vm.is_whole().await? => {}
        // Its processors never ran: the agent was killed before it could say that the VM is started.
        other => return Err(Error::Refused { instance, step, reason: format!("its state is {other}") }),
    }
    vm.settle_disks().await?;
    Ok(vm)
}

/// None when it has just ended.
async fn machine(vm: &Vm) -> Option<Machine> {
    let measured = vm.measured().map(|measured| measured.measurements);
    let held = vm.is_held().await.ok()?;
    Some(Machine { spec: vm.spec(), disks: vm.disks(), measured, held })
}
