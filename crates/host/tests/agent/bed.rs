//! A test bed: an agent with the simulated driver, a controller in memory, and a network that remembers its plans.
//!
//! Owns the made-up parts. What they prove is said in the tests.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt, channel::mpsc as pipe, stream::BoxStream};
use lucarne_api::{
    Problem,
    bodies::host::{EnrolHost, Enrolled, HostSettings},
};
use lucarne_host::{
    Agent, AtEnd, Controller, Error, Folder, Layout, Memory, Network, NetworkError, Pace, Parts, Prover, ProverError,
    StreamEnd,
};
use lucarne_model::{
    AccountId, ErrorCode, Evidence, HostId, ImageId, InstanceId, InterfaceId, MacAddress, Measurement, Moment, Octets,
    ReplayId, SubnetId, Vcpus, VpcId,
    actual::{ActualInstance, ActualState, Capacity, HostDescription, Report},
    desired::{Desired, DesiredInstance, DesiredNetwork, Endpoint, Power},
    instance::Attachment,
    storage::{Blob, BootSource, Digest},
    tpm::{ChallengeAnswer, DesiredChallenge, PresentedTpm, TpmIdentity, TpmModel},
};
use lucarne_switch::Plan;
use lucarne_vmm::simulated::{Settings as SimulatedSettings, Simulated};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine, short enough for a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A controller that keeps everything in memory and can be made unreachable.
#[derive(Debug)]
pub(crate) struct MemoryController {
    desired: watch::Sender<Desired>,
    reports: watch::Sender<Option<Report>>,
    pub(crate) states_seen: Mutex<Vec<(InstanceId, ActualState)>>,
    away: AtomicBool,
    blobs: Mutex<HashMap<Digest, Bytes>>,
    /// Where it says that the collector is.
    pub(crate) collector_port: AtomicU16,
    /// How many of the next downloads are damaged.
    pub(crate) damaged: AtomicUsize,
    /// What streams carried, by token, each time that one was opened.
    pub(crate) streams: Mutex<Vec<(String, pipe::UnboundedReceiver<Bytes>)>>,
    /// What the host said that its TPM is.
    pub(crate) presented: Mutex<Vec<PresentedTpm>>,
    /// Answers to challenges, by token, as they came.
    pub(crate) answers: watch::Sender<Vec<(String, ChallengeAnswer)>>,
}

impl MemoryController {
    fn new() -> Self {
        Self {
            desired: watch::Sender::new(Desired::default()),
            reports: watch::Sender::new(None),
            states_seen: Mutex::default(),
            away: AtomicBool::new(false),
            blobs: Mutex::default(),
            collector_port: AtomicU16::new(1),
            damaged: AtomicUsize::new(0),
            streams: Mutex::default(),
            presented: Mutex::default(),
            answers: watch::Sender::default(),
        }
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Changes what is desired, as its next version.
    pub(crate) fn wish(&self, change: impl FnOnce(&mut Desired)) {
        self.desired.send_modify(|desired| {
            change(desired);
            desired.version += 1;
        });
    }

    pub(crate) fn version(&self) -> u64 {
        self.desired.borrow().version
    }

    pub(crate) fn store(&self, bytes: &'static [u8]) -> Blob {
        let blob = blob_of(bytes);
        self.blobs.lock().unwrap().insert(blob.digest.clone(), Bytes::from_static(bytes));
        blob
    }

    fn answer<T>(&self, value: T) -> Result<T, Problem> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(Problem::new(ErrorCode::ControllerUnreachable, "made up")),
            false => Ok(value),
        }
    }

    /// Waits for a report of which `wanted` holds.
    pub(crate) async fn reported(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let mut reports = self.reports.subscribe();
        let matches = |report: &Option<Report>| report.as_ref().is_some_and(&wanted);
        match tokio::time::timeout(PATIENCE, reports.wait_for(matches)).await {
            Ok(report) => report.unwrap().clone().unwrap(),
            Err(_) => panic!("never reported: {what}; last {:#?}", *self.reports.borrow()),
        }
    }

    /// What was reported until now is not what is waited for next.
    pub(crate) fn forget_reports(&self) {
        self.reports.send_replace(None);
    }

    /// Waits until the instance is in `state`.
    pub(crate) async fn reaches(&self, instance: u128, state: ActualState) -> ActualInstance {
        let is = |actual: &&ActualInstance| actual.id == InstanceId::from_bits(instance) && actual.state == state;
        let report = self.reported(&format!("{state:?}"), |report| report.instances.iter().find(is).is_some()).await;
        report.instances.iter().find(is).unwrap().clone()
    }
}

