//! Tests of [`super`]: the command line as a tenant's VM gets it.

use std::path::PathBuf;

use lucarne_model::{Bytes, MacAddress, Vcpus, storage::DiskFormat};
use proptest::prelude::*;

use super::*;
use crate::driver::{Nic, Origin, Paging};

fn spec() -> MachineSpec {
    let disk = |number, slot| Disk {
        volume: VolumeId::from_bits(number),
        slot,
        path: PathBuf::from(format!("/state/volumes/{number}.qcow2")),
        format: DiskFormat::Qcow2,
        size: None,
        base: None,
    };
    MachineSpec {
        instance: InstanceId::from_bits(0xabc),
        generation: 1,
        vcpus: Vcpus(2),
        memory: Bytes::mib(256),
        boot: Boot::FirstDisk,
        nic: Some(Nic {
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            switch_socket: "/state/net/switch".into(),
            guest_socket: "/state/net/guest".into(),
        }),
        disks: vec![disk(1, 0), disk(2, 3)],
        paging: None,
        origin: Origin::Boot,
        tpm: None,
    }
}
fn line(spec: &MachineSpec) -> Vec<String> {
    let directory = Directory::of(Path::new("/state/instances"), spec.instance);
    arguments(spec, &directory, Acceleration::Tcg).unwrap()
}
fn has(line: &[String], name: &str, value: &str) -> bool {
    line.windows(2).any(|pair| pair[0] == name && pair[1] == value)
}

#[test]
fn nothing_is_there_that_was_not_asked_for_and_the_process_is_fenced_in() {
    let line = line(&spec());
    for flag in ["-nodefaults", "-no-user-config", "-S"] {
        assert!(line.iter().any(|argument| argument == flag), "{flag}");
    }
    for denied in ["elevateprivileges", "spawn", "resourcecontrol", "obsolete"] {
        assert!(SANDBOX.contains(&format!("{denied}=deny")));
    }
    assert!(has(&line, "-sandbox", SANDBOX));
    assert!(has(&line, "-object", "memory-backend-memfd,id=ram,size=256M,share=on"));
}

/// Whatever touched all of a guest's memory would bring all of it back from where it costs less; whatever mapped it a
/// second time could touch it without its pager. And direct I/O holds pages while a disk writes into them, also while they
/// leave: what comes from the disk then would be in nobody's memory.
#[test]
fn nothing_fills_locks_merges_dumps_or_shares_memory_that_is_paged() {
    let paging = Paging { library: "/state/shim.so".into(), socket: "/state/paging/s".into(), key: None };
    let line = line(&MachineSpec { paging: Some(paging), ..spec() });
    assert!(has(&line, "-machine", "q35,memory-backend=ram,vmport=off,mem-merge=off,dump-guest-core=off"));
    for forbidden in ["prealloc", "mem-lock", "-overcommit", "vhost", "vfio", "-gdb", "mem-merge=on", "direct", "aio"] {
        assert!(!line.iter().any(|argument| argument.contains(forbidden)), "{forbidden}");
    }
}

/// What a sealed operation reads does not pass through the agent, which talks to the other.
#[test]
fn there_is_a_monitor_that_is_not_the_agents() {
    let line = line(&spec());
    for monitor in ["qmp", "seal"] {
        assert!(has(&line, "-mon", &format!("chardev={monitor},mode=control")), "{monitor}");
    }
    let described = description(&spec(), Acceleration::Tcg).unwrap();
    assert!(described.devices.contains("-mon chardev=seal,mode=control"), "it is measured that it is there");
}

#[test]
fn cloud_init_takes_the_machine_for_one_of_ec2() {
    assert_eq!(smbios_uuid(InstanceId::from_bits(0xabc)), "ec200000-0000-0000-0000-000000000abc");
    assert_eq!(smbios_uuid(InstanceId::from_bits(u128::MAX)), "ec200000-0000-000f-ffff-ffffffffffff");
    let uuid = smbios_uuid(spec().instance);
    let value = format!("type=1,manufacturer=Lucarne,product=Instance,uuid={uuid},serial={uuid}");
    assert!(has(&line(&spec()), "-smbios", &value));
}

#[test]
fn every_disk_stands_in_the_port_of_its_slot_and_the_first_is_booted() {
    let line = line(&spec());
    let first = "virtio-blk-pci,id=disk-vol-00000000000000001,drive=vol-00000000000000001,bus=slot0,\
                 serial=vol00000000000000001,bootindex=0";
    assert!(has(&line, "-device", first));
    assert!(line.iter().any(|argument| argument.contains("drive=vol-00000000000000002,bus=slot3,")));
    let ports = line.iter().filter(|argument| argument.starts_with("pcie-root-port,")).count();
    assert_eq!(ports, usize::from(SLOTS));
}

#[test]
fn a_disk_attached_later_has_the_names_of_one_attached_at_the_start() {
    let spec = spec();
    let disk = &spec.disks[1];
    let later = device(disk);
    for key in ["id", "drive", "bus", "serial"] {
        let option = format!("{key}={}", later[key].as_str().unwrap());
        assert!(line(&spec).iter().any(|argument| argument.contains(&option)), "{option}");
    }
    assert!(has(&line(&spec), "-blockdev", &node(disk).unwrap().to_string()));
}

#[test]
fn a_machine_that_cannot_be_is_refused_before_anything_is_started() {
    let directory = Directory::of(Path::new("/state/instances"), spec().instance);
    let refused = |change: fn(&mut MachineSpec)| {
        let mut spec = spec();
        change(&mut spec);
        arguments(&spec, &directory, Acceleration::Tcg).is_err()
    };
    assert!(refused(|spec| spec.vcpus = Vcpus(0)));
    assert!(refused(|spec| spec.memory = Bytes(4096)));
    assert!(refused(|spec| spec.disks.clear()));
    assert!(refused(|spec| spec.disks[1].slot = SLOTS));
    assert!(refused(|spec| spec.disks[1].slot = 0));
    assert!(refused(|spec| spec.disks[1].volume = spec.disks[0].volume));
    assert!(!refused(|_| {}));
}

