//! What leaves the collector for places of tenants. `PUT /deliveries`: the flow logs to deliver, all of them.
//! `POST /deliveries/list`: how far each is. `POST /flows/export`: a network's flows as a file.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::{post, put},
};
use futures::{StreamExt as _, stream};
use lucarne_model::{
    FlowLogId, Moment,
    flow_log::{Delivery, DeliveryOrder, ExportQuestion},
};
use tokio::{sync::mpsc, time::timeout};

use super::Refusal;
use crate::{
    catalog::Catalog,
    delivery::Deliveries,
    export::{Export, ExportError},
};

/// Octets of all flow logs together: some 30,000 of them.
const LARGEST: usize = 32 << 20;

/// Octets of a piece of a file, and how many pieces wait to be taken.
const PIECE: usize = 64 << 10;
const PIECES: usize = 4;
/// So long an answer waits for the first piece, which comes when all records have been read.
const UNTIL_BEGUN: Duration = Duration::from_secs(10);

/// What the routes need.
#[derive(Clone, Debug)]
pub(crate) struct Outward {
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) catalog: Arc<Catalog>,
    /// For what a file needs while it is made.
    pub(crate) folder: PathBuf,
}

impl Outward {
    pub(crate) fn routes<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        Router::new()
            .route("/deliveries", put(set).layer(DefaultBodyLimit::max(LARGEST)))
            .route("/deliveries/list", post(list))
            .route("/flows/export", post(make_file))
            .with_state(self)
    }
}

fn failed(what: &'static str, error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error, "{what}");
    (StatusCode::SERVICE_UNAVAILABLE, what.to_owned())
}

async fn set(State(outward): State<Outward>, Json(orders): Json<Vec<DeliveryOrder>>) -> Result<(), Refusal> {
    const WHAT: &str = "the flow logs cannot be kept";
    let set = tokio::task::spawn_blocking(move || outward.deliveries.set(orders)).await;
    set.map_err(|error| failed(WHAT, &error))?.map_err(|error| failed(WHAT, &error))
}

async fn list(State(outward): State<Outward>) -> Json<BTreeMap<FlowLogId, Delivery>> {
    Json(outward.deliveries.list())
}

/// The file as it is made. What goes wrong before there is anything of it is told as such; later it breaks off.
async fn make_file(State(outward): State<Outward>, Json(question): Json<ExportQuestion>) -> Result<Body, Refusal> {
    let export = Export::of(question).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let now = Moment::EPOCH.plus(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let body = in_pieces(move |out| export.write(&outward.catalog, &outward.folder, now, out)).await;
    body.map_err(|error| failed("the file cannot be made", &error))
}

/// What `write` writes, as it comes; its error, where that comes before anything else.
async fn in_pieces(
    write: impl FnOnce(BufWriter<Pieces>) -> Result<(), ExportError> + Send + 'static,
) -> Result<Body, ExportError> {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(BufWriter::with_capacity(PIECE, Pieces(sender.clone()))) {
            // Whoever left meanwhile misses nothing.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let first = match timeout(UNTIL_BEGUN, pieces.recv()).await {
        Ok(Some(Err(error))) => return Err(error),
        Ok(first) => first,
        Err(_) => Some(Ok(Bytes::new())),
    };
    let rest = stream::unfold(pieces, async |mut pieces| Some((pieces.recv().await?, pieces)));
    let told = |piece: Result<Bytes, ExportError>| {
        piece.inspect_err(|error| tracing::error!(error = error as &dyn std::error::Error, "a file breaks off"))
    };
    Ok(Body::from_stream(stream::iter(first).chain(rest).map(told)))
}

/// Where a file goes piece by piece.
struct Pieces(mpsc::Sender<Result<Bytes, ExportError>>);

impl Write for Pieces {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(octets)));
        sent.map(|()| octets.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.0.is_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn broken() -> ExportError {
        ExportError::Scratch(io::ErrorKind::StorageFull.into())
    }

    #[tokio::test]
    async fn a_file_comes_whole_and_in_more_pieces_than_wait_at_once() {
        let octets: Vec<u8> = (0..PIECE * (PIECES + 3)).map(|at| (at / 100) as u8).collect();
        let wanted = octets.clone();
        let write = move |mut out: BufWriter<Pieces>| {
            octets.chunks(1000).try_for_each(|chunk| out.write_all(chunk)).map_err(ExportError::Write)?;
            out.flush().map_err(ExportError::Write)
        };
        let body = in_pieces(write).await.unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), wanted);
    }

    /// Nobody takes a part of a file for the whole.
    #[tokio::test]
    async fn a_file_that_cannot_be_made_is_refused_and_a_broken_one_breaks_off() {
        assert!(matches!(in_pieces(|_| Err(broken())).await, Err(ExportError::Scratch(_))));
        let write = |mut out: BufWriter<Pieces>| {
            out.write_all(&[1; PIECE]).and_then(|()| out.flush()).map_err(ExportError::Write)?;
            Err(broken())
        };
        assert!(in_pieces(write).await.unwrap().collect().await.is_err());
    }

    #[tokio::test]
    async fn who_makes_a_file_is_told_that_nobody_takes_it() {
        let (told, heard) = tokio::sync::oneshot::channel();
        let write = move |mut out: BufWriter<Pieces>| {
            let ended = (0..).try_for_each(|_| out.write_all(&[1; PIECE])).map_err(ExportError::Write);
            told.send(()).unwrap();
            ended
        };
        drop(in_pieces(write).await.unwrap());
        heard.await.unwrap();
    }
}
