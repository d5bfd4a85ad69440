//! Sets the rpath of examples and tests, which link libtorch, so that they find it without LD_LIBRARY_PATH.

fn main() {
    if let Ok(lib) = std::env::var("DEP_TORCH_EXT_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
