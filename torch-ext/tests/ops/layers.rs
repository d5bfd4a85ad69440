//! Compares all layers in one call with the same layers as single operations.

use tch::{Device, Kind, Tensor};
use torch_ext::{
    BLOCK, HeadNorms, PackedWeight, PagedLayer, PagedQueries, Slots, Weight, most_paged_tokens, paged_layers,
};

use crate::{normal, rotations, same_bits};

const HIDDEN: i64 = 96;
const WIDTH: i64 = 160;
const DIM: i64 = 32;
const EPS: f64 = 1e-5;
const SCALE: f64 = 0.2;

/// The properties that vary between model families.
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: i64,
    kv_heads: i64,
    qk_norm: bool,
    biases: bool,
    kind: Kind,
}

struct Layer {
    matrices: [Tensor; 4],
    packed: [PackedWeight; 4],
    norms: [Tensor; 4],
    biases: [Tensor; 4],
    keys: Tensor,
    values: Tensor,
}

impl Layer {
    fn new(seed: u64, shape: Shape, blocks: i64) -> Self {
        let Shape { heads, kv_heads, kind, .. } = shape;
        let qkv = (heads + 2 * kv_heads) * DIM;
        let matrix =
            |i: u64, out: i64, from: i64| (normal(seed + i, &[out, from]) / (from as f64).sqrt()).to_kind(kind);
        let norm = |i: u64, n: i64| (normal(seed + i, &[n]) * 0.2 + 1.0).to_kind(kind);
        let bias = |i: u64, n: i64| (normal(seed + i, &[n]) * 0.3).to_kind(kind);
        let cache = |i: u64, inner: [i64; 2]| normal(seed + i, &[blocks, kv_heads, inner[0], inner[1]]).to_kind(kind);
        let matrices = [
            matrix(1, qkv, HIDDEN),
            matrix(2, HIDDEN, heads * DIM),
            matrix(3, 2 * WIDTH, HIDDEN),
            matrix(4, HIDDEN, WIDTH),
        ];
        Self {
            packed: std::array::from_fn(|i| PackedWeight::new(&matrices[i]).unwrap()),
            matrices,
            norms: [norm(5, HIDDEN), norm(6, HIDDEN), norm(7, DIM), norm(8, DIM)],
            biases: [bias(9, qkv), bias(10, HIDDEN), bias(11, 2 * WIDTH), bias(12, HIDDEN)],
            keys: cache(13, [DIM, BLOCK as i64]),
            values: cache(14, [BLOCK as i64, DIM]),
        }
    }

    fn paged(&self, shape: Shape) -> PagedLayer<'_> {
        let [qkv, o, gate_up, down] = &self.packed;
        let [input_norm, post_norm, q_norm, k_norm] = &self.norms;
        let [qkv_bias, o_bias, gate_up_bias, down_bias] = &self.biases;
        PagedLayer {
            input_norm,
            qkv,
            qkv_bias: shape.biases.then_some(qkv_bias),
            qk_norm: shape.qk_norm.then_some((q_norm, k_norm)),
            o,
            o_bias: shape.biases.then_some(o_bias),
            post_norm,
            gate_up,
            down,
            mlp_bias: shape.biases.then_some((gate_up_bias, down_bias)),
            keys: &self.keys,
            values: &self.values,
        }
    }
}

/// Runs the layers with the single operations of this crate.
fn by_operations(
    x: &Tensor,
    layers: &[Layer],
    (cos, sin): (&Tensor, &Tensor),
    slots: &Slots,
    queries: &PagedQueries,
    shape: Shape,
) -> Tensor {
    let (heads, kv) = (shape.heads, shape.kv_heads);
    let mut x = x.shallow_clone();
    for layer in layers {
        let [qkv_matrix, o, gate_up, down] = &layer.matrices;
        let layer = layer.paged(shape);
        let h = torch_ext::rms_norm(&x, layer.input_norm, EPS).unwrap();
        let qkv = torch_ext::linear(&h, qkv_matrix, layer.qkv_bias.map(Weight::from)).unwrap().view([
            -1,
            heads + 2 * kv,
            DIM,
        ]);
        let norms = layer.qk_norm.map(|(q, k)| HeadNorms { q: q.into(), k: k.into(), eps: EPS });
        let [q, k, v] = torch_ext::qk_norm_rope(&qkv, heads, norms, cos, sin).unwrap();
        torch_ext::write_paged(layer.keys, layer.values, &k, &v, slots).unwrap();
        let attended = torch_ext::paged_attention(&q, layer.keys, layer.values, queries, SCALE).unwrap();
        x = &x + torch_ext::linear(&attended.view([-1, heads * DIM]), o, layer.o_bias.map(Weight::from)).unwrap();
        let h = torch_ext::rms_norm(&x, layer.post_norm, EPS).unwrap();
        let (gate_up_bias, down_bias) = layer.mlp_bias.unzip();
        let gated =
            torch_ext::swiglu(&torch_ext::linear(&h, gate_up, gate_up_bias.map(Weight::from)).unwrap()).unwrap();
        x = &x + torch_ext::linear(&gated, down, down_bias.map(Weight::from)).unwrap();
    }
    x
}

