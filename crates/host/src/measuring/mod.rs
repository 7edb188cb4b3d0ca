//! What this host runs, measured as it starts, and proved whenever somebody asks with a nonce.
//!
//! Owns the thread that has the TPM: it measures while the agent starts, so that no start is longer for it, answers one
//! question at a time, and opens anew what was lost. In reading order: what there is to measure ([`survey`]), digests of it
//! ([`digests`]), the events of the log ([`log`]), and the TPM that they are extended into ([`platform`]).

mod digests;
mod log;
mod platform;
mod survey;

use std::{
    error::Error as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use lucarne_attest::{spki, wire::Key};
use lucarne_model::{
    ErrorCode, Evidence, InstanceId, Measurement, Octets,
    evidence::RegisterQuote,
    storage::Digest,
    tpm::{DesiredChallenge, PresentedTpm},
};
use lucarne_seal::age::p256::Point;
use lucarne_tpm::{Tpm, agreement};
use ring::digest::{SHA256, digest};
use tokio::sync::oneshot;

use self::platform::{Files, Host, Platform, PlatformError, Wanted, Which};
pub(crate) use self::survey::Own;
use crate::{
    prover::{Prover, ProverError},
    sealing::{AgreeingTpm, QuotingTpm},
    settings::TpmChoice,
};

/// Questions that may wait; more are refused.
const WAITING: usize = 32;
/// How often a software TPM is looked at while nobody asks.
const LOOK: Duration = Duration::from_secs(1);
/// What a software TPM takes.
const PROGRAMS: [&str; 3] = ["swtpm", "swtpm_localca", "certtool"];

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoProof {
    #[error("this host has nothing to prove itself with: {0}")]
    Unavailable(String),
    #[error("more than {WAITING} questions wait for this host's TPM")]
    Busy,
    #[error("the host agent is ending")]
    Ending,
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

impl NoProof {
    /// With its cause.
    fn in_full(&self) -> String {
        match self.source() {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}

impl From<NoProof> for ProverError {
    fn from(cause: NoProof) -> Self {
        let code = match &cause {
            NoProof::Platform(error) => error.code(),
            NoProof::Unavailable(_) | NoProof::Busy | NoProof::Ending => ErrorCode::HostNotProved,
        };
        Self { code, cause: Box::new(cause) }
    }
}

/// The way to the thread that has the TPM, or why there is none.
#[derive(Debug)]
pub(crate) struct Measuring(Result<SyncSender<Question>, String>);

/// What the thread does with its TPM, and who waits for it.
type Question = Box<dyn FnOnce(&mut Owner) + Send>;

impl Measuring {
    /// Begins to measure in a thread of its own, which ends when this is dropped.
    pub(crate) fn begin(choice: &TpmChoice, folder: PathBuf, name: &str, point: &[u8], own: Own) -> Self {
        let begun = which(choice).and_then(|which| {
            let key = fingerprint(point).ok_or("its own key is no point of P-256")?;
            let (sender, questions) = sync_channel(WAITING);
            let owner =
                Owner { which, files: Files(folder), host: Host { name: name.to_owned(), key, own }, platform: None };
            let spawned = thread::Builder::new().name("measuring".to_owned()).spawn(move || owner.run(&questions));
            spawned.map_err(|error| format!("no thread can be started: {error}"))?;
            Ok(sender)
        });
        if let Err(reason) = &begun {
            tracing::warn!(reason, "this host can prove to nobody what it runs");
        }
        Self(begun)
    }

    /// Whether this is for the machine's own TPM, and not for one that is a program.
    pub(crate) fn is_of_hardware(choice: &TpmChoice) -> bool {
        matches!(which(choice), Ok(Which::Device(_)))
    }

    /// Has the thread do this with its TPM, which is opened first if it is not open.
    async fn ask<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Platform) -> Result<T, PlatformError> + Send + 'static,
    ) -> Result<T, NoProof> {
        self.put(act)?.await.map_err(|_| NoProof::Ending)?
    }

    fn put<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Platform) -> Result<T, PlatformError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, NoProof>>, NoProof> {
        let questions = self.0.as_ref().map_err(|reason| NoProof::Unavailable(reason.clone()))?;
        let (answer, answered) = oneshot::channel();
        let question = move |owner: &mut Owner| {
            // Who asked may have gone.
            let _ = answer.send(owner.act(act));
        };
        questions.try_send(Box::new(question)).map_err(|refused| match refused {
            TrySendError::Full(_) => NoProof::Busy,
            TrySendError::Disconnected(_) => NoProof::Ending,
        })?;
        Ok(answered)
    }

    /// The same for threads that may wait.
    fn ask_and_wait<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Platform) -> Result<T, PlatformError> + Send + 'static,
    ) -> Result<T, String> {
        let answered = self.put(act).and_then(|answered| answered.blocking_recv().map_err(|_| NoProof::Ending)?);
        answered.map_err(|error| error.in_full())
    }
}

