//! What is set once for the process.
#![expect(unsafe_code, reason = "calls into the C shim")]

use crate::{TorchError, ffi};

/// Makes the C allocator keep freed pages for the next step instead of giving them back to the system.
///
/// Call once at start. Large activations are freed and allocated again every step; faulting their pages in anew is the
/// cost this avoids.
pub fn keep_memory() {
    // SAFETY: only calls mallopt with constants.
    unsafe { ffi::xt_keep_memory() }
}

/// Loads libtorch's CUDA half, so that `tch::Cuda::is_available()` can tell the truth.
///
/// # Errors
/// The loader's message, when the CUDA libraries are not installed.
pub fn load_cuda() -> Result<(), TorchError> {
    // SAFETY: dlopen of a library by name; libtorch's own initialisers run.
    ffi::check(unsafe { ffi::xt_load_cuda() })
}
