//! `lucarne price-book`: what memory costs, and what is agreed with whom.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use lucarne_api::{bodies::price_book::CreatePriceBook, client::Client};
use lucarne_model::price::Prices;

use super::{Basics, Context};
use crate::{
    failure::{Failure, LocalCode},
    kind::{ACCOUNT, PRICE_BOOK},
    listing::resolve_option,
    session::answer,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum PriceBookCommand {
    /// Make a price book (for operators); it takes the place of the one before, from now on
    Create(CreateArgs),
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    /// For whom, by id or name; for all that have no book of their own if not given
    #[arg(long)]
    account: Option<String>,
    /// The prices as JSON, `-` for the standard input; what is left out is as built in, which `{}` shows
    #[arg(long, value_name = "FILE")]
    prices: PathBuf,
}

impl CreateArgs {
    fn prices(&self) -> Result<Prices, Failure> {
        let unreadable =
            |cause: String| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", self.prices.display()));
        let mut text = String::new();
        let read = if self.prices.as_os_str() == "-" {
            io::stdin().read_to_string(&mut text).map(drop)
        } else {
            std::fs::read_to_string(&self.prices).map(|read| text = read)
        };
        read.map_err(|cause| unreadable(cause.to_string()))?;
        serde_json::from_str(&text).map_err(|cause| unreadable(cause.to_string()))
    }
}

impl PriceBookCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(args) => {
                let account = resolve_option(&context.session, &ACCOUNT, args.account.as_ref()).await?;
                let body = CreatePriceBook { account, prices: args.prices()? };
                let call = async |client: Client| answer(client.create_price_book(None, None, &body)).await;
                context.made(&context.session.change(call).await?)
            }
            Self::Basics(basics) => basics.run(context, &PRICE_BOOK).await,
        }
    }
}
