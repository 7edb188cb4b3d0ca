//! One host's part in a consistent cut of a network: which frames were in flight when its guests stood still.
//!
//! Owns the decision of Chandy and Lamport ("Distributed Snapshots", 1985) for frames: a frame is in flight when it was sent
//! before its sender stood still and had not reached its receiver when that stood still. The channels are those between the
//! switches: a host's *mark* says that all that its guests sent before the cut has gone ahead of it. Two things differ from the
//! paper, because a datagram may be lost. A mark is repeated until it is acknowledged; and until then the host lets nothing
//! that its guests send after the cut go to that host, so that no such frame can take the place of a lost mark. Where the
//! underlay puts a frame behind the mark that was sent after it, the frame counts as sent after the cut: the duplicates have
//! lost it, as any network may lose one.
//!
//! Sockets, times and what a frame means are left to the shell; one guest's frames keep their order, whatever happens.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use lucarne_model::{HostId, InterfaceId};

pub(crate) mod mark;
#[cfg(test)]
mod tests;

pub(crate) use mark::Mark;

/// Frames that may be kept for one guest: fewer than its port's queue takes, so that all of them fit when they go on.
const FOR_ONE_GUEST: usize = 384;
/// Frames that may wait for the other hosts.
const FOR_HOSTS: usize = 2048;

/// Who sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A guest of this host, or the switch itself as the network's router.
    Here,
    /// A guest of another host.
    Host(HostId),
}

/// A frame that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) to: InterfaceId,
    /// Sent before its sender stood still.
    pub(crate) in_flight: bool,
    pub(crate) frame: Vec<u8>,
}

/// What goes on its way again, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) to_guests: Vec<Kept>,
    pub(crate) to_hosts: Vec<(HostId, Vec<u8>)>,
}

/// What follows from a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) answer: Option<Mark>,
    /// What may go to the host that sent it now.
    pub(crate) freed: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Guests run, and get nothing.
    Begun,
    /// Guests stand still or did, and all that they sent before is known.
    Marked,
    /// Frames go their way. What was in flight is still there.
    Over,
}

/// Another host of the cut.
#[derive(Clone, Debug, Default)]
struct Peer {
    /// Its mark has come: its frames are after the cut.
    marked: bool,
    /// It has our mark: what we send is after the cut there.
    has_ours: bool,
    /// What our guests sent it after the cut.
    withheld: Vec<Vec<u8>>,
}

/// A cut, as one host sees it.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    phase: Phase,
    peers: BTreeMap<HostId, Peer>,
    kept: Vec<Kept>,
    of_guests: BTreeMap<InterfaceId, usize>,
}

impl Cut {
    /// From here on every frame for a guest is to be [kept](Self::keep).
    pub(crate) fn begin(hosts: impl IntoIterator<Item = HostId>) -> Self {
        let peers = hosts.into_iter().map(|host| (host, Peer::default())).collect();
        Self { phase: Phase::Begun, peers, kept: Vec::new(), of_guests: BTreeMap::new() }
    }

    /// Whether frames for guests are to be kept.
    pub(crate) fn keeps(&self) -> bool {
        self.phase != Phase::Over
    }

    /// Keeps a frame for a guest.
    pub(crate) fn keep(&mut self, to: InterfaceId, origin: Origin, frame: &[u8]) {
        let is_marked = self.phase != Phase::Begun;
        let in_flight = match origin {
            Origin::Host(host) => self.peers.get(&host).map_or(!is_marked, |peer| !peer.marked),
            Origin::Here => !is_marked,
        };
        *self.of_guests.entry(to).or_default() += 1;
        self.kept.push(Kept { to, in_flight, frame: frame.to_vec() });
    }

    /// Whether a frame for that host is to be [withheld](Self::withhold).
    pub(crate) fn withholds_from(&self, host: HostId) -> bool {
        self.phase == Phase::Marked && self.peers.get(&host).is_some_and(|peer| !peer.has_ours)
    }

    /// Lets a frame for another host wait until that has our mark.
    pub(crate) fn withhold(&mut self, host: HostId, frame: &[u8]) {
        self.peers.entry(host).or_default().withheld.push(frame.to_vec());
    }

    /// More waits than may: the cut is to be given up.
    pub(crate) fn is_overfull(&self) -> bool {
        let withheld: usize = self.peers.values().map(|peer| peer.withheld.len()).sum();
        self.keeps() && (withheld > FOR_HOSTS || self.of_guests.values().any(|count| *count > FOR_ONE_GUEST))
    }

    /// This host's guests stand still, and all that they sent before has been given to [`keep`](Self::keep) or to the other
    /// hosts. What is to be sent now is in [`reminders`](Self::reminders).
    pub(crate) fn mark(&mut self) {
        if self.phase == Phase::Begun {
            self.phase = Phase::Marked;
        }
    }

    /// Our mark, for each host that is not known to have it: to be sent at once, and again until it is answered.
    pub(crate) fn reminders(&self) -> Vec<(HostId, Mark)> {
        let lacking = self.peers.iter().filter(|(_, peer)| self.phase == Phase::Marked && !peer.has_ours);
        lacking.map(|(host, peer)| (*host, Mark { has_yours: peer.marked, asks: true })).collect()
    }

    /// A host of the cut says that it has marked.
    pub(crate) fn handle_mark(&mut self, from: HostId, mark: Mark) -> Heard {
        let is_marked = self.phase != Phase::Begun;
        let Some(peer) = self.peers.get_mut(&from) else { return Heard::default() };
        peer.marked = true;
        // Before we have marked there is nothing of ours that it could have.
        peer.has_ours |= mark.has_yours && is_marked;
        let freed = if peer.has_ours { std::mem::take(&mut peer.withheld) } else { Vec::new() };
        let answer = Mark { has_yours: true, asks: !peer.has_ours };
        Heard { answer: (is_marked && mark.asks).then_some(answer), freed }
    }

    /// Hosts whose mark, or whose word that they have ours, has not come.
    pub(crate) fn awaited(&self) -> Vec<HostId> {
        let open = |peer: &Peer| !(peer.marked && peer.has_ours);
        self.peers.iter().filter(|(_, peer)| open(peer)).map(|(host, _)| *host).collect()
    }

    /// Whether all that was in flight is known.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase != Phase::Begun && self.awaited().is_empty()
    }

    /// Frames that were on their way to this host's guests.
    pub(crate) fn in_flight(&self) -> usize {
        self.kept.iter().filter(|kept| kept.in_flight).count()
    }

    /// Ends the keeping, and gives back all that waits. What was in flight is remembered, if the cut is closed.
    pub(crate) fn release(&mut self) -> Released {
        if !self.keeps() {
            return Released::default();
        }
        let closed = self.is_closed();
        self.phase = Phase::Over;
        let to_guests = std::mem::take(&mut self.kept);
        if closed {
            self.kept = to_guests.iter().filter(|kept| kept.in_flight).cloned().collect();
        }
        let withheld = |(host, peer): (&HostId, &mut Peer)| {
            let (host, frames) = (*host, std::mem::take(&mut peer.withheld));
            frames.into_iter().map(move |frame| (host, frame))
        };
        Released { to_guests, to_hosts: self.peers.iter_mut().flat_map(withheld).collect() }
    }

    /// What was in flight to a guest, in order: once, and when the cut is over.
    pub(crate) fn take_copies(&mut self, to: InterfaceId) -> Vec<Vec<u8>> {
        let is_over = !self.keeps();
        self.kept.extract_if(.., |kept| is_over && kept.to == to).map(|kept| kept.frame).collect()
    }
}
