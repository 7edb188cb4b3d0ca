//! Whether a request is carried out here and now: all checks, in one place and in one order.
//!
//! Owns what holds whatever the grants say: host, instance, generation, account, time, once only. Nothing is carried out by
//! what it returns: the host writes the [`Mark`] to disk, holds it in its [`Ledger`], writes its log, and then acts.

use std::collections::BTreeMap;

use lucarne_model::{AccountId, HostId, InstanceId, Moment, storage::Digest};

use crate::{
    grant::Grants,
    ledger::{Ledger, Mark},
    operation::{Layer, OperationName},
    refusal::Refusal,
    request::{Nonce, Request, RequestId, TargetInstance},
    standing::{Occurrence, Scope, Standing},
    trust::{Channel, Opened, Person, Signer, Trust},
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
    pub life: Life,
    /// Whether its account wants to sign itself what is done to it.
    pub cosigned: bool,
}

/// Whether a generation of an instance has its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Runs,
    /// It is over, and its disks are on the host. All that can be asked of it is another one.
    Stopped,
}

/// A request that may be carried out, or may stand, once its mark is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted<R = Request> {
    pub opened: Opened<R>,
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
        let mark = self.judge_opened(&opened, site, ledger, now)?;
        Ok(Admitted { opened, mark })
    }

    /// Judges a request whose signatures were checked, and gives what is to be remembered of it.
    pub fn judge_opened(&self, opened: &Opened, site: &Site, ledger: &Ledger, now: Moment) -> Result<Mark, Refusal> {
        let terms = opened.request.terms();
        // Of a fleet it is one that is meant, or none is.
        let meant = terms.target.key_of(site.host).map(|key| (site.host, key));
        let meant = meant.unwrap_or((terms.target.host, &terms.target.host_key));
        check_host(opened.request.operation().name(), meant, site)?;
        check_time((terms.not_before, terms.not_after), terms.beacon, site, ledger, now)?;
        self.check(opened, site, ledger, now)
    }

    /// Judges a standing request that somebody brought: whether it may stand. Each time of it is judged when it comes.
    pub fn judge_standing(
        &self,
        octets: &[u8],
        channel: Channel,
        site: &Site,
        ledger: &Ledger,
        now: Moment,
    ) -> Result<Admitted<Standing>, Refusal> {
        let opened = self.open_standing(octets, channel, site, now)?;
        let terms = opened.request.terms();
        check_time((terms.not_before, terms.not_after), None, site, ledger, now)?;
        let mark = mark(&opened, terms.not_after, now);
        ledger.judge(&mark)?;
        Ok(Admitted { opened, mark })
    }

    /// Judges one time of a standing request that stands, as if what is asked then came now, signed by the same people.
    pub fn judge_occurrence(
        &self,
        octets: &[u8],
        channel: Channel,
        occurrence: &Occurrence,
        site: &Site,
        ledger: &Ledger,
        now: Moment,
    ) -> Result<Admitted, Refusal> {
        let Opened { id, request, signers } = self.open_standing(octets, channel, site, now)?;
        let terms = request.terms();
        check_time((terms.not_before, terms.not_after), None, site, ledger, now)?;
        let foreign = |held: &TargetInstance| !request.concerns(held.id, held.account);
        if let Some(instance) = occurrence.instance.filter(foreign) {
            return Err(Refusal::OutOfScope(instance.id));
        }
        let made = request.occurrence(&id, occurrence, now);
        let (id, request) = made.map_err(|error| Refusal::Request(error.to_string()))?;
        // Authenticators counted when the standing request came.
        let uncounted = |signer: Signer| Signer { counters: Vec::new(), ..signer };
        let signers = signers.into_iter().map(|(person, signer)| (person, uncounted(signer))).collect();
        let opened = Opened { id, request, signers };
        let mark = self.check(&opened, site, ledger, now)?;
        Ok(Admitted { opened, mark })
    }

    /// A standing request that is this host's and that its signers may have asked for by their accounts.
    fn open_standing(
        &self,
        octets: &[u8],
        channel: Channel,
        site: &Site,
        now: Moment,
    ) -> Result<Opened<Standing>, Refusal> {
        let opened = self.trust.open_of::<Standing>(octets, channel, now)?;
        let terms = opened.request.terms();
        check_host(opened.request.operation().name(), (terms.host, &terms.host_key), site)?;
        let account = match terms.scope {
            Scope::Host => AccountId::OPERATOR,
            Scope::Account(account) | Scope::Instance { account, .. } => account,
        };
        check_signers(&opened.signers, account)?;
        Ok(opened)
    }

    /// What is checked of every single request, once its host and time are right.
    fn check(&self, opened: &Opened, site: &Site, ledger: &Ledger, now: Moment) -> Result<Mark, Refusal> {
        let account = check_instance(opened, site)?;
        let (wanted, own) = (opened.request.terms().lowest_policy, self.grants.version());
        if own < wanted {
            return Err(Refusal::PolicyOld { wanted, own });
        }
        self.grants.judge(opened, account, now)?;
        let mark = mark(opened, opened.request.terms().not_after, now);
        ledger.judge(&mark)?;
        Ok(mark)
    }
}

