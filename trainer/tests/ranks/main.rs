//! GRPO on several ranks gives the same result as on one.
//!
//! Each test starts this program several times, as the ranks of a job (the ignored test `rank`).

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use configs::lora::LoraConfig;
use configs::rl::algorithm::{Aggregation, Minibatches};
use configs::{AlarmConfig, ParallelConfig, RlConfig, RlJudge, Sharding, TermConfig};
use distributed::launch::{LaunchError, launch};
use fixtures::policy;
use rewards::PanelRequest;
use serde_json::Value as Json;
use tolerance::assert_within;
use trainer::grpo::replay::RecordedStep;
use trainer::grpo::rollout::Rollouts;
use trainer::grpo::{rollout_file, train};
use trainer::trainable_model::{Lora, TrainableModel};
use trainer::{Output, ParallelContext, Run, TrainError, checkpoints, resume, start};

const CASE: &str = "XPLORE_TEST_CASE";
const STEPS: usize = 20;

/// Returns the configuration of a case, by the words in its name.
fn configured(case: &str) -> RlConfig {
    let mut config = policy::config();
    config.train.steps = STEPS;
    config.log.rollouts_every = 1;
    // Fewer prompts than four ranks, so that the samples of a prompt are split.
    config.rollout.users_per_step = 3;
    // Small micro-batches, so that ranks get unequal numbers of them.
    config.algorithm.micro_batch_tokens = 200;
    config.parallel = ParallelConfig { timeout_seconds: 60.0, ..ParallelConfig::default() };
    config.parallel.sharding = match case {
        c if c.contains("optimizer") => Sharding::Optimizer,
        c if c.contains("full") => Sharding::Full,
        _ => Sharding::Replicate,
    };
    if case.contains("hybrid") {
        config.parallel.hsdp_shard_size = 2;
    }
    if case.contains("kept") {
        config.checkpoint.every = 5;
    }
    if case.contains("kl") {
        config.algorithm.kl.coefficient = 0.05;
        config.algorithm.entropy_coefficient = 0.01;
        config.train.activation_checkpointing_every = 1;
    }
    if case.contains("published") {
        // Divided over three ranks, whatever the number that run, in mini-batches of 4 responses and micro-batches of 2.
        config.rollout.users_per_step = 4;
        config.algorithm.aggregation = Aggregation::MicroBatchTokenMean;
        config.algorithm.minibatches = Minibatches::Published;
        (config.algorithm.published_ranks, config.algorithm.micro_batch_sequences) = (3, 2);
    }
    if case.contains("alarm") {
        let judge = |name: &str, weight| RlJudge { name: name.into(), weight, ..RlJudge::default() };
        config.judges = vec![judge("training", 1.0), judge("held_out", 0.0)];
        config.validation.every = 2;
        // An alarm warns, so that the run has all its steps.
        config.alarm = Some(AlarmConfig { judge: "held_out".into(), samples: 8, window: 4, ..AlarmConfig::default() });
    }
    if case.contains("program") {
        config.reward.terms.push(program("(31 * len(r['text']) + request['step']) % 7 / 7"));
    }
    if case.contains("random") {
        config.reward.terms.push(program("os.urandom(1)[0] / 256"));
    }
    if case.contains("lora") {
        config.lora = Some(LoraConfig { rank: 4, dropout: 0.1, ..LoraConfig::default() });
        config.algorithm.kl.coefficient = 0.05;
    }
    config
}

/// Returns a reward term that a program computes; `score` is the score of a response `r` to a `request`.
fn program(score: &str) -> TermConfig {
    let script = format!(
        "import json, os, sys\nsys.stdin.readline()\nprint('{{\"xplore_reward\": 1}}', flush=True)\n\
         for line in sys.stdin:\n    request = json.loads(line)\n    scores = [{score} for r in request['responses']]\n    \
         print(json.dumps({{'id': request['id'], 'scores': scores}}), flush=True)\n"
    );
    let command = vec![python_reference::any_python().display().to_string(), "-c".into(), script];
    TermConfig { name: "mine".into(), command, batch_size: Some(4), workers: Some(2), ..TermConfig::default() }
}

