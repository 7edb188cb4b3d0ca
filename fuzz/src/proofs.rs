//! What proves what a host runs: event logs, structures of TPMs, certificates, manifests.

use lucarne_attest::{
    canonical, endorsement,
    event_log::{Event, EventLog},
    log::{self, Head, Standing},
    manifest::{Manifest, Published, Revocation},
    merkle::Tree,
    quote, signing,
    wire::{
        AsymmetricScheme, Attest, Attributes, Clock, HashAlgorithm, Key, MAGIC, PcrSelection, PcrSelections, Public,
        Signature, Wire,
    },
};
use lucarne_model::{Component, Measurement, Moment, Octets, storage::Digest};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

const NOW: Moment = Moment::from_secs(1500);
/// In 2026: a certificate of which nothing else is said holds from 1975 to 4096.
const OF_CERTIFICATES: Moment = Moment::from_secs(1_768_478_400);

pub(crate) fn event_log(octets: &[u8]) -> bool {
    let Ok(log) = EventLog::parse(octets) else { return false };
    assert_eq!(log.to_octets(), octets, "what was read is written as something else");
    let replayed = log.replay();
    assert_eq!(log.explains(&replayed, &[]), Ok(()), "a log does not explain its own replay");
    true
}

pub(crate) fn event_log_seeds() -> Vec<Vec<u8>> {
    let events = (0..8).map(|register| Event::over_data(register, 13, vec![register; 20])).collect();
    vec![EventLog::new().to_octets(), EventLog { events, ..EventLog::new() }.to_octets()]
}

/// The first octet says which structure the others may be.
pub(crate) fn structures(octets: &[u8]) -> bool {
    fn read<T: Wire>(octets: &[u8]) -> Option<T> {
        let read = T::from_octets(octets).ok()?;
        assert_eq!(read.to_octets(), octets, "what was read is written as something else");
        Some(read)
    }
    let Some((which, rest)) = octets.split_first() else { return false };
    match which % 3 {
        0 => read::<Attest>(rest).is_some_and(|attest| quote::check_generated(&attest).is_ok()),
        1 => read::<Public>(rest).is_some_and(|public| {
            let digest = public.name_algorithm.digest(&[]);
            assert_eq!(public.name().len(), 2 + digest.len(), "a name is an algorithm and a digest");
            public.is_attestation_key()
        }),
        _ => read::<Signature>(rest).is_some(),
    }
}

pub(crate) fn structure_seeds() -> Vec<Vec<u8>> {
    let attest = Attest {
        magic: MAGIC,
        signer: vec![0; 34],
        qualifying: vec![1; 32],
        clock: Clock { milliseconds: 1, resets: 2, restarts: 3, safe: true },
        firmware: 4,
        selections: PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha256, [0, 23])]),
        pcr_digest: vec![2; 32],
    };
    let attributes =
        [Attributes::FIXED_PARENT, Attributes::SENSITIVE_DATA_ORIGIN, Attributes::RESTRICTED, Attributes::SIGN];
    let public = Public {
        name_algorithm: HashAlgorithm::Sha256,
        attributes: attributes.into_iter().fold(Attributes::FIXED_TPM, Attributes::with),
        policy: Vec::new(),
        symmetric_bits: None,
        scheme: AsymmetricScheme::Ecdsa(HashAlgorithm::Sha256),
        key: Key::P256 { x: vec![5; 32], y: vec![6; 32] },
    };
    let signature = Signature::Ecdsa { hash: HashAlgorithm::Sha256, r: vec![7; 32], s: vec![8; 32] };
    let chosen = |which: u8, octets: Vec<u8>| [vec![which], octets].concat();
    vec![chosen(0, attest.to_octets()), chosen(1, public.to_octets()), chosen(2, signature.to_octets())]
}

/// Certificates in DER one behind the other, each with its length in two octets before it; the last is believed.
pub(crate) fn certificates(octets: &[u8]) -> bool {
    let (mut chain, mut rest) = (Vec::new(), octets);
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (certificate, behind) = behind.split_at(usize::from(u16::from_be_bytes(*length)).min(behind.len()));
        rest = behind;
        chain.push(Octets::from(certificate));
    }
    let root = chain.pop();
    endorsement::verify(&chain, root.as_slice(), OF_CERTIFICATES).is_ok()
}

pub(crate) fn certificate_seeds() -> Vec<Vec<u8>> {
    let endorsed = || {
        let (maker, own) = (KeyPair::generate()?, KeyPair::generate()?);
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_der = root.self_signed(&maker)?.der().to_vec();
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        let certificate = params.signed_by(&own, &Issuer::new(root, maker))?.der().to_vec();
        let framed = |der: &[u8]| [&(der.len() as u16).to_be_bytes()[..], der].concat();
        Ok::<_, rcgen::Error>(vec![[framed(&certificate), framed(&root_der)].concat()])
    };
    endorsed().unwrap_or_default()
}

/// A manifest with its proof as a notary serves it, or a statement that it signs, in canonical form.
pub(crate) fn manifests(octets: &[u8]) -> bool {
    let Some(key) = notary() else { return false };
    if let Ok(published) = serde_json::from_slice::<Published>(octets) {
        return published.verify(&key.public(), NOW, None).is_ok();
    }
    fn read<T: signing::Statement>(octets: &[u8]) -> bool {
        let Ok(statement) = canonical::read::<T>(octets) else { return false };
        assert_eq!(canonical::write(&statement).as_deref(), Ok(octets), "two texts say the same");
        true
    }
    read::<Manifest>(octets) || read::<Head>(octets) || read::<Revocation>(octets)
}

pub(crate) fn manifest_seeds() -> Vec<Vec<u8>> {
    let (name, publisher) = ("host".to_owned(), "notary".to_owned());
    let measured =
        Measurement { component: Component::Hypervisor, name: "qemu".into(), digest: Digest::from_bytes([7; 32]) };
    let manifest = Manifest {
        publisher: publisher.clone(),
        name: name.clone(),
        version: 1,
        valid_from: Moment::from_secs(1000),
        valid_until: Moment::from_secs(2000),
        oldest_accepted: 1,
        measurements: vec![measured],
    };
    let revocation =
        Revocation { publisher: publisher.clone(), name: name.clone(), version: 1, reason: "a hole".into(), time: NOW };
    let publish = || {
        let key = notary()?;
        let envelope = key.sign(&manifest).ok()?;
        let mut tree = Tree::default();
        tree.push(log::leaf(&envelope).ok()?);
        let standing = Standing { name, newest: 1, oldest_accepted: 1, revoked: Vec::new() };
        let root = Digest::from_bytes(tree.root(1)?);
        let head = Head { publisher, size: 1, root, time: NOW, standings: vec![standing] };
        let inclusion = log::prove_inclusion(&tree, 0, 1)?;
        let published = Published { manifest: envelope, head: key.sign(&head).ok()?, inclusion };
        Some((serde_json::to_vec(&published).ok()?, canonical::write(&head).ok()?))
    };
    let Some((published, head)) = publish() else { return Vec::new() };
    let statements = [canonical::write(&manifest), canonical::write(&revocation)];
    [published, head].into_iter().chain(statements.into_iter().flatten()).collect()
}

fn notary() -> Option<signing::SigningKey> {
    signing::SigningKey::from_seed([1; 32]).ok()
}
