//! A VM's serial console: one task reads it into its [`Ring`] and to all who look on, and types what they type.
//!
//! Owns the line while the agent runs. Between two agents nobody reads it, and what the guest prints then is lost: the
//! socket's other end drops it rather than stop the guest.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    sync::{broadcast, mpsc},
    task::AbortHandle,
};

use crate::{driver::SerialLine, ring::Ring};

/// Pieces of output that an onlooker may be behind; a slower one loses the oldest.
const OUTPUT: usize = 256;
/// Pieces of input that may wait for the guest; who types faster waits.
const INPUT: usize = 16;
/// The bytes that an onlooker may leave unread before pieces wait for it.
const UNREAD: usize = 64 << 10;

type Piece = std::sync::Arc<[u8]>;

/// The agent's end of a serial line; dropping it hangs up.
#[derive(Debug)]
pub(crate) struct Serial {
    /// Never read itself: each onlooker gets its own. The sender is the task's, so that all end with the line.
    output: broadcast::Receiver<Piece>,
    input: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
}

impl Serial {
    pub(crate) fn new(line: impl AsyncRead + AsyncWrite + Send + 'static, ring: Ring) -> Self {
        let (output_sender, output) = broadcast::channel(OUTPUT);
        let (input, typed) = mpsc::channel(INPUT);
        let (reader, writer) = tokio::io::split(line);
        let carry = async move {
            // The two ways must not wait for each other: a guest that does not read may still print.
            tokio::select! {
                end = listen(reader, ring, output_sender) => end,
                end = type_in(writer, typed) => end,
            }
        };
        let task = tokio::spawn(async move {
            if let Err(error) = carry.await {
                tracing::debug!(%error, "a serial line ended");
            }
        });
        Self { output, input, task: task.abort_handle() }
    }

    /// A line for one more onlooker, from now on.
    pub(crate) fn line(&self) -> Box<dyn SerialLine> {
        let (ours, theirs) = tokio::io::duplex(UNREAD);
        tokio::spawn(look_on(ours, self.output.resubscribe(), self.input.clone()));
        Box::new(theirs)
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(mut line: impl AsyncRead + Unpin, mut ring: Ring, output: broadcast::Sender<Piece>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = line.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        // A write into the page cache: too short to be worth a thread. Onlookers get it even if the ring cannot keep it.
        if let Err(error) = ring.append(&buffer[..length]) {
            tracing::warn!(%error, "a console's output could not be kept");
        }
        let _ = output.send(buffer[..length].into());
    }
}

async fn type_in(mut line: impl AsyncWrite + Unpin, mut typed: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = typed.recv().await {
        line.write_all(&bytes).await?;
    }
    Ok(())
}

/// Carries output to an onlooker and what it types back, until either end goes.
async fn look_on(onlooker: DuplexStream, mut output: broadcast::Receiver<Piece>, input: mpsc::Sender<Vec<u8>>) {
    let (mut reader, mut writer) = tokio::io::split(onlooker);
    let show = async {
        loop {
            match output.recv().await {
                Ok(piece) => {
                    if writer.write_all(&piece).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    };
    let take = async {
        let mut buffer = [0; 512];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            if input.send(buffer[..length].to_vec()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = show => {}, () = take => {} }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both onlookers see the output, the ring keeps it, and what either types arrives; the line's end ends them.
    #[tokio::test]
    async fn several_onlookers_share_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        let (mut guest, line) = tokio::io::duplex(1024);
        let serial = Serial::new(line, Ring::open(&path, 64).unwrap());
        let (mut one, mut other) = (serial.line(), serial.line());
        guest.write_all(b"hello").await.unwrap();
        let mut seen = [0; 5];
        for onlooker in [&mut one, &mut other] {
            onlooker.read_exact(&mut seen).await.unwrap();
            assert_eq!(&seen, b"hello");
            onlooker.write_all(b"typed").await.unwrap();
            guest.read_exact(&mut seen).await.unwrap();
            assert_eq!(&seen, b"typed");
        }
        assert_eq!(crate::ring::contents(&path).unwrap(), b"hello");
        drop(guest);
        assert_eq!(one.read(&mut seen).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_onlooker_that_does_not_read_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        let (mut guest, line) = tokio::io::duplex(1024);
        let serial = Serial::new(line, Ring::open(&path, 64).unwrap());
        let _asleep = serial.line();
        for _ in 0..2000 {
            guest.write_all(&[b'x'; 1000]).await.unwrap();
        }
        guest.write_all(b"end").await.unwrap();
        while !crate::ring::contents(&path).unwrap().ends_with(b"end") {
            tokio::task::yield_now().await;
        }
    }
}
