//! What can be set about a host agent, with defaults that work.
//!
//! Owns the types alone. What is not given about the machine is found by [`crate::capacity`].

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use lucarne_model::{Bytes, OversubscriptionFactor, flow::Location};
use lucarne_statement::signing::PublicKey;

/// The settings of one host agent's process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything that the agent keeps: its identity, blobs, volumes, sockets. One agent at a time.
    pub state_dir: PathBuf,
    /// The controller's URL, such as `http://10.0.0.1:7070`.
    pub controller: String,
    /// The operator's token, needed once: at the first start on this state folder.
    pub join_token: Option<String>,
    /// How operators call the host.
    pub name: String,
    /// Where it stands, as flow records tell it.
    pub location: Location,
    /// The tunnel is bound to it, and other hosts are told it.
    pub address: IpAddr,
    /// 0: a free one is chosen, and taken again at later starts.
    pub tunnel_port: u16,
    /// Where other hosts bring instances, at the same address; 0: a free one is chosen at each start.
    pub peer_port: u16,
    pub driver: DriverKind,
    /// What it proves with what it runs. Where virtual machines are simulated it proves nothing.
    pub tpm: TpmChoice,
    /// Virtual processors that may be promised; eight for each of the machine's if not given.
    pub vcpus: Option<u32>,
    /// Memory for guests and their keeping; the machine's but 1 GiB if not given.
    pub memory: Option<Bytes>,
    /// Of that, what is kept unallocated.
    pub memory_pool: Bytes,
    /// The most of it that is lent to other hosts while nobody here uses it; none: nothing, and no port is open for it.
    pub memory_lend: Option<Bytes>,
    /// What the memory and each volume of an instance that moves from here may take a second; none: no limit.
    pub move_rate: Option<Bytes>,
    /// How much more than the rest may be promised, where pages can leave.
    pub oversubscription: OversubscriptionFactor,
    /// The program that is a pager when it is told so: `lucarne` itself. None: nothing is paged.
    pub pager: Option<PathBuf>,
    /// Disk space that may be promised; that of the state folder's file system if not given.
    pub disk: Option<Bytes>,
    /// How much flow records may take on disk while the collector is away. What does not fit is lost, and told.
    pub spool: Bytes,
    /// The key by which alone this host takes policies of sealed operations; none: it refuses all of them.
    pub seal_policy_key: Option<PublicKey>,
    /// How much results of sealed operations may take on disk until they are collected.
    pub seal_space: Bytes,
    /// Where the key is that opens requests which are sealed to this host, and which of those that follow each other.
    pub seal_recipient: SealRecipient,
    pub seal_epoch: u32,
    pub at_end: AtEnd,
    pub pace: Pace,
}

impl Settings {
    /// QEMU, everything found from the machine, and VMs that outlive the agent.
    pub fn new(state_dir: PathBuf, controller: String, name: String, address: IpAddr) -> Self {
        Self {
            state_dir,
            controller,
            join_token: None,
            name,
            location: Location::default(),
            address,
            tunnel_port: 0,
            peer_port: 0,
            driver: DriverKind::Qemu,
            tpm: TpmChoice::Find,
            vcpus: None,
            memory: None,
            memory_pool: Bytes::ZERO,
            memory_lend: None,
            move_rate: None,
            pager: None,
            oversubscription: OversubscriptionFactor::NONE,
            disk: None,
            spool: Bytes::mib(256),
            seal_policy_key: None,
            seal_space: Bytes::gib(64),
            seal_recipient: SealRecipient::Find,
            seal_epoch: 0,
            at_end: AtEnd::LeaveMachines,
            pace: Pace::default(),
        }
    }
}