impl AgreeingTpm for Measuring {
    fn recipient(&self, epoch: u32) -> Result<Point, String> {
        self.ask_and_wait(move |platform| platform.recipient(epoch)).and_then(|point| point_of(&point))
    }

    fn agree(&self, epoch: u32, share: &Point) -> Result<(Point, [u8; 32]), String> {
        let share = share.uncompressed();
        let (x, y) = share.get(1..).and_then(|both| both.split_at_checked(32)).ok_or("that is no point")?;
        let not_whole = |_| "that is no point".to_owned();
        let share = agreement::Point { x: x.try_into().map_err(not_whole)?, y: y.try_into().map_err(not_whole)? };
        let (public, agreed) = self.ask_and_wait(move |platform| platform.agree(epoch, &share))?;
        Ok((point_of(&public)?, agreed.x))
    }
}

fn point_of(point: &agreement::Point) -> Result<Point, String> {
    Point::of_coordinates(&point.x, &point.y).ok_or_else(|| "what the TPM says is no point of its curve".to_owned())
}

#[async_trait]
impl QuotingTpm for Measuring {
    async fn present(&self) -> Result<PresentedTpm, String> {
        self.ask(|platform| Ok(platform.presented())).await.map_err(|error| error.in_full())
    }

    async fn quote(&self, qualifying: [u8; 32]) -> Result<RegisterQuote, String> {
        self.ask(move |platform| platform.quote_host(&qualifying)).await.map_err(|error| error.in_full())
    }
}

#[async_trait]
impl Prover for Measuring {
    async fn prove(
        &self,
        instance: InstanceId,
        generation: u64,
        nonce: &Octets,
        measured: &[Measurement],
    ) -> Result<Evidence, ProverError> {
        let (nonce, measured) = (nonce.clone(), measured.to_vec());
        let wanted = Wanted { instance, generation, nonce, measured };
        Ok(self.ask(move |platform| platform.prove(wanted)).await?)
    }

    async fn identify(&self) -> Result<PresentedTpm, ProverError> {
        Ok(self.ask(|platform| Ok(platform.presented())).await?)
    }

    async fn open(&self, challenge: &DesiredChallenge) -> Result<Octets, ProverError> {
        let challenge = challenge.clone();
        Ok(self.ask(move |platform| platform.answer(&challenge)).await?)
    }
}

/// The thread: it alone has the TPM.
struct Owner {
    which: Which,
    files: Files,
    host: Host,
    /// None until it was opened, and after it was lost.
    platform: Option<Platform>,
}

impl Owner {
    fn run(mut self, questions: &Receiver<Question>) {
        if let Err(error) = self.open() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "this host can prove to nobody what it runs, for now"
            );
        }
        loop {
            match questions.recv_timeout(LOOK) {
                Ok(question) => question(&mut self),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// The platform, opened if it is not open.
    fn open(&mut self) -> Result<&mut Platform, PlatformError> {
        let platform = match self.platform.take() {
            Some(platform) => platform,
            None => {
                let opened = Platform::open(&self.which, self.files.clone(), self.host.clone())?;
                let (maker, count) = (opened.maker(), opened.count());
                tracing::info!(tpm = maker.manufacturer, model = maker.model, count, "this host has measured itself");
                opened
            }
        };
        Ok(self.platform.insert(platform))
    }

    /// A TPM that fails in the middle of a question fails that question: what had been extended for it is gone, and
    /// whoever asked decides whether to ask again.
    fn act<T>(&mut self, act: impl FnOnce(&mut Platform) -> Result<T, PlatformError>) -> Result<T, NoProof> {
        let done = act(self.open()?);
        if done.as_ref().is_err_and(PlatformError::is_loss) {
            tracing::warn!("the TPM was lost; it is opened anew at the next question");
            self.platform = None;
        }
        Ok(done?)
    }

    /// A software TPM that was killed is started again, and told again what was measured, before anybody asks.
    fn look(&mut self) {
        if !self.platform.as_mut().is_some_and(Platform::has_ended) {
            return;
        }
        tracing::warn!("the software TPM ended; it is started again");
        self.platform = None;
        if let Err(error) = self.open() {
            tracing::error!(error = &error as &dyn std::error::Error, "the software TPM cannot be started again");
        }
    }
}

/// The TPM that is there, or why there is none.
fn which(choice: &TpmChoice) -> Result<Which, String> {
    match choice {
        TpmChoice::None => Err("it was told to use no TPM".to_owned()),
        TpmChoice::Device(path) => Ok(Which::Device(path.clone())),
        TpmChoice::Software => software(),
        TpmChoice::Find if Path::new(Tpm::DEVICE).exists() => Ok(Which::Device(Tpm::DEVICE.into())),
        TpmChoice::Find => software().map_err(|reason| format!("there is no {}, and {reason}", Tpm::DEVICE)),
    }
}

fn software() -> Result<Which, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    match PROGRAMS.iter().find(|program| !is_there(program)) {
        None => Ok(Which::Software),
        Some(missing) => {
            Err(format!("there is no {missing}: install the Debian packages swtpm, swtpm-tools and gnutls-bin"))
        }
    }
}

