//! Final norm, output projection and log-probabilities, a chunk of tokens at a time.
//!
//! Logits of a whole batch are never materialised (151,936 × 16,384 would be 10 GB). Per chunk the logits are made once,
//! give log-probabilities and entropy, take the loss's coefficients, and are turned in place into their own gradient.

use tch::{Kind, Tensor};

use crate::{Decoder, LmError, Params};

/// Elements of logits that may exist at once (64 MiB in fp32).
const CHUNK_ELEMENTS: i64 = 16 << 20;

/// Where log-probabilities are wanted: the token at `rows[i]` of the batch predicts `targets[i]`.
#[derive(Debug)]
pub struct Targets {
    /// Indices into the packed batch, each at most once, [n], int64.
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

struct Chunk {
    logits: Tensor,
    lse: Tensor,
    scores: Scores,
}

fn chunk_rows(vocab: i64) -> i64 {
    (CHUNK_ELEMENTS / vocab).max(1)
}

/// Where the chunks of `n` targets begin. No targets make one empty chunk, so that the results have their shapes.
fn chunks(n: i64, step: i64) -> impl Iterator<Item = i64> {
    (0..n.max(1)).step_by(step as usize)
}

fn score_chunk(h: &Tensor, projection: &Tensor, targets: &Tensor, temperature: f64) -> Result<Chunk, LmError> {
    let mut logits = torch_ext::linear_f32(h, projection)?;
    if temperature != 1.0 {
        logits /= temperature;
    }
    let lse = logits.logsumexp(&[-1][..], true);
    let logprobs = (logits.gather(-1, &targets.unsqueeze(-1), false) - &lse).squeeze_dim(-1);
    let probabilities = (&logits - &lse).exp();
    let entropy = lse.squeeze_dim(-1) - (probabilities * &logits).sum_dim_intlist(&[-1][..], false, Kind::Float);
    Ok(Chunk { logits, lse, scores: Scores { logprobs, entropy } })
}

/// Scores without gradients. `hidden`: the decoder's output, [tokens, hidden]; logits are divided by `temperature`.
///
/// # Errors
/// If libtorch fails (memory).
pub fn score(model: &Decoder, hidden: &Tensor, at: &Targets, temperature: f64) -> Result<Scores, LmError> {
    tch::no_grad(|| {
        let (norm, projection) = model.params.head();
        let (mut logprobs, mut entropy) = (Vec::new(), Vec::new());
        let n = at.rows.size()[0];
        let step = chunk_rows(model.spec().vocab_size);
        for begin in chunks(n, step) {
            let take = |t: &Tensor| t.narrow(0, begin, step.min(n - begin));
            let selected = hidden.index_select(0, &take(&at.rows));
            let h = torch_ext::rms_norm(&selected, &norm, model.spec().rms_norm_eps)?;
            let chunk = score_chunk(&h, &projection, &take(&at.targets), temperature)?;
            logprobs.push(chunk.scores.logprobs);
            entropy.push(chunk.scores.entropy);
        }
        Ok(Scores { logprobs: Tensor::cat(&logprobs, 0), entropy: Tensor::cat(&entropy, 0) })
    })
}

/// Logits of the tokens at `rows`, [n, vocab], fp32, no gradients.
///
/// # Errors
/// If libtorch fails (memory).
pub fn logits(model: &Decoder, hidden: &Tensor, rows: &Tensor) -> Result<Tensor, LmError> {
    tch::no_grad(|| {
        let (norm, projection) = model.params.head();
        let h = torch_ext::rms_norm(&hidden.index_select(0, rows), &norm, model.spec().rms_norm_eps)?;
        Ok(torch_ext::linear_f32(&h, &projection)?)
    })
}

/// Scores with gradients. For each chunk, `coefficients(first, scores)` gets the chunk's scores (its first target's index
/// and [m] tensors) and returns d loss / d logprob, [m]. The gradients of norm and projection are added to `grads`.
/// Returns the gradient with respect to `hidden` and the scores of all targets.
///
/// # Errors
/// If libtorch fails (memory).
pub fn score_and_backward(
    model: &Decoder,
    hidden: &Tensor,
    at: &Targets,
    temperature: f64,
    grads: &Params,
    mut coefficients: impl FnMut(i64, &Scores) -> Tensor,
) -> Result<(Tensor, Scores), LmError> {
    let (norm, projection) = model.params.head();
    let (mut norm_grad, mut projection_grad) = grads.head();
    let selected = tch::no_grad(|| hidden.index_select(0, &at.rows)).set_requires_grad(true);
    let norm_leaf = norm.detach().set_requires_grad(true);
    let normed = torch_ext::rms_norm(&selected, &norm_leaf, model.spec().rms_norm_eps)?;
    let (mut dh, mut logprobs, mut entropy) = (Vec::new(), Vec::new(), Vec::new());
    let n = at.rows.size()[0];
    let step = chunk_rows(model.spec().vocab_size);
    tch::no_grad(|| -> Result<(), LmError> {
        let values = normed.detach();
        for begin in chunks(n, step) {
            let take = |t: &Tensor| t.narrow(0, begin, step.min(n - begin));
            let (h, targets) = (take(&values), take(&at.targets));
            let Chunk { mut logits, lse, scores } = score_chunk(&h, &projection, &targets, temperature)?;
            let c = coefficients(begin, &scores).unsqueeze(-1) / temperature;
            // d logprob / d logits = onehot(target) - softmax, in place of the logits.
            let _ = logits.g_sub_(&lse).exp_().g_mul_(&c.neg());
            let _ = logits.scatter_add_(-1, &targets.unsqueeze(-1), &c);
            let d = logits.to_kind(h.kind());
            dh.push(d.matmul(&projection));
            let _ = projection_grad.g_add_(&d.tr().matmul(&h));
            logprobs.push(scores.logprobs);
            entropy.push(scores.entropy);
        }
        Ok(())
    })?;
    let dh = Tensor::cat(&dh, 0);
    let mut found = torch_ext::grad(&[&normed], &[&dh], &[&selected, &norm_leaf])?.into_iter();
    let (d_selected, d_norm) =
        (found.next().expect("one gradient an input"), found.next().expect("one gradient an input"));
    tch::no_grad(|| {
        let _ = norm_grad.g_add_(&d_norm);
        let grad_hidden = hidden.zeros_like().index_copy(0, &at.rows, &d_selected);
        let scores = Scores { logprobs: Tensor::cat(&logprobs, 0), entropy: Tensor::cat(&entropy, 0) };
        Ok((grad_hidden, scores))
    })
}
