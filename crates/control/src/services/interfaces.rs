//! Network interfaces, which are made and ended with their instances. Owns how they are shown.

use lucarne_api::{
    Call, Problem,
    bodies::{ListQuery, NoQuery, Page},
    input::{Json, Nothing},
};
use lucarne_model::{InterfaceId, network::NetworkInterface};

use crate::{
    Caller, Controller,
    fleet::Fleet,
    records::InstanceRecord,
    store::{Scope, Tx},
};

pub(crate) async fn list_interfaces(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<NetworkInterface>>, Problem> {
    let (scope, query, fleet) = (call.caller.scope(), call.query, controller.fleet.clone());
    let show = move |tx: &Tx<'_>, interface| shown(tx, &fleet, interface);
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_interface(
    controller: &Controller,
    call: Call<Caller, (InterfaceId,), NoQuery, Nothing>,
) -> Result<Json<NetworkInterface>, Problem> {
    let (scope, id, fleet) = (call.caller.scope(), call.path.0, controller.fleet.clone());
    controller.store.read(move |tx| shown(tx, &fleet, tx.get(scope, id)?)).await.map(Json)
}

/// With what its host counted there.
fn shown(tx: &Tx<'_>, fleet: &Fleet, mut interface: NetworkInterface) -> Result<NetworkInterface, Problem> {
    let host =
        tx.find::<InstanceRecord>(Scope::Everything, interface.instance)?.and_then(|record| record.instance.host);
    let told = host.and_then(|host| fleet.figures(host, interface.instance));
    interface.counters = told.and_then(|(_, figures)| figures.traffic);
    Ok(interface)
}
