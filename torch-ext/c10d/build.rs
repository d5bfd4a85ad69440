//! Compiles c10d's C shim against the headers that ship with libtorch and, with the feature `cuda`, those of NCCL.

#[path = "../build/torch.rs"]
mod torch;

use std::env;
use std::path::{Path, PathBuf};

/// Returns the Python environment that contains libtorch, usually the one of `scripts/setup`.
fn venv(libtorch: &Path) -> PathBuf {
    let configured = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../.venv");
    let above = libtorch.ancestors().find(|folder| folder.join("pyvenv.cfg").is_file());
    above.map_or(configured, Path::to_path_buf)
}

/// Adds NCCL process groups, using the headers of the wheels that `scripts/setup` installs for CUDA.
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
    let lib = env::var("DEP_TORCH_EXT_LIBTORCH_LIB").expect("torch-ext tells its direct dependents where libtorch is");
    let root = Path::new(&lib).parent().expect("libtorch's lib folder stands in libtorch's folder");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    println!("cargo::rerun-if-changed=csrc");
    println!("cargo::rerun-if-changed=../csrc/guard.h");

    println!("cargo::rerun-if-changed=include");
    let mut groups = torch::build(&root.join("include"));
    groups.opt_level(1).include("include").define("USE_C10D_GLOO", None).file("csrc/process_group.cpp");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        with_nccl(&mut groups, &venv(root));
        println!("cargo::rustc-link-search=native={lib}");
        for library in ["torch_cuda", "c10_cuda"] {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
    }
    groups.compile("xplore_groups");
}
