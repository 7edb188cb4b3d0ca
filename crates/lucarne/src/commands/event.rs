//! `lucarne event`: what happened to the account's things without anybody asking for it.

use clap::{Args, Subcommand};
use lucarne_api::client::Client;
use lucarne_model::{AccountId, EventKind};

use super::{
    Context,
    flow::{Since, parse_word},
};
use crate::{
    failure::Failure,
    kind::{ACCOUNT, EVENT_COLUMNS},
    listing::{follow, resolve_option},
    session::{answer, now},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum EventCommand {
    /// List events, newest first
    List(ListArgs),
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ListArgs {
    /// Such as host-lost, host-back or attestation-failed
    #[arg(long, value_parser = parse_word::<EventKind>)]
    kind: Option<EventKind>,
    /// Since then: so long ago (10m, 2h) or a time such as 2026-01-31T12:00:00Z
    #[arg(long)]
    since: Option<Since>,
    /// The id of what it happened to
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// Whom they concern, by id or name (for operators); all accounts if not given
    #[arg(long)]
    account: Option<String>,
    /// At most this many; all if not given
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

impl EventCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let Self::List(ListArgs { kind, since, resource, account, limit }) = self;
        let session = &context.session;
        let account: Option<AccountId> = resolve_option(session, &ACCOUNT, account.as_ref()).await?;
        let since = since.map(|since| since.moment(now()));
        let page = async |limit, token: Option<String>| {
            let call = async |client: Client| {
                let (account, kind, resource) = (account.as_ref(), kind.as_ref(), resource.as_deref());
                let (limit, token) = (Some(limit), token.as_deref());
                answer(client.list_events(account, kind, limit, token, resource, since.as_ref())).await
            };
            session.read(call).await
        };
        context.format.print_list(&follow(*limit, page).await?, EVENT_COLUMNS)
    }
}
