//! The door for machines and browsers. It reads the board and never the worker, so it answers while training stalls.
//!
//! ```text
//! GET  /                    a page for people              GET  /healthz   the supervisor lives
//! GET  /metrics             Prometheus text                GET  /readyz    training makes progress, else 503
//! GET  /api/v1/run          everything as JSON             GET  /api/v1/openapi.json   all of this, described
//! GET  /api/v1/plan, history, log, samples, samples/{number}/{view|masked|true|predicted}.png
//! GET  /api/v1/events       what happens, as server-sent events
//! POST /api/v1/stop         save and end                   POST /api/v1/checkpoint   save and go on
//! POST /api/v1/pause        stand still                    POST /api/v1/resume       and go on
//! ```
//! POSTs need `Authorization: Bearer` with the token of the run directory. Under /api/ every error is a JSON object
//! with an `error`. Connections are few and take turns, headers small and soon in, bodies tiny, answers bounded and taken or given up:
//! a slow or hostile client costs a place among the connections at most, for seconds. `docs/api.md` has examples.

mod events;
mod guard;
mod pictures;
mod serve;
mod turns;

use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Query, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::board::Board;
use crate::feed::LINES;
use crate::history::POINTS;
use crate::page;
use crate::rundir::RunDir;
use crate::supervisor::Event;

use guard::{Guard, Pass};
pub use serve::bind;
use serve::{Peer, cores};
use turns::Turns;

/// An answer must be ready by then.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Answers a second and core, and how many may have been saved up; a page takes about twenty at once, then one a second.
const ANSWERS: f64 = 100.0;
const ANSWERS_SAVED: f64 = 400.0;

/// A longer answer counts as one more for each such part of it.
const TURN_BYTES: f64 = 64.0 * 1024.0;

/// No request here needs a body.
const BODY_BYTES: u64 = 4 << 10;

/// Answers that cost something to make serve everybody for this long, unless the board changes.
const FRESH: Duration = Duration::from_millis(100);

/// Files read at once.
const READERS: usize = 4;

/// Log lines that are told without being asked for a number.
const LOG_LINES: usize = 200;

/// This API in its own words (OpenAPI 3.1).
const OPENAPI: &str = include_str!("http/openapi.json");

/// What handlers share.
#[derive(Clone)]
struct Door {
    board: Arc<Board>,
    guard: Arc<Guard>,
    requests: Sender<Event>,
    pictures: Arc<Path>,
    /// Only this machine reaches the server, so strangers' domains are refused.
    private: bool,
    turns: Arc<Turns>,
    streams: Arc<Semaphore>,
    disk: Arc<Semaphore>,
    run: Arc<Fresh>,
    brief: Arc<Fresh>,
    metrics: Arc<Fresh>,
}

/// How long a process that is done waits for those who watch to be told.
const FAREWELL: Duration = Duration::from_secs(2);

/// Who watches.
#[derive(Debug)]
pub struct Watchers {
    streams: Arc<Semaphore>,
}

