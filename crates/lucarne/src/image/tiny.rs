//! The guest image `tiny`: Debian's cloud kernel and an initramfs of busybox, the few modules that a VM here needs, and
//! the scripts of `images/tiny`.
//!
//! Owns what is in the image and the cache of built ones. The same packages and scripts give the same bytes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lucarne_model::Bytes;

use super::{
    ImageError,
    cpio::{Archive, Entry},
    modules,
    packages::{self, Package},
};

const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";
/// It boots with 80 MiB; the rest is for user-data.
const MINIMUM_MEMORY: Bytes = Bytes::mib(96);

const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";
/// What to load at boot, with all that it needs; one that is built into the kernel is passed over.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "button", "evdev"];

const DIRECTORIES: [&str; 14] = [
    "bin",
    "dev",
    "etc",
    "etc/acpi",
    "etc/acpi/PWRF",
    "lib",
    "lib/modules",
    "mnt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
];
const SCRIPTS: [(&str, &str); 6] = [
    ("init", include_str!("../../../../images/tiny/init")),
    ("bin/metadata", include_str!("../../../../images/tiny/metadata")),
    // The name is that of the event: acpid runs it when the button is pressed.
    ("etc/acpi/PWRF/00000080", include_str!("../../../../images/tiny/power-button")),
    ("etc/lease", include_str!("../../../../images/tiny/lease")),
    ("etc/profile", include_str!("../../../../images/tiny/profile")),
    ("etc/start", include_str!("../../../../images/tiny/start")),
];
/// What a shell cannot do: see its source in `images/tiny/reseed.rs`.
const RESEED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reseed"));
const TABLES: [(&str, &str); 3] = [
    ("etc/group", "root:x:0:\n"),
    ("etc/inittab", include_str!("../../../../images/tiny/inittab")),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
];

/// The image's files and how to boot them.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) command_line: String,
    pub(crate) minimum_memory: Bytes,
}

/// Writes the image's files to `out_dir`. Packages and built images are kept in `cache`, so that only the first build, and
/// the first after a new kernel, fetches anything. `progress` is told of each step that takes time.
pub(crate) fn build(cache: &Path, out_dir: &Path, mut progress: impl FnMut(&str)) -> Result<Built, ImageError> {
    let (kernel, busybox) = (find_kernel()?, packages::find("busybox-static")?);
    let built = cache.join("tiny").join(recipe(&kernel, &busybox));
    if !built.is_dir() {
        let folder = cache.join("tiny");
        fs::create_dir_all(&folder).map_err(ImageError::file("make", &folder))?;
        let work = tempfile::tempdir_in(&folder).map_err(ImageError::file("make a folder in", &folder))?;
        let parts = unpack(cache, work.path(), &kernel, &busybox, &mut progress)?;
        progress("building the image");
        let image = work.path().join("image");
        make(&parts, &image)?;
        // If another build was faster, its files are the same.
        fs::rename(&image, &built)
            .or_else(|cause| if built.is_dir() { Ok(()) } else { Err(cause) })
            .map_err(ImageError::file("write", &built))?;
    }
    copy(&built, out_dir)
}

fn copy(built: &Path, out_dir: &Path) -> Result<Built, ImageError> {
    fs::create_dir_all(out_dir).map_err(ImageError::file("make", out_dir))?;
    let folder = tempfile::tempdir_in(out_dir).map_err(ImageError::file("make a folder in", out_dir))?;
    // Renamed into place, because another process may just be reading what an earlier build left there.
    let copy = |name: &str| {
        let (half, whole) = (folder.path().join(name), out_dir.join(name));
        fs::copy(built.join(name), &half).map_err(ImageError::file("write", &half))?;
        fs::rename(&half, &whole).map_err(ImageError::file("write", &whole)).map(|()| whole)
    };
    Ok(Built {
        kernel: copy("kernel")?,
        initramfs: copy("initramfs")?,
        command_line: COMMAND_LINE.to_owned(),
        minimum_memory: MINIMUM_MEMORY,
    })
}

