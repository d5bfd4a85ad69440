//! Bindings to the C functions of `csrc/shim.cpp`, and the helpers around each call that pass pointers and take
//! ownership of results or return the error.
#![expect(unsafe_code, reason = "this is the boundary to C++")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::offset_of;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::TorchError;
use crate::paged_layers::{RawLayer, RawTokens};

/// A kernel launch (`csrc/gpu/kernel_launch.h`).
#[repr(C)]
pub(crate) struct KernelLaunch {
    pub name: *const c_char,
    pub device: c_int,
    pub grid: [c_uint; 3],
    pub threads: c_uint,
    pub stream: *mut c_void,
    pub arguments: *mut *mut c_void,
    pub error: *mut c_char,
    pub room: usize,
}

// kernel_launch.h asserts the same numbers.
const _: () = assert!(
    size_of::<KernelLaunch>() == 64
        && offset_of!(KernelLaunch, grid) == 12
        && offset_of!(KernelLaunch, stream) == 32
        && offset_of!(KernelLaunch, room) == 56
);

/// A weight packed into panels (`csrc/products.h`, `PackedWeight`).
#[repr(C)]
pub(crate) struct Panels {
    _opaque: [u8; 0],
}

/// A function that launches a kernel.
pub(crate) type Launcher = unsafe extern "C" fn(*const KernelLaunch) -> c_int;

