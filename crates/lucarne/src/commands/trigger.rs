//! `lucarne trigger`: networks duplicated and recorded when something happens to them.

use std::time::Duration;

use clap::{Args, Subcommand};
use lucarne_api::{bodies::trigger::CreateTrigger, client::Client};
use lucarne_model::trigger::{FiringLimit, TriggerOn, TriggerOrder};

use super::{Basics, Context, TagArgs, flow::parse_span, replica::TermArgs};
use crate::{
    failure::Failure,
    kind::{TRIGGER, VPC},
    listing::resolve,
    session::answer,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum TriggerCommand {
    /// Order that a network is duplicated when something happens to it, and print the trigger's id
    Create(Box<CreateArgs>),
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    /// What the trigger is called
    name: String,
    /// finding:KIND, schedule:SPAN such as schedule:6h, schedule:HH:MM in UTC, or metric:NAME>VALUE
    #[arg(long, value_name = "WHAT")]
    on: TriggerOn,
    /// The VPC that is watched and duplicated, by its id or name
    #[arg(long, value_name = "VPC")]
    replicate: String,
    #[command(flatten)]
    terms: TermArgs,
    /// Record the network from then on for so long, such as 60s, at most a day
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    record: Option<Duration>,
    /// Delete what was made after this time, such as 30m or 2d
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    expires: Option<Duration>,
    /// Make something at most so often, such as 3/1d; once an hour if not given
    #[arg(long, value_name = "N/SPAN", value_parser = parse_limit)]
    at_most: Option<FiringLimit>,
    #[command(flatten)]
    tags: TagArgs,
}

fn parse_limit(text: &str) -> Result<FiringLimit, String> {
    let usage = || "write N/SPAN, such as 3/1d".to_owned();
    let (most, span) = text.split_once('/').ok_or_else(usage)?;
    let most = most.parse().map_err(|_| usage())?;
    Ok(FiringLimit { most, seconds: parse_span(span)?.as_secs() })
}

impl CreateArgs {
    async fn body(&self, context: &Context) -> Result<CreateTrigger, Failure> {
        let session = &context.session;
        let order = TriggerOrder {
            terms: self.terms.terms(session).await?,
            record_seconds: self.record.map(|span| span.as_secs()),
            lasts_seconds: self.expires.map(|span| span.as_secs()),
        };
        Ok(CreateTrigger {
            name: self.name.clone(),
            vpc: resolve(session, &VPC, &self.replicate).await?,
            on: self.on,
            order,
            limit: self.at_most,
            tags: self.tags.tags(),
        })
    }
}

impl TriggerCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(args) => {
                let body = args.body(context).await?;
                let call = async |client: Client| answer(client.create_trigger(None, None, &body)).await;
                context.made(&context.session.change(call).await?)
            }
            Self::Basics(basics) => basics.run(context, &TRIGGER).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_and_a_span() {
        assert_eq!(parse_limit("3/1d"), Ok(FiringLimit { most: 3, seconds: 86_400 }));
        assert!(parse_limit("3").is_err() && parse_limit("x/1d").is_err() && parse_limit("3/day").is_err());
    }
}
