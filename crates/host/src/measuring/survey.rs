//! What there is to measure on this machine, and where it is read.
//!
//! Owns the list, in the order of [`Component`]. What cannot be read is left out, and then its absence shows: whoever
//! expects it does not find it. On a machine whose firmware measures, the firmware and the boot loader have measured the
//! machine and its kernel, and what is left are the parts that come after them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use lucarne_model::Component;

/// Where Debian's packages have what QEMU gives to guests as firmware.
const FIRMWARE: [&str; 3] = ["/usr/share/seabios", "/usr/share/qemu", "/usr/share/OVMF"];
const FIRMWARE_KINDS: [&str; 3] = ["bin", "rom", "fd"];
/// Where Debian has the parts of QEMU that it loads as it needs them.
const MODULES: [&str; 2] = ["/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu"];
const HYPERVISOR: &str = "qemu-system-x86_64";
const PCI: &str = "/sys/bus/pci/devices";

/// One thing to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) component: Component,
    /// Which of its kind, the same after every start.
    pub(super) name: String,
    pub(super) content: Content,
}

/// Where its octets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    File(PathBuf),
    /// Read from registers and tables of the machine, which do not change while it runs.
    Read(Vec<u8>),
}

/// What is known of the agent itself.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// The library that is put into QEMU; none where no memory is moved.
    pub(crate) shim: Option<PathBuf>,
    /// The settings that say how guests are run, as text.
    pub(crate) configuration: String,
}

/// Everything, or what comes after the firmware when that `measures` by itself.
pub(super) fn survey(own: &Own, firmware_measures: bool) -> Vec<Found> {
    let mut found = guest_firmware();
    if !firmware_measures {
        found.extend(pci());
        found.extend([cpu(), dmi()].into_iter().flatten());
        found.extend(kernel());
    }
    found.extend(hypervisor());
    found.extend(own.shim.iter().map(|path| file(Component::Shim, path.clone())));
    // The program that runs, even if its file has been replaced meanwhile.
    let agent = Content::File(PathBuf::from("/proc/self/exe"));
    found.push(Found { component: Component::Agent, name: "lucarne".to_owned(), content: agent });
    let configuration = own.configuration.as_bytes().to_vec();
    found.push(read(Component::AgentConfiguration, "settings", configuration));
    found.sort_by(|one, other| (one.component, &one.name).cmp(&(other.component, &other.name)));
    found
}

fn read(component: Component, name: &str, octets: Vec<u8>) -> Found {
    Found { component, name: name.to_owned(), content: Content::Read(octets) }
}

fn file(component: Component, path: PathBuf) -> Found {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Found { component, name, content: Content::File(path) }
}

/// The paths in a folder, sorted; none of a folder that is not there.
fn entries(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Of two folders that have a file of one name, QEMU takes the first one's.
fn guest_firmware() -> Vec<Found> {
    let mut names = BTreeSet::new();
    let files = FIRMWARE.iter().flat_map(entries).filter(|path| path.is_file());
    let firmware =
        files.filter(|path| path.extension().is_some_and(|kind| FIRMWARE_KINDS.iter().any(|it| kind == *it)));
    firmware.map(|path| file(Component::GuestFirmware, path)).filter(|found| names.insert(found.name.clone())).collect()
}

/// Each function: what it says that it is, and its ROM where it has one that can be read.
fn pci() -> Vec<Found> {
    entries(PCI)
        .into_iter()
        .flat_map(|function| [Some(pci_function(&function)), option_rom(&function)])
        .flatten()
        .collect()
}

fn pci_function(function: &Path) -> Found {
    const SAID: [&str; 6] = ["vendor", "device", "subsystem_vendor", "subsystem_device", "class", "revision"];
    let name = function.file_name().unwrap_or_default().to_string_lossy().into_owned();
    read(Component::PciFunction, &name, fields(function, &SAID).into_bytes())
}

/// A ROM answers only while it is switched on, which the kernel does for whoever writes 1 into its file.
fn option_rom(function: &Path) -> Option<Found> {
    let rom = function.join("rom");
    fs::write(&rom, "1").ok()?;
    let octets = fs::read(&rom);
    // If it cannot be switched off it stays as many firmwares leave it.
    let _ = fs::write(&rom, "0");
    let name = function.file_name()?.to_string_lossy().into_owned();
    Some(read(Component::OptionRom, &name, octets.ok().filter(|octets| !octets.is_empty())?))
}

/// `name: value` for each of the files that can be read.
fn fields(folder: &Path, names: &[&str]) -> String {
    let lines = names.iter().filter_map(|name| {
        let value = fs::read_to_string(folder.join(name)).ok()?;
        Some(format!("{name}: {}\n", value.trim()))
    });
    lines.collect()
}

/// Each kind of processor once: vendor, model, stepping and microcode.
fn cpu() -> Option<Found> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    Some(read(Component::Cpu, "processors", processors(&text).into_bytes()))
}

