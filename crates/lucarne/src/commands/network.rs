//! `lucarne vpc`, `subnet` and `interface`.

use clap::Subcommand;
use lucarne_api::client::types;
use lucarne_model::Cidr;

use super::{Basics, Context, DeleteSources, Naming, Reads, attest_policy::AttestPolicyCommand};
use crate::{
    failure::Failure,
    kind::{SUBNET, VPC},
    listing::resolve,
    session::answer,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum VpcCommand {
    /// Make a VPC, with its main route table, its default network ACL and its default security group
    Create {
        /// Its network, such as 10.0.0.0/16: a prefix of 16 to 28 bits
        #[arg(long)]
        cidr: Cidr,
        #[command(flatten)]
        naming: Naming,
    },
    /// What hosts must prove of every instance of a VPC
    #[command(subcommand)]
    AttestPolicy(AttestPolicyCommand),
    #[command(flatten)]
    Reads(Reads),
    /// Delete them, and print their ids
    Delete(DeleteSources),
}

impl VpcCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create { cidr, naming } => {
                let body = types::CreateVpc { cidr: *cidr, tags: naming.tags() };
                context.made(
                    &context.session.change(async |client| answer(client.create_vpc(None, None, &body)).await).await?,
                )
            }
            Self::AttestPolicy(command) => command.run(context).await,
            Self::Reads(reads) => reads.run(context, &VPC).await,
            Self::Delete(DeleteSources { ids, duplicates }) => {
                let session = &context.session;
                let delete = async |id: String| {
                    let id = id.parse().map_err(|_| Failure::wrong_usage("not a VPC's id"))?;
                    let deepen = duplicates.deepen();
                    session.change(async |client| answer(client.delete_vpc(&id, deepen, None, None)).await).await
                };
                context.each(&VPC, ids, delete).await.map(drop)
            }
        }
    }
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SubnetCommand {
    /// Make a subnet
    Create {
        /// The VPC's id or name
        #[arg(long)]
        vpc: String,
        /// Its network, inside the VPC's and apart from its other subnets
        #[arg(long)]
        cidr: Cidr,
        #[command(flatten)]
        naming: Naming,
    },
    #[command(flatten)]
    Basics(Basics),
}

impl SubnetCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create { vpc, cidr, naming } => {
                let vpc = resolve(&context.session, &VPC, vpc).await?;
                let body = types::CreateSubnet { vpc, cidr: *cidr, tags: naming.tags() };
                context.made(
                    &context
                        .session
                        .change(async |client| answer(client.create_subnet(None, None, &body)).await)
                        .await?,
                )
            }
            Self::Basics(basics) => basics.run(context, &SUBNET).await,
        }
    }
}
