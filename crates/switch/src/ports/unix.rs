//! A port of unix datagrams: each is one frame, as QEMU's `-netdev dgram` sends and takes them.
//!
//! Owns two sockets. The *inbox* is bound to a path to which the guest's side sends. The *outbox* is connected to the
//! guest's path: only a connected socket can be asked whether its receiver has room. They are apart because a connected
//! inbox would refuse a guest's side that was started anew. Who may send to the inbox is said by the owner and mode of its
//! path, which the caller sets.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
};

use super::{Batch, Port};

/// The inbox is for its owner only.
const MODE: u32 = 0o600;

/// Why frames did not reach the guest's side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendCounters {
    /// Nobody is bound to the guest's path.
    pub absent: u64,
    /// The system did not take the frame.
    pub failed: u64,
}

/// One guest's port.
#[derive(Debug)]
pub struct UnixPort {
    inbox: UnixDatagram,
    outbox: UnixDatagram,
    guest: PathBuf,
    connected: bool,
    counters: SendCounters,
}

impl UnixPort {
    /// Binds `socket`, in place of a socket that an earlier process left there; frames go to `guest`, which need not be
    /// there yet.
    ///
    /// # Errors
    /// When the path is taken by what is not a socket, is too long (107 octets, `unix(7)`), or may not be written.
    pub fn bind(socket: &Path, guest: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(socket) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(socket)?,
            // What else stands there is not ours to remove: binding says that the path is in use.
            _ => {}
        }
        let inbox = UnixDatagram::bind(socket)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(MODE))?;
        let outbox = UnixDatagram::unbound()?;
        inbox.set_nonblocking(true)?;
        outbox.set_nonblocking(true)?;
        let counters = SendCounters::default();
        Ok(Self { inbox, outbox, guest: guest.to_owned(), connected: false, counters })
    }

    /// Readable when a frame has come.
    pub fn inbox(&self) -> BorrowedFd<'_> {
        self.inbox.as_fd()
    }
    /// Writable when the guest's side has room again.
    pub fn outbox(&self) -> BorrowedFd<'_> {
        self.outbox.as_fd()
    }
    pub const fn counters(&self) -> SendCounters {
        self.counters
    }

    fn send_one(&mut self, frame: &[u8]) -> io::Result<usize> {
        if self.connected {
            match self.outbox.send(frame) {
                // The process that was bound there has ended; another may have taken its path.
                Err(error) if is_absence(&error) => self.connected = false,
                result => return result,
            }
        }
        self.outbox.connect(&self.guest)?;
        self.connected = true;
        self.outbox.send(frame)
    }
}

impl Port for UnixPort {
    fn receive(&mut self, into: &mut Batch) -> io::Result<()> {
        while !into.is_full() {
            match into.fill(|room| self.inbox.recv(room)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn send(&mut self, frames: &Batch) -> usize {
        for (done, frame) in frames.iter().enumerate() {
            match self.send_one(frame) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return done,
                Err(error) if is_absence(&error) => {
                    self.counters.absent += (frames.len() - done) as u64;
                    return frames.len();
                }
                Err(_) => self.counters.failed += 1,
            }
        }
        frames.len()
    }
}

/// Whether nobody is bound to the path, now or any more.
fn is_absence(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, ConnectionReset, NotConnected, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | NotConnected)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    struct Paths {
        _folder: TempDir,
        socket: PathBuf,
        guest: PathBuf,
    }

    fn paths() -> Paths {
        let folder = tempfile::tempdir().unwrap();
        let [socket, guest] = ["s", "g"].map(|name| folder.path().join(name));
        Paths { _folder: folder, socket, guest }
    }

    fn batch(frames: &[&[u8]]) -> Batch {
        let mut batch = Batch::new(1000, 100);
        frames.iter().for_each(|frame| assert!(batch.push(frame)));
        batch
    }

    fn received(port: &mut UnixPort) -> Vec<Vec<u8>> {
        let mut into = Batch::new(3, 10);
        port.receive(&mut into).unwrap();
        into.iter().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn frames_come_in_batches_and_what_is_too_long_is_cut() {
        let paths = paths();
        let mut port = UnixPort::bind(&paths.socket, &paths.guest).unwrap();
        let guest = UnixDatagram::bind(&paths.guest).unwrap();
        for frame in [&b"one"[..], b"two", b"longer than ten", b"four"] {
            guest.send_to(frame, &paths.socket).unwrap();
        }
        assert_eq!(received(&mut port), [&b"one"[..], b"two", b"longer tha"]);
        assert_eq!(received(&mut port), [b"four"]);
        assert!(received(&mut port).is_empty());
    }

    #[test]
    fn a_guest_that_is_not_there_or_comes_back_is_counted_and_found_again() {
        let paths = paths();
        let mut port = UnixPort::bind(&paths.socket, &paths.guest).unwrap();
        assert_eq!(port.send(&batch(&[b"lost", b"lost"])), 2);
        assert_eq!(port.counters().absent, 2);
        for round in 0..2 {
            let guest = UnixDatagram::bind(&paths.guest).unwrap();
            assert_eq!(port.send(&batch(&[b"kept"])), 1);
            let mut into = [0; 10];
            assert_eq!(guest.recv(&mut into).unwrap(), 4, "round {round}");
            drop(guest);
            fs::remove_file(&paths.guest).unwrap();
        }
        assert_eq!(port.send(&batch(&[b"lost"])), 1);
        assert_eq!(port.counters(), SendCounters { absent: 3, failed: 0 });
    }

    #[test]
    fn a_guest_that_does_not_read_stops_the_batch_and_loses_nothing() {
        let paths = paths();
        let mut port = UnixPort::bind(&paths.socket, &paths.guest).unwrap();
        let guest = UnixDatagram::bind(&paths.guest).unwrap();
        let frames = batch(&[&b"frame"[..]; 900]);
        let sent = port.send(&frames);
        assert!(sent < 900, "the system holds back");
        let mut into = [0; 10];
        for _ in 0..sent {
            guest.recv(&mut into).unwrap();
        }
        assert!(port.send(&frames) > 0, "there is room again");
        assert_eq!(port.counters(), SendCounters::default());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let paths = paths();
        drop(UnixDatagram::bind(&paths.socket).unwrap());
        let mut port = UnixPort::bind(&paths.socket, &paths.guest).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"frame", &paths.socket).unwrap();
        assert_eq!(received(&mut port), [b"frame"]);
        fs::write(&paths.guest, "a file").unwrap();
        assert_eq!(UnixPort::bind(&paths.guest, &paths.socket).unwrap_err().kind(), ErrorKind::AddrInUse);
    }
}
