//! What the kernel is asked to fetch before its turn comes.

use crate::options::Options;
use crate::order::{Epochs, Order, Placed, Shuffle};

/// How reading ahead goes; a pure function of the position, like the order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// Whole windows of blocks are fetched, one window ahead.
    windows: bool,
    /// The last window, by epoch and number, that has not been asked for as a whole: the one in which the run begins,
    /// or, when it begins in the middle, the one after that.
    patchy: (u64, u64),
}

impl Ahead {
    pub fn new(options: &Options, order: &Order) -> Ahead {
        // Other nodes take their part of each window, and nobody knows here which of its blocks they have read.
        let alone = options.ranks.len() as u64 == u64::from(options.world_size);
        let windows = alone && options.read_ahead > 0 && options.shuffle != Shuffle::Full;
        Ahead { windows, patchy: patchy(order, options.first_step * options.global_batch()) }
    }

    /// Hands to `fetch`, in the order in which they are stored, the samples (and their view) of the next window that are to be asked for
    /// with the one that was `placed`: a window's samples together ask for all of the next one, once.
    ///
    /// `false` when it may be that nobody has asked for the one placed, so that single samples must be asked for some places ahead.
    pub fn next_window(&self, epochs: &mut Epochs, placed: Placed, mut fetch: impl FnMut(u64, u32)) -> bool {
        let Placed { epoch, place, .. } = placed;
        let Some(window) = epochs.epoch(epoch).window_at(place).filter(|_| self.windows) else {
            return false;
        };
        let next = match epochs.epoch(epoch).window(window.number + 1) {
            Some(next) => Some((epoch, next)),
            None => epochs.epoch(epoch + 1).window(0).map(|next| (epoch + 1, next)),
        };
        if let Some((epoch, next)) = next {
            let view = epochs.view(epoch);
            let epoch = epochs.epoch(epoch);
            let share =
                |index: u64| (u128::from(next.len) * u128::from(index) / u128::from(window.len)) as u64;
            let index = place - window.start;
            (share(index)..share(index + 1)).for_each(|stored| fetch(epoch.stored(next, stored), view));
        }
        (epoch, window.number) > self.patchy
    }
}

/// See [`Ahead::patchy`], for a run that begins at `position`.
fn patchy(order: &Order, position: u64) -> (u64, u64) {
    let Placed { epoch, place, .. } = order.at(position);
    let windows = order.epoch(epoch);
    match windows.window_at(place) {
        Some(window) if place == window.start => (epoch, window.number),
        Some(window) if windows.window(window.number + 1).is_some() => (epoch, window.number + 1),
        _ => (epoch + 1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Follows a run of blocks and notes when each sample of each epoch was asked for.
    #[test]
    fn every_window_is_asked_for_once_and_before_its_turn() {
        for (samples, block_samples, window_blocks, start) in
            [(1000, 16, 4, 0), (1003, 16, 4, 500), (997, 10, 100, 996), (64, 64, 1, 3), (129, 64, 1, 0)]
        {
            let shuffle = Shuffle::Blocks { block_samples, window_blocks };
            let order = Order::shuffled(4, samples, 3, shuffle);
            let ahead = Ahead { windows: true, patchy: patchy(&order, start) };
            let (mut epochs, mut asked) = (Epochs::new(order), HashMap::new());
            let mut cold = 0;
            for position in start..start + 4 * samples {
                let placed = epochs.at(position);
                let number = order.epoch(placed.epoch).window_at(placed.place).unwrap().number;
                let is_last = order.epoch(placed.epoch).window(number + 1).is_none();
                let for_epoch = placed.epoch + u64::from(is_last);
                let mut last = None;
                let known = ahead.next_window(&mut epochs, placed, |sample, view| {
                    assert_eq!(view, order.view(for_epoch));
                    // Stored neighbours are asked for one after the other, but for the jumps between blocks.
                    assert!(last.is_none_or(|last| sample == last + 1 || sample % block_samples == 0));
                    last = Some(sample);
                    let before = asked.insert((for_epoch, sample), position);
                    assert!(
                        before.is_none(),
                        "sample {sample} was asked for twice, at {before:?} and {position}"
                    );
                });
                let at = asked.remove(&(placed.epoch, placed.sample));
                match (known, at) {
                    (true, Some(at)) => assert!(position - at <= 2 * block_samples * window_blocks),
                    (true, None) => panic!("nobody asked for the sample at {position}"),
                    // Asked for singly, whether it has been asked for or not.
                    (false, _) => cold += 1,
                }
            }
            assert!(cold <= 2 * block_samples * window_blocks, "{cold}");
        }
    }

    #[test]
    fn other_orders_have_no_windows_to_ask_for() {
        let order = Order::new(4, 100, 1);
        let ahead = Ahead { windows: true, patchy: (0, 0) };
        let mut epochs = Epochs::new(order);
        let placed = epochs.at(250);
        assert!(!ahead.next_window(&mut epochs, placed, |_, _| panic!("asked")));
    }
}
