//! Where the switch's output goes: guests' sockets, the tunnel, the metadata service, the exporter.
//!
//! Owns the ports' sockets and the queues in front of them. Each queue has a bound, and what does not fit is dropped and
//! counted: a guest that does not read, or an exporter that hangs, never holds up the frames of others.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lucarne_model::{AccountId, FlowRecord, HostId, InterfaceId, VpcId};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    ShellError,
    cutting::{Cutting, Fate},
    poller::Poller,
};
use crate::{
    Output, Plan, PortIndex,
    cut::Origin,
    metadata::Outgoing,
    parse::ETHERNET,
    plan::PortPlan,
    ports::{
        Batch, Port,
        unix::{Owner, UnixPort},
    },
    tunnel::{Tunnel, TunnelCounters},
};

/// Frames that may wait for one guest.
const WAITING: usize = 512;
/// How long the last records may wait for the exporter when the switch stops.
const PATIENCE: Duration = Duration::from_secs(2);

/// All places to which frames and records go.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) tunnel: Tunnel,
    pub(super) cutting: Cutting,
    /// Of the frames that the switch gives out now.
    pub(super) origin: Origin,
    guests: Vec<Option<Guest>>,
    /// Whose the guests' sockets are.
    owner: Option<Owner>,
    /// Guests with frames that were not offered to them yet.
    fresh: Vec<usize>,
    pub(super) to_metadata: Vec<Outgoing>,
    records: Records,
    counters: GuestCounters,
    longest: usize,
}

/// One guest's socket.
#[derive(Debug)]
pub(super) struct Guest {
    plan: Place,
    pub(super) port: UnixPort,
    waiting: Batch,
    /// It took no more; the poller tells when it does.
    full: bool,
}

/// What a socket is bound for: a port whose place changes gets a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    vpc: VpcId,
    interface: InterfaceId,
    socket: PathBuf,
    guest_socket: PathBuf,
}

impl Place {
    fn of(plan: &PortPlan) -> Self {
        let PortPlan { vpc, interface, socket, guest_socket, .. } = plan;
        Self { vpc: *vpc, interface: *interface, socket: socket.clone(), guest_socket: guest_socket.clone() }
    }
}

/// Frames that guests did not get.
#[derive(Clone, Copy, Debug, Default)]
struct GuestCounters {
    absent: u64,
    failed: u64,
    full: u64,
}

/// Sockets that were bound for a plan that does not hold yet.
pub(super) type Bound = HashMap<InterfaceId, Guest>;

impl Outlet {
    /// `mtu` is the largest IP packet of a guest.
    pub(super) fn new(
        tunnel: Tunnel,
        records: (mpsc::Sender<FlowRecord>, RecordsLost),
        owner: Option<Owner>,
        mtu: u16,
    ) -> Self {
        let records = Records { sender: records.0, lost: 0, lost_by_account: records.1, patience: None };
        let longest = usize::from(mtu) + ETHERNET;
        let (guests, fresh, to_metadata, counters, cutting) = Default::default();
        let origin = Origin::Here;
        Self { tunnel, cutting, origin, guests, owner, fresh, to_metadata, records, counters, longest }
    }

    /// Room for frames of guests: one octet more than the switch takes, so that it sees what is oversized.
    pub(super) const fn batch_of_guest_frames(&self, count: usize) -> Batch {
        Batch::new(count, self.longest + 1)
    }

    pub(super) fn guest_mut(&mut self, port: usize) -> Option<&mut Guest> {
        self.guests.get_mut(port)?.as_mut()
    }

    /// Binds the sockets that `plan` has and this switch has not.
    pub(super) fn bind(&self, plan: &Plan) -> Result<Bound, ShellError> {
        let stands = |place: &Place| self.guests.iter().flatten().any(|guest| guest.plan == *place);
        let missing = plan.ports.iter().map(Place::of).filter(|place| !stands(place));
        missing
            .map(|place| {
                let port = UnixPort::bind(&place.socket, &place.guest_socket, self.owner)
                    .map_err(|cause| ShellError::Port { path: place.socket.clone(), cause })?;
                let waiting = Batch::new(WAITING, self.longest);
                Ok((place.interface, Guest { plan: place, port, waiting, full: false }))
            })
            .collect()
    }

