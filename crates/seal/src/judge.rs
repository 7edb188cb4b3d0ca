//! Whether a request is carried out here and now: all checks, in one place and in one order.
//!
//! Owns what holds whatever the grants say: host, instance, generation, account, time, once only. Nothing is carried out by
//! what it returns: the host writes the [`Mark`] to disk, holds it in its [`Ledger`], writes its log, and then acts.

use std::collections::BTreeMap;

use lucarne_model::{AccountId, HostId, InstanceId, Moment, storage::Digest};

use crate::{
    grant::Grants,
    ledger::{Ledger, Mark},
    operation::Layer,
    refusal::Refusal,
    request::{Nonce, Request, RequestId, Target},
    trust::{Channel, Opened, Trust},
};

/// What a host holds, by its own word and nobody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub host: HostId,
    /// The id of the host's key for each layer; what it has no key for, it does not carry out.
    pub keys: BTreeMap<Layer, Digest>,
    pub instances: BTreeMap<InstanceId, Held>,
    /// What the host said last; a request that names one of them was made after that.
    pub beacons: Vec<Nonce>,
    /// Whether its clock is known to be wrong, or cannot be checked.
    pub clock_doubtful: bool,
}

/// An instance on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub account: AccountId,
    pub generation: u64,
    /// Whether its account wants to sign itself what is done to it.
    pub cosigned: bool,
}

/// A request that may be carried out, once its mark is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub opened: Opened,
    pub mark: Mark,
}

/// What a host judges requests by.
#[derive(Clone, Debug)]
pub struct Rules {
    pub trust: Trust,
    pub grants: Grants,
}

impl Rules {
    /// Judges the octets that somebody brought.
    pub fn judge(
        &self,
        octets: &[u8],
        channel: Channel,
        site: &Site,
        ledger: &Ledger,
        now: Moment,
    ) -> Result<Admitted, Refusal> {
        let opened = self.trust.open(octets, channel, now)?;
        check_host(&opened.request, site)?;
        check_time(&opened.request, site, ledger, now)?;
        let account = check_instance(opened.request.target(), &opened, site)?;
        let (wanted, own) = (opened.request.terms().lowest_policy, self.grants.version());
        if own < wanted {
            return Err(Refusal::PolicyOld { wanted, own });
        }
        self.grants.judge(&opened, account, now)?;
        let counters = opened.signers.values().flat_map(|signer| signer.counters.clone()).collect();
        let not_after = opened.request.terms().not_after;
        let mark = Mark { id: opened.id.clone(), not_after, taken: now, counters };
        ledger.judge(&mark)?;
        Ok(Admitted { opened, mark })
    }
}

/// What these octets are called in receipts and logs, whatever comes of them.
pub fn name(octets: &[u8]) -> RequestId {
    crate::trust::read_envelope(octets).map_or_else(|_| RequestId::of_octets(octets), |it| RequestId::of(&it))
}

fn check_host(request: &Request, site: &Site) -> Result<(), Refusal> {
    let (target, operation) = (request.target(), request.operation().name());
    let Some(own) = site.keys.get(&operation.layer()) else {
        return Err(Refusal::OtherLayer { operation, own: target.host_key.clone() });
    };
    if *own == target.host_key && site.host == target.host {
        return Ok(());
    }
    let own = own.clone();
    if site.host == target.host && site.keys.values().any(|key| *key == target.host_key) {
        return Err(Refusal::OtherLayer { operation, own });
    }
    Err(Refusal::OtherHost { asked: target.host_key.clone(), own })
}

fn check_time(request: &Request, site: &Site, ledger: &Ledger, now: Moment) -> Result<(), Refusal> {
    let terms = request.terms();
    if now < terms.not_before {
        return Err(Refusal::NotYet { not_before: terms.not_before, now });
    }
    if now > terms.not_after {
        return Err(Refusal::Expired { not_after: terms.not_after, now });
    }
    // A beacon that is named must be a good one; it must be named when time alone does not say that the request is new.
    let named = terms.beacon.map(|beacon| site.beacons.contains(&beacon));
    let doubtful = site.clock_doubtful || ledger.clock_went_back(now);
    if named.unwrap_or(!doubtful) { Ok(()) } else { Err(Refusal::Beacon) }
}

/// Whose the target is: what the request says of it must be what the host knows of it, and tenants stay with their own.
fn check_instance(target: &Target, opened: &Opened, site: &Site) -> Result<AccountId, Refusal> {
    let account = match &target.instance {
        None => AccountId::OPERATOR,
        Some(asked) => {
            let held = site.instances.get(&asked.id).ok_or(Refusal::NoInstance(asked.id))?;
            if held.account != asked.account {
                return Err(Refusal::OtherAccount { instance: asked.id, asked: asked.account });
            }
            if held.generation != asked.generation {
                let (asked_generation, held_generation) = (asked.generation, held.generation);
                return Err(Refusal::OtherGeneration {
                    instance: asked.id,
                    asked: asked_generation,
                    held: held_generation,
                });
            }
            if held.cosigned && !opened.signers.values().any(|signer| signer.account == held.account) {
                return Err(Refusal::Cosignature(held.account));
            }
            held.account
        }
    };
    let foreign = |of: AccountId| of != account && of != AccountId::OPERATOR;
    match opened.signers.iter().find(|(_, signer)| foreign(signer.account)) {
        Some((person, signer)) => Err(Refusal::ForeignSigner { person: person.clone(), account: signer.account }),
        None => Ok(account),
    }
}

#[cfg(test)]
mod tests;
