//! Signing in, and who is signed in.
//!
//! Owns how failed attempts are slowed down. Tokens themselves are [`crate::auth`]'s.

use lucarne_api::{
    Call, Problem,
    answer::Created,
    bodies::{
        NoQuery,
        identity::{AccountUsage, CreateToken, Identity, Token, Usage},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, Bytes,
    identity::{Account, User},
};

use crate::{
    Caller, Controller,
    auth::{Limit, refused, secret, too_fast},
    clock,
    store::{AccessKeyRecord, Item, Scope, Tx},
};

/// Failures that one address may have with one key: ten, and then one in a second. Secrets are too long to be guessed; this
/// spares the store, and no stranger can lock a key's owner out from another address.
const FAILURES: Limit = Limit { per_second: 1, burst: 10 };

pub(crate) async fn create_token(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateToken>>,
) -> Result<Created<Token>, Problem> {
    let CreateToken { access_key_id, secret_access_key } = call.body.0;
    let who = (call.caller.remote, access_key_id.chars().take(20).collect::<String>());
    let slow_down = |wait| too_fast("attempts to sign in fail faster", wait);
    controller.failed_sign_ins.check(&who, FAILURES, clock::now()).map_err(slow_down)?;
    let id = access_key_id.clone();
    let record = controller.store.read(move |tx| tx.find::<AccessKeyRecord>(Scope::Everything, id)).await?;
    if !record.is_some_and(|record| secret::matches(&secret_access_key, &record.secret_digest)) {
        controller.failed_sign_ins.take(who, FAILURES, clock::now()).map_err(slow_down)?;
        return Err(refused("there is no such access key, or its secret is another"));
    }
    let (token, expires) = controller.token_key.issue(&access_key_id, clock::now());
    Ok(Created(Token { token, expires }))
}

pub(crate) async fn get_identity(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Nothing>,
) -> Result<Json<Identity>, Problem> {
    let id = call.caller.user()?;
    let user: User = controller.store.read(move |tx| tx.get(Scope::Everything, id)).await?;
    Ok(Json(Identity { account: user.account, user: user.id, user_name: user.name, role: user.role }))
}

pub(crate) async fn get_own_account(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Nothing>,
) -> Result<Json<AccountUsage>, Problem> {
    let id = call.caller.account;
    let read = move |tx: &Tx<'_>| {
        let account: Account = tx.get(Scope::Account(id), id)?;
        Ok(Json(AccountUsage { account, used: usage(tx, id)? }))
    };
    controller.store.read(read).await
}

fn usage(tx: &Tx<'_>, account: AccountId) -> Result<Usage, Problem> {
    let count = |item| tx.used(account, item).map(|amount| u32::try_from(amount).unwrap_or(u32::MAX));
    let bytes = |item| tx.used(account, item).map(Bytes);
    Ok(Usage {
        instances: count(Item::Instances)?,
        vcpus: count(Item::Vcpus)?,
        memory: bytes(Item::Memory)?,
        vpcs: count(Item::Vpcs)?,
        volumes: count(Item::Volumes)?,
        volume_bytes: bytes(Item::VolumeBytes)?,
        snapshots: count(Item::Snapshots)?,
        images: count(Item::Images)?,
    })
}