proptest! {
    /// No path can end its option and begin another.
    #[test]
    fn a_path_stays_one_value(name in "[a-z,=]{1,12}") {
        let path = PathBuf::from(format!("/state/{name}"));
        let option = socket("x", &path).unwrap();
        let unquoted = option.replace(",,", "\0");
        prop_assert_eq!(unquoted.matches(',').count(), 4);
    }

    /// The agent that starts anew finds each of its VMs by its command line, and takes no other for its own.
    #[test]
    fn a_vm_is_known_by_its_command_line(bits: u128, other in "/[a-z,]{1,8}") {
        let mut spec = spec();
        spec.instance = InstanceId::from_bits(bits);
        let line = line(&spec);
        prop_assert_eq!(instance_of(&line, Path::new("/state/instances")), Some(spec.instance));
        prop_assert_eq!(instance_of(&line, Path::new(&other)), None);
        prop_assert_eq!(instance_of(&line[..2], Path::new("/state/instances")), None);
    }
}

#[test]
fn a_vm_is_known_by_its_arguments_also_before_prlimit_has_become_qemu() {
    let instances = Path::new("/state/instances");
    let qemu = [vec!["/usr/bin/qemu-system-x86_64".to_owned()], line(&spec())].concat();
    let prlimit = ["/usr/bin/prlimit", "--core=0", "--nofile=1024", "--"].map(str::to_owned);
    assert_eq!(instance_of(&[prlimit.to_vec(), qemu.clone()].concat(), instances), Some(spec().instance));
    assert_eq!(instance_of(&qemu, instances), Some(spec().instance));
    assert_eq!(instance_of(&qemu, Path::new("/elsewhere/instances")), None);
}

/// What is loaded into a machine must find the devices that were saved, in their places; what comes later has a place.
#[test]
fn a_vm_that_goes_on_from_a_warm_state_is_its_template_and_a_card() {
    let (own, boot) = (
        MachineSpec { disks: vec![], ..spec() },
        Boot::Kernel {
            kernel: "/blobs/kernel".into(),
            initramfs: "/blobs/initramfs".into(),
            command_line: "quiet".into(),
        },
    );
    let digest = lucarne_model::storage::Digest::from_bytes([0; 32]);
    let devices = |spec: &MachineSpec, plugged: bool| -> Vec<String> {
        let all = line(&MachineSpec { boot: boot.clone(), ..spec.clone() });
        let all = if plugged { all } else { without_nic(all) };
        let all: Vec<_> = all.windows(2).filter(|pair| pair[0] == "-device").map(|pair| pair[1].clone()).collect();
        all.into_iter().filter(|device| !device.starts_with("vmgenid")).collect()
    };
    let template = MachineSpec { nic: None, origin: Origin::Template, ..own.clone() };
    let warm = MachineSpec {
        origin: Origin::Warm { generation_id: 0xfeed, memory: Some(digest.clone()), state: digest },
        ..own
    };
    assert_eq!(devices(&template, true), devices(&warm, false));
    assert_eq!(devices(&warm, true).len(), devices(&warm, false).len() + 1);
    assert!(
        devices(&warm, true)
            .contains(&"virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,romfile=,id=nic0,bus=nic-port".into())
    );
    assert!(has(&line(&MachineSpec { boot, ..warm }), "-device", "vmgenid,guid=00000000-0000-0000-0000-00000000feed"));
}

/// What differs between two VMs of the same make is in no description; everything else is.
#[test]
fn a_description_is_the_same_for_all_of_a_kind_and_another_for_any_other_kind() {
    let described = |spec: &MachineSpec| description(spec, Acceleration::Tcg).unwrap();
    let mut twin = MachineSpec { instance: InstanceId::from_bits(0xdef), generation: 4, ..spec() };
    twin.nic = Some(Nic {
        mac: MacAddress([2, 0, 0, 0, 0, 9]),
        switch_socket: "/elsewhere/switch".into(),
        guest_socket: "/elsewhere/guest".into(),
    });
    twin.disks[0].volume = VolumeId::from_bits(77);
    twin.disks[0].path = "/elsewhere/77.qcow2".into();
    assert_eq!(described(&spec()), described(&twin));
    let description = described(&spec());
    assert_eq!(description.memory, "-m size=256M\n-object memory-backend-memfd,id=ram,size=256M,share=on\n");
    assert!(description.devices.contains("-sandbox ") && description.devices.contains("virtio-net-pci"));
    let others = [
        MachineSpec { vcpus: Vcpus(3), ..spec() },
        MachineSpec { memory: Bytes::mib(512), ..spec() },
        MachineSpec { nic: None, ..spec() },
        MachineSpec { disks: vec![spec().disks[0].clone()], ..spec() },
    ];
    for other in others {
        assert_ne!(description, described(&other));
    }
}

#[test]
fn an_overlay_whose_image_is_known_names_it_to_qemu() {
    let mut spec = spec();
    spec.disks[0].base = Some(Base { path: "/dev/fdset/1".into(), format: DiskFormat::Raw });
    let node = node(&spec.disks[0]).unwrap();
    assert_eq!(node["backing"]["file"]["filename"], "/dev/fdset/1");
    assert_eq!((&node["backing"]["driver"], &node["backing"]["read-only"]), (&json!("raw"), &json!(true)));
}
