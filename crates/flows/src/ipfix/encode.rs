//! Flow records to messages.
//!
//! Owns the [`Exporter`]: which template a record takes, how sets are packed into messages of bounded size, and the
//! sequence numbers. When templates must be sent again is known to the caller, who knows its transport.

use std::{collections::HashSet, net::IpAddr, sync::LazyLock};

use lucarne_model::{FlowLoss, FlowRecord, Moment, SecurityGroupId};

use super::{
    Mark, Run,
    elements::{
        COMMON_PROPERTIES, DOMAIN, DataType, ENTERPRISE, Element, FIELDS, Field, GROUPS, INIT_TIME, PROCESS,
        SECURITY_GROUP_ID, SENDER_NEXT_RECORD, SENDER_SESSION, Semantics, Sender, TYPE_RECORD, When, group_set_id,
        own_elements,
    },
    loss,
    template::Column,
    tenant::Audience,
    wire::{
        ENTERPRISE_BIT, FIRST_DATA_SET, HEADER_LENGTH, Header, OPTIONS_TEMPLATE_SET, SET_HEADER_LENGTH, TEMPLATE_SET,
        put_id, put_length,
    },
};
use crate::columns::FlowColumns;

/// Groups of a record that are sent; more than any interface can have. It bounds a record, so that each fits a message.
pub const MAX_GROUPS: usize = 32;

/// The message that the largest record and the largest template fit in.
const MIN_MESSAGE: usize = 900;
const TYPE_RECORD_TEMPLATE: u16 = FIRST_DATA_SET + 8;
const MARK_TEMPLATE: u16 = FIRST_DATA_SET + 9;
const GROUP_SET_TEMPLATE: u16 = FIRST_DATA_SET + 11;
const SENDER_TEMPLATE: u16 = FIRST_DATA_SET + 12;
/// Sets of groups that an exporter remembers to have sent, and a decoder to have read.
pub(super) const MAX_TOLD_SETS: usize = 4096;
const LOSS_TEMPLATE: u16 = FIRST_DATA_SET + 10;

/// Which rows of the table a record has values for; each layout is a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    ipv6: bool,
    icmp: bool,
}

impl Layout {
    const ALL: [Self; 4] = [
        Self { ipv6: false, icmp: false },
        Self { ipv6: true, icmp: false },
        Self { ipv6: false, icmp: true },
        Self { ipv6: true, icmp: true },
    ];

    fn of(record: &FlowRecord) -> Self {
        let ipv4 = matches!((record.source, record.destination), (IpAddr::V4(_), IpAddr::V4(_)));
        Self { ipv6: !ipv4, icmp: record.icmp_type.is_some() }
    }

    const fn template(self) -> u16 {
        FIRST_DATA_SET + self.ipv6 as u16 + 2 * self.icmp as u16
    }

    /// The rows that its records have for an audience, which is asked for with each record.
    fn fields(self, audience: Audience) -> &'static [&'static Field] {
        static FIELDS_OF: LazyLock<[[Vec<&'static Field>; 4]; 3]> =
            LazyLock::new(|| Audience::ALL.map(|audience| Layout::ALL.map(|layout| layout.choose(audience))));
        let layout = usize::from(self.template() - FIRST_DATA_SET);
        &FIELDS_OF[audience as usize][layout]
    }

    fn choose(self, audience: Audience) -> Vec<&'static Field> {
        let fields = FIELDS.iter().filter(|field| audience.sees(field.of)).filter(|field| match field.when {
            When::Always => true,
            When::Ipv4 => !self.ipv6,
            When::Ipv6 => self.ipv6,
            When::IcmpV4 => self.icmp && !self.ipv6,
            When::IcmpV6 => self.icmp && self.ipv6,
        });
        fields.collect()
    }
}

/// Whether a template has just the fields, in their order and lengths, that we write under its number for operators.
pub(super) fn is_own_layout(id: u16, columns: &[Column]) -> bool {
    Layout::ALL.into_iter().filter(|layout| layout.template() == id).any(|layout| {
        let fields = layout.fields(Audience::Operator);
        let is_same =
            |(column, field): (&Column, &&Field)| column.is(&field.element) && column.length == field.element.length;
        fields.len() == columns.len() && columns.iter().zip(fields).all(is_same)
    })
}

