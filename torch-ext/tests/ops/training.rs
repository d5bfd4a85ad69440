//! Tests of what training needs beyond the forward pass: bf16 gradients, gradient buffers, the loss, dropout.

use tch::{Device, Kind, Tensor};
use tolerance::assert_within;
use torch_ext::{EntropyTerm, HeadNorms, Weight};

use crate::{close, distance, leaf, normal, rotations};

/// Returns the gradients of `f`'s output along one direction with respect to each input, in `kind`.
fn gradients(inputs: &[Tensor], kind: Kind, f: &dyn Fn(&[Tensor]) -> Tensor) -> Vec<Tensor> {
    let leaves: Vec<Tensor> = inputs.iter().map(|t| leaf(&t.to_kind(Kind::BFloat16), kind)).collect();
    let output = f(&leaves);
    assert_eq!(output.kind(), kind);
    let direction = normal(99, &output.size()).to_kind(Kind::BFloat16).to_kind(kind);
    torch_ext::grad(&[&output], &[&direction], &leaves.iter().collect::<Vec<_>>()).unwrap()
}

/// Compares each operation in bf16 with itself in fp32, which other tests compare with formulas: gradients agree within
/// the bf16 rounding of a few stored values.
#[test]
pub fn gradients_in_bf16_are_those_of_fp32_rounded() {
    let (cos, sin) = rotations(&(0..40).collect::<Vec<_>>(), 8);
    let cu = [0, 13, 40];
    type Operation<'a> = (&'a str, Vec<Tensor>, Box<dyn Fn(&[Tensor]) -> Tensor + 'a>);
    let operations: Vec<Operation<'_>> = vec![
        (
            "rms_norm",
            vec![normal(1, &[40, 64]), normal(2, &[64]) + 1.0],
            Box::new(|t| torch_ext::rms_norm(&t[0], &t[1], 1e-6).unwrap()),
        ),
        ("swiglu", vec![normal(3, &[40, 96])], Box::new(|t| torch_ext::swiglu(&t[0]).unwrap())),
        (
            "swiglu_linear",
            vec![normal(16, &[40, 96]), normal(17, &[64, 48]), normal(18, &[64])],
            Box::new(|t| torch_ext::swiglu_linear(&t[0], &t[1], Some((&t[2]).into())).unwrap()),
        ),
        (
            "linear",
            vec![normal(4, &[40, 64]), normal(5, &[96, 64]), normal(6, &[96])],
            Box::new(|t| torch_ext::linear(&t[0], &t[1], Some((&t[2]).into())).unwrap()),
        ),
        (
            "qk_norm_rope",
            vec![normal(7, &[40, 8, 16]), normal(8, &[16]) + 1.0, normal(9, &[16]) + 1.0],
            Box::new(|t| {
                let norms = HeadNorms { q: (&t[1]).into(), k: (&t[2]).into(), eps: 1e-6 };
                let parts = torch_ext::qk_norm_rope(&t[0], 4, Some(norms), &cos, &sin).unwrap();
                Tensor::cat(&parts.map(|p| p.reshape([40, -1])), 1)
            }),
        ),
        (
            "attention",
            vec![normal(10, &[40, 4, 16]), normal(11, &[40, 2, 16]), normal(12, &[40, 2, 16])],
            Box::new(|t| torch_ext::varlen_attention(&t[0], &t[1], &t[2], &cu, 0.25).unwrap()),
        ),
        (
            "attention with a shared prefix",
            vec![normal(13, &[40, 4, 16]), normal(14, &[40, 2, 16]), normal(15, &[40, 2, 16])],
            Box::new(|t| {
                torch_ext::prefix_attention(&t[0], &t[1], &t[2], &[0, 13, 14, 40], &[-1, 0, 0], 0.25).unwrap()
            }),
        ),
    ];
    for (what, inputs, f) in operations {
        let exact = gradients(&inputs, Kind::Float, &*f);
        for (i, (got, want)) in gradients(&inputs, Kind::BFloat16, &*f).iter().zip(&exact).enumerate() {
            assert_eq!(got.kind(), Kind::BFloat16);
            close(&format!("{what}, input {i}"), got, want, 1.2e-2);
        }
    }
}

