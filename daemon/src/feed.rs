//! What has just happened, numbered and bounded: log lines, events and points, for those who watch as it goes.
//!
//! Numbers only rise, also from one daemon to the next in the same run directory, so that a watcher who comes back after
//! a while, or after a restart, is told what is new and nothing twice. Nobody is waited for: who is too slow misses what
//! has fallen off its ring, and is told that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::board::now;

/// Log lines kept.
pub const LINES: usize = 1000;

/// Events kept; the board shows as many.
pub const EVENTS: usize = 50;

/// Points kept; a watcher who has missed more asks for the history.
const POINTS: usize = 256;

/// Longest log line kept whole.
const LINE_BYTES: usize = 4 << 10;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A line of the log, as text.
    Log,
    /// Something worth telling about, as JSON.
    Event,
    /// A point of the history, as JSON.
    Point,
}

impl Kind {
    /// Its name among server-sent events.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Log => "log",
            Kind::Event => "event",
            Kind::Point => "point",
        }
    }

    fn room(self) -> usize {
        match self {
            Kind::Log => LINES,
            Kind::Event => EVENTS,
            Kind::Point => POINTS,
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its number.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// One line of text.
    pub text: Arc<str>,
}

/// What a watcher missed or gets.
#[derive(Debug)]
pub struct News {
    /// In the order of their numbers.
    pub items: Vec<Item>,
    /// Something between the number asked for and the first item is gone.
    pub gap: bool,
}

/// The feed of one daemon.
#[derive(Debug)]
pub struct Feed {
    rings: Mutex<Rings>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Rings {
    last: u64,
    dropped: u64,
    /// In the order of [`Kind`].
    rings: [VecDeque<Item>; 3],
}

impl Default for Feed {
    fn default() -> Feed {
        // Microseconds since 1970 stay ahead of any earlier daemon that told less than a million things a second, and
        // below 2^53, where JavaScript stops counting.
        let first = (now() * 1e6) as u64;
        let rings = Rings { last: first, dropped: first, rings: Default::default() };
        Feed { rings: Mutex::new(rings), newest: watch::Sender::new(first) }
    }
}

impl Feed {
    /// Adds what a program printed, line by line, without colours and other control characters.
    pub fn log(&self, text: &str) {
        for line in text.lines() {
            self.add(Kind::Log, plain(line).into());
        }
    }

    /// Adds one line of text.
    pub fn add(&self, kind: Kind, text: Arc<str>) {
        let id = {
            let mut rings = self.lock();
            rings.last += 1;
            let id = rings.last;
            let ring = &mut rings.rings[kind as usize];
            ring.push_back(Item { id, kind, text });
            if ring.len() > kind.room()
                && let Some(gone) = ring.pop_front()
            {
                rings.dropped = rings.dropped.max(gone.id);
            }
            id
        };
        self.newest.send_replace(id);
    }

    /// The newest number.
    pub fn newest(&self) -> u64 {
        self.lock().last
    }

    /// What came after number `after`, the oldest `most` of it.
    pub fn after(&self, after: u64, most: usize) -> News {
        let rings = self.lock();
        let new = |ring: &VecDeque<Item>| ring.partition_point(|item| item.id <= after);
        let mut items: Vec<Item> =
            rings.rings.iter().flat_map(|ring| ring.range(new(ring)..).take(most).cloned()).collect();
        items.sort_unstable_by_key(|item| item.id);
        items.truncate(most);
        News { items, gap: rings.dropped > after }
    }

    /// The last `most` log lines and the newest number, from which a watcher goes on without a gap.
    pub fn tail(&self, most: usize) -> (Vec<Arc<str>>, u64) {
        let rings = self.lock();
        let lines = &rings.rings[Kind::Log as usize];
        let lines = lines.range(lines.len().saturating_sub(most)..).map(|item| item.text.clone());
        (lines.collect(), rings.last)
    }

    /// Wakes its owner when something has happened.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line as it reads: colours (`ESC [ … letter`) and other control characters are gone, and so is its end if it is too
/// long.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len().min(LINE_BYTES));
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        if text.len() + letter.len_utf8() > LINE_BYTES {
            text.push('…');
            break;
        }
        match letter {
            '\u{1b}' => {
                if letters.next() == Some('[') {
                    letters.by_ref().find(|end| ('@'..='~').contains(end));
                }
            }
            '\t' => text.push('\t'),
            letter if letter.is_control() => {}
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[Item]) -> Vec<&str> {
        items.iter().map(|item| &*item.text).collect()
    }

    #[test]
    fn who_comes_back_gets_what_is_new_in_order_and_nothing_twice() {
        let feed = Feed::default();
        feed.log("one\ntwo");
        feed.add(Kind::Event, "three".into());
        let seen = feed.newest();
        feed.add(Kind::Point, "four".into());
        feed.log("five");
        let news = feed.after(seen, 100);
        assert_eq!((texts(&news.items), news.gap), (vec!["four", "five"], false));
        let last = news.items[1].id;
        assert!(feed.after(last, 100).items.is_empty());
        assert_eq!(feed.tail(2), (vec!["two".into(), "five".into()], last));
        let first = feed.after(seen - 3, 3);
        assert_eq!(texts(&first.items), ["one", "two", "three"], "the oldest come first");
    }

    #[test]
    fn a_flood_of_log_lines_is_bounded_spares_the_events_and_shows_as_a_gap() {
        let feed = Feed::default();
        let before = feed.newest();
        feed.add(Kind::Event, "an event".into());
        for line in 0..5 * LINES {
            feed.log(&line.to_string());
        }
        let news = feed.after(before, usize::MAX);
        assert_eq!(news.items.len(), LINES + 1);
        assert_eq!((&*news.items[0].text, news.gap), ("an event", true));
        assert!(!feed.after(feed.newest() - 1, 10).gap);
    }

    #[test]
    fn the_numbers_of_a_later_daemon_are_higher() {
        let first = Feed::default();
        first.log("x");
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(Feed::default().newest() > first.newest());
    }

    #[test]
    fn a_line_is_kept_as_it_reads() {
        for (line, expect) in [
            ("\u{1b}[2m2026\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m Training.", "2026  INFO Training."),
            ("a\tb\rc\u{0}d\u{7f}", "a\tbcd"),
            ("\u{1b}", ""),
            ("\u{1b}[31", ""),
        ] {
            assert_eq!(plain(line), expect);
        }
        let long = plain(&"ä".repeat(LINE_BYTES));
        assert!(long.len() <= LINE_BYTES + '…'.len_utf8() && long.ends_with('…'));
    }
}
