//! One TPM 2.0, spoken with: each method is a command, or the few that belong together.
//!
//! Owns the exchange: one command at a time, a time limit, and that a TPM once lost stays lost. What keys there are and how
//! they are kept is [`crate::keys`]'s; how the TPM is reached, [`crate::transport`]'s.

use std::{path::Path, thread::sleep, time::Duration};

use lucarne_attest::wire::{HashAlgorithm, PcrSelection, PcrSelections, Public, Wire as _};
use ring::rand::{SecureRandom, SystemRandom};

use crate::{
    Error, Malformed, ResponseCode, Transport,
    answer::{self, Answer, Object, PcrValues, Quote, Wrapped},
    command::{Command, Hierarchy},
    identity::{self, Maker},
    transport::Device,
};

/// The specification lets a key take its time: chips take up to some seconds for a primary key.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a command is tried that the TPM cannot take just now, and the pause between.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);
/// Every TPM takes so much of an NV index at once.
const NV_PIECE: u16 = 512;

/// A TPM that has been started.
#[derive(Debug)]
pub struct Tpm {
    /// None once it was lost.
    transport: Option<Box<dyn Transport>>,
    patience: Duration,
}

impl Tpm {
    /// Where Linux has it, behind its resource manager.
    pub const DEVICE: &str = "/dev/tpmrm0";

    /// Starts the TPM behind `transport` if nobody has yet, and makes sure that it keeps a SHA-256 bank.
    pub fn start(transport: Box<dyn Transport>) -> Result<Self, Error> {
        let mut tpm = Self { transport: Some(transport), patience: PATIENCE };
        match tpm.ask(&Command::startup(), Answer::nothing) {
            Ok(()) | Err(Error::Refused { code: ResponseCode::INITIALIZE, .. }) => {}
            Err(error) => return Err(error),
        }
        let has_bank = tpm.ask(&Command::get_pcr_banks(), Answer::has_sha256_bank)?;
        if has_bank { Ok(tpm) } else { Err(Error::NoBank) }
    }

    /// Opens the machine's own TPM behind a device of the kernel, such as [`Self::DEVICE`].
    pub fn open(device: &Path) -> Result<Self, Error> {
        let opened = Device::open(device).map_err(|cause| Error::Open { path: device.to_owned(), cause })?;
        Self::start(Box::new(opened))
    }

    /// Sends a command, and reads its answer by `read`.
    pub(crate) fn ask<T>(
        &mut self,
        command: &Command,
        read: impl Fn(&Answer) -> Result<T, Malformed>,
    ) -> Result<T, Error> {
        let octets = command.encode();
        for _ in 1..TRIES {
            match self.exchange(command, &octets)? {
                Err(code) if code.is_passing() => sleep(PAUSE),
                answered => return self.read(command, answered, read),
            }
        }
        let answered = self.exchange(command, &octets)?;
        self.read(command, answered, read)
    }

    fn exchange(&mut self, command: &Command, octets: &[u8]) -> Result<Result<Answer, ResponseCode>, Error> {
        let transport = self.transport.as_mut().ok_or(Error::Lost)?;
        let answered = transport.exchange(octets, self.patience);
        let answered = answered.map_err(|cause| Error::NoAnswer { command: command.code, cause });
        let parsed = answered.and_then(|answer| {
            let parsed = answer::parse(&answer, command.is_authorized());
            parsed.map_err(|cause| Error::Malformed { command: command.code, cause })
        });
        self.noting_loss(parsed)
    }

    fn read<T>(
        &mut self,
        command: &Command,
        answered: Result<Answer, ResponseCode>,
        read: impl Fn(&Answer) -> Result<T, Malformed>,
    ) -> Result<T, Error> {
        let answer = answered.map_err(|code| Error::Refused { command: command.code, code })?;
        let understood = read(&answer).map_err(|cause| Error::Malformed { command: command.code, cause });
        self.noting_loss(understood)
    }

