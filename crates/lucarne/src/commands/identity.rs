//! `lucarne account`, `user` and `access-key`: who may ask.

use clap::{Args, Subcommand};
use lucarne_api::{
    bodies::identity::{CreateAccessKey, CreateAccount},
    client::types,
};
use serde_json::Value;

use super::{Basics, Context, ListArgs, TagArgs};
use crate::{
    failure::Failure,
    kind::{ACCESS_KEY, ACCOUNT, USER},
    listing::resolve_option,
    session::answer,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum AccountCommand {
    /// Make an account and its administrator, whose access key is shown only now
    Create(CreateAccountArgs),
    /// Show the caller's own account, its quota and what of it is used
    Own,
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateAccountArgs {
    /// What it is called; unique in the cloud
    #[arg(long)]
    name: String,
    #[command(flatten)]
    tags: TagArgs,
}

impl AccountCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(args) => {
                let body = CreateAccount { name: args.name.clone(), quota: None, tags: args.tags.tags() };
                let call =
                    async |client: lucarne_api::client::Client| answer(client.create_account(None, None, &body)).await;
                context.format.print_value(&context.session.change(call).await?)
            }
            Self::Own => {
                let own: Value = context.session.read(async |client| answer(client.get_own_account()).await).await?;
                context.format.print_value(&own)
            }
            Self::Basics(basics) => basics.run(context, &ACCOUNT).await,
        }
    }
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum UserCommand {
    /// Make a user in the caller's account
    Create(CreateUserArgs),
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateUserArgs {
    /// What they are called; unique in the account
    #[arg(long)]
    name: String,
    /// What they may do
    #[arg(long, value_parser = ["admin", "operator", "reader"])]
    role: String,
    #[command(flatten)]
    tags: TagArgs,
}

impl UserCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(args) => {
                let role = args.role.parse().map_err(|_| Failure::wrong_usage("no such role"))?;
                let body = types::CreateUser { name: args.name.clone(), role, tags: args.tags.tags() };
                context.made(
                    &context.session.change(async |client| answer(client.create_user(None, None, &body)).await).await?,
                )
            }
            Self::Basics(basics) => basics.run(context, &USER).await,
        }
    }
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum AccessKeyCommand {
    /// Make an access key; its secret is shown only now
    Create {
        /// Whose, by id or name; the caller's own if not given
        #[arg(long)]
        user: Option<String>,
    },
    /// List them, without secrets
    List(ListArgs),
    /// Delete them; their tokens stop working at once
    Delete {
        /// Key ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

impl AccessKeyCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create { user } => {
                let body = CreateAccessKey { user: resolve_option(&context.session, &USER, user.as_ref()).await? };
                let call = async |client: lucarne_api::client::Client| {
                    answer(client.create_access_key(None, None, &body)).await
                };
                context.format.print_value(&context.session.change(call).await?)
            }
            Self::List(args) => super::Reads::List(args.clone()).run(context, &ACCESS_KEY).await,
            Self::Delete { ids } => context.delete(&ACCESS_KEY, ids).await,
        }
    }
}
