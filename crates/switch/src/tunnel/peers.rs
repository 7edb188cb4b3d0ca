//! The other hosts as the tunnel knows them: their keys, their sessions, and which of them a datagram is from.
//!
//! Owns one WireGuard state machine (`boringtun`'s `Tunn`) for each host. Turns its answers into [`Step`]s, which are
//! lengths in the caller's buffer; sockets and counters are [`Tunnel`](super::Tunnel)'s.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use boringtun::{
    noise::{
        Packet, Tunn, TunnResult, errors::WireGuardError, handshake::parse_handshake_anon, rate_limiter::RateLimiter,
    },
    x25519::{PublicKey, StaticSecret},
};
use lucarne_model::{HostId, desired::TunnelPeer};

use super::{Refusal, TunnelError};

/// What WireGuard adds to a packet, and the least room that it wants (a handshake's length), in octets.
pub(super) const OVERHEAD: usize = 148;
/// The length of a cookie reply.
pub(super) const COOKIE_REPLY: usize = 64;
/// Handshakes a second, from anywhere, above which a cookie is asked for. Each counts twice: when its sender is looked
/// up, and when it is answered.
const HANDSHAKES_A_SECOND: u64 = 200;

/// The public half of `secret`, in base64: what a host says of itself when it enrols.
pub fn public_key(secret: &[u8; 32]) -> String {
    STANDARD.encode(PublicKey::from(&StaticSecret::from(*secret)).as_bytes())
}

/// What the state machine left in the caller's buffer: a length from its start.
pub(super) enum Step {
    /// A datagram for the peer.
    Send(usize),
    /// A packet that came from the peer.
    Packet(usize),
    Done,
}

/// One other host.
pub(super) struct Peer {
    plan: TunnelPeer,
    key: PublicKey,
    /// What it puts into the upper 24 bits of receiver indices when it writes to us.
    index: u32,
    tunn: Tunn,
    /// Where it was last heard; first, where the plan says it is.
    pub(super) endpoint: SocketAddr,
}

impl Peer {
    pub(super) fn greet(&mut self, into: &mut [u8]) -> Step {
        quiet(self.tunn.format_handshake_initiation(into, false))
    }
    pub(super) fn seal(&mut self, packet: &[u8], into: &mut [u8]) -> Step {
        quiet(self.tunn.encapsulate(packet, into))
    }
    pub(super) fn tick(&mut self, into: &mut [u8]) -> Step {
        quiet(self.tunn.update_timers(into))
    }
    /// A packet that waited for the handshake.
    pub(super) fn seal_queued(&mut self, into: &mut [u8]) -> Step {
        quiet(self.tunn.decapsulate(None, &[], into))
    }

    pub(super) fn open(&mut self, from: SocketAddr, datagram: &[u8], into: &mut [u8]) -> Result<Step, WireGuardError> {
        step(self.tunn.decapsulate(Some(from.ip()), datagram, into))
    }
}

fn step(result: TunnResult<'_>) -> Result<Step, WireGuardError> {
    match result {
        TunnResult::Done => Ok(Step::Done),
        TunnResult::Err(error) => Err(error),
        TunnResult::WriteToNetwork(datagram) => Ok(Step::Send(datagram.len())),
        TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
            Ok(Step::Packet(packet.len()))
        }
    }
}

/// Where an error only says that a session has ended: the next packet begins another.
fn quiet(result: TunnResult<'_>) -> Step {
    step(result).unwrap_or(Step::Done)
}

/// All peers, found by host, by receiver index and by public key.
pub(super) struct Peers {
    secret: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
    by_host: BTreeMap<HostId, Peer>,
    by_index: HashMap<u32, HostId>,
    by_key: HashMap<[u8; 32], HostId>,
    /// Indices are not used again: what was sent under an old one must not meet a new peer.
    next_index: u32,
}

