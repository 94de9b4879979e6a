//! What the two processes cost: memory and processor time, from `/proc`.

use std::sync::{Mutex, PoisonError};

use prometheus::{CounterVec, GaugeVec};

use super::book::Book;

/// Clock ticks per second in `/proc`: Linux promises 100 to programs, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processes of a run.
const PROCESSES: [&str; 2] = ["supervisor", "worker"];

#[derive(Debug)]
pub(super) struct Processes {
    memory: GaugeVec,
    cpu: CounterVec,
    /// The worker, and the processor time of it that is counted.
    worker: Mutex<Option<(u32, f64)>>,
}

impl Processes {
    pub fn new(book: &Book) -> prometheus::Result<Processes> {
        let processes = Processes {
            memory: book.gauges(
                "beit_daemon_process_resident_memory_bytes",
                "Memory that is resident now, by process; 0 while there is no worker.",
                &["process"],
            )?,
            cpu: book.counters(
                "beit_daemon_process_cpu_seconds_total",
                "Processor time by process; that of all workers is added up.",
                &["process"],
            )?,
            worker: Mutex::default(),
        };
        for process in PROCESSES {
            let _ = processes.memory.with_label_values(&[process]);
            let _ = processes.cpu.with_label_values(&[process]);
        }
        Ok(processes)
    }

    /// Which process is the worker; `None`: there is none.
    pub fn set_worker(&self, pid: Option<u32>) {
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = pid.map(|pid| (pid, 0.0));
    }

    /// Reads both; what can't be read keeps its value.
    pub fn look(&self) {
        let [supervisor, worker] = PROCESSES.map(|process| [process]);
        if let Some(usage) = Usage::of(std::process::id()) {
            self.memory.with_label_values(&supervisor).set(usage.resident_bytes);
            let cpu = self.cpu.with_label_values(&supervisor);
            cpu.inc_by((usage.cpu_seconds - cpu.get()).max(0.0));
        }
        let mut present = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = present.and_then(|(pid, _)| Usage::of(pid));
        self.memory.with_label_values(&worker).set(usage.map_or(0.0, |usage| usage.resident_bytes));
        if let (Some((_, seen)), Some(usage)) = (&mut *present, usage) {
            self.cpu.with_label_values(&worker).inc_by((usage.cpu_seconds - *seen).max(0.0));
            *seen = seen.max(usage.cpu_seconds);
        }
    }
}

/// What a process uses.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usage {
    resident_bytes: f64,
    cpu_seconds: f64,
}

impl Usage {
    /// `None`: there is no such process.
    fn of(pid: u32) -> Option<Usage> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        Some(Usage {
            resident_bytes: resident_bytes(&read("status")?),
            cpu_seconds: cpu_seconds(&read("stat")?)?,
        })
    }
}

/// `VmRSS` of `/proc/PID/status`; a process that is dead but not buried has none.
fn resident_bytes(status: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) * 1024.0
}

/// `utime` and `stime` of `/proc/PID/stat`: the 12th and 13th field after the name, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "12 (a) S 9 (b)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("12 (cut"), None);
        assert_eq!(cpu_seconds("12 (cut) S 1"), None);
        assert_eq!(resident_bytes("VmPeak:\t  9 kB\nVmRSS:\t    2048 kB\n"), 2_097_152.0);
        assert_eq!(resident_bytes("State:\tZ (zombie)\n"), 0.0);
    }

    #[test]
    fn this_very_process_uses_memory_and_time_and_a_missing_one_none() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 1e6 && usage.cpu_seconds >= 0.0, "{usage:?}");
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
