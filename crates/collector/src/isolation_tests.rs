//! What one account is given holds not a bit of another's, nor of what is the operator's own: whatever is asked, whoever's records
//! lie side by side in the log and the parts, and in whatever form the answer comes.
//!
//! Every id, number and address of an account's records carries the account's mark, eight octets that nobody else has. A form
//! that shows one of them as octets or as text is found out by looking for the marks of the others.

use std::{fs, io::Read as _, net::Ipv6Addr, ops::Range, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use flate2::read::GzDecoder;
use lucarne_model::{
    AccountId, FlowLogId, FlowRecord, HostId, InstanceId, InterfaceId, MitigationId, RuleId, SecurityGroupId, SubnetId,
    Tags, TenantFlowRecord, VpcId,
    flow::{FlowQuery, FlowWatch},
    flow_log::{DeliveryOrder, ExportFormat, ExportQuestion, FlowLog, FlowLogTarget, LoggedTraffic},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use crate::{
    catalog::Catalog,
    chunk::Chunk,
    delivery::{Deliveries, Reach},
    export::Export,
    part::{Effort, Folders},
    query::Store,
    receipts::Receipts,
    sealer::{now, write_parts},
    test_records::{NOW, record},
    watch::Watchers,
};

const OWNERS: Range<u64> = 0..4;
/// Whose mark hosts and mitigations carry.
const OPERATOR: u64 = 1000;
const FORMATS: [ExportFormat; 5] =
    [ExportFormat::Ipfix, ExportFormat::Aws, ExportFormat::Csv, ExportFormat::Jsonl, ExportFormat::Parquet];

/// Fibonacci hashing: no two have an octet in the same place.
fn mark(owner: u64) -> u64 {
    (owner + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn account(owner: u64) -> AccountId {
    AccountId::from_bits(mark(owner))
}

/// An address with the mark in its lower half.
fn address(owner: u64, network: u16) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(0x2001_0db8_u32) << 96 | u128::from(network) << 64 | u128::from(mark(owner)))
}

fn owned(number: u64, owner: u64) -> FlowRecord {
    let bits = u128::from(mark(owner));
    let operators = u128::from(mark(OPERATOR));
    FlowRecord {
        account: account(owner),
        instance: InstanceId::from_bits(bits),
        interface: InterfaceId::from_bits(bits),
        subnet: SubnetId::from_bits(bits),
        vpc: VpcId::from_bits(bits),
        groups: vec![SecurityGroupId::from_bits(bits)],
        rule: Some(RuleId::from_bits(bits)),
        source: address(owner, 1).into(),
        destination: address(owner, 2).into(),
        next_hop: Some(address(owner, 3).into()),
        host: HostId::from_bits(operators),
        mitigation: Some(MitigationId::from_bits(operators)),
        ..record(number)
    }
}

/// The marks in what was given out, as octets or in a text.
fn marks(given: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(given);
    let is_there = |owner: &u64| {
        let octets = mark(*owner).to_be_bytes();
        let texts = [format!("{:016x}", mark(*owner)), account(*owner).to_string()];
        // An IPv6 address is shown without the zeros before each group.
        let group = |at: usize| format!("{:x}", u16::from_be_bytes([octets[at], octets[at + 1]]));
        let address = [0, 2, 4, 6].map(group).join(":");
        given.windows(8).any(|window| window == octets)
            || texts.iter().chain([&address]).any(|wanted| text.contains(wanted))
    };
    OWNERS.chain([OPERATOR]).filter(is_there).collect()
}

/// All values of a Parquet file.
fn values(file: Bytes) -> Vec<u8> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut text = String::new();
    for batch in reader {
        for column in batch.unwrap().columns() {
            let formatter = ArrayFormatter::try_new(column, &FormatOptions::default()).unwrap();
            (0..column.len()).for_each(|row| text += &format!("{}\n", formatter.value(row)));
        }
    }
    text.into_bytes()
}

/// The same records three times: half in parts and half in the log of a catalog, in the chain of receipts, and to be watched.
struct Kept {
    dir: tempfile::TempDir,
    catalog: Arc<Catalog>,
    receipts: Receipts,
    all: Arc<Chunk>,
}

fn kept(records: &[FlowRecord]) -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let folders = Folders::of(dir.path());
    fs::create_dir_all(&folders.shown).unwrap();
    let receipts = Receipts::open(dir.path()).unwrap();
    let (sealed, unsealed) = records.split_at(records.len() / 2);
    let written = write_parts(&folders, 1, Effort::Fresh, &[Chunk::of(0, sealed)]).unwrap();
    for new in &written {
        receipts.issue(new.part.place.account, new.contents.clone(), &[], now()).unwrap();
    }
    let catalog = Catalog::new(written.into_iter().map(|new| new.part).collect());
    catalog.open(2);
    catalog.add(2, [Chunk::of(crate::log::serial(2, 0), unsealed)]);
    Kept { dir, catalog: Arc::new(catalog), receipts, all: Chunk::of(0, records) }
}

impl Kept {
    fn exported(&self, owner: u64, format: ExportFormat) -> Vec<u8> {
        let question = ExportQuestion {
            account: account(owner),
            vpc: VpcId::from_bits(u128::from(mark(owner))),
            since: NOW,
            until: NOW.plus(Duration::from_secs(3600)),
            format,
            fields: (format == ExportFormat::Aws).then(|| "all".into()),
            by_instance: owner.is_multiple_of(2),
        };
        let mut file = Vec::new();
        Export::of(question).unwrap().write(&self.catalog, self.dir.path(), NOW, &mut file).unwrap();
        if format == ExportFormat::Parquet { values(file.into()) } else { file }
    }

