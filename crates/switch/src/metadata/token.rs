//! Session tokens: proof that whoever asks could send a `PUT` and read its answer.
//!
//! Owns their making and checking. A token is its expiry and a MAC over interface and expiry under a key that only the
//! switch has (HMAC-SHA256, RFC 2104). So nothing is stored: a guest that fetches a million tokens costs no memory, and
//! tokens outlive a restart of the host agent. They are not secret from the instance, and worth nothing at another.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use lucarne_model::{InterfaceId, Moment};
use ring::hmac;

const EXPIRY: usize = 8;
/// Half of the MAC: 128 bits cannot be guessed, and the header stays short.
const TAG: usize = 16;

/// Makes and checks tokens.
#[derive(Debug)]
pub(super) struct Tokens(hmac::Key);

impl Tokens {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A token for the instance behind `interface`, valid for `ttl` from `now`.
    pub(super) fn issue(&self, interface: InterfaceId, ttl: Duration, now: Moment) -> String {
        let expiry = now.plus(ttl).as_micros().to_be_bytes();
        let tag = hmac::sign(&self.0, &signed(interface, expiry));
        URL_SAFE_NO_PAD.encode([&expiry, &tag.as_ref()[..TAG]].concat())
    }

    /// Compares in constant time.
    pub(super) fn is_valid(&self, interface: InterfaceId, token: &[u8], now: Moment) -> bool {
        let mut decoded = [0; EXPIRY + TAG];
        if URL_SAFE_NO_PAD.decode_slice(token, &mut decoded) != Ok(EXPIRY + TAG) {
            return false;
        }
        let (expiry, given) = decoded.split_at(EXPIRY);
        let expiry: [u8; EXPIRY] = expiry.try_into().unwrap_or_default();
        let tag = hmac::sign(&self.0, &signed(interface, expiry));
        let difference = given.iter().zip(tag.as_ref()).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0 && now.as_micros() < u64::from_be_bytes(expiry)
    }
}

fn signed(interface: InterfaceId, expiry: [u8; EXPIRY]) -> Vec<u8> {
    [&b"metadata token"[..], &interface.bits().to_be_bytes(), &expiry].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: InterfaceId = InterfaceId::from_bits(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Moment = Moment::from_secs(1_000_000);

    #[test]
    fn a_token_holds_for_its_time_and_its_interface() {
        let tokens = Tokens::new(&[7; 32]);
        let token = tokens.issue(MINE, HOUR, NOW);
        let valid = |tokens: &Tokens, interface, token: &str, now| tokens.is_valid(interface, token.as_bytes(), now);
        assert!(valid(&tokens, MINE, &token, NOW));
        assert!(valid(&tokens, MINE, &token, NOW.plus(Duration::from_secs(3599))));
        assert!(!valid(&tokens, MINE, &token, NOW.plus(HOUR)), "expired");
        assert!(!valid(&tokens, InterfaceId::from_bits(2), &token, NOW), "of another instance");
        assert!(!valid(&Tokens::new(&[8; 32]), MINE, &token, NOW), "of another host");
        assert!(valid(&Tokens::new(&[7; 32]), MINE, &token, NOW), "from before a restart");
    }

    #[test]
    fn no_changed_character_is_accepted() {
        let tokens = Tokens::new(&[7; 32]);
        let token = tokens.issue(MINE, HOUR, NOW).into_bytes();
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(!tokens.is_valid(MINE, &changed, NOW), "character {at}");
            assert!(!tokens.is_valid(MINE, &token[..at], NOW), "cut at {at}");
        }
        assert!(!tokens.is_valid(MINE, &[token, b"A".to_vec()].concat(), NOW));
    }
}
