//! The exporter against a collector that is a few lines long, and goes away when the test wants.

use std::{net::Ipv4Addr, ops::Range};

use lucarne_flows::ipfix::{Decoder, HEADER_LENGTH, Header};
use lucarne_model::{
    AccountId, ConnState, EndReason, History, InstanceId, InterfaceId, SubnetId, VpcId,
    flow::{Direction, Location, Path, Side, Verdict},
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
};

use super::*;

const HOST: HostId = HostId::from_bits(0x1_2345_6789);

fn record(number: u64) -> FlowRecord {
    FlowRecord {
        flow_id: number,
        account: AccountId::OPERATOR,
        instance: InstanceId::from_bits(1),
        interface: InterfaceId::from_bits(2),
        subnet: SubnetId::from_bits(3),
        vpc: VpcId::from_bits(4),
        host: HOST,
        location: Location::default(),
        groups: Vec::new(),
        rule: None,
        verdict: Verdict::Accept,
        end_reason: EndReason::Idle,
        direction: Direction::Egress,
        path: Path::SameHost,
        side: Side::Initiator,
        start: Moment::from_secs(1_768_478_400),
        end: Moment::from_secs(1_768_478_401),
        packets: 1,
        bytes: 60,
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
        destination: Ipv4Addr::new(10, 0, 0, 2).into(),
        source_port: 1,
        destination_port: 2,
        protocol: 17,
        icmp_type: None,
        icmp_code: None,
        tos: 0,
        tcp_flags: 0,
        ttl: 64,
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

struct Collector {
    listener: TcpListener,
    /// Flow ids in the order in which they were taken.
    taken: Vec<u64>,
}

impl Collector {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), taken: Vec::new() }
    }

    /// What a controller says of it.
    fn as_told(&self) -> HostSettings {
        let collector = self.listener.local_addr().unwrap();
        HostSettings { host: HOST, collector, collector_token: "token".into(), heartbeat_millis: 1000 }
    }

    fn settings(&self) -> Settings {
        let (_, told) = watch::channel(None);
        Settings::new((told, self.as_told()), Arc::default(), 77, HOST)
    }

    /// Takes one connection until there are `until` records, acknowledging only up to `acknowledged` of them.
    async fn serve(&mut self, until: usize, acknowledged: u64) {
        let (stream, _) = self.listener.accept().await.unwrap();
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        let greeting = Greeting::parse(line.trim_end()).unwrap();
        assert_eq!((greeting.token.as_str(), greeting.session), ("token", 77));
        let wanted = self.taken.len() as u64;
        assert!(greeting.first <= wanted);
        writer.write_u64(wanted).await.unwrap();
        let mut decoder = Decoder::new();
        while self.taken.len() < until {
            let mut message = vec![0; HEADER_LENGTH];
            reader.read_exact(&mut message).await.unwrap();
            let header = Header::parse(message.first_chunk().unwrap()).unwrap();
            message.resize(header.length.into(), 0);
            reader.read_exact(&mut message[HEADER_LENGTH..]).await.unwrap();
            let decoded = decoder.decode(&message).unwrap();
            assert_eq!((decoded.header.domain, decoded.lost), (0x2345_6789, 0));
            self.taken.extend(decoded.records.iter().map(|record| record.flow_id));
            let next = acknowledged.min(self.taken.len() as u64);
            if next >= wanted {
                writer.write_u64(next).await.unwrap();
            }
        }
    }
}

async fn send(sender: &mpsc::Sender<FlowRecord>, numbers: Range<u64>) {
    for number in numbers {
        sender.send(record(number)).await.unwrap();
    }
}

