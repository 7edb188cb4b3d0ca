//! Deliveries to a store that speaks as S3 does: moto's server, which checks signatures with botocore's code and none of ours.

use std::{io::Read as _, time::Duration};

use bytes::Bytes;
use flate2::read::GzDecoder;
use lucarne_model::flow_log::{DeliveryOrder, Destination, FlowLog, StoreCredentials};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::{net::TcpListener, time::timeout};

use super::{Reach, SendError, bucket::BucketWriter};
use crate::{
    delivery::tests::{catalog, deliveries, log, of_first_account, status},
    sealer::now,
    test_records::numbered,
    test_store::Store,
};

fn order(format: &str, to: &str, credentials: Option<StoreCredentials>) -> DeliveryOrder {
    let order = log(to);
    DeliveryOrder { log: FlowLog { format: format.into(), ..order.log }, credentials }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_or_has_no_such_bucket_is_told_and_gets_everything_when_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let deliveries = deliveries(dir.path(), &catalog(100));
    deliveries.set(vec![order("default", &format!("s3://my-logs/lab?endpoint=http://{address}"), None)]).unwrap();
    let expected = of_first_account(numbered(0..100)).len();
    let away = status(&deliveries, |delivery| delivery.last_error.is_some()).await;
    assert_eq!((away.delivered, away.waiting), (0, expected as u64));
    let store = Store::start(address).await;
    status(&deliveries, |delivery| delivery.last_error.iter().any(|error| error.contains("NoSuchBucket"))).await;
    store.make_bucket("my-logs").await;
    let told = status(&deliveries, |delivery| delivery.delivered > 0 && delivery.last_error.is_none()).await;
    assert_eq!((told.delivered, told.waiting), (expected as u64, 0));
    let [(key, object)] = &store.objects("my-logs").await[..] else { panic!("not one object") };
    let account = log("store").log.account;
    let folder = format!("lab/AWSLogs/aws-account-id={account}/aws-service=vpcflowlogs/aws-region=");
    assert!(key.starts_with(&folder) && key.contains("/year=2026/month=01/day=15/hour=12/"), "{key}");
    let mut text = String::new();
    GzDecoder::new(&object[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), expected + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_takes_parquet_too() {
    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let store = Store::start(address).await;
    store.make_bucket("my-logs").await;
    let deliveries = deliveries(dir.path(), &catalog(100));
    let to = format!("s3://my-logs/?endpoint=http://{address}&region=north-1");
    deliveries.set(vec![order("parquet", &to, None)]).unwrap();
    let expected = of_first_account(numbered(0..100)).len();
    status(&deliveries, |delivery| delivery.delivered == expected as u64).await;
    let (key, object) = store.objects("my-logs").await.pop().unwrap();
    assert!(key.starts_with("AWSLogs/") && key.ends_with(".log.parquet"), "{key}");
    let reader = ParquetRecordBatchReaderBuilder::try_new(object).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows() as usize, expected);
    assert!(reader.schema().field_with_name("host").is_err(), "the host is the operator's to know");
}

/// With a key without `=`: moto decodes a path before it signs it, so that botocore's own requests fail there too.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_checks_signatures_takes_ours_and_no_forged_one() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let store = Store::start(address).await;
    store.make_bucket("my-logs").await;
    let right = store.make_user().await;
    store.is_strict(true).await;
    let Destination::S3(bucket) = format!("s3://my-logs/lab?endpoint=http://{address}").parse().unwrap() else {
        panic!("no bucket")
    };
    let put = async |credentials: StoreCredentials| {
        let writer = BucketWriter::new(bucket.clone(), Some(credentials), Reach::Anywhere);
        writer.put("a-b_c.d/file", b"flows".to_vec(), now()).await.map_err(|error| error.to_string())
    };
    assert_eq!(put(right.clone()).await, Ok(()));
    let forged = put(StoreCredentials { secret_access_key: "guessed".into(), ..right.clone() }).await.unwrap_err();
    assert!(forged.contains("SignatureDoesNotMatch"), "{forged}");
    let stranger = put(StoreCredentials { access_key_id: "AKIANOBODY".into(), ..right }).await.unwrap_err();
    assert!(stranger.contains("InvalidAccessKeyId"), "{stranger}");
    let objects = store.objects("my-logs").await;
    assert_eq!(objects, [("lab/a-b_c.d/file".to_owned(), Bytes::from_static(b"flows"))]);
}

/// Where only other addresses are allowed, a store on the machine itself is not even connected to.
#[tokio::test]
async fn a_store_on_the_collectors_own_machine_is_not_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let Destination::S3(bucket) = format!("s3://my-logs/?endpoint=http://{address}").parse().unwrap() else {
        panic!("no bucket")
    };
    let refused = BucketWriter::new(bucket, None, Reach::Elsewhere).put("file", Vec::new(), now()).await;
    assert!(matches!(refused, Err(SendError::Local(_))), "{refused:?}");
    assert!(timeout(Duration::from_millis(100), listener.accept()).await.is_err());
}
