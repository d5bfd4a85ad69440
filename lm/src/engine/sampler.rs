//! Samples tokens from logits, for all sequences of a step at once.

use chat::Sampling;
use tch::{Device, Kind, Tensor};

use crate::LmError;
use crate::engine::device_sampler::sample_rows;
use crate::engine::request::Alternative;
use crate::sampling::{argmax, sample, uniform};

/// Input of the sampler for one row.
#[derive(Debug)]
pub(super) struct Pick<'a> {
    pub sampling: &'a Sampling,
    pub seed: u64,
    /// Prompt and previously sampled tokens, which the repetition penalty reads.
    pub tokens: &'a [u32],
    /// Number of previously sampled tokens.
    pub position: usize,
    pub top_logprobs: usize,
}

/// Result of the sampler for one row.
#[derive(Debug)]
pub(super) struct Picked {
    pub id: u32,
    pub logprob: f32,
    pub top: Vec<Alternative>,
}

/// Samples a token for each row of `logits`, [rows, vocab], fp32. On the CPU, a row's token and log-probability do not depend on
/// the other rows, and the log-probability has the same bits as [`crate::head::score`].
pub(super) fn pick(logits: &Tensor, picks: &[Pick<'_>]) -> Result<Vec<Picked>, LmError> {
    let device = logits.device();
    let temperatures: Vec<f32> =
        picks.iter().map(|p| if p.sampling.temperature > 0.0 { p.sampling.temperature as f32 } else { 1.0 }).collect();
    let column = |values: &[f32]| torch_ext::upload(values, device).unsqueeze(-1);
    let scaled = |logits: &Tensor| {
        if temperatures.iter().all(|t| *t == 1.0) { logits.shallow_clone() } else { logits / column(&temperatures) }
    };
    let penalized = penalized(logits, picks).map(|logits| scaled(&logits));
    let sampled = match device {
        Device::Cpu => sample_on_host(&scaled(logits), penalized.as_ref(), picks)?,
        _ => {
            let reported = scaled(logits).softmax(-1, Kind::Float);
            let from = penalized.map(|logits| logits.softmax(-1, Kind::Float));
            sample_on_device(&reported, from.as_ref().unwrap_or(&reported), picks)?
        }
    };
    let tops = alternatives(logits, picks, &sampled)?;
    Ok(sampled.into_iter().zip(tops).map(|((id, logprob), top)| Picked { id: id as u32, logprob, top }).collect())
}

/// Token and log-probability of each row.
type Sampled = Vec<(usize, f32)>;

fn sample_on_host(logits: &Tensor, penalized: Option<&Tensor>, picks: &[Pick<'_>]) -> Result<Sampled, LmError> {
    let reported = torch_ext::softmax(logits)?;
    let sampled_from = penalized.map(torch_ext::softmax).transpose()?;
    let weights = torch_ext::floats(&sampled_from.as_ref().unwrap_or(&reported).weights)?;
    let (vocab, greedy_from) = (logits.size()[1] as usize, torch_ext::floats(penalized.unwrap_or(logits))?);
    let logits = torch_ext::floats(logits)?;
    let ids = torch_ext::each(picks.len(), |i| {
        let (pick, row) = (&picks[i], i * vocab..(i + 1) * vocab);
        match pick.sampling.temperature {
            0.0 => argmax(&greedy_from[row]),
            _ => sample(&weights[row], pick.sampling, uniform(pick.seed, pick.position as u64)),
        }
    });
    Ok(ids.into_iter().enumerate().map(|(i, id)| (id, reported.logprob(i, logits[i * vocab + id]))).collect())
}

/// Samples on the device of the tensors. Two values per row are copied to the host, instead of the vocabulary.
fn sample_on_device(reported: &Tensor, sampled_from: &Tensor, picks: &[Pick<'_>]) -> Result<Sampled, LmError> {
    let samplings: Vec<_> = picks.iter().map(|pick| pick.sampling).collect();
    let uniforms: Vec<f64> = picks.iter().map(|pick| uniform(pick.seed, pick.position as u64)).collect();
    let ids = sample_rows(sampled_from, &samplings, &uniforms);
    let chances = reported.gather(-1, &ids.unsqueeze(-1), false).squeeze_dim(-1);
    // One copy transfers both; float64 represents either exactly.
    let both = Tensor::stack(&[ids.to_kind(Kind::Double), chances.to_kind(Kind::Double)], 0);
    let both: Vec<f64> = Vec::try_from(both.to_device(Device::Cpu).view(-1))?;
    let (ids, chances) = both.split_at(picks.len());
    Ok(ids.iter().zip(chances).map(|(&id, &p)| (id as usize, (p as f32).ln())).collect())
}

/// Applies the repetition penalty of Keskar et al. 2019 to every token seen before, as in transformers: positive logits are
/// divided, negative ones are multiplied. Returns `None` if no row uses the penalty.
fn penalized(logits: &Tensor, picks: &[Pick<'_>]) -> Option<Tensor> {
    let wanted = |p: &Pick<'_>| p.sampling.repetition_penalty != 1.0;
    if !picks.iter().any(wanted) {
        return None;
    }
    let changed = logits.copy();
    for (i, pick) in picks.iter().enumerate().filter(|(_, p)| wanted(p)) {
        let mut seen: Vec<i64> = pick.tokens.iter().map(|&id| i64::from(id)).collect();
        seen.sort_unstable();
        seen.dedup();
        let (seen, penalty) = (torch_ext::upload(&seen, logits.device()), pick.sampling.repetition_penalty);
        let old = logits.get(i as i64).index_select(0, &seen);
        let new = (&old * penalty).where_self(&old.lt(0.0), &(&old / penalty));
        let _ = changed.get(i as i64).index_copy_(0, &seen, &new);
    }
    Some(changed)
}

/// Returns the sampled token and the most likely tokens with the model's own log-probabilities, for the rows that request them.
fn alternatives(logits: &Tensor, picks: &[Pick<'_>], sampled: &Sampled) -> Result<Vec<Vec<Alternative>>, LmError> {
    let vocab = logits.size()[1];
    let wanted = picks.iter().map(|p| p.top_logprobs).max().unwrap_or(0).min(vocab as usize);
    if wanted == 0 {
        return Ok(vec![Vec::new(); picks.len()]);
    }
    let softmax = if logits.device() == Device::Cpu { Some(torch_ext::softmax(logits)?) } else { None };
    // Log-probabilities, or logits that `softmax` converts to log-probabilities.
    let own = if softmax.is_some() { logits.shallow_clone() } else { logits.log_softmax(-1, Kind::Float) };
    let logprob = |row: usize, value: f32| softmax.as_ref().map_or(value, |s| s.logprob(row, value));
    let (values, ids) = own.topk(wanted as i64, -1, true, true);
    let values: Vec<f32> = Vec::try_from(values.contiguous().view(-1))?;
    let ids: Vec<i64> = Vec::try_from(ids.contiguous().view(-1))?;
    let index: Vec<i64> = sampled.iter().map(|&(id, _)| id as i64).collect();
    let index = torch_ext::upload(&index, logits.device()).unsqueeze(-1);
    let of_sampled: Vec<f32> = Vec::try_from(own.gather(-1, &index, false).view(-1))?;
    let row = |(i, pick): (usize, &Pick<'_>)| {
        let n = pick.top_logprobs.min(wanted);
        let mut top = Vec::new();
        if n > 0 {
            top.push((sampled[i].0 as u32, logprob(i, of_sampled[i])));
            top.extend((0..n).map(|j| (ids[i * wanted + j] as u32, logprob(i, values[i * wanted + j]))));
        }
        top
    };
    Ok(picks.iter().enumerate().map(row).collect())
}
