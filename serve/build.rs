//! Tests of this crate link libtorch, so they need its path in their rpath.

fn main() {
    if let Ok(lib) = std::env::var("DEP_TORCH_EXT_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
