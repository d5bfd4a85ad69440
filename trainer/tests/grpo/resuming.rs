//! A resumed run ends with the same result as an uninterrupted one.

use std::path::Path;

use configs::lora::LoraConfig;
use configs::rl::Normalization;
use configs::rl::algorithm::{Advantage, ZeroVariance};
use configs::rl::curriculum::CurriculumOrder;
use configs::{AlarmConfig, RlConfig, RlJudge};
use serde_json::Value as Json;
use tch::Kind;
use tolerance::{assert_within, largest};
use trainer::grpo::train;
use trainer::{Output, Run, checkpoints};

use fixtures::policy::{config, rows, trainable, with_rollouts};

/// Trains in `folder` up to `steps`, resuming from its newest checkpoint if `resume` is set and there is one. Returns the final
/// weights and the metrics.
fn run(folder: &Path, config: &RlConfig, steps: usize, resume: bool) -> (Vec<f32>, Vec<Json>) {
    let mut trainable = trainable(config, config.lora.as_ref());
    let place = folder.join("checkpoints");
    let from = if resume { checkpoints::newest(&place).unwrap() } else { None };
    let mut run = match resume {
        true => Run::go_on(folder, "", 2).unwrap(),
        false => Run::create(folder, "").unwrap(),
    };
    let rows = rows(9);
    let stopped = RlConfig { train: configs::RlTrain { steps, ..config.train.clone() }, ..config.clone() };
    with_rollouts(&stopped, |rollouts| {
        let mut output =
            Output { run: &mut run, phase: "rl", checkpoints: Some(place.clone()), progress: &mut |_, _, _| {} };
        train(&mut trainable, &rows, rollouts, None, from, None, &mut output).unwrap();
    });
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let timed = ["time/", "tokens_per_second/", "judgments_per_second", "mfu", "memory/"];
    let lines = text.lines().map(|line| {
        let mut json: Json = serde_json::from_str(line).unwrap();
        json.as_object_mut().unwrap().retain(|key, _| !timed.iter().any(|t| key.starts_with(t)));
        json
    });
    let weights = trainable.weights().to_kind(Kind::Float);
    (torch_ext::floats(&weights).unwrap().to_vec(), lines.collect())
}

#[test]
fn the_same_numbers_to_the_last_bit() {
    let mut easy = config();
    easy.curriculum.order = CurriculumOrder::EasyFirst;
    easy.algorithm.zero_variance = ZeroVariance::Refill;
    let mut sampled = config();
    sampled.curriculum.order = CurriculumOrder::Sample;
    sampled.algorithm.kl.coefficient = 0.1;
    let adapted = RlConfig { lora: Some(LoraConfig { rank: 2, ..LoraConfig::default() }), ..config() };
    let mut normalized = config();
    normalized.reward.terms[0].normalize = Normalization::Running;
    normalized.algorithm.advantage = Advantage::GroupMean;
    let judge = |name: &str, weight| RlJudge { name: name.into(), weight, ..RlJudge::default() };
    let mut watched = config();
    (watched.reward.targets_per_stage, watched.reward.transfer_per_stage) = (2, 2);
    watched.judges = vec![judge("training", 1.0), judge("held_out", 0.0)];
    watched.validation.every = 1;
    // The first window ends after the step at which the run is resumed.
    watched.alarm = Some(AlarmConfig { judge: "held_out".into(), samples: 8, window: 3, ..AlarmConfig::default() });
    for mut config in [easy, sampled, adapted, normalized, watched] {
        config.checkpoint.every = 2;
        config.checkpoint.keep_last = 9;
        // The learning rate is constant, so it does not depend on the length of the run.
        let place = tempfile::tempdir().unwrap();
        let (whole, parts) = (place.path().join("whole"), place.path().join("parts"));
        let expected = run(&whole, &config, 5, false);
        run(&parts, &config, 2, false);
        let found = run(&parts, &config, 5, true);
        assert_eq!(found.1, expected.1, "after {:?}", config.curriculum.order);
        assert!(found.0 == expected.0, "weights differ after {:?}", config.curriculum.order);
    }
}

/// With a decay of 1/2, the weights w1, w2 after two updates average to (w1 + w2) / 2; the first average is w1 itself.
#[test]
fn a_run_ends_with_the_average_of_its_weights() {
    let mut config = config();
    config.algorithm.num_minibatches = 1;
    let place = tempfile::tempdir().unwrap();
    let after = |name: &str, steps: usize, config: &RlConfig| run(&place.path().join(name), config, steps, false).0;
    let (first, second) = (after("first", 1, &config), after("second", 2, &config));
    config.optimizer.ema_decay = 0.5;
    assert!(after("begun", 1, &config) == first);
    let average = after("average", 2, &config);
    let off = |(a, (x, y)): (&f32, (&f32, &f32))| f64::from((a - 0.5 * (x + y)).abs());
    let off = largest(average.iter().zip(first.iter().zip(&second)).map(off));
    assert_within!(off, 1e-7, "the average of two updates");
    assert!(average != second);
}

#[test]
fn other_rows_are_refused() {
    let config = config();
    let place = tempfile::tempdir().unwrap();
    run(place.path(), &config, 2, false);
    let rows = rows(5);
    let mut users = trainer::grpo::curriculum_sampler::CurriculumSampler::new(&rows, &config).unwrap();
    let checkpoint = checkpoints::newest(&place.path().join("checkpoints")).unwrap().unwrap();
    let refusal = users.restore(&checkpoint).unwrap_err().to_string();
    assert!(refusal.contains("was written for 9 users, but data.train now has 5"), "{refusal}");
}
