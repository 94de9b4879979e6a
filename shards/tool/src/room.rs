//! Room: the memory for payloads that are ready before those of earlier images are packed.
//!
//! ```text
//! prepare, group 7 ─▶ room full? wait ─▶ …      group 5, whose turn it is to be packed, never waits:
//! prepare, group 5 ─────────────────▶ pack      whatever it needs, the line goes on and room gets free
//! ```
//! Photographs as JPEG never fill it. Large images whose pixels are kept plainly (PNG, TIFF) would: 540 MB each.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of payloads that may wait for images before them.
pub const ROOM: u64 = 512 << 20;

/// What is taken, and whose turn it is.
#[derive(Debug)]
struct State {
    bytes: u64,
    /// The group that is packed next.
    next: u64,
}

/// One line's room.
#[derive(Debug)]
pub struct Room {
    state: Mutex<State>,
    changed: Condvar,
}

/// Some of it, taken until dropped.
#[derive(Debug)]
pub struct Seat {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    /// Room for a line whose first group is `next`.
    pub fn before(next: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { bytes: 0, next }), changed: Condvar::new() })
    }

    /// Room that nobody waits for.
    pub fn endless() -> Arc<Self> {
        Self::before(u64::MAX)
    }

    /// Takes `bytes` for an image of `group`, once they are free or the group's turn has come.
    pub fn take(self: &Arc<Self>, group: u64, bytes: u64) -> Seat {
        let full = |state: &mut State| group > state.next && state.bytes + bytes > ROOM;
        let mut state = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        state.bytes += bytes;
        Seat { room: Arc::clone(self), bytes }
    }

    /// Every group before `next` is packed; `u64::MAX` when the line ends, however it does.
    pub fn packed(&self, next: u64) {
        self.lock().next = next;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Gives back what turned out not to be needed.
    pub fn shrink_to(&mut self, bytes: u64) {
        self.room.lock().bytes -= self.bytes.saturating_sub(bytes);
        self.bytes = self.bytes.min(bytes);
        self.room.changed.notify_all();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn later_groups_wait_and_the_one_whose_turn_it_is_never_does() {
        let room = Room::before(5);
        let held = room.take(6, ROOM);
        let (sender, taken) = channel();
        let waiting = std::thread::spawn({
            let room = Arc::clone(&room);
            move || sender.send(room.take(7, 1)).unwrap()
        });
        assert!(
            taken.recv_timeout(Duration::from_millis(50)).is_err(),
            "group 7 went in though all is taken"
        );
        drop(room.take(5, 4 * ROOM));
        assert!(taken.recv_timeout(Duration::from_millis(50)).is_err(), "group 6 still has its room");
        drop(held);
        assert_eq!(taken.recv().unwrap().bytes, 1);
        waiting.join().unwrap();
        assert_eq!(room.lock().bytes, 0);
    }

    #[test]
    fn the_line_goes_on_when_turns_come_and_when_it_ends() {
        for next in [7, u64::MAX] {
            let room = Room::before(0);
            let _held = room.take(1, ROOM);
            let waiting = std::thread::spawn({
                let room = Arc::clone(&room);
                move || room.take(7, ROOM).bytes
            });
            room.packed(next);
            assert_eq!(waiting.join().unwrap(), ROOM);
        }
    }

    #[test]
    fn what_was_not_needed_is_given_back() {
        let room = Room::before(0);
        let mut seat = room.take(3, ROOM);
        seat.shrink_to(10);
        assert_eq!(room.lock().bytes, 10);
        drop(seat);
        assert_eq!(room.lock().bytes, 0);
    }
}
