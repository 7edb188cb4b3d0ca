//! The one place where this crate draws random numbers: ids and secrets. Owns nothing.

use lucarne_model::ResourceId;
use ring::rand::{SecureRandom, SystemRandom};

pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The kernel's generator does not fail once it is seeded, and nothing safe can be done without it.
    SystemRandom::new().fill(&mut bytes).expect("the system has no random numbers");
    bytes
}

pub(crate) fn bits() -> u128 {
    u128::from_ne_bytes(bytes())
}

/// An id that nobody has.
pub(crate) fn id<I: ResourceId>() -> I {
    I::from_bits(bits())
}

/// 256 bits as 64 hexadecimal digits.
pub(crate) fn secret() -> String {
    bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect()
}
