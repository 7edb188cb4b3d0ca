//! The policy that this host goes by, and the key from which alone it takes one.
//!
//! Owns its file, which also says which version was the highest ever taken. A host that was given no key has no policy, and
//! refuses everything; so does one whose file cannot be read, until it hears of a newer policy than it knows of.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use lucarne_model::{AccountId, HostId, Octets};
use lucarne_seal::{
    card::Card,
    judge::Rules,
    key::VerifyingKey,
    policy::{Policy, PolicyError},
    trust::Enrolled,
};
use lucarne_statement::signing::{Envelope, PublicKey};

use crate::durable::{self, Outlives};

/// Who signs with the secret that lies on this host itself, for what is automated on it.
const AUTOMATION: &str = "automation";

/// Why a policy that was carried here is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RejectedPolicy {
    #[error("this host was given no key of a seal policy")]
    NoKey,
    #[error(transparent)]
    Refused(#[from] PolicyError),
    #[error("{path}: {cause}")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

#[derive(Debug)]
pub(crate) struct StandingPolicy {
    path: PathBuf,
    key: Option<PublicKey>,
    policy: Policy,
    rules: Rules,
    /// As it was carried.
    octets: Octets,
    /// A secret of this host's root, which the policy cannot bring: it counts for requests that are made here.
    automation: Option<Enrolled>,
}

impl StandingPolicy {
    /// What was taken last is read again as if it came just now; none counts that another key signed.
    pub(crate) fn open(folder: &Path, key: Option<PublicKey>) -> Result<Self, PolicyError> {
        let none = Policy::default();
        let rules = none.rules()?;
        let automation = read_automation(&folder.join("automation.key"));
        let path = folder.join("policy.json");
        let mut standing = Self { path, key, policy: none, rules, octets: Octets::default(), automation };
        standing.install(Policy::default())?;
        if let Ok(octets) = fs::read(&standing.path)
            && let Err(error) = standing.accept(&octets)
        {
            tracing::error!(path = %standing.path.display(), error = &error as &dyn std::error::Error, "the seal policy that was kept is not used");
        }
        Ok(standing)
    }

    /// Takes a newer policy. It is on disk before it counts, so that no older one is taken after a restart.
    pub(crate) fn take(&mut self, octets: &Octets) -> Result<(), RejectedPolicy> {
        if *octets == self.octets {
            return Ok(());
        }
        let before = (self.policy.clone(), self.octets.clone());
        self.accept(octets)?;
        if let Err(cause) = durable::replace(&self.path, octets, Outlives::PowerCut) {
            self.octets = before.1;
            self.install(before.0)?;
            return Err(RejectedPolicy::File { path: self.path.clone(), cause });
        }
        Ok(())
    }

    fn accept(&mut self, octets: &[u8]) -> Result<(), RejectedPolicy> {
        let key = self.key.as_ref().ok_or(RejectedPolicy::NoKey)?;
        let (policy, _) = Policy::accept(octets, key, self.policy.version)?;
        self.install(policy)?;
        self.octets = octets.into();
        Ok(())
    }

    fn install(&mut self, policy: Policy) -> Result<(), PolicyError> {
        let mut rules = policy.rules()?;
        if let Some(automation) = &self.automation {
            rules.trust.enrol(automation.clone());
        }
        (self.policy, self.rules) = (policy, rules);
        Ok(())
    }

    /// A host's card, with the operator's word for it where the policy has that.
    pub(crate) fn vouch(&self, host: HostId, card: &Envelope) -> Option<Envelope> {
        let (word, key) = (self.policy.vouched.get(&host)?, self.key.as_ref()?);
        Card::with_word(card.clone(), word, key)
    }
    pub(crate) const fn rules(&self) -> &Rules {
        &self.rules
    }
    pub(crate) const fn policy(&self) -> &Policy {
        &self.policy
    }
    pub(crate) const fn cosigned(&self) -> &BTreeSet<AccountId> {
        &self.policy.cosigned
    }
}

/// The secret that this host's root put here, if there is one.
fn read_automation(path: &Path) -> Option<Enrolled> {
    let key: VerifyingKey = fs::read_to_string(path).ok()?.parse().ok()?;
    let person = AUTOMATION.parse().ok()?;
    matches!(key, VerifyingKey::Hmac(_)).then_some(Enrolled { person, account: AccountId::OPERATOR, key, until: None })
}

#[cfg(test)]
mod tests {
    use lucarne_statement::{canonical, signing::SigningKey};

    use super::*;

    fn key(octet: u8) -> SigningKey {
        SigningKey::from_seed([octet; 32]).unwrap()
    }
    fn policy(version: u64, by: u8) -> Octets {
        let policy = Policy { version, ..Policy::default() };
        canonical::write(&key(by).sign(&policy).unwrap()).unwrap().into()
    }

    /// Attack: freeze, roll back or replace the policy, with a restart between.
    #[test]
    fn a_host_takes_newer_policies_of_its_own_key_and_never_goes_back() {
        let place = tempfile::tempdir().unwrap();
        let open = || StandingPolicy::open(place.path(), Some(key(1).public())).unwrap();
        let mut standing = open();
        assert_eq!(standing.policy().version, 0);
        standing.take(&policy(3, 1)).unwrap();
        standing.take(&policy(3, 1)).unwrap();
        let mut standing = open();
        assert_eq!(standing.policy().version, 3);
        for refused in [policy(2, 1), policy(4, 2), b"{}"[..].into()] {
            assert!(matches!(standing.take(&refused), Err(RejectedPolicy::Refused(_))));
        }
        standing.take(&policy(4, 1)).unwrap();
        assert!(matches!(
            open().take(&policy(3, 1)),
            Err(RejectedPolicy::Refused(PolicyError::NotNewer { held: 4, .. }))
        ));
    }

    #[test]
    fn a_policy_that_cannot_be_kept_does_not_count() {
        let place = tempfile::tempdir().unwrap();
        let mut standing = StandingPolicy::open(&place.path().join("missing"), Some(key(1).public())).unwrap();
        assert!(matches!(standing.take(&policy(3, 1)), Err(RejectedPolicy::File { .. })));
        assert_eq!(standing.policy().version, 0);
    }

    #[test]
    fn without_a_key_no_policy_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let mut standing = StandingPolicy::open(place.path(), None).unwrap();
        assert!(matches!(standing.take(&policy(3, 1)), Err(RejectedPolicy::NoKey)));
    }
}
