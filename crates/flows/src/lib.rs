//! Room 1, flows: what is known of every flow of every VM, and how it is told to the world.
//!
//! - [`key`]: what names a flow, at one port and everywhere.
//! - [`phase`]: where a connection stands, and why it ended.
//! - [`table`]: all flows of a host; the connection table of the security groups is this table.
//! - [`columns`]: records as columns, in the layout of Arrow.
//! - [`ipfix`]: records as messages for collectors, and back.
//! - [`foreign`]: what routers and other exporters send, in NetFlow, IPFIX and sFlow.
//! - [`receipts`]: signed chains by which a tenant sees that no record was taken away.
//! - [`findings`]: who stands out in the stream of records.
//! - [`router_view`]: a network's flows as one router would have seen them.
//! - [`export`]: records as text files that other people's programs read.
//!
//! Pure: time comes in as a [`Moment`](lucarne_model::Moment), records go out through a closure. Which packets are
//! allowed is the switch's decision; the table only asks for it again when a new plan may have changed it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod columns;
pub mod export;
pub mod findings;
pub mod foreign;
mod grounds;
pub mod ipfix;
pub mod key;
pub mod phase;
pub mod receipts;
pub mod router_view;
mod settings;
pub mod table;

pub use grounds::{Denial, Grounds};
pub use key::FlowKey;
pub use lucarne_model::flow::Side;
pub use phase::Phase;
pub use settings::Settings;
pub use table::{
    Allowed, Connection, Emit, FarEnd, FlowTable, Judgement, Opening, Owner, Packet, Question, Rejection, Slot,
    Timestamps,
};
