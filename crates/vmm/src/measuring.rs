//! What a VM is made of, measured as its process is given it.
//!
//! Owns that nothing can be swapped between the measuring and the start. Kernel, initramfs and firmware are copied into
//! memory that is sealed, hashed as they are copied, and the process reads the copies; so are the devices of a warm state,
//! whose memory the pager opens by the digest that is measured and checks page by page. A disk's image is too large for that:
//! it is hashed through the very descriptor that the process reads it by, and must not have changed since when the VM is let
//! go.
//! What the digests mean, and who believes them, is decided elsewhere.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use lucarne_model::{Component, InstanceId, Measurement, storage::Digest};
use ring::digest::{Context, SHA256};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::{Deserialize, Serialize};

use crate::{
    driver::{Base, Boot, MachineSpec, Origin},
    error::Error,
};

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// What a VM was measured as; kept beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) measurements: Vec<Measurement>,
    /// The files that were hashed and not copied, as they were then.
    files: Vec<Stamp>,
}

/// A file at one time, and its digest then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    inode: Inode,
    digest: Digest,
}

/// Whoever writes to a file changes the last field of this, which nobody can set back; so does, harmlessly, who gives the
/// file another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Inode {
    device: u64,
    number: u64,
    size: u64,
    /// Seconds and nanoseconds of its last change.
    changed: (i64, i64),
}

/// What a process is to be given so that it starts what was measured.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) measured: Measured,
    /// Of the process, under the numbers that they have here.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// The copy of the devices that it goes on with, for its standard input.
    pub(crate) devices: Option<File>,
    /// For QEMU, beside what the spec says: its firmware, and the descriptors that are disks' images.
    pub(crate) options: Vec<String>,
}

/// What a warm state is measured as, of the digests of its two parts.
pub fn warm_state_digest(devices: &Digest, memory: &Digest) -> Digest {
    digest_of(format!("{devices}\n{memory}\n").as_bytes())
}

/// What the devices of a warm state are, of their octets.
pub fn devices_digest(devices: &[u8]) -> Digest {
    digest_of(devices)
}

/// Measures what the VM of `spec` is made of and changes the spec to name what is to be given. `description` is what its devices and
/// its memory are, without what is its own alone; `saved` are the devices of the warm state of its [`Origin::Warm`].
///
/// What goes on from a warm state is measured as what boots, and beside that as what it is more: so what is known of a machine
/// holds for both its beginnings, and who knows nothing of the state knows nothing of the one that goes on from it.
pub(crate) fn take(
    spec: &mut MachineSpec,
    firmware: Option<&Path>,
    description: &Description,
    saved: Option<&Path>,
) -> Result<Given, Error> {
    let mut given = Given::default();
    if let (Some(saved), Some(devices)) = (saved, &description.warm) {
        given.take_warm_state(spec, saved)?;
        given.note(Component::WarmState, "devices", digest_of(devices.as_bytes()));
    }
    let mut devices = description.devices.clone();
    if let Some(firmware) = firmware {
        // What the machine is made of, as its devices are: the host's log has it too, as a thing of the host.
        let (path, digest) = given.copy(firmware)?;
        devices += &format!("firmware {digest}\n");
        given.options.extend(["-bios".to_owned(), path.display().to_string()]);
    }
    if let Boot::Kernel { kernel, initramfs, command_line } = &mut spec.boot {
        for (component, name, path) in
            [(Component::GuestKernel, "kernel", kernel), (Component::GuestInitramfs, "initramfs", initramfs)]
        {
            let (place, digest) = given.copy(path)?;
            given.note(component, name, digest);
            *path = place;
        }
        given.note(Component::GuestCommandLine, "command-line", digest_of(command_line.as_bytes()));
    }
    for disk in &mut spec.disks {
        let slot = disk.slot;
        if let Some(base) = &mut disk.base {
            given.look_through(slot, base)?;
        }
    }
    if let Some(tpm) = &spec.tpm {
        let certificate = fs::read(&tpm.certificate);
        let certificate = certificate.map_err(|error| Error::file("measure", &tpm.certificate, error))?;
        given.note(Component::VirtualTpm, "endorsement-certificate", digest_of(&certificate));
    }
    given.note(Component::Devices, "devices", digest_of(devices.as_bytes()));
    given.note(Component::Memory, "memory", digest_of(description.memory.as_bytes()));
    Ok(given)
}

/// A machine in words that are the same for all of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Of one that boots.
    pub(crate) devices: String,
    pub(crate) memory: String,
    /// The devices of one that goes on from a warm state: it has some that only those have.
    pub(crate) warm: Option<String>,
}

impl Given {
    fn note(&mut self, component: Component, name: &str, digest: Digest) {
        self.measured.measurements.push(Measurement { component, name: name.into(), digest });
    }

    /// Gives a sealed copy of the file, and says by which path the process reads it and what it is.
    fn copy(&mut self, path: &Path) -> Result<(PathBuf, Digest), Error> {
        let (copy, digest) = sealed_copy(path).map_err(|error| Error::file("measure", path, error))?;
        let place = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
        self.descriptors.push(copy);
        Ok((place, digest))
    }

