//! Sealed operations: requests judged a second on one core, and results sealed, beside `age` and `openssl speed`.
//!
//! Owns the scene: one host, one person, one grant, and requests that differ in their nonce.

use std::{
    hint::black_box,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use lucarne_attest::{canonical, signing::SigningKey};
use lucarne_bench::figures::{median, table};
use lucarne_model::{AccountId, HostId, InstanceId, Moment};
use lucarne_seal::{
    age::{
        Identity, Seed,
        stream::{CHUNK, Place},
        writer::begin,
    },
    grant::Grants,
    judge::{Held, Life, Rules, Site},
    key::VerifyingKey,
    ledger::Ledger,
    operation::{Layer, Operation, OperationName},
    padding::Padding,
    receipt::Tally,
    request::{Nonce, Request, ResultTerms, Target, TargetInstance, Terms},
    trust::{Channel, Enrolled, Trust},
};
use serde_json::json;

const NOW: Moment = Moment::from_secs(1_800_000_000);
const INSTANCE: InstanceId = InstanceId::from_bits(1);
const HOST: HostId = HostId::from_bits(1);
/// Of this many rounds of each the one in the middle counts.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
const RESULT: usize = 512 << 20;

fn main() -> Result<()> {
    let key = SigningKey::from_seed([1; 32])?;
    let (rules, site) = (rules(&key)?, site(&key));
    let (good, stranger) = (request(&key)?, request(&SigningKey::from_seed([2; 32])?)?);
    let forged = forged(&good)?;
    let judged = |octets: &[u8]| rules.judge(octets, Channel::Carried, &site, &Ledger::default(), NOW).is_ok();
    let rows = [
        ("good requests judged a second", a_second(|| black_box(judged(&good)))?),
        ("requests with a forged signature refused a second", a_second(|| !black_box(judged(&forged)))?),
        ("requests by strangers refused a second", a_second(|| !black_box(judged(&stranger)))?),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(what, found)| vec![what.to_owned(), format!("{found:.0}")]).collect();
    println!("one core, one thread, Ed25519\n\n{}", table(&["what", "a second"], &rows));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut rows = vec![vec!["sealed, 1 thread".to_owned(), rate(seal(1)?)]];
    rows.push(vec![format!("sealed, {cores} threads"), rate(seal(cores)?)]);
    rows.push(vec!["tree hash, 1 thread".to_owned(), rate(hash()?)]);
    rows.push(vec!["age, from and to memory".to_owned(), age().map_or_else(|error| error.to_string(), rate)]);
    println!("results in GB/s\n\n{}", table(&["what", "GB/s"], &rows));
    println!("{}", openssl().unwrap_or_else(|error| error.to_string()));
    Ok(())
}

fn rate(seconds: f64) -> String {
    format!("{:.2}", RESULT as f64 / 1e9 / seconds)
}

/// How often `act`, which must say yes, is done in a second.
fn a_second(mut act: impl FnMut() -> bool) -> Result<f64> {
    ensure!(act(), "what is measured does not hold");
    let mut rates = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let (begun, mut count) = (Instant::now(), 0u64);
        while begun.elapsed() < ROUND {
            ensure!(act(), "what is measured does not hold");
            count += 1;
        }
        rates.push(count as f64 / begun.elapsed().as_secs_f64());
    }
    median(&rates).context("nothing was measured")
}

fn rules(key: &SigningKey) -> Result<Rules> {
    let mut trust = Trust::default();
    let key = VerifyingKey::Ed25519(key.public());
    trust.enrol(Enrolled { person: "alice".parse()?, account: AccountId::OPERATOR, key, until: None });
    let grants = r#"permit(principal == Person::"000000000001/alice", action in Action::"reads", resource)
        when { context.now < 1900000000 };"#;
    Ok(Rules { trust, grants: Grants::compile(1, grants)? })
}

