//! A port of unix datagrams: each is one frame, as QEMU's `-netdev dgram` sends and takes them.
//!
//! Owns two sockets. The *inbox* is bound to a path to which the guest's side sends. The *outbox* is connected to the
//! guest's path: only a connected socket can be asked whether its receiver has room. They are apart because a connected
//! inbox would refuse a guest's side that was started anew. The inbox stands at its path only when the guest's side may
//! send to it: while a switch is started anew, a guest that runs finds nobody there, and then somebody, but never a door
//! that is closed to it.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{FileTypeExt, lchown},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, fchmod},
    net::SocketAddrUnix,
};

use super::{Batch, Port, unread};

/// Whose the inboxes are, where that is another than who binds them: nobody else but root can send to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

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
    /// Binds `socket` for `owner`, in place of a socket that an earlier process left there; frames go to `guest`, which
    /// need not be there yet.
    ///
    /// # Errors
    /// When the path is taken by what is not a socket, is too long (107 octets, `unix(7)`; also with the extension `new`),
    /// or may not be written or given to the owner.
    pub fn bind(socket: &Path, guest: &Path, owner: Option<Owner>) -> io::Result<Self> {
        if is_taken(socket) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let inbox = bind_in_place(socket, owner)?;
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

    /// Whether the guest's side has read all that was sent to it. It has, too, when there is nobody to read.
    pub fn is_read(&self) -> io::Result<bool> {
        Ok(!self.connected || unread::octets(self.outbox.as_fd())? == 0)
    }

    /// Sends a frame that nobody waits for; false when there is no room.
    pub fn offer(&mut self, frame: &[u8]) -> bool {
        !self.send_one(frame).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
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

/// Binds beside the path and puts the socket in place when it is its owner's.
///
/// The folder may be the owner's too, and the owner not to be trusted: a path in it can have become a link to any file
/// since the last look. So the mode is not set by path, and the owner is set of the link itself.
fn bind_in_place(socket: &Path, owner: Option<Owner>) -> io::Result<UnixDatagram> {
    let draft = socket.with_extension("new");
    if !is_taken(&draft) {
        remove(&draft)?;
    }
    let inbox = UnixDatagram::unbound()?;
    // Linux gives a path the mode that the socket has when it is bound (unix_bind in net/unix/af_unix.c).
    fchmod(&inbox, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&inbox, &SocketAddrUnix::new(&draft)?)?;
    let owned = owner.map_or(Ok(()), |Owner { uid, gid }| lchown(&draft, Some(uid), Some(gid)));
    let placed = owned.and_then(|()| fs::rename(&draft, socket));
    if placed.is_err() {
        let _ = fs::remove_file(&draft); // the error that is told is the first
    }
    placed.map(|()| inbox)
}

/// Whether something stands at the path that is not a socket and so not ours to replace.
fn is_taken(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether nobody is bound to the path, now or any more.
fn is_absence(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, ConnectionReset, NotConnected, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | NotConnected)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

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
        let mut port = UnixPort::bind(&paths.socket, &paths.guest, None).unwrap();
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
        let mut port = UnixPort::bind(&paths.socket, &paths.guest, None).unwrap();
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
        let mut port = UnixPort::bind(&paths.socket, &paths.guest, None).unwrap();
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
        let mut port = UnixPort::bind(&paths.socket, &paths.guest, None).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"frame", &paths.socket).unwrap();
        assert_eq!(received(&mut port), [b"frame"]);
        fs::write(&paths.guest, "a file").unwrap();
        assert_eq!(UnixPort::bind(&paths.guest, &paths.socket, None).unwrap_err().kind(), ErrorKind::AddrInUse);
    }
    /// Looks again and again while sockets are bound: what was seen once must hold each time.
    #[test]
    fn a_socket_is_its_owners_from_the_first_instant_on_and_no_draft_is_left() {
        let paths = paths();
        // Only root may give a socket away.
        let owner = rustix::process::geteuid().is_root().then_some(Owner { uid: 70_707, gid: 70_708 });
        let bind = || UnixPort::bind(&paths.socket, &paths.guest, owner).unwrap();
        let first = bind();
        let ours = fs::symlink_metadata(&paths.socket).unwrap();
        let expected = owner.map_or((ours.uid(), ours.gid()), |Owner { uid, gid }| (uid, gid));
        std::thread::scope(|scope| {
            let binding = scope.spawn(|| (0..5000).for_each(|_| drop(bind())));
            while !binding.is_finished() {
                let seen = fs::symlink_metadata(&paths.socket).unwrap();
                assert_eq!((seen.mode() & 0o7777, (seen.uid(), seen.gid())), (0o600, expected));
            }
        });
        drop(first);
        assert_eq!(fs::read_dir(paths.socket.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn the_port_knows_when_the_guests_side_has_read_all() {
        let paths = paths();
        let mut port = UnixPort::bind(&paths.socket, &paths.guest, None).unwrap();
        assert!(port.is_read().unwrap(), "nobody is there");
        let guest = UnixDatagram::bind(&paths.guest).unwrap();
        assert_eq!(port.send(&batch(&[b"one", b"two"])), 2);
        for left in [2, 1] {
            assert!(!port.is_read().unwrap(), "{left} wait");
            guest.recv(&mut [0; 9]).unwrap();
        }
        assert!(port.is_read().unwrap());
        let sent = (0..).take_while(|_| port.offer(b"more")).count();
        assert!(sent > 0 && !port.is_read().unwrap());
        drop(guest);
        assert!(port.is_read().unwrap(), "what nobody will read is gone");
    }

    #[test]
    fn a_link_in_place_of_a_socket_leads_nowhere() {
        let paths = paths();
        let victim = paths.guest.with_extension("file");
        fs::write(&victim, "").unwrap();
        let before = fs::metadata(&victim).unwrap();
        for path in [&paths.socket, &paths.socket.with_extension("new")] {
            symlink(&victim, path).unwrap();
            assert_eq!(bind_error(&paths), ErrorKind::AddrInUse);
            fs::remove_file(path).unwrap();
        }
        let after = fs::metadata(&victim).unwrap();
        assert_eq!((before.mode(), before.uid()), (after.mode(), after.uid()));
    }

    fn bind_error(paths: &Paths) -> ErrorKind {
        let owner = Some(Owner { uid: 70_707, gid: 70_707 });
        UnixPort::bind(&paths.socket, &paths.guest, owner).unwrap_err().kind()
    }
}
