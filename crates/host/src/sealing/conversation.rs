//! One question and its answer, over whatever brings them.
//!
//! Owns how an answer and the result behind it are cut into pieces. What questions mean is the office's.

use std::{fs::File, io};

use bytes::Bytes;
use futures::{Sink, SinkExt};
use lucarne_model::sealing::SealAnswer;
use tokio::io::AsyncReadExt;

use super::owner::Answered;

/// The pieces that are sent: small enough for every controller to pass on.
const PIECE: usize = 32 << 10;

/// Sends an answer, and the result that belongs to it.
pub(crate) async fn send(answered: Answered, to: &mut (impl Sink<Bytes, Error = io::Error> + Unpin)) -> io::Result<()> {
    let mut frame = Bytes::from(answered.answer.to_frame());
    while !frame.is_empty() {
        to.send(frame.split_to(frame.len().min(PIECE))).await?;
    }
    match answered.result {
        Some((file, length)) => send_file(file, length, to).await,
        None => Ok(()),
    }
}

async fn send_file(file: File, length: u64, to: &mut (impl Sink<Bytes, Error = io::Error> + Unpin)) -> io::Result<()> {
    let (mut file, mut left) = (tokio::fs::File::from_std(file), length);
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = file.read(&mut piece[..wanted]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.send(Bytes::copy_from_slice(&piece[..read])).await?;
        left -= read as u64;
    }
    Ok(())
}

/// What somebody is told whose question could not be read.
pub(crate) fn unread() -> Answered {
    SealAnswer::Unknown.into()
}
