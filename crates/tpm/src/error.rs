//! Why a TPM cannot be used.
//!
//! Owns the errors of this crate. What can be done about each is in its words; whether the TPM must be opened anew is
//! [`Error::is_lost`].

use std::{io, path::PathBuf, process::ExitStatus};

use crate::{CommandCode, Malformed, ResponseCode};

/// Why a TPM did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the TPM refused {command}: {code}")]
    Refused { command: CommandCode, code: ResponseCode },
    #[error("the TPM has not answered {command}")]
    NoAnswer {
        command: CommandCode,
        #[source]
        cause: io::Error,
    },
    #[error("the TPM's answer to {command} is malformed")]
    Malformed {
        command: CommandCode,
        #[source]
        cause: Malformed,
    },
    #[error("the TPM was lost before; it must be opened anew")]
    Lost,
    #[error("the TPM keeps no SHA-256 bank of PCRs; switch it on in the firmware's set-up")]
    NoBank,
    #[error("the TPM says another name of a key than its public area has")]
    Name,
    #[error("{path} cannot be opened as a TPM")]
    Open {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path} cannot be used for the state of a TPM")]
    State {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{program} cannot be run; it is in the Debian packages swtpm, swtpm-tools and gnutls-bin")]
    Run {
        program: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("{program} ended with {status}: {said}")]
    Failed { program: &'static str, status: ExitStatus, said: String },
    #[error("swtpm did not take up its work: {said}")]
    Start {
        said: String,
        #[source]
        cause: io::Error,
    },
    #[error("the random number generator of the system gave nothing")]
    Random,
}

impl Error {
    /// Whether the TPM is not there any more, or has stopped to work until it is started again.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::Malformed { .. } | Self::Lost => true,
            Self::Refused { code, .. } => [ResponseCode::FAILURE, ResponseCode::INITIALIZE].contains(code),
            _ => false,
        }
    }
}
