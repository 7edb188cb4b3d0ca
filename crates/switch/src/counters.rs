//! Counts of frames: each frame that enters the switch ends in exactly one of them.
//!
//! Owns the list of reasons for which a frame is dropped before it can be a flow, [`Malformed`]. What is dropped as a flow
//! is counted by its [`EndReason`].

use std::collections::BTreeMap;

use lucarne_model::EndReason;

macro_rules! malformed {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal;)*) => {
        /// Why a frame was dropped without becoming part of a flow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Malformed { $($(#[doc = $doc])* $name,)* }

        impl Malformed {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The name under which it is counted.
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

malformed! {
    /// The frame names a port that the switch does not have (any more).
    UnknownPort = "unknown-port";
    /// Shorter than its headers say.
    Truncated = "truncated";
    /// Longer than the MTU and an Ethernet header.
    Oversized = "oversized";
    /// Carries an 802.1Q or 802.1ad tag.
    VlanTagged = "vlan-tagged";
    /// IPv6, which the switch does not carry yet.
    Ipv6 = "ipv6";
    /// Neither ARP nor IP.
    UnknownEtherType = "unknown-ether-type";
    /// Not version 4, or a header length below 20 bytes.
    BadIpHeader = "bad-ip-header";
    /// The checksum of the IP header is wrong.
    BadChecksum = "bad-checksum";
    /// An IP option asks for a route of its own (RFC 7126 section 4.3 says to drop those).
    SourceRouted = "source-routed";
    /// A TCP, UDP or ICMP header that contradicts the packet's length.
    BadTransportHeader = "bad-transport-header";
    /// ARP that is malformed, from a false sender, or says what nobody asked.
    ArpIgnored = "arp-ignored";
    /// DHCP that is malformed, for another server, or needs no answer.
    DhcpIgnored = "dhcp-ignored";
    /// A question to the resolver that is cut short, or none.
    DnsIgnored = "dns-ignored";
    /// To the network's clock, and no request of a client.
    NtpIgnored = "ntp-ignored";
    /// From the tunnel, for a network or an interface that is not here.
    TunnelNoTarget = "tunnel-no-target";
    /// From the tunnel, with a source that does not live on the host that sent it.
    TunnelFalseSource = "tunnel-false-source";
}

/// What became of the frames so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameCounters {
    /// All frames that entered, from guests, the tunnel and the metadata service.
    pub received: u64,
    /// Given to a guest of this host.
    pub to_guests: u64,
    /// Sent to another host.
    pub to_tunnel: u64,
    /// Given to the metadata service.
    pub to_metadata: u64,
    /// Answered by the switch itself: ARP, DHCP, DNS, NTP, an echo of the gateway.
    pub answered: u64,
    /// Not given on, by reason: [`Malformed::name`] or [`EndReason::name`].
    pub dropped: BTreeMap<&'static str, u64>,
}

/// The same in the form that is cheap to count in.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) received: u64,
    pub(crate) to_guests: u64,
    pub(crate) to_tunnel: u64,
    pub(crate) to_metadata: u64,
    pub(crate) answered: u64,
    malformed: [u64; Malformed::ALL.len()],
    rejected: [u64; EndReason::ALL.len() + 1],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            received: 0,
            to_guests: 0,
            to_tunnel: 0,
            to_metadata: 0,
            answered: 0,
            malformed: [0; Malformed::ALL.len()],
            rejected: [0; EndReason::ALL.len() + 1],
        }
    }
}

impl Tally {
    pub(crate) fn malformed(&mut self, why: Malformed) {
        self.malformed[why as usize] += 1;
    }
    pub(crate) fn rejected(&mut self, why: EndReason) {
        self.rejected[usize::from(why.code())] += 1;
    }

    pub(crate) fn counters(&self) -> FrameCounters {
        let malformed = Malformed::ALL.iter().map(|why| (why.name(), self.malformed[*why as usize]));
        let rejected = EndReason::ALL.iter().map(|why| (why.name(), self.rejected[usize::from(why.code())]));
        FrameCounters {
            received: self.received,
            to_guests: self.to_guests,
            to_tunnel: self.to_tunnel,
            to_metadata: self.to_metadata,
            answered: self.answered,
            dropped: malformed.chain(rejected).filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// Packets and bytes that went one way; bytes are those of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub packets: u64,
    pub bytes: u64,
}

/// What one port saw. The records of a port add up to `egress` and `ingress` exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// IPv4 packets from the guest, carried or dropped.
    pub egress: Sum,
    /// IPv4 packets to the guest, carried or dropped.
    pub ingress: Sum,
    /// Frames between guest and switch that are no flow: ARP.
    pub aside: u64,
}
