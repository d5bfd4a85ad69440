//! Tests of RMSNorm, SwiGLU, RoPE and linear layers.

use tch::{Kind, Tensor};
use tolerance::assert_within;
use torch_ext::HeadNorms;

use crate::{close, forward_and_gradients_agree, leaf, normal, rotations};

const EPS: f64 = 1e-3;

fn rms_norm_formula(x: &Tensor, w: &Tensor) -> Tensor {
    let mean = (x * x).mean_dim(&[-1i64][..], true, x.kind());
    x / (mean + EPS).sqrt() * w
}

/// Computes `x·cos + rotate_half(x)·sin` with cos and sin repeated over both halves, as in transformers.
fn rope_formula(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let half = x.size()[2] / 2;
    let wide = |t: &Tensor| Tensor::cat(&[t, t], -1).unsqueeze(1).to_kind(x.kind());
    let rotated = Tensor::cat(&[-x.narrow(-1, half, half), x.narrow(-1, 0, half)], -1);
    x * wide(cos) + rotated * wide(sin)
}

#[test]
pub fn rms_norm_is_its_formula() {
    // Widths next to and equal to the vector lengths; 700 rows split the weight's gradient into several parts.
    for shape in [vec![1, 3], vec![5, 7], vec![700, 96], vec![33, 4, 16]] {
        let dim = shape[shape.len() - 1];
        let inputs = [normal(1, &shape) * 3.0, normal(2, &[dim]) + 1.0];
        forward_and_gradients_agree(
            &format!("rms_norm of {shape:?}"),
            &inputs,
            |t| torch_ext::rms_norm(&t[0], &t[1], EPS).unwrap(),
            |t| rms_norm_formula(&t[0], &t[1]),
        );
    }
}

#[test]
pub fn rms_norm_of_a_view_is_that_of_its_copy() {
    let inputs = [normal(3, &[40, 6, 16]), normal(4, &[16]) + 1.0];
    forward_and_gradients_agree(
        "rms_norm of the middle heads",
        &inputs,
        |t| torch_ext::rms_norm(&t[0].narrow(1, 2, 3), &t[1], EPS).unwrap(),
        |t| rms_norm_formula(&t[0].narrow(1, 2, 3), &t[1]),
    );
}

#[test]
pub fn rms_norm_in_bfloat16_rounds_only_what_is_stored() {
    let (x, w) = (normal(5, &[20, 64]).to_kind(Kind::BFloat16), (normal(6, &[64]) + 1.0).to_kind(Kind::BFloat16));
    let y = torch_ext::rms_norm(&x, &w, EPS).unwrap();
    assert_eq!(y.kind(), Kind::BFloat16);
    // Two roundings to 8 bits of mantissa: at most 2^-8 each.
    close("bf16", &y, &rms_norm_formula(&x.to_kind(Kind::Double), &w.to_kind(Kind::Double)), 8e-3);
}

#[test]
pub fn swiglu_is_its_formula() {
    for (tokens, width) in [(1, 1), (9, 5), (500, 48)] {
        forward_and_gradients_agree(
            &format!("swiglu of {tokens} × {width}"),
            &[normal(7, &[tokens, 2 * width]) * 3.0],
            |t| torch_ext::swiglu(&t[0]).unwrap(),
            |t| {
                let (gate, up) = (t[0].narrow(1, 0, width), t[0].narrow(1, width, width));
                &gate * gate.sigmoid() * up
            },
        );
    }
}

#[test]
pub fn swiglu_before_a_product_is_its_formula() {
    for (tokens, width, out) in [(1, 1, 1), (9, 5, 7), (200, 48, 32)] {
        forward_and_gradients_agree(
            &format!("swiglu and product of {tokens} × {width} × {out}"),
            &[normal(7, &[tokens, 2 * width]) * 3.0, normal(8, &[out, width]), normal(9, &[out])],
            |t| torch_ext::swiglu_linear(&t[0], &t[1], Some((&t[2]).into())).unwrap(),
            |t| {
                let (gate, up) = (t[0].narrow(1, 0, width), t[0].narrow(1, width, width));
                (&gate * gate.sigmoid() * up).matmul(&t[1].tr()) + &t[2]
            },
        );
    }
}

