//! Whose instances are, as this host heard of each first.
//!
//! Owns the file that keeps it over restarts, so that a controller cannot give an instance to another account by having the agent
//! start anew. What was not here for a long time is forgotten; an instance that is here never is.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use lucarne_model::{AccountId, InstanceId, Moment};
use serde::{Deserialize, Serialize};

use super::office::Present;
use crate::durable::{self, Outlives};

/// Longer than an instance is stopped that anybody still knows of.
const KEPT: Duration = Duration::from_secs(90 * 86_400);
/// How exactly it is kept when one was here last.
const EXACT: Duration = Duration::from_secs(86_400);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Heard {
    account: AccountId,
    /// When it was here last, or up to a day before.
    seen: Moment,
}

#[derive(Debug)]
pub(super) struct Owners {
    path: PathBuf,
    heard: BTreeMap<InstanceId, Heard>,
}

impl Owners {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let heard = match fs::read(path) {
            Ok(octets) => serde_json::from_slice(&octets)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), heard })
    }

    /// Hears what is here; what is new is on disk before anything is judged by it. Says of whom another account is named by now.
    pub(super) fn hear(&mut self, instances: &[Present], now: Moment) -> io::Result<Vec<(Present, AccountId)>> {
        let before = self.heard.clone();
        let mut contradicted = Vec::new();
        for present in instances {
            let new = Heard { account: present.account, seen: now };
            let heard = self.heard.entry(present.instance).or_insert(new);
            if now.since(heard.seen) > EXACT {
                heard.seen = now;
            }
            if heard.account != present.account {
                contradicted.push((*present, heard.account));
            }
        }
        let is_here = |instance: &InstanceId| instances.iter().any(|present| present.instance == *instance);
        self.heard.retain(|instance, heard| is_here(instance) || now.since(heard.seen) <= KEPT);
        if self.heard != before
            && let Err(error) = durable::replace(&self.path, &serde_json::to_vec(&self.heard)?, Outlives::PowerCut)
        {
            // By what a restart would forget nothing is judged.
            self.heard = before;
            return Err(error);
        }
        Ok(contradicted)
    }

    pub(super) fn of(&self, instance: InstanceId) -> Option<AccountId> {
        self.heard.get(&instance).map(|heard| heard.account)
    }
}

#[cfg(test)]
mod tests {
    use lucarne_seal::judge::Life;

    use super::*;

    const FIRST: AccountId = AccountId::from_bits(5);
    const OTHER: AccountId = AccountId::from_bits(6);
    const NOW: Moment = Moment::from_secs(1_800_000_000);

    fn here(account: AccountId) -> Present {
        Present { instance: InstanceId::from_bits(7), account, generation: 1, life: Life::Runs }
    }

    #[test]
    fn what_was_heard_first_holds_over_restarts_and_absences_for_as_long_as_it_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("owners.json");
        let instance = here(FIRST).instance;
        let mut owners = Owners::open(&path).unwrap();
        assert_eq!(owners.hear(&[here(FIRST)], NOW).unwrap(), []);
        let mut owners = Owners::open(&path).unwrap();
        assert_eq!(owners.hear(&[], NOW.plus(EXACT)).unwrap(), [], "it is stopped");
        let later = NOW.plus(KEPT);
        assert_eq!(owners.hear(&[here(OTHER)], later).unwrap(), [(here(OTHER), FIRST)]);
        assert_eq!(Owners::open(&path).unwrap().of(instance), Some(FIRST));
        // It was seen again meanwhile, and counts from then on.
        owners.hear(&[], later.plus(KEPT)).unwrap();
        assert_eq!(owners.of(instance), Some(FIRST));
        owners.hear(&[], later.plus(KEPT).plus(EXACT)).unwrap();
        assert_eq!(Owners::open(&path).unwrap().of(instance), None);
    }

    #[test]
    fn what_cannot_be_kept_does_not_count_and_what_cannot_be_read_opens_no_office() {
        let place = tempfile::tempdir().unwrap();
        let mut owners = Owners::open(&place.path().join("none/owners.json")).unwrap();
        assert!(owners.hear(&[here(FIRST)], NOW).is_err());
        assert_eq!(owners.of(here(FIRST).instance), None);
        let path = place.path().join("owners.json");
        fs::write(&path, "damaged").unwrap();
        assert!(Owners::open(&path).is_err());
    }
}
