//! Conversations: the records of two ends, a protocol and two ports, added up whoever saw them.
//!
//! Owns which conversations are settled, and how those of a part lie in slices. One is settled when no record more can make it
//! lopsided: both sides sent and both ends were seen, or it left the network; or something of it was rejected. **What is settled
//! by some of its records is settled by all of them**, so that of a settled one nothing need be kept but its ends, in the order
//! that makes them few octets; and of one that is open everything is, for other parts may have the rest of it. All of a
//! conversation is in the same slice of every part. However many there are, few are in memory: more are written as a further
//! run behind the first one, and one conversation may be in several runs as it may be in several parts.

use std::{collections::HashMap, io};

use arrow_array::{RecordBatch, StringArray, TimestampMillisecondArray, UInt8Array, UInt16Array, UInt64Array};
use arrow_schema::ArrowError;
use foldhash::fast::FixedState;
use lucarne_model::{EndReason, flow::Path};
use zstd::bulk::{Compressor, Decompressor};

use super::{
    file::SumsError,
    missing, peer_of,
    peers::{Rest, is_responders, numbers, planes},
    typed,
};
use crate::columns::path_name;

/// How many slices there are.
pub(crate) const SLICES: usize = 16;
/// Conversations that are held while a part is written: some 60 MB.
pub(super) const OF_PART: usize = 7 << 16;
/// Of Zstandard: as for a part that is likely to stay.
const EFFORT: i32 = 6;

/// The columns of records that conversations are made of.
pub(crate) const GROUNDS: [&str; 15] = [
    "vpc",
    "instance",
    "verdict",
    "end_reason",
    "direction",
    "path",
    "side",
    "start",
    "end",
    "packets",
    "source",
    "destination",
    "source_port",
    "destination_port",
    "protocol",
];

/// What names a conversation. In the order in which they lie: with what others have in common first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ends {
    /// Its number among the names.
    pub(crate) vpc: u32,
    pub(crate) protocol: u8,
    /// Of the one who was asked.
    pub(crate) port: u16,
    pub(crate) responder: u128,
    pub(crate) initiator: u128,
    pub(crate) initiator_port: u16,
}

impl Ends {
    /// The slice that all of the conversation is in. Part of the files' version.
    fn slice(&self) -> usize {
        let fold = |address: u128| address as u64 ^ (address >> 64) as u64;
        let mixed = fold(self.initiator).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ fold(self.responder);
        (mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as usize % SLICES
    }

    fn group(&self) -> (u32, u8, u16, u128) {
        (self.vpc, self.protocol, self.port, self.responder)
    }
}

/// What is known of a conversation by some of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Sent by the one who began and seen to leave, seen to arrive; of the answers those that left, that arrived.
    pub(crate) packets: [u64; 4],
    /// Milliseconds.
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// The numbers of the names of who began and of who was asked, where their ends have records; else 0.
    pub(crate) instances: [u32; 2],
    /// There is a record after which the flow does not go on.
    pub(crate) ended: bool,
    /// Some of it was not between two instances.
    pub(crate) outside: bool,
    pub(crate) rejected: bool,
}

impl Share {
    /// Whether it is not lopsided, whatever other records there are.
    pub(crate) fn is_settled(&self) -> bool {
        let [sent, arrived, answers_sent, answers_arrived] = self.packets.map(|packets| packets > 0);
        let both_ways = (sent || arrived) && (answers_sent || answers_arrived);
        self.rejected || both_ways && (self.outside || !self.instances.contains(&0))
    }

    /// Adds other records of the conversation; of two instances at one end the one counts whose name is `later`.
    pub(crate) fn add(&mut self, other: &Self, later: impl Fn(u32, u32) -> u32) {
        for (packets, more) in self.packets.iter_mut().zip(other.packets) {
            *packets = packets.wrapping_add(more);
        }
        for (instance, other) in self.instances.iter_mut().zip(other.instances) {
            *instance = if *instance == 0 || other == 0 { *instance | other } else { later(*instance, other) };
        }
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.ended |= other.ended;
        self.outside |= other.outside;
        self.rejected |= other.rejected;
    }
}

