//! Real machines that are cut while they run, and duplicates of them, each with a pager of its own.
//!
//! The guest checks all that it has written before, so that it sees a page of another time or of another machine.

use std::{env, net::Ipv4Addr, os::unix::fs::PermissionsExt};

use lucarne_model::{
    Pages, Vcpus, VolumeId, VpcId,
    memory_report::Ability,
    replica::{CopyType, DesiredDuplicate},
    storage::DiskFormat,
};
use lucarne_vmm::{
    driver::{Boot, Disk, Driver, Origin, Stop, VolumeSource},
    qemu,
};

use super::{
    super::{Budget, LendingTools, Tools},
    *,
};
use crate::{network::NoNetwork, reconcile::Beginning};

/// A guest of one sector, in 32-bit code at 0x7c00. It prints `B`, and `.` after each pass over its memory from 1 MiB to
/// 24 MiB; when a word is not what the pass before has written, it prints `X`.
///
/// ```text
///         cli; xor ax, ax; mov ds, ax; lgdt [gdtr]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:flat
/// flat:   mov ax, 16; mov ds, ax; mov es, ax; mov ss, ax; mov esp, 0x7000
///         xor ebx, ebx; mov al, 'B'; call put
/// pass:   mov edi, 0x100000
/// each:   imul eax, edi, 0x9e3779b1; lea ecx, [eax + ebx]
///         test ebx, ebx; jz fresh; cmp [edi], ecx; jne wrong
/// fresh:  inc ecx; mov [edi], ecx; add edi, 4; cmp edi, 0x1800000; jb each
///         inc ebx; mov al, '.'; call put; jmp pass
/// wrong:  mov al, 'X'; call put; hlt; jmp wrong
/// put:    mov ah, al; mov dx, 0x3fd
/// wait:   in al, dx; test al, 0x20; jz wait; mov dx, 0x3f8; mov al, ah; out dx, al; ret
/// gdt:    flat code and data; gdtr
/// ```
const GUEST: [u8; 158] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x66, 0x0f, 0x01, 0x16, 0x98, 0x7c, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0,
    0x66, 0xea, 0x1b, 0x7c, 0x00, 0x00, 0x08, 0x00, 0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc,
    0x00, 0x70, 0x00, 0x00, 0x31, 0xdb, 0xb0, 0x42, 0xe8, 0x38, 0x00, 0x00, 0x00, 0xbf, 0x00, 0x00, 0x10, 0x00, 0x69,
    0xc7, 0xb1, 0x79, 0x37, 0x9e, 0x8d, 0x0c, 0x18, 0x85, 0xdb, 0x74, 0x04, 0x39, 0x0f, 0x75, 0x18, 0x41, 0x89, 0x0f,
    0x83, 0xc7, 0x04, 0x81, 0xff, 0x00, 0x00, 0x80, 0x01, 0x72, 0xe1, 0x43, 0xb0, 0x2e, 0xe8, 0x0c, 0x00, 0x00, 0x00,
    0xeb, 0xd2, 0xb0, 0x58, 0xe8, 0x03, 0x00, 0x00, 0x00, 0xf4, 0xeb, 0xf6, 0x88, 0xc4, 0x66, 0xba, 0xfd, 0x03, 0xec,
    0xa8, 0x20, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xc3, 0x66, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00,
    0x17, 0x00, 0x80, 0x7c, 0x00, 0x00,
];

const ROLE: &str = "LUCARNE_TEST_PAGER";
const LONG: Duration = Duration::from_secs(90);
const REPLICA: ReplicaId = ReplicaId::from_bits(7);
const SIZE: Bytes = Bytes::mib(1);
const SOURCE: InstanceId = InstanceId::from_bits(0x1ca);

