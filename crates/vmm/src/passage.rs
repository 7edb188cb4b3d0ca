//! What goes over a passage from one host's driver to another's, version 1: the VM in pieces, and a closing.
//!
//! Owns the framing. What the pieces are is the driver's; the way is the host agent's.
//!
//! The VM is in pieces because its sender has something to say behind it: how long the VM has stood still until then is known
//! only when all of it has been sent.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::driver::Passage;

/// How long either side may give nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// As much as is carried at once.
const PIECE: usize = 256 << 10;
/// As much of a reason as is said, in characters.
const LONGEST_REASON: usize = 1000;
/// The length in front of each piece, in bytes; a piece of length 0 is the end of the VM.
const LENGTH: usize = 4;
/// In the place of a length: there is nothing to carry yet, and there will be.
const WAIT_ON: u32 = u32::MAX;

/// What is said behind the VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Closing {
    /// That was all of it.
    Whole { still_micros: u64 },
    /// It goes on where it was.
    GivenUp { given_up: String },
}

/// Has the other side wait on. Said more often than [`SILENCE`] allows.
pub(crate) async fn ask_for_patience(to: &mut dyn Passage) -> io::Result<()> {
    timeout(SILENCE, to.write_u32(WAIT_ON)).await??;
    timeout(SILENCE, to.flush()).await?
}

/// Carries away what there is of the VM, as long as its process gives it.
pub(crate) async fn carry_away(vm: &mut (impl AsyncRead + Unpin), to: &mut dyn Passage) -> io::Result<()> {
    let mut piece = vec![0; LENGTH + PIECE];
    loop {
        let length = timeout(SILENCE, vm.read(&mut piece[LENGTH..])).await??;
        if length == 0 {
            return timeout(SILENCE, to.flush()).await?;
        }
        piece[..LENGTH].copy_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_be_bytes());
        timeout(SILENCE, to.write_all(&piece[..LENGTH + length])).await??;
    }
}

/// Says that what was carried away is all of the VM, and that it has stood still for so long.
pub(crate) async fn close(to: &mut dyn Passage, stood_still: Duration) -> io::Result<()> {
    let still_micros = u64::try_from(stood_still.as_micros()).unwrap_or(u64::MAX);
    end(to, &Closing::Whole { still_micros }).await
}

/// Says that no more of the VM comes, and why.
pub(crate) async fn give_up(to: &mut dyn Passage, reason: &str) -> io::Result<()> {
    let given_up = reason.chars().take(LONGEST_REASON).collect();
    end(to, &Closing::GivenUp { given_up }).await
}

async fn end(to: &mut dyn Passage, closing: &Closing) -> io::Result<()> {
    timeout(SILENCE, to.write_u32(0)).await??;
    say(to, closing).await?;
    timeout(SILENCE, to.shutdown()).await?
}

