//! The table of resources: for each noun of the command line what its ids and names are, which calls list, show and delete
//! it, and which columns its table has.
//!
//! Owns [`Kind`] and its rows. Lists, shows, deletions and the search by name are written once over it; a new resource is
//! one row here and the verbs of its own in `commands`.

use std::pin::Pin;

use lucarne_api::client::Client;
use lucarne_model::ErrorCode;
use serde_json::Value;

use crate::{failure::Failure, session::answer};

pub(crate) type Reply = Pin<Box<dyn Future<Output = Result<Value, Failure>> + Send>>;

/// One page of a list, as it is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageRequest {
    pub(crate) filter: Option<String>,
    pub(crate) limit: Option<u32>,
    pub(crate) page_token: Option<String>,
}

/// One column: its title and where in the JSON its value stands; dots lead inwards.
pub(crate) type Column = (&'static str, &'static str);

/// One noun. Functions take the client by value so that they are plain function pointers.
pub(crate) struct Kind {
    /// As people say it, with its article.
    pub(crate) noun: &'static str,
    /// What its ids begin with; empty where ids are told from names by their form alone.
    pub(crate) prefix: &'static str,
    /// The fields that name it.
    pub(crate) names: &'static [&'static str],
    pub(crate) not_found: ErrorCode,
    pub(crate) columns: &'static [Column],
    pub(crate) list: fn(Client, PageRequest) -> Reply,
    pub(crate) show: Option<fn(Client, String) -> Reply>,
    pub(crate) delete: Option<fn(Client, String) -> Reply>,
}

impl Kind {
    /// Whether the text has the form of this kind's ids; all else is a name.
    pub(crate) fn is_id(&self, text: &str) -> bool {
        if self.names.is_empty() {
            return true;
        }
        match self.prefix {
            "" => text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()),
            prefix => text.strip_prefix(prefix).is_some_and(|rest| rest.len() == 17 && rest.bytes().all(is_lower_hex)),
        }
    }
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

const BY_TAG: &[&str] = &["tag:Name"];
const BY_NAME: &[&str] = &["name"];
const BY_NAME_OR_TAG: &[&str] = &["name", "tag:Name"];

/// A function that lists by the client's method of that name.
macro_rules! list {
    ($method:ident) => {
        |client, page| {
            Box::pin(async move {
                let (filter, token) = (page.filter.as_deref(), page.page_token.as_deref());
                answer(client.$method(filter, page.limit, token)).await
            })
        }
    };
}

/// A function that shows one by the client's method of that name; the id has been checked by whoever resolved it.
macro_rules! show {
    ($method:ident, $code:ident) => {
        Some(|client, id| {
            Box::pin(async move {
                let id = id.parse().map_err(|_| no_such(ErrorCode::$code, &id))?;
                answer(client.$method(&id)).await
            })
        })
    };
}

/// The same for a deletion.
macro_rules! delete {
    ($method:ident, $code:ident) => {
        Some(|client, id| {
            Box::pin(async move {
                let id = id.parse().map_err(|_| no_such(ErrorCode::$code, &id))?;
                answer(client.$method(&id, None, None)).await
            })
        })
    };
}

/// The same for a deletion that may wait for duplicates, which is said by the command of its own.
macro_rules! delete_source {
    ($method:ident, $code:ident) => {
        Some(|client, id| {
            Box::pin(async move {
                let id = id.parse().map_err(|_| no_such(ErrorCode::$code, &id))?;
                answer(client.$method(&id, None, None, None)).await
            })
        })
    };
}

fn no_such(code: ErrorCode, id: &str) -> Failure {
    Failure::problem(code, format!("`{id}` is not an id of this kind"))
}

mod duplicated;
mod scaling;

pub(crate) use duplicated::{LOAD, RECORDING, REPLAY, REPLICA, TRIGGER};
pub(crate) use scaling::SCALING_GROUP;

pub(crate) static ACCOUNT: Kind = Kind {
    noun: "account",
    prefix: "",
    names: BY_NAME,
    not_found: ErrorCode::InvalidAccountNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "name"),
        ("INSTANCES", "quota.instances"),
        ("VCPUS", "quota.vcpus"),
        ("MEMORY", "quota.memory"),
        ("CREATED", "created"),
    ],
    list: list!(list_accounts),
    show: show!(get_account, InvalidAccountNotFound),
    delete: delete!(delete_account, InvalidAccountNotFound),
};

