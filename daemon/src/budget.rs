//! How often, and how soon, a dead worker is replaced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Restarts without progress that are allowed in [`WINDOW`].
pub const RESTARTS: usize = 5;

/// The stretch of time the budget is for.
pub const WINDOW: Duration = Duration::from_secs(3600);

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

    /// Spends one restart and says how long to wait before it; `None`: nothing is left.
    pub fn spend(&mut self, now: Instant) -> Option<Duration> {
        while self.spent.front().is_some_and(|at| now.duration_since(*at) > WINDOW) {
            self.spent.pop_front();
        }
        if self.spent.len() >= RESTARTS {
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
            std::iter::from_fn(|| budget.spend(now)).map(|pause| pause.as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn progress_and_time_refill_the_budget() {
        let mut budget = Budget::default();
        let now = Instant::now();
        while budget.spend(now).is_some() {}
        assert_eq!(budget.spend(now + WINDOW + Duration::from_secs(1)), Some(FIRST_PAUSE));
        while budget.spend(now).is_some() {}
        budget.progress();
        assert_eq!(budget.spend(now), Some(FIRST_PAUSE));
    }
}
