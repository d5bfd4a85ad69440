//! Tensor operations. The forward operations are differentiable, except for [`linear_f32`].
#![expect(unsafe_code, reason = "calls into the C shim")]

use tch::{Device, Kind, Tensor};

use crate::{TorchError, ffi};

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), TorchError> {
    if holds { Ok(()) } else { Err(TorchError::Argument(otherwise())) }
}

pub(crate) fn count(n: usize) -> Result<i32, TorchError> {
    i32::try_from(n).map_err(|_| TorchError::Argument(format!("{n} items exceed the limit of one call (2147483647)")))
}

/// Computes the vector-Jacobian product: the gradients of `sum_i outputs[i] · grad_outputs[i]` with respect to
/// `inputs`. Frees the graph of `outputs`. (`torch.autograd.grad`.)
///
/// # Errors
/// Returns an error if an input is not part of the graph, or if shapes differ.
pub fn grad(outputs: &[&Tensor], grad_outputs: &[&Tensor], inputs: &[&Tensor]) -> Result<Vec<Tensor>, TorchError> {
    ensure(outputs.len() == grad_outputs.len(), || {
        format!("{} outputs but {} grad_outputs", outputs.len(), grad_outputs.len())
    })?;
    let raw = |tensors: &[&Tensor]| tensors.iter().map(|t| ffi::raw(t)).collect::<Vec<_>>();
    let (out, dout, input) = (raw(outputs), raw(grad_outputs), raw(inputs));
    let mut made = vec![std::ptr::null_mut(); inputs.len()];
    let (n_out, n_in) = (count(out.len())?, count(input.len())?);
    // SAFETY: the pointer arrays have the lengths passed with them and outlive the call; on success every element of
    // `made` holds a new tensor that we own.
    unsafe {
        ffi::check(ffi::xt_grad(out.as_ptr(), n_out, dout.as_ptr(), input.as_ptr(), n_in, made.as_mut_ptr()))?;
        Ok(made.into_iter().map(|p| Tensor::from_ptr(p)).collect())
    }
}

/// A weight and an optional gradient buffer of the same shape. With a buffer, the backward pass adds the gradient to
/// it. Without one, the gradient goes through autograd if the weight requires it.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// The weight.
    pub value: &'a Tensor,
    /// The buffer that accumulates its gradient.
    pub grad: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for Weight<'a> {
    fn from(value: &'a Tensor) -> Self {
        Self { value, grad: None }
    }
}

impl Weight<'_> {
    fn raw(&self) -> (*mut torch_sys::C_tensor, *mut torch_sys::C_tensor) {
        (ffi::raw(self.value), ffi::raw_or_null(self.grad))
    }

    fn fits(&self) -> bool {
        self.grad.is_none_or(|g| g.size() == self.value.size())
    }
}

/// Computes RMSNorm, `w · x / sqrt(mean(x², last axis) + eps)`, with the mean in fp32.
/// x: [.., dim], w: `[dim]`. Fused on the CPU in fp32 and bf16, separate operations elsewhere.
///
/// # Errors
/// Returns an error if the shape of `w` is not `[dim]`.
pub fn rms_norm<'a>(x: &Tensor, w: impl Into<Weight<'a>>, eps: f64) -> Result<Tensor, TorchError> {
    let w = w.into();
    ensure(w.value.dim() == 1 && w.value.numel() > 0 && x.size().last() == w.value.size().first() && w.fits(), || {
        format!("rms_norm: x is {:?}, weight {:?}", x.size(), w.value.size())
    })?;
    let (value, grad) = w.raw();
    // SAFETY: live tensors (or null for the buffer) in, one new tensor out.
    ffi::one(|made| unsafe { ffi::xt_rms_norm(ffi::raw(x), value, grad, eps, made) })
}

