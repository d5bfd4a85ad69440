//! Sets the rpath of this crate's tests, which link libtorch and must find it at run time.

fn main() {
    if let Ok(lib) = std::env::var("DEP_TORCH_EXT_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
