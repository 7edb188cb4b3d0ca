//! The quote of a host's TPM in a receipt, where whoever reads a result wants one.
//!
//! Owns what it is held against: the host's card, which says by which key the TPM signs, and evidence of the host that was judged
//! before. How a quote is judged is the room `attest`'s; what it is bound to, the room `seal`'s.

use std::path::PathBuf;

use clap::Args;
use lucarne_attest::{
    evidence::from_files,
    pcr::{self, Values},
    quote::{Quote, QuoteError, read_public},
    signing::PublicKey,
};
use lucarne_model::{
    ErrorCode, Evidence,
    evidence::RegisterQuote,
    tpm::{PresentedTpm, TpmIdentity},
};
use lucarne_seal::{
    card::Card,
    operation::Layer,
    receipt::{Receipt, qualifying_data},
};
use serde_json::{Value, json};

use super::{
    attestation_verify::{read_files, read_key},
    seal::read_octets,
    seal_host::read_vouched_card,
};
use crate::{failure::Failure, session::json_of};

#[derive(Args, Clone, Debug)]
pub(super) struct QuoteArgs {
    /// The receipt must have a quote of the host's TPM, by the key that is on this card of the host (`seal host-key --card-out`)
    #[arg(long, value_name = "CARD")]
    require_quote: Option<PathBuf>,
    /// The public half of the operator's policy key: the card must be signed by it too
    #[arg(long, value_name = "FILE", requires = "require_quote")]
    authority: Option<PathBuf>,
    /// Evidence of the same host that `attestation verify` took: the quote must be by its key, over its values of the registers
    #[arg(long, value_name = "DIR", requires = "require_quote")]
    evidence: Option<PathBuf>,
}

impl QuoteArgs {
    /// What was checked of the quote; none where nobody asked.
    pub(super) fn check(&self, receipt: &Receipt, host_key: &PublicKey) -> Result<Option<Value>, Failure> {
        let Some(card) = &self.require_quote else { return Ok(None) };
        let authority = self.authority.as_ref().map(|path| read_key(path)).transpose()?;
        let (card, _) = read_vouched_card(&read_octets(card)?, authority.as_ref())?;
        if card.host != receipt.host {
            return Err(untrusted(&format!("the card is that of {}", card.host)));
        }
        if Layer::ALL.iter().all(|layer| card.key(*layer) != Some(host_key)) {
            return Err(untrusted("the receipt is signed by a key that is not on the card"));
        }
        let missing = || Failure::problem(ErrorCode::HostNotProved, "the receipt has no quote of the host's TPM");
        let quote = receipt.quote.as_ref().ok_or_else(missing)?;
        let qualifying = qualifying_data(&receipt.request, receipt.host, &receipt.outcome)
            .map_err(|error| Failure::problem(ErrorCode::SealReceiptInvalid, error.to_string()))?;
        let mut checked = judge(&card, quote, &qualifying)?;
        if let Some(folder) = &self.evidence {
            let read = from_files(&read_files(folder)?);
            let (evidence, _) = read.map_err(|error| Failure::problem(error.code(), error.to_string()))?;
            compare(quote, &evidence)?;
            if evidence.ak_public != identity(&card)?.attestation_public {
                return Err(untrusted("the evidence is by another key than the card's"));
            }
        }
        checked["vouched"] = json!(authority.is_some());
        checked["as_in_evidence"] = json!(self.evidence.is_some());
        Ok(Some(checked))
    }
}

/// What a quote says of the host with this card, if it is that host's TPM's and for what was hashed so.
pub(super) fn judge(card: &Card, quote: &RegisterQuote, qualifying: &[u8; 32]) -> Result<Value, Failure> {
    let identity = identity(card)?;
    let refused = |error: QuoteError| Failure::problem(error.code(), error.to_string());
    let key = read_public(&identity.attestation_public).map_err(refused)?;
    let values = Values::from(&quote.registers[..]);
    let said = Quote { message: &quote.message, signature: &quote.signature };
    let attest = said.verify_for(&key, qualifying, &values, &pcr::HOST).map_err(refused)?;
    Ok(json!({
        "host": card.host,
        "tpm": card.tpm.as_ref().map(PresentedTpm::kind),
        "model": json_of(&identity.model)?,
        "registers": json_of(&quote.registers)?,
        "resets": attest.clock.resets,
        "restarts": attest.clock.restarts,
        "milliseconds": attest.clock.milliseconds,
    }))
}

fn identity(card: &Card) -> Result<&TpmIdentity, Failure> {
    let identity = card.tpm.as_ref().and_then(PresentedTpm::identity);
    identity.ok_or_else(|| untrusted("the host's card names no TPM"))
}

fn untrusted(why: &str) -> Failure {
    Failure::problem(ErrorCode::AttestationKeyUntrusted, why.to_owned())
}

/// The host is still what the evidence proved.
fn compare(quote: &RegisterQuote, evidence: &Evidence) -> Result<(), Failure> {
    let differs = quote.registers.iter().find(|register| !evidence.pcrs.contains(register));
    match differs {
        None => Ok(()),
        Some(register) => Err(Failure::problem(
            ErrorCode::PcrDigestMismatch,
            format!("register {} holds another value than in the evidence", register.index),
        )),
    }
}
