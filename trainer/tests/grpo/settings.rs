//! The effect of each setting of a run.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;

use chat::Draw;
use configs::rl::algorithm::{KlPlace, ZeroVariance};
use configs::rl::rollout::{Carry, PromptOverflow};
use configs::{RlConfig, Unusable};
use rewards::{JudgeQuery, PanelRequest, PanelVerdict};
use serde_json::Value as Json;
use tolerance::assert_within;
use trainer::grpo::curriculum_sampler::{CurriculumSampler, usable};
use trainer::grpo::group::Group;
use trainer::grpo::rewarding::{AskFn, GateFn};
use trainer::grpo::rollout::Rollouts;
use trainer::grpo::{Reference, advantages, train};
use trainer::trainable_model::Measure;
use trainer::{Output, Run, TrainError};

use fixtures::policy::{config, pseudorandom_gate, pseudorandom_judge, rolled_out, rows, trainable, with_rollouts};

fn changed(change: impl FnOnce(&mut RlConfig)) -> RlConfig {
    let mut config = config();
    change(&mut config);
    config
}

fn run_in(
    folder: &Path,
    config: &RlConfig,
    (ask, gate): (&AskFn<'_>, &GateFn<'_>),
    measure: Option<&mut Measure<'_>>,
) -> Vec<Json> {
    let mut run = Run::create(folder, "").unwrap();
    let mut trainable = trainable(config, None);
    let rows = rows(8);
    with_rollouts(config, |rollouts| {
        let rollouts = Rollouts { ask, gate: Some(gate), ..rollouts };
        let mut output = Output { run: &mut run, phase: "rl", checkpoints: None, progress: &mut |_, _, _| {} };
        train(&mut trainable, &rows, rollouts, Some(1e12), None, measure, &mut output).unwrap();
    });
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the metrics of a run.
fn run(config: &RlConfig) -> Vec<Json> {
    run_in(tempfile::tempdir().unwrap().path(), config, (&pseudorandom_judge, &pseudorandom_gate), None)
}

fn number(line: &Json, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"))
}

fn groups(config: &RlConfig) -> Vec<Group> {
    rolled_out(config, &trainable(config, None))
}

#[test]
fn the_plan_decides_how_many_groups_there_are_and_what_they_read() {
    let shape = |config: &RlConfig| -> Vec<(usize, usize)> {
        groups(config).iter().map(|g| (g.stage, g.samples.len())).collect()
    };
    let two = |rollout: fn(&mut RlConfig)| {
        let mut config = changed(rollout);
        config.rollout.users_per_step = 2;
        config
    };
    assert_eq!(shape(&two(|_| {})), [(0, 3), (0, 3), (1, 3), (1, 3)]);
    assert_eq!(shape(&two(|c| c.rollout.stages = 1)), [(0, 3), (0, 3)]);
    assert_eq!(shape(&two(|c| c.rollout.num_generations_by_stage = vec![2, 4])), [(0, 2), (0, 2), (1, 4), (1, 4)]);
    let each = two(|c| {
        c.rollout.carry = Carry::Each;
        c.rollout.num_generations_by_stage = vec![3, 2];
    });
    let found = groups(&each);
    assert_eq!(found.iter().map(|g| (g.user, g.stage)).collect::<Vec<_>>(), {
        [(0, 0), (1, 0), (0, 1), (0, 1), (0, 1), (1, 1), (1, 1), (1, 1)]
    });
    assert_eq!((each.rollout.groups_per_user(), each.rollout.generations_per_user()), (4, 9));
    // Groups of one stage and user that read different summaries sample differently (the same samples: 1 in 300^12).
    assert_ne!(found[2].samples[0].ids, found[3].samples[0].ids);
}

#[test]
fn the_best_summary_or_a_well_formed_one_is_carried() {
    for g in groups(&changed(|c| c.rollout.carry = Carry::Best)).iter().filter(|g| g.continues) {
        let best = g.samples.iter().map(|s| s.reward.total).fold(f64::MIN, f64::max);
        assert_eq!(g.carried.len(), 1);
        assert_eq!(g.samples[g.carried[0]].reward.total, best);
    }
    let mut config = changed(|c| c.rollout.carry_malformed = false);
    config.rollout.users_per_step = 8;
    let groups = groups(&config);
    for g in groups.iter().filter(|g| g.continues && g.samples.iter().any(|s| s.reward.well_formed)) {
        assert!(g.samples[g.carried[0]].reward.well_formed);
    }
    let advantages = advantages::credit(&groups, &config).unwrap();
    let (mut formed, mut malformed) = (0, 0);
    for (g, carried) in groups.iter().zip(&advantages.carried).filter(|(g, _)| g.continues) {
        for (sample, credit) in g.samples.iter().zip(carried) {
            // The continuation of a well-formed summary may fail as a whole, and then earns it no credit either.
            assert!(sample.reward.well_formed || *credit == 0.0);
            formed += usize::from(*credit > 0.0);
            malformed += usize::from(!sample.reward.well_formed);
        }
    }
    assert!(formed > 0 && malformed > 0);
}

/// The (text, choice) pairs that a judge was asked, which gives every choice a probability of its own.
type Asked = Vec<(String, String)>;

fn judged_by_choice(config: &RlConfig) -> (Vec<Group>, Asked) {
    let (rows, trainable, asked) = (rows(8), trainable(config, None), RefCell::new(Asked::new()));
    let ask = |requests: &[PanelRequest]| {
        let choices: Vec<(String, String)> = requests.iter().map(of_choice).collect();
        asked.borrow_mut().extend(choices.iter().cloned());
        Ok::<_, TrainError>(choices.iter().map(|(_, choice)| PanelVerdict::new(probability(choice))).collect())
    };
    let next = CurriculumSampler::new(&rows, config).unwrap().next(config.rollout.users_per_step, (0, 0));
    let groups = with_rollouts(config, |rollouts| {
        let rollouts = Rollouts { ask: &ask, gate: Some(&every_response), ..rollouts };
        trainable.as_one(|model| rollouts.roll_out((model, &trainable.context), &next, (0, 0))).unwrap().groups
    });
    (groups, asked.into_inner())
}

/// A gate that every response passes.
fn every_response(_: &str) -> bool {
    true
}

/// Returns the summary and the choice that a request is about.
fn of_choice(request: &PanelRequest) -> (String, String) {
    match &request.query {
        JudgeQuery::Choice(question) => (question.preference.clone(), question.chosen.clone()),
        other => panic!("{other:?} is no question about a choice"),
    }
}

fn probability(choice: &str) -> f64 {
    Draw::new(3).text(choice).below(1000) as f64 / 1000.0
}

#[test]
fn a_summary_is_judged_by_as_many_choices_as_asked() {
    let own = judged_by_choice(&config()).1;
    let config = changed(|c| c.reward.targets_per_stage = 3);
    let (groups, asked) = judged_by_choice(&config);
    let mut at = 0;
    let mut of_groups = Vec::new();
    for group in &groups {
        for sample in &group.samples {
            let choices: Vec<&str> = asked[at..at + 3].iter().map(|(_, choice)| choice.as_str()).collect();
            assert!(asked[at..at + 3].iter().all(|(text, _)| *text == sample.text));
            assert_eq!(choices.iter().collect::<HashSet<_>>().len(), 3, "each once");
            let mean = choices.iter().map(|choice| probability(choice)).sum::<f64>() / 3.0;
            assert_within!(sample.p_chosen.unwrap() - mean, 1e-12);
            let of_targets: Vec<f64> = sample.verdicts.iter().map(|verdict| verdict.p_chosen).collect();
            assert_eq!(of_targets, choices.iter().map(|choice| probability(choice)).collect::<Vec<_>>());
            of_groups.push((group.user, group.stage, choices));
            at += 3;
        }
    }
    assert_eq!(at, asked.len());
    // A group has one set of targets, whose first is the stage's own; the further targets differ between users and stages.
    assert!(
        of_groups.iter().step_by(3).map(|(.., choices)| choices[0]).eq(own.iter().step_by(3).map(|(_, c)| c.as_str()))
    );
    of_groups.dedup();
    assert_eq!(of_groups.len(), groups.len());
    let further: HashSet<_> = of_groups.iter().map(|(.., choices)| &choices[1..]).collect();
    assert!(further.len() > groups.len() / 2, "{further:?}");

    let mut bare = rows(8);
    bare.iter_mut().for_each(|row| row.targets.clear());
    let refusal = CurriculumSampler::new(&bare, &config).unwrap_err().to_string();
    assert!(refusal.contains("reward.targets_per_stage is 3, but no RL row has `targets`"), "{refusal}");
    let mut bare = rows(8);
    bare[2].targets[1].rejected = None;
    let refusal = CurriculumSampler::new(&bare, &config).unwrap_err().to_string();
    assert!(refusal.contains("user p2") && refusal.contains("`rejected`"), "{refusal}");
    let skipping = |config: &RlConfig| {
        let mut config = config.clone();
        config.data.unusable = Unusable::Skip;
        config
    };
    assert_eq!(CurriculumSampler::new(&bare, &skipping(&config)).unwrap().len(), 7);
    assert_eq!(usable(&bare, &skipping(&self::config())).len(), 8, "no stage asks for further targets");
    bare.iter_mut().flat_map(|row| &mut row.history).for_each(|choice| choice.rejected = None);
    let refusal = CurriculumSampler::new(&bare, &skipping(&config)).unwrap_err().to_string();
    assert!(refusal.contains("none of the 8 RL rows") && refusal.contains("with a `rejected` item"), "{refusal}");
}

#[test]
fn histories_are_cut_as_asked() {
    let rows = rows(4);
    let windows =
        |config: &RlConfig| -> Vec<usize> { usable(&rows, config)[0].stages.iter().map(|s| s.window.len()).collect() };
    assert_eq!(windows(&config()), [3, 2]);
    assert_eq!(windows(&changed(|c| c.rollout.reread_target = false)), [3, 1]);
    assert_eq!(windows(&changed(|c| c.rollout.cut_at = vec![0.2])), [1, 4]);
}

#[test]
fn a_prompt_that_is_too_long_is_cut_shortened_or_refused() {
    let whole = groups(&config());
    let longest = whole.iter().map(|g| g.prompt.len()).max().unwrap();
    let short =
        |overflow| changed(|c| (c.rollout.max_prompt_tokens, c.rollout.prompt_overflow) = (longest - 4, overflow));
    let first = |groups: &[Group]| groups.iter().find(|g| g.stage == 0).map(|g| g.prompt.clone()).unwrap();
    let (cut, dropped) = (groups(&short(PromptOverflow::CutLeft)), groups(&short(PromptOverflow::DropOldest)));
    assert!(cut.iter().chain(&dropped).all(|g| g.prompt.len() <= longest - 4));
    let begins = first(&whole)[..3].to_vec();
    let long = whole.iter().position(|g| g.prompt.len() > longest - 4).unwrap();
    assert_ne!(cut[long].prompt[..3], begins, "its beginning is gone");
    assert_eq!(dropped[long].prompt[..3], begins, "its beginning is there");
    let config = short(PromptOverflow::Error);
    let trainable = trainable(&config, None);
    let newest = &dropped[long].input.history.last().unwrap().chosen;
    let shown = trainable.model.tokenizer.decode(&dropped[long].prompt).unwrap();
    assert!(shown.contains(newest.as_str()), "{shown}");
    let rows = rows(8);
    let users = usable(&rows, &config);
    let refused = with_rollouts(&config, |r| r.roll_out((&trainable.model, &trainable.context), &users, (0, 0)));
    assert!(refused.unwrap_err().to_string().contains("rollout.max_prompt_tokens"));
}

#[test]
fn sampling_follows_its_settings() {
    let config = changed(|c| c.rollout.max_new_tokens = 5);
    assert!(groups(&config).iter().flat_map(|g| &g.samples).all(|s| s.ids.len() <= 5));
    let greedy = groups(&changed(|c| c.rollout.top_k = 1));
    assert!(greedy.iter().all(|g| g.samples.iter().all(|s| s.ids == g.samples[0].ids)));
    let narrow = groups(&changed(|c| c.rollout.top_p = 1e-6));
    assert!(narrow.iter().all(|g| g.samples.iter().all(|s| s.ids == g.samples[0].ids)));
    let usual = groups(&self::config());
    assert!(usual.iter().any(|g| g.samples[1].ids != g.samples[0].ids));
    assert_ne!(usual[0].samples[0].ids, groups(&changed(|c| c.seed = 8))[0].samples[0].ids);
    assert_ne!(usual[0].samples[0].ids, groups(&changed(|c| c.rollout.temperature = 3.0))[0].samples[0].ids);
}

#[test]
fn lengths_of_a_run() {
    let lines = |config: &RlConfig| run(config).len();
    assert_eq!(lines(&changed(|c| c.train.steps = 3)), 3);
    // 8 users, 4 per step, 2 epochs.
    assert_eq!(lines(&changed(|c| (c.train.steps, c.train.epochs) = (0, 2))), 4);
    // 8 users, 3 per step, 2 epochs: 16 users in 6 steps, or 2 steps per epoch.
    let dropping = |drop_last: bool| {
        changed(|c| {
            c.rollout.users_per_step = 3;
            c.train.drop_last = drop_last;
            (c.train.steps, c.train.epochs) = (0, 2);
        })
    };
    assert_eq!([false, true].map(|drop_last| lines(&dropping(drop_last))), [6, 4]);
    let last = run(&changed(|c| c.rollout.users_per_step = 3)).pop().unwrap();
    assert_eq!(number(&last, "responses/updated"), 18.0);
    assert_eq!(number(&last, "epoch"), 0.75);
    let last = run(&changed(|c| (c.algorithm.num_minibatches, c.algorithm.num_iterations) = (4, 2))).pop().unwrap();
    assert_eq!((number(&last, "updates"), number(&last, "responses/updated")), (8.0, 48.0));
}

/// A judge that gives all summaries of most users the same probability.
fn mostly_flat(requests: &[PanelRequest]) -> Result<Vec<PanelVerdict>, TrainError> {
    let mut found = pseudorandom_judge(requests)?;
    for (request, found) in requests.iter().zip(&mut found) {
        if flat(&of_choice(request).1) {
            *found = PanelVerdict::new(0.25);
        }
    }
    Ok(found)
}

fn flat(choice: &str) -> bool {
    Draw::new(2).text(choice).below(3) > 0
}

#[test]
fn groups_without_variance_are_kept_dropped_or_replaced() {
    let of = |zero_variance, refill_rounds| {
        let mut config = changed(|c| c.reward.carry_discount = 0.0);
        config.rollout.users_per_step = 3;
        (config.algorithm.zero_variance, config.algorithm.refill_rounds) = (zero_variance, refill_rounds);
        run_in(tempfile::tempdir().unwrap().path(), &config, (&mostly_flat, &every_response), None).remove(0)
    };
    let (keep, drop) = (of(ZeroVariance::Keep, 1), of(ZeroVariance::Drop, 1));
    let (flat, all) = (number(&keep, "zero_variance"), number(&keep, "responses/updated"));
    assert!(flat > 0.0 && flat < 1.0);
    assert_eq!(number(&drop, "zero_variance"), flat);
    assert_eq!(number(&drop, "responses/updated"), (all * (1.0 - flat)).round());
    let (once, often) = (of(ZeroVariance::Refill, 1), of(ZeroVariance::Refill, 6));
    assert_eq!((number(&drop, "rollout_rounds"), number(&once, "rollout_rounds")), (1.0, 2.0));
    assert!(number(&often, "rollout_rounds") > 2.0 && number(&often, "rollout_rounds") <= 7.0);
    assert!(number(&once, "responses/updated") >= number(&drop, "responses/updated"));
    assert!(number(&often, "responses/updated") > number(&drop, "responses/updated"));
}

#[test]
fn truncated_responses_can_be_left_out_and_long_ones_punished() {
    let plain = run(&config()).remove(0);
    let cut = number(&plain, "truncated");
    assert!(cut > 0.0);
    let masked = run(&changed(|c| c.algorithm.mask_truncated = true)).remove(0);
    let of_all = |line: &Json| line["responses/updated"].as_f64().unwrap();
    assert_eq!(of_all(&masked), (of_all(&plain) * (1.0 - cut)).round());
    let punished = run(&changed(|c| (c.reward.overlong_band, c.reward.overlong_penalty) = (6, 0.5))).remove(0);
    let lost = number(&plain, "reward/credited") - number(&punished, "reward/credited");
    // Every truncated response is at the limit and loses 0.5; others lose less.
    assert_within!(lost - lost.clamp(0.5 * cut, 0.5), 1e-9, "{lost}, truncated {cut}");
    assert_eq!(number(&plain, "reward/total"), number(&punished, "reward/total"));
}

#[test]
fn stage_weights_scale_advantages() {
    let groups = groups(&config());
    let of = |config: &RlConfig| advantages::credit(&groups, config).unwrap().advantages;
    let (plain, weighted) = (of(&config()), of(&changed(|c| c.reward.stage_weights = vec![1.0, 0.25])));
    for ((group, plain), weighted) in groups.iter().zip(plain).zip(weighted) {
        let factor = if group.stage == 0 { 1.0 } else { 0.25 };
        assert_eq!(plain.iter().map(|a| a * factor).collect::<Vec<_>>(), weighted);
    }
}

#[test]
fn the_reference_costs_nothing_unless_used_and_holds_the_policy_back() {
    let plain = config();
    assert!(Reference::new(&trainable(&plain, None), &plain).unwrap().is_none());
    let with = |coefficient: f64, place: KlPlace| {
        let mut config = changed(|c| c.train.steps = 4);
        config.algorithm.kl.coefficient = coefficient;
        config.algorithm.kl.place = place;
        config.algorithm.num_minibatches = 1;
        run(&config)
    };
    let (free, held) = (with(1e-9, KlPlace::Loss), with(10.0, KlPlace::Loss));
    assert_within!(number(&held[0], "kl/reference"), 1e-6, "the policy begins as the reference");
    let last = |lines: &[Json]| number(&lines[3], "kl/reference");
    assert!(last(&free) > 1e-4 && last(&held) < 0.7 * last(&free), "{} {}", last(&free), last(&held));
    let paid = with(10.0, KlPlace::Reward);
    let loss =
        |line: &Json| number(line, "reward/credited") - number(line, "credit/carried") - number(line, "reward/total");
    assert_within!(loss(&free[3]), 1e-9);
    assert!(loss(&paid[3]) != 0.0);
}

#[test]
fn what_is_measured_and_written_comes_when_asked() {
    let mut calls = 0;
    let mut measure = |_: &lm::LocalModel, _: &trainer::ParallelContext| {
        calls += 1;
        Ok(vec![("validation/accuracy".to_owned(), 0.5)])
    };
    let place = tempfile::tempdir().unwrap();
    let mut config = changed(|c| (c.validation.every, c.validation.at_start, c.train.steps) = (2, true, 3));
    (config.log.rollouts_every, config.log.rollouts_max) = (2, 5);
    let lines = run_in(place.path(), &config, (&pseudorandom_judge, &pseudorandom_gate), Some(&mut measure));
    assert_eq!(calls, 3);
    let measured: Vec<bool> = lines.iter().map(|l| l.get("validation/accuracy").is_some()).collect();
    assert_eq!(measured, [true, false, true, true]);
    let file = |name: &str| place.path().join("rollouts").join(name);
    assert_eq!(std::fs::read_to_string(file("step-000002.jsonl")).unwrap().lines().count(), 5);
    assert!(file("step-000002.safetensors").exists() && !file("step-000001.jsonl").exists());
    config.log.replay = false;
    let place = tempfile::tempdir().unwrap();
    run_in(place.path(), &config, (&pseudorandom_judge, &pseudorandom_gate), None);
    let written = place.path().join("rollouts").read_dir().unwrap().count();
    assert_eq!(written, 1);
}

/// The log-probabilities of the rollout equal those of the training forward pass bit for bit: over 20 steps of several updates,
/// with prompts computed once per group at temperature 1 and once per response at temperature 0.8.
#[test]
fn training_computes_what_the_rollout_computed() {
    let share = |share: bool, temperature: f64| {
        changed(|c| {
            c.train.steps = 20;
            c.algorithm.share_prompts = share;
            c.rollout.temperature = temperature;
        })
    };
    for config in [share(true, 1.0), share(false, 0.8)] {
        let lines = run(&config);
        assert_eq!(lines.len(), 20);
        for (step, line) in lines.iter().enumerate() {
            for (key, value) in [("mismatch/kl", 0.0), ("mismatch/max_ratio", 1.0), ("ratio/first_error", 0.0)] {
                assert_eq!(number(line, key), value, "{key} in step {}", step + 1);
            }
            assert!(number(line, "grad_norm") > 0.0, "nothing was trained in step {}", step + 1);
        }
    }
}

#[test]
fn every_number_that_is_promised_is_there() {
    let line = run(&config()).pop().unwrap();
    for key in [
        "loss",
        "entropy",
        "clip/high",
        "clip/low",
        "clip/dual",
        "ratio/max",
        "ratio/first_error",
        "kl/old",
        "mismatch/kl",
        "mismatch/max_ratio",
        "grad_norm",
        "lr",
        "reward/total",
        "reward/judge",
        "pass_rate",
        "well_formed",
        "no_answer",
        "length/mean",
        "truncated",
        "zero_variance",
        "stage1/reward/judge",
        "stage2/reward/total",
        "stage2/pass_rate",
        "stage1/length/mean",
        "stage1/truncated",
        "stage2/zero_variance",
        "time/rollout",
        "time/judge",
        "time/logprobs",
        "time/update",
        "time/step",
        "tokens/rollout",
        "tokens/update",
        "judgments",
        "tokens_per_second/rollout",
        "tokens_per_second/update",
        "mfu",
        "memory/peak_gib",
    ] {
        assert!(number(&line, key).is_finite(), "{key}");
    }
    let users = CurriculumSampler::new(&rows(3), &config()).unwrap().len();
    assert_eq!(users, 3);
}
