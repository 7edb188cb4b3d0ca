//! What a VM's process is given so that its memory can be paged from outside of it.
//!
//! Owns the inherited descriptors and the environment. The process opens nothing by itself: it has not the right to, and
//! its guest may have taken it over. What the library does with them is the pager's, which is another crate's.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
};

use lucarne_model::{
    Bytes,
    paging::{DEVICE, KEY, PageKey, PagingVariable, VARIABLE},
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::{
    driver::{MachineSpec, Paging},
    error::Error,
    files,
    process::descriptor,
    qemu::User,
};

/// Makes the directory of the library's socket and gives it to the VM's user.
pub(crate) fn prepare(paging: &Paging, user: Option<User>) -> Result<(), Error> {
    let Some(directory) = paging.socket.parent() else {
        return Err(Error::Path { path: paging.socket.clone(), reason: "it is in no directory" });
    };
    files::directory(directory, 0o700)?;
    files::own(directory, user)?;
    files::reachable(&paging.library, None)
}

/// Tells the process that `command` will start how to lend the memory of the guest in `spec`.
pub(crate) fn lend(command: &mut Command, spec: &MachineSpec, paging: &Paging) -> Result<(), Error> {
    let failed = |what: &'static str| move |source| Error::NoPaging { instance: spec.instance, what, source };
    let device = File::options().read(true).write(true).open(DEVICE).map_err(failed("open /dev/userfaultfd"))?;
    let key = paging.key.map_or_else(random_key, Ok).and_then(|key| sealed(&key)).map_err(failed("keep a key"))?;
    let variable = PagingVariable {
        device: device.as_raw_fd(),
        key: key.as_raw_fd(),
        memory: Bytes::mib(spec.memory.as_mib()),
        peer: rustix::process::geteuid().as_raw(),
        // Nobody but this process maps the memory: no device of the command line is served by another. And it is not free:
        // with it no access bits can be read, because each page that a look unmaps would be a fault of its own.
        tripwire: false,
        socket: &paging.socket,
    };
    command.env("LD_PRELOAD", &paging.library).env(VARIABLE, variable.to_string());
    descriptor::inherit(command, vec![device.into(), key]);
    Ok(())
}

fn random_key() -> io::Result<PageKey> {
    let mut key = [0; KEY];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(PageKey(key))
}

/// The key in a file of memory that nobody can change.
fn sealed(key: &PageKey) -> io::Result<OwnedFd> {
    let file = memfd_create("lucarne-key", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::io::pwrite(&file, &key.0, 0)?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_can_be_read_and_not_changed() {
        let file = sealed(&PageKey([7; KEY])).unwrap();
        let mut key = [0; KEY];
        assert_eq!(rustix::io::pread(&file, &mut key, 0), Ok(KEY));
        assert_eq!(key, [7; KEY]);
        assert_eq!(rustix::io::pwrite(&file, &[0; KEY], 0), Err(rustix::io::Errno::PERM));
        assert!(random_key().unwrap() != random_key().unwrap());
    }
}
