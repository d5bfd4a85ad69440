//! Tests of attention over packed batches and over a KV cache.

use tch::{Device, Kind, Tensor};
use torch_ext::{BLOCK, PagedQueries};

use crate::{close, forward_and_gradients_agree, leaf, normal};

/// Computes softmax attention of q [n, heads, dim] over k, v [m, kv_heads, dim] where `allowed` [n, m] is true.
fn attention_formula(q: &Tensor, k: &Tensor, v: &Tensor, allowed: &Tensor, scale: f64) -> Tensor {
    let group = q.size()[1] / k.size()[1];
    let heads_first = |t: &Tensor| t.transpose(0, 1);
    let repeated = |t: &Tensor| heads_first(&t.repeat_interleave_self_int(group, 1, None));
    let scores = heads_first(q).matmul(&repeated(k).transpose(1, 2)) * scale;
    let scores = scores.masked_fill(&allowed.logical_not().unsqueeze(0), f64::NEG_INFINITY);
    heads_first(&scores.softmax(-1, q.kind()).matmul(&repeated(v)))
}

/// Returns the mask in which token i attends to token j of the same sequence if j is not later.
fn block_causal(cu_seqlens: &[i64]) -> Tensor {
    let tokens = cu_seqlens[cu_seqlens.len() - 1];
    let allowed = Tensor::zeros([tokens, tokens], (Kind::Bool, Device::Cpu));
    for pair in cu_seqlens.windows(2) {
        let n = pair[1] - pair[0];
        let block = Tensor::ones([n, n], (Kind::Bool, Device::Cpu)).tril(0);
        allowed.narrow(0, pair[0], n).narrow(1, pair[0], n).copy_(&block);
    }
    allowed
}

#[test]
pub fn varlen_attention_is_its_formula() {
    for (heads, kv_heads, dim, cu) in [
        (1, 1, 2, vec![0, 1]),
        (4, 4, 16, vec![0, 5, 6, 40]),
        (6, 2, 8, vec![0, 1, 2, 35, 100, 107]),
        (4, 1, 12, vec![0, 130, 131, 260]),
    ] {
        let tokens = cu[cu.len() - 1];
        let allowed = block_causal(&cu);
        let kv = [tokens, kv_heads, dim];
        forward_and_gradients_agree(
            &format!("{heads} heads on {kv_heads}, borders {cu:?}"),
            &[normal(1, &[tokens, heads, dim]) * 2.0, normal(2, &kv) * 2.0, normal(3, &kv)],
            |t| torch_ext::varlen_attention(&t[0], &t[1], &t[2], &cu, 0.3).unwrap(),
            |t| attention_formula(&t[0], &t[1], &t[2], &allowed, 0.3),
        );
    }
}

#[test]
pub fn varlen_attention_takes_slices_of_one_product() {
    let cu = [0, 9, 30];
    let allowed = block_causal(&cu);
    let parts = |t: &Tensor| (t.narrow(1, 0, 4), t.narrow(1, 4, 2), t.narrow(1, 6, 2));
    forward_and_gradients_agree(
        "slices",
        &[normal(4, &[30, 8, 16])],
        |t| {
            let (q, k, v) = parts(&t[0]);
            torch_ext::varlen_attention(&q, &k, &v, &cu, 0.25).unwrap()
        },
        |t| {
            let (q, k, v) = parts(&t[0]);
            attention_formula(&q, &k, &v, &allowed, 0.25)
        },
    );
}

#[test]
pub fn a_sequence_does_not_see_its_neighbours() {
    let cu = [0, 7, 20, 26];
    let make = |seed| normal(seed, &[26, 2, 8]);
    let (q, k, v) = (make(5), make(6), make(7));
    let before = torch_ext::varlen_attention(&q, &k, &v, &cu, 0.4).unwrap();
    for t in [&q, &k, &v] {
        let _ = t.narrow(0, 0, 7).fill_(50.0);
        let _ = t.narrow(0, 20, 6).fill_(-50.0);
    }
    let after = torch_ext::varlen_attention(&q, &k, &v, &cu, 0.4).unwrap();
    assert_eq!(before.narrow(0, 7, 13), after.narrow(0, 7, 13));
    assert_ne!(before.narrow(0, 0, 7), after.narrow(0, 0, 7));
}

