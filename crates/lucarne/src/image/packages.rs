//! Debian packages as files: which one apt would install, fetched into a cache without being installed, and unpacked.
//!
//! Trust comes from apt: its package lists are signed, and a file is used only if it has the digest that they promise.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::ImageError;

/// A package as apt's lists describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    /// What apt names its file: with version and architecture.
    pub(super) file: String,
    /// SHA-256 in hexadecimal.
    pub(super) digest: String,
    /// What it depends on, as its description says it.
    pub(super) depends: String,
}

/// The version of `name` that apt would install.
pub(super) fn find(name: &str) -> Result<Package, ImageError> {
    let mut command = Command::new("apt-cache");
    command.args(["--no-all-versions", "show", name]).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|cause| ImageError::CannotRun { program: "apt-cache", cause })?;
    match String::from_utf8_lossy(&output.stdout).split("\n\n").next() {
        Some(description) if output.status.success() && !description.is_empty() => parse(name, description),
        _ => Err(ImageError::UnknownPackage { package: name.to_owned() }),
    }
}

fn parse(name: &str, description: &str) -> Result<Package, ImageError> {
    let field = |field: &'static str| {
        let mut values = description.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
        values.next().ok_or_else(|| ImageError::OddPackage { package: name.to_owned(), field })
    };
    Ok(Package {
        name: field("Package")?.to_owned(),
        file: format!("{name}_{}_{}.deb", field("Version")?.replace(':', "%3a"), field("Architecture")?),
        digest: field("SHA256")?.to_owned(),
        depends: field("Depends").unwrap_or_default().to_owned(),
    })
}

impl Package {
    /// Its file in the folder `cache`, fetched if it is not there or is not what it should be.
    pub(super) fn fetch(&self, cache: &Path, progress: &mut impl FnMut(&str)) -> Result<PathBuf, ImageError> {
        let file = cache.join(&self.file);
        if self.matches(&file) {
            return Ok(file);
        }
        progress(&format!("fetching {}", self.file));
        fs::create_dir_all(cache).map_err(ImageError::file("make", cache))?;
        let folder = tempfile::tempdir_in(cache).map_err(ImageError::file("make a folder in", cache))?;
        // apt would fetch as its own user, who may not write here; what it fetches is checked either way.
        let mut fetch = Command::new("apt-get");
        fetch.args(["-q", "-o", "APT::Sandbox::User=root", "download", &self.name]).current_dir(folder.path());
        run("apt-get", &mut fetch)?;
        let fetched = the_only_file(folder.path()).filter(|fetched| self.matches(fetched));
        let fetched = fetched.ok_or_else(|| ImageError::WrongDownload { file: self.file.clone() })?;
        fs::rename(&fetched, &file).map_err(ImageError::file("write", &file))?;
        Ok(file)
    }

    fn matches(&self, file: &Path) -> bool {
        fs::read(file).is_ok_and(|bytes| hex_digest(&bytes) == self.digest)
    }
}

fn the_only_file(folder: &Path) -> Option<PathBuf> {
    Some(fs::read_dir(folder).ok()?.next()?.ok()?.path())
}

/// Unpacks a package's files under the folder `into`. None of its scripts run.
pub(super) fn unpack(package: &Path, into: &Path) -> Result<(), ImageError> {
    run("dpkg-deb", Command::new("dpkg-deb").arg("--extract").args([package, into])).map(drop)
}

/// Runs a command to its end and returns what it wrote to its standard output.
pub(super) fn run(program: &'static str, command: &mut Command) -> Result<Vec<u8>, ImageError> {
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|cause| ImageError::CannotRun { program, cause })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(ImageError::Failed { command: format!("{command:?}"), status: output.status, said })
}

/// SHA-256 in hexadecimal.
pub(super) fn hex_digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: &str = "Package: busybox-static\nDescription: Standalone shell\n Version: not this one\n\
        Version: 1:1.35.0-4\nArchitecture: amd64\nSHA256: 3d3f\n";

    #[test]
    fn a_description_gives_file_digest_and_dependencies() {
        let package = parse("busybox-static", DESCRIPTION).unwrap();
        assert_eq!(package.file, "busybox-static_1%3a1.35.0-4_amd64.deb");
        assert_eq!(package.digest, "3d3f");
        assert_eq!(package.depends, "");
    }

    #[test]
    fn a_description_without_a_digest_is_refused() {
        let without = DESCRIPTION.replace("SHA256", "MD5sum");
        let error = parse("busybox-static", &without).unwrap_err();
        assert!(matches!(error, ImageError::OddPackage { field: "SHA256", .. }));
    }

    #[test]
    fn a_file_in_the_cache_is_used_only_if_it_has_the_promised_digest() {
        let cache = tempfile::tempdir().unwrap();
        let package = Package { digest: hex_digest(b"right"), ..parse("busybox-static", DESCRIPTION).unwrap() };
        let file = cache.path().join(&package.file);
        fs::write(&file, "wrong").unwrap();
        assert!(!package.matches(&file));
        fs::write(&file, "right").unwrap();
        assert_eq!(package.fetch(cache.path(), &mut |_| panic!("fetched")).unwrap(), file);
    }
}
