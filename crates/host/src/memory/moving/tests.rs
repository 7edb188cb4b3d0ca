//! Two hosts' folders and a way between them, which changes bytes and breaks off.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::Arc,
};

use lucarne_model::{
    Bytes, Pages, Vcpus,
    memory::PagesByPlace,
    memory_report::Ability,
    paging::{KEY, PageKey},
    storage::{Digest, DiskFormat},
};
use lucarne_vmm::{
    driver::{Boot, EndOfMachine, MachineEvent},
    simulated::Simulated,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::{
    super::{Budget, LendingTools, Tools, supervisor::Wishes},
    words::{LONGEST, PIECE, bring, files, hear, open, take_in},
    *,
};
use crate::{
    durable::{self, Outlives},
    layout::Layout,
};

/// A host's folder, with what a VM sleeps with in it.
struct Bed {
    folder: tempfile::TempDir,
    sleeper: Sleeper,
}

impl Bed {
    fn new(number: u128, origin: Origin) -> Self {
        let instance = InstanceId::from_bits(u128::from(std::process::id()) << 40 | number);
        let folder = tempfile::tempdir().unwrap();
        let volume = VolumeId::from_bits(instance.bits());
        let path = Layout::new(folder.path().into()).volume(volume);
        let disk = Disk { volume, slot: 1, path, format: DiskFormat::Qcow2, size: Some(Bytes::mib(64)), base: None };
        let spec = MachineSpec {
            instance,
            generation: 1,
            vcpus: Vcpus(1),
            memory: Bytes::mib(64),
            boot: Boot::FirstDisk,
            nic: None,
            disks: vec![disk],
            paging: None,
            tpm: None,
            origin,
        };
        let pages = PagesByPlace { ssd: Pages::mib(64), ..PagesByPlace::default() };
        Self::at(folder, Sleeper { spec, pages })
    }

    fn at(folder: tempfile::TempDir, sleeper: Sleeper) -> Self {
        let bed = Self { folder, sleeper };
        fs::create_dir_all(bed.layout().memory()).unwrap();
        fs::create_dir_all(bed.layout().volumes()).unwrap();
        bed
    }

    /// Another host, to which the VM of this one is to be brought.
    fn other(&self) -> Self {
        let (folder, mut sleeper) = (tempfile::tempdir().unwrap(), self.sleeper.clone());
        let layout = Layout::new(folder.path().into());
        sleeper.spec.disks.iter_mut().for_each(|disk| disk.path = layout.volume(disk.volume));
        Self::at(folder, sleeper)
    }

    fn layout(&self) -> Layout {
        Layout::new(self.folder.path().into())
    }

    fn files(&self) -> Vec<PathBuf> {
        let MachineSpec { instance, ref origin, ref disks, .. } = self.sleeper.spec;
        let volumes = disks.iter().map(|disk| disk.path.clone());
        files(&self.layout(), instance, origin).into_iter().chain(volumes).collect()
    }

    /// Each file with bytes, a hole of 32 MiB, more bytes and a hole at its end.
    fn falls_asleep(&self) {
        let instance = self.sleeper.spec.instance;
        fs::create_dir_all(self.layout().pages(instance)).unwrap();
        for (number, path) in self.files().iter().enumerate() {
            let file = fs::File::create(path).unwrap();
            let bytes: Vec<u8> = (0..PIECE * 2 + 17).map(|at| (at * 7 + number) as u8).collect();
            file.write_all_at(&bytes, 0).unwrap();
            file.write_all_at(b"the end", 32 << 20).unwrap();
            file.set_len(33 << 20).unwrap();
        }
        sleep::write_key(&self.layout(), instance, &PageKey([7; KEY])).unwrap();
    }

    /// That it sleeps is on the disk.
    fn is_noted(&self) {
        let asleep = serde_json::to_vec(&self.sleeper).unwrap();
        durable::replace(&self.layout().asleep(self.sleeper.spec.instance), &asleep, Outlives::Process).unwrap();
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        sleep::forget(&self.layout(), self.sleeper.spec.instance);
    }
}

fn warm(memory: Option<Digest>) -> Origin {
    Origin::Warm { generation_id: 5, memory, state: Digest::from_bytes([4; 32]) }
}

/// Both ends, over a way that changes the byte at `spoiled` and breaks off behind `broken`.
async fn brought(from: &Bed, to: &Bed, spoiled: Option<usize>, broken: usize) -> (io::Result<()>, io::Result<()>) {
    let (here, mut way_in) = tokio::io::duplex(1 << 16);
    let (mut way_out, there) = tokio::io::duplex(1 << 16);
    let way = async move {
        let (mut seen, mut piece) = (0, vec![0; 1 << 16]);
        let (mut in_read, mut in_write) = tokio::io::split(&mut way_in);
        let (mut out_read, mut out_write) = tokio::io::split(&mut way_out);
        let there = async {
            while let Ok(count @ 1..) = in_read.read(&mut piece).await {
                if let Some(at) = spoiled.and_then(|at| at.checked_sub(seen)).filter(|at| *at < count) {
                    piece[at] ^= 1;
                }
                let count = count.min(broken.saturating_sub(seen));
                seen += count;
                if count == 0 || out_write.write_all(&piece[..count]).await.is_err() {
                    return;
                }
            }
        };
        let back = async { drop(tokio::io::copy(&mut out_read, &mut in_write).await) };
        tokio::select! { () = there => {}, () = back => {} }
    };
    let (from_layout, to_layout) = (from.layout(), to.layout());
    let sending = async {
        let mut here: Box<dyn Passage> = Box::new(here);
        bring(&mut *here, &from_layout, &from.sleeper).await
    };
    let taking = async {
        let mut there: Box<dyn Passage> = Box::new(there);
        take_in(&mut *there, &to_layout, &to.sleeper).await
    };
    let (sent, taken, ()) = tokio::join!(sending, taking, way);
    (sent, taken)
}

#[tokio::test]
async fn what_a_vm_sleeps_with_is_there_as_it_was_here_holes_too() {
    for (number, origin) in [Origin::Boot, warm(None), warm(Some(Digest::from_bytes([3; 32])))].into_iter().enumerate()
    {
        let from = Bed::new(number as u128 * 2, origin.clone());
        let to = from.other();
        from.falls_asleep();
        let (sent, taken) = brought(&from, &to, None, usize::MAX).await;
        sent.unwrap();
        taken.unwrap();
        let whole = matches!(&origin, Origin::Warm { memory: Some(_), .. });
        assert_eq!(from.files().len(), if whole { 5 } else { 4 });
        for (one, other) in from.files().iter().zip(to.files()) {
            assert!(fs::read(one).unwrap() == fs::read(&other).unwrap(), "{}", other.display());
            assert!(fs::metadata(&other).unwrap().blocks() * 512 < 4 << 20, "the hole was brought as zeros");
        }
        let found = sleep::find(&to.layout());
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].spec, found[0].pages), (&to.sleeper.spec, to.sleeper.pages));
    }
}

