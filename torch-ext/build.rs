//! Compiles the shim against the headers beside libtorch's libraries.

use std::env;
use std::path::{Path, PathBuf};

/// What sees libtorch's headers.
fn torch(include: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .flag("-w")
        // Without it at::parallel_for, a template, runs serially.
        .flag("-fopenmp")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(include)
        .include(include.join("torch/csrc/api/include"));
    build
}

/// The folder that scripts/setup made: .venv/libtorch leads to .venv/lib/python…/site-packages/torch.
fn venv(libtorch: &Path) -> PathBuf {
    let configured = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../.venv");
    let above = libtorch.ancestors().find(|folder| folder.join("gloo/include").is_dir());
    above.map_or(configured, Path::to_path_buf)
}

/// NCCL's process groups, by the headers in the wheels that `scripts/setup` fetches for CUDA.
fn with_nccl(build: &mut cc::Build, venv: &Path) {
    let site = std::fs::read_dir(venv.join("lib"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages/nvidia")))
        .find(|folder| folder.is_dir());
    let site = site.unwrap_or_else(|| panic!("no CUDA headers in {}: run XPLORE_CUDA=1 scripts/setup", venv.display()));
    let cuda = site.join("cu13/include");
    build
        .define("USE_C10D_NCCL", None)
        .includes([cuda.clone(), cuda.join("cccl"), site.join("nccl/include")])
        .file("csrc/nccl.cpp");
}

fn main() {
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells its direct dependents where libtorch is");
    let root = Path::new(&lib).parent().expect("libtorch's lib folder stands in libtorch's folder");
    let include = root.join("include");
    println!("cargo::metadata=libtorch_lib={lib}");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    println!("cargo::rerun-if-changed=csrc");

    torch(&include)
        .file("csrc/shim.cpp")
        .file("csrc/allocator.cpp")
        .file("csrc/paged.cpp")
        .file("csrc/paged_layers.cpp")
        .file("csrc/linear.cpp")
        .file("csrc/products.cpp")
        .file("csrc/functions.cpp")
        .file("csrc/cross_entropy.cpp")
        .file("csrc/attention.cpp")
        .file("csrc/prefix_attention.cpp")
        .compile("xplore_shim");

    // Process groups: c10d's headers need those of Gloo, whose code is in libtorch_cpu; scripts/setup fetches them.
    let venv = venv(root);
    let gloo = venv.join("gloo/include");
    assert!(gloo.is_dir(), "Gloo's headers are not in {}: run scripts/setup", gloo.display());
    println!("cargo::rerun-if-changed={}", gloo.display());
    let mut groups = torch(&include);
    groups.include(&gloo).define("USE_C10D_GLOO", None).file("csrc/process_group.cpp");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        with_nccl(&mut groups, &venv);
        println!("cargo::rustc-link-search=native={lib}");
        for library in ["torch_cuda", "c10_cuda"] {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
    }
    groups.compile("xplore_groups");

    // Plain loops over floats: relaxed float rules let the compiler vectorise the sums and exponentials.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
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
