//! The door for machines and browsers. It reads the board and never the worker, so it answers while training stalls.
//!
//! ```text
//! GET  /                    a page for people              GET  /healthz   the supervisor lives
//! GET  /metrics             Prometheus text                GET  /readyz    training makes progress, else 503
//! GET  /api/v1/run          everything as JSON
//! POST /api/v1/stop         save and end                   POST /api/v1/checkpoint   save and go on
//! POST /api/v1/pause        stand still                    POST /api/v1/resume       and go on
//! ```
//! POSTs need `Authorization: Bearer` with the token of the run directory. Connections are few, headers small and soon
//! in, bodies tiny, and every answer has a time limit: a slow or hostile client costs one of [`CONNECTIONS`] slots at
//! most, for seconds.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{DefaultBodyLimit, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::board::Board;
use crate::page;
use crate::supervisor::Event;

/// Connections served at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;

/// A request's headers must be in by then; an idle connection is closed then too.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// An answer must be ready by then.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// A connection is closed then, however busy.
const CONNECTION_TIME: Duration = Duration::from_secs(600);

/// No request here needs a body.
const BODY_BYTES: usize = 4 << 10;

/// Memory for one connection's headers.
const HEADER_BYTES: usize = 16 << 10;

/// The page may load its own style and nothing else.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What handlers share.
#[derive(Clone)]
struct Door {
    board: Arc<Board>,
    token: Arc<str>,
    events: Sender<Event>,
}

/// Binds the address.
///
/// # Errors
/// It is in use (the message says how to pick a free port) or not ours.
pub fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {} of {} is in use by another program (perhaps another run: `beit-daemon status`); \
             give another address, or --listen {}:0 for a free port",
            address.port(),
            address.ip(),
            address.ip()
        ),
        _ => anyhow::Error::new(error).context(format!("listening on {address}")),
    })?;
    listener.set_nonblocking(true).context("preparing the listener")?;
    Ok(listener)
}

/// Serves the board from two threads of its own until the process ends.
///
/// # Errors
/// The threads cannot be started.
pub fn serve(listener: TcpListener, board: Arc<Board>, token: String, events: Sender<Event>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("http")
        .enable_all()
        .build()
        .context("starting the HTTP threads")?;
    let router = router(Door { board, token: token.into(), events });
    std::thread::Builder::new()
        .name("http-accept".into())
        .spawn(move || runtime.block_on(accept(listener, router)))
        .context("starting the HTTP threads")?;
    Ok(())
}

fn router(door: Door) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/style.css", get(style))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/run", get(run))
        .route("/api/v1/stop", post(stop))
        .route("/api/v1/checkpoint", post(checkpoint))
        .route("/api/v1/pause", post(pause))
        .route("/api/v1/resume", post(resume))
        .fallback(|| async { (StatusCode::NOT_FOUND, "nothing is here; try / or /metrics or /api/v1/run\n") })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn_with_state(door.clone(), bounded))
        .with_state(door)
}

async fn accept(listener: TcpListener, router: Router) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("The HTTP door stays shut: {error}.");
            return;
        }
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely; some will be free in a moment.
                tracing::warn!("A connection could not be accepted: {error}.");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_buf_size(HEADER_BYTES);
            let connection = server.serve_connection(TokioIo::new(stream), service);
            // What goes wrong on a connection is its client's business.
            let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
            drop(slot);
        });
    }
}

/// Bounds every answer in time, counts it, and keeps browsers from guessing.
async fn bounded(Shared(door): Shared<Door>, request: Request, next: Next) -> Response {
    let mut response = match tokio::time::timeout(ANSWER_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n").into_response(),
    };
    door.board.metrics.answered(response.status().as_u16());
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

async fn home(Shared(door): Shared<Door>) -> Html<String> {
    Html(page::render(&door.board.facts(), &door.board.ready().1))
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE)
}

async fn ready(Shared(door): Shared<Door>) -> impl IntoResponse {
    let (ready, why) = door.board.ready();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, why + "\n")
}

async fn metrics(Shared(door): Shared<Door>) -> Response {
    let started_at = door.board.facts().started_at;
    match door.board.metrics.text(door.board.ready().0, started_at) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn run(Shared(door): Shared<Door>) -> impl IntoResponse {
    Json(door.board.facts())
}

async fn stop(Shared(door): Shared<Door>, headers: HeaderMap) -> Response {
    door.ask(&headers, Event::Stop { who: "the API" })
}

async fn checkpoint(Shared(door): Shared<Door>, headers: HeaderMap) -> Response {
    door.ask(&headers, Event::Checkpoint)
}

async fn pause(Shared(door): Shared<Door>, headers: HeaderMap) -> Response {
    door.ask(&headers, Event::Pause(true))
}

async fn resume(Shared(door): Shared<Door>, headers: HeaderMap) -> Response {
    door.ask(&headers, Event::Pause(false))
}

impl Door {
    /// Passes a request on to the supervisor, if it comes with the token.
    fn ask(&self, headers: &HeaderMap, event: Event) -> Response {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        if !given.is_some_and(|given| same(given.trim().as_bytes(), self.token.as_bytes())) {
            let hint = json!({"error": "this needs the header `Authorization: Bearer TOKEN`; \
                               the token is in daemon.token of the run directory"});
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], Json(hint))
                .into_response();
        }
        match self.events.send(event) {
            Ok(()) => (StatusCode::ACCEPTED, Json(json!({"accepted": true}))).into_response(),
            Err(_) => (StatusCode::CONFLICT, Json(json!({"error": "the run is over"}))).into_response(),
        }
    }
}

/// Compares in a time that tells nothing about the place of a difference.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

#[cfg(test)]
mod tests;