pub(crate) static USER: Kind = Kind {
    noun: "user",
    prefix: "user-",
    names: BY_NAME,
    not_found: ErrorCode::InvalidUserNotFound,
    columns: &[("ID", "id"), ("NAME", "name"), ("ROLE", "role"), ("CREATED", "created")],
    list: list!(list_users),
    show: show!(get_user, InvalidUserNotFound),
    delete: delete!(delete_user, InvalidUserNotFound),
};

pub(crate) static ACCESS_KEY: Kind = Kind {
    noun: "access key",
    prefix: "LK",
    names: &[],
    not_found: ErrorCode::InvalidAccessKeyNotFound,
    columns: &[("ID", "id"), ("USER", "user"), ("CREATED", "created")],
    list: list!(list_access_keys),
    show: None,
    delete: Some(|client, id| Box::pin(async move { answer(client.delete_access_key(&id, None, None)).await })),
};

pub(crate) static HOST: Kind = Kind {
    noun: "host",
    prefix: "host-",
    names: BY_NAME_OR_TAG,
    not_found: ErrorCode::InvalidHostNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "name"),
        ("STATE", "state"),
        ("ADDRESS", "address"),
        ("HYPERVISOR", "hypervisor"),
        ("TPM", "tpm.kind"),
        ("MAKER", "tpm.maker"),
        ("PROVED", "tpm.proved"),
        ("INSTANCES", "instances"),
        ("VCPUS", "used.vcpus"),
        ("OF", "capacity.vcpus"),
        ("MEMORY", "used.memory"),
        ("OF", "capacity.memory"),
        ("PAGING", "memory.paging.kind"),
        ("HEARD", "last_heard"),
    ],
    list: list!(list_hosts),
    show: show!(get_host, InvalidHostNotFound),
    delete: None,
};

pub(crate) static IMAGE: Kind = Kind {
    noun: "image",
    prefix: "ami-",
    names: BY_NAME_OR_TAG,
    not_found: ErrorCode::InvalidImageNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "name"),
        ("BOOTS", "boot.kind"),
        ("MEMORY", "minimum_memory"),
        ("PUBLIC", "public"),
        ("CREATED", "created"),
    ],
    list: list!(list_images),
    show: show!(get_image, InvalidImageNotFound),
    delete: delete!(delete_image, InvalidImageNotFound),
};

pub(crate) static VPC: Kind = Kind {
    noun: "VPC",
    prefix: "vpc-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidVpcNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("CIDR", "cidr"),
        ("MAIN ROUTE TABLE", "main_route_table"),
        ("DEFAULT GROUP", "default_security_group"),
        ("CREATED", "created"),
    ],
    list: list!(list_vpcs),
    show: show!(get_vpc, InvalidVpcNotFound),
    delete: delete_source!(delete_vpc, InvalidVpcNotFound),
};

pub(crate) static SUBNET: Kind = Kind {
    noun: "subnet",
    prefix: "subnet-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidSubnetNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("VPC", "vpc"),
        ("CIDR", "cidr"),
        ("FREE", "available_addresses"),
        ("ROUTE TABLE", "route_table"),
        ("NETWORK ACL", "network_acl"),
    ],
    list: list!(list_subnets),
    show: show!(get_subnet, InvalidSubnetNotFound),
    delete: delete!(delete_subnet, InvalidSubnetNotFound),
};

pub(crate) static ROUTE_TABLE: Kind = Kind {
    noun: "route table",
    prefix: "rtb-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidRouteTableNotFound,
    columns: &[("ID", "id"), ("NAME", "tags.Name"), ("VPC", "vpc"), ("MAIN", "main"), ("ROUTES", "routes")],
    list: list!(list_route_tables),
    show: show!(get_route_table, InvalidRouteTableNotFound),
    delete: delete!(delete_route_table, InvalidRouteTableNotFound),
};

pub(crate) static NETWORK_ACL: Kind = Kind {
    noun: "network ACL",
    prefix: "acl-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidNetworkAclNotFound,
    columns: &[("ID", "id"), ("NAME", "tags.Name"), ("VPC", "vpc"), ("DEFAULT", "is_default"), ("ENTRIES", "entries")],
    list: list!(list_network_acls),
    show: show!(get_network_acl, InvalidNetworkAclNotFound),
    delete: delete!(delete_network_acl, InvalidNetworkAclNotFound),
};

