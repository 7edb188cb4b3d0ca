//! The way to the office for those who are on this host: a unix socket that only its owner may use.
//!
//! Owns both ends. It works without any controller; and what came by it counts as made here, for which shared secrets are
//! believed.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::SinkExt;
use lucarne_model::sealing::{MOST_QUESTION, SealAnswer, SealQuestion};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{
    codec::{BytesCodec, FramedWrite},
    sync::CancellationToken,
};

use super::{conversation, owner::Counter};

/// Conversations at the same time.
const MOST_AT_ONCE: usize = 16;
/// How long somebody may take to say what they want.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the socket, in place of one that an agent before left.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    crate::durable::remove(path)?;
    let listener = UnixListener::bind(path)?;
    // Its folder lets others pass, and until here it is not listened at.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until `shutdown`.
pub(crate) async fn serve(listener: UnixListener, counter: Counter, shutdown: CancellationToken) {
    let serve = async {
        let free = Arc::new(Semaphore::new(MOST_AT_ONCE));
        let mut under_way = JoinSet::new();
        loop {
            let Ok(turn) = free.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let counter = counter.clone();
                    under_way.spawn(async move {
                        let _turn = turn;
                        if let Err(error) = converse(stream, &counter).await {
                            tracing::debug!(%error, "a conversation with somebody on this host broke off");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "nobody on this host is let in for a moment");
                    sleep(PATIENCE).await;
                }
            }
            while under_way.try_join_next().is_some() {}
        }
    };
    shutdown.run_until_cancelled(serve).await;
}

async fn converse(mut stream: UnixStream, counter: &Counter) -> io::Result<()> {
    let question = timeout(PATIENCE, read_question(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let answered = match question {
        Some(question) => counter.ask(None, question).await,
        None => conversation::unread(),
    };
    let mut to = FramedWrite::new(stream, BytesCodec::new());
    conversation::send(answered, &mut to).await?;
    SinkExt::<bytes::Bytes>::close(&mut to).await
}

async fn read_question(stream: &mut UnixStream) -> io::Result<Option<SealQuestion>> {
    let length = stream.read_u32().await? as usize;
    if length > MOST_QUESTION {
        return Ok(None);
    }
    let mut json = vec![0; length];
    stream.read_exact(&mut json).await?;
    Ok(serde_json::from_slice(&json).ok())
}

/// The office of an agent on this machine, as others on it reach it.
#[derive(Clone, Debug)]
pub struct LocalOffice(PathBuf);

impl LocalOffice {
    /// By its socket, or by the state folder of its agent.
    pub fn at(path: &Path) -> Self {
        Self(if path.is_dir() { crate::Layout::new(path.to_owned()).seal_socket() } else { path.to_owned() })
    }

    /// Asks, and gives the answer with what follows it.
    pub async fn ask(&self, question: &SealQuestion) -> io::Result<(SealAnswer, UnixStream)> {
        let mut stream = UnixStream::connect(&self.0).await?;
        let json = serde_json::to_vec(question)?;
        stream.write_u32(u32::try_from(json.len()).map_err(io::Error::other)?).await?;
        stream.write_all(&json).await?;
        let mut frame = vec![0; 4];
        stream.read_exact(&mut frame).await?;
        let length = frame.first_chunk().map(|length| u32::from_be_bytes(*length)).unwrap_or_default();
        if length as usize > lucarne_model::sealing::MOST_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        (&mut stream).take(length.into()).read_to_end(&mut frame).await?;
        let answer = SealAnswer::from_frame(&frame).map_err(io::Error::other)?;
        answer.map(|(answer, _)| (answer, stream)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
