//! The decoder: forward over packed batches, and an explicit way back, layer by layer.
//!
//! tch has no autograd hooks, so the decoder drives the backward pass itself. Each layer is its own small autograd
//! graph: its input is a leaf, and its vector-Jacobian product gives the gradients of its input and weights, which are
//! added to the flat gradient buffer before the layer below begins. What is kept between the two passes is chosen by
//! [`Recompute`].

use tch::{Device, Kind, Tensor};

use crate::params::LayerWeights;
use crate::rope::Rotary;
use crate::{LmError, ModelSpec, Packed, Params};

/// What the forward pass keeps for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Every layer's graph: fastest.
    Nothing,
    /// Every layer's input only; the layer runs again on the way back (activation checkpointing).
    EveryLayer,
}

/// A model's weights with what its forward pass needs beside them.
#[derive(Debug)]
pub struct Decoder {
    /// The weights.
    pub params: Params,
    rotary: Rotary,
}

struct LayerRecord {
    input: Tensor,
    graph: Option<(Tensor, LayerWeights)>,
}

/// What the forward pass kept.
pub struct Tape<'a> {
    batch: &'a Packed,
    cos: Tensor,
    sin: Tensor,
    layers: Vec<LayerRecord>,
}

impl std::fmt::Debug for Tape<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape of {} layers, {} tokens", self.layers.len(), self.batch.tokens())
    }
}

impl Decoder {
    /// A model from its weights.
    pub fn new(params: Params) -> Self {
        let spec = params.spec();
        let device = params.flat.device();
        let rotary = Rotary::new(&spec.rope, spec.head_dim, spec.max_position_embeddings, device);
        Self { params, rotary }
    }

    /// The model's shape.
    pub fn spec(&self) -> &ModelSpec {
        self.params.spec()
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.params.flat.device()
    }

    /// The rotary embedding.
    pub(crate) fn rotary(&self) -> &Rotary {
        &self.rotary
    }

    /// cos and sin of each token's angles.
    fn rotations(&self, batch: &Packed) -> (Tensor, Tensor) {
        let lengths = batch.cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]);
        self.rotary.at(&batch.positions, lengths.map(|n| (n, n)))
    }

    /// Embeds token ids, [tokens] → [tokens, hidden].
    pub(crate) fn embed(&self, ids: &Tensor) -> Tensor {
        self.params.embedding().index_select(0, ids)
    }

    /// Packed forward without a graph: last layer's output, [tokens, hidden].
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn forward(&self, batch: &Packed) -> Result<Tensor, LmError> {
        tch::no_grad(|| {
            let (cos, sin) = self.rotations(batch);
            let mut x = self.embed(&batch.ids);
            for layer in 0..self.spec().num_hidden_layers {
                x = layer_forward(self.spec(), &self.params.layer(layer), &x, (&cos, &sin), batch)?;
            }
            Ok(x)
        })
    }

    /// Packed forward for training: last layer's output (no graph behind it), and what [`Self::backward`] needs.
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn forward_train<'a>(&self, batch: &'a Packed, recompute: Recompute) -> Result<(Tensor, Tape<'a>), LmError> {
        let (cos, sin) = self.rotations(batch);
        let mut x = tch::no_grad(|| self.embed(&batch.ids));
        let mut layers = Vec::new();
        for layer in 0..self.spec().num_hidden_layers {
            let weights = self.params.layer(layer);
            let (input, output, graph) = match recompute {
                Recompute::EveryLayer => {
                    let y = tch::no_grad(|| layer_forward(self.spec(), &weights, &x, (&cos, &sin), batch))?;
                    (x, y, None)
                }
                Recompute::Nothing => {
                    let input = x.detach().set_requires_grad(true);
                    let leaves = weights.leaves();
                    let y = layer_forward(self.spec(), &leaves, &input, (&cos, &sin), batch)?;
                    (input, y.detach(), Some((y, leaves)))
                }
            };
            layers.push(LayerRecord { input, graph });
            x = output;
        }
        Ok((x, Tape { batch, cos, sin, layers }))
    }

    /// The way back: given the loss's gradient with respect to [`Self::forward_train`]'s output, adds that of every
    /// parameter below it to `grads`.
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn backward(&self, tape: Tape<'_>, grad_output: Tensor, grads: &Params) -> Result<(), LmError> {
        let Tape { batch, cos, sin, layers } = tape;
        let mut dy = grad_output;
        for (layer, record) in layers.into_iter().enumerate().rev() {
            let (input, y, leaves) = match record.graph {
                Some((y, leaves)) => (record.input, y, leaves),
                None => {
                    let input = record.input.detach().set_requires_grad(true);
                    let leaves = self.params.layer(layer).leaves();
                    let y = layer_forward(self.spec(), &leaves, &input, (&cos, &sin), batch)?;
                    (input, y, leaves)
                }
            };
            let mut wanted = vec![&input];
            wanted.extend(leaves.all());
            let mut found = torch_ext::grad(&[&y], &[&dy], &wanted)?.into_iter();
            dy = found.next().expect("one gradient an input");
            tch::no_grad(|| {
                for (mut sum, part) in grads.layer(layer).all().into_iter().map(Tensor::shallow_clone).zip(found) {
                    let _ = sum.g_add_(&part);
                }
            });
        }
        tch::no_grad(|| {
            let embedding = Tensor::embedding_dense_backward(&dy, &batch.ids, self.spec().vocab_size, -1, false);
            let _ = grads.embedding().g_add_(&embedding);
        });
        Ok(())
    }

    /// Logits of every token, [tokens, vocab], with a plain autograd graph behind them if the weights ask for one.
    /// For tests and inspection; training goes through [`crate::head`].
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn logits(&self, batch: &Packed) -> Result<Tensor, LmError> {
        let (cos, sin) = self.rotations(batch);
        let mut x = self.embed(&batch.ids);
        for layer in 0..self.spec().num_hidden_layers {
            x = layer_forward(self.spec(), &self.params.layer(layer), &x, (&cos, &sin), batch)?;
        }
        let (norm, projection) = self.params.head();
        Ok(torch_ext::rms_norm(&x, &norm, self.spec().rms_norm_eps)?.matmul(&projection.tr()))
    }
}

