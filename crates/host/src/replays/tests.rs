//! Replays and loads on a host, against a switch that is a socket.

use std::{collections::BTreeSet, net::Ipv4Addr, os::unix::net::UnixDatagram, sync::Arc, time::Duration};

use lucarne_model::{
    AccountId, InstanceId, InterfaceId, LoadId, MacAddress, Moment, ReplayId, SubnetId, VpcId,
    flow::Direction,
    load::{LoadKind, LoadReport, LoadStage, LoadTarget, LoadTerms},
    pcapng,
    replay::{ReplayPort, ReplayReport, ReplaySpeed, ReplayStage},
};
use lucarne_replica::{
    AddressMap,
    clients::Clients,
    load::asking::{Asking, Order},
    replay::{
        player::{Play, Player},
        recorded,
    },
};
use tokio_util::sync::CancellationToken;

use super::{performance::End, playbill::Piece, shelf::Shelf, *};
use crate::layout::Layout;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OWN: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
/// A packet of UDP from 10.0.0.1 to port 53 of 10.0.0.2 behind an Ethernet header.
const ASKED: &[u8] =
    b"\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08\x00\x45\x00\x00\x1d\x00\x00\x40\x00\x40\x11\
    \x26\xce\x0a\x00\x00\x01\x0a\x00\x00\x02\x9c\x40\x00\x35\x00\x09\x00\x00x";

/// The same packet the other way. Its checksums count both ends alike.
fn turned(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    (26..30).for_each(|at| frame.swap(at, at + 4));
    (34..36).for_each(|at| frame.swap(at, at + 2));
    frame
}

/// So many questions, a twentieth of a second apart, each answered.
fn recording(questions: u64) -> Arc<recorded::Recorded> {
    let interface = pcapng::Interface {
        account: AccountId::from_bits(1),
        instance: InstanceId::from_bits(2),
        interface: InterfaceId::from_bits(2),
        subnet: SubnetId::from_bits(1),
        vpc: VpcId::from_bits(1),
    };
    let mut file = [pcapng::section(), pcapng::interface(&interface)].concat();
    for number in 0..questions {
        let at = Moment(1_700_000_000_000_000 + number * 50_000);
        file.extend(pcapng::frame(0, at, Direction::Ingress, 0, ASKED));
        file.extend(pcapng::frame(0, Moment(at.0 + 300), Direction::Egress, 0, &turned(ASKED)));
    }
    Arc::new(recorded::read(&file, "10.0.0.0/16".parse().unwrap()))
}

fn player(questions: u64) -> Player {
    let play = Play {
        clients: BTreeSet::from([CLIENT]),
        speed: ReplaySpeed::AS_RECORDED,
        times: 2,
        amplify: 1,
        addresses: AddressMap::default(),
        mac: MacAddress::ROUTER,
        mtu: 1400,
        patience: Duration::from_secs(1),
        seed: 1,
    };
    Player::new(recording(questions), play).unwrap()
}

/// A switch that turns the first so many frames round; gives how many came from the client's own link address.
fn switch(socket: UnixDatagram, guest: std::path::PathBuf, answers: usize) -> std::thread::JoinHandle<usize> {
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    std::thread::spawn(move || {
        let (mut frame, mut came) = ([0; 100], 0);
        while let Ok(length) = socket.recv(&mut frame) {
            came += usize::from(frame[6..12] == OWN.0);
            if came <= answers {
                socket.send_to(&turned(&frame[..length]), &guest).unwrap();
            }
        }
        came
    })
}

async fn performed<C: Clients + Send + 'static>(clients: C, answers: usize) -> (C, usize) {
    let folder = tempfile::tempdir().unwrap();
    let [theirs, guest] = ["switch", "guest"].map(|name| folder.path().join(name));
    let (interface, instance) = (InterfaceId::from_bits(2), InstanceId::from_bits(2));
    let port = ReplayPort { interface, instance, address: CLIENT, mac: OWN };
    let switch = switch(UnixDatagram::bind(&theirs).unwrap(), guest.clone(), answers);
    let ends = vec![End::bind(&port, theirs, guest.clone()).unwrap()];
    let began = Moment::from_secs(1);
    let played = performance::play(clients, ends, began, |_, _| {}, CancellationToken::new()).await;
    assert!(!guest.exists());
    (played.unwrap().unwrap(), switch.join().unwrap())
}

async fn replayed(questions: u64, answers: usize) -> (Vec<ReplayReport>, usize) {
    let (player, came) = performed(player(questions), answers).await;
    (player.reports(), came)
}

