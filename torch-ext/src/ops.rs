//! Operations on tensors. All of them but [`adamw_step`] are differentiable.
#![expect(unsafe_code, reason = "calls into the C shim")]

use tch::{Device, Kind, Tensor};

use crate::{TorchError, ffi};

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), TorchError> {
    if holds { Ok(()) } else { Err(TorchError(otherwise())) }
}

pub(crate) fn count(n: usize) -> Result<i32, TorchError> {
    i32::try_from(n).map_err(|_| TorchError(format!("{n} is too many for one call")))
}

/// Vector-Jacobian product: the gradients of `sum_i outputs[i] · grad_outputs[i]` with respect to `inputs`.
/// The graph behind `outputs` is freed. (`torch.autograd.grad`.)
///
/// # Errors
/// If an input is not part of the graph, or shapes differ.
pub fn grad(outputs: &[&Tensor], grad_outputs: &[&Tensor], inputs: &[&Tensor]) -> Result<Vec<Tensor>, TorchError> {
    ensure(outputs.len() == grad_outputs.len(), || {
        format!("{} outputs but {} grad_outputs", outputs.len(), grad_outputs.len())
    })?;
    let raw = |tensors: &[&Tensor]| tensors.iter().map(|t| ffi::raw(t)).collect::<Vec<_>>();
    let (out, dout, input) = (raw(outputs), raw(grad_outputs), raw(inputs));
    let mut made = vec![std::ptr::null_mut(); inputs.len()];
    let (n_out, n_in) = (count(out.len())?, count(input.len())?);
    // SAFETY: the pointer arrays have the lengths passed with them and outlive the call; on success every place of
    // `made` holds a new tensor that is ours.
    unsafe {
        ffi::check(ffi::xt_grad(out.as_ptr(), n_out, dout.as_ptr(), input.as_ptr(), n_in, made.as_mut_ptr()))?;
        Ok(made.into_iter().map(|p| Tensor::from_ptr(p)).collect())
    }
}

/// A weight, and the buffer of its shape to which the way back adds its gradient. Without a buffer the gradient goes through
/// autograd, if the weight asks for one.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// The weight.
    pub value: &'a Tensor,
    /// Where its gradient goes.
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

/// `w · x / sqrt(mean(x², last axis) + eps)`, the mean in fp32.
/// x: [.., dim], w: [dim]. One pass on the CPU in fp32 and bf16, plain operations elsewhere.
///
/// # Errors
/// If `w` is not [dim].
pub fn rms_norm<'a>(x: &Tensor, w: impl Into<Weight<'a>>, eps: f64) -> Result<Tensor, TorchError> {
    let w = w.into();
    ensure(w.value.dim() == 1 && w.value.numel() > 0 && x.size().last() == w.value.size().first() && w.fits(), || {
        format!("rms_norm: x is {:?}, weight {:?}", x.size(), w.value.size())
    })?;
    let (value, grad) = w.raw();
    // SAFETY: live tensors (or none for the buffer) in, one new tensor out.
    ffi::one(|made| unsafe { ffi::xt_rms_norm(ffi::raw(x), value, grad, eps, made) })
}

/// `x · wᵀ + bias`. x: [rows, in]; w: [out, in]; bias: [out]. On a CPU with AVX-512 few rows go to a kernel of our own,
/// unless a gradient is wanted; where libtorch has nothing fast for bf16, it is multiplied as fp32. Sums are fp32.
///
/// # Errors
/// If shapes or dtypes do not fit.
pub fn linear<'a>(x: &Tensor, w: impl Into<Weight<'a>>, bias: Option<Weight<'_>>) -> Result<Tensor, TorchError> {
    linear_into(x, w.into(), bias, false)
}

/// As [`linear`] without bias, the result in fp32; no gradients.
///
/// # Errors
/// As [`linear`].
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
    // SAFETY: live tensors (or none for bias and buffers) in, one new tensor out; the shapes were checked.
    ffi::one(|made| unsafe { ffi::xt_linear(ffi::raw(x), value, bias, grad, bias_grad, wide_result.into(), made) })
}