impl Settings {
    /// What of the settings says how guests are run, as text that is measured: a line for each, without what is secret or
    /// only tells where this host is found.
    pub(crate) fn measured(&self) -> String {
        let Self { driver, oversubscription, memory_pool, memory_lend, at_end, pager, seal_policy_key, .. } = self;
        let paged = pager.is_some();
        let seals = seal_policy_key.as_ref().map_or_else(|| "none".to_owned(), |key| key.id().to_string());
        format!(
            "driver: {driver:?}\npaged: {paged}\noversubscription: {oversubscription:?}\nmemory pool: {memory_pool:?}\n\
             memory lent: {memory_lend:?}\nat end: {at_end:?}\nseal policy key: {seals}\n"
        )
    }
}

/// Which driver runs the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    Qemu,
    /// No processes and no switch.
    Simulated {
        /// Flow records that are made up each second, for whatever is behind the switch to work on.
        records_per_second: u32,
    },
}

/// The TPM that a host proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TpmChoice {
    /// The machine's own where it has one; else a software TPM where the programs are installed; else none.
    Find,
    Device(PathBuf),
    Software,
    None,
}

impl FromStr for TpmChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Find),
            "software" => Ok(Self::Software),
            "none" => Ok(Self::None),
            path if path.starts_with('/') => Ok(Self::Device(path.into())),
            _ => Err("it is `auto`, `software`, `none`, or the path of a device such as /dev/tpmrm0".to_owned()),
        }
    }
}

/// Where the key is that opens sealed requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealRecipient {
    /// In the machine's own TPM where it has one; else in a file.
    Find,
    /// In the TPM that the host proves itself with, which may be a program.
    Tpm,
    File,
}

impl FromStr for SealRecipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Find),
            "tpm" => Ok(Self::Tpm),
            "file" => Ok(Self::File),
            _ => Err("it is `auto`, `tpm` or `file`".to_owned()),
        }
    }
}

/// What becomes of the VMs when the agent is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// They run on, without a network until an agent adopts them.
    LeaveMachines,
    /// They are shut down; the next start of the agent starts them again.
    StopMachines,
}

/// How fast and how patiently the agent works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// VMs that may be starting at the same time.
    pub starts: usize,
    /// Blobs, copies and uploads that may be moving at the same time.
    pub transfers: usize,
    /// Console and log streams that may be open at the same time.
    pub streams: usize,
    /// How long a guest may take to shut down before it is killed.
    pub stop_patience: Duration,
    /// The same when the agent ends and takes its VMs with it.
    pub end_patience: Duration,
    /// Changes that come within this time are told in one report.
    pub coalesce: Duration,
    /// How long a blob that nothing names is kept.
    pub blob_keep: Duration,
    /// How much of such blobs is kept; the ones unused for longest go first.
    pub blob_spare: Bytes,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            starts: 2 * std::thread::available_parallelism().map_or(1, usize::from),
            transfers: 4,
            streams: 32,
            stop_patience: Duration::from_secs(20),
            end_patience: Duration::from_secs(3),
            coalesce: Duration::from_millis(50),
            blob_keep: Duration::from_secs(3600),
            blob_spare: Bytes::gib(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tpm_is_chosen_by_name_or_by_its_path() {
        let chosen = ["auto", "software", "none", "/dev/tpmrm0"].map(|text| text.parse::<TpmChoice>().unwrap());
        let device = TpmChoice::Device("/dev/tpmrm0".into());
        assert_eq!(chosen, [TpmChoice::Find, TpmChoice::Software, TpmChoice::None, device]);
        assert!("chip".parse::<TpmChoice>().is_err());
    }

    /// A setting that only says where the host is found would make each host a configuration of its own.
    #[test]
    fn what_is_measured_of_the_settings_is_how_guests_are_run() {
        let of = |name: &str| Settings::new(name.into(), "http://k".into(), name.into(), [127, 0, 0, 1].into());
        let (one, mut other) = (of("one"), of("other"));
        other.join_token = Some("secret".to_owned());
        assert_eq!(one.measured(), other.measured());
        other.memory_lend = Some(Bytes::gib(1));
        assert_ne!(one.measured(), other.measured());
    }
}
