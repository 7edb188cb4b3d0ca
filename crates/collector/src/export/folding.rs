//! Folding a network's records as one router, however many they are.
//!
//! Owns that no more than [`Gathered::holding`] says are in memory, but where one flow alone has more. More go to a [`Scratch`]
//! file, parted by their flows, since all records of a flow are needed to fold it; what is folded of each share is in order, and
//! goes back to the file until the shares are merged. The result is that of
//! [`as_one_router`](lucarne_flows::router_view::as_one_router).

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    io, mem,
    path::PathBuf,
};

use lucarne_flows::router_view::{PortNaming, Ports, RouterPort, RouterRecord};
use lucarne_model::TenantFlowRecord;

use super::scratch::{Block, Scratch};

/// Shares of the first parting; one that is too large is parted again.
const SHARES: usize = 64;
/// How often shares are parted: then a flow's number has no more digits by which to.
const PARTINGS: u32 = u64::BITS / SHARES.ilog2();
/// Records that are handed on at once.
const BATCH: usize = 4096;

/// Records that come in.
pub(super) struct Gathered {
    most: usize,
    folder: PathBuf,
    ports: Ports,
    held: Vec<TenantFlowRecord>,
    count: usize,
    /// Those that are not held; none as long as all are.
    parted: Option<(Scratch, Vec<Share>)>,
}

/// Some flows' records, in blocks in the order in which they came.
#[derive(Clone, Debug, Default)]
struct Share {
    blocks: Vec<Block>,
}

impl Share {
    fn count(&self) -> usize {
        self.blocks.iter().map(|block| block.count).sum()
    }
}

impl Gathered {
    /// Nothing yet; of records that come so many are held, and others are in the folder.
    pub(super) fn holding(most: usize, folder: PathBuf, naming: PortNaming) -> Self {
        let ports = Ports::named_by(naming);
        Self { most: most.max(1), folder, ports, held: Vec::new(), count: 0, parted: None }
    }

    pub(super) fn push(&mut self, record: TenantFlowRecord) -> io::Result<()> {
        self.ports.learn(&record);
        self.held.push(record);
        self.count += 1;
        if self.held.len() > self.most { self.part() } else { Ok(()) }
    }

    fn part(&mut self) -> io::Result<()> {
        let (scratch, shares) = match &mut self.parted {
            Some(parted) => parted,
            none => none.insert((Scratch::within(&self.folder)?, vec![Share::default(); SHARES])),
        };
        part(mem::take(&mut self.held), 0, scratch, shares)
    }

    /// All that came, folded.
    pub(super) fn fold(mut self) -> io::Result<Folded> {
        if self.parted.is_none() {
            let all = self.ports.fold(self.held);
            let ports = ports(&all);
            return Ok(Folded { ports, from: From::Memory(all.into_iter()) });
        }
        self.part()?;
        let Self { most, folder, ports, count, parted, .. } = self;
        let Some((mut scratch, shares)) = parted else { return Err(io::ErrorKind::NotFound.into()) };
        let mut routed = Scratch::within(&folder)?;
        // Of each share a block is in memory while they are merged; shares are half full on the average.
        let of_block = most.saturating_mul(most) / (2 * count.max(1));
        let (mut runs, mut seen) = (Vec::new(), BTreeSet::new());
        let mut rest: Vec<(u32, Share)> = shares.into_iter().map(|share| (1, share)).collect();
        while let Some((partings, share)) = rest.pop() {
            if share.count() > most && partings < PARTINGS {
                rest.extend(part_again(&share, partings, most, &mut scratch)?.into_iter().map(|of| (partings + 1, of)));
                continue;
            }
            let mut records = Vec::with_capacity(share.count());
            for block in share.blocks {
                records.extend(scratch.get::<TenantFlowRecord>(block)?);
            }
            let folded = ports.fold(records);
            seen.extend(self::ports(&folded));
            let blocks = folded.chunks(of_block.clamp(1, BATCH)).map(|chunk| routed.put(chunk));
            runs.push(Run { blocks: blocks.collect::<io::Result<_>>()?, read: Vec::new().into_iter() });
        }
        Ok(Folded { ports: seen, from: From::Runs(Merging::begin(routed, runs)?) })
    }
}

/// Puts records into shares by their flows, by other digits each time.
fn part(records: Vec<TenantFlowRecord>, partings: u32, scratch: &mut Scratch, shares: &mut [Share]) -> io::Result<()> {
    let mut parted = vec![Vec::new(); shares.len()];
    for record in records {
        // Flows' numbers are hashes, but for those of a made-up exporter.
        let mixed = record.flow_id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let digit = mixed.rotate_left((partings + 1) * SHARES.ilog2()) as usize % SHARES;
        parted[digit].push(record);
    }
    for (records, share) in parted.iter().zip(shares).filter(|(records, _)| !records.is_empty()) {
        share.blocks.push(scratch.put(records)?);
    }
    Ok(())
}