/// The kernel that the release stands by: what its meta-package depends on today.
fn find_kernel() -> Result<Package, ImageError> {
    let meta = packages::find(KERNEL_META_PACKAGE)?;
    let name = kernel_package(&meta.depends);
    packages::find(name.ok_or(ImageError::OddPackage { package: meta.name.clone(), field: "Depends" })?)
}

fn kernel_package(depends: &str) -> Option<&str> {
    let mut names = depends.split([',', '|']).filter_map(|one| one.split_whitespace().next());
    names.find(|name| name.starts_with("linux-image-"))
}

/// A name for all that the image is made of: if anything changes, so does the name.
fn recipe(kernel: &Package, busybox: &Package) -> String {
    let files =
        SCRIPTS.iter().chain(&TABLES).map(|(path, text)| format!("{path} {}", packages::hex_digest(text.as_bytes())));
    let mut lines: Vec<String> = files.collect();
    lines.push(packages::hex_digest(RESEED));
    lines.extend([kernel.digest.clone(), busybox.digest.clone(), MODULES.join(" "), DIRECTORIES.join(" ")]);
    packages::hex_digest(lines.join("\n").as_bytes())
}

/// What the packages give.
#[derive(Debug)]
struct Parts {
    kernel: Vec<u8>,
    busybox: Vec<u8>,
    /// The names that busybox answers to.
    applets: Vec<String>,
    /// Names and contents in the order in which they must load.
    modules: Vec<(String, Vec<u8>)>,
}

fn unpack(
    cache: &Path,
    work: &Path,
    kernel: &Package,
    busybox: &Package,
    progress: &mut impl FnMut(&str),
) -> Result<Parts, ImageError> {
    let files = cache.join("packages");
    let (kernel_files, busybox_files) = (work.join("kernel-package"), work.join("busybox-package"));
    for (package, into) in [(kernel, &kernel_files), (busybox, &busybox_files)] {
        let file = package.fetch(&files, progress)?;
        progress(&format!("unpacking {}", package.file));
        packages::unpack(&file, into)?;
    }
    let missing = |package: &Package, wanted: &str| ImageError::NotInPackage {
        package: package.name.clone(),
        wanted: wanted.to_owned(),
    };
    let program =
        ["bin/busybox", "usr/bin/busybox"].map(|path| busybox_files.join(path)).into_iter().find(|p| p.exists());
    let program = program.ok_or_else(|| missing(busybox, "busybox"))?;
    let release = kernel.name.trim_start_matches("linux-image-");
    let image = kernel_files.join("boot").join(format!("vmlinuz-{release}"));
    if !image.exists() {
        return Err(missing(kernel, "kernel"));
    }
    Ok(Parts {
        kernel: read(&image)?,
        busybox: read(&program)?,
        applets: applets(&program)?,
        modules: read_modules(kernel, &kernel_files, release)?,
    })
}

fn applets(busybox: &Path) -> Result<Vec<String>, ImageError> {
    let list = packages::run("busybox", Command::new(busybox).arg("--list"))?;
    let list = String::from_utf8_lossy(&list);
    Ok(list.lines().filter(|name| *name != "busybox").map(str::to_owned).collect())
}

fn read_modules(kernel: &Package, files: &Path, release: &str) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
    let roots = ["lib/modules", "usr/lib/modules"].map(|path| files.join(path).join(release));
    let mut paths = BTreeMap::new();
    for root in roots.iter().filter(|root| root.is_dir()) {
        list_modules(root, &mut paths)?;
    }
    let wanted: Vec<&str> = MODULES.into_iter().filter(|name| paths.contains_key(*name)).collect();
    let mut contents = BTreeMap::new();
    let order = modules::load_order(&wanted, |name| {
        let missing = || ImageError::NotInPackage { package: kernel.name.clone(), wanted: format!("module {name}") };
        let module = read_module(paths.get(name).ok_or_else(missing)?)?;
        let depends = modules::depends(&module).ok_or_else(|| ImageError::OddModule { module: name.to_owned() });
        contents.insert(name.to_owned(), module);
        depends
    })?;
    Ok(order.into_iter().filter_map(|name| contents.remove_entry(&name)).collect())
}