pub(crate) fn blob_of(bytes: &[u8]) -> Blob {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let digest = Digest::from_bytes(digest.as_ref().try_into().unwrap());
    Blob { digest, size: lucarne_model::Bytes(bytes.len() as u64) }
}

#[async_trait]
impl Controller for MemoryController {
    async fn enrol(&self, _: &EnrolHost) -> Result<Enrolled, Problem> {
        self.answer(Enrolled { host: HostId::from_bits(1), host_key: "key".into() })
    }
    async fn hello(&self, _: &HostDescription) -> Result<HostSettings, Problem> {
        self.answer(HostSettings {
            host: HostId::from_bits(1),
            collector: (Ipv4Addr::LOCALHOST, self.collector_port.load(Ordering::SeqCst)).into(),
            collector_certificate: String::new(),
            certificate: String::new(),
            host_authority: None,
            renew_certificate: Moment(u64::MAX),
            heartbeat_millis: 200,
        })
    }
    async fn report(&self, report: &Report) -> Result<(), Problem> {
        self.answer(())?;
        let seen = report.instances.iter().map(|actual| (actual.id, actual.state));
        self.states_seen.lock().unwrap().extend(seen);
        self.reports.send_replace(Some(report.clone()));
        Ok(())
    }
    async fn present_tpm(&self, presented: &PresentedTpm) -> Result<(), Problem> {
        self.answer(())?;
        self.presented.lock().unwrap().push(presented.clone());
        Ok(())
    }
    async fn answer_challenge(&self, token: &str, answer: &ChallengeAnswer) -> Result<(), Problem> {
        self.answer(())?;
        self.answers.send_modify(|answers| answers.push((token.to_owned(), answer.clone())));
        Ok(())
    }
    async fn desired(&self, have: Option<u64>, _: Duration) -> Result<Option<Desired>, Problem> {
        self.answer(())?;
        let mut desired = self.desired.subscribe();
        let newer = desired.wait_for(|desired| have.is_none_or(|have| desired.version > have));
        let newer = tokio::time::timeout(Duration::from_millis(500), newer).await.ok();
        let newer = newer.map(|newer| newer.unwrap().clone());
        self.answer(newer)
    }
    async fn download(&self, digest: &Digest) -> Result<BoxStream<'static, io::Result<Bytes>>, Problem> {
        self.answer(())?;
        let damage = self.damaged.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let bytes = self.blobs.lock().unwrap()[digest].clone();
        let bytes = if damage { Bytes::from(vec![0; bytes.len()]) } else { bytes };
        Ok(futures::stream::iter([Ok(bytes)]).boxed())
    }
    async fn replayed_frames(&self, _: ReplayId) -> Result<BoxStream<'static, io::Result<Bytes>>, Problem> {
        Err(Problem::new(ErrorCode::InvalidReplayNotFound, "no replays here"))
    }
    async fn upload(&self, file: &Path) -> Result<Blob, Problem> {
        self.answer(blob_of(&std::fs::read(file).unwrap()))
    }
    async fn seal_policy(&self) -> Result<lucarne_model::Octets, Problem> {
        Err(Problem::new(ErrorCode::SealPolicyUnusable, "there is none"))
    }
    async fn open_stream(&self, token: &str) -> Result<StreamEnd, Problem> {
        self.answer(())?;
        let (outgoing, seen) = pipe::unbounded();
        self.streams.lock().unwrap().push((token.to_owned(), seen));
        let outgoing = Box::pin(outgoing.sink_map_err(io::Error::other));
        Ok(StreamEnd { incoming: futures::stream::pending().boxed(), outgoing })
    }
}

