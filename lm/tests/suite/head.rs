//! Scores of the head: entropy, chunks, and batches with nothing to score.

use lm::head::{self, Targets};
use lm::{ActivationCheckpointing, Decoder, Family, ModelConfig, Packed};
use tch::{Device, Kind, Tensor};

use crate::fixtures::{CONTEXT, close, decoder, ids, sequences, spec, weights};
use crate::gradients::{Weighted, autograd, layerwise};

#[test]
fn scores_are_those_of_the_softmax_in_float64() {
    let model = decoder(Family::Qwen3, false);
    let batch = Packed::new(&sequences(), CONTEXT, Device::Cpu).unwrap();
    let hidden = model.forward(&batch).unwrap();
    let rows: Vec<i64> = (0..batch.tokens()).rev().step_by(2).collect();
    let targets: Vec<i64> = ids(50, rows.len()).into_iter().map(i64::from).collect();
    let at = Targets { rows: Tensor::from_slice(&rows), targets: Tensor::from_slice(&targets) };
    let logits = tch::no_grad(|| model.logits(&batch)).unwrap().index_select(0, &at.rows);
    close("logits", &head::logits(&model, &hidden, &at.rows).unwrap(), &logits, 1e-6);
    for temperature in [1.0, 0.7] {
        let scores = head::score(&model, &hidden, &at, temperature).unwrap();
        let own = (&logits.to_kind(Kind::Double) / temperature).log_softmax(-1, Kind::Double);
        let picked = own.gather(-1, &at.targets.unsqueeze(-1), false).squeeze_dim(-1);
        let entropy = -(own.exp() * &own).sum_dim_intlist(&[-1][..], false, Kind::Double);
        close("log-probabilities", &scores.logprobs, &picked, 1e-5);
        close("entropies", &scores.entropy, &entropy, 1e-5);
    }
}

/// A vocabulary so large that 16 Mi logits, the maximum in memory at once, are 32 rows: 75 targets take three chunks.
fn large_vocabulary() -> (ModelConfig, Packed, Weighted) {
    let spec = ModelConfig {
        vocab_size: 1 << 19,
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 4,
        ..spec(Family::Llama, false)
    };
    let batch = Packed::new(&[ids(60, 50), ids(61, 30)], CONTEXT, Device::Cpu).unwrap();
    let mut wanted = Weighted::default();
    for (i, target) in ids(62, 75).into_iter().enumerate() {
        wanted.push(i as i64, target * 1000, if i % 2 == 0 { 1.0 } else { -0.3 });
    }
    (spec, batch, wanted)
}

#[test]
fn chunks_of_the_logits_do_not_show() {
    let (spec, batch, wanted) = large_vocabulary();
    let model = Decoder::new(weights(&spec, 3));
    let hidden = model.forward(&batch).unwrap();
    let mut begins = Vec::new();
    let grads = lm::Params::zeros(&spec, Kind::Float, Device::Cpu).unwrap();
    let coefficients = Tensor::from_slice(&wanted.weights);
    let (_, chunked) = head::score_and_backward(&model, &hidden, &wanted.at(), 0.7, Some(&grads), |begin, scores| {
        begins.push((begin, scores.logprobs.size()[0], scores.entropy.size()[0]));
        coefficients.narrow(0, begin, scores.logprobs.size()[0]).into()
    })
    .unwrap();
    assert_eq!(begins, [(0, 32, 32), (32, 32, 32), (64, 11, 11)]);
    let (expected, logprobs) = autograd(&model.params, &batch, &wanted, 0.7);
    close("log-probabilities with gradients", &chunked.logprobs, &logprobs, 1e-5);
    let scores = head::score(&model, &hidden, &wanted.at(), 0.7).unwrap();
    close("log-probabilities", &scores.logprobs, &logprobs, 1e-5);
    close("entropies", &scores.entropy, &chunked.entropy, 1e-6);
    let (grads, _) = layerwise(&model, &batch, &wanted, 0.7, ActivationCheckpointing::Nothing);
    for entry in grads.entries() {
        close(&entry.name, &grads.view(entry), &expected.view(entry), 1e-5);
    }
}

/// A micro-batch that contains only prompt tokens.
#[test]
fn nothing_to_score_is_no_error() {
    let model = decoder(Family::Llama, true);
    let batch = Packed::new(&sequences(), CONTEXT, Device::Cpu).unwrap();
    let (grads, scores) = layerwise(&model, &batch, &Weighted::default(), 1.0, ActivationCheckpointing::Nothing);
    assert_eq!(scores.logprobs.size(), [0]);
    assert_eq!(grads.flat.abs().max().double_value(&[]), 0.0);
    let hidden = model.forward(&batch).unwrap();
    assert_eq!(head::score(&model, &hidden, &Weighted::default().at(), 1.0).unwrap().entropy.size(), [0]);
}
