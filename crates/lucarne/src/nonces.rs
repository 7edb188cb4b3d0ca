//! The nonces of attested launches: drawn here, and kept here, by the one who has to know that they are new.
//!
//! Owns their files, one for each launch that is not answered yet. Nobody but this machine says that a nonce was drawn for
//! an instance; what the controller says of it is compared with that.

use std::{fs, path::PathBuf};

use lucarne_model::{InstanceId, Octets};
use ring::rand::{SecureRandom, SystemRandom};

use crate::{
    configuration::ConfigFile,
    failure::{Failure, LocalCode},
    private_file,
};

const LENGTH: usize = 32;

/// A nonce that nobody has had.
pub(crate) fn draw() -> Result<Octets, Failure> {
    Ok(Octets(random::<LENGTH>()?.to_vec()))
}

/// Octets that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut octets = [0; N];
    let failed = |_| Failure::local(LocalCode::NoRandomNumbers, "this machine gives no random numbers");
    SystemRandom::new().fill(&mut octets).map_err(failed)?;
    Ok(octets)
}

/// Reads one as `--nonce` takes it.
pub(crate) fn parse(text: &str) -> Result<Octets, String> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    match digits {
        Some(digits) if !digits.is_empty() && digits.len().is_multiple_of(2) => {
            Ok(Octets(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()))
        }
        _ => Err("a nonce is an even number of hexadecimal digits".into()),
    }
}

fn path(instance: InstanceId) -> PathBuf {
    ConfigFile::path().with_file_name("nonces").join(instance.to_string())
}

/// Keeps the nonce with which the instance was launched.
pub(crate) fn keep(instance: InstanceId, nonce: &Octets) -> Result<(), Failure> {
    private_file::write(&path(instance), String::from(nonce.clone()).as_bytes())
}

/// Fails if the controller shows another nonce than the one that was drawn here. One that was drawn elsewhere is not known.
pub(crate) fn check(instance: InstanceId, shown: &Octets) -> Result<(), Failure> {
    match fs::read_to_string(path(instance)) {
        Ok(kept) if kept != String::from(shown.clone()) => {
            let detail = format!("what is shown of {instance} was not signed with the nonce of its launch");
            Err(Failure::local(LocalCode::NonceChanged, detail))
        }
        _ => Ok(()),
    }
}

/// The instance was answered for.
pub(crate) fn forget(instance: InstanceId) {
    // One that stays behind is compared with an instance that will not be asked for again.
    let _ = fs::remove_file(path(instance));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_drawn_anew_each_time_and_read_from_digits() {
        assert_ne!(draw().unwrap(), draw().unwrap());
        assert_eq!(parse("00ff1A").unwrap(), Octets(vec![0, 255, 26]));
        for wrong in ["", "0", "0g", "+1", "é1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
