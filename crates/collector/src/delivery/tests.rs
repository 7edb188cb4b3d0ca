//! Deliveries as a whole: real sockets and files, a made-up catalog.

use std::{
    io::Read,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use flate2::read::GzDecoder;
use lucarne_flows::{columns::FlowColumns, ipfix::Decoder};
use lucarne_model::{
    FlowLogId, FlowRecord, Tags,
    flow_log::{Delivery, DeliveryOrder, FlowLog, FlowLogTarget, LoggedTraffic},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, UdpSocket},
    runtime::Handle,
    time::{sleep, timeout},
};

use super::{Deliveries, Reach};
use crate::{
    catalog::Catalog,
    chunk::Chunk,
    log,
    test_records::{NOW, numbered},
};

pub(in crate::delivery) const PATIENCE: Duration = Duration::from_secs(20);

pub(in crate::delivery) fn of_first_account(records: Vec<FlowRecord>) -> Vec<FlowRecord> {
    let (account, vpc) = (records[0].account, records[0].vpc);
    records.into_iter().filter(|record| record.account == account && record.vpc == vpc).collect()
}

pub(in crate::delivery) fn catalog(count: u64) -> Arc<Catalog> {
    let catalog = Catalog::new(Vec::new());
    catalog.open(1);
    add(&catalog, 0..count);
    Arc::new(catalog)
}

fn add(catalog: &Catalog, numbers: std::ops::Range<u64>) {
    catalog.add(1, [Chunk::of(log::serial(1, numbers.start as usize), &numbered(numbers))]);
}

pub(in crate::delivery) fn log(to: &str) -> DeliveryOrder {
    let of = &numbered(0..1)[0];
    let log = FlowLog {
        id: FlowLogId::from_bits(7),
        account: of.account,
        target: FlowLogTarget::Vpc { vpc: of.vpc },
        vpc: of.vpc,
        traffic: LoggedTraffic::All,
        interval_millis: 1000,
        format: "${flow-id} ${srcaddr}".into(),
        to: to.parse().unwrap(),
        delivery: None,
        created: NOW,
        changed: NOW,
        tags: Tags::default(),
    };
    DeliveryOrder { log, credentials: None }
}

pub(in crate::delivery) fn deliveries(dir: &Path, catalog: &Arc<Catalog>) -> Deliveries {
    Deliveries::open(dir, catalog.clone(), Reach::Anywhere, Handle::current()).unwrap()
}

