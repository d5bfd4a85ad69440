//! Loss and gradients do not depend on the division of a mini-batch into micro-batches, nor on prompt sharing.

use configs::RlConfig;
use configs::lora::LoraConfig;
use configs::model::Family;
use configs::rl::algorithm::{Aggregation, PolicyLoss, Ratio};
use tch::Kind;
use tolerance::assert_within;
use trainer::grpo::advantages::credit;
use trainer::grpo::group::Group;
use trainer::grpo::update::{accumulate, measure, mini_batches, train_samples};
use trainer::trainable_model::TrainableModel;

use fixtures::policy::{config, rolled_out, trainable_of};

/// Returns the loss and the number of computed tokens; leaves the gradients in `trainable`.
fn learned(trainable: &TrainableModel, groups: &[Group], config: &RlConfig) -> (f64, u64) {
    let advantages = credit(groups, config).unwrap();
    let places = mini_batches(groups, &advantages, config, (0, 0)).remove(0);
    let train_samples = train_samples(groups, &advantages, &places, config);
    let (seen, work) = accumulate(trainable, &train_samples, config, 3).unwrap();
    (measure(&train_samples, &seen, config).loss, work.tokens as u64)
}

fn apart(a: &TrainableModel, b: &TrainableModel) -> f64 {
    let (a, b) = (a.gradients().to_kind(Kind::Double), b.gradients().to_kind(Kind::Double));
    assert!(b.norm().double_value(&[]) > 1e-3, "there is a gradient to compare");
    ((a - &b).norm() / b.norm()).double_value(&[])
}

#[test]
fn passes_and_sharing_do_not_change_the_update() {
    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    for (family, lora) in [(Family::Qwen3, None), (Family::Llama, None), (Family::Qwen3, Some(&lora))] {
        for (loss, ratio, aggregation) in [
            (PolicyLoss::Clip, Ratio::Token, Aggregation::TokenMean),
            (PolicyLoss::Clip, Ratio::Sequence, Aggregation::SequenceMeanTokenMean),
            (PolicyLoss::Cispo, Ratio::Token, Aggregation::Constant),
            (PolicyLoss::Clip, Ratio::Token, Aggregation::MicroBatchTokenMean),
        ] {
            let mut config = config();
            config.algorithm.num_minibatches = 1;
            (config.algorithm.loss, config.algorithm.ratio, config.algorithm.aggregation) = (loss, ratio, aggregation);
            config.algorithm.entropy_coefficient = 0.01;
            let at = |tokens: usize, share: bool, recompute: usize| {
                let mut config = config.clone();
                (config.algorithm.micro_batch_tokens, config.algorithm.share_prompts) = (tokens, share);
                config.train.activation_checkpointing_every = recompute;
                let trainable = trainable_of(family, &config, lora);
                if lora.is_some() {
                    // B is initialized to zero, which leaves A without gradients.
                    let _ = tch::no_grad(|| trainable.weights().shallow_clone().g_add_scalar_(0.01));
                }
                let groups = rolled_out(&config, &trainable);
                let found = learned(&trainable, &groups, &config);
                (found, trainable)
            };
            let ((expected, plain), one_by_one) = at(1, false, 0);
            for (tokens, share, recompute) in
                [(100_000, false, 0), (100_000, true, 0), (300, true, 0), (100_000, true, 1)]
            {
                let ((found, counted), other) = at(tokens, share, recompute);
                let what =
                    format!("{family:?} {loss:?} {ratio:?}, {tokens} tokens, share {share}, recompute {recompute}");
                assert_within!(found - expected, 1e-5 * expected.abs().max(0.1), "{what}: {found}, {expected}");
                assert_within!(apart(&other, &one_by_one), 1e-5, "{what}: gradients");
                assert_eq!(counted < plain, share, "{what}: {counted} tokens computed, {plain} without sharing");
            }
        }
    }
}
