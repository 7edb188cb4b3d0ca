//! The hosts as they last spoke: heartbeats, actual states, and the versions of desired state that they were given.
//!
//! Owns what the controller knows of hosts and keeps in memory only: a controller that starts anew hears it again within one
//! heartbeat. What must outlive it is in the store.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lucarne_model::{
    Bytes, HostId, ImageId, InstanceId, LoadId, Moment, RecordingId, ReplayId, ReplicaId, VolumeId,
    actual::{ActualInstance, HostState, Report},
    memory_move::{MoveProgress, MoveWish},
    memory_report::{HostMemory, InstanceMemory, MemoryReport},
    recording::Recorded,
    replica::ActualCut,
    scaling::InstanceFigures,
    warm::{Began, WarmProgress, WarmSize},
};

use crate::{
    desired::Fingerprint,
    workflow::{replication::CutSeen, steps::Observed},
};

/// What was heard of all hosts since the controller started.
#[derive(Debug)]
pub(crate) struct Fleet {
    started: Moment,
    timeout: Duration,
    hosts: Mutex<HashMap<HostId, Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    at: Option<Moment>,
    report: Option<Spoken>,
    given: Option<Given>,
    /// What was measured of its instances, and when it told so by this clock.
    figures: Option<(Moment, HashMap<InstanceId, InstanceFigures>)>,
}

/// A report, by instance.
#[derive(Debug)]
struct Spoken {
    report: Report,
    instances: HashMap<InstanceId, ActualInstance>,
}

/// The desired state that a host was given last.
#[derive(Clone, Copy, Debug)]
struct Given {
    content: Fingerprint,
    version: u64,
}

impl Fleet {
    pub(crate) fn new(started: Moment, timeout: Duration) -> Self {
        Self { started, timeout, hosts: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostId, Heard>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host is there, whatever it says.
    pub(crate) fn heard(&self, host: HostId, now: Moment) {
        self.lock().entry(host).or_default().at = Some(now);
    }

    /// Frames that the host's switch dropped before they were flows, by reason.
    pub(crate) fn dropped_frames(&self, host: HostId) -> BTreeMap<String, u64> {
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref());
        spoken.map(|spoken| spoken.report.dropped_frames.clone()).unwrap_or_default()
    }

    /// What the host told of its memory last.
    pub(crate) fn host_memory(&self, host: HostId) -> Option<HostMemory> {
        self.memory(host, |told| Some(told.host.clone()))
    }

    /// What the host told last of the instance's memory.
    pub(crate) fn memory_of(&self, host: HostId, instance: InstanceId) -> Option<InstanceMemory> {
        self.memory(host, |told| told.instances.iter().find(|memory| memory.instance == instance).cloned())
    }

    /// The same, whichever host it is on.
    pub(crate) fn memory_wherever(&self, instance: InstanceId) -> Option<InstanceMemory> {
        let all = self.lock();
        let mut told = all.values().filter_map(|heard| heard.report.as_ref()?.report.memory.as_ref());
        told.find_map(|told| told.instances.iter().find(|memory| memory.instance == instance).cloned())
    }

    /// How far the instance has come on its way from one host to another, as the one that brings it told last.
    pub(crate) fn progress(&self, instance: InstanceId) -> Option<MoveProgress> {
        let all = self.lock();
        let mut told = all.values().filter_map(|heard| heard.report.as_ref()?.report.memory.as_ref());
        let moving = told.find_map(|told| told.moving.iter().find(|moving| moving.instance == instance))?;
        Some(moving.progress)
    }

    /// The instances that the host would rather have elsewhere.
    pub(crate) fn wishes(&self, host: HostId) -> Vec<MoveWish> {
        self.memory(host, |told| Some(told.wishes.clone())).unwrap_or_default()
    }

    /// Whether any host would rather have an instance elsewhere.
    pub(crate) fn anybody_wishes(&self) -> bool {
        let all = self.lock();
        let mut told = all.values().filter_map(|heard| heard.report.as_ref()?.report.memory.as_ref());
        told.any(|told| !told.wishes.is_empty())
    }

    fn memory<T>(&self, host: HostId, read: impl FnOnce(&MemoryReport) -> Option<T>) -> Option<T> {
        let all = self.lock();
        read(all.get(&host)?.report.as_ref()?.report.memory.as_ref()?)
    }

    /// What each host has of a recording.
    pub(crate) fn recorded(&self, recording: RecordingId) -> BTreeMap<HostId, Recorded> {
        let all = self.lock();
        let spoken = all.iter().filter_map(|(host, heard)| Some((*host, heard.report.as_ref()?)));
        let found = spoken.filter_map(|(host, spoken)| {
            let told = spoken.report.recordings.iter().find(|told| told.id == recording)?;
            Some((host, told.recorded.clone()))
        });
        found.collect()
    }

    /// Takes what the host measured of its instances.
    pub(crate) fn note_figures(&self, host: HostId, figures: &[InstanceFigures], now: Moment) {
        let figures = figures.iter().map(|told| (told.instance, *told)).collect();
        self.lock().entry(host).or_default().figures = Some((now, figures));
    }

    /// What the host measured of the instance, and when it told so.
    pub(crate) fn figures(&self, host: HostId, instance: InstanceId) -> Option<(Moment, InstanceFigures)> {
        let all = self.lock();
        let (at, figures) = all.get(&host)?.figures.as_ref()?;
        Some((*at, *figures.get(&instance)?))
    }

    /// The recordings of which a host has something.
    pub(crate) fn recordings_at(&self, host: HostId) -> Vec<RecordingId> {
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref());
        spoken.map(|spoken| spoken.report.recordings.iter().map(|told| told.id).collect()).unwrap_or_default()
    }

