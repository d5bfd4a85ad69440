//! Benchmarks one training pass and one generation call at the size of the quickstart: `cargo bench -p benches`.

#![expect(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use benches::{ragged, small_model};
use chat::Sampling;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lm::generate::{Generator, Limits, Request};
use lm::head::{Targets, score_and_backward};
use lm::{ActivationCheckpointing, Packed, Params, Trained};
use tch::{Kind, Tensor};

fn training_pass(c: &mut Criterion) {
    let model = small_model().unwrap();
    let sequences = ragged(32);
    let batch = Packed::new(&sequences, 1024, model.device()).unwrap();
    let grads = Params::zeros(model.spec(), Kind::Float, model.device()).unwrap();
    let all = || Tensor::arange(batch.tokens(), (Kind::Int64, model.device()));
    let mut group = c.benchmark_group("training pass");
    group.throughput(Throughput::Elements(batch.tokens() as u64)).sample_size(20);
    for recompute in [ActivationCheckpointing::Nothing, ActivationCheckpointing::EveryKth(1)] {
        group.bench_function(format!("{recompute:?}"), |b| {
            b.iter(|| {
                let (hidden, tape) =
                    model.forward_train(&batch, recompute, Trained::Weights { grads: &grads }).unwrap();
                let at = Targets { rows: all(), targets: batch.ids.shallow_clone() };
                let (dh, _) = score_and_backward(&model, &hidden, &at, 1.0, Some(&grads), |_, s| {
                    s.logprobs.full_like(-1e-4).into()
                })
                .unwrap();
                black_box(model.backward(tape, dh)).unwrap();
            });
        });
    }
}

fn generation(c: &mut Criterion) {
    let model = small_model().unwrap();
    let sampling = Sampling::all(64);
    let requests: Vec<Request> = ragged(16)
        .into_iter()
        .map(|prompt| Request { prompt, seeds: (0..8).collect(), sampling: sampling.clone(), top_logprobs: 0 })
        .collect();
    let generator = Generator { model: &model, stop_ids: &[], limits: Limits::default() };
    let mut group = c.benchmark_group("generation");
    group.throughput(Throughput::Elements(16 * 8 * 64)).sample_size(10);
    group.bench_function("16 prompts x 8 samples x 64 tokens", |b| {
        b.iter(|| black_box(generator.generate(&requests, None).unwrap()));
    });
}

criterion_group!(benches, training_pass, generation);
criterion_main!(benches);