/// Makes the messages of one session and observation domain.
///
/// A record of an IPv4 and an IPv6 address is sent with the IPv4 one mapped into IPv6, and read as it was. An ICMP code is sent only beside a
/// type; groups beyond [`MAX_GROUPS`] are left out; times after 2104 are sent as the last one that the format can tell.
#[derive(Debug)]
pub struct Exporter {
    domain: u32,
    limit: usize,
    /// Data records sent so far, modulo 2^32.
    sequence: u32,
    templates_due: bool,
    sender: Sender,
    pub(super) audience: Audience,
    /// The sets of groups that the dictionary has been sent since the templates.
    told_sets: HashSet<u64>,
    /// The groups of the last record, which are among them or none.
    last_groups: Vec<SecurityGroupId>,
}

impl Exporter {
    /// Octets of a message that passes every link undivided (RFC 7011 section 10.3.3), as UDP needs.
    pub const DATAGRAM: usize = 1400;
    /// Octets of the largest message that there is.
    pub const STREAM: usize = u16::MAX as usize;

    /// An exporter whose messages are at most [`Exporter::DATAGRAM`] octets; the first brings the templates.
    pub fn new(domain: u32) -> Self {
        let (sender, told_sets) = (Sender::default(), HashSet::new());
        let (audience, last_groups) = (Audience::Operator, Vec::new());
        let (limit, sequence, templates_due) = (Self::DATAGRAM, 0, true);
        Self { domain, limit, sequence, templates_due, sender, audience, told_sets, last_groups }
    }

    /// Messages of at most `octets`, within what the format allows and what one record needs.
    #[must_use]
    pub fn with_limit(mut self, octets: usize) -> Self {
        self.limit = octets.clamp(MIN_MESSAGE, Self::STREAM);
        self
    }

    /// Counts uptimes from `init`, when the sender started; else from 1970.
    #[must_use]
    pub const fn with_init(mut self, init: Moment) -> Self {
        self.sender = Sender { init };
        self
    }

    /// Sends templates and type records again with the next message: on a timer over UDP, never on a stream.
    pub const fn resend_templates(&mut self) {
        self.templates_due = true;
    }

    /// The messages that carry `records`, templates first where they are due. `now` is the export time.
    pub fn encode(&mut self, records: &[FlowRecord], now: Moment) -> Vec<Vec<u8>> {
        let mut packer = self.begin(now);
        let mut scratch = Vec::with_capacity(256);
        records.iter().for_each(|record| packer.add_flow(record, &mut scratch));
        packer.finish()
    }

    /// The messages that carry records of columns. Runs that stand as we write them are copied from the message that
    /// brought them, others are written anew. The runs are those of all the records, in their order, and each fits a message.
    pub fn pass_on<'a>(
        &mut self,
        columns: &FlowColumns,
        runs: impl IntoIterator<Item = (&'a Run, &'a [u8])>,
        now: Moment,
    ) -> Vec<Vec<u8>> {
        let mut packer = self.begin(now);
        let mut scratch = Vec::with_capacity(256);
        let mut rows = 0;
        for (Run { records, own }, message) in runs {
            match own.as_ref().and_then(|(set, range)| Some((*set, message.get(range.clone())?))) {
                Some((set, octets)) => packer.add_all(set, octets, *records as u32),
                None => (rows..rows + records).for_each(|row| packer.add_flow(&columns.row(row), &mut scratch)),
            }
            rows += records;
        }
        packer.finish()
    }

    /// The messages that carry marks, as options data.
    pub fn encode_marks(&mut self, marks: &[Mark], now: Moment) -> Vec<Vec<u8>> {
        let mut packer = self.begin(now);
        for mark in marks {
            packer.add(MARK_TEMPLATE, &[mark.session.to_be_bytes(), mark.next.to_be_bytes()].concat());
        }
        packer.finish()
    }

    /// The messages that carry losses, as options data.
    pub fn encode_losses(&mut self, losses: &[FlowLoss], now: Moment) -> Vec<Vec<u8>> {
        let mut packer = self.begin(now);
        let mut scratch = Vec::with_capacity(64);
        for told in losses {
            scratch.clear();
            loss::put(told, &mut scratch);
            packer.add(LOSS_TEMPLATE, &scratch);
        }
        packer.finish()
    }

    pub(super) fn begin(&mut self, now: Moment) -> Packer<'_> {
        let export_time = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let templates_due = std::mem::take(&mut self.templates_due);
        let mut packer = Packer { exporter: self, export_time, messages: Vec::new(), open: None };
        if templates_due {
            packer.exporter.told_sets.clear();
            packer.exporter.last_groups.clear();
            packer.add_templates();
        }
        packer
    }
}

