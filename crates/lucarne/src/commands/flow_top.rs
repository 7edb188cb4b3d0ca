//! `lucarne flow top`: who and what has the most, of the records that are kept.

use clap::{Args, ValueEnum};
use lucarne_api::bodies::flow_question::Measure;

use super::{Context, flow::parse_word, flow_question::PlaceArgs};
use crate::failure::Failure;

/// Of what the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Top {
    /// Instances, by what they sent and received
    Talkers,
    /// Protocols and ports, by what was let through
    Ports,
    /// What was rejected: where, from or to whom, why and by which rule
    Rejects,
}

impl Top {
    /// The question's name.
    const fn question(self) -> &'static str {
        match self {
            Self::Talkers => "top-talkers",
            Self::Ports => "top-ports",
            Self::Rejects => "top-rejects",
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TopArgs {
    /// Of what
    #[arg(value_enum)]
    of: Option<Top>,
    /// bytes, packets or flows
    #[arg(long, default_value = "bytes", value_parser = parse_word::<Measure>)]
    by: Measure,
    #[command(flatten)]
    place: PlaceArgs,
}

impl TopArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let Some(of) = self.of else {
            return Err(Failure::wrong_usage(
                "say of what: `flow top talkers`, `flow top ports` or `flow top rejects`",
            ));
        };
        self.place.ask(context, of.question(), Some(self.by)).await
    }
}
