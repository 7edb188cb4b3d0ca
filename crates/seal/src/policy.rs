//! What a host goes by: whose signatures count there and what they may ask for, signed by its operator's policy key.
//!
//! Owns the document and when a host takes a new one: only from the key that it was given when it was set up, and only with
//! a higher version than it ever had. Whoever carries it can hold it back, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lucarne_model::{AccountId, HostId, storage::Digest};
use lucarne_statement::{
    canonical,
    signing::{Envelope, EnvelopeSignature, PublicKey, SigningError, Statement},
};
use serde::{Deserialize, Serialize};

use crate::{
    grant::{GrantError, Grants},
    judge::Rules,
    key::VerifyingKey,
    trust::{Authority, Enrolled, Person, Signer, Trust},
};

/// Larger policies are not read.
pub const MOST_OCTETS: usize = 512 << 10;
/// The longest that an entry of the log stays a commitment: a year.
pub const LONGEST_EMBARGO: u64 = 366 * 24 * 3600;

/// Why a policy is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("the policy has {found} octets; {MOST_OCTETS} are read")]
    TooLarge { found: usize },
    #[error("the policy: {0}")]
    Signature(#[from] SigningError),
    #[error("the policy is of version {offered}; version {held} was taken before, and another must be newer")]
    NotNewer { offered: u64, held: u64 },
    #[error("key {0} is in the policy twice")]
    KeyTwice(Digest),
    #[error("key {0} is a shared secret, and a policy is carried by those who must not know it")]
    Secret(Digest),
    #[error("an embargo of {0} seconds is longer than a year")]
    Embargo(u64),
    #[error(transparent)]
    Grants(#[from] GrantError),
}

/// One version of what hosts go by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub version: u64,
    pub people: Vec<Enrolled>,
    pub authorities: Vec<Authority>,
    /// Keys, authorities and certificates that do not count any more.
    pub revoked: BTreeSet<Digest>,
    /// Policies in Cedar, each under a name.
    pub grants: BTreeMap<String, String>,
    /// Accounts that sign themselves what is done to their instances.
    pub cosigned: BTreeSet<AccountId>,
    pub embargoes: Vec<Embargo>,
    /// The policy key's signature over each host's [`Card`](crate::card::Card), which the host then shows with its card.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vouched: BTreeMap<HostId, EnvelopeSignature>,
}

/// What this person asks for is logged as a commitment at first, and opened when the time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embargo {
    pub person: Person,
    pub account: AccountId,
    pub seconds: u64,
}

impl Statement for Policy {
    const TYPE: &'static str = "application/vnd.lucarne.seal-policy.v1+json";
}

impl Policy {
    /// The policy in these octets and the rules that it makes, if `key` signed it and it is newer than version `held`.
    pub fn accept(octets: &[u8], key: &PublicKey, held: u64) -> Result<(Self, Rules), PolicyError> {
        if octets.len() > MOST_OCTETS {
            return Err(PolicyError::TooLarge { found: octets.len() });
        }
        let envelope: Envelope = canonical::read(octets).map_err(SigningError::Statement)?;
        let policy: Self = key.open(&envelope)?;
        if policy.version <= held {
            return Err(PolicyError::NotNewer { offered: policy.version, held });
        }
        let rules = policy.rules()?;
        Ok((policy, rules))
    }

    /// What a host judges by under this policy, if it makes sense.
    pub fn rules(&self) -> Result<Rules, PolicyError> {
        let mut keys = BTreeSet::new();
        let all = self.people.iter().map(|person| &person.key).chain(self.authorities.iter().map(|one| &one.key));
        for key in all {
            if matches!(key, VerifyingKey::Hmac(_)) {
                return Err(PolicyError::Secret(key.id()));
            }
            if !keys.insert(key.id()) {
                return Err(PolicyError::KeyTwice(key.id()));
            }
        }
        if let Some(long) = self.embargoes.iter().find(|embargo| embargo.seconds > LONGEST_EMBARGO) {
            return Err(PolicyError::Embargo(long.seconds));
        }
        let mut trust = Trust::default();
        self.people.iter().cloned().for_each(|person| trust.enrol(person));
        self.authorities.iter().cloned().for_each(|authority| trust.recognise(authority));
        self.revoked.iter().cloned().for_each(|id| trust.revoke(id));
        let text: Vec<&str> = self.grants.values().map(String::as_str).collect();
        Ok(Rules { trust, grants: Grants::compile(self.version, &text.join("\n"))? })
    }

