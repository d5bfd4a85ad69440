//! One decoder layer, on packed tokens.

use tch::Tensor;
use torch_ext::{HeadNorms, Weight};

use crate::lora::{Active, Slot};
use crate::params::LayerWeights;
use crate::{LmError, ModelConfig, Packed};

/// Tensors that a layer computes with.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub weights: &'a LayerWeights,
    /// Buffers for the gradients of the weights, or `None` if the weights are not trained.
    pub grads: Option<&'a LayerWeights>,
    /// Adapters of the layer's projections.
    pub adapters: Option<&'a Active>,
}

impl<'a> From<&'a LayerWeights> for Layer<'a> {
    fn from(weights: &'a LayerWeights) -> Self {
        Self { weights, grads: None, adapters: None }
    }
}

impl<'a> Layer<'a> {
    fn weight(&self, pick: impl Fn(&'a LayerWeights) -> &'a Tensor) -> Weight<'a> {
        Weight { value: pick(self.weights), grad: self.grads.map(pick) }
    }

    fn optional(&self, pick: impl Fn(&'a LayerWeights) -> Option<&'a Tensor>) -> Option<Weight<'a>> {
        pick(self.weights).map(|value| Weight { value, grad: self.grads.and_then(pick) })
    }

    fn adapts(&self, slot: Slot) -> bool {
        self.adapters.is_some_and(|active| active.adapts(slot))
    }

    /// Computes a matrix product and adds the updates of its adapters.
    fn product(&self, slot: Slot, x: &Tensor, weight: Weight<'a>, bias: Option<Weight<'a>>) -> Result<Tensor, LmError> {
        let y = torch_ext::linear(x, weight, bias)?;
        match self.adapters {
            Some(active) => active.adapted(slot, x, y, weight.value, bias.map(|b| b.value)),
            None => Ok(y),
        }
    }
}

/// Computes the queries, keys and values of a layer after RoPE, [tokens, heads, head_dim] each. Queries and keys are normalized
/// first if the family does so.
pub(crate) fn project(
    spec: &ModelConfig,
    layer: Layer<'_>,
    x: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
) -> Result<[Tensor; 3], LmError> {
    let (heads, kv, d) = (spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim);
    let h = torch_ext::rms_norm(x, layer.weight(|w| &w.input_norm), spec.rms_norm_eps)?;
    let bias = layer.optional(|w| w.qkv_bias.as_ref());
    let qkv = layer.product(Slot::Qkv, &h, layer.weight(|w| &w.qkv), bias)?.view([-1, heads + 2 * kv, d]);
    let q_norm = layer.optional(|w| w.qk_norm.as_ref().map(|(q, _)| q));
    let k_norm = layer.optional(|w| w.qk_norm.as_ref().map(|(_, k)| k));
    let norms = q_norm.zip(k_norm).map(|(q, k)| HeadNorms { q, k, eps: spec.rms_norm_eps });
    Ok(torch_ext::qk_norm_rope(&qkv, heads, norms, cos, sin)?)
}

/// Computes the rest of the layer after attention: output projection, residual, gated MLP, residual. `attended`:
/// [tokens, heads·head_dim].
pub(crate) fn finish(spec: &ModelConfig, layer: Layer<'_>, x: &Tensor, attended: &Tensor) -> Result<Tensor, LmError> {
    let x = x + layer.product(Slot::O, attended, layer.weight(|w| &w.o), layer.optional(|w| w.o_bias.as_ref()))?;
    let h = torch_ext::rms_norm(&x, layer.weight(|w| &w.post_norm), spec.rms_norm_eps)?;
    let bias = layer.optional(|w| w.mlp_bias.as_ref().map(|(gate_up, _)| gate_up));
    let gate_up = layer.product(Slot::GateUp, &h, layer.weight(|w| &w.gate_up), bias)?;
    let (down, bias) = (layer.weight(|w| &w.down), layer.optional(|w| w.mlp_bias.as_ref().map(|(_, down)| down)));
    let out = if layer.adapts(Slot::Down) {
        layer.product(Slot::Down, &torch_ext::swiglu(&gate_up)?, down, bias)?
    } else {
        torch_ext::swiglu_linear(&gate_up, down, bias)?
    };
    Ok(x + out)
}

/// Computes the whole layer: x [tokens, hidden] → [tokens, hidden].
pub(crate) fn forward(
    spec: &ModelConfig,
    layer: Layer<'_>,
    x: &Tensor,
    rope: (&Tensor, &Tensor),
    batch: &Packed,
) -> Result<Tensor, LmError> {
    let [q, k, v] = project(spec, layer, x, rope)?;
    let attended = if batch.shares() {
        torch_ext::prefix_attention(&q, &k, &v, &batch.cu_seqlens, &batch.prefix_of, scale(spec))?
    } else {
        torch_ext::varlen_attention(&q, &k, &v, &batch.cu_seqlens, scale(spec))?
    };
    let width = spec.num_attention_heads * spec.head_dim;
    finish(spec, layer, x, &attended.view([-1, width]))
}

/// Returns the attention scale, 1/√head_dim.
pub(crate) fn scale(spec: &ModelConfig) -> f64 {
    (spec.head_dim as f64).powf(-0.5)
}