#[tokio::test]
async fn a_byte_that_was_changed_or_a_way_that_broke_leaves_nothing_that_sleeps() {
    let from = Bed::new(100, Origin::Boot);
    from.falls_asleep();
    for (number, (spoiled, broken)) in
        [(Some(60_000), usize::MAX), (Some(KEY + 9), usize::MAX), (None, 100_000), (None, KEY + 3), (None, 1 << 20)]
            .into_iter()
            .enumerate()
    {
        let to = Bed::new(200 + number as u128, Origin::Boot);
        let (sent, taken) = brought(&from, &to, spoiled, broken).await;
        assert!(sent.is_err() && taken.is_err(), "{spoiled:?} {broken}");
        assert!(sleep::find(&to.layout()).is_empty());
        assert_eq!(fs::read_dir(to.layout().volumes()).unwrap().count(), 0, "a part of a volume");
        assert!(
            from.files().iter().all(|path| path.exists())
                && sleep::read_key(&from.layout(), from.sleeper.spec.instance).is_ok()
        );
    }
}

#[tokio::test]
async fn an_opening_is_heard_as_it_was_said_and_no_longer_one_than_is_right() {
    let (mut here, mut there) = tokio::io::duplex(1 << 20);
    let pages = PagesByPlace { ssd: Pages(9), ..PagesByPlace::default() };
    let asleep = Opening::Asleep { origin: warm(None), pages, hypervisor: "QEMU".into(), disks: Vec::new() };
    for opening in [Opening::Awake { origin: Origin::Boot }, asleep] {
        open(&mut here, &opening).await.unwrap();
        assert_eq!(hear(&mut there).await.unwrap(), opening);
    }
    here.write_u32(LONGEST + 1).await.unwrap();
    assert!(hear(&mut there).await.is_err());
}

/// A host's agent, as far as memory is concerned; what it would page with is not there.
fn agent(layout: &Layout, pages: bool) -> (Memory, mpsc::Receiver<MachineEvent>) {
    let nothing = PathBuf::from("/nonexistent");
    let lending = LendingTools {
        limit: None,
        executable: nothing.clone(),
        address: Ipv4Addr::LOCALHOST.into(),
        key: nothing.clone(),
    };
    let tools = Tools { executable: nothing.clone(), library: nothing, lending };
    let (memory, none) = (Bytes::gib(1), Bytes::ZERO);
    let budget = Budget { memory, unallocated: none, compressed: none, factor: 1000, paging: Ability::Available };
    Memory::new(Arc::new(Simulated::new(Default::default())), layout.clone(), budget, pages.then_some(tools))
}

