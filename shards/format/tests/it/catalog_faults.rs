//! LMDB writes the catalog itself, so its failing writes are made by the kernel: a filter on system calls.
#![expect(unsafe_code, reason = "a seccomp filter, in a process of its own")]

use crate::common::{classes, spec, write_shard};
use beit_shards::{CATALOG_FILE, Catalog, Io, ShardSet, publish_manifest};
use std::path::Path;
use std::process::Command;

const DIR: &str = "BEIT_SHARDS_FILTERED_DIR";
/// `write OFFSET ERRNO`: positioned writes (LMDB's first and last, of its two root pages) at OFFSET or behind it fail;
/// `pages 0 ERRNO`: gathered writes (those of all other pages) fail; `sync 0 ERRNO`: fdatasync and msync do.
const FAULT: &str = "BEIT_SHARDS_FILTERED_FAULT";

const NAMES: [&str; 2] = [CATALOG_FILE, "manifest.txt"];

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// From now on these calls of this thread fail with `errno`.
fn refuse(calls: &[libc::c_long], from_offset: Option<u32>, errno: i32) {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let load = |at: u32| statement(BPF_LD | BPF_W | BPF_ABS, at);
    let mut filter = Vec::new();
    for &call in calls {
        // Not this call: over its 2 or 4 statements.
        filter.push(load(0));
        filter.push(jump(
            BPF_JMP | BPF_JEQ | BPF_K,
            call as u32,
            0,
            if from_offset.is_some() { 3 } else { 1 },
        ));
        if let Some(offset) = from_offset {
            filter.push(load(16 + 3 * 8)); // the low half of the fourth argument
            filter.push(jump(BPF_JMP | BPF_JGE | BPF_K, offset, 0, 1));
        }
        filter.push(statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32));
    }
    filter.push(statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program lives until the calls return, and is one of BPF.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

/// Not a test by itself: the process whose writes fail.
#[test]
fn child_whose_catalog_writes_fail() {
    let (Some(dir), Ok(fault)) = (std::env::var_os(DIR), std::env::var(FAULT)) else { return };
    let words: Vec<&str> = fault.split(' ').collect();
    let number = |i: usize| words[i].parse::<u32>().unwrap();
    match words[0] {
        "write" => refuse(&[libc::SYS_pwrite64, libc::SYS_pwritev], Some(number(1)), number(2) as i32),
        "pages" => refuse(&[libc::SYS_writev, libc::SYS_pwritev], None, number(2) as i32),
        _ => refuse(&[libc::SYS_fdatasync, libc::SYS_msync], None, number(2) as i32),
    }
    match publish_manifest(Path::new(&dir), &spec(1), &classes(), 2) {
        Ok(_) => println!("DONE"),
        Err(error) => println!("refused: {} {error}", error.reason()),
    }
}

#[test]
fn a_catalog_write_that_fails_anywhere_leaves_the_set_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 150, &spec(1));
    publish_manifest(dir.path(), &spec(1), &classes(), 1).unwrap();
    write_shard(dir.path(), 1, 150, &spec(1));
    let old: Vec<_> =
        [CATALOG_FILE, "manifest.txt"].map(|name| std::fs::read(dir.path().join(name)).unwrap()).into();
    let publish = |fault: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "catalog_faults::child_whose_catalog_writes_fail", "--nocapture"])
            .env(DIR, dir.path())
            .env(FAULT, fault)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut refused = 0;
    let mut faults: Vec<String> = vec!["pages 0".to_owned(), "sync 0".to_owned()];
    faults.extend((0..4).map(|page| format!("write {}", page * 4096)));
    for fault in faults {
        for errno in [libc::ENOSPC, libc::EIO] {
            let said = publish(&format!("{fault} {errno}"));
            let set = ShardSet::open(dir.path(), Io::Pread).unwrap();
            assert!(set.verify_all(&mut |_| {}).is_sound(), "{fault}");
            if said.contains("DONE") {
                assert_eq!(set.len(), 300, "{fault}");
                for (name, bytes) in NAMES.iter().zip(&old) {
                    std::fs::write(dir.path().join(name), bytes).unwrap();
                }
                continue;
            }
            refused += 1;
            let words = if errno == libc::ENOSPC { "No space left on device" } else { "Input/output error" };
            assert!(said.contains("refused: io") && said.contains(words), "{fault}: {said}");
            for (name, bytes) in NAMES.iter().zip(&old) {
                assert!(std::fs::read(dir.path().join(name)).unwrap() == *bytes, "{name} after {fault}");
            }
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "litter after {fault}");
        }
    }
    // The root pages' two places, all other pages, and the sync.
    assert_eq!(refused, 2 * 4);
    publish_manifest(dir.path(), &spec(1), &classes(), 2).unwrap();
    assert!(Catalog::open(dir.path()).unwrap().find_path("cat/é 298.jpg").unwrap().is_some());
}
