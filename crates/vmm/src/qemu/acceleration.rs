//! How VMs get their speed on this machine: by KVM where it works, emulated by TCG where not.
//!
//! Owns finding that out. That `/dev/kvm` opens does not say that it works (a VM that lends it to its guests may do so
//! badly), so it is tried once: a boot sector that switches its machine off must come to its end. Where the kernel does it
//! without the processor's help (PVM), that trial comes to its end too, and yet no guest runs that is not built for it.

use std::{
    fmt, fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use super::{Settings, User};
use crate::{error::Error, files, tool::Tool};

const KVM: &str = "/dev/kvm";
/// Is there while the kernel's KVM is the one that only guests built for it can run on.
const PVM: &str = "/sys/module/kvm_pvm";
/// Some ten times what the trial needs.
const PATIENCE: Duration = Duration::from_secs(5);

/// What runs the guests' processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// The kernel. `group` is the group of `/dev/kvm`, if VMs must run in it to open that.
    Kvm { group: Option<u32> },
    /// QEMU itself.
    Tcg,
}

impl Acceleration {
    pub(super) fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // The second is taken where the first fails at the start.
            Self::Kvm { .. } => &[("-accel", "kvm"), ("-accel", "tcg,thread=multi")],
            Self::Tcg => &[("-accel", "tcg,thread=multi")],
        }
    }

    /// The user with the group that this needs.
    pub(super) fn user(self, user: Option<User>) -> Option<User> {
        let group = if let Self::Kvm { group } = self { group } else { None };
        user.map(|User { uid, gid }| User { uid, gid: group.unwrap_or(gid) })
    }
}

impl fmt::Display for Acceleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kvm { .. } => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// Finds out what works here for VMs of these settings.
pub(super) async fn find(settings: &Settings) -> Acceleration {
    let Some(kvm) = openable(settings.user) else { return Acceleration::Tcg };
    if Path::new(PVM).exists() {
        tracing::warn!("KVM is there as PVM, which runs only guests that are built for it; processors are emulated");
        return Acceleration::Tcg;
    }
    match try_it(settings, kvm).await {
        Ok(()) => kvm,
        Err(error) => {
            tracing::warn!(%error, "KVM is there but does not work; processors are emulated");
            Acceleration::Tcg
        }
    }
}

/// KVM, if its device could be opened by the VMs' user.
fn openable(user: Option<User>) -> Option<Acceleration> {
    let Some(User { uid, .. }) = user else {
        let opened = fs::OpenOptions::new().read(true).write(true).open(KVM);
        return opened.ok().map(|_| Acceleration::Kvm { group: None });
    };
    let about = fs::metadata(KVM).ok()?;
    let mode = about.permissions().mode();
    let allows = |shift: u32| (mode >> shift) & 0o6 == 0o6;
    if allows(0) || (about.uid() == uid && allows(6)) {
        return Some(Acceleration::Kvm { group: None });
    }
    allows(3).then_some(Acceleration::Kvm { group: Some(about.gid()) })
}

async fn try_it(settings: &Settings, acceleration: Acceleration) -> Result<(), Error> {
    let path = settings.state_dir.join("kvm-trial.raw");
    fs::write(&path, switch_off()).map_err(|error| Error::file("write", &path, error))?;
    let user = acceleration.user(settings.user);
    files::own(&path, user)?;
    let program = settings.qemu.clone();
    let tool = Tool { program, package: "qemu-system-x86", user, patience: PATIENCE, limits: &[] };
    let tried = tool.run(Path::new(KVM), &trial(&path, acceleration)).await;
    files::remove(&path)?;
    tried.map(drop)
}

fn trial(disk: &Path, acceleration: Acceleration) -> Vec<std::ffi::OsString> {
    let disk = format!("if=virtio,format=raw,readonly=on,file={}", disk.display().to_string().replace(',', ",,"));
    let words = ["-nodefaults", "-no-user-config", "-machine", "q35", "-cpu", "max", "-m", "32M"];
    // Without the second choice that a VM has.
    let accel = if acceleration == Acceleration::Tcg { "tcg" } else { "kvm" };
    words.into_iter().chain(["-accel", accel, "-display", "none", "-drive", &disk]).map(Into::into).collect()
}

/// A disk whose boot sector puts its machine into ACPI's state S5: `mov dx, 0x604; mov ax, 0x2000; out dx, ax; jmp $`.
/// The BIOS boots no disk that is smaller than a cylinder or so.
fn switch_off() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[..9].copy_from_slice(&[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xeb, 0xfe]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The trial itself, with processors that work everywhere: a machine that works comes to its end.
    #[tokio::test]
    async fn a_machine_that_works_passes_the_trial() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { user: None, ..Settings::new(directory.path()) };
        try_it(&settings, Acceleration::Tcg).await.unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