/// With buffers, weight gradients are added to the buffer's contents, and none of them reaches autograd.
#[test]
pub fn weights_with_buffers_have_their_gradients_added_there() {
    let (cos, sin) = rotations(&(0..30).collect::<Vec<_>>(), 4);
    for (kind, buffer_kind, tolerance) in
        [(Kind::Float, Kind::Float, 1e-5), (Kind::BFloat16, Kind::Float, 8e-3), (Kind::BFloat16, Kind::BFloat16, 2e-2)]
    {
        let to = |t: Tensor| t.to_kind(Kind::BFloat16).to_kind(kind);
        let x = to(normal(1, &[30, 64]));
        let weights =
            [normal(2, &[64]) + 1.0, normal(3, &[48, 64]), normal(4, &[48]), normal(5, &[8]), normal(6, &[8])];
        let weights = weights.map(to);
        let run = |weights: &[Weight<'_>], x: &Tensor| {
            let h = torch_ext::rms_norm(x, weights[0], 1e-6).unwrap();
            let y = torch_ext::linear(&h, weights[1], Some(weights[2])).unwrap();
            let norms = HeadNorms { q: weights[3], k: weights[4], eps: 1e-6 };
            let parts = torch_ext::qk_norm_rope(&y.view([30, 6, 8]), 4, Some(norms), &cos, &sin).unwrap();
            Tensor::cat(&parts.map(|p| p.reshape([30, -1])), 1)
        };
        let direction = to(normal(7, &[30, 48]));
        let leaves: Vec<Tensor> = weights.iter().chain([&x]).map(|t| leaf(t, kind)).collect();
        let by_autograd = {
            let weights: Vec<Weight<'_>> = leaves[..5].iter().map(Weight::from).collect();
            let y = run(&weights, &leaves[5]);
            torch_ext::grad(&[&y], &[&direction], &leaves.iter().collect::<Vec<_>>()).unwrap()
        };
        let buffers: Vec<Tensor> = weights.iter().map(|w| Tensor::ones(w.size(), (buffer_kind, Device::Cpu))).collect();
        let buffered: Vec<Weight<'_>> =
            weights.iter().zip(&buffers).map(|(value, grad)| Weight { value, grad: Some(grad) }).collect();
        let input = leaf(&x, kind);
        let y = run(&buffered, &input);
        let dx = torch_ext::grad(&[&y], &[&direction], &[&input]).unwrap().remove(0);
        close("dx", &dx, &by_autograd[5], tolerance);
        for (i, (buffer, want)) in buffers.iter().zip(&by_autograd).enumerate() {
            let added = buffer.to_kind(Kind::Double) - 1.0;
            close(
                &format!("{kind:?} into {buffer_kind:?}, weight {i}"),
                &added,
                &want.to_kind(Kind::Double),
                tolerance,
            );
        }
    }
}

#[test]
pub fn cross_entropy_is_its_formula() {
    for (rows, vocab, wide) in [(1, 1, 1.0), (7, 33, 1.0), (5, 3000, 10.0), (3, 2048, 80.0)] {
        let logits = normal(1, &[rows, vocab]) * wide;
        let targets = Tensor::from_slice(&(0..rows).map(|r| r * 7919 % vocab).collect::<Vec<_>>());
        let c = normal(2, &[rows]);
        let exact = leaf(&logits, Kind::Double);
        let logprobs = exact.log_softmax(-1, Kind::Double);
        let picked = logprobs.gather(-1, &targets.unsqueeze(-1), false).squeeze_dim(-1);
        let entropy = -(logprobs.exp() * &logprobs).sum_dim_intlist(&[-1i64][..], false, Kind::Double);
        let want = {
            let kept = leaf(&logits, Kind::Double);
            let picked = kept.log_softmax(-1, Kind::Double).gather(-1, &targets.unsqueeze(-1), false).squeeze_dim(-1);
            torch_ext::grad(&[&picked], &[&c.to_kind(Kind::Double)], &[&kept]).unwrap().remove(0)
        };

        let found = torch_ext::cross_entropy(&logits, &targets).unwrap();
        let what = format!("{rows} × {vocab}");
        let near = |what: &str, a: &Tensor, b: &Tensor| {
            let most = (a.to_kind(Kind::Double) - b.detach()).abs().max().double_value(&[]);
            assert_within!(most, 6e-5, "{what}");
        };
        near(&format!("{what}, logprobs"), &found.logprobs, &picked);
        near(&format!("{what}, entropy"), &found.entropy, &entropy);
        let mut gradient = logits.copy();
        torch_ext::cross_entropy_backward(&mut gradient, &targets, &found.lse, &c, None).unwrap();
        near(&format!("{what}, gradient"), &gradient, &want);

        let e = normal(3, &[rows]);
        let wide = |t: &Tensor| t.to_kind(Kind::Double);
        let want = torch_ext::grad(&[&picked, &entropy], &[&wide(&c), &wide(&e)], &[&exact]).unwrap().remove(0);
        let mut gradient = logits.copy();
        let term = EntropyTerm { entropy: &found.entropy, coefficients: &e };
        torch_ext::cross_entropy_backward(&mut gradient, &targets, &found.lse, &c, Some(term)).unwrap();
        near(&format!("{what}, gradient with entropy"), &gradient, &want);
    }
}

#[test]
pub fn products_of_gradients_are_their_formulas() {
    for kind in [Kind::Float, Kind::BFloat16] {
        // 9000 outputs span several chains (`csrc/products.cpp`).
        for (rows, out, columns) in [(3, 5, 8), (70, 9000, 1000)] {
            let (dy, w, x) = (normal(1, &[rows, out]), normal(2, &[out, columns]), normal(3, &[rows, columns]));
            let (dy, w, x) = (dy.to_kind(kind), w.to_kind(kind), x.to_kind(kind));
            let wide = |t: &Tensor| t.to_kind(Kind::Double);
            let tolerance = if kind == Kind::Float { 1e-5 } else { 8e-3 };
            let dx = torch_ext::input_gradient(&dy, &w).unwrap();
            assert_eq!(dx.kind(), kind);
            close("input", &dx, &wide(&dy).matmul(&wide(&w)), tolerance);
            let grad = Tensor::ones([out, columns], (kind, Device::Cpu));
            torch_ext::add_weight_gradient(&grad, &dy, &x).unwrap();
            close("weight", &grad, &(wide(&dy).tr().matmul(&wide(&x)) + 1.0), tolerance);
        }
    }
}

