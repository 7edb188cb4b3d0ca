//! How a software TPM is made: its state by swtpm itself, at its first start, and a certificate for its endorsement key by
//! `swtpm_localca`, whose authority is made with the first.
//!
//! Owns the order, and that there is a whole TPM or none. The tool for this would be `swtpm_setup`, but it certifies an RSA
//! key and one on P-384; ours is the key on P-256 of the TCG's template L-2, as chips have it, so the certificate is asked
//! for and put into the TPM here. The authority's key is on P-256 too: `swtpm_localca` takes seconds to make its RSA keys.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use lucarne_attest::wire::{Key, Public, Wire as _};

use super::{Place, Swtpm};
use crate::{
    Error, Malformed, Tpm, code::CommandCode, command::Hierarchy, keys::CERTIFICATE_INDEX, template, transport::Socket,
};

const LOCALCA: &str = "swtpm_localca";
const CERTTOOL: &str = "certtool";

/// Who certifies software TPMs: `swtpm_localca` with its key in one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    folder: PathBuf,
    name: String,
}

impl Authority {
    /// The authority in `folder`; `name` is what its certificate calls it, once that is made.
    pub fn new(folder: PathBuf, name: impl Into<String>) -> Self {
        Self { folder, name: name.into() }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.join("issuercert.pem")
    }

    /// Its own certificate, the root of those that it gives, in PEM. It is there once a TPM was made.
    pub fn root(&self) -> Result<String, Error> {
        let path = self.certificate();
        fs::read_to_string(&path).map_err(Place::failed(&path))
    }

    /// Its key and certificate, where they are missing.
    fn establish(&self) -> Result<(), Error> {
        let (key, part) = (self.folder.join("signkey.pem"), self.folder.join("part"));
        let move_to = |path: &Path| fs::rename(&part, path).map_err(Place::failed(path));
        if !key.exists() {
            let curve = ["--generate-privkey", "--key-type", "ecdsa", "--curve", "secp256r1", "--no-text"];
            finish(CERTTOOL, Command::new(CERTTOOL).args(curve).arg("--outfile").arg(&part))?;
            move_to(&key)?;
        }
        if !self.certificate().exists() {
            let text = format!("cn = \"{}\"\nca\ncert_signing_key\nexpiration_days = -1\n", self.name);
            let template = self.write("root.template", &text)?;
            let mut command = Command::new(CERTTOOL);
            command.args(["--generate-self-signed", "--no-text", "--load-privkey"]).arg(&key);
            command.arg("--template").arg(template).arg("--outfile").arg(&part);
            finish(CERTTOOL, &mut command)?;
            move_to(&self.certificate())?;
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(Place::failed(&path))?;
        Ok(path)
    }

    /// A certificate (DER) that says that `key` is the endorsement key of the software TPM `name`.
    fn certify(&self, name: &str, key: &Public, work: &Path) -> Result<Vec<u8>, Error> {
        let Key::P256 { x, y } = &key.key else {
            let cause = Malformed::Unexpected("the curve");
            return Err(Error::Malformed { command: CommandCode::CreatePrimary, cause });
        };
        let folder = self.folder.display();
        let settings = format!(
            "statedir = {folder}\nsigningkey = {folder}/signkey.pem\nissuercert = {folder}/issuercert.pem\n\
             certserial = {folder}/certserial\n"
        );
        let (settings, options) = (self.write("localca.conf", &settings)?, self.write("localca.options", "")?);
        let mut command = Command::new(LOCALCA);
        command.args(["--type", "ek", "--tpm2", "--vmid", name]);
        command.arg("--ek").arg(format!("x={},y={},id=secp256r1", hex(x), hex(y)));
        command.arg("--dir").arg(work);
        command.args(["--tpm-spec-family", "2.0", "--tpm-spec-level", "0", "--tpm-spec-revision", "164"]);
        command.args(["--tpm-manufacturer", "id:00001014", "--tpm-model", "swtpm", "--tpm-version", "id:20191023"]);
        command.arg("--configfile").arg(settings).arg("--optsfile").arg(options);
        finish(LOCALCA, &mut command)?;
        let path = work.join("ek.cert");
        let certificate = fs::read(&path).map_err(Place::failed(&path))?;
        fs::remove_file(&path).map_err(Place::failed(&path))?;
        Ok(certificate)
    }
}

/// Makes the TPM of `place`, named `name` in the certificate of its endorsement key. One that is there stays.
pub fn manufacture(place: &Place, authority: &Authority, name: &str) -> Result<(), Error> {
    if place.is_made() {
        return Ok(());
    }
    let work = place.folder().join("state.new");
    let failed = || Place::failed(&work);
    // What is left of one that was broken off is no TPM.
    match fs::remove_dir_all(&work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed()(error)),
        _ => {}
    }
    private(&work).map_err(failed())?;
    private(&authority.folder).map_err(Place::failed(&authority.folder))?;
    authority.establish()?;
    certify(place, authority, name, &work)?;
    fs::rename(&work, place.state()).map_err(failed())
}

fn private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn certify(place: &Place, authority: &Authority, name: &str, work: &Path) -> Result<(), Error> {
    let (swtpm, data) = Swtpm::spawn(work, &place.log())?;
    let mut tpm = Tpm::start(Box::new(Socket::new(data)))?;
    let key = tpm.create_primary(Hierarchy::Endorsement, &template::endorsement_key())?;
    let public = Public::from_octets(&key.public)
        .map_err(|cause| Error::Malformed { command: CommandCode::CreatePrimary, cause: cause.into() })?;
    let certificate = authority.certify(name, &public, work)?;
    tpm.nv_write_certificate(CERTIFICATE_INDEX, &certificate)?;
    fs::write(place.certificate(), &certificate).map_err(Place::failed(&place.certificate()))?;
    drop((tpm, swtpm));
    Ok(())
}

fn finish(program: &'static str, command: &mut Command) -> Result<(), Error> {
    let output = command.stdin(Stdio::null()).output().map_err(|cause| Error::Run { program, cause })?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
    Err(Error::Failed { program, status: output.status, said })
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
