//! Messages to flow records.
//!
//! Owns the [`Decoder`]: the templates of one transport session, what is skipped and what is refused, and the bounds that
//! keep a hostile sender from costing more than its messages' size.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use lucarne_model::{
    AccountId, ConnState, EndReason, FlowLoss, FlowRecord, History, HostId, InstanceId, InterfaceId, Moment,
    SecurityGroupId, SubnetId, VpcId,
    flow::{Direction, Location, Path, Side, Verdict},
};

use super::{
    Mark,
    elements::{COMMON_PROPERTIES, Element, GROUPS, SENDER_NEXT_RECORD, SENDER_SESSION, group_list},
    encode::{MAX_GROUPS, MAX_TOLD_SETS},
    loss,
    template::{Kind, Refusal, Step, Template},
    values::location,
    wire::{
        BadValue, FIRST_DATA_SET, HEADER_LENGTH, Header, OPTIONS_TEMPLATE_SET, Reader, SET_HEADER_LENGTH, TEMPLATE_SET,
        Truncated, VARIABLE, unsigned,
    },
};

/// Why a message was refused. Nothing of a refused message counts, except templates that stood before the fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{0} octets do not begin with the header of an IPFIX message")]
    Header(usize),
    #[error("the header says {said} octets, the message has {given}")]
    Length { said: u16, given: usize },
    #[error("set {set} ends in the middle of something")]
    Truncated { set: u16 },
    #[error("set id {0} is reserved")]
    ReservedSet(u16),
    #[error("template id {0} is reserved")]
    ReservedTemplate(u16),
    #[error("template {template} has more fields than the {most} that are kept", most = super::template::MAX_FIELDS)]
    TooManyFields { template: u16 },
    #[error("the records of template {template} would have no length")]
    NoLength { template: u16 },
    #[error("options template {template} has {scope} scope fields of {fields}")]
    Scope { template: u16, scope: u16, fields: u16 },
    #[error("the session has more than {max} templates or {max} domains", max = Decoder::MAX_TEMPLATES)]
    TooManyTemplates,
    #[error("a record's {element} has a value that does not exist")]
    Value { element: &'static str },
}

/// What one message brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub header: Header,
    pub records: Vec<FlowRecord>,
    /// What the sender could not keep.
    pub losses: Vec<FlowLoss>,
    /// For the collector's own log; whoever reads the network ignores them.
    pub marks: Vec<Mark>,
    /// Flow records that lack elements of ours, and so belong to nobody that we know.
    pub foreign: u64,
    /// Sets whose template is not known (any more, or yet).
    pub unknown_sets: u32,
    /// Data records that the sequence numbers say were lost before this message.
    pub lost: u32,
}

/// Reads the messages of one transport session: make one for each connection, file or UDP peer.
#[derive(Debug, Default)]
pub struct Decoder {
    /// By observation domain and template id.
    templates: HashMap<(u32, u16), Template>,
    /// The sequence number that each domain's next message should have; none after sets that could not be counted.
    expected: HashMap<u32, Option<u32>>,
    /// By observation domain and number: the sets of groups of the dictionary.
    group_sets: HashMap<(u32, u64), Vec<SecurityGroupId>>,
    last: Last,
}

impl Decoder {
    /// Templates that one session can have, over all its domains, and so also domains.
    pub const MAX_TEMPLATES: usize = 128;

    pub fn new() -> Self {
        Self::default()
    }

    /// Reads exactly one message.
    pub fn decode(&mut self, message: &[u8]) -> Result<Decoded, DecodeError> {
        let head = message.first_chunk::<HEADER_LENGTH>().and_then(Header::parse);
        let header = head.ok_or(DecodeError::Header(message.len()))?;
        if usize::from(header.length) != message.len() {
            return Err(DecodeError::Length { said: header.length, given: message.len() });
        }
        let mut reading = Reading { decoder: self, decoded: Decoded::empty(header), data_records: 0 };
        reading.sets(Reader(&message[HEADER_LENGTH..]))?;
        let Reading { mut decoded, data_records, .. } = reading;
        decoded.lost = self.count_sequence(&decoded, data_records)?;
        Ok(decoded)
    }

