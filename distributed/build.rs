//! Adds the folder of libtorch to the runtime path of this crate's tests, so that they find it.

fn main() {
    if let Ok(lib) = std::env::var("DEP_TORCH_EXT_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
