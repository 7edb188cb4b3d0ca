//! The underlay between hosts: Geneve packets, authenticated and encrypted with WireGuard, on one UDP socket.
//!
//! Owns the socket, the keys and the sessions with the other hosts. What is in the frames is the business of
//! [`Switch`](crate::switch::Switch), how they are laid out that of [`crate::geneve`], and who the peers are is the
//! controller's word ([`TunnelPeer`]).
//!
//! # What protects a frame
//! - *Keys.* Each host has a static X25519 pair; the private half never leaves it. A handshake (Noise IKpsk2, no
//!   pre-shared key) mixes four Diffie-Hellman results of static and ephemeral keys into a chaining key with HKDF over
//!   BLAKE2s; from it come two transport keys, one for each direction. The initiator makes a new handshake after 120 s of
//!   use, a key is refused after 180 s, and everything is forgotten after 540 s, so that a stolen host does not open
//!   yesterday's traffic.
//! - *Nonce.* ChaCha20-Poly1305 with a 64-bit counter for each key and direction, which is sent in clear and never
//!   repeats: a key ends long before its counter does.
//! - *Replay.* A receiver remembers the counters that it took in a sliding window of the last 1024 or so; older ones and
//!   those seen are dropped. A replayed handshake is dropped by its TAI64N timestamp.
//! - *Which host.* A frame counts as sent by the host whose key opened it. Addresses, outer or inner, prove nothing: the
//!   outer one is only where answers go, and follows a peer that moves.
//! - *Floods.* Handshakes need a MAC under our public key before any Diffie-Hellman is done, and a cookie under load.
//!
//! All of it is WireGuard's (Donenfeld, NDSS 2017, sections 5 and 6), as `boringtun` implements it.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use boringtun::noise::errors::WireGuardError;
use lucarne_model::{HostId, desired::TunnelPeer};

use crate::geneve::{self, Content};
pub use peers::public_key;
use peers::{Peers, Step};

mod peers;
#[cfg(test)]
mod tests;

/// The most that one datagram holds, and so the room that [`Tunnel::receive`] needs.
pub const MAX_DATAGRAM: usize = 1 << 16;

/// Why the tunnel could not be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("the tunnel's UDP socket cannot be bound to {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("the public key of {host} is not 32 octets in base64")]
    PublicKey { host: HostId },
    #[error("{host} and {other} have the same public key")]
    SharedKey { host: HostId, other: HostId },
}

/// What went through and what was dropped, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelCounters {
    pub frames_sent: u64,
    pub frames_received: u64,
    /// No peer of that host is known.
    pub no_peer: u64,
    /// A frame too long, or a network identifier of more than 24 bits.
    pub unfit: u64,
    /// The kernel did not take the datagram.
    pub send_failed: u64,
    /// Not WireGuard, or not Geneve inside.
    pub malformed: u64,
    /// A handshake with a key, or data of a session, that no peer has.
    pub unknown_sender: u64,
    /// The tag does not fit: damaged, forged, or under a key that is gone.
    pub not_authentic: u64,
    /// Seen before, or too old to tell.
    pub replayed: u64,
}

