//! The TPM with what was measured into it: opened, brought up to date, quoted.
//!
//! Owns the order that makes the log true: a measurement is written to the log on the disk, then extended; registers are
//! quoted only after every file was looked at again. All of it blocks, and has one caller at a time.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lucarne_attest::{
    credential,
    event_log::{EventLog, EventLogError},
    measure::{self, MeasureError},
    pcr::{self, Values},
    qualifying::Purpose,
};
use lucarne_model::{
    ErrorCode, Evidence, InstanceId, Measurement, Octets,
    evidence::RegisterQuote,
    storage::Digest,
    tpm::{DesiredChallenge, PresentedTpm, TpmIdentity, TpmModel},
};
use lucarne_tpm::{
    CommandCode, Credential, Error as TpmError, Keys, Maker, Tpm,
    agreement::{Epoch, Point},
    swtpm::{self, Authority, Swtpm, manufacture},
};

use super::{
    digests::Measured,
    log::{self, LogError, Resumed},
    survey::{Own, survey},
};
use crate::durable::{self, Outlives};

/// What the firmware logged, as Linux shows it.
const FIRMWARE_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// Which TPM a host proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// The machine's own, behind a device.
    Device(PathBuf),
    /// A program of ours: it proves to those who believe this host's software, and to nobody else.
    Software,
}

/// Where what belongs to it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Files(pub(crate) PathBuf);

impl Files {
    fn event_log(&self) -> PathBuf {
        self.0.join("event-log")
    }
    fn key(&self) -> PathBuf {
        self.0.join("attestation.key")
    }
    fn authority(&self) -> PathBuf {
        self.0.join("authority")
    }
    fn software(&self) -> swtpm::Place {
        swtpm::Place::new(self.0.join("software"))
    }
}

/// Who this host is, in its proofs.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// How its software TPM's certificate and its authority name it.
    pub(crate) name: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its TLS key.
    pub(crate) key: Digest,
    pub(crate) own: Own,
}

/// Why nothing can be proved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlatformError {
    #[error("the TPM cannot be used")]
    Tpm(#[source] TpmError),
    #[error("{path} cannot be read or written")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("`{name}` cannot be measured")]
    Measure {
        name: String,
        #[source]
        cause: io::Error,
    },
    #[error("the event log of this machine's firmware cannot be used")]
    FirmwareLog(#[source] EventLogError),
    #[error("the event log cannot be gone on with")]
    Log(#[source] LogError),
    #[error(
        "the registers of the TPM hold what no log of this host tells: something else on this machine extends them"
    )]
    Unexplained,
    #[error("the guest cannot be described")]
    Guest(#[source] MeasureError),
}

impl PlatformError {
    /// What others are told of it.
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            // A TPM opens a credential that was made for its own two keys, and refuses every other.
            Self::Tpm(TpmError::Refused { command: CommandCode::ActivateCredential, .. }) => {
                ErrorCode::CredentialMismatch
            }
            Self::Tpm(_) => ErrorCode::TpmFailed,
            _ => ErrorCode::HostNotProved,
        }
    }

    /// Whether the TPM must be opened anew before anything else is asked of it.
    pub(super) fn is_loss(&self) -> bool {
        matches!(self, Self::Tpm(error) if error.is_lost())
    }
}

/// What evidence is wanted of.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) instance: InstanceId,
    pub(super) generation: u64,
    pub(super) nonce: Octets,
    pub(super) measured: Vec<Measurement>,
}

#[derive(Debug)]
pub(super) struct Platform {
    tpm: Tpm,
    keys: Keys,
    /// None of a machine with its own TPM. Dropped after the lines to it.
    software: Option<Swtpm>,
    maker: Maker,
    /// TPMT_PUBLIC of the endorsement key.
    endorsement_public: Octets,
    host: Host,
    files: Files,
    measured: Vec<Measured>,
    log: EventLog,
}

