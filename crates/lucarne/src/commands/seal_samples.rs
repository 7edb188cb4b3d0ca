//! `lucarne seal samples`: at which instants a host had to sample, checked by everybody once the standing request is over.
//!
//! Owns the list. That the host could not choose the instants is what the room `seal` proves of its signature.

use std::path::PathBuf;

use clap::Args;
use lucarne_attest::canonical;
use lucarne_model::ErrorCode;
use lucarne_seal::{
    request::RequestId,
    standing::{Rhythm, Seed, Standing},
};
use serde_json::{Value, json};

use super::{attestation_verify::read_key, seal::read_octets, seal_request};
use crate::{failure::Failure, kind::SEAL_SAMPLE_COLUMNS, output::Format};

#[derive(Args, Clone, Debug)]
pub(crate) struct SamplesArgs {
    /// The standing request's file
    request: PathBuf,
    /// What the host showed when it was over: `seal collect` writes it beside the results
    #[arg(long, value_name = "FILE")]
    sampling: PathBuf,
    /// The public half of the host's key for guests, in PEM
    #[arg(long, value_name = "FILE")]
    host_key: PathBuf,
}

impl SamplesArgs {
    pub(crate) fn run(&self, format: Format) -> Result<(), Failure> {
        let request = seal_request::read(&self.request)?;
        let standing = canonical::read::<Standing>(&request.payload).ok();
        let is_sampled = |it: &Standing| matches!(it.terms().rhythm, Rhythm::Sampled(_));
        let standing = standing.filter(is_sampled).ok_or_else(|| {
            Failure::problem(ErrorCode::SealRequestMalformed, "that is no request of which there are samples")
        })?;
        let untrusted =
            |cause: String| Failure::problem(ErrorCode::SealReceiptInvalid, format!("the sampling: {cause}"));
        let sampling = canonical::read(&read_octets(&self.sampling)?).map_err(|error| untrusted(error.to_string()))?;
        let seed = Seed::shown(&sampling, &read_key(&self.host_key)?, &RequestId::of(&request));
        let seed = seed.map_err(|error| untrusted(error.to_string()))?;
        let instants = (0..).map_while(|number| Some((number, standing.due(number, &seed)?)));
        let rows: Vec<Value> = instants.map(|(number, time)| json!({"number": number, "time": time})).collect();
        format.print_list(&rows, SEAL_SAMPLE_COLUMNS)
    }
}
