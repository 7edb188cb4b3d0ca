//! Evidence as a folder of plain files, in the forms that other tools take: names and octets, no I/O.
//!
//! Owns names and forms; what the files prove is [`verify`](crate::verify)'s. `tpm2_checkquote` takes `quote.msg`,
//! `quote.sig`, `quote.pcrs` and `ak.pem` as they are, `tpm2_eventlog` takes `event_log.bin`, `openssl` the certificates.

use std::collections::BTreeMap;

use lucarne_model::{
    ErrorCode, Evidence, InstanceId, Octets,
    evidence::{CredentialProof, PcrValue},
    storage::Digest,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    manifest::Published,
    pcr::Values,
    qualifying::Purpose,
    quote::read_public,
    spki,
    wire::{HashAlgorithm, PcrSelection, Reader, Wire as _, WireError},
};

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

const README: &str = "README.txt";
const LAUNCH: &str = "launch.json";
const QUOTE: &str = "quote.msg";
const SIGNATURE: &str = "quote.sig";
const PCRS: &str = "quote.pcrs";
const EVENT_LOG: &str = "event_log.bin";
const AK: &str = "ak.tpmt";
const AK_PEM: &str = "ak.pem";
const CREDENTIAL: &str = "credential.json";
const GUEST: &str = "guest.json";
const MANIFEST: &str = "manifest.json";
/// More certificates than any chain has.
const MOST_CERTIFICATES: usize = 8;

/// Octets of TPML_PCR_SELECTION as `tpm2_quote` writes it: a count and sixteen places of eight octets.
const SELECTIONS: usize = 4 + 16 * 8;
/// Octets of TPM2B_DIGEST there, and how many of them are in a TPML_DIGEST.
const DIGEST: usize = 66;
const DIGESTS: usize = 8;

/// Why a folder is not one of evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    #[error("`{0}` is missing")]
    Missing(String),
    #[error("`{name}` cannot be read: {why}")]
    Unreadable { name: &'static str, why: String },
}

impl EvidenceError {
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::EvidenceMalformed
    }
}

/// What the quote is bound to, as `launch.json` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Launch {
    instance: InstanceId,
    generation: u64,
    nonce: Octets,
    host_key: Digest,
}

/// The files of one launch's evidence, and of the manifest that it was held against.
pub fn to_files(evidence: &Evidence, published: Option<&Published>) -> Result<Files, EvidenceError> {
    let mut files = Files::new();
    let mut add = |name: &str, octets: Vec<u8>| files.insert(name.to_owned(), octets);
    let launch = Launch {
        instance: evidence.instance,
        generation: evidence.generation,
        nonce: evidence.nonce.clone(),
        host_key: evidence.host_key.clone(),
    };
    add(LAUNCH, json(LAUNCH, &launch)?);
    add(QUOTE, evidence.quote.to_vec());
    add(SIGNATURE, evidence.signature.to_vec());
    add(PCRS, write_pcrs(&Values::from(&evidence.pcrs[..])));
    add(EVENT_LOG, evidence.event_log.to_vec());
    add(AK, evidence.ak_public.to_vec());
    let ak = read_public(&evidence.ak_public).ok().and_then(|ak| spki::write(&ak.key));
    add(AK_PEM, ak.map(|der| crate::signing::to_pem(&der, "PUBLIC KEY").into_bytes()).unwrap_or_default());
    for (at, certificate) in evidence.ek_certificates.iter().enumerate() {
        add(&certificate_name(at), certificate.to_vec());
    }
    if let Some(credential) = &evidence.credential {
        add(CREDENTIAL, json(CREDENTIAL, credential)?);
    }
    if let Some(guest) = &evidence.guest {
        add(GUEST, guest.to_vec());
    }
    if let Some(published) = published {
        add(MANIFEST, json(MANIFEST, published)?);
    }
    add(README, readme(evidence).into_bytes());
    Ok(files)
}

