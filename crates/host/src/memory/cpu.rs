//! Processor time by cgroups: soakers get what others leave.
//!
//! Owns the groups of this agent's VMs, in version 1 or 2 of cgroups, whichever the machine has. How much whom is the
//! governor's decision.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use lucarne_memory::governor::cpu::CpuShare;
use lucarne_model::{InstanceId, memory_report::Ability};

const MOUNT: &str = "/sys/fs/cgroup";
/// Where version 1 may be mounted.
const CONTROLLERS_V1: [&str; 2] = ["cpu", "cpu,cpuacct"];
const OURS: &str = "lucarne";
/// Microseconds in which a quota is to be used.
const PERIOD: u64 = 100_000;
/// A fifth of a processor, where the governor says less: with that a guest still boots and answers on a machine that others
/// keep busy, and it is little beside them by its weight.
const LEAST_QUOTA: u64 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The groups, or why there are none.
#[derive(Debug)]
pub(crate) struct CpuGroups {
    place: Result<(Version, PathBuf), String>,
    /// What each VM has, so that nothing is written twice.
    given: BTreeMap<InstanceId, (u32, CpuShare)>,
}

impl CpuGroups {
    /// Tries what this machine lets us do.
    pub(crate) fn find() -> Self {
        let found = find_in(Path::new(MOUNT));
        let place = found.map_err(|error| format!("no cgroup can be made for virtual machines: {error}"));
        if let Ok((_, place)) = &place {
            sweep(place);
        }
        Self { place, given: BTreeMap::new() }
    }

    pub(crate) fn ability(&self) -> Ability {
        match &self.place {
            Ok(_) => Ability::Available,
            Err(reason) => Ability::Unavailable { reason: reason.clone() },
        }
    }

    /// Gives a VM's process its share.
    pub(crate) fn give(&mut self, instance: InstanceId, process: u32, share: CpuShare) -> io::Result<()> {
        let Ok((version, place)) = &self.place else { return Ok(()) };
        if self.given.get(&instance) == Some(&(process, share)) {
            return Ok(());
        }
        let group = place.join(instance.to_string());
        make(&group)?;
        for (file, content) in writes(*version, share) {
            fs::write(group.join(file), content)?;
        }
        fs::write(group.join("cgroup.procs"), process.to_string())?;
        self.given.insert(instance, (process, share));
        Ok(())
    }

    /// Removes the groups of VMs that are not among `here`. One whose process is ending is tried again at the next call.
    pub(crate) fn keep_only(&mut self, here: impl Fn(InstanceId) -> bool) {
        let Ok((_, place)) = &self.place else { return };
        self.given.retain(|instance, _| {
            here(*instance)
                || fs::remove_dir(place.join(instance.to_string())).is_err_and(|e| e.kind() != io::ErrorKind::NotFound)
        });
    }
}

fn find_in(mount: &Path) -> io::Result<(Version, PathBuf)> {
    if let Ok(controllers) = fs::read_to_string(mount.join("cgroup.controllers")) {
        if !controllers.split_whitespace().any(|controller| controller == "cpu") {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the controller `cpu` is not among those of this machine",
            ));
        }
        let ours = mount.join(OURS);
        fs::write(mount.join("cgroup.subtree_control"), "+cpu")?;
        make(&ours)?;
        fs::write(ours.join("cgroup.subtree_control"), "+cpu")?;
        return Ok((Version::Two, ours));
    }
    let roots = CONTROLLERS_V1.iter().map(|controller| mount.join(controller));
    let root = roots.into_iter().find(|root| root.join("cpu.shares").exists());
    let root = root.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the controller `cpu` is not mounted"))?;
    make(&root.join(OURS))?;
    Ok((Version::One, root.join(OURS)))
}

