//! The explicit backward pass compared with ordinary autograd through the whole model.

use lm::head::{Coefficients, Scores, Targets, score_and_backward};
use lm::{ActivationCheckpointing, Decoder, Family, Packed, Params, Trained};
use tch::{Device, Kind, Tensor};
use tolerance::assert_within;

use crate::fixtures::{CONTEXT, VARIANTS, close, decoder, ids, sequences, spec, weights};

/// A loss: the weighted sum of log-probabilities, `sum(weights[i] · logprob(targets[i] after token rows[i]))`, and optionally of
/// the entropies at the same tokens.
#[derive(Default)]
pub struct Weighted {
    /// Tokens of the packed batch that predict the targets.
    pub rows: Vec<i64>,
    /// Token ids that they predict.
    pub targets: Vec<i64>,
    /// Weight of each log-probability.
    pub weights: Vec<f32>,
    /// Weight of each entropy.
    pub entropies: Option<Vec<f32>>,
}

impl Weighted {
    /// Adds one term.
    pub fn push(&mut self, row: i64, target: u32, weight: f32) {
        self.rows.push(row);
        self.targets.push(i64::from(target));
        self.weights.push(weight);
    }

    /// Returns the tokens to score.
    pub fn at(&self) -> Targets {
        Targets { rows: Tensor::from_slice(&self.rows), targets: Tensor::from_slice(&self.targets) }
    }
}

/// Returns the gradients of the loss from the model's own backward pass, and the scores.
pub fn layerwise(
    model: &Decoder,
    batch: &Packed,
    wanted: &Weighted,
    temperature: f64,
    recompute: ActivationCheckpointing,
) -> (Params, Scores) {
    let grads = Params::zeros(model.spec(), Kind::Float, Device::Cpu).unwrap();
    let scores = add_layerwise(&grads, model, batch, wanted, temperature, recompute);
    (grads, scores)
}

fn add_layerwise(
    grads: &Params,
    model: &Decoder,
    batch: &Packed,
    wanted: &Weighted,
    temperature: f64,
    recompute: ActivationCheckpointing,
) -> Scores {
    let weights = Tensor::from_slice(&wanted.weights);
    let entropies = wanted.entropies.as_deref().map(Tensor::from_slice);
    let (hidden, tape) = model.forward_train(batch, recompute, Trained::Weights { grads }).unwrap();
    let (grad_hidden, scores) =
        score_and_backward(model, &hidden, &wanted.at(), temperature, Some(grads), |begin, scores| {
            let part = |t: &Tensor| t.narrow(0, begin, scores.logprobs.size()[0]);
            Coefficients { logprob: part(&weights), entropy: entropies.as_ref().map(part) }
        })
        .unwrap();
    model.backward(tape, grad_hidden).unwrap();
    scores
}

/// Returns the gradient of the flat buffer and the log-probabilities, from autograd.
pub fn autograd(params: &Params, batch: &Packed, wanted: &Weighted, temperature: f64) -> (Params, Tensor) {
    let mut copy = Params::zeros(params.spec(), Kind::Float, Device::Cpu).unwrap();
    copy.flat = params.flat.detach().copy().set_requires_grad(true);
    let model = Decoder::new(copy);
    let logits = model.logits(batch).unwrap().index_select(0, &Tensor::from_slice(&wanted.rows)) / temperature;
    let targets = Tensor::from_slice(&wanted.targets).unsqueeze(-1);
    let all = logits.log_softmax(-1, Kind::Float);
    let logprobs = all.gather(-1, &targets, false).squeeze_dim(-1);
    let mut loss = (&logprobs * Tensor::from_slice(&wanted.weights)).sum(Kind::Float);
    if let Some(weights) = &wanted.entropies {
        let entropy = -(all.exp() * &all).sum_dim_intlist(&[-1][..], false, Kind::Float);
        loss += (entropy * Tensor::from_slice(weights)).sum(Kind::Float);
    }
    loss.backward();
    let mut grads = Params::zeros(params.spec(), Kind::Float, Device::Cpu).unwrap();
    grads.flat = model.params.flat.grad();
    (grads, logprobs.detach())
}

