//! Jobs, as their owners see them. Owns how they are shown; the work is [`crate::workflow`]'s.

use lucarne_api::{
    Call, Problem,
    bodies::{ListQuery, NoQuery, Page, instance::Job},
    input::{Json, Nothing},
};
use lucarne_model::JobId;

use super::shown;
use crate::{Caller, Controller, records::JobRecord, store::Tx};

pub(crate) async fn list_jobs(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Job>>, Problem> {
    let (scope, query, caller, fleet) = (call.caller.scope(), call.query, call.caller, controller.fleet.clone());
    let shown = move |_: &Tx<'_>, record: JobRecord| Ok(shown::job(&caller, &fleet, record));
    let page = move |tx: &Tx<'_>| tx.page_shown(scope, &query, &shown);
    controller.store.read(page).await.map(Json)
}

pub(crate) async fn get_job(
    controller: &Controller,
    call: Call<Caller, (JobId,), NoQuery, Nothing>,
) -> Result<Json<Job>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller
        .store
        .read(move |tx| tx.get::<JobRecord>(scope, id))
        .await
        .map(|record| Json(shown::job(&call.caller, &controller.fleet, record)))
}