impl Watchers {
    /// Waits, for a moment, until all streams have told how the run ended.
    pub fn farewell(&self) {
        let begun = Instant::now();
        while self.streams.available_permits() < events::STREAMS && begun.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Serves the board from a thread of its own until the process ends.
///
/// # Errors
/// The thread cannot be started.
pub fn serve(
    listener: TcpListener,
    board: Arc<Board>,
    run: &RunDir,
    token: String,
    requests: Sender<Event>,
) -> Result<Watchers> {
    let private = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let door = Door {
        board,
        guard: Arc::new(Guard::new(token)),
        requests,
        pictures: run.pictures().into(),
        private,
        turns: Turns::new(ANSWERS * cores(), ANSWERS_SAVED),
        streams: Arc::new(Semaphore::new(events::STREAMS)),
        disk: Arc::new(Semaphore::new(READERS)),
        run: Arc::default(),
        brief: Arc::default(),
        metrics: Arc::default(),
    };
    let watchers = Watchers { streams: door.streams.clone() };
    serve::serve(listener, router(door))?;
    Ok(watchers)
}

/// Every route but the page's: method, path, handler. `openapi.json` has the same, says a test.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Door>)> {
    vec![
        ("get", "/healthz", get(|| async { "alive\n" })),
        ("get", "/readyz", get(ready)),
        ("get", "/metrics", get(metrics)),
        ("get", "/api/v1/run", get(run)),
        ("get", "/api/v1/plan", get(plan)),
        ("get", "/api/v1/history", get(history)),
        ("get", "/api/v1/log", get(log)),
        ("get", "/api/v1/samples", get(pictures::index)),
        ("get", "/api/v1/samples/{number}/{picture}", get(pictures::picture)),
        ("get", "/api/v1/events", get(events::events)),
        ("get", "/api/v1/openapi.json", get(openapi)),
        ("post", "/api/v1/stop", post(stop)),
        ("post", "/api/v1/checkpoint", post(checkpoint)),
        ("post", "/api/v1/pause", post(pause)),
        ("post", "/api/v1/resume", post(resume)),
    ]
}

fn router(door: Door) -> Router {
    let router =
        routes().into_iter().fold(page::routes(), |router, (_, path, handler)| router.route(path, handler));
    router
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "nothing is here; try / or /metrics or /api/v1/openapi.json\n")
        })
        .method_not_allowed_fallback(|| async {
            (StatusCode::METHOD_NOT_ALLOWED, "this needs another method\n")
        })
        .layer(middleware::from_fn_with_state(door.clone(), bounded))
        .with_state(door)
}

/// Has every request wait its turn, bounds its answer in time, counts it, and keeps browsers from guessing and strangers from reading.
async fn bounded(Shared(door): Shared<Door>, request: Request, next: Next) -> Response {
    let for_machines = request.uri().path().starts_with("/api/");
    let had = request.extensions().get().map_or(0, |peer: &Peer| peer.had);
    let answer = async {
        door.turns.take(had).await;
        match refusal(&door, request.headers()) {
            Some((status, why)) => (status, why).into_response(),
            None => next.run(request).await,
        }
    };
    let mut response = match tokio::time::timeout(ANSWER_TIME, answer).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n").into_response(),
    };
    door.turns.charge(response.body().size_hint().exact().unwrap_or_default() as f64 / TURN_BYTES);
    door.board.metrics.answered(response.status().as_u16());
    if for_machines && (response.status().is_client_error() || response.status().is_server_error()) {
        response = as_json(response).await;
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Why a request is not even looked at.
fn refusal(door: &Door, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(header::CONTENT_LENGTH)
        .and_then(|length| length.parse().ok())
        .is_some_and(|bytes: u64| bytes > BODY_BYTES)
    {
        return Some((StatusCode::PAYLOAD_TOO_LARGE, "no request here needs a body\n"));
    }
    if door.private && !text(header::HOST).is_none_or(guard::is_ours) {
        let why = "this server is for its own machine: ask for localhost or an address, not for a domain; \
                   a proxy in front of it should set the header `Host: localhost`\n";
        return Some((StatusCode::MISDIRECTED_REQUEST, why));
    }
    None
}

/// The same error for a machine.
async fn as_json(response: Response) -> Response {
    let is_json = |value: &HeaderValue| value.as_bytes().starts_with(b"application/json");
    if response.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, 4 << 10).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let why = if text.trim().is_empty() { parts.status.to_string() } else { text.trim().to_owned() };
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(json!({ "error": why }).to_string()))
}

/// An error under /api/.
fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

/// An answer that is made once for all who ask within a moment.
#[derive(Debug, Default)]
struct Fresh {
    last: Mutex<Option<(Instant, u64, Bytes)>>,
}

