//! Devices: where tokenizers run, one replica on each.
//!
//! The GPU half is a thin layer that has not been run on a GPU yet.

use anyhow::{Result, ensure};
use beit_tokenizer::{Precision, Tokenizer};

/// Loads libtorch's CUDA half when GPUs are wanted; must come before libtorch is asked anything.
pub fn prepare(gpus: Option<u16>) -> Result<()> {
    let Some(wanted) = gpus else { return Ok(()) };
    let way_out = "leave --gpus out to tokenize on the CPU";
    if let Err(error) = beit_torch::cuda::load() {
        let error = match error {
            beit_torch::TorchError::NoCuda { message } => message,
            other => other.to_string(),
        };
        anyhow::bail!(
            "--gpus {wanted}: found a libtorch for CPUs only ({error}); build with LIBTORCH set to the torch folder of a Python \
             environment that has torch 2.13 with CUDA, or {way_out}"
        );
    }
    let found = beit_torch::cuda::devices()?;
    ensure!(
        found >= u32::from(wanted),
        "--gpus {wanted}: the driver offers {found} GPUs (nvidia-smi lists them; $CUDA_VISIBLE_DEVICES may hide some); say --gpus \
         {found}, or {way_out}"
    );
    if std::env::var("NVIDIA_TF32_OVERRIDE").as_deref() != Ok("0") {
        tracing::warn!(
            "cuDNN may round fp32 convolutions to TF32, which changes a few tokens; NVIDIA_TF32_OVERRIDE=0 keeps them fp32."
        );
    }
    Ok(())
}

/// The tokenizer, once for the CPU or once for each GPU.
pub fn tokenizers(named: Option<&str>, gpus: Option<u16>, precision: Precision) -> Result<Vec<Tokenizer>> {
    let with = |tokenizer: Tokenizer| tokenizer.with_precision(precision);
    match gpus {
        None => Ok(vec![with(Tokenizer::find(named)?)]),
        Some(gpus) => {
            (0..usize::from(gpus)).map(|gpu| Ok(with(Tokenizer::find_on_gpu(named, gpu)?))).collect()
        }
    }
}
