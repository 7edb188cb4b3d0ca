//! `lucarne flow top`: who talks just now, and who and what had the most of the records that are kept.
//!
//! Owns which of the two is meant; the live table is the matter of [`super::flow_live`].

use clap::{Args, Subcommand};
use lucarne_api::bodies::flow_question::Measure;

use super::{Context, flow::parse_word, flow_live::LiveArgs, flow_question::PlaceArgs};
use crate::failure::Failure;

#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TopArgs {
    #[command(subcommand)]
    kept: Option<Top>,
    #[command(flatten)]
    live: LiveArgs,
}

/// Of what the most.
#[derive(Subcommand, Clone, Debug)]
enum Top {
    /// Instances, by what they sent and received
    Talkers(KeptArgs),
    /// Protocols and ports, by what was let through
    Ports(KeptArgs),
    /// What was rejected: where, from or to whom, why and by which rule
    Rejects(KeptArgs),
}

#[derive(Args, Clone, Debug)]
struct KeptArgs {
    /// bytes, packets or flows
    #[arg(long, default_value = "bytes", value_parser = parse_word::<Measure>)]
    by: Measure,
    #[command(flatten)]
    place: PlaceArgs,
}

impl TopArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let (question, args) = match &self.kept {
            None => return self.live.run(context).await,
            Some(Top::Talkers(args)) => ("top-talkers", args),
            Some(Top::Ports(args)) => ("top-ports", args),
            Some(Top::Rejects(args)) => ("top-rejects", args),
        };
        args.place.ask(context, question, Some(args.by)).await
    }
}