/// Takes in what [`carry_away`] and [`close`] give, and returns since when the VM stands still, by this host's clock: but for
/// the way of its last piece. `vm` may close its side early, when it has all it needs; whether it has it says itself.
pub(crate) async fn take_in(from: &mut dyn Passage, mut vm: impl AsyncWrite + Unpin) -> io::Result<Instant> {
    let mut piece = vec![0; PIECE];
    let mut reads = true;
    loop {
        let length = timeout(SILENCE, from.read_u32()).await??;
        if length == 0 {
            break;
        }
        if length == WAIT_ON {
            continue;
        }
        let piece = piece.get_mut(..length as usize).ok_or(io::ErrorKind::InvalidData)?;
        timeout(SILENCE, from.read_exact(piece)).await??;
        reads = reads && timeout(SILENCE, vm.write_all(piece)).await?.is_ok();
    }
    let ended = Instant::now();
    if reads {
        // It may have closed its side between the last piece and here.
        let _ = vm.shutdown().await;
    }
    match hear(from).await? {
        Closing::Whole { still_micros } => {
            let since = ended.checked_sub(Duration::from_micros(still_micros));
            since.ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
        Closing::GivenUp { given_up } => Err(io::Error::other(given_up)),
    }
}

async fn say(to: &mut dyn Passage, words: &impl Serialize) -> io::Result<()> {
    let words = serde_json::to_vec(words)?;
    timeout(SILENCE, to.write_u32(u32::try_from(words.len()).map_err(io::Error::other)?)).await??;
    timeout(SILENCE, to.write_all(&words)).await??;
    timeout(SILENCE, to.flush()).await?
}

async fn hear<T: DeserializeOwned>(from: &mut dyn Passage) -> io::Result<T> {
    let length = timeout(SILENCE, from.read_u32()).await?? as usize;
    if length > PIECE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut words = vec![0; length];
    timeout(SILENCE, from.read_exact(&mut words)).await??;
    Ok(serde_json::from_slice(&words)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `vm` and has it taken in by something that reads `reads` bytes of it.
    async fn brought(vm: &[u8], still: Duration, reads: usize) -> (Vec<u8>, io::Result<Instant>) {
        let (here, there) = tokio::io::duplex(1 << 10);
        let sending = async {
            let mut here: Box<dyn Passage> = Box::new(here);
            ask_for_patience(&mut *here).await?;
            carry_away(&mut &vm[..], &mut *here).await?;
            close(&mut *here, still).await
        };
        let taking = async {
            let (ours, mut its) = tokio::io::duplex(1 << 10);
            let mut there: Box<dyn Passage> = Box::new(there);
            let reading = async {
                let mut read = vec![0; reads];
                let length = its.read_exact(&mut read).await.unwrap_or_default();
                drop(its);
                read.truncate(length);
                read
            };
            tokio::join!(reading, take_in(&mut *there, ours))
        };
        let (sent, taken) = tokio::join!(sending, taking);
        sent.unwrap();
        taken
    }

    #[tokio::test]
    async fn what_is_carried_away_is_taken_in_and_the_time_it_stood_still_with_it() {
        let vm: Vec<u8> = (0..PIECE as u32 * 3 + 7).map(|n| n as u8).collect();
        let (read, since) = brought(&vm, Duration::from_secs(7), vm.len()).await;
        assert!(read == vm);
        assert!(since.unwrap().elapsed() >= Duration::from_secs(7));
    }

    #[tokio::test]
    async fn one_that_has_all_it_needs_before_the_end_is_no_error() {
        let vm = vec![5; PIECE * 2];
        let (read, since) = brought(&vm, Duration::ZERO, 10).await;
        assert!(read == [5; 10] && since.is_ok());
    }

    #[tokio::test]
    async fn why_a_vm_does_not_come_is_heard() {
        let (here, there) = tokio::io::duplex(1 << 10);
        let (mut here, mut there): (Box<dyn Passage>, Box<dyn Passage>) = (Box::new(here), Box::new(there));
        let sending = async {
            carry_away(&mut &[1_u8; 10][..], &mut *here).await?;
            give_up(&mut *here, "its disk is full").await
        };
        let mut vm = Vec::new();
        let (sent, taken) = tokio::join!(sending, take_in(&mut *there, &mut vm));
        sent.unwrap();
        assert_eq!(taken.unwrap_err().to_string(), "its disk is full");
    }

    /// What agents of the version before say.
    #[test]
    fn a_closing_of_version_1_is_understood() {
        let closing: Closing = serde_json::from_str(r#"{"still_micros":7}"#).unwrap();
        assert!(matches!(closing, Closing::Whole { still_micros: 7 }));
    }

    #[tokio::test]
    async fn a_passage_that_breaks_off_is_an_error() {
        let (mut here, there) = tokio::io::duplex(1 << 10);
        here.write_u32(100).await.unwrap();
        drop(here);
        let mut there: Box<dyn Passage> = Box::new(there);
        assert!(take_in(&mut *there, Vec::new()).await.is_err());
    }
}
