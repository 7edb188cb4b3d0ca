//! The library inside of QEMU, seen from outside: installed, told what to do, and talked to.
//!
//! Owns its bytes and its socket's protocol, whose other half is `shim/server.rs`. Starting QEMU with it is the hypervisor
//! driver's, in the words of [`lucarne_model::paging`].

use std::{
    fs,
    io::{self, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lucarne_memory::run::Run;
use lucarne_model::{
    memory::Pages,
    paging::{DEVICE, KEY, PageKey},
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::socket_peercred};
use serde::Deserialize;

/// The library, compiled by the build script.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.so"));
const VERSION: u32 = 1;

const LOOK: u64 = 1;
const END: u64 = 2;
/// Pages of one look, and bytes of a reason; the shim takes no more.
const LOOK_PAGES: u64 = 1 << 16;
const LONGEST_REASON: usize = 1024;
/// How long the shim may take for an answer. It waits for nobody, but its thread may have to wait for a processor.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(2);

/// Whether this host can page its guests; if not, why, in words for its operator.
pub fn available() -> Result<(), String> {
    match fs::File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("{DEVICE} cannot be opened ({error}): guests keep all of their memory in the host's"))
        }
    }
}

/// Puts the library into `directory`, under a name that its content decides, and returns its path. What is there stays.
pub fn install(directory: &Path) -> io::Result<PathBuf> {
    let path = directory.join(format!("lucarne-shim-{:08x}.so", crc32fast::hash(LIBRARY)));
    if fs::read(&path).is_ok_and(|content| content == LIBRARY) {
        return Ok(path);
    }
    let part = directory.join(format!(".lucarne-shim-{}.part", std::process::id()));
    let mut file = fs::File::create(&part)?;
    file.write_all(LIBRARY)?;
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.sync_all()?;
    fs::rename(&part, &path)?;
    fs::File::open(directory)?.sync_all()?;
    Ok(path)
}

/// The key of the pages of the machine whose shim listens at `machine`. Who lets a machine sleep keeps it for the waking.
pub fn key_of(machine: &Path) -> Result<PageKey, ShimError> {
    let (_, lent) = Shim::connect(machine, PATIENCE)?;
    let mut key = [0; KEY];
    fs::File::from(lent.key).read_exact_at(&mut key, 0).map_err(ShimError::NoAnswer)?;
    Ok(PageKey(key))
}

/// A hold on a machine's memory. While someone has one, a guest whose pagers are all gone stands still at a page that is away;
/// were the last one closed, the kernel would give it zeros there, and nobody would know.
#[derive(Debug)]
pub struct Hold {
    _uffd: OwnedFd,
    _memory: OwnedFd,
}

/// Takes hold of the memory of the machine whose shim listens at `machine`: for who starts pagers, beside the shim's own hold.
/// It is to be dropped when the machine has ended, whose memory it keeps too.
pub fn hold(machine: &Path) -> Result<Hold, ShimError> {
    let (_, lent) = Shim::connect(machine, PATIENCE)?;
    Ok(Hold { _uffd: lent.uffd, _memory: lent.memory })
}

/// A memory's place in the machine's process, in the words of Firecracker's hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Region {
    #[serde(rename = "base_host_virt_addr")]
    pub(crate) base: u64,
    pub(crate) size: u64,
    /// In the memory's file.
    pub(crate) offset: u64,
    pub(crate) page_size: u64,
}

#[derive(Deserialize)]
struct Hello {
    version: u32,
    minor: bool,
    /// A machine that was started by an earlier version does not.
    #[serde(default)]
    holds_discards: bool,
    regions: Vec<Region>,
}

