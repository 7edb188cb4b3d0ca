//! The thread inside of QEMU that lends the guest's memory to a pager, and looks at access bits for it.
//!
//! Owns the socket and what may be asked over it. Who connects gets one line of JSON with the layout, as Firecracker
//! gives it, and with it the descriptors: userfaultfd, memory, key, notes of discards, pool. Then each request is 24 bytes:
//! what, first byte of the guest's memory, length; each answer 8 bytes, zero when done, and what was asked for.

use core::{
    ffi::{c_int, c_void},
    mem::{size_of, zeroed},
    ptr,
};

use crate::{
    guest::Guest,
    kernel::{self, PAGE, PageRegion, Text},
    settings::Settings,
};

/// Which pages were touched since the last look; the look clears the bits. Answer: a bit for each page.
const LOOK: u64 = 1;
/// End the VM; the request's length counts the bytes of the reason, which follow.
const END: u64 = 2;
/// Pages of one look.
const LOOK_PAGES: u64 = 1 << 16;
const LOOK_BYTES: usize = LOOK_PAGES as usize / 8;
/// Connections at once: a pager, its successor, the host agent.
const CONNECTIONS: usize = 8;
const DESCRIPTORS: usize = 5;

const AF_UNIX: c_int = 1;
const SOCK_STREAM_CLOEXEC: c_int = 1 | 0o2000000;
const CLOEXEC: c_int = 0o2000000;
const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const SO_PEERCRED: c_int = 17;
const SO_RCVTIMEO: c_int = 20;
const SO_SNDTIMEO: c_int = 21;
const MSG_WAITALL: c_int = 0x100;
const MSG_NOSIGNAL: c_int = 0x4000;
const POLLIN: i16 = 1;
const SIG_SETMASK: c_int = 2;

#[repr(C)]
struct Address {
    family: u16,
    path: [u8; 108],
}
#[repr(C)]
struct Poll {
    fd: c_int,
    events: i16,
    happened: i16,
}
#[repr(C)]
struct Peer {
    pid: i32,
    uid: u32,
    gid: u32,
}
#[repr(C)]
struct Part {
    base: *const c_void,
    length: usize,
}
#[repr(C)]
struct Message {
    name: *const c_void,
    name_length: u32,
    parts: *const Part,
    part_count: usize,
    control: *const c_void,
    control_length: usize,
    flags: c_int,
}
#[repr(C)]
struct Rights {
    length: usize,
    level: c_int,
    kind: c_int,
    descriptors: [c_int; DESCRIPTORS + 1],
}
const RIGHTS_LENGTH: usize = 16 + DESCRIPTORS * size_of::<c_int>();
const _: () = assert!(size_of::<Message>() == 56 && size_of::<Rights>() == 40 && size_of::<Address>() == 110);

