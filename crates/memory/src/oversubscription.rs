//! Oversubscription: how much memory may be promised on a host that has less.
//!
//! Owns the arithmetic that placement goes by when it promises, and the governor when it must keep the promises: a
//! generic VM is promised its memory, and can count on that divided by the factor.

use lucarne_model::{Bytes, Pages};

use crate::settings::{FLOOR, Keeping};

/// What an operator allows on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversubscription {
    /// Thousandths by which generic VMs' promises may exceed what there is: 1000 promises nothing twice.
    pub factor: u32,
    /// Kept free for generic VMs that grow at once.
    pub unallocated: Bytes,
    /// At most this becomes the compressed pool.
    pub pool: Bytes,
}

/// What an instance takes of a host's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// For as long as it is there.
    pub firm: Bytes,
    /// Must be left at the time of its launch, beside the firm claims of the others; at least `firm`.
    pub at_start: Bytes,
}

impl Default for Oversubscription {
    fn default() -> Self {
        Self { factor: 1000, unallocated: Bytes::ZERO, pool: Bytes::ZERO }
    }
}

impl Oversubscription {
    /// What can be claimed of a host with `total` memory, of which `overhead` is its own.
    pub fn room(&self, total: Bytes, overhead: Bytes) -> Bytes {
        total - overhead - self.unallocated - self.pool
    }

    /// What a VM kept so claims. A soaker has no firm claim: it has what others leave.
    pub fn claim(&self, keeping: &Keeping) -> Claim {
        if keeping.is_soaker() {
            return Claim { firm: Bytes::ZERO, at_start: keeping.minimum_starting.bytes() };
        }
        let share = self.share(keeping).bytes();
        Claim { firm: share, at_start: share }
    }

    /// Whether a host with this room, of which `claimed` is firmly taken, may have one more.
    pub fn has_room(&self, room: Bytes, claimed: Bytes, claim: Claim) -> bool {
        claimed + claim.at_start <= room
    }

    /// What a generic VM can always count on: all that is pinned, else its memory divided by the factor.
    pub fn share(&self, keeping: &Keeping) -> Pages {
        if keeping.pinned {
            return keeping.memory;
        }
        let factor = u128::from(self.factor.max(1000));
        let share = (u128::from(keeping.memory.0) * 1000).div_ceil(factor) as u64;
        Pages(share).max(Pages::covering(FLOOR))
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::memory::{MemoryMode, MemorySettings};
    use proptest::prelude::*;

    use super::*;

    fn keeping(mib: u64, settings: MemorySettings) -> Keeping {
        Keeping::new(&settings, Bytes::mib(mib)).unwrap()
    }

    #[test]
    fn twice_as_much_may_be_promised_and_what_is_pinned_counts_whole() {
        let rule = Oversubscription { factor: 2000, unallocated: Bytes::mib(100), pool: Bytes::mib(200) };
        let room = rule.room(Bytes::gib(2), Bytes::mib(248));
        assert_eq!(room, Bytes::mib(1500));
        let plain = rule.claim(&keeping(256, MemorySettings::default()));
        assert_eq!(plain, Claim { firm: Bytes::mib(128), at_start: Bytes::mib(128) });
        let pinned = rule.claim(&keeping(256, MemorySettings { pinned: true, ..MemorySettings::default() }));
        assert_eq!(pinned.firm, Bytes::mib(256));
        let soaker =
            rule.claim(&keeping(256, MemorySettings { mode: MemoryMode::Soaker, ..MemorySettings::default() }));
        assert_eq!(soaker, Claim { firm: Bytes::ZERO, at_start: Bytes::mib(64) });
        assert!(rule.has_room(room, Bytes::mib(1372), plain) && !rule.has_room(room, Bytes::mib(1373), plain));
    }

    #[test]
    fn a_factor_below_one_is_one() {
        let rule = Oversubscription { factor: 10, ..Oversubscription::default() };
        assert_eq!(rule.share(&keeping(256, MemorySettings::default())), Pages::mib(256));
    }

    proptest! {
        /// However a host is filled by `has_room`, all firm claims fit at once, and no more than the factor is promised.
        #[test]
        fn what_was_let_in_fits(factor in 1000_u32..5000, sizes in proptest::collection::vec((4_u64..500, any::<bool>()), 1..60)) {
            let rule = Oversubscription { factor, ..Oversubscription::default() };
            let room = rule.room(Bytes::mib(2000), Bytes::mib(100));
            let (mut claimed, mut promised) = (Bytes::ZERO, 0_u128);
            for (mib, pinned) in sizes {
                let claim = rule.claim(&keeping(mib, MemorySettings { pinned, ..MemorySettings::default() }));
                if rule.has_room(room, claimed, claim) {
                    claimed = claimed + claim.firm;
                    promised += u128::from(Bytes::mib(mib).0);
                }
            }
            prop_assert!(claimed <= room);
            prop_assert!(promised * 1000 <= u128::from(room.0) * u128::from(factor));
        }
    }
}
