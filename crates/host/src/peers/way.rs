//! Ways to another host that can be cut: who reads or writes one then hears that it broke off, as when the host is gone.
//!
//! Owns that alone. When a way is of no use any more is decided by whoever holds the token.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use lucarne_vmm::driver::{Passage, Ways};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The same ways, until `cut`.
pub(crate) fn until_cut(Ways { machine, disks }: Ways, cut: &CancellationToken) -> Ways {
    let disks = disks.into_iter().map(|(disk, way)| (disk, Way::until(way, cut))).collect();
    Ways { machine: Way::until(machine, cut), disks }
}

struct Way {
    passage: Box<dyn Passage>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Way {
    fn until(passage: Box<dyn Passage>, cut: &CancellationToken) -> Box<dyn Passage> {
        Box::new(Self { passage, cut: Box::pin(cut.clone().cancelled_owned()) })
    }

    /// An error once it is cut; until then whoever waits is woken by that too.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it is not to move any more")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Way {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.passage).poll_read(context, into)
    }
}

impl AsyncWrite for Way {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.passage).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.passage).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.passage).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_way_carries_until_it_is_cut_and_who_waits_then_hears_it() {
        let (here, mut there) = tokio::io::duplex(64);
        let cut = CancellationToken::new();
        let mut ways = until_cut(Ways { machine: Box::new(here), disks: BTreeMap::new() }, &cut);
        ways.machine.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        there.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"word");
        let waits = tokio::spawn(async move { ways.machine.read_u8().await });
        tokio::task::yield_now().await;
        cut.cancel();
        assert_eq!(waits.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