    fn noting_loss<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if result.as_ref().is_err_and(Error::is_lost) {
            self.transport = None;
        }
        result
    }

    /// Who made it, and which it is.
    pub fn maker(&mut self) -> Result<Maker, Error> {
        let (first, count) = identity::PROPERTIES;
        let properties = self.ask(&Command::get_properties(first, count), Answer::properties)?;
        Ok(Maker::from_properties(&properties))
    }

    /// Up to 32 octets of the TPM's own randomness: it may give fewer.
    pub fn random(&mut self, count: u16) -> Result<Vec<u8>, Error> {
        self.ask(&Command::get_random(count.min(32)), Answer::buffer)
    }

    /// Extends a digest into a register of the SHA-256 bank.
    pub fn extend(&mut self, register: u8, digest: &[u8; 32]) -> Result<(), Error> {
        self.ask(&Command::pcr_extend(register, digest), Answer::nothing)
    }

    /// Sets a register to zero. Of those that a system may reset there are two: 16 and 23.
    pub fn reset(&mut self, register: u8) -> Result<(), Error> {
        self.ask(&Command::pcr_reset(register), Answer::nothing)
    }

    /// Reads registers of the SHA-256 bank, in as many commands as it takes.
    pub fn read_pcrs(&mut self, registers: &[u8]) -> Result<PcrValues, Error> {
        let (mut values, mut left) = (PcrValues::new(), registers.to_vec());
        while !left.is_empty() {
            let command = Command::pcr_read(&sha256_bank(&left));
            let given = self.ask(&command, Answer::pcr_values)?;
            let before = left.len();
            left.retain(|register| !given.contains_key(register));
            if left.len() == before {
                let cause = Malformed::Unexpected("the registers");
                return Err(Error::Malformed { command: command.code, cause });
            }
            values.extend(given);
        }
        Ok(values)
    }

    pub(crate) fn quote(&mut self, key: u32, qualifying_data: &[u8], registers: &[u8]) -> Result<Quote, Error> {
        self.ask(&Command::quote(key, qualifying_data, &sha256_bank(registers)), Answer::quote)
    }

    /// A key derived from its hierarchy's seed.
    pub(crate) fn create_primary(&mut self, hierarchy: Hierarchy, template: &Public) -> Result<Object, Error> {
        let object = self.ask(&Command::create_primary(hierarchy, template), Answer::primary)?;
        if named_by(&object.public, &object.name) { Ok(object) } else { Err(Error::Name) }
    }

    pub(crate) fn create(&mut self, parent: u32, template: &Public) -> Result<Wrapped, Error> {
        self.ask(&Command::create(parent, template), Answer::created)
    }

    pub(crate) fn load(&mut self, parent: u32, wrapped: &Wrapped) -> Result<Object, Error> {
        let command = Command::load(parent, &wrapped.private, &wrapped.public);
        let (handle, name) = self.ask(&command, Answer::loaded)?;
        let object = Object { handle, public: wrapped.public.clone(), name };
        if named_by(&object.public, &object.name) { Ok(object) } else { Err(Error::Name) }
    }

    /// The public area of what is loaded under `handle`, and its name, which is made sure to be that area's.
    pub(crate) fn read_public(&mut self, handle: u32) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let (public, name) = self.ask(&Command::read_public(handle), Answer::public)?;
        if named_by(&public, &name) { Ok((public, name)) } else { Err(Error::Name) }
    }

    pub(crate) fn flush(&mut self, handle: u32) -> Result<(), Error> {
        self.ask(&Command::flush_context(handle), Answer::nothing)
    }

    /// Opens a credential that was made for the key `key` of the TPM whose endorsement key is `endorsement_key`.
    pub(crate) fn activate_credential(
        &mut self,
        (key, endorsement_key): (u32, u32),
        credential: &[u8],
        secret: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; 16];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Random)?;
        let session = self.ask(&Command::start_policy_session(&nonce), Answer::session)?;
        let policy = Command::policy_secret_of_endorsement(session);
        let command = Command::activate_credential(key, (endorsement_key, session), credential, secret);
        let opened = self.ask(&policy, Answer::policy_secret).and_then(|()| self.ask(&command, Answer::buffer));
        // A session ends with the command that used it, and stays when that was refused.
        if opened.is_err() && self.transport.is_some() {
            self.flush(session)?;
        }
        opened
    }

    /// What is under an NV index; none if there is no such index.
    pub(crate) fn nv_read(&mut self, index: u32) -> Result<Option<Vec<u8>>, Error> {
        let size = match self.ask(&Command::nv_read_public(index), Answer::nv_size) {
            Ok(size) => size,
            Err(Error::Refused { code, .. }) if code.is_unknown_handle() => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = Vec::with_capacity(usize::from(size));
        for offset in (0..size).step_by(usize::from(NV_PIECE)) {
            let command = Command::nv_read(index, offset, NV_PIECE.min(size - offset));
            content.extend(self.ask(&command, Answer::buffer)?);
        }
        Ok(Some(content))
    }

    /// Puts a certificate under an NV index, for good.
    pub(crate) fn nv_write_certificate(&mut self, index: u32, certificate: &[u8]) -> Result<(), Error> {
        let size = u16::try_from(certificate.len()).unwrap_or(u16::MAX);
        self.ask(&Command::nv_define_certificate(index, size), Answer::nothing)?;
        for (piece, offset) in certificate.chunks(usize::from(NV_PIECE)).zip((0..size).step_by(usize::from(NV_PIECE))) {
            self.ask(&Command::nv_write(index, offset, piece), Answer::nothing)?;
        }
        self.ask(&Command::nv_write_lock(index), Answer::nothing)
    }
}

fn sha256_bank(registers: &[u8]) -> PcrSelections {
    PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha256, registers.iter().copied())])
}

/// Whether `name` is that of the public area: its name algorithm and the digest (Part 1, clause 16).
fn named_by(public: &[u8], name: &[u8]) -> bool {
    Public::from_octets(public).is_ok_and(|public| public.name() == name)
}
