//! Notaries that the controller may ask: entered by operators, seen by all.
//!
//! Owns which addresses may be entered. No tenant can have the controller ask an address of its own choice.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, publisher::CreateNotary},
    input::{Json, Nothing},
};
use lucarne_model::{AccountId, ErrorCode, NotaryId, Tags, publisher::Notary};

use super::checks::{check_name, refuse};
use crate::{
    Caller, Controller, notary_client, random,
    store::{Scope, Tx},
};

pub(crate) async fn create_notary(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateNotary>>,
) -> Result<Created<Notary>, Problem> {
    let request = call.body.0.clone();
    controller.change(&call, move |tx| create(tx, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, CreateNotary { name, url }: CreateNotary) -> Result<Notary, Problem> {
    check_name(&name)?;
    let shape = || refuse("a notary's address is http:// or https://, a host and a port, and nothing else");
    let url = notary_client::origin(&url).ok_or_else(shape)?;
    if tx.list::<Notary>(Scope::Everything)?.iter().any(|one| one.name == name) {
        return Err(Problem::new(ErrorCode::NotaryDuplicate, format!("there is a notary `{name}`")));
    }
    let (id, account, created) = (random::id(), AccountId::OPERATOR, tx.now());
    let notary = Notary { id, account, name, url, created, tags: Tags::default() };
    tx.insert(&notary)?;
    Ok(notary)
}

pub(crate) async fn list_notaries(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Notary>>, Problem> {
    let (scope, query) = (call.caller.visible(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_notary(
    controller: &Controller,
    call: Call<Caller, (NotaryId,), NoQuery, Nothing>,
) -> Result<Json<Notary>, Problem> {
    let (scope, id) = (call.caller.visible(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn delete_notary(
    controller: &Controller,
    call: Call<Caller, (NotaryId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let notary: Notary = tx.get(scope, id)?;
        tx.delete(&notary)
    };
    controller.change(&call, delete).await.map(|()| Done)
}
