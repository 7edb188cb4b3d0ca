//! `lucarne flow losses`: flow records that were made and could not be kept.

use clap::Args;
use lucarne_api::client::Client;

use super::{Context, flow::Since};
use crate::{
    failure::Failure,
    kind::{ACCOUNT, LOSS_COLUMNS},
    listing::{follow, resolve_option},
    session::{answer, now},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct LossesArgs {
    /// From when: so long ago (10m, 2h) or a time such as 2026-01-31T12:00:00Z; all that are known if not given
    #[arg(long)]
    since: Option<Since>,
    /// Until when, in the same forms
    #[arg(long)]
    until: Option<Since>,
    /// Whose records, by id or name (for operators); all accounts' if not given
    #[arg(long)]
    account: Option<String>,
    /// At most this many; all if not given
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

impl LossesArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let (session, now) = (&context.session, now());
        let account = resolve_option(session, &ACCOUNT, self.account.as_ref()).await?;
        let [since, until] = [self.since, self.until].map(|time| time.map(|time| time.moment(now)));
        let page = async |limit, token: Option<String>| {
            let call = async |client: Client| {
                let (token, since, until) = (token.as_deref(), since.as_ref(), until.as_ref());
                answer(client.list_losses(account.as_ref(), Some(limit), token, since, until)).await
            };
            session.read(call).await
        };
        context.format.print_list(&follow(self.limit, page).await?, LOSS_COLUMNS)
    }
}
