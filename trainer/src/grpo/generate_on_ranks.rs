//! Generation divided among ranks.

use lm::LocalModel;
use lm::generate::{Generated, Request};
use serde::{Deserialize, Serialize};

use crate::{ParallelContext, TrainError};

/// Callback after samples of a request are finished, with (request index, samples), while others are still generated.
pub(super) type HandOver<'a> = dyn FnMut(usize, &[Generated]) + 'a;

/// The samples of each request.
pub(super) struct GeneratedOnRanks {
    /// The samples of each request.
    pub samples: Vec<Vec<Generated>>,
    /// The rank that generated each sample, in the same order, over all requests.
    pub ranks: Vec<usize>,
}

/// Generates the samples of all requests; the ranks divide them. With fewer requests than ranks, the samples of a request are
/// split over several ranks. `hand_over` is called on the rank that generated the samples.
pub(super) fn generate_on_ranks(
    model: &LocalModel,
    context: &ParallelContext,
    requests: &[Request],
    hand_over: Option<&mut HandOver<'_>>,
) -> Result<GeneratedOnRanks, TrainError> {
    if context.world.size() == 1 {
        let samples = model.generator().generate_with(requests, hand_over)?;
        let ranks = vec![0; samples.iter().map(Vec::len).sum()];
        return Ok(GeneratedOnRanks { samples, ranks });
    }
    let pieces = if requests.is_empty() { 1 } else { context.world.size().div_ceil(requests.len()) };
    let mut parts: Vec<(usize, Request)> = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let n = request.seeds.len();
        let borders = (0..pieces.min(n)).map(|p| n * p / pieces.min(n)..n * (p + 1) / pieces.min(n));
        parts.extend(borders.map(|range| (i, Request { seeds: request.seeds[range].to_vec(), ..request.clone() })));
    }
    let cost = |(_, r): &(usize, Request)| (r.prompt.len() + r.seeds.len() * r.sampling.max_tokens) as f64;
    let spread = context.spread(&parts.iter().map(cost).collect::<Vec<_>>());
    let mine = &spread[context.world.rank()];
    let own: Vec<Request> = mine.iter().map(|&i| parts[i].1.clone()).collect();
    let generated = match hand_over {
        Some(hand_over) => {
            let mut of_request = |part: usize, outputs: &[Generated]| hand_over(parts[mine[part]].0, outputs);
            model.generator().generate_with(&own, Some(&mut of_request))?
        }
        None => model.generator().generate(&own, None)?,
    };
    let own = generated.into_iter().map(|outputs| outputs.into_iter().map(GatheredSample::from).collect::<Vec<_>>());
    let gathered = context.all_gather_object("rollouts", &spread, own.collect())?;
    let mut rank_of = vec![0; parts.len()];
    for (rank, own) in spread.iter().enumerate() {
        own.iter().for_each(|&part| rank_of[part] = rank);
    }
    let mut samples: Vec<Vec<Generated>> = requests.iter().map(|_| Vec::new()).collect();
    let mut ranks = Vec::new();
    // The parts are in the order of their requests, so the samples are in the order of their seeds.
    for (((request, _), rank), outputs) in parts.iter().zip(rank_of).zip(gathered) {
        ranks.extend(outputs.iter().map(|_| rank));
        samples[*request].extend(outputs.into_iter().map(Generated::from));
    }
    Ok(GeneratedOnRanks { samples, ranks })
}

/// A sample as ranks exchange it.
#[derive(Serialize, Deserialize)]
struct GatheredSample {
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    truncated: bool,
}

impl From<Generated> for GatheredSample {
    fn from(g: Generated) -> Self {
        let truncated = g.finish == chat::FinishReason::Length;
        Self { ids: g.ids, logprobs: g.logprobs, truncated }
    }
}

impl From<GatheredSample> for Generated {
    fn from(sample: GatheredSample) -> Self {
        let finish = if sample.truncated { chat::FinishReason::Length } else { chat::FinishReason::Stop };
        Self { ids: sample.ids, logprobs: sample.logprobs, finish, top: Vec::new() }
    }
}
