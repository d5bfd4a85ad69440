//! Times the judges of a GRPO step, and prints one JSON line.
//!
//! `pairs`: a panel judges pairs of items in both orders. `forward` is the time of the forward passes of the same tokens alone; the
//! panel adds prompts, tokenization, the cache and the reading of answers.
//!
//! `step`: a rollout of one stage, judged by a judge at an endpoint that takes `--latency` for each batch of requests, beside one
//! whose judge takes no time. The endpoint answers while further summaries are generated.

use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use chat::completer::CompleterError;
use chat::tokenizer::Tokenizer;
use chat::{
    Completer, Completion, CompletionRequest, FinishReason, Interaction, PromptSet, Question, RlRow, TokenLogprob,
};
use clap::Parser;
use configs::judge::{ItemOrders, JudgeMode, PanelRule};
use configs::model::{Device, Dtype, ModelShape};
use configs::{OptimizerConfig, RlConfig};
use lm::LocalModel;
use lm::generate::ScoreRequest;
use rewards::{
    Composition, Judge, JudgeModel, JudgeSettings, Panel, PanelJudge, PanelRequest, PanelVerdict, Registry, TermSpec,
};
use serde_json::json;
use trainer::grpo::curriculum_sampler::CurriculumSampler;
use trainer::grpo::rewarding::SubmitFn;
use trainer::grpo::rollout::Rollouts;
use trainer::start;
use trainer::trainable_model::TrainableModel;

const WORDS: [&str; 8] = ["warm", "stories", "about", "space", "long", "dry", "reports", "finance"];

#[derive(Parser)]
struct BenchArguments {
    /// Number of pairs of items.
    #[arg(long, default_value_t = 4096)]
    pairs: usize,
    /// Number of words of a summary. Eight pairs share one.
    #[arg(long, default_value_t = 40)]
    words: usize,
    /// Milliseconds that a batch of requests takes at the endpoint.
    #[arg(long, default_value_t = 200)]
    latency: u64,
    /// Length of the longest summary of the step, in tokens.
    #[arg(long, default_value_t = 192)]
    max_new_tokens: usize,
    /// Width of the judge's model.
    #[arg(long, default_value_t = 128)]
    hidden_size: usize,
    /// Number of layers of the judge's model.
    #[arg(long, default_value_t = 3)]
    layers: usize,
    /// Number of measurements; the fastest counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = BenchArguments::parse();
    start::prepare_process(0)?;
    let (judging, forward) = pairs(&arguments)?;
    let (free, endpoint) = step(&arguments)?;
    println!(
        "{}",
        json!({"pairs": arguments.pairs, "hidden_size": arguments.hidden_size, "layers": arguments.layers, "latency_ms": arguments.latency,
               "judging": judging, "forward": forward, "judging_to_forward": judging / forward,
               "step_free": free, "step_endpoint": endpoint, "endpoint_to_free": endpoint / free})
    );
    Ok(())
}

fn model(name: &str, hidden_size: usize, layers: usize) -> Result<LocalModel, Box<dyn Error>> {
    let text = format!("{} A B answer: likes avoids", WORDS.join(" "));
    let tokenizer = Tokenizer::train([text.as_str(); 8].into_iter(), 400)?;
    let heads = (hidden_size / 32).max(1);
    let size = ModelShape { hidden_size, intermediate_size: 3 * hidden_size, layers, ..ModelShape::default() };
    let shape = ModelShape { heads, kv_heads: heads, head_dim: 32, init_std: 0.1, ..size };
    Ok(start::random(name, &shape, tokenizer, 5, (Device::Cpu, Dtype::Fp32))?)
}

fn phrase(seed: usize, words: usize) -> String {
    (0..words).map(|i| WORDS[(seed * 5 + i * 3 + i * i) % WORDS.len()]).collect::<Vec<_>>().join(" ")
}

fn prompts() -> Result<PromptSet, Box<dyn Error>> {
    Ok(PromptSet::new("compact", &configs::prompts::sources("compact")?)?)
}

fn settings() -> JudgeSettings {
    JudgeSettings::new(JudgeMode::Forced, ItemOrders::Both, "answer")
}

fn interaction(i: usize) -> Interaction {
    Interaction { chosen: phrase(i, 4), rejected: Some(phrase(i + 3, 5)), ..Interaction::default() }
}

