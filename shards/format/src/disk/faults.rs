//! Faults on order: the n-th call of this thread that changes the disk fails, or only writes a part.

use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::io;

/// What is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Call number `.0`, counted from 0, fails as a whole.
    Fail(u64, Errno),
    /// Write number `.0` puts down half of its bytes, then fails.
    Half(u64, Errno),
    /// No write takes more than this many bytes; nothing fails.
    Short(usize),
}

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    static CALLS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    static HALVED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` under a fault; returns what it returned and the calls it made.
pub fn under<T>(fault: Option<Fault>, work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    FAULT.set(fault);
    HALVED.set(false);
    CALLS.take();
    let done = work();
    FAULT.set(None);
    (done, CALLS.take())
}

fn count(call: &'static str) -> u64 {
    CALLS.with_borrow_mut(|calls| {
        calls.push(call);
        calls.len() as u64 - 1
    })
}

pub fn before(call: &'static str) -> io::Result<()> {
    let number = count(call);
    match FAULT.get() {
        Some(Fault::Fail(at, errno)) if at == number => Err(errno.into()),
        _ => Ok(()),
    }
}

pub fn most(len: usize) -> io::Result<usize> {
    if let (true, Some(Fault::Half(_, errno))) = (HALVED.replace(false), FAULT.get()) {
        return Err(errno.into());
    }
    let number = count("write");
    match FAULT.get() {
        Some(Fault::Fail(at, errno)) if at == number => Err(errno.into()),
        Some(Fault::Half(at, _)) if at == number => {
            HALVED.set(true);
            Ok(len.div_ceil(2))
        }
        Some(Fault::Short(most)) => Ok(len.min(most)),
        _ => Ok(len),
    }
}
