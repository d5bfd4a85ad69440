//! Gradients of reward terms on sampled responses, beside the gradient of the whole reward.

use chat::Draw;
use configs::rl::algorithm::Advantage;
use tch::Kind;
use tolerance::assert_within;
use trainer::grpo::advantages::credit;
use trainer::grpo::group::{Group, Sample};
use trainer::grpo::term_gradients::{TermRewards, term_gradients};
use trainer::grpo::update;

use fixtures::policy::{config, rolled_out, trainable};

fn rewards_of(name: &str, groups: &[Group], part: impl Fn(&Sample) -> f64) -> TermRewards {
    let rewards = groups.iter().map(|group| group.samples.iter().map(&part).collect()).collect();
    TermRewards { name: name.into(), rewards }
}

#[test]
fn the_gradients_of_the_terms_add_up_to_that_of_the_reward() {
    let mut config = config();
    // Advantages that are linear in the rewards, without credit of the next stage.
    config.algorithm.advantage = Advantage::GroupMean;
    config.reward.carry_discount = 0.0;
    let trainable = trainable(&config, None);
    let mut groups = rolled_out(&config, &trainable);
    for sample in groups.iter_mut().flat_map(|group| &mut group.samples) {
        let part = |seed: u64| Draw::new(seed).text(&sample.text).below(1000) as f64 / 1000.0;
        sample.reward.parts = vec![part(3), part(4)];
        sample.reward.total = sample.reward.parts.iter().sum();
    }
    let advantages = credit(&groups, &config).unwrap();
    let of = |name: &str, t: usize| rewards_of(name, &groups, |sample| sample.reward.parts[t]);
    let terms = [
        of("judge", 0),
        of("other", 1),
        rewards_of("against", &groups, |sample| -2.0 * sample.reward.parts[0]),
        rewards_of("constant", &groups, |_| 0.75),
    ];
    let found = term_gradients(&trainable, &groups, &terms, &advantages, &config).unwrap();
    assert_eq!(found.names, ["judge", "other", "against", "constant", "total"]);
    // Four gradients are not 0.
    assert_eq!(found.passes, 1 + 4 * 3 / 2);
    let cosine = |a: usize, b: usize| found.cosines[a][b].unwrap();
    let product = |a: usize, b: usize| cosine(a, b) * found.norms[a] * found.norms[b];
    assert_within!(cosine(0, 2) + 1.0, 1e-5);
    assert_within!(found.norms[2] / found.norms[0] - 2.0, 1e-4);
    assert_eq!((found.norms[3], &found.cosines[3]), (0.0, &vec![None; 5]));
    // |judge + other|² = |judge|² + 2 judge · other + |other|².
    let squared = product(0, 0) + 2.0 * product(0, 1) + product(1, 1);
    assert_within!(found.norms[4].powi(2) / squared - 1.0, 1e-3);
    assert!(cosine(0, 1).abs() < 0.999, "{found:?}");

    // At a ratio of 1, the gradient of the reward is that of an update.
    let sum = || f64::try_from(trainable.gradients().square().sum(Kind::Double)).unwrap();
    assert_eq!(sum(), 0.0);
    let places: Vec<(usize, usize)> =
        groups.iter().enumerate().flat_map(|(g, group)| (0..group.samples.len()).map(move |i| (g, i))).collect();
    let samples = update::train_samples(&groups, &advantages, &places, &config);
    update::accumulate(&trainable, &samples, &config, 0).unwrap();
    assert_within!(sum().sqrt() / found.norms[4] - 1.0, 1e-4);
}

#[test]
fn responses_without_tokens_have_no_gradient() {
    let config = config();
    let trainable = trainable(&config, None);
    let mut groups = rolled_out(&config, &trainable);
    groups.iter_mut().flat_map(|group| &mut group.samples).for_each(|sample| sample.ids.clear());
    let advantages = credit(&groups, &config).unwrap();
    let refused = term_gradients(&trainable, &groups, &[], &advantages, &config).unwrap_err().to_string();
    assert!(refused.contains("no sample takes part"), "{refused}");
}