/// Reads them back. Files that are not of these names are passed over: nothing rests on them.
pub fn from_files(files: &Files) -> Result<(Evidence, Option<Published>), EvidenceError> {
    let launch: Launch = parse(files, LAUNCH)?;
    let certificates = (0..MOST_CERTIFICATES).map_while(|at| files.get(&certificate_name(at)));
    let credential: Option<CredentialProof> = files.get(CREDENTIAL).map(|_| parse(files, CREDENTIAL)).transpose()?;
    let published = files.get(MANIFEST).map(|_| parse(files, MANIFEST)).transpose()?;
    let octets = |name: &str| files.get(name).map(|octets| Octets(octets.clone()));
    let file = |name: &str| octets(name).ok_or_else(|| EvidenceError::Missing(name.to_owned()));
    let pcrs = read_pcrs(&file(PCRS)?);
    let evidence = Evidence {
        instance: launch.instance,
        generation: launch.generation,
        nonce: launch.nonce,
        host_key: launch.host_key,
        quote: file(QUOTE)?,
        signature: file(SIGNATURE)?,
        pcrs: pcrs.map_err(|cause| EvidenceError::Unreadable { name: PCRS, why: cause.to_string() })?,
        event_log: file(EVENT_LOG)?,
        ak_public: file(AK)?,
        ek_certificates: certificates.map(|octets| Octets(octets.clone())).collect(),
        credential,
        guest: octets(GUEST),
    };
    Ok((evidence, published))
}

fn certificate_name(at: usize) -> String {
    format!("ek-{at}.der")
}

fn json(name: &'static str, document: &impl Serialize) -> Result<Vec<u8>, EvidenceError> {
    let text = serde_json::to_vec_pretty(document);
    text.map_err(|error| EvidenceError::Unreadable { name, why: error.to_string() })
}

fn parse<T: DeserializeOwned>(files: &Files, name: &'static str) -> Result<T, EvidenceError> {
    let octets = files.get(name).ok_or_else(|| EvidenceError::Missing(name.to_owned()))?;
    serde_json::from_slice(octets).map_err(|error| EvidenceError::Unreadable { name, why: error.to_string() })
}

/// Registers as `tpm2_quote --pcr` writes them: the C structures of the TSS, with numbers in little-endian.
fn write_pcrs(values: &Values) -> Vec<u8> {
    let indexes: Vec<u8> = values.iter().map(|(index, _)| index).collect();
    let bitmap = PcrSelection::new(HashAlgorithm::Sha256, indexes.iter().copied()).to_octets();
    let mut octets = 1u32.to_le_bytes().to_vec();
    octets.extend(HashAlgorithm::Sha256.id().to_le_bytes());
    octets.extend(&bitmap[2..]);
    octets.resize(SELECTIONS, 0);
    let all: Vec<_> = values.iter().map(|(_, value)| value).collect();
    octets.extend((all.len().div_ceil(DIGESTS) as u32).to_le_bytes());
    for list in all.chunks(DIGESTS) {
        let end = octets.len() + 4 + DIGESTS * DIGEST;
        octets.extend((list.len() as u32).to_le_bytes());
        for value in list {
            let next = octets.len() + DIGEST;
            octets.extend((value.len() as u16).to_le_bytes());
            octets.extend(value);
            octets.resize(next, 0);
        }
        octets.resize(end, 0);
    }
    octets
}

/// Reads what [`write_pcrs`] writes, of one bank of SHA-256.
fn read_pcrs(octets: &[u8]) -> Result<Vec<PcrValue>, WireError> {
    let mut selections = Reader::new(octets.get(..SELECTIONS).unwrap_or(octets));
    let short = WireError::Short { what: "registers", at: octets.len() };
    let count = u32::from_le_bytes(selections.array("registers")?);
    let bank = u16::from_le_bytes(selections.array("bank")?);
    if (count, bank) != (1, HashAlgorithm::Sha256.id()) {
        return Err(WireError::Unknown { what: "bank of registers", found: bank.into() });
    }
    let bitmap = [&bank.to_be_bytes()[..], selections.take(4, "registers")?].concat();
    let indexes: Vec<u8> = PcrSelection::from_octets(&bitmap)?.indexes().collect();
    let lists = octets.get(SELECTIONS + 4..).ok_or(short)?;
    let values = indexes.iter().enumerate().map(|(at, index)| {
        let begin = at / DIGESTS * (4 + DIGESTS * DIGEST) + 4 + at % DIGESTS * DIGEST;
        let place = lists.get(begin + 2..begin + 2 + 32).ok_or(short)?;
        let value: [u8; 32] = place.try_into().map_err(|_| short)?;
        Ok(PcrValue { index: *index, value: Digest::from_bytes(value) })
    });
    let read = values.collect::<Result<Vec<_>, _>>()?;
    let same = write_pcrs(&Values::from(&read[..])) == octets;
    if same { Ok(read) } else { Err(WireError::Unknown { what: "form of the registers", found: octets.len() as u64 }) }
}

