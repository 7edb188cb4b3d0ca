//! Network interfaces, which are made and ended with their instances. Owns how they are shown.

use lucarne_api::{
    Call, Problem,
    bodies::{ListQuery, NoQuery, Page},
    input::{Json, Nothing},
};
use lucarne_model::{InterfaceId, network::NetworkInterface};

use crate::{Caller, Controller};

pub(crate) async fn list_interfaces(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<NetworkInterface>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_interface(
    controller: &Controller,
    call: Call<Caller, (InterfaceId,), NoQuery, Nothing>,
) -> Result<Json<NetworkInterface>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}