/// A message that is being filled.
struct Open {
    bytes: Vec<u8>,
    /// The set that is being filled: its id and where it starts.
    set: (u16, usize),
    data_records: u32,
}

/// Puts records into sets and sets into messages.
pub(super) struct Packer<'a> {
    exporter: &'a mut Exporter,
    export_time: u32,
    messages: Vec<Vec<u8>>,
    open: Option<Open>,
}

impl Packer<'_> {
    /// Appends a flow record; `scratch` is room to work in.
    pub(super) fn add_flow(&mut self, record: &FlowRecord, scratch: &mut Vec<u8>) {
        let layout = Layout::of(record);
        self.tell_groups(&record.groups);
        scratch.clear();
        let Exporter { sender, audience, .. } = *self.exporter;
        layout.fields(audience).iter().for_each(|field| (field.put)(record, &sender, scratch));
        self.add(layout.template(), scratch);
    }

    fn add_templates(&mut self) {
        let audience = self.exporter.audience;
        for layout in Layout::ALL {
            let elements: Vec<Element> = layout.fields(audience).iter().map(|field| field.element).collect();
            self.add(TEMPLATE_SET, &template(layout.template(), None, &elements));
        }
        self.add(OPTIONS_TEMPLATE_SET, &template(TYPE_RECORD_TEMPLATE, Some(2), &TYPE_RECORD));
        self.add(OPTIONS_TEMPLATE_SET, &template(MARK_TEMPLATE, Some(1), &[SENDER_SESSION, SENDER_NEXT_RECORD]));
        self.add(OPTIONS_TEMPLATE_SET, &template(LOSS_TEMPLATE, Some(loss::SCOPE), &loss::ELEMENTS));
        self.add(OPTIONS_TEMPLATE_SET, &template(GROUP_SET_TEMPLATE, Some(1), &[COMMON_PROPERTIES, GROUPS]));
        self.add(OPTIONS_TEMPLATE_SET, &template(SENDER_TEMPLATE, Some(1), &[DOMAIN, PROCESS, INIT_TIME]));
        for element in own_elements() {
            self.add(TYPE_RECORD_TEMPLATE, &type_record(&element));
        }
        let Exporter { domain, sender, .. } = *self.exporter;
        let process = domain; // one process meters for one domain
        let told = [&domain.to_be_bytes()[..], &process.to_be_bytes(), &sender.init.as_millis().to_be_bytes()];
        self.add(SENDER_TEMPLATE, &told.concat());
    }

    /// Puts a set of groups into the dictionary, before its first record.
    fn tell_groups(&mut self, groups: &[SecurityGroupId]) {
        if self.exporter.last_groups == groups {
            return;
        }
        self.exporter.last_groups.clear();
        self.exporter.last_groups.extend_from_slice(groups);
        let set = group_set_id(groups);
        let told = &mut self.exporter.told_sets;
        if set == 0 || told.contains(&set) {
            return;
        }
        if told.len() >= MAX_TOLD_SETS {
            told.clear(); // they are sent again as they come up
        }
        told.insert(set);
        let mut record = set.to_be_bytes().to_vec();
        put_groups(groups, &mut record);
        self.add(GROUP_SET_TEMPLATE, &record);
    }

    /// Appends one record to a set of id `set`, in a new message where the open one has no room.
    pub(super) fn add(&mut self, set: u16, record: &[u8]) {
        self.add_all(set, record, 1);
    }

    /// Appends records that stand one behind the other, and are to fit one message.
    fn add_all(&mut self, set: u16, record: &[u8], count: u32) {
        let limit = self.exporter.limit;
        let fits = |open: &Open| {
            let header = if open.set.0 == set { 0 } else { SET_HEADER_LENGTH };
            open.bytes.len() + header + record.len() <= limit
        };
        if self.open.as_ref().is_some_and(|open| !fits(open)) {
            self.close_message();
        }
        let open = self.open.get_or_insert_with(|| Open {
            bytes: vec![0; HEADER_LENGTH],
            set: (0, HEADER_LENGTH),
            data_records: 0,
        });
        if open.set.0 != set {
            open.close_set();
            open.set = (set, open.bytes.len());
            open.bytes.extend_from_slice(&set.to_be_bytes());
            open.bytes.extend_from_slice(&[0; 2]);
        }
        open.bytes.extend_from_slice(record);
        open.data_records += if set >= FIRST_DATA_SET { count } else { 0 };
    }

    fn close_message(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        open.close_set();
        let header = Header {
            length: open.bytes.len() as u16, // at most `limit`, which a u16 holds
            export_time: self.export_time,
            sequence: self.exporter.sequence,
            domain: self.exporter.domain,
        };
        open.bytes[..HEADER_LENGTH].copy_from_slice(&header.to_bytes());
        self.exporter.sequence = self.exporter.sequence.wrapping_add(open.data_records);
        self.messages.push(open.bytes);
    }

    pub(super) fn finish(mut self) -> Vec<Vec<u8>> {
        self.close_message();
        self.messages
    }
}

