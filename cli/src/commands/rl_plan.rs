//! The plan of a GRPO run, computed from its rows and the model's shape, and one sample of the run.

use std::fmt::Write;

use chat::{Question, RlRow};
use configs::rl::rollout::Carry;
use configs::{JudgePlacement, RlConfig};
use lm::ModelConfig;
use rewards::{Judge, Registry};
use trainer::grpo::curriculum_sampler::{CurriculumSampler, User, usable};
use trainer::grpo::rollout::Rollouts;
use trainer::memory::{Needs, Ranks, estimate};
use trainer::{ParallelContext, start};

use xplore::grpo::{judged_by, trainable};
use xplore::{Error, parts};

use super::sft_plan::{fits, gib};

fn line(out: &mut String, label: &str, words: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  {label:12} {words}");
}

/// Describes stages, batches and memory for display. Does not load weights.
pub fn describe(config: &RlConfig, rows: &[RlRow], ranks: usize) -> Result<String, Error> {
    let users = usable(rows, &config.rollout);
    let mut out = String::new();
    let short = rows.len() - users.len();
    line(&mut out, "users", &format!("{} rows, {short} with too short a history left out", rows.len()));
    if users.is_empty() {
        return Ok(out);
    }
    plan(&mut out, config, &users);
    batches(&mut out, config, users.len());
    let folder = start::description(&config.model.path)?;
    memory(&mut out, config, &ModelConfig::load(&folder).map_err(trainer::TrainError::from)?, ranks);
    Ok(out)
}