impl Fresh {
    /// The last answer, if the board has not changed since and it is young; otherwise a new one.
    fn get(&self, changes: u64, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, seen, answer)) = &*last
            && *seen == changes
            && at.elapsed() < FRESH
        {
            return answer.clone();
        }
        let answer = Bytes::from(make());
        *last = Some((Instant::now(), changes, answer.clone()));
        answer
    }
}

async fn ready(Shared(door): Shared<Door>) -> impl IntoResponse {
    let (ready, why) = door.board.ready();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, why + "\n")
}

async fn metrics(Shared(door): Shared<Door>) -> Response {
    let text = door.metrics.get(door.board.changes(), || {
        let started_at = door.board.facts().started_at;
        door.board.metrics.text(door.board.ready().0, started_at).unwrap_or_else(|error| {
            tracing::error!("The metrics cannot be written: {error}.");
            Vec::new()
        })
    });
    if text.is_empty() {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written; the log says why\n")
            .into_response();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn run(Shared(door): Shared<Door>) -> impl IntoResponse {
    let make = || serde_json::to_vec(&door.board.shown()).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], door.run.get(door.board.changes(), make))
}

async fn plan(Shared(door): Shared<Door>) -> Response {
    match door.board.facts().plan {
        Some(plan) => Json(plan).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "the worker has not made its plan yet; try again in a moment"),
    }
}

#[derive(Debug, Deserialize)]
struct Stretch {
    since: Option<u64>,
    points: Option<usize>,
}

async fn history(Shared(door): Shared<Door>, Query(asked): Query<Stretch>) -> impl IntoResponse {
    Json(door.board.history.columns(asked.since, asked.points.unwrap_or(POINTS)))
}

#[derive(Debug, Deserialize)]
struct Tail {
    lines: Option<usize>,
}

async fn log(Shared(door): Shared<Door>, Query(asked): Query<Tail>) -> impl IntoResponse {
    let (lines, id) = door.board.feed.tail(asked.lines.unwrap_or(LOG_LINES).min(LINES));
    let lines: Vec<&str> = lines.iter().map(|line| &**line).collect();
    Json(json!({ "lines": lines, "id": id }))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn stop(Shared(door): Shared<Door>, peer: Option<Extension<Peer>>, headers: HeaderMap) -> Response {
    door.ask(&headers, peer, Event::Stop { who: "the API" })
}

async fn checkpoint(
    Shared(door): Shared<Door>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response {
    door.ask(&headers, peer, Event::Checkpoint)
}

async fn pause(Shared(door): Shared<Door>, peer: Option<Extension<Peer>>, headers: HeaderMap) -> Response {
    door.ask(&headers, peer, Event::Pause(true))
}

async fn resume(Shared(door): Shared<Door>, peer: Option<Extension<Peer>>, headers: HeaderMap) -> Response {
    door.ask(&headers, peer, Event::Pause(false))
}

impl Door {
    /// Passes a request on to the supervisor, if it comes with the token.
    fn ask(&self, headers: &HeaderMap, peer: Option<Extension<Peer>>, event: Event) -> Response {
        match self.guard.check(headers, peer.map(|Extension(peer)| peer.address)) {
            Pass::Right => match self.requests.send(event) {
                Ok(()) => (StatusCode::ACCEPTED, Json(json!({"accepted": true}))).into_response(),
                Err(_) => refuse(StatusCode::CONFLICT, "the run is over"),
            },
            Pass::Wrong => {
                let hint = "this needs the header `Authorization: Bearer TOKEN`; \
                            the token is in daemon.token of the run directory";
                ([(header::WWW_AUTHENTICATE, "Bearer")], refuse(StatusCode::UNAUTHORIZED, hint))
                    .into_response()
            }
            Pass::TooMany => {
                let hint = "too many wrong tokens; the right one is in daemon.token of the run directory";
                ([(header::RETRY_AFTER, "1")], refuse(StatusCode::TOO_MANY_REQUESTS, hint)).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests;
