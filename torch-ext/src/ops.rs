//! Operations on tensors. All of them but [`adamw_step`] are differentiable.
#![expect(unsafe_code, reason = "calls into the C shim")]

use tch::{Kind, Tensor};

use crate::{TorchError, ffi};

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), TorchError> {
    if holds { Ok(()) } else { Err(TorchError(otherwise())) }
}

fn count(n: usize) -> Result<i32, TorchError> {
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

/// `w · x / sqrt(mean(x², last axis) + eps)`, the mean in fp32.
/// x: [.., dim], w: [dim]. One pass on CPU fp32, plain operations elsewhere.
///
/// # Errors
/// If `w` is not [dim].
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor, TorchError> {
    ensure(w.dim() == 1 && w.numel() > 0 && x.size().last() == w.size().first(), || {
        format!("rms_norm: x is {:?}, weight {:?}", x.size(), w.size())
    })?;
    // SAFETY: live tensors in, one new tensor out.
    ffi::one(|made| unsafe { ffi::xt_rms_norm(ffi::raw(x), ffi::raw(w), eps, made) })
}

/// `x · wᵀ + bias`. x: [rows, in]; w: [out, in]; bias: [out]. On a CPU with AVX-512 few rows go to a kernel of our own, and
/// so do rows of bf16 where libtorch has nothing fast for them; sums are fp32. Not where a gradient is wanted.
///
/// # Errors
/// If shapes or dtypes do not fit.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TorchError> {
    linear_into(x, w, bias, false)
}

/// As [`linear`] without bias, the result in fp32.
///
/// # Errors
/// As [`linear`].
pub fn linear_f32(x: &Tensor, w: &Tensor) -> Result<Tensor, TorchError> {
    linear_into(x, w, None, true)
}

fn linear_into(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, wide_result: bool) -> Result<Tensor, TorchError> {
    let fits = x.dim() == 2 && w.dim() == 2 && x.size()[1] == w.size()[1] && x.kind() == w.kind();
    ensure(fits && bias.is_none_or(|b| b.size() == w.size()[..1]), || {
        format!("linear: x is {:?}, w {:?}, bias {:?}", x.size(), w.size(), bias.map(Tensor::size))
    })?;
    let bias = bias.map_or(std::ptr::null_mut(), ffi::raw);
    // SAFETY: live tensors (or none for the bias) in, one new tensor out; the shapes were checked.
    ffi::one(|made| unsafe { ffi::xt_linear(ffi::raw(x), ffi::raw(w), bias, wide_result.into(), made) })
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

/// Rotary position embedding, half-split layout (`x·cos + rotate_half(x)·sin`, as in transformers).
/// x: [tokens, heads, dim]; cos, sin: [tokens, dim/2], fp32, contiguous.
///
/// # Errors
/// If the shapes do not fit.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor, TorchError> {
    let size = x.size();
    let fits = |t: &Tensor| {
        t.size() == [size[0], size[2] / 2] && t.kind() == Kind::Float && t.is_contiguous() && t.device() == x.device()
    };
    ensure(size.len() == 3 && size[2] % 2 == 0 && fits(cos) && fits(sin), || {
        format!("rope: x is {size:?}, cos {:?}, sin {:?} (fp32 [tokens, dim/2])", cos.size(), sin.size())
    })?;
    // SAFETY: live tensors in, one new tensor out; shapes and dtypes were checked.
    ffi::one(|made| unsafe { ffi::xt_rope(ffi::raw(x), ffi::raw(cos), ffi::raw(sin), made) })
}

/// Causal attention inside each sequence of a packed batch; no token sees another sequence.
/// q: [tokens, heads, dim]; k, v: [tokens, kv_heads, dim]; `cu_seqlens`: 0, end of sequence 1, …, tokens.
///
/// # Errors
/// If `cu_seqlens` does not cover the tokens in order, or the shapes do not fit.
pub fn varlen_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &[i64],
    scale: f64,
) -> Result<Tensor, TorchError> {
    let (qs, ks) = (q.size(), k.size());
    ensure(
        qs.len() == 3 && ks.len() == 3 && ks == v.size() && qs[0] == ks[0] && qs[2] == ks[2] && qs[1] % ks[1] == 0,
        || format!("varlen_attention: q is {qs:?}, k {ks:?}, v {:?}", v.size()),
    )?;
    let ordered = cu_seqlens.first() == Some(&0)
        && cu_seqlens.last() == Some(&qs[0])
        && cu_seqlens.windows(2).all(|pair| pair[0] < pair[1]);
    ensure(ordered, || format!("varlen_attention: cu_seqlens {cu_seqlens:?} do not cover {} tokens", qs[0]))?;
    let n = count(cu_seqlens.len())?;
    // SAFETY: live tensors and an array of `n` bounds in, one new tensor out; bounds lie inside the tensors.
    ffi::one(|made| unsafe {
        ffi::xt_varlen_attention(ffi::raw(q), ffi::raw(k), ffi::raw(v), cu_seqlens.as_ptr(), n, scale, made)
    })
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
                assert!(error < 1e-6, "{rows} rows of {width}, {columns} columns: off by {error:.1e}");
            }
        }
    }
}
