//! Compares the CPU kernels with the sequence of operations that they promise (`csrc/cpu/products.h`,
//! `csrc/cpu/attention.h`), written out one scalar at a time: bit-identical, whatever else is computed in the same
//! call.
#![expect(clippy::excessive_precision, clippy::approx_constant, reason = "the digits of csrc/numbers.h")]

use tch::{Device, Kind, Tensor};
use torch_ext::{BLOCK, CpuLevel, PackedWeight, PagedQueries, Slots};

use crate::{normal, same_bits};

fn floats(t: &Tensor) -> Vec<f32> {
    Vec::try_from(t.to_kind(Kind::Float).contiguous().view(-1)).unwrap()
}

/// Computes `start[i, j]`, then fused multiply-adds over k in order, of fp32 values a(i, k), b(k, j).
fn chains(
    [m, n, k]: [usize; 3],
    start: Option<&[f32]>,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Tensor {
    let element = |at: usize| {
        let (i, j) = (at / n, at % n);
        (0..k).fold(start.map_or(0.0, |s| s[at]), |sum, step| a(i, step).mul_add(b(step, j), sum))
    };
    Tensor::from_slice(&(0..m * n).map(element).collect::<Vec<f32>>()).view([m as i64, n as i64])
}

/// Heights around that of a tile, widths around that of a panel, depths around that of a part.
const SHAPES: [[usize; 3]; 11] = [
    [0, 20, 30],
    [3, 20, 0],
    [1, 1, 1],
    [1, 70, 33],
    [2, 48, 300],
    [5, 17, 257],
    [7, 32, 96],
    [13, 33, 512],
    [25, 100, 31],
    [64, 16, 40],
    [150, 70, 270],
];

#[test]
fn products_are_chains_of_fused_multiply_adds() {
    for kind in [Kind::Float, Kind::BFloat16] {
        if kind == Kind::BFloat16 && CpuLevel::in_use().unwrap() >= CpuLevel::Avx512Bf16 {
            eprintln!("this CPU multiplies bf16 by instructions that round in their own way");
            continue;
        }
        for shape in SHAPES {
            let [m, n, k] = shape;
            let (x, w) =
                (normal(1, &[m as i64, k as i64]).to_kind(kind), normal(2, &[n as i64, k as i64]).to_kind(kind));
            let dy = normal(3, &[m as i64, n as i64]).to_kind(kind);
            let (xs, ws, ds) = (floats(&x), floats(&w), floats(&dy));
            let what = |which: &str| format!("{which} of {shape:?}, {kind:?}");
            let forward = chains([m, n, k], None, |i, s| xs[i * k + s], |s, j| ws[j * k + s]);
            same_bits(&what("x · wᵀ"), &torch_ext::linear_f32(&x, &w).unwrap(), &forward);
            let packed = PackedWeight::new(&w).unwrap();
            same_bits(&what("x · packed wᵀ"), &packed.linear_f32(&x).unwrap(), &forward);
            let input = chains([m, k, n], None, |i, s| ds[i * n + s], |s, j| ws[s * k + j]).to_kind(kind);
            same_bits(&what("dy · w"), &torch_ext::input_gradient(&dy, &w).unwrap(), &input);
            let grad = normal(4, &[n as i64, k as i64]);
            let start = floats(&grad);
            torch_ext::add_weight_gradient(&grad, &dy, &x).unwrap();
            let weight = chains([n, k, m], Some(&start), |i, s| ds[s * n + i], |s, j| xs[s * k + j]);
            same_bits(&what("dyᵀ · x"), &grad, &weight);
        }
    }
}

/// For more than 4096 outputs, an input's gradient is the sum of chains of equal length, first to last.
#[test]
fn input_gradients_over_many_outputs_are_sums_of_chains() {
    for (n, parts) in [(4096, vec![4096]), (4097, vec![2048, 2049]), (10_000, vec![3333, 3333, 3334])] {
        let (m, k) = (3, 5);
        let (dy, w) = (normal(1, &[m as i64, n as i64]), normal(2, &[n as i64, k as i64]));
        let (ds, ws) = (floats(&dy), floats(&w));
        let mut from = 0;
        let sums = parts.iter().map(|length| {
            from += length;
            let at = |s: usize| s + from - length;
            chains([m, k, *length], None, |i, s| ds[i * n + at(s)], |s, j| ws[at(s) * k + j])
        });
        let expected = sums.reduce(|sum, chain| sum + chain).unwrap();
        same_bits(&format!("{n} outputs"), &torch_ext::input_gradient(&dy, &w).unwrap(), &expected);
    }
}

/// Also covers the bf16 pair instructions: compares with float64, and each row alone with all rows.
#[test]
fn a_row_of_a_product_does_not_depend_on_the_others() {
    for kind in [Kind::Float, Kind::BFloat16] {
        if kind == Kind::BFloat16 && CpuLevel::batch_dependent_bf16() {
            continue;
        }
        for [m, n, k] in SHAPES.map(|s| s.map(|size| size as i64)) {
            let (x, w) = (normal(1, &[m, k]).to_kind(kind), normal(2, &[n, k]).to_kind(kind));
            let all = torch_ext::linear_f32(&x, &w).unwrap();
            let exact = x.to_kind(Kind::Double).matmul(&w.to_kind(Kind::Double).tr());
            if m * n * k > 0 {
                crate::close(&format!("{m} rows"), &all, &exact, 1e-5);
            }
            let packed = PackedWeight::new(&w).unwrap();
            same_bits("packed", &packed.linear_f32(&x).unwrap(), &all);
            for row in 0..m {
                let alone = packed.linear_f32(&x.narrow(0, row, 1)).unwrap();
                same_bits(&format!("row {row} of {m}"), &alone, &all.narrow(0, row, 1));
            }
        }
    }
}

/// Consecutive micro-batches give the same bits as one batch.
#[test]
fn weight_gradients_continue_where_they_stopped() {
    let (dy, x) = (normal(1, &[90, 40]), normal(2, &[90, 50]));
    let zeros = || Tensor::zeros([40, 50], (Kind::Float, Device::Cpu));
    let (whole, parts) = (zeros(), zeros());
    torch_ext::add_weight_gradient(&whole, &dy, &x).unwrap();
    for (begin, count) in [(0, 1), (1, 40), (41, 49)] {
        torch_ext::add_weight_gradient(&parts, &dy.narrow(0, begin, count), &x.narrow(0, begin, count)).unwrap();
    }
    same_bits("gradients", &parts, &whole);
}

/// Computes the exponential of `csrc/numbers.h`.
fn exponential(x: f32) -> f32 {
    if x < -87.3 {
        return 0.0;
    }
    let n = x.mul_add(1.442_695_04, 12_582_912.0) - 12_582_912.0;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_375, x));
    let mut p = 1.987_569_15e-4f32;
    for c in [1.398_199_950_7e-3, 8.333_451_907_3e-3, 4.166_579_589_4e-2, 1.666_666_545_9e-1, 5.000_000_120_1e-1f32] {
        p = p.mul_add(r, c);
    }
    // Powers of two in this range are exact, and so is their product with a value near 1.
    (((p * r).mul_add(r, r)) + 1.0) * n.exp2()
}

