//! The C++ shim over libtorch: c10d, fused AdamW, autocast, norms.