/// Returns the mask of [`block_causal`], where every token of a segment also attends to all of the segment that it
/// continues.
fn with_prefixes(cu_seqlens: &[i64], prefix_of: &[i64]) -> Tensor {
    let allowed = block_causal(cu_seqlens);
    for (pair, &of) in cu_seqlens.windows(2).zip(prefix_of) {
        if let Ok(of) = usize::try_from(of) {
            let (begin, end) = (cu_seqlens[of], cu_seqlens[of + 1]);
            let _ = allowed.narrow(0, pair[0], pair[1] - pair[0]).narrow(1, begin, end - begin).fill_(1);
        }
    }
    allowed
}

/// Cases with several prefixes, of one token and of many kernel blocks; branches of one token, many and alone; and a
/// sequence that shares nothing.
const SHARED: [(&[i64], &[i64]); 4] = [
    (&[0, 1, 2], &[-1, 0]),
    (&[0, 5, 8, 9, 30], &[-1, 0, 0, 0]),
    (&[0, 7, 20, 23, 24, 60, 61, 64, 65], &[-1, -1, 1, 1, 1, -1, 5, 5]),
    (&[0, 600, 790, 1400, 1401, 1431], &[-1, 0, 0, 0, -1]),
];

#[test]
pub fn attention_with_shared_prefixes_is_its_formula() {
    for (cu, prefix_of) in SHARED {
        for (heads, kv_heads) in [(4, 4), (6, 2), (4, 1)] {
            let (tokens, dim) = (cu[cu.len() - 1], 8);
            let allowed = with_prefixes(cu, prefix_of);
            let kv = [tokens, kv_heads, dim];
            let inputs = [normal(1, &[tokens, heads, dim]) * 2.0, normal(2, &kv) * 2.0, normal(3, &kv)];
            let what = format!("{heads} heads on {kv_heads}, borders {cu:?}, prefixes {prefix_of:?}");
            let ours = |t: &[Tensor]| torch_ext::prefix_attention(&t[0], &t[1], &t[2], cu, prefix_of, 0.3).unwrap();
            let formula = |t: &[Tensor]| attention_formula(&t[0], &t[1], &t[2], &allowed, 0.3);
            forward_and_gradients_agree(&what, &inputs, ours, formula);
            let plain = tch::no_grad(|| ours(&inputs));
            close(&format!("{what}, no graph"), &plain, &formula(&inputs), 1e-5);
            // In double precision, only the order of the sums differs.
            let run = |f: &dyn Fn(&[Tensor]) -> Tensor| {
                let leaves: Vec<Tensor> = inputs.iter().map(|t| leaf(t, Kind::Double)).collect();
                let output = f(&leaves);
                let direction = normal(99, &output.size()).to_kind(Kind::Double);
                let mut found = torch_ext::grad(&[&output], &[&direction], &leaves.iter().collect::<Vec<_>>()).unwrap();
                found.push(output.detach());
                found
            };
            for (got, want) in run(&ours).iter().zip(run(&formula)) {
                close(&format!("{what}, double"), got, &want, 1e-12);
            }
        }
    }
}

/// Without shared prefixes, both operations compute the same.
#[test]
pub fn attention_without_prefixes_is_varlen_attention() {
    let cu = [0, 7, 20, 26];
    let [q, k, v] = [5, 6, 7].map(|seed| normal(seed, &[26, 2, 8]));
    let plain = torch_ext::varlen_attention(&q, &k, &v, &cu, 0.4).unwrap();
    assert_eq!(plain, torch_ext::prefix_attention(&q, &k, &v, &cu, &[-1; 3], 0.4).unwrap());
}

