//! The controller, as the agent sees it.
//!
//! Owns the trait, so that an agent can be tried without HTTP. The real one is [`crate::http::HttpController`].

use std::{io, path::Path, pin::Pin, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Sink, stream::BoxStream};
use lucarne_api::{
    Problem,
    bodies::host::{EnrolHost, Enrolled, HostSettings},
};
use lucarne_model::{
    Octets, ReplayId,
    actual::{HostDescription, Report},
    desired::Desired,
    storage::{Blob, Digest},
    tpm::{ChallengeAnswer, PresentedTpm},
};

/// What the agent asks of the controller. A call that gets no answer fails with
/// [`ErrorCode::ControllerUnreachable`](lucarne_model::ErrorCode::ControllerUnreachable); any other code is the controller's word.
#[async_trait]
pub trait Controller: Send + Sync + std::fmt::Debug {
    /// Makes this machine a host. Asked again with the same public key, it must not make a second one.
    async fn enrol(&self, request: &EnrolHost) -> Result<Enrolled, Problem>;
    /// Says what the host is now.
    async fn hello(&self, host: &HostDescription) -> Result<HostSettings, Problem>;
    async fn report(&self, report: &Report) -> Result<(), Problem>;
    /// Says what this host's TPM is.
    async fn present_tpm(&self, presented: &PresentedTpm) -> Result<(), Problem>;
    /// Answers the challenge that `token` names.
    async fn answer_challenge(&self, token: &str, answer: &ChallengeAnswer) -> Result<(), Problem>;
    /// The desired state if it is newer than `have`, waiting up to `wait` for it.
    async fn desired(&self, have: Option<u64>, wait: Duration) -> Result<Option<Desired>, Problem>;
    /// The policy of sealed operations that the desired state names.
    async fn seal_policy(&self) -> Result<Octets, Problem>;
    /// The bytes of a blob, as they come.
    async fn download(&self, digest: &Digest) -> Result<BoxStream<'static, io::Result<Bytes>>, Problem>;
    /// What is played by a replay of this host, as it comes.
    async fn replayed_frames(&self, replay: ReplayId) -> Result<BoxStream<'static, io::Result<Bytes>>, Problem>;
    /// Stores a file as a blob.
    async fn upload(&self, file: &Path) -> Result<Blob, Problem>;
    /// The host's end of the stream that `token` names.
    async fn open_stream(&self, token: &str) -> Result<StreamEnd, Problem>;
}

/// One end of a stream of bytes; a message is any piece of it.
pub struct StreamEnd {
    /// What the user types. Ends when the user has gone.
    pub incoming: BoxStream<'static, io::Result<Bytes>>,
    /// What the user sees. Closing it ends the stream in good order.
    pub outgoing: Pin<Box<dyn Sink<Bytes, Error = io::Error> + Send>>,
}

impl std::fmt::Debug for StreamEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamEnd").finish_non_exhaustive()
    }
}
