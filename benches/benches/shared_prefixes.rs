//! Benchmarks one training pass on groups of samples, with prompts packed once per group or once per sample: `cargo bench -p
//! benches --bench shared_prefixes`.

#![expect(missing_docs, reason = "criterion's macros make undocumented functions")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lm::head::{Targets, score_and_backward};
use lm::{ActivationCheckpointing, Biases, Decoder, Family, ModelConfig, Packed, Params, Rope, SharedPrefix, Trained};
use tch::{Device, Kind, Tensor};

const GROUPS: usize = 4;
const SAMPLES: usize = 4;
/// Number of tokens of a prompt, and of a response.
const LENGTH: usize = 128;
const VOCAB: i64 = 16_384;

/// Returns a model of about 36 million fp32 parameters.
fn model() -> Decoder {
    let spec = ModelConfig {
        family: Family::Qwen3,
        vocab_size: VOCAB,
        hidden_size: 512,
        intermediate_size: 1536,
        num_hidden_layers: 8,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 64,
        max_position_embeddings: 1024,
        rope: Rope::new(1e4),
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
        biases: Biases::default(),
        window: None,
        source: Default::default(),
    };
    Decoder::new(Params::random(&spec, 0.02, 0, Device::Cpu).unwrap())
}

/// Runs the forward pass, the loss on all responses and the backward pass.
fn pass(model: &Decoder, grads: &Params, batch: &Packed, (rows, targets): &(Vec<i64>, Vec<i64>)) {
    let (hidden, tape) =
        model.forward_train(batch, ActivationCheckpointing::Nothing, Trained::Weights { grads }).unwrap();
    let at = Targets { rows: Tensor::from_slice(rows), targets: Tensor::from_slice(targets) };
    let (dh, _) =
        score_and_backward(model, &hidden, &at, 1.0, Some(grads), |_, s| s.logprobs.full_like(-1e-4).into()).unwrap();
    model.backward(tape, dh).unwrap();
}

/// Returns the rows that predict response tokens, and their targets, in a batch whose branches begin with `skipped` prompt tokens.
fn responses(batch: &Packed, samples: &[&[u32]], skipped: i64) -> (Vec<i64>, Vec<i64>) {
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (branch, sample) in batch.branches().iter().zip(samples) {
        for (i, &id) in sample.iter().enumerate() {
            rows.push(branch.predictor(skipped + i as i64).expect("a response follows a prompt"));
            targets.push(i64::from(id));
        }
    }
    (rows, targets)
}

fn training_pass(c: &mut Criterion) {
    // Training uses the same allocator setting.
    torch_ext::keep_memory();
    let model = model();
    let grads = Params::zeros(model.spec(), Kind::Float, model.device()).unwrap();
    let text = |seed: usize| (0..LENGTH).map(|t| ((t * 7919 + seed * 104_729) % VOCAB as usize) as u32).collect();
    let prompts: Vec<Vec<u32>> = (0..GROUPS).map(text).collect();
    let samples: Vec<Vec<u32>> = (0..GROUPS * SAMPLES).map(|i| text(100 + i)).collect();
    let samples: Vec<&[u32]> = samples.iter().map(Vec::as_slice).collect();

    let groups: Vec<SharedPrefix<'_>> = prompts
        .iter()
        .zip(samples.chunks(SAMPLES))
        .map(|(prefix, branches)| SharedPrefix { prefix, branches: branches.to_vec() })
        .collect();
    let shared = Packed::with_shared_prefixes(&groups, 1024, model.device()).unwrap();
    let sequences: Vec<Vec<u32>> =
        groups.iter().flat_map(|g| g.branches.iter().map(|b| [g.prefix, b].concat())).collect();
    let plain = Packed::new(&sequences, 1024, model.device()).unwrap();

    let mut group = c.benchmark_group("training pass, 4 x 4 samples of 128 + 128 tokens");
    group.throughput(Throughput::Elements((samples.len() * LENGTH) as u64)).sample_size(10);
    for (name, batch, skipped) in [("shared prompts", &shared, 0), ("plain", &plain, LENGTH as i64)] {
        let wanted = responses(batch, &samples, skipped);
        group.bench_function(name, |b| b.iter(|| pass(&model, &grads, batch, &wanted)));
    }
}

criterion_group!(benches, training_pass);
criterion_main!(benches);
