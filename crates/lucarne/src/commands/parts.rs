//! Where the collector keeps its parts beside the disk, as its command line and environment say.
//!
//! Owns how the store's access key is given: never on the command line, which every user of the machine can read.

use std::{env, fs, path::PathBuf};

use clap::Args;
use lucarne_collector::PartStore;
use lucarne_model::{
    Bytes,
    flow_log::{Bucket, Destination, StoreCredentials},
};

use crate::failure::Failure;

const KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";

#[derive(Args, Clone, Debug)]
pub(crate) struct PartsArgs {
    /// A bucket that keeps the Parquet, with the disk as its cache: s3://BUCKET/PREFIX?endpoint=URL&region=REGION
    #[arg(long = "parts", value_name = "URL", value_parser = parse_bucket)]
    bucket: Option<Bucket>,
    /// A file with `aws_access_key_id` and `aws_secret_access_key`; without it they are AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY of the environment, if these are set
    #[arg(long = "parts-credentials", value_name = "FILE", requires = "bucket")]
    credentials: Option<PathBuf>,
    /// Disk for parts that are in the bucket too, and as much for those that wait to be brought there
    #[arg(long = "parts-cache", default_value = "10GiB", value_name = "SIZE")]
    cache: Bytes,
}

pub(super) fn parse_bucket(text: &str) -> Result<Bucket, String> {
    match text.parse() {
        Ok(Destination::S3(bucket)) => Ok(bucket),
        Ok(_) => Err("it is s3://BUCKET/PREFIX".into()),
        Err(error) => Err(error.to_string()),
    }
}

impl PartsArgs {
    /// None: the disk alone keeps them.
    pub(crate) fn store(&self) -> Result<Option<PartStore>, Failure> {
        let Some(bucket) = self.bucket.clone() else { return Ok(None) };
        let credentials = credentials(self.credentials.as_ref())?;
        Ok(Some(PartStore { bucket, credentials, cache: self.cache.0, most_waiting: self.cache.0 }))
    }
}

/// Of the file, or else of the environment; none: requests are not signed.
pub(super) fn credentials(file: Option<&PathBuf>) -> Result<Option<StoreCredentials>, Failure> {
    match file {
        Some(path) => from_file(path).map(Some),
        None => from_environment(|name| env::var(name).ok()),
    }
}

fn from_file(path: &PathBuf) -> Result<StoreCredentials, Failure> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| Failure::wrong_usage(format!("{} cannot be read: {error}", path.display())))?;
    parse(&text).ok_or_else(|| {
        let wanted = "aws_access_key_id = ... and aws_secret_access_key = ...";
        Failure::wrong_usage(format!("{} does not have the lines {wanted}", path.display()))
    })
}

/// The form of AWS's own credentials file, of which the first profile is taken.
fn parse(text: &str) -> Option<StoreCredentials> {
    let value = |name: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let mut named = pairs.filter(|(key, _)| key.trim() == name);
        named.next().map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let (access_key_id, secret_access_key) = (value("aws_access_key_id")?, value("aws_secret_access_key")?);
    Some(StoreCredentials { access_key_id, secret_access_key })
}

/// Half a key is a mistake, and not a wish to ask unsigned.
fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<StoreCredentials>, Failure> {
    match (variable(KEY), variable(SECRET)) {
        (Some(access_key_id), Some(secret_access_key)) => {
            Ok(Some(StoreCredentials { access_key_id, secret_access_key }))
        }
        (None, None) => Ok(None),
        _ => Err(Failure::wrong_usage(format!("{KEY} and {SECRET} are set together or not at all"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_a_file_as_aws_writes_it_or_from_the_environment_whole() {
        let key = |id: &str| StoreCredentials { access_key_id: id.into(), secret_access_key: "s=1/+".into() };
        let file = "[default]\naws_access_key_id = A\naws_secret_access_key=s=1/+\n[other]\naws_access_key_id = B\n";
        assert_eq!(parse(file), Some(key("A")));
        for half in ["", "aws_access_key_id = A", "aws_access_key_id =\naws_secret_access_key = s"] {
            assert_eq!(parse(half), None, "{half}");
        }
        let both = |name: &str| Some(if name == KEY { "C".to_owned() } else { "s=1/+".to_owned() });
        assert_eq!(from_environment(both).ok(), Some(Some(key("C"))));
        assert_eq!(from_environment(|_| None).ok(), Some(None));
        assert!(from_environment(|name| (name == KEY).then(String::new)).is_err());
    }

    #[test]
    fn only_a_bucket_keeps_parts() {
        assert_eq!(parse_bucket("s3://my-parts/lab").map(|bucket| bucket.prefix), Ok("lab".into()));
        assert!(parse_bucket("file:///tmp").is_err() && parse_bucket("s3://").is_err());
    }
}