    /// Puts each socket at the number that its interface has in the switch now. Sockets that are in no plan any more are
    /// closed and their paths removed.
    pub(super) fn place(
        &mut self,
        plan: &Plan,
        bound: Bound,
        poller: &Poller,
        port_of: impl Fn(InterfaceId) -> Option<PortIndex>,
    ) -> Result<(), ShellError> {
        let places: HashMap<_, _> = plan.ports.iter().map(|port| (port.interface, Place::of(port))).collect();
        let mut standing: Vec<(usize, Guest)> = Vec::new();
        for (at, guest) in self.guests.drain(..).enumerate() {
            match guest {
                Some(guest) if places.get(&guest.plan.interface) == Some(&guest.plan) => standing.push((at, guest)),
                Some(guest) => self.counters.close(guest, plan),
                None => {}
            }
        }
        self.fresh.clear();
        for (was, guest) in standing {
            let Some(index) = port_of(guest.plan.interface) else { continue };
            if index.as_usize() != was {
                poller.rename_inbox(guest.port.inbox(), index.as_usize()).map_err(super::system("poll entry"))?;
            }
            self.put(index.as_usize(), guest);
        }
        for (interface, guest) in bound {
            let Some(index) = port_of(interface) else { continue };
            poller.watch_inbox(guest.port.inbox(), index.as_usize()).map_err(super::system("poll entry"))?;
            self.put(index.as_usize(), guest);
        }
        Ok(())
    }

    fn put(&mut self, at: usize, guest: Guest) {
        if self.guests.len() <= at {
            self.guests.resize_with(at + 1, || None);
        }
        if !guest.waiting.is_empty() {
            self.fresh.push(at);
        }
        self.guests[at] = Some(guest);
    }

    /// Offers the guests the frames that came for them since the last call.
    pub(super) fn offer_all(&mut self, poller: &Poller) {
        for port in std::mem::take(&mut self.fresh) {
            self.offer(port, poller);
        }
    }

    /// Offers one guest the frames that wait for it.
    pub(super) fn offer(&mut self, port: usize, poller: &Poller) {
        let Some(guest) = self.guests.get_mut(port).and_then(Option::as_mut) else { return };
        let sent = guest.port.send(&guest.waiting);
        guest.waiting.remove_first(sent);
        guest.full = !guest.waiting.is_empty();
        if guest.full && poller.watch_outbox(guest.port.outbox(), port).is_err() {
            // Nobody would say when there is room: like a link that is full.
            self.counters.full += guest.waiting.len() as u64;
            guest.waiting.clear();
            guest.full = false;
        }
    }

    /// The ports of a network, by number.
    pub(super) fn ports_of(&self, vpc: VpcId) -> Vec<(usize, InterfaceId)> {
        let ports = self.guests.iter().enumerate().filter_map(|(at, guest)| Some((at, &guest.as_ref()?.plan)));
        ports.filter(|(_, plan)| plan.vpc == vpc).map(|(at, plan)| (at, plan.interface)).collect()
    }

    pub(super) fn port_of(&mut self, interface: InterfaceId) -> Option<&mut UnixPort> {
        let mut guests = self.guests.iter_mut().flatten();
        guests.find(|guest| guest.plan.interface == interface).map(|guest| &mut guest.port)
    }

    /// What waits for a network's guests becomes the first that its cut keeps.
    pub(super) fn keep_what_waits(&mut self, vpc: VpcId) {
        for guest in self.guests.iter_mut().flatten().filter(|guest| guest.plan.vpc == vpc) {
            for frame in guest.waiting.iter() {
                self.cutting.keep(vpc, guest.plan.interface, Origin::Here, frame);
            }
            guest.waiting.clear();
        }
    }