fn mark<R>(opened: &Opened<R>, not_after: Moment, now: Moment) -> Mark {
    let counters = opened.signers.values().flat_map(|signer| signer.counters.clone()).collect();
    Mark { id: opened.id.clone(), not_after, taken: now, counters }
}

/// What these octets are called in receipts and logs, whatever comes of them.
pub fn name(octets: &[u8]) -> RequestId {
    crate::trust::read_envelope(octets).map_or_else(|_| RequestId::of_octets(octets), |it| RequestId::of(&it))
}

fn check_host(operation: OperationName, (host, key): (HostId, &Digest), site: &Site) -> Result<(), Refusal> {
    let Some(own) = site.keys.get(&operation.layer()) else {
        return Err(Refusal::OtherLayer { operation, own: key.clone() });
    };
    if own == key && site.host == host {
        return Ok(());
    }
    let own = own.clone();
    if site.host == host && site.keys.values().any(|other| other == key) {
        return Err(Refusal::OtherLayer { operation, own });
    }
    Err(Refusal::OtherHost { asked: key.clone(), own })
}

fn check_time(
    (not_before, not_after): (Moment, Moment),
    beacon: Option<Nonce>,
    site: &Site,
    ledger: &Ledger,
    now: Moment,
) -> Result<(), Refusal> {
    if now < not_before {
        return Err(Refusal::NotYet { not_before, now });
    }
    if now > not_after {
        return Err(Refusal::Expired { not_after, now });
    }
    // A beacon that is named must be a good one; it must be named when time alone does not say that the request is new.
    let named = beacon.map(|beacon| site.beacons.contains(&beacon));
    let doubtful = site.clock_doubtful || ledger.clock_went_back(now);
    if named.unwrap_or(!doubtful) { Ok(()) } else { Err(Refusal::Beacon) }
}

/// Whose the target is: what the request says of it must be what the host knows of it, and tenants stay with their own.
fn check_instance(opened: &Opened, site: &Site) -> Result<AccountId, Refusal> {
    let is_start = opened.request.operation().name() == OperationName::GuestStart;
    let account = match &opened.request.target().instance {
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
            if held.life == Life::Stopped && !is_start {
                return Err(Refusal::Stopped(asked.id));
            }
            if held.cosigned && !opened.signers.values().any(|signer| signer.account == held.account) {
                return Err(Refusal::Cosignature(held.account));
            }
            held.account
        }
    };
    check_signers(&opened.signers, account)?;
    Ok(account)
}

/// Tenants stay with their own.
fn check_signers(signers: &BTreeMap<Person, Signer>, account: AccountId) -> Result<(), Refusal> {
    let foreign = |of: AccountId| of != account && of != AccountId::OPERATOR;
    match signers.iter().find(|(_, signer)| foreign(signer.account)) {
        Some((person, signer)) => Err(Refusal::ForeignSigner { person: person.clone(), account: signer.account }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
