//! SIGBUS: what happens when a mapped file loses bytes under its reader.
//!
//! Touching a page of a map behind the end of its file, or one that the disk cannot deliver, ends a process with SIGBUS.
//! The handler here puts a page of zeros in that place instead and counts the fault, so that the read under way goes on,
//! finds that its checksums do not hold, and reports which file shrank. Faults outside the maps of this room go to
//! whoever handled them before.
//!
//! A map in use is a node of a list that only grows; nodes of dropped maps are used again. Nothing here takes a lock.
#![expect(
    unsafe_code,
    reason = "a signal handler; beside source.rs the only unsafe module of this room, LMDB's open aside"
)]

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// Pages of one map that are replaced one by one; from the next fault on all that follow are, as a truncated file lacks
/// them too and a process may have only so many maps.
const SINGLE: u64 = 64;

/// One map, or a free place for one.
struct Node {
    /// Odd while the fields below change; a handler that meets a change looks elsewhere, as nobody touches such a map.
    version: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    /// The file's name, owned by the map's [`Watch`].
    path: AtomicPtr<u8>,
    path_len: AtomicUsize,
    faults: AtomicU64,
    /// 1 while a map has it.
    taken: AtomicUsize,
    next: AtomicPtr<Node>,
}

static NODES: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// Keeps a map in the list; must be dropped before the map is.
pub(crate) struct Watch {
    node: &'static Node,
    _path: Box<[u8]>,
}

impl Watch {
    /// Watches the map of `path` at `start`. The first one installs the handler.
    pub fn over(path: &Path, start: *const u8, len: usize) -> Self {
        install();
        let path: Box<[u8]> = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).into();
        let node = free_node();
        node.change(|| {
            node.start.store(start as usize, Ordering::Relaxed);
            node.len.store(len, Ordering::Relaxed);
            node.path.store(path.as_ptr().cast_mut(), Ordering::Relaxed);
            node.path_len.store(path.len(), Ordering::Relaxed);
            node.faults.store(0, Ordering::Relaxed);
        });
        Self { node, _path: path }
    }

    /// Faults so far.
    pub fn faults(&self) -> &AtomicU64 {
        &self.node.faults
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.node.change(|| self.node.len.store(0, Ordering::Relaxed));
        self.node.taken.store(0, Ordering::Release);
    }
}

impl Node {
    /// Only who has taken the node changes it.
    fn change(&self, change: impl FnOnce()) {
        self.version.fetch_add(1, Ordering::AcqRel);
        change();
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Start and length, unless they are just changing.
    fn range(&self) -> Option<(usize, usize)> {
        let before = self.version.load(Ordering::Acquire);
        let range = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        std::sync::atomic::fence(Ordering::Acquire);
        (before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before).then_some(range)
    }
}

/// A node nobody has, taken.
fn free_node() -> &'static Node {
    let take = |node: &Node| node.taken.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if let Some(node) = nodes().find(|node| take(node)) {
        return node;
    }
    let node: &'static Node = Box::leak(Box::new(Node {
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        path: AtomicPtr::new(ptr::null_mut()),
        path_len: AtomicUsize::new(0),
        faults: AtomicU64::new(0),
        taken: AtomicUsize::new(1),
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let this = ptr::from_ref(node).cast_mut();
    let _ = NODES.fetch_update(Ordering::AcqRel, Ordering::Acquire, |first| {
        node.next.store(first, Ordering::Release);
        Some(this)
    });
    node
}

/// All nodes; safe within a signal handler.
fn nodes() -> impl Iterator<Item = &'static Node> {
    // SAFETY: the list holds leaked nodes only, which live for ever and change through atomics alone.
    let follow = |next: &AtomicPtr<Node>| unsafe { next.load(Ordering::Acquire).as_ref() };
    std::iter::successors(follow(&NODES), move |node: &&'static Node| follow(&node.next))
}

fn install() {
    PREVIOUS.get_or_init(|| {
        // SAFETY: sysconf and sigaction get valid arguments. An all-zero sigaction is a valid one, and the handler does
        // only what a handler may: atomics, mmap, write, sigaction.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE);
            PAGE.store(usize::try_from(page).unwrap_or(4096), Ordering::Relaxed);
            let mut previous: libc::sigaction = std::mem::zeroed();
            let mut ours: libc::sigaction = std::mem::zeroed();
            ours.sa_sigaction = on_sigbus as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &raw const ours, &raw mut previous);
            previous
        }
    });
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a valid siginfo to an SA_SIGINFO handler; si_addr is set when si_code is above 0.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let found = nodes().find(|node| {
        node.range().is_some_and(|(start, len)| address.checked_sub(start).is_some_and(|at| at < len))
    });
    match found.filter(|_| code > 0) {
        Some(node) if replace(node, address) => {}
        Some(node) => {
            tell(node);
            hand_on(signal, info, context);
        }
        None => hand_on(signal, info, context),
    }
}

/// Puts zeros where the bytes are gone.
fn replace(node: &Node, address: usize) -> bool {
    let page = PAGE.load(Ordering::Relaxed);
    let Some((start, len)) = node.range() else { return false };
    let from = address / page * page;
    let end = (start + len).next_multiple_of(page);
    // Counted before the zeros can be seen, so that who saw them sees the count.
    let faults = node.faults.fetch_add(1, Ordering::SeqCst);
    let len = if faults < SINGLE { page } else { end - from };
    // SAFETY: the stretch lies within a map of ours, which lives as long as the read that faulted; a private map of zeros
    // takes its place and goes with it. The error number is put back for whoever was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let map = libc::mmap(from as *mut c_void, len, libc::PROT_READ, flags, -1, 0);
        *libc::__errno_location() = errno;
        map != libc::MAP_FAILED
    }
}

/// The last words: no page can be put in place.
fn tell(node: &Node) {
    let (path, len) = (node.path.load(Ordering::Relaxed), node.path_len.load(Ordering::Relaxed));
    // SAFETY: the name lives as long as the map that just faulted; write may be called in a handler.
    unsafe {
        let say = |text: &[u8]| libc::write(2, text.as_ptr().cast(), text.len());
        say(b"beit-shards: ");
        libc::write(2, path.cast::<c_void>(), len);
        say(b" was truncated while it was mapped; restore it or run `beit-shard repair`, and read it with --io pread\n");
    }
}

/// To whoever handled SIGBUS before; at the end of that line stands the end of the process.
fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(previous) = PREVIOUS.get() else { return default() };
    let handler = previous.sa_sigaction;
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return default();
    }
    // SAFETY: the kernel would have called this address with these arguments had we not been in between.
    unsafe {
        if previous.sa_flags & libc::SA_SIGINFO != 0 {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                std::mem::transmute(handler);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
            handler(signal);
        }
    }
}

/// Back to the default action, and once more the signal: it ends the process when this handler returns.
fn default() {
    // SAFETY: an all-zero sigaction is the default action; both calls may be made in a handler.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, &raw const default, ptr::null_mut());
        libc::raise(libc::SIGBUS);
    }
}
