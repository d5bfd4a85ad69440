//! What a run of GRPO will do, seen from its rows and the model's shape, and one sample of it.

use std::fmt::Write;

use chat::RlRow;
use configs::rl::rollout::Carry;
use configs::{JudgePlacement, RlConfig};
use lm::ModelSpec;
use rewards::Judge;
use trainer::memory::{Needs, Ranks, estimate};
use trainer::rl::people::{People, Person, usable};
use trainer::rl::rollout::{Rollouts, Spent};
use trainer::{Team, rl, start};

use super::rl::{judged_by, trainee};
use super::sft_plan::{fits, gib};
use crate::failure::Failure;
use crate::wiring;

fn line(out: &mut String, label: &str, words: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  {label:12} {words}");
}

/// Stages, batches and memory, for people; no weights are loaded.
pub fn describe(config: &RlConfig, rows: &[RlRow], ranks: usize) -> Result<String, Failure> {
    let people = usable(rows, &config.rollout);
    let mut out = String::new();
    let short = rows.len() - people.len();
    line(&mut out, "people", &format!("{} rows, {short} with too short a history left out", rows.len()));
    if people.is_empty() {
        return Ok(out);
    }
    plan(&mut out, config, &people);
    batches(&mut out, config, people.len());
    let folder = start::description(&config.model.path)?;
    memory(&mut out, config, &ModelSpec::load(&folder).map_err(trainer::TrainError::from)?, ranks);
    Ok(out)
}

fn plan(out: &mut String, config: &RlConfig, people: &[Person<'_>]) {
    let rollout = &config.rollout;
    let carried = match rollout.carry {
        Carry::Random => "one by chance is carried on",
        Carry::Best => "the best is carried on",
        Carry::Each => "each is carried on",
    };
    for stage in 0..rollout.stages {
        let mean = people.iter().map(|p| p.stages[stage].window.len()).sum::<usize>() as f64 / people.len() as f64;
        let last = stage + 1 == rollout.stages;
        let words = format!(
            "{mean:.1} interactions (mean), {} groups a person of {} samples{}{}",
            rollout.groups_of(stage),
            rollout.samples_of(stage),
            if last { "" } else { "; " },
            if last { "" } else { carried },
        );
        line(out, &format!("stage {}", stage + 1), &words);
    }
}

fn batches(out: &mut String, config: &RlConfig, people: usize) {
    let (rollout, algorithm) = (&config.rollout, &config.algorithm);
    let of_step = rollout.people_per_step.min(people);
    let samples = of_step * rollout.samples_per_person();
    let groups = of_step * rollout.groups_per_person();
    let steps = rl::steps(config, people);
    line(
        out,
        "steps",
        &format!("{steps} of {of_step} people, {:.2} epochs", steps as f64 * of_step as f64 / people as f64),
    );
    line(out, "a step", &format!("{groups} groups, {samples} responses of at most {} tokens", rollout.max_new_tokens));
    let updates = algorithm.updates_per_step.min(groups);
    line(
        out,
        "updates",
        &format!(
            "{} a step ({} epochs of {updates} mini-batches, about {} responses each), {} in all",
            updates * algorithm.epochs_per_step,
            algorithm.epochs_per_step,
            samples / updates,
            steps as usize * updates * algorithm.epochs_per_step
        ),
    );
    line(out, "passes", &format!("of at most {} tokens", algorithm.tokens_per_microbatch));
}

fn memory(out: &mut String, config: &RlConfig, spec: &ModelSpec, ranks: usize) {
    let row = config.rollout.max_prompt_tokens + config.rollout.max_new_tokens;
    let needs = estimate(&Needs {
        spec,
        dtype: config.model.dtype,
        state: config.optimizer.state,
        ema: config.optimizer.ema_decay > 0.0,
        lora: config.lora.as_ref(),
        recompute_every: config.train.recompute_every,
        tokens: config.algorithm.tokens_per_microbatch.max(row),
        trained: config.algorithm.tokens_per_microbatch.max(row),
        ranks: Ranks::new(&config.parallel, ranks),
    });
    // As large as the policy, if it is another model.
    let new_adapters = config.lora.as_ref().is_some_and(|lora| lora.start.as_os_str().is_empty());
    let under_adapters = new_adapters && config.algorithm.kl.reference.is_empty();
    let reference = if config.algorithm.needs_reference() && !under_adapters { needs.weights } else { 0.0 };
    let merged = needs.whole.max(if config.lora.is_some() { needs.weights } else { 0.0 });
    let cache = config.model.cache_gib * f64::from(1 << 30);
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

/// What the judge takes on the policy's device all the time, bytes.
fn judge(out: &mut String, config: &RlConfig) -> f64 {
    let judge = &config.judge;
    if judge.endpoint.is_given() {
        line(out, "judge", "at its endpoint");
        return 0.0;
    }
    let described = start::description(&judge.model.path).and_then(|folder| Ok(ModelSpec::load(&folder)?));
    let Ok(spec) = described else {
        line(out, "judge", "its config.json is not at hand, so it is not counted");
        return 0.0;
    };
    let parameters: f64 = lm::params::layout(&spec).iter().map(|entry| entry.numel() as f64).sum();
    let weights = parameters * if judge.model.dtype == configs::Dtype::Fp32 { 4.0 } else { 2.0 };
    let cache = judge.model.cache_gib * f64::from(1 << 30);
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

/// Prints one prompt and one judged sample of the first person.
pub fn try_one(config: &RlConfig, rows: &[RlRow]) -> Result<(), Failure> {
    People::new(rows, config)?;
    let people = usable(rows, &config.rollout);
    let person = people.first().expect("People::new refuses rows without a person");
    let composition = wiring::composition(&config.reward)?;
    let prompts = wiring::prompts(&config.prompts)?;
    let judge_prompts = wiring::prompts(&config.judge.prompts)?;
    let trainee = trainee(config, Team::alone())?;
    let judge_model = wiring::judge_model(&config.judge)?;
    let judge = Judge::new(&*judge_model, &judge_prompts, wiring::judge_settings(&config.judge, config.seed))?;
    let judging = judged_by(&judge);
    let mut one = config.clone();
    one.rollout.stages = 1;
    (one.rollout.samples, one.rollout.samples_by_stage) = (1, Vec::new());
    let rollouts = Rollouts { prompts: &prompts, judging: &judging, composition: &composition, config: &one };
    let person = Person { row: person.row, stages: person.stages[..1].to_vec() };
    let groups = trainee.as_one(|model| {
        rollouts.roll_out((model, &trainee.team), std::slice::from_ref(&person), (0, 0), &mut Spent::default())
    })?;
    let (group, target) = (&groups[0], person.stages[0].target);
    let sample = &group.samples[0];
    println!("\nprompt of {} ({} tokens):\n", group.uid, group.prompt.len());
    println!("{}", trainee.model.tokenizer.decode(&group.prompt).map_err(trainer::TrainError::from)?);
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
