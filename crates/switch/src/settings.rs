//! What can be set about the switch, with defaults that work.

use std::time::Duration;

use lucarne_model::flow::Location;

/// The switch's constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where this host stands, as flow records tell it.
    pub location: Location,
    pub flows: lucarne_flows::Settings,
    /// The largest IP packet that a guest may send, told to it by DHCP. Leaves room for the tunnel's headers.
    pub mtu: u16,
    /// How long a DHCP lease holds.
    pub lease: Duration,
    /// For how long after a port appeared its TCP connections are taken up in mid-stream: they are older than the switch.
    pub pickup: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            location: Location::default(),
            flows: lucarne_flows::Settings::default(),
            mtu: 1400,
            lease: Duration::from_secs(3600),
            pickup: Duration::from_secs(60),
        }
    }
}
