//! What names a flow: [`FlowKey`] at one port of one host, [`flow_id`] everywhere.
//!
//! Owns the layout of the key, its hash, and the id that joins the records of both directions and both ends.

use std::net::Ipv4Addr;

use lucarne_model::{
    EndReason, VpcId,
    security_group::{ICMP, TCP, UDP},
};

/// A connection as one port sees it: `local` is the guest's side. Both directions have the same key, so that one look-up
/// finds the connection whichever way a packet goes.
///
/// A flow that is dropped has a key of its own, made with [`FlowKey::because`]: drops do not mix with a connection that
/// happens to have the same addresses, and each reason has its own record.
///
/// Two words, compared and hashed as such: `local << 32 | remote`, and
/// `port << 45 | reason << 40 | local_port << 24 | remote_port << 8 | protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    addresses: u64,
    rest: u64,
}

const REASON_SHIFT: u32 = 40;
const PORT_SHIFT: u32 = 45;

impl FlowKey {
    /// How many ports a table can tell apart.
    pub const MAX_PORTS: u32 = 1 << (64 - PORT_SHIFT);

    /// `port` is the switch port, below [`MAX_PORTS`](Self::MAX_PORTS); the addresses are in host order. Protocols without
    /// ports put there what tells their exchanges apart; it is not reported.
    #[inline]
    pub const fn new(port: u32, local: u32, remote: u32, local_port: u16, remote_port: u16, protocol: u8) -> Self {
        Self {
            addresses: (local as u64) << 32 | remote as u64,
            rest: (port as u64) << PORT_SHIFT | (local_port as u64) << 24 | (remote_port as u64) << 8 | protocol as u64,
        }
    }

    /// The key of the same ends at another port.
    pub const fn at(self, port: u32) -> Self {
        Self { rest: self.rest & ((1 << PORT_SHIFT) - 1) | (port as u64) << PORT_SHIFT, ..self }
    }

    /// The key of the packets between the same ends that are counted apart for `reason`.
    pub const fn because(self, reason: EndReason) -> Self {
        Self { rest: self.rest & !(0x1f << REASON_SHIFT) | (reason.code() as u64) << REASON_SHIFT, ..self }
    }

    /// The key under which the flows of this port, protocol and reason are counted together when there are too many.
    pub const fn gathered(self) -> Self {
        Self { addresses: 0, rest: self.rest & !(0xffff_ffff << 8) }
    }

    /// Whether it stands for many flows, and so has no addresses.
    pub const fn is_gathered(self) -> bool {
        self.addresses == 0
    }

    /// Why its packets are only counted, and not followed; none for a connection.
    pub const fn reason(self) -> Option<EndReason> {
        EndReason::from_code((self.rest >> REASON_SHIFT) as u8 & 0x1f)
    }
    pub const fn port(self) -> u32 {
        (self.rest >> PORT_SHIFT) as u32
    }
    pub const fn local(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.addresses >> 32) as u32)
    }
    pub const fn remote(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.addresses as u32)
    }
    pub const fn local_port(self) -> u16 {
        (self.rest >> 24) as u16
    }
    pub const fn remote_port(self) -> u16 {
        (self.rest >> 8) as u16
    }
    pub const fn protocol(self) -> u8 {
        self.rest as u8
    }

    /// Local and remote port where the protocol has ports, else zeros.
    pub const fn reported_ports(self) -> (u16, u16) {
        match self.protocol() {
            TCP | UDP => (self.local_port(), self.remote_port()),
            _ => (0, 0),
        }
    }

    #[inline]
    pub(crate) const fn hash(self, seed: Seed) -> u32 {
        let mixed = fold(self.addresses ^ seed.0, self.rest ^ seed.1);
        (fold(mixed ^ seed.2, PHI) >> 16) as u32
    }
}

/// The secret that makes hashes unguessable for guests, who choose most of a key's bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u64, u64, u64);

