//! The shell of the switch: sockets, clock and one thread around the pure [`Switch`].
//!
//! Owns the thread's life and what may be asked of it ([`SwitchHandle`]). The thread's work is [`worker`]'s, the places
//! that frames and records go to are [`outlet`]'s. Everything that it holds has one owner, the thread; the outside sends
//! commands through a bounded queue and rings a [`Doorbell`], on which the thread sleeps together with its sockets.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime},
};

use lucarne_model::{AccountId, FlowRecord, HostId, InstanceId, Moment, ReplicaId, network::InterfaceCounters};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{
    FrameCounters, Plan, Switch,
    ports::unix::Owner,
    tunnel::{Tunnel, TunnelCounters, TunnelError},
};
pub use cuts::CutError;
use poller::{Doorbell, Poller};
pub use taps::{SeenFrame, Tap};
use worker::{Command, Worker};

mod cuts;
mod cutting;
mod outlet;
mod poller;
mod taps;
mod worker;

/// Records that may wait for the exporter. When it is slower for longer, records are lost and counted: frames never wait.
const RECORDS: usize = 1 << 16;
/// Commands that may wait for the thread; more wait in their senders.
const COMMANDS: usize = 16;

/// Marks that may wait for whoever listens; more are told when they are repeated.
const MARKS: usize = 16;

/// What the switch of one host needs to know before its first plan.
#[derive(Clone)]
pub struct Settings {
    pub host: HostId,
    /// Where the tunnel is bound. Port 0: the kernel chooses, see [`SwitchHandle::tunnel_address`].
    pub tunnel: SocketAddr,
    /// This host's static X25519 key.
    pub private_key: [u8; 32],
    /// Signs the tokens of the metadata service.
    pub metadata_key: [u8; 32],
    /// As whom guests' hypervisors run, where that is another than us: the ports' sockets are theirs.
    pub port_owner: Option<Owner>,
}

impl std::fmt::Debug for Settings {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("host", &self.host).field("tunnel", &self.tunnel).finish_non_exhaustive()
    }
}

/// Why the switch could not start or do what a plan says.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    #[error("the tunnel between hosts cannot be as asked")]
    Tunnel(#[source] TunnelError),
    #[error("the system gives no {what}")]
    System {
        what: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("the system gives no random numbers")]
    Random,
    #[error("the port's socket {path} cannot be bound")]
    Port {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the switch's thread has ended")]
    Ended,
}

/// What went through and what did not, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub frames: FrameCounters,
    pub tunnel: TunnelCounters,
    /// Everything that was not carried, by reason: that of the pipeline, of the tunnel, and of what guests did not take.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Records that the exporter was too slow for.
    pub records_lost: u64,
    pub live_flows: usize,
    /// Connections that are open, by the instance whose interface sees them.
    pub live_connections: BTreeMap<InstanceId, u32>,
    /// What the interfaces here counted, by their instances.
    pub interfaces: BTreeMap<InstanceId, InterfaceCounters>,
}

/// The running switch. When the handle is dropped the switch stops as by [`stop`](Self::stop), but nobody waits for it.
#[derive(Debug)]
pub struct SwitchHandle {
    // Dropped in this order: the thread finds the queue closed when the bell wakes it.
    commands: mpsc::Sender<Command>,
    bell: Doorbell,
    address: SocketAddr,
    records_lost: outlet::RecordsLost,
    /// Marks of cuts that the switch does not know.
    marks: Mutex<mpsc::Receiver<ReplicaId>>,
}