/// A loss on part of the tokens, in arbitrary order, with weights of both signs and some zeros.
fn wanted(batch: &Packed) -> Weighted {
    let mut wanted = Weighted::default();
    let targets = ids(40, batch.tokens() as usize);
    for row in (0..batch.tokens()).rev().filter(|row| row % 3 != 1) {
        wanted.push(row, targets[row as usize], ((row * 7 % 11) - 5) as f32 / 5.0);
    }
    wanted
}

/// Asserts that the gradients of every parameter are close. None of them may be nearly zero.
#[track_caller]
pub fn every_parameter_is_close(what: &str, ours: &Params, expected: &Params, tolerance: f64) {
    for entry in ours.entries() {
        let reference = expected.view(entry);
        assert!(reference.norm().double_value(&[]) > 1e-3, "{what}: {} has no gradient to compare", entry.name);
        close(&format!("{what}, {}", entry.name), &ours.view(entry), &reference, tolerance);
    }
}

#[test]
fn the_explicit_way_back_is_autograds() {
    let batch = Packed::new(&sequences(), CONTEXT, Device::Cpu).unwrap();
    let wanted = wanted(&batch);
    for (family, tied) in VARIANTS {
        let model = decoder(family, tied);
        for temperature in [1.0, 0.7] {
            let (expected, logprobs) = autograd(&model.params, &batch, &wanted, temperature);
            for recompute in [
                ActivationCheckpointing::Nothing,
                ActivationCheckpointing::EveryKth(1),
                ActivationCheckpointing::EveryKth(2),
            ] {
                let what = format!("{family:?}, tied {tied}, temperature {temperature}, {recompute:?}");
                let (grads, scores) = layerwise(&model, &batch, &wanted, temperature, recompute);
                close(&what, &scores.logprobs, &logprobs, 1e-5);
                every_parameter_is_close(&what, &grads, &expected, 1e-5);
            }
        }
    }
}

/// Runs the emulated GPU kernels: forward, recomputation, and backward.
#[test]
fn so_is_that_of_the_kernels_for_gpus() {
    let batch = Packed::new(&sequences()[..2], CONTEXT, Device::Cpu).unwrap();
    let wanted = wanted(&batch);
    let model = decoder(Family::Qwen3, true);
    let (expected, logprobs) = autograd(&model.params, &batch, &wanted, 1.0);
    let gpu = torch_ext::EmulatedGpu::new();
    let (grads, scores) = layerwise(&model, &batch, &wanted, 1.0, ActivationCheckpointing::EveryKth(2));
    let started = gpu.started();
    drop(gpu);
    for kernel in [
        "rms_norm_input_f32",
        "rms_norm_weight_f32",
        "qk_norm_rope_input_f32",
        "qk_norm_rope_weight_f32",
        "swiglu_input_f32",
    ] {
        assert!(started.iter().any(|name| name == kernel), "{kernel} was not started");
    }
    close("on a GPU", &scores.logprobs, &logprobs, 1e-5);
    every_parameter_is_close("on a GPU", &grads, &expected, 1e-5);
}

/// Tests entropies in the loss, with log-probabilities and alone.
#[test]
fn entropies_have_gradients() {
    let batch = Packed::new(&sequences(), CONTEXT, Device::Cpu).unwrap();
    let mut both = wanted(&batch);
    both.entropies = Some((0..both.rows.len()).map(|i| ((i * 5 % 9) as f32 - 3.0) / 4.0).collect());
    let mut alone = wanted(&batch);
    (alone.weights, alone.entropies) = (vec![0.0; alone.rows.len()], both.entropies.clone());
    for (family, tied) in VARIANTS {
        let model = decoder(family, tied);
        for (temperature, wanted, parts) in [(1.0, &both, "both"), (0.7, &both, "both"), (1.3, &alone, "alone")] {
            let what = format!("{family:?}, tied {tied}, temperature {temperature}, {parts}");
            let (expected, _) = autograd(&model.params, &batch, wanted, temperature);
            let (grads, _) = layerwise(&model, &batch, wanted, temperature, ActivationCheckpointing::Nothing);
            every_parameter_is_close(&what, &grads, &expected, 1e-5);
        }
    }
}

