//! The agent's side: a sealing process started, told its order, waited for, and ended when it takes too long.
//!
//! Owns the process and what is left behind by one that was killed. It never sees what an operation finds: the file that the
//! ciphertext goes to is the process's standard output.

use std::{
    fs::File,
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use lucarne_seal::operation::Operation;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
    sync::oneshot,
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    monitor::Monitor,
    order::{Done, Failure, Machine, Order, Task, Told},
    standstill,
};

/// How long an operation may take that does not say itself how long it takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// A dump goes as fast as whoever takes it in; for longer no pager holds what was captured.
const DUMP_PATIENCE: Duration = Duration::from_secs(lucarne_pager::capture::LONGEST as u64);
/// The longest answer of the process.
const LONGEST_ANSWER: u64 = 64 << 10;

/// What is started to carry an order out.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

impl Program {
    /// This program itself, as `lucarne sealer`: the one that runs, also if another was installed since.
    pub fn own() -> Self {
        Self { path: "/proc/self/exe".into(), arguments: vec!["sealer".to_owned()] }
    }
}

/// Carries an order out in a process of its own, whose age file goes to `out`; without [`Done`] what is there is not whole.
/// Dropping the future ends the process.
pub async fn carry_out(order: Order, out: File) -> Result<Done, Failure> {
    carry_out_by(Program::own(), order, out).await
}

/// The same with another program; see [`carry_out`].
pub async fn carry_out_by(program: Program, order: Order, out: File) -> Result<Done, Failure> {
    let (wanted, given_up) = oneshot::channel();
    // In a task of its own: one that is given up still waits for its end, and mends what it left.
    let task = tokio::spawn(supervise(program, order, out, given_up));
    let outcome = task.await;
    drop::<oneshot::Sender<()>>(wanted);
    outcome.map_err(|error| Failure::Broken { doing: "wait for the sealing process", cause: error.to_string() })?
}

/// Mends what sealing processes that were killed have left of this machine: a guest that one held lets go on, and what one
/// was to undo is undone in its time. To be called for machines that an earlier agent left.
pub async fn recover(machine: Machine) -> Result<(), Failure> {
    recover_by(Program::own(), machine).await
}

/// The same with another program; see [`recover`].
pub async fn recover_by(program: Program, machine: Machine) -> Result<(), Failure> {
    let left = machine.clone();
    let mended = spawn_blocking(move || mend_standstill(&left)).await;
    mended.map_err(|error| Failure::broken("mend the machine")(error.into()))??;
    // Each takes one up; the last finds nothing.
    while take_up_undo(program.clone(), machine.clone()).await? {}
    Ok(())
}

/// A guest that stands still for a process that is gone goes on.
fn mend_standstill(machine: &Machine) -> Result<(), Failure> {
    if !standstill::is_left_behind(machine) {
        return Ok(());
    }
    // One that is still at work has the monitor until it is done, and then there is nothing to mend.
    let mut monitor = Monitor::connect(&machine.monitor)?;
    if standstill::is_left_behind(machine) { standstill::let_go_on(&mut monitor, machine) } else { Ok(()) }
}

