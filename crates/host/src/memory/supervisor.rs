//! A pager, kept alive beside its VM: found where one serves already, started where none does, and again when it dies.
//!
//! Owns the watch over one pager, and beside it a hold on the memory that it serves. The pager outlives the agent, as the VM
//! does; the next agent finds it by its socket, and takes hold again of the memory.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use lucarne_memory::governor::Order;
use lucarne_model::{
    Bytes, InstanceId, Pages,
    memory::{EvictionPolicy, MemorySettings},
};
use lucarne_pager::{
    Borrowing, Origin,
    client::{Client, ClientError},
    control::Statistics,
    shim::{self, Hold},
};
use tokio::{io::AsyncReadExt, net::UnixStream, process::Command, task::AbortHandle, time::sleep};

/// How long a pager may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether a new pager serves, and after one that ended at once.
const RETRY: Duration = Duration::from_millis(20);
/// Within this a pager that was started serves, or has ended.
const LOOKS: u32 = 1500;

/// What a pager is told; said again to each new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) limit: Pages,
    pub(crate) pinned: bool,
    pub(crate) policy: EvictionPolicy,
}

impl Wishes {
    /// Nothing leaves until the governor has spoken.
    pub(crate) fn at_first(memory: Pages) -> Self {
        Self { limit: memory, pinned: false, policy: EvictionPolicy::default() }
    }

    pub(crate) const fn of(order: &Order, settings: &MemorySettings) -> Self {
        Self { limit: order.limit, pinned: settings.pinned, policy: settings.eviction }
    }
}

/// Where a pager is and how it is started.
#[derive(Clone, Debug)]
pub(crate) struct PagerPlace {
    pub(crate) executable: PathBuf,
    pub(crate) instance: InstanceId,
    /// The socket of the VM's process.
    pub(crate) machine: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) pool: Bytes,
    /// What its VM went on from.
    pub(crate) origin: Option<lucarne_pager::Origin>,
}

/// One VM's pager, whichever process that is by now. Dropping it ends the watch and not the pager.
#[derive(Debug)]
pub(crate) struct Pager {
    talk: Arc<Talk>,
    watch: AbortHandle,
}

#[derive(Debug)]
struct Talk {
    control: PathBuf,
    client: Mutex<Option<Client>>,
    wishes: Mutex<Wishes>,
    restarts: AtomicU32,
    /// Whether a duplicate's is to fetch all that it goes on from.
    fetches_all: AtomicBool,
    /// From when a pager first served until the watch is over, which is when the VM has ended.
    hold: Mutex<Option<Hold>>,
}

impl Pager {
    /// Begins to watch. `wishes` are told to each pager before anything else.
    pub(crate) fn watch(place: PagerPlace, wishes: Wishes) -> Self {
        let talk = Arc::new(Talk {
            control: place.control.clone(),
            client: Mutex::new(None),
            wishes: Mutex::new(wishes),
            restarts: AtomicU32::new(0),
            fetches_all: AtomicBool::new(matches!(place.origin, Some(Origin::Parent { whole: true, .. }))),
            hold: Mutex::new(None),
        });
        let watch = tokio::spawn(keep_alive(place, talk.clone())).abort_handle();
        Self { talk, watch }
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.talk.restarts.load(Ordering::Relaxed)
    }

    /// What is to be from now on; see [`Self::tell`].
    pub(crate) fn wish(&self, wishes: Wishes) {
        *locked(&self.talk.wishes) = wishes;
    }

    /// Tells what is wished.
    pub(crate) async fn tell(&self) -> Result<(), ClientError> {
        self.talk.clone().blocking(tell).await
    }

    /// Asks how its pages are.
    pub(crate) async fn ask(&self) -> Result<Statistics, ClientError> {
        self.talk.clone().blocking(|client, _| client.statistics()).await
    }

    /// Has copies kept in these hosts' memory, and nowhere else.
    pub(crate) async fn borrow_from(&self, lenders: Vec<Borrowing>) -> Result<(), ClientError> {
        self.talk.clone().blocking(|client, _| client.set_remote(lenders)).await
    }

    /// Has all fetched that its VM goes on from, by this pager and each later one.
    pub(crate) async fn fetch_all(&self) -> Result<(), ClientError> {
        self.talk.fetches_all.store(true, Ordering::Relaxed);
        self.talk.clone().blocking(|client, _| client.fetch_all()).await
    }

