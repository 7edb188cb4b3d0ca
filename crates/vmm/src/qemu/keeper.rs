//! The watch over one VM from its start (or its adoption) to its end.
//!
//! Owns the task that hears QEMU's events and the end of its process, and tells the agent what concerns it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lucarne_model::InstanceId;
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{
    driver::{EndOfMachine, MachineEvent},
    process::Process,
    qmp::{Event, Qmp},
    record::Directory,
    ring,
};

/// How long a guest whose disk had no space is left stopped before it may try again.
const SPACE_RETRY: Duration = Duration::from_secs(5);
/// How much of what QEMU said goes into an event.
const SAID: usize = 2000;

/// A handle to the watch; dropping it ends the watch, not the VM.
#[derive(Debug)]
pub(super) struct Keeper {
    asked: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
    task: AbortHandle,
}

/// What a keeper watches.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) instance: InstanceId,
    pub(super) generation: u64,
    pub(super) directory: Directory,
    pub(super) process: Process,
    pub(super) qmp: Qmp,
}

impl Keeper {
    /// Watches from the first of `news` on; what matters of it is sent to `events`.
    pub(super) fn new(watched: Watched, news: broadcast::Receiver<Event>, events: mpsc::Sender<MachineEvent>) -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        let (end, ended) = watch::channel(false);
        let asked_too = asked.clone();
        let task = tokio::spawn(async move {
            let why = watched.until_end(news, &events).await;
            let _ = end.send(true);
            if !asked_too.load(Ordering::Acquire) {
                let Watched { instance, generation, .. } = watched;
                let _ = events.send(MachineEvent::Ended { instance, generation, why }).await;
            }
        });
        Self { asked, ended, task: task.abort_handle() }
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// From now on the VM's end is no news.
    pub(super) fn end_is_asked_for(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Waits for the end of the VM's process.
    pub(super) async fn ended(&self) {
        // An error means that the keeper is gone, and it goes last.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    async fn until_end(
        &self,
        mut news: broadcast::Receiver<Event>,
        events: &mpsc::Sender<MachineEvent>,
    ) -> EndOfMachine {
        let mut told = None;
        let how = loop {
            tokio::select! {
                how = self.process.ended() => break how,
                Some(event) = next(&mut news) => told = self.take(event, events).await.or(told),
            }
        };
        // QEMU's last words may still be on their way.
        let rest = async {
            while let Some(event) = next(&mut news).await {
                told = self.take(event, events).await.or(told.take());
            }
        };
        let _ = timeout(Duration::from_secs(1), rest).await;
        told.unwrap_or_else(|| EndOfMachine::Died { said: last_words(&self.directory, how) })
    }

    /// How the machine ends, if the event says that it does so in order. An end that the agent asked for is not told of.
    async fn take(&self, event: Event, events: &mpsc::Sender<MachineEvent>) -> Option<EndOfMachine> {
        let by_guest = event.data["guest"] == Value::Bool(true);
        match event.name.as_str() {
            "SHUTDOWN" if by_guest && event.data["reason"] == "guest-shutdown" => {
                return Some(EndOfMachine::GuestShutdown);
            }
            // Nobody but the agent and a sealed operation talks to it.
            "SHUTDOWN" if event.data["reason"] == "host-qmp-quit" => return Some(EndOfMachine::SwitchedOff),
            "RESET" if by_guest => {
                let _ = events.send(MachineEvent::Reset { instance: self.instance }).await;
            }
            "BLOCK_IO_ERROR" if event.data["action"] == "stop" => {
                tracing::warn!(instance = %self.instance, "a disk of it has no space; it waits for some");
                resume_later(self.qmp.clone());
            }
            _ => {}
        }
        None
    }
}

/// QEMU stops a guest whose write found no space; the write is repeated when it goes on, and nothing is lost.
pub(super) fn resume_later(qmp: Qmp) {
    tokio::spawn(async move {
        sleep(SPACE_RETRY).await;
        // If this fails, QEMU has ended.
        let _ = qmp.execute("cont", json!({}), SPACE_RETRY).await;
    });
}

/// What QEMU said last, and how its process ended if that is known.
pub(super) fn last_words(directory: &Directory, how: Option<String>) -> String {
    let said = ring::contents(&directory.said()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(SAID)..]).trim().to_owned();
    let parts = [Some(said).filter(|said| !said.is_empty()), how];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The next event; none when the connection has ended.
async fn next(news: &mut broadcast::Receiver<Event>) -> Option<Event> {
    loop {
        match news.recv().await {
            Ok(event) => return Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}