    fn count_sequence(&mut self, decoded: &Decoded, data_records: u32) -> Result<u32, DecodeError> {
        let Header { sequence, domain, .. } = decoded.header;
        if self.expected.len() >= Self::MAX_TEMPLATES && !self.expected.contains_key(&domain) {
            return Err(DecodeError::TooManyTemplates);
        }
        let countable = decoded.unknown_sets == 0;
        let next = countable.then(|| sequence.wrapping_add(data_records));
        let gap = match self.expected.insert(domain, next) {
            Some(Some(expected)) => sequence.wrapping_sub(expected),
            _ => 0,
        };
        // A number that lies behind comes from messages out of order, which is no loss.
        Ok(if gap > u32::MAX / 2 { 0 } else { gap })
    }

    fn keep(&mut self, domain: u32, id: u16, template: Template) -> Result<(), DecodeError> {
        if self.templates.len() >= Self::MAX_TEMPLATES && !self.templates.contains_key(&(domain, id)) {
            return Err(DecodeError::TooManyTemplates);
        }
        self.templates.insert((domain, id), template);
        Ok(())
    }

    /// Forgets one template, or all of a kind where `id` is that of the set (RFC 7011 section 8.1).
    fn withdraw(&mut self, domain: u32, id: u16, options: bool) {
        let is_options = |template: &Template| !matches!(template.kind, Kind::Flows | Kind::Foreign);
        if id < FIRST_DATA_SET {
            self.templates.retain(|(of, _), template| *of != domain || is_options(template) != options);
        } else {
            self.templates.remove(&(domain, id));
        }
    }
}

impl Decoded {
    const fn empty(header: Header) -> Self {
        Self {
            header,
            records: Vec::new(),
            losses: Vec::new(),
            marks: Vec::new(),
            foreign: 0,
            unknown_sets: 0,
            lost: 0,
        }
    }
}

/// A message that is being read.
struct Reading<'a> {
    decoder: &'a mut Decoder,
    decoded: Decoded,
    data_records: u32,
}

impl Reading<'_> {
    fn sets(&mut self, mut rest: Reader<'_>) -> Result<(), DecodeError> {
        while rest.left() > 0 {
            let truncated = |_: Truncated| DecodeError::Truncated { set: 0 };
            let set = rest.u16().map_err(truncated)?;
            let length = usize::from(rest.u16().map_err(truncated)?);
            let cut = || DecodeError::Truncated { set };
            let body = length.checked_sub(SET_HEADER_LENGTH).ok_or_else(cut)?;
            let body = Reader(rest.take(body).map_err(|_| cut())?);
            match set {
                TEMPLATE_SET => self.templates(body, false)?,
                OPTIONS_TEMPLATE_SET => self.templates(body, true)?,
                FIRST_DATA_SET.. => self.data(set, body)?,
                _ => return Err(DecodeError::ReservedSet(set)),
            }
        }
        Ok(())
    }

    fn templates(&mut self, mut body: Reader<'_>, options: bool) -> Result<(), DecodeError> {
        let set = if options { OPTIONS_TEMPLATE_SET } else { TEMPLATE_SET };
        let truncated = |_: Truncated| DecodeError::Truncated { set };
        let domain = self.decoded.header.domain;
        // Fewer octets than a record's header are padding.
        while body.left() >= 4 {
            let id = body.u16().map_err(truncated)?;
            let count = body.u16().map_err(truncated)?;
            if count == 0 {
                if id != set && id < FIRST_DATA_SET {
                    return Err(DecodeError::ReservedTemplate(id));
                }
                self.decoder.withdraw(domain, id, options);
                continue;
            }
            if id < FIRST_DATA_SET {
                return Err(DecodeError::ReservedTemplate(id));
            }
            if options {
                let scope = body.u16().map_err(truncated)?;
                if scope == 0 || scope > count {
                    return Err(DecodeError::Scope { template: id, scope, fields: count });
                }
            }
            let template = Template::parse(&mut body, count, options).map_err(|refusal| match refusal {
                Refusal::Truncated => DecodeError::Truncated { set },
                Refusal::TooManyFields => DecodeError::TooManyFields { template: id },
                Refusal::NoLength => DecodeError::NoLength { template: id },
            })?;
            self.decoder.keep(domain, id, template)?;
        }
        Ok(())
    }

    fn data(&mut self, set: u16, mut body: Reader<'_>) -> Result<(), DecodeError> {
        let Some(template) = self.decoder.templates.get(&(self.decoded.header.domain, set)) else {
            self.decoded.unknown_sets += 1;
            return Ok(());
        };
        // Fewer octets than the shortest record are padding.
        while body.left() >= template.shortest {
            match template.kind {
                Kind::Flows => {
                    let domain = self.decoded.header.domain;
                    let sets = (domain, &self.decoder.group_sets);
                    self.decoded.records.push(flow(template, &mut body, set, sets, &mut self.decoder.last)?);
                }
                Kind::GroupSets => {
                    group_set(template, &mut body, set, (self.decoded.header.domain, &mut self.decoder.group_sets))?
                }
                Kind::Marks => self.decoded.marks.push(mark(template, &mut body, set)?),
                Kind::Losses => self.decoded.losses.push(told_loss(template, &mut body, set)?),
                Kind::Foreign | Kind::Options => skip(template, &mut body, set)?,
            }
            self.decoded.foreign += u64::from(template.kind == Kind::Foreign);
            self.data_records = self.data_records.wrapping_add(1);
        }
        Ok(())
    }
}

