//! A key of the TPM's that agrees on secrets: what is sealed to its public half only this TPM can open.
//!
//! Owns one key an epoch, which is derived from the owner's seed and is nowhere kept: a TPM that was cleared has another, and
//! what was sealed to the one before is lost. Another epoch has another key.

use lucarne_attest::wire::{Key, Public, Wire as _};

use crate::{
    Error, Malformed, Tpm,
    answer::Answer,
    code::CommandCode,
    command::{Command, Hierarchy},
    template,
};

/// A point on P-256: its coordinates, most significant octet first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub x: [u8; 32],
    pub y: [u8; 32],
}

/// Which of the keys that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u32);

impl Point {
    /// TPMs leave out zeros at the beginning of a coordinate.
    pub(crate) fn of(x: &[u8], y: &[u8]) -> Option<Self> {
        Some(Self { x: padded(x)?, y: padded(y)? })
    }
}

fn padded(coordinate: &[u8]) -> Option<[u8; 32]> {
    let mut octets = [0; 32];
    octets.get_mut(32usize.checked_sub(coordinate.len())?..)?.copy_from_slice(coordinate);
    Some(octets)
}

impl Epoch {
    /// The public half of its key.
    pub fn public(self, tpm: &mut Tpm) -> Result<Point, Error> {
        self.with_key(tpm, |_, public, _| Ok(public))
    }

    /// What its key and the owner of `share` agree on: a point, of which x is the secret.
    pub fn agree(self, tpm: &mut Tpm, share: &Point) -> Result<Point, Error> {
        self.with_key(tpm, |tpm, _, handle| tpm.ask(&Command::agree(handle, share), Answer::point))
    }

    /// The key is loaded for as long as it is used: TPMs have room for three.
    fn with_key<T>(
        self,
        tpm: &mut Tpm,
        act: impl FnOnce(&mut Tpm, Point, u32) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let object = tpm.create_primary(Hierarchy::Owner, &template::agreement_key(self.0))?;
        let malformed =
            Error::Malformed { command: CommandCode::CreatePrimary, cause: Malformed::Unexpected("the key") };
        let public = match Public::from_octets(&object.public).map(|public| public.key) {
            Ok(Key::P256 { x, y }) => Point::of(&x, &y).ok_or(malformed),
            _ => Err(malformed),
        };
        let acted = public.and_then(|public| act(tpm, public, object.handle));
        if !acted.as_ref().is_err_and(Error::is_lost) {
            tpm.flush(object.handle)?;
        }
        acted
    }
}
