//! `xplore generate`: generates samples for a file of prompts.

use chat::FinishReason;
use chat::text_stream::StopText;
use lm::generate::Request;
use rewards::Draw;
use serde_json::json;

use crate::commands::input::{self, InputRow};
use crate::commands::questions::{Questions, in_file};
use crate::commands::stats::Stats;
use xplore::Error;

/// Sampling parameters. Default: the values of the model's generation_config.json.
#[derive(clap::Args)]
pub struct Drawing {
    /// Number of samples per prompt.
    #[arg(long, default_value_t = 1)]
    samples: usize,
    /// Maximum number of new tokens per sample.
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Use greedy decoding (temperature 0).
    #[arg(long, conflicts_with = "temperature")]
    greedy: bool,
    /// Sampling temperature.
    #[arg(long)]
    temperature: Option<f64>,
    /// Number of most likely tokens to sample from; 0 keeps all tokens.
    #[arg(long)]
    top_k: Option<usize>,
    /// Sample from the smallest set of most likely tokens whose probabilities add up to this value.
    #[arg(long)]
    top_p: Option<f64>,
    /// Minimum probability of a token, relative to the most likely token.
    #[arg(long)]
    min_p: Option<f64>,
    /// Penalty for tokens that occurred before; 1 disables it.
    #[arg(long)]
    repetition_penalty: Option<f64>,
    /// End a sample after this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Do not stop at the model's end-of-turn tokens.
    #[arg(long)]
    ignore_eos: bool,
    /// Number of most likely tokens to report per position.
    #[arg(long, default_value_t = 0)]
    top_logprobs: usize,
    /// Seed for sampling.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// Runs `xplore generate`.
pub fn generate(asked: &Questions, how: &Drawing) -> Result<(), Error> {
    let model = asked.source.load()?;
    let tokenizer = &model.tokenizer;
    let prompts = input::read(&asked.input, |row: InputRow| row.prompt(tokenizer))?;
    let mut sampling = tokenizer.generation_defaults();
    let pick = |given: Option<f64>, default: f64| given.unwrap_or(default);
    sampling.temperature = if how.greedy { 0.0 } else { pick(how.temperature, sampling.temperature) };
    sampling.top_p = pick(how.top_p, sampling.top_p);
    sampling.min_p = pick(how.min_p, sampling.min_p);
    sampling.repetition_penalty = pick(how.repetition_penalty, sampling.repetition_penalty);
    sampling.top_k = how.top_k.unwrap_or(sampling.top_k);
    sampling.max_tokens = how.max_new_tokens.unwrap_or(sampling.max_tokens);
    sampling.ignore_eos = how.ignore_eos;
    sampling.check().map_err(Error::usage)?;

    let seeds = |row: usize| {
        let stream = Draw::new(how.seed).text("generate").with(row as u64);
        (0..how.samples as u64).map(|i| stream.with(i).bits()).collect()
    };
    let requests: Vec<Request> = prompts
        .into_iter()
        .enumerate()
        .map(|(row, prompt)| Request {
            prompt,
            seeds: seeds(row),
            sampling: sampling.clone(),
            top_logprobs: how.top_logprobs,
        })
        .collect();
    let generator = model.generator();
    let mut texts: Vec<StopText<'_>> =
        (0..requests.len() * how.samples).map(|_| StopText::new(tokenizer, &how.stop)).collect();
    let mut hook = |row: usize, sample: usize, id: u32| texts[row * how.samples + sample].push(id);
    let stats = Stats::begin();
    let hook = (!how.stop.is_empty()).then_some(&mut hook as &mut lm::generate::StopHook<'_>);
    let (answers, counts) = generator.generate_counted(&requests, hook).map_err(in_file(&asked.input))?;
    let mut lines = Vec::new();
    for (row, (request, samples)) in requests.iter().zip(answers).enumerate() {
        for (sample, g) in samples.into_iter().enumerate() {
            let text = tokenizer.decode(&g.ids).map_err(lm::LmError::from)?;
            let mut line = json!({
                "row": row, "sample": sample, "prompt_tokens": request.prompt.len(), "ids": g.ids, "text": text,
                "logprobs": g.logprobs, "finish": if g.finish == FinishReason::Stop { "stop" } else { "length" },
            });
            if how.top_logprobs > 0 {
                // The first entry is the sampled token; the most likely tokens follow.
                line["top"] = json!(g.top.iter().map(|top| &top[1..]).collect::<Vec<_>>());
            }
            lines.push(line);
        }
    }
    asked.answer(&lines, &stats, &counts)
}
