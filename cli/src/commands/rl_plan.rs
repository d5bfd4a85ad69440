//! The plan of a GRPO run, computed from its rows and the model's shape, and one sample of the run.

use std::fmt::Write;

use chat::RlRow;
use chat::prompt_manifest::PromptTask;
use configs::judge::RlJudge;
use configs::rl::algorithm::{Aggregation, Minibatches};
use configs::rl::rollout::Carry;
use configs::{AlarmConfig, JudgeConfig, RlConfig, Unusable};
use corpus::Users;
use lm::ModelConfig;
use rewards::{PanelRequest, Registry};
use trainer::ParallelContext;
use trainer::grpo::curriculum_sampler::{CurriculumSampler, CurriculumUser, usable};
use trainer::grpo::rollout::Rollouts;
use trainer::memory_plan::{self, JudgeMemory};

use xplore::grpo::trainable;
use xplore::{Error, panel, parts, reward_checks, wording};

use super::data_free_plan::checkpoints;
use super::sft_plan::{fits, gib};

fn line(out: &mut String, label: &str, words: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  {label:12} {words}");
}

/// Describes stages, batches and memory for display. Does not load weights.
pub fn describe(config: &RlConfig, rows: &Users, ranks: usize) -> Result<String, Error> {
    let users = usable(&rows.rows, config);
    let mut out = String::new();
    let left_out = rows.rows.len() - users.len();
    let why = match config.data.unusable {
        Unusable::Error => "history too short",
        Unusable::Skip => "history too short, or a target without `rejected`",
    };
    line(&mut out, "users", &format!("{} rows, {left_out} skipped ({why})", rows.rows.len()));
    if let Some(words) = rows.skipped_in_words() {
        line(&mut out, "", &words);
    }
    if users.is_empty() {
        return Ok(out);
    }
    plan(&mut out, config, &users);
    batches(&mut out, config, users.len());
    // The plan may come before the run that trains the policy has a checkpoint.
    if let Err(missing) = lm::pretrained::run_checkpoint(&config.model.path) {
        line(&mut out, "memory", &format!("not estimated: {missing}"));
        return Ok(out);
    }
    let folder = lm::pretrained::description(&config.model.path)?;
    let prompts = wording::of_model(&config.prompts, &config.model.path, PromptTask::Summarize)?;
    prompts.check_summaries(users.iter().map(|user| user.stages[0].window))?;
    memory(&mut out, config, &ModelConfig::load(&folder).map_err(trainer::TrainError::from)?, ranks);
    Ok(out)
}

/// Returns warnings about reward terms that cannot have the effect that they are configured for; with `rows`, also for what the rows
/// lack.
pub fn reward_warnings(config: &RlConfig, registry: &Registry, rows: Option<&[RlRow]>) -> Result<String, Error> {
    let mut out = String::new();
    for warning in reward_checks::advice(config, &parts::composition(&config.reward, registry)?, rows) {
        line(&mut out, "WARNING", &warning);
    }
    Ok(out)
}

/// Describes stages and batches of a run over `users` users on `ranks` ranks, without the users and without the model.
pub fn of_users(config: &RlConfig, users: usize, ranks: usize) -> String {
    let rollout = &config.rollout;
    let mut out = String::new();
    line(&mut out, "users", &format!("{users} (--rows; nothing is read)"));
    for stage in 0..rollout.stages {
        let (groups, samples) = (rollout.groups_of(stage), rollout.num_generations_of(stage));
        line(&mut out, &format!("stage {}", stage + 1), &format!("{groups} groups per user of {samples} samples"));
    }
    batches(&mut out, config, users);
    let of_step = rollout.users_per_step.min(users) as f64;
    let (mean, responses) = (of_step / ranks as f64, of_step * rollout.generations_per_user() as f64 / ranks as f64);
    let words = format!("{mean:.1} users, {responses:.1} responses per step (mean) on each of {ranks}");
    line(&mut out, "per rank", &words);
    out
}