/// The entries of one ACL, for the table of `network-acl show`.
pub(crate) const ACL_ENTRY_COLUMNS: &[Column] = &[
    ("NUMBER", "number"),
    ("DIRECTION", "direction"),
    ("ACTION", "action"),
    ("PROTOCOL", "traffic.protocol"),
    ("FROM", "traffic.from_port"),
    ("TO", "traffic.to_port"),
    ("CIDR", "cidr"),
    ("ID", "id"),
];

pub(crate) static SECURITY_GROUP: Kind = Kind {
    noun: "security group",
    prefix: "sg-",
    names: BY_NAME_OR_TAG,
    not_found: ErrorCode::InvalidGroupNotFound,
    columns: &[("ID", "id"), ("NAME", "name"), ("VPC", "vpc"), ("RULES", "rules"), ("DESCRIPTION", "description")],
    list: list!(list_security_groups),
    show: show!(get_security_group, InvalidGroupNotFound),
    delete: delete!(delete_security_group, InvalidGroupNotFound),
};

/// The rules of one group, for the table of `security-group show`.
pub(crate) const RULE_COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("DIRECTION", "direction"),
    ("PROTOCOL", "traffic.protocol"),
    ("FROM", "traffic.from_port"),
    ("TO", "traffic.to_port"),
    ("CIDR", "peer.cidr"),
    ("GROUP", "peer.group"),
];

pub(crate) static INTERFACE: Kind = Kind {
    noun: "network interface",
    prefix: "eni-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidInterfaceNotFound,
    columns: &[
        ("ID", "id"),
        ("INSTANCE", "instance"),
        ("SUBNET", "subnet"),
        ("ADDRESS", "address"),
        ("MAC", "mac"),
        ("GROUPS", "groups"),
        ("SENT", "counters.bytes_sent"),
        ("RECEIVED", "counters.bytes_received"),
    ],
    list: list!(list_interfaces),
    show: show!(get_interface, InvalidInterfaceNotFound),
    delete: None,
};

pub(crate) static VOLUME: Kind = Kind {
    noun: "volume",
    prefix: "vol-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidVolumeNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("SIZE", "size"),
        ("STATE", "state"),
        ("INSTANCE", "instance"),
        ("SNAPSHOT", "snapshot"),
        ("CREATED", "created"),
    ],
    list: list!(list_volumes),
    show: show!(get_volume, InvalidVolumeNotFound),
    delete: delete_source!(delete_volume, InvalidVolumeNotFound),
};

pub(crate) static SNAPSHOT: Kind = Kind {
    noun: "snapshot",
    prefix: "snap-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidSnapshotNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("VOLUME", "volume"),
        ("SIZE", "size"),
        ("STATE", "state"),
        ("CREATED", "created"),
    ],
    list: list!(list_snapshots),
    show: show!(get_snapshot, InvalidSnapshotNotFound),
    delete: delete!(delete_snapshot, InvalidSnapshotNotFound),
};

pub(crate) static INSTANCE: Kind = Kind {
    noun: "instance",
    prefix: "i-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidInstanceNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("STATE", "state"),
        ("ADDRESS", "address"),
        ("VCPUS", "vcpus"),
        ("MEMORY", "memory"),
        ("IMAGE", "image"),
        ("SUBNET", "subnet"),
        ("LAUNCHED", "launched"),
        ("BEGAN", "began.from"),
        ("REASON", "state_reason.message"),
    ],
    list: list!(list_instances),
    show: show!(get_instance, InvalidInstanceNotFound),
    delete: delete_source!(terminate_instance, InvalidInstanceNotFound),
};

pub(crate) static JOB: Kind = Kind {
    noun: "job",
    prefix: "job-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidJobNotFound,
    columns: &[
        ("ID", "id"),
        ("KIND", "kind"),
        ("INSTANCE", "instance"),
        ("REPLICA", "replica"),
        ("STATE", "state"),
        ("STEP", "step"),
        ("CHANGED", "changed"),
        ("REASON", "reason.message"),
    ],
    list: list!(list_jobs),
    show: show!(get_job, InvalidJobNotFound),
    delete: None,
};

