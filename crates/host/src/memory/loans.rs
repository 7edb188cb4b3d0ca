//! Memory that this host lends to others, and that it borrows.
//!
//! Owns the lender, a process of its own (`lucarne lender`) that is kept alive here and ends with the agent, and which pager
//! borrows how much. How much may be lent is said by the room `memory` ([`Lender`]), who lends to whom by the controller.
//! Whatever becomes of a lender, here or elsewhere, costs time and no page: all that it keeps are copies.

use std::{
    io,
    net::IpAddr,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use lucarne_api::bodies::host::HostSettings;
use lucarne_memory::lending::{Lender, quotas, rooms};
use lucarne_model::{Bytes, DesiredLease, InstanceId, Lease, Pages, desired::Desired};
use lucarne_pager::{
    Borrowing, Identity,
    lender::{Instructions, Quota, Told},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::view::Sample;

/// How long a lender may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked what it keeps.
const INTERVAL: Duration = Duration::from_millis(500);
/// After one that ended.
const RETRY: Duration = Duration::from_secs(1);

/// What the operator lets this host lend, and what it is lent with.
#[derive(Clone, Debug)]
pub(crate) struct LendingTools {
    /// The most that is lent; none: nothing is.
    pub(crate) limit: Option<Bytes>,
    /// `lucarne` itself, which is a lender too.
    pub(crate) executable: PathBuf,
    pub(crate) address: IpAddr,
    /// With which this host proves who it is.
    pub(crate) key: PathBuf,
}

/// What the controller says that concerns lending.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    pub(crate) desired: watch::Receiver<Arc<Desired>>,
    pub(crate) settings: watch::Receiver<Option<HostSettings>>,
}

/// What of it is there, for the host's sum.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lent {
    pub(crate) held: Bytes,
    /// What the lender takes for itself.
    pub(crate) overhead: Bytes,
    /// Where pages are taken; none: nowhere.
    pub(crate) port: Option<u16>,
    /// How much would be lent; none: nothing ever.
    pub(crate) lender: Option<Lender>,
}

#[derive(Debug)]
pub(crate) struct Loans {
    word: Word,
    tools: Option<LendingTools>,
    lender: Option<Lender>,
    process: Option<Process>,
    stepped: Instant,
}

impl Loans {
    /// Of a host with `memory` for guests.
    pub(crate) fn new(tools: Option<LendingTools>, memory: Bytes, word: Word) -> Self {
        let limit = tools.as_ref().and_then(|tools| tools.limit);
        let lender = limit.map(|limit| Lender::new(limit, memory));
        let process = tools.clone().filter(|_| lender.is_some()).map(Process::keep);
        Self { word, tools, lender, process, stepped: Instant::now() }
    }

    pub(crate) fn lent(&self) -> Lent {
        let told = self.process.as_ref().and_then(|process| process.told.borrow().clone());
        let held = told.as_ref().map_or(Pages::ZERO, |told| told.held.iter().map(|(_, pages)| *pages).sum());
        let overhead = told.as_ref().map_or(Bytes::ZERO, |told| told.overhead);
        Lent { held: held.bytes(), overhead, port: told.map(|told| told.port), lender: self.lender }
    }

    /// What may be lent from now on, of what is `idle`.
    pub(crate) fn step(&mut self, idle: Bytes) {
        let span = self.stepped.elapsed();
        self.stepped = Instant::now();
        let (Some(lender), Some(process)) = (&mut self.lender, &self.process) else { return };
        let allowed = lender.step(span, idle);
        let Some(settings) = self.word.settings.borrow().clone() else { return };
        let given: Vec<Lease> = leases(&self.word.desired).filter(|lease| lease.lender == settings.host).collect();
        let quotas = given.iter().zip(quotas(&given, allowed)).map(|(lease, bytes)| Quota {
            borrower: lease.borrower,
            epoch: lease.epoch,
            pages: Pages(bytes.0 / Pages::SIZE),
        });
        let HostSettings { certificate, host_authority: Some(authority), .. } = settings else { return };
        let instructions = Instructions { certificate, authority, quotas: quotas.collect() };
        process.wanted.send_if_modified(|wanted| {
            let changed = wanted.as_ref() != Some(&instructions);
            *wanted = Some(instructions);
            changed
        });
    }