fn site(key: &SigningKey) -> Site {
    let held = Held { account: AccountId::OPERATOR, generation: 1, life: Life::Runs, cosigned: false };
    Site {
        host: HOST,
        keys: [(Layer::Guest, key.public().id())].into(),
        instances: [(INSTANCE, held)].into(),
        beacons: Vec::new(),
        clock_doubtful: false,
    }
}

fn request(by: &SigningKey) -> Result<Vec<u8>> {
    let host_key = SigningKey::from_seed([1; 32])?.public().id();
    let instance = TargetInstance { id: INSTANCE, generation: 1, account: AccountId::OPERATOR };
    let terms = Terms {
        target: Target { host: HOST, host_key, instance: Some(instance), others: std::collections::BTreeMap::new() },
        not_before: NOW,
        not_after: NOW.plus(ROUND),
        nonce: Nonce::new([1; 16]),
        beacon: None,
        result: ResultTerms {
            recipients: vec![Identity::from_octets([1; 32]).recipient()],
            most_octets: 4096.try_into()?,
            padding: Padding::None,
        },
        purpose: "a bench".parse()?,
        lowest_policy: 1,
    };
    let arguments = json!({"space": "physical", "address": "0x1000", "length": 4096});
    let operation = Operation::with_arguments(OperationName::GuestMemoryRead, arguments)?;
    Ok(canonical::write(&by.sign(&Request::new(operation, terms)?)?)?)
}

fn forged(good: &[u8]) -> Result<Vec<u8>> {
    let mut envelope: lucarne_attest::signing::Envelope = canonical::read(good)?;
    let octet = envelope.payload.0.last_mut().context("a payload")?;
    *octet ^= 1;
    Ok(canonical::write(&envelope)?)
}

/// Seals a result chunk by chunk in buffers that are used again, on so many threads; how long it took.
fn seal(threads: usize) -> Result<f64> {
    let begun = begin(&Seed::new([1; 32]), &[Identity::from_octets([1; 32]).recipient()])?;
    let chunks = RESULT / CHUNK;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let sealing = (0..threads).map(|thread| {
            let key = &begun.chunks;
            scope.spawn(move || {
                let mut chunk = vec![0; CHUNK];
                for number in (thread..chunks).step_by(threads) {
                    let place = Place { number: number as u64, last: number + 1 == chunks };
                    black_box(key.seal(place, &mut chunk)?);
                }
                Ok::<_, anyhow::Error>(())
            })
        });
        let sealing: Vec<_> = sealing.collect();
        sealing.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread fell over"))?)
    })?;
    Ok(start.elapsed().as_secs_f64())
}

fn hash() -> Result<f64> {
    let (mut tally, part) = (Tally::default(), vec![0; 1 << 20]);
    let start = Instant::now();
    (0..RESULT >> 20).for_each(|_| tally.push(&part));
    // What was hashed is no age file: that is found at its end.
    ensure!(tally.finish().is_err(), "zeros are no age file");
    Ok(start.elapsed().as_secs_f64())
}

/// The `age` tool over as many zeros.
fn age() -> Result<f64> {
    let recipient = Identity::from_octets([1; 32]).recipient();
    let line = format!("head -c {RESULT} /dev/zero | age -r {recipient} > /dev/null");
    let start = Instant::now();
    let status = Command::new("bash").args(["-o", "pipefail", "-c", &line]).stdin(Stdio::null()).status()?;
    ensure!(status.success(), "age is not installed: cargo xtask setup");
    Ok(start.elapsed().as_secs_f64())
}

fn openssl() -> Result<String> {
    let arguments = "speed -seconds 1 -bytes 65536 -evp chacha20-poly1305";
    let output = Command::new("openssl").args(arguments.split(' ')).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().rev().find(|line| line.starts_with("ChaCha")).context("openssl speed says nothing")?;
    Ok(format!("openssl speed, 64 KiB, 1 thread: {last}"))
}