/// Computes attention of one query, one scalar at a time.
fn attend(q: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f32) -> Vec<f32> {
    let chain = |k: &[f32]| q.iter().zip(k).fold(0.0f32, |sum, (q, k)| q.mul_add(*k, sum));
    let scores: Vec<f32> = keys.iter().map(|k| chain(k) * scale).collect();
    let most = scores.iter().copied().fold(f32::MIN, f32::max);
    let p: Vec<f32> = scores.iter().map(|s| exponential(s - most)).collect();
    let mut sums = [0f32; 16];
    p.iter().enumerate().for_each(|(t, p)| sums[t % 16] += p);
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            sums[l] += sums[l + half];
        }
    }
    (0..q.len()).map(|d| p.iter().zip(values).fold(0.0f32, |sum, (p, v)| p.mul_add(v[d], sum)) / sums[0]).collect()
}

struct Heads {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

fn random_heads(tokens: i64, heads: i64, kv_heads: i64, dim: i64, kind: Kind) -> Heads {
    let of = |seed: u64, heads: i64| normal(seed, &[tokens, heads, dim]).to_kind(kind);
    Heads { q: of(1, heads) * 2.0, k: of(2, kv_heads), v: of(3, kv_heads) }
}

/// Computes a token's attention over the tokens `seen` with [`attend`], [heads, dim].
fn reference(h: &Heads, token: i64, seen: &[i64], scale: f32) -> Tensor {
    let (heads, kv_heads, dim) = (h.q.size()[1], h.k.size()[1], h.q.size()[2] as usize);
    let (q, k, v) = (floats(&h.q.get(token)), floats(&h.k), floats(&h.v));
    fn row(of: &[f32], at: usize, dim: usize) -> &[f32] {
        &of[at * dim..(at + 1) * dim]
    }
    let out: Vec<f32> = (0..heads)
        .flat_map(|head| {
            let kv = head / (heads / kv_heads);
            let at = |t: i64| (t * kv_heads + kv) as usize;
            let keys: Vec<&[f32]> = seen.iter().map(|&t| row(&k, at(t), dim)).collect();
            let values: Vec<&[f32]> = seen.iter().map(|&t| row(&v, at(t), dim)).collect();
            attend(&q[head as usize * dim..(head as usize + 1) * dim], &keys, &values, scale)
        })
        .collect();
    Tensor::from_slice(&out).view([heads, dim as i64])
}

/// Packed sequences, branches of a shared prefix, and new tokens over a paged cache are all bit-identical to the
/// formula, and so to each other.
#[test]
fn attention_is_one_sequence_of_operations_everywhere() {
    let scale = 0.3;
    for kind in [Kind::Float, Kind::BFloat16] {
        for (heads, kv_heads, dim) in [(4, 2, 32), (3, 1, 20), (2, 2, 64), (8, 1, 12)] {
            // Two sequences; then a prefix and two branches, the first of which ends inside the block where the prefix
            // ends.
            let cu = [0, 50, 51, 51 + 45, 51 + 45 + 10, 51 + 45 + 10 + 77];
            let prefix_of = [-1, -1, -1, 2, 2];
            let tokens = cu[5];
            let h = random_heads(tokens, heads, kv_heads, dim, kind);
            let found = torch_ext::prefix_attention(&h.q, &h.k, &h.v, &cu, &prefix_of, f64::from(scale)).unwrap();
            for s in 0..5 {
                let before: Vec<i64> = if prefix_of[s] < 0 { vec![] } else { (cu[2]..cu[3]).collect() };
                // A cache that holds the blocks of this sequence in reverse order.
                let all: Vec<i64> = before.iter().copied().chain(cu[s]..cu[s + 1]).collect();
                let blocks = all.len().div_ceil(BLOCK);
                let table: Vec<u32> = (0..blocks as u32).rev().collect();
                let cache =
                    |inner: [i64; 2]| Tensor::zeros([blocks as i64, kv_heads, inner[0], inner[1]], (kind, Device::Cpu));
                let (keys, values) = (cache([dim, BLOCK as i64]), cache([BLOCK as i64, dim]));
                let slots = (0..all.len()).map(|p| i64::from(table[p / BLOCK]) * BLOCK as i64 + (p % BLOCK) as i64);
                let rows = Tensor::from_slice(&all);
                let slots = Slots::from(slots.collect::<Vec<_>>());
                torch_ext::write_paged(
                    &keys,
                    &values,
                    &h.k.index_select(0, &rows),
                    &h.v.index_select(0, &rows),
                    &slots,
                )
                .unwrap();
                let mut queries = PagedQueries::default();
                queries.push_row(&table, 0..all.len());
                let of_all = h.q.index_select(0, &rows);
                let paged = torch_ext::paged_attention(&of_all, &keys, &values, &queries, f64::from(scale)).unwrap();
                for token in cu[s]..cu[s + 1] {
                    let length = before.len() + (token - cu[s]) as usize + 1;
                    let expected = reference(&h, token, &all[..length], scale).to_kind(kind);
                    let what = format!("{kind:?}, {heads}/{kv_heads} heads of {dim}, segment {s}, {length} positions");
                    same_bits(&format!("{what}, packed"), &found.get(token), &expected);
                    same_bits(&format!("{what}, paged"), &paged.get(length as i64 - 1), &expected);
                    if token % 7 == 0 {
                        let mut alone = PagedQueries::default();
                        alone.push_row(&table, length - 1..length);
                        let q = h.q.narrow(0, token, 1);
                        let one = torch_ext::paged_attention(&q, &keys, &values, &alone, f64::from(scale)).unwrap();
                        same_bits(&format!("{what}, alone"), &one.get(0), &expected);
                    }
                }
            }
        }
    }
}

/// The log-probabilities that sampling reports are those that training computes.
#[test]
fn a_softmax_gives_the_log_probabilities_of_the_loss() {
    for vocab in [1, 15, 520, 5000] {
        let logits = normal(1, &[6, vocab]) * 5.0;
        let targets = Tensor::arange(6, (Kind::Int64, Device::Cpu)).remainder(vocab);
        let expected = torch_ext::cross_entropy(&logits, &targets).unwrap().logprobs;
        let softmax = torch_ext::softmax(&logits).unwrap();
        let found: Vec<f32> = (0..6)
            .map(|r| softmax.logprob(r, logits.double_value(&[r as i64, targets.int64_value(&[r as i64])]) as f32))
            .collect();
        same_bits(&format!("vocabulary of {vocab}"), &Tensor::from_slice(&found), &expected);
        let exact = logits.to_kind(Kind::Double).softmax(-1, Kind::Double);
        let weights = softmax.weights.to_kind(Kind::Double);
        crate::close("weights", &(&weights / weights.sum_dim_intlist(-1, true, Kind::Double)), &exact, 1e-6);
    }
}