/// Returns the seconds of judging, and of the forward passes alone.
fn pairs(arguments: &BenchArguments) -> Result<(f64, f64), Box<dyn Error>> {
    let (model, prompts) = (Rc::new(model("judge", arguments.hidden_size, arguments.layers)?), prompts()?);
    let requests: Vec<PanelRequest> = (0..arguments.pairs)
        .map(|i| PanelRequest::choice(&interaction(i), &format!("{} {}", i / 8, phrase(i / 8, arguments.words))))
        .collect::<Option<_>>()
        .ok_or("an item is missing")?;
    let judge = Judge::new(&*model, &prompts, settings())?;
    let mut batch = Vec::new();
    for i in 0..arguments.pairs {
        let Interaction { query, chosen, rejected, .. } = interaction(i);
        let preference = format!("{} {}", i / 8, phrase(i / 8, arguments.words));
        let question = Question { query, preference, chosen, rejected: rejected.unwrap_or_default() };
        for chosen_first in [true, false] {
            let messages = judge.messages(&question, chosen_first)?;
            let opening = model.tokenizer.template().open(&messages, Some(false))?;
            let (ids, candidates) = model.tokenizer.encode_choices(&opening, &[" A".into(), " B".into()])?;
            batch.push(ScoreRequest { from: ids.len(), ids, candidates: candidates.into() });
        }
    }
    let (mut judging, mut forward) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..arguments.repeat {
        // A new panel has no verdicts.
        let local = JudgeModel::Local(Box::new(Rc::clone(&model)));
        let judges = vec![PanelJudge::new("judge", local, prompts.clone(), settings())];
        let panel = Panel::new(judges, PanelRule::Mean, 0.1)?;
        let begin = Instant::now();
        panel.verdicts(&requests)?;
        judging = judging.min(begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        model.generator().score(&batch)?;
        forward = forward.min(begin.elapsed().as_secs_f64());
    }
    Ok((judging, forward))
}

/// A judge that takes some time for each batch of requests.
struct Slow(Duration);

impl Completer for Slow {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        thread::sleep(self.0);
        let answer = |request: &CompletionRequest| {
            let top: Vec<(String, f32)> = request.choices.iter().flatten().map(|text| (text.clone(), -0.7)).collect();
            let tokens = vec![TokenLogprob { text: "A".into(), logprob: -0.7, top }];
            Completion { text: "A".into(), tokens, finish: FinishReason::Length }
        };
        Ok(requests.iter().map(answer).collect())
    }

    fn name(&self) -> &str {
        "slow"
    }
}

/// Returns the seconds of a rollout whose judge takes no time, and of one whose judge is at an endpoint.
fn step(arguments: &BenchArguments) -> Result<(f64, f64), Box<dyn Error>> {
    let mut config =
        RlConfig { prompts: "compact".into(), optimizer: OptimizerConfig::published_rl(), ..RlConfig::default() };
    config.rollout.stages = 1;
    config.rollout.users_per_step = 32;
    config.rollout.num_generations = 8;
    config.rollout.max_new_tokens = arguments.max_new_tokens;
    let row = |user: usize| RlRow {
        uid: user.to_string(),
        history: (0..8).map(|i| interaction(user + i)).collect(),
        mid_position: 3,
        distance_to_end: 4,
        ..RlRow::default()
    };
    let rows: Vec<RlRow> = (0..32).map(row).collect();
    let trainable = TrainableModel::new(model("policy", 128, 3)?, None, &config.optimizer)?;
    let composition = Composition::new(&Registry::default(), &[TermSpec::new("judge", 1.0)])?;
    let prompts = prompts()?;
    let seconds = |latency: Option<u64>| -> Result<f64, Box<dyn Error>> {
        let slow = Arc::new(Slow(Duration::from_millis(latency.unwrap_or(0))));
        let judges = vec![PanelJudge::new("slow", JudgeModel::Remote(slow), prompts.clone(), settings())];
        let panel = Panel::new(judges, PanelRule::Mean, 0.1)?;
        let ask = |requests: &[PanelRequest]| match latency {
            Some(_) => Ok(panel.verdicts(requests)?),
            None => Ok(requests.iter().map(|_| PanelVerdict::new(0.5)).collect()),
        };
        let submit = |requests: &[PanelRequest]| Ok(panel.submit(requests)?);
        let well_formed = |_: &str| true;
        let rollouts = Rollouts {
            prompts: &prompts,
            ask: &ask,
            submit: latency.map(|_| &submit as &SubmitFn<'_>),
            stats: None,
            gate: Some(&well_formed),
            composition: &composition,
            config: &config,
        };
        let users = CurriculumSampler::new(&rows, &config)?.next(32, (0, 0));
        let begin = Instant::now();
        trainable.as_one(|model| rollouts.roll_out((model, &trainable.context), &users, (0, 0)))?;
        Ok(begin.elapsed().as_secs_f64())
    };
    let (mut free, mut endpoint) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..arguments.repeat {
        free = free.min(seconds(None)?);
        endpoint = endpoint.min(seconds(Some(arguments.latency))?);
    }
    Ok((free, endpoint))
}
