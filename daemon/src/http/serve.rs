//! Connections: few, patient for a while, and never in training's way.
//!
//! One thread of the lowest priority serves them all, and does no more in a second than [`Turns`] allow.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Waker, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use super::turns::Turns;

/// Connections served at once; one more ends the oldest, so that no crowd keeps a newcomer waiting.
const CONNECTIONS: usize = 256;

/// A request's headers must be in by then; an idle connection is closed then too.
pub const HEADER_TIME: Duration = Duration::from_secs(5);

/// A client that takes nothing of an answer for this long is gone.
const STANDSTILL: Duration = Duration::from_secs(20);

/// Times a second that bytes of one connection are taken, and how many may have been saved up: who drips waits.
const READS: f64 = 10.0;
const READS_SAVED: f64 = 40.0;

/// A connection is closed then, however busy.
const CONNECTION_TIME: Duration = Duration::from_secs(600);

/// Memory for one connection's headers, and for its answer on the way out.
const BUFFER_BYTES: usize = 16 << 10;

/// What the kernel may keep of an answer for a client that does not take it; it doubles this.
const SEND_BYTES: usize = 64 << 10;

/// How much nicer than the supervisor the HTTP thread is.
const NICER: i32 = 19;

/// New connections a second and core; as many as there may be are taken at once.
const NEWCOMERS: f64 = 50.0;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// From where.
    pub address: IpAddr,
    /// How many requests the connection has made before.
    pub had: u64,
}

/// What this machine has.
pub fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64)
}

/// Binds the address.
///
/// # Errors
/// It is in use (the message says how to pick a free port) or not ours.
pub fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {} of {} is in use by another program (perhaps another run: `beit-daemon status`); \
             give another address, or --listen {}:0 for a free port",
            address.port(),
            address.ip(),
            address.ip()
        ),
        _ => anyhow::Error::new(error).context(format!("listening on {address}")),
    })?;
    listener.set_nonblocking(true).context("preparing the listener")?;
    // Accepted sockets inherit it.
    socket2::SockRef::from(&listener).set_send_buffer_size(SEND_BYTES).context("preparing the listener")?;
    Ok(listener)
}

/// Serves a router from a thread of its own until the process ends.
///
/// # Errors
/// The thread cannot be started.
pub fn serve(listener: TcpListener, router: Router) -> Result<()> {
    let build =
        || tokio::runtime::Builder::new_current_thread().enable_all().thread_name("http-files").build();
    std::thread::Builder::new()
        .name("http".into())
        .spawn(move || {
            // On Linux each thread has its own; those that this one starts inherit it.
            let nice = rustix::process::getpriority_process(None).unwrap_or_default();
            if let Err(error) = rustix::process::setpriority_process(None, (nice + NICER).min(19)) {
                tracing::warn!("The HTTP thread keeps its priority: {error}.");
            }
            match build() {
                Ok(runtime) => runtime.block_on(accept(listener, router)),
                Err(error) => tracing::error!("The HTTP door stays shut: {error}."),
            }
        })
        .context("starting the HTTP thread")?;
    Ok(())
}

async fn accept(listener: TcpListener, router: Router) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("The HTTP door stays shut: {error}.");
            return;
        }
    };
    let crowd = Arc::new(Crowd::default());
    let turns = Turns::new(NEWCOMERS * cores(), CONNECTIONS as f64);
    for number in 0.. {
        turns.take(0).await;
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely; some will be free in a moment.
                tracing::warn!("A connection could not be accepted: {error}.");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        crowd.make_room();
        let place = Place { crowd: crowd.clone(), number };
        let router = router.clone();
        let task = tokio::spawn(async move {
            let _place = place;
            attend(stream, address.ip(), router).await;
        });
        crowd.join(number, task.abort_handle());
    }
}

/// Serves one connection. What goes wrong on it is its client's business.
async fn attend(stream: TcpStream, address: IpAddr, router: Router) {
    let requests = AtomicU64::new(0);
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer { address, had: requests.fetch_add(1, Relaxed) });
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        hyper::service::Service::call(&service, request)
    });
    let _ = stream.set_nodelay(true);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_buf_size(BUFFER_BYTES);
    let connection = server.serve_connection(TokioIo::new(Patient::new(stream)), service);
    let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
}

/// The connections there are, oldest first.
#[derive(Debug, Default)]
struct Crowd {
    tasks: Mutex<BTreeMap<u64, AbortHandle>>,
}

impl Crowd {
    fn make_room(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.len() >= CONNECTIONS
            && let Some((_, oldest)) = tasks.pop_first()
        {
            oldest.abort();
        }
    }

    fn join(&self, number: u64, task: AbortHandle) {
        // One thread runs all of this, so the task has not begun, let alone left.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(number, task);
    }
}

/// A connection's place in the crowd, given back however it ends.
struct Place {
    crowd: Arc<Crowd>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// A stream that gives up on a client which takes nothing, and takes its time with one that drips.
struct Patient {
    stream: TcpStream,
    standstill: Option<Pin<Box<Sleep>>>,
    reads: f64,
    read_at: Instant,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Patient {
        Patient { stream, standstill: None, reads: READS_SAVED, read_at: Instant::now(), rest: None }
    }

    /// Ready when it may be read again.
    fn poll_rest(&mut self, waker: &mut Waker<'_>) -> Poll<()> {
        if self.reads < 1.0 && self.rest.is_none() {
            self.rest = Some(Box::pin(tokio::time::sleep(Duration::from_secs_f64(1.0 / READS))));
        }
        if let Some(rest) = &mut self.rest {
            std::task::ready!(rest.as_mut().poll(waker));
            self.rest = None;
        }
        let now = Instant::now();
        let due = now.duration_since(self.read_at).as_secs_f64() * READS;
        (self.reads, self.read_at) = ((self.reads + due).min(READS_SAVED), now);
        Poll::Ready(())
    }

    fn watch<T>(&mut self, waker: &mut Waker<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.standstill = None;
            return outcome;
        }
        let deadline = self.standstill.get_or_insert_with(|| Box::pin(tokio::time::sleep(STANDSTILL)));
        deadline.as_mut().poll(waker).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        waker: &mut Waker<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_rest(waker));
        std::task::ready!(Pin::new(&mut self.stream).poll_read(waker, into))?;
        self.reads -= 1.0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, waker: &mut Waker<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(waker, bytes);
        self.watch(waker, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        waker: &mut Waker<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(waker, bytes);
        self.watch(waker, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, waker: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(waker)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, waker: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(waker)
    }
}