/// Not a test by itself: an agent's pagers are started in this role.
#[test]
#[ignore = "a role that other tests start"]
fn role_of_the_pager() {
    let Ok(arguments) = env::var(ROLE) else { return };
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let option = |name: &str| Some(arguments[arguments.iter().position(|one| *one == name)? + 1]);
    let path = |name: &str| PathBuf::from(option(name).unwrap());
    let origin = option("--parent").map(|control| lucarne_pager::Origin::Parent {
        control: control.into(),
        capture: option("--capture").unwrap().into(),
        whole: arguments.contains(&"--whole"),
    });
    let options = lucarne_pager::Options {
        instance: option("--instance").unwrap().parse().unwrap(),
        machine: path("--machine"),
        control: path("--control"),
        state: path("--state-dir"),
        pool: Bytes(option("--pool").unwrap().parse().unwrap()),
        origin,
        patience: LONG,
    };
    lucarne_pager::run(&options).unwrap();
}

/// A host with a driver and pagers.
struct House {
    folder: tempfile::TempDir,
    driver: std::sync::Arc<qemu::Qemu>,
    memory: Memory,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let layout = Layout::new(folder.path().into());
        for path in [layout.memory(), layout.cuts(), layout.volumes()] {
            DirBuilder::new().mode(0o711).create(path).unwrap();
        }
        let this = env::current_exe().unwrap();
        let role = "memory::cutting::tests::role_of_the_pager";
        let script = format!(
            "#!/bin/sh\n{ROLE}=\"$*\" exec {} --exact {role} --ignored --nocapture >/dev/null 2>&1\n",
            this.display()
        );
        fs::write(folder.path().join("lucarne"), script).unwrap();
        fs::set_permissions(folder.path().join("lucarne"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("guest.raw"), boot_disk()).unwrap();
        let (driver, memory) = agent(folder.path());
        Self { folder, driver, memory }
    }

    fn layout(&self) -> Layout {
        Layout::new(self.folder.path().into())
    }

    fn spec(&self, instance: InstanceId) -> MachineSpec {
        let volume = volume_of(instance);
        let path = self.layout().volume(volume);
        let disk = Disk { volume, slot: 0, path, format: DiskFormat::Qcow2, size: Some(SIZE), base: None };
        MachineSpec {
            instance,
            generation: 1,
            vcpus: Vcpus(1),
            memory: Bytes::mib(256),
            boot: Boot::FirstDisk,
            nic: None,
            disks: vec![disk],
            paging: None,
            origin: Origin::Fresh { generation_id: instance.bits() },
            tpm: None,
        }
    }

    async fn make_disk(&self, instance: InstanceId) {
        let source = VolumeSource::Overlay { base: &self.folder.path().join("guest.raw"), format: DiskFormat::Raw };
        self.driver.create_volume(&self.layout().volume(volume_of(instance)), SIZE, source).await.unwrap();
    }

    async fn start(&self) {
        self.make_disk(SOURCE).await;
        self.memory.start(&self.spec(SOURCE), &Beginning::Cold { because: None }).await.unwrap();
        self.passes(SOURCE, 2).await;
    }

    async fn cut(&self, replica: ReplicaId) -> Stillness {
        let cut = desired(replica);
        self.memory.prepare_cut(&cut, &sizes()).await.unwrap();
        let taken = self.memory.take_cut(&cut, &sizes(), &NoNetwork).await.unwrap();
        let CutProgress::Taken { instances, .. } = taken else { panic!("{taken:?}") };
        println!("stood still: {instances:?}");
        instances[&SOURCE]
    }

    /// Begins a duplicate, which stands still.
    async fn duplicate(&self, number: u128, copy: CopyType) -> InstanceId {
        let instance = InstanceId::from_bits(number);
        let memory = MemoryCopy::Live;
        let of = DesiredDuplicate { replica: REPLICA, source: SOURCE, copy, memory, begin: false };
        let (held, new) = ((REPLICA, volume_of(SOURCE), copy), (volume_of(instance), SIZE));
        layers::duplicate(self.driver.as_ref(), &self.layout(), held, new).await.unwrap();
        let began = self.memory.duplicate(&self.spec(instance), &of).await;
        assert_eq!(began.unwrap(), lucarne_model::warm::Began::Duplicate { of: SOURCE });
        assert!(self.driver.is_paused(instance).await.unwrap());
        instance
    }