/// Proves everything, on paper.
#[derive(Debug)]
struct PaperProver;

#[async_trait]
impl Prover for PaperProver {
    async fn prove(
        &self,
        instance: InstanceId,
        generation: u64,
        nonce: &Octets,
        measured: &[Measurement],
    ) -> Result<Evidence, ProverError> {
        let nothing = || Octets(Vec::new());
        Ok(Evidence {
            instance,
            generation,
            nonce: nonce.clone(),
            host_key: Digest::from_bytes([1; 32]),
            quote: nothing(),
            signature: nothing(),
            pcrs: Vec::new(),
            event_log: nothing(),
            ak_public: nothing(),
            ek_certificates: Vec::new(),
            credential: None,
            guest: Some(serde_json::to_vec(measured).unwrap().into()),
        })
    }

    async fn identify(&self) -> Result<PresentedTpm, ProverError> {
        let nothing = || Octets(Vec::new());
        Ok(PresentedTpm::Software(TpmIdentity {
            model: TpmModel { manufacturer: "PAPR".into(), ..TpmModel::default() },
            endorsement_public: nothing(),
            endorsement_certificates: Vec::new(),
            attestation_public: nothing(),
        }))
    }

    /// One with an empty secret is one that was made for others.
    async fn open(&self, challenge: &DesiredChallenge) -> Result<Octets, ProverError> {
        match challenge.encrypted_secret.is_empty() {
            true => Err(ProverError { code: ErrorCode::CredentialMismatch, cause: "made up".into() }),
            false => Ok(challenge.encrypted_secret.clone()),
        }
    }
}

/// Remembers the last plan.
#[derive(Debug, Default)]
pub(crate) struct PlanKeeper(pub(crate) Mutex<Plan>);

#[async_trait]
impl Network for PlanKeeper {
    async fn apply(&self, plan: &Plan) -> Result<(), NetworkError> {
        *self.0.lock().unwrap() = plan.clone();
        Ok(())
    }
    async fn dropped_frames(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("truncated".into(), 7)])
    }
    async fn stop(&self) {}
}

