//! Why a host agent cannot start or go on.
//!
//! Owns the errors that end the process. What goes wrong with one VM or one volume is no such error: it is a
//! [`StateReason`](lucarne_model::instance::StateReason) in the report.

use std::{io, net::IpAddr, path::PathBuf};

use lucarne_api::Problem;

/// Why the agent ended, with what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} cannot be used as part of the state folder")]
    Folder {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "the path of the state folder {path} is {excess} bytes too long for the unix sockets in it; choose a shorter one"
    )]
    FolderTooLong { path: PathBuf, excess: usize },
    #[error("another agent works in {path}; two need two state folders")]
    FolderInUse { path: PathBuf },
    #[error("{path} cannot be read as this host's identity; restore it, or delete it and enrol the host anew")]
    Identity {
        path: PathBuf,
        #[source]
        cause: IdentityError,
    },
    #[error("no random numbers could be drawn for this host's keys")]
    Random,
    #[error("`{url}` is not the URL of a controller; it looks like http://10.0.0.1:7070")]
    ControllerUrl { url: String },
    #[error(
        "this state folder is not enrolled yet: give the join token that the operator has (`join_token` in operator.json)"
    )]
    NoJoinToken,
    #[error("the controller does not take this host; check the join token against `join_token` in operator.json")]
    Refused {
        #[source]
        problem: Problem,
    },
    #[error("no UDP port for the tunnel can be bound at {address}; it must be an address of this machine")]
    TunnelAddress {
        address: IpAddr,
        #[source]
        cause: io::Error,
    },
    #[error(
        "other hosts cannot be listened for at {address}; it must be an address of this machine, and the port free"
    )]
    PeerAddress {
        address: IpAddr,
        #[source]
        cause: io::Error,
    },
    #[error("what this machine can promise could not be found; say it in the settings")]
    Capacity {
        #[source]
        cause: io::Error,
    },
    #[error("the hypervisor cannot be used")]
    Driver {
        #[source]
        cause: lucarne_vmm::Error,
    },
    #[error("the virtual machines that run from before could not be adopted")]
    Adopt {
        #[source]
        cause: lucarne_vmm::Error,
    },
    #[error("the switch could not be started")]
    Switch {
        #[source]
        cause: lucarne_switch::ShellError,
    },
    #[error("a task of the agent ended before its time")]
    Task {
        #[source]
        cause: tokio::task::JoinError,
    },
}

/// What is wrong with a file of this host's identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("it is not the JSON that an agent writes")]
    Json(#[source] serde_json::Error),
    #[error("it is of version {0}, which this build does not know")]
    Version(u32),
    #[error("its key `{0}` is not 32 bytes in base64")]
    Key(&'static str),
}
