//! Whether the kernel killed a worker for want of memory: a SIGKILL does not say who sent it, the kernel's counts do.
//!
//! A control group counts the processes of it that the OOM killer ended: `oom_kill` in `memory.events` (version 2) or in
//! `memory.oom_control` (version 1). `/proc/vmstat` has the machine's count.

use std::fs;
use std::path::{Path, PathBuf};

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OomCounts {
    group: Option<u64>,
    machine: Option<u64>,
}

/// What the counts say about a worker that was killed between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel killed a process of its control group for want of memory.
    Group,
    /// The kernel killed some process of this machine for want of memory; there are no counts of the control group.
    Machine,
    /// The kernel killed nothing, so somebody else did.
    Nobody,
    /// There are no counts here.
    CannotTell,
}

/// Looks at the counts around the life of one worker.
#[derive(Debug)]
pub struct OomWatch {
    group: Option<PathBuf>,
    before: OomCounts,
}

impl OomWatch {
    /// Begins to watch the process `pid`, which must still live.
    pub fn begin(pid: u32) -> OomWatch {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let group = counts_file(&groups, Path::new("/sys/fs/cgroup"));
        let before = look(group.as_deref());
        OomWatch { group, before }
    }

    /// What happened since.
    pub fn verdict(&self) -> Verdict {
        judge(&self.before, &look(self.group.as_deref()))
    }
}

fn judge(before: &OomCounts, after: &OomCounts) -> Verdict {
    match (before.group.zip(after.group), before.machine.zip(after.machine)) {
        (Some((old, new)), _) if new > old => Verdict::Group,
        (Some(_), _) => Verdict::Nobody,
        (None, Some((old, new))) if new > old => Verdict::Machine,
        (None, Some(_)) => Verdict::Nobody,
        (None, None) => Verdict::CannotTell,
    }
}

fn look(group: Option<&Path>) -> OomCounts {
    let read = |path: &Path| oom_kills(&fs::read_to_string(path).ok()?);
    OomCounts { group: group.and_then(read), machine: read(Path::new("/proc/vmstat")) }
}

/// The file with the counts of a process whose `/proc/PID/cgroup` reads `groups`.
fn counts_file(groups: &str, root: &Path) -> Option<PathBuf> {
    let candidates = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some(root.join(path).join("memory.events")),
            _ if controllers.split(',').any(|each| each == "memory") => {
                Some(root.join("memory").join(path).join("memory.oom_control"))
            }
            _ => None,
        }
    });
    candidates.into_iter().find(|path| path.is_file())
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_found_in_either_version_of_control_groups() {
        let root = tempfile::tempdir().unwrap();
        let (v1, v2) = (root.path().join("memory/job"), root.path().join("user.slice/beit.service"));
        for folder in [&v1, &v2] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(v1.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap();
        fs::write(v2.join("memory.events"), "low 0\nhigh 7\nmax 4\noom 2\noom_kill 1\noom_group_kill 0\n")
            .unwrap();
        let find = |groups: &str| counts_file(groups, root.path());
        let text = |path: PathBuf| oom_kills(&fs::read_to_string(path).unwrap());
        let found = find("5:devices:/\n4:cpu,memory:/job\n0::/\n").unwrap();
        assert_eq!(text(found), Some(3));
        let found = find("0::/user.slice/beit.service\n").unwrap();
        assert_eq!(text(found), Some(1));
        assert_eq!(find("0::/nowhere\n"), None);
        assert_eq!(find("garbage\n"), None);
    }

    #[test]
    fn only_a_count_that_rose_blames_the_kernel() {
        let counts = |group, machine| OomCounts { group, machine };
        let check = |before, after, expect| assert_eq!(judge(&before, &after), expect);
        check(counts(Some(1), Some(5)), counts(Some(2), Some(6)), Verdict::Group);
        check(counts(Some(1), Some(5)), counts(Some(1), Some(6)), Verdict::Nobody);
        check(counts(None, Some(5)), counts(None, Some(6)), Verdict::Machine);
        check(counts(None, Some(5)), counts(None, Some(5)), Verdict::Nobody);
        check(counts(None, None), counts(None, None), Verdict::CannotTell);
    }

    #[test]
    fn this_machine_can_be_asked() {
        let watch = OomWatch::begin(std::process::id());
        assert_ne!(watch.verdict(), Verdict::Group, "this very process lives");
    }
}
