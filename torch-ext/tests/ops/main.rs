//! Compares every operation of this crate with its formula, written in float64 with plain libtorch operations.

mod adamw;
mod attention;
mod exact;
mod gpu;
mod invalid_inputs;
mod layers;
mod pointwise;
mod training;

use tch::{Device, Kind, Tensor};
use tolerance::assert_within;

/// Returns values from about N(0, 1) (a sum of twelve uniforms), [shape], fp32. They depend only on `seed`: libtorch's
/// own generator is global, and tests run in parallel.
fn normal(seed: u64, shape: &[i64]) -> Tensor {
    let numel: i64 = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let values: Vec<f32> = (0..numel).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Returns the same values as a leaf that requires a gradient, in `kind`.
fn leaf(value: &Tensor, kind: Kind) -> Tensor {
    value.detach().to_kind(kind).copy().set_requires_grad(true)
}

/// Returns |actual - expected| / |expected|, Euclidean; infinite if any value is not finite.
fn distance(actual: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(actual.size(), expected.size());
    let (a, e) = (actual.detach().to_kind(Kind::Double), expected.detach().to_kind(Kind::Double));
    let d = ((a - &e).norm() / (e.norm() + 1e-300)).double_value(&[]);
    if d.is_finite() { d } else { f64::INFINITY }
}

#[track_caller]
fn close(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_within!(distance(actual, expected), tolerance, "{what}: relative distance");
}

/// Asserts that two tensors of one dtype have the same bits.
#[track_caller]
fn same_bits(what: &str, actual: &Tensor, expected: &Tensor) {
    assert_eq!((actual.size(), actual.kind()), (expected.size(), expected.kind()), "{what}");
    let as_integers =
        |t: &Tensor| t.contiguous().view_dtype(if t.kind() == Kind::BFloat16 { Kind::Int16 } else { Kind::Int });
    let differ = as_integers(actual).not_equal_tensor(&as_integers(expected)).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(
        differ,
        0,
        "{what}: {differ} of {} elements differ, relative distance {:.1e}",
        actual.numel(),
        distance(actual, expected)
    );
}

/// Runs `fused` on fp32 leaves and `formula` on float64 leaves of the same `inputs`. Compares the outputs and, for one
/// random direction of the output, the gradients of every input.
fn forward_and_gradients_agree(
    what: &str,
    inputs: &[Tensor],
    fused: impl Fn(&[Tensor]) -> Tensor,
    formula: impl Fn(&[Tensor]) -> Tensor,
) {
    let run = |kind: Kind, f: &dyn Fn(&[Tensor]) -> Tensor| {
        let leaves: Vec<Tensor> = inputs.iter().map(|t| leaf(t, kind)).collect();
        let output = f(&leaves);
        let direction = normal(99, &output.size()).to_kind(kind);
        let wanted: Vec<&Tensor> = leaves.iter().collect();
        let gradients = torch_ext::grad(&[&output], &[&direction], &wanted).unwrap();
        (output, gradients)
    };
    let (output, gradients) = run(Kind::Float, &fused);
    let (expected, expected_gradients) = run(Kind::Double, &formula);
    close(&format!("{what}, output"), &output, &expected, 1e-5);
    for (i, (g, e)) in gradients.iter().zip(&expected_gradients).enumerate() {
        close(&format!("{what}, gradient of input {i}"), g, e, 1e-5);
    }
}

/// Returns the RoPE angles at `positions`: cos and sin, [tokens, half], fp32.
fn rotations(positions: &[i64], half: i64) -> (Tensor, Tensor) {
    let frequencies = (Tensor::arange(half, (Kind::Double, Device::Cpu)) * -1.7).exp();
    let angles = Tensor::from_slice(positions).to_kind(Kind::Double).unsqueeze(1) * frequencies.unsqueeze(0);
    (angles.cos().to_kind(Kind::Float), angles.sin().to_kind(Kind::Float))
}
