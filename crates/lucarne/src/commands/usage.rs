//! `lucarne usage`: what memory was held, and what it costs.

use clap::{Args, Subcommand};
use lucarne_api::{bodies::usage::ShownUsage, client::Client};
use serde_json::Value;

use super::{Context, flow::Since};
use crate::{
    failure::Failure,
    kind::{ACCOUNT, INSTANCE_USAGE_COLUMNS, OTHER_MODE_COLUMNS, USAGE_COLUMNS},
    listing::resolve_option,
    output::{self, Format},
    session::{answer, json_of, now},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum UsageCommand {
    /// Show what was used, its price, and what another mode would have cost
    Show(ShowArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowArgs {
    /// Whose, by id or name (for operators); the caller's account if not given
    #[arg(long)]
    account: Option<String>,
    /// From when: so long ago (10m, 2h) or a time such as 2026-01-31T12:00:00Z; all of it if not given
    #[arg(long)]
    since: Option<Since>,
}

impl UsageCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let Self::Show(ShowArgs { account, since }) = self;
        let account = resolve_option(&context.session, &ACCOUNT, account.as_ref()).await?;
        let since = since.map(|since| since.moment(now()));
        let call = async |client: Client| answer(client.get_usage(account.as_ref(), since.as_ref())).await;
        let usage: ShownUsage = context.session.read(call).await?;
        let value = json_of(&usage)?;
        if context.format != Format::Table {
            return context.format.print_value(&value);
        }
        let rows = |field: &str| -> Vec<Value> { value[field].as_array().cloned().unwrap_or_default() };
        context.format.print_list(&rows("lines"), USAGE_COLUMNS)?;
        output::print(&format!(
            "\nin all {}.{:06} {}\n\n",
            usage.total_micros / 1_000_000,
            usage.total_micros % 1_000_000,
            usage.currency
        ))?;
        context.format.print_list(&rows("otherwise"), OTHER_MODE_COLUMNS)?;
        output::print("\n")?;
        context.format.print_list(&rows("instances"), INSTANCE_USAGE_COLUMNS)
    }
}
