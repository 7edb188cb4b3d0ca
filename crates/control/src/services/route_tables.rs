//! Route tables: where packets go that leave a subnet's interfaces.
//!
//! Owns which routes a table may have. The longest prefix that contains the destination wins, which is the switch's work.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        network::{CreateRoute, CreateRouteTable, DeleteRoute},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    Cidr, ErrorCode, RouteTableId,
    network::{NetworkInterface, Route, RouteTable, RouteTarget, Vpc},
};

use super::{
    checks::{check_tags, refuse},
    vpcs::local_route,
};
use crate::{
    Caller, Controller, random,
    store::{Scope, Tx},
};

const ROUTES_OF_A_TABLE: usize = 50;
const TABLES_OF_A_VPC: u32 = 200;

pub(crate) async fn create_route_table(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateRouteTable>>,
) -> Result<Created<RouteTable>, Problem> {
    let (account, CreateRouteTable { vpc, tags }) = (call.caller.account, call.body.0.clone());
    let create = move |tx: &mut Tx<'_>| {
        check_tags(&tags)?;
        let vpc: Vpc = tx.get(Scope::Account(account), vpc)?;
        if tx.count_referring::<RouteTable>(vpc.id)? >= TABLES_OF_A_VPC {
            let detail = format!("a VPC can have {TABLES_OF_A_VPC} route tables");
            return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
        }
        let (id, routes, created) = (random::id(), vec![local_route(&vpc)], tx.now());
        let table = RouteTable { id, account, vpc: vpc.id, routes, main: false, created, tags };
        tx.insert(&table)?;
        Ok(table)
    };
    controller.change(&call, create).await.map(Created)
}

pub(crate) async fn list_route_tables(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<RouteTable>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_route_table(
    controller: &Controller,
    call: Call<Caller, (RouteTableId,), NoQuery, Nothing>,
) -> Result<Json<RouteTable>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn delete_route_table(
    controller: &Controller,
    call: Call<Caller, (RouteTableId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let table: RouteTable = tx.get(scope, id)?;
        if table.main {
            let detail = format!("{id} is the main route table of {}; it goes with the VPC", table.vpc);
            return Err(Problem::new(ErrorCode::DependencyViolation, detail));
        }
        tx.delete(&table)
    };
    controller.change(&call, delete).await.map(|()| Done)
}

pub(crate) async fn create_route(
    controller: &Controller,
    call: Call<Caller, (RouteTableId,), NoQuery, Json<CreateRoute>>,
) -> Result<Created<RouteTable>, Problem> {
    let (scope, id, route) = (call.caller.scope(), call.path.0, call.body.0.route.clone());
    controller.change(&call, move |tx| add_route(tx, scope, id, route)).await.map(Created)
}

fn add_route(tx: &mut Tx<'_>, scope: Scope, id: RouteTableId, route: Route) -> Result<RouteTable, Problem> {
    let mut table: RouteTable = tx.get(scope, id)?;
    match route.target {
        RouteTarget::Local => return Err(refuse("every table has its local route; another cannot be made")),
        RouteTarget::Interface { interface } => check_target(tx, scope, &table, interface)?,
        RouteTarget::Blackhole => {}
    }
    if table.routes.iter().any(|existing| existing.destination == route.destination) {
        let detail = format!("{id} has a route for {}", route.destination);
        return Err(Problem::new(ErrorCode::RouteExists, detail));
    }
    if table.routes.len() >= ROUTES_OF_A_TABLE {
        let detail = format!("a route table can have {ROUTES_OF_A_TABLE} routes");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    table.routes.push(route);
    tx.put(&table)?;
    Ok(table)
}

fn check_target(
    tx: &Tx<'_>,
    scope: Scope,
    table: &RouteTable,
    interface: lucarne_model::InterfaceId,
) -> Result<(), Problem> {
    let interface: NetworkInterface = tx.get(scope, interface)?;
    if interface.vpc != table.vpc {
        let detail = format!("{} belongs to {}, the table to {}", interface.id, interface.vpc, table.vpc);
        return Err(refuse(detail));
    }
    Ok(())
}

pub(crate) async fn delete_route(
    controller: &Controller,
    call: Call<Caller, (RouteTableId,), NoQuery, Json<DeleteRoute>>,
) -> Result<Json<RouteTable>, Problem> {
    let (scope, id, destination) = (call.caller.scope(), call.path.0, call.body.0.destination);
    controller.change(&call, move |tx| remove_route(tx, scope, id, destination)).await.map(Json)
}

fn remove_route(tx: &mut Tx<'_>, scope: Scope, id: RouteTableId, destination: Cidr) -> Result<RouteTable, Problem> {
    let mut table: RouteTable = tx.get(scope, id)?;
    let position = table.routes.iter().position(|route| route.destination == destination);
    let position = position.ok_or_else(|| refuse(format!("{id} has no route for {destination}")))?;
    if table.routes[position].target == RouteTarget::Local {
        return Err(refuse("the local route cannot be deleted"));
    }
    table.routes.remove(position);
    tx.put(&table)?;
    Ok(table)
}
