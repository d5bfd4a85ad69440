//! The parts of libtorch that tch does not bind, and a few fused kernels for the CPU.
//!
//! All C++ and nearly all `unsafe` code of the workspace live in this folder (`c10d` in it is a crate of its own, so that
//! the feature for NCCL compiles nothing else anew). Every function here is safe: shapes and
//! dtypes are checked on entry, a C++ exception comes back as a [`TorchError`].

mod attention;
mod cpu;
mod cross_entropy;
mod ffi;
mod gpu;
mod memory;
mod ops;
mod packed;
mod paged;
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
    AdamW, HeadNorms, Weight, adamw_step, add_weight_gradient, dropout_mask, embedding_backward, grad, heads,
    input_gradient, linear, linear_f32, rms_norm, sum_of_squares, swiglu, swiglu_linear,
};
pub use packed::PackedWeight;
pub use paged::{BLOCK, PagedQueries, Slots, paged_attention, write_paged};
pub use paged_layers::{PagedLayer, most_paged_tokens, paged_layers};
pub use runtime::{keep_memory, load_cuda};
pub use threads::each;

/// What libtorch said when an operation failed, or which argument was wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TorchError(pub String);
