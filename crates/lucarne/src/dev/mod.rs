//! `lucarne dev`: all of the cloud on one machine, as child processes that are kept alive until it ends.
//!
//! Owns the run as a whole: take the state folder, start, furnish, say how to begin, wait for a signal, end. A second
//! signal ends everything at once.

mod backoff;
pub(crate) mod furnish;
mod house;
pub(crate) mod ready;
mod state_dir;
pub(crate) mod supervisor;

use std::{io, net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};
use lucarne_control::OperatorFile;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::{
    house::{HostSize, House},
    ready::{Access, ReadyFile},
    state_dir::StateDir,
};
use crate::{
    commands::process::Driver,
    failure::{Failure, LocalCode},
    output,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct DevArgs {
    /// So many hosts, each a process with an address of its own
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=200))]
    hosts: u8,
    /// Where everything is kept; ~/.local/state/lucarne if not given, or /var/lib/lucarne for root
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the API answers; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Written with the endpoint and the keys when the API answers; DIR/ready.json if not given
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    size: HostSize,
    /// What runs the instances
    #[arg(long, value_enum, default_value = "qemu")]
    driver: Driver,
}

impl DevArgs {
    pub(crate) async fn run(&self, allow_plaintext: bool) -> Result<(), Failure> {
        let state = StateDir::take(&self.state_dir.clone().unwrap_or_else(StateDir::default_path))?;
        let ready_file = self.ready_file.clone().unwrap_or_else(|| state.path().join("ready.json"));
        let (end, kill) = watch_signals()?;
        let mut house = House::new(&state, kill)?;
        let result = tokio::select! {
            result = self.set_up(&mut house, &state, &ready_file, allow_plaintext) => result,
            () = end.cancelled() => Ok(()),
        };
        if result.is_ok() {
            end.cancelled().await;
        }
        // Whoever finds the file must find a cloud that answers.
        let _ = std::fs::remove_file(&ready_file);
        eprintln!("lucarne dev: ending");
        house.end().await;
        result
    }

    async fn set_up(
        &self,
        house: &mut House<'_>,
        state: &StateDir,
        ready_file: &std::path::Path,
        allow_plaintext: bool,
    ) -> Result<(), Failure> {
        house.start_collector().await?;
        let OperatorFile { endpoint, account, access_key_id, secret_access_key, join_token, .. } =
            house.start_controller(self.listen, allow_plaintext).await?;
        let driver = self.driver.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        house.start_hosts(self.hosts, (&endpoint, &join_token), &driver, self.size)?;
        let operator = Access { account, access_key_id, secret_access_key };
        let session = furnish::session(&endpoint, &operator, allow_plaintext)?;
        furnish::image_is_there(&session).await?;
        let tenant = furnish::tenant(&session, &state.path().join("tenant.json"), allow_plaintext).await?;
        furnish::hosts_are_up(&session, usize::from(self.hosts)).await?;
        furnish::tpms_are_proved(&session, &house.tpm_roots(self.hosts)).await?;
        // Until there is a console, browsers are shown the API's own document.
        let ready = ReadyFile { console: format!("{endpoint}/v1/openapi.json"), endpoint, operator, tenant };
        ready.write(ready_file)?;
        output::print(&greeting(&ready, state, ready_file))
    }
}

fn greeting(ready: &ReadyFile, state: &StateDir, ready_file: &std::path::Path) -> String {
    let (endpoint, tenant) = (&ready.endpoint, &ready.tenant);
    format!(
        "Lucarne answers at {endpoint} (API: {})\n\
         State: {}   Logs: {}   Keys: {}\n\n\
         Begin as the first tenant, account {}:\n\
         \x20 export LUCARNE_ENDPOINT={endpoint}\n\
         \x20 export LUCARNE_ACCESS_KEY_ID={}\n\
         \x20 export LUCARNE_SECRET_ACCESS_KEY={}\n\
         \x20 lucarne vpc create --cidr 10.0.0.0/16 --name first\n\n\
         Or as the operator:\n\
         \x20 lucarne login --profile operator --as operator --ready-file {}\n\
         \x20 lucarne --profile operator host list\n\n\
         Ctrl-C ends it, machines included.\n",
        ready.console,
        state.path().display(),
        state.logs().display(),
        ready_file.display(),
        tenant.account,
        tenant.access_key_id,
        tenant.secret_access_key,
        ready_file.display(),
    )
}

/// Two tokens: the first signal cancels the first, the second one the other.
fn watch_signals() -> Result<(CancellationToken, CancellationToken), Failure> {
    let failed = |cause: io::Error| Failure::local(LocalCode::ProcessFailed, format!("signals: {cause}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (end, kill) = (CancellationToken::new(), CancellationToken::new());
    let (first, second) = (end.clone(), kill.clone());
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        first.cancel();
        either(&mut interrupt, &mut terminate).await;
        second.cancel();
    });
    Ok((end, kill))
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