const PHI: u64 = 0x9e37_79b9_7f4a_7c15;

impl Seed {
    pub(crate) const fn expand(seed: u64) -> Self {
        Self(draw(seed, 1), draw(seed, 2), draw(seed, 3))
    }
}

/// The `n`th word drawn from `seed` (splitmix64).
const fn draw(seed: u64, n: u64) -> u64 {
    let mut word = seed.wrapping_add(PHI.wrapping_mul(n));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The whole product of two words, folded to one: two multiplications hash a key (as wyhash and foldhash do).
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    product as u64 ^ (product >> 64) as u64
}

/// The same number for both directions and at both ends of a flow: a hash of the VPC and the two ends in order of size.
///
/// Unseeded, because hosts must agree on it. For ICMP the identifier of an echo stands in for both ports.
pub fn flow_id(vpc: VpcId, key: FlowKey) -> u64 {
    let (local_port, remote_port) = match key.protocol() {
        ICMP => (key.local_port(), key.local_port()),
        _ => (key.local_port(), key.remote_port()),
    };
    let local = u64::from(key.local().to_bits()) << 16 | u64::from(local_port);
    let remote = u64::from(key.remote().to_bits()) << 16 | u64::from(remote_port);
    let (low, high) = (local.min(remote), local.max(remote));
    let vpc = fold(vpc.bits() as u64 ^ PHI, (vpc.bits() >> 64) as u64 ^ 0xd1b5_4a32_d192_ed03);
    let ends = fold(low ^ vpc, high ^ 0xa076_1d64_78bd_642f);
    fold(ends ^ u64::from(key.protocol()), PHI ^ vpc)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_gives_back_what_it_was_made_of(
            port in 0..FlowKey::MAX_PORTS, local: u32, remote: u32, local_port: u16, remote_port: u16, protocol: u8,
        ) {
            let key = FlowKey::new(port, local, remote, local_port, remote_port, protocol);
            for reason in [None].into_iter().chain(EndReason::ALL.iter().copied().map(Some)) {
                let key = reason.map_or(key, |reason| key.because(reason));
                prop_assert_eq!(key.at(port ^ 1).at(port), key);
                prop_assert_eq!(key.reason(), reason);
                prop_assert_eq!((key.port(), key.protocol()), (port, protocol));
                prop_assert_eq!((key.local().to_bits(), key.remote().to_bits()), (local, remote));
                prop_assert_eq!((key.local_port(), key.remote_port()), (local_port, remote_port));
            }
        }

        #[test]
        fn both_ends_give_a_flow_the_same_id(
            a: u32, b: u32, a_port: u16, b_port: u16, vpc: u128, protocol in prop_oneof![Just(TCP), Just(UDP)],
        ) {
            let vpc = VpcId::from_bits(vpc);
            let here = flow_id(vpc, FlowKey::new(1, a, b, a_port, b_port, protocol));
            let there = flow_id(vpc, FlowKey::new(9, b, a, b_port, a_port, protocol));
            prop_assert_eq!(here, there);
            let elsewhere = VpcId::from_bits(vpc.bits() ^ 1);
            prop_assert_ne!(here, flow_id(elsewhere, FlowKey::new(1, a, b, a_port, b_port, protocol)));
        }
    }

    /// Neighbouring keys, as a scan makes them, must not crowd into the same places of the index.
    #[test]
    fn hashes_of_neighbours_spread_evenly() {
        let mut buckets = vec![0u32; 1024];
        for n in 0..65_536u32 {
            let key = FlowKey::new(3, 0x0a00_0004, 0x0a00_0105, (n >> 8) as u16, n as u16 & 0xff, TCP);
            buckets[key.hash(Seed::expand(7)) as usize & 1023] += 1;
        }
        let (least, most) = (buckets.iter().min().unwrap(), buckets.iter().max().unwrap());
        assert!(*least > 25 && *most < 115, "64 expected in each, {least} to {most} found");
    }
}
