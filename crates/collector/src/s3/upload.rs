//! Files put into a bucket by a command, each as one object.
//!
//! Owns that a file is read and not held: its digest first, which is signed, and then its octets. A file that changes in between is
//! refused by the store. Whom a command connects to is for whoever runs it to say.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http_body_util::StreamBody;
use hyper::{Method, body::Frame};
use lucarne_model::{
    Moment,
    flow_log::{Bucket, StoreCredentials},
};
use tokio::{io::AsyncReadExt as _, net::lookup_host, task::spawn_blocking, time::timeout};

use super::{BucketError, Client};

/// The largest object that a store takes at once.
const LARGEST: u64 = 5 << 30;
/// How long a store may take for each part of what is brought, and to say that it has it.
const PART_TIME: Duration = Duration::from_secs(60);
const PART: usize = 256 << 10;

/// Why a file is not in the bucket.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("{path}: {cause}")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path} has {length} octets, and an object is brought with {LARGEST} at most")]
    TooLarge { path: PathBuf, length: u64 },
    #[error("{host} cannot be resolved: {cause}")]
    Resolve {
        host: String,
        #[source]
        cause: io::Error,
    },
    #[error("{endpoint} does not take it: {why}")]
    Refused { endpoint: String, why: String, is_passing: bool },
    #[error("{endpoint} did not answer in time")]
    Late { endpoint: String },
}

impl UploadError {
    /// Whether it may go well later.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::File { .. } | Self::TooLarge { .. } => false,
            Self::Resolve { .. } | Self::Late { .. } => true,
            Self::Refused { is_passing, .. } => *is_passing,
        }
    }
}

/// Puts files into one bucket, below its prefix.
#[derive(Debug)]
pub struct Uploads(Client);

impl Uploads {
    pub const fn new(bucket: Bucket, credentials: Option<StoreCredentials>) -> Self {
        Self(Client::new(bucket, credentials))
    }

    /// Puts the file there as this object, in place of one of that name.
    pub async fn put(&self, key: &str, path: &Path, now: Moment) -> Result<(), UploadError> {
        let failed = |cause| UploadError::File { path: path.to_owned(), cause };
        let file = path.to_owned();
        let (length, digest) =
            spawn_blocking(move || measure(&file)).await.map_err(io::Error::other).flatten().map_err(failed)?;
        if length > LARGEST {
            return Err(UploadError::TooLarge { path: path.to_owned(), length });
        }
        let (_, host, port) = self.0.endpoint_parts().map_err(|error| self.refused(&error))?;
        let addresses = lookup_host((host.as_str(), port)).await;
        let addresses: Vec<_> =
            addresses.map_err(|cause| UploadError::Resolve { host: host.clone(), cause })?.collect();
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let body = StreamBody::new(stream::try_unfold(file, async |mut file| {
            let mut part = vec![0; PART];
            let read = file.read(&mut part).await?;
            part.truncate(read);
            io::Result::Ok((read > 0).then(|| (Frame::data(Bytes::from(part)), file)))
        }));
        let request =
            self.0.head(&Method::PUT, (&self.0.object_path(key), ""), (length, &digest), now).body(Box::pin(body));
        let request = request.map_err(|error| self.refused(&BucketError::Request(error)))?;
        let patience = PART_TIME * u32::try_from(1 + length / (64 << 20)).unwrap_or(u32::MAX);
        let answered = timeout(patience, self.0.send(&addresses, request)).await;
        let answered = answered.map_err(|_| UploadError::Late { endpoint: self.0.endpoint().to_owned() })?;
        answered.map(drop).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &BucketError) -> UploadError {
        let is_passing = match error {
            BucketError::Refused { status, .. } => status.is_server_error() || status.as_u16() == 429,
            BucketError::Connect(_) | BucketError::Exchange(_) => true,
            BucketError::Endpoint | BucketError::Tls(_) | BucketError::NoAuthorities | BucketError::Request(_) => false,
        };
        UploadError::Refused { endpoint: self.0.endpoint().to_owned(), why: error.to_string(), is_passing }
    }
}

/// How long a file is, and its SHA-256.
fn measure(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut digest) = (std::fs::File::open(path)?, ring::digest::Context::new(&ring::digest::SHA256));
    let (mut part, mut length) = (vec![0; PART], 0);
    loop {
        match file.read(&mut part)? {
            0 => break,
            read => {
                digest.update(part.get(..read).unwrap_or_default());
                length += read as u64;
            }
        }
    }
    Ok((length, super::signature::hex(digest.finish().as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sealer::now, test_store::Store};

    /// To a store that checks signatures with others' code: a file of several parts is there as it is, an empty one too; what a
    /// wrong key brings is refused for good, and a store that is away may take it later.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_is_in_the_bucket_as_it_is_on_the_disk() {
        let address = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let store = Store::start(address).await;
        store.make_bucket("sealed").await;
        let key = store.make_user().await;
        store.is_strict(true).await;
        let folder = tempfile::tempdir().unwrap();
        let bucket = |endpoint: &str| Bucket {
            name: "sealed".into(),
            prefix: "case-12".into(),
            endpoint: endpoint.to_owned(),
            region: Bucket::DEFAULT_REGION.into(),
        };
        let uploads = Uploads::new(bucket(&store.url), Some(key.clone()));
        let files = [("empty", Vec::new()), ("large", (0..3 * PART + 7).map(|at| (at % 251) as u8).collect())];
        for (name, content) in &files {
            std::fs::write(folder.path().join(name), content).unwrap();
            uploads.put(&format!("{name}.age"), &folder.path().join(name), now()).await.unwrap();
        }
        let large = folder.path().join("large");
        let wrong = StoreCredentials { secret_access_key: "another".into(), ..key };
        let refused = Uploads::new(bucket(&store.url), Some(wrong)).put("wrong.age", &large, now()).await;
        assert!(refused.is_err_and(|error| !error.is_passing()));
        let missing = uploads.put("missing.age", &folder.path().join("missing"), now()).await;
        assert!(matches!(missing, Err(UploadError::File { .. })));
        let away = Uploads::new(bucket("http://127.0.0.1:1"), None).put("away.age", &large, now()).await;
        assert!(away.is_err_and(|error| error.is_passing()));
        let there = store.objects("sealed").await;
        let expected = files.map(|(name, content)| (format!("case-12/{name}.age"), Bytes::from(content)));
        assert!(there == expected, "{:?}", there.iter().map(|(key, octets)| (key, octets.len())).collect::<Vec<_>>());
    }
}