/// `dy · w`: the gradient of [`linear`]'s x. dy: [rows, out], of w's dtype or fp32; w: [out, in].
///
/// # Errors
/// If shapes do not fit.
pub fn input_gradient(dy: &Tensor, w: &Tensor) -> Result<Tensor, TorchError> {
    ensure(dy.dim() == 2 && w.dim() == 2 && dy.size()[1] == w.size()[0], || {
        format!("input_gradient: dy is {:?}, w {:?}", dy.size(), w.size())
    })?;
    // SAFETY: live tensors in, one new tensor out; the shapes were checked.
    ffi::one(|made| unsafe { ffi::xt_input_gradient(ffi::raw(dy), ffi::raw(w), made) })
}

/// `grad += dyᵀ · x`: the gradient of [`linear`]'s w. dy: [rows, out]; x: [rows, in]; grad: [out, in], of x's dtype or fp32.
///
/// # Errors
/// If shapes do not fit.
pub fn add_weight_gradient(grad: &Tensor, dy: &Tensor, x: &Tensor) -> Result<(), TorchError> {
    let fits = dy.dim() == 2 && x.dim() == 2 && dy.size()[0] == x.size()[0];
    ensure(fits && grad.size() == [dy.size()[1], x.size()[1]], || {
        format!("add_weight_gradient: grad is {:?}, dy {:?}, x {:?}", grad.size(), dy.size(), x.size())
    })?;
    // SAFETY: three live tensors whose shapes were checked; the first is updated in place.
    ffi::check(unsafe { ffi::xt_add_weight_gradient(ffi::raw(grad), ffi::raw(dy), ffi::raw(x)) })
}

pub(crate) fn check_ids(what: &str, ids: &Tensor, bound: i64) -> Result<(), TorchError> {
    // On a GPU looking at them would stop the queue; its own kernels check.
    if ids.numel() == 0 || ids.device() != Device::Cpu {
        return Ok(());
    }
    let (least, most) = (ids.min().int64_value(&[]), ids.max().int64_value(&[]));
    ensure(least >= 0 && most < bound, || format!("{what}: ids from {least} to {most}; expected 0 to {}", bound - 1))
}

/// `grad[ids[t]] += dy[t]` for every token t, in order. dy: [tokens, width]; ids: [tokens], int64; grad: [rows, width].
///
/// # Errors
/// If shapes do not fit or an id is no row.
pub fn embedding_backward(dy: &Tensor, ids: &Tensor, grad: &Tensor) -> Result<(), TorchError> {
    let fits = dy.dim() == 2 && grad.dim() == 2 && dy.size() == [ids.numel() as i64, grad.size()[1]];
    let plain = ids.dim() == 1 && ids.kind() == Kind::Int64 && ids.is_contiguous() && grad.is_contiguous();
    ensure(fits && plain, || {
        format!("embedding_backward: dy is {:?}, ids {:?}, grad {:?}", dy.size(), ids.size(), grad.size())
    })?;
    check_ids("embedding_backward", ids, grad.size()[0])?;
    // SAFETY: three live tensors whose shapes were checked, ids inside; the last is updated in place.
    ffi::check(unsafe { ffi::xt_embedding_backward(ffi::raw(dy), ffi::raw(ids), ffi::raw(grad)) })
}

/// `silu(gate) · up` of `[gate | up]`. gate_up: [tokens, 2·width] → [tokens, width].
///
/// # Errors
/// If the shape is not [tokens, even].
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor, TorchError> {
    ensure(gate_up.dim() == 2 && gate_up.size()[1] % 2 == 0, || {
        format!("swiglu: input is {:?}, expected [tokens, 2·width]", gate_up.size())
    })?;
    // SAFETY: a live tensor in, one new tensor out.
    ffi::one(|made| unsafe { ffi::xt_swiglu(ffi::raw(gate_up), made) })
}

/// [`linear`] of [`swiglu`]: `swiglu(gate_up) · wᵀ + bias`, which keeps only `gate_up` for its way back.
/// gate_up: [tokens, 2·width]; w: [out, width]; bias: [out].
///
/// # Errors
/// If shapes or dtypes do not fit.
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
    // SAFETY: live tensors (or none for bias and buffers) in, one new tensor out; the shapes were checked.
    ffi::one(|made| unsafe { ffi::xt_swiglu_linear(ffi::raw(gate_up), value, bias, grad, bias_grad, made) })
}

/// How the heads of [`heads`] are shaped and normalised.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// Weight of the queries' RMSNorm, [dim].
    pub q: Weight<'a>,
    /// Weight of the keys' RMSNorm, [dim].
    pub k: Weight<'a>,
    /// Added to the mean square.
    pub eps: f64,
}

