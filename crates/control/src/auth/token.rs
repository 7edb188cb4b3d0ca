//! Bearer tokens: which access key they were made from and when they end, under the controller's own HMAC.
//!
//! Owns their form and their lifetime. They are checked without the store; whether the key still exists is asked of
//! [`super::Principals`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use lucarne_model::Moment;
use ring::hmac;

/// Makes and checks tokens. All controllers on one store share it.
#[derive(Debug)]
pub(crate) struct TokenKey(hmac::Key);

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is not one of this controller's")]
    Foreign,
    #[error("the token has expired; get another with the access key")]
    Expired,
}

impl TokenKey {
    pub(crate) const LIFETIME: Duration = Duration::from_secs(3600);

    pub(crate) fn new(secret: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    /// A token for the bearer of the access key `key`, and when it ends.
    pub(crate) fn issue(&self, key: &str, now: Moment) -> (String, Moment) {
        let expires = now.plus(Self::LIFETIME);
        let claim = format!("{key}.{}", expires.as_micros());
        let mac = URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, claim.as_bytes()));
        (format!("{claim}.{mac}"), expires)
    }

    /// The id of the access key that the token was made from.
    pub(crate) fn verify(&self, token: &str, now: Moment) -> Result<String, TokenError> {
        let (claim, mac) = token.rsplit_once('.').ok_or(TokenError::Foreign)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| TokenError::Foreign)?;
        hmac::verify(&self.0, claim.as_bytes(), &mac).map_err(|_| TokenError::Foreign)?;
        let (key, expires) = claim.split_once('.').ok_or(TokenError::Foreign)?;
        let expires: u64 = expires.parse().map_err(|_| TokenError::Foreign)?;
        if now.as_micros() < expires { Ok(key.into()) } else { Err(TokenError::Expired) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment::from_secs(1_000_000);

    #[test]
    fn a_token_names_its_key_until_its_hour_is_over() {
        let key = TokenKey::new("a");
        let (token, expires) = key.issue("LK1", NOW);
        assert_eq!(key.verify(&token, NOW).as_deref(), Ok("LK1"));
        assert_eq!(key.verify(&token, expires), Err(TokenError::Expired));
        assert_eq!(TokenKey::new("b").verify(&token, NOW), Err(TokenError::Foreign));
    }

    proptest! {
        #[test]
        fn a_token_with_one_byte_changed_is_refused(at: prop::sample::Index, to in "[ -~]") {
            let key = TokenKey::new("a");
            let (token, _) = key.issue("LK1", NOW);
            let at = at.index(token.len());
            let mut changed = token.clone();
            changed.replace_range(at..=at, &to);
            // The last character of unpadded base64 holds bits that mean nothing; they are refused too.
            prop_assert!(changed == token || key.verify(&changed, NOW).is_err());
        }
    }
}
