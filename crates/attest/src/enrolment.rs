//! A host's TPM taken in: what a host presents, read; what is asked of it; which maker vouches for it.
//!
//! Owns the reading and the order of the checks. What becomes of a host whose TPM is not believed is decided by whoever
//! enrols hosts; the endorsement is judged by [`endorsement`], the answer by [`credential`](crate::credential).

use lucarne_model::{
    ErrorCode, Moment, Octets,
    storage::Digest,
    tpm::{TpmIdentity, TpmMaker},
};
use lucarne_statement::sha256;

use crate::{
    credential::{CredentialError, LONGEST_SECRET, Question, RANDOMNESS},
    endorsement::{self, EndorsementError},
    quote::{QuoteError, read_public},
    spki,
    wire::{Key, Public, Wire as _, WireError},
};

/// More octets than any maker's certificates or a key's public area have.
const LARGEST: usize = 16 << 10;

/// Why a TPM cannot be taken in as it is presented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolmentError {
    #[error("what is presented has more than {LARGEST} octets")]
    TooLarge,
    #[error("the endorsement key cannot be read: {0}")]
    Unreadable(WireError),
    #[error(transparent)]
    Endorsement(EndorsementError),
    #[error("the certificate is of another key than the endorsement key")]
    OtherKey,
    #[error(transparent)]
    Attestation(QuoteError),
    #[error(transparent)]
    Credential(CredentialError),
}

impl EnrolmentError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge | Self::Unreadable(_) => ErrorCode::EvidenceMalformed,
            Self::Endorsement(cause) => cause.code(),
            Self::OtherKey => ErrorCode::EndorsementUntrusted,
            Self::Attestation(cause) => cause.code(),
            Self::Credential(cause) => cause.code(),
        }
    }
}

/// The two keys of a TPM that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmKeys {
    pub endorsement: Key,
    pub attestation: Public,
}

impl TpmKeys {
    /// Reads what is presented: the certificate, if there is one, is of the endorsement key, and the attestation key is one
    /// that signs nothing but what its TPM made.
    pub fn read(identity: &TpmIdentity) -> Result<Self, EnrolmentError> {
        let TpmIdentity { endorsement_public, endorsement_certificates, attestation_public, .. } = identity;
        let certificates: usize = endorsement_certificates.iter().map(|certificate| certificate.len()).sum();
        if certificates + endorsement_public.len() + attestation_public.len() > LARGEST {
            return Err(EnrolmentError::TooLarge);
        }
        let endorsement = Public::from_octets(endorsement_public).map_err(EnrolmentError::Unreadable)?.key;
        let certified = endorsement::certified_key(endorsement_certificates).map_err(EnrolmentError::Endorsement)?;
        // As others write them: a TPM leaves out what is usual.
        if certified.is_some_and(|certified| fingerprint(&certified) != fingerprint(&endorsement)) {
            return Err(EnrolmentError::OtherKey);
        }
        let attestation = read_public(attestation_public).map_err(EnrolmentError::Attestation)?;
        if !attestation.is_attestation_key() {
            return Err(EnrolmentError::Attestation(QuoteError::NotAttestationKey));
        }
        Ok(Self { endorsement, attestation })
    }

    /// The question that only a TPM with both keys opens.
    pub fn ask(&self, secret: [u8; LONGEST_SECRET], randomness: [u8; RANDOMNESS]) -> Result<Question, EnrolmentError> {
        let asked = Question::new(&self.endorsement, &self.attestation.name(), secret, randomness);
        asked.map_err(EnrolmentError::Credential)
    }
}

/// SHA-256 of a key's SubjectPublicKeyInfo; none for numbers that are no key's.
pub fn fingerprint(key: &Key) -> Option<Digest> {
    spki::write(key).map(|der| Digest::from_bytes(sha256(&[&der])))
}

