//! `lucarne finding`: what flow records show that somebody should look at.

use clap::{Args, Subcommand};
use lucarne_api::client::Client;
use lucarne_model::{AccountId, FindingId, InstanceId, Moment, finding::FindingKind};
use serde_json::Value;

use super::{
    Context,
    flow::{Since, parse_word},
};
use crate::{
    failure::Failure,
    kind::{ACCOUNT, EXAMPLE_COLUMNS, FINDING_COLUMNS, INSTANCE},
    listing::{follow, resolve_option},
    output::{self, Format},
    session::{Session, answer, now},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum FindingCommand {
    /// List findings, newest first
    List(ListArgs),
    /// Show one: what it means, how it was decided, some of the flows that counted, and what to do
    Show {
        /// Its id
        id: FindingId,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ListArgs {
    /// Such as sweep, refused-by-many, no-answers, sudden-change or scanner-across-accounts
    #[arg(long, value_parser = parse_word::<FindingKind>)]
    kind: Option<FindingKind>,
    /// Seen since then: so long ago (10m, 2h) or a time such as 2026-01-31T12:00:00Z
    #[arg(long)]
    since: Option<Since>,
    /// The instance that stands out, by its id or name
    #[arg(long)]
    instance: Option<String>,
    /// Whom they concern, by id or name (for operators); all accounts if not given
    #[arg(long)]
    account: Option<String>,
    /// At most this many; all if not given
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

/// Which findings, with all names resolved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) account: Option<AccountId>,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) kind: Option<FindingKind>,
    pub(crate) since: Option<Moment>,
}

impl Findings {
    /// All that match, or the newest `limit` of them.
    pub(crate) async fn list(&self, session: &Session, limit: Option<u32>) -> Result<Vec<Value>, Failure> {
        let Self { account, instance, kind, since } = self;
        let page = async |limit, token: Option<String>| {
            let call = async |client: Client| {
                let (account, instance, kind) = (account.as_ref(), instance.as_ref(), kind.as_ref());
                let (limit, token) = (Some(limit), token.as_deref());
                answer(client.list_findings(account, instance, kind, limit, token, since.as_ref())).await
            };
            session.read(call).await
        };
        follow(limit, page).await
    }
}

impl FindingCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context).await,
            Self::Show { id } => {
                let call = async |client: Client| answer(client.get_finding(id)).await;
                show(context.format, context.session.read(call).await?)
            }
        }
    }
}

impl ListArgs {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let which = Findings {
            account: resolve_option(session, &ACCOUNT, self.account.as_ref()).await?,
            instance: resolve_option(session, &INSTANCE, self.instance.as_ref()).await?,
            kind: self.kind,
            since: self.since.map(|since| since.moment(now())),
        };
        context.format.print_list(&which.list(session, self.limit).await?, FINDING_COLUMNS)
    }
}

/// Its fields, and below them the flows.
fn show(format: Format, mut finding: Value) -> Result<(), Failure> {
    if format != Format::Table {
        return format.print_value(&finding);
    }
    let examples = finding["examples"].take();
    if let Some(fields) = finding.as_object_mut() {
        fields.remove("examples");
    }
    format.print_value(&finding)?;
    output::print("\n")?;
    output::print(&output::table(examples.as_array().map_or(&[][..], Vec::as_slice), EXAMPLE_COLUMNS))
}
