//! DNS (RFC 1035) as the switch speaks it: the resolver of a guest's own network, and of nothing else.
//!
//! Owns the decision what to answer, and the answer. Who has which name is [`Names`]' knowledge; the question is read by
//! `smoltcp`. Names below [`HostName::DOMAIN`] and addresses of the VPC are answered; whatever else is refused and never
//! given on, so that no guest asks through the operator's network. Answers hold for a few seconds, because names follow their
//! instances, and that there is no such name is not to be remembered at all: as a resolver does it, that goes out without the
//! SOA record that an authority would owe. Every answer fits into the 512 octets of a datagram without EDNS, so nothing is
//! truncated and there is no TCP.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::Ipv4Addr;

use lucarne_flows::FlowKey;
use lucarne_model::{HostName, security_group::UDP};
use smoltcp::wire::{DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode};

use crate::{
    names::Names,
    parse::{Headers, word},
};

/// Where the resolver is on every link, beside [`Cidr::resolver`](lucarne_model::Cidr::resolver).
pub(crate) const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
pub(crate) const PORT: u16 = 53;
/// For how many seconds an answer may be kept.
const TIME_TO_LIVE: u32 = 5;
const LONGEST_ANSWER: u16 = 512;
const LONGEST_NAME: usize = 255;
const HEADER: usize = 12;
/// What an answer repeats of a question's flags: the operation, and whether recursion is desired.
const REPEATED: u16 = 0x7900;
const IN: u16 = 1;
const PTR: u16 = 12;
const OPT: u16 = 41;
const ANY: u16 = 255;

/// Whether a guest's packet is a question, if it goes to a resolver.
pub(crate) const fn is_question(headers: &Headers) -> bool {
    headers.protocol == UDP && headers.destination_port == PORT && !headers.fragment
}

/// Whether the flow has DNS' port.
pub(crate) const fn is_exchange(key: FlowKey) -> bool {
    key.protocol() == UDP && key.remote_port() == PORT
}

/// The message that answers a guest's, if it needs one.
pub(crate) fn answer(message: &[u8], names: &Names) -> Option<Vec<u8>> {
    let packet = DnsPacket::new_checked(message).ok()?;
    if packet.flags().contains(DnsFlags::RESPONSE) {
        return None;
    }
    Some(match read(message, &packet) {
        Ok(question) => write(message, &question, &decide(&question, names)),
        Err(code) => header(message, code, [0; 3]).to_vec(),
    })
}

/// A name in lower case as it travels: each label behind its length.
pub(crate) fn encode(labels: &[&str]) -> Vec<u8> {
    // Labels have at most 63 octets.
    let encoded = labels.iter().flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    encoded.chain([0]).collect()
}

struct Question<'a> {
    /// As it came, to be repeated: clients compare, letter by letter.
    text: &'a [u8],
    /// In lower case.
    labels: Vec<String>,
    kind: u16,
    /// Of which some may be told before others.
    turn: usize,
    /// The version of EDNS (RFC 6891) that the client speaks.
    edns: Option<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Addresses(Vec<Ipv4Addr>),
    Name(HostName),
    /// There is such a name, and nothing of this kind.
    Nothing,
    NoSuchName,
    Refused,
    UnknownVersion,
}

fn read<'a>(message: &'a [u8], packet: &DnsPacket<&[u8]>) -> Result<Question<'a>, DnsRcode> {
    let malformed = || DnsRcode::FormErr;
    if packet.opcode() != DnsOpcode::Query {
        return Err(DnsRcode::NotImp);
    }
    if packet.question_count() != 1 {
        return Err(malformed());
    }
    let questions = &message[HEADER..];
    let (behind, question) = DnsQuestion::parse(questions).map_err(|_| malformed())?;
    let labels: Result<Vec<&[u8]>, _> = packet.parse_name(question.name).collect();
    let labels = labels.map_err(|_| malformed())?;
    // A pointer would lead to what an answer does not repeat.
    let length = 1 + labels.iter().map(|label| 1 + label.len()).sum::<usize>();
    if length != question.name.len() || length > LONGEST_NAME {
        return Err(malformed());
    }
    Ok(Question {
        text: &questions[..questions.len() - behind.len()],
        labels: labels.into_iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect(),
        kind: question.type_.into(),
        turn: packet.transaction_id().into(),
        edns: edns(packet, behind),
    })
}