/// Whether there was something to undo that nobody waited for.
async fn take_up_undo(program: Program, machine: Machine) -> Result<bool, Failure> {
    let (link, theirs) = std::os::unix::net::UnixStream::pair().map_err(Failure::broken("make a socket"))?;
    let nowhere = File::options().write(true).open("/dev/null").map_err(Failure::broken("open /dev/null"))?;
    let child = start(program.clone(), theirs, nowhere).map_err(Failure::broken("start a sealing process"))?;
    match converse(link, &Task::Undo(machine.clone())).await {
        Ok(_) => {
            stay(child, program, machine);
            Ok(true)
        }
        Err(Failure::Impossible(_)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Waits for the end of a process that is to undo something; another takes its place if it is killed.
fn stay(mut child: Child, program: Program, machine: Machine) {
    tokio::spawn(async move {
        let instance = machine.instance;
        let ended = child.wait().await;
        if !ended.is_ok_and(|status| status.success())
            && let Err(error) = Box::pin(recover_by(program, machine)).await
        {
            tracing::warn!(%instance, %error, "a change of a guest was not undone");
        }
    });
}

async fn supervise(
    program: Program,
    order: Order,
    out: File,
    given_up: oneshot::Receiver<()>,
) -> Result<Done, Failure> {
    let (link, theirs) = std::os::unix::net::UnixStream::pair().map_err(Failure::broken("make a socket"))?;
    let mut child = start(program.clone(), theirs, out).map_err(Failure::broken("start a sealing process"))?;
    let limit = patience(&order.operation);
    let (machine, task) = (order.machine.clone(), Task::CarryOut(Box::new(order)));
    let outcome = tokio::select! {
        outcome = timeout(limit, converse(link, &task)) => {
            outcome.unwrap_or_else(|_| Err(Failure::impossible("it took too long, and was ended")))
        }
        _ = given_up => Err(Failure::impossible("it was given up")),
    };
    match (outcome, machine) {
        // It may have something to undo later.
        (Ok(done), Some(machine)) => {
            stay(child, program, machine);
            Ok(done)
        }
        (Ok(done), None) => child.wait().await.map(|_| done).map_err(Failure::broken("wait for the sealing process")),
        (Err(failure), machine) => {
            // It may have ended by itself.
            let _ = child.start_kill();
            let status = child.wait().await;
            if let Some(machine) = machine {
                mend(program, machine).await;
            }
            Err(explain(failure, status))
        }
    }
}

fn start(program: Program, link: std::os::unix::net::UnixStream, out: File) -> io::Result<Child> {
    let mut command = Command::new(program.path);
    // Nothing of the agent's environment is of use to it.
    command.args(program.arguments).env_clear().current_dir("/");
    // A Ctrl-C at the agent's terminal is not for it: what it is to undo has to be undone.
    command.process_group(0);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(link))).stdout(out);
    command.spawn()
}

async fn converse(link: std::os::unix::net::UnixStream, task: &Task) -> Result<Done, Failure> {
    let broken = || Failure::broken("talk to the sealing process");
    let told = serde_json::to_vec(task).map_err(io::Error::from).map_err(broken())?;
    let length = u32::try_from(told.len()).map_err(io::Error::other).map_err(broken())?;
    let given: &[u8] = if let Task::CarryOut(order) = task { &order.given } else { &[] };
    link.set_nonblocking(true).map_err(broken())?;
    let mut link = UnixStream::from_std(link).map_err(broken())?;
    link.write_all(&[&length.to_be_bytes()[..], &told].concat()).await.map_err(broken())?;
    // One that has answered already takes no more: what it answered counts.
    if link.write_all(given).await.is_ok() {
        link.shutdown().await.map_err(broken())?;
    }
    let mut answer = Vec::new();
    link.take(LONGEST_ANSWER).read_to_end(&mut answer).await.map_err(broken())?;
    match serde_json::from_slice::<Told>(&answer) {
        Ok(told) => told.into(),
        Err(_) => Err(Failure::Broken { doing: ENDED_EARLY, cause: "it ended before it was done".to_owned() }),
    }
}

const ENDED_EARLY: &str = "carry the order out";

fn explain(failure: Failure, status: io::Result<ExitStatus>) -> Failure {
    match (failure, status) {
        (Failure::Broken { doing: ENDED_EARLY, cause }, Ok(status)) if !status.success() => {
            Failure::Broken { doing: ENDED_EARLY, cause: format!("{cause} ({status})") }
        }
        (failure, _) => failure,
    }
}

async fn mend(program: Program, machine: Machine) {
    let instance = machine.instance;
    if let Err(error) = recover_by(program, machine).await {
        tracing::warn!(%instance, %error, "what a sealing process left of its machine could not be mended");
    }
}

fn patience(operation: &Operation) -> Duration {
    match operation {
        Operation::HostSample(sample) => PATIENCE + Duration::from_secs(sample.seconds.get()),
        Operation::GuestMemoryDump(_) | Operation::HypervisorMemoryDump(_) => DUMP_PATIENCE,
        _ => PATIENCE,
    }
}
