//! Model FLOPs utilisation: what share of a device's arithmetic the model gets out of it.

use std::path::Path;

use crate::device::Device;
use crate::plan::Plan;

/// Dense half-precision peaks in TFLOP/s, by words that all stand in the device's name; the first that fits counts.
///
/// # Source
/// NVIDIA's data sheets, fp16 or bf16 with fp32 sums on tensor cores, without sparsity
const PEAKS: &[(&[&str], f64)] = &[
    (&["B200"], 2250.0),
    (&["H200"], 989.0),
    (&["H100", "PCIe"], 756.0),
    (&["H100"], 989.0),
    (&["H800"], 989.0),
    (&["L40S"], 362.0),
    (&["L40"], 181.0),
    (&["L4"], 121.0),
    (&["A100"], 312.0),
    (&["A800"], 312.0),
    (&["A40"], 149.7),
    (&["A30"], 165.0),
    (&["A10"], 125.0),
    (&["V100"], 125.0),
    (&["T4"], 65.0),
];

impl Plan {
    /// Floating-point operations of a step, over all ranks: forward and backward of the model, for `num_mask_patches` hidden
    /// patches an image. Masks fall a little short of that, which is less than a thousandth of a step.
    pub fn flops_per_step(&self) -> f64 {
        let hidden = self.global_batch * u64::from(self.recipe.num_mask_patches);
        self.model.step_flops(self.global_batch, hidden)
    }

    /// The most that the devices of all ranks can compute, in FLOP/s: `peak_tflops` of the recipe, or what is known of the GPU
    /// here. `None` on CPUs and unknown GPUs: then there is no utilisation.
    pub fn peak_flops_per_s(&self) -> Option<f64> {
        let one = self.recipe.peak_tflops.or_else(|| match self.device {
            Device::Cpu => None,
            Device::Cuda => peak_of(&gpu_name(Path::new("/proc/driver/nvidia/gpus"))?),
        })?;
        Some(one * 1e12 * f64::from(self.world.size))
    }

    /// The line of the plan that says so.
    pub(crate) fn arithmetic(&self) -> String {
        let step = self.flops_per_step() / 1e12;
        match self.peak_flops_per_s() {
            Some(peak) => format!("{step:.3} TFLOP per step; all ranks can do {:.1} TFLOP/s", peak / 1e12),
            None => format!("{step:.3} TFLOP per step; no MFU, as peak_tflops is not known"),
        }
    }
}

fn peak_of(gpu: &str) -> Option<f64> {
    let words: Vec<&str> = gpu.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
    PEAKS.iter().find(|(name, _)| name.iter().all(|word| words.contains(word))).map(|(_, peak)| *peak)
}

/// The driver's name for the first GPU, which needs no library to ask.
fn gpu_name(folder: &Path) -> Option<String> {
    let mut gpus: Vec<_> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    gpus.sort_unstable();
    let text = std::fs::read_to_string(gpus.first()?.join("information")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
    Some(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_known_by_the_words_of_their_names() {
        for (name, expect) in [
            ("Tesla V100-SXM2-16GB", Some(125.0)),
            ("NVIDIA A100-SXM4-80GB", Some(312.0)),
            ("NVIDIA H100 80GB HBM3", Some(989.0)),
            ("NVIDIA H100 PCIe", Some(756.0)),
            ("NVIDIA L4", Some(121.0)),
            ("NVIDIA L40S", Some(362.0)),
            ("NVIDIA A10G", None),
            ("NVIDIA GeForce GTX 1080", None),
        ] {
            assert_eq!(peak_of(name), expect, "{name}");
        }
    }

    #[test]
    fn the_drivers_file_names_the_gpu() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(gpu_name(folder.path()), None);
        let gpu = folder.path().join("0000:07:00.0");
        std::fs::create_dir(&gpu).unwrap();
        let text = "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ:   \t\t 36\n";
        std::fs::write(gpu.join("information"), text).unwrap();
        assert_eq!(gpu_name(folder.path()).as_deref(), Some("NVIDIA A100-SXM4-80GB"));
    }
}
