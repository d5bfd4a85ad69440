//! Generates from a prompt and scores the samples. On the CPU, scoring returns exactly the log-probabilities of sampling.
//!
//!     cargo run --release -p xplore --example generate_and_score -- MODEL PROMPT

use std::error::Error;

use chat::Sampling;
use lm::engine::ScoreRequest;
use lm::generate::Request;
use xplore::configs::{Device, Dtype, ModelSource};
use xplore::{generate, runtime};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt] = &arguments[..] else { return Err("usage: generate_and_score MODEL PROMPT".into()) };
    runtime::init(0)?;
    let source = ModelSource { path: model.clone(), dtype: Dtype::Fp32, device: Device::Cpu, ..ModelSource::default() };
    let model = generate::load(&source)?;
    let prompt = model.tokenizer.encode(prompt)?;
    let request = Request { prompt: prompt.clone(), seeds: vec![1, 2], sampling: Sampling::all(8), top_logprobs: 0 };
    let generator = model.generator();
    for sample in generator.generate(&[request], None)?.remove(0) {
        let ids = [prompt.clone(), sample.ids.clone()].concat();
        let score = ScoreRequest { ids, from: prompt.len(), candidates: Vec::new() };
        let (scores, _) = generator.score(&[score])?;
        println!("{}", model.tokenizer.decode(&sample.ids)?);
        println!("  sampled at {:?}", sample.logprobs);
        println!("  scored at  {:?}", scores[0].logprobs);
        if sample.logprobs != scores[0].logprobs {
            return Err("scoring differs from sampling".into());
        }
    }
    Ok(())
}