/// Names of VPCs and instances, numbered from 1 on.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Box<str>, u32, FixedState>,
    texts: Vec<Box<str>>,
}

impl Names {
    fn text(&self, number: u32) -> &str {
        self.texts.get((number as usize).wrapping_sub(1)).map_or("", AsRef::as_ref)
    }

    /// The number of a name, which is likely to be that of the `last` row's.
    fn number(&mut self, text: &str, last: &mut u32) -> u32 {
        if self.text(*last) != text {
            *last = match self.numbers.get(text) {
                Some(number) => *number,
                None => {
                    self.texts.push(text.into());
                    let number = self.texts.len() as u32;
                    self.numbers.insert(text.into(), number);
                    number
                }
            };
        }
        *last
    }
}

/// Records that are added up to conversations.
#[derive(Debug)]
pub(crate) struct Conversations {
    most: usize,
    names: Names,
    shares: HashMap<Ends, Share, FixedState>,
    written: Slices,
}

/// The conversations of records, as they lie.
#[derive(Debug)]
pub(crate) struct Slices {
    /// Of VPCs and instances, by their numbers from 1 on.
    pub(crate) names: Vec<Box<str>>,
    /// By slice, the runs of open ones.
    pub(crate) open: Vec<Vec<u8>>,
    /// By slice, the runs of settled ones.
    pub(crate) settled: Vec<Vec<u8>>,
}

impl Conversations {
    /// Octets that one takes in memory, with the room that a table of them has left.
    pub(crate) const EACH: usize = size_of::<(Ends, Share)>() + 1;

    /// Holds no more than so many at once.
    pub(crate) fn holding(most: usize) -> Self {
        let none = || vec![Vec::new(); SLICES];
        let written = Slices { names: Vec::new(), open: none(), settled: none() };
        Self { most, names: Names::default(), shares: HashMap::default(), written }
    }

    /// Adds records, of which the columns that are [`GROUNDS`] are looked at.
    pub(crate) fn add(&mut self, records: &RecordBatch) -> Result<(), ArrowError> {
        let text = |name| typed::<StringArray>(records, name);
        let (vpcs, instances, verdicts, reasons) =
            (text("vpc")?, text("instance")?, text("verdict")?, text("end_reason")?);
        let (directions, paths, sides) = (text("direction")?, text("path")?, text("side")?);
        let ends = [text("source")?, text("destination")?];
        let port = |name| typed::<UInt16Array>(records, name);
        let ports = [port("source_port")?, port("destination_port")?];
        let protocols: &UInt8Array = typed(records, "protocol")?;
        let packets: &UInt64Array = typed(records, "packets")?;
        let time = |name| typed::<TimestampMillisecondArray>(records, name);
        let (starts, last_ends) = (time("start")?, time("end")?);
        let (mut last_vpc, mut last_instance) = (0, 0);
        for row in 0..records.num_rows() {
            let answers = is_responders(sides.value(row));
            let leaves = directions.value(row) == "egress";
            let address = |end: usize| peer_of(ends[end].value(row)).ok_or_else(|| missing("source"));
            let (initiator, responder) = if answers { (1, 0) } else { (0, 1) };
            let of = Ends {
                vpc: self.names.number(vpcs.value(row), &mut last_vpc),
                protocol: protocols.value(row),
                port: ports[responder].value(row),
                responder: address(responder)?,
                initiator: address(initiator)?,
                initiator_port: ports[initiator].value(row),
            };
            let instance = self.names.number(instances.value(row), &mut last_instance);
            let mut share = Share {
                packets: [0; 4],
                first: starts.value(row),
                last: last_ends.value(row),
                instances: if answers == leaves { [0, instance] } else { [instance, 0] },
                ended: reasons.value(row) != EndReason::ActiveSlice.name(),
                outside: !is_inside(paths.value(row)),
                rejected: verdicts.value(row) == "reject",
            };
            share.packets[2 * usize::from(answers) + usize::from(!leaves)] = packets.value(row);
            let names = &self.names;
            let later = |a, b| if names.text(a) < names.text(b) { b } else { a };
            self.shares.entry(of).and_modify(|known| known.add(&share, later)).or_insert(share);
            if self.shares.len() >= self.most {
                self.write(false)?;
            }
        }
        Ok(())
    }