/// Queries, keys and values of a layer: [tokens, heads, head_dim], normalised where the family does, after RoPE.
pub(crate) fn project(
    spec: &ModelSpec,
    weights: &LayerWeights,
    x: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
) -> Result<(Tensor, Tensor, Tensor), LmError> {
    let (heads, kv, d) = (spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim);
    let h = torch_ext::rms_norm(x, &weights.input_norm, spec.rms_norm_eps)?;
    let qkv = torch_ext::linear(&h, &weights.qkv, weights.qkv_bias.as_ref())?.view([-1, heads + 2 * kv, d]);
    let (mut q, mut k, v) = (qkv.narrow(1, 0, heads), qkv.narrow(1, heads, kv), qkv.narrow(1, heads + kv, kv));
    if let Some((q_norm, k_norm)) = &weights.qk_norm {
        q = torch_ext::rms_norm(&q, q_norm, spec.rms_norm_eps)?;
        k = torch_ext::rms_norm(&k, k_norm, spec.rms_norm_eps)?;
    }
    Ok((torch_ext::rope(&q, cos, sin)?, torch_ext::rope(&k, cos, sin)?, v))
}

/// What follows attention: output projection, residual, gated MLP, residual. attended: [tokens, heads·head_dim].
pub(crate) fn finish(
    spec: &ModelSpec,
    weights: &LayerWeights,
    x: &Tensor,
    attended: &Tensor,
) -> Result<Tensor, LmError> {
    let (gate_up_bias, down_bias) = match &weights.mlp_bias {
        Some((gate_up, down)) => (Some(gate_up), Some(down)),
        None => (None, None),
    };
    let x = x + torch_ext::linear(attended, &weights.o, weights.o_bias.as_ref())?;
    let h = torch_ext::rms_norm(&x, &weights.post_norm, spec.rms_norm_eps)?;
    let gated = torch_ext::swiglu(&torch_ext::linear(&h, &weights.gate_up, gate_up_bias)?)?;
    Ok(x + torch_ext::linear(&gated, &weights.down, down_bias)?)
}

fn layer_forward(
    spec: &ModelSpec,
    weights: &LayerWeights,
    x: &Tensor,
    rope: (&Tensor, &Tensor),
    batch: &Packed,
) -> Result<Tensor, LmError> {
    let (q, k, v) = project(spec, weights, x, rope)?;
    let attended = torch_ext::varlen_attention(&q, &k, &v, &batch.cu_seqlens, scale(spec))?;
    let width = spec.num_attention_heads * spec.head_dim;
    finish(spec, weights, x, &attended.view([-1, width]))
}

/// 1/√head_dim.
pub(crate) fn scale(spec: &ModelSpec) -> f64 {
    (spec.head_dim as f64).powf(-0.5)
}

/// The kind (dtype) that a name in config.json or safetensors stands for.
pub fn kind_named(name: &str) -> Option<Kind> {
    Some(match name {
        "float32" | "fp32" | "F32" => Kind::Float,
        "bfloat16" | "bf16" | "BF16" => Kind::BFloat16,
        "float16" | "fp16" | "F16" => Kind::Half,
        _ => return None,
    })
}
