//! Replaying a recorded step reproduces its loss bit for bit; other settings give another loss.

use configs::RlConfig;
use configs::rl::algorithm::{
    Advantage, Aggregation, KlPlace, Minibatches, OldLogprobs, RolloutCorrection, ZeroVariance,
};
use configs::rl::{Normalization, TermConfig};
use rewards::{CompositionState, PanelRequest, PanelVerdict};
use trainer::grpo::replay::{RecordedStep, rejudge, replay};
use trainer::grpo::{rollout_file, train};
use trainer::{Output, Run, TrainError};

use fixtures::policy::{composition, config, pseudorandom_judge, rows, trainable, with_rollouts};

/// Returns the record of a run's second step.
fn recorded(config: &RlConfig) -> RecordedStep {
    let mut config = config.clone();
    config.log.rollouts_every = 1;
    let place = tempfile::tempdir().unwrap();
    let mut run = Run::create(place.path(), "").unwrap();
    let mut trainable = trainable(&config, None);
    let rows = rows(8);
    with_rollouts(&config, |rollouts| {
        let mut output = Output { run: &mut run, phase: "rl", checkpoints: None, progress: &mut |_, _, _| {} };
        train(&mut trainable, &rows, rollouts, None, None, None, &mut output).unwrap();
    });
    RecordedStep::read(&rollout_file(place.path(), 2, "safetensors")).unwrap()
}

fn losses(step: &RecordedStep, config: &RlConfig) -> Vec<f64> {
    let found = replay(step, config, &composition(config)).unwrap();
    found.updates.iter().map(|(_, sums)| sums.loss).collect()
}

#[test]
fn the_same_settings_give_the_same_bits() {
    let plain = config();
    let mut much = config();
    much.algorithm.num_iterations = 2;
    much.algorithm.old_logprobs = OldLogprobs::Recompute;
    much.algorithm.rollout_correction = RolloutCorrection::Sequence;
    much.algorithm.kl.coefficient = 0.1;
    much.algorithm.entropy_coefficient = 0.01;
    much.algorithm.zero_variance = ZeroVariance::Drop;
    much.algorithm.aggregation = Aggregation::SequenceMeanTokenMean;
    much.reward.overlong_band = 6;
    let mut in_reward = config();
    in_reward.algorithm.kl.coefficient = 0.1;
    in_reward.algorithm.kl.place = KlPlace::Reward;
    in_reward.algorithm.old_logprobs = OldLogprobs::Recompute;
    // Pairs of samples that are often both right or both wrong: groups with zero variance, which the update and the record leave out.
    let mut dropping = much.clone();
    dropping.reward.terms[0].name = "accuracy".into();
    (dropping.rollout.num_generations, dropping.rollout.users_per_step) = (2, 8);
    dropping.reward.carry_discount = 0.0;
    dropping.reward.overlong_band = 0;
    // Mini-batches that split groups.
    let mut published = config();
    published.algorithm.aggregation = Aggregation::MicroBatchTokenMean;
    published.algorithm.minibatches = Minibatches::Published;
    (published.algorithm.published_ranks, published.algorithm.micro_batch_sequences) = (2, 3);
    for config in [plain, much, in_reward, dropping, published] {
        let step = recorded(&config);
        let expected: Vec<u64> = step.updates.iter().map(|u| u.loss.to_bits()).collect();
        assert_eq!(expected.len(), config.algorithm.num_minibatches * config.algorithm.num_iterations);
        assert!(step.updates.iter().all(|u| u.loss.is_finite() && u.loss != 0.0));
        let samples: usize = step.groups.iter().map(|g| g.samples.len()).sum();
        let updated: usize = step.updates.iter().map(|u| u.places.len()).sum();
        let all = samples * config.algorithm.num_iterations;
        let may_drop = config.algorithm.zero_variance == ZeroVariance::Drop;
        assert!(if may_drop { updated <= all } else { updated == all }, "{updated} of {all}");
        assert!(updated < all || config.rollout.num_generations != 2, "{updated} of {all}");
        let found: Vec<u64> = losses(&step, &config).into_iter().map(f64::to_bits).collect();
        assert_eq!(found, expected);
    }
}