/// The dictionary of a session: by domain and number.
type GroupSets = HashMap<(u32, u64), Vec<SecurityGroupId>>;

fn flow(
    template: &Template,
    body: &mut Reader<'_>,
    set: u16,
    (domain, group_sets): (u32, &GroupSets),
    last: &mut Last,
) -> Result<FlowRecord, DecodeError> {
    let mut record = last.blank.clone();
    let cut = |_: Truncated| DecodeError::Truncated { set };
    let bad = |element: &Element| DecodeError::Value { element: element.name };
    for step in &template.steps {
        match *step {
            Step::Skip(octets) => drop(body.take(octets).map_err(cut)?),
            Step::SkipVariable => drop(body.value(VARIABLE).map_err(cut)?),
            Step::Take(field, length) => {
                let value = body.value(length).map_err(cut)?;
                (field.take)(value, &mut record).map_err(|_| bad(&field.element))?;
            }
            Step::Groups(length) => {
                let value = body.value(length).map_err(cut)?;
                let groups = last.groups.read(value, group_list).map_err(|_| bad(&GROUPS))?;
                record.groups = groups.clone().unwrap_or_default();
            }
            Step::GroupSet(length) => {
                let number = unsigned(body.value(length).map_err(cut)?).map_err(|_| bad(&COMMON_PROPERTIES))?;
                record.groups = group_sets.get(&(domain, number)).cloned().unwrap_or_default();
            }
            Step::Location(length) => {
                let value = body.value(length).map_err(cut)?;
                let location = last.location.read(value, location);
                record.location = location.map_err(|_| DecodeError::Value { element: "location" })?.clone();
            }
        }
    }
    Ok(record)
}

/// What the record before said in values that cost much to read and seldom change.
#[derive(Debug)]
struct Last {
    blank: FlowRecord,
    groups: Remembered<Option<Vec<SecurityGroupId>>>,
    location: Remembered<Location>,
}

impl Default for Last {
    fn default() -> Self {
        Self { blank: blank(), groups: Remembered::default(), location: Remembered::default() }
    }
}

/// A value and the octets that it was read from; at first the empty value of none.
#[derive(Debug, Default)]
struct Remembered<T> {
    octets: Option<Box<[u8]>>,
    value: T,
}

impl<T> Remembered<T> {
    fn read(&mut self, octets: &[u8], read: impl Fn(&[u8]) -> Result<T, BadValue>) -> Result<&T, BadValue> {
        if self.octets.as_deref() != Some(octets) {
            self.value = read(octets)?;
            self.octets = Some(octets.into());
        }
        Ok(&self.value)
    }
}