fn part_again(share: &Share, partings: u32, most: usize, scratch: &mut Scratch) -> io::Result<Vec<Share>> {
    let mut shares = vec![Share::default(); SHARES];
    let mut held: Vec<TenantFlowRecord> = Vec::new();
    for block in &share.blocks {
        held.extend(scratch.get::<TenantFlowRecord>(*block)?);
        if held.len() >= most {
            part(mem::take(&mut held), partings, scratch, &mut shares)?;
        }
    }
    part(held, partings, scratch, &mut shares)?;
    shares.retain(|share| !share.blocks.is_empty());
    Ok(shares)
}

fn ports(routed: &[RouterRecord]) -> BTreeSet<RouterPort> {
    let ports = routed.iter().flat_map(|routed| [routed.input, routed.output]);
    ports.filter(|port| *port != RouterPort::Nowhere).collect()
}

/// Folded records, in their order.
pub(super) struct Folded {
    ports: BTreeSet<RouterPort>,
    from: From,
}

enum From {
    Memory(std::vec::IntoIter<RouterRecord>),
    Runs(Merging),
}

impl Folded {
    /// All ports that records have, in their order; as [`lucarne_flows::router_view::numbered_ports`] gives them.
    pub(super) fn ports(&self) -> Vec<RouterPort> {
        self.ports.iter().copied().collect()
    }

    /// The next records; none when there are no more.
    pub(super) fn next_batch(&mut self) -> io::Result<Vec<RouterRecord>> {
        match &mut self.from {
            From::Memory(all) => Ok(all.take(BATCH).collect()),
            From::Runs(merging) => {
                let mut batch = Vec::with_capacity(BATCH);
                while batch.len() < BATCH
                    && let Some(record) = merging.next()?
                {
                    batch.push(record);
                }
                Ok(batch)
            }
        }
    }
}

/// A share in order.
struct Run {
    blocks: VecDeque<Block>,
    read: std::vec::IntoIter<RouterRecord>,
}

/// Shares that are merged.
struct Merging {
    scratch: Scratch,
    runs: Vec<Run>,
    /// The first record of each, and which it is of.
    heads: BinaryHeap<Reverse<Head>>,
}

struct Head {
    record: RouterRecord,
    run: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.record.order().cmp(&other.record.order()).then(self.run.cmp(&other.run))
    }
}

impl Merging {
    fn begin(scratch: Scratch, runs: Vec<Run>) -> io::Result<Self> {
        let mut merging = Self { scratch, runs, heads: BinaryHeap::new() };
        (0..merging.runs.len()).try_for_each(|run| merging.refill(run))?;
        Ok(merging)
    }

    fn refill(&mut self, at: usize) -> io::Result<()> {
        let Some(run) = self.runs.get_mut(at) else { return Ok(()) };
        if run.read.len() == 0
            && let Some(block) = run.blocks.pop_front()
        {
            run.read = self.scratch.get::<RouterRecord>(block)?.into_iter();
        }
        self.heads.extend(run.read.next().map(|record| Reverse(Head { record, run: at })));
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<RouterRecord>> {
        let Some(Reverse(Head { record, run })) = self.heads.pop() else { return Ok(None) };
        self.refill(run)?;
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use lucarne_flows::router_view::{as_one_router, numbered_ports};
    use lucarne_model::{
        FlowRecord, SubnetId,
        flow::{Direction, Verdict},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::test_records::record;

    /// Records of few flows, so that each has several at both of its ends.
    fn of_flow((number, flow, leaves, accepted): (u64, u64, bool, bool)) -> TenantFlowRecord {
        let record = record(number);
        TenantFlowRecord::from(&FlowRecord {
            flow_id: flow,
            source: [10, 0, 0, flow as u8].into(),
            destination: [10, 0, 1, flow as u8].into(),
            source_port: 1,
            vpc: super::super::tests::vpc(),
            subnet: SubnetId::from_bits((flow % 5).into()),
            protocol: 6,
            direction: if leaves { Direction::Egress } else { Direction::Ingress },
            verdict: if accepted { Verdict::Accept } else { Verdict::Reject },
            ..record
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// However few are held, and where flows have more than that.
        #[test]
        fn folding_in_shares_gives_what_folding_at_once_does(
            numbers in prop::collection::vec((0..500_u64, 0..40_u64, any::<bool>(), any::<bool>()), 0..300),
            most in 1..80_usize,
        ) {
            let records: Vec<TenantFlowRecord> = numbers.into_iter().map(of_flow).collect();
            let folder = tempfile::tempdir().unwrap();
            let mut gathered = Gathered::holding(most, folder.path().to_owned(), PortNaming::Subnet);
            records.iter().try_for_each(|record| gathered.push(record.clone())).unwrap();
            prop_assert_eq!(gathered.parted.is_some(), records.len() > most);
            let expected = as_one_router(records, PortNaming::Subnet);
            let mut folded = gathered.fold().unwrap();
            prop_assert_eq!(folded.ports(), numbered_ports(&expected));
            let mut found = Vec::new();
            loop {
                let batch = folded.next_batch().unwrap();
                if batch.is_empty() {
                    break;
                }
                found.extend(batch);
            }
            prop_assert_eq!(found, expected);
        }
    }
}
