//! Generation and training compute the same probability for every sampled token.

use configs::rl::algorithm::{OldLogprobs, RolloutCorrection};
use trainer::grpo::advantages::credit;
use trainer::grpo::update::{accumulate, measure, mini_batches, policy_logprobs, train_samples};

use fixtures::policy::{config, rolled_out, trainable};

#[test]
fn the_first_updates_ratio_is_one() {
    for temperature in [1.0, 0.7] {
        let mut config = config();
        config.rollout.temperature = temperature;
        let trainable = trainable(&config, None);
        let groups = rolled_out(&config, &trainable);
        let advantages = credit(&groups, &config).unwrap();
        let places = mini_batches(&groups, &advantages, &config, (0, 0)).concat();
        let train_samples = train_samples(&groups, &advantages, &places, &config);
        let (seen, _) = accumulate(&trainable, &train_samples, &config, 0).unwrap();
        let sums = measure(&train_samples, &seen, &config);
        assert!(sums.tokens > 100.0 && sums.ratio_error == 0.0, "at temperature {temperature}: {sums:?}");
        assert!(sums.kl_old == 0.0 && sums.high + sums.low + sums.dual == 0.0);
    }
}

#[test]
fn recomputed_log_probabilities_take_the_rollouts_place_and_the_rest_is_corrected() {
    let mut config = config();
    config.algorithm.old_logprobs = OldLogprobs::Recompute;
    config.algorithm.rollout_correction = RolloutCorrection::Token;
    config.algorithm.rollout_correction_cap = 1.5;
    let trainable = trainable(&config, None);
    let mut groups = rolled_out(&config, &trainable);
    let places: Vec<(usize, usize)> =
        (0..groups.len()).flat_map(|g| (0..groups[g].samples.len()).map(move |i| (g, i))).collect();
    let (seen, _) = policy_logprobs(&trainable, &groups, &places, &config).unwrap();
    for (&(g, i), seen) in places.iter().zip(&seen) {
        groups[g].samples[i].old.clone_from(&seen.logprobs);
        // A rollout that found its tokens half as likely, or twice as likely.
        let by = if g % 2 == 0 { 0.5f32 } else { 2.0 };
        groups[g].samples[i].rollout = seen.logprobs.iter().map(|l| l + by.ln()).collect();
    }
    let advantages = credit(&groups, &config).unwrap();
    let train_samples = train_samples(&groups, &advantages, &places, &config);
    let sums = measure(&train_samples, &seen, &config);
    // The ratio is relative to the recomputed log-probabilities, so it is exactly 1; weights are min(2, 1.5) and 0.5.
    assert_eq!(sums.ratio_error, 0.0);
    let tokens = |even: bool| {
        let of = groups.iter().enumerate().filter(|(g, _)| (g % 2 == 0) == even);
        of.flat_map(|(_, g)| &g.samples).map(|s| s.ids.len() as f64).sum::<f64>()
    };
    let expected = 1.5 * tokens(true) + 0.5 * tokens(false);
    assert!((sums.correction / expected - 1.0).abs() < 1e-6, "{} is not {expected}", sums.correction);
}
