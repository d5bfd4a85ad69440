//! Generation divided among ranks.

use lm::LocalModel;
use lm::generate::{Generated, Request};
use serde::{Deserialize, Serialize};

use crate::{ParallelContext, TrainError};

/// Generates the samples of all requests; the ranks divide them. With fewer requests than ranks, the samples of a request are
/// split over several ranks.
pub(super) fn generate_on_ranks(
    model: &LocalModel,
    context: &ParallelContext,
    requests: &[Request],
) -> Result<Vec<Vec<Generated>>, TrainError> {
    if context.world.size() == 1 {
        return Ok(model.generator().generate(requests, None)?);
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
    let own: Vec<Request> = spread[context.world.rank()].iter().map(|&i| parts[i].1.clone()).collect();
    let told = model.generator().generate(&own, None)?;
    let told =
        told.into_iter().map(|outputs| outputs.into_iter().map(GatheredSample::from).collect::<Vec<_>>()).collect();
    let mut all: Vec<Vec<Generated>> = requests.iter().map(|_| Vec::new()).collect();
    for ((request, _), outputs) in parts.iter().zip(context.all_gather_object("rollouts", &spread, told)?) {
        all[*request].extend(outputs.into_iter().map(Generated::from));
    }
    Ok(all)
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