/// Every module under `folder` by its canonical name.
fn list_modules(folder: &Path, paths: &mut BTreeMap<String, PathBuf>) -> Result<(), ImageError> {
    for entry in fs::read_dir(folder).map_err(ImageError::file("read", folder))? {
        let path = entry.map_err(ImageError::file("read", folder))?.path();
        if path.is_dir() {
            list_modules(&path, paths)?;
        } else if let Some((name, _)) = path.file_name().and_then(|name| name.to_str()?.split_once(".ko")) {
            paths.insert(modules::canonical(name), path);
        }
    }
    Ok(())
}

/// A module's content; newer releases of Debian compress them, which the `insmod` of busybox does not take.
fn read_module(path: &Path) -> Result<Vec<u8>, ImageError> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        return packages::run("xz", Command::new("xz").args(["--decompress", "--stdout"]).arg(path));
    }
    read(path)
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs::read(path).map_err(ImageError::file("read", path))
}

fn make(parts: &Parts, folder: &Path) -> Result<(), ImageError> {
    fs::create_dir_all(folder).map_err(ImageError::file("make", folder))?;
    // Not compressed: unpacking it costs an emulated guest as much time as reading the bytes saved.
    for (name, bytes) in [("kernel", &parts.kernel), ("initramfs", &initramfs(parts))] {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(ImageError::file("write", &path))?;
    }
    Ok(())
}

fn initramfs(parts: &Parts) -> Vec<u8> {
    let mut archive = Archive::default();
    for path in DIRECTORIES {
        archive.add(path, Entry::Directory);
    }
    // The kernel opens the console for `init` before `init` can mount anything on /dev.
    archive.add("dev/console", Entry::Device(5, 1));
    archive.add("dev/null", Entry::Device(1, 3));
    for (path, text) in SCRIPTS {
        archive.add(path, Entry::Program(text.as_bytes()));
    }
    archive.add("bin/reseed", Entry::Program(RESEED));
    for (path, text) in TABLES {
        archive.add(path, Entry::File(text.as_bytes()));
    }
    archive.add("bin/busybox", Entry::Program(&parts.busybox));
    for applet in &parts.applets {
        archive.add(&format!("bin/{applet}"), Entry::Link("busybox"));
    }
    for (position, (name, content)) in parts.modules.iter().enumerate() {
        archive.add(&format!("lib/modules/{position:02}-{name}.ko"), Entry::File(content));
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, digest: &str) -> Package {
        Package { name: name.to_owned(), file: String::new(), digest: digest.to_owned(), depends: String::new() }
    }

    fn parts() -> Parts {
        Parts {
            kernel: vec![1],
            busybox: vec![2; 5],
            applets: vec!["sh".to_owned()],
            modules: vec![("virtio_ring".to_owned(), vec![3]), ("virtio".to_owned(), vec![4])],
        }
    }

    #[test]
    fn the_kernel_is_what_the_meta_package_depends_on() {
        let depends = "linux-base, linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)";
        assert_eq!(kernel_package(depends), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(kernel_package(""), None);
    }

    #[test]
    fn another_kernel_or_busybox_is_another_image() {
        let one = recipe(&package("kernel", "a"), &package("busybox", "b"));
        assert_eq!(one, recipe(&package("kernel", "a"), &package("busybox", "b")));
        assert_ne!(one, recipe(&package("kernel", "c"), &package("busybox", "b")));
        assert_ne!(one, recipe(&package("kernel", "a"), &package("busybox", "c")));
    }

    #[test]
    fn the_same_parts_give_the_same_bytes() {
        assert_eq!(initramfs(&parts()), initramfs(&parts()));
    }

    #[test]
    fn modules_load_in_order_because_their_names_sort_so() {
        let bytes = initramfs(&parts());
        let at = |name: &str| bytes.windows(name.len()).position(|window| window == name.as_bytes());
        assert!(at("lib/modules/00-virtio_ring.ko").unwrap() < at("lib/modules/01-virtio.ko").unwrap());
    }

    #[test]
    fn every_file_has_a_directory_that_comes_before_it() {
        for (path, _) in SCRIPTS.iter().chain(&TABLES) {
            assert!(path.rsplit_once('/').is_none_or(|(folder, _)| DIRECTORIES.contains(&folder)), "{path}");
        }
        assert!(DIRECTORIES.is_sorted());
    }
}