    /// Where each of these VMs may keep copies of its pages; nothing: nowhere.
    pub(crate) fn borrowings(&self, samples: &[Sample]) -> Vec<(InstanceId, Vec<Borrowing>)> {
        let away: Vec<Pages> = samples.iter().map(Sample::stored).collect();
        let (leases, identity) = self.borrowed().unzip();
        let leases = leases.unwrap_or_default();
        let bytes: Vec<Bytes> = leases.iter().map(|lease| lease.lease.bytes).collect();
        let borrowings = |rooms: Vec<Pages>| {
            let rooms = leases.iter().zip(rooms).zip(identity.iter().cycle());
            rooms.filter_map(|((lease, room), identity)| borrowing(lease, identity, room)).collect()
        };
        let rooms = samples.iter().zip(rooms(&bytes, &away));
        rooms.map(|(sample, rooms)| (sample.instance, borrowings(rooms))).collect()
    }

    /// The leases in which this host borrows, the oldest first, and as whom.
    fn borrowed(&self) -> Option<(Vec<DesiredLease>, Identity)> {
        let HostSettings { host, certificate, host_authority, .. } = self.word.settings.borrow().clone()?;
        let identity = Identity { key: self.tools.as_ref()?.key.clone(), certificate, authority: host_authority? };
        let desired = self.word.desired.borrow();
        let mut leases: Vec<DesiredLease> =
            desired.leases.iter().filter(|lease| lease.lease.borrower == host).copied().collect();
        leases.sort_by_key(|lease| lease.lease.epoch);
        Some((leases, identity))
    }
}

fn leases(desired: &watch::Receiver<Arc<Desired>>) -> impl Iterator<Item = Lease> {
    let desired = desired.borrow().clone();
    (0..desired.leases.len()).map(move |at| desired.leases[at].lease)
}

fn borrowing(DesiredLease { lease, address }: &DesiredLease, identity: &Identity, room: Pages) -> Option<Borrowing> {
    let (lender, epoch) = (lease.lender, lease.epoch);
    let borrowing = || Borrowing { lender, address: *address, epoch, room, identity: identity.clone() };
    (room > Pages::ZERO).then(borrowing)
}

/// The lender's process, whichever that is by now.
#[derive(Debug)]
struct Process {
    wanted: watch::Sender<Option<Instructions>>,
    /// None while there is none that answers.
    told: watch::Receiver<Option<Told>>,
    watch: AbortHandle,
}

impl Process {
    fn keep(tools: LendingTools) -> Self {
        let (wanted, instructions) = watch::channel(None);
        let (telling, told) = watch::channel(None);
        let watch = tokio::spawn(keep_alive(tools, instructions, telling)).abort_handle();
        Self { wanted, told, watch }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// For as long as the agent governs.
async fn keep_alive(
    tools: LendingTools,
    mut wanted: watch::Receiver<Option<Instructions>>,
    told: watch::Sender<Option<Told>>,
) {
    // Nobody can be let in before this host has its certificate.
    while wanted.wait_for(Option::is_some).await.is_ok() {
        let Err(error) = converse(&tools, &mut wanted, &told).await else { return };
        tracing::warn!(%error, "the lender of memory ended; its borrowers read their disks until there is another");
        told.send_replace(None);
        sleep(RETRY).await;
    }
}

/// With one process, until it ends or there is nobody to lend for.
async fn converse(
    tools: &LendingTools,
    wanted: &mut watch::Receiver<Option<Instructions>>,
    told: &watch::Sender<Option<Told>>,
) -> io::Result<()> {
    let mut command = Command::new(&tools.executable);
    command.arg("lender").arg("--address").arg(tools.address.to_string()).arg("--key").arg(&tools.key);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let mut answers = BufReader::new(output).lines();
    loop {
        let mut line = serde_json::to_vec(&*wanted.borrow_and_update())?;
        line.push(b'\n');
        let asked = async {
            input.write_all(&line).await?;
            input.flush().await?;
            answers.next_line().await
        };
        let answer = timeout(PATIENCE, asked).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
        told.send_replace(Some(serde_json::from_str(&answer)?));
        // Asked again though nothing is to change, for what it keeps by now.
        if let Ok(Err(_)) = timeout(INTERVAL, wanted.changed()).await {
            return Ok(());
        }
    }
}