/// One step of [`Tunnel::receive`].
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// `host` sent this frame of the network `vni`.
    Frame { host: HostId, vni: u32, frame: &'a [u8] },
    /// `host` says this to this host's switch, behind all frames that it sent before.
    Word { host: HostId, word: &'a [u8] },
    /// A datagram without a frame, or one that was dropped and counted: ask again.
    Other,
    /// No datagram waits.
    Empty,
}

/// This host's end of the tunnels to all others.
#[derive(Debug)]
pub struct Tunnel {
    socket: UdpSocket,
    local: Ipv4Addr,
    peers: Peers,
    counters: TunnelCounters,
    /// The datagram that is being read.
    datagram: Box<[u8]>,
    /// The datagram that is being written.
    sealed: Box<[u8]>,
    /// The Geneve packet that is being written.
    packet: Vec<u8>,
}

impl Tunnel {
    /// Binds `address`; `secret` is this host's static X25519 key.
    pub fn bind(address: SocketAddr, secret: [u8; 32]) -> Result<Self, TunnelError> {
        let bound = || {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = bound().map_err(|cause| TunnelError::Bind { address, cause })?;
        let local = inner_address(address.ip());
        let [datagram, sealed] = [(); 2].map(|()| vec![0; MAX_DATAGRAM].into_boxed_slice());
        let (peers, counters) = (Peers::new(secret), TunnelCounters::default());
        Ok(Self { socket, local, peers, counters, datagram, sealed, packet: Vec::new() })
    }

    /// Where it is bound, with the port that the kernel chose if none was given.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
    pub fn counters(&self) -> TunnelCounters {
        self.counters
    }
    /// Whether [`Self::tick`] has work.
    pub fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Makes the peers those of the plan; sessions with the ones that stay go on. A new peer is greeted at once, so that
    /// a restarted host replaces the sessions that others still hold with it. On an error nothing is changed.
    pub fn set_peers(&mut self, plan: &[TunnelPeer]) -> Result<(), TunnelError> {
        for host in self.peers.set(plan)? {
            let Some(peer) = self.peers.get_mut(host) else { continue };
            if let Step::Send(length) = peer.greet(&mut self.sealed) {
                self.counters.send(&self.socket, &self.sealed[..length], peer.endpoint);
            }
        }
        Ok(())
    }

    /// Sends a frame of the network `vni` to `host`. During a handshake up to 256 packets wait, then they are dropped.
    pub fn send(&mut self, host: HostId, vni: u32, frame: &[u8]) {
        self.put(host, (Content::Frame, vni), frame);
    }

    /// Says a word to the switch of `host`, behind all frames that were sent before. It may be lost as they may.
    pub fn say(&mut self, host: HostId, word: &[u8]) {
        self.put(host, (Content::Word, 0), word);
    }

    fn put(&mut self, host: HostId, (content, vni): (Content, u32), frame: &[u8]) {
        let Some(peer) = self.peers.get_mut(host) else {
            self.counters.no_peer += 1;
            return;
        };
        let remote = inner_address(peer.endpoint.ip());
        if geneve::encapsulate((self.local, remote), content, vni, frame, &mut self.packet).is_err()
            || self.packet.len() + peers::OVERHEAD > self.sealed.len()
        {
            self.counters.unfit += 1;
            return;
        }
        self.counters.frames_sent += u64::from(content == Content::Frame);
        if let Step::Send(length) = peer.seal(&self.packet, &mut self.sealed) {
            self.counters.send(&self.socket, &self.sealed[..length], peer.endpoint);
        }
    }

    /// Takes one datagram. `into` holds at least [`MAX_DATAGRAM`] octets and lends the frame its room.
    pub fn receive<'a>(&mut self, into: &'a mut [u8]) -> Received<'a> {
        let (length, source) = match self.socket.recv_from(&mut self.datagram) {
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Received::Empty,
            // An ICMP error of something that was sent earlier; it was taken with this call.
            Err(_) => return Received::Other,
        };
        let (host, length) = match self.open(length, source, into) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Received::Other,
            Err(refusal) => {
                self.counters.refuse(&refusal);
                return Received::Other;
            }
        };
        match geneve::decapsulate(&into[..length]) {
            Ok((Content::Frame, vni, frame)) => {
                self.counters.frames_received += 1;
                Received::Frame { host, vni, frame }
            }
            Ok((Content::Word, _, word)) => Received::Word { host, word },
            Err(_) => {
                self.counters.malformed += 1;
                Received::Other
            }
        }
    }

    /// Opens the datagram that was read: whose it is and how long the packet in `into` is, if it carries one.
    fn open(&mut self, length: usize, source: SocketAddr, into: &mut [u8]) -> Result<Option<(HostId, usize)>, Refusal> {
        let datagram = &self.datagram[..length];
        let Some(host) = self.peers.find(datagram, source, &mut self.sealed)? else {
            // A cookie: only its asker can have it, and must ask again with it.
            self.counters.send(&self.socket, &self.sealed[..peers::COOKIE_REPLY], source);
            return Ok(None);
        };
        let peer = self.peers.get_mut(host).ok_or(Refusal::UnknownSender)?;
        let step = peer.open(source, datagram, into)?;
        peer.endpoint = source;
        match step {
            Step::Packet(length) => Ok(Some((host, length))),
            Step::Done => Ok(None),
            Step::Send(length) => {
                self.counters.send(&self.socket, &into[..length], source);
                while let Step::Send(length) = peer.seal_queued(into) {
                    self.counters.send(&self.socket, &into[..length], source);
                }
                Ok(None)
            }
        }
    }

    /// Repeats handshakes and sends keepalives where they are due. To be called every 250 ms while there are peers.
    pub fn tick(&mut self) {
        self.peers.limiter().reset_count();
        for peer in self.peers.iter_mut() {
            if let Step::Send(length) = peer.tick(&mut self.sealed) {
                self.counters.send(&self.socket, &self.sealed[..length], peer.endpoint);
            }
        }
    }
}

impl AsFd for Tunnel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why a datagram was not taken.
enum Refusal {
    UnknownSender,
    Protocol(WireGuardError),
}
impl From<WireGuardError> for Refusal {
    fn from(error: WireGuardError) -> Self {
        Self::Protocol(error)
    }
}

impl TunnelCounters {
    fn send(&mut self, socket: &UdpSocket, datagram: &[u8], to: SocketAddr) {
        // Like any link, this one drops when it is full: the guests' transport protocols repeat.
        self.send_failed += u64::from(socket.send_to(datagram, to).is_err());
    }

    fn refuse(&mut self, refusal: &Refusal) {
        use WireGuardError as E;
        let counter = match refusal {
            Refusal::UnknownSender => &mut self.unknown_sender,
            Refusal::Protocol(E::DuplicateCounter | E::InvalidCounter | E::WrongTai64nTimestamp) => &mut self.replayed,
            Refusal::Protocol(
                E::InvalidAeadTag | E::InvalidMac | E::WrongKey | E::WrongIndex | E::NoCurrentSession,
            ) => &mut self.not_authentic,
            Refusal::Protocol(_) => &mut self.malformed,
        };
        *counter += 1;
    }
}

/// The address of a host in the inner IPv4 header, which nothing reads: an IPv6 host's is left unspecified.
fn inner_address(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}