/// exp overflows in fp32 beyond 88.7: silu must still be 0 or the gate itself, with slope 0 or 1.
#[test]
pub fn swiglu_holds_for_gates_of_any_size() {
    let gates = [-1e30f32, -1e4, -200.0, -104.0, -90.0, -88.0, -60.0, 0.0, 60.0, 88.0, 90.0, 104.0, 200.0, 1e4, 1e30];
    // Wide rows, so that the vector code runs and not only its scalar tail.
    let width = 16 * gates.len() as i64;
    let gate = Tensor::from_slice(&gates).repeat([16]);
    let input = Tensor::cat(&[gate.shallow_clone(), Tensor::full(width, 0.5, (Kind::Float, gate.device()))], 0);
    let input = leaf(&input.unsqueeze(0), Kind::Float);
    let output = torch_ext::swiglu(&input).unwrap();
    let ones = output.ones_like();
    let gradient = torch_ext::grad(&[&output], &[&ones], &[&input]).unwrap().remove(0);
    let wide = gate.to_kind(Kind::Double);
    let sigmoid = wide.sigmoid();
    let silu = &wide * &sigmoid;
    let slope = &sigmoid + &silu * (sigmoid.ones_like() - &sigmoid);
    for (what, actual, expected) in [
        ("output", output.view([-1]), &silu * 0.5),
        ("gradient of gate", gradient.narrow(1, 0, width).reshape([-1]), slope * 0.5),
        ("gradient of up", gradient.narrow(1, width, width).reshape([-1]), silu.shallow_clone()),
    ] {
        for (i, gate) in gates.iter().enumerate() {
            let (a, e) = (actual.double_value(&[i as i64]), expected.double_value(&[i as i64]));
            assert_within!(a - e, 1e-5 * e.abs() + 1e-30, "{what} at gate {gate}: {a}, expected {e}");
        }
        assert!(bool::try_from(actual.isfinite().all()).unwrap(), "{what} is not finite in the vector part");
    }
}

/// Returns queries, keys and values, each flattened, side by side.
fn heads_formula(
    qkv: &Tensor,
    (heads, kv): (i64, i64),
    norms: Option<(&Tensor, &Tensor)>,
    (cos, sin): (&Tensor, &Tensor),
) -> Tensor {
    let (mut q, mut k) = (qkv.narrow(1, 0, heads), qkv.narrow(1, heads, kv));
    if let Some((q_norm, k_norm)) = norms {
        (q, k) = (rms_norm_formula(&q, q_norm), rms_norm_formula(&k, k_norm));
    }
    let flat = |t: Tensor| t.reshape([qkv.size()[0], -1]);
    let v = qkv.narrow(1, heads + kv, kv);
    Tensor::cat(&[flat(rope_formula(&q, cos, sin)), flat(rope_formula(&k, cos, sin)), flat(v)], 1)
}

fn heads_of(qkv: &Tensor, heads: i64, norms: Option<HeadNorms<'_>>, (cos, sin): (&Tensor, &Tensor)) -> Tensor {
    let parts = torch_ext::qk_norm_rope(qkv, heads, norms, cos, sin).unwrap();
    Tensor::cat(&parts.map(|t| t.reshape([qkv.size()[0], -1])), 1)
}

#[test]
pub fn heads_are_their_formula() {
    for (tokens, heads, kv, dim) in [(1, 1, 1, 2), (13, 3, 1, 6), (300, 4, 2, 32)] {
        let positions: Vec<i64> = (0..tokens).map(|t| t * 7 % 50).collect();
        let (cos, sin) = rotations(&positions, dim / 2);
        let what = format!("{tokens} tokens, {heads} + {kv} heads of {dim}");
        let inputs = [normal(8, &[tokens, heads + 2 * kv, dim]), normal(9, &[dim]) + 1.0, normal(10, &[dim]) + 1.0];
        forward_and_gradients_agree(
            &format!("{what}, plain"),
            &inputs[..1],
            |t| heads_of(&t[0], heads, None, (&cos, &sin)),
            |t| heads_formula(&t[0], (heads, kv), None, (&cos, &sin)),
        );
        forward_and_gradients_agree(
            &format!("{what}, normed"),
            &inputs,
            |t| {
                let norms = HeadNorms { q: (&t[1]).into(), k: (&t[2]).into(), eps: EPS };
                heads_of(&t[0], heads, Some(norms), (&cos, &sin))
            },
            |t| heads_formula(&t[0], (heads, kv), Some((&t[1], &t[2])), (&cos, &sin)),
        );
    }
}

/// Other dtypes fall back to libtorch's own operations.
#[test]
pub fn other_kinds_agree_with_the_formulas() {
    let x = normal(10, &[11, 4, 8]).to_kind(Kind::Double);
    let (cos, sin) = rotations(&(0..11).collect::<Vec<_>>(), 4);
    let turned = heads_of(&x, 2, None, (&cos, &sin));
    assert_eq!(turned.kind(), Kind::Double);
    close("qk_norm_rope", &turned, &heads_formula(&x, (2, 1), None, (&cos, &sin)), 1e-12);
    let gate_up = normal(11, &[11, 10]).to_kind(Kind::Double);
    let (gate, up) = (gate_up.narrow(1, 0, 5), gate_up.narrow(1, 5, 5));
    close("swiglu", &torch_ext::swiglu(&gate_up).unwrap(), &(&gate * gate.sigmoid() * up), 1e-12);
}