    /// Octets that are in memory.
    pub(crate) fn size(&self) -> usize {
        let written = self.written.open.iter().chain(&self.written.settled).map(Vec::len).sum::<usize>();
        self.shares.capacity() * Self::EACH + written
    }

    /// Writes a run of what is settled; and of the rest too, if that is much.
    fn write(&mut self, all: bool) -> io::Result<()> {
        let mut settled = vec![Vec::new(); SLICES];
        self.shares.retain(|ends, share| {
            if share.is_settled() {
                settled[ends.slice()].push(*ends);
            }
            !share.is_settled()
        });
        let mut open = vec![Vec::new(); SLICES];
        if all || 2 * self.shares.len() > self.most {
            self.shares.drain().for_each(|(ends, share)| open[ends.slice()].push((ends, share)));
        }
        for (run, written) in settled.iter_mut().zip(&mut self.written.settled).filter(|(run, _)| !run.is_empty()) {
            run.sort_unstable();
            write_settled(run, written)?;
        }
        for (run, written) in open.iter_mut().zip(&mut self.written.open).filter(|(run, _)| !run.is_empty()) {
            run.sort_unstable_by_key(|(ends, _)| *ends);
            write_open(run, written)?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<Slices> {
        self.write(true)?;
        Ok(Slices { names: self.names.texts, ..self.written })
    }
}

fn is_inside(path: &str) -> bool {
    [Path::SameHost, Path::OtherHost, Path::OtherLocation].iter().any(|inside| path_name(*inside) == path)
}

/// Columns that have a number for each group of conversations with one responder: VPC, protocol and port, the two halves of
/// the responder's difference to the one before, and how many they are.
const OF_GROUPS: usize = 5;
/// And those with one for each conversation: the two halves of the initiator's difference to the one before in the group,
/// and its port, as a difference where the initiator is the same.
const OF_ENDS: usize = OF_GROUPS + 3;
/// And, of those that are open: packets, first and last, instances, and what is true of it.
const OF_SHARES: usize = 9;
const ENDED: u64 = 1;
const OUTSIDE: u64 = 2;

/// The octets of a run: how many conversations and groups it has, its first initiator, and its columns.
fn write_settled(run: &[Ends], octets: &mut Vec<u8>) -> io::Result<()> {
    let least = run.iter().map(|ends| ends.initiator).min().unwrap_or(0);
    let mut columns = [const { Vec::new() }; OF_ENDS];
    let mut responder_before = 0;
    for group in run.chunk_by(|a, b| a.group() == b.group()) {
        let Some(Ends { vpc, protocol, port, responder, .. }) = group.first() else { continue };
        let behind = responder.wrapping_sub(responder_before);
        responder_before = *responder;
        let service = u64::from(*protocol) << 16 | u64::from(*port);
        let numbers = [u64::from(*vpc), service, (behind >> 64) as u64, behind as u64, group.len() as u64];
        columns.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
        let (mut initiator, mut port) = (least, 0);
        for ends in group {
            let behind = ends.initiator.wrapping_sub(initiator);
            let port_before = if behind == 0 { port } else { 0 };
            (initiator, port) = (ends.initiator, ends.initiator_port);
            let numbers = [(behind >> 64) as u64, behind as u64, u64::from(port.wrapping_sub(port_before))];
            columns[OF_GROUPS..].iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
        }
    }
    octets.extend([run.len() as u32, columns[0].len() as u32].map(u32::to_le_bytes).concat());
    octets.extend(least.to_le_bytes());
    write_columns(&columns, octets)
}

/// The same, its earliest start, and more columns.
fn write_open(run: &[(Ends, Share)], octets: &mut Vec<u8>) -> io::Result<()> {
    let ends: Vec<Ends> = run.iter().map(|(ends, _)| *ends).collect();
    write_settled(&ends, octets)?;
    let earliest = run.iter().map(|(_, share)| share.first).min().unwrap_or(0);
    let mut columns = [const { Vec::new() }; OF_SHARES];
    for (_, Share { packets, first, last, instances, ended, outside, rejected: _ }) in run {
        let is_so = |so: bool, flag: u64| if so { flag } else { 0 };
        let [sent, arrived, answers_sent, answers_arrived] = *packets;
        let numbers = [
            sent,
            arrived,
            answers_sent,
            answers_arrived,
            first.wrapping_sub(earliest) as u64,
            last.wrapping_sub(*first) as u64,
            instances[0].into(),
            instances[1].into(),
            is_so(*ended, ENDED) | is_so(*outside, OUTSIDE),
        ];
        columns.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
    }
    octets.extend(earliest.to_le_bytes());
    write_columns(&columns, octets)
}

/// Of a column that is all zeros nothing but that it has no octets.
fn write_columns(columns: &[Vec<u64>], octets: &mut Vec<u8>) -> io::Result<()> {
    let mut packer = Compressor::new(EFFORT)?;
    for column in columns {
        let planes = planes(column);
        let packed = if planes.is_empty() { planes } else { packer.compress(&planes)? };
        octets.extend((packed.len() as u32).to_le_bytes());
        octets.extend(packed);
    }
    Ok(())
}

/// The runs of a slice's octets, one after the other.
pub(crate) struct Runs<'a> {
    rest: Rest<'a>,
    unpacker: Decompressor<'static>,
}

impl<'a> Runs<'a> {
    pub(crate) fn of(octets: &'a [u8]) -> io::Result<Self> {
        Ok(Self { rest: Rest(octets), unpacker: Decompressor::new()? })
    }

