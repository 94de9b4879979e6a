//! Read and write torch.save files and safetensors in pure Rust.