impl SwitchHandle {
    /// Starts the switch, without ports and peers. The receiver gets every flow record; it ends when the switch has.
    pub fn spawn(
        settings: Settings,
        switch: crate::Settings,
    ) -> Result<(Self, mpsc::Receiver<FlowRecord>), ShellError> {
        let [flow_seed, metadata_seed] = [random()?, random()?];
        let tunnel = Tunnel::bind(settings.tunnel, settings.private_key).map_err(ShellError::Tunnel)?;
        let address = tunnel.address().map_err(system("address of the tunnel's socket"))?;
        let bell = Doorbell::new().map_err(system("event descriptor"))?;
        let poller = Poller::new(&bell, &tunnel).map_err(system("poll descriptor"))?;
        let mtu = switch.mtu;
        let metadata = crate::metadata::Metadata::new(&settings.metadata_key, metadata_seed, mtu);
        let core = Switch::new(settings.host, switch, flow_seed);
        core.prefer_large_pages();
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (records, exported) = mpsc::channel(RECORDS);
        let records_lost = outlet::RecordsLost::default();
        let outlet = outlet::Outlet::new(tunnel, (records, records_lost.clone()), settings.port_owner, mtu);
        let (heard, marks) = mpsc::channel(MARKS);
        let worker = Worker::new(core, metadata, outlet, poller, bell.clone(), (inbox, heard));
        let thread = thread::Builder::new().name("switch".into());
        thread.spawn(move || worker.run()).map_err(system("thread"))?;
        Ok((Self { commands, bell, address, records_lost, marks: Mutex::new(marks) }, exported))
    }

    /// Where the tunnel is bound.
    pub const fn tunnel_address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the thread lives.
    pub fn is_running(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Makes `plan` hold; returns when every port of it takes frames. On an error what held before goes on.
    pub async fn apply(&self, plan: Plan) -> Result<(), ShellError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Apply(Box::new(plan), reply)).await?;
        answer.await.map_err(|_| ShellError::Ended)?
    }

    /// Gives frames to these taps from now on, and to no others.
    pub async fn set_taps(&self, taps: Vec<Tap>) -> Result<(), ShellError> {
        self.send(Command::Taps(taps)).await
    }

    /// The counts; empty when the switch has stopped.
    pub async fn counters(&self) -> Counters {
        let (reply, answer) = oneshot::channel();
        match self.send(Command::Counters(reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Counters::default(),
        }
    }

    /// What the flows that had a packet since then have counted since they were last recorded: of `most` records, those with
    /// the newest packets, the newest first. The table goes on meanwhile.
    pub async fn flows(&self, since: Moment, most: usize) -> Result<Vec<FlowRecord>, ShellError> {
        let (mut newest, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let (reply, answer) = oneshot::channel();
            self.send(Command::Flows { from, since, reply }).await?;
            let stretch = answer.await.map_err(|_| ShellError::Ended)?;
            newest.extend(stretch.records);
            next = stretch.next;
            if newest.len() >= 2 * most || next.is_none() {
                newest.sort_unstable_by_key(|record: &FlowRecord| Reverse(record.end));
                newest.truncate(most);
            }
        }
        Ok(newest)
    }

    /// How many records the exporter was too slow for since this was last asked, by account. Also after the end.
    pub fn take_records_lost(&self) -> BTreeMap<AccountId, u64> {
        self.records_lost.take()
    }

    /// Ends every flow with its last record, closes all sockets and returns when that is done. The machines' side of the
    /// ports stays as it is, and works again with the next switch that is given the same paths.
    pub async fn stop(&self) {
        let (reply, answer) = oneshot::channel();
        if self.send(Command::Stop(reply)).await.is_ok() {
            // An error says that it has ended, which is what was asked for.
            let _ = answer.await;
        }
    }

    async fn send(&self, command: Command) -> Result<(), ShellError> {
        self.commands.send(command).await.map_err(|_| ShellError::Ended)?;
        self.bell.ring();
        Ok(())
    }
}

/// The time of day at the start, moved on by a clock that is never set: timers do not jump when the time of day does.
#[derive(Clone, Copy, Debug)]
struct Clock {
    began: Moment,
    since: Instant,
}

impl Clock {
    fn start() -> Self {
        let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { began: Moment::EPOCH.plus(began), since: Instant::now() }
    }
    fn now(&self) -> Moment {
        self.began.plus(self.since.elapsed())
    }
}

fn random() -> Result<u64, ShellError> {
    let mut octets = [0; 8];
    SystemRandom::new().fill(&mut octets).map_err(|_| ShellError::Random)?;
    Ok(u64::from_ne_bytes(octets))
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ShellError {
    move |cause| ShellError::System { what, cause }
}
