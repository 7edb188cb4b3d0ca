//! Makes a machine ready to build, test and play: says what is missing, asks, and installs it.
//!
//! Owns the list of what is needed: Debian packages, and one of Python's in the cache. The guest image's packages are fetched as files, not installed; the binary unpacks
//! them from the cache.

use std::{
    fs,
    io::{IsTerminal, Write},
    os::unix::fs::MetadataExt,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::program::{cache, cargo, find, output, program, run, succeeds};

struct Needed {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const NEEDED: [Needed; 18] = [
    Needed { program: "cc", package: "build-essential", why: "compiles what crates bring in C" },
    Needed { program: "qemu-system-x86_64", package: "qemu-system-x86", why: "runs the VMs" },
    Needed { program: "qemu-img", package: "qemu-utils", why: "makes, checks and copies their disks" },
    Needed { program: "nfcapd", package: "nfdump", why: "reads our IPFIX in tests, as others' collectors will" },
    Needed { program: "tshark", package: "tshark", why: "reads our IPFIX in tests, and judges its form" },
    Needed { program: "nfacctd", package: "pmacct", why: "reads our IPFIX in tests, counts, and exports" },
    Needed { program: "softflowd", package: "softflowd", why: "exports what is read in tests" },
    Needed { program: "python3", package: "python3-venv", why: "runs the store that deliveries are tested against" },
    Needed { program: "swtpm", package: "swtpm", why: "is the TPM of hosts that have none" },
    Needed { program: "swtpm_localca", package: "swtpm-tools", why: "certifies such a TPM" },
    Needed { program: "certtool", package: "gnutls-bin", why: "makes who certifies it" },
    Needed { program: "tpm2_checkquote", package: "tpm2-tools", why: "judges our evidence in tests, as others may" },
    Needed { program: "age", package: "age", why: "opens our sealed results in tests, as their readers may" },
    Needed { program: "ssh-keygen", package: "openssh-client", why: "signs requests in tests, as people may" },
    Needed { program: "openssl", package: "openssl", why: "signs requests in tests, as smart cards do" },
    Needed { program: "gdb", package: "gdb", why: "opens our cores in tests, as their readers may" },
    Needed { program: "readelf", package: "binutils", why: "judges their form" },
    Needed { program: "xz", package: "xz-utils", why: "unpacks the modules of guest kernels" },
];

/// The meta-package whose dependency is the kernel of guests.
const GUEST_KERNEL: &str = "linux-image-cloud-amd64";
const GUEST_SHELL: &str = "busybox-static";

/// Installs what this machine lacks, and fetches what guests are built from. With `yes` it does not ask.
pub(crate) fn machine(yes: bool) -> Result<()> {
    if find("apt-get").is_none() {
        return elsewhere(&missing());
    }
    // Twice: one package in a version from elsewhere may have to go for another, and is then installed in the version that fits.
    for _ in 0..2 {
        let missing = missing();
        if !missing.is_empty() {
            install(&missing, yes)?;
        }
    }
    let missing = missing();
    let packages: Vec<&str> = missing.iter().map(|needed| needed.package).collect();
    ensure!(
        missing.is_empty(),
        "apt installed all that was asked for, and yet there is nothing of {}",
        packages.join(", ")
    );
    components()?;
    bucket_server().context("cannot install the store that deliveries are tested against")?;
    guest_packages().context("cannot fetch what the guest image is built from")
}

fn missing() -> Vec<&'static Needed> {
    NEEDED.iter().filter(|needed| find(needed.program).is_none()).collect()
}

/// On a system that is not Debian's kin: says what is missing, and leaves it to its owner.
fn elsewhere(missing: &[&Needed]) -> Result<()> {
    let programs: Vec<String> = missing.iter().map(|it| format!("{} ({})", it.program, it.why)).collect();
    ensure!(programs.is_empty(), "this is not a Debian system: please install {}", programs.join(", "));
    eprintln!("note: this is not a Debian system, so the guest image `tiny` cannot be built here; import an image");
    Ok(())
}

fn install(missing: &[&Needed], yes: bool) -> Result<()> {
    eprintln!("These Debian packages are missing and would be installed:");
    for needed in missing {
        eprintln!("  {:<16} {}", needed.package, needed.why);
    }
    let packages: Vec<&str> = missing.iter().map(|needed| needed.package).collect();
    let packages = packages.join(" ");
    let removed = removed_for(&packages);
    if !removed.is_empty() {
        eprintln!("For them apt would remove, in the versions that are here: {}", removed.join(", "));
    }
    if !yes {
        ask(&packages)?;
    }
    run(&mut as_root("apt-get -q update")?)?;
    run(&mut as_root(&format!("apt-get -q install -y --no-install-recommends {packages}"))?)
}

/// What does not go together with them, as far as apt can tell before it has looked for newer lists.
fn removed_for(packages: &str) -> Vec<String> {
    let tried = program("apt-get", &format!("-s -q install --no-install-recommends {packages}")).output();
    let tried = tried.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let removed = tried.lines().filter_map(|line| line.strip_prefix("Remv ")?.split_whitespace().next());
    removed.map(str::to_owned).collect()
}

fn ask(packages: &str) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {packages}");
    if !std::io::stdin().is_terminal() {
        bail!("nobody to ask here: run `cargo xtask setup --yes`, or `{by_hand}`");
    }
    eprint!("Install them now? [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "" | "y" | "yes" => Ok(()),
        _ => bail!("not installed; when you want to: `{by_hand}`"),
    }
}

