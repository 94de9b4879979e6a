//! `GET /api/v1/events`: what happens, as it happens, as server-sent events.
//!
//! A stream holds a number, not a queue: what its client has not taken stays on the feed's rings, or falls off them.
//! So a slow client costs no memory, and one that takes nothing at all is cut off by the connection's standstill.

use std::convert::Infallible;
use std::fmt::Write;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{Door, refuse};

/// Streams at once.
pub const STREAMS: usize = 32;

/// Items of one message; the rest follows at once.
const ITEMS: usize = 200;

/// What happens within this stretch comes together.
const GATHER: Duration = Duration::from_millis(200);

/// The board comes at most this often.
const BOARD_EVERY: Duration = Duration::from_secs(1);

/// A sign of life when nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A stream ends in good order before its connection is closed; clients come back by themselves.
const STREAM_TIME: Duration = Duration::from_secs(540);

/// Where a stream begins.
#[derive(Debug, Deserialize)]
pub struct From {
    /// After this number; without it, and without `Last-Event-ID`, now.
    after: Option<u64>,
}

/// Opens a stream.
pub async fn events(State(door): State<Door>, Query(from): Query<From>, headers: HeaderMap) -> Response {
    let Ok(slot) = door.streams.clone().try_acquire_owned() else {
        let message = format!("{STREAMS} streams of events are open already; close one, or poll /api/v1/run");
        let refusal = refuse(StatusCode::SERVICE_UNAVAILABLE, &message);
        return ([(header::RETRY_AFTER, "5")], refusal).into_response();
    };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse().ok());
    let newest = door.board.feed.newest();
    // A number from the future is none of ours.
    let cursor = last.or(from.after).unwrap_or(newest).min(newest);
    let watcher = Watcher {
        news: door.board.feed.watch(),
        door,
        cursor,
        shown: 0,
        shown_at: None,
        said_at: Instant::now(),
        begun: Instant::now(),
        greeted: false,
        over: false,
        _slot: slot,
    };
    let body = Body::from_stream(stream::unfold(watcher, Watcher::next));
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// One client's stream.
struct Watcher {
    door: Door,
    news: tokio::sync::watch::Receiver<u64>,
    cursor: u64,
    /// The change of the board that the client has seen.
    shown: u64,
    shown_at: Option<Instant>,
    said_at: Instant,
    begun: Instant,
    greeted: bool,
    /// The client has seen how the run ended.
    over: bool,
    _slot: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next message, once there is something to say; `None` when the stream has lasted long enough, or the run has.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Watcher)> {
        while self.begun.elapsed() < STREAM_TIME && !self.over {
            let mut text = String::new();
            if !self.greeted {
                self.greeted = true;
                text.push_str("retry: 2000\n\n");
            }
            let more = self.tell_news(&mut text);
            if !more {
                self.tell_board(&mut text);
            }
            if text.is_empty() && self.said_at.elapsed() >= HEARTBEAT {
                text.push_str(": nothing new\n\n");
            }
            if !text.is_empty() {
                self.said_at = Instant::now();
                return Some((Ok(text.into()), self));
            }
            // The feed wakes us; the board is looked at once a second.
            let _ = tokio::time::timeout(BOARD_EVERY, self.news.changed()).await;
            tokio::time::sleep(GATHER).await;
        }
        None
    }

    /// Returns whether there is more than fits one message.
    fn tell_news(&mut self, text: &mut String) -> bool {
        self.news.borrow_and_update();
        let news = self.door.board.feed.after(self.cursor, ITEMS);
        if news.gap {
            text.push_str(": some of what happened is not kept any more\n\n");
        }
        for item in &news.items {
            let _ = write!(text, "event: {}\nid: {}\ndata: {}\n\n", item.kind.word(), item.id, item.text);
            self.cursor = item.id;
        }
        news.items.len() == ITEMS
    }

    fn tell_board(&mut self, text: &mut String) {
        let over = self.door.board.is_over();
        let changes = self.door.board.changes();
        let early = !over && self.shown_at.is_some_and(|at| at.elapsed() < BOARD_EVERY);
        if changes == self.shown || early {
            return;
        }
        self.over = over;
        self.shown = changes;
        self.shown_at = Some(Instant::now());
        let board = self.door.brief.get(changes, || brief(&self.door));
        let _ = write!(text, "event: run\nid: {}\ndata: ", self.cursor);
        text.push_str(&String::from_utf8_lossy(&board));
        text.push_str("\n\n");
    }
}

/// The board without what is long and comes by other ways: the plan's text and the events.
fn brief(door: &Door) -> Vec<u8> {
    let mut shown = door.board.shown();
    shown.facts.events.clear();
    let mut value = serde_json::to_value(&shown).unwrap_or_default();
    if let Some(plan) = value["plan"].as_object_mut() {
        plan.remove("text");
    }
    if let Some(board) = value.as_object_mut() {
        board.remove("events");
    }
    value.to_string().into_bytes()
}
