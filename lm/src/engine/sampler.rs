//! From logits to tokens, for all rows of a step at once.

use chat::Sampling;
use tch::{Device, Kind, Tensor};

use crate::LmError;
use crate::engine::draw::draw_rows;
use crate::engine::request::Alternative;
use crate::sampling::{argmax, draw, uniform};

/// What one row wants.
#[derive(Debug)]
pub(super) struct Pick<'a> {
    pub sampling: &'a Sampling,
    pub seed: u64,
    /// Prompt and what was drawn before: what a repetition penalty looks at.
    pub tokens: &'a [u32],
    /// How many were drawn before.
    pub position: usize,
    pub top_logprobs: usize,
}

/// What one row gets.
#[derive(Debug)]
pub(super) struct Picked {
    pub id: u32,
    pub logprob: f32,
    pub top: Vec<Alternative>,
}

/// Draws a token for each row of `logits`, [rows, vocab], fp32.
pub(super) fn pick(logits: &Tensor, picks: &[Pick<'_>]) -> Result<Vec<Picked>, LmError> {
    let device = logits.device();
    let temperatures: Vec<f32> =
        picks.iter().map(|p| if p.sampling.temperature > 0.0 { p.sampling.temperature as f32 } else { 1.0 }).collect();
    let column = |values: &[f32]| torch_ext::upload(values, device).unsqueeze(-1);
    let scaled = |logits: &Tensor| {
        if temperatures.iter().all(|t| *t == 1.0) { logits.shallow_clone() } else { logits / column(&temperatures) }
    };
    let reported = scaled(logits).softmax(-1, Kind::Float);
    let penalized = penalized(logits, picks).map(|logits| scaled(&logits).softmax(-1, Kind::Float));
    let drawn_from = penalized.as_ref().unwrap_or(&reported);
    let (drawn, chances) = match device {
        Device::Cpu => drawn_here(&reported, drawn_from, picks)?,
        _ => drawn_there(&reported, drawn_from, picks)?,
    };
    let tops = alternatives(logits, picks, &drawn)?;
    let of = |(i, top): (usize, Vec<Alternative>)| Picked { id: drawn[i] as u32, logprob: chances[i].ln(), top };
    Ok(tops.into_iter().enumerate().map(of).collect())
}

/// The tokens drawn and their probabilities in `reported`.
type Drawn = (Vec<usize>, Vec<f32>);

fn drawn_here(reported: &Tensor, drawn_from: &Tensor, picks: &[Pick<'_>]) -> Result<Drawn, LmError> {
    let vocab = reported.size()[1] as usize;
    let (reported, drawn_from) = (torch_ext::floats(reported)?, torch_ext::floats(drawn_from)?);
    let drawn = torch_ext::each(picks.len(), |i| {
        let (pick, p) = (&picks[i], &drawn_from[i * vocab..(i + 1) * vocab]);
        match pick.sampling.temperature {
            0.0 => argmax(p),
            _ => draw(p, pick.sampling, uniform(pick.seed, pick.position as u64)),
        }
    });
    let chances = drawn.iter().enumerate().map(|(i, id)| reported[i * vocab + id]).collect();
    Ok((drawn, chances))
}

/// The same on the tensors' device: two numbers a row come back instead of the vocabulary.
fn drawn_there(reported: &Tensor, drawn_from: &Tensor, picks: &[Pick<'_>]) -> Result<Drawn, LmError> {
    let samplings: Vec<_> = picks.iter().map(|pick| pick.sampling).collect();
    let uniforms: Vec<f64> = picks.iter().map(|pick| uniform(pick.seed, pick.position as u64)).collect();
    let ids = draw_rows(drawn_from, &samplings, &uniforms);
    let chances = reported.gather(-1, &ids.unsqueeze(-1), false).squeeze_dim(-1);
    // One copy for both; float64 holds either exactly.
    let both = Tensor::stack(&[ids.to_kind(Kind::Double), chances.to_kind(Kind::Double)], 0);
    let both: Vec<f64> = Vec::try_from(both.to_device(Device::Cpu).view(-1))?;
    let (ids, chances) = both.split_at(picks.len());
    Ok((ids.iter().map(|&id| id as usize).collect(), chances.iter().map(|&p| p as f32).collect()))
}

/// Logits with the penalty of Keskar et al. 2019 on every token seen before, as transformers has it: positive ones
/// divided, negative ones multiplied. `None` if no row wants it.
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

/// The drawn token and the likeliest ones with the model's own log-probabilities, for the rows that ask.
fn alternatives(logits: &Tensor, picks: &[Pick<'_>], drawn: &[usize]) -> Result<Vec<Vec<Alternative>>, LmError> {
    let vocab = logits.size()[1];
    let wanted = picks.iter().map(|p| p.top_logprobs).max().unwrap_or(0).min(vocab as usize);
    if wanted == 0 {
        return Ok(vec![Vec::new(); picks.len()]);
    }
    let own = logits.log_softmax(-1, Kind::Float);
    let (values, ids) = own.topk(wanted as i64, -1, true, true);
    let values: Vec<f32> = Vec::try_from(values.contiguous().view(-1))?;
    let ids: Vec<i64> = Vec::try_from(ids.contiguous().view(-1))?;
    let index: Vec<i64> = drawn.iter().map(|&d| d as i64).collect();
    let index = torch_ext::upload(&index, logits.device()).unsqueeze(-1);
    let of_drawn: Vec<f32> = Vec::try_from(own.gather(-1, &index, false).view(-1))?;
    let row = |(i, pick): (usize, &Pick<'_>)| {
        let n = pick.top_logprobs.min(wanted);
        let mut top = Vec::new();
        if n > 0 {
            top.push((drawn[i] as u32, of_drawn[i]));
            top.extend((0..n).map(|j| (ids[i * wanted + j] as u32, values[i * wanted + j])));
        }
        top
    };
    Ok(picks.iter().enumerate().map(row).collect())
}