#[test]
pub fn tokens_that_occur_twice_add_up_in_the_embedding() {
    for (kind, buffer) in [(Kind::Float, Kind::Float), (Kind::BFloat16, Kind::Float), (Kind::BFloat16, Kind::BFloat16)]
    {
        let dy = normal(1, &[5, 70]).to_kind(kind);
        let ids = Tensor::from_slice(&[3i64, 0, 3, 2, 3]);
        let grad = Tensor::ones([4, 70], (buffer, Device::Cpu));
        torch_ext::embedding_backward(&dy, &ids, &grad).unwrap();
        let want = Tensor::ones([4, 70], (Kind::Double, Device::Cpu)).index_add(0, &ids, &dy.to_kind(Kind::Double));
        close(&format!("{kind:?} into {buffer:?}"), &grad, &want, if buffer == Kind::Float { 1e-6 } else { 8e-3 });
    }
}

/// Covers the fallback of devices without custom loops (fp16 uses it on the CPU): 3004 additions of 1, which a bf16 sum
/// of 256 or more would each absorb.
#[test]
pub fn a_token_that_occurs_often_loses_nothing_in_bf16() {
    let (dy, ids) =
        (Tensor::ones([3005, 8], (Kind::Half, Device::Cpu)), Tensor::ones([3005], (Kind::Int64, Device::Cpu)));
    let _ = ids.get(1000).fill_(2);
    let grad = Tensor::zeros([4, 8], (Kind::BFloat16, Device::Cpu));
    torch_ext::embedding_backward(&dy, &ids, &grad).unwrap();
    let rows: Vec<f64> = (0..4).map(|row| grad.double_value(&[row, 7])).collect();
    // 3008 is the bf16 value nearest to 3004.
    assert_eq!(rows, [0.0, 3008.0, 1.0, 0.0]);
    for kind in [Kind::Half, Kind::Double] {
        let dy = normal(1, &[5, 70]).to_kind(kind);
        let ids = Tensor::from_slice(&[3i64, 0, 3, 2, 3]);
        let grad = Tensor::ones([4, 70], (Kind::Float, Device::Cpu));
        torch_ext::embedding_backward(&dy, &ids, &grad).unwrap();
        let want = Tensor::ones([4, 70], (Kind::Double, Device::Cpu)).index_add(0, &ids, &dy.to_kind(Kind::Double));
        close(&format!("{kind:?}"), &grad, &want, 1e-6);
    }
}

/// 200,000 elements: the dropped share lies within 4.9 standard deviations of the probability (false alarm rate below
/// 1e-6), and neighboring elements are dropped independently (the same bound on pairs).
#[test]
pub fn dropout_leaves_out_its_share() {
    let n = 200_000.0f64;
    for p in [0.05, 0.5] {
        let mask = torch_ext::dropout_mask(&[400, 500], p, 17).unwrap();
        assert_eq!(mask, torch_ext::dropout_mask(&[400, 500], p, 17).unwrap());
        assert!(distance(&mask, &torch_ext::dropout_mask(&[400, 500], p, 18).unwrap()) > 0.1);
        let out = mask.eq(0.0).to_kind(Kind::Double).view([-1]);
        let share = |t: &Tensor| t.mean(Kind::Double).double_value(&[]);
        let close_to =
            |share: f64, p: f64| assert!((share - p).abs() < 4.9 * (p * (1.0 - p) / n).sqrt(), "{share}, {p}");
        close_to(share(&out), p);
        // Pairs overlap, which increases their deviation by a factor below √3.
        let pairs = out.narrow(0, 0, 199_999) * out.narrow(0, 1, 199_999);
        assert!((share(&pairs) - p * p).abs() < 4.9 * 1.8 * (p * p / n).sqrt());
        let kept = mask.max().double_value(&[]);
        assert_within!(kept - 1.0 / (1.0 - p), 1e-6);
    }
    assert_eq!(torch_ext::dropout_mask(&[9], 0.0, 1).unwrap(), Tensor::ones([9], (Kind::Float, Device::Cpu)));
}

/// libtorch's own norm loses 2e-4 over four million elements.
#[test]
pub fn squares_of_many_numbers_add_up() {
    for n in [0, 1, 1023, 1025, 5_000_000] {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
            let x = Tensor::arange(n, (Kind::Double, Device::Cpu)).sin().to_kind(kind);
            let wide = x.to_kind(Kind::Double);
            let expected = (&wide * &wide).sum(Kind::Double).double_value(&[]);
            let got = torch_ext::sum_of_squares(&x).unwrap();
            assert_within!(got - expected, 1e-6 * expected, "{n} numbers of {kind:?}: {got}, exactly {expected}");
        }
    }
}