fn trainable(config: &RlConfig, context: ParallelContext) -> TrainableModel {
    let alone = policy::trainable(config, None);
    let lora = config.lora.as_ref().map(|config| Lora { config, base: "base", seed: 3 });
    TrainableModel::with_context(alone.model, lora, &config.optimizer, context).unwrap()
}

fn run(folder: &Path, case: &str, context: ParallelContext) {
    let config = configured(case);
    let kept = case.contains("kept").then(|| folder.join("checkpoints"));
    let from = kept.as_ref().and_then(|place| checkpoints::newest(place).unwrap());
    let mut run = match (context.world.is_rank_zero(), &from) {
        (true, None) => Run::create(folder, "").unwrap(),
        (true, Some(from)) => Run::go_on(folder, "", resume::step_of(from).unwrap()).unwrap(),
        (false, _) => Run::written_elsewhere(folder),
    };
    let rows = policy::rows(9);
    let mut trainable = trainable(&config, context);
    // What a rank sends in advance is what it asks: its own samples.
    let sent = RefCell::new(HashSet::new());
    let submit = |requests: &[PanelRequest]| {
        sent.borrow_mut().extend(requests.iter().cloned());
        Ok::<_, TrainError>(())
    };
    let ask = |requests: &[PanelRequest]| {
        assert!(requests.iter().all(|request| sent.borrow().contains(request)), "asked, but not sent");
        policy::pseudorandom_judge(requests)
    };
    policy::with_rollouts(&config, |rollouts| {
        let rollouts = match case.contains("endpoint") {
            true => Rollouts { ask: &ask, submit: Some(&submit), ..rollouts },
            false => rollouts,
        };
        let mut output = Output { run: &mut run, phase: "rl", checkpoints: kept, progress: &mut |_, _, _| {} };
        train(&mut trainable, &rows, rollouts, None, from, None, &mut output).unwrap();
    });
}

/// One rank of a job that a test below started.
#[test]
#[ignore = "a rank of the tests beside it"]
fn rank() {
    let case = std::env::var(CASE).expect("started by a test of this program");
    let (folder, case) = case.split_once('|').unwrap();
    let config = configured(case);
    let context = start::init_distributed(1, configs::Device::Cpu, &config.parallel).unwrap();
    run(Path::new(folder), case, context);
}

/// Runs a case on `ranks` processes; returns its folder.
fn ranks(place: &Path, case: &str, ranks: usize) -> PathBuf {
    let folder = place.join(format!("{case}-{ranks}"));
    started(&folder, case, ranks, &[]).unwrap();
    folder
}

/// Runs a case in a folder with additional environment variables; it may fail.
fn started(folder: &Path, case: &str, ranks: usize, environment: &[&str]) -> Result<(), LaunchError> {
    let program = std::env::current_exe().unwrap();
    let arguments = ["rank", "--exact", "--ignored", "--nocapture", "--test-threads=1"].map(str::to_owned);
    let script = format!("{CASE}={}|{case}", folder.display());
    let with_case: Vec<String> = [script, program.display().to_string()].into_iter().chain(arguments).collect();
    let with_case: Vec<String> = environment.iter().map(|&e| e.to_owned()).chain(with_case).collect();
    launch(ranks, Path::new("/usr/bin/env"), &with_case, || 0)
}