impl Open {
    /// Writes the length of the set that is being filled, if there is one.
    fn close_set(&mut self) {
        let (id, start) = self.set;
        if id != 0 {
            let length = (self.bytes.len() - start) as u16;
            self.bytes[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// A template record, or an options template record where `scope` says how many elements are the scope.
pub(super) fn template(id: u16, scope: Option<u16>, elements: &[Element]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + 8 * elements.len());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&(elements.len() as u16).to_be_bytes());
    if let Some(scope) = scope {
        out.extend_from_slice(&scope.to_be_bytes());
    }
    elements.iter().for_each(|element| put_specifier(element, &mut out));
    out
}

/// A field specifier (RFC 7011 section 3.2).
fn put_specifier(element: &Element, out: &mut Vec<u8>) {
    let bit = if element.enterprise.is_some() { ENTERPRISE_BIT } else { 0 };
    out.extend_from_slice(&(element.number | bit).to_be_bytes());
    out.extend_from_slice(&element.length.to_be_bytes());
    if let Some(enterprise) = element.enterprise {
        out.extend_from_slice(&enterprise.to_be_bytes());
    }
}

/// What an element of ours is, for collectors that do not know it (RFC 5610 section 3.9).
fn type_record(element: &Element) -> Vec<u8> {
    let Semantics { kind, unit } = element.semantics();
    debug_assert!(element.data_type != DataType::BasicList);
    let mut out = Vec::with_capacity(32);
    out.extend_from_slice(&ENTERPRISE.to_be_bytes());
    out.extend_from_slice(&element.number.to_be_bytes());
    out.push(element.data_type as u8);
    out.push(kind);
    out.extend_from_slice(&unit.to_be_bytes());
    put_length(element.name.len(), &mut out);
    out.extend_from_slice(element.name.as_bytes());
    out
}

/// A basicList (RFC 6313 section 4.5.1) of groups, its length prefix included.
pub(super) fn put_groups(groups: &[SecurityGroupId], out: &mut Vec<u8>) {
    const ALL_OF: u8 = 3;
    const LIST_HEADER: usize = 9;
    let groups = &groups[..groups.len().min(MAX_GROUPS)];
    put_length(LIST_HEADER + groups.len() * usize::from(SECURITY_GROUP_ID.length), out);
    out.push(ALL_OF);
    put_specifier(&SECURITY_GROUP_ID, out);
    groups.iter().for_each(|group| put_id(group.bits(), out));
}