#[tokio::test]
async fn records_sent_again_after_a_break_are_those_not_taken_and_come_in_order() {
    let mut collector = Collector::new().await;
    let (sender, records) = mpsc::channel(64);
    let exporter = Exporter::spawn(collector.settings(), records, CancellationToken::new());
    send(&sender, 0..1000).await;
    collector.serve(600, 100).await; // then the connection breaks
    send(&sender, 1000..1500).await;
    drop(sender);
    collector.serve(1500, u64::MAX).await;
    assert_eq!(exporter.join().await.unwrap(), Counts { acknowledged: 1500, dropped: 0 });
    assert_eq!(collector.taken, (0..1500).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_a_collector_the_queue_is_bounded_and_the_rest_is_counted() {
    let mut collector = Collector::new().await;
    let settings = Settings { capacity: 100, ..collector.settings() };
    let (sender, records) = mpsc::channel(64);
    let exporter = Exporter::spawn(settings, records, CancellationToken::new());
    send(&sender, 0..250).await; // the listener's backlog takes the connection, but nobody answers
    while exporter.counts().dropped < 150 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(sender);
    collector.serve(100, u64::MAX).await;
    assert_eq!(exporter.join().await.unwrap(), Counts { acknowledged: 100, dropped: 150 });
    assert_eq!(collector.taken, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_shutdown_waits_for_the_last_acknowledgement_but_not_for_ever() {
    let mut collector = Collector::new().await;
    let (sender, records) = mpsc::channel(64);
    let shutdown = CancellationToken::new();
    let exporter = Exporter::spawn(collector.settings(), records, shutdown.clone());
    send(&sender, 0..10).await;
    shutdown.cancel();
    drop(sender);
    collector.serve(10, u64::MAX).await;
    assert_eq!(exporter.join().await.unwrap(), Counts { acknowledged: 10, dropped: 0 });

    let silent = Settings { flush: Duration::from_millis(50), ..collector.settings() };
    let (sender, records) = mpsc::channel(64);
    let exporter = Exporter::spawn(silent, records, shutdown);
    send(&sender, 0..10).await;
    assert_eq!(exporter.join().await.unwrap(), Counts { acknowledged: 0, dropped: 10 });
}

#[tokio::test]
async fn a_collector_that_acknowledges_what_was_never_sent_is_left_and_nothing_is_lost() {
    let mut collector = Collector::new().await;
    let (sender, records) = mpsc::channel(64);
    let exporter = Exporter::spawn(collector.settings(), records, CancellationToken::new());
    send(&sender, 0..10).await;
    drop(sender);
    let (mut stream, _) = collector.listener.accept().await.unwrap();
    stream.write_u64(1 << 40).await.unwrap();
    collector.serve(10, u64::MAX).await;
    assert_eq!(exporter.join().await.unwrap().acknowledged, 10);
}

#[tokio::test]
async fn a_collector_that_is_elsewhere_now_is_asked_for_and_nothing_is_lost() {
    let (mut old, mut new) = (Collector::new().await, Collector::new().await);
    let (say, told) = watch::channel(None);
    let settings = Settings { told, patience: Duration::from_millis(300), ..old.settings() };
    let ask = settings.ask.clone();
    let (sender, records) = mpsc::channel(64);
    let exporter = Exporter::spawn(settings, records, CancellationToken::new());
    send(&sender, 0..10).await;
    old.serve(10, u64::MAX).await;
    new.taken = old.taken.clone();
    drop(old); // it is not there any more, neither its connections nor its port
    send(&sender, 10..20).await;
    drop(sender);
    // Twice: an answer that changes nothing is not the end of it.
    for _ in 0..2 {
        tokio::time::timeout(Duration::from_secs(20), ask.notified()).await.expect("it asks");
    }
    say.send_replace(Some(new.as_told()));
    new.serve(20, u64::MAX).await;
    assert_eq!(exporter.join().await.unwrap(), Counts { acknowledged: 20, dropped: 0 });
    assert_eq!(new.taken, (0..20).collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Send(usize),
    Acknowledge(prop::sample::Index),
    Reconnect,
}

proptest! {
    #[test]
    fn the_queue_sends_every_record_in_order_and_keeps_it_until_it_is_acknowledged(
        steps in prop::collection::vec(prop_oneof![
            (0usize..20).prop_map(Step::Push),
            (1usize..20).prop_map(Step::Send),
            any::<prop::sample::Index>().prop_map(Step::Acknowledge),
            Just(Step::Reconnect),
        ], 0..200)
    ) {
        let mut queue = Queue::new(64);
        let (mut pushed, mut next_sent) = (0u64, 0u64);
        for step in steps {
            match step {
                Step::Push(count) => {
                    for _ in 0..count {
                        let has_room = queue.len() < 64;
                        prop_assert_eq!(queue.push(record(pushed)), has_room);
                        pushed += u64::from(has_room);
                    }
                }
                Step::Send(most) => {
                    for record in queue.next_to_send(most) {
                        prop_assert_eq!(record.flow_id, next_sent);
                        next_sent += 1;
                    }
                }
                Step::Acknowledge(index) => {
                    let before = queue.first();
                    let next = before + index.index((next_sent - before) as usize + 1) as u64;
                    prop_assert_eq!(queue.acknowledge(next).unwrap(), next - before);
                    prop_assert_eq!(queue.first(), next);
                }
                Step::Reconnect => {
                    queue.send_again();
                    next_sent = queue.first();
                }
            }
            prop_assert_eq!(queue.first() + queue.len() as u64, pushed);
        }
        prop_assert!(queue.acknowledge(pushed + 1).is_err());
    }
}
