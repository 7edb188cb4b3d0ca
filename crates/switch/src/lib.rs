//! The switch: frames of guests in, verdicts and frames out.
//!
//! The core is pure: [`Switch`] is given a [`plan::Plan`], frames and the time, and answers through [`Output`]. It parses
//! ([`parse`]), checks sources, answers ARP, DHCP, DNS and NTP, routes, judges by the security groups, and keeps the flow table of
//! [`lucarne_flows`]. What touches the system stands in the shell beside it: sockets, the tunnel, the metadata service.

mod admission;
mod arp;
pub mod counters;
mod cut;
mod datagram;
mod delivery;
mod dhcp;
mod dns;
mod duplicates;
mod exchange;
mod fabric;
pub mod geneve;
mod groups;
mod guest;
mod keyed;
pub mod memory;
mod metadata;
mod mitigation;
mod names;
mod network_acl;
mod ntp;
pub mod output;
pub mod parse;
pub mod plan;
pub mod ports;
mod rewrite;
mod routing;
mod service;
mod settings;
pub mod shell;
mod switch;
#[cfg(test)]
mod tests;
pub mod tunnel;

pub use counters::{FrameCounters, Malformed, PortCounters};
pub use output::{Output, PortIndex};
pub use plan::Plan;
pub use settings::Settings;
pub use shell::{ShellError, SwitchHandle};
pub use switch::Switch;