    /// The next run of settled ones; none when all were read.
    pub(crate) fn settled(&mut self) -> Result<Option<Vec<Ends>>, SumsError> {
        if self.rest.0.is_empty() {
            return Ok(None);
        }
        let [count, groups] = [self.rest.number()?, self.rest.number()?];
        let least = u128::from_le_bytes(self.rest.octets()?);
        if count > OF_PART || groups > count {
            return Err(SumsError::Damaged);
        }
        let mut columns = [const { Vec::new() }; OF_ENDS];
        for (at, column) in columns.iter_mut().enumerate() {
            *column = self.column(if at < OF_GROUPS { groups } else { count })?;
        }
        ends_of(&columns, least).map(Some).ok_or(SumsError::Damaged)
    }

    /// The next run of open ones.
    pub(crate) fn open(&mut self) -> Result<Option<Vec<(Ends, Share)>>, SumsError> {
        let Some(ends) = self.settled()? else { return Ok(None) };
        let earliest = i64::from_le_bytes(self.rest.octets()?);
        let mut columns = [const { Vec::new() }; OF_SHARES];
        for column in &mut columns {
            *column = self.column(ends.len())?;
        }
        let [sent, arrived, answers_sent, answers_arrived, starts, durations, began, asked, is_so] = columns;
        let share = |row: usize| {
            let first = earliest.wrapping_add(starts[row] as i64);
            Some(Share {
                packets: [sent[row], arrived[row], answers_sent[row], answers_arrived[row]],
                first,
                last: first.wrapping_add(durations[row] as i64),
                instances: [u32::try_from(began[row]).ok()?, u32::try_from(asked[row]).ok()?],
                ended: is_so[row] & ENDED != 0,
                outside: is_so[row] & OUTSIDE != 0,
                rejected: false,
            })
        };
        let run = ends.into_iter().enumerate().map(|(row, ends)| Some((ends, share(row)?)));
        run.collect::<Option<Vec<_>>>().map(Some).ok_or(SumsError::Damaged)
    }

