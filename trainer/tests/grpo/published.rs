//! The mini-batches, micro-batches and loss of the released run, compared with a float64 reference that loops over its ranks
//! (`scripts/reference/published_update.py`).

use chat::Draw;
use configs::RlConfig;
use configs::rl::algorithm::{Aggregation, Minibatches};
use python_reference::ask;
use serde_json::{Value as Json, json};
use tolerance::assert_within;
use trainer::grpo::advantages::{StepAdvantages, credit};
use trainer::grpo::group::Group;
use trainer::grpo::micro_batches::TokenLogprobs;
use trainer::grpo::published_batches::{BatchSlot, Layout, slots};
use trainer::grpo::update::{measure, mini_batches, normalizer, train_samples};

use fixtures::policy::{config, rolled_out, trainable};

/// A step of up to 8 users with 4 samples at each of 2 stages.
struct Case {
    name: &'static str,
    users: usize,
    ranks: usize,
    num_minibatches: usize,
    micro_batch: usize,
    /// Whether to leave out half of each group, as truncated responses.
    masked: bool,
}

/// The last cases are short: 48 responses in place of 64, and 56, which 16 ranks do not divide.
const CASES: [Case; 7] = [
    Case { name: "four ranks", users: 8, ranks: 4, num_minibatches: 2, micro_batch: 4, masked: false },
    Case { name: "eight ranks", users: 8, ranks: 8, num_minibatches: 4, micro_batch: 1, masked: false },
    Case { name: "one rank", users: 8, ranks: 1, num_minibatches: 4, micro_batch: 8, masked: false },
    Case { name: "masked", users: 8, ranks: 4, num_minibatches: 4, micro_batch: 2, masked: true },
    Case { name: "short", users: 6, ranks: 4, num_minibatches: 2, micro_batch: 4, masked: false },
    Case { name: "short and masked", users: 6, ranks: 8, num_minibatches: 1, micro_batch: 4, masked: true },
    Case { name: "uneven", users: 7, ranks: 16, num_minibatches: 2, micro_batch: 1, masked: false },
];

/// The inputs of a step's updates.
struct Step {
    config: RlConfig,
    groups: Vec<Group>,
    advantages: StepAdvantages,
    /// Log-probabilities under the policy, in the shape of the groups.
    now: Vec<Vec<Vec<f32>>>,
}

/// Returns a number from `low` to `high` for each key.
fn between(key: (usize, usize, usize), what: &str, low: f64, high: f64) -> f64 {
    let bits = Draw::new(23).text(what).with(key.0 as u64).with(key.1 as u64).with(key.2 as u64).bits();
    low + (high - low) * (bits >> 11) as f64 * 2f64.powi(-53)
}

/// Returns a step whose responses have 1 to 30 tokens, with ratios that reach every bound.
fn step(case: &Case) -> Step {
    let mut config = config();
    (config.rollout.users_per_step, config.rollout.num_generations) = (case.users, 4);
    let mut groups = rolled_out(&config, &trainable(&config, None));
    let mut advantages = credit(&groups, &config).unwrap();
    let mut now = Vec::new();
    for (g, group) in groups.iter_mut().enumerate() {
        let mut of_group = Vec::new();
        for (i, sample) in group.samples.iter_mut().enumerate() {
            let length = between((g, i, 0), "length", 1.0, 31.0) as usize;
            let of = |what: &str, near: f64| -> Vec<f32> {
                (0..length).map(|t| between((g, i, t), what, near - 1.5, near + 1.5) as f32).collect()
            };
            let (old, new) = (of("old", -3.0), of("new", -3.0));
            (sample.ids, sample.rollout, sample.truncated) = (vec![1; length], old, case.masked && i > 1);
            advantages.advantages[g][i] = between((g, i, 0), "advantage", -2.0, 2.0);
            of_group.push(new);
        }
        now.push(of_group);
    }
    // The step was planned for 8 users, so the sizes of full mini-batches are those of 64 responses.
    config.rollout.users_per_step = 8;
    config.algorithm.aggregation = Aggregation::MicroBatchTokenMean;
    config.algorithm.minibatches = Minibatches::Published;
    config.algorithm.published_ranks = case.ranks;
    config.algorithm.num_minibatches = case.num_minibatches;
    config.algorithm.micro_batch_sequences = case.micro_batch;
    config.algorithm.mask_truncated = case.masked;
    Step { config, groups, advantages, now }
}

/// Returns the place (group, sample) of each sequence of each stage, in the order of the groups.
fn places(groups: &[Group]) -> Vec<Vec<(usize, usize)>> {
    let of_stage = |stage: usize| -> Vec<(usize, usize)> {
        let here = groups.iter().enumerate().filter(move |(_, g)| g.stage == stage);
        here.flat_map(|(g, group)| (0..group.samples.len()).map(move |i| (g, i))).collect()
    };
    [0, 1].map(of_stage).into()
}