    /// Gives a sealed copy of the devices that the VM goes on with, if they and its memory are the state that its spec names.
    fn take_warm_state(&mut self, spec: &MachineSpec, saved: &Path) -> Result<(), Error> {
        let failed = |error| Error::file("measure", saved, error);
        let changed = || Error::Changed { instance: spec.instance, path: saved.into() };
        let Origin::Warm { memory: Some(memory), state, .. } = &spec.origin else { return Err(changed()) };
        let (copy, devices) = sealed_copy(saved).map_err(failed)?;
        let digest = warm_state_digest(&devices, memory);
        if digest != *state {
            return Err(changed());
        }
        self.note(Component::WarmState, "state", digest);
        // Opened again: what reads it begins at its beginning, and can do nothing else.
        self.devices = Some(File::open(format!("/proc/self/fd/{}", copy.as_raw_fd())).map_err(failed)?);
        Ok(())
    }

    /// Gives the image below a disk by a descriptor, through which it is hashed first.
    fn look_through(&mut self, slot: u8, base: &mut Base) -> Result<(), Error> {
        let failed = |error| Error::file("measure", &base.path, error);
        let mut file = File::open(&base.path).map_err(failed)?;
        // Looked at first: what changes while it is hashed has changed since.
        let inode = Inode::of(&file).map_err(failed)?;
        let digest = hash(&mut file, |_| Ok(())).map_err(failed)?;
        self.note(Component::DiskImage, &format!("slot-{slot}"), digest.clone());
        self.measured.files.push(Stamp { path: base.path.clone(), inode, digest });
        self.options.extend(["-add-fd".to_owned(), fd_set(slot, file.as_raw_fd())]);
        base.path = PathBuf::from(format!("/dev/fdset/{}", set_of(slot)));
        self.descriptors.push(file.into());
        Ok(())
    }
}

/// QEMU counts its sets of descriptors; each is that of one slot.
fn set_of(slot: u8) -> u32 {
    u32::from(slot) + 1
}

fn fd_set(slot: u8, descriptor: RawFd) -> String {
    format!("set={},fd={descriptor}", set_of(slot))
}

impl Measured {
    /// Fails when a file is not any more what was measured. It may read all of it.
    pub(crate) fn check(&self, instance: InstanceId) -> Result<(), Error> {
        for stamp in &self.files {
            let path = &stamp.path;
            if !stamp.still_holds().map_err(|error| Error::file("look at", path, error))? {
                return Err(Error::Changed { instance, path: path.clone() });
            }
        }
        Ok(())
    }
}

impl Stamp {
    fn still_holds(&self) -> io::Result<bool> {
        let mut file = File::open(&self.path)?;
        let now = Inode::of(&file)?;
        let is_same_file = (now.device, now.number) == (self.inode.device, self.inode.number);
        Ok(now == self.inode || (is_same_file && hash(&mut file, |_| Ok(()))? == self.digest))
    }
}

impl Inode {
    fn of(file: &File) -> io::Result<Self> {
        let about: fs::Metadata = file.metadata()?;
        let changed = (about.ctime(), about.ctime_nsec());
        Ok(Self { device: about.dev(), number: about.ino(), size: about.size(), changed })
    }
}

/// The file's content in memory that nobody can change, and the digest of that.
fn sealed_copy(path: &Path) -> io::Result<(OwnedFd, Digest)> {
    let copy = memfd_create("lucarne-measured", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut written = 0;
    let digest = hash(&mut File::open(path)?, |mut chunk| {
        while !chunk.is_empty() {
            let length = rustix::io::pwrite(&copy, chunk, written)?;
            written += length as u64;
            chunk = &chunk[length..];
        }
        Ok(())
    })?;
    fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok((copy, digest))
}

/// Reads to the end, gives each piece to `with`, and digests them.
fn hash(file: &mut File, mut with: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Digest> {
    let (mut context, mut chunk) = (Context::new(&SHA256), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(digest(context)),
            Ok(length) => {
                with(&chunk[..length])?;
                context.update(&chunk[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    digest(context)
}

fn digest(context: Context) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Digest::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use lucarne_model::storage::DiskFormat;

    use super::*;

    #[test]
    fn what_the_process_reads_is_what_was_hashed_whatever_becomes_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        let content = vec![7; CHUNK + 3];
        fs::write(&path, &content).unwrap();
        let (copy, digest) = sealed_copy(&path).unwrap();
        fs::write(&path, b"another kernel").unwrap();
        assert_eq!(digest, digest_of(&content));
        let through = fs::read(format!("/proc/self/fd/{}", copy.as_raw_fd())).unwrap();
        assert!(through == content);
        assert_eq!(rustix::io::pwrite(&copy, &[0], 0), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn an_image_that_is_written_to_or_replaced_is_not_what_was_measured() {
        let (folder, instance) = (tempfile::tempdir().unwrap(), InstanceId::from_bits(1));
        let path = folder.path().join("image");
        fs::write(&path, [1; 4096]).unwrap();
        let measured = |path: &Path| {
            let mut given = Given::default();
            let mut base = Base { path: path.into(), format: DiskFormat::Raw };
            given.look_through(0, &mut base).unwrap();
            assert_eq!(base.path, Path::new("/dev/fdset/1"));
            given.measured
        };
        let first = measured(&path);
        first.check(instance).unwrap();
        fs::hard_link(&path, folder.path().join("another-name")).unwrap();
        first.check(instance).unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(100)).unwrap();
        file.write_all(&[2]).unwrap();
        assert!(matches!(first.check(instance), Err(Error::Changed { .. })), "one byte was changed");
        let second = measured(&path);
        fs::copy(&path, folder.path().join("same")).unwrap();
        fs::rename(folder.path().join("same"), &path).unwrap();
        assert!(matches!(second.check(instance), Err(Error::Changed { .. })), "it is another file");
        assert_ne!(first.measurements, second.measurements);
    }
}
