//! Accounts: made with a first administrator, limited by a quota, and deleted when they own nothing.
//!
//! Owns what an account begins with and what must be gone at its end.

use std::time::Duration;

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        identity::{CreateAccount, NewAccount},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, ErrorCode,
    identity::{Account, Quota, Role, User},
    instance::InstanceState,
    price::PriceBook,
};

use super::{
    access_keys,
    checks::{check_name, check_tags, refuse},
    judgements, replicas,
};
use crate::{
    Caller, Controller, random,
    records::{InstanceRecord, JobRecord},
    store::{AccessKeyRecord, Resource, Scope, Tx},
};

pub(crate) async fn create_account(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateAccount>>,
) -> Result<Created<NewAccount>, Problem> {
    let request = call.body.0.clone();
    controller.change(&call, move |tx| create(tx, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, request: CreateAccount) -> Result<NewAccount, Problem> {
    check_name(&request.name)?;
    check_tags(&request.tags)?;
    let quota = request.quota.unwrap_or_default();
    check_quota(&quota)?;
    if tx.list::<Account>(Scope::Everything)?.iter().any(|account| account.name == request.name) {
        return Err(Problem::new(ErrorCode::AccountDuplicate, format!("there is an account `{}`", request.name)));
    }
    let (id, created) = (unused_id(tx)?, tx.now());
    let account = Account { id, name: request.name, quota, created, tags: request.tags };
    let name = "admin".into();
    let user = User { id: random::id(), account: id, name, role: Role::Admin, created, tags: Default::default() };
    tx.insert(&account)?;
    tx.insert(&user)?;
    let access_key = access_keys::make(tx, &user)?;
    Ok(NewAccount { account, access_key })
}

/// Twelve digits are few enough to be drawn twice.
fn unused_id(tx: &Tx<'_>) -> Result<AccountId, Problem> {
    loop {
        let id = AccountId::from_bits(random::bits() as u64);
        if tx.find::<Account>(Scope::Everything, id)?.is_none() {
            return Ok(id);
        }
    }
}

fn check_quota(quota: &Quota) -> Result<(), Problem> {
    if quota.requests_per_second == 0 || quota.request_burst == 0 {
        return Err(refuse("requests_per_second and request_burst are at least 1"));
    }
    Ok(())
}

pub(crate) async fn list_accounts(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Account>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_account(
    controller: &Controller,
    call: Call<Caller, (AccountId,), NoQuery, Nothing>,
) -> Result<Json<Account>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn set_quota(
    controller: &Controller,
    call: Call<Caller, (AccountId,), NoQuery, Json<Quota>>,
) -> Result<Json<Account>, Problem> {
    let (scope, id, quota) = (call.caller.scope(), call.path.0, call.body.0);
    let set = move |tx: &mut Tx<'_>| {
        check_quota(&quota)?;
        let mut account: Account = tx.get(scope, id)?;
        account.quota = quota;
        tx.put(&account)?;
        Ok(account)
    };
    controller.change(&call, set).await.map(Json)
}

pub(crate) async fn delete_account(
    controller: &Controller,
    call: Call<Caller, (AccountId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.change(&call, move |tx| delete(tx, scope, id)).await.map(|()| Done)
}

fn delete(tx: &mut Tx<'_>, scope: Scope, id: AccountId) -> Result<(), Problem> {
    let account: Account = tx.get(scope, id)?;
    if id == AccountId::OPERATOR {
        return Err(Problem::new(ErrorCode::IncorrectState, "the operator account cannot be deleted"));
    }
    forget_ended(tx, id)?;
    if let Some(owned) = tx.any_of_account(id, &[Account::KIND, User::KIND, AccessKeyRecord::KIND, PriceBook::KIND])? {
        return Err(Problem::new(ErrorCode::DependencyViolation, format!("the account still owns {owned}")));
    }
    for key in tx.list::<AccessKeyRecord>(Scope::Account(id))? {
        tx.delete(&key)?;
    }
    for user in tx.list::<User>(Scope::Account(id))? {
        tx.delete(&user)?;
    }
    tx.forget_events_of(id)?;
    tx.delete(&account)
}

/// What is only shown for a while after its end is no possession.
fn forget_ended(tx: &mut Tx<'_>, account: AccountId) -> Result<(), Problem> {
    for job in tx.list::<JobRecord>(Scope::Account(account))?.iter().filter(|job| job.is_finished()) {
        tx.delete(job)?;
    }
    for record in tx.list::<InstanceRecord>(Scope::Account(account))? {
        // One that keeps its host waits for word that nothing of it is left there.
        if record.instance.state == InstanceState::Terminated && record.instance.host.is_none() {
            judgements::forget(tx, record.instance.id)?;
            tx.delete(&record)?;
        }
    }
    replicas::forget_ended(tx, Scope::Account(account), Duration::ZERO)
}
