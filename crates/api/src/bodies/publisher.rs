//! Bodies of notaries and publishers. Owns their shapes.

use lucarne_model::{NotaryId, publisher::SERIES};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A notary that the controller may ask from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNotary {
    pub name: String,
    /// `http://` or `https://`, a host and a port, and nothing else.
    pub url: String,
}

/// A publisher that the account trusts from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePublisher {
    /// What it is to be called in `--attest manifest=NAME`.
    pub name: String,
    pub notary: NotaryId,
    /// Its public key in PEM, which the account was given by it and by nobody else.
    pub key: String,
    /// The series that hosts are held against; `host` if not given.
    #[serde(default = "usual_series")]
    pub series: String,
}

fn usual_series() -> String {
    SERIES.to_owned()
}
