//! `lucarne instance console`: the terminal joined to an instance's serial port over a WebSocket.
//!
//! Owns the terminal's raw mode and gives it back however the console ends. Keys go to the guest as they are; only Ctrl-]
//! is ours.

use std::{
    io::{self, IsTerminal, Read, Write},
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use lucarne_api::{Problem, client::Client};
use lucarne_model::{ErrorCode, InstanceId};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use crate::{
    failure::{Failure, LocalCode},
    session::{Session, answer},
};

/// Ctrl-].
const LEAVE: u8 = 0x1d;
/// When the input has ended, the console stays so long after the last output.
const AFTER_INPUT: Duration = Duration::from_secs(2);

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(crate) async fn run(session: &Session, id: InstanceId) -> Result<(), Failure> {
    let stream = open(session, id).await?;
    let interactive = io::stdin().is_terminal();
    if interactive {
        eprintln!("Console of {id}. Ctrl-] leaves it.");
    }
    let raw = interactive.then(RawMode::enter).transpose().map_err(broken)?;
    let result = join(stream, keys(interactive)).await;
    drop(raw);
    if interactive {
        eprintln!();
    }
    result
}

/// Opens the instance's serial port.
pub(crate) async fn open(session: &Session, id: InstanceId) -> Result<Stream, Failure> {
    // An ordinary call first: it refreshes a token that is not good any more, and its refusals have problem documents.
    session.read(async |client: Client| answer::<_, serde_json::Value>(client.get_instance(&id)).await).await?;
    let url = format!("{}/v1/instances/{id}/console", session.endpoint().replacen("http", "ws", 1));
    let mut request = url.into_client_request().map_err(refused)?;
    let authorization = format!("Bearer {}", session.token().await?);
    let authorization =
        authorization.parse().map_err(|_| Failure::problem(ErrorCode::AuthFailure, "the token is no header"))?;
    request.headers_mut().insert("authorization", authorization);
    let (stream, _) = tokio_tungstenite::connect_async(request).await.map_err(refused)?;
    Ok(stream)
}

/// What the controller said instead of opening the console.
fn refused(error: tungstenite::Error) -> Failure {
    if let tungstenite::Error::Http(response) = &error
        && let Some(problem) = response.body().as_ref().and_then(|body| serde_json::from_slice::<Problem>(body).ok())
    {
        return Failure::Problem(problem);
    }
    Failure::problem(ErrorCode::ControllerUnreachable, format!("the console could not be opened: {error}"))
}

fn broken(cause: impl std::fmt::Display) -> Failure {
    Failure::local(LocalCode::UnexpectedAnswer, format!("the console broke off: {cause}"))
}

/// Carries bytes both ways until either end is done.
async fn join(stream: Stream, mut keys: mpsc::Receiver<Vec<u8>>) -> Result<(), Failure> {
    let (mut to_guest, mut from_guest) = stream.split();
    let mut input_ended = false;
    loop {
        tokio::select! {
            typed = keys.recv(), if !input_ended => match typed {
                Some(bytes) if bytes.is_empty() => break,
                Some(bytes) => to_guest.send(Message::binary(bytes)).await.map_err(broken)?,
                None => input_ended = true,
            },
            message = from_guest.next() => match message {
                Some(Ok(message)) if message.is_close() => break,
                Some(Ok(message)) => show(&message.into_data())?,
                Some(Err(cause)) => return Err(broken(cause)),
                None => break,
            },
            () = tokio::time::sleep(AFTER_INPUT), if input_ended => break,
        }
    }
    // The guest's end is told, but nobody waits for its answer.
    let _ = to_guest.close().await;
    Ok(())
}

fn show(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(broken)
}

/// What is typed, in pieces; an empty piece says that the user leaves. A thread of its own reads, because a read of a
/// terminal cannot be given up: it ends with the process.
fn keys(interactive: bool) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(64);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = io::stdin().lock().read(&mut buffer) {
            for piece in pieces(&buffer[..length], interactive) {
                if sender.blocking_send(piece).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// The typed bytes up to the key that leaves, which becomes an empty piece.
fn pieces(typed: &[u8], interactive: bool) -> Vec<Vec<u8>> {
    match typed.iter().position(|&byte| interactive && byte == LEAVE) {
        Some(0) => vec![Vec::new()],
        Some(at) => vec![typed[..at].to_vec(), Vec::new()],
        None => vec![typed.to_vec()],
    }
}

/// The terminal without line editing and echo, which the guest does itself. Dropping it brings the old mode back.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> rustix::io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that has gone away.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_leaves_sends_what_was_typed_before_it_and_nothing_after() {
        assert_eq!(pieces(b"ls\r", true), [b"ls\r".to_vec()]);
        assert_eq!(pieces(b"ls\x1dpwd", true), [b"ls".to_vec(), Vec::new()]);
        assert_eq!(pieces(b"\x1d", true), [Vec::<u8>::new()]);
        assert_eq!(pieces(b"a\x1db", false), [b"a\x1db".to_vec()], "a pipe carries every byte");
    }
}