unsafe extern "C" {
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, address: *const Address, length: u32) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept4(fd: c_int, address: *mut c_void, length: *mut u32, flags: c_int) -> c_int;
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut u32) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: u32) -> c_int;
    fn sendmsg(fd: c_int, message: *const Message, flags: c_int) -> isize;
    fn send(fd: c_int, bytes: *const c_void, length: usize, flags: c_int) -> isize;
    fn recv(fd: c_int, bytes: *mut c_void, length: usize, flags: c_int) -> isize;
    fn poll(polled: *mut Poll, count: u64, milliseconds: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn unlink(path: *const u8) -> c_int;
    fn pthread_create(
        thread: *mut usize,
        attributes: *const c_void,
        run: extern "C" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> c_int;
    fn pthread_sigmask(how: c_int, new: *const [u64; 16], old: *mut [u64; 16]) -> c_int;
}

/// What the thread owns. Written once before it starts.
struct Server {
    guest: Guest,
    peer: u32,
    listener: c_int,
    connections: [c_int; CONNECTIONS],
    bits: [u8; LOOK_BYTES],
    regions: [PageRegion; 1024],
}

static mut SERVER: Server = Server {
    guest: Guest { base: 0, length: 0, minor: false, uffd: -1, memory: -1, key: -1, discarded: -1, pool: -1, pagemap: -1 },
    peer: 0,
    listener: -1,
    connections: [-1; CONNECTIONS],
    bits: [0; LOOK_BYTES],
    regions: [PageRegion::NONE; 1024],
};

/// Listens, and starts the thread. Called once.
pub(crate) fn start(guest: Guest, settings: &Settings) {
    let listener = listener(settings.socket);
    let server = &raw mut SERVER;
    // SAFETY: called once, before the thread that will be its only user.
    unsafe {
        (*server).guest = guest;
        (*server).peer = settings.peer;
        (*server).listener = listener;
    }
    // The thread takes none of QEMU's signals: it is born with all of them blocked.
    let (all, mut before) = ([u64::MAX; 16], [0; 16]);
    let mut thread = 0;
    // SAFETY: the sets are as large as libc's sigset_t; the thread gets what lives as long as the process.
    let failed = unsafe {
        pthread_sigmask(SIG_SETMASK, &raw const all, &raw mut before);
        let failed = pthread_create(&raw mut thread, ptr::null(), run, server.cast());
        pthread_sigmask(SIG_SETMASK, &raw const before, ptr::null_mut());
        failed
    };
    if failed != 0 {
        kernel::end("no thread can be started for the pager", failed);
    }
}

fn listener(path: &str) -> c_int {
    let mut address = Address { family: AF_UNIX as u16, path: [0; 108] };
    if path.is_empty() || path.len() >= address.path.len() {
        kernel::end("the path of the pager's socket is too long", 0);
    }
    address.path[..path.len()].copy_from_slice(path.as_bytes());
    // SAFETY: the address ends with a zero byte and has the layout of sockaddr_un.
    let ready = unsafe {
        let fd = socket(AF_UNIX, SOCK_STREAM_CLOEXEC, 0);
        unlink(address.path.as_ptr());
        let bound = bind(fd, &raw const address, size_of::<Address>() as u32) == 0 && listen(fd, 8) == 0;
        if bound { fd } else { -1 }
    };
    if ready < 0 { kernel::end("the pager's socket cannot be bound", 0) }
    ready
}

extern "C" fn run(server: *mut c_void) -> *mut c_void {
    // SAFETY: the pointer that `start` gave, which nobody else uses.
    let server = unsafe { &mut *server.cast::<Server>() };
    loop {
        server.wait_and_answer();
    }
}

impl Server {
    fn wait_and_answer(&mut self) {
        let mut polled: [Poll; CONNECTIONS + 1] =
            core::array::from_fn(|at| Poll { fd: self.polled_fd(at), events: POLLIN, happened: 0 });
        // SAFETY: as many as are said.
        if unsafe { poll(polled.as_mut_ptr(), polled.len() as u64, -1) } <= 0 {
            return;
        }
        for (at, one) in polled.iter().enumerate().filter(|(_, one)| one.happened != 0) {
            match at.checked_sub(1) {
                None => self.welcome(),
                Some(connection) if !self.answer(one.fd) => {
                    self.connections[connection] = -1;
                    // SAFETY: a connection of ours that nobody uses any more.
                    unsafe { close(one.fd) };
                }
                Some(_) => {}
            }
        }
    }

    /// The listener, then the connections; poll(2) passes over what is negative.
    fn polled_fd(&self, at: usize) -> c_int {
        at.checked_sub(1).map_or(self.listener, |connection| self.connections[connection])
    }

    fn welcome(&mut self) {
        // SAFETY: accepts without asking for the address.
        let fd = unsafe { accept4(self.listener, ptr::null_mut(), ptr::null_mut(), CLOEXEC) };
        if fd < 0 {
            return;
        }
        let free = self.connections.iter().position(|connection| *connection < 0);
        match free.filter(|_| self.may_have(fd) && self.lend(fd)) {
            Some(free) => self.connections[free] = fd,
            // SAFETY: a connection that is not kept.
            None => drop(unsafe { close(fd) }),
        }
    }

    /// Root and one more user; and nobody is waited for longer than two seconds.
    fn may_have(&self, fd: c_int) -> bool {
        let mut peer = Peer { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let mut length = size_of::<Peer>() as u32;
        let patience = [2_i64, 0];
        // SAFETY: the values have the layouts and lengths that are said.
        unsafe {
            for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
                setsockopt(fd, SOL_SOCKET, option, (&raw const patience).cast(), 16);
            }
            getsockopt(fd, SOL_SOCKET, SO_PEERCRED, (&raw mut peer).cast(), &raw mut length) == 0
                && (peer.uid == 0 || peer.uid == self.peer)
        }
    }

    fn lend(&self, fd: c_int) -> bool {
        let guest = &self.guest;
        let mut hello = Text::<256>::new();
        hello.push("{\"version\":1,\"minor\":");
        hello.push(if guest.minor { "true" } else { "false" });
        hello.push(",\"holds_discards\":true,\"regions\":[{\"base_host_virt_addr\":");
        hello.push_number(guest.base);
        hello.push(",\"size\":");
        hello.push_number(guest.length);
        hello.push(",\"offset\":0,\"page_size\":4096}]}\n");
        let descriptors = [guest.uffd, guest.memory, guest.key, guest.discarded, guest.pool, 0];
        let rights = Rights { length: RIGHTS_LENGTH, level: SOL_SOCKET, kind: SCM_RIGHTS, descriptors };
        let part = Part { base: hello.bytes().as_ptr().cast(), length: hello.bytes().len() };
        // SAFETY: all zeros is a message of nothing.
        let mut message: Message = unsafe { zeroed() };
        (message.parts, message.part_count) = (&raw const part, 1);
        (message.control, message.control_length) = ((&raw const rights).cast(), size_of::<Rights>());
        // SAFETY: everything that the message points at lives until the call is over.
        unsafe { sendmsg(fd, &raw const message, MSG_NOSIGNAL) == part.length as isize }
    }

    /// Whether the connection goes on.
    fn answer(&mut self, fd: c_int) -> bool {
        let mut request = [0_u64; 3];
        if !receive(fd, request.as_mut_ptr().cast(), size_of::<[u64; 3]>()) {
            return false;
        }
        let [what, offset, length] = request;
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.guest.length);
        let aligned = (offset | length).is_multiple_of(PAGE);
        match what {
            LOOK if inside && aligned && length <= LOOK_PAGES * PAGE => self.look(fd, offset, length),
            END if length <= 1024 => end(fd, length as usize),
            _ => false,
        }
    }

    fn look(&mut self, fd: c_int, offset: u64, length: u64) -> bool {
        let (start, end) = (self.guest.base + offset, self.guest.base + offset + length);
        let bytes = (length / PAGE).div_ceil(8) as usize;
        self.bits[..bytes].fill(0);
        let mut from = start;
        while from < end {
            let found = kernel::mapped_pages(self.guest.pagemap, from, end, &mut self.regions);
            let Some((count, came_to)) = found.filter(|(_, came_to)| *came_to > from) else {
                return reply(fd, 1, &[]);
            };
            for region in &self.regions[..count] {
                for page in (region.start - start) / PAGE..(region.end - start) / PAGE {
                    self.bits[page as usize / 8] |= 1 << (page % 8);
                }
            }
            from = came_to;
        }
        let done = kernel::unmap_pages(start, length);
        reply(fd, u64::from(!done), if done { &self.bits[..bytes] } else { &[] })
    }
}

fn end(fd: c_int, length: usize) -> bool {
    let mut reason = [0; 1024];
    if !receive(fd, reason.as_mut_ptr().cast(), length) {
        return false;
    }
    kernel::end(core::str::from_utf8(&reason[..length]).unwrap_or("the pager says to end"), 0)
}

fn receive(fd: c_int, bytes: *mut c_void, length: usize) -> bool {
    // SAFETY: the callers have room for this many bytes there.
    unsafe { recv(fd, bytes, length, MSG_WAITALL) == length as isize }
}

fn reply(fd: c_int, status: u64, bytes: &[u8]) -> bool {
    let sent = |bytes: &[u8]| {
        let mut rest = bytes;
        while !rest.is_empty() {
            // SAFETY: the bytes are there.
            let count = unsafe { send(fd, rest.as_ptr().cast(), rest.len(), MSG_NOSIGNAL) };
            if count <= 0 {
                return false;
            }
            rest = &rest[count as usize..];
        }
        true
    };
    sent(&status.to_ne_bytes()) && sent(bytes)
}
