//! However a mini-batch falls into passes, and whether prompts are shared, loss and gradients are the same.

use configs::RlConfig;
use configs::lora::LoraConfig;
use configs::model::Family;
use configs::rl::algorithm::{Aggregation, PolicyLoss, Ratio};
use tch::Kind;
use tolerance::assert_within;
use trainer::rl::credited::credit;
use trainer::rl::rollout::Group;
use trainer::rl::update::{accumulate, lessons, measure, mini_batches};
use trainer::trainee::Trainee;

use crate::fixtures::{config, rolled_out, trainee_of};

/// The loss, and the gradients left in `trainee`.
fn learned(trainee: &Trainee, groups: &[Group], config: &RlConfig) -> (f64, u64) {
    let credited = credit(groups, config).unwrap();
    let places = mini_batches(groups, &credited, config, (0, 0)).remove(0);
    let lessons = lessons(groups, &credited, &places, config);
    let (seen, work) = accumulate(trainee, &lessons, config, 3).unwrap();
    (measure(&lessons, &seen, config).loss, work.tokens as u64)
}

fn apart(a: &Trainee, b: &Trainee) -> f64 {
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
        ] {
            let mut config = config();
            config.algorithm.updates_per_step = 1;
            (config.algorithm.loss, config.algorithm.ratio, config.algorithm.aggregation) = (loss, ratio, aggregation);
            config.algorithm.entropy_coefficient = 0.01;
            let at = |tokens: usize, share: bool, recompute: usize| {
                let mut config = config.clone();
                (config.algorithm.tokens_per_microbatch, config.algorithm.share_prompts) = (tokens, share);
                config.train.recompute_every = recompute;
                let trainee = trainee_of(family, &config, lora);
                if lora.is_some() {
                    // B begins at zero, which leaves A without gradients.
                    let _ = tch::no_grad(|| trainee.weights().shallow_clone().g_add_scalar_(0.01));
                }
                let groups = rolled_out(&config, &trainee);
                let found = learned(&trainee, &groups, &config);
                (found, trainee)
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
