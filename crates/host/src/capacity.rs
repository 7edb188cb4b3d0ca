//! What this machine can promise to instances.
//!
//! Owns the reading of the machine; what the operator set goes before what is found.

use std::{fs, io, path::Path};

use lucarne_model::{Bytes, Vcpus, actual::Capacity};

use crate::{error::Error, memory::Budget, settings::Settings};

/// Virtual processors promised for each of the machine's: most VMs idle most of the time.
const OVERCOMMIT: u32 = 8;
/// Left to the machine itself.
const RESERVED_MEMORY: Bytes = Bytes::gib(1);

/// The capacity by the settings, and by the machine where they say nothing.
pub(crate) fn capacity(settings: &Settings, budget: &Budget) -> Result<Capacity, Error> {
    let found = || -> io::Result<Capacity> {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Ok(Capacity {
            vcpus: Vcpus(settings.vcpus.unwrap_or(processors.saturating_mul(OVERCOMMIT))),
            memory: budget.oversubscription().room(budget.memory, Bytes::ZERO),
            disk: settings.disk.map_or_else(|| disk_size(&settings.state_dir), Ok)?,
        })
    };
    found().map_err(|cause| Error::Capacity { cause })
}

/// Memory for guests and their keeping.
pub(crate) fn memory(settings: &Settings) -> Result<Bytes, Error> {
    settings.memory.map_or_else(machine_memory, Ok).map_err(|cause| Error::Capacity { cause })
}

fn machine_memory() -> io::Result<Bytes> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let total = total_memory(&text);
    total.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal"))
}

/// `MemTotal` of proc_meminfo(5) less what the machine keeps; its unit is KiB.
fn total_memory(text: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kib.saturating_mul(1024)).saturating_sub(RESERVED_MEMORY))
}

/// All that the file system can hold for us. What is free now would count volumes twice: the controller subtracts them.
fn disk_size(folder: &Path) -> io::Result<Bytes> {
    let stat = rustix::fs::statvfs(folder)?;
    let for_root_alone = stat.f_bfree.saturating_sub(stat.f_bavail);
    Ok(Bytes(stat.f_blocks.saturating_sub(for_root_alone).saturating_mul(stat.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_machines_less_one_gibibyte() {
        assert_eq!(total_memory("MemTotal:        4194304 kB\nMemFree: 1 kB\n"), Some(Bytes::gib(3)));
        assert_eq!(total_memory("MemTotal:        4096 kB\n"), Some(Bytes::ZERO));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_has_something_to_promise() {
        assert!(machine_memory().is_ok());
        assert!(disk_size(Path::new("/")).unwrap() > Bytes::ZERO);
    }
}