    async fn printed(&self, instance: InstanceId) -> String {
        let log = self.driver.console_log(instance).await.unwrap();
        let log: String = String::from_utf8_lossy(&log).chars().filter(|one| "BX.".contains(*one)).collect();
        assert!(!log.contains('X'), "{instance} has found what it has not written: {log}");
        log
    }

    /// It goes over its memory so many times more.
    async fn passes(&self, instance: InstanceId, count: usize) {
        let (before, end) = (self.printed(instance).await.len(), Instant::now() + LONG);
        while self.printed(instance).await.len() < before + count {
            assert!(Instant::now() < end, "{instance} does not go on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn elsewhere(&self, instance: InstanceId) -> Pages {
        let control = self.layout().pager_socket(instance);
        let told = tokio::task::spawn_blocking(move || Client::connect(&control, PATIENCE)?.statistics()).await;
        told.unwrap().unwrap().pages.snapshot
    }

    /// Whatever it is doing; another is started.
    fn kill_pager(&self, instance: InstanceId) {
        let end = std::time::Instant::now() + LONG;
        let line = loop {
            match std::os::unix::net::UnixStream::connect(self.layout().pager_socket(instance)) {
                Ok(line) => break line,
                Err(error) => assert!(std::time::Instant::now() < end, "there is no pager: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let pager = rustix::net::sockopt::socket_peercred(line).unwrap().pid;
        rustix::process::kill_process(pager, rustix::process::Signal::KILL).unwrap();
    }

    async fn end(&self) {
        for machine in self.driver.adopt().await.unwrap() {
            self.memory.stop(machine.spec.instance, Stop::Kill).await.unwrap();
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // What a failed test left; its pagers end with it.
        let ours = self.folder.path().join("machines").display().to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if String::from_utf8_lossy(&line).contains(&ours)
                && let Some(pid) = pid.and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn agent(folder: &Path) -> (std::sync::Arc<qemu::Qemu>, Memory) {
    let layout = Layout::new(folder.into());
    let driver = std::sync::Arc::new(qemu::Qemu::new(qemu::Settings::new(layout.machines())).unwrap());
    let budget = Budget {
        memory: Bytes::mib(1024),
        unallocated: Bytes::ZERO,
        compressed: Bytes::mib(64),
        factor: 1000,
        paging: Ability::Available,
    };
    let (executable, address) = (folder.join("lucarne"), Ipv4Addr::LOCALHOST.into());
    let lending = LendingTools { limit: None, executable: executable.clone(), address, key: folder.join("key") };
    let library = lucarne_pager::shim::install(folder).unwrap();
    let (memory, _) = Memory::new(driver.clone(), layout, budget, Some(Tools { executable, library, lending }));
    (driver, memory)
}

fn boot_disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[..GUEST.len()].copy_from_slice(&GUEST);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

fn desired(replica: ReplicaId) -> DesiredCut {
    let instances = BTreeMap::from([(SOURCE, MemoryCopy::Live)]);
    let volumes = vec![volume_of(SOURCE)];
    DesiredCut { replica, vpc: VpcId::from_bits(1), instances, volumes, hosts: Vec::new(), take: true }
}

fn sizes() -> BTreeMap<VolumeId, Bytes> {
    BTreeMap::from([(volume_of(SOURCE), SIZE)])
}

fn volume_of(instance: InstanceId) -> VolumeId {
    VolumeId::from_bits(instance.bits())
}

/// The guest's memory, its devices and where its processor was: it neither boots nor finds a word that it has not written.
#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_goes_on_where_its_source_was_and_both_are_whole() {
    let house = House::new();
    house.start().await;
    let stillness = house.cut(REPLICA).await;
    assert!(stillness.devices > Bytes::ZERO && stillness.pause_micros > 0);
    let lazy = house.duplicate(2, CopyType::Shallow).await;
    let first = house.elsewhere(lazy).await;
    house.passes(SOURCE, 2).await;
    assert_eq!(house.printed(lazy).await, "", "it stands still");
    let moved = first - house.elsewhere(lazy).await;
    assert!(moved < Pages::mib(5), "{moved:?} came before it began");
    house.memory.go_on(lazy).await.unwrap();
    house.passes(lazy, 3).await;
    house.passes(SOURCE, 2).await;
    assert!(!house.printed(lazy).await.contains('B'), "it did not boot");
    house.end().await;
}

/// What a pager held the next one holds, until it is let go, also by an agent that finds none at the moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_duplicate_outlives_the_pagers_of_its_source() {
    let house = House::new();
    house.start().await;
    house.cut(REPLICA).await;
    let shallow = house.duplicate(2, CopyType::Shallow).await;
    house.memory.go_on(shallow).await.unwrap();
    for round in 0..6 {
        house.kill_pager(SOURCE);
        if round % 3 == 2 {
            house.kill_pager(shallow);
        }
        house.passes(SOURCE, 1).await;
        house.passes(shallow, 1).await;
    }
    assert!(!house.printed(shallow).await.contains('B'), "it did not boot");
    house.memory.stop(shallow, Stop::Kill).await.unwrap();
    let asleep = || async {
        let control = house.layout().pager_socket(SOURCE);
        let evict = move || Client::connect(&control, LONG)?.evict_all(LONG);
        tokio::task::spawn_blocking(evict).await.unwrap()
    };
    let refused = asleep().await.unwrap_err().to_string();
    assert!(refused.contains("held for a duplicate"), "{refused}");
    house.kill_pager(SOURCE);
    house.memory.drop_cut(REPLICA).await.unwrap();
    asleep().await.unwrap();
    house.passes(SOURCE, 2).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_that_is_whole_outlives_its_source_and_its_cut() {
    let house = House::new();
    house.start().await;
    house.cut(REPLICA).await;
    let whole = house.duplicate(3, CopyType::Deep).await;
    house.memory.go_on(whole).await.unwrap();
    let end = Instant::now() + LONG;
    while house.elsewhere(whole).await > Pages::ZERO {
        assert!(Instant::now() < end, "it does not become whole");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.passes(SOURCE, 1).await;
    let noted = house.layout().pages(whole).join("whole");
    while !noted.exists() {
        assert!(Instant::now() < end, "it is not noted that it is whole");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.memory.drop_cut(REPLICA).await.unwrap();
    house.memory.stop(SOURCE, Stop::Kill).await.unwrap();
    house.passes(whole, 3).await;
    assert!(!house.printed(whole).await.contains('B'), "it did not boot");
    house.end().await;
}

/// A volume that nobody has open is frozen with the others, and is as good as before for whoever boots from it.
#[tokio::test(flavor = "multi_thread")]
async fn disks_that_were_frozen_are_used_as_any_others() {
    let house = House::new();
    house.start().await;
    let end_of = async |instance| {
        house.memory.stop(instance, Stop::Kill).await.unwrap();
        house.driver.forget(instance).await.unwrap();
    };
    end_of(SOURCE).await;
    let (second, third) = (InstanceId::from_bits(2), InstanceId::from_bits(3));
    let volume = volume_of(SOURCE);
    let cut = DesiredCut { instances: BTreeMap::new(), volumes: vec![volume], ..desired(REPLICA) };
    let in_use = house.memory.prepare_cut(&cut, &BTreeMap::new()).await;
    assert!(matches!(in_use, Err(CutError::NoVolume { .. })), "{in_use:?}");
    house.memory.prepare_cut(&cut, &sizes()).await.unwrap();
    house.memory.take_cut(&cut, &sizes(), &NoNetwork).await.unwrap();
    for (instance, copy) in [(second, CopyType::Shallow), (third, CopyType::Deep)] {
        let (held, new) = ((REPLICA, volume, copy), (volume_of(instance), SIZE));
        layers::duplicate(house.driver.as_ref(), &house.layout(), held, new).await.unwrap();
    }
    layers::delete(&house.layout(), volume_of(third)).unwrap();
    for instance in [SOURCE, second] {
        let again = MachineSpec { generation: 2, ..house.spec(instance) };
        house.memory.start(&again, &Beginning::Cold { because: None }).await.unwrap();
        house.passes(instance, 2).await;
        assert!(house.printed(instance).await.contains('B'), "it boots from what is below its layers");
    }
    end_of(SOURCE).await;
    layers::delete(&house.layout(), volume).unwrap();
    house.passes(second, 2).await;
    end_of(second).await;
    layers::delete(&house.layout(), volume_of(second)).unwrap();
    assert_eq!(fs::read_dir(house.layout().volumes()).unwrap().count(), 0);
}

/// Layers are as good as what they lie on, for whoever boots from them, copies them, or freezes them once more.
#[tokio::test(flavor = "multi_thread")]
async fn disks_that_were_frozen_while_they_were_used_go_on_being_used() {
    let mut house = House::new();
    house.start().await;
    house.cut(REPLICA).await;
    let second = house.duplicate(2, CopyType::Shallow).await;
    house.cut(ReplicaId::from_bits(9)).await;
    (house.driver, house.memory) = agent(house.folder.path());
    let adopted = house.driver.adopt().await.unwrap();
    house.memory.adopt(&adopted).await;
    let source = adopted.iter().find(|machine| machine.spec.instance == SOURCE).unwrap();
    assert_eq!(source.disks.len(), 1, "the next agent finds the disk under its layers");
    let (copy, disk) = (house.folder.path().join("copy.qcow2"), house.layout().volume(volume_of(SOURCE)));
    house.driver.snapshot(&disk, Some((SOURCE, volume_of(SOURCE))), &copy).await.unwrap();
    house.memory.go_on(second).await.unwrap();
    house.passes(second, 2).await;
    house.memory.stop(SOURCE, Stop::Kill).await.unwrap();
    for (generation, disk_of) in [(2, disk.clone()), (3, copy)] {
        fs::rename(disk_of, &disk).unwrap();
        let again = MachineSpec { generation, ..house.spec(SOURCE) };
        house.memory.start(&again, &Beginning::Cold { because: None }).await.unwrap();
        house.passes(SOURCE, 2).await;
        assert!(house.printed(SOURCE).await.contains('B'), "it boots from what is below its layers");
        house.memory.stop(SOURCE, Stop::Kill).await.unwrap();
        house.driver.forget(SOURCE).await.unwrap();
    }
    house.passes(second, 2).await;
    house.end().await;
}

/// The next agent lets it go on, and says that there is no cut.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_an_agent_left_stopped_for_a_cut_goes_on() {
    let mut house = House::new();
    house.start().await;
    house.memory.prepare_cut(&desired(REPLICA), &sizes()).await.unwrap();
    let other = ReplicaId::from_bits(8);
    house.memory.prepare_cut(&desired(other), &sizes()).await.unwrap();
    write(&house.layout().cut(REPLICA).join(TAKING), &[SOURCE]).unwrap();
    house.driver.pause(SOURCE).await.unwrap();
    // As far as it may come: QEMU writes to the layer, which has not its volume's name.
    let layer = layers::layer_of(&house.layout(), REPLICA, volume_of(SOURCE));
    assert!(house.driver.put_over(SOURCE, volume_of(SOURCE), &layer).await.unwrap());
    (house.driver, house.memory) = agent(house.folder.path());
    let adopted = house.driver.adopt().await.unwrap();
    assert_eq!(house.memory.adopt(&adopted).await, []);
    let found = house.memory.settle_cuts().await.unwrap();
    assert!(matches!(found[&REPLICA], CutProgress::Failed { .. }) && found.len() == 1, "{found:?}");
    house.passes(SOURCE, 2).await;
    assert!(!layers::is_prepared(&house.layout(), REPLICA, volume_of(SOURCE)), "it has it now");
    assert!(!house.layout().cut(other).exists(), "it is begun anew");
    house.memory.drop_cut(REPLICA).await.unwrap();
    house.cut(REPLICA).await;
    house.passes(SOURCE, 2).await;
    assert!(matches!(house.memory.settle_cuts().await.unwrap()[&REPLICA], CutProgress::Taken { .. }), "it is kept");
    house.end().await;
}
