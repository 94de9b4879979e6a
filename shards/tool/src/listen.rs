//! Listen: how a build or a watch is doing, over HTTP, for those who ask for it with `--listen`.
//!
//! ```text
//! GET /metrics   Prometheus text        GET /healthz   the process lives
//! ```
//! One thread answers from the [`Tally`], so it does while the line stands still, and it ends with the process.
//! Connections are few, headers small and soon in, bodies are not read: a slow or hostile client costs one of
//! [`CONNECTIONS`] slots at most, for a while.

use crate::metrics::{Machine, text};
use crate::tally::Tally;
use anyhow::{Context, Result, anyhow};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Connections served at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// A request's headers must be in by then; an idle connection is closed then too.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// A connection is closed then, however busy.
const CONNECTION_TIME: Duration = Duration::from_secs(600);

/// Memory for one connection's headers.
const HEADER_BYTES: usize = 16 << 10;

/// How often the disk is asked for its free room: by a thread of its own, as a network file system may not answer.
const DISK_EVERY: Duration = Duration::from_secs(5);

/// What is shown.
struct Shown {
    tally: Arc<Tally>,
    disk_free_bytes: AtomicU64,
}

/// Binds `address` and serves there until the process ends; `out` is where the shards go.
///
/// # Errors
/// the address is in use (the message says how to pick a free port) or not ours
pub fn open(address: SocketAddr, tally: &Arc<Tally>, out: &Path) -> Result<SocketAddr> {
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow!(
            "port {} of {ip} is in use by another program (perhaps another build); give another address, or --listen {ip}:0 \
             for a free port",
            address.port(),
            ip = address.ip()
        ),
        _ => anyhow::Error::new(error).context(format!("listening on {address}")),
    })?;
    listener.set_nonblocking(true).context("preparing the listener")?;
    let address = listener.local_addr().context("asking for the port")?;
    let shown = Arc::new(Shown { tally: Arc::clone(tally), disk_free_bytes: AtomicU64::new(disk_free(out)) });
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting HTTP")?;
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("disk")
        .spawn({
            let (shown, out) = (Arc::clone(&shown), PathBuf::from(out));
            move || loop {
                std::thread::sleep(DISK_EVERY);
                shown.disk_free_bytes.store(disk_free(&out), Relaxed);
            }
        })
        .context("starting to watch the disk")?;
    thread("http").spawn(move || runtime.block_on(accept(listener, shown))).context("starting HTTP")?;
    // Standard output belongs to the result.
    eprintln!("listening on http://{address}");
    if !address.ip().is_loopback() {
        tracing::warn!("Listening on {address}: whoever reaches it can read this build's numbers.");
    }
    Ok(address)
}

async fn accept(listener: TcpListener, shown: Arc<Shown>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("The HTTP door stays shut: {error}.");
            return;
        }
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely; some will be free in a moment.
                tracing::warn!("A connection could not be accepted: {error}.");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shown = Arc::clone(&shown);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = shown.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_buf_size(HEADER_BYTES);
            let connection = server.serve_connection(TokioIo::new(stream), service);
            // What goes wrong on a connection is its client's business.
            let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
            drop(slot);
        });
    }
}

impl Shown {
    fn answer<B>(&self, request: &Request<B>) -> Response<String> {
        let (status, body) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "alive\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/metrics") => match text(&self.tally, self.machine()) {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            (_, "/healthz" | "/metrics") => {
                (StatusCode::METHOD_NOT_ALLOWED, "this is only for reading: GET\n".to_owned())
            }
            _ => (StatusCode::NOT_FOUND, "nothing is here; try /metrics or /healthz\n".to_owned()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn machine(&self) -> Machine {
        Machine {
            disk_free_bytes: self.disk_free_bytes.load(Relaxed),
            resident_bytes: resident_bytes().unwrap_or(0),
        }
    }
}

/// Bytes that this user may still write where `path` is, or will be.
fn disk_free(path: &Path) -> u64 {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    rustix::fs::statvfs(there).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Memory of this process, from the kernel.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests;
