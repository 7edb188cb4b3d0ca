//! The commands, by noun: what each takes, and which calls it makes.
//!
//! Owns what the nouns share: listing, showing, deleting, names and tags. Everything particular is in the noun's own file.

pub(crate) mod attest_policy;
pub(crate) mod attestation;
pub(crate) mod attestation_challenge;
pub(crate) mod attestation_verify;
pub(crate) mod console;
pub(crate) mod documents;
pub(crate) mod event;
pub(crate) mod finding;
pub(crate) mod flow;
pub(crate) mod flow_answer;
pub(crate) mod flow_export;
pub(crate) mod flow_live;
pub(crate) mod flow_log;
pub(crate) mod flow_losses;
pub(crate) mod flow_query;
pub(crate) mod flow_question;
pub(crate) mod flow_receipts;
pub(crate) mod flow_scanners;
pub(crate) mod flow_top;
pub(crate) mod flow_why;
pub(crate) mod host;
pub(crate) mod identity;
pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod manifest;
pub(crate) mod measurements;
pub(crate) mod memory;
pub(crate) mod mitigation;
pub(crate) mod network;
pub(crate) mod network_acl;
pub(crate) mod notary;
pub(crate) mod pager;
mod parts;
pub(crate) mod price_book;
pub(crate) mod process;
pub(crate) mod publisher;
pub(crate) mod receipt_audit;
pub(crate) mod recording;
pub(crate) mod replay;
pub(crate) mod replica;
mod replica_difference;
mod replica_graph;
mod replica_plan;
pub(crate) mod route_table;
pub(crate) mod scaling_group;
pub(crate) mod seal;
mod seal_encrypt;
mod seal_fleet;
mod seal_host;
mod seal_hosts;
mod seal_log;
mod seal_policy;
mod seal_quote;
mod seal_request;
mod seal_result;
mod seal_samples;
mod seal_standing;
mod seal_store;
mod seal_submit;
mod seal_way;
pub(crate) mod security_group;
pub(crate) mod storage;
pub(crate) mod tag;
pub(crate) mod tpm_maker;
pub(crate) mod trigger;
pub(crate) mod usage;

use clap::{Args, Subcommand};
use lucarne_model::{ErrorCode, Tags};
use serde_json::Value;

use crate::{
    failure::Failure,
    kind::Kind,
    listing::{list, resolve_id},
    output::Format,
    session::Session,
};

/// What every command that asks the controller works with.
pub(crate) struct Context {
    pub(crate) session: Session,
    pub(crate) format: Format,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ListArgs {
    /// Only what matches, such as `state=running,stopped` or `tag:Name=web*`; given more than once, all must match
    #[arg(long, value_name = "FIELD=PATTERNS")]
    pub(crate) filter: Vec<String>,
    /// At most this many; all if not given
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
}

/// The verbs of nouns that others make and end.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Reads {
    /// List them
    List(ListArgs),
    /// Show one with all its fields
    Show {
        /// Its id or name
        id: String,
    },
}

/// The verbs that most nouns have.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Basics {
    #[command(flatten)]
    Reads(Reads),
    /// Delete them, and print their ids
    Delete {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// What is deleted that duplicates may draw on.
#[derive(Args, Clone, Debug)]
pub(crate) struct DeleteSources {
    /// Ids or names
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) duplicates: Duplicates,
}

/// What becomes of duplicates that draw on what is to end.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Duplicates {
    /// Make duplicates deep that draw on it; it ends by itself once they are
    #[arg(long)]
    deepen_duplicates: bool,
}

impl Duplicates {
    pub(crate) fn deepen(self) -> Option<bool> {
        self.deepen_duplicates.then_some(true)
    }
}

/// What a new resource is called and tagged.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Naming {
    /// Its name: the tag `Name`
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) tags: TagArgs,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TagArgs {
    /// A tag; may be given more than once
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub(crate) tags: Vec<(String, String)>,
}

impl Naming {
    pub(crate) fn tags(&self) -> Tags {
        let mut tags = self.tags.tags();
        tags.0.extend(self.name.clone().map(|name| (Tags::NAME.to_owned(), name)));
        tags
    }
}

impl TagArgs {
    pub(crate) fn tags(&self) -> Tags {
        Tags(self.tags.iter().cloned().collect())
    }
}

pub(crate) fn parse_tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Reads {
    pub(crate) async fn run(&self, context: &Context, kind: &Kind) -> Result<(), Failure> {
        match self {
            Self::List(args) => {
                let filter = (!args.filter.is_empty()).then(|| args.filter.join(";"));
                let items = list(&context.session, kind, filter.as_deref(), args.limit).await?;
                context.format.print_list(&items, kind.columns)
            }
            Self::Show { id } => context.format.print_value(&context.show(kind, id).await?),
        }
    }
}

impl Basics {
    pub(crate) async fn run(&self, context: &Context, kind: &Kind) -> Result<(), Failure> {
        match self {
            Self::Reads(reads) => reads.run(context, kind).await,
            Self::Delete { ids } => context.delete(kind, ids).await,
        }
    }
}

impl Context {
    /// The resource that an id or a name stands for.
    pub(crate) async fn show(&self, kind: &Kind, text: &str) -> Result<Value, Failure> {
        let id = resolve_id(&self.session, kind, text).await?;
        let show = kind.show.ok_or_else(|| Failure::wrong_usage(format!("a {} cannot be shown", kind.noun)))?;
        self.session.read(async |client| show(client, id.clone()).await).await
    }

    pub(crate) async fn delete(&self, kind: &Kind, texts: &[String]) -> Result<(), Failure> {
        let delete = kind.delete.ok_or_else(|| Failure::wrong_usage(format!("a {} cannot be deleted", kind.noun)))?;
        self.each(kind, texts, async |id| self.session.change(async |client| delete(client, id.clone()).await).await)
            .await?;
        Ok(())
    }

    /// Changes each of `texts` by `change`, which is given its id, and prints what became of it. Returns the ids.
    pub(crate) async fn each(
        &self,
        kind: &Kind,
        texts: &[String],
        change: impl AsyncFn(String) -> Result<Value, Failure>,
    ) -> Result<Vec<String>, Failure> {
        let mut ids = Vec::with_capacity(texts.len());
        let mut dry = None;
        for text in texts {
            let id = resolve_id(&self.session, kind, text).await?;
            match change(id.clone()).await {
                Ok(value) => self.format.print_change(&value, &id)?,
                // A dry run goes through all of them before it says that all would do.
                Err(failure) if self.session.is_dry_run() && failure.code() == Some(ErrorCode::DryRunOperation) => {
                    dry = Some(failure);
                }
                Err(failure) => return Err(failure),
            }
            ids.push(id);
        }
        dry.map_or(Ok(ids), Err)
    }

    /// Prints a resource that was made.
    pub(crate) fn made(&self, value: &Value) -> Result<(), Failure> {
        self.format.print_change(value, value["id"].as_str().unwrap_or_default())
    }
}
