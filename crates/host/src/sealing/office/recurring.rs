//! The office and standing requests: they are taken once, and each of their times is taken as if somebody had brought it.
//!
//! Owns what is added to the office for that: that a time of one asks for the same of each guest that it concerns, that one which
//! watches has its time when something is unusual, and that what was refused is in the log once.

use lucarne_model::{AccountId, Moment, Octets, sealing::SealStanding, storage::Digest};
use lucarne_seal::{
    judge::{Admitted, Life},
    log::{Asked, Verdict},
    operation::Layer,
    receipt::{Outcome, Receipt},
    request::{RequestId, TargetInstance},
    standing::{Occurrence, Rhythm, Sampling, Scope, Seed, Standing, occurrence_id},
    trust::{Person, Signer},
};
use lucarne_statement::{canonical, signing::Envelope};
use std::{collections::BTreeMap, time::Duration};

use super::{Office, Taken, Work, channel};
use crate::sealing::{
    beacons::Clocks,
    desk::Carrier,
    keys::{HostKeys, signed},
    shelf::Stay,
    standing_requests::Due,
    watching::Figures,
};

/// What the times of a standing request follow from: none foresees them, and this host cannot choose them.
pub(super) fn seed(keys: &HostKeys, standing: &RequestId) -> Option<Seed> {
    sampling(keys, standing).map(|envelope| Seed::of(&envelope))
}

fn sampling(keys: &HostKeys, standing: &RequestId) -> Option<Envelope> {
    keys.of(Layer::Guest).sign(&Sampling { standing: standing.clone() }).ok()
}

impl Office {
    pub(super) fn take_standing(&mut self, octets: &[u8], carrier: Carrier, now: Moment) -> Taken {
        if self.standing.is_full() {
            return Taken::Busy;
        }
        let (rules, site) = (self.policy.rules(), self.site());
        let judged = rules.judge_standing(octets, channel(carrier), &site, &self.register.ledger, now);
        let Admitted { opened, mark } = match judged {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse(octets, None, &refusal, now),
        };
        let (id, standing) = (opened.id, opened.request);
        let Some(seed) = seed(&self.keys, &id) else { return Taken::Unavailable };
        // Its place in the log is the next one: nothing else is entered in between.
        let log_index = self.register.head(self.host, now).size;
        let (request, outcome) = (id.clone(), Outcome::Stands);
        let (occurrence, quote) = (None, None);
        let receipt = Receipt { request, host: self.host, time: now, log_index, occurrence, outcome, quote };
        let receipt = match signed(self.keys.of(standing.operation().name().layer()), &receipt) {
            Ok(receipt) => receipt,
            Err(error) => return self.unavailable(&error),
        };
        let asked = asked(&standing, &opened.signers);
        let written = (octets.into(), carrier, receipt.into());
        if let Err(error) = self.standing.keep(&id, written, &opened.signers, (standing, seed), now) {
            return self.unavailable(&error);
        }
        match self.enter(asked, &opened.signers, (&id, Verdict::Allowed, Some(mark)), now) {
            Ok(_) => {
                tracing::info!(request = %id, "a standing request was taken");
                Taken::Stands { request: id }
            }
            Err(error) => {
                self.standing.give_up(&id);
                self.unavailable(&error)
            }
        }
    }

