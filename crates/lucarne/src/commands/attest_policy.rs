//! `lucarne attest-policy`, and the same below `lucarne vpc`: what hosts must prove of every instance of a VPC.

use std::time::Duration;

use clap::{Args, Subcommand};
use lucarne_api::{bodies::attestation::SetAttestPolicy, client::Client};
use lucarne_model::{
    ErrorCode, VpcId,
    attestation::{APPROVE_WITHIN, AttestMode, AttestPolicy, VpcAttestPolicy},
    network::Vpc,
};
use serde_json::Value;

use super::{Context, attestation::Mismatch, flow::parse_span};
use crate::{
    failure::Failure,
    kind::VPC,
    listing::resolve,
    session::{answer, json_of},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum AttestPolicyCommand {
    /// Have every instance that is to be part of a VPC proved by its host, and proved again at an interval
    Set(SetArgs),
    /// Show a VPC's policy
    Show {
        /// The VPC's id or name
        vpc: String,
    },
    /// Want nothing any more but what launches ask for
    Clear {
        /// The VPC's id or name
        vpc: String,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SetArgs {
    /// The VPC's id or name
    vpc: String,
    /// prompt, list, config=NAME or manifest=PUBLISHER; what a launch asks for holds beside it
    #[arg(long, value_name = "HOW")]
    attest: AttestMode,
    /// What becomes of an instance that does not match at its launch; one that runs is cut off either way
    #[arg(long, value_enum)]
    on_mismatch: Option<Mismatch>,
    /// How often hosts must prove anew what runs there; 15 minutes if not given
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    recheck_every: Option<Duration>,
    /// How long `prompt` waits for an answer
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    approve_within: Option<Duration>,
}

impl SetArgs {
    fn body(&self) -> SetAttestPolicy {
        SetAttestPolicy {
            policy: AttestPolicy {
                mode: self.attest.clone(),
                on_mismatch: self.on_mismatch.unwrap_or_default().into(),
                approve_within_seconds: self.approve_within.unwrap_or(APPROVE_WITHIN).as_secs(),
            },
            recheck_seconds: self.recheck_every.unwrap_or(VpcAttestPolicy::RECHECK).as_secs(),
        }
    }
}

impl AttestPolicyCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        match self {
            Self::Set(args) => {
                let (id, body): (VpcId, _) = (resolve(session, &VPC, &args.vpc).await?, args.body());
                let call = async |client: Client| answer(client.set_attest_policy(&id, None, None, &body)).await;
                let vpc: Vpc = session.change(call).await?;
                context.format.print_change(&json_of(&vpc)?, &id.to_string())
            }
            Self::Show { vpc } => {
                let id: VpcId = resolve(session, &VPC, vpc).await?;
                let shown: Vpc = session.read(async |client| answer(client.get_vpc(&id)).await).await?;
                let none = || Failure::problem(ErrorCode::AttestPolicyNotFound, format!("{id} has no policy"));
                context.format.print_value(&json_of(&shown.attest_policy.ok_or_else(none)?)?)
            }
            Self::Clear { vpc } => {
                let id: VpcId = resolve(session, &VPC, vpc).await?;
                let call = async |client: Client| answer(client.clear_attest_policy(&id, None, None)).await;
                let cleared: Value = session.change(call).await?;
                context.format.print_change(&cleared, &id.to_string())
            }
        }
    }
}
