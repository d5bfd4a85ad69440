//! The loss and gradients of a global batch do not depend on its division into micro-batches.

use chat::tokenizer::Tokenizer;
use configs::lora::LoraConfig;
use configs::model::{Device, Dtype, Family, ModelShape};
use configs::optimizer::OptimizerConfig;
use corpus::MaskedSequence;
use lm::ActivationCheckpointing;
use tch::Kind;
use tolerance::assert_within;
use trainer::sft::micro_batches::{How, accumulate};
use trainer::start;
use trainer::trainable_model::{Lora, TrainableModel};

fn trainable(family: Family, dtype: Dtype, lora: Option<&LoraConfig>) -> TrainableModel {
    let text = "likes warm stories about space and avoids long dry reports about finance";
    let tokenizer = Tokenizer::train([text].into_iter(), 300).unwrap();
    let shape = ModelShape { family, init_std: 0.1, ..ModelShape::default() };
    let model = start::random("new", &shape, tokenizer, 5, (Device::Cpu, dtype)).unwrap();
    let lora = lora.map(|config| Lora { config, base: "base", seed: 3 });
    let trainable = TrainableModel::new(model, lora, &OptimizerConfig::default()).unwrap();
    if lora.is_some() {
        // B is initialized to zero, which leaves A without gradients.
        let _ = tch::no_grad(|| trainable.weights().shallow_clone().g_add_scalar_(0.01));
    }
    trainable
}

/// Returns rows of 2 to 90 tokens, of which few or many are trained.
fn rows() -> Vec<MaskedSequence> {
    (0..12usize)
        .map(|i| {
            let length = 2 + i * 37 % 89;
            MaskedSequence {
                ids: (0..length).map(|t| ((t * 31 + i * 17) % 290) as u32).collect(),
                trained: (0..length).map(|t| t > 0 && (i % 3 == 0 || t > length - 2)).collect(),
            }
        })
        .collect()
}

fn how(tokens: usize) -> How {
    How { tokens, recompute: ActivationCheckpointing::Nothing, seed: 7 }
}

fn apart(a: &TrainableModel, b: &TrainableModel) -> f64 {
    let (a, b) = (a.gradients().to_kind(Kind::Double), b.gradients().to_kind(Kind::Double));
    assert!(b.norm().double_value(&[]) > 1e-3, "there is a gradient to compare");
    ((a - &b).norm() / b.norm()).double_value(&[])
}

#[test]
fn packed_equals_unpacked() {
    let (rows, dora) = (rows(), LoraConfig { dora: true, ..LoraConfig::default() });
    for family in [Family::Qwen3, Family::Llama] {
        for lora in [None, Some(&LoraConfig::default()), Some(&dora)] {
            let (whole, alone) = (trainable(family, Dtype::Fp32, lora), trainable(family, Dtype::Fp32, lora));
            let (loss, shape) = accumulate(&whole, &rows, how(100_000)).unwrap();
            let (expected, one_each) = accumulate(&alone, &rows, how(1)).unwrap();
            assert_eq!((shape.micro_batches, one_each.micro_batches), (1, rows.len()));
            assert_within!(loss / expected - 1.0, 1e-5, "{family:?}: loss {loss}, unpacked {expected}");
            assert_within!(apart(&whole, &alone), 1e-5, "{family:?}, {lora:?}: gradients");
        }
    }
}

/// The classic bug: a mean of micro-batch means gives tokens in short micro-batches too much weight.
#[test]
fn a_token_counts_the_same_in_whichever_pass_it_falls() {
    let rows = rows();
    let loss_of =
        |rows: &[MaskedSequence]| accumulate(&trainable(Family::Qwen3, Dtype::Fp32, None), rows, how(100)).unwrap();
    let (loss, shape) = loss_of(&rows);
    assert!(shape.micro_batches > 2);
    let alone: Vec<(f64, usize)> =
        rows.iter().map(|row| (loss_of(std::slice::from_ref(row)).0, row.trained_tokens())).collect();
    let tokens: usize = alone.iter().map(|(_, n)| n).sum();
    let expected = alone.iter().map(|(loss, n)| loss * *n as f64).sum::<f64>() / tokens as f64;
    let mean_of_means = alone.iter().map(|(loss, _)| loss).sum::<f64>() / rows.len() as f64;
    assert_within!(loss / expected - 1.0, 1e-5, "{loss}, by hand {expected}");
    assert!((loss / mean_of_means - 1.0).abs() > 1e-3, "these rows would not show the bug");
}

#[test]
fn dropout_draws_anew_in_every_update_and_again_alike_where_a_layer_runs_again() {
    let rows = rows();
    let lora = LoraConfig { dropout: 0.2, ..LoraConfig::default() };
    let gradients = |how: How| {
        let trainable = trainable(Family::Qwen3, Dtype::Fp32, Some(&lora));
        accumulate(&trainable, &rows, how).unwrap();
        trainable
    };
    let first = gradients(how(1000));
    assert_eq!(apart(&first, &gradients(How { recompute: ActivationCheckpointing::EveryKth(1), ..how(1000) })), 0.0);
    assert!(apart(&first, &gradients(How { seed: 8, ..how(1000) })) > 1e-3);
}

/// bf16 weights: the loss is within bf16 rounding of the fp32 loss, and gradients are kept in fp32.
#[test]
fn bf16_follows_fp32() {
    let rows = rows();
    let (wide, narrow) = (trainable(Family::Qwen3, Dtype::Fp32, None), trainable(Family::Qwen3, Dtype::Bf16, None));
    let expected = accumulate(&wide, &rows, how(100_000)).unwrap().0;
    let loss = accumulate(&narrow, &rows, how(100_000)).unwrap().0;
    assert_eq!(narrow.gradients().kind(), Kind::Float);
    assert_within!(loss / expected - 1.0, 5e-3, "{loss}, fp32 {expected}");
    // About ten roundings of 2^-9 per layer add up to 0.02 here.
    assert_within!(apart(&narrow, &wide), 0.1);
}
