//! Atomics and the futex, from the machine or from `loom`'s model of one.

#[cfg(not(loom))]
pub(crate) use machine::Futex;
#[cfg(loom)]
pub(crate) use model::Futex;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(not(loom))]
mod machine {
    use rustix::thread::futex::{self, Flags};
    use std::sync::atomic::AtomicU32;

    /// Linux's futex, private to the process.
    pub(crate) struct Futex;

    impl Futex {
        pub fn new() -> Futex {
            Futex
        }

        /// Sleeps if `word` still is `expected`. A signal or a changed word returns early.
        pub fn wait(&self, word: &AtomicU32, expected: u32) {
            // Interrupted, or the word moved on: both mean "look again", which every caller does.
            let _ = futex::wait(word, Flags::PRIVATE, expected, None);
        }

        pub fn wake_all(&self, word: &AtomicU32) {
            // The only possible error is a bad address, and a reference is none.
            let _ = futex::wake(word, Flags::PRIVATE, i32::MAX as u32);
        }
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::atomic::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};

    /// The kernel's side of a futex: comparing and falling asleep is one step under the kernel's own lock.
    pub(crate) struct Futex {
        kernel: Mutex<()>,
        sleepers: Condvar,
    }

    impl Futex {
        pub fn new() -> Futex {
            Futex { kernel: Mutex::new(()), sleepers: Condvar::new() }
        }

        pub fn wait(&self, word: &AtomicU32, expected: u32) {
            let kernel = self.kernel.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if word.load(Ordering::Relaxed) == expected {
                drop(self.sleepers.wait(kernel));
            }
        }

        pub fn wake_all(&self, _word: &AtomicU32) {
            let _kernel = self.kernel.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.sleepers.notify_all();
        }
    }
}
