//! Users of an account. Owns that their names are unique in it, and that nobody deletes themselves.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, identity::CreateUser},
    input::{Json, Nothing},
};
use lucarne_model::{AccountId, ErrorCode, UserId, identity::User};

use super::checks::{check_name, check_tags};
use crate::{
    Caller, Controller, random,
    store::{AccessKeyRecord, Scope, Tx},
};

pub(crate) async fn create_user(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateUser>>,
) -> Result<Created<User>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    controller.change(&call, move |tx| create(tx, account, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, account: AccountId, request: CreateUser) -> Result<User, Problem> {
    check_name(&request.name)?;
    check_tags(&request.tags)?;
    if tx.list::<User>(Scope::Account(account))?.iter().any(|user| user.name == request.name) {
        return Err(Problem::new(ErrorCode::UserDuplicate, format!("the account has a user `{}`", request.name)));
    }
    let CreateUser { name, role, tags } = request;
    let user = User { id: random::id(), account, name, role, created: tx.now(), tags };
    tx.insert(&user)?;
    Ok(user)
}

pub(crate) async fn list_users(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<User>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_user(
    controller: &Controller,
    call: Call<Caller, (UserId,), NoQuery, Nothing>,
) -> Result<Json<User>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn delete_user(
    controller: &Controller,
    call: Call<Caller, (UserId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id, caller) = (call.caller.scope(), call.path.0, call.caller.user()?);
    let delete = move |tx: &mut Tx<'_>| {
        let user: User = tx.get(scope, id)?;
        // So an account always keeps an administrator: the one who deletes.
        if id == caller {
            return Err(Problem::new(ErrorCode::IncorrectState, "users cannot delete themselves"));
        }
        for key in tx.referring::<AccessKeyRecord>(Scope::Everything, id)? {
            tx.delete(&key)?;
        }
        tx.delete(&user)
    };
    controller.change(&call, delete).await.map(|()| Done)
}
