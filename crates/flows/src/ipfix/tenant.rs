//! Messages for tenants: the records of their own view, and files of a whole network.
//!
//! Owns what a tenant's messages leave out. Records come in as [`TenantFlowRecord`], which have nothing of the operator's
//! own, and the templates have no column for it.

use lucarne_model::{FlowRecord, HostId, Moment, TenantFlowRecord};

use super::{
    Exporter,
    elements::{DataType, Element, iana},
    encode::template,
    wire::{FIRST_DATA_SET, OPTIONS_TEMPLATE_SET, put_length},
};
use crate::router_view::{RouterPort, RouterRecord, numbered_ports};

/// Fields of the record that only operators see.
const OPERATORS: [&str; 4] = ["host", "mitigation", "ingress_interface", "egress_interface"];
/// Of these, what the router of a network has in its own right: the numbers of its ports.
const ROUTERS: [&str; 2] = ["ingress_interface", "egress_interface"];

/// Names of ports, by their numbers.
const PORT_TEMPLATE: u16 = FIRST_DATA_SET + 13;
const PORT_NUMBER: Element = iana(10, "ingressInterface", DataType::Unsigned32);
const PORT_NAME: Element = iana(82, "interfaceName", DataType::String);

/// Whom messages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    Operator,
    Tenant,
    /// A tenant who sees a network as one router.
    Router,
}

impl Audience {
    /// In the order of their numbers.
    pub(super) const ALL: [Self; 3] = [Self::Operator, Self::Tenant, Self::Router];

    pub(super) fn sees(self, field: &str) -> bool {
        match self {
            Self::Operator => true,
            Self::Tenant => !OPERATORS.contains(&field),
            Self::Router => !OPERATORS.contains(&field) || ROUTERS.contains(&field),
        }
    }
}

/// A view with nothing in the operator's fields, which the templates leave out.
fn widened(view: &TenantFlowRecord, ingress: u32, egress: u32) -> FlowRecord {
    FlowRecord::of_view(view, HostId::from_bits(0), ingress, egress, None)
}

impl Exporter {
    /// The messages that carry a tenant's records. An exporter is for one audience: use it for nothing else.
    pub fn encode_for_tenant(&mut self, records: &[TenantFlowRecord], now: Moment) -> Vec<Vec<u8>> {
        self.audience = Audience::Tenant;
        let mut packer = self.begin(now);
        let mut scratch = Vec::with_capacity(256);
        records.iter().for_each(|record| packer.add_flow(&widened(record, 0, 0), &mut scratch));
        packer.finish()
    }

    /// A file (RFC 5655) of a network's flows as one router saw them: its ports' names, then the flows.
    pub fn encode_routed(&mut self, records: &[RouterRecord], now: Moment) -> Vec<Vec<u8>> {
        let ports = numbered_ports(records);
        let names = self.encode_ports(&ports, now);
        names.into_iter().chain(self.encode_between(&ports, records, now)).collect()
    }

    /// The beginning of such a file that is made piece by piece: the names of its ports, in their order.
    pub fn encode_ports(&mut self, ports: &[RouterPort], now: Moment) -> Vec<Vec<u8>> {
        self.audience = Audience::Router;
        let mut packer = self.begin(now);
        packer.add(OPTIONS_TEMPLATE_SET, &template(PORT_TEMPLATE, Some(1), &[PORT_NUMBER, PORT_NAME]));
        for (index, port) in ports.iter().enumerate() {
            packer.add(PORT_TEMPLATE, &port_record(index, *port));
        }
        packer.finish()
    }

    /// A piece of it: flows between those ports.
    pub fn encode_between(&mut self, ports: &[RouterPort], records: &[RouterRecord], now: Moment) -> Vec<Vec<u8>> {
        let mut packer = self.begin(now);
        let mut scratch = Vec::with_capacity(256);
        for RouterRecord { input, output, record } in records {
            let record = widened(record, number(ports, *input), number(ports, *output));
            packer.add_flow(&record, &mut scratch);
        }
        packer.finish()
    }
}

/// The number of a port: 0 for none, as IPFIX and SNMP have it.
fn number(ports: &[RouterPort], port: RouterPort) -> u32 {
    ports.binary_search(&port).map_or(0, |index| index as u32 + 1)
}

fn port_record(index: usize, port: RouterPort) -> Vec<u8> {
    let name = port.to_string();
    let mut out = (index as u32 + 1).to_be_bytes().to_vec();
    put_length(name.len(), &mut out);
    out.extend_from_slice(name.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use lucarne_model::flow::Direction;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        columns::FlowColumns,
        ipfix::{Decoder, elements::FIELDS},
        router_view::{PortNaming, as_one_router, tests::record},
    };

    /// A host's id in a tenant's message would be nine octets of it.
    #[test]
    fn no_message_for_a_tenant_has_a_column_of_the_operators() {
        let seen = |field: &&super::super::elements::Field| Audience::Tenant.sees(field.of);
        let columns: Vec<&str> = FIELDS.iter().filter(seen).map(|field| field.of).collect();
        assert!(OPERATORS.iter().all(|own| !columns.contains(own)));
        for own in OPERATORS {
            assert!(FIELDS.iter().any(|field| field.of == own), "there is no field {own} any more");
        }
    }

    /// What a tenant gets lacks the host, so our own collector must take it for somebody else's and never for a host's.
    #[test]
    fn a_tenants_messages_are_not_taken_for_a_hosts() {
        let records = [record((1, 2), Direction::Egress, 3, 180)];
        let messages = Exporter::new(7).encode_for_tenant(&records, Moment::from_secs(100));
        let mut decoder = Decoder::new();
        let mut columns = FlowColumns::default();
        let decoded: Vec<_> = messages.iter().map(|message| decoder.decode(message, &mut columns).unwrap()).collect();
        assert!(columns.is_empty());
        assert_eq!(decoded.iter().map(|message| message.foreign).sum::<u64>(), 1);
    }

    proptest! {
        #[test]
        fn a_file_has_a_record_for_each_flow_and_whole_messages(count in 1u8..60) {
            let records = (0..count).map(|n| record((n % 7 + 1, n % 5 + 8), Direction::Egress, 1, 40)).collect();
            let routed = as_one_router(records, PortNaming::Instance);
            let messages = Exporter::new(1).with_limit(Exporter::STREAM).encode_routed(&routed, Moment::from_secs(1));
            let mut decoder = Decoder::new();
            let mut found = 0;
            for message in &messages {
                let decoded = decoder.decode(message, &mut FlowColumns::default());
                prop_assert!(decoded.is_ok());
                found += decoded.map_or(0, |decoded| decoded.foreign);
            }
            prop_assert_eq!(found, u64::from(count));
        }
    }
}