/// Tests sequences whose blocks are out of order, shared and partly filled, with queries of one position and of
/// several.
#[track_caller]
pub fn paged(kind: Kind, heads: i64, dim: i64, tolerance: f64) {
    let (kv_heads, blocks, block) = (2, 5, BLOCK as i64);
    let to = |t: Tensor| t.to_kind(kind);
    // (blocks of the sequence, query positions): the second shares its first block, the last has three query positions.
    let rows: [(&[u32], std::ops::Range<usize>); 4] =
        [(&[3, 0], 39..40), (&[3, 4], 33..34), (&[2], 0..1), (&[1, 2, 0], 62..65)];
    let history = to(normal(9, &[blocks * block, kv_heads, dim]));
    let values = to(normal(10, &[blocks * block, kv_heads, dim]));
    let options = (kind, Device::Cpu);
    let (k, v) = (
        Tensor::full([blocks, kv_heads, dim, block], f64::NAN, options),
        Tensor::full([blocks, kv_heads, block, dim], f64::NAN, options),
    );
    // Positions are written out of order; the last positions of block 4 are never written.
    let slots: Vec<i64> = (0..blocks * block - 30).rev().collect();
    let at = Tensor::from_slice(&slots);
    torch_ext::write_paged(&k, &v, &history.index_select(0, &at), &values.index_select(0, &at), &slots.into()).unwrap();
    let n: i64 = rows.iter().map(|(_, queries)| queries.len() as i64).sum();
    let q = to(normal(8, &[n, heads, dim]) * 2.0);
    let mut queries = PagedQueries::default();
    for (blocks, positions) in &rows {
        queries.push_row(blocks, positions.clone());
    }
    let got = torch_ext::paged_attention(&q, &k, &v, &queries, 0.35).unwrap();
    let mut i = 0;
    for (blocks, positions) in rows {
        for position in positions {
            let seen: Vec<i64> =
                (0..=position as i64).map(|p| i64::from(blocks[(p / block) as usize]) * block + p % block).collect();
            let seen = Tensor::from_slice(&seen);
            let take = |t: &Tensor| t.index_select(0, &seen).to_kind(Kind::Double);
            let all = Tensor::ones([1, position as i64 + 1], (Kind::Bool, Device::Cpu));
            let query = q.narrow(0, i, 1).to_kind(Kind::Double);
            let expected = attention_formula(&query, &take(&history), &take(&values), &all, 0.35);
            close(&format!("query {i} in {kind:?}, {heads} heads"), &got.narrow(0, i, 1), &expected, tolerance);
            i += 1;
        }
    }
}

/// Tests the last `queries` positions of a sequence of 1,000, after one query of a short sequence.
pub fn long_row(kind: Kind, queries: usize) {
    let (heads, kv_heads, dim, block, length) = (4, 2, 16, BLOCK as i64, 1000);
    let blocks = (length as usize).div_ceil(BLOCK);
    let [history, values] = [20, 21].map(|seed| normal(seed, &[length, kv_heads, dim]).to_kind(kind));
    let options = (kind, Device::Cpu);
    let room = blocks as i64;
    let (k, v) =
        (Tensor::zeros([room, kv_heads, dim, block], options), Tensor::zeros([room, kv_heads, block, dim], options));
    torch_ext::write_paged(&k, &v, &history, &values, &(0..length).collect::<Vec<_>>().into()).unwrap();
    let mut asked = PagedQueries::default();
    asked.push_row(&[0], 4..5);
    asked.push_row(&(0..blocks as u32).collect::<Vec<_>>(), length as usize - queries..length as usize);
    let q = normal(22, &[1 + queries as i64, heads, dim]).to_kind(kind);
    let got = torch_ext::paged_attention(&q, &k, &v, &asked, 0.35).unwrap();
    let ends = std::iter::once(5).chain(length - queries as i64 + 1..=length);
    for (i, end) in ends.enumerate() {
        let seen = |t: &Tensor| t.narrow(0, 0, end).to_kind(Kind::Double);
        let query = q.narrow(0, i as i64, 1).to_kind(Kind::Double);
        let all = Tensor::ones([1, end], (Kind::Bool, Device::Cpu));
        let expected = attention_formula(&query, &seen(&history), &seen(&values), &all, 0.35);
        let tolerance = if kind == Kind::Float { 1e-5 } else { 1e-2 };
        close(&format!("query {i} of {queries} + 1 in {kind:?}"), &got.narrow(0, i as i64, 1), &expected, tolerance);
    }
}

#[test]
pub fn paged_attention_over_many_positions_is_its_formula() {
    for kind in [Kind::Float, Kind::BFloat16] {
        long_row(kind, 1);
        long_row(kind, 70);
    }
}

/// Covers 1, 2, 3, 5 and 8 query heads per key/value head: every way in which the kernel splits them.
#[test]
pub fn paged_attention_is_its_formula() {
    for group in [1, 2, 3, 5, 8] {
        paged(Kind::Float, 2 * group, 16, 1e-5);
        paged(Kind::BFloat16, 2 * group, 16, 1e-2);
    }
}

#[test]
pub fn paged_attention_by_plain_operations_is_its_formula() {
    paged(Kind::Double, 4, 16, 1e-10);
    paged(Kind::Half, 4, 16, 2e-3);
}