/// Computes `x · wᵀ + bias`. x: [rows, in]; w: [out, in]; bias: `[out]`. Sums are fp32. On the CPU, each sum is a chain
/// of fused multiply-adds in the order of `in`, so a row's bits do not depend on the other rows (`csrc/cpu/products.h`;
/// [`crate::CpuLevel`] names the exception).
///
/// # Errors
/// Returns an error if shapes or dtypes do not match.
pub fn linear<'a>(x: &Tensor, w: impl Into<Weight<'a>>, bias: Option<Weight<'_>>) -> Result<Tensor, TorchError> {
    linear_into(x, w.into(), bias, false)
}

/// Computes [`linear`] without bias and returns the result in fp32. Not differentiable.
///
/// # Errors
/// Returns an error as [`linear`] does.
pub fn linear_f32(x: &Tensor, w: &Tensor) -> Result<Tensor, TorchError> {
    linear_into(x, w.into(), None, true)
}

fn linear_into(x: &Tensor, w: Weight<'_>, bias: Option<Weight<'_>>, wide_result: bool) -> Result<Tensor, TorchError> {
    let value = w.value;
    let fits = x.dim() == 2 && value.dim() == 2 && x.size()[1] == value.size()[1] && x.kind() == value.kind();
    let bias_fits = bias.is_none_or(|b| b.value.size() == value.size()[..1] && b.fits());
    ensure(fits && bias_fits && w.fits(), || {
        format!("linear: x is {:?}, w {:?}, bias {:?}", x.size(), value.size(), bias.map(|b| b.value.size()))
    })?;
    let (value, grad) = w.raw();
    let (bias, bias_grad) = bias.map_or((std::ptr::null_mut(), std::ptr::null_mut()), |b| b.raw());
    // SAFETY: live tensors (or null for bias and buffers) in, one new tensor out; the shapes were checked.
    ffi::one(|made| unsafe { ffi::xt_linear(ffi::raw(x), value, bias, grad, bias_grad, wide_result.into(), made) })
}

/// Computes `dy · w`, the gradient of [`linear`] with respect to x. dy: [rows, out], of w's dtype or fp32; w:
/// [out, in].
///
/// # Errors
/// Returns an error if shapes do not match.
pub fn input_gradient(dy: &Tensor, w: &Tensor) -> Result<Tensor, TorchError> {
    ensure(dy.dim() == 2 && w.dim() == 2 && dy.size()[1] == w.size()[0], || {
        format!("input_gradient: dy is {:?}, w {:?}", dy.size(), w.size())
    })?;
    // SAFETY: live tensors in, one new tensor out; the shapes were checked.
    ffi::one(|made| unsafe { ffi::xt_input_gradient(ffi::raw(dy), ffi::raw(w), made) })
}

/// Computes `grad += dyᵀ · x`, the gradient of [`linear`] with respect to w. dy: [rows, out]; x: [rows, in]; grad:
/// [out, in], of x's dtype or fp32.
///
/// # Errors
/// Returns an error if shapes do not match.
pub fn add_weight_gradient(grad: &Tensor, dy: &Tensor, x: &Tensor) -> Result<(), TorchError> {
    let fits = dy.dim() == 2 && x.dim() == 2 && dy.size()[0] == x.size()[0];
    ensure(fits && grad.size() == [dy.size()[1], x.size()[1]], || {
        format!("add_weight_gradient: grad is {:?}, dy {:?}, x {:?}", grad.size(), dy.size(), x.size())
    })?;
    // SAFETY: three live tensors whose shapes were checked; the first is updated in place.
    ffi::check(unsafe { ffi::xt_add_weight_gradient(ffi::raw(grad), ffi::raw(dy), ffi::raw(x)) })
}

pub(crate) fn check_ids(what: &str, ids: &Tensor, bound: i64) -> Result<(), TorchError> {
    // On a GPU, reading the ids would synchronize with the device; the GPU kernels check them.
    if ids.numel() == 0 || ids.device() != Device::Cpu {
        return Ok(());
    }
    let (least, most) = (ids.min().int64_value(&[]), ids.max().int64_value(&[]));
    ensure(least >= 0 && most < bound, || format!("{what}: ids from {least} to {most}; expected 0 to {}", bound - 1))
}