fn processors(cpuinfo: &str) -> String {
    const SAID: [&str; 6] = ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode"];
    let kinds = cpuinfo.split("\n\n").filter(|processor| !processor.trim().is_empty()).map(|processor| {
        let lines = processor.lines().filter_map(|line| line.split_once(':'));
        let lines = lines.filter(|(name, _)| SAID.contains(&name.trim()));
        lines.map(|(name, value)| format!("{}: {}\n", name.trim(), value.trim())).collect::<String>()
    });
    kinds.collect::<BTreeSet<String>>().into_iter().collect::<Vec<_>>().join("\n")
}

/// The table itself where the kernel shows it, else what it made of it.
fn dmi() -> Option<Found> {
    const SAID: [&str; 9] = [
        "sys_vendor",
        "product_name",
        "product_version",
        "board_vendor",
        "board_name",
        "board_version",
        "bios_vendor",
        "bios_version",
        "bios_date",
    ];
    if let Ok(table) = fs::read("/sys/firmware/dmi/tables/DMI") {
        return Some(read(Component::Dmi, "smbios", table));
    }
    let said = fields(Path::new("/sys/class/dmi/id"), &SAID);
    (!said.is_empty()).then(|| read(Component::Dmi, "id", said.into_bytes()))
}

/// The image if it can be read; else what the kernel says of itself, under a name that says so.
fn kernel() -> Vec<Found> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let images = [format!("/boot/vmlinuz-{release}"), format!("/usr/lib/modules/{release}/vmlinuz")];
    let image = images.into_iter().map(PathBuf::from).find(|path| path.is_file());
    let image = image.map(|path| Found { name: format!("vmlinuz-{release}"), ..file(Component::Kernel, path) });
    let told = || fs::read("/proc/version").ok().map(|version| read(Component::Kernel, "version", version));
    let line = fs::read("/proc/cmdline").ok().map(|line| read(Component::KernelCommandLine, "cmdline", line));
    [image.or_else(told), line].into_iter().flatten().collect()
}

/// The program, what the loader maps into it, and what it may load itself.
fn hypervisor() -> Vec<Found> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path).map(|folder| folder.join(HYPERVISOR)).find(|path| path.is_file());
    let Some(program) = program else { return Vec::new() };
    let modules = MODULES.iter().flat_map(entries).filter(|path| path.extension().is_some_and(|kind| kind == "so"));
    let libraries: BTreeSet<PathBuf> = libraries(&program).into_iter().chain(modules).collect();
    let mut names = BTreeSet::new();
    let libraries = libraries.into_iter().map(|path| {
        let whole = path.to_string_lossy().into_owned();
        let library = file(Component::HypervisorLibrary, path);
        if names.insert(library.name.clone()) { library } else { Found { name: whole, ..library } }
    });
    std::iter::once(file(Component::Hypervisor, program)).chain(libraries).collect()
}

/// What the loader would map, by its own word. A program without a loader tells its version and has no libraries.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let mut traced = Command::new(program);
    traced.arg("--version").env("LD_TRACE_LOADED_OBJECTS", "1").stdin(Stdio::null()).stderr(Stdio::null());
    let traced = traced.output();
    traced.map(|output| mapped(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
}

fn mapped(traced: &str) -> Vec<PathBuf> {
    let words = traced.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_one_kind_are_told_once_and_only_by_what_lasts() {
        let one = "processor : 0\nvendor_id : X\nmodel name : Y Z\ncpu MHz : 2000.1\nmicrocode : 0x1\n";
        let cpuinfo = format!("{one}\n{}\n{}", one.replace("2000.1", "999"), one.replace("0x1", "0x2"));
        let told = "vendor_id: X\nmodel name: Y Z\nmicrocode: 0x1\n\nvendor_id: X\nmodel name: Y Z\nmicrocode: 0x2\n";
        assert_eq!(processors(&cpuinfo), told);
    }

    #[test]
    fn libraries_are_read_from_the_words_of_the_loader() {
        let traced =
            "\tlinux-vdso.so.1 (0x7ff)\n\tlibz.so.1 => /lib/libz.so.1 (0x7f0)\n\t/lib64/ld-linux.so.2 (0x7f)\n";
        assert_eq!(mapped(traced), ["/lib/libz.so.1", "/lib64/ld-linux.so.2"].map(PathBuf::from));
    }

    /// Two things of one component and name could not be told apart in the log.
    #[test]
    fn this_machine_has_each_thing_once_in_the_order_of_components() {
        let own = Own { shim: Some("/shim.so".into()), configuration: "{}".to_owned() };
        for (firmware_measures, kernels) in [(false, 1), (true, 0)] {
            let found = survey(&own, firmware_measures);
            let order = |pair: &[Found]| (pair[0].component, &pair[0].name) < (pair[1].component, &pair[1].name);
            assert!(found.windows(2).all(order), "{found:?}");
            let count = |component| found.iter().filter(|found| found.component == component).count();
            assert_eq!((count(Component::Agent), count(Component::Kernel)), (1, kernels));
        }
    }
}