/// Clients put the record that says so first behind the question.
fn edns(packet: &DnsPacket<&[u8]>, behind: &[u8]) -> Option<u8> {
    let counts = (packet.answer_record_count(), packet.authority_record_count(), packet.additional_record_count());
    match (counts, behind) {
        // The root's name, kind, size, upper half of the code, version.
        ((0, 0, 1..), [0, high, low, _, _, _, version, ..]) if u16::from_be_bytes([*high, *low]) == OPT => {
            Some(*version)
        }
        _ => None,
    }
}

fn decide(question: &Question<'_>, names: &Names) -> Outcome {
    if question.edns.is_some_and(|version| version > 0) {
        return Outcome::UnknownVersion;
    }
    let labels: Vec<&str> = question.labels.iter().map(String::as_str).collect();
    match *labels {
        [HostName::DOMAIN] => Outcome::Nothing,
        [label, HostName::DOMAIN] => match names.addresses(label, question.turn) {
            none if none.is_empty() => Outcome::NoSuchName,
            addresses if question.asks(DnsQueryType::A.into()) => Outcome::Addresses(addresses),
            _ => Outcome::Nothing,
        },
        [.., HostName::DOMAIN] => Outcome::NoSuchName,
        [d, c, b, a, "in-addr", "arpa"] => match format!("{a}.{b}.{c}.{d}").parse() {
            Ok(address) if names.covers(address) => match names.host_name(address) {
                Some(name) if question.asks(PTR) => Outcome::Name(name.clone()),
                Some(_) => Outcome::Nothing,
                None => Outcome::NoSuchName,
            },
            _ => Outcome::Refused,
        },
        _ => Outcome::Refused,
    }
}

impl Question<'_> {
    fn asks(&self, kind: u16) -> bool {
        self.kind == kind || self.kind == ANY
    }
}

impl Outcome {
    const fn code(&self) -> DnsRcode {
        match self {
            // The code that says so has its upper half elsewhere, and nothing in the lower one.
            Self::Addresses(_) | Self::Name(_) | Self::Nothing | Self::UnknownVersion => DnsRcode::NoError,
            Self::NoSuchName => DnsRcode::NXDomain,
            Self::Refused => DnsRcode::Refused,
        }
    }

    fn records(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Addresses(all) => all.iter().map(|one| record(DnsQueryType::A.into(), &one.octets())).collect(),
            Self::Name(name) => vec![record(PTR, &encode(&[name.as_str(), HostName::DOMAIN]))],
            Self::Nothing | Self::NoSuchName | Self::Refused | Self::UnknownVersion => Vec::new(),
        }
    }
}

/// A record of the name that was asked for.
fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    // Points at the name behind the header (RFC 1035 section 4.1.4).
    const NAME: u16 = 0xc000 | HEADER as u16;
    let [name, kind, class] = [NAME, kind, IN].map(u16::to_be_bytes);
    [&name[..], &kind, &class, &TIME_TO_LIVE.to_be_bytes(), &(data.len() as u16).to_be_bytes(), data].concat()
}

/// What a message begins with; `counts` are those of questions, answers and records beside them.
fn header(question: &[u8], code: DnsRcode, [questions, answers, beside]: [u16; 3]) -> [u8; HEADER] {
    let says = DnsFlags::RESPONSE | DnsFlags::RECURSION_AVAILABLE;
    let flags = word(question, 2) & REPEATED | says.bits() | u16::from(u8::from(code));
    let mut header = [0; HEADER];
    let words = [word(question, 0), flags, questions, answers, 0, beside];
    header.chunks_exact_mut(2).zip(words).for_each(|(into, word)| into.copy_from_slice(&word.to_be_bytes()));
    header
}

fn write(message: &[u8], question: &Question<'_>, outcome: &Outcome) -> Vec<u8> {
    let records = outcome.records();
    let counts = [1, records.len() as u16, question.edns.is_some().into()];
    let mut answer = [&header(message, outcome.code(), counts), question.text, &records.concat()].concat();
    if question.edns.is_some() {
        let upper_code = u8::from(*outcome == Outcome::UnknownVersion);
        answer.push(0);
        answer.extend([OPT, LONGEST_ANSWER].map(u16::to_be_bytes).concat());
        answer.extend([upper_code, 0, 0, 0, 0, 0]);
    }
    answer
}