impl Platform {
    /// Makes, starts or opens the TPM, and measures this machine into it.
    pub(super) fn open(which: &Which, files: Files, host: Host) -> Result<Self, PlatformError> {
        let made = fs::create_dir_all(&files.0);
        made.map_err(|cause| PlatformError::File { path: files.0.clone(), cause })?;
        let (software, mut tpm) = start(which, &files, &host.name).map_err(PlatformError::Tpm)?;
        let keys = Keys::open(&mut tpm, &files.key()).map_err(PlatformError::Tpm)?;
        let maker = tpm.maker().map_err(PlatformError::Tpm)?;
        let endorsement_public = keys.endorsement_public(&mut tpm).map_err(PlatformError::Tpm)?.into();
        let firmware = if software.is_some() { EventLog::new() } else { firmware_log()? };
        let kept = kept_log(&files.event_log())?;
        let registers = tpm.read_pcrs(&log::of_the_host()).map_err(PlatformError::Tpm)?;
        let resumed = log::resume(kept, &firmware, &values(registers)).ok_or(PlatformError::Unexplained)?;
        let Resumed { log, extended } = resumed;
        let measured = Vec::new();
        let mut platform = Self { tpm, keys, software, maker, endorsement_public, host, files, measured, log };
        platform.extend_from(extended)?;
        platform.measure()?;
        Ok(platform)
    }

    fn firmware_measures(&self) -> bool {
        self.software.is_none()
    }

    /// Everything, for the first time.
    fn measure(&mut self) -> Result<(), PlatformError> {
        let found = survey(&self.host.own, self.firmware_measures()).into_iter().map(|found| {
            let name = found.name.clone();
            Measured::new(found).map_err(|cause| PlatformError::Measure { name, cause })
        });
        let (measured, measurements): (Vec<_>, Vec<_>) = found.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        self.measured = measured;
        self.tell(&measurements)
    }

    /// What changed since: it is told too, so that nobody can run what was not measured and prove what was.
    fn measure_again(&mut self) -> Result<(), PlatformError> {
        let mut changed = Vec::new();
        for measured in &mut self.measured {
            let again = measured.again();
            let failed = |cause| PlatformError::Measure { name: measured.name().to_owned(), cause };
            changed.extend(again.map_err(failed)?);
        }
        for measurement in &changed {
            let (component, name) = (measurement.component, &measurement.name);
            tracing::warn!(%component, name, "is not the file that was measured, and was measured again");
        }
        self.tell(&changed)
    }

    /// Into the log on the disk, and then into the TPM.
    fn tell(&mut self, measurements: &[Measurement]) -> Result<(), PlatformError> {
        let news = log::news(&self.log, measurements, self.firmware_measures()).map_err(PlatformError::Log)?;
        if news.is_empty() {
            return Ok(());
        }
        let from = self.log.events.len();
        self.log.events.extend(news);
        let path = self.files.event_log();
        let written = durable::replace(&path, &self.log.to_octets(), Outlives::PowerCut);
        written.map_err(|cause| PlatformError::File { path, cause })?;
        self.extend_from(from)
    }

    fn extend_from(&mut self, from: usize) -> Result<(), PlatformError> {
        for event in &self.log.events[from..] {
            let (Some(digest), Ok(register)) = (event.extends(), u8::try_from(event.register)) else { continue };
            self.tpm.extend(register, &digest).map_err(PlatformError::Tpm)?;
        }
        Ok(())
    }

    /// Evidence of this host as it is now, and of the guest.
    pub(super) fn prove(&mut self, wanted: Wanted) -> Result<Evidence, PlatformError> {
        self.measure_again()?;
        let Wanted { instance, generation, nonce, measured } = wanted;
        let guest = measure::describe_guest(measured).map_err(PlatformError::Guest)?;
        let purpose = Purpose { nonce: &nonce, host_key: &self.host.key, instance, generation };
        let (quote, registers) = self.quote(&purpose.qualifying_data(), &guest).map_err(PlatformError::Tpm)?;
        Ok(Evidence {
            instance,
            generation,
            host_key: self.host.key.clone(),
            quote: quote.attest.into(),
            signature: quote.signature.into(),
            pcrs: registers.to_evidence(),
            event_log: self.log.to_octets().into(),
            ak_public: self.keys.attestation_public().into(),
            ek_certificates: self.certificates(),
            // Who asked for it has it.
            credential: None,
            guest: Some(guest.into()),
            nonce,
        })
    }

    /// Which TPM this is.
    pub(super) fn presented(&self) -> PresentedTpm {
        let Maker { manufacturer, model, firmware, .. } = self.maker.clone();
        let identity = TpmIdentity {
            model: TpmModel { manufacturer, model, firmware },
            endorsement_public: self.endorsement_public.clone(),
            endorsement_certificates: self.certificates(),
            attestation_public: self.keys.attestation_public().into(),
        };
        match &self.software {
            Some(_) => PresentedTpm::Software(identity),
            None => PresentedTpm::Hardware(identity),
        }
    }