/// Removes the groups that agents which were killed left behind. The kernel keeps those that have processes; another agent
/// of this machine that has just made one for a VM makes it again in its next interval.
fn sweep(place: &Path) {
    let names = fs::read_dir(place).into_iter().flatten().flatten();
    let groups = names.filter(|entry| entry.file_name().to_str().is_some_and(|it| it.parse::<InstanceId>().is_ok()));
    groups.for_each(|group| {
        let _ = fs::remove_dir(group.path());
    });
}

fn make(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// What is written to which of a group's files.
fn writes(version: Version, share: CpuShare) -> Vec<(&'static str, String)> {
    let quota = share.quota.map(|thousandths| (thousandths * PERIOD / 1000).max(LEAST_QUOTA));
    match version {
        Version::One => vec![
            ("cpu.shares", share.shares_v1().to_string()),
            ("cpu.cfs_period_us", PERIOD.to_string()),
            ("cpu.cfs_quota_us", quota.map_or("-1".into(), |quota| quota.to_string())),
        ],
        Version::Two => vec![
            ("cpu.weight", share.weight.to_string()),
            ("cpu.max", format!("{} {PERIOD}", quota.map_or("max".into(), |quota| quota.to_string()))),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_told_the_same() {
        let soaker = CpuShare { weight: 1, quota: Some(1500) };
        let one = writes(Version::One, soaker);
        assert_eq!(one.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["10", "100000", "150000"]);
        assert_eq!(writes(Version::Two, soaker)[1], ("cpu.max", "150000 100000".into()));
        let generic = CpuShare { weight: 200, quota: None };
        assert_eq!(writes(Version::One, generic)[2].1, "-1");
        assert_eq!(writes(Version::Two, generic)[1].1, "max 100000");
        let least = CpuShare { weight: 1, quota: Some(0) };
        assert_eq!(writes(Version::One, least)[2].1, "20000");
    }

    #[test]
    fn a_machine_without_cgroups_says_so_and_vms_run_as_they_did() {
        let folder = tempfile::tempdir().unwrap();
        assert!(find_in(folder.path()).is_err());
        let mut groups = CpuGroups { place: Err("none".into()), given: BTreeMap::new() };
        groups.give(InstanceId::from_bits(1), 1, CpuShare { weight: 1, quota: None }).unwrap();
        assert_eq!(groups.ability(), Ability::Unavailable { reason: "none".into() });
    }

    #[test]
    fn groups_without_a_process_are_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [empty, used] = [1, 2].map(|id| folder.path().join(InstanceId::from_bits(id).to_string()));
        let other = folder.path().join("other");
        [&empty, &used, &other].into_iter().for_each(|path| fs::create_dir(path).unwrap());
        // As a process keeps a group from being removed, a file keeps a folder.
        fs::write(used.join("cgroup.procs"), "1").unwrap();
        sweep(folder.path());
        assert_eq!([empty, used, other].map(|path| path.exists()), [false, true, true]);
    }

    #[test]
    fn a_group_of_version_2_is_made_below_our_own() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "memory cpu io\n").unwrap();
        let (version, place) = find_in(folder.path()).unwrap();
        assert_eq!((version, place.file_name().unwrap().to_str()), (Version::Two, Some(OURS)));
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&folder.path().join("cgroup.subtree_control")), "+cpu");
        assert_eq!(read(&place.join("cgroup.subtree_control")), "+cpu");
        let instance = InstanceId::from_bits(7);
        let mut groups = CpuGroups { place: Ok((version, place.clone())), given: BTreeMap::new() };
        let mut told = |share: CpuShare| {
            groups.give(instance, 4711, share).unwrap();
            ["cpu.weight", "cpu.max", "cgroup.procs"].map(|file| read(&place.join(instance.to_string()).join(file)))
        };
        assert_eq!(told(CpuShare { weight: 1, quota: Some(500) }), ["1", "50000 100000", "4711"]);
        assert_eq!(
            told(CpuShare { weight: 200, quota: None }),
            ["200", "max 100000", "4711"],
            "it is no soaker any more"
        );
        fs::write(folder.path().join("cgroup.controllers"), "memory\n").unwrap();
        assert!(find_in(folder.path()).is_err());
    }
}
