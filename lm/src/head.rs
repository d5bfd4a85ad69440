//! Final norm, output projection and log-probabilities, one chunk of tokens at a time.
//!
//! The logits of a whole batch are never materialized (151,936 × 16,384 would take 10 GB). The logits of a chunk are computed
//! once: they give log-probabilities and entropy, then the loss's coefficients turn them in place into their own gradient.

use tch::{Kind, Tensor};
use torch_ext::{EntropyTerm, Weight};

use crate::packed::PackedModel;
use crate::params::ParamUnit;
use crate::{Decoder, LmError, Params};

/// Maximum number of logits in memory at once (64 MiB in fp32).
pub const CHUNK_ELEMENTS: i64 = 16 << 20;

/// Tokens to score: the token at `rows[i]` of the batch predicts `targets[i]`.
#[derive(Debug)]
pub struct Targets {
    /// Indices into the packed batch, `[n]`, int64. The last token of a shared prefix may occur once for each branch.
    pub rows: Tensor,
    /// Token ids, `[n]`, int64.
    pub targets: Tensor,
}

/// Log-probability of each target, and entropy of the distribution that predicts it, `[n]` each, fp32, nats.
#[derive(Debug)]
pub struct Scores {
    /// Log-probabilities.
    pub logprobs: Tensor,
    /// Entropies.
    pub entropy: Tensor,
}

/// Derivatives of the loss with respect to the [`Scores`] of some targets.
#[derive(Debug)]
pub struct Coefficients {
    /// d loss / d log-probability, `[m]`.
    pub logprob: Tensor,
    /// d loss / d entropy, `[m]`, or `None` if the loss does not depend on the entropy.
    pub entropy: Option<Tensor>,
}

impl From<Tensor> for Coefficients {
    fn from(logprob: Tensor) -> Self {
        Self { logprob, entropy: None }
    }
}

fn chunk_rows(vocab: i64) -> i64 {
    (CHUNK_ELEMENTS / vocab).max(1)
}

/// Returns the first target of each chunk of `n` targets. Without targets there is one empty chunk, so that results have their
/// shapes.
fn chunks(n: i64, step: i64) -> impl Iterator<Item = i64> {
    (0..n.max(1)).step_by(step as usize)
}

/// Computes the logits of a chunk, fp32, with the output projection or its packed copy. Both give the same bits.
fn chunk_logits(
    h: &Tensor,
    projection: &Tensor,
    packed: Option<&PackedModel>,
    temperature: f64,
) -> Result<Tensor, LmError> {
    let mut logits = match packed {
        Some(packed) => packed.projection.linear_f32(h)?,
        None => torch_ext::linear_f32(h, projection)?,
    };
    if temperature != 1.0 {
        let _ = logits.g_div_scalar_(temperature);
    }
    Ok(logits)
}

/// Computes scores without gradients. `hidden`: output of the decoder, [tokens, hidden]. Logits are divided by `temperature`.
///
/// # Errors
/// If libtorch fails (memory).
pub fn score(model: &Decoder, hidden: &Tensor, at: &Targets, temperature: f64) -> Result<Scores, LmError> {
    scores(model, None, hidden, at, temperature)
}

/// Computes [`score`] at temperature 1 for the generation engine.
pub(crate) fn score_packed(
    model: &Decoder,
    packed: Option<&PackedModel>,
    hidden: &Tensor,
    at: &Targets,
) -> Result<Scores, LmError> {
    scores(model, packed, hidden, at, 1.0)
}

fn scores(
    model: &Decoder,
    packed: Option<&PackedModel>,
    hidden: &Tensor,
    at: &Targets,
    temperature: f64,
) -> Result<Scores, LmError> {
    tch::no_grad(|| {
        let (norm, projection) = model.params.unshard_head(None)?;
        let (mut logprobs, mut entropy) = (Vec::new(), Vec::new());
        let n = at.rows.size()[0];
        let step = chunk_rows(model.spec().vocab_size);
        for begin in chunks(n, step) {
            let take = |t: &Tensor| t.narrow(0, begin, step.min(n - begin));
            let selected = hidden.index_select(0, &take(&at.rows));
            let h = torch_ext::rms_norm(&selected, &norm, model.spec().rms_norm_eps)?;
            let logits = chunk_logits(&h, &projection, packed, temperature)?;
            let found = torch_ext::cross_entropy(&logits, &take(&at.targets))?;
            logprobs.push(found.logprobs);
            entropy.push(found.entropy);
        }
        model.params.reshard_head()?;
        Ok(Scores { logprobs: Tensor::cat(&logprobs, 0), entropy: Tensor::cat(&entropy, 0) })
    })
}