    fn certificates(&self) -> Vec<Octets> {
        self.keys.certificate().into_iter().map(Octets::from).collect()
    }

    /// Has the TPM open a credential, and answers with what only who knows its secret and this host's key can compute.
    pub(super) fn answer(&mut self, challenge: &DesiredChallenge) -> Result<Octets, PlatformError> {
        let made = Credential { blob: &challenge.credential_blob, secret: &challenge.encrypted_secret };
        let secret = self.keys.activate(&mut self.tpm, made).map_err(PlatformError::Tpm)?;
        Ok(credential::answer(&secret, &self.host.key)[..].into())
    }

    fn quote(&mut self, qualifying_data: &[u8; 32], guest: &[u8]) -> Result<(lucarne_tpm::Quote, Values), TpmError> {
        let tpm = &mut self.tpm;
        tpm.reset(pcr::GUEST)?;
        tpm.extend(pcr::GUEST, &measure::guest_digest(guest))?;
        let quote = self.keys.quote(tpm, qualifying_data, &pcr::QUOTED)?;
        Ok((quote, values(tpm.read_pcrs(&pcr::QUOTED)?)))
    }

    /// What the host alone is, as it is now, for what was hashed so.
    pub(super) fn quote_host(&mut self, qualifying_data: &[u8; 32]) -> Result<RegisterQuote, PlatformError> {
        self.measure_again()?;
        let quote = self.keys.quote(&mut self.tpm, qualifying_data, &pcr::HOST).map_err(PlatformError::Tpm)?;
        let registers = values(self.tpm.read_pcrs(&pcr::HOST).map_err(PlatformError::Tpm)?).to_evidence();
        Ok(RegisterQuote { message: quote.attest.into(), signature: quote.signature.into(), registers })
    }

    /// The public half of the key to which what only this TPM may read is sealed.
    pub(super) fn recipient(&mut self, epoch: u32) -> Result<Point, PlatformError> {
        Epoch(epoch).public(&mut self.tpm).map_err(PlatformError::Tpm)
    }

    /// That half again, and what its key and the owner of `share` agree on.
    pub(super) fn agree(&mut self, epoch: u32, share: &Point) -> Result<(Point, Point), PlatformError> {
        let public = self.recipient(epoch)?;
        let agreed = Epoch(epoch).agree(&mut self.tpm, share).map_err(PlatformError::Tpm)?;
        Ok((public, agreed))
    }

    /// Whether the program that is the TPM has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        // Asking fails only for a child that is not there any more.
        self.software.as_mut().is_some_and(|swtpm| !matches!(swtpm.ended(), Ok(None)))
    }

    pub(super) fn maker(&self) -> &Maker {
        &self.maker
    }
    /// How much was measured.
    pub(super) fn count(&self) -> usize {
        self.measured.len()
    }
}

fn start(which: &Which, files: &Files, name: &str) -> Result<(Option<Swtpm>, Tpm), TpmError> {
    match which {
        Which::Device(path) => Ok((None, Tpm::open(path)?)),
        Which::Software => {
            let authority = Authority::new(files.authority(), format!("software TPMs of {name}"));
            manufacture(&files.software(), &authority, name)?;
            let (swtpm, tpm) = Swtpm::start(&files.software())?;
            Ok((Some(swtpm), tpm))
        }
    }
}

fn values(registers: lucarne_tpm::PcrValues) -> Values {
    let mut values = Values::default();
    registers.into_iter().for_each(|(register, value)| values.set(register, value));
    values
}

fn firmware_log() -> Result<EventLog, PlatformError> {
    let read = fs::read(FIRMWARE_LOG);
    let octets = read.map_err(|cause| PlatformError::File { path: FIRMWARE_LOG.into(), cause })?;
    EventLog::parse(&octets).map(log::of_sha256_alone).map_err(PlatformError::FirmwareLog)
}

/// What was kept; one that cannot be read is no log, and the registers tell whether it mattered.
fn kept_log(path: &Path) -> Result<Option<EventLog>, PlatformError> {
    match fs::read(path) {
        Ok(octets) => Ok(EventLog::parse(&octets).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(PlatformError::File { path: path.to_owned(), cause }),
    }
}

#[cfg(test)]
#[path = "platform_tests.rs"]
mod tests;
