//! The loss at the output: log-probabilities and entropies of logits, and their way back in place.
#![expect(unsafe_code, reason = "calls into the C shim")]

use tch::{Kind, Tensor};

use crate::ops::{check_ids, ensure};
use crate::{TorchError, ffi};

/// What [`cross_entropy`] says of each row, fp32, nats.
#[derive(Debug)]
pub struct CrossEntropy {
    /// log Σ exp(logits), [rows].
    pub lse: Tensor,
    /// Log-probability of the target, [rows].
    pub logprobs: Tensor,
    /// Entropy of the distribution, [rows].
    pub entropy: Tensor,
}

/// Log-probabilities and entropies in one pass over `logits` [rows, vocab], fp32; targets: [rows], int64. No gradients:
/// [`cross_entropy_backward`] is the way back.
///
/// # Errors
/// If shapes, dtypes or targets do not fit.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<CrossEntropy, TorchError> {
    check_logits(logits, targets)?;
    // SAFETY: live tensors in, three new ones out; shapes and dtypes were checked, targets lie inside the vocabulary.
    let [lse, logprobs, entropy] =
        ffi::several(|made| unsafe { ffi::xt_cross_entropy(ffi::raw(logits), ffi::raw(targets), made) })?;
    Ok(CrossEntropy { lse, logprobs, entropy })
}

/// The entropies' part in [`cross_entropy_backward`].
#[derive(Clone, Copy, Debug)]
pub struct EntropyTerm<'a> {
    /// [`CrossEntropy::entropy`].
    pub entropy: &'a Tensor,
    /// How much each row's entropy counts, [rows], fp32.
    pub coefficients: &'a Tensor,
}

/// Turns `logits` in place into the gradient of `Σ c[r] · logprob[r] + e[r] · entropy[r]` with respect to them:
/// `c · (onehot(target) - p) - e · p · (log p + entropy)`, p their softmax. `lse` is [`CrossEntropy::lse`], c are the
/// `coefficients`, [rows], fp32, e those of `entropy`, 0 where that is none.
///
/// # Errors
/// If shapes, dtypes or targets do not fit.
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
    // SAFETY: live tensors (or none for the entropy's), shapes and dtypes checked; the first is updated in place.
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
