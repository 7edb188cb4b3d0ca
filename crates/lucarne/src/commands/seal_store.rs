//! Results brought on into an object store, where their reader opens them.
//!
//! Owns which files of a result are brought, under which names, and what is told of it. They are in the folder first, and stay there:
//! what the store did not take is brought when the same is asked again. A store needs no more trust than any carrier.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use lucarne_collector::{UploadError, Uploads};
use lucarne_model::flow_log::Bucket;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    parts::{credentials, parse_bucket},
    seal::with_end,
};
use crate::{failure::Failure, private_file, session::now};

/// Between two tries with a store that is away.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
pub(super) struct StoreArgs {
    /// Bring what comes of it into this bucket too: s3://BUCKET/PREFIX?endpoint=URL&region=REGION
    #[arg(long = "to", value_name = "URL", value_parser = parse_bucket)]
    bucket: Option<Bucket>,
    /// A file with `aws_access_key_id` and `aws_secret_access_key`; without it they are AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY of the environment, if these are set
    #[arg(long = "to-credentials", value_name = "FILE", requires = "bucket")]
    credentials: Option<PathBuf>,
}

impl StoreArgs {
    /// The store, if results are brought on to one.
    pub(super) fn open(&self) -> Result<Option<Store>, Failure> {
        let Some(bucket) = self.bucket.clone() else { return Ok(None) };
        let name = format!("{}/{}/{}", bucket.endpoint, bucket.name, bucket.prefix);
        Ok(Some(Store { uploads: Uploads::new(bucket, credentials(self.credentials.as_ref())?), name }))
    }
}

pub(super) struct Store {
    uploads: Uploads,
    /// Which store it is, as it stands beside what it took.
    name: String,
}

impl Store {
    /// Brings a result that is done, with what lies beside it, and adds to what is told of it whether all of it is there.
    pub(super) async fn take(&self, patience: Duration, told: &mut Value) {
        let Some(result) = told["result"].as_str().map(PathBuf::from) else { return };
        let until = Instant::now() + patience;
        let mut brought = Ok(());
        for file in [result.clone(), with_end(&result, ".receipt"), result.with_extension("pub")] {
            if brought.is_ok() && file.exists() {
                brought = self.bring(&file, until).await;
            }
        }
        told["delivered"] = json!(brought.is_ok());
        if let Err(why) = brought {
            told["detail"] = json!(why);
        }
    }

    /// One file, unless it was brought there before as it is now.
    async fn bring(&self, file: &Path, until: Instant) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", file.display());
        let mark = with_end(file, ".delivered");
        let length = fs::metadata(file).map_err(failed)?.len();
        let said = format!("{} {length}\n", self.name);
        if fs::read_to_string(&mark).is_ok_and(|before| before == said) {
            return Ok(());
        }
        let key = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        loop {
            match self.uploads.put(&key, file, now()).await {
                Ok(()) => break,
                Err(error) if is_worth_another_try(&error, until) => sleep(PAUSE).await,
                Err(error) => return Err(error.to_string()),
            }
        }
        private_file::write(&mark, said.as_bytes()).map_err(|failure| failure.to_string())
    }
}

fn is_worth_another_try(error: &UploadError, until: Instant) -> bool {
    error.is_passing() && Instant::now() < until
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::TcpListener,
        sync::mpsc::{Receiver, channel},
    };

    use super::*;

    /// A store that answers so, one after the other, and what it was asked for.
    fn store(answers: &'static [&'static str]) -> (Store, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (tell, asked) = channel();
        std::thread::spawn(move || {
            for (answer, stream) in answers.iter().zip(listener.incoming()) {
                let mut stream = BufReader::new(stream.unwrap());
                let head: Vec<String> =
                    stream.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                std::io::copy(&mut stream.by_ref().take(length.parse().unwrap()), &mut std::io::sink()).unwrap();
                write!(stream.get_mut(), "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").unwrap();
                tell.send(head[0].clone()).unwrap();
            }
        });
        let bucket = Bucket { name: "b".into(), prefix: "p".into(), endpoint, region: Bucket::DEFAULT_REGION.into() };
        (Store { name: "here".into(), uploads: Uploads::new(bucket, None) }, asked)
    }

    fn take(store: &Store, result: &Path, patience: Duration) -> Value {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut told = json!({"outcome": "done", "result": result});
        runtime.block_on(store.take(patience, &mut told));
        told
    }

    #[test]
    fn a_store_that_is_busy_is_asked_again_and_what_it_has_is_not_brought_twice() {
        let folder = tempfile::tempdir().unwrap();
        let result = folder.path().join("host-1.age");
        fs::write(&result, "sealed").unwrap();
        fs::write(folder.path().join("host-1.age.receipt"), "signed").unwrap();
        let (busy, asked) = store(&["503 Slow Down", "200 OK", "200 OK", "200 OK"]);
        assert_eq!(take(&busy, &result, Duration::from_secs(60))["delivered"], true);
        let put = |name: &str| format!("PUT /b/p/{name} HTTP/1.1");
        let expected = [put("host-1.age"), put("host-1.age"), put("host-1.age.receipt")];
        assert_eq!(asked.iter().take(3).collect::<Vec<_>>(), expected);
        // Only what is there by now and was not before.
        fs::write(folder.path().join("host-1.pub"), "key").unwrap();
        assert_eq!(take(&busy, &result, Duration::ZERO)["delivered"], true);
        assert_eq!(asked.recv().unwrap(), put("host-1.pub"));
    }

    #[test]
    fn what_a_store_does_not_take_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let result = folder.path().join("host-1.age");
        fs::write(&result, "sealed").unwrap();
        let (refusing, _asked) = store(&["403 Forbidden"]);
        let told = take(&refusing, &result, Duration::from_secs(60));
        assert_eq!(told["delivered"], false);
        assert!(told["detail"].as_str().unwrap().contains("403"), "{told}");
        assert!(!folder.path().join("host-1.age.delivered").exists());
    }
}