impl Peers {
    pub(super) fn new(secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES_A_SECOND));
        let (by_host, by_index, by_key) = Default::default();
        Self { secret, public, limiter, by_host, by_index, by_key, next_index: 1 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_host.is_empty()
    }
    pub(super) fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }
    pub(super) fn get_mut(&mut self, host: HostId) -> Option<&mut Peer> {
        self.by_host.get_mut(&host)
    }
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.by_host.values_mut()
    }

    /// Brings the peers to the plan and returns those that are new or changed.
    pub(super) fn set(&mut self, plan: &[TunnelPeer]) -> Result<Vec<HostId>, TunnelError> {
        let keys = checked_keys(plan)?;
        let wanted: HashMap<HostId, &TunnelPeer> = plan.iter().map(|peer| (peer.host, peer)).collect();
        self.by_host.retain(|host, peer| wanted.get(host).is_some_and(|plan| **plan == peer.plan));
        self.by_key = self.by_host.iter().map(|(host, peer)| (*peer.key.as_bytes(), *host)).collect();
        self.by_index = self.by_host.iter().map(|(host, peer)| (peer.index, *host)).collect();
        let mut fresh = Vec::new();
        for (peer, key) in plan.iter().zip(keys) {
            if !self.by_host.contains_key(&peer.host) {
                self.insert(peer.clone(), key);
                fresh.push(peer.host);
            }
        }
        Ok(fresh)
    }

    fn insert(&mut self, plan: TunnelPeer, key: PublicKey) {
        let (host, index) = (plan.host, self.next_index);
        self.next_index = (self.next_index + 1) & 0x00ff_ffff;
        let limiter = Some(self.limiter.clone());
        let tunn = Tunn::new(self.secret.clone(), key, None, None, index, limiter);
        let endpoint = SocketAddr::new(plan.address, plan.port);
        self.by_index.insert(index, host);
        self.by_key.insert(*key.as_bytes(), host);
        self.by_host.insert(host, Peer { plan, key, index, tunn, endpoint });
    }

    /// Whose datagram this is: by the static key in a handshake, by our own index in everything else. None when a cookie
    /// was written into `cookie` instead.
    pub(super) fn find(
        &self,
        datagram: &[u8],
        source: SocketAddr,
        cookie: &mut [u8],
    ) -> Result<Option<HostId>, Refusal> {
        let packet = match self.limiter.verify_packet(Some(source.ip()), datagram, cookie) {
            Ok(packet) => packet,
            Err(TunnResult::WriteToNetwork(_)) => return Ok(None),
            Err(TunnResult::Err(error)) => return Err(error.into()),
            Err(_) => return Err(WireGuardError::InvalidPacket.into()),
        };
        let index = match packet {
            Packet::HandshakeInit(handshake) => {
                let sender = parse_handshake_anon(&self.secret, &self.public, &handshake)?;
                let host = self.by_key.get(&sender.peer_static_public).ok_or(Refusal::UnknownSender)?;
                return Ok(Some(*host));
            }
            Packet::HandshakeResponse(response) => response.receiver_idx,
            Packet::PacketCookieReply(reply) => reply.receiver_idx,
            Packet::PacketData(data) => data.receiver_idx,
        };
        self.by_index.get(&(index >> 8)).copied().map(Some).ok_or(Refusal::UnknownSender)
    }
}

impl fmt::Debug for Peers {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.by_host.iter().map(|(host, peer)| (host, peer.endpoint))).finish()
    }
}

/// The keys of the plan in its order, each of 32 octets and none twice: a key must mean one host.
fn checked_keys(plan: &[TunnelPeer]) -> Result<Vec<PublicKey>, TunnelError> {
    let mut seen: HashMap<[u8; 32], HostId> = HashMap::new();
    plan.iter()
        .map(|peer| {
            let host = peer.host;
            let decoded = STANDARD.decode(&peer.public_key).ok().and_then(|key| <[u8; 32]>::try_from(key).ok());
            let key = decoded.ok_or(TunnelError::PublicKey { host })?;
            match seen.insert(key, host) {
                Some(other) if other != host => Err(TunnelError::SharedKey { host, other }),
                _ => Ok(PublicKey::from(key)),
            }
        })
        .collect()
}
