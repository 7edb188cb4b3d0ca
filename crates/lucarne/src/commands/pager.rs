//! `lucarne pager`, the process that moves one VM's memory, and `lucarne lender`, which keeps copies for other hosts.
//!
//! Owns their command lines. Host agents start them: a pager for each VM, which outlives them, and one lender, which does
//! not. What they do is in the crate `pager`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;
use lucarne_model::{Bytes, InstanceId, storage::Digest};
use lucarne_pager::{Exit, Options, Origin};

use super::process::start_log;
use crate::failure::{Failure, LocalCode};

/// How long a machine that was just started may take to map its memory, on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args, Clone, Debug)]
pub(crate) struct PagerArgs {
    /// Whose memory it is
    #[arg(long)]
    instance: InstanceId,
    /// The socket at which the VM's process lends its memory
    #[arg(long, value_name = "SOCKET")]
    machine: PathBuf,
    /// Where the host agent is answered
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// Where pages are kept that are not in the host's memory; for this VM alone
    #[arg(long)]
    state_dir: PathBuf,
    /// How much of the host's memory compressed pages may take
    #[arg(long, default_value = "0MiB")]
    pool: Bytes,
    /// The snapshot that the guest goes on from
    #[arg(long, value_name = "FILE", requires = "snapshot_digest")]
    snapshot: Option<PathBuf>,
    /// What the snapshot was measured as
    #[arg(long, value_name = "SHA256", requires = "snapshot")]
    snapshot_digest: Option<Digest>,
    /// The pager of the guest that this one goes on from
    #[arg(long, value_name = "SOCKET", requires = "capture", conflicts_with = "snapshot")]
    parent: Option<PathBuf>,
    /// What that pager calls what it holds for this
    #[arg(long, value_name = "NAME", requires = "parent")]
    capture: Option<String>,
    /// Fetch all of that guest's memory, and not only what is asked for
    #[arg(long, requires = "parent")]
    whole: bool,
}

impl PagerArgs {
    fn origin(&self) -> Option<Origin> {
        let snapshot = self.snapshot.clone().zip(self.snapshot_digest.clone());
        let parent = self.parent.clone().zip(self.capture.clone());
        let parent = parent.map(|(control, capture)| Origin::Parent { control, capture, whole: self.whole });
        snapshot.map(|(file, digest)| Origin::Snapshot { file, digest }).or(parent)
    }

    pub(crate) async fn run(&self) -> Result<(), Failure> {
        start_log();
        let options = Options {
            instance: self.instance,
            machine: self.machine.clone(),
            control: self.control.clone(),
            state: self.state_dir.clone(),
            pool: self.pool,
            origin: self.origin(),
            patience: PATIENCE,
        };
        let failed = |message: String| Failure::local(LocalCode::ProcessFailed, message);
        let served = tokio::task::spawn_blocking(move || lucarne_pager::run(&options)).await;
        match served.map_err(|error| failed(format!("the pager failed within itself: {error}")))? {
            Ok(Exit::Terminated | Exit::MachineGone) => Ok(()),
            Ok(Exit::Lost { reason }) => Err(failed(reason)),
            Err(error) => Err(Failure::caused(LocalCode::ProcessFailed, &error)),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LenderArgs {
    /// Where other hosts bring pages; a free port is chosen, and told
    #[arg(long)]
    address: IpAddr,
    /// The host's private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl LenderArgs {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        start_log();
        let (address, key) = (self.address, self.key.clone());
        let lent = tokio::task::spawn_blocking(move || lucarne_pager::lender::lend(address, key)).await;
        let failed =
            |error| Failure::local(LocalCode::ProcessFailed, format!("the lender failed within itself: {error}"));
        lent.map_err(failed)?.map_err(|error| Failure::caused(LocalCode::ProcessFailed, &error))
    }
}
