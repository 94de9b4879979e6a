//! Memory of GPUs, where there are any. Compiled and run without one only: NVML is not there, and nothing is shown.

use std::thread;
use std::time::Duration;

use nvml_wrapper::Nvml;
use prometheus::GaugeVec;

use super::book::Book;

/// How often NVML is asked; by a thread of its own, for a driver in trouble may keep it waiting, and no scrape shall wait.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(super) struct Gpus {
    used: GaugeVec,
    total: GaugeVec,
}

impl Gpus {
    pub fn new(book: &Book) -> prometheus::Result<Gpus> {
        Ok(Gpus {
            used: book.gauges(
                "beit_daemon_gpu_memory_used_bytes",
                "Memory of a GPU that is in use, by anybody; only with a GPU.",
                &["gpu"],
            )?,
            total: book.gauges(
                "beit_daemon_gpu_memory_total_bytes",
                "Memory of a GPU; only with a GPU.",
                &["gpu"],
            )?,
        })
    }

    /// Looks from time to time, for as long as the process lives; without NVML or without GPUs it looks once.
    pub fn watch(&self) {
        let gpus = self.clone();
        let watch = move || {
            let Ok(nvml) = Nvml::init() else { return };
            while gpus.look(&nvml) > 0 {
                thread::sleep(LOOK_EVERY);
            }
        };
        if let Err(error) = thread::Builder::new().name("gpus".into()).spawn(watch) {
            tracing::warn!(%error, "The memory of GPUs is not watched.");
        }
    }

    /// Shows all GPUs; returns how many there are.
    fn look(&self, nvml: &Nvml) -> u32 {
        let count = nvml.device_count().unwrap_or(0);
        for gpu in 0..count {
            if let Ok(memory) = nvml.device_by_index(gpu).and_then(|device| device.memory_info()) {
                self.show(gpu, memory.used, memory.total);
            }
        }
        count
    }

    /// What one GPU has.
    pub(super) fn show(&self, gpu: u32, used_bytes: u64, total_bytes: u64) {
        let label = [gpu.to_string()];
        self.used.with_label_values(&label).set(used_bytes as f64);
        self.total.with_label_values(&label).set(total_bytes as f64);
    }
}