/// Ten datagrams in a second to the port of the recording's server.
fn terms() -> LoadTerms {
    let (to, kind) = (LoadTarget::Instance(InstanceId::from_bits(2)), LoadKind::Udp);
    LoadTerms { to, port: 53, kind, path: None, from: None, clients: 3, rate: Some(10), seconds: 1, size: 7 }
}

async fn loaded(answers: usize) -> (LoadReport, usize) {
    let address = Ipv4Addr::new(10, 0, 0, 2);
    let order = Order { terms: terms(), address, sources: vec![CLIENT], mtu: 1400, seed: 1 };
    let (asking, came) = performed(Asking::new(order, Moment::from_secs(1)), answers).await;
    (asking.report(), came)
}

#[tokio::test]
async fn what_was_recorded_goes_through_the_port_from_the_clients_own_addresses_and_comes_back() {
    let (reports, came) = replayed(4, 100).await;
    let told: Vec<_> = reports.iter().map(|report| (report.score, report.exchanges.as_recorded)).collect();
    assert_eq!((told, came), (vec![(Some(100), 4); 2], 8));
}

#[tokio::test]
async fn what_the_duplicate_does_not_answer_is_missing_in_the_report_of_its_round() {
    let (reports, came) = replayed(2, 2).await;
    let told: Vec<_> = reports.iter().map(|report| (report.score, report.exchanges.missing)).collect();
    assert_eq!((told, came), (vec![(Some(100), 0), (Some(0), 2)], 4));
}

#[tokio::test]
async fn what_is_made_up_goes_through_the_port_in_its_time_and_its_answers_are_counted() {
    let (report, came) = loaded(100).await;
    assert_eq!((report.sent, report.answered, came), (10, 10, 10));
    assert_eq!((report.octets_sent, report.octets_answered), (70, 70));
    assert!(report.elapsed_millis >= 900 && report.latency.count == 10, "{report:?}");
}

#[tokio::test]
async fn a_replay_that_nobody_wants_any_more_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let port = ReplayPort {
        interface: InterfaceId::from_bits(2),
        instance: InstanceId::from_bits(2),
        address: CLIENT,
        mac: OWN,
    };
    let end = End::bind(&port, folder.path().join("nobody"), folder.path().join("guest")).unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let played = performance::play(player(1000), vec![end], Moment::from_secs(1), |_, _| {}, cancel).await;
    assert!(played.unwrap().is_none());
}

/// What had begun cannot go on, and what had not is begun anew.
#[tokio::test]
async fn after_a_kill_the_shelf_says_how_a_replay_stands() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path().into());
    let shelf = Shelf::<Recorded>::of(&layout, ReplayId::from_bits(1));
    let octets = || futures::StreamExt::boxed(futures::stream::iter([Ok(bytes::Bytes::from_static(b"frames"))]));
    shelf.fill(octets()).await.unwrap();
    assert_eq!(shelf.settle().await, ReplayStage::Fetching);
    assert_eq!(shelf.octets().await.unwrap(), b"frames");
    shelf.note_begun().await.unwrap();
    let failed = shelf.settle().await;
    assert!(
        matches!(&failed, ReplayStage::Failed { reason } if reason.code == lucarne_model::ErrorCode::HostUnreachable)
    );
    assert_eq!(shelf.settle().await, failed);
    assert_eq!(Shelf::<Recorded>::all(&layout).await.len(), 1);
    shelf.clear().await.unwrap();
    assert!(Shelf::<Recorded>::all(&layout).await.is_empty());
}

/// As of a replay: the duplicate has moved on, and what was measured has a hole.
#[tokio::test]
async fn after_a_kill_a_load_that_had_begun_has_failed_and_one_that_had_not_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path().into());
    let shelf = Shelf::<MadeUp>::of(&layout, LoadId::from_bits(1));
    assert_eq!(shelf.settle().await, LoadStage::Preparing);
    shelf.note_begun().await.unwrap();
    let failed = shelf.settle().await;
    assert!(
        matches!(&failed, LoadStage::Failed { reason } if reason.code == lucarne_model::ErrorCode::HostUnreachable)
    );
    assert!(MadeUp::is_over(&failed));
    let done = Shelf::<MadeUp>::of(&layout, LoadId::from_bits(2));
    let stage = LoadStage::Done { report: LoadReport { sent: 3, ..LoadReport::default() } };
    done.note_end(&stage).await;
    assert_eq!((done.settle().await, Shelf::<MadeUp>::all(&layout).await.len()), (stage, 2));
}
