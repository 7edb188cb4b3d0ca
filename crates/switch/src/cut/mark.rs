//! The word between switches at a cut: a host's guests stand still, and what they sent before has gone ahead.
//!
//! Owns its layout: version, flags, and the replica that the cut is for. When it is sent is [`Cut`](super::Cut)'s decision.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::ReplicaId;

/// What one switch tells another of itself, beside that it has marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The receiver's mark has come.
    pub(crate) has_yours: bool,
    /// Whether it wants to be told that this one came.
    pub(crate) asks: bool,
}

const VERSION: u8 = 1;
const HAS_YOURS: u8 = 1;
const ASKS: u8 = 2;
/// Octets of a mark.
pub(crate) const LENGTH: usize = 18;

impl Mark {
    pub(crate) fn encode(self, replica: ReplicaId) -> [u8; LENGTH] {
        let mut octets = [0; LENGTH];
        octets[0] = VERSION;
        octets[1] = (u8::from(self.has_yours) * HAS_YOURS) | (u8::from(self.asks) * ASKS);
        octets[2..].copy_from_slice(&replica.bits().to_be_bytes());
        octets
    }

    /// None when it is none, or of a version that is not known.
    pub(crate) fn decode(octets: &[u8]) -> Option<(ReplicaId, Self)> {
        let octets: &[u8; LENGTH] = octets.try_into().ok()?;
        let [version, flags, replica @ ..] = *octets;
        let known = version == VERSION && flags & !(HAS_YOURS | ASKS) == 0;
        let replica = ReplicaId::from_bits(u128::from_be_bytes(replica));
        known.then_some((replica, Self { has_yours: flags & HAS_YOURS != 0, asks: flags & ASKS != 0 }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_mark_reads_back_as_it_was_written(has_yours: bool, asks: bool, replica: u128) {
            let (mark, replica) = (Mark { has_yours, asks }, ReplicaId::from_bits(replica));
            prop_assert_eq!(Mark::decode(&mark.encode(replica)), Some((replica, mark)));
        }

        #[test]
        fn no_octets_make_the_reader_panic(octets in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Mark::decode(&octets);
        }
    }

    #[test]
    fn another_version_is_no_mark() {
        let mut octets = Mark { has_yours: true, asks: true }.encode(ReplicaId::from_bits(7));
        octets[0] = 2;
        assert_eq!(Mark::decode(&octets), None);
    }
}