    /// Lets the last records wait for the exporter.
    pub(super) fn be_patient(&mut self) {
        self.records.patience = Some(Instant::now() + PATIENCE);
    }

    pub(super) const fn records_lost(&self) -> u64 {
        self.records.lost
    }

    /// What guests and other hosts did not get, by reason.
    pub(super) fn dropped(&self) -> BTreeMap<&'static str, u64> {
        let mut guests = self.counters;
        self.guests.iter().flatten().for_each(|guest| guests.add(&guest.port));
        let tunnel: TunnelCounters = self.tunnel.counters();
        BTreeMap::from([
            ("guest-absent", guests.absent),
            ("guest-full", guests.full),
            ("guest-send-failed", guests.failed),
            ("tunnel-no-peer", tunnel.no_peer),
            ("tunnel-unfit", tunnel.unfit),
            ("tunnel-send-failed", tunnel.send_failed),
            ("tunnel-malformed", tunnel.malformed),
            ("tunnel-unknown-sender", tunnel.unknown_sender),
            ("tunnel-not-authentic", tunnel.not_authentic),
            ("tunnel-replayed", tunnel.replayed),
        ])
    }
}

impl GuestCounters {
    fn add(&mut self, port: &UnixPort) {
        let counters = port.counters();
        self.absent += counters.absent;
        self.failed += counters.failed;
    }

    /// Ends a port that is in no plan any more, or elsewhere.
    fn close(&mut self, guest: Guest, plan: &Plan) {
        self.add(&guest.port);
        self.absent += guest.waiting.len() as u64;
        if !plan.ports.iter().any(|port| port.socket == guest.plan.socket) {
            // The folder's owner may have been quicker.
            let _ = fs::remove_file(&guest.plan.socket);
        }
    }
}

impl Output for Outlet {
    fn to_guest(&mut self, port: PortIndex, frame: &[u8]) {
        let Some(guest) = self.guests.get_mut(port.as_usize()).and_then(Option::as_mut) else {
            self.counters.absent += 1;
            return;
        };
        match self.cutting.keep(guest.plan.vpc, guest.plan.interface, self.origin, frame) {
            Fate::GoesOn => {}
            Fate::Kept => return,
            Fate::Full => {
                self.counters.full += 1;
                return;
            }
        }
        if guest.waiting.is_empty() {
            self.fresh.push(port.as_usize());
        }
        if !guest.waiting.push(frame) {
            self.counters.full += 1;
        }
    }

    fn to_tunnel(&mut self, host: HostId, vni: u32, frame: &[u8]) {
        if !self.cutting.withhold(host, vni, frame) {
            self.tunnel.send(host, vni, frame);
        }
    }

    fn to_metadata(&mut self, port: PortIndex, frame: &[u8]) {
        self.to_metadata.push((port, frame.to_vec()));
    }

    fn record(&mut self, record: FlowRecord) {
        self.records.give(record);
    }
}

/// How many records were lost since somebody last asked, by account; asked from outside the thread, and touched by it only
/// when something is lost.
#[derive(Clone, Debug, Default)]
pub(super) struct RecordsLost(Arc<Mutex<BTreeMap<AccountId, u64>>>);

impl RecordsLost {
    fn count(&self, account: AccountId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(account).or_default() += 1;
    }

    pub(super) fn take(&self) -> BTreeMap<AccountId, u64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The way to the exporter.
#[derive(Debug)]
struct Records {
    sender: mpsc::Sender<FlowRecord>,
    lost: u64,
    lost_by_account: RecordsLost,
    /// Until when records wait for room; none while frames flow.
    patience: Option<Instant>,
}

impl Records {
    fn give(&mut self, record: FlowRecord) {
        let mut record = record;
        loop {
            match self.sender.try_send(record) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) if self.patience.is_some_and(|end| Instant::now() < end) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TrySendError::Full(lost) | TrySendError::Closed(lost)) => {
                    self.lost += 1;
                    self.lost_by_account.count(lost.account);
                    return;
                }
            }
        }
    }
}
