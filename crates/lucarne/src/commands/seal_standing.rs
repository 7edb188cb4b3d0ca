//! Standing requests on the command line: what `lucarne seal request` writes when it is said how often.
//!
//! Owns how often, of what and for how long results are kept. What makes sense of it is the room's.

use std::time::Duration;

use clap::Args;
use lucarne_model::{AccountId, InstanceId};
use lucarne_seal::{
    bounded::Whole,
    health::{Measure, Watch},
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
    /// The same, whenever something is unusual of the host or guest that it is of, and at most once in each span: with --threshold,
    /// --deviations, or both
    #[arg(long, value_name = "SPAN", value_parser = parse_span, conflicts_with_all = ["every", "sampled", "generation", "beacon"])]
    watched: Option<Duration>,
    /// With --watched: beyond that value it is unusual; of processors and memory (thousandths), disks and network (octets a second), errors
    #[arg(long = "threshold", value_name = "MEASURE=VALUE", value_parser = parse_threshold, requires = "watched")]
    thresholds: Vec<(Measure, u64)>,
    /// With --watched: from so many deviations above what is usual on it is unusual; 2 to 100
    #[arg(long, value_name = "NUMBER", requires = "watched")]
    deviations: Option<u64>,
    /// With --every, --sampled or --watched: for how long the host keeps a result
    #[arg(long, value_name = "SPAN", default_value = "1d", value_parser = parse_span)]
    kept: Duration,
}

fn parse_threshold(text: &str) -> Result<(Measure, u64), String> {
    let (measure, value) = text.split_once('=').ok_or("write MEASURE=VALUE")?;
    Ok((measure.parse()?, value.parse().map_err(|error| format!("{value}: {error}"))?))
}

impl RhythmArgs {
    fn rhythm(&self) -> Result<Option<Rhythm>, Failure> {
        let span = |span: Duration| span.as_secs().try_into().map_err(|error| malformed(format!("the span: {error}")));
        match (self.every, self.sampled, self.watched) {
            (Some(every), ..) => Ok(Some(Rhythm::Every(span(every)?))),
            (None, Some(sampled), _) => Ok(Some(Rhythm::Sampled(span(sampled)?))),
            (None, None, Some(watched)) => self.watch(span(watched)?).map(|watch| Some(Rhythm::Unusual(watch))),
            (None, None, None) => Ok(None),
        }
    }

    fn watch(&self, seconds: Whole<10, 86_400>) -> Result<Watch, Failure> {
        if self.thresholds.is_empty() && self.deviations.is_none() {
            return Err(Failure::wrong_usage("say what is unusual, by --threshold or --deviations"));
        }
        let threshold = |(measure, value): &(Measure, u64)| {
            let value = (*value).try_into().map_err(|error| malformed(format!("--threshold {measure}: {error}")))?;
            Ok((*measure, value))
        };
        let deviations = self.deviations.map(TryInto::try_into).transpose();
        Ok(Watch {
            seconds,
            thresholds: self.thresholds.iter().map(threshold).collect::<Result<_, Failure>>()?,
            deviations: deviations.map_err(|error| malformed(format!("--deviations: {error}")))?,
        })
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