    /// For how long what these people ask for is under embargo, if it is.
    pub fn embargo(&self, signers: &BTreeMap<Person, Signer>) -> Option<Duration> {
        let concerns =
            |embargo: &&Embargo| signers.get(&embargo.person).is_some_and(|signer| signer.account == embargo.account);
        self.embargoes.iter().filter(concerns).map(|embargo| Duration::from_secs(embargo.seconds)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        example::{GRANTS, HOUR, NOW, TENANT, host_key, key, octets, person, read, request, signed, site, terms},
        key::SharedSecret,
        ledger::Ledger,
        refusal::Refusal,
        trust::Channel,
    };

    fn policy(version: u64) -> Policy {
        let key = VerifyingKey::Ed25519(key(1).public());
        Policy {
            version,
            people: vec![Enrolled { person: person("alice"), account: AccountId::OPERATOR, key, until: None }],
            grants: BTreeMap::from([("reads".to_owned(), GRANTS.to_owned())]),
            ..Policy::default()
        }
    }
    fn carried(policy: &Policy, by: u8) -> Vec<u8> {
        octets(&key(by).sign(policy).expect("an envelope"))
    }

    /// A host without a policy refuses everything; by one it carries out what that permits.
    #[test]
    fn a_policy_makes_the_rules_that_a_host_judges_by() {
        let asked = octets(&signed(&request(read(64), terms()), &[1]));
        let judge = |rules: &Rules| rules.judge(&asked, Channel::Carried, &site(), &Ledger::default(), NOW);
        let none = Policy::default().rules().expect("rules");
        assert!(matches!(judge(&none), Err(Refusal::UnknownKey(_))));
        let (_, rules) = Policy::accept(&carried(&policy(3), 90), &key(90).public(), 2).expect("a policy");
        assert!(judge(&rules).is_ok());
    }

    /// Attack: freeze, roll back or replace the host's policy.
    #[test]
    fn a_policy_is_taken_from_its_key_only_and_never_an_older_one() {
        let accept =
            |octets: &[u8], held| Policy::accept(octets, &key(90).public(), held).map(|(policy, _)| policy.version);
        let good = carried(&policy(3), 90);
        assert_eq!(accept(&good, 2), Ok(3));
        assert_eq!(accept(&good, 3), Err(PolicyError::NotNewer { offered: 3, held: 3 }));
        assert_eq!(accept(&good, 4), Err(PolicyError::NotNewer { offered: 3, held: 4 }));
        assert!(matches!(accept(&carried(&policy(3), 91), 2), Err(PolicyError::Signature(_))));
        let mut spaced = good.clone();
        spaced.push(b' ');
        assert!(matches!(accept(&spaced, 2), Err(PolicyError::Signature(_))));
        assert!(matches!(accept(&vec![b' '; MOST_OCTETS + 1], 2), Err(PolicyError::TooLarge { .. })));
        // What the key signed as something else is no policy.
        let request = octets(&key(90).sign(&request(read(1), terms())).expect("an envelope"));
        assert!(matches!(accept(&request, 2), Err(PolicyError::Signature(_))));
        assert_ne!(host_key().public(), key(90).public());
    }

    #[test]
    fn what_makes_no_sense_is_not_taken() {
        let refused = |change: fn(&mut Policy)| {
            let mut policy = policy(3);
            change(&mut policy);
            policy.rules().expect_err("refused")
        };
        assert!(matches!(refused(|it| it.people.push(it.people[0].clone())), PolicyError::KeyTwice(_)));
        let secret =
            |it: &mut Policy| it.people[0].key = VerifyingKey::Hmac(SharedSecret::new(vec![1; 32]).expect("one"));
        assert!(matches!(refused(secret), PolicyError::Secret(_)));
        assert!(matches!(refused(|it| drop(it.grants.insert("x".into(), "permit(".into()))), PolicyError::Grants(_)));
        let long = |it: &mut Policy| {
            it.embargoes.push(Embargo { person: person("a"), account: TENANT, seconds: LONGEST_EMBARGO + 1 });
        };
        assert!(matches!(refused(long), PolicyError::Embargo(_)));
    }

    #[test]
    fn an_embargo_is_of_one_person_of_one_account() {
        let mut policy = policy(3);
        let embargo = |account| Embargo { person: person("alice"), account, seconds: HOUR.as_secs() };
        let signers =
            BTreeMap::from([(person("alice"), Signer { account: AccountId::OPERATOR, counters: Vec::new() })]);
        policy.embargoes = vec![embargo(TENANT)];
        assert_eq!(policy.embargo(&signers), None);
        policy.embargoes.push(embargo(AccountId::OPERATOR));
        assert_eq!(policy.embargo(&signers), Some(HOUR));
    }
}
