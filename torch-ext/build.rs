//! Compiles the C shim against the headers that ship with libtorch.

#[path = "build/torch.rs"]
mod torch;

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells its direct dependents where libtorch is");
    let root = Path::new(&lib).parent().expect("libtorch's lib folder stands in libtorch's folder");
    let include = root.join("include");
    println!("cargo::metadata=libtorch_lib={lib}");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    println!("cargo::rerun-if-changed=csrc");

    // The shim is one translation unit: libtorch's headers take ten times as long to parse as one of these files to
    // compile.
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let one = out.join("libtorch.cpp");
    let files = [
        "shim.cpp",
        "allocator.cpp",
        "released.cpp",
        "gpu/launch.cpp",
        "paged.cpp",
        "paged_layers.cpp",
        "linear.cpp",
        "products.cpp",
        "functions.cpp",
        "qk_norm_rope.cpp",
        "cross_entropy.cpp",
        "attention.cpp",
        "packed_attention.cpp",
    ];
    let lines = files.map(|file| format!("#include \"{file}\"\n")).concat();
    fs::write(&one, lines).unwrap_or_else(|e| panic!("cannot write {}: {e}", one.display()));
    torch::build(&include).include("csrc").file(&one).compile("xplore_shim");

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .flag("-Wno-unknown-pragmas")
        .file("csrc/gpu/emulated.cpp")
        .compile("xplore_emulated");

    // Contraction and reassociation are off, so a fused multiply-add occurs only where the source writes one and every
    // CPU computes the same bits. Nothing reads errno or floating-point traps, and both would prevent vectorization.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .debug(false)
        .flag("-ffp-contract=off")
        .flag("-fno-math-errno")
        .flag("-fno-trapping-math")
        // 64-byte vectors cross function boundaries only within this crate, so the ABI warning does not apply.
        .flag("-Wno-psabi")
        // A known false positive in GCC 12's own headers.
        .flag("-Wno-maybe-uninitialized")
        .file("csrc/kernels.cpp")
        .file("csrc/layer_kernels.cpp")
        .file("csrc/cpu/cpu.cpp")
        .file("csrc/cpu/portable.cpp")
        .file("csrc/cpu/avx2.cpp")
        .file("csrc/cpu/avx512.cpp")
        .file("csrc/cpu/pairs.cpp")
        .compile("xplore_kernels");
    // Links the same libgomp soname as libtorch, so that both share one thread pool.
    println!("cargo::rustc-link-lib=dylib=gomp");
    println!("cargo::rustc-link-lib=dylib=dl");
}