    /// Sends all pages out; what is resident afterwards.
    pub(crate) async fn evict_all(&self, patience: Duration) -> Result<Pages, ClientError> {
        let control = self.talk.control.clone();
        let unreachable = {
            let path = control.clone();
            move |error: tokio::task::JoinError| Err(ClientError::Unreachable { path, source: error.into() })
        };
        // In a conversation of its own: the other one must not wait for it.
        let evict = move || Client::connect(&control, PATIENCE)?.evict_all(patience).map(|(_, resident)| resident);
        tokio::task::spawn_blocking(evict).await.unwrap_or_else(unreachable)
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        *locked(&self.talk.hold) = None;
        self.watch.abort();
    }
}

impl Talk {
    /// Once there is a machine that lends it. Without it nothing is lost as long as the machine's own process keeps its hold.
    async fn take_hold(&self, place: &PagerPlace) {
        if locked(&self.hold).is_some() {
            return;
        }
        let machine = place.machine.clone();
        match tokio::task::spawn_blocking(move || shim::hold(&machine)).await {
            Ok(Ok(hold)) => *locked(&self.hold) = Some(hold),
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(instance = %place.instance, error, "the agent has no hold on a guest's memory");
            }
            Err(error) => {
                tracing::warn!(instance = %place.instance, %error, "the agent has no hold on a guest's memory")
            }
        }
    }

    /// On a thread that may block. A conversation that broke is begun anew the next time.
    async fn blocking<T: Send + 'static>(
        self: Arc<Self>,
        talk: impl FnOnce(&mut Client, Wishes) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let control = self.control.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let wishes = *locked(&self.wishes);
            let mut kept = locked(&self.client);
            let mut client = match kept.take() {
                Some(client) => client,
                None => Client::connect(&self.control, PATIENCE)?,
            };
            let answer = talk(&mut client, wishes)?;
            *kept = Some(client);
            Ok(answer)
        });
        asked.await.unwrap_or_else(|error| Err(ClientError::Unreachable { path: control, source: error.into() }))
    }
}

/// For as long as the watch lasts.
async fn keep_alive(place: PagerPlace, talk: Arc<Talk>) {
    let mut first = true;
    loop {
        if let Some(line) = serving(&place.control, &talk).await {
            first = false;
            talk.take_hold(&place).await;
            until_hung_up(line).await;
            *locked(&talk.client) = None;
            tracing::warn!(instance = %place.instance, "a pager ended; its guest waits for the next one");
            talk.restarts.fetch_add(1, Ordering::Relaxed);
        }
        match start(&place, talk.fetches_all.load(Ordering::Relaxed)) {
            Ok(mut child) => {
                let ended = tokio::select! {
                    ended = child.wait() => ended.is_ok(),
                    () = until_served(&place.control) => false,
                };
                if ended && !first {
                    tracing::warn!(instance = %place.instance, "a pager ended before it served");
                }
                // Reaped by the runtime when it ends.
                drop(child);
            }
            Err(error) => tracing::error!(instance = %place.instance, %error, "no pager can be started"),
        }
        sleep(RETRY).await;
    }
}

/// A line to the pager that serves, which was told what is wished of it; none if there is none.
async fn serving(control: &Path, talk: &Arc<Talk>) -> Option<UnixStream> {
    let line = UnixStream::connect(control).await.ok()?;
    match talk.clone().blocking(tell).await {
        Ok(()) => Some(line),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a pager does not listen");
            None
        }
    }
}

fn tell(client: &mut Client, wishes: Wishes) -> Result<(), ClientError> {
    client.set_policy(wishes.policy)?;
    client.set_pinned(wishes.pinned)?;
    client.set_target(wishes.limit, None)
}

/// Nothing ever comes over the line but its end.
async fn until_hung_up(mut line: UnixStream) {
    let mut nothing = [0; 64];
    while let Ok(1..) = line.read(&mut nothing).await {}
}

async fn until_served(control: &Path) {
    for _ in 0..LOOKS {
        if UnixStream::connect(control).await.is_ok() {
            return;
        }
        sleep(RETRY).await;
    }
}

/// In a process group of its own, so that what ends the agent does not end it.
fn start(place: &PagerPlace, fetches_all: bool) -> std::io::Result<tokio::process::Child> {
    let mut command = Command::new(&place.executable);
    command.arg("pager");
    command.arg("--instance").arg(place.instance.to_string());
    command.arg("--machine").arg(&place.machine);
    command.arg("--control").arg(&place.control);
    command.arg("--state-dir").arg(&place.state);
    command.arg("--pool").arg(place.pool.0.to_string());
    match &place.origin {
        None => {}
        Some(Origin::Snapshot { file, digest }) => {
            command.arg("--snapshot").arg(file).arg("--snapshot-digest").arg(digest.as_str());
        }
        Some(Origin::Parent { control, capture, .. }) => {
            command.arg("--parent").arg(control).arg("--capture").arg(capture);
            command.args(fetches_all.then_some("--whole"));
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).kill_on_drop(false).spawn()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
