//! What is set once for the process.
#![expect(unsafe_code, reason = "calls into the C shim")]

use crate::{TorchError, ffi};

/// Makes freed memory of tensors on the CPU stay with the process for the next step, in holes that equal tensors fit into:
/// large activations are freed and allocated again every step, and faulting their pages in anew is the cost this avoids.
///
/// Call at start, before any tensor is made on another thread. A second call does nothing.
pub fn keep_memory() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: calls mallopt with constants and gives libtorch an allocator that lives as long as the process; tensors made
    // before keep the one they came from.
    ONCE.call_once(|| unsafe { ffi::xt_keep_memory() });
}

/// Loads libtorch's CUDA half, so that `tch::Cuda::is_available()` can tell the truth.
///
/// # Errors
/// The loader's message, when the CUDA libraries are not installed.
pub fn load_cuda() -> Result<(), TorchError> {
    // SAFETY: dlopen of a library by name; libtorch's own initialisers run.
    ffi::check(unsafe { ffi::xt_load_cuda() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_on_gpus_makes_no_plan_for_every_shape() {
        // Whether it can be loaded or not.
        let _ = load_cuda();
        // SAFETY: reads a setting of libtorch's.
        assert_eq!(unsafe { ffi::xt_attention_uses_cudnn() }, 0);
    }

    #[test]
    fn libtorchs_raw_interface_takes_back_what_it_gave() {
        keep_memory();
        for bytes in [0, 1, 100, 65_536, 1 << 20] {
            // SAFETY: takes, fills and gives back a block of its own.
            ffi::check(unsafe { ffi::xt_raw_memory(bytes) }).unwrap();
        }
    }
}