/// What the folder is, for whoever finds it.
fn readme(evidence: &Evidence) -> String {
    let purpose = Purpose {
        nonce: &evidence.nonce,
        host_key: &evidence.host_key,
        instance: evidence.instance,
        generation: evidence.generation,
    };
    let qualifying = crate::event_log::hex(&purpose.qualifying_data());
    format!(
        "Evidence of what the host of instance {instance} ran when it launched generation {generation}.\n\
         \n\
         Verify all of it, without a connection to anyone:\n\
         \x20 lucarne attestation verify . --roots MAKERS.pem --manifest-key NOTARY.pem --nonce {nonce}\n\
         with the root certificates of the TPM makers that you trust, the key of the publisher that you trust, and the\n\
         nonce that you drew. Without one of them the check that needs it is not made, and is told as such.\n\
         \n\
         Verify the quote with the TPM tools alone:\n\
         \x20 tpm2_checkquote -u ak.pem -m quote.msg -s quote.sig -f quote.pcrs -g sha256 \\\n\
         \x20   -q {qualifying}\n\
         \x20 tpm2_eventlog event_log.bin\n\
         \n\
         launch.json      what the quote is bound to; the qualifying data is the SHA-256 of these parts, each behind its\n\
         \x20                length in 64 bits, big-endian: \"lucarne quote v1\", nonce, host key, instance, generation\n\
         quote.msg        TPMS_ATTEST\n\
         quote.sig        TPMT_SIGNATURE over it\n\
         quote.pcrs       the values of the registers, as tpm2_quote writes them\n\
         event_log.bin    what was measured of the host, in the TCG's crypto-agile form\n\
         ak.tpmt, ak.pem  the attestation key, as the TPM and as others write it\n\
         ek-*.der         certificates of the TPM's endorsement key\n\
         credential.json  how the attestation key was proved to live in that TPM\n\
         guest.json       what was measured of the guest; its SHA-256 was extended into register 23, which began with zeros\n\
         manifest.json    what the publisher says that the host should run, and the proof that all are told the same\n",
        instance = evidence.instance,
        generation = evidence.generation,
        nonce = crate::event_log::hex(&evidence.nonce),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        let pcrs = [0, 1, 2, 8, 9, 11, 12, 23].map(|index| PcrValue { index, value: Digest::from_bytes([index; 32]) });
        Evidence {
            instance: InstanceId::from_bits(5),
            generation: 2,
            nonce: vec![1; 16].into(),
            host_key: Digest::from_bytes([4; 32]),
            quote: vec![1].into(),
            signature: vec![2].into(),
            pcrs: pcrs.to_vec(),
            event_log: vec![3].into(),
            ak_public: vec![4].into(),
            ek_certificates: vec![vec![5].into(), vec![6].into()],
            credential: None,
            guest: Some(b"{}".to_vec().into()),
        }
    }

    #[test]
    fn a_folder_reads_back_as_it_was_written() {
        let files = to_files(&evidence(), None).expect("files");
        assert_eq!(from_files(&files), Ok((evidence(), None)));
        for name in [LAUNCH, QUOTE, SIGNATURE, PCRS, EVENT_LOG, AK] {
            let mut fewer = files.clone();
            fewer.remove(name);
            assert_eq!(from_files(&fewer), Err(EvidenceError::Missing(name.to_owned())));
        }
    }

    /// More registers than one list of the C structure holds.
    #[test]
    fn registers_are_written_as_the_tss_lays_them_out_and_in_no_other_way() {
        let all: Vec<_> = (0..24).map(|index| PcrValue { index, value: Digest::from_bytes([index + 1; 32]) }).collect();
        let octets = write_pcrs(&Values::from(&all[..]));
        assert_eq!(octets.len(), 132 + 4 + 3 * 532);
        assert_eq!(octets[..12], [1, 0, 0, 0, 0x0b, 0, 3, 0xff, 0xff, 0xff, 0, 0]);
        assert_eq!(octets[132..142], [3, 0, 0, 0, 8, 0, 0, 0, 32, 0]);
        assert_eq!(read_pcrs(&octets), Ok(all));
        for cut in [0, 3, 8, 131, 135, 200, octets.len() - 1] {
            assert!(read_pcrs(&octets[..cut]).is_err(), "cut at {cut}");
        }
        let mut hidden = octets;
        hidden[50] = 1;
        assert!(read_pcrs(&hidden).is_err());
    }
}
