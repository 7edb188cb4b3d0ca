//! Console and log streams: bytes between a VM's serial line and whoever waits at the controller.
//!
//! Owns the carrying. The host dials, because nothing dials a host; a stream's token opens it once.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use lucarne_model::desired::{StreamKind, StreamRequest};
use lucarne_vmm::driver::{Driver, SerialLine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::controller::{Controller, StreamEnd};

/// The largest piece that is read from a serial line at once.
const PIECE: usize = 4 << 10;
/// The pieces that a log is sent in.
const LOG_PIECE: usize = 32 << 10;

/// Carries the stream until one side ends it.
pub(crate) async fn serve(driver: &dyn Driver, controller: &dyn Controller, request: &StreamRequest) {
    let StreamRequest { token, instance, kind } = request;
    let mut end = match controller.open_stream(token).await {
        Ok(end) => end,
        Err(problem) => {
            tracing::info!(%instance, %problem, "nobody waits for a stream any more");
            return;
        }
    };
    let carried = match kind {
        StreamKind::Log => match driver.console_log(*instance).await {
            Ok(log) => send_log(log, &mut end).await,
            Err(error) => send_apology(&error, &mut end).await,
        },
        StreamKind::Console => match driver.console(*instance).await {
            Ok(line) => carry(line, &mut end).await,
            Err(error) => send_apology(&error, &mut end).await,
        },
    };
    let closed = end.outgoing.close().await;
    if let Err(error) = carried.and(closed) {
        tracing::debug!(%instance, %error, "a stream broke off");
    }
}

async fn send_log(log: Vec<u8>, end: &mut StreamEnd) -> std::io::Result<()> {
    let mut log = Bytes::from(log);
    while !log.is_empty() {
        let piece = log.split_to(log.len().min(LOG_PIECE));
        end.outgoing.send(piece).await?;
    }
    Ok(())
}

/// Says on the line itself why there is nothing on it.
async fn send_apology(error: &lucarne_vmm::Error, end: &mut StreamEnd) -> std::io::Result<()> {
    end.outgoing.send(Bytes::from(format!("[lucarne: {error}]\r\n"))).await
}

async fn carry(mut line: Box<dyn SerialLine>, end: &mut StreamEnd) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        tokio::select! {
            read = line.read(&mut piece) => match read? {
                0 => return Ok(()),
                length => end.outgoing.send(Bytes::copy_from_slice(&piece[..length])).await?,
            },
            typed = end.incoming.next() => match typed {
                Some(typed) => line.write_all(&typed?).await?,
                None => return Ok(()),
            },
        }
    }
}