/// A command line run by root, through `sudo` if we are somebody else.
fn as_root(line: &str) -> Result<Command> {
    let line = format!("env DEBIAN_FRONTEND=noninteractive {line}");
    match fs::metadata("/proc/self").context("cannot tell who runs this")?.uid() {
        0 => Ok(program("/usr/bin/env", line.trim_start_matches("env "))),
        _ if find("sudo").is_some() => Ok(program("sudo", &line)),
        _ => bail!("this needs root and there is no sudo: as root, run `{line}`"),
    }
}

/// rustfmt and clippy come with most installations of Rust, but not with the smallest.
fn components() -> Result<()> {
    for component in ["fmt", "clippy"].into_iter().filter(|name| !succeeds(&mut cargo(&format!("{name} --version")))) {
        let component = if component == "fmt" { "rustfmt" } else { component };
        run(&mut program("rustup", &format!("component add {component}")))
            .with_context(|| format!("{component} is missing from this installation of Rust"))?;
    }
    Ok(())
}

/// A server that speaks as S3 does is in no Debian package: moto's, in an environment of its own in the cache.
fn bucket_server() -> Result<()> {
    const MOTO: &str = "moto[server]==5.2.1";
    let folder = cache().join("lucarne/moto");
    if folder.join("bin/moto_server").exists() {
        return Ok(());
    }
    eprintln!("installing {MOTO} into {}", folder.display());
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", MOTO]))
}

fn guest_packages() -> Result<()> {
    if !succeeds(&mut program("apt-cache", &format!("show {GUEST_KERNEL} {GUEST_SHELL}"))) {
        run(&mut as_root("apt-get -q update")?)?;
    }
    let meta = describe(GUEST_KERNEL)?;
    let kernel = field(&meta, "Depends").and_then(kernel_package).context("apt knows no kernel for guests")?;
    for name in [kernel, GUEST_SHELL] {
        fetch(name)?;
    }
    Ok(())
}

fn kernel_package(depends: &str) -> Option<&str> {
    depends.split(',').filter_map(|one| one.split_whitespace().next()).find(|name| name.starts_with("linux-image-"))
}

/// Fetches a package's file into the cache. Whoever unpacks it compares it with the digest that apt promises.
fn fetch(name: &str) -> Result<()> {
    // Where `lucarne image build` looks for them.
    let folder = cache().join("lucarne/images/packages");
    let description = describe(name)?;
    let field = |key| field(&description, key).with_context(|| format!("apt does not know the {key} of {name}"));
    let file = format!("{name}_{}_{}.deb", field("Version")?.replace(':', "%3a"), field("Architecture")?);
    if folder.join(&file).exists() {
        return Ok(());
    }
    eprintln!("fetching {file} for guests (not installed)");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // apt would fetch as its own user, who may not write here.
    let mut download = program("apt-get", &format!("-q -o APT::Sandbox::User=root download {name}"));
    run(download.current_dir(folder).stdout(std::process::Stdio::null()))
}

fn describe(name: &str) -> Result<String> {
    output(program("apt-cache", &format!("--no-all-versions show {name}")).env("LC_ALL", "C"))
}

fn field<'a>(description: &'a str, key: &str) -> Option<&'a str> {
    description.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_guests_is_what_the_meta_package_depends_on() {
        let description =
            "Package: linux-image-cloud-amd64\nDepends: linux-base, linux-image-6.1.0-56-cloud-amd64 (= 6.1)";
        let kernel = field(description, "Depends").and_then(kernel_package);
        assert_eq!(kernel, Some("linux-image-6.1.0-56-cloud-amd64"));
    }
}
