//! `lucarne flow peers`, `unused-rules`, `asymmetric`, `blackholes` and `questions`: the questions that have a name.
//!
//! Owns which of the API's questions a command asks. What they mean is the controller's.

use clap::Args;
use lucarne_api::{
    bodies::flow_question::{Measure, QuestionQuery},
    client::Client,
};
use lucarne_model::AccountId;
use serde_json::Value;

use super::{
    Context,
    flow::Since,
    flow_answer::{RowFormat, asked, print},
};
use crate::{
    failure::Failure,
    kind::{Column, INSTANCE, VPC},
    listing::resolve_option,
    session::{answer, now},
};

const COLUMNS: &[Column] = &[("NAME", "name"), ("PARAMETERS", "parameters"), ("MEANING", "meaning")];

/// What all named questions take.
#[derive(Args, Clone, Debug)]
pub(crate) struct Stretch {
    /// From when: so long ago (10m, 2h) or a time such as 2026-01-31T12:00:00Z
    #[arg(long, default_value = "1h")]
    since: Since,
    /// Until when, in the same forms; now if not given
    #[arg(long)]
    until: Option<Since>,
    /// Rows that are wanted at most, to 10000
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// How to write the rows, in place of --output
    #[arg(long, value_enum)]
    format: Option<RowFormat>,
}

/// Another account's flows.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Whose {
    /// Another account's flows; for operators
    #[arg(long, value_name = "ID")]
    account: Option<AccountId>,
}

/// What the question is about, by id or name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About<'a> {
    pub(crate) account: Option<AccountId>,
    pub(crate) instance: Option<&'a String>,
    pub(crate) vpc: Option<&'a String>,
    pub(crate) by: Option<Measure>,
}

impl Stretch {
    /// Asks the question of that name and prints its rows.
    pub(crate) async fn ask(&self, context: &Context, question: &str, about: About<'_>) -> Result<(), Failure> {
        let (session, now) = (&context.session, now());
        let query = QuestionQuery {
            since: Some(self.since.moment(now)),
            until: self.until.map(|until| until.moment(now)),
            limit: Some(self.limit),
            account: about.account,
            instance: resolve_option(session, &INSTANCE, about.instance).await?,
            vpc: resolve_option(session, &VPC, about.vpc).await?,
            by: about.by,
            progress: None,
        };
        let ask = async |client: Client, name: &str| {
            let QuestionQuery { account, by, instance, limit, since, until, vpc, .. } = &query;
            let (account, by, instance) = (account.as_ref(), by.as_ref(), instance.as_ref());
            let (since, until, vpc) = (since.as_ref(), until.as_ref(), vpc.as_ref());
            answer(client.ask_flows(question, account, by, instance, *limit, Some(name), since, until, vpc)).await
        };
        print(context, self.format, asked(session, ask).await?)
    }
}

/// With whom an instance, or the whole account, talked.
#[derive(Args, Clone, Debug)]
pub(crate) struct PeersArgs {
    /// The instance's id or name
    #[arg(long, required_unless_present = "account", conflicts_with = "account")]
    instance: Option<String>,
    /// All instances of the account; operators may name another one
    #[arg(long, value_name = "ID", num_args = 0..=1)]
    account: Option<Option<AccountId>>,
    /// The VPC's id or name, with --account
    #[arg(long, conflicts_with = "instance")]
    vpc: Option<String>,
    #[command(flatten)]
    stretch: Stretch,
}

impl PeersArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let (instance, vpc, account) = (self.instance.as_ref(), self.vpc.as_ref(), self.account.flatten());
        let question = if instance.is_some() { "peers" } else { "account-peers" };
        self.stretch.ask(context, question, About { account, instance, vpc, by: None }).await
    }
}

/// A question about a VPC, or all of them.
#[derive(Args, Clone, Debug)]
pub(crate) struct NetworkArgs {
    /// The VPC's id or name
    #[arg(long)]
    vpc: Option<String>,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    stretch: Stretch,
}

impl NetworkArgs {
    pub(super) async fn run(&self, context: &Context, question: &str) -> Result<(), Failure> {
        let about = About { vpc: self.vpc.as_ref(), account: self.whose.account, ..About::default() };
        self.stretch.ask(context, question, about).await
    }
}

/// A question about an instance or a VPC, or all of them.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlaceArgs {
    /// The instance's id or name
    #[arg(long)]
    instance: Option<String>,
    #[command(flatten)]
    network: NetworkArgs,
}

impl PlaceArgs {
    pub(super) async fn run(&self, context: &Context, question: &str) -> Result<(), Failure> {
        self.ask(context, question, None).await
    }

    pub(super) async fn ask(&self, context: &Context, question: &str, by: Option<Measure>) -> Result<(), Failure> {
        let NetworkArgs { vpc, whose, stretch } = &self.network;
        let (instance, vpc) = (self.instance.as_ref(), vpc.as_ref());
        stretch.ask(context, question, About { account: whose.account, instance, vpc, by }).await
    }
}

pub(super) async fn list_questions(context: &Context) -> Result<(), Failure> {
    let call = async |client: Client| answer(client.list_flow_questions()).await;
    let questions: Vec<Value> = context.session.read(call).await?;
    context.format.print_list(&questions, COLUMNS)
}
