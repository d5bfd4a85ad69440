//! Final norm, output projection and log-probabilities, a chunk of tokens at a time.
//!
//! Logits of a whole batch are never materialised (151,936 × 16,384 would be 10 GB). Per chunk the logits are made once,
//! give log-probabilities and entropy, take the loss's coefficients, and are turned in place into their own gradient.

use tch::{Kind, Tensor};
use torch_ext::{EntropyTerm, Weight};

use crate::packed::PackedModel;
use crate::params::Part;
use crate::{Decoder, LmError, Params};

/// Elements of logits that may exist at once (64 MiB in fp32).
pub const CHUNK_ELEMENTS: i64 = 16 << 20;

/// Where log-probabilities are wanted: the token at `rows[i]` of the batch predicts `targets[i]`.
#[derive(Debug)]
pub struct Targets {
    /// Indices into the packed batch, [n], int64. The last token of a shared prefix may stand here once a branch.
    pub rows: Tensor,
    /// Token ids, [n], int64.
    pub targets: Tensor,
}

/// Log-probability of each target and entropy of the distribution it was drawn from, [n] each, fp32, nats.
#[derive(Debug)]
pub struct Scores {
    /// Log-probabilities.
    pub logprobs: Tensor,
    /// Entropies.
    pub entropy: Tensor,
}

/// The loss's derivatives by the [`Scores`] of some targets.
#[derive(Debug)]
pub struct Coefficients {
    /// d loss / d log-probability, [m].
    pub logprob: Tensor,
    /// d loss / d entropy, [m]; none where the loss has no part in it.
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

/// Where the chunks of `n` targets begin. No targets make one empty chunk, so that the results have their shapes.
fn chunks(n: i64, step: i64) -> impl Iterator<Item = i64> {
    (0..n.max(1)).step_by(step as usize)
}

/// Logits of a chunk, fp32, by the output projection or its packed copy: the same bits.
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

/// Scores without gradients. `hidden`: the decoder's output, [tokens, hidden]; logits are divided by `temperature`.
///
/// # Errors
/// If libtorch fails (memory).
pub fn score(model: &Decoder, hidden: &Tensor, at: &Targets, temperature: f64) -> Result<Scores, LmError> {
    scores(model, None, hidden, at, temperature)
}

/// [`score`] at temperature 1 in the generation engine.
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
        let (norm, projection) = model.params.gather_head(None)?;
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
        model.params.release_head()?;
        Ok(Scores { logprobs: Tensor::cat(&logprobs, 0), entropy: Tensor::cat(&entropy, 0) })
    })
}

/// Logits of the tokens at `rows`, [n, vocab], fp32, no gradients.
///
/// # Errors
/// If libtorch fails (memory).
pub fn logits(model: &Decoder, hidden: &Tensor, rows: &Tensor) -> Result<Tensor, LmError> {
    logits_packed(model, None, hidden, rows)
}

/// [`logits`] in the generation engine.
pub(crate) fn logits_packed(
    model: &Decoder,
    packed: Option<&PackedModel>,
    hidden: &Tensor,
    rows: &Tensor,
) -> Result<Tensor, LmError> {
    tch::no_grad(|| {
        let (norm, projection) = model.params.gather_head(None)?;
        let h = torch_ext::rms_norm(&hidden.index_select(0, rows), &norm, model.spec().rms_norm_eps)?;
        let logits = chunk_logits(&h, &projection, packed, 1.0)?;
        model.params.release_head()?;
        Ok(logits)
    })
}

/// Scores with gradients. For each chunk, `coefficients(first, scores)` gets the chunk's scores (its first target's index
/// and [m] tensors) and returns the loss's derivatives by them. The gradients of norm and projection are added to `grads`,
/// if they are trained. Returns the gradient with respect to `hidden` and the scores of all targets.
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
    let last = Part::Layer(model.spec().num_hidden_layers - 1);
    let (norm, projection) = model.params.gather_head(Some(last))?;
    let buffers = grads;
    let grads = buffers.map(|grads| grads.gather_head(None)).transpose()?;
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
            // By the undivided logits.
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
    model.params.release_head()?;
    if let Some(grads) = buffers {
        // A tied projection's gradient waits for that of the embedding.
        grads.release(Part::Head)?;
    }
    // Rows that stand in `at` more than once add up, in fp32 at least.
    let kind = if matches!(hidden.kind(), Kind::BFloat16 | Kind::Half) { Kind::Float } else { hidden.kind() };
    let d_hidden = Tensor::zeros(hidden.size(), (kind, hidden.device()));
    torch_ext::embedding_backward(&d_selected, &at.rows, &d_hidden)?;
    let d_hidden = d_hidden.to_kind(hidden.kind());
    Ok((d_hidden, Scores { logprobs: Tensor::cat(&logprobs, 0), entropy: Tensor::cat(&entropy, 0) }))
}
