//! The output loss: log-probabilities and entropies of logits, and their gradient in place.
#![expect(unsafe_code, reason = "calls into the C shim")]

use tch::{Kind, Tensor};

use crate::ops::{check_ids, ensure};
use crate::{TorchError, ffi};

/// The results of [`cross_entropy`] for each row, fp32, in nats.
#[derive(Debug)]
pub struct CrossEntropy {
    /// log Σ exp(logits), `[rows]`.
    pub lse: Tensor,
    /// Log-probability of the target, `[rows]`.
    pub logprobs: Tensor,
    /// Entropy of the distribution, `[rows]`.
    pub entropy: Tensor,
}

/// Computes log-probabilities and entropies in one pass over `logits` [rows, vocab], fp32; targets: `[rows]`, int64. Not
/// differentiable: [`cross_entropy_backward`] computes the gradient.
///
/// # Errors
/// Returns an error if shapes, dtypes or targets do not match.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<CrossEntropy, TorchError> {
    check_logits(logits, targets)?;
    // SAFETY: live tensors in, three new ones out; shapes and dtypes were checked, targets lie inside the vocabulary.
    let [lse, logprobs, entropy] =
        ffi::several(|made| unsafe { ffi::xt_cross_entropy(ffi::raw(logits), ffi::raw(targets), made) })?;
    Ok(CrossEntropy { lse, logprobs, entropy })
}

/// A softmax to sample tokens from; see [`softmax`].
#[derive(Debug)]
pub struct Softmax {
    /// e^(logit - the row's maximum), [rows, vocab], fp32: the unnormalized probabilities.
    pub weights: Tensor,
    most: Vec<f64>,
    log_sum: Vec<f64>,
}

impl Softmax {
    /// Returns the log-probability of a token of row `row` with the given logit, bit-identical to
    /// [`CrossEntropy::logprobs`].
    pub fn logprob(&self, row: usize, logit: f32) -> f32 {
        (f64::from(logit - self.most[row] as f32) - self.log_sum[row]) as f32
    }
}

/// Computes the softmax of each row of `logits`, [rows, vocab], fp32, on the CPU.
///
/// # Errors
/// Returns an error if the shape, dtype or device does not match.
pub fn softmax(logits: &Tensor) -> Result<Softmax, TorchError> {
    let fits = logits.dim() == 2 && logits.kind() == Kind::Float && logits.device() == tch::Device::Cpu;
    ensure(fits && logits.size()[1] > 0 && logits.is_contiguous(), || {
        format!("softmax: logits are {:?} {:?}, expected contiguous fp32 [rows, vocab]", logits.size(), logits.kind())
    })?;
    // SAFETY: a live tensor in, two new ones out; its shape and dtype were checked.
    let [weights, sums] = ffi::several(|made| unsafe { ffi::xt_softmax(ffi::raw(logits), made) })?;
    let doubles = |row: i64| Vec::<f64>::try_from(sums.get(row)).map_err(TorchError::from);
    Ok(Softmax { weights, most: doubles(0)?, log_sum: doubles(1)? })
}

/// The entropy term of [`cross_entropy_backward`].
#[derive(Clone, Copy, Debug)]
pub struct EntropyTerm<'a> {
    /// [`CrossEntropy::entropy`].
    pub entropy: &'a Tensor,
    /// The coefficient of each row's entropy, `[rows]`, fp32.
    pub coefficients: &'a Tensor,
}

/// Replaces `logits` in place with the gradient of `Σ c[r] · logprob[r] + e[r] · entropy[r]` with respect to them:
/// `c · (onehot(target) - p) - e · p · (log p + entropy)`, where p is their softmax. `lse` is [`CrossEntropy::lse`]; c
/// is `coefficients`, `[rows]`, fp32; e is the coefficients of `entropy`, 0 without an entropy term.
///
/// # Errors
/// Returns an error if shapes, dtypes or targets do not match.
pub fn cross_entropy_backward(
    logits: &mut Tensor,
    targets: &Tensor,
    lse: &Tensor,
    coefficients: &Tensor,
    entropy: Option<EntropyTerm<'_>>,
) -> Result<(), TorchError> {
    check_logits(logits, targets)?;
    let of_entropy = entropy.map(|e| [("entropy", e.entropy), ("entropy's coefficients", e.coefficients)]);
    for (name, t) in [("lse", lse), ("coefficients", coefficients)].into_iter().chain(of_entropy.into_iter().flatten())
    {
        let fits = t.size() == targets.size() && t.kind() == Kind::Float && t.is_contiguous();
        ensure(fits, || format!("cross_entropy_backward: {name} is {:?} {:?}", t.size(), t.kind()))?;
    }
    // SAFETY: live tensors (or null for the entropy term), shapes and dtypes checked; the first is updated in place.
    ffi::check(unsafe {
        ffi::xt_cross_entropy_backward(
            ffi::raw(logits),
            ffi::raw(targets),
            ffi::raw(lse),
            ffi::raw(coefficients),
            ffi::raw_or_null(entropy.map(|e| e.entropy)),
            ffi::raw_or_null(entropy.map(|e| e.coefficients)),
        )
    })
}

fn check_logits(logits: &Tensor, targets: &Tensor) -> Result<(), TorchError> {
    let fits = logits.dim() == 2 && logits.kind() == Kind::Float && logits.is_contiguous() && logits.size()[1] > 0;
    let ids = targets.kind() == Kind::Int64 && targets.is_contiguous() && targets.size() == logits.size()[..1];
    ensure(fits && ids, || format!("cross_entropy: logits are {:?}, targets {:?}", logits.size(), targets.size()))?;
    check_ids("cross_entropy", targets, logits.size()[1])
}
