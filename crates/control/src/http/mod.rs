//! The HTTP server: connections in, requests to the routes, and an orderly end.
//!
//! Owns the limits of a connection: how many there may be, how long a header may take and how large it may be, and what
//! leaves the machine unencrypted. Paths, bodies and their limits are `lucarne_api`'s.

mod request_info;

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::Request, middleware};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

pub(crate) use request_info::RequestInfo;

const HEADER_TIME: Duration = Duration::from_secs(10);
/// The request line and all headers.
const HEADER_BYTES: usize = 64 << 10;
const HEADERS: usize = 64;
/// Each host has up to three: heartbeat, desired state, a blob or stream.
const CONNECTIONS: usize = 8192;
/// How long requests may take to finish when the server ends.
const PARTING_TIME: Duration = Duration::from_secs(5);

/// Why the API cannot be served there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "{0} is not a loopback address: tokens would cross the network unencrypted; put TLS in front or allow plaintext"
    )]
    Plaintext(SocketAddr),
    #[error("{address} cannot be listened on")]
    Bind {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
}

pub(crate) async fn listen(address: SocketAddr, allow_plaintext: bool) -> Result<TcpListener, ListenError> {
    if !allow_plaintext && !address.ip().is_loopback() {
        return Err(ListenError::Plaintext(address));
    }
    TcpListener::bind(address).await.map_err(|cause| ListenError::Bind { address, cause })
}

/// Serves `routes` until `shutdown`, then lets what runs finish for a few seconds.
pub(crate) async fn serve(listener: TcpListener, routes: Router, shutdown: CancellationToken) {
    let routes = routes.layer(middleware::from_fn(request_info::attach));
    let (turns, open) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, for example: it passes when some connection ends.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(turn) = turns.clone().try_acquire_owned() else {
            tracing::warn!(%remote, "turned away: {CONNECTIONS} connections are open");
            continue;
        };
        let conversation = converse(stream, remote, routes.clone(), shutdown.clone());
        open.spawn(async move {
            if let Err(error) = conversation.await {
                tracing::debug!(%remote, %error, "a connection broke off");
            }
            drop(turn);
        });
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(PARTING_TIME, open.wait()).await.is_err() {
        tracing::info!("some requests were still running and are cut off");
    }
}

/// Answers one connection's requests until it or the server ends; then the request that runs is still answered.
async fn converse(
    stream: TcpStream,
    remote: SocketAddr,
    routes: Router,
    shutdown: CancellationToken,
) -> hyper::Result<()> {
    // Answers are small and are waited for.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%remote, %error, "a connection stays with delays");
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(RequestInfo::new(remote.ip()));
        routes.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_headers(HEADERS)
        .max_header_size(HEADER_BYTES)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
