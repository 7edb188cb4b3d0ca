//! `lucarne tag`: the tags of any resource, by its id.

use clap::Subcommand;
use lucarne_api::client::types;
use lucarne_model::Tags;
use serde_json::Value;

use super::{Context, parse_tag};
use crate::{failure::Failure, session::answer};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum TagCommand {
    /// Set tags, in place of earlier values
    Add {
        /// The resource's id
        id: String,
        /// Tags to set
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_tag)]
        tags: Vec<(String, String)>,
    },
    /// Take tags away
    Remove {
        /// The resource's id
        id: String,
        /// Keys of tags
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

impl TagCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let (id, body) = match self {
            Self::Add { id, tags } => {
                (id, types::ChangeTags { add: Tags(tags.iter().cloned().collect()), remove: Vec::new() })
            }
            Self::Remove { id, keys } => (id, types::ChangeTags { add: Tags::default(), remove: keys.clone() }),
        };
        let call = async |client: lucarne_api::client::Client| answer(client.change_tags(id, None, None, &body)).await;
        let tags: Value = context.session.change(call).await?;
        context.format.print_value(&tags)
    }
}
