//! The exporter and its spool against a collector that is a few lines long, and goes away when the test wants.

use std::{collections::BTreeMap, ops::Range, path::Path};

use lucarne_flows::{
    columns::FlowColumns,
    ipfix::{Decoder, HEADER_LENGTH, Header},
};
use lucarne_model::{AccountId, Bytes, FlowRecord, HostId, Moment};
use rcgen::{CertificateParams, KeyPair};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use super::*;
use crate::spool::{self, tests::record};

const HOST: HostId = HostId::from_bits(0x1_2345_6789);

/// A host's folder with its key, a spool, and the collector that it is told of.
struct Collector {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    certificate: String,
    /// Flow ids in the order in which they were taken, and what was told as lost.
    taken: Vec<u64>,
    lost: u64,
    numbers: u64,
}

impl Collector {
    async fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let made =
            CertificateParams::new(["collector.lucarne.internal".to_owned()]).unwrap().self_signed(&key).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&tokio_rustls::rustls::version::TLS13]);
        let config = config.unwrap().with_no_client_auth().with_single_cert(vec![made.der().clone()], private).unwrap();
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate: made.pem(),
            taken: Vec::new(),
            lost: 0,
            numbers: 0,
        }
    }

    /// What a controller says of it to the host of this folder.
    fn as_told(&self, dir: &Path) -> HostSettings {
        let key = std::fs::read(dir.join("export.key")).unwrap();
        let key = KeyPair::try_from(key).unwrap();
        let certificate = CertificateParams::new([HOST.to_string()]).unwrap().self_signed(&key).unwrap().pem();
        HostSettings {
            host: HOST,
            collector: self.listener.local_addr().unwrap(),
            collector_certificate: self.certificate.clone(),
            certificate,
            host_authority: None,
            renew_certificate: Moment(u64::MAX),
            heartbeat_millis: 1000,
        }
    }

    fn settings(&self, dir: &Path) -> Settings {
        let (_, told) = watch::channel(None);
        let key = ExportKey::read_or_make(&dir.join("export.key")).unwrap();
        Settings::new((told, self.as_told(dir)), Arc::default(), key, dir.join("spool"))
    }

    /// Takes one connection until there are `until` numbers, acknowledging only up to `acknowledged` of them.
    async fn serve(&mut self, until: u64, acknowledged: u64) {
        // Those who gave up waiting may still stand in the listener's queue.
        let stream = loop {
            let (stream, _) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                break stream;
            }
        };
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        Greeting::parse(line.trim_end()).unwrap();
        let wanted = self.numbers;
        writer.write_u64(wanted).await.unwrap();
        writer.flush().await.unwrap();
        let mut number = reader.read_u64().await.unwrap();
        assert!(number <= wanted, "it left out records {wanted} to {number}");
        let mut decoder = Decoder::new();
        while self.numbers < until {
            let mut message = vec![0; HEADER_LENGTH];
            reader.read_exact(&mut message).await.unwrap();
            let header = Header::parse(message.first_chunk().unwrap()).unwrap();
            message.resize(header.length.into(), 0);
            reader.read_exact(&mut message[HEADER_LENGTH..]).await.unwrap();
            let mut columns = FlowColumns::default();
            let decoded = decoder.decode(&message, &mut columns).unwrap();
            assert_eq!((decoded.header.domain, decoded.unknown_sets), (0x2345_6789, 0));
            for flow_id in columns.flow_id {
                if number >= self.numbers {
                    self.taken.push(flow_id);
                }
                number += 1;
            }
            for loss in &decoded.losses {
                if number >= self.numbers {
                    self.lost += loss.records;
                }
                number += 1;
            }
            self.numbers = self.numbers.max(number);
            let next = acknowledged.min(self.numbers);
            if next >= wanted {
                writer.write_u64(next).await.unwrap();
                writer.flush().await.unwrap();
            }
        }
    }
}

/// The spool of a folder, and where its records come from.
fn spool(dir: &Path, capacity: Bytes) -> (mpsc::Sender<FlowRecord>, Writer) {
    let (sender, records) = mpsc::channel(64);
    let settings = spool::Settings { dir: dir.join("spool"), capacity, host: HOST };
    let writer = Writer::start(settings, records, Arc::new(BTreeMap::<AccountId, u64>::new));
    (sender, writer.unwrap_or_else(|(error, _)| panic!("{error}")))
}

async fn send(sender: &mpsc::Sender<FlowRecord>, numbers: Range<u64>) {
    for number in numbers {
        sender.send(record(number, HOST)).await.unwrap();
    }
}

fn ids(numbers: Range<u64>) -> Vec<u64> {
    numbers.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_sent_again_after_a_break_are_those_not_taken_and_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::new().await;
    let settings = collector.settings(dir.path());
    let (sender, writer) = spool(dir.path(), Bytes::mib(16));
    let exporter = Exporter::spawn(settings, writer, CancellationToken::new());
    send(&sender, 0..1000).await;
    collector.serve(600, 100).await; // then the connection breaks
    send(&sender, 1000..1500).await;
    drop(sender);
    collector.serve(1500, u64::MAX).await;
    assert_eq!(exporter.join().await.unwrap(), 0);
    assert_eq!(collector.taken, ids(0..1500));
}

