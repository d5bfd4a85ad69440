//! Process-wide settings.
#![expect(unsafe_code, reason = "calls into the C shim")]

use crate::{TorchError, ffi};

/// Keeps freed CPU tensor memory in the process, where tensors of equal size reuse it in the next step. Large
/// activations are freed and allocated again every step; this avoids the cost of faulting their pages in again.
///
/// Call it at startup, before another thread creates a tensor. Further calls have no effect.
pub fn keep_memory() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: calls mallopt with constants and gives libtorch an allocator that lives as long as the process; tensors
    // created before keep the one they came from.
    ONCE.call_once(|| unsafe { ffi::xt_keep_memory() });
}

/// Loads libtorch's CUDA libraries, so that `tch::Cuda::is_available()` reports correctly.
///
/// # Errors
/// Returns the loader's message if the CUDA libraries are not installed.
pub fn load_cuda() -> Result<(), TorchError> {
    // SAFETY: dlopen of a library by name; libtorch's own initializers run.
    ffi::check(unsafe { ffi::xt_load_cuda() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_on_gpus_makes_no_plan_for_every_shape() {
        // The setting must hold whether or not CUDA can be loaded.
        let _ = load_cuda();
        // SAFETY: reads a libtorch setting.
        assert_eq!(unsafe { ffi::xt_attention_uses_cudnn() }, 0);
    }

    #[test]
    fn libtorchs_raw_interface_takes_back_what_it_gave() {
        keep_memory();
        for bytes in [0, 1, 100, 65_536, 1 << 20] {
            // SAFETY: allocates, fills and frees a block of its own.
            ffi::check(unsafe { ffi::xt_raw_memory(bytes) }).unwrap();
        }
    }
}
