//! GRPO steps on prompts of token ids with a trivial reward, timed: prints one JSON line. `benches/grpo` runs it.
//!
//! A step is what `xplore rl` does, but for the prompts, which are given, and the judge, in whose place the share of ids
//! that 4 divides is the reward: roll out, credit, one update.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use chat::Sampling;
use clap::Parser;
use configs::model::{Device, Dtype, ModelSource};
use configs::optimizer::StateDtype;
use configs::{OptimizerConfig, RlConfig};
use lm::generate::Request;
use rewards::{Draw, Reward};
use serde_json::json;
use trainer::rl::credited::credit;
use trainer::rl::rollout::{Group, Sample};
use trainer::rl::update::update;
use trainer::start;
use trainer::trainee::Trainee;

#[derive(Parser)]
struct Arguments {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// fp32 or bf16; weights, gradients and moments are in it.
    #[arg(long)]
    dtype: String,
    /// JSON list of lists of token ids.
    #[arg(long)]
    prompts: PathBuf,
    #[arg(long)]
    prompts_per_step: usize,
    #[arg(long)]
    samples: usize,
    /// Length of every response.
    #[arg(long)]
    max_new_tokens: usize,
    #[arg(long)]
    steps: usize,
    #[arg(long)]
    lr: f64,
    /// Most tokens of a pass.
    #[arg(long)]
    tokens: usize,
    /// Compute each response's prompt anew.
    #[arg(long)]
    no_sharing: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    start::prepare_process(0)?;
    let config = config(&arguments)?;
    let prompts: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(&arguments.prompts)?)?;
    let mut trainee = Trainee::new(start::load(&config.model)?, None, &config.optimizer)?;
    let mut optimizer = trainee.optimizer(&config.optimizer)?;
    let (mut rollouts, mut updates, mut ends, mut losses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in 0..arguments.steps {
        let begin = Instant::now();
        let own = |i: usize| prompts[(step * arguments.prompts_per_step + i) % prompts.len()].clone();
        let of_step: Vec<Vec<u32>> = (0..arguments.prompts_per_step).map(own).collect();
        let groups = rolled_out(&trainee, of_step, &config, step)?;
        rollouts.push(begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        let credited = credit(&groups, &config)?;
        let steps = (step as u64, arguments.steps as u64);
        let done = update(&mut trainee, &mut optimizer, &groups, &credited, &config, steps)?;
        updates.push(begin.elapsed().as_secs_f64());
        losses.push(json!({"loss": done[0].sums.loss, "grad_norm": done[0].update.grad_norm,
                           "ratio_error": done[0].sums.ratio_error}));
        ends.push(rollouts[step] + updates[step]);
    }
    println!("{}", json!({"engine": "xplore", "rollout": rollouts, "update": updates, "step": ends, "steps": losses}));
    Ok(())
}

fn config(arguments: &Arguments) -> Result<RlConfig, Box<dyn Error>> {
    let dtype = match arguments.dtype.as_str() {
        "fp32" => Dtype::Fp32,
        "bf16" => Dtype::Bf16,
        other => return Err(format!("--dtype {other}: expected fp32 or bf16").into()),
    };
    let path = arguments.model.display().to_string();
    let mut config = RlConfig {
        model: ModelSource { path, dtype, device: Device::Cpu, ..ModelSource::default() },
        optimizer: OptimizerConfig {
            lr: arguments.lr,
            weight_decay: 0.0,
            state: StateDtype::Model,
            ..OptimizerConfig::published_rl()
        },
        ..RlConfig::default()
    };
    config.rollout.max_new_tokens = arguments.max_new_tokens;
    config.rollout.samples = arguments.samples;
    config.algorithm.updates_per_step = 1;
    config.algorithm.tokens_per_microbatch = arguments.tokens;
    config.algorithm.share_prompts = !arguments.no_sharing;
    Ok(config)
}

fn rolled_out(
    trainee: &Trainee,
    prompts: Vec<Vec<u32>>,
    config: &RlConfig,
    step: usize,
) -> Result<Vec<Group>, Box<dyn Error>> {
    let sampling = Sampling { ignore_eos: true, ..Sampling::all(config.rollout.max_new_tokens) };
    let draw = Draw::new(1).with(step as u64);
    let request = |(i, prompt): (usize, Vec<u32>)| {
        let seeds = (0..config.rollout.samples as u64).map(|s| draw.with(i as u64).with(s).bits()).collect();
        Request { prompt, seeds, sampling: sampling.clone(), top_logprobs: 0 }
    };
    let requests: Vec<Request> = prompts.into_iter().enumerate().map(request).collect();
    let generated = trainee.model.generator().generate(&requests, None)?;
    let group = |(person, (request, outputs)): (usize, (Request, Vec<lm::generate::Generated>))| Group {
        person,
        uid: person.to_string(),
        stage: 0,
        continues: false,
        parent: None,
        prompt: request.prompt,
        samples: outputs.into_iter().map(sample).collect(),
        carried: Vec::new(),
    };
    Ok(requests.into_iter().zip(generated).enumerate().map(group).collect())
}

fn sample(output: lm::generate::Generated) -> Sample {
    let total = output.ids.iter().filter(|id| *id % 4 == 0).count() as f64 / output.ids.len() as f64;
    Sample {
        ids: output.ids,
        rollout: output.logprobs,
        old: Vec::new(),
        reference: Vec::new(),
        text: String::new(),
        truncated: false,
        p_chosen: None,
        reward: Reward { total, scores: Vec::new(), well_formed: true },
    }
}