pub(crate) static FLOW_LOG: Kind = Kind {
    noun: "flow log",
    prefix: "fl-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidFlowLogNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("OF", "target.kind"),
        ("VPC", "vpc"),
        ("TRAFFIC", "traffic"),
        ("INTERVAL MS", "interval_millis"),
        ("TO", "to"),
        ("CREATED", "created"),
    ],
    list: list!(list_flow_logs),
    show: show!(get_flow_log, InvalidFlowLogNotFound),
    delete: delete!(delete_flow_log, InvalidFlowLogNotFound),
};

pub(crate) static MITIGATION: Kind = Kind {
    noun: "mitigation",
    prefix: "mit-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidMitigationNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("ACTION", "action.kind"),
        ("CAP", "action.packets_per_second"),
        ("INSTANCE", "target.instance"),
        ("ADDRESS", "target.address"),
        ("PROTOCOL", "target.protocol"),
        ("PORT", "target.port"),
        ("DIRECTION", "target.direction"),
        ("EXPIRES", "expires"),
        ("REASON", "reason"),
    ],
    list: list!(list_mitigations),
    show: show!(get_mitigation, InvalidMitigationNotFound),
    delete: delete!(delete_mitigation, InvalidMitigationNotFound),
};

pub(crate) static MEASUREMENT: Kind = Kind {
    noun: "known measurement",
    prefix: "meas-",
    names: &[],
    not_found: ErrorCode::InvalidMeasurementNotFound,
    columns: &[
        ("ID", "id"),
        ("COMPONENT", "measurement.component"),
        ("WHICH", "measurement.name"),
        ("DIGEST", "measurement.digest"),
        ("CONFIGURATION", "configuration"),
        ("NOTE", "note"),
        ("CREATED", "created"),
    ],
    list: list!(list_measurements),
    show: show!(get_measurement, InvalidMeasurementNotFound),
    delete: delete!(remove_measurement, InvalidMeasurementNotFound),
};

pub(crate) static TPM_MAKER: Kind = Kind {
    noun: "TPM maker",
    prefix: "maker-",
    names: BY_NAME_OR_TAG,
    not_found: ErrorCode::InvalidTpmMakerNotFound,
    columns: &[("ID", "id"), ("NAME", "name"), ("FINGERPRINT", "fingerprint"), ("CREATED", "created")],
    list: list!(list_tpm_makers),
    show: show!(get_tpm_maker, InvalidTpmMakerNotFound),
    delete: delete!(remove_tpm_maker, InvalidTpmMakerNotFound),
};

pub(crate) static NOTARY: Kind = Kind {
    noun: "notary",
    prefix: "notary-",
    names: &["name"],
    not_found: ErrorCode::InvalidNotaryNotFound,
    columns: &[("ID", "id"), ("NAME", "name"), ("URL", "url"), ("CREATED", "created")],
    list: list!(list_notaries),
    show: show!(get_notary, InvalidNotaryNotFound),
    delete: delete!(delete_notary, InvalidNotaryNotFound),
};

pub(crate) static PUBLISHER: Kind = Kind {
    noun: "publisher",
    prefix: "pub-",
    names: &["name"],
    not_found: ErrorCode::InvalidPublisherNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "name"),
        ("NOTARY", "notary"),
        ("SERIES", "series"),
        ("SEEN ENTRIES", "seen.size"),
        ("CREATED", "created"),
    ],
    list: list!(list_publishers),
    show: show!(get_publisher, InvalidPublisherNotFound),
    delete: delete!(remove_publisher, InvalidPublisherNotFound),
};

/// What was measured of an instance.
pub(crate) const JUDGED_COLUMNS: &[Column] = &[
    ("COMPONENT", "component"),
    ("WHICH", "name"),
    ("DIGEST", "digest"),
    ("MATCHES", "matches"),
    ("VOUCHERS", "vouchers"),
];

/// What was judged and answered.
pub(crate) const JUDGEMENT_COLUMNS: &[Column] = &[
    ("AT", "at"),
    ("GENERATION", "generation"),
    ("MODE", "mode.kind"),
    ("STATE", "state"),
    ("BY", "by"),
    ("PUBLISHER", "manifest.publisher"),
    ("VERSION", "manifest.version"),
    ("REASON", "reason.message"),
];

