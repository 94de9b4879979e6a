//! Compiles the shim against the libtorch that torch-sys found, and lets this crate's tests find it when they run.
use std::path::Path;

fn main() {
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys must be a direct dependency");
    let root = Path::new(&lib).parent().expect("libtorch's lib folder lies inside libtorch");
    println!("cargo:rerun-if-changed=csrc");
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .warnings(false) // libtorch's headers, not ours
        .pic(true)
        .include("csrc/gloo_stub")
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .file("csrc/beit_torch.cpp")
        .compile("beit_torch_shim");
    // The shim must come before libtorch on the link line.
    println!("cargo:rustc-link-search=native={lib}");
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
}