fn asked(case: &Case, step: &Step) -> Json {
    let Step { config, groups, advantages, now } = step;
    let of = |&(g, i): &(usize, usize)| {
        let sample = &groups[g].samples[i];
        json!({"length": groups[g].prompt.len() + sample.ids.len(), "logprobs": now[g][i], "old": sample.rollout,
               "advantage": advantages.advantages[g][i], "counts": !(case.masked && sample.truncated)})
    };
    let stages: Vec<Vec<Json>> = places(groups).iter().map(|places| places.iter().map(of).collect()).collect();
    let algorithm = &config.algorithm;
    // Of the 64 responses of a full step.
    let mini_batch = 64 / case.ranks / case.num_minibatches;
    json!({"name": case.name, "ranks": case.ranks, "mini_batch": mini_batch, "micro_batch": case.micro_batch,
           "clip": algorithm.clip_low, "dual_clip": algorithm.dual_clip, "stages": stages})
}

/// Compares loss and gradient of every update of a step with the reference.
fn compare_updates(case: &Case, step: &Step, answer: &Json) {
    let Step { config, groups, advantages, now } = step;
    let updates = mini_batches(groups, advantages, config, (0, 0));
    assert_eq!(updates.len(), answer["updates"].as_array().unwrap().len(), "{}", case.name);
    let mut bound = 0.0;
    for (update, expected) in updates.iter().zip(answer["updates"].as_array().unwrap()) {
        let train_samples = train_samples(groups, advantages, update, config);
        let seen: Vec<TokenLogprobs> = update
            .iter()
            .map(|&(g, i)| TokenLogprobs { logprobs: now[g][i].clone(), entropy: vec![0.0; now[g][i].len()] })
            .collect();
        let sums = measure(&train_samples, &seen, config);
        bound += sums.high + sums.low + sums.dual;
        let want = expected["loss"].as_f64().unwrap();
        assert_within!(sums.loss - want, 1e-9, "{}: {}, float64 reference {want}", case.name, sums.loss);
        let by = normalizer(&train_samples, config);
        for (stage, places) in places(groups).iter().enumerate() {
            for (row, place) in places.iter().enumerate() {
                let (g, i) = *place;
                let zero = vec![0.0; now[g][i].len()];
                let found = update.iter().position(|p| p == place).map_or(zero, |k| {
                    let (sample, TokenLogprobs { logprobs, entropy }) = (&train_samples[k], &seen[k]);
                    sample.loss(0..logprobs.len(), logprobs, entropy, sample.weight(&by), config).derivative
                });
                for (t, found) in found.into_iter().enumerate() {
                    let want = expected["gradient"][stage][row][t].as_f64().unwrap();
                    assert_within!(found - want, 1e-9, "{}: stage {stage}, row {row}, token {t}", case.name);
                }
            }
        }
    }
    assert!(bound > 50.0, "{}: the bounds hold {bound} tokens back", case.name);
}

#[test]
fn slots_losses_and_gradients_are_those_of_a_loop_over_ranks() {
    let steps: Vec<Step> = CASES.iter().map(step).collect();
    let asked: Vec<Json> = CASES.iter().zip(&steps).map(|(case, step)| asked(case, step)).collect();
    let place = tempfile::tempdir().unwrap();
    let answers = ask("published_update.py", &json!({ "cases": asked }), place.path());
    for (case, step) in CASES.iter().zip(&steps) {
        let answer = &answers[case.name];
        let found = slots(&step.groups, &step.config.algorithm, &step.config.rollout);
        for (stage, places) in places(&step.groups).iter().enumerate() {
            for (row, &(g, i)) in places.iter().enumerate() {
                let BatchSlot { rank, mini_batch, micro_batch } = found[g][i];
                let expected = &answer["slots"][stage][row];
                assert_eq!(&json!([rank, mini_batch, micro_batch]), expected, "{}: {stage} {row}", case.name);
            }
        }
        compare_updates(case, step, answer);
    }
}

#[test]
fn the_first_half_of_the_ranks_holds_stage_one_and_one_rank_trains_on_it_first() {
    let of_stage = |step: &Step, stage: usize| -> Vec<BatchSlot> {
        let found = slots(&step.groups, &step.config.algorithm, &step.config.rollout);
        places(&step.groups)[stage].iter().map(|&(g, i)| found[g][i]).collect()
    };
    let four = step(&CASES[0]);
    assert!(of_stage(&four, 0).iter().all(|slot| slot.rank < 2));
    assert!(of_stage(&four, 1).iter().all(|slot| slot.rank >= 2));
    for update in mini_batches(&four.groups, &four.advantages, &four.config, (0, 0)) {
        let first = update.iter().filter(|&&(g, _)| four.groups[g].stage == 0).count();
        assert_eq!((update.len(), first), (32, 16), "both stages in equal numbers");
        assert!(update.is_sorted(), "samples of a group are adjacent");
        // Groups of four are split.
        assert!(update.chunk_by(|a, b| a.0 == b.0).any(|group| group.len() < 4));
    }
    // The mini-batches are the same in every pass over the samples.
    let of_pass = |pass: u64| mini_batches(&four.groups, &four.advantages, &four.config, (0, pass));
    assert_eq!(of_pass(0), of_pass(1));
    let one = step(&CASES[2]);
    assert!(of_stage(&one, 0).iter().all(|slot| slot.mini_batch < 2));
    assert!(of_stage(&one, 1).iter().all(|slot| slot.mini_batch >= 2));
    let layout = Layout::new(&one.config.algorithm, &one.config.rollout);
    assert_eq!(layout, Layout { ranks: 1, mini_batch: 16, micro_batch: 8 });
}