#[test]
fn recomputing_changes_no_bit() {
    let batch = Packed::new(&sequences(), CONTEXT, Device::Cpu).unwrap();
    let wanted = wanted(&batch);
    let model = decoder(VARIANTS[0].0, true);
    let (kept, _) = layerwise(&model, &batch, &wanted, 1.0, ActivationCheckpointing::Nothing);
    for k in [1, 2] {
        let (again, _) = layerwise(&model, &batch, &wanted, 1.0, ActivationCheckpointing::EveryKth(k));
        assert_eq!(kept.flat, again.flat);
    }
}

/// The gradients of micro-batches are accumulated, and their sum is the gradient of one large batch.
#[test]
fn gradients_of_micro_batches_add_up() {
    let sequences = sequences();
    let whole = Packed::new(&sequences, CONTEXT, Device::Cpu).unwrap();
    let (mut all, targets) = (Weighted::default(), ids(41, whole.tokens() as usize));
    for row in 0..whole.tokens() {
        all.push(row, targets[row as usize], 0.5 + (row % 4) as f32);
    }
    for (family, tied) in VARIANTS {
        let model = decoder(family, tied);
        let (expected, _) = layerwise(&model, &whole, &all, 1.0, ActivationCheckpointing::Nothing);
        let sum = Params::zeros(model.spec(), Kind::Float, Device::Cpu).unwrap();
        let mut begin = 0;
        for pair in sequences.chunks(2) {
            let batch = Packed::new(pair, CONTEXT, Device::Cpu).unwrap();
            let mut part = Weighted::default();
            for row in 0..batch.tokens() {
                let i = (begin + row) as usize;
                part.push(row, targets[i], all.weights[i]);
            }
            begin += batch.tokens();
            add_layerwise(&sum, &model, &batch, &part, 1.0, ActivationCheckpointing::EveryKth(1));
        }
        every_parameter_is_close(&format!("{family:?}, tied {tied}"), &sum, &expected, 1e-5);
    }
}

/// A step along the gradient must increase the objective by step · |gradient|². float32 allows only a loose check, but it detects
/// a wrong sign or scale that both implementations above might share.
#[test]
fn the_gradient_predicts_the_change_of_the_objective() {
    let batch = Packed::new(&sequences(), CONTEXT, Device::Cpu).unwrap();
    let wanted = wanted(&batch);
    for (family, tied) in VARIANTS {
        let params = weights(&spec(family, tied), 9);
        let objective = |flat: Tensor| {
            let mut moved = Params::zeros(params.spec(), Kind::Float, Device::Cpu).unwrap();
            moved.flat = flat;
            let model = Decoder::new(moved);
            let hidden = model.forward(&batch).unwrap();
            let scores = lm::head::score(&model, &hidden, &wanted.at(), 0.7).unwrap();
            (scores.logprobs.to_kind(Kind::Double) * Tensor::from_slice(&wanted.weights))
                .sum(Kind::Double)
                .double_value(&[])
        };
        let model = Decoder::new(weights(&spec(family, tied), 9));
        let (grads, _) = layerwise(&model, &batch, &wanted, 0.7, ActivationCheckpointing::Nothing);
        let length = grads.flat.norm().double_value(&[]);
        let step = &grads.flat * (2e-3 / length);
        let rise = objective(&params.flat + &step) - objective(&params.flat - &step);
        let expected = 2.0 * 2e-3 * length;
        assert_within!(rise / expected - 1.0, 0.02, "{family:?}, tied {tied}: rose by {rise}, expected {expected}");
    }
}