    fn column(&mut self, count: usize) -> Result<Vec<u64>, SumsError> {
        let length = self.rest.number()?;
        let packed = self.rest.take(length)?;
        if packed.is_empty() {
            return Ok(vec![0; count]);
        }
        let planes = self.unpacker.decompress(packed, count * size_of::<u64>())?;
        numbers(&planes, count).ok_or(SumsError::Damaged)
    }
}

fn ends_of(columns: &[Vec<u64>; OF_ENDS], least: u128) -> Option<Vec<Ends>> {
    let [vpcs, services, high, low, counts, initiators_high, initiators_low, ports] = columns;
    let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
    let mut all = Vec::with_capacity(ports.len());
    let mut responder = 0_u128;
    for group in 0..vpcs.len() {
        responder = responder.wrapping_add(wide(high[group], low[group]));
        let (mut initiator, mut initiator_port) = (least, 0_u16);
        for _ in 0..counts[group] {
            let at = all.len();
            let behind = wide(*initiators_high.get(at)?, initiators_low[at]);
            let port_before = if behind == 0 { initiator_port } else { 0 };
            initiator = initiator.wrapping_add(behind);
            initiator_port = port_before.wrapping_add(u16::try_from(ports[at]).ok()?);
            all.push(Ends {
                vpc: u32::try_from(vpcs[group]).ok()?,
                protocol: u8::try_from(services[group] >> 16).ok()?,
                port: services[group] as u16,
                responder,
                initiator,
                initiator_port,
            });
        }
    }
    (all.len() == ports.len()).then_some(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_ends() -> impl Strategy<Value = Ends> {
        let address = || prop_oneof![any::<u128>(), (0..5_u128).prop_map(|last| 0xffff_0a00_0000 + last)];
        let small = (1..4_u32, any::<u8>(), 0..3_u16);
        (small, address(), address(), prop_oneof![0..9_u16, any::<u16>()]).prop_map(
            |((vpc, protocol, port), responder, initiator, initiator_port)| Ends {
                vpc,
                protocol,
                port,
                responder,
                initiator,
                initiator_port,
            },
        )
    }

    fn any_share() -> impl Strategy<Value = Share> {
        let times = (any::<i64>(), 0..4_000_000_i64);
        (any::<[u64; 4]>(), times, any::<[u32; 2]>(), any::<[bool; 2]>()).prop_map(
            |(packets, (first, lasts), instances, [ended, outside])| Share {
                packets,
                first,
                last: first.wrapping_add(lasts),
                instances,
                ended,
                outside,
                rejected: false,
            },
        )
    }

    proptest! {
        #[test]
        fn runs_come_back_as_they_were(
            runs in prop::collection::vec(prop::collection::btree_map(any_ends(), any_share(), 1..60), 1..4)
        ) {
            let runs: Vec<Vec<(Ends, Share)>> = runs.into_iter().map(|run| run.into_iter().collect()).collect();
            let (mut open, mut settled) = (Vec::new(), Vec::new());
            for run in &runs {
                write_open(run, &mut open).unwrap();
                write_settled(&run.iter().map(|(ends, _)| *ends).collect::<Vec<_>>(), &mut settled).unwrap();
            }
            let (mut open, mut settled) = (Runs::of(&open).unwrap(), Runs::of(&settled).unwrap());
            for run in runs {
                prop_assert_eq!(settled.settled().unwrap().unwrap(), run.iter().map(|(ends, _)| *ends).collect::<Vec<_>>());
                prop_assert_eq!(open.open().unwrap().unwrap(), run);
            }
            prop_assert!(open.open().unwrap().is_none() && settled.settled().unwrap().is_none());
        }

        /// Damage is found by its digest; and what is read all the same makes nobody panic.
        #[test]
        fn octets_of_any_kind_are_read_or_refused(
            run in prop::collection::btree_map(any_ends(), any_share(), 1..20), at: prop::sample::Index, octet: u8
        ) {
            let mut octets = Vec::new();
            write_open(&run.into_iter().collect::<Vec<_>>(), &mut octets).unwrap();
            let at = at.index(octets.len());
            octets[at] = octet;
            for octets in [&octets[..], &octets[..at]] {
                let mut runs = Runs::of(octets).unwrap();
                while let Ok(Some(_)) = runs.open() {}
            }
        }

        /// Adding records to a settled conversation leaves it so.
        #[test]
        fn what_some_records_settle_all_of_them_settle(some in any_share(), others in any_share(), rejected: bool) {
            let mut all = Share { rejected, packets: some.packets.map(|packets| packets >> 1), ..some };
            let others = Share { packets: others.packets.map(|packets| packets >> 1), ..others };
            let was_settled = all.is_settled();
            all.add(&others, u32::max);
            prop_assert!(all.is_settled() || !was_settled && !others.is_settled());
        }
    }
}
