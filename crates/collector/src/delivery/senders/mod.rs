//! The ways to a destination.
//!
//! Owns what all have in common: a batch goes as a whole or is tried again as a whole, and what a sender may reach. A
//! destination is the tenant's word, so it must not lead to what stands open on the collector's own machine.

mod bucket;
#[cfg(test)]
mod bucket_tests;
mod files;
mod ipfix;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use lucarne_model::{
    Moment, TenantFlowRecord,
    flow_log::{DeliveryOrder, Destination},
};
use tokio::net::lookup_host;

use files::{FileSender, Place};
use ipfix::IpfixSender;

pub(crate) use files::strftime;

use crate::s3::BucketError;

/// Records to be sent, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending<'a> {
    /// The serial of the first.
    pub(super) first: u64,
    pub(super) records: &'a [TenantFlowRecord],
    pub(super) now: Moment,
}

/// Why records could not be sent. It is shown to the log's owner.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the name {host} cannot be resolved: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("{0} is an address of this machine or link, to which nothing is delivered")]
    Local(IpAddr),
    #[error("{to} does not take them: {source}")]
    Network { to: String, source: io::Error },
    #[error("{to} did not take them in time")]
    Late { to: String },
    #[error("{} cannot be written: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the flow log's format cannot be read: {0}")]
    Format(String),
    #[error("the file cannot be made: {0}")]
    Contents(String),
    #[error("{to} does not take them: {source}")]
    Bucket { to: String, source: BucketError },
}

/// How far senders reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Not to addresses of the machine itself or of its link.
    Elsewhere,
    /// Anywhere: for a cloud that stands on one machine.
    Anywhere,
}

impl Reach {
    /// A collector that listens to hosts on a loopback address serves a cloud on one machine.
    pub(crate) const fn of(listens: IpAddr) -> Self {
        match listens.is_loopback() {
            true => Self::Anywhere,
            false => Self::Elsewhere,
        }
    }

    /// The addresses of a host, if all of them may be reached. A sender connects to these and asks no second time.
    async fn resolve(self, host: &str, port: u16) -> Result<Vec<SocketAddr>, SendError> {
        let found = lookup_host((host, port)).await;
        let found = found.map_err(|source| SendError::Resolve { host: host.to_owned(), source })?;
        let addresses: Vec<SocketAddr> = found.collect();
        match addresses.iter().find(|address| !self.allows(address.ip())) {
            Some(local) => Err(SendError::Local(local.ip())),
            None => Ok(addresses),
        }
    }

    fn allows(self, address: IpAddr) -> bool {
        let is_local = match address.to_canonical() {
            IpAddr::V4(v4) => {
                v4.is_loopback() || v4.is_unspecified() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast()
            }
        };
        self == Self::Anywhere || !is_local
    }
}

/// The way to one log's destination.
#[derive(Debug)]
pub(super) enum Sender {
    Ipfix(IpfixSender),
    File(FileSender),
}

impl Sender {
    /// None where the records are at their destination already.
    pub(super) fn new(order: &DeliveryOrder, reach: Reach) -> Option<Self> {
        let log = &order.log;
        match &log.to {
            Destination::Store => None,
            Destination::Ipfix { transport, host, port } => {
                Some(Self::Ipfix(IpfixSender::new(log.id, *transport, host.clone(), *port, reach)))
            }
            Destination::File { folder } => Some(Self::File(FileSender::new(log, Place::folder(folder)))),
            Destination::S3(bucket) => {
                let place = Place::bucket(bucket.clone(), order.credentials.clone(), reach);
                Some(Self::File(FileSender::new(log, place)))
            }
        }
    }

    pub(super) async fn send(&mut self, sending: Sending<'_>) -> Result<(), SendError> {
        match self {
            Self::Ipfix(sender) => sender.send(sending).await,
            Self::File(sender) => sender.send(sending).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_open_on_the_machine_itself_is_not_reached() {
        for local in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1", "224.0.0.1"] {
            let address = local.parse().unwrap();
            assert!(!Reach::Elsewhere.allows(address), "{local}");
            assert!(Reach::Anywhere.allows(address), "{local}");
        }
        assert!(Reach::Elsewhere.allows("192.0.2.1".parse().unwrap()));
    }
}