/// Computes `grad[ids[t]] += dy[t]` for every token t, in order. dy: [tokens, width]; ids: `[tokens]`, int64; grad:
/// [rows, width].
///
/// # Errors
/// Returns an error if shapes do not match or an id is out of range.
pub fn embedding_backward(dy: &Tensor, ids: &Tensor, grad: &Tensor) -> Result<(), TorchError> {
    let fits = dy.dim() == 2 && grad.dim() == 2 && dy.size() == [ids.numel() as i64, grad.size()[1]];
    let plain = ids.dim() == 1 && ids.kind() == Kind::Int64 && ids.is_contiguous() && grad.is_contiguous();
    ensure(fits && plain, || {
        format!("embedding_backward: dy is {:?}, ids {:?}, grad {:?}", dy.size(), ids.size(), grad.size())
    })?;
    check_ids("embedding_backward", ids, grad.size()[0])?;
    // SAFETY: three live tensors whose shapes were checked, ids in range; the last is updated in place.
    ffi::check(unsafe { ffi::xt_embedding_backward(ffi::raw(dy), ffi::raw(ids), ffi::raw(grad)) })
}

/// Computes `silu(gate) · up` of `[gate | up]`. gate_up: [tokens, 2·width] → [tokens, width].
///
/// # Errors
/// Returns an error if the shape is not [tokens, even].
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor, TorchError> {
    ensure(gate_up.dim() == 2 && gate_up.size()[1] % 2 == 0, || {
        format!("swiglu: input is {:?}, expected [tokens, 2·width]", gate_up.size())
    })?;
    // SAFETY: a live tensor in, one new tensor out.
    ffi::one(|made| unsafe { ffi::xt_swiglu(ffi::raw(gate_up), made) })
}

/// Computes [`linear`] of [`swiglu`], `swiglu(gate_up) · wᵀ + bias`, and saves only `gate_up` for the backward pass.
/// gate_up: [tokens, 2·width]; w: [out, width]; bias: `[out]`.
///
/// # Errors
/// Returns an error if shapes or dtypes do not match.
pub fn swiglu_linear<'a>(
    gate_up: &Tensor,
    w: impl Into<Weight<'a>>,
    bias: Option<Weight<'_>>,
) -> Result<Tensor, TorchError> {
    let w = w.into();
    let fits = gate_up.dim() == 2 && w.value.dim() == 2 && gate_up.size()[1] == 2 * w.value.size()[1];
    let bias_fits = bias.is_none_or(|b| b.value.size() == w.value.size()[..1] && b.fits());
    ensure(fits && gate_up.kind() == w.value.kind() && bias_fits && w.fits(), || {
        let bias = bias.map(|b| b.value.size());
        format!("swiglu_linear: input is {:?}, w {:?}, bias {bias:?}", gate_up.size(), w.value.size())
    })?;
    let (value, grad) = w.raw();
    let (bias, bias_grad) = bias.map_or((std::ptr::null_mut(), std::ptr::null_mut()), |b| b.raw());
    // SAFETY: live tensors (or null for bias and buffers) in, one new tensor out; the shapes were checked.
    ffi::one(|made| unsafe { ffi::xt_swiglu_linear(ffi::raw(gate_up), value, bias, grad, bias_grad, made) })
}

/// The per-head RMSNorm of queries and keys in [`qk_norm_rope`].
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// Weight of the queries' RMSNorm, `[dim]`.
    pub q: Weight<'a>,
    /// Weight of the keys' RMSNorm, `[dim]`.
    pub k: Weight<'a>,
    /// The term added to the mean square.
    pub eps: f64,
}

