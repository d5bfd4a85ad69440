//! Attention over packed batches, and over a cache.

use tch::{Device, Kind, Tensor};
use torch_ext::DecodeRows;

use crate::{close, forward_and_gradients_agree, normal};

/// Softmax attention of q [n, heads, dim] over k, v [m, kv_heads, dim] where `allowed` [n, m] is true.
fn attention_formula(q: &Tensor, k: &Tensor, v: &Tensor, allowed: &Tensor, scale: f64) -> Tensor {
    let group = q.size()[1] / k.size()[1];
    let heads_first = |t: &Tensor| t.transpose(0, 1);
    let repeated = |t: &Tensor| heads_first(&t.repeat_interleave_self_int(group, 1, None));
    let scores = heads_first(q).matmul(&repeated(k).transpose(1, 2)) * scale;
    let scores = scores.masked_fill(&allowed.logical_not().unsqueeze(0), f64::NEG_INFINITY);
    heads_first(&scores.softmax(-1, q.kind()).matmul(&repeated(v)))
}

/// Token i may see token j: same sequence, not later.
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
fn varlen_attention_is_its_formula() {
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
fn varlen_attention_takes_slices_of_one_product() {
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
fn a_sequence_does_not_see_its_neighbours() {
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

/// Three rows: two share a prefix, one has none; slots are out of order and the cache holds rubbish beyond what is used.
fn decoding(kind: Kind, tolerance: f64) {
    let (heads, kv_heads, dim, capacity) = (4, 2, 16, 9);
    let to = |t: Tensor| t.to_kind(kind);
    let q = to(normal(8, &[3, heads, dim]) * 2.0);
    let prefix = (to(normal(9, &[12, kv_heads, dim])), to(normal(10, &[12, kv_heads, dim])));
    let cache = (to(normal(11, &[4, capacity, kv_heads, dim])), to(normal(12, &[4, capacity, kv_heads, dim])));
    let rows = DecodeRows {
        slot: vec![3, 0, 1],
        own_len: vec![1, 9, 4],
        prefix_begin: vec![2, 2, 0],
        prefix_len: vec![10, 10, 0],
    };
    let attend = |cache: (&Tensor, &Tensor)| {
        torch_ext::decode_attention(&q, (&prefix.0, &prefix.1), cache, &rows, 0.35).unwrap()
    };
    let got = attend((&cache.0, &cache.1));
    for r in 0..3usize {
        let (slot, own, begin, len) = (rows.slot[r], rows.own_len[r], rows.prefix_begin[r], rows.prefix_len[r]);
        let seen = |prefix: &Tensor, cache: &Tensor| {
            let own = cache.select(0, slot).narrow(0, 0, own);
            Tensor::cat(&[prefix.narrow(0, begin, len), own], 0).to_kind(Kind::Double)
        };
        let (k, v) = (seen(&prefix.0, &cache.0), seen(&prefix.1, &cache.1));
        let all = Tensor::ones([1, len + own], (Kind::Bool, Device::Cpu));
        let expected = attention_formula(&q.narrow(0, r as i64, 1).to_kind(Kind::Double), &k, &v, &all, 0.35);
        close(&format!("row {r} in {kind:?}"), &got.narrow(0, r as i64, 1), &expected, tolerance);
    }
    let _ = cache.0.select(0, 3).narrow(0, 1, capacity - 1).fill_(f64::NAN);
    let _ = cache.1.select(0, 2).fill_(f64::NAN);
    assert_eq!(got, attend((&cache.0, &cache.1)), "unused places of the cache were read");
}

#[test]
fn decode_attention_is_its_formula() {
    decoding(Kind::Float, 1e-5);
}

#[test]
fn decode_attention_by_plain_operations_is_its_formula() {
    decoding(Kind::Double, 1e-10);
    decoding(Kind::BFloat16, 1e-2);
}
