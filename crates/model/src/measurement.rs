//! What is measured of a host and of one launch: a closed list of components, and one digest of each thing found.
//!
//! Owns the words. Which platform register a component goes to, how it is written into an event log and what is to be
//! thought of it is the room `attest`'s; reading files and registers is the hands'.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::storage::Digest;

macro_rules! components {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What kind of thing a measurement is of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Component { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl Component {
            /// All of them, a host's first and then a guest's, in the order in which they are measured.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

components! {
    /// The firmware that the host itself started with.
    HostFirmware = "host-firmware";
    /// A firmware that the host gives its guests: SeaBIOS, OVMF.
    GuestFirmware = "guest-firmware";
    /// The ROM of a PCI function of the host.
    OptionRom = "option-rom";
    /// Model, stepping and microcode of the processor.
    Cpu = "cpu";
    /// What a PCI function says that it is: vendor, device, class, revision.
    PciFunction = "pci-function";
    /// The table in which the board says what it is (SMBIOS).
    Dmi = "dmi";
    Kernel = "kernel";
    KernelCommandLine = "kernel-command-line";
    /// The QEMU binary.
    Hypervisor = "hypervisor";
    /// A library that the hypervisor maps.
    HypervisorLibrary = "hypervisor-library";
    /// The library that is loaded into the hypervisor for guests whose memory is moved.
    Shim = "shim";
    /// The host agent's binary.
    Agent = "agent";
    AgentConfiguration = "agent-configuration";
    GuestKernel = "guest-kernel";
    GuestInitramfs = "guest-initramfs";
    GuestCommandLine = "guest-command-line";
    /// A disk's content as the guest first sees it.
    DiskImage = "disk-image";
    /// The saved state that the guest goes on from instead of booting.
    WarmState = "warm-state";
    /// The virtual devices, as the hypervisor is told them.
    Devices = "devices";
    /// Size and kind of the guest's memory.
    Memory = "memory";
    /// The certificate of the endorsement key of the guest's own TPM, which a program that is measured with the host plays.
    VirtualTpm = "virtual-tpm";
}

impl Component {
    /// Whether it belongs to one launch; all others belong to the host and are the same for every launch on it.
    pub const fn is_guests(self) -> bool {
        self as u8 >= Self::GuestKernel as u8
    }
    /// Whether it is another for each instance, so that nobody can know it before.
    pub const fn is_instances_own(self) -> bool {
        matches!(self, Self::VirtualTpm)
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a component that is measured")]
pub struct ParseComponentError(pub String);

impl std::str::FromStr for Component {
    type Err = ParseComponentError;
    fn from_str(text: &str) -> Result<Self, ParseComponentError> {
        let found = Self::ALL.iter().find(|component| component.name() == text);
        found.copied().ok_or_else(|| ParseComponentError(text.chars().take(64).collect()))
    }
}

/// One thing, and the SHA-256 digest of its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    pub component: Component,
    /// Which of its kind: a path's base name, a PCI address, an image's id.
    pub name: String,
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_has_one_name_in_text_and_in_json() {
        for component in Component::ALL {
            assert_eq!(component.name().parse(), Ok(*component));
            let json = serde_json::to_string(component).expect("a text");
            assert_eq!(json, format!("\"{component}\""));
        }
        assert!("firmware".parse::<Component>().is_err());
    }

    #[test]
    fn a_launch_has_components_of_its_own() {
        let guests: Vec<_> = Component::ALL.iter().filter(|component| component.is_guests()).collect();
        assert_eq!(guests.len(), 8);
        assert!(!Component::GuestFirmware.is_guests(), "a host has one firmware for all its guests");
    }
}
