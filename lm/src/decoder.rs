//! The decoder: a forward pass over packed batches, and an explicit backward pass, layer by layer.
//!
//! tch has no autograd hooks, so the decoder runs the backward pass itself. Each layer is a separate, small autograd graph whose
//! input is a leaf. The vector-Jacobian product of the graph gives the gradient of the input, while its matrix products and
//! norms add the gradients of their weights to the flat buffer in place. [`ActivationCheckpointing`] selects what is kept
//! between the two passes.

use tch::{Device, Kind, Tensor};

use crate::layer::{self, Layer};
use crate::lora::{Active, Dropout, LoraAdapters};
use crate::params::ParamUnit;
use crate::rope::Rotary;
use crate::{LmError, ModelConfig, Packed, Params};

/// Activations that the forward pass keeps for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationCheckpointing {
    /// The graph of every layer. This is the fastest mode.
    Nothing,
    /// Only the input of every k-th layer, which the backward pass recomputes. With 1, all layers are recomputed.
    EveryKth(usize),
}

impl ActivationCheckpointing {
    /// Returns the mode for a config value: 0 selects [`Self::Nothing`].
    pub fn every(k: usize) -> Self {
        if k == 0 { Self::Nothing } else { Self::EveryKth(k) }
    }

    fn again(self, layer: usize) -> bool {
        matches!(self, Self::EveryKth(k) if layer.is_multiple_of(k))
    }
}

/// Parameters that a pass trains, with the buffers of their gradients.
#[derive(Clone, Copy, Debug)]
pub enum Trained<'a> {
    /// All weights.
    Weights {
        /// Gradients in the layout of the model, in its dtype or in fp32.
        grads: &'a Params,
    },
    /// Adapters only; the weights are frozen.
    Lora {
        /// The adapters.
        adapters: &'a LoraAdapters,
        /// Gradients in the layout of the adapters.
        grads: &'a LoraAdapters,
        /// Dropout of the adapters' inputs.
        dropout: Option<Dropout>,
    },
}

impl<'a> Trained<'a> {
    /// Returns the gradients of the weights, if the weights are trained.
    pub fn weight_grads(self) -> Option<&'a Params> {
        match self {
            Self::Weights { grads } => Some(grads),
            Self::Lora { .. } => None,
        }
    }

    fn active(self, layer: usize, batch: &Packed) -> Option<Active> {
        match self {
            Self::Weights { .. } => None,
            Self::Lora { adapters, dropout, .. } => Some(adapters.active(layer, dropout, batch)),
        }
    }
}

/// A model: its weights and the rotary embedding of its forward pass.
#[derive(Debug)]
pub struct Decoder {
    /// The weights.
    pub params: Params,
    rotary: Rotary,
}

/// Output of a layer with its autograd graph.
struct Graph {
    input: Tensor,
    output: Tensor,
    adapters: Option<Active>,
}

enum LayerRecord {
    Kept(Graph),
    Input(Tensor),
}

/// Activations that the forward pass kept for the backward pass.
pub struct Tape<'a> {
    batch: &'a Packed,
    trained: Trained<'a>,
    cos: Tensor,
    sin: Tensor,
    layers: Vec<LayerRecord>,
}

impl Tape<'_> {
    /// Returns whether a layer's input needs a gradient. Below the first layer, only the embedding uses the gradient.
    fn wants_input(&self, layer: usize) -> bool {
        layer > 0 || self.trained.weight_grads().is_some()
    }
}

impl std::fmt::Debug for Tape<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape of {} layers, {} tokens", self.layers.len(), self.batch.tokens())
    }
}

impl Decoder {
    /// Creates a model from its weights.
    pub fn new(params: Params) -> Self {
        let spec = params.spec();
        let device = params.flat.device();
        let rotary = Rotary::new(&spec.rope, spec.head_dim, spec.max_position_embeddings, device);
        Self { params, rotary }
    }

    /// Returns the model's configuration.
    pub fn spec(&self) -> &ModelConfig {
        self.params.spec()
    }

    /// Returns the device of the weights.
    pub fn device(&self) -> Device {
        self.params.flat.device()
    }

    /// Returns the rotary embedding.
    pub(crate) fn rotary(&self) -> &Rotary {
        &self.rotary
    }

    /// Returns the cos and sin of each token's angles.
    fn rotations(&self, batch: &Packed) -> (Tensor, Tensor) {
        self.rotary.at(&batch.positions, batch.runs().into_iter())
    }

    /// Embeds token ids, [tokens] → [tokens, hidden].
    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Tensor, LmError> {
        self.params.unshard(ParamUnit::Embedding, Some(ParamUnit::Layer(0)))?;
        let embedded = self.params.embedding().index_select(0, ids);
        self.params.reshard(ParamUnit::Embedding)?;
        Ok(embedded)
    }

    /// Returns the param unit that follows a layer in the forward pass.
    fn after(&self, layer: usize) -> ParamUnit {
        if layer + 1 < self.spec().num_hidden_layers { ParamUnit::Layer(layer + 1) } else { ParamUnit::Head }
    }

    /// Runs the packed forward pass without a graph, and returns the output of the last layer, [tokens, hidden].
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn forward(&self, batch: &Packed) -> Result<Tensor, LmError> {
        self.forward_beside(batch, None)
    }

    /// Runs [`Self::forward`] with the adapters of `trained`, if it has any.
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn forward_with(&self, batch: &Packed, trained: Trained<'_>) -> Result<Tensor, LmError> {
        self.forward_beside(batch, Some(trained))
    }

