//! `lucarne flow scanners` and `flow closed-port`: who from outside tried many customers, and who had a port closed to whom.

use std::{net::IpAddr, time::Duration};

use clap::Args;
use lucarne_api::client::Client;
use serde_json::Value;

use super::{
    Context,
    flow::{Since, parse_span},
};
use crate::{
    failure::Failure,
    kind::{CLOSED_PORT_COLUMNS, Column, SCANNER_COLUMNS},
    output::{self, Format},
    session::{answer, now},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct ScannersArgs {
    /// How many different customers at least, from 2 on
    #[arg(long, default_value_t = 1000, value_name = "N")]
    min_accounts: u64,
    /// Within how long before now, 1m to 1h
    #[arg(long, default_value = "5m", value_name = "SPAN", value_parser = parse_span)]
    window: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ClosedPortArgs {
    /// Who tried it
    #[arg(long, value_name = "ADDRESS")]
    source: IpAddr,
    /// The destination port
    #[arg(long)]
    port: u16,
    /// Since when: so long ago (10m, 2h) or a time such as 2026-01-31T12:00:00Z
    #[arg(long, default_value = "1h")]
    since: Since,
}

impl ScannersArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let (least, window) = (Some(self.min_accounts), Some(self.window.as_secs()));
        let call = async |client: Client| answer(client.list_scanners(least, window)).await;
        print(context.format, context.session.read(call).await?, SCANNER_COLUMNS)
    }
}

impl ClosedPortArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let since = self.since.moment(now());
        let call = async |client: Client| answer(client.list_closed_ports(self.port, Some(&since), &self.source)).await;
        print(context.format, context.session.read(call).await?, CLOSED_PORT_COLUMNS)
    }
}

/// The items as a table, and below it what the answer says of itself.
fn print(format: Format, mut found: Value, columns: &[Column]) -> Result<(), Failure> {
    if format != Format::Table {
        return format.print_value(&found);
    }
    let items = found["items"].take();
    if let Some(fields) = found.as_object_mut() {
        fields.remove("items");
    }
    output::print(&output::table(items.as_array().map_or(&[][..], Vec::as_slice), columns))?;
    output::print("\n")?;
    format.print_value(&found)
}