/// Queries [tokens, heads, dim], keys and values [tokens, kv_heads, dim] of `qkv` [tokens, heads + 2·kv_heads, dim]: queries
/// and keys normalised per head where `norms` are given, then turned by the rotary embedding in the half-split layout
/// (`x·cos + rotate_half(x)·sin`, as in transformers). cos, sin: [tokens, dim/2], fp32, contiguous.
///
/// # Errors
/// If the shapes do not fit.
pub fn heads(
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
        format!("heads: qkv is {size:?}, {heads} query heads, cos {:?}, sin {:?}", cos.size(), sin.size())
    })?;
    let of_dim = |w: Weight<'_>| w.value.size() == size[2..] && w.value.is_contiguous() && w.fits();
    ensure(norms.is_none_or(|n| of_dim(n.q) && of_dim(n.k)), || format!("heads: norms are not [{}]", size[2]))?;
    let none = (std::ptr::null_mut(), std::ptr::null_mut());
    let (q, k) = norms.map_or((none, none), |n| (n.q.raw(), n.k.raw()));
    let eps = norms.map_or(0.0, |n| n.eps);
    // SAFETY: live tensors (or none) in, three new tensors out; shapes and dtypes were checked.
    ffi::several(|made| unsafe {
        ffi::xt_heads(ffi::raw(qkv), q.0, k.0, q.1, k.1, ffi::raw(cos), ffi::raw(sin), heads, eps, made)
    })
}

/// Σ x², summed in double precision where it matters.
///
/// # Errors
/// If `x` is not contiguous.
pub fn sum_of_squares(x: &Tensor) -> Result<f64, TorchError> {
    ensure(x.is_contiguous(), || "sum_of_squares: the tensor is not contiguous".into())?;
    let mut sum = 0.0;
    // SAFETY: a live, contiguous tensor in, one number out.
    ffi::check(unsafe { ffi::xt_sum_of_squares(ffi::raw(x), &raw mut sum) })?;
    Ok(sum)
}

/// 1/(1 - p) with probability 1 - p, else 0, fp32 on the CPU. Each number is a function of `seed` and its place alone.
///
/// # Errors
/// If `probability` is not in [0, 1).
pub fn dropout_mask(shape: &[i64], probability: f64, seed: u64) -> Result<Tensor, TorchError> {
    ensure((0.0..1.0).contains(&probability), || format!("dropout_mask: the probability is {probability}"))?;
    let mask = Tensor::f_empty(shape, (Kind::Float, Device::Cpu)).map_err(|e| TorchError(e.to_string()))?;
    // SAFETY: a live, contiguous fp32 tensor, filled in place.
    ffi::check(unsafe { ffi::xt_dropout_mask(ffi::raw(&mask), probability, seed) })?;
    Ok(mask)
}

/// Hyperparameters of one AdamW step (Loshchilov & Hutter 2019; decoupled weight decay).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// One AdamW step in place, by libtorch's fused kernel. All four tensors have the same shape; `step` counts from 1.
///
/// # Errors
/// If shapes or dtypes differ.
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

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};
    use tolerance::assert_within;

    use crate::ffi;

    /// The kernel that AMD's CPUs take, on any that has the instruction: every bundle of rows, remainders of columns, x in
    /// parts.
    #[test]
    fn products_of_pairs_are_the_formula() {
        // SAFETY: no pointers.
        if unsafe { ffi::xt_has_pairs() } == 0 {
            eprintln!("this CPU has no instruction for pairs of bf16 numbers");
            return;
        }
        for rows in (1..=9).chain([31, 64]) {
            for (width, columns) in [(32, 1), (96, 37), (2112, 14)] {
                let random = |n: i64| Tensor::randn([n, width], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
                let (x, w) = (random(rows), random(columns));
                // SAFETY: two live tensors of one width in, one new tensor out.
                let got =
                    ffi::one(|made| unsafe { ffi::xt_linear_by_pairs(ffi::raw(&x), ffi::raw(&w), made) }).unwrap();
                let exact = x.to_kind(Kind::Double).matmul(&w.to_kind(Kind::Double).tr());
                let error = ((got.to_kind(Kind::Double) - &exact).norm() / exact.norm()).double_value(&[]);
                assert_within!(error, 1e-6, "{rows} rows of {width}, {columns} columns");
            }
        }
    }
}