    /// The replays of which a host has something.
    pub(crate) fn replays_at(&self, host: HostId) -> Vec<ReplayId> {
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref());
        spoken.map(|spoken| spoken.report.replays.iter().map(|told| told.id).collect()).unwrap_or_default()
    }

    /// The loads of which a host has something.
    pub(crate) fn loads_at(&self, host: HostId) -> Vec<LoadId> {
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref());
        spoken.map(|spoken| spoken.report.loads.iter().map(|told| told.id).collect()).unwrap_or_default()
    }

    /// What hosts say of the image's warm state of this size.
    pub(crate) fn warm_states(&self, image: ImageId, size: WarmSize) -> Vec<WarmProgress> {
        let all = self.lock();
        let spoken =
            all.values().filter_map(|heard| heard.report.as_ref()).flat_map(|spoken| &spoken.report.warm_states);
        spoken.filter(|state| state.image == image && state.size == size).map(|state| state.progress.clone()).collect()
    }

    /// How the VM that the host runs for this start of the instance began.
    pub(crate) fn began(&self, host: HostId, instance: InstanceId, generation: u64) -> Option<Began> {
        let all = self.lock();
        let actual = all.get(&host)?.report.as_ref()?.instances.get(&instance)?;
        actual.began.clone().filter(|_| actual.generation == generation)
    }

    /// The host is no more.
    pub(crate) fn forget(&self, host: HostId) {
        self.lock().remove(&host);
    }

    pub(crate) fn last_heard(&self, host: HostId) -> Option<Moment> {
        self.lock().get(&host).and_then(|heard| heard.at)
    }

    /// A host that was not heard of yet has been silent since the controller started.
    pub(crate) fn is_down(&self, host: HostId, now: Moment) -> bool {
        now.since(self.last_heard(host).unwrap_or(self.started)) > self.timeout
    }

    pub(crate) fn state(&self, host: HostId, draining: bool, now: Moment) -> HostState {
        match (self.is_down(host, now), draining) {
            (true, _) => HostState::Down,
            (false, true) => HostState::Draining,
            (false, false) => HostState::Up,
        }
    }

    /// Whether `report` says anything that changes records, and that the last one did not. What it counts is taken note of.
    pub(crate) fn is_news(&self, host: HostId, report: &Report) -> bool {
        let same = |old: &Report| {
            // As long as a host asks for something, what became of it is looked at anew.
            report.starts.is_empty()
                && old.version == report.version
                && old.capacity == report.capacity
                && old.instances == report.instances
                && old.volumes == report.volumes
                && old.snapshots == report.snapshots
                && old.replays == report.replays
                && old.loads == report.loads
        };
        let mut all = self.lock();
        match all.get_mut(&host).and_then(|heard| heard.report.as_mut()) {
            Some(spoken) => {
                spoken.report.dropped_frames.clone_from(&report.dropped_frames);
                spoken.report.memory.clone_from(&report.memory);
                spoken.report.warm_states.clone_from(&report.warm_states);
                spoken.report.recordings.clone_from(&report.recordings);
                !same(&spoken.report)
            }
            None => true,
        }
    }

    /// Takes a report in, and gives the instances of which it says something new.
    pub(crate) fn take(&self, host: HostId, report: Report) -> Vec<InstanceId> {
        let instances: HashMap<_, _> = report.instances.iter().map(|actual| (actual.id, actual.clone())).collect();
        let mut all = self.lock();
        let heard = all.entry(host).or_default();
        let before = heard.report.as_ref().map(|spoken| &spoken.instances);
        let is_new = |actual: &&ActualInstance| before.and_then(|before| before.get(&actual.id)) != Some(actual);
        let changed = instances.values().filter(is_new).map(|actual| actual.id).collect();
        heard.report = Some(Spoken { report, instances });
        changed
    }

    /// What the host says of the instance.
    pub(crate) fn observe(&self, host: Option<HostId>, instance: InstanceId, now: Moment) -> Observed {
        let Some(host) = host else { return Observed::Unplaced };
        if self.is_down(host, now) {
            return Observed::HostDown;
        }
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref());
        match spoken.and_then(|spoken| spoken.instances.get(&instance)) {
            Some(actual) => Observed::Said(actual.clone()),
            None => Observed::Unknown,
        }
    }

    /// What the host says of its part in a replica's cut.
    pub(crate) fn cut(&self, host: HostId, replica: ReplicaId, now: Moment) -> CutSeen {
        if self.is_down(host, now) {
            return CutSeen::HostDown;
        }
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref());
        let said = spoken.and_then(|spoken| spoken.report.cuts.iter().find(|cut| cut.replica == replica));
        said.map_or(CutSeen::Unknown, |cut| CutSeen::Said(cut.progress.clone()))
    }

    /// Takes in what the host says of cuts, which changes no records by itself; gives the replicas of which it says something new.
    pub(crate) fn take_cuts(&self, host: HostId, cuts: &[ActualCut]) -> Vec<ReplicaId> {
        let mut all = self.lock();
        let spoken = all.get_mut(&host).and_then(|heard| heard.report.as_mut());
        let before = spoken.as_ref().map(|spoken| spoken.report.cuts.as_slice()).unwrap_or_default();
        let changed = cuts.iter().filter(|cut| !before.contains(cut)).map(|cut| cut.replica).collect();
        if let Some(spoken) = spoken {
            spoken.report.cuts = cuts.to_vec();
        }
        changed
    }

    /// The instances that the host speaks of.
    pub(crate) fn mentioned(&self, host: HostId) -> Vec<InstanceId> {
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref());
        spoken.map(|spoken| spoken.instances.keys().copied().collect()).unwrap_or_default()
    }

    /// The volumes whose bytes the host says it has.
    pub(crate) fn volumes_at(&self, host: HostId) -> Vec<VolumeId> {
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref());
        let present = |spoken: &Spoken| {
            let volumes = spoken.report.volumes.iter().filter(|volume| volume.present);
            volumes.map(|volume| volume.id).collect()
        };
        spoken.map(present).unwrap_or_default()
    }

    /// Whether the host says that it has a volume, and that this draws on no other.
    pub(crate) fn is_whole(&self, host: HostId, volume: VolumeId) -> bool {
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref());
        let said = spoken.and_then(|spoken| spoken.report.volumes.iter().find(|one| one.id == volume));
        said.is_some_and(|one| one.present && !one.draws)
    }

    /// What the host says to have copied for a volume.
    pub(crate) fn copied_for(&self, host: HostId, volume: VolumeId) -> Option<Bytes> {
        let all = self.lock();
        let spoken = all.get(&host).and_then(|heard| heard.report.as_ref())?;
        spoken.report.volumes.iter().find(|one| one.id == volume)?.copied
    }

    /// The version of a desired state with this fingerprint: that of what the host was given last if it is the same, else a
    /// newer one, `sequence` if that is newer. (A change that was committed after `sequence` was read may be in it already.)
    pub(crate) fn number(&self, host: HostId, content: Fingerprint, sequence: u64) -> u64 {
        let mut all = self.lock();
        let heard = all.entry(host).or_default();
        let version = match heard.given {
            Some(given) if given.content == content => given.version,
            Some(given) => sequence.max(given.version + 1),
            None => sequence,
        };
        heard.given = Some(Given { content, version });
        version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId::from_bits(1);
    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn a_host_is_down_when_it_was_silent_for_longer_than_the_timeout() {
        let fleet = Fleet::new(Moment::from_secs(100), TIMEOUT);
        assert!(!fleet.is_down(HOST, Moment::from_secs(110)), "it may still speak");
        assert!(fleet.is_down(HOST, Moment::from_secs(111)));
        fleet.heard(HOST, Moment::from_secs(111));
        assert!(!fleet.is_down(HOST, Moment::from_secs(121)));
        assert!(fleet.is_down(HOST, Moment::from_secs(122)));
    }

    #[test]
    fn equal_desired_states_keep_their_version() {
        let fleet = Fleet::new(Moment::EPOCH, TIMEOUT);
        let [one, other] = ["one", "other"].map(|content| Fingerprint::of(&content));
        assert_eq!((fleet.number(HOST, one, 7), fleet.number(HOST, one, 9)), (7, 7));
        assert_eq!(fleet.number(HOST, other, 11), 11);
        assert_eq!(fleet.number(HOST, one, 11), 12, "what differs is never given the version that the host has");
    }

    #[test]
    fn a_report_names_the_instances_that_changed() {
        use lucarne_model::actual::{ActualState, Capacity};
        let fleet = Fleet::new(Moment::EPOCH, TIMEOUT);
        let actual = |n, state| ActualInstance {
            id: InstanceId::from_bits(n),
            generation: 1,
            state,
            reason: None,
            volumes: Vec::new(),
            began: None,
            stood_still_millis: None,
            evidence: None,
        };
        let report = |instances| Report {
            version: 1,
            capacity: Capacity::default(),
            instances,
            volumes: Vec::new(),
            snapshots: Vec::new(),
            dropped_frames: Default::default(),
            recordings: Vec::new(),
            replays: Vec::new(),
            loads: Vec::new(),
            figures: Vec::new(),
            memory: None,
            warm_states: Vec::new(),
            cuts: Vec::new(),
            starts: Vec::new(),
        };
        let first = report(vec![actual(1, ActualState::Preparing), actual(2, ActualState::Running)]);
        assert!(fleet.is_news(HOST, &first));
        assert_eq!(fleet.take(HOST, first.clone()).len(), 2);
        assert!(!fleet.is_news(HOST, &first));
        let second = report(vec![actual(1, ActualState::Running), actual(2, ActualState::Running)]);
        assert!(fleet.is_news(HOST, &second));
        assert_eq!(fleet.take(HOST, second), [InstanceId::from_bits(1)]);
    }
}
