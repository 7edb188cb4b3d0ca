//! Access keys: pairs of id and secret with which programs sign in.
//!
//! Owns their making. The secret is shown once; only its digest is kept.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        identity::{CreateAccessKey, NewAccessKey},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    ErrorCode,
    identity::{AccessKey, User},
};

use crate::{
    Caller, Controller,
    auth::secret::{digest_of, new_key_id},
    random,
    store::{AccessKeyRecord, Tx},
};

/// Enough to change keys without a gap, for several programs.
const KEYS_OF_A_USER: u32 = 10;

pub(crate) async fn create_access_key(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateAccessKey>>,
) -> Result<Created<NewAccessKey>, Problem> {
    let (scope, caller) = (call.caller.scope(), call.caller.user()?);
    let id = call.body.0.user.unwrap_or(caller);
    let create = move |tx: &mut Tx<'_>| {
        let user: User = tx.get(scope, id)?;
        if tx.count_referring::<AccessKeyRecord>(id)? >= KEYS_OF_A_USER {
            let detail = format!("a user can have {KEYS_OF_A_USER} access keys; delete one first");
            return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
        }
        make(tx, &user)
    };
    controller.change(&call, create).await.map(Created)
}

/// A new key of the user.
pub(crate) fn make(tx: &mut Tx<'_>, user: &User) -> Result<NewAccessKey, Problem> {
    let secret_access_key = random::secret();
    let key = AccessKey { id: new_key_id(), account: user.account, user: user.id, created: tx.now() };
    let secret_digest = digest_of(secret_access_key.as_bytes());
    tx.insert(&AccessKeyRecord { key: key.clone(), secret_digest })?;
    Ok(NewAccessKey { access_key: key, secret_access_key })
}

pub(crate) async fn list_access_keys(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<AccessKey>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    let shown = move |tx: &Tx<'_>| tx.page_shown(scope, &query, |_, record: AccessKeyRecord| Ok(record.key));
    controller.store.read(shown).await.map(Json)
}

pub(crate) async fn delete_access_key(
    controller: &Controller,
    call: Call<Caller, (String,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0.clone());
    let delete = move |tx: &mut Tx<'_>| {
        let record: AccessKeyRecord = tx.get(scope, &id)?;
        tx.delete(&record)
    };
    controller.change(&call, delete).await.map(|()| Done)
}