/// Splits `qkv` [tokens, heads + 2·kv_heads, dim] into queries [tokens, heads, dim], keys and values
/// [tokens, kv_heads, dim]. Queries and keys are normalized per head if `norms` is given, then rotated by RoPE in the
/// half-split layout (`x·cos + rotate_half(x)·sin`, as in transformers). cos, sin: [tokens, dim/2], fp32, contiguous.
///
/// # Errors
/// Returns an error if the shapes do not match.
pub fn qk_norm_rope(
    qkv: &Tensor,
    heads: i64,
    norms: Option<HeadNorms<'_>>,
    cos: &Tensor,
    sin: &Tensor,
) -> Result<[Tensor; 3], TorchError> {
    let size = qkv.size();
    let fits = |t: &Tensor| {
        t.size() == [size[0], size[2] / 2] && t.kind() == Kind::Float && t.is_contiguous() && t.device() == qkv.device()
    };
    let divided = size.len() == 3 && size[2] % 2 == 0 && heads > 0 && size[1] > heads && (size[1] - heads) % 2 == 0;
    ensure(divided && fits(cos) && fits(sin), || {
        format!("qk_norm_rope: qkv is {size:?}, {heads} query heads, cos {:?}, sin {:?}", cos.size(), sin.size())
    })?;
    let of_dim = |w: Weight<'_>| w.value.size() == size[2..] && w.value.is_contiguous() && w.fits();
    ensure(norms.is_none_or(|n| of_dim(n.q) && of_dim(n.k)), || format!("qk_norm_rope: norms are not [{}]", size[2]))?;
    let none = (std::ptr::null_mut(), std::ptr::null_mut());
    let (q, k) = norms.map_or((none, none), |n| (n.q.raw(), n.k.raw()));
    let eps = norms.map_or(0.0, |n| n.eps);
    // SAFETY: live tensors (or null) in, three new tensors out; shapes and dtypes were checked.
    ffi::several(|made| unsafe {
        ffi::xt_qk_norm_rope(ffi::raw(qkv), q.0, k.0, q.1, k.1, ffi::raw(cos), ffi::raw(sin), heads, eps, made)
    })
}

/// Computes Σ x². Long sums accumulate in double precision.
///
/// # Errors
/// Returns an error if `x` is not contiguous.
pub fn sum_of_squares(x: &Tensor) -> Result<f64, TorchError> {
    ensure(x.is_contiguous(), || "sum_of_squares: the tensor is not contiguous".into())?;
    let mut sum = 0.0;
    // SAFETY: a live, contiguous tensor in, one number out.
    ffi::check(unsafe { ffi::xt_sum_of_squares(ffi::raw(x), &raw mut sum) })?;
    Ok(sum)
}

/// Returns a dropout mask, fp32 on the CPU: 1/(1 - p) with probability 1 - p, else 0. Each element depends only on
/// `seed` and its index.
///
/// # Errors
/// Returns an error if `probability` is not in [0, 1).
pub fn dropout_mask(shape: &[i64], probability: f64, seed: u64) -> Result<Tensor, TorchError> {
    ensure((0.0..1.0).contains(&probability), || format!("dropout_mask: the probability is {probability}"))?;
    let mask = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
    // SAFETY: a live, contiguous fp32 tensor, filled in place.
    ffi::check(unsafe { ffi::xt_dropout_mask(ffi::raw(&mask), probability, seed) })?;
    Ok(mask)
}

/// The hyperparameters of one AdamW step (Loshchilov & Hutter 2019; decoupled weight decay).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay rates of the first and second moment.
    pub betas: (f64, f64),
    /// The term added to the square root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// Performs one AdamW step in place with libtorch's fused kernel. All four tensors have the same shape; `step` counts
/// from 1.
///
/// # Errors
/// Returns an error if shapes or dtypes differ.
pub fn adamw_step(
    param: &mut Tensor,
    grad: &Tensor,
    moments: (&mut Tensor, &mut Tensor),
    step: u64,
    hyper: AdamW,
) -> Result<(), TorchError> {
    let same = param.size() == grad.size() && param.size() == moments.0.size() && param.size() == moments.1.size();
    ensure(same && step > 0, || "adamw_step: shapes differ, or step is 0".into())?;
    let (m, v) = moments;
    // SAFETY: four live tensors of one shape, updated in place.
    ffi::check(unsafe {
        ffi::xt_fused_adamw(
            ffi::raw(param),
            ffi::raw(grad),
            ffi::raw(m),
            ffi::raw(v),
            hyper.lr,
            hyper.betas.0,
            hyper.betas.1,
            hyper.weight_decay,
            hyper.eps,
            step as f64,
        )
    })
}
