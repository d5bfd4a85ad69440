//! Times GRPO steps on prompts of token IDs with a trivial reward, and prints one JSON line. `benches/grpo` runs it.
//!
//! A step is a step of `xplore rl` (rollout, credit, one update) with two differences: the prompts are given, and the reward is the
//! share of token IDs that are divisible by 4, in place of a judge.

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
use trainer::grpo::advantages::credit;
use trainer::grpo::group::{Group, GroupInput, Sample};
use trainer::grpo::update::update;
use trainer::start;
use trainer::trainable_model::TrainableModel;

#[derive(Parser)]
struct BenchArguments {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// Dtype of weights, gradients and optimizer state: fp32 or bf16.
    #[arg(long)]
    dtype: String,
    /// JSON file: a list of lists of token IDs.
    #[arg(long)]
    prompts: PathBuf,
    #[arg(long)]
    prompts_per_step: usize,
    #[arg(long)]
    samples: usize,
    /// Length of every response, in tokens.
    #[arg(long)]
    max_new_tokens: usize,
    #[arg(long)]
    steps: usize,
    #[arg(long)]
    lr: f64,
    /// Maximum number of tokens per micro-batch.
    #[arg(long)]
    tokens: usize,
    /// Compute the prompt separately for each response.
    #[arg(long)]
    no_sharing: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = BenchArguments::parse();
    start::prepare_process(0)?;
    let config = config(&arguments)?;
    let prompts: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(&arguments.prompts)?)?;
    let mut trainable = TrainableModel::new(start::load(&config.model)?, None, &config.optimizer)?;
    let mut optimizer = trainable.optimizer(&config.optimizer)?;
    let (mut rollouts, mut updates, mut ends, mut losses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in 0..arguments.steps {
        let begin = Instant::now();
        let own = |i: usize| prompts[(step * arguments.prompts_per_step + i) % prompts.len()].clone();
        let of_step: Vec<Vec<u32>> = (0..arguments.prompts_per_step).map(own).collect();
        let groups = rolled_out(&trainable, of_step, &config, step)?;
        rollouts.push(begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        let advantages = credit(&groups, &config)?;
        let steps = (step as u64, arguments.steps as u64);
        let done = update(&mut trainable, &mut optimizer, &groups, &advantages, &config, steps)?;
        updates.push(begin.elapsed().as_secs_f64());
        losses.push(json!({"loss": done[0].sums.loss, "grad_norm": done[0].update.grad_norm,
                           "ratio_error": done[0].sums.ratio_error}));
        ends.push(rollouts[step] + updates[step]);
    }
    println!("{}", json!({"engine": "xplore", "rollout": rollouts, "update": updates, "step": ends, "steps": losses}));
    Ok(())
}

fn config(arguments: &BenchArguments) -> Result<RlConfig, Box<dyn Error>> {
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
    config.rollout.num_generations = arguments.samples;
    config.algorithm.num_minibatches = 1;
    config.algorithm.micro_batch_tokens = arguments.tokens;
    config.algorithm.share_prompts = !arguments.no_sharing;
    Ok(config)
}

fn rolled_out(
    trainable: &TrainableModel,
    prompts: Vec<Vec<u32>>,
    config: &RlConfig,
    step: usize,
) -> Result<Vec<Group>, Box<dyn Error>> {
    let sampling = Sampling { ignore_eos: true, ..Sampling::all(config.rollout.max_new_tokens) };
    let draw = Draw::new(1).with(step as u64);
    let request = |(i, prompt): (usize, Vec<u32>)| {
        let seeds = (0..config.rollout.num_generations as u64).map(|s| draw.with(i as u64).with(s).bits()).collect();
        Request { prompt, seeds, sampling: sampling.clone(), top_logprobs: 0 }
    };
    let requests: Vec<Request> = prompts.into_iter().enumerate().map(request).collect();
    let generated = trainable.model.generator().generate(&requests, None)?;
    let group = |(user, (request, outputs)): (usize, (Request, Vec<lm::generate::Generated>))| Group {
        user,
        uid: user.to_string(),
        stage: 0,
        continues: false,
        parent: None,
        prompt: request.prompt,
        samples: outputs.into_iter().map(sample).collect(),
        carried: Vec::new(),
        input: GroupInput::default(),
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
        verdicts: Vec::new(),
        no_answer: 0.0,
        reward: Reward { total, scores: Vec::new(), parts: Vec::new(), well_formed: true },
    }
}
