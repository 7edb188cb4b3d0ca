//! Credentials that hosts' TPMs are to open: asked by the controller itself, or by a tenant who waits.
//!
//! Owns who waits for which answer. Each is answered once, within its time, by its own host. They are kept in memory only: a
//! controller that starts anew asks anew, and a tenant's request has ended with the one before.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lucarne_attest::credential::Credential;
use lucarne_model::{
    HostId, Moment,
    tpm::{ChallengeAnswer, DesiredChallenge},
};
use tokio::sync::oneshot;

use crate::{enrolment::Asked, random};

/// How long a TPM has: chips take some seconds, and a host may have more to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Of one host at a time: each takes its TPM some tenths of a second.
const MOST: usize = 16;

/// Who waits for an answer.
#[derive(Debug)]
pub(crate) enum Asker {
    Enrolment(Box<Asked>),
    Tenant(oneshot::Sender<ChallengeAnswer>),
}

#[derive(Debug)]
struct Waiting {
    host: HostId,
    challenge: DesiredChallenge,
    until: Moment,
    asker: Asker,
}

/// More challenges wait for a host than its TPM could answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST} challenges wait for this host's TPM; try again in a moment")]
pub(crate) struct Busy;

#[derive(Debug, Default)]
pub(crate) struct Challenges(Mutex<HashMap<String, Waiting>>);

impl Challenges {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the token by which the host answers.
    pub(crate) fn ask(&self, host: HostId, credential: &Credential, asker: Asker, now: Moment) -> Result<String, Busy> {
        let mut all = self.lock();
        all.retain(|_, waiting| now < waiting.until);
        if all.values().filter(|waiting| waiting.host == host).count() >= MOST {
            return Err(Busy);
        }
        let token = random::secret();
        let challenge = DesiredChallenge {
            token: token.clone(),
            credential_blob: credential.credential_blob.clone().into(),
            encrypted_secret: credential.encrypted_secret.clone().into(),
        };
        all.insert(token.clone(), Waiting { host, challenge, until: now.plus(PATIENCE), asker });
        Ok(token)
    }

    /// What the host is to answer now.
    pub(crate) fn of(&self, host: HostId, now: Moment) -> Vec<DesiredChallenge> {
        let all = self.lock();
        let open = all.values().filter(|waiting| waiting.host == host && now < waiting.until);
        let mut challenges: Vec<_> = open.map(|waiting| waiting.challenge.clone()).collect();
        challenges.sort_by(|a, b| a.token.cmp(&b.token));
        challenges
    }

    /// Whether the host is being asked for its enrolment.
    pub(crate) fn enrols(&self, host: HostId, now: Moment) -> bool {
        let is_open = |waiting: &Waiting| waiting.host == host && now < waiting.until;
        self.lock().values().any(|waiting| is_open(waiting) && matches!(waiting.asker, Asker::Enrolment(_)))
    }

    /// Who waits for the answer that this host gives by this token: once, and in time.
    pub(crate) fn take(&self, host: HostId, token: &str, now: Moment) -> Option<Asker> {
        let mut all = self.lock();
        let is_its_own = all.get(token).is_some_and(|waiting| waiting.host == host && now < waiting.until);
        if is_its_own { all.remove(token).map(|waiting| waiting.asker) } else { None }
    }

    /// What was asked of the host is of no interest any more: of one that presents its TPM anew, its enrolment; else the one
    /// challenge.
    pub(crate) fn give_up(&self, token: &str) {
        self.lock().remove(token);
    }

    pub(crate) fn give_up_enrolment(&self, host: HostId) {
        self.lock().retain(|_, waiting| waiting.host != host || !matches!(waiting.asker, Asker::Enrolment(_)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId::from_bits(1);
    const NOW: Moment = Moment::from_secs(100);

    fn credential() -> Credential {
        Credential { credential_blob: vec![1], encrypted_secret: vec![2] }
    }

    fn tenant() -> Asker {
        Asker::Tenant(oneshot::channel().0)
    }

    #[test]
    fn a_challenge_is_answered_once_in_time_and_by_its_own_host() {
        let challenges = Challenges::default();
        let token = challenges.ask(HOST, &credential(), tenant(), NOW).unwrap();
        assert_eq!(challenges.of(HOST, NOW).len(), 1);
        assert_eq!(challenges.of(HostId::from_bits(2), NOW), []);
        assert!(challenges.take(HostId::from_bits(2), &token, NOW).is_none(), "another host's");
        assert!(challenges.take(HOST, &token, NOW.plus(PATIENCE)).is_none(), "expired");
        assert!(challenges.take(HOST, &token, NOW).is_some());
        assert!(challenges.take(HOST, &token, NOW).is_none(), "replayed");
        assert_eq!(challenges.of(HOST, NOW), []);
    }

    #[test]
    fn so_many_may_wait_for_a_host_and_those_whose_time_is_over_do_not_count() {
        let challenges = Challenges::default();
        for _ in 0..MOST {
            challenges.ask(HOST, &credential(), tenant(), NOW).unwrap();
        }
        assert_eq!(challenges.ask(HOST, &credential(), tenant(), NOW), Err(Busy));
        assert!(challenges.ask(HostId::from_bits(2), &credential(), tenant(), NOW).is_ok());
        assert!(challenges.ask(HOST, &credential(), tenant(), NOW.plus(PATIENCE)).is_ok());
        assert_eq!(challenges.of(HOST, NOW.plus(PATIENCE)).len(), 1);
    }
}
