//! A guest whose processors stand still: for the time of one operation, or until it is resumed.
//!
//! Owns the mark beside the machine that says who wished that. A guest that was stopped for an operation goes on when that is
//! over, also when the process that stopped it was killed: then whoever finds the mark lets it go on. A guest without a mark
//! that stands still does so by somebody else's wish (it sleeps, is held before its first instruction, is being moved), and
//! nobody here lets it go on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    monitor::Monitor,
    order::{Failure, Machine},
};

const LOOKING: &str = "look at the guest's state";
const STOPPING: &str = "stop the guest's processors";
const GOING_ON: &str = "let the guest go on";
const MARKING: &str = "write down that the guest stands still";

/// The content of the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    /// Of another start of the instance it means nothing.
    generation: u64,
    /// Until it is resumed, and not for one operation.
    lasting: bool,
}

impl Mark {
    fn path(machine: &Machine) -> PathBuf {
        directory(machine).join("standstill.json")
    }

    /// The mark of this start, if there is one.
    fn read(machine: &Machine) -> Option<Self> {
        let mark: Self = serde_json::from_slice(&fs::read(Self::path(machine)).ok()?).ok()?;
        (mark.generation == machine.generation).then_some(mark)
    }

    /// Not brought to the disk: it has to outlive processes, and the guest ends with the host.
    fn write(self, machine: &Machine) -> io::Result<()> {
        let draft = directory(machine).join("standstill.new");
        fs::write(&draft, serde_json::to_vec(&self)?)?;
        fs::rename(draft, Self::path(machine))
    }

    fn remove(machine: &Machine) -> io::Result<()> {
        match fs::remove_file(Self::path(machine)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The folder of the machine, in which the agent keeps what it knows of it.
pub(crate) fn directory(machine: &Machine) -> &Path {
    machine.console.parent().unwrap_or(Path::new("/nonexistent"))
}

/// How a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runs,
    /// Its memory changes only by us.
    Stands,
}

fn state(monitor: &mut Monitor) -> Result<State, Failure> {
    let status = monitor.ask(LOOKING, "query-status", json!({}))?;
    match status["status"].as_str().unwrap_or_default() {
        "running" => Ok(State::Runs),
        "paused" | "prelaunch" | "postmigrate" | "suspended" | "shutdown" | "guest-panicked" | "internal-error"
        | "watchdog" | "debug" => Ok(State::Stands),
        other => Err(Failure::Impossible(format!("the machine is busy with something else: its state is {other}"))),
    }
}

/// A machine that is being moved or saved, or waits for its disk, is left alone.
pub(crate) fn refuse_if_busy(monitor: &mut Monitor) -> Result<(), Failure> {
    state(monitor).map(drop)
}

/// A guest that stands still for as long as this is there.
#[derive(Debug)]
pub(crate) struct Standstill<'a> {
    pub(crate) monitor: &'a mut Monitor,
    machine: &'a Machine,
    /// Since when, if it ran before.
    since: Option<Instant>,
}

impl<'a> Standstill<'a> {
    pub(crate) fn begin(monitor: &'a mut Monitor, machine: &'a Machine) -> Result<Self, Failure> {
        if state(monitor)? == State::Stands {
            return Ok(Self { monitor, machine, since: None });
        }
        // Before it stands: a process that is killed in between leaves a mark and a guest that runs.
        let mark = Mark { generation: machine.generation, lasting: false };
        mark.write(machine).map_err(Failure::broken(MARKING))?;
        let standstill = Self { monitor, machine, since: Some(Instant::now()) };
        standstill.monitor.ask(STOPPING, "stop", json!({}))?;
        Ok(standstill)
    }

    /// For how long it has stood because of this.
    pub(crate) fn stood(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Lets it go on, and returns for how many nanoseconds it stood.
    pub(crate) fn end(mut self) -> Result<u64, Failure> {
        match self.since.take() {
            None => Ok(0),
            Some(since) => {
                let_go_on(self.monitor, self.machine)?;
                Ok(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        if self.since.take().is_some() {
            // If it fails the mark is still there, and the agent does it.
            let _ = let_go_on(self.monitor, self.machine);
        }
    }
}

/// Whether a process that is gone may have left the guest standing still.
pub(crate) fn is_left_behind(machine: &Machine) -> bool {
    Mark::read(machine).is_some_and(|mark| !mark.lasting)
}

/// Ends a standstill.
pub(crate) fn let_go_on(monitor: &mut Monitor, machine: &Machine) -> Result<(), Failure> {
    monitor.ask(GOING_ON, "cont", json!({}))?;
    Mark::remove(machine).map_err(Failure::broken("forget that the guest stood still"))
}

/// Stops the guest's processors until they are resumed. Whether they ran before.
pub(crate) fn pause(monitor: &mut Monitor, machine: &Machine) -> Result<bool, Failure> {
    if state(monitor)? == State::Stands {
        return match Mark::read(machine) {
            Some(Mark { lasting: true, .. }) => Ok(false),
            _ => Err(Failure::impossible("the guest stands still by another wish than a request's")),
        };
    }
    let mark = Mark { generation: machine.generation, lasting: true };
    mark.write(machine).map_err(Failure::broken(MARKING))?;
    monitor.ask(STOPPING, "stop", json!({}))?;
    Ok(true)
}

/// Lets a guest go on that was paused. Whether it stood.
pub(crate) fn resume(monitor: &mut Monitor, machine: &Machine) -> Result<bool, Failure> {
    let stands = state(monitor)? == State::Stands;
    match Mark::read(machine) {
        _ if !stands => Mark::remove(machine).map_err(Failure::broken("forget that the guest stood still"))?,
        Some(_) => let_go_on(monitor, machine)?,
        None => return Err(Failure::impossible("the guest stands still by another wish than a request's")),
    }
    Ok(stands)
}
