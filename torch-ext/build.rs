//! Compiles the shim against the headers beside libtorch's libraries.

#[path = "build/torch.rs"]
mod torch;

use std::env;
use std::path::Path;

fn main() {
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells its direct dependents where libtorch is");
    let root = Path::new(&lib).parent().expect("libtorch's lib folder stands in libtorch's folder");
    let include = root.join("include");
    println!("cargo::metadata=libtorch_lib={lib}");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    println!("cargo::rerun-if-changed=csrc");

    torch::build(&include)
        .file("csrc/shim.cpp")
        .file("csrc/allocator.cpp")
        .file("csrc/released.cpp")
        .file("csrc/gpu/launch.cpp")
        .file("csrc/paged.cpp")
        .file("csrc/paged_layers.cpp")
        .file("csrc/linear.cpp")
        .file("csrc/products.cpp")
        .file("csrc/functions.cpp")
        .file("csrc/cross_entropy.cpp")
        .file("csrc/attention.cpp")
        .file("csrc/prefix_attention.cpp")
        .compile("xplore_shim");

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .flag("-Wno-unknown-pragmas")
        .file("csrc/gpu/emulated.cpp")
        .compile("xplore_emulated");

    // Plain loops over floats: relaxed float rules let the compiler vectorise the sums and exponentials.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .debug(false)
        .flag("-ffast-math")
        // Vectors of 64 bytes in functions of this crate alone.
        .flag("-Wno-psabi")
        .file("csrc/kernels.cpp")
        .file("csrc/layer_kernels.cpp")
        .file("csrc/paged_kernels.cpp")
        .compile("xplore_kernels");

    // Written in instructions already: nothing for the compiler to rearrange.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .debug(false)
        // A known false alarm inside GCC 12's own headers.
        .flag("-Wno-maybe-uninitialized")
        .file("csrc/skinny.cpp")
        .file("csrc/skinny_wide.cpp")
        .file("csrc/skinny_pairs.cpp")
        .compile("xplore_skinny");
    println!("cargo::rustc-link-lib=dylib=mvec");
    // Under the name that libtorch links too, so that both use one pool of threads.
    println!("cargo::rustc-link-lib=dylib=gomp");
    println!("cargo::rustc-link-lib=dylib=dl");
}
