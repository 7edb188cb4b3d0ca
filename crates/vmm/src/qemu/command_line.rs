//! QEMU's command line for one VM: what the machine is made of.
//!
//! Owns every option and the names of devices and nodes. A pure function of the spec, so that what a tenant's VM runs
//! with can be read, tested and, later, measured. Starting it is [`super::vm`]'s.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::Path;

use lucarne_model::{InstanceId, MacAddress, VolumeId, storage::DiskFormat};
use serde_json::{Value, json};

use super::Acceleration;
use crate::{
    driver::{Base, Boot, Disk, MachineSpec, Nic, Origin, SLOTS, check_disks},
    error::Error,
    measuring::Description,
    record::Directory,
};

/// QEMU asks for nothing of this after its start: it needs no other programs, users or scheduling.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
/// The first PCI device number of the hotplug ports; those below are the chipset's and the fixed devices'.
const FIRST_PORT: u8 = 0x10;
/// The port of a network card that is plugged in while the VM stands still, and the card.
const NIC_PORT: &str = "nic-port";
const NIC: &str = "nic0";
/// What names of mirrors begin with; a node's name has at most 31 bytes.
const MIRROR: &str = "away-";
/// The VM generation id of a template; no VM that goes on from it has this one.
const TEMPLATE: u128 = 0;

