//! A bucket of a store that speaks as S3 does: moto's server, on loopback, for deliveries of tests.
//!
//! Owns its process. It checks no signatures here; that ours are right is held by the collector's own tests, against the same server
//! at its strictest.

use std::{
    collections::BTreeMap,
    env,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::ensure;
use reqwest::blocking::{Client, RequestBuilder};

use crate::{eventually, process::Process};

const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "my-logs";

#[derive(Debug)]
pub struct Bucket {
    http: Client,
    url: String,
    _server: Server,
}

/// Ends with the test, however that ends.
#[derive(Debug)]
struct Server(Option<Process>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Process::kill);
    }
}

/// Where `cargo xtask setup` puts it; else one that is on the path.
fn program() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default().join(".cache");
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let installed = cache.join("lucarne/moto/bin/moto_server");
    if installed.exists() { installed } else { "moto_server".into() }
}

impl Bucket {
    /// Starts a store with one bucket in it; its log goes to the folder.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(program());
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let server = Server(Some(Process::start(command, &dir.join("moto.log"))?));
        let bucket =
            Self { http: Client::builder().no_proxy().build()?, url: format!("http://{address}"), _server: server };
        eventually("the store listens", PATIENCE, || bucket.http.get(format!("{}/moto-api/", bucket.url)).send().ok())?;
        bucket.http.put(format!("{}/{NAME}", bucket.url)).send()?.error_for_status()?;
        Ok(bucket)
    }

    /// What a flow log is delivered to, under this folder.
    pub fn destination(&self, folder: &str) -> String {
        format!("s3://{NAME}/{folder}?endpoint={}", self.url)
    }

    /// Whoever signs nothing may read nothing, and any signature will do.
    fn get(&self, path: &str) -> RequestBuilder {
        let signature =
            "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        self.http.get(format!("{}/{NAME}{path}", self.url)).header("authorization", signature)
    }

    /// The lines of each object under the folder, uncompressed, by its key.
    pub fn texts(&self, folder: &str) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let listed = self.get(&format!("?list-type=2&prefix={folder}/")).send()?.error_for_status()?.text()?;
        let keys = listed.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        let text = |key: &str| {
            let object = self.get(&format!("/{key}")).send()?.error_for_status()?.bytes()?;
            Ok((key.to_owned(), unzipped(&object)?.lines().map(Into::into).collect()))
        };
        keys.map(text).collect()
    }
}

fn unzipped(octets: &[u8]) -> anyhow::Result<String> {
    let mut gzip =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // A file of a few seconds fits the pipe, so that what comes out need not be read meanwhile.
    gzip.stdin.take().into_iter().try_for_each(|mut input| input.write_all(octets))?;
    let output = gzip.wait_with_output()?;
    ensure!(output.status.success(), "gzip: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
