//! Bodies of price books. Owns the shape of the request; a book itself is `lucarne_model`'s.

use lucarne_model::{AccountId, price::Prices};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePriceBook {
    /// For whom; for all that have no book of their own if not given.
    #[serde(default)]
    pub account: Option<AccountId>,
    /// What is left out is as built in.
    pub prices: Prices,
}
