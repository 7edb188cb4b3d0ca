//! swtpm as a machine's TPM, made by a maker of this test alone, and tpm2-tools to speak to it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use lucarne_attest::{credential::Credential, event_log::EventLog, evidence::Files, pcr, signing::from_pem};
use lucarne_model::Octets;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// Where the certificate of the RSA endorsement key lies.
const CERTIFICATE: &str = "0x1c00002";

/// Kinds of keys that a TPM has: of its endorsement key, and of an attestation key with its scheme.
pub(crate) struct Kind {
    ek: &'static str,
    ak: &'static str,
    scheme: &'static str,
}

impl Kind {
    pub(crate) const RSA: Self = Self { ek: "rsa", ak: "rsa", scheme: "rsassa" };
    pub(crate) const ECC_UNDER_RSA: Self = Self { ek: "rsa", ak: "ecc", scheme: "ecdsa" };
    /// swtpm's makers give no certificate for an endorsement key on P-256.
    pub(crate) const ECC: Self = Self { ek: "ecc", ak: "ecc", scheme: "ecdsa" };
}

/// A TPM that runs until the test ends.
pub(crate) struct Machine {
    folder: TempDir,
    swtpm: Child,
}

impl Machine {
    /// Makes a TPM with its certificates, and powers it on.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().unwrap();
        manufacture(folder.path());
        let (socket, state) = (folder.path().join("tpm"), folder.path().join("state"));
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
        command.arg("--tpmstate").arg(format!("dir={}", state.display()));
        command.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}.ctrl", socket.display()));
        let swtpm = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let swtpm = swtpm.unwrap_or_else(|error| panic!("swtpm: {error}; `cargo xtask setup` installs it"));
        let machine = Self { folder, swtpm };
        let begin = Instant::now();
        while !socket.exists() {
            assert!(begin.elapsed() < PATIENCE, "swtpm does not listen");
            sleep(Duration::from_millis(10));
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Runs a tool beside the TPM; what it leaves in the TPM is flushed, as a resource manager would.
    fn tool(&self, name: &str, arguments: &[&str]) -> Output {
        let run = |name: &str, arguments: &[&str]| {
            let tcti = format!("swtpm:path={}", self.path("tpm").display());
            let mut command = Command::new(name);
            command.args(arguments).current_dir(self.folder.path()).env("TPM2TOOLS_TCTI", tcti);
            command.output().unwrap_or_else(|error| panic!("{name}: {error}; `cargo xtask setup` installs it"))
        };
        let output = run(name, arguments);
        run("tpm2_flushcontext", &["-t"]);
        output
    }
    fn must(&self, name: &str, arguments: &[&str]) -> Output {
        let output = self.tool(name, arguments);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    pub(crate) fn extend(&self, register: u32, digest: [u8; 32]) {
        self.must("tpm2_pcrextend", &[&format!("{register}:sha256={}", hex(&digest))]);
    }

    /// Makes endorsement and attestation key, and returns the latter's TPMT_PUBLIC.
    pub(crate) fn make_keys(&self, kind: &Kind) -> Octets {
        self.must("tpm2_createek", &["-c", "ek.ctx", "-G", kind.ek, "-u", "ek.pem", "-f", "pem"]);
        let scheme = ["-G", kind.ak, "-g", "sha256", "-s", kind.scheme, "-u", "ak.tss", "-f", "tss"];
        self.must("tpm2_createak", &[&["-C", "ek.ctx", "-c", "ak.ctx"], &scheme[..]].concat());
        // TPM2B_PUBLIC: behind its size.
        self.file("ak.tss")[2..].into()
    }

    pub(crate) fn ek_der(&self) -> Vec<u8> {
        from_pem(&String::from_utf8(self.file("ek.pem")).unwrap(), "PUBLIC KEY").remove(0)
    }

    /// Has the TPM open a credential, in the form in which the tool wants it.
    pub(crate) fn activate(&self, credential: &Credential) -> Vec<u8> {
        let head = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
        let blob = [&head[..], &credential.credential_blob, &credential.encrypted_secret].concat();
        fs::write(self.path("credential"), blob).unwrap();
        self.must("tpm2_startauthsession", &["--policy-session", "-S", "session"]);
        self.must("tpm2_policysecret", &["-S", "session", "-c", "e"]);
        let keys = ["-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "answer"];
        self.must("tpm2_activatecredential", &[&keys[..], &["-P", "session:session"]].concat());
        self.file("answer")
    }

    pub(crate) fn quote(&self, qualifying: &[u8]) -> (Octets, Octets) {
        let registers = format!("sha256:{}", pcr::QUOTED.map(|register| register.to_string()).join(","));
        let outputs = ["-m", "msg", "-s", "sig", "-o", "pcrs", "-g", "sha256"];
        let question = ["-c", "ak.ctx", "-l", &registers, "-q", &hex(qualifying)];
        self.must("tpm2_quote", &[&question[..], &outputs].concat());
        (self.file("msg").into(), self.file("sig").into())
    }
    /// The registers as the tool wrote them with the quote.
    pub(crate) fn quoted_pcrs(&self) -> Vec<u8> {
        self.file("pcrs")
    }

    /// Certificates from the endorsement key's own to the one below the root.
    pub(crate) fn chain(&self) -> Vec<Octets> {
        self.must("tpm2_nvread", &[CERTIFICATE, "-o", "ek.der"]);
        vec![self.file("ek.der").into(), self.certificate("issuercert.pem")]
    }
    pub(crate) fn roots(&self) -> Vec<Octets> {
        vec![self.certificate("swtpm-localca-rootca-cert.pem")]
    }
    fn certificate(&self, name: &str) -> Octets {
        let text = fs::read_to_string(self.path("maker").join(name)).unwrap();
        from_pem(&text, "CERTIFICATE").remove(0).into()
    }

    /// Writes a folder of evidence.
    pub(crate) fn write(&self, files: &Files) -> PathBuf {
        let folder = self.path("evidence");
        fs::create_dir_all(&folder).unwrap();
        for (name, octets) in files {
            fs::write(folder.join(name), octets).unwrap();
        }
        folder
    }

    /// Whether `tpm2_checkquote` judges the folder good, called as its README says.
    pub(crate) fn check_quote(&self, folder: &Path, qualifying: &[u8]) -> bool {
        let mut command = Command::new("tpm2_checkquote");
        command.current_dir(folder).args(["-u", "ak.pem", "-m", "quote.msg", "-s", "quote.sig", "-f", "quote.pcrs"]);
        command.args(["-g", "sha256", "-q", &hex(qualifying)]).output().unwrap().status.success()
    }

    /// What `tpm2_eventlog` tells of a log.
    pub(crate) fn read_log(&self, path: &Path) -> String {
        EventLog::parse(&fs::read(path).unwrap()).unwrap();
        let output = self.must("tpm2_eventlog", &[&path.display().to_string()]);
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It is ended with the test, however that went.
        let _ = self.swtpm.kill().and_then(|()| self.swtpm.wait());
    }
}

/// Makes the TPM's state and keys, with certificates of a maker whose files are in `maker`.
fn manufacture(folder: &Path) {
    let at = |name: &str| folder.join(name).display().to_string();
    fs::create_dir(at("state")).unwrap();
    fs::create_dir(at("maker")).unwrap();
    let setup = format!(
        "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n\
         active_pcr_banks = sha256\n",
        at("maker.conf"),
        at("maker.options")
    );
    let maker = at("maker");
    let config = format!(
        "statedir = {maker}\nsigningkey = {maker}/signkey.pem\nissuercert = {maker}/issuercert.pem\n\
         certserial = {maker}/certserial\n"
    );
    fs::write(at("setup.conf"), setup).unwrap();
    fs::write(at("maker.conf"), config).unwrap();
    fs::write(at("maker.options"), "--platform-manufacturer Lucarne\n--platform-version 1\n--platform-model Test\n")
        .unwrap();
    let mut command = Command::new("swtpm_setup");
    command.args(["--tpm2", "--create-ek-cert", "--tpmstate", &at("state"), "--config", &at("setup.conf")]);
    let output =
        command.output().unwrap_or_else(|error| panic!("swtpm_setup: {error}; `cargo xtask setup` installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
