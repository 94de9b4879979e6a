//! Turns: how much is done in a second, and whose turn it is.
//!
//! Even a thread of the lowest priority costs others something when it is busy: it takes the gaps of their waiting, and
//! their caches. So it is never busy: there is a number of turns a second, far more than a page and a Prometheus need and
//! far less than a core could do. When more is asked for, who has had least comes first, so a newcomer does not wait for
//! a crowd.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Turns that come due within this stretch are given together, so that the thread sleeps in between.
const GATHER: Duration = Duration::from_millis(20);

/// What is owed for large answers is forgiven beyond this: newcomers must not pay for long what others had.
const DEBT: Duration = Duration::from_millis(500);

/// A number of turns a second.
#[derive(Debug)]
pub struct Turns {
    per_second: f64,
    most: f64,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    left: f64,
    at: Instant,
    /// By how many turns they have had, then by arrival.
    waiting: BTreeMap<(u64, u64), oneshot::Sender<()>>,
    arrivals: u64,
    giving: bool,
}

impl Turns {
    /// So many a second; `most` may have been saved up.
    pub fn new(per_second: f64, most: f64) -> Arc<Turns> {
        let book =
            Book { left: most, at: Instant::now(), waiting: BTreeMap::new(), arrivals: 0, giving: false };
        Arc::new(Turns { per_second, most, book: Mutex::new(book) })
    }

    /// Waits for a turn; `had` says how many the asker has had.
    pub async fn take(self: &Arc<Turns>, had: u64) {
        let turn = {
            let mut book = self.book();
            if book.waiting.is_empty() && book.left >= 1.0 {
                book.left -= 1.0;
                return;
            }
            let (give, turn) = oneshot::channel();
            book.arrivals += 1;
            let place = (had, book.arrivals);
            book.waiting.insert(place, give);
            if !book.giving {
                book.giving = true;
                tokio::spawn(self.clone().give());
            }
            turn
        };
        // It is given, or the runtime ends.
        let _ = turn.await;
    }

    /// Something turned out to cost this many turns more.
    pub fn charge(&self, turns: f64) {
        let mut book = self.book();
        book.left = (book.left - turns).max(-self.per_second * DEBT.as_secs_f64());
    }

    /// Gives turns as they come due, as long as somebody waits.
    async fn give(self: Arc<Turns>) {
        loop {
            let pause = {
                let mut book = self.book();
                while book.left >= 1.0
                    && let Some((_, give)) = book.waiting.pop_first()
                {
                    // Whoever has gone meanwhile costs nothing.
                    if give.send(()).is_ok() {
                        book.left -= 1.0;
                    }
                }
                if book.waiting.is_empty() {
                    book.giving = false;
                    return;
                }
                Duration::from_secs_f64((1.0 - book.left) / self.per_second).max(GATHER)
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The book, with what has come due since the last look.
    fn book(&self) -> MutexGuard<'_, Book> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        book.left = (book.left + now.duration_since(book.at).as_secs_f64() * self.per_second).min(self.most);
        book.at = now;
        book
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn what_was_saved_up_is_given_at_once_and_the_rest_as_it_comes_due() {
        run(async {
            let turns = Turns::new(100.0, 50.0);
            let begun = Instant::now();
            for _ in 0..80 {
                turns.take(0).await;
            }
            assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
        });
    }

    #[test]
    fn who_has_had_least_comes_first() {
        run(async {
            let turns = Turns::new(200.0, 1.0);
            turns.take(0).await;
            let order = Arc::new(Mutex::new(Vec::new()));
            let waiters = [900, 7, 7, 0].map(|had| {
                let (turns, order) = (turns.clone(), order.clone());
                tokio::spawn(async move {
                    turns.take(had).await;
                    order.lock().unwrap().push(had);
                })
            });
            for waiter in waiters {
                waiter.await.unwrap();
            }
            assert_eq!(*order.lock().unwrap(), [0, 7, 7, 900]);
        });
    }

    #[test]
    fn a_large_answer_is_paid_for_but_not_for_ever() {
        run(async {
            let turns = Turns::new(100.0, 10.0);
            turns.charge(30.0);
            assert!(turns.book().left <= -19.0);
            turns.charge(1e9);
            let begun = Instant::now();
            turns.take(0).await;
            assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
            assert!(begun.elapsed() < Duration::from_secs(20));
        });
    }

    #[test]
    fn who_goes_away_while_waiting_costs_no_turn() {
        run(async {
            let turns = Turns::new(50.0, 1.0);
            turns.take(0).await;
            let gone = tokio::spawn({
                let turns = turns.clone();
                async move { turns.take(0).await }
            });
            tokio::task::yield_now().await;
            gone.abort();
            tokio::task::yield_now().await;
            turns.take(1).await;
            assert!(turns.book().waiting.is_empty());
        });
    }
}
