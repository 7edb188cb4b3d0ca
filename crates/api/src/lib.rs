//! The HTTP API: its routes as one table, the trait that answers them, the OpenAPI document, and the client made from it.
//!
//! Owns the wire: paths, bodies, problem documents, how a request is read and an answer written. What a request does is
//! left to whoever implements [`Api`]; who may do it is decided by the policies in `control` from each route's [`Access`].

pub mod answer;
pub mod bodies;
pub mod client;
pub mod input;
pub mod openapi;
pub mod problem;
pub mod routes;
mod table;

pub use problem::Problem;
pub use routes::{Api, ROUTES, router};
pub use table::{Access, Call, Route};

/// The OpenAPI document of this build, as it stands in `docs/openapi.json`.
pub fn openapi_json() -> String {
    let mut text = format!("{:#}", openapi::sorted(openapi::document(ROUTES)));
    text.push('\n');
    text
}