/// What the shim lends.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) regions: Vec<Region>,
    /// Whether the tripwire is set.
    pub(crate) minor: bool,
    /// Whether it keeps what it would discard while it is told to.
    pub(crate) holds_discards: bool,
    pub(crate) uffd: OwnedFd,
    pub(crate) memory: OwnedFd,
    pub(crate) key: OwnedFd,
    pub(crate) discarded: OwnedFd,
    pub(crate) pool: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("no machine listens at {} within {after:?}", path.display())]
    Unreachable { path: PathBuf, after: Duration, source: io::Error },
    #[error("the machine's shim speaks in a way that is not understood: {what}")]
    NotUnderstood { what: &'static str },
    #[error("the machine's shim does not answer")]
    NoAnswer(#[source] io::Error),
    #[error("the machine's shim could not {doing}")]
    Failed { doing: &'static str },
}

/// A connection to the shim of one machine.
#[derive(Debug)]
pub(crate) struct Shim(UnixStream);

impl Shim {
    /// Connects as soon as something listens at `path`, which a machine that is just starting may be about to do.
    pub(crate) fn connect(path: &Path, patience: Duration) -> Result<(Self, Lent), ShimError> {
        let end = Instant::now() + patience;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < end => std::thread::sleep(RETRY),
                Err(source) => return Err(ShimError::Unreachable { path: path.to_owned(), after: patience, source }),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(ShimError::NoAnswer)?;
        let lent = receive(&stream)?;
        Ok((Self(stream), lent))
    }

    /// A second hold on the connection, by which its end is seen.
    pub(crate) fn watch(&self) -> io::Result<UnixStream> {
        self.0.try_clone()
    }

    /// Whose shim it is.
    pub(crate) fn process(&self) -> Option<i32> {
        socket_peercred(&self.0).ok().map(|peer| peer.pid.as_raw_nonzero().get())
    }

    /// Which pages of `run` were touched since the last look: bit `i % 64` of word `i / 64`. Clears what it reports.
    pub(crate) fn look(&mut self, run: Run) -> Result<Vec<u64>, ShimError> {
        let mut words = Vec::with_capacity(run.count.div_ceil(64) as usize);
        let mut first = run.first;
        while first < run.end() {
            let count = LOOK_PAGES.min(run.end() - first);
            self.ask("look", [LOOK, first * Pages::SIZE, count * Pages::SIZE], &[])?;
            let mut bits = vec![0; count.div_ceil(8) as usize];
            self.0.read_exact(&mut bits).map_err(ShimError::NoAnswer)?;
            bits.resize(bits.len().next_multiple_of(8), 0);
            words.extend(bits.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
            first += count;
        }
        Ok(words)
    }

    /// Ends the machine at once; the last thing that it prints is `reason`.
    pub(crate) fn end(&mut self, reason: &str) -> Result<(), ShimError> {
        let reason = &reason.as_bytes()[..reason.floor_char_boundary(LONGEST_REASON)];
        match self.ask("end", [END, 0, reason.len() as u64], reason) {
            // It answers by being no more.
            Ok(()) | Err(ShimError::NoAnswer(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    fn ask(&mut self, doing: &'static str, request: [u64; 3], more: &[u8]) -> Result<(), ShimError> {
        let bytes: Vec<u8> = request.iter().flat_map(|word| word.to_ne_bytes()).chain(more.iter().copied()).collect();
        let mut status = [0; 8];
        let asked = self.0.write_all(&bytes).and_then(|()| self.0.read_exact(&mut status));
        asked.map_err(ShimError::NoAnswer)?;
        if status == [0; 8] { Ok(()) } else { Err(ShimError::Failed { doing }) }
    }
}

fn receive(stream: &UnixStream) -> Result<Lent, ShimError> {
    let not_understood = |what| ShimError::NotUnderstood { what };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut line = vec![0; 4096];
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut line)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let length = received.map_err(|errno| ShimError::NoAnswer(errno.into()))?.bytes;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
    let hello: Hello = serde_json::from_slice(&line[..length]).map_err(|_| not_understood("its hello is no JSON"))?;
    if hello.version != VERSION {
        return Err(not_understood("it is of another version"));
    }
    let sound = |region: &Region| {
        region.page_size == Pages::SIZE && (region.base | region.size | region.offset).is_multiple_of(Pages::SIZE)
    };
    if hello.regions.is_empty() || !hello.regions.iter().all(sound) {
        return Err(not_understood("its memory is not in pages of 4 KiB"));
    }
    let [uffd, memory, key, discarded, pool] =
        <[OwnedFd; 5]>::try_from(descriptors).map_err(|_| not_understood("it lends other descriptors than five"))?;
    let Hello { minor, holds_discards, regions, .. } = hello;
    Ok(Lent { regions, minor, holds_discards, uffd, memory, key, discarded, pool })
}
