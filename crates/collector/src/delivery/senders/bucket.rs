//! Files put into a tenant's bucket.
//!
//! Owns that it connects to no address but those that [`Reach`] has allowed, and how long that may take. What is said to a
//! store, and how, is [`crate::s3`]'s.

use std::time::Duration;

use lucarne_model::{
    Moment,
    flow_log::{Bucket, StoreCredentials},
};
use tokio::time::timeout;

use super::{Reach, SendError};
use crate::s3::{Ask, Client};

/// How long an object may take: of a few megabytes at most.
const TIME: Duration = Duration::from_secs(60);

/// Puts objects into one bucket.
#[derive(Debug)]
pub(super) struct BucketWriter {
    client: Client,
    reach: Reach,
}

impl BucketWriter {
    pub(super) const fn new(bucket: Bucket, credentials: Option<StoreCredentials>, reach: Reach) -> Self {
        Self { client: Client::new(bucket, credentials), reach }
    }

    pub(super) async fn put(&self, key: &str, octets: Vec<u8>, now: Moment) -> Result<(), SendError> {
        let to = || self.client.endpoint().to_owned();
        let failed = |source| SendError::Bucket { to: to(), source };
        let (_, host, port) = self.client.endpoint_parts().map_err(failed)?;
        let addresses = self.reach.resolve(&host, port).await?;
        let put = self.client.ask(&addresses, Ask::Put { key, octets: octets.into() }, now);
        let put = timeout(TIME, put).await.map_err(|_| SendError::Late { to: to() })?;
        put.map(drop).map_err(failed)
    }
}
