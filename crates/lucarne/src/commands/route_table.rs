//! `lucarne route-table`: tables, their routes, and which subnets go by them.

use clap::{Args, Subcommand};
use lucarne_api::{bodies::network::CreateRoute, client::types};
use lucarne_model::{
    Cidr, RouteTableId, SubnetId,
    network::{Route, RouteTarget},
};
use serde_json::Value;

use super::{Basics, Context, Naming};
use crate::{
    failure::Failure,
    kind::{INTERFACE, ROUTE_TABLE, SUBNET, VPC},
    listing::resolve,
    session::answer,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RouteTableCommand {
    /// Make a route table
    Create {
        /// The VPC's id or name
        #[arg(long)]
        vpc: String,
        #[command(flatten)]
        naming: Naming,
    },
    /// Route a subnet by this table
    Associate {
        /// The table's id or name
        id: String,
        /// The subnet's id or name
        #[arg(long)]
        subnet: String,
    },
    /// Add a route
    AddRoute(AddRouteArgs),
    /// Take a route away
    DeleteRoute {
        /// The table's id or name
        id: String,
        /// Where the route leads
        #[arg(long)]
        destination: Cidr,
    },
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddRouteArgs {
    /// The table's id or name
    id: String,
    /// Where the route leads
    #[arg(long)]
    destination: Cidr,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct TargetArgs {
    /// To the interface of an instance that forwards
    #[arg(long, value_name = "ENI")]
    interface: Option<String>,
    /// Nowhere: packets are dropped
    #[arg(long)]
    blackhole: bool,
}

impl RouteTableCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let changed: Value = match self {
            Self::Create { vpc, naming } => {
                let body = types::CreateRouteTable { vpc: resolve(session, &VPC, vpc).await?, tags: naming.tags() };
                session.change(async |client| answer(client.create_route_table(None, None, &body)).await).await?
            }
            Self::Associate { id, subnet } => {
                let body = types::AssociateRouteTable { route_table: resolve(session, &ROUTE_TABLE, id).await? };
                let subnet: SubnetId = resolve(session, &SUBNET, subnet).await?;
                session
                    .change(async |client| answer(client.associate_route_table(&subnet, None, None, &body)).await)
                    .await?
            }
            Self::AddRoute(args) => args.run(context).await?,
            Self::DeleteRoute { id, destination } => {
                let id: RouteTableId = resolve(session, &ROUTE_TABLE, id).await?;
                let body = types::DeleteRoute { destination: *destination };
                session.change(async |client| answer(client.delete_route(&id, None, None, &body)).await).await?
            }
            Self::Basics(basics) => return basics.run(context, &ROUTE_TABLE).await,
        };
        context.made(&changed)
    }
}

impl AddRouteArgs {
    async fn run(&self, context: &Context) -> Result<Value, Failure> {
        let session = &context.session;
        let id: RouteTableId = resolve(session, &ROUTE_TABLE, &self.id).await?;
        let target = match &self.target.interface {
            Some(interface) => RouteTarget::Interface { interface: resolve(session, &INTERFACE, interface).await? },
            None => RouteTarget::Blackhole,
        };
        let body = CreateRoute { route: Route { destination: self.destination, target } };
        session.change(async |client| answer(client.create_route(&id, None, None, &body)).await).await
    }
}