unsafe extern "C" {
    fn xt_last_error() -> *const c_char;
    pub(crate) fn xt_keep_memory();
    #[cfg(test)]
    pub(crate) fn xt_raw_memory(bytes: usize) -> c_int;
    pub(crate) fn xt_load_cuda() -> c_int;
    #[cfg(test)]
    pub(crate) fn xt_attention_uses_cudnn() -> c_int;
    pub(crate) fn xt_device_peak(cuda: c_int, bytes: *mut i64) -> c_int;
    pub(crate) fn xt_open_library(path: *const c_char) -> c_int;
    pub(crate) fn xt_libtorch_path(path: *mut c_char, room: usize) -> usize;
    pub(crate) fn xt_use_gpu_kernels(launcher: Option<Launcher>);
    pub(crate) fn xt_emulate_gpu_kernels(launcher: Option<Launcher>);
    #[cfg(test)]
    pub(crate) fn xt_emulated_narrow(bits: u32) -> u16;
    pub(crate) fn xt_has_gpu_kernels(tensor: *mut C_tensor) -> c_int;
    pub(crate) fn xt_emulated_launch(start: *const KernelLaunch) -> c_int;
    pub(crate) fn xt_release_memory(tensor: *mut C_tensor) -> c_int;
    pub(crate) fn xt_restore_memory(tensor: *mut C_tensor) -> c_int;
    pub(crate) fn xt_each(n: i64, f: extern "C" fn(*mut c_void, i64), data: *mut c_void);
    pub(crate) fn xt_grad(
        outputs: *const *mut C_tensor,
        n_outputs: c_int,
        grad_outputs: *const *mut C_tensor,
        inputs: *const *mut C_tensor,
        n_inputs: c_int,
        result: *mut *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_rms_norm(
        x: *mut C_tensor,
        w: *mut C_tensor,
        dw: *mut C_tensor,
        eps: f64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_swiglu(gate_up: *mut C_tensor, result: *mut *mut C_tensor) -> c_int;
    pub(crate) fn xt_swiglu_linear(
        gate_up: *mut C_tensor,
        w: *mut C_tensor,
        bias: *mut C_tensor,
        dw: *mut C_tensor,
        dbias: *mut C_tensor,
        result: *mut *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_qk_norm_rope(
        qkv: *mut C_tensor,
        q_norm: *mut C_tensor,
        k_norm: *mut C_tensor,
        dq_norm: *mut C_tensor,
        dk_norm: *mut C_tensor,
        cos: *mut C_tensor,
        sin: *mut C_tensor,
        heads: i64,
        eps: f64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_input_gradient(dy: *mut C_tensor, w: *mut C_tensor, result: *mut *mut C_tensor) -> c_int;
    pub(crate) fn xt_add_weight_gradient(grad: *mut C_tensor, dy: *mut C_tensor, x: *mut C_tensor) -> c_int;
    pub(crate) fn xt_cross_entropy(logits: *mut C_tensor, targets: *mut C_tensor, result: *mut *mut C_tensor) -> c_int;
    pub(crate) fn xt_softmax(logits: *mut C_tensor, result: *mut *mut C_tensor) -> c_int;
    pub(crate) fn xt_cross_entropy_backward(
        logits: *mut C_tensor,
        targets: *mut C_tensor,
        lse: *mut C_tensor,
        coefficients: *mut C_tensor,
        entropy: *mut C_tensor,
        entropy_coefficients: *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_sum_of_squares(x: *mut C_tensor, result: *mut f64) -> c_int;
    pub(crate) fn xt_dropout_mask(mask: *mut C_tensor, probability: f64, seed: u64) -> c_int;
    pub(crate) fn xt_embedding_backward(dy: *mut C_tensor, ids: *mut C_tensor, grad: *mut C_tensor) -> c_int;
    pub(crate) fn xt_varlen_attention(
        q: *mut C_tensor,
        k: *mut C_tensor,
        v: *mut C_tensor,
        cu: *const i64,
        n_cu: c_int,
        prefix_of: *const i64,
        scale: f64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    #[cfg(test)]
    pub(crate) fn xt_varlen_attention_plain(
        q: *mut C_tensor,
        k: *mut C_tensor,
        v: *mut C_tensor,
        cu: *const i64,
        n_cu: c_int,
        prefix_of: *const i64,
        scale: f64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_linear(
        x: *mut C_tensor,
        w: *mut C_tensor,
        bias: *mut C_tensor,
        dw: *mut C_tensor,
        dbias: *mut C_tensor,
        wide_result: c_int,
        result: *mut *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_pack_weight(w: *mut C_tensor, result: *mut *mut Panels) -> c_int;
    pub(crate) fn xt_free_packed_weight(w: *mut Panels);
    pub(crate) fn xt_packed_linear(x: *mut C_tensor, w: *mut Panels, result: *mut *mut C_tensor) -> c_int;
    pub(crate) fn xt_cpu_level(level: *mut c_int) -> c_int;
    pub(crate) fn xt_library_multiplies_bf16() -> c_int;
    pub(crate) fn xt_write_paged(
        cache_k: *mut C_tensor,
        cache_v: *mut C_tensor,
        k: *mut C_tensor,
        v: *mut C_tensor,
        slots: *const i64,
        on_slots: *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_paged_attention(
        q: *mut C_tensor,
        cache_k: *mut C_tensor,
        cache_v: *mut C_tensor,
        table: *const i32,
        table_size: i64,
        begin: *const i64,
        length: *const i64,
        on_table: *mut C_tensor,
        on_begin: *mut C_tensor,
        on_length: *mut C_tensor,
        scale: f64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_most_paged_tokens(bf16: c_int) -> i64;
    pub(crate) fn xt_paged_layers(
        x: *mut C_tensor,
        layers: *const RawLayer,
        count: i64,
        tokens: *const RawTokens,
        width: i64,
        heads: i64,
        kv_heads: i64,
        dim: i64,
        eps: f64,
        scale: f64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    pub(crate) fn xt_fused_adamw(
        param: *mut C_tensor,
        grad: *mut C_tensor,
        exp_avg: *mut C_tensor,
        exp_avg_sq: *mut C_tensor,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        step: f64,
    ) -> c_int;
}

/// Returns a tensor's pointer for a C++ function that reads the handle during the call and does not retain it.
pub fn raw(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// Returns [`raw`] of a tensor, or null for `None`.
pub(crate) fn raw_or_null(tensor: Option<&Tensor>) -> *mut C_tensor {
    tensor.map_or(std::ptr::null_mut(), raw)
}

/// The status of a function that could not allocate memory (`csrc/guard.h`).
const OUT_OF_MEMORY: c_int = 2;

/// Converts the status of a function whose C++ body is `guarded` (`csrc/guard.h`) into a result.
///
/// # Errors
/// Returns the text of the exception if the status reports one.
pub fn check(status: c_int) -> Result<(), TorchError> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the shim keeps the text in a thread-local string that lives until this thread's next failure.
    let text = unsafe { CStr::from_ptr(xt_last_error()) };
    let text = text.to_string_lossy().into_owned();
    Err(if status == OUT_OF_MEMORY { TorchError::OutOfMemory(text) } else { TorchError::of_exception(text) })
}

/// Calls `f` with room for one new tensor and takes ownership of it.
pub(crate) fn one(f: impl FnOnce(*mut *mut C_tensor) -> c_int) -> Result<Tensor, TorchError> {
    let [made] = several(f)?;
    Ok(made)
}

/// Calls `f` with room for `N` new tensors and takes ownership of them.
pub(crate) fn several<const N: usize>(f: impl FnOnce(*mut *mut C_tensor) -> c_int) -> Result<[Tensor; N], TorchError> {
    let mut made = [std::ptr::null_mut(); N];
    check(f(made.as_mut_ptr()))?;
    // SAFETY: on success the shim has stored a new at::Tensor in every element and transfers their ownership.
    Ok(made.map(|p| unsafe { Tensor::from_ptr(p) }))
}