/// Compares both for `rows`, the blocks and query positions of each sequence.
fn agrees(shape: Shape, rows: &[(&[u32], std::ops::Range<usize>)]) {
    let blocks = 6;
    let make = || -> Vec<Layer> { (0..3).map(|l| Layer::new(100 * l, shape, blocks)).collect() };
    let mut queries = PagedQueries::default();
    let (mut positions, mut slots) = (Vec::new(), Vec::new());
    for (blocks, range) in rows {
        queries.push_row(blocks, range.clone());
        for p in range.clone() {
            positions.push(p as i64);
            slots.push(i64::from(blocks[p / BLOCK]) * BLOCK as i64 + (p % BLOCK) as i64);
        }
    }
    let n = positions.len() as i64;
    let slots = Slots::from(slots);
    let x = normal(77, &[n, HIDDEN]).to_kind(shape.kind);
    let (cos, sin) = rotations(&positions, DIM / 2);
    let (fused, single) = (make(), make());
    let paged: Vec<_> = fused.iter().map(|l| l.paged(shape)).collect();
    let run = |outputs: &[i64]| {
        paged_layers(&x, &paged, (&cos, &sin), &slots, &queries, outputs, shape.heads, EPS, SCALE).unwrap()
    };
    let got = run(&(0..n).collect::<Vec<_>>());
    let expected = by_operations(&x, &single, (&cos, &sin), &slots, &queries, shape);
    let what = format!("{shape:?}, {n} tokens");
    assert_eq!(got.kind(), shape.kind);
    same_bits(&what, &got, &expected);
    for (a, b) in fused.iter().zip(&single) {
        same_bits(&format!("{what}, keys"), &a.keys, &b.keys);
        same_bits(&format!("{what}, values"), &a.values, &b.values);
    }
    // Requesting fewer outputs does not change the remaining ones.
    let some: Vec<i64> = (0..n).filter(|at| at % 3 == 1).collect();
    same_bits(&format!("{what}, outputs {some:?}"), &run(&some), &expected.index_select(0, &Tensor::from_slice(&some)));
}

#[test]
fn all_layers_at_once_are_the_layers_one_by_one() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (heads, kv_heads, qk_norm, biases) in
            [(4, 2, true, false), (2, 2, false, true), (3, 1, true, true), (8, 1, false, false)]
        {
            let shape = Shape { heads, kv_heads, qk_norm, biases, kind };
            agrees(shape, &[(&[3], 0..1)]);
            agrees(shape, &[(&[3, 0], 39..40), (&[2], 1..2), (&[1, 4], 62..63)]);
            // Several tokens of one sequence attend to each other; 64 tokens in total.
            agrees(shape, &[(&[3, 0], 20..45), (&[2], 0..30), (&[1, 4, 5], 64..73)]);
            if most_paged_tokens(Device::Cpu, kind, DIM) > 64 {
                agrees(shape, &[(&[3, 0, 1, 4], 0..101), (&[2], 0..30), (&[5], 3..17)]);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let shape = Shape { heads: 4, kv_heads: 2, qk_norm: true, biases: true, kind: Kind::Float };
    let layer = Layer::new(0, shape, 2);
    let paged = layer.paged(shape);
    let call = |x: &Tensor, layers: &[PagedLayer<'_>], slots: &[i64], block: u32, heads: i64| {
        let mut queries = PagedQueries::default();
        let n = x.size()[0];
        for _ in 0..n {
            queries.push_row(&[block], 0..1);
        }
        let (cos, sin) = rotations(&vec![0; n as usize], DIM / 2);
        paged_layers(x, layers, (&cos, &sin), &slots.to_vec().into(), &queries, &[0], heads, EPS, SCALE)
            .map_err(|e| e.to_string())
    };
    let x = normal(1, &[1, HIDDEN]);
    assert!(call(&x, &[paged], &[3], 1, 4).is_ok());
    let refused = |result: Result<Tensor, String>, expect: &str| {
        let error = result.unwrap_err();
        assert!(error.contains(expect), "expected `{expect}` in: {error}");
    };
    refused(call(&x, &[], &[3], 1, 4), "no layers");
    refused(call(&x, &[paged], &[64], 1, 4), "slots");
    refused(call(&x, &[paged], &[], 1, 4), "slots");
    refused(call(&x, &[paged], &[3], 2, 4), "outside the cache");
    refused(call(&x, &[paged], &[3], 1, 6), "invalid weights");
    refused(call(&x, &[paged], &[3], 1, 5), "paged_layers");
    refused(call(&normal(1, &[1, 64]), &[paged], &[3], 1, 4), "invalid weights");
    refused(call(&x.to_kind(Kind::Double), &[paged], &[3], 1, 4), "paged_layers");
    refused(call(&x, &[PagedLayer { o: paged.down, ..paged }], &[3], 1, 4), "invalid weights");
}