fn plan(out: &mut String, config: &RlConfig, users: &[User<'_>]) {
    let rollout = &config.rollout;
    let carried = match rollout.carry {
        Carry::Random => "one by chance is carried on",
        Carry::Best => "the best is carried on",
        Carry::Each => "each is carried on",
    };
    for stage in 0..rollout.stages {
        let mean = users.iter().map(|p| p.stages[stage].window.len()).sum::<usize>() as f64 / users.len() as f64;
        let last = stage + 1 == rollout.stages;
        let words = format!(
            "{mean:.1} interactions (mean), {} groups a user of {} samples{}{}",
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
    line(out, "a step", &format!("{groups} groups, {samples} responses of at most {} tokens", rollout.max_new_tokens));
    let updates = algorithm.num_minibatches.min(groups);
    line(
        out,
        "updates",
        &format!(
            "{} a step ({} epochs of {updates} mini-batches, about {} responses each), {} in all",
            updates * algorithm.num_iterations,
            algorithm.num_iterations,
            samples / updates,
            steps as usize * updates * algorithm.num_iterations
        ),
    );
    line(out, "passes", &format!("of at most {} tokens", algorithm.micro_batch_tokens));
}

fn memory(out: &mut String, config: &RlConfig, spec: &ModelConfig, ranks: usize) {
    let row = config.rollout.max_prompt_tokens + config.rollout.max_new_tokens;
    let needs = estimate(&Needs {
        spec,
        dtype: config.model.dtype,
        state: config.optimizer.state,
        ema: config.optimizer.ema_decay > 0.0,
        lora: config.lora.as_ref(),
        activation_checkpointing_every: config.train.activation_checkpointing_every,
        tokens: config.algorithm.micro_batch_tokens.max(row),
        trained: config.algorithm.micro_batch_tokens.max(row),
        ranks: Ranks::new(&config.parallel, ranks),
    });
    // The reference is as large as the policy, if it is a separate model.
    let new_adapters = config.lora.as_ref().is_some_and(|lora| lora.start.as_os_str().is_empty());
    let under_adapters = new_adapters && config.algorithm.kl.reference.is_empty();
    let reference = if config.algorithm.needs_reference() && !under_adapters { needs.weights } else { 0.0 };
    let merged = needs.whole.max(if config.lora.is_some() { needs.weights } else { 0.0 });
    let cache = config.model.kv_cache_gib * f64::from(1 << 30);
    line(
        out,
        "memory",
        &format!(
            "weights {}, gradients {}, optimizer {}, activations {}, in passing {}, reference {}",
            gib(needs.weights),
            gib(needs.gradients),
            gib(needs.optimizer),
            gib(needs.activations),
            gib(needs.passing),
            gib(reference)
        ),
    );
    let words = format!("{} with a full cache of {}", gib(needs.update() + reference + merged + cache), gib(cache));
    line(out, "rollout", &words);
    line(out, "update", &gib(needs.passes() + reference));
    let judge = judge(out, config);
    let rollout = needs.update() + reference + merged + cache + judge;
    let most = rollout.max(needs.passes() + reference + judge);
    line(out, "fits", &fits(most, config.model.device, ranks));
}

/// Returns the memory that the judge permanently occupies on the policy's device, in bytes.
fn judge(out: &mut String, config: &RlConfig) -> f64 {
    let judge = &config.judge;
    if judge.endpoint.is_given() {
        line(out, "judge", "at its endpoint");
        return 0.0;
    }
    let described = start::description(&judge.model.path).and_then(|folder| Ok(ModelConfig::load(&folder)?));
    let Ok(spec) = described else {
        line(out, "judge", "its config.json is not at hand, so it is not counted");
        return 0.0;
    };
    let parameters: f64 = lm::params::layout(&spec).iter().map(|entry| entry.numel() as f64).sum();
    let weights = parameters * if judge.model.dtype == configs::Dtype::Fp32 { 4.0 } else { 2.0 };
    let cache = judge.model.kv_cache_gib * f64::from(1 << 30);
    let words = format!("{} of weights, a cache of up to {}", gib(weights), gib(cache));
    match judge.placement {
        JudgePlacement::Resident => {
            line(out, "judge", &format!("{words}, resident"));
            weights + cache
        }
        JudgePlacement::Offload => {
            line(out, "judge", &format!("{words}; in the host's memory but while it judges"));
            0.0
        }
    }
}

/// Prints one prompt and one judged sample of the first user.
pub fn try_one(config: &RlConfig, registry: &Registry, rows: &[RlRow]) -> Result<(), Error> {
    CurriculumSampler::new(rows, config)?;
    let users = usable(rows, &config.rollout);
    let user = users.first().expect("CurriculumSampler::new refuses rows without a user");
    let composition = parts::composition(&config.reward, registry)?;
    let prompts = parts::prompts(&config.prompts)?;
    let judge_prompts = parts::prompts(&config.judge.prompts)?;
    let trainable = trainable(config, ParallelContext::single())?;
    let judge_model = parts::judge_model(&config.judge)?;
    let judge = Judge::new(&*judge_model, &judge_prompts, parts::judge_settings(&config.judge, config.seed))?;
    let judging = judged_by(&judge);
    let mut one = config.clone();
    one.rollout.stages = 1;
    (one.rollout.num_generations, one.rollout.num_generations_by_stage) = (1, Vec::new());
    let asking = |questions: &[Question]| Ok(judge.score(questions)?);
    let rollouts =
        Rollouts { prompts: &prompts, judging: &judging, asking: &asking, composition: &composition, config: &one };
    let user = User { row: user.row, stages: user.stages[..1].to_vec() };
    let rolled_out = trainable
        .as_one(|model| rollouts.roll_out((model, &trainable.context), std::slice::from_ref(&user), (0, 0)))?;
    let (group, target) = (&rolled_out.groups[0], user.stages[0].target);
    let sample = &group.samples[0];
    println!("\nprompt of {} ({} tokens):\n", group.uid, group.prompt.len());
    println!("{}", trainable.model.tokenizer.decode(&group.prompt).map_err(trainer::TrainError::from)?);
    println!("\nresponse ({} tokens{}):\n", sample.ids.len(), if sample.truncated { ", cut" } else { "" });
    println!("{}", sample.text);
    println!(
        "\nthe choice it is judged by: {} over {}",
        target.chosen,
        target.rejected.as_deref().unwrap_or("nothing")
    );
    match sample.p_chosen {
        Some(p) => println!("the judge gives it {p:.3}; reward {:.3}", sample.reward.total),
        None => println!("it fails the format gate, so the judge does not see it; reward {:.3}", sample.reward.total),
    }
    for (name, score) in composition.names().iter().zip(&sample.reward.scores) {
        println!("  {name} {score:.3}");
    }
    Ok(())
}
