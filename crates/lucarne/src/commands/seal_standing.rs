//! Standing requests on the command line: what `lucarne seal request` writes when it is said how often.
//!
//! Owns how often, of what and for how long results are kept. What makes sense of it is the room's.

use std::time::Duration;

use clap::Args;
use lucarne_model::{AccountId, InstanceId};
use lucarne_seal::{
    operation::Operation,
    request::Terms,
    standing::{Rhythm, Scope, Standing, StandingTerms},
};

use super::{flow::parse_span, seal_request::malformed};
use crate::failure::Failure;

#[derive(Args, Clone, Debug)]
pub(crate) struct RhythmArgs {
    /// Ask again and again, so often, for as long as `--valid` says: 90 days at most
    #[arg(long, value_name = "SPAN", value_parser = parse_span, conflicts_with_all = ["sampled", "generation", "beacon"])]
    every: Option<Duration>,
    /// The same, once in each span, at an instant that nobody foresees
    #[arg(long, value_name = "SPAN", value_parser = parse_span, conflicts_with_all = ["generation", "beacon"])]
    sampled: Option<Duration>,
    /// With --every or --sampled: for how long the host keeps a result
    #[arg(long, value_name = "SPAN", default_value = "1d", value_parser = parse_span)]
    kept: Duration,
}

impl RhythmArgs {
    fn rhythm(&self) -> Result<Option<Rhythm>, Failure> {
        let span = |span: Duration| span.as_secs().try_into().map_err(|error| malformed(format!("the span: {error}")));
        match (self.every, self.sampled) {
            (Some(every), _) => Ok(Some(Rhythm::Every(span(every)?))),
            (None, Some(sampled)) => Ok(Some(Rhythm::Sampled(span(sampled)?))),
            (None, None) => Ok(None),
        }
    }

    /// The standing request, if it was said how often: of one instance, of all of an account, or of all that is on the host.
    pub(super) fn standing(
        &self,
        operation: &Operation,
        (instance, account): (Option<InstanceId>, Option<AccountId>),
        terms: &Terms,
    ) -> Result<Option<Standing>, Failure> {
        let Some(rhythm) = self.rhythm()? else { return Ok(None) };
        let scope = match (instance, account) {
            (Some(id), Some(account)) => Scope::Instance { id, account },
            (None, Some(account)) => Scope::Account(account),
            (None, None) => Scope::Host,
            (Some(_), None) => return Err(Failure::wrong_usage("say whose the instance is, by --account")),
        };
        let kept = self.kept.as_secs().try_into().map_err(|error| malformed(format!("--kept: {error}")))?;
        let terms = StandingTerms {
            host: terms.target.host,
            host_key: terms.target.host_key.clone(),
            scope,
            rhythm,
            not_before: terms.not_before,
            not_after: terms.not_after,
            nonce: terms.nonce,
            result: terms.result.clone(),
            kept_seconds: kept,
            purpose: terms.purpose.clone(),
            lowest_policy: terms.lowest_policy,
        };
        Standing::new(operation.clone(), terms).map(Some).map_err(|error| malformed(error.to_string()))
    }
}