    fn forward_beside(&self, batch: &Packed, trained: Option<Trained<'_>>) -> Result<Tensor, LmError> {
        tch::no_grad(|| {
            let (cos, sin) = self.rotations(batch);
            let mut x = self.embed(&batch.ids)?;
            for layer in 0..self.spec().num_hidden_layers {
                self.params.unshard(ParamUnit::Layer(layer), Some(self.after(layer)))?;
                let (weights, adapters) = (self.params.layer(layer), trained.and_then(|t| t.active(layer, batch)));
                let parts = Layer { weights: &weights, grads: None, adapters: adapters.as_ref() };
                x = layer::forward(self.spec(), parts, &x, (&cos, &sin), batch)?;
                self.params.reshard(ParamUnit::Layer(layer))?;
            }
            Ok(x)
        })
    }

    /// Runs the packed forward pass for training. Returns the output of the last layer (detached) and the tape for
    /// [`Self::backward`].
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn forward_train<'a>(
        &self,
        batch: &'a Packed,
        recompute: ActivationCheckpointing,
        trained: Trained<'a>,
    ) -> Result<(Tensor, Tape<'a>), LmError> {
        let (cos, sin) = self.rotations(batch);
        let mut tape = Tape { batch, trained, cos, sin, layers: Vec::new() };
        let mut x = tch::no_grad(|| self.embed(&batch.ids))?;
        for layer in 0..self.spec().num_hidden_layers {
            self.params.unshard(ParamUnit::Layer(layer), Some(self.after(layer)))?;
            if recompute.again(layer) {
                let y = tch::no_grad(|| self.graph(layer, &x, &tape))?.output;
                tape.layers.push(LayerRecord::Input(x));
                x = y;
            } else {
                let graph = self.graph(layer, &x, &tape)?;
                x = graph.output.detach();
                tape.layers.push(LayerRecord::Kept(graph));
            }
            self.params.reshard(ParamUnit::Layer(layer))?;
        }
        Ok((x, tape))
    }

    /// Runs a layer on a new graph, whose leaves are its input and its adapters.
    fn graph(&self, layer: usize, x: &Tensor, tape: &Tape<'_>) -> Result<Graph, LmError> {
        let input = x.detach().set_requires_grad(tape.wants_input(layer));
        let (weights, adapters) = (self.params.layer(layer), tape.trained.active(layer, tape.batch));
        let grads = tape.trained.weight_grads().map(|grads| grads.layer(layer));
        let parts = Layer { weights: &weights, grads: grads.as_ref(), adapters: adapters.as_ref() };
        let output = layer::forward(self.spec(), parts, &input, (&tape.cos, &tape.sin), tape.batch)?;
        Ok(Graph { input, output, adapters })
    }

    /// Runs the backward pass: given the gradient of the loss with respect to the output of [`Self::forward_train`], adds the
    /// gradients of all trained parameters below it.
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn backward(&self, mut tape: Tape<'_>, grad_output: Tensor) -> Result<(), LmError> {
        let mut dy = grad_output;
        while let Some(record) = tape.layers.pop() {
            let layer = tape.layers.len();
            self.params.unshard(ParamUnit::Layer(layer), layer.checked_sub(1).map(ParamUnit::Layer))?;
            if let Some(grads) = tape.trained.weight_grads() {
                grads.unshard(ParamUnit::Layer(layer), None)?;
            }
            let Graph { input, output, adapters } = match record {
                LayerRecord::Kept(graph) => graph,
                LayerRecord::Input(x) => self.graph(layer, &x, &tape)?,
            };
            let mut wanted: Vec<&Tensor> = adapters.iter().flat_map(Active::leaves).collect();
            if tape.wants_input(layer) {
                wanted.push(&input);
            }
            let mut found = torch_ext::grad(&[&output], &[&dy], &wanted)?;
            if tape.wants_input(layer) {
                dy = found.pop().expect("one gradient for each that is wanted");
            }
            // The graph must be freed before the memory of its layer is released.
            drop((input, output, adapters));
            self.params.reshard(ParamUnit::Layer(layer))?;
            match tape.trained {
                Trained::Weights { grads } => grads.reshard(ParamUnit::Layer(layer))?,
                Trained::Lora { grads, .. } => grads.add(layer, &found),
            }
        }
        if let Some(grads) = tape.trained.weight_grads() {
            grads.unshard(ParamUnit::Embedding, None)?;
            torch_ext::embedding_backward(&dy, &tape.batch.ids, &grads.embedding())?;
            grads.reshard(ParamUnit::Embedding)?;
        }
        Ok(())
    }

    /// Returns the logits of every token, [tokens, vocab], with an ordinary autograd graph if the weights require gradients. All
    /// parameters must be in local memory. For tests and inspection; training uses [`crate::head`].
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn logits(&self, batch: &Packed) -> Result<Tensor, LmError> {
        let (cos, sin) = self.rotations(batch);
        let mut x = self.embed(&batch.ids)?;
        for layer in 0..self.spec().num_hidden_layers {
            x = layer::forward(self.spec(), (&self.params.layer(layer)).into(), &x, (&cos, &sin), batch)?;
        }
        let (norm, projection) = self.params.unshard_head(None)?;
        Ok(torch_ext::rms_norm(&x, &norm, self.spec().rms_norm_eps)?.matmul(&projection.tr()))
    }
}

/// Returns the kind (dtype) for a name from config.json or safetensors.
pub fn kind_named(name: &str) -> Option<Kind> {
    Some(match name {
        "float32" | "fp32" | "F32" => Kind::Float,
        "bfloat16" | "bf16" | "BF16" => Kind::BFloat16,
        "float16" | "fp16" | "F16" => Kind::Half,
        _ => return None,
    })
}