pub(crate) static PRICE_BOOK: Kind = Kind {
    noun: "price book",
    prefix: "pb-",
    names: &[],
    not_found: ErrorCode::InvalidPriceBookNotFound,
    columns: &[
        ("ID", "id"),
        ("ACCOUNT", "account"),
        ("SINCE", "since"),
        ("UNTIL", "until"),
        ("CURRENCY", "prices.currency"),
        ("PINNED", "prices.pinned.resident"),
        ("GENERIC", "prices.generic.resident"),
        ("SOAKER", "prices.soaker.resident"),
        ("PRIORITY", "prices.priority"),
    ],
    list: list!(list_price_books),
    show: show!(get_price_book, InvalidPriceBookNotFound),
    delete: delete!(end_price_book, InvalidPriceBookNotFound),
};

/// Flow records have no ids, and so no row above.
pub(crate) const FLOW_COLUMNS: &[Column] = &[
    ("END", "end"),
    ("INSTANCE", "instance"),
    ("DIRECTION", "direction"),
    ("PROTOCOL", "protocol"),
    ("SOURCE", "source"),
    ("PORT", "source_port"),
    ("DESTINATION", "destination"),
    ("PORT", "destination_port"),
    ("PACKETS", "packets"),
    ("BYTES", "bytes"),
    ("VERDICT", "verdict"),
    ("END REASON", "end_reason"),
];

pub(crate) const EVENT_COLUMNS: &[Column] = &[
    ("AT", "at"),
    ("KIND", "kind"),
    ("ACCOUNT", "account"),
    ("RESOURCE", "resource"),
    ("CODE", "code"),
    ("MESSAGE", "message"),
];

/// What is found and has no name or no id has no row above either.
pub(crate) const FINDING_COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("KIND", "kind"),
    ("ACCOUNT", "account"),
    ("INSTANCE", "subject.instance"),
    ("ADDRESS", "subject.address"),
    ("COUNT", "count"),
    ("FROM", "threshold"),
    ("FIRST SEEN", "first_seen"),
    ("LAST SEEN", "last_seen"),
];

/// The flows that a finding names.
pub(crate) const EXAMPLE_COLUMNS: &[Column] = &[
    ("END", "end"),
    ("INSTANCE", "instance"),
    ("PROTOCOL", "protocol"),
    ("SOURCE", "source"),
    ("DESTINATION", "destination"),
    ("PORT", "destination_port"),
    ("PACKETS", "packets"),
    ("BYTES", "bytes"),
    ("VERDICT", "verdict"),
    ("END REASON", "end_reason"),
];

pub(crate) const SCANNER_COLUMNS: &[Column] =
    &[("ADDRESS", "address"), ("ACCOUNTS", "accounts"), ("STANDARD ERROR", "standard_error")];

pub(crate) const CLOSED_PORT_COLUMNS: &[Column] = &[
    ("INSTANCE", "instance"),
    ("ACCOUNT", "account"),
    ("HOST", "host"),
    ("PROTOCOL", "protocol"),
    ("END REASON", "end_reason"),
    ("LAST SEEN", "last_seen"),
];

pub(crate) const CHECK_COLUMNS: &[Column] =
    &[("CHECK", "check"), ("RESULT", "result"), ("CODE", "code"), ("DETAIL", "detail")];

pub(crate) const MEASUREMENT_COLUMNS: &[Column] = &[("COMPONENT", "component"), ("NAME", "name"), ("DIGEST", "digest")];

pub(crate) const SEALED_OPERATION_COLUMNS: &[Column] = &[
    ("OPERATION", "name"),
    ("EFFECT", "effect"),
    ("RESULT", "result"),
    ("ARGUMENTS", "arguments"),
    ("ABOUT", "about"),
];

pub(crate) const SEALED_RESULT_COLUMNS: &[Column] = &[
    ("FILE", "file"),
    ("REQUEST", "request"),
    ("OUTCOME", "outcome"),
    ("RESULT", "result"),
    ("OCTETS", "octets"),
    ("DETAIL", "detail"),
];

pub(crate) const SEALED_FLEET_COLUMNS: &[Column] = &[
    ("HOST", "host"),
    ("OUTCOME", "outcome"),
    ("RESULT", "result"),
    ("OCTETS", "octets"),
    ("DELIVERED", "delivered"),
    ("DETAIL", "detail"),
];

pub(crate) const SEAL_LOG_COLUMNS: &[Column] = &[
    ("INDEX", "index"),
    ("TIME", "time"),
    ("VERDICT", "verdict"),
    ("OPERATION", "operation"),
    ("INSTANCE", "instance"),
    ("SIGNERS", "signers"),
    ("PURPOSE", "purpose"),
    ("REQUEST", "request"),
];

