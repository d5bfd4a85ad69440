//! Attention over packed batches.
#![expect(unsafe_code, reason = "calls into the C shim")]

use tch::Tensor;

use crate::ops::{count, ensure};
use crate::{TorchError, ffi};

/// Computes causal attention within each sequence of a packed batch; no token attends to another sequence.
/// q: [tokens, heads, dim]; k, v: [tokens, kv_heads, dim]; `cu_seqlens`: 0, end of sequence 1, …, tokens.
///
/// # Errors
/// Returns an error if `cu_seqlens` does not cover the tokens in order, or if the shapes do not match.
pub fn varlen_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &[i64],
    scale: f64,
) -> Result<Tensor, TorchError> {
    let n = check(q, k, v, cu_seqlens)?;
    let (cu, none) = (cu_seqlens.as_ptr(), std::ptr::null());
    // SAFETY: live tensors and an array of `n` bounds in, one new tensor out; the bounds lie inside the tensors.
    ffi::one(|made| unsafe {
        ffi::xt_varlen_attention(ffi::raw(q), ffi::raw(k), ffi::raw(v), cu, n, none, scale, made)
    })
}

/// Computes [`varlen_attention`] for segments that may share a prefix. A token of segment s attends to the tokens of s
/// up to itself, and to all of segment `prefix_of[s]` unless that is -1. The segments that continue a prefix directly
/// follow it, and a prefix does not continue another segment.
///
/// # Errors
/// Returns an error as [`varlen_attention`] does, and if `prefix_of` does not follow these rules.
pub fn prefix_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &[i64],
    prefix_of: &[i64],
    scale: f64,
) -> Result<Tensor, TorchError> {
    let n = check(q, k, v, cu_seqlens)?;
    check_prefixes(prefix_of, cu_seqlens.len() - 1)?;
    let (cu, of) = (cu_seqlens.as_ptr(), prefix_of.as_ptr());
    // SAFETY: live tensors, an array of `n` bounds inside them and one of n - 1 segments in, one new tensor out.
    ffi::one(|made| unsafe { ffi::xt_varlen_attention(ffi::raw(q), ffi::raw(k), ffi::raw(v), cu, n, of, scale, made) })
}

/// Checks the arguments and returns the number of bounds.
fn check(q: &Tensor, k: &Tensor, v: &Tensor, cu_seqlens: &[i64]) -> Result<i32, TorchError> {
    let (qs, ks) = (q.size(), k.size());
    ensure(
        qs.len() == 3 && ks.len() == 3 && ks == v.size() && qs[0] == ks[0] && qs[2] == ks[2] && qs[1] % ks[1] == 0,
        || format!("varlen_attention: q is {qs:?}, k {ks:?}, v {:?}", v.size()),
    )?;
    let ordered = cu_seqlens.first() == Some(&0)
        && cu_seqlens.last() == Some(&qs[0])
        && cu_seqlens.windows(2).all(|pair| pair[0] < pair[1]);
    ensure(ordered, || format!("varlen_attention: cu_seqlens {cu_seqlens:?} do not cover {} tokens", qs[0]))?;
    count(cu_seqlens.len())
}

fn check_prefixes(prefix_of: &[i64], segments: usize) -> Result<(), TorchError> {
    let follows = |s: usize| {
        let before = s.checked_sub(1).map(|b| prefix_of[b]);
        match (prefix_of[s], before) {
            (-1, _) => true,
            (of, Some(-1)) => of == s as i64 - 1,
            (of, before) => Some(of) == before,
        }
    };
    ensure(prefix_of.len() == segments && (0..segments).all(follows), || {
        format!("prefix_attention: prefix_of is {prefix_of:?} for {segments} segments")
    })
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};
    use tolerance::assert_within;

    use crate::{ffi, grad, prefix_attention};

    /// Compares the fallback of devices other than the CPU, in fp64, with the CPU kernel in fp32, which other tests compare
    /// with formulas.
    #[test]
    fn prefixes_by_plain_operations_are_those_of_the_kernel() {
        let cu = [0i64, 5, 12, 13, 33, 36, 50];
        let prefix_of = [-1i64, -1, 1, 1, -1, 4];
        for kv_heads in [4, 2] {
            let random = |heads: i64| Tensor::randn([50, heads, 8], (Kind::Float, Device::Cpu));
            let values = [random(4), random(kv_heads), random(kv_heads)];
            let direction = random(4);
            let run = |plain: bool| {
                // The kernel has no fp64 form: `prefix_attention` would compute it by the fallback.
                let kind = if plain { Kind::Double } else { Kind::Float };
                let [q, k, v] = values.each_ref().map(|t| t.to_kind(kind).copy().set_requires_grad(true));
                let out = if plain {
                    let (cu, n, of) = (cu.as_ptr(), cu.len() as i32, prefix_of.as_ptr());
                    // SAFETY: as in `prefix_attention`.
                    ffi::one(|made| unsafe {
                        ffi::xt_varlen_attention_plain(ffi::raw(&q), ffi::raw(&k), ffi::raw(&v), cu, n, of, 0.3, made)
                    })
                    .unwrap()
                } else {
                    prefix_attention(&q, &k, &v, &cu, &prefix_of, 0.3).unwrap()
                };
                let mut found = grad(&[&out], &[&direction.to_kind(kind)], &[&q, &k, &v]).unwrap();
                found.push(out.detach());
                found
            };
            for (plain, kernel) in run(true).iter().zip(run(false)) {
                let error = ((plain - &kernel).norm() / kernel.norm()).double_value(&[]);
                assert_within!(error, 3e-6, "{kv_heads} key heads");
            }
        }
    }
}
