//! Link and network addresses: [`MacAddress`] and [`Cidr`].
//!
//! Owns their text form and the arithmetic of subnets. IPv4 only so far; addresses elsewhere are `std::net` types.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address that the virtual router answers with on every subnet.
    pub const ROUTER: Self = Self([0x02, 0x4c, 0x55, 0x43, 0x00, 0x01]);
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// A locally administered unicast address from 40 random bits.
    pub const fn from_bits(bits: u64) -> Self {
        let b = bits.to_be_bytes();
        Self([0x02, b[3], b[4], b[5], b[6], b[7]])
    }
}
impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}
impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an address of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    #[error("`{0}` is not a MAC address such as 02:00:00:00:00:01")]
    Mac(String),
    #[error("`{0}` is not an IPv4 network such as 10.0.0.0/16")]
    Cidr(String),
    #[error("`{given}` has bits set behind its prefix; the network is {network}")]
    HostBits { given: String, network: Cidr },
}

impl FromStr for MacAddress {
    type Err = ParseAddressError;
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let refuse = || ParseAddressError::Mac(text.chars().take(64).collect());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(refuse)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() { Err(refuse()) } else { Ok(Self(octets)) }
    }
}
impl TryFrom<String> for MacAddress {
    type Error = ParseAddressError;
    fn try_from(text: String) -> Result<Self, ParseAddressError> {
        text.parse()
    }
}
impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}
impl JsonSchema for MacAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MacAddress".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"})
    }
}

/// An IPv4 network with no bits behind its prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cidr(Ipv4Net);

impl Cidr {
    /// 0.0.0.0/0.
    pub const ANY: Self = Self(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

    /// The network of this prefix length that an address lies in; none for a length that there is not.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        Ipv4Net::new(address, prefix).ok().map(|net| Self(net.trunc()))
    }
    pub fn network(&self) -> Ipv4Addr {
        self.0.network()
    }
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }
    pub fn netmask(&self) -> Ipv4Addr {
        self.0.netmask()
    }
    pub fn broadcast(&self) -> Ipv4Addr {
        self.0.broadcast()
    }
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }
    /// Whether all of `inner` lies in this network.
    pub fn encloses(&self, inner: &Self) -> bool {
        self.0.contains(&inner.0)
    }
    pub fn overlaps(&self, other: &Self) -> bool {
        self.encloses(other) || other.encloses(self)
    }
    /// The address at `index` from the network address, if it is inside.
    pub fn nth(&self, index: u32) -> Option<Ipv4Addr> {
        let address = u32::from(self.network()).checked_add(index).map(Ipv4Addr::from)?;
        self.contains(address).then_some(address)
    }
    /// The virtual router's address: the first behind the network address.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network()) + 1)
    }
    /// The address of a VPC's resolver: the second behind the network address.
    pub fn resolver(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network()) + 2)
    }
    /// Addresses that machines can have, in order. As in EC2 the first four and the last one are kept back.
    pub fn assignable(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let first = u32::from(self.network()) as u64 + 4;
        let end = u32::from(self.broadcast()) as u64;
        (first..end).map(|n| Ipv4Addr::from(n as u32))
    }
}
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}
impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Cidr {
    type Err = ParseAddressError;
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let short = || text.chars().take(64).collect::<String>();
        let net: Ipv4Net = text.parse().map_err(|_| ParseAddressError::Cidr(short()))?;
        let network = Self(net.trunc());
        if network.0 != net { Err(ParseAddressError::HostBits { given: short(), network }) } else { Ok(network) }
    }
}
impl TryFrom<String> for Cidr {
    type Error = ParseAddressError;
    fn try_from(text: String) -> Result<Self, ParseAddressError> {
        text.parse()
    }
}
impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}
impl JsonSchema for Cidr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cidr".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "An IPv4 network such as 10.0.0.0/16.",
            "pattern": "^[0-9.]{7,15}/[0-9]{1,2}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr() -> impl Strategy<Value = Cidr> {
        (any::<u32>(), 0u8..=32).prop_map(|(a, p)| Cidr(Ipv4Net::new_assert(Ipv4Addr::from(a), p).trunc()))
    }

    proptest! {
        #[test]
        fn networks_read_back_as_written(net in cidr()) {
            prop_assert_eq!(net.to_string().parse::<Cidr>().unwrap(), net);
        }
        #[test]
        fn two_networks_overlap_exactly_when_they_share_an_address(a in cidr(), b in cidr()) {
            let (a0, a1) = (u32::from(a.network()), u32::from(a.broadcast()));
            let (b0, b1) = (u32::from(b.network()), u32::from(b.broadcast()));
            prop_assert_eq!(a.overlaps(&b), a0 <= b1 && b0 <= a1);
        }
        #[test]
        fn macs_read_back_as_written(bits: u64) {
            let mac = MacAddress::from_bits(bits);
            prop_assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
            prop_assert_eq!(mac.0[0] & 1, 0, "unicast");
        }
    }

    #[test]
    fn host_bits_are_refused_with_the_network_that_was_meant() {
        let error = "10.0.0.5/16".parse::<Cidr>().unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/16"));
    }

    #[test]
    fn a_28_has_eleven_assignable_addresses() {
        let net: Cidr = "10.0.0.16/28".parse().unwrap();
        let all: Vec<_> = net.assignable().collect();
        assert_eq!(all.len(), 11);
        assert_eq!(all[0], Ipv4Addr::new(10, 0, 0, 20));
        assert_eq!((net.gateway(), net.resolver()), (Ipv4Addr::new(10, 0, 0, 17), Ipv4Addr::new(10, 0, 0, 18)));
    }
}