pub(crate) const SEAL_KEY_COLUMNS: &[Column] =
    &[("ID", "id"), ("KIND", "kind"), ("PERSON", "person"), ("ACCOUNT", "account"), ("UNTIL", "until")];

pub(crate) const SEAL_SAMPLE_COLUMNS: &[Column] = &[("NUMBER", "number"), ("TIME", "time")];

pub(crate) const SEAL_GRANT_COLUMNS: &[Column] = &[("NAME", "name"), ("TEXT", "text")];

pub(crate) const MANIFEST_COLUMNS: &[Column] = &[
    ("NAME", "name"),
    ("VERSION", "version"),
    ("STANDS", "stands"),
    ("FROM", "valid_from"),
    ("UNTIL", "valid_until"),
    ("MEASUREMENTS", "measurements"),
];

pub(crate) const INSPECTION_COLUMNS: &[Column] = &[
    ("COMPONENT", "measurement.component"),
    ("NAME", "measurement.name"),
    ("OWN FILE", "own"),
    ("LAST PUBLISHED", "published"),
    ("DIGEST", "measurement.digest"),
];

/// `records` is counted here: a receipt says it minute by minute.
pub(crate) const RECEIPT_COLUMNS: &[Column] = &[
    ("NUMBER", "number"),
    ("ISSUED", "issued"),
    ("RECORDS", "records"),
    ("SIZE", "part.size"),
    ("REPLACES", "replaces"),
    ("PART", "part.name"),
];

pub(crate) const LOSS_COLUMNS: &[Column] = &[
    ("SINCE", "since"),
    ("UNTIL", "until"),
    ("ACCOUNT", "account"),
    ("HOST", "host"),
    ("RECORDS", "records"),
    ("CAUSE", "cause"),
];

/// The memory of instances; counts of pages are of 4 KiB.
pub(crate) const MEMORY_COLUMNS: &[Column] = &[
    ("INSTANCE", "instance"),
    ("NAME", "name"),
    ("MODE", "settings.mode"),
    ("PRIORITY", "settings.priority"),
    ("PINNED", "settings.pinned"),
    ("STATE", "actual.state"),
    ("MEMORY", "memory"),
    ("RESIDENT", "actual.pages.resident"),
    ("TARGET", "actual.target"),
    ("COMPRESSED", "actual.pages.compressed"),
    ("SSD", "actual.pages.ssd"),
    ("REMOTE", "actual.pages.remote"),
    ("BUCKET", "actual.bucket"),
    ("TROUBLE", "actual.trouble.message"),
];

pub(crate) const HOST_MEMORY_COLUMNS: &[Column] = &[
    ("HOST", "host"),
    ("NAME", "name"),
    ("CLAIMED", "claimed"),
    ("OF", "claimable"),
    ("FACTOR", "oversubscription"),
    ("TOTAL", "total"),
    ("RESIDENT", "resident"),
    ("COMPRESSED", "compressed"),
    ("SHARED", "shared"),
    ("OVERHEAD", "overhead"),
    ("LENT", "lent"),
    ("POOL", "pool"),
    ("FREE", "free"),
    ("BORROWED", "lending.borrowed"),
    ("PAGING", "paging.kind"),
];

/// The lines of a bill; amounts are millionths.
pub(crate) const USAGE_COLUMNS: &[Column] = &[
    ("ITEM", "item"),
    ("MODE", "mode"),
    ("PLACE", "place"),
    ("PAGE SECONDS", "page_seconds"),
    ("COUNT", "count"),
    ("MICROS", "micros"),
];

pub(crate) const OTHER_MODE_COLUMNS: &[Column] = &[("HAD ALL BEEN", "mode"), ("MICROS", "micros")];

pub(crate) const INSTANCE_USAGE_COLUMNS: &[Column] =
    &[("INSTANCE", "instance"), ("PAGE SECONDS", "page_seconds"), ("MICROS", "micros")];

pub(crate) const FAULT_COLUMNS: &[Column] =
    &[("FAULTS FROM", "place"), ("COUNT", "count"), ("P50 US", "p50_micros"), ("P99 US", "p99_micros")];

pub(crate) const MEMORY_POINT_COLUMNS: &[Column] = &[
    ("AT", "at"),
    ("STATE", "state"),
    ("MODE", "mode"),
    ("RESIDENT", "pages.resident"),
    ("TARGET", "target"),
    ("COMPRESSED", "pages.compressed"),
    ("SSD", "pages.ssd"),
    ("UNTOUCHED", "pages.untouched"),
    ("BUCKET", "bucket"),
    ("FAULTS", "faults"),
    ("EVICTIONS", "evictions"),
    ("REFAULTS", "refaults"),
];