/// What an agent spooled and could not send is sent by the next one, with the same numbers.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_spool_is_sent_by_the_next_agent_and_nothing_of_it_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::new().await;
    for part in 0..3 {
        let settings = Settings { flush: Duration::from_millis(300), ..collector.settings(dir.path()) };
        let (sender, writer) = spool(dir.path(), Bytes::mib(16));
        let shutdown = CancellationToken::new();
        let exporter = Exporter::spawn(settings, writer, shutdown.clone());
        send(&sender, 100 * part..100 * (part + 1)).await;
        drop(sender);
        if part == 1 {
            collector.serve(150, 120).await; // it has more than it acknowledged
        } else if part == 2 {
            collector.serve(300, u64::MAX).await;
        }
        shutdown.cancel();
        let left = exporter.join().await.unwrap();
        assert_eq!(left == 0, part == 2);
    }
    assert_eq!(collector.taken, ids(0..300));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_spool_is_bounded_and_what_did_not_fit_is_told_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::new().await;
    let settings = collector.settings(dir.path());
    let (sender, writer) = spool(dir.path(), Bytes::mib(1));
    let exporter = Exporter::spawn(settings, writer, CancellationToken::new());
    const MADE: u64 = 20_000;
    send(&sender, 0..MADE).await; // the listener's backlog takes the connection, but nobody answers
    let size = || {
        let files = std::fs::read_dir(dir.path().join("spool")).unwrap().flatten();
        files.map(|file| file.metadata().unwrap().len()).sum::<u64>()
    };
    assert!(size() < (1 << 20) + (64 << 10), "{}", size());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let durable = exporter_end(dir.path());
    collector.serve(durable, u64::MAX).await;
    let kept = collector.taken.len() as u64;
    assert!(kept > 1000 && kept < MADE);
    drop(sender);
    collector.serve(durable + 1, u64::MAX).await;
    exporter.join().await.unwrap();
    assert_eq!(kept + collector.lost, MADE);
}

/// The number behind the last record in the spool's files, counted by their frames.
fn exporter_end(dir: &Path) -> u64 {
    spool::tests::end(&dir.join("spool"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_acknowledges_what_was_never_made_is_left_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::new().await;
    let settings = collector.settings(dir.path());
    let (sender, writer) = spool(dir.path(), Bytes::mib(16));
    let exporter = Exporter::spawn(settings, writer, CancellationToken::new());
    send(&sender, 0..10).await;
    drop(sender);
    let (stream, _) = collector.listener.accept().await.unwrap();
    let mut stream = collector.acceptor.accept(stream).await.unwrap();
    for answer in [0, 1 << 40] {
        stream.write_u64(answer).await.unwrap();
    }
    stream.flush().await.unwrap();
    collector.serve(10, u64::MAX).await;
    assert_eq!(exporter.join().await.unwrap(), 0);
    assert_eq!(collector.taken, ids(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_another_certificate_than_was_told_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (real, impostor) = (Collector::new().await, Collector::new().await);
    let mut settings = real.settings(dir.path());
    settings.until_told.collector = impostor.listener.local_addr().unwrap();
    let (sender, writer) = spool(dir.path(), Bytes::mib(16));
    let shutdown = CancellationToken::new();
    let exporter = Exporter::spawn(Settings { flush: Duration::ZERO, ..settings }, writer, shutdown.clone());
    send(&sender, 0..10).await;
    let (stream, _) = impostor.listener.accept().await.unwrap();
    assert!(impostor.acceptor.accept(stream).await.is_err());
    drop(sender);
    shutdown.cancel();
    assert_eq!(exporter.join().await.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_elsewhere_now_is_asked_for_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut old, mut new) = (Collector::new().await, Collector::new().await);
    let (say, told) = watch::channel(None);
    let settings = Settings { told, patience: Duration::from_millis(300), ..old.settings(dir.path()) };
    let ask = settings.ask.clone();
    let (sender, writer) = spool(dir.path(), Bytes::mib(16));
    let exporter = Exporter::spawn(settings, writer, CancellationToken::new());
    send(&sender, 0..10).await;
    old.serve(10, u64::MAX).await;
    (new.taken, new.numbers) = (old.taken.clone(), old.numbers);
    drop(old); // it is not there any more, neither its connections nor its port
    send(&sender, 10..20).await;
    drop(sender);
    // Twice: an answer that changes nothing is not the end of it.
    for _ in 0..2 {
        tokio::time::timeout(Duration::from_secs(20), ask.notified()).await.expect("it asks");
    }
    say.send_replace(Some(new.as_told(dir.path())));
    new.serve(20, u64::MAX).await;
    assert_eq!(exporter.join().await.unwrap(), 0);
    assert_eq!(new.taken, ids(0..20));
}
