//! The words of the house: ids, units, time, resources, end reasons, error codes, and what a host is asked and answers.
//!
//! Owns the shapes and names that every other crate shares, and their JSON. Decides nothing and touches nothing: rules
//! live in the rooms, I/O in the hands. Uses no other crate of ours.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod actual;
pub mod address;
pub mod attestation;
pub mod desired;
pub mod end_reason;
pub mod error_code;
pub mod event;
pub mod evidence;
pub mod finding;
pub mod flow;
pub mod flow_log;
pub mod flow_loss;
pub mod flow_sql;
pub mod habit;
pub mod history;
pub mod host_name;
pub mod host_trust;
pub mod id;
pub mod identity;
pub mod instance;
pub mod lease;
pub mod load;
pub mod measurement;
pub mod memory;
pub mod memory_move;
pub mod memory_report;
pub mod mitigation;
pub mod network;
pub mod network_acl;
pub mod octets;
pub mod oversubscription;
pub mod paging;
pub mod pcapng;
pub mod price;
pub mod publisher;
pub mod recorded_change;
pub mod recording;
pub mod replay;
pub mod replica;
pub mod replica_flows;
pub mod replication;
pub mod resource_kind;
pub mod sealing;
pub mod security_group;
pub mod storage;
pub mod tag;
pub mod time;
pub mod tpm;
pub mod trigger;
pub mod units;
pub mod warm;

pub use address::{Cidr, MacAddress};
pub use end_reason::EndReason;
pub use error_code::ErrorCode;
pub use event::{Event, EventKind};
pub use evidence::Evidence;
pub use flow::{FlowEvent, FlowFilter, FlowPage, FlowQuery, FlowRecord, FlowWatch, TenantFlowRecord};
pub use flow_loss::{FlowLoss, FlowLossQuery, LossCause};
pub use habit::Habit;
pub use history::{ConnState, History};
pub use host_name::HostName;
pub use host_trust::HostTrust;
pub use id::*;
pub use lease::{DesiredLease, Lease, Lending};
pub use measurement::{Component, Measurement};
pub use memory::Pages;
pub use octets::Octets;
pub use oversubscription::OversubscriptionFactor;
pub use resource_kind::ResourceKind;
pub use tag::Tags;
pub use time::Moment;
pub use units::{Bytes, Vcpus};