#[cfg(test)]
pub(crate) static ALL: &[&Kind] = &[
    &ACCOUNT,
    &USER,
    &ACCESS_KEY,
    &HOST,
    &IMAGE,
    &VPC,
    &SUBNET,
    &ROUTE_TABLE,
    &NETWORK_ACL,
    &SECURITY_GROUP,
    &INTERFACE,
    &VOLUME,
    &SNAPSHOT,
    &INSTANCE,
    &FLOW_LOG,
    &RECORDING,
    &REPLAY,
    &LOAD,
    &MITIGATION,
    &PRICE_BOOK,
    &MEASUREMENT,
    &TPM_MAKER,
    &NOTARY,
    &PUBLISHER,
    &JOB,
    &REPLICA,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_from_a_name_by_its_form() {
        assert!(VPC.is_id("vpc-0123456789abcdef0"));
        assert!(!VPC.is_id("vpc-blue") && !VPC.is_id("i-0123456789abcdef0"));
        assert!(ACCOUNT.is_id("000000000001") && !ACCOUNT.is_id("acme"));
    }

    /// Columns are paths into the API's own JSON: one that its schema does not have would always be empty.
    #[test]
    fn every_column_is_a_property_of_its_resource() {
        let document: Value = serde_json::from_str(&lucarne_api::openapi_json()).unwrap();
        let schemas = &document["components"]["schemas"];
        let rows = [
            ("Account", &ACCOUNT),
            ("User", &USER),
            ("AccessKey", &ACCESS_KEY),
            ("Host", &HOST),
            ("Image", &IMAGE),
            ("Vpc", &VPC),
            ("Subnet", &SUBNET),
            ("RouteTable", &ROUTE_TABLE),
            ("NetworkAcl", &NETWORK_ACL),
            ("SecurityGroup", &SECURITY_GROUP),
            ("NetworkInterface", &INTERFACE),
            ("Volume", &VOLUME),
            ("Snapshot", &SNAPSHOT),
            ("Instance", &INSTANCE),
            ("FlowLog", &FLOW_LOG),
            ("Recording", &RECORDING),
            ("Replay", &REPLAY),
            ("Load", &LOAD),
            ("Mitigation", &MITIGATION),
            ("PriceBook", &PRICE_BOOK),
            ("KnownMeasurement", &MEASUREMENT),
            ("TpmMaker", &TPM_MAKER),
            ("Notary", &NOTARY),
            ("Publisher", &PUBLISHER),
            ("Job", &JOB),
            ("Replica", &REPLICA),
        ];
        assert_eq!(rows.len(), ALL.len());
        for (schema, kind) in rows {
            for (title, path) in kind.columns {
                let first = path.split('.').next().unwrap();
                assert!(!schemas[schema]["properties"][first].is_null(), "{schema} has no `{path}` for {title}");
            }
        }
        let others = [
            ("TenantFlowRecord", FLOW_COLUMNS),
            ("Event", EVENT_COLUMNS),
            ("ShownFinding", FINDING_COLUMNS),
            ("JudgedMeasurement", JUDGED_COLUMNS),
            ("Judgement", JUDGEMENT_COLUMNS),
            ("Example", EXAMPLE_COLUMNS),
            ("Scanner", SCANNER_COLUMNS),
            ("ShownClosedPort", CLOSED_PORT_COLUMNS),
            ("ShownLoss", LOSS_COLUMNS),
            ("ShownMemory", MEMORY_COLUMNS),
            ("ShownHostMemory", HOST_MEMORY_COLUMNS),
            ("FaultsFrom", FAULT_COLUMNS),
            ("MemoryPoint", MEMORY_POINT_COLUMNS),
            ("OtherMode", OTHER_MODE_COLUMNS),
            ("InstanceUsage", INSTANCE_USAGE_COLUMNS),
        ];
        for (schema, (title, path)) in others.iter().flat_map(|(s, columns)| columns.iter().map(move |c| (s, c))) {
            let first = path.split('.').next().unwrap();
            assert!(!schemas[schema]["properties"][first].is_null(), "{schema} has no `{path}` for {title}");
        }
    }
}