    /// As the controller shows it to tenants: the view that has no fields of the operator's.
    fn listed(&self, owner: u64) -> Vec<u8> {
        let query = FlowQuery { limit: FlowQuery::MAX_LIMIT, ..FlowQuery::new(account(owner), NOW) };
        let page = Store::new(self.catalog.clone()).list(&query).unwrap();
        let views: Vec<TenantFlowRecord> = page.records.iter().map(TenantFlowRecord::from).collect();
        serde_json::to_vec(&(views, page.next)).unwrap()
    }

    fn watched(&self, owner: u64) -> Vec<u8> {
        let watchers = Watchers::default();
        let watch = |owner| watchers.add(FlowWatch { account: account(owner), filter: Default::default() }).unwrap();
        // Others watch too.
        let mut all: Vec<_> = OWNERS.map(watch).collect();
        watchers.publish(&self.all);
        std::iter::from_fn(|| all[owner as usize].try_recv().ok()).flatten().collect()
    }

    /// The receipts, and the parts that they are for.
    fn receipts_and_parts(&self, owner: u64) -> Vec<u8> {
        let page = self.receipts.page(account(owner), 0).unwrap();
        let mut given = serde_json::to_vec(&page.receipts).unwrap();
        let store = Store::new(self.catalog.clone());
        for signed in &page.receipts {
            let name = &signed.receipt.part.name;
            let others = OWNERS.filter(|other| *other != owner);
            assert!(others.into_iter().all(|other| store.part(account(other), name).is_none()), "{name}");
            given.extend(values(fs::read(&store.part(account(owner), name).unwrap().path).unwrap().into()));
        }
        given
    }

    /// What comes to each owner's own folder, with as many records as it has.
    fn delivered(&self, counts: &[u64]) -> Vec<Vec<u8>> {
        let runtime = Runtime::new().unwrap();
        let out = tempfile::tempdir().unwrap();
        let folder = |owner: u64| out.path().join(owner.to_string());
        let deliveries =
            Deliveries::open(self.dir.path(), self.catalog.clone(), Reach::Anywhere, runtime.handle().clone()).unwrap();
        let order = |owner: u64| {
            let vpc = VpcId::from_bits(u128::from(mark(owner)));
            let log = FlowLog {
                id: FlowLogId::from_bits(owner.into()),
                account: account(owner),
                target: FlowLogTarget::Vpc { vpc },
                vpc,
                traffic: LoggedTraffic::All,
                interval_millis: 1000,
                format: "all".into(),
                to: format!("file://{}", folder(owner).display()).parse().unwrap(),
                delivery: None,
                created: NOW,
                changed: NOW,
                tags: Tags::default(),
            };
            DeliveryOrder { log, credentials: None }
        };
        deliveries.set(OWNERS.map(order).collect()).unwrap();
        let is_done = || {
            let told = deliveries.list();
            OWNERS.zip(counts).all(|(owner, count)| {
                told.get(&FlowLogId::from_bits(owner.into())).is_some_and(|delivery| delivery.delivered == *count)
            })
        };
        let begun = std::time::Instant::now();
        while !is_done() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", deliveries.list());
            std::thread::sleep(Duration::from_millis(5));
        }
        OWNERS.map(|owner| texts(&folder(owner))).collect()
    }
}

fn texts(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        if entry.path().is_dir() {
            all.extend(texts(&entry.path()));
        } else {
            GzDecoder::new(fs::File::open(entry.path()).unwrap()).read_to_end(&mut all).unwrap();
        }
    }
    all
}

#[test]
fn a_mark_is_found_in_every_form() {
    let other = record(1);
    for owner in OWNERS.chain([OPERATOR]) {
        let record = owned(1, owner);
        let forms = [
            record.instance.bits().to_be_bytes().to_vec(),
            record.vpc.to_string().into_bytes(),
            record.account.to_string().into_bytes(),
            record.source.to_string().into_bytes(),
            address(owner, 2).octets().to_vec(),
        ];
        for form in forms {
            assert_eq!(marks(&form), [owner], "{}", String::from_utf8_lossy(&form));
        }
    }
    assert_eq!(marks(other.source.to_string().as_bytes()), Vec::<u64>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_that_an_account_is_given_has_a_bit_of_another(owners in prop::collection::vec(OWNERS, 40..160)) {
        let records: Vec<FlowRecord> = (0..).zip(&owners).map(|(number, owner)| owned(number, *owner)).collect();
        let kept = kept(&records);
        let counts: Vec<u64> =
            OWNERS.map(|owner| owners.iter().filter(|one| **one == owner).count() as u64).collect();
        let delivered = kept.delivered(&counts);
        for owner in OWNERS {
            // Whoever has none is given nothing that is anybody's.
            let own: Vec<u64> = if counts[owner as usize] > 0 { vec![owner] } else { Vec::new() };
            for format in FORMATS {
                prop_assert_eq!(&marks(&kept.exported(owner, format)), &own, "a file of {:?}", format);
            }
            prop_assert_eq!(&marks(&kept.listed(owner)), &own, "a list");
            prop_assert_eq!(&marks(&kept.watched(owner)), &own, "a watch");
            prop_assert_eq!(&marks(&delivered[owner as usize]), &own, "a delivery");
            let with_receipts = marks(&kept.receipts_and_parts(owner));
            prop_assert!(with_receipts.iter().all(|mark| *mark == owner), "receipts and parts: {:?}", with_receipts);
        }
    }
}