    /// When a standing request is due next.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.standing.next_due()
    }

    /// What is to be done now for standing requests, as far as there is `room` for it; what is left is due again.
    pub(crate) fn due(&mut self, clocks: Clocks, room: usize) -> Vec<Work> {
        let mut works = Vec::new();
        for due in self.standing.due(clocks.now) {
            if self.take_times(&due, room, clocks.now, &mut works) {
                self.standing.pass(&due.id, clocks.now);
            }
        }
        works
    }

    /// Takes one number of a standing request for all that it concerns; whether all of it was judged.
    fn take_times(&mut self, due: &Due, room: usize, now: Moment, works: &mut Vec<Work>) -> bool {
        self.concerned(&due.standing).into_iter().all(|instance| self.take_time(due, instance, room, now, works))
    }

    /// What is to be done at once because something is unusual, for those who signed that they watch for it.
    pub(crate) fn unusual(&mut self, figures: &Figures, clocks: Clocks, room: usize) -> Vec<Work> {
        let mut works = Vec::new();
        for due in self.standing.watching(clocks.now) {
            let Some(watch) = due.standing.watch() else { continue };
            for instance in self.concerned(&due.standing) {
                let of_it = figures.get(&instance.map(|it| it.id));
                let Some(figure) = of_it.and_then(|figures| watch.unusual(figures)) else { continue };
                let before = works.len();
                self.take_time(&due, instance, room, clocks.now, &mut works);
                if works.len() > before {
                    let guest = instance.map(|it| it.id.to_string()).unwrap_or_default();
                    tracing::warn!(request = %due.id, guest, "something is unusual: {figure}");
                }
            }
        }
        works
    }

    /// Takes one number of a standing request for one target; whether it was judged.
    fn take_time(
        &mut self,
        due: &Due,
        instance: Option<TargetInstance>,
        room: usize,
        now: Moment,
        works: &mut Vec<Work>,
    ) -> bool {
        let occurrence = Occurrence { number: due.number, instance };
        let id = occurrence_id(&due.id, &occurrence);
        if self.standing.is_judged(&due.id, &id) || self.register.ledger.holds(&id) {
            return true;
        }
        if works.len() >= room || self.shelf.is_full() {
            return false;
        }
        let (rules, site) = (self.policy.rules(), self.site());
        let channel = channel(due.carrier);
        let judged = rules.judge_occurrence(&due.octets, channel, &occurrence, &site, &self.register.ledger, now);
        let taken = match judged {
            Ok(Admitted { opened, mark }) => {
                let kept = Duration::from_secs(due.standing.terms().kept_seconds.get());
                let stay = Stay { carrier: due.carrier, kept, of: Some((due.id.clone(), occurrence)) };
                self.admit(opened, mark, stay, now)
            }
            Err(refusal) => {
                tracing::warn!(request = %id, code = %refusal.code(), "a time of a standing request was refused: {refusal}");
                let mut asked = asked(&due.standing, &due.signers);
                // The guest's tenant reads it, if nobody who signed is under embargo.
                asked.account = instance.map_or(AccountId::OPERATOR, |it| it.account);
                asked.instance = instance.map(|it| it.id);
                let verdict = (&id, Verdict::Refused(refusal.code()), None);
                match self.enter(asked, &due.signers, verdict, now) {
                    Ok(_) => Taken::Stands { request: id.clone() },
                    Err(error) => self.unavailable(&error),
                }
            }
        };
        match taken {
            Taken::Work(work) => works.push(*work),
            Taken::Busy | Taken::Unavailable => return false,
            Taken::Refused { .. } | Taken::Stands { .. } => {}
        }
        self.standing.judged(&due.id, id);
        true
    }

    fn concerned(&self, standing: &Standing) -> Vec<Option<TargetInstance>> {
        if standing.operation().name().layer() == Layer::Host {
            return vec![None];
        }
        let runs = self.instances.iter().filter(|one| one.life == Life::Runs);
        let here = runs.filter(|one| standing.concerns(one.instance, one.account));
        let target = |one: &super::Present| TargetInstance {
            id: one.instance,
            generation: one.generation,
            account: one.account,
        };
        here.map(|one| Some(target(one))).collect()
    }

    pub(super) fn look_standing(&self, request: &Digest, carrier: Carrier, now: Moment) -> Option<SealStanding> {
        let id: RequestId = request.clone().into();
        let (receipt, standing) = self.standing.find(&id, carrier)?;
        let (receipt, until) = (receipt.clone(), standing.terms().not_after);
        let times = self.shelf.of_standing(&id).iter().map(|id| id.digest().clone()).collect();
        // Nobody foresees an instant as long as one is to come.
        let is_shown = now > until && matches!(standing.terms().rhythm, Rhythm::Sampled(_));
        let sampling = is_shown.then(|| sampling(&self.keys, &id)).flatten();
        let sampling = sampling.and_then(|envelope| canonical::write(&envelope).ok()).map(Octets::from);
        Some(SealStanding::Stands { request: request.clone(), receipt, until, times, sampling })
    }
}

fn asked(standing: &Standing, signers: &BTreeMap<Person, Signer>) -> Asked {
    let (account, instance) = match standing.terms().scope {
        Scope::Host => (AccountId::OPERATOR, None),
        Scope::Account(account) => (account, None),
        Scope::Instance { id, account } => (account, Some(id)),
    };
    Asked {
        operation: standing.operation().name(),
        instance,
        account,
        signers: signers.keys().cloned().collect(),
        purpose: standing.terms().purpose.to_string(),
    }
}