fn plan(out: &mut String, config: &RlConfig, users: &[CurriculumUser<'_>]) {
    let rollout = &config.rollout;
    let carried = match rollout.carry {
        Carry::Random => "carries a random summary",
        Carry::Best => "carries the best summary",
        Carry::Each => "carries each summary",
    };
    let of_messages = users.iter().filter(|user| !user.row.messages.is_empty()).count();
    let noun = match of_messages {
        0 => "interactions",
        all if all == users.len() => "messages",
        _ => "interactions or messages",
    };
    for stage in 0..rollout.stages {
        let mean = users.iter().map(|p| p.stages[stage].window.len()).sum::<usize>() as f64 / users.len() as f64;
        let last = stage + 1 == rollout.stages;
        let words = format!(
            "{mean:.1} {noun} (mean), {} groups per user of {} samples{}{}",
            rollout.groups_of(stage),
            rollout.num_generations_of(stage),
            if last { "" } else { "; " },
            if last { "" } else { carried },
        );
        line(out, &format!("stage {}", stage + 1), &words);
    }
}

fn batches(out: &mut String, config: &RlConfig, users: usize) {
    let (rollout, algorithm) = (&config.rollout, &config.algorithm);
    let of_step = rollout.users_per_step.min(users);
    let samples = of_step * rollout.generations_per_user();
    let groups = of_step * rollout.groups_per_user();
    let steps = trainer::grpo::steps(config, users);
    line(
        out,
        "steps",
        &format!("{steps} of {of_step} users, {:.2} epochs", steps as f64 * of_step as f64 / users as f64),
    );
    if config.train.drop_last {
        let left_out = users % rollout.users_per_step;
        line(out, "", &format!("({left_out} users of each epoch are in no step: train.drop_last)"));
    }
    line(
        out,
        "per step",
        &format!("{groups} groups, {samples} responses of at most {} tokens", rollout.max_new_tokens),
    );
    let updates = match algorithm.minibatches {
        Minibatches::Groups => algorithm.num_minibatches.min(groups),
        Minibatches::Published => {
            samples.div_ceil(algorithm.published_ranks).div_ceil(algorithm.published_minibatch_size(rollout))
        }
    };
    line(
        out,
        "updates",
        &format!(
            "{} per step ({} epochs of {updates} mini-batches, about {} responses each), {} in total",
            updates * algorithm.num_iterations,
            algorithm.num_iterations,
            samples / updates,
            steps as usize * updates * algorithm.num_iterations
        ),
    );
    if algorithm.minibatches == Minibatches::Published {
        let (ranks, of_rank) = (algorithm.published_ranks, algorithm.published_minibatch_size(rollout));
        let words = format!("{of_rank} responses on each of {ranks} published ranks, each stage balanced by length");
        line(out, "mini-batch", &words);
    }
    if algorithm.aggregation == Aggregation::MicroBatchTokenMean {
        let (all, sequences) = (algorithm.micro_batches_per_minibatch(rollout), algorithm.micro_batch_sequences);
        let of_rank = match algorithm.minibatches {
            Minibatches::Groups => String::new(),
            Minibatches::Published => format!(", {} on each published rank", all / algorithm.published_ranks),
        };
        let words = format!("mean of the token means of {all} micro-batches of {sequences} responses per mini-batch");
        line(out, "loss", &format!("{words}{of_rank}"));
    }
    line(out, "micro-batch", &format!("at most {} tokens (packed for execution)", algorithm.micro_batch_tokens));
    alarm(out, config, steps);
    // A step of RL ends no epoch: config.check refuses checkpoint.every_epoch.
    out.push_str(&checkpoints(&config.checkpoint, steps, |_| false));
}

/// Describes when the reward hacking alarm can be raised.
fn alarm(out: &mut String, config: &RlConfig, steps: u64) {
    let Some(alarm) = &config.alarm else { return };
    let every = config.validation.every as u64;
    let (looks, window) = (AlarmConfig::looks(steps, every), alarm.window as u64);
    let words = if looks < window {
        format!(
            "tests nothing: {looks} looks, fewer than alarm.window ({window}); lower validation.every or alarm.window"
        )
    } else {
        let tests = alarm.tests(looks);
        let level = alarm.error_rate / tests as f64;
        let first = (window * every).min(steps);
        format!("{looks} looks by `{}`, {tests} tests at level {level:.1e}, the first after step {first}", alarm.judge)
    };
    line(out, "alarm", &words);
}

fn memory(out: &mut String, config: &RlConfig, spec: &ModelConfig, ranks: usize) {
    let judges = config.panel_judges().into_iter().map(|(key, own)| {
        let needed = judge(&key, &own.judge);
        (own, needed)
    });
    let judges: Vec<(RlJudge, Result<JudgeMemory, String>)> = judges.collect();
    // Judges with the same model and placement share its weights (xplore::panel).
    let model = |i: usize| (&judges[i].0.judge.model, judges[i].0.judge.placement);
    let owner = |i: usize| (0..i).find(|&other| model(other) == model(i));
    let loaded = (0..judges.len()).filter(|&i| owner(i).is_none());
    let loaded = loaded.filter_map(|i| judges[i].1.as_ref().ok().copied());
    let needed = memory_plan::grpo(config, spec, loaded, ranks);
    let policy = &needed.policy;
    line(
        out,
        "memory",
        &format!(
            "weights {}, gradients {}, optimizer {}, activations {}, temporary {}, reference {}",
            gib(policy.weights),
            gib(policy.gradients),
            gib(policy.optimizer),
            gib(policy.activations),
            gib(policy.passing),
            gib(needed.reference)
        ),
    );
    line(out, "rollout", &format!("{} with a full KV cache of {}", gib(needed.rollout()), gib(needed.cache)));
    line(out, "update", &gib(needed.update()));
    for (i, (own, judge)) in judges.iter().enumerate() {
        let words = match (judge, owner(i)) {
            (Err(words), _) => words.clone(),
            (Ok(_), Some(owner)) => format!("shares the model of {}", judges[owner].0.name),
            (&Ok(JudgeMemory { weights, cache, resident }), None) => {
                let place = if resident { ", resident" } else { "; offloaded to host memory except while it judges" };
                format!("weights {}, KV cache of up to {}{place}", gib(weights), gib(cache))
            }
        };
        line(out, if config.judges.is_empty() { "judge" } else { &own.name }, &words);
    }
    line(out, "fits", &fits(needed.peak(), config.model.device, ranks));
}

/// Returns the memory of a judge, or why it is not counted. `key` is the key of its settings.
fn judge(key: &str, config: &JudgeConfig) -> Result<JudgeMemory, String> {
    if config.endpoint.is_given() {
        return Err(format!("not counted (served by {key}.endpoint)"));
    }
    memory_plan::judge(config).map_err(|e| format!("not counted: {e}"))
}

/// Prints one prompt and one judged sample of the first user.
pub fn try_one(config: &RlConfig, registry: &Registry, rows: &[RlRow]) -> Result<(), Error> {
    CurriculumSampler::new(rows, config)?;
    let users = usable(rows, config);
    let user = users.first().expect("CurriculumSampler::new refuses rows without a user");
    let composition = parts::composition(&config.reward, registry)?;
    panel::check_tasks(config, &composition, rows)?;
    let prompts = wording::of_model(&config.prompts, &config.model.path, PromptTask::Summarize)?;
    let trainable = trainable(config, ParallelContext::single())?;
    let judges = panel::panel(config)?;
    let mut one = config.clone();
    one.rollout.stages = 1;
    (one.rollout.num_generations, one.rollout.num_generations_by_stage) = (1, Vec::new());
    let ask = |requests: &[PanelRequest]| Ok(judges.verdicts(requests)?);
    let rollouts = Rollouts {
        prompts: &prompts,
        ask: &ask,
        submit: None,
        stats: None,
        gate: None,
        composition: &composition,
        config: &one,
    };
    let user = CurriculumUser { row: user.row, stages: user.stages[..1].to_vec() };
    let rolled_out = trainable
        .as_one(|model| rollouts.roll_out((model, &trainable.context), std::slice::from_ref(&user), (0, 0)))?;
    let (group, target) = (&rolled_out.groups[0], user.stages[0].target);
    let sample = &group.samples[0];
    println!("\nprompt of {} ({} tokens):\n", group.uid, group.prompt.len());
    println!("{}", trainable.model.tokenizer.decode(&group.prompt).map_err(trainer::TrainError::from)?);
    println!("\nresponse ({} tokens{}):\n", sample.ids.len(), if sample.truncated { ", truncated" } else { "" });
    println!("{}", sample.text);
    println!("\ntarget choice: {} over {}", target.chosen, target.rejected.as_deref().unwrap_or("nothing"));
    match sample.p_chosen {
        Some(p) => {
            let silent = if sample.no_answer > 0.0 { " (the judge gave no answer)" } else { "" };
            println!("judge probability of the target choice {p:.3}{silent}; reward {:.3}", sample.reward.total);
        }
        None => println!("the response fails the format gate and is not judged; reward {:.3}", sample.reward.total),
    }
    for (name, score) in composition.names().iter().zip(&sample.reward.scores) {
        println!("  {name} {score:.3}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_published_recipe_has_the_released_batches() {
        let preset = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/rl-alignxplore-plus.toml");
        let config: RlConfig = configs::load(&preset, &[]).unwrap();
        let mut out = String::new();
        batches(&mut out, &config, 30 * 1024 + 500);
        for words in [
            "30 of 1024 users",
            "(500 users of each epoch are in no step: train.drop_last)",
            "2048 groups, 8192 responses",
            "4 per step (1 epochs of 4 mini-batches, about 2048 responses each), 120 in total",
            "32 responses on each of 64 published ranks",
            "256 micro-batches of 8 responses per mini-batch, 4 on each published rank",
            "checkpoints  1 (after steps 30);",
        ] {
            assert!(out.contains(words), "`{words}` is missing in\n{out}");
        }
    }

    #[test]
    fn judges_with_the_same_model_are_loaded_once() {
        let folder = fixtures::policy::model_and_rows();
        let path = folder.path().join("model");
        let judge = |name: &str| {
            let mut judge = RlJudge { name: name.into(), ..RlJudge::default() };
            judge.judge.model.path = path.display().to_string();
            judge
        };
        let config = RlConfig { judges: vec![judge("near"), judge("far")], ..RlConfig::default() };
        let mut out = String::new();
        memory(&mut out, &config, &ModelConfig::load(&path).unwrap(), 1);
        assert_eq!(out.matches("KV cache of up to").count(), 1, "{out}");
        assert!(out.contains("shares the model of near"), "{out}");
    }
}
