//! The parts of libtorch that tch does not bind, and a few fused kernels for the CPU.
//!
//! All C++ and nearly all `unsafe` code of the workspace live in this folder. (`c10d` inside it is a separate crate, so
//! that the NCCL feature does not recompile anything else.) Every function here is safe: it checks shapes and dtypes on
//! entry, and a C++ exception is returned as a [`TorchError`].

mod attention;
mod cpu;
mod cross_entropy;
mod ffi;
mod gpu;
mod memory;
mod ops;
mod packed;
mod paged_attention;
mod paged_layers;
mod runtime;
mod threads;

pub use attention::{prefix_attention, varlen_attention};
pub use cpu::CpuLevel;
pub use cross_entropy::{CrossEntropy, EntropyTerm, Softmax, cross_entropy, cross_entropy_backward, softmax};
pub use ffi::{check, raw};
pub use gpu::{EmulatedGpu, compile_gpu_kernels, gpu_count, gpu_name, use_gpu_kernels};
pub use memory::{MappedFile, bytes, device_peak_bytes, floats, release_memory, restore_memory, upload};
pub use ops::{
    AdamW, HeadNorms, Weight, adamw_step, add_weight_gradient, dropout_mask, embedding_backward, grad, input_gradient,
    linear, linear_f32, qk_norm_rope, rms_norm, sum_of_squares, swiglu, swiglu_linear,
};
pub use packed::PackedWeight;
pub use paged_attention::{BLOCK, PagedQueries, Slots, paged_attention, write_paged};
pub use paged_layers::{PagedLayer, most_paged_tokens, paged_layers};
pub use runtime::{keep_memory, load_cuda};
pub use threads::each;

/// An error of an operation.
#[derive(Debug, thiserror::Error)]
pub enum TorchError {
    /// The arguments do not fit the operation: their shapes, dtypes, devices or values.
    #[error("{0}")]
    Argument(String),
    /// Memory could not be allocated, on the CPU or on a GPU.
    #[error("{0}")]
    OutOfMemory(String),
    /// libtorch, the GPU driver or a file failed for another reason.
    #[error("{0}")]
    Failed(String),
}

impl TorchError {
    /// Returns the error of an exception of libtorch. Not every failed allocation has an exception type of its own (that of
    /// libtorch's default CPU allocator has none), and tch keeps only the text.
    pub(crate) fn of_exception(text: String) -> Self {
        let full = ["out of memory", "can't allocate memory"].iter().any(|words| text.contains(words));
        if full { Self::OutOfMemory(text) } else { Self::Failed(text) }
    }
}

impl From<tch::TchError> for TorchError {
    fn from(error: tch::TchError) -> Self {
        Self::of_exception(error.to_string())
    }
}
