//! Messages to columns of flow records.
//!
//! Owns the [`Decoder`]: the templates of one transport session, what is skipped and what is refused, and the bounds that
//! keep a hostile sender from costing more than its messages' size.

use std::{collections::HashMap, ops::Range};

use lucarne_model::{FlowLoss, FlowRecord, SecurityGroupId};

use super::{
    Mark,
    elements::{COMMON_PROPERTIES, Element, GROUPS, SENDER_NEXT_RECORD, SENDER_SESSION, group_list},
    encode::{MAX_GROUPS, MAX_TOLD_SETS, is_own_layout},
    loss,
    template::{Kind, Refusal, Template},
    wire::{
        FIRST_DATA_SET, HEADER_LENGTH, Header, OPTIONS_TEMPLATE_SET, Reader, SET_HEADER_LENGTH, TEMPLATE_SET,
        Truncated, unsigned,
    },
};
use crate::columns::FlowColumns;

/// Octets of a short flow record of ours: by it columns get their room at once for a whole message.
const USUAL_RECORD: usize = 200;

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

/// Records that stand together in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub records: usize,
    /// The template and the octets of the message, where the records stand as our own [`Exporter`](super::Exporter) writes
    /// them.
    pub own: Option<(u16, Range<usize>)>,
}

/// What one message brought beside the records that were appended to the columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub header: Header,
    /// The records, in their order.
    pub runs: Vec<Run>,
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
}

impl Decoder {
    /// Templates that one session can have, over all its domains, and so also domains.
    pub const MAX_TEMPLATES: usize = 128;

    pub fn new() -> Self {
        Self::default()
    }

    /// Reads exactly one message and appends its flow records to the columns, or after an error nothing.
    pub fn decode(&mut self, message: &[u8], columns: &mut FlowColumns) -> Result<Decoded, DecodeError> {
        let before = columns.len();
        let decoded = self.read(message, columns);
        if decoded.is_err() {
            columns.truncate(before);
        }
        decoded
    }

    /// The flow records of one message, for whoever wants a few.
    pub fn decode_rows(&mut self, message: &[u8]) -> Result<Vec<FlowRecord>, DecodeError> {
        let mut columns = FlowColumns::default();
        self.decode(message, &mut columns)?;
        Ok(columns.rows().collect())
    }

    fn read(&mut self, message: &[u8], columns: &mut FlowColumns) -> Result<Decoded, DecodeError> {
        let head = message.first_chunk::<HEADER_LENGTH>().and_then(Header::parse);
        let header = head.ok_or(DecodeError::Header(message.len()))?;
        if usize::from(header.length) != message.len() {
            return Err(DecodeError::Length { said: header.length, given: message.len() });
        }
        // Where one message comes, so does another: room for both at once is not moved in between.
        let messages = if columns.is_empty() { 2 } else { 1 };
        columns.reserve(messages * message.len() / USUAL_RECORD);
        let mut reading = Reading { decoder: self, columns, decoded: Decoded::empty(header), data_records: 0 };
        reading.sets(message)?;
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
        Self { header, runs: Vec::new(), losses: Vec::new(), marks: Vec::new(), foreign: 0, unknown_sets: 0, lost: 0 }
    }
}

/// A message that is being read.
struct Reading<'a> {
    decoder: &'a mut Decoder,
    columns: &'a mut FlowColumns,
    decoded: Decoded,
    data_records: u32,
}

impl Reading<'_> {
    fn sets(&mut self, message: &[u8]) -> Result<(), DecodeError> {
        let mut rest = Reader(&message[HEADER_LENGTH..]);
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
                FIRST_DATA_SET.. => self.data(set, body, message.len() - rest.left() - body.left())?,
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
            let is_own_layout = is_own_layout(id, &template.columns);
            self.decoder.keep(domain, id, Template { is_own_layout, ..template })?;
        }
        Ok(())
    }

    /// A set of data, whose records begin `at` so many octets into the message.
    fn data(&mut self, set: u16, mut body: Reader<'_>, at: usize) -> Result<(), DecodeError> {
        let domain = self.decoded.header.domain;
        let Decoder { templates, group_sets, .. } = &mut *self.decoder;
        let Some(template) = templates.get(&(domain, set)) else {
            self.decoded.unknown_sets += 1;
            return Ok(());
        };
        if template.kind == Kind::Flows {
            let groups = |number| group_sets.get(&(domain, number)).cloned().unwrap_or_default();
            let (records, octets) = template.plan.take(set, body.0, template.shortest, groups, self.columns)?;
            let own = template.is_own_layout.then(|| (set, at..at + octets));
            self.decoded.runs.push(Run { records, own });
            self.data_records = self.data_records.wrapping_add(records as u32);
            return Ok(());
        }
        // Fewer octets than the shortest record are padding.
        while body.left() >= template.shortest {
            match template.kind {
                Kind::GroupSets => group_set(template, &mut body, set, (domain, &mut *group_sets))?,
                Kind::Marks => self.decoded.marks.push(mark(template, &mut body, set)?),
                Kind::Losses => self.decoded.losses.push(told_loss(template, &mut body, set)?),
                Kind::Flows | Kind::Foreign | Kind::Options => skip(template, &mut body, set)?,
            }
            self.decoded.foreign += u64::from(template.kind == Kind::Foreign);
            self.data_records = self.data_records.wrapping_add(1);
        }
        Ok(())
    }
}

/// The dictionary of a session: by domain and number.
type GroupSets = HashMap<(u32, u64), Vec<SecurityGroupId>>;

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
