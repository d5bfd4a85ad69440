//! Rolling out: n summaries a person and stage, one of them carried into the next stage's prompt.

use chat::{PromptSet, RlRow, Sampling, reasoning};
use configs::rl::RolloutConfig;
use lm::LocalModel;
use lm::generate::Request;
use rewards::{Draw, pick};

use super::stages::Stage;
use crate::TrainError;

/// One sampled summary.
#[derive(Clone, Debug)]
pub struct Sample {
    /// New tokens, end of turn included.
    pub ids: Vec<u32>,
    /// Log-probability of each under the sampling policy (logits over temperature), nats.
    pub logprobs: Vec<f32>,
    /// Their text.
    pub text: String,
    /// Whether the length limit cut it.
    pub truncated: bool,
}

/// A group: the samples of one person at one stage. They share the prompt.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// Index of the person in the step.
    pub person: usize,
    /// Stage, from 0.
    pub stage: usize,
    /// Prompt tokens.
    pub prompt: Vec<u32>,
    /// What was read and what is to be explained.
    pub cut: Stage<'a>,
    /// The samples.
    pub samples: Vec<Sample>,
    /// Which of them is the next stage's past summary; `None` at the last stage.
    pub picked: Option<usize>,
}

/// Rolls out all stages for `people`; groups come ordered by stage, then person.
///
/// # Errors
/// If a prompt does not render or generation fails.
pub fn roll_out<'a>(
    model: &LocalModel,
    prompts: &PromptSet,
    people: &[(&'a RlRow, Vec<Stage<'a>>)],
    config: &RolloutConfig,
    (seed, step): (u64, u64),
) -> Result<Vec<Group<'a>>, TrainError> {
    let sampling = Sampling {
        temperature: config.temperature,
        top_k: config.top_k,
        top_p: config.top_p,
        ..Sampling::all(config.max_new_tokens)
    };
    let mut groups: Vec<Group<'a>> = Vec::with_capacity(people.len() * config.stages);
    for stage in 0..config.stages {
        let mut requests = Vec::with_capacity(people.len());
        for (person, (row, stages)) in people.iter().enumerate() {
            let past = stage.checked_sub(1).map(|before| &groups[before * people.len() + person]);
            let past = past.and_then(|g| g.picked.map(|p| reasoning::summary_leniently(&g.samples[p].text)));
            let messages = prompts.summarize(past, stages[stage].window)?;
            let mut prompt = model.tokenizer.encode_chat(&messages, None)?;
            // Cut from the left, as published: the newest interactions and the opened turn stay.
            prompt.drain(..prompt.len().saturating_sub(config.max_prompt_tokens));
            let stream = Draw::new(seed).text("rollout").with(step).text(&row.uid).with(stage as u64);
            let seeds = (0..config.samples as u64).map(|i| stream.with(i).bits()).collect();
            requests.push(Request { prompt, seeds, sampling: sampling.clone(), top_logprobs: 0 });
        }
        let generated = model.generator().generate(&requests, None)?;
        for (person, (request, outputs)) in requests.into_iter().zip(generated).enumerate() {
            let (row, stages) = &people[person];
            let samples = outputs
                .into_iter()
                .map(|g| {
                    let text = model.tokenizer.decode(&g.ids)?;
                    let truncated = g.finish == chat::FinishReason::Length;
                    Ok(Sample { ids: g.ids, logprobs: g.logprobs, text, truncated })
                })
                .collect::<Result<Vec<_>, TrainError>>()?;
            let picked = (stage + 1 < config.stages).then(|| pick(seed, step, &row.uid, stage, config.samples));
            groups.push(Group { person, stage, prompt: request.prompt, cut: stages[stage], samples, picked });
        }
    }
    Ok(groups)
}
