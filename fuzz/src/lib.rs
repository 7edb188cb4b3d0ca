//! What is thrown at our readers of foreign octets until one falls over, each with what must hold of its answer.
//!
//! Owns the targets, and octets for each that it understands, from which a fuzzer goes on. The fuzzer is libFuzzer, started
//! by `cargo xtask fuzz`. Property tests beside the readers know more of what they should answer; a fuzzer sees which
//! branches its octets reach, and gets behind checks that random ones do not pass.

mod frames;
mod proofs;
mod recordings;
mod records;
mod seals;
mod walks;

/// A reader, and what it is tried with.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Panics if the reader falls over or something that must hold does not. Tells whether the octets were understood.
    pub run: fn(&[u8]) -> bool,
    /// Octets that are understood.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 15] = [
    Target { name: "ipfix", run: records::ipfix, seeds: records::ipfix_seeds },
    Target { name: "foreign-flows", run: records::foreign, seeds: records::foreign_seeds },
    Target { name: "switch", run: frames::switch, seeds: frames::seeds },
    Target { name: "geneve", run: frames::geneve, seeds: frames::geneve_seeds },
    Target { name: "pcap", run: frames::pcap, seeds: frames::pcap_seeds },
    Target { name: "recordings", run: recordings::recording, seeds: recordings::recording_seeds },
    Target { name: "event-log", run: proofs::event_log, seeds: proofs::event_log_seeds },
    Target { name: "tpm-structures", run: proofs::structures, seeds: proofs::structure_seeds },
    Target { name: "certificates", run: proofs::certificates, seeds: proofs::certificate_seeds },
    Target { name: "manifests", run: proofs::manifests, seeds: proofs::manifest_seeds },
    Target { name: "sealed-requests", run: seals::requests, seeds: seals::request_seeds },
    Target { name: "ssh-signatures", run: seals::ssh, seeds: seals::ssh_seeds },
    Target { name: "age-files", run: seals::age, seeds: seals::age_seeds },
    Target { name: "seal-statements", run: seals::statements, seeds: seals::statement_seeds },
    Target { name: "page-tables", run: walks::page_tables, seeds: walks::page_table_seeds },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_understands_what_a_fuzzer_begins_from() {
        for target in &TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has nothing to begin from", target.name);
            for (number, seed) in seeds.iter().enumerate() {
                assert!((target.run)(seed), "{} does not understand its seed {number}", target.name);
            }
            assert!(!(target.run)(&[]), "{} understands nothing at all", target.name);
        }
    }

    #[test]
    fn no_cut_seed_makes_a_reader_fall_over() {
        for target in &TARGETS {
            for seed in (target.seeds)() {
                // Everywhere in a small one; in a large one at a thousand places.
                for cut in (0..seed.len()).step_by(seed.len() / 1000 + 1) {
                    (target.run)(&seed[..cut]);
                }
            }
        }
    }
}
