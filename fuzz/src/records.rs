//! Flow records as host agents and routers send them: IPFIX of our own, and NetFlow, IPFIX and sFlow of others.

use std::net::{IpAddr, Ipv4Addr};

use lucarne_bench::flow_mix::FlowMix;
use lucarne_flows::{
    columns::FlowColumns,
    foreign,
    ipfix::{Decoder, Exporter},
};
use lucarne_model::Moment;

const NOW: Moment = Moment::from_secs(1_768_478_400);

/// Messages one behind the other, each as long as it says, as on a connection to the collector.
pub(crate) fn ipfix(octets: &[u8]) -> bool {
    let (mut decoder, mut rest, mut understood) = (Decoder::new(), octets, false);
    while let Some(length) = rest.get(2..4).map(|at| usize::from(at[0]) << 8 | usize::from(at[1])) {
        let (message, behind) = rest.split_at(length.clamp(4, rest.len()));
        rest = behind;
        let mut columns = FlowColumns::default();
        let Ok(decoded) = decoder.decode(message, &mut columns) else { continue };
        let records: Vec<_> = columns.rows().collect();
        assert!(records.len() + decoded.marks.len() <= message.len(), "more records than octets");
        let again = Exporter::new(7).with_limit(Exporter::STREAM).encode(&records, NOW);
        let mut reader = Decoder::new();
        let read: Vec<_> = again.iter().flat_map(|message| reader.decode_rows(message).expect("our own")).collect();
        assert_eq!(read, records, "what was read is written and read as something else");
        understood |= !records.is_empty();
    }
    understood
}

pub(crate) fn ipfix_seeds() -> Vec<Vec<u8>> {
    let records = FlowMix::new(1, NOW).records(40);
    [1, 5, 40].map(|count| Exporter::new(7).encode(&records[..count], NOW).concat()).to_vec()
}

/// Datagrams one behind the other, each with its length in two octets before it, by turns from two exporters.
pub(crate) fn foreign(octets: &[u8]) -> bool {
    let (mut decoder, mut rest, mut understood) = (foreign::Decoder::default(), octets, false);
    let mut exporters = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))).into_iter().cycle();
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (datagram, behind) = behind.split_at(usize::from(u16::from_be_bytes(*length)).min(behind.len()));
        rest = behind;
        let Some(exporter) = exporters.next() else { break };
        let mut records = 0;
        let decoded = decoder.decode(exporter, datagram, NOW, &mut |_| records += 1);
        assert!(records <= datagram.len(), "more records than octets");
        understood |= decoded.is_ok() && records > 0;
    }
    understood
}

/// A flow of NetFlow v5, and a flow of a template of IPFIX with little more than its ends.
pub(crate) fn foreign_seeds() -> Vec<Vec<u8>> {
    let mut v5 = vec![0, 5, 0, 1];
    v5.extend([0, 0, 0x27, 0x10]); // up for ten seconds
    v5.extend((NOW.0 / 1_000_000).to_be_bytes()[4..].iter());
    v5.extend([0; 12]);
    let mut flow = [0; 48];
    flow[..8].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    (flow[19], flow[23]) = (1, 64); // a packet of 64 octets
    (flow[33], flow[35], flow[38]) = (99, 80, 6);
    v5.extend(flow);
    let set =
        |id: u16, content: &[u8]| [&id.to_be_bytes()[..], &(content.len() as u16 + 4).to_be_bytes(), content].concat();
    // Addresses, ports, protocol, octets, packets.
    let fields = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 4), (2, 4)];
    let fields: Vec<u8> = fields.iter().flat_map(|(element, length): &(u8, u8)| [0, *element, 0, *length]).collect();
    let template = set(2, &[&[1, 0, 0, 7][..], &fields].concat());
    let data = set(256, &[10, 0, 0, 1, 10, 0, 0, 2, 0, 99, 0, 80, 6, 0, 0, 0, 64, 0, 0, 0, 1]);
    let length = (16 + template.len() + data.len()) as u16;
    let head = [&[0, 10][..], &length.to_be_bytes(), &v5[8..12], &[0; 8]].concat();
    let ipfix = [head, template, data].concat();
    let framed = |datagram: &[u8]| [&(datagram.len() as u16).to_be_bytes()[..], datagram].concat();
    vec![framed(&v5), framed(&ipfix), [framed(&v5), framed(&v5), framed(&ipfix), framed(&ipfix)].concat()]
}
