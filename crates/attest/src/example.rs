//! A TPM in the test's memory, and evidence that is right in every part: tests change one thing and see the refusal.

use lucarne_model::{
    Component, Evidence, InstanceId, Measurement, Moment, Octets, evidence::CredentialProof, storage::Digest,
};
use lucarne_statement::sha256;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PublicKeyData as _};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use time::OffsetDateTime;

use crate::{
    credential,
    event_log::EventLog,
    measure,
    pcr::{self, Values},
    spki, verify,
    wire::{AsymmetricScheme, Attest, Attributes, Clock, HashAlgorithm, Key, MAGIC, Public, Signature, Wire as _},
};

pub(crate) const NOW: Moment = Moment::from_secs(1500);
pub(crate) const NONCE: &[u8] = b"sixteen octets..";

pub(crate) fn measured(component: Component, name: &str) -> Measurement {
    Measurement { component, name: name.to_owned(), digest: Digest::from_bytes(sha256(&[name.as_bytes()])) }
}

/// What the host of the example runs.
pub(crate) fn host() -> Vec<Measurement> {
    let found = [
        (Component::GuestFirmware, "bios-256k.bin"),
        (Component::Cpu, "cpu"),
        (Component::OptionRom, "0000:00:03.0"),
        (Component::KernelCommandLine, "cmdline"),
        (Component::Kernel, "vmlinuz"),
        (Component::Hypervisor, "qemu-system-x86_64"),
        (Component::HypervisorLibrary, "libglib-2.0.so.0"),
        (Component::Agent, "lucarne"),
    ];
    found.into_iter().map(|(component, name)| measured(component, name)).collect()
}

/// An attestation key.
pub(crate) struct Ak {
    pair: EcdsaKeyPair,
    pub(crate) public: Public,
}

impl Ak {
    pub(crate) fn new() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a key");
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let attributes =
            [Attributes::FIXED_PARENT, Attributes::SENSITIVE_DATA_ORIGIN, Attributes::RESTRICTED, Attributes::SIGN];
        let public = Public {
            name_algorithm: HashAlgorithm::Sha256,
            attributes: attributes.into_iter().fold(Attributes::FIXED_TPM, Attributes::with),
            policy: Vec::new(),
            symmetric_bits: None,
            scheme: AsymmetricScheme::Ecdsa(HashAlgorithm::Sha256),
            key: Key::P256 { x: x.to_vec(), y: y.to_vec() },
        };
        Self { pair, public }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        let made = self.pair.sign(&SystemRandom::new(), message).expect("a signature");
        let (r, s) = made.as_ref().split_at(32);
        Signature::Ecdsa { hash: HashAlgorithm::Sha256, r: r.to_vec(), s: s.to_vec() }
    }
}

/// Who makes TPMs.
pub(crate) struct Maker {
    pub(crate) root: Octets,
    issuer: Issuer<'static, KeyPair>,
}

fn params() -> CertificateParams {
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).expect("a time");
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (at(1000), at(2000));
    params
}

impl Maker {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a certificate").der().to_vec().into();
        Self { root, issuer: Issuer::new(params, key) }
    }
    /// A certificate for `usage`, valid from second 1000 to 2000, and the key that it is of.
    pub(crate) fn endorse(&self, usage: &[u64]) -> (Octets, Key) {
        let key = KeyPair::generate().expect("a key");
        let mut params = params();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(usage.to_vec())];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.der().to_vec().into(), spki::read(&key.subject_public_key_info()).expect("P-256"))
    }
}

/// The TPM of a host, the maker who vouches for it, and what the host measured.
pub(crate) struct Machine {
    pub(crate) ak: Ak,
    pub(crate) maker: Maker,
    pub(crate) ek: Key,
    pub(crate) certificate: Octets,
    pub(crate) log: EventLog,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let maker = Maker::new();
        let (certificate, ek) = maker.endorse(&[2, 23, 133, 8, 1]);
        let events = host().into_iter().map(|one| measure::event(&one, measure::register(one.component, false)));
        let log = EventLog { events: events.map(|event| event.expect("an event")).collect(), ..EventLog::new() };
        Self { ak: Ak::new(), maker, ek, certificate, log }
    }

    /// Evidence of a launch, right in every part.
    pub(crate) fn evidence(&self) -> Evidence {
        let kernel = measured(Component::GuestKernel, "vmlinuz-guest");
        let guest = measure::describe_guest(vec![kernel]).expect("a description");
        let mut values = Values::default();
        pcr::QUOTED.into_iter().for_each(|register| values.set(register, [0; 32]));
        self.log.replay().iter().for_each(|(register, value)| values.set(register, value));
        values.set(pcr::GUEST, measure::guest_register(&guest));
        let mut evidence = Evidence {
            instance: InstanceId::from_bits(77),
            generation: 1,
            nonce: NONCE.into(),
            host_key: Digest::from_bytes([9; 32]),
            quote: Octets::default(),
            signature: Octets::default(),
            pcrs: values.to_evidence(),
            event_log: self.log.to_octets().into(),
            ak_public: self.ak.public.to_octets().into(),
            ek_certificates: vec![self.certificate.clone()],
            credential: Some(self.proof(&Digest::from_bytes([9; 32]))),
            guest: Some(guest.into()),
        };
        self.quote(&mut evidence, |_| {});
        evidence
    }

    /// Quotes what the evidence says, but for what `change` does to it.
    pub(crate) fn quote(&self, evidence: &mut Evidence, change: impl Fn(&mut Attest)) {
        let selections = pcr::quoted();
        let digest = pcr::digest_of(&selections, &Values::from(&evidence.pcrs[..]), HashAlgorithm::Sha256);
        let mut attest = Attest {
            magic: MAGIC,
            signer: vec![0; 34],
            qualifying: verify::purpose(evidence).qualifying_data().to_vec(),
            clock: Clock { milliseconds: 5, resets: 1, restarts: 0, safe: true },
            firmware: 1,
            selections,
            pcr_digest: digest.expect("all registers are there"),
        };
        change(&mut attest);
        evidence.quote = attest.to_octets().into();
        evidence.signature = self.ak.sign(&evidence.quote).to_octets().into();
    }

    fn proof(&self, host_key: &Digest) -> CredentialProof {
        let (secret, randomness) = ([5; 32], [6; credential::RANDOMNESS]);
        let asked = credential::make(&self.ek, &self.ak.public.name(), &secret, &randomness).expect("a credential");
        CredentialProof {
            secret: secret[..].into(),
            randomness: randomness[..].into(),
            credential_blob: asked.credential_blob.into(),
            encrypted_secret: asked.encrypted_secret.into(),
            answer: credential::answer(&secret, host_key)[..].into(),
        }
    }
}
