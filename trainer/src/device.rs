//! What the ranks run on.

use serde::{Deserialize, Serialize};

use crate::error::{TrainError, torch};

/// The kind of device of a run; a GPU run gives each local rank its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// Host cores, shared by the ranks of this process.
    Cpu,
    /// One GPU per local rank.
    Cuda,
}

impl Device {
    /// As it is typed and printed.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
        }
    }

    /// Checks that this machine has the device for `local` ranks.
    ///
    /// # Errors
    /// Fewer GPUs than asked for: says how many there are and what to type instead.
    pub fn check(self, local: u32) -> Result<(), TrainError> {
        if self == Device::Cpu {
            return Ok(());
        }
        let cores = cores();
        let cpu = format!("--device cpu --ranks {} trains on the {cores} cores here", cores.clamp(1, 2));
        let nodes = gpu_nodes();
        if nodes == 0 {
            return Err(TrainError::Device(format!(
                "{local} GPUs are asked for, and this machine has none; {cpu}"
            )));
        }
        if nodes < local {
            return Err(TrainError::Device(format!(
                "{local} GPUs are asked for, and this machine has {nodes}; --gpus {nodes} uses them, {cpu}"
            )));
        }
        Ok(())
    }

    /// Makes the device usable: loads libtorch's CUDA half, which must happen before libtorch is asked anything.
    ///
    /// Never run on a GPU yet.
    ///
    /// # Errors
    /// This libtorch has no CUDA half, or its driver sees fewer GPUs than there are local ranks.
    pub(crate) fn open(self, local: u32) -> Result<(), TrainError> {
        if self == Device::Cpu {
            return Ok(());
        }
        beit_torch::cuda::load().map_err(|error| {
            TrainError::Device(format!(
                "{error}; the libtorch of `make setup` is for CPUs: build with LIBTORCH set to the torch folder of a \
                 Python environment that has torch 2.13 with CUDA"
            ))
        })?;
        let found = beit_torch::cuda::devices().map_err(torch("counting GPUs"))?;
        if found < local {
            return Err(TrainError::Device(format!(
                "{local} GPUs are asked for, and the driver offers {found}"
            )));
        }
        Ok(())
    }

    /// libtorch's name of local rank `local`'s device.
    pub(crate) fn of(self, local: u32) -> tch::Device {
        match self {
            Device::Cpu => tch::Device::Cpu,
            Device::Cuda => tch::Device::Cuda(local as usize),
        }
    }
}

/// Cores this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// GPUs that have a device node, which needs no driver library to find out.
pub fn gpu_nodes() -> u32 {
    let Ok(folder) = std::fs::read_dir("/dev") else { return 0 };
    let is_gpu = |name: &str| {
        name.strip_prefix("nvidia").is_some_and(|number| !number.is_empty() && number.parse::<u32>().is_ok())
    };
    folder.flatten().filter(|entry| is_gpu(&entry.file_name().to_string_lossy())).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_gpus_than_there_are_is_a_clear_error() {
        let message = Device::Cuda.check(4096).unwrap_err().to_string();
        assert!(message.contains("4096 GPUs are asked for, and this machine has"), "{message}");
        assert!(message.contains("--device cpu --ranks"), "{message}");
    }

    #[test]
    fn a_libtorch_without_cuda_says_where_to_get_one() {
        if std::env::var_os("LIBTORCH")
            .is_some_and(|folder| std::path::Path::new(&folder).join("lib/libtorch_cuda.so").exists())
        {
            eprintln!("skipped: this libtorch has a CUDA half");
            return;
        }
        let message = Device::Cuda.open(1).unwrap_err().to_string();
        assert!(message.contains("LIBTORCH"), "{message}");
        Device::Cpu.open(4096).unwrap();
    }
}