/// The second step is normalized by the statistics of the first one, which the record holds.
#[test]
fn running_statistics_are_part_of_the_record() {
    let mut config = config();
    config.reward.terms[0].normalize = Normalization::Running;
    config.algorithm.advantage = Advantage::GroupMean;
    let mut step = recorded(&config);
    assert_eq!(step.reward_state.steps, 1);
    let expected: Vec<f64> = step.updates.iter().map(|u| u.loss).collect();
    assert_eq!(losses(&step, &config), expected);
    step.reward_state = CompositionState::default();
    assert_ne!(losses(&step, &config), expected);
}

#[test]
fn other_settings_change_what_they_say() {
    let config = config();
    let step = recorded(&config);
    let before = losses(&step, &config);
    type Change = fn(&mut RlConfig);
    let changes: [(&str, Change); 8] = [
        ("micro-batches", |c| c.algorithm.aggregation = Aggregation::MicroBatchTokenMean),
        ("aggregation", |c| c.algorithm.aggregation = Aggregation::SequenceMeanTokenSum),
        ("advantage", |c| c.algorithm.advantage = Advantage::GroupMean),
        ("entropy", |c| c.algorithm.entropy_coefficient = 0.1),
        ("terms", |c| c.reward.terms[0].name = "brevity".into()),
        ("discount", |c| c.reward.carry_discount = 0.0),
        ("weights", |c| c.reward.stage_weights = vec![2.0, 1.0]),
        ("malformed", |c| c.rollout.carry_malformed = false),
    ];
    for (what, change) in changes {
        let mut other = config.clone();
        change(&mut other);
        assert_ne!(losses(&step, &other), before, "{what}");
    }
    // Masking all truncated responses leaves few of such short ones.
    let mut masked = config.clone();
    masked.algorithm.mask_truncated = true;
    assert_ne!(losses(&step, &masked), before);
}

#[test]
fn what_was_not_recorded_is_refused() {
    let config = config();
    let step = recorded(&config);
    let composition = composition(&config);
    let refusal = |change: fn(&mut RlConfig)| {
        let mut other = config.clone();
        change(&mut other);
        replay(&step, &other, &composition).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refusal(|c| c.algorithm.kl.coefficient = 0.1).contains("no reference"));
    assert!(refusal(|c| c.algorithm.old_logprobs = OldLogprobs::Recompute).contains("none were recorded"));
}

#[test]
fn other_judges_give_other_advantages_and_the_same_ones_the_same_bits() {
    let config = config();
    let step = recorded(&config);
    let before = replay(&step, &config, &composition(&config)).unwrap();
    let same = rejudge(&step, &config, &composition(&config), &pseudorandom_judge).unwrap();
    assert_eq!(same.groups, before.groups);
    assert_eq!(same.advantages, before.advantages);
    let recorded: Vec<u64> = step.updates.iter().map(|u| u.loss.to_bits()).collect();
    assert_eq!(same.updates.iter().map(|(_, sums)| sums.loss.to_bits()).collect::<Vec<_>>(), recorded);
    // A judge that says the opposite.
    let opposite = |requests: &[PanelRequest]| -> Result<Vec<PanelVerdict>, TrainError> {
        let verdicts = pseudorandom_judge(requests)?;
        Ok(verdicts.into_iter().map(|verdict| PanelVerdict::new(1.0 - verdict.p_chosen)).collect())
    };
    let other = rejudge(&step, &config, &composition(&config), &opposite).unwrap();
    let samples = before.groups.iter().flat_map(|g| &g.samples).zip(other.groups.iter().flat_map(|g| &g.samples));
    for (before, other) in samples {
        assert_eq!(other.p_chosen, before.p_chosen.map(|p| 1.0 - p));
    }
    assert_ne!(other.advantages, before.advantages);
    assert!(other.updates.iter().zip(&before.updates).any(|(other, before)| other.1.loss != before.1.loss));
}

#[test]
fn a_term_that_asks_the_judges_needs_them() {
    let config = config();
    let step = recorded(&config);
    let mut asking = config.clone();
    asking.reward.terms.push(TermConfig { name: "margin".into(), ..TermConfig::default() });
    let composition = composition(&asking);
    let refused = replay(&step, &asking, &composition).unwrap_err().to_string();
    assert!(refused.contains("--rejudge"), "{refused}");
    let found = rejudge(&step, &asking, &composition, &pseudorandom_judge).unwrap();
    let margins = found.groups.iter().flat_map(|g| &g.samples).map(|s| s.reward.scores[1]);
    assert!(margins.into_iter().any(|margin| margin != 0.0));
}