/// Computes the logits of the tokens at `rows`, [n, vocab], fp32, without gradients.
///
/// # Errors
/// If libtorch fails (memory).
pub fn logits(model: &Decoder, hidden: &Tensor, rows: &Tensor) -> Result<Tensor, LmError> {
    logits_packed(model, None, hidden, rows)
}

/// Computes [`logits`] for the generation engine.
pub(crate) fn logits_packed(
    model: &Decoder,
    packed: Option<&PackedModel>,
    hidden: &Tensor,
    rows: &Tensor,
) -> Result<Tensor, LmError> {
    tch::no_grad(|| {
        let (norm, projection) = model.params.unshard_head(None)?;
        let h = torch_ext::rms_norm(&hidden.index_select(0, rows), &norm, model.spec().rms_norm_eps)?;
        let logits = chunk_logits(&h, &projection, packed, 1.0)?;
        model.params.reshard_head()?;
        Ok(logits)
    })
}

/// Computes scores and gradients. For each chunk, `coefficients(first, scores)` gets the index of the chunk's first target and
/// its scores (`[m]` tensors), and returns the derivatives of the loss with respect to them. The gradients of the norm and the
/// projection are added to `grads`, if it is given. Returns the gradient with respect to `hidden` and the scores of all targets.
///
/// # Errors
/// If libtorch fails (memory).
pub fn score_and_backward(
    model: &Decoder,
    hidden: &Tensor,
    at: &Targets,
    temperature: f64,
    grads: Option<&Params>,
    mut coefficients: impl FnMut(i64, &Scores) -> Coefficients,
) -> Result<(Tensor, Scores), LmError> {
    let last = ParamUnit::Layer(model.spec().num_hidden_layers - 1);
    let (norm, projection) = model.params.unshard_head(Some(last))?;
    let buffers = grads;
    let grads = buffers.map(|grads| grads.unshard_head(None)).transpose()?;
    let selected = tch::no_grad(|| hidden.index_select(0, &at.rows)).set_requires_grad(true);
    let weight = Weight { value: &norm, grad: grads.as_ref().map(|(norm, _)| norm) };
    let normed = torch_ext::rms_norm(&selected, weight, model.spec().rms_norm_eps)?;
    let (mut dh, mut logprobs, mut entropy) = (Vec::new(), Vec::new(), Vec::new());
    let n = at.rows.size()[0];
    let step = chunk_rows(model.spec().vocab_size);
    tch::no_grad(|| -> Result<(), LmError> {
        let values = normed.detach();
        for begin in chunks(n, step) {
            let take = |t: &Tensor| t.narrow(0, begin, step.min(n - begin));
            let (h, targets) = (take(&values), take(&at.targets));
            let mut logits = chunk_logits(&h, &projection, None, temperature)?;
            let found = torch_ext::cross_entropy(&logits, &targets)?;
            let scores = Scores { logprobs: found.logprobs, entropy: found.entropy };
            // The derivatives are needed with respect to the logits before the division by the temperature.
            let scaled = |c: Tensor| (c / temperature).to_kind(Kind::Float).contiguous();
            let Coefficients { logprob, entropy: of_entropy } = coefficients(begin, &scores);
            let (c, e) = (scaled(logprob), of_entropy.map(scaled));
            let term = e.as_ref().map(|e| EntropyTerm { entropy: &scores.entropy, coefficients: e });
            torch_ext::cross_entropy_backward(&mut logits, &targets, &found.lse, &c, term)?;
            dh.push(torch_ext::input_gradient(&logits, &projection)?);
            if let Some((_, projection_grad)) = &grads {
                torch_ext::add_weight_gradient(projection_grad, &logits, &h)?;
            }
            logprobs.push(scores.logprobs);
            entropy.push(scores.entropy);
        }
        Ok(())
    })?;
    let dh = Tensor::cat(&dh, 0);
    let d_selected = torch_ext::grad(&[&normed], &[&dh], &[&selected])?.remove(0);
    drop(normed);
    model.params.reshard_head()?;
    if let Some(grads) = buffers {
        // The gradient of a tied projection is reduced later, together with that of the embedding.
        grads.reshard(ParamUnit::Head)?;
    }
    // The gradients of rows that occur more than once in `at` are summed, in fp32 or better.
    let kind = if matches!(hidden.kind(), Kind::BFloat16 | Kind::Half) { Kind::Float } else { hidden.kind() };
    let d_hidden = Tensor::zeros(hidden.size(), (kind, hidden.device()));
    torch_ext::embedding_backward(&d_selected, &at.rows, &d_hidden)?;
    let d_hidden = d_hidden.to_kind(hidden.kind());
    Ok((d_hidden, Scores { logprobs: Tensor::cat(&logprobs, 0), entropy: Tensor::cat(&entropy, 0) }))
}
