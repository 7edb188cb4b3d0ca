//! Whose an access key is: looked up once, and remembered until key, user or account changes.
//!
//! Owns that memory. It hears of changes before whoever made them is answered, so the tokens of a deleted key stop at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lucarne_api::Problem;
use lucarne_model::{
    AccountId, UserId,
    identity::{Account, Quota, Role, User},
};

use crate::store::{AccessKeyRecord, Scope, Store, Subscription, Tx};

/// Keys that are remembered at most; when there are more, all are looked up anew.
const KEYS: usize = 10_000;

/// The user that a key belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHolder {
    pub(crate) account: AccountId,
    pub(crate) user: UserId,
    pub(crate) role: Role,
    pub(crate) quota: Quota,
}

#[derive(Debug, Default)]
pub(crate) struct Principals {
    known: Mutex<HashMap<String, (KeyHolder, Subscription)>>,
}

impl Principals {
    /// None when there is no such key.
    pub(crate) async fn look_up(&self, store: &Store, key: &str) -> Result<Option<KeyHolder>, Problem> {
        if let Some((holder, _)) = self.lock().get(key).filter(|(_, changes)| !changes.has_changed()) {
            return Ok(Some(*holder));
        }
        // What has changed is heard only once, so it is forgotten before it is read again.
        self.lock().remove(key);
        let (id, changes) = (key.to_owned(), Arc::clone(store.changes()));
        let before = changes.sequence();
        let Some(holder) = store.read(move |tx| read(tx, &id)).await? else { return Ok(None) };
        let topics = [key.to_owned(), holder.user.to_string(), holder.account.to_string()];
        let subscription = changes.subscribe(topics);
        // If anything changed before the subscription began, it may have been this: it is read again the next time.
        if changes.sequence() != before {
            return Ok(Some(holder));
        }
        let mut known = self.lock();
        if known.len() >= KEYS {
            known.clear();
        }
        known.insert(key.to_owned(), (holder, subscription));
        Ok(Some(holder))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (KeyHolder, Subscription)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(tx: &Tx<'_>, key: &str) -> Result<Option<KeyHolder>, Problem> {
    let Some(record) = tx.find::<AccessKeyRecord>(Scope::Everything, key)? else { return Ok(None) };
    let user: User = tx.get(Scope::Everything, record.key.user)?;
    let account: Account = tx.get(Scope::Everything, record.key.account)?;
    Ok(Some(KeyHolder { account: account.id, user: user.id, role: user.role, quota: account.quota }))
}