/// 1 to 13 rows and odd numbers of columns cover every tile height and remainder; 2112 columns of x span several depth
/// parts. On a CPU with AMX, 65 and 600 rows of bf16 go to libtorch.
#[test]
pub fn linear_is_its_formula() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for rows in (1..=13).chain([64, 65, 600]) {
            for (width, columns) in [(32, 1), (64, 6), (96, 131), (2112, 14), (40, 5)] {
                let seed = (rows * 1000 + columns) as u64;
                let x = normal(seed, &[rows, width]).to_kind(kind);
                let w = normal(seed + 1, &[columns, width]).to_kind(kind);
                let bias = normal(seed + 2, &[columns]).to_kind(kind);
                let wide = |t: &Tensor| t.to_kind(Kind::Double);
                let exact = wide(&x).matmul(&wide(&w).tr());
                let what = format!("{rows} rows of {width}, {columns} columns, {kind:?}");
                // A chain of 2112 roundings at 2^-24 of the sum so far; in bf16, two roundings at 2^-9 of results that
                // may cancel.
                let tolerance = if kind == Kind::Float { 4e-6 } else { 1.2e-2 };
                close(&what, &torch_ext::linear_f32(&x, &w).unwrap(), &exact, tolerance);
                let with_bias = torch_ext::linear(&x, &w, Some((&bias).into())).unwrap();
                assert_eq!(with_bias.kind(), kind);
                close(&what, &with_bias, &(exact + wide(&bias)), tolerance);
            }
        }
    }
}

#[test]
pub fn linear_has_gradients_where_they_are_wanted() {
    let x = normal(1, &[3, 64]).set_requires_grad(true);
    let w = normal(2, &[5, 64]).set_requires_grad(true);
    let y = torch_ext::linear(&x, &w, None).unwrap();
    let gradients = torch_ext::grad(&[&y], &[&y.ones_like()], &[&x, &w]).unwrap();
    close(
        "dx",
        &gradients[0],
        &w.sum_dim_intlist(&[0][..], false, Kind::Float).unsqueeze(0).expand([3, 64], false),
        1e-6,
    );
    close(
        "dw",
        &gradients[1],
        &x.sum_dim_intlist(&[0][..], false, Kind::Float).unsqueeze(0).expand([5, 64], false),
        1e-6,
    );
}

/// The bf16 kernels round in the same places as libtorch's separate operations, so results differ at most where the
/// order of a sum decides a rounding.
#[test]
pub fn bf16_kernels_round_as_separate_operations_do() {
    let to = |t: Tensor| t.to_kind(Kind::BFloat16);
    let same = |what: &str, fast: Tensor, slow: Tensor| {
        assert_eq!(slow.kind(), Kind::BFloat16);
        let differ = fast.ne_tensor(&slow).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
        assert_within!(differ, 1e-3, "{what}: share of the numbers that differ");
        close(what, &fast, &slow.to_kind(Kind::Double), 1e-3);
    };
    // libtorch's own operations, each of which rounds its result.
    let norm = |x: &Tensor, w: &Tensor, eps: f64| {
        let wide = x.to_kind(Kind::Float);
        let root = (wide.pow_tensor_scalar(2).mean_dim(&[-1i64][..], true, Kind::Float) + eps).rsqrt();
        to(wide * root) * w
    };
    let qkv = to(normal(1, &[37, 6, 48]) * 3.0);
    let (w, second) = (to(normal(2, &[48]) + 1.0), to(normal(5, &[48]) + 1.0));
    let part = qkv.narrow(1, 1, 4);
    same("rms_norm", torch_ext::rms_norm(&part, &w, 1e-6).unwrap(), norm(&part, &w, 1e-6));
    let rows = to(normal(3, &[37, 96]) * 2.0);
    let (gate, up) = (rows.narrow(1, 0, 48), rows.narrow(1, 48, 48));
    same("swiglu", torch_ext::swiglu(&rows).unwrap(), gate.silu() * up);
    let angles = normal(4, &[37, 24]);
    let (cos, sin) = (angles.cos(), angles.sin());
    let turn = |x: &Tensor| {
        let (c, s) = (to(cos.shallow_clone()).unsqueeze(1), to(sin.shallow_clone()).unsqueeze(1));
        let (a, b) = (x.narrow(2, 0, 24), x.narrow(2, 24, 24));
        Tensor::cat(&[&a * &c - &b * &s, &b * &c + &a * &s], 2)
    };
    let norms = HeadNorms { q: (&w).into(), k: (&second).into(), eps: 1e-6 };
    let [q, k, v] = torch_ext::qk_norm_rope(&qkv, 4, Some(norms), &cos, &sin).unwrap();
    same("queries", q, turn(&norm(&qkv.narrow(1, 0, 4), &w, 1e-6)));
    same("keys", k, turn(&norm(&qkv.narrow(1, 4, 1), &second, 1e-6)));
    same("values", v, qkv.narrow(1, 5, 1));
}
