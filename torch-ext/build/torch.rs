//! Compiler settings for C++ that uses libtorch.

use std::path::Path;

/// Returns a build configured for sources that include libtorch's headers.
pub fn build(include: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        // Debug information would make up nine tenths of every program that links this.
        .debug(false)
        .flag("-w")
        // Without OpenMP, `at::parallel_for` (a template) runs serially.
        .flag("-fopenmp")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(include)
        .include(include.join("torch/csrc/api/include"));
    build
}
