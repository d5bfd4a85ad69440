//! Sequences with a shared prefix compared with the same sequences packed in full.

use lm::head::score;
use lm::{ActivationCheckpointing, Decoder, Family, ModelConfig, Packed, SharedPrefix};
use tch::{Device, Kind, Tensor};
use tolerance::assert_within;

use crate::fixtures::{CONTEXT, close, distance, ids, spec, specimens, weights};
use crate::gradients::{Weighted, autograd, every_parameter_is_close, layerwise};

/// Lengths of prefixes and their branches: various lengths, one token, a single branch, and a sequence without a prefix.
const GROUPS: [(usize, &[usize]); 5] = [(13, &[17, 1, 40, 2]), (20, &[9]), (0, &[25]), (1, &[5, 1]), (40, &[20, 3])];

struct Group {
    prefix: Vec<u32>,
    branches: Vec<Vec<u32>>,
}

fn groups() -> Vec<Group> {
    let group = |(seed, &(prefix, branches)): (usize, &(usize, &[usize]))| {
        let seed = 300 + 10 * seed as u64;
        let branches = branches.iter().zip(seed + 1..).map(|(&n, seed)| ids(seed, n)).collect();
        Group { prefix: ids(seed, prefix), branches }
    };
    GROUPS.iter().enumerate().map(group).collect()
}

/// The same tokens and the same loss in both packings.
struct Both {
    shared: (Packed, Weighted),
    plain: (Packed, Weighted),
    /// Tokens of the shared batch, and the same tokens in the plain batch. Those of a prefix are in its first sequence.
    same: (Vec<i64>, Vec<i64>),
}

/// Builds both packings. The log-probability and entropy of every branch token count. Those of prefix tokens count once in the
/// shared batch, and in equal parts in the sequences that contain them.
fn both() -> Both {
    let groups = groups();
    let borrowed: Vec<SharedPrefix<'_>> = groups
        .iter()
        .map(|g| SharedPrefix { prefix: &g.prefix, branches: g.branches.iter().map(Vec::as_slice).collect() })
        .collect();
    let shared = Packed::with_shared_prefixes(&borrowed, CONTEXT, Device::Cpu).unwrap();
    let sequences: Vec<Vec<u32>> =
        groups.iter().flat_map(|g| g.branches.iter().map(|b| [&g.prefix[..], b].concat())).collect();
    let plain = Packed::new(&sequences, CONTEXT, Device::Cpu).unwrap();
    let (mut of_shared, mut of_plain) = (Weighted::default(), Weighted::default());
    let (mut entropies, mut plain_entropies, mut same) = (Vec::new(), Vec::new(), (Vec::new(), Vec::new()));
    let weight = |i: i64| ((i * 7 % 11) - 4) as f32 / 5.0;
    let branches: Vec<&[u32]> = borrowed.iter().flat_map(|g| g.branches.iter().copied()).collect();
    for ((branch, tokens), begin) in shared.branches().iter().zip(branches).zip(&plain.cu_seqlens) {
        let prefix = branch.prefix.clone().map_or(0, |p| p.end - p.start);
        for i in 0..branch.tokens.end - branch.tokens.start {
            same.0.push(branch.tokens.start + i);
            same.1.push(begin + prefix + i);
            let Some(row) = branch.predictor(i) else { continue };
            of_shared.push(row, tokens[i as usize], weight(i));
            of_plain.push(begin + prefix + i - 1, tokens[i as usize], weight(i));
            entropies.push(weight(i + 3));
            plain_entropies.push(weight(i + 3));
        }
    }
    let (mut begin, mut sequence) = (0, 0);
    for group in &groups {
        let (length, share) = (group.prefix.len() as i64, 1.0 / group.branches.len() as f32);
        for i in 1..length {
            of_shared.push(begin + i - 1, group.prefix[i as usize], weight(i));
            entropies.push(0.5);
            for s in sequence..sequence + group.branches.len() {
                of_plain.push(plain.cu_seqlens[s] + i - 1, group.prefix[i as usize], weight(i) * share);
                plain_entropies.push(0.5 * share);
            }
        }
        same.0.extend(begin..begin + length);
        same.1.extend((0..length).map(|i| plain.cu_seqlens[sequence] + i));
        begin += length + group.branches.iter().map(|b| b.len() as i64).sum::<i64>();
        sequence += group.branches.len();
    }
    (of_shared.entropies, of_plain.entropies) = (Some(entropies), Some(plain_entropies));
    Both { shared: (shared, of_shared), plain: (plain, of_plain), same }
}