/// Takes an entry of the dictionary; one session's is bounded, and what is beyond the bound is not remembered.
fn group_set(
    template: &Template,
    body: &mut Reader<'_>,
    set: u16,
    (domain, group_sets): (u32, &mut GroupSets),
) -> Result<(), DecodeError> {
    let (mut number, mut groups) = (0, None);
    for column in &template.columns {
        let value = body.value(column.length).map_err(|_| DecodeError::Truncated { set })?;
        let bad = |element: &Element| DecodeError::Value { element: element.name };
        if column.is(&COMMON_PROPERTIES) {
            number = unsigned(value).map_err(|_| bad(&COMMON_PROPERTIES))?;
        } else if column.is(&GROUPS) {
            groups = group_list(value).map_err(|_| bad(&GROUPS))?;
        }
    }
    if let Some(groups) = groups.filter(|groups| groups.len() <= MAX_GROUPS)
        && (group_sets.len() < MAX_TOLD_SETS * 16 || group_sets.contains_key(&(domain, number)))
    {
        group_sets.insert((domain, number), groups);
    }
    Ok(())
}

fn mark(template: &Template, body: &mut Reader<'_>, set: u16) -> Result<Mark, DecodeError> {
    let mut mark = Mark { session: 0, next: 0 };
    for column in &template.columns {
        let value = body.value(column.length).map_err(|_| DecodeError::Truncated { set })?;
        for (element, target) in [(SENDER_SESSION, &mut mark.session), (SENDER_NEXT_RECORD, &mut mark.next)] {
            if (column.number, column.enterprise) == (element.number, element.enterprise) {
                *target = unsigned(value).map_err(|_| DecodeError::Value { element: element.name })?;
            }
        }
    }
    Ok(mark)
}

fn told_loss(template: &Template, body: &mut Reader<'_>, set: u16) -> Result<FlowLoss, DecodeError> {
    let mut told = loss::blank();
    for column in &template.columns {
        let value = body.value(column.length).map_err(|_| DecodeError::Truncated { set })?;
        let ours = |element: &&Element| (column.number, column.enterprise) == (element.number, element.enterprise);
        if let Some((at, element)) = loss::ELEMENTS.iter().enumerate().find(|(_, element)| ours(element)) {
            loss::take(at, value, &mut told).map_err(|_| DecodeError::Value { element: element.name })?;
        }
    }
    Ok(told)
}

fn skip(template: &Template, body: &mut Reader<'_>, set: u16) -> Result<(), DecodeError> {
    for column in &template.columns {
        body.value(column.length).map_err(|_| DecodeError::Truncated { set })?;
    }
    Ok(())
}

/// A record before its values are read. A template of [`Kind::Flows`] overwrites every field that matters.
fn blank() -> FlowRecord {
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    FlowRecord {
        flow_id: 0,
        account: AccountId::OPERATOR,
        instance: InstanceId::from_bits(0),
        interface: InterfaceId::from_bits(0),
        subnet: SubnetId::from_bits(0),
        vpc: VpcId::from_bits(0),
        host: HostId::from_bits(0),
        location: Location::default(),
        groups: Vec::new(),
        rule: None,
        verdict: Verdict::Reject,
        end_reason: EndReason::Invalid,
        direction: Direction::Ingress,
        path: Path::Nowhere,
        side: Side::Initiator,
        start: Moment::EPOCH,
        end: Moment::EPOCH,
        packets: 0,
        bytes: 0,
        source: nowhere,
        destination: nowhere,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        icmp_type: None,
        icmp_code: None,
        tos: 0,
        tcp_flags: 0,
        ttl: 0,
        source_prefix_length: None,
        destination_prefix_length: None,
        next_hop: None,
        history: History::default(),
        conn_state: ConnState::Oth,
        round_trip: None,
        retransmissions: 0,
        zero_windows: 0,
        ingress_interface: 0,
        egress_interface: 0,
        mitigation: None,
    }
}
