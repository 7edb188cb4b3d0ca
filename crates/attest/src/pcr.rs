//! Platform configuration registers: where each measured component goes, how a register grows, and what a quote's digest
//! is taken over.
//!
//! Owns the table, of the SHA-256 bank. What is extended at boot is told by the event log; who extends is the TPM's hand.
//! On a host with a TPM of its own, registers 0 to 9 are its firmware's and its boot loader's, and ours are 11, 12 and 23;
//! on a host whose TPM is a program all of them are ours.

use std::collections::BTreeMap;

use lucarne_model::{Component, evidence::PcrValue, storage::Digest};
use lucarne_statement::sha256;

use crate::wire::{HashAlgorithm, PcrSelection, PcrSelections};

/// Firmware, of the host and for its guests.
pub const FIRMWARE: u8 = 0;
/// Processor, microcode, PCI functions, board.
pub const HARDWARE: u8 = 1;
/// ROMs of PCI functions.
pub const OPTION_ROMS: u8 = 2;
pub const KERNEL_COMMAND_LINE: u8 = 8;
pub const KERNEL: u8 = 9;
/// The hypervisor, the libraries that it maps and the shim.
pub const HYPERVISOR: u8 = 11;
/// The host agent and its configuration.
pub const AGENT: u8 = 12;
/// The guest of one launch: reset before each.
pub const GUEST: u8 = 23;

/// What a quote of ours is taken over.
pub const QUOTED: [u8; 8] = [FIRMWARE, HARDWARE, OPTION_ROMS, KERNEL_COMMAND_LINE, KERNEL, HYPERVISOR, AGENT, GUEST];

/// What a quote of the host alone is taken over.
pub const HOST: [u8; 7] = [FIRMWARE, HARDWARE, OPTION_ROMS, KERNEL_COMMAND_LINE, KERNEL, HYPERVISOR, AGENT];

/// The register that a component is extended into.
pub const fn of(component: Component) -> u8 {
    match component {
        Component::HostFirmware | Component::GuestFirmware => FIRMWARE,
        Component::Cpu | Component::PciFunction | Component::Dmi => HARDWARE,
        Component::OptionRom => OPTION_ROMS,
        Component::KernelCommandLine => KERNEL_COMMAND_LINE,
        Component::Kernel => KERNEL,
        Component::Hypervisor | Component::HypervisorLibrary | Component::Shim => HYPERVISOR,
        Component::Agent | Component::AgentConfiguration => AGENT,
        Component::GuestKernel
        | Component::GuestInitramfs
        | Component::GuestCommandLine
        | Component::VirtualTpm
        | Component::DiskImage
        | Component::WarmState
        | Component::Devices
        | Component::Memory => GUEST,
    }
}

/// What a register of the SHA-256 bank holds once `digest` was extended into it.
pub fn extend(value: [u8; 32], digest: [u8; 32]) -> [u8; 32] {
    sha256(&[&value, &digest])
}

/// The selection that asks for [`QUOTED`], in the SHA-256 bank.
pub fn quoted() -> PcrSelections {
    PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha256, QUOTED)])
}

/// What a TPM's `pcrDigest` must be if the registers had these values; none when a selected register is not among them,
/// or is of another bank than SHA-256.
pub fn digest_of(selections: &PcrSelections, values: &Values, hash: HashAlgorithm) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(32 * QUOTED.len());
    for selection in &selections.0 {
        if selection.bank != HashAlgorithm::Sha256 {
            return None;
        }
        for index in selection.indexes() {
            octets.extend(values.get(index)?);
        }
    }
    Some(hash.digest(&octets))
}

/// Values of registers of the SHA-256 bank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<u8, [u8; 32]>);

impl Values {
    pub fn get(&self, index: u8) -> Option<[u8; 32]> {
        self.0.get(&index).copied()
    }
    pub fn set(&mut self, index: u8, value: [u8; 32]) {
        self.0.insert(index, value);
    }
    /// Extends a register that begins with zeros, as all of [`QUOTED`] do.
    pub fn extend(&mut self, index: u8, digest: [u8; 32]) {
        let value = self.0.entry(index).or_insert([0; 32]);
        *value = extend(*value, digest);
    }
    /// Ascending by index.
    pub fn iter(&self) -> impl Iterator<Item = (u8, [u8; 32])> {
        self.0.iter().map(|(index, value)| (*index, *value))
    }
    pub fn to_evidence(&self) -> Vec<PcrValue> {
        self.iter().map(|(index, value)| PcrValue { index, value: Digest::from_bytes(value) }).collect()
    }
}

impl From<&[PcrValue]> for Values {
    fn from(values: &[PcrValue]) -> Self {
        Self(values.iter().map(|pcr| (pcr.index, pcr.value.to_bytes())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_goes_to_a_register_that_is_quoted() {
        for component in Component::ALL {
            assert!(QUOTED.contains(&of(*component)), "{component}");
            assert_eq!(of(*component) == GUEST, component.is_guests(), "{component}");
        }
    }

    /// The value that a register of zeros takes when 32 zeros are extended: SHA-256 of 64 zeros, as everyone computes it.
    #[test]
    fn extending_is_the_hash_of_the_old_value_and_the_digest() {
        let value = Digest::from_bytes(extend([0; 32], [0; 32]));
        assert_eq!(value.as_str(), "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b");
    }

    #[test]
    fn a_digest_is_taken_in_ascending_order_and_over_all_that_was_selected() {
        let mut values = Values::default();
        values.set(9, [9; 32]);
        values.set(1, [1; 32]);
        let both = PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha256, [9, 1])]);
        let expected = sha256(&[&[1; 32], &[9; 32]]);
        assert_eq!(digest_of(&both, &values, HashAlgorithm::Sha256), Some(expected.to_vec()));
        let more = PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha256, [1, 2, 9])]);
        assert_eq!(digest_of(&more, &values, HashAlgorithm::Sha256), None);
        let weak = PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha1, [1])]);
        assert_eq!(digest_of(&weak, &values, HashAlgorithm::Sha256), None);
    }
}