/// Two agents, of which the first has a VM that sleeps; whether it could be brought, and taken in.
async fn sent(from: &Bed, to: &Bed, pages: bool) -> ((Memory, bool), (Memory, Option<Began>)) {
    from.falls_asleep();
    from.is_noted();
    let (old, new) = (agent(&from.layout(), true).0, agent(&to.layout(), pages).0);
    assert_eq!(old.adopt(&[]).await, std::slice::from_ref(&from.sleeper.spec));
    let wanted = MachineSpec { origin: Origin::Boot, ..to.sleeper.spec.clone() };
    let (here, there) = tokio::io::duplex(1 << 16);
    let ways = |machine| Ways { machine, disks: BTreeMap::new() };
    let (here, there) = (ways(Box::new(here) as Box<dyn Passage>), ways(Box::new(there)));
    let (sent, taken) = tokio::join!(old.send(wanted.instance, here), new.receive(&wanted, there));
    ((old, sent.is_ok()), (new, taken.ok()))
}

#[tokio::test]
async fn a_vm_that_sleeps_sleeps_on_at_the_other_host_and_wakes_here_only_if_it_stays() {
    let from = Bed::new(300, warm(Some(Digest::from_bytes([3; 32]))));
    let to = from.other();
    let ((old, is_sent), (new, began)) = sent(&from, &to, true).await;
    assert_eq!((is_sent, began), (true, Some(Began::Warm { digest: Digest::from_bytes([4; 32]) })));
    let instance = from.sleeper.spec.instance;
    let (here, there) = (old.0.guest(instance), new.0.guest(instance));
    old.0.wake(instance, &here, Wishes::at_first(Pages::mib(64))).await.unwrap();
    assert_eq!(here.kept().life, Life::Hibernated, "the other host has it");
    assert_eq!(there.kept().life, Life::Hibernated);
    assert_eq!(there.kept().told.as_ref().map(|told| told.pages), Some(from.sleeper.pages));
    assert_eq!(new.go_on(instance).await.unwrap(), None);
    assert_eq!(there.kept().life, Life::Hibernated, "it is woken when there is memory for it");
    assert!(here.kept().is_brought);
    old.go_on(instance).await.unwrap();
    assert!(!here.kept().is_brought && here.kept().life == Life::Hibernated, "it may wake here");
    old.stop(instance, lucarne_vmm::driver::Stop::Kill).await.unwrap();
    let (volumes, pages): (Vec<_>, Vec<_>) =
        from.files().into_iter().partition(|path| path.starts_with(from.layout().volumes()));
    assert!(pages.iter().all(|path| !path.exists()), "what it had is gone with it");
    assert!(volumes.iter().all(|path| path.exists()), "its volumes are not the memory's to delete");
}

#[tokio::test]
async fn a_host_that_could_not_wake_it_takes_nothing_in() {
    let from = Bed::new(400, Origin::Boot);
    let to = from.other();
    let ((old, is_sent), (_, began)) = sent(&from, &to, false).await;
    assert_eq!((is_sent, began), (false, None));
    let kept = old.0.guest(from.sleeper.spec.instance);
    assert!(!kept.kept().is_brought && from.files().iter().all(|path| path.exists()));
    assert!(sleep::find(&to.layout()).is_empty());
}

/// After its machine was started anew nothing is left of the key: the VM is over, its owner hears why, and nothing wakes it.
#[tokio::test]
async fn a_vm_that_slept_when_its_machine_was_started_anew_is_told_as_lost() {
    let bed = Bed::new(500, Origin::Boot);
    bed.falls_asleep();
    let MachineSpec { instance, generation, .. } = bed.sleeper.spec;
    sleep::forget(&bed.layout(), instance);
    bed.is_noted();
    let (agent, mut ends) = agent(&bed.layout(), true);
    agent.adopt(&[]).await;
    let Some(MachineEvent::Ended { instance: of, generation: which, why: EndOfMachine::Died { said } }) =
        ends.recv().await
    else {
        panic!("its end is not told");
    };
    assert_eq!((of, which), (instance, generation));
    assert!(said.contains("started anew") && said.contains("lost"), "{said}");
    let guest = agent.0.guest(instance);
    while bed.layout().asleep(instance).exists() {
        tokio::task::yield_now().await;
    }
    assert!(agent.0.wake(instance, &guest, Wishes::at_first(Pages::mib(64))).await.is_err());
    assert!(sleep::find(&bed.layout()).is_empty());
}
