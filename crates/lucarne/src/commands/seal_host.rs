//! `lucarne seal host-key|vouch`: the keys that answer for hosts, and the operator's word that they are its hosts'.
//!
//! Owns what is believed: the card of a host is signed by its own keys, and where the operator's key is pinned, by that too.
//! What a controller tells without that, could be another host's keys.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lucarne_attest::{
    canonical,
    signing::{Envelope, PublicKey, SigningError},
};
use lucarne_model::{ErrorCode, HostId, InstanceId};
use lucarne_seal::{
    card::{self, Beacon, Card},
    operation::Layer,
};
use serde_json::{Value, json};

use super::{
    attestation_verify::read_key,
    seal::{read_octets, read_signing_key, write_public},
    seal_quote,
    seal_way::{At, WayArgs},
};
use crate::{command_line::Global, failure::Failure};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyLayer {
    /// Guests and the processes that play their machines
    Guest,
    /// The host itself
    Host,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct HostKeyArgs {
    #[command(flatten)]
    way: WayArgs,
    /// The host
    #[arg(value_name = "HOST")]
    host: Option<HostId>,
    /// The host that this instance is on
    #[arg(long, value_name = "ID", conflicts_with = "host")]
    instance: Option<InstanceId>,
    /// Which of its keys
    #[arg(long, value_enum, default_value = "guest")]
    layer: KeyLayer,
    /// A card that was kept or brought, in place of asking
    #[arg(long, value_name = "FILE", conflicts_with_all = ["host", "instance"])]
    card: Option<PathBuf>,
    /// The public half of the operator's policy key: the card must be signed by it too
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
    /// Write the key into this file, in PEM
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the card into this file
    #[arg(long, value_name = "FILE")]
    card_out: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct VouchArgs {
    /// The card's file, to which the operator's signature is added
    card: PathBuf,
    /// The operator's policy key
    #[arg(long, value_name = "FILE")]
    policy_key: PathBuf,
}

impl HostKeyArgs {
    pub(crate) async fn run(&self, global: &Global) -> Result<(), Failure> {
        let (octets, told) = match &self.card {
            Some(path) => (read_octets(path)?, None),
            None => {
                let at = At { host: self.host, instance: self.instance };
                let told = self.way.open(global)?.describe(at).await?;
                (told.card.to_vec(), Some(told))
            }
        };
        let authority = self.authority.as_ref().map(|path| read_key(path)).transpose()?;
        let envelope = read_envelope(&octets)?;
        let card = Card::open(&envelope, authority.as_ref()).map_err(untrusted)?;
        if self.host.is_some_and(|asked| asked != card.host) {
            return Err(Failure::problem(ErrorCode::SealOtherTarget, format!("the card is that of {}", card.host)));
        }
        let layer = if self.layer == KeyLayer::Guest { Layer::Guest } else { Layer::Host };
        let key = card.key(layer).ok_or_else(|| untrusted(SigningError::Key))?;
        if let Some(path) = &self.out {
            write_public(path, key.to_pem().as_bytes())?;
        }
        if let Some(path) = &self.card_out {
            write_public(path, &octets)?;
        }
        let mut shown = json!({"host": card.host, "layer": layer, "key": key.to_pem(), "key_id": key.id(), "recipient": card.recipient, "epoch": card.epoch, "tpm": card.tpm, "vouched": authority.is_some()});
        if let Some(told) = told {
            let guest = card.key(Layer::Guest).ok_or_else(|| untrusted(SigningError::Key))?;
            let beacon: Beacon = guest.open(&read_envelope(&told.beacon)?).map_err(untrusted)?;
            shown["beacon"] = json!(hex(&lucarne_model::Octets::from(beacon.nonce)));
            shown["beacon_time"] = json!(beacon.time);
            if let Some(quote) = &told.quote {
                shown["quote"] = seal_quote::judge(&card, quote, &card::qualifying_data(&told.beacon))?;
            }
            shown["policy"] = json!(told.policy);
            shown["clock_doubtful"] = Value::Bool(told.clock_doubtful);
        }
        global.output.print_value(&shown)
    }
}

/// A card that its own keys signed, with its envelope.
pub(super) fn read_card(octets: &[u8]) -> Result<(Card, Envelope), Failure> {
    read_vouched_card(octets, None)
}

/// The same, if the operator signed it too, where its key is given.
pub(super) fn read_vouched_card(octets: &[u8], authority: Option<&PublicKey>) -> Result<(Card, Envelope), Failure> {
    let envelope = read_envelope(octets)?;
    let card = Card::open(&envelope, authority).map_err(untrusted)?;
    Ok((card, envelope))
}

impl VouchArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let (_, envelope) = read_card(&read_octets(&self.card)?)?;
        let vouched = read_signing_key(&self.policy_key)?.sign_too(envelope);
        let octets = canonical::write(&vouched).map_err(|error| untrusted(SigningError::Statement(error)))?;
        write_public(&self.card, &octets)
    }
}

fn read_envelope(octets: &[u8]) -> Result<Envelope, Failure> {
    canonical::read(octets).map_err(|error| untrusted(SigningError::Statement(error)))
}

fn untrusted(error: SigningError) -> Failure {
    Failure::problem(ErrorCode::SealKeyUntrusted, format!("the host's card: {error}"))
}

/// As `lucarne seal request --beacon` takes it.
fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