/// A host in a folder of its own. The agent on it can end and begin again.
pub(crate) struct Bed {
    place: tempfile::TempDir,
    pub(crate) controller: Arc<MemoryController>,
    pub(crate) driver: Arc<Simulated>,
    pub(crate) network: Arc<PlanKeeper>,
    running: Option<(Agent, CancellationToken)>,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        let (driver, network) = (driver_at(place.path()), Arc::default());
        let mut bed = Self { place, controller: Arc::new(MemoryController::new()), driver, network, running: None };
        bed.begin(AtEnd::LeaveMachines).await.unwrap();
        bed
    }

    /// A new process: driver and network know nothing but what is on disk.
    pub(crate) async fn begin(&mut self, at_end: AtEnd) -> Result<(), Error> {
        self.driver = driver_at(self.place.path());
        self.network = Arc::default();
        let layout = Layout::new(self.place.path().join("state"));
        let (memory, unwoken) = Memory::plain(self.driver.clone(), layout);
        let parts = Parts {
            driver: self.driver.clone(),
            network: self.network.clone(),
            memory,
            prover: Some(Arc::new(PaperProver)),
            unwoken,
            controller: self.controller.clone(),
            peers: lucarne_host::Peers::none(),
            host: HostDescription {
                name: "bed".into(),
                address: Ipv4Addr::LOCALHOST.into(),
                tunnel_port: 1,
                peer_port: 0,
                location: lucarne_model::flow::Location::default(),
                public_key: String::new(),
                export_key: String::new(),
                capacity: Capacity::default(),
                oversubscription: Default::default(),
                hypervisor: "simulated".into(),
                agent: String::new(),
                kernel: String::new(),
                started: lucarne_model::Moment::EPOCH,
            },
        };
        let (shutdown, pace) =
            (CancellationToken::new(), Pace { coalesce: Duration::from_millis(5), ..Pace::default() });
        let folder = Folder::open(&self.place.path().join("state"))?;
        self.running = Some((Agent::start(parts, folder, pace, at_end, shutdown.clone()).await?, shutdown));
        Ok(())
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.running.as_ref().unwrap().0
    }

    pub(crate) async fn end(&mut self) {
        let (agent, shutdown) = self.running.take().unwrap();
        shutdown.cancel();
        agent.ended().await.unwrap();
    }

    pub(crate) fn ports(&self) -> Vec<InstanceId> {
        self.network.0.lock().unwrap().ports.iter().map(|port| port.instance).collect()
    }

    /// Waits until the network has exactly these instances' ports.
    pub(crate) async fn has_ports(&self, instances: &[InstanceId]) {
        let wait = async {
            while self.ports() != instances {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let had = tokio::time::timeout(PATIENCE, wait).await;
        assert!(had.is_ok(), "the ports are {:?}, not {instances:?}", self.ports());
    }

    pub(crate) fn state_file(&self, name: &str) -> std::path::PathBuf {
        self.place.path().join("state").join(name)
    }

    /// Desires the instance to run, and waits until it does.
    pub(crate) async fn launch(&self, n: u128) {
        let wanted = self.instance(n, Power::Running, 1);
        self.controller.wish(|desired| put(desired, wanted));
        self.controller.reaches(n, ActualState::Running).await;
    }

    pub(crate) fn instance(&self, n: u128, power: Power, generation: u64) -> DesiredInstance {
        let (kernel, initramfs) = (self.controller.store(b"kernel"), self.controller.store(b"initramfs"));
        DesiredInstance {
            id: InstanceId::from_bits(n),
            account: AccountId::from_bits(1),
            power,
            migration: None,
            duplicate: None,
            origin: None,
            generation,
            image: ImageId::from_bits(1),
            boot: BootSource::Kernel { kernel, initramfs, command_line: String::new() },
            cold: false,
            virtual_tpm: false,
            attestation: None,
            mac: None,
            vcpus: Vcpus(1),
            memory_settings: Default::default(),
            memory: lucarne_model::Bytes::mib(64),
            interface: InterfaceId::from_bits(n),
            vpc: VpcId::from_bits(1),
            user_data: None,
            volumes: Vec::<Attachment>::new(),
            flow_interval_millis: None,
        }
    }
}

fn driver_at(place: &Path) -> Arc<Simulated> {
    let state_dir = Some(place.join("machines"));
    Arc::new(Simulated::new(SimulatedSettings { state_dir, ..SimulatedSettings::default() }))
}

/// Puts the instance, and its interface, into the desired state, in the place of what is there of it.
pub(crate) fn put(desired: &mut Desired, instance: DesiredInstance) {
    desired.instances.retain(|other| other.id != instance.id);
    desired.instances.push(instance);
    let endpoints = desired.instances.iter().map(|instance| Endpoint {
        interface: instance.interface,
        instance: instance.id,
        subnet: SubnetId::from_bits(1),
        address: Ipv4Addr::new(10, 0, 0, instance.id.bits() as u8 + 4),
        mac: MacAddress([2, 0, 0, 0, 0, instance.id.bits() as u8]),
        groups: Vec::new(),
        host: HostId::from_bits(1),
        name: None,
    });
    desired.networks = vec![DesiredNetwork {
        vpc: VpcId::from_bits(1),
        account: AccountId::from_bits(1),
        vni: 1,
        cidr: "10.0.0.0/16".parse().unwrap(),
        subnets: Vec::new(),
        groups: Vec::new(),
        endpoints: endpoints.collect(),
        clock_behind_micros: 0,
    }];
}
