//! Judging evidence: quotes verified a second on one core, all of a launch's evidence, and the replay of long event logs.
//!
//! Owns the scene: an attestation key in memory in place of a TPM, whose own time is not ours. Peers would start a process
//! for each quote; the table has marks of our own instead.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use lucarne_attest::{
    event_log::EventLog,
    measure, pcr,
    pcr::Values,
    quote::{Quote, read_public},
    verify::{CheckName, Trust, purpose, verify},
    wire::{AsymmetricScheme, Attest, Attributes, Clock, HashAlgorithm, Key, MAGIC, Public, Signature, Wire as _},
};
use lucarne_bench::figures::{median, table};
use lucarne_model::{Component, Evidence, InstanceId, Measurement, Octets, storage::Digest};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};

/// Of this many rounds of each the one in the middle counts.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
/// The mark: quotes a second on one core.
const MARK: f64 = 5000.0;
/// Components of a host: libraries, PCI functions, ROMs.
const COMPONENTS: usize = 120;
const LONG: usize = 100_000;

fn main() -> Result<()> {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| anyhow!("no key was made"))?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).map_err(|_| anyhow!("no key"))?;
    let evidence = evidence(&pair, &random)?;
    let ak = read_public(&evidence.ak_public)?;
    let values = Values::from(&evidence.pcrs[..]);
    let quotes = a_second(|| {
        let quote = Quote { message: &evidence.quote, signature: &evidence.signature };
        black_box(quote.verify(&ak, &purpose(&evidence), &values, &pcr::QUOTED).is_ok())
    })?;
    let whole = a_second(|| {
        let report = verify(&evidence, None, &Trust::default());
        black_box(report.refusal().is_none())
    })?;
    let long = log(LONG)?.to_octets();
    let replays =
        a_second(|| EventLog::parse(&long).is_ok_and(|log| black_box(log.replay()).get(pcr::KERNEL).is_some()))?;
    let rows = [
        ("quotes verified a second (ECDSA P-256)".to_owned(), quotes, format!("{MARK:.0}")),
        (format!("evidence with {COMPONENTS} events judged a second"), whole, String::new()),
        (format!("event logs of {LONG} events read and replayed a second"), replays, String::new()),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(what, found, mark)| vec![what, format!("{found:.1}"), mark]).collect();
    println!("one core, one thread\n\n{}", table(&["what", "a second", "mark"], &rows));
    println!("a log of {LONG} events: {:.0} ms, {:.1} MB", 1000.0 / replays, long.len() as f64 / 1e6);
    Ok(())
}

/// How often `act`, which must say yes, is done in a second.
fn a_second(mut act: impl FnMut() -> bool) -> Result<f64> {
    ensure!(act(), "what is measured does not hold");
    let mut rates = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let (begin, mut done) = (Instant::now(), 0_u32);
        while begin.elapsed() < ROUND {
            ensure!(act(), "what is measured does not hold");
            done += 1;
        }
        rates.push(f64::from(done) / begin.elapsed().as_secs_f64());
    }
    median(&rates).context("no round")
}

fn measured(component: Component, number: usize) -> Measurement {
    let digest = Digest::from_bytes(std::array::from_fn(|at| number.to_le_bytes()[at % 8]));
    Measurement { component, name: format!("libexample{number}.so.1"), digest }
}

/// Events of the host, one of them of the kernel.
fn log(events: usize) -> Result<EventLog> {
    let mut log = EventLog::new();
    for number in 0..events {
        let component = if number == 0 { Component::Kernel } else { Component::HypervisorLibrary };
        log.events.push(measure::event(&measured(component, number), pcr::of(component))?);
    }
    Ok(log)
}

fn evidence(pair: &EcdsaKeyPair, random: &SystemRandom) -> Result<Evidence> {
    let log = log(COMPONENTS)?;
    let guest = measure::describe_guest(vec![measured(Component::GuestKernel, 1)])?;
    let mut values = Values::default();
    pcr::QUOTED.into_iter().for_each(|register| values.set(register, [0; 32]));
    log.replay().iter().for_each(|(register, value)| values.set(register, value));
    values.set(pcr::GUEST, measure::guest_register(&guest));
    let mut evidence = Evidence {
        instance: InstanceId::from_bits(1),
        generation: 1,
        nonce: vec![7; 32].into(),
        host_key: Digest::from_bytes([9; 32]),
        quote: Octets::default(),
        signature: Octets::default(),
        pcrs: values.to_evidence(),
        event_log: log.to_octets().into(),
        ak_public: public(pair).to_octets().into(),
        ek_certificates: Vec::new(),
        credential: None,
        guest: Some(guest.into()),
    };
    let digest = pcr::digest_of(&pcr::quoted(), &values, HashAlgorithm::Sha256).context("a register is missing")?;
    let attest = Attest {
        magic: MAGIC,
        signer: vec![0; 34],
        qualifying: purpose(&evidence).qualifying_data().to_vec(),
        clock: Clock { milliseconds: 1, resets: 1, restarts: 0, safe: true },
        firmware: 1,
        selections: pcr::quoted(),
        pcr_digest: digest,
    };
    evidence.quote = attest.to_octets().into();
    let made = pair.sign(random, &evidence.quote).map_err(|_| anyhow!("it was not signed"))?;
    let (r, s) = made.as_ref().split_at(32);
    let signature = Signature::Ecdsa { hash: HashAlgorithm::Sha256, r: r.to_vec(), s: s.to_vec() };
    evidence.signature = signature.to_octets().into();
    let open = [CheckName::Endorsement, CheckName::Credential, CheckName::Nonce, CheckName::Host, CheckName::Clock];
    let open = [&open[..], &[CheckName::Manifest, CheckName::Reference]].concat();
    ensure!(verify(&evidence, None, &Trust::default()).holds_without(&open), "the scene does not hold");
    Ok(evidence)
}

fn public(pair: &EcdsaKeyPair) -> Public {
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let attributes =
        [Attributes::FIXED_PARENT, Attributes::SENSITIVE_DATA_ORIGIN, Attributes::RESTRICTED, Attributes::SIGN];
    Public {
        name_algorithm: HashAlgorithm::Sha256,
        attributes: attributes.into_iter().fold(Attributes::FIXED_TPM, Attributes::with),
        policy: Vec::new(),
        symmetric_bits: None,
        scheme: AsymmetricScheme::Ecdsa(HashAlgorithm::Sha256),
        key: Key::P256 { x: x.to_vec(), y: y.to_vec() },
    }
}