/// All arguments behind the program's name. The VM starts stopped: see `cont` in [`super::vm`].
pub(super) fn arguments(
    spec: &MachineSpec,
    directory: &Directory,
    acceleration: Acceleration,
) -> Result<Vec<String>, Error> {
    check(spec)?;
    let mut line = Line::default();
    line.option("-name", spec.instance.to_string());
    line.flags(&["-nodefaults", "-no-user-config", "-S"]);
    line.options(&[("-sandbox", SANDBOX), ("-display", "none"), ("-cpu", "max")]);
    line.option("-machine", machine(spec));
    line.options(acceleration.options());
    line.option("-smp", format!("cpus={},sockets=1,cores={0},threads=1", spec.vcpus));
    // The pager reads it and punches it out: it is shared, and nothing fills or locks it at the start.
    line.option("-m", format!("size={}M", spec.memory.as_mib()));
    line.option("-object", format!("memory-backend-memfd,id=ram,size={}M,share=on", spec.memory.as_mib()));
    let uuid = smbios_uuid(spec.instance);
    line.option("-smbios", format!("type=1,manufacturer=Lucarne,product=Instance,uuid={uuid},serial={uuid}"));
    boot(&mut line, &spec.boot)?;
    ports_and_disks(&mut line, spec)?;
    network(&mut line, spec)?;
    generation_id(&mut line, &spec.origin);
    if spec.tpm.is_some() {
        // The socket `tpm` is given with the descriptor that it is: see [`crate::virtual_tpm`].
        line.option("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        line.option("-device", "tpm-crb,tpmdev=tpm0");
    }
    line.option("-device", "virtio-rng-pci");
    line.option("-chardev", socket("serial0", &directory.serial())?);
    line.option("-serial", "chardev:serial0");
    line.option("-chardev", socket("qmp", &directory.qmp())?);
    line.option("-mon", "chardev=qmp,mode=control");
    line.option("-chardev", socket("seal", &directory.sealed_monitor())?);
    line.option("-mon", "chardev=seal,mode=control");
    Ok(line.0)
}

/// What a machine of this spec is, in the very options that QEMU gets, but for what is this VM's alone: its names, its
/// addresses and where its files lie. Two VMs of the same make have the same description.
pub(super) fn description(spec: &MachineSpec, acceleration: Acceleration) -> Result<Description, Error> {
    let booting = MachineSpec { origin: Origin::Fresh { generation_id: TEMPLATE }, ..spec.clone() };
    let (devices, memory) = described(&booting, acceleration)?;
    let warm = match spec.origin {
        Origin::Warm { .. } => Some(described(spec, acceleration)?.0),
        Origin::Boot | Origin::Fresh { .. } | Origin::Template => None,
    };
    Ok(Description { devices, memory, warm })
}

/// Devices and memory.
fn described(spec: &MachineSpec, acceleration: Acceleration) -> Result<(String, String), Error> {
    let nobody = InstanceId::from_bits(0);
    let options = arguments(&anonymous(spec), &Directory::of(Path::new("/"), nobody), acceleration)?;
    let memory = ["-m", "-object"];
    let (mut devices, mut ram, mut left) = (String::new(), String::new(), options.as_slice());
    while let [option, rest @ ..] = left {
        let of = if memory.contains(&option.as_str()) { &mut ram } else { &mut devices };
        let value = rest.first().filter(|next| !next.starts_with('-'));
        *of += &format!("{option} {}\n", value.map_or("", String::as_str));
        left = &rest[usize::from(value.is_some())..];
    }
    Ok((devices, ram))
}

fn anonymous(spec: &MachineSpec) -> MachineSpec {
    let mut spec = MachineSpec { instance: InstanceId::from_bits(0), ..spec.clone() };
    if let Boot::Kernel { kernel, initramfs, command_line } = &mut spec.boot {
        (*kernel, *initramfs) = ("/kernel".into(), "/initramfs".into());
        // It has a measurement of its own.
        command_line.clear();
    }
    if let Some(nic) = &mut spec.nic {
        *nic = Nic { mac: MacAddress([0; 6]), switch_socket: "/switch".into(), guest_socket: "/guest".into() };
    }
    for disk in &mut spec.disks {
        disk.volume = VolumeId::from_bits(disk.slot.into());
        disk.path = format!("/slot-{}", disk.slot).into();
        if let Some(base) = &mut disk.base {
            base.path = "/base".into();
        }
    }
    if let Origin::Warm { generation_id, .. } | Origin::Fresh { generation_id } = &mut spec.origin {
        *generation_id = TEMPLATE;
    }
    spec
}

/// Of a guest whose memory is paged, no page is merged with others, nor dumped: either would bring all of it in.
fn machine(spec: &MachineSpec) -> String {
    let paged = if spec.paging.is_some() { ",mem-merge=off,dump-guest-core=off" } else { "" };
    format!("q35,memory-backend=ram,vmport=off{paged}")
}

/// The instance whose VM has these arguments, if it is one of those in the directory `instances`.
pub(super) fn instance_of(arguments: &[String], instances: &Path) -> Option<InstanceId> {
    let at = arguments.iter().position(|argument| argument == "-name")?;
    let instance = arguments.get(at + 1)?.parse().ok()?;
    let ours = socket("qmp", &Directory::of(instances, instance).qmp()).ok()?;
    arguments.contains(&ours).then_some(instance)
}

/// What cloud-init knows EC2 by: system UUID and serial are equal and begin with `ec2`. The rest is the instance's id.
fn smbios_uuid(instance: InstanceId) -> String {
    let hex = format!("ec2{:029x}", instance.bits());
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn check(spec: &MachineSpec) -> Result<(), Error> {
    let impossible = |reason: &str| Err(Error::Impossible { reason: reason.into() });
    if spec.vcpus.0 == 0 || spec.memory.as_mib() == 0 {
        return impossible("it needs at least one processor and 1 MiB of memory");
    }
    check_disks(spec)?;
    let boots_from_disk = matches!(spec.boot, Boot::FirstDisk);
    if boots_from_disk && !spec.disks.iter().any(|disk| disk.slot == 0) {
        return impossible("it boots from the disk in slot 0, and there is none");
    }
    Ok(())
}

fn boot(line: &mut Line, boot: &Boot) -> Result<(), Error> {
    if let Boot::Kernel { kernel, initramfs, command_line } = boot {
        line.option("-kernel", text(kernel)?);
        line.option("-initrd", text(initramfs)?);
        line.option("-append", command_line);
    }
    Ok(())
}

/// Every slot is a port from the start: PCI Express cannot grow ports later.
fn ports_and_disks(line: &mut Line, spec: &MachineSpec) -> Result<(), Error> {
    for slot in 0..SLOTS {
        let (device, function) = (FIRST_PORT + slot / 8, slot % 8);
        let place = format!("bus=pcie.0,addr=0x{device:x}.{function},multifunction=on");
        line.option("-device", format!("pcie-root-port,id=slot{slot},chassis={},{place}", slot + 1));
    }
    for disk in &spec.disks {
        line.option("-blockdev", node(disk)?.to_string());
        let boot = if disk.slot == 0 && spec.boot == Boot::FirstDisk { ",bootindex=0" } else { "" };
        let (id, node, serial) = (device_name(disk.volume), node_name(disk.volume), serial_number(disk.volume));
        let device = format!("virtio-blk-pci,id={id},drive={node},bus=slot{},serial={serial}{boot}", disk.slot);
        line.option("-device", device);
    }
    Ok(())
}

/// A card that is plugged in later is left out: see [`plugged_nic`].
fn network(line: &mut Line, spec: &MachineSpec) -> Result<(), Error> {
    let port = !matches!(spec.origin, Origin::Boot | Origin::Fresh { .. });
    if port {
        let place = format!("bus=pcie.0,addr=0x{:x}.0", FIRST_PORT + SLOTS.div_ceil(8));
        line.option("-device", format!("pcie-root-port,id={NIC_PORT},chassis={},{place}", SLOTS + 1));
    }
    let Some(nic) = &spec.nic else { return Ok(()) };
    let (guest, switch) = (quoted(&nic.guest_socket)?, quoted(&nic.switch_socket)?);
    let ends = format!("local.type=unix,local.path={guest},remote.type=unix,remote.path={switch}");
    line.option("-netdev", format!("dgram,id=net0,{ends}"));
    // Without a boot ROM: nobody boots from this network.
    let card = format!("virtio-net-pci,netdev=net0,mac={},romfile=", nic.mac);
    line.option("-device", if port { format!("{card},id={NIC},bus={NIC_PORT}") } else { card });
    Ok(())
}

/// The command line of a VM that goes on from a warm state: as it will be, without its card, which the state does not have.
pub(super) fn without_nic(mut arguments: Vec<String>) -> Vec<String> {
    if let Some(card) = arguments.iter().position(|argument| argument.starts_with("virtio-net-pci,")) {
        arguments.drain(card - 1..=card);
    }
    arguments
}

/// The card, as `device_add` takes it.
pub(super) fn plugged_nic(nic: &Nic) -> Value {
    json!({
        "driver": "virtio-net-pci",
        "id": NIC,
        "netdev": "net0",
        "mac": nic.mac.to_string(),
        "romfile": "",
        "bus": NIC_PORT,
    })
}

/// Whether the card is among the devices that `qom-list` told of.
pub(super) fn has_nic(peripherals: &Value) -> bool {
    peripherals.as_array().is_some_and(|all| all.iter().any(|device| device["name"] == NIC))
}

fn generation_id(line: &mut Line, origin: &Origin) {
    let id = match origin {
        Origin::Boot => return,
        Origin::Template => TEMPLATE,
        Origin::Warm { generation_id, .. } | Origin::Fresh { generation_id } => *generation_id,
    };
    let hex = format!("{id:032x}");
    let guid = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    line.option("-device", format!("vmgenid,guid={guid}"));
}

fn socket(id: &str, path: &Path) -> Result<String, Error> {
    Ok(format!("socket,id={id},path={},server=on,wait=off", quoted(path)?))
}

/// The block node of a volume, as `-blockdev` and `blockdev-add` take it.
pub(super) fn node(disk: &Disk) -> Result<Value, Error> {
    let file = json!({ "driver": "file", "filename": text(&disk.path)? });
    let name = node_name(disk.volume);
    let mut node = json!({ "driver": disk.format.name(), "node-name": name, "discard": "unmap", "file": file });
    if let Some(Base { path, format }) = &disk.base {
        // Said here, and not left to the overlay's own header: it is the file that was measured.
        let file = json!({ "driver": "file", "filename": text(path)?, "read-only": true });
        node["backing"] = json!({ "driver": format.name(), "read-only": true, "file": file });
    }
    Ok(node)
}

/// The device of a volume, as `device_add` takes it.
pub(super) fn device(disk: &Disk) -> Value {
    json!({
        "driver": "virtio-blk-pci",
        "id": device_name(disk.volume),
        "drive": node_name(disk.volume),
        "bus": format!("slot{}", disk.slot),
        "serial": serial_number(disk.volume),
    })
}

pub(super) fn node_name(volume: VolumeId) -> String {
    volume.to_string()
}
/// The node above a frozen volume of a slot.
pub(super) fn layer_name(layer: &str, slot: u8) -> String {
    format!("{layer}.{slot}")
}

/// That node, as `blockdev-add` takes it; what is below comes with the switch.
pub(super) fn layer(path: &Path, format: DiskFormat, name: &str) -> Result<Value, Error> {
    let file = json!({ "driver": "file", "filename": text(path)? });
    Ok(json!({ "driver": format.name(), "node-name": name, "discard": "unmap", "file": file, "backing": null }))
}
/// Of what a volume is mirrored by to another host: the job, and the node that is there.
pub(super) fn mirror_name(volume: VolumeId) -> String {
    format!("{MIRROR}{volume}")
}
pub(super) fn is_mirror(name: &str) -> bool {
    name.starts_with(MIRROR)
}
/// The job that makes a volume whole.
pub(super) fn completion_name(volume: VolumeId) -> String {
    format!("whole-{volume}")
}
pub(super) fn device_name(volume: VolumeId) -> String {
    format!("disk-{volume}")
}
/// What the guest reads as the disk's serial number: the volume's id without its dash, as EC2 has it; 20 bytes fit.
fn serial_number(volume: VolumeId) -> String {
    volume.to_string().replace('-', "")
}

pub(super) fn text(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::Path { path: path.into(), reason: "it is not UTF-8" })
}

/// A path within a comma-separated option: QEMU reads two commas as one.
fn quoted(path: &Path) -> Result<String, Error> {
    Ok(text(path)?.replace(',', ",,"))
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.0.extend([name.to_owned(), value.into()]);
    }
    fn options(&mut self, options: &[(&str, &str)]) {
        options.iter().for_each(|(name, value)| self.option(name, *value));
    }
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(|&flag| flag.to_owned()));
    }
}

#[cfg(test)]
#[path = "command_line_tests.rs"]
mod tests;