/// Returns the number of terms of the branches, with which both losses begin.
fn of_branches(both: &Both) -> i64 {
    let prefixes: usize = GROUPS.iter().map(|(prefix, _)| prefix.saturating_sub(1)).sum();
    (both.shared.1.rows.len() - prefixes) as i64
}

fn agree(what: &str, model: &Decoder, temperature: f64, tolerance: f64) {
    let both = both();
    let ((shared, of_shared), (plain, of_plain)) = (&both.shared, &both.plain);
    let [ours, theirs] = [&both.same.0, &both.same.1].map(|rows| Tensor::from_slice(rows));
    let hidden = model.forward(shared).unwrap();
    let whole = model.forward(plain).unwrap();
    close(&format!("{what}, hidden"), &hidden.index_select(0, &ours), &whole.index_select(0, &theirs), tolerance);
    let n = of_branches(&both);
    let (found, expected) = (
        score(model, &hidden, &of_shared.at(), temperature).unwrap(),
        score(model, &whole, &of_plain.at(), temperature).unwrap(),
    );
    for (name, found, expected) in
        [("logprobs", &found.logprobs, &expected.logprobs), ("entropy", &found.entropy, &expected.entropy)]
    {
        close(&format!("{what}, {name}"), &found.narrow(0, 0, n), &expected.narrow(0, 0, n), tolerance);
    }
    let (expected, scores) = layerwise(model, plain, of_plain, temperature, ActivationCheckpointing::Nothing);
    for recompute in [ActivationCheckpointing::Nothing, ActivationCheckpointing::EveryKth(1)] {
        let what = format!("{what}, {recompute:?}");
        let (grads, found) = layerwise(model, shared, of_shared, temperature, recompute);
        close(&what, &found.logprobs.narrow(0, 0, n), &scores.logprobs.narrow(0, 0, n), tolerance);
        every_parameter_is_close(&what, &grads, &expected, tolerance);
    }
}

/// Tests grouped queries in all models, biases, and every type of RoPE scaling.
#[test]
fn shared_prefixes_change_nothing() {
    for (name, spec) in specimens() {
        // No sequence here is long enough to activate this type of scaling.
        assert_eq!(spec.rope.varies_with_length(), name == "llama-dynamic");
        agree(name, &Decoder::new(weights(&spec, 7)), 1.0, 1e-5);
    }
}

fn one_key_head_for_each_query_head() -> ModelConfig {
    ModelConfig { num_key_value_heads: 4, ..spec(Family::Llama, false) }
}

#[test]
fn nor_do_they_with_a_key_head_for_each_query_head() {
    agree("as many key heads", &Decoder::new(weights(&one_key_head_for_each_query_head(), 7)), 0.7, 1e-5);
}

#[test]
fn gradients_with_shared_prefixes_are_autograds_without() {
    let Both { shared: (shared, of_shared), plain: (plain, of_plain), .. } = both();
    for family in [Family::Qwen3, Family::Llama] {
        let params = weights(&spec(family, true), 7);
        let (expected, _) = autograd(&params, &plain, &of_plain, 0.7);
        let (grads, _) = layerwise(&Decoder::new(params), &shared, &of_shared, 0.7, ActivationCheckpointing::Nothing);
        every_parameter_is_close(&format!("{family:?}"), &grads, &expected, 1e-5);
    }
}

/// The packings round in different places, and these large weights amplify the difference (3% and 11% of the whole gradient
/// here). Sharing must not move the gradient further from the fp32 gradient of the same weights.
#[test]
fn shared_prefixes_in_bf16_are_as_exact_as_full_sequences() {
    let Both { shared: (shared, of_shared), plain: (plain, of_plain), .. } = both();
    for (name, spec) in [("qwen3-tied", spec(Family::Qwen3, true)), ("llama-untied", spec(Family::Llama, false))] {
        let in_kind = |kind: Kind| {
            let mut params = weights(&spec, 7);
            params.flat = params.flat.to_kind(Kind::BFloat16).to_kind(kind);
            Decoder::new(params)
        };
        let (rounded, exact) = (in_kind(Kind::BFloat16), in_kind(Kind::Float));
        let gradients = |model, batch, wanted| {
            layerwise(model, batch, wanted, 1.0, ActivationCheckpointing::Nothing).0.flat.shallow_clone()
        };
        let expected = gradients(&exact, &plain, &of_plain);
        let of_full = distance(&gradients(&rounded, &plain, &of_plain), &expected);
        let of_parts = distance(&gradients(&rounded, &shared, &of_shared), &expected);
        // The distance of both from fp32 depends on the dtype. The test is that sharing does not increase it.
        assert_within!(of_parts / of_full - 1.0, 0.3, "{name}: off by {of_parts:.3}, in full by {of_full:.3}");
    }
}