fn metrics(folder: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the sampled ids of a step, group by group.
fn ids(folder: &Path, step: usize) -> Vec<Vec<u32>> {
    let recorded = RecordedStep::read(&rollout_file(folder, step as u64, "safetensors")).unwrap();
    recorded.groups.into_iter().flat_map(|group| group.samples).map(|sample| sample.ids).collect()
}

/// Compares steps until sampling meets a tie that rounding decides differently, after which two runs diverge. Returns the
/// number of compared tokens, and whether there was such a tie.
fn same_until_a_tie(folder: &Path, alone: &Path) -> (usize, bool) {
    let (found, expected) = (metrics(folder), metrics(alone));
    assert_eq!(found.len(), STEPS);
    let mut tokens = 0;
    for (step, (found, expected)) in (1..).zip(found.iter().zip(&expected)) {
        let (a, b) = (ids(folder, step), ids(alone, step));
        assert_eq!(a.len(), b.len(), "{} step {step}: samples", folder.display());
        tokens += b.iter().map(Vec::len).sum::<usize>();
        if a != b {
            return (tokens, true);
        }
        let looked = ["alarm/training", "alarm/held_out", "alarm_signs/overlap", "alarm_raised"];
        let looked = looked.into_iter().filter(|key| expected[*key].is_number());
        let keys = ["loss", "grad_norm", "entropy", "reward/total", "length/mean", "zero_variance"];
        for key in keys.into_iter().chain(looked) {
            let (a, b) = (found[key].as_f64().unwrap(), expected[key].as_f64().unwrap());
            // A policy loss near zero is a difference of terms of the size of the advantages, 1.
            let allowed = 1e-5 * b.abs().max(if key == "loss" { 0.1 } else { 0.0 });
            assert_within!(a - b, allowed, "{} step {step}: {key} is {a}, alone {b}", folder.display());
        }
    }
    (tokens, false)
}

fn check(cases: &[(&str, &[usize])]) {
    let place = tempfile::tempdir().unwrap();
    let (mut tokens, mut ties) = (0, 0);
    for (case, sizes) in cases {
        let alone = place.path().join(format!("{case}-alone"));
        run(&alone, &case.replace("hybrid", ""), ParallelContext::single());
        for &size in *sizes {
            let (compared, tie) = same_until_a_tie(&ranks(place.path(), case, size), &alone);
            tokens += compared;
            ties += usize::from(tie);
        }
    }
    assert!(ties * 10_000 <= tokens, "{ties} ties among {tokens} tokens");
}

#[test]
fn every_sharding_gives_the_losses_and_samples_of_one_process() {
    check(&[("replicate", &[2, 4]), ("optimizer", &[2, 4]), ("full", &[2, 4])]);
}

#[test]
fn so_do_published_mini_batches() {
    check(&[("replicate-published", &[2, 4]), ("full-published", &[2])]);
}

#[test]
fn so_do_hybrid_sharding_references_and_adapters() {
    check(&[("full-hybrid", &[4]), ("full-kl", &[2]), ("full-lora", &[2]), ("replicate-lora", &[2])]);
}

#[test]
fn so_do_judges_that_are_asked_while_summaries_are_generated() {
    check(&[("replicate-endpoint", &[2, 4]), ("full-endpoint", &[2])]);
}

#[test]
fn so_do_the_looks_of_the_alarm() {
    check(&[("replicate-alarm", &[2]), ("full-alarm", &[2])]);
}

#[test]
fn so_do_reward_terms_that_a_program_computes() {
    check(&[("replicate-program", &[2, 4])]);
}

/// The ranks assert after every step that they computed the same numbers.
#[test]
fn one_rank_asks_a_program_whose_scores_differ_each_time() {
    let place = tempfile::tempdir().unwrap();
    let steps = metrics(&ranks(place.path(), "full-random", 2));
    assert_eq!(steps.len(), STEPS);
    let scores: Vec<f64> = steps.iter().map(|step| step["reward/mine"].as_f64().unwrap()).collect();
    assert!(scores.iter().any(|score| *score != scores[0]), "{scores:?}");
}

/// A rank is killed during rollout, judging, or the backward pass; the job ends, and resumes from its newest checkpoint.
#[test]
fn the_death_of_a_rank_in_any_phase_loses_nothing_that_was_kept() {
    let place = tempfile::tempdir().unwrap();
    let alone = place.path().join("alone");
    run(&alone, "plain", ParallelContext::single());
    for (name, case, fault) in [
        ("rollout", "full-kept", "XPLORE_FAULT=1:kill:25:rollouts"),
        ("judgment", "replicate-kept", "XPLORE_FAULT=0:kill:31:verdicts"),
        ("gradients", "optimizer-kept", "XPLORE_FAULT=1:kill:150:sum the gradients of Layer"),
    ] {
        let folder = place.path().join(name);
        let ended = started(&folder, case, 2, &[fault]).unwrap_err().to_string();
        assert!(ended.contains("was killed by signal 9"), "{name}: {ended}");
        assert!(checkpoints::newest(&folder.join("checkpoints")).unwrap().is_some(), "{name}: no checkpoint");
        started(&folder, case, 2, &[]).unwrap();
        let (tokens, tie) = same_until_a_tie(&folder, &alone);
        assert!(!tie || tokens > 10_000 / 4, "{name}");
    }
}