/// SHA-256 of the SubjectPublicKeyInfo of a key on P-256, of which the point is given uncompressed.
fn fingerprint(point: &[u8]) -> Option<Digest> {
    let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32)?;
    let der = spki::write(&Key::P256 { x: x.to_vec(), y: y.to_vec() }).filter(|_| y.len() == 32)?;
    let found = digest(&SHA256, &der);
    Some(Digest::from_bytes(std::array::from_fn(|at| found.as_ref()[at])))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lucarne_attest::{
        pcr::{self, Values},
        quote,
    };
    use lucarne_model::evidence::PcrValue;
    use lucarne_seal::{age::Seed, sealed_request};

    use super::*;
    use crate::sealing::ReadingKey;

    #[test]
    fn a_host_without_a_tpm_says_why_and_works_on() {
        let own = Own { shim: None, configuration: String::new() };
        let measuring = Measuring::begin(&TpmChoice::None, PathBuf::from("/nonexistent"), "h", &[4; 65], own);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let nothing = (Octets(vec![1]), Vec::new());
        let proved = runtime.block_on(measuring.prove(InstanceId::from_bits(1), 1, &nothing.0, &nothing.1));
        let said = std::error::Error::source(&proved.unwrap_err()).unwrap().to_string();
        assert!(said.contains("told to use no TPM"), "{said}");
        assert!(!Path::new("/nonexistent").exists());
    }

    /// With a real swtpm, from a host's start to its next: the key never leaves it, and another epoch has another.
    #[test]
    fn a_request_that_is_sealed_to_a_key_in_the_tpm_is_opened_by_the_tpm() {
        let place = tempfile::tempdir().unwrap();
        let begin = || {
            let own = Own { shim: None, configuration: String::new() };
            let (folder, point) = (place.path().join("tpm"), p256_point());
            Arc::new(Measuring::begin(&TpmChoice::Software, folder, "host-of-a-test", &point, own))
        };
        let key = |epoch, tpm| ReadingKey::read_or_make(place.path(), epoch, Some(tpm)).unwrap().identity;
        let first = key(1, begin());
        let request = sealed_request::seal(b"{}", &Seed::new([3; 32]), first.recipient()).unwrap();
        assert!(first.recipient().to_string().starts_with("age1tag1"), "{first:?}");
        assert_eq!(sealed_request::open(&request, &first).unwrap(), b"{}");
        drop(first);
        let measuring = begin();
        assert_eq!(sealed_request::open(&request, &key(1, measuring.clone())).unwrap(), b"{}", "after another start");
        assert!(sealed_request::open(&request, &key(2, measuring)).is_err());
    }

    /// With a real swtpm: what it says of the host is bound to what was asked, and judged as whoever reads a receipt does.
    #[test]
    fn a_quote_is_of_this_host_and_for_what_it_was_asked() {
        let place = tempfile::tempdir().unwrap();
        let own = Own { shim: None, configuration: String::new() };
        let measuring =
            Measuring::begin(&TpmChoice::Software, place.path().join("tpm"), "host-of-a-test", &p256_point(), own);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let presented = runtime.block_on(measuring.present()).unwrap();
        let quoted = runtime.block_on(QuotingTpm::quote(&measuring, [5; 32])).unwrap();
        let key = quote::read_public(&presented.identity().unwrap().attestation_public).unwrap();
        let judged = |asked: [u8; 32], registers: &[PcrValue]| {
            let quote = quote::Quote { message: &quoted.message, signature: &quoted.signature };
            quote.verify_for(&key, &asked, &Values::from(registers), &pcr::HOST)
        };
        assert!(judged([5; 32], &quoted.registers).is_ok());
        assert_eq!(judged([6; 32], &quoted.registers), Err(quote::QuoteError::OtherPurpose));
        let mut others = quoted.registers.clone();
        others[0].value = Digest::from_bytes([0; 32]);
        assert_eq!(judged([5; 32], &others), Err(quote::QuoteError::OtherValues));
    }

    fn p256_point() -> Vec<u8> {
        use lucarne_seal::age::p256::Agreement as _;
        lucarne_seal::age::p256::InMemory::from_octets(&[1; 32]).unwrap().public().uncompressed()
    }

    #[test]
    fn only_a_whole_point_has_a_fingerprint() {
        let point = [&[4][..], &[1; 32], &[2; 32]].concat();
        assert!(fingerprint(&point).is_some());
        for wrong in [&point[1..], &point[..64], &[&point[..], &[0]].concat(), &[]] {
            assert_eq!(fingerprint(wrong), None);
        }
    }
}
