//! The cosine similarity of the gradients of a reward's terms on a recorded step, under a model.

use configs::RlConfig;
use configs::optimizer::StateDtype;
use trainer::ParallelContext;
use trainer::grpo::group::Group;
use trainer::grpo::term_gradients::{GradientSimilarity, TermRewards, term_gradients};

use super::ScoredStep;
use crate::error::Error;
use crate::grpo;

/// Loads the policy of `config`, and computes the gradients of the terms `names` on the recorded samples of `step`, and the cosines
/// between them. Gradients are in fp32, and without dropout.
///
/// # Errors
/// Returns an error if the step holds no tokens, the model cannot be loaded or has another vocabulary, or memory cannot be allocated.
pub fn gradients(config: &RlConfig, names: &[String], step: &ScoredStep) -> Result<GradientSimilarity, Error> {
    if step.groups.iter().any(|group| group.prompt.is_empty()) {
        return Err(Error::data(
            "gradients need the tokens of a recorded step (step-N.safetensors); given texts have none",
        ));
    }
    let mut config = config.clone();
    config.optimizer.state = StateDtype::Fp32;
    if let Some(lora) = &mut config.lora {
        lora.dropout = 0.0;
    }
    let trainable = grpo::trainable(&config, ParallelContext::single())?;
    let vocabulary = trainable.model.decoder.spec().vocab_size;
    if let Some(id) = tokens(&step.groups).find(|id| i64::from(*id) >= vocabulary) {
        return Err(Error::data(format!(
            "model.path = {}: the step has the token {id}, but the vocabulary has {vocabulary}; name the model of the run, or a \
             checkpoint of it",
            config.model.path
        )));
    }
    let of_term = |(t, name): (usize, &String)| {
        let part = |sample: &trainer::grpo::group::Sample| sample.reward.parts.get(t).copied().unwrap_or(0.0);
        let rewards = step.groups.iter().map(|group| group.samples.iter().map(part).collect()).collect();
        TermRewards { name: name.clone(), rewards }
    };
    let terms: Vec<TermRewards> = names.iter().enumerate().map(of_term).collect();
    Ok(term_gradients(&trainable, &step.groups, &terms, &step.advantages, &config)?)
}

fn tokens(groups: &[Group]) -> impl Iterator<Item = u32> {
    groups.iter().flat_map(|group| group.prompt.iter().chain(group.samples.iter().flat_map(|s| &s.ids)).copied())
}
