//! How often, and how soon, a dead worker is replaced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The stretch of time the budget is for.
const WINDOW: Duration = Duration::from_secs(3600);

/// Pause before the first restart; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The pause grows no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The restarts spent since the last progress.
#[derive(Debug, Default)]
pub struct Budget {
    spent: VecDeque<Instant>,
}

impl Budget {
    /// A checkpoint was published: whatever killed the workers before lies behind us.
    pub fn progress(&mut self) {
        self.spent.clear();
    }

    /// Spends one of `allowed` restarts and says how long to wait before it; `None`: nothing is left.
    pub fn spend(&mut self, now: Instant, allowed: usize) -> Option<Duration> {
        while self.spent.front().is_some_and(|at| now.duration_since(*at) > WINDOW) {
            self.spent.pop_front();
        }
        if self.spent.len() >= allowed {
            return None;
        }
        let pause = FIRST_PAUSE * (1 << self.spent.len().min(16));
        self.spent.push_back(now);
        Some(pause.min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_then_the_budget_is_spent() {
        let mut budget = Budget::default();
        let now = Instant::now();
        let pauses: Vec<u64> =
            std::iter::from_fn(|| budget.spend(now, 5)).map(|pause| pause.as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16]);
        assert_eq!(budget.spend(now, 6), Some(Duration::from_secs(32)), "a larger budget leaves one more");
        assert_eq!(Budget::default().spend(now, 0), None);
    }

    #[test]
    fn progress_and_time_refill_the_budget() {
        let mut budget = Budget::default();
        let now = Instant::now();
        while budget.spend(now, 5).is_some() {}
        assert_eq!(budget.spend(now + WINDOW + Duration::from_secs(1), 5), Some(FIRST_PAUSE));
        while budget.spend(now, 5).is_some() {}
        budget.progress();
        assert_eq!(budget.spend(now, 5), Some(FIRST_PAUSE));
    }
}