/// The first of the trusted makers who vouches for the endorsement key now.
pub fn vouching<'a>(
    certificates: &[Octets],
    makers: &'a [TpmMaker],
    now: Moment,
) -> Result<&'a TpmMaker, EndorsementError> {
    let vouches = |maker: &&TpmMaker| {
        let root = std::slice::from_ref(&maker.certificate);
        endorsement::verify(certificates, root, now).is_ok()
    };
    match makers.iter().find(vouches) {
        Some(maker) => Ok(maker),
        None => {
            let roots: Vec<Octets> = makers.iter().map(|maker| maker.certificate.clone()).collect();
            Err(endorsement::verify(certificates, &roots, now).err().unwrap_or(EndorsementError::None))
        }
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{AccountId, Tags, TpmMakerId, tpm::TpmModel};

    use super::*;
    use crate::{
        example::{Machine, Maker, NOW},
        wire::{AsymmetricScheme, Attributes, HashAlgorithm},
    };

    /// The public area of an endorsement key, as the TCG's template has it in what counts here.
    fn endorsement_public(key: &Key) -> Octets {
        let attributes = Attributes::FIXED_TPM.with(Attributes::RESTRICTED).with(Attributes::DECRYPT);
        let public = Public {
            name_algorithm: HashAlgorithm::Sha256,
            attributes,
            policy: vec![1; 32],
            symmetric_bits: Some(128),
            scheme: AsymmetricScheme::Any,
            key: key.clone(),
        };
        public.to_octets().into()
    }

    fn presented(machine: &Machine) -> TpmIdentity {
        TpmIdentity {
            model: TpmModel::default(),
            endorsement_public: endorsement_public(&machine.ek),
            endorsement_certificates: vec![machine.certificate.clone()],
            attestation_public: machine.ak.public.to_octets().into(),
        }
    }

    fn maker(name: &str, maker: &Maker) -> TpmMaker {
        TpmMaker {
            id: TpmMakerId::from_bits(1),
            account: AccountId::OPERATOR,
            name: name.to_owned(),
            certificate: maker.root.clone(),
            fingerprint: Digest::from_bytes(sha256(&[&maker.root])),
            created: NOW,
            tags: Tags::default(),
        }
    }

    #[test]
    fn what_is_presented_is_read_and_what_does_not_fit_is_refused_with_its_code() {
        let (machine, other) = (Machine::new(), Machine::new());
        let good = presented(&machine);
        let keys = TpmKeys::read(&good).expect("keys");
        assert_eq!((&keys.endorsement, &keys.attestation), (&machine.ek, &machine.ak.public));
        let without = TpmIdentity { endorsement_certificates: Vec::new(), ..good.clone() };
        assert_eq!(TpmKeys::read(&without).as_ref(), Ok(&keys), "it can be asked, and nobody vouches for it");
        let of_other = TpmIdentity { endorsement_certificates: vec![other.certificate.clone()], ..good.clone() };
        let large = TpmIdentity { endorsement_certificates: vec![vec![0; LARGEST].into()], ..good.clone() };
        let mut public = machine.ak.public.clone();
        public.attributes = Attributes::FIXED_TPM.with(Attributes::SIGN);
        let signs_all = TpmIdentity { attestation_public: public.to_octets().into(), ..good.clone() };
        let junk = TpmIdentity { endorsement_public: vec![1, 2, 3].into(), ..good };
        for (wrong, code) in [
            (of_other, ErrorCode::EndorsementUntrusted),
            (large, ErrorCode::EvidenceMalformed),
            (signs_all, ErrorCode::AttestationKeyUntrusted),
            (junk, ErrorCode::EvidenceMalformed),
        ] {
            assert_eq!(TpmKeys::read(&wrong).expect_err("refused").code(), code);
        }
    }

    #[test]
    fn the_maker_who_vouches_is_named_and_an_unknown_one_is_refused() {
        let (machine, stranger) = (Machine::new(), Maker::new());
        let makers = [maker("stranger", &stranger), maker("known", &machine.maker)];
        let chain = [machine.certificate.clone()];
        assert_eq!(vouching(&chain, &makers, NOW).map(|maker| maker.name.as_str()), Ok("known"));
        for (chain, makers) in [(&chain[..], &makers[..1]), (&chain[..], &[]), (&[], &makers[..])] {
            let refused = vouching(chain, makers, NOW).expect_err("refused");
            assert_eq!(refused.code(), ErrorCode::EndorsementUntrusted);
        }
    }
}