/// What is said of the one log, as soon as `wanted` holds of it.
pub(in crate::delivery) async fn status(deliveries: &Deliveries, wanted: impl Fn(&Delivery) -> bool) -> Delivery {
    let found = timeout(PATIENCE, async {
        loop {
            match deliveries.list().into_values().next().filter(|delivery| wanted(delivery)) {
                Some(delivery) => return delivery,
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    });
    found.await.unwrap_or_else(|_| panic!("last told: {:?}", deliveries.list()))
}

/// All files below the folder, by name, as text.
fn files(dir: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            texts.extend(files(&entry.path()));
        } else {
            let mut text = String::new();
            GzDecoder::new(std::fs::File::open(entry.path()).unwrap()).read_to_string(&mut text).unwrap();
            texts.push(text);
        }
    }
    texts.sort();
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn files_hold_each_record_once_across_a_restart() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let catalog = catalog(100);
    let first = deliveries(dir.path(), &catalog);
    first.set(vec![log(&format!("file://{}", out.path().display()))]).unwrap();
    let expected = of_first_account(numbered(0..100)).len() as u64;
    assert!(expected > 5);
    let told = status(&first, |delivery| delivery.delivered > 0).await;
    assert_eq!((told.delivered, told.last_error), (expected, None));
    drop(first);
    add(&catalog, 100..200);
    // Nobody tells it of the log again: it remembers.
    let second = deliveries(dir.path(), &catalog);
    let all = of_first_account(numbered(0..200)).len() as u64;
    status(&second, |delivery| delivery.delivered == all).await;
    let lines: Vec<String> = files(out.path()).iter().flat_map(|text| text.lines().skip(1)).map(Into::into).collect();
    let mut distinct = lines.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((lines.len() as u64, distinct.len() as u64), (all, all));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_left_half_told_is_written_again_under_the_same_name() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let catalog = catalog(100);
    let to = log(&format!("file://{}", out.path().display()));
    let first = deliveries(dir.path(), &catalog);
    first.set(vec![to.clone()]).unwrap();
    status(&first, |delivery| delivery.delivered > 0).await;
    drop(first);
    let before = files(out.path());
    // As if it had been killed between the file and the note of it.
    std::fs::remove_file(dir.path().join(format!("delivery/{}.json", to.log.id))).unwrap();
    let second = deliveries(dir.path(), &catalog);
    status(&second, |delivery| delivery.delivered > 0).await;
    assert_eq!(files(out.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_told_and_gets_everything_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = catalog(60);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let deliveries = deliveries(dir.path(), &catalog);
    deliveries.set(vec![log(&format!("ipfix+tcp://{address}"))]).unwrap();
    let told = status(&deliveries, |delivery| delivery.last_error.is_some()).await;
    let expected = of_first_account(numbered(0..60)).len() as u64;
    assert_eq!((told.delivered, told.waiting), (0, expected));
    let listener = TcpListener::bind(address).await.unwrap();
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    status(&deliveries, |delivery| delivery.delivered == expected && delivery.last_error.is_none()).await;
    drop(deliveries);
    let mut octets = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut octets)).await.unwrap().unwrap();
    assert_eq!(count_records(&octets), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_brings_templates_first_and_then_every_record() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = catalog(60);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = socket.local_addr().unwrap();
    let deliveries = deliveries(dir.path(), &catalog);
    deliveries.set(vec![log(&format!("ipfix://{address}"))]).unwrap();
    let expected = of_first_account(numbered(0..60)).len() as u64;
    let (mut decoder, mut found, mut buffer) = (Decoder::new(), 0, vec![0; 2048]);
    while found < expected {
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        let decoded = decoder.decode(&buffer[..length], &mut FlowColumns::default()).unwrap();
        assert_eq!(decoded.unknown_sets, 0, "a record came before its template");
        found += decoded.foreign;
    }
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_on_the_machine_itself_is_refused_where_tenants_come_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let deliveries = Deliveries::open(dir.path(), catalog(10), Reach::Elsewhere, Handle::current()).unwrap();
    deliveries.set(vec![log("ipfix://127.0.0.1:4739")]).unwrap();
    let told = status(&deliveries, |delivery| delivery.last_error.is_some()).await;
    assert!(told.last_error.unwrap().contains("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_deleted_is_forgotten() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let catalog = catalog(100);
    let deliveries = deliveries(dir.path(), &catalog);
    let log = log(&format!("file://{}", out.path().display()));
    deliveries.set(vec![log.clone()]).unwrap();
    status(&deliveries, |delivery| delivery.delivered > 0).await;
    deliveries.set(Vec::new()).unwrap();
    assert!(deliveries.list().is_empty());
    assert!(!dir.path().join(format!("delivery/{}.json", log.log.id)).exists());
}

/// Data records in IPFIX messages back to back.
fn count_records(octets: &[u8]) -> u64 {
    let (mut decoder, mut at, mut found) = (Decoder::new(), 0, 0);
    while at < octets.len() {
        let length = usize::from(u16::from_be_bytes([octets[at + 2], octets[at + 3]]));
        found += decoder.decode(&octets[at..at + length], &mut FlowColumns::default()).unwrap().foreign;
        at += length;
    }
    found
}

/// Sums as nfdump tells them: flows, packets, bytes.
fn nfdump_sums(folder: &Path) -> [u64; 3] {
    let output =
        Command::new("nfdump").arg("-R").arg(folder).output().expect("nfdump runs: `cargo xtask setup` installs it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ["total flows: ", "total packets: ", "total bytes: "].map(|name| {
        let number = text.split(name).nth(1).and_then(|rest| rest.split([',', '\n']).next());
        number.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no `{name}` in: {text}"))
    })
}

/// Other people's collector, ended with the test.
struct Nfcapd(Child);

impl Nfcapd {
    async fn start(folder: &Path, address: SocketAddr) -> Self {
        let (port, ip) = (address.port().to_string(), address.ip().to_string());
        let arguments = ["-p", &port, "-b", &ip, "-t", "3600", "-w"];
        let child =
            Command::new("nfcapd").args(arguments).arg(folder).stderr(Stdio::null()).stdout(Stdio::null()).spawn();
        let nfcapd = Self(child.expect("nfcapd runs: `cargo xtask setup` installs it"));
        // It listens when nobody else can any more.
        let listens = timeout(PATIENCE, async {
            while UdpSocket::bind(address).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        listens.await.expect("nfcapd does not listen");
        nfcapd
    }

    /// Asks it to write what it has, when it has taken all that waits in its socket: it does so as it likes.
    async fn finish(mut self, port: u16) {
        let empties = timeout(PATIENCE, async {
            while waits_at(port) {
                sleep(Duration::from_millis(10)).await;
            }
        });
        empties.await.expect("nfcapd does not take what was sent to it");
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Nfcapd {
    fn drop(&mut self) {
        // It has ended where the test went well.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Whether something waits in the socket of a UDP port: the second of its two queues, in hexadecimal (proc(5)).
fn waits_at(port: u16) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
    let socket = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut of_port = socket.filter(|fields| fields[1].ends_with(&format!(":{port:04X}")));
    let fields = of_port.next().expect("nfcapd listens");
    !fields[4].ends_with(":00000000")
}

#[tokio::test(flavor = "multi_thread")]
async fn nfdump_counts_what_was_delivered() {
    let (dir, flows) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nfcapd = Nfcapd::start(flows.path(), free).await;
    let deliveries = deliveries(dir.path(), &catalog(300));
    deliveries.set(vec![log(&format!("ipfix://{free}"))]).unwrap();
    let expected = of_first_account(numbered(0..300));
    status(&deliveries, |delivery| delivery.delivered == expected.len() as u64).await;
    nfcapd.finish(free.port()).await;
    let sum = |amount: fn(&FlowRecord) -> u64| expected.iter().map(amount).sum::<u64>();
    let sums = [expected.len() as u64, sum(|record| record.packets), sum(|record| record.bytes)];
    assert_eq!(nfdump_sums(flows.path()), sums);
}
