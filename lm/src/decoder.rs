//! The decoder: forward over packed batches, and an explicit way back, layer by layer.
//!
//! tch has no autograd hooks, so the decoder drives the backward pass itself. Each layer is its own small autograd
//! graph: its input is a leaf, and its vector-Jacobian product gives the input's gradient, while the products and norms
//! in it add the gradients of their weights to the flat buffer in place. What is kept between the two passes is chosen
//! by [`Recompute`].

use tch::{Device, Kind, Tensor};

use crate::adapter::{Active, Adapters, Dropout};
use crate::layer::{self, Layer};
use crate::params::Part;
use crate::rope::Rotary;
use crate::{LmError, ModelSpec, Packed, Params};

/// What the forward pass keeps for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Every layer's graph: fastest.
    Nothing,
    /// Of every k-th layer its input only; that layer runs again on the way back (activation checkpointing). 1 is all.
    EveryKth(usize),
}

impl Recompute {
    /// As configs say it: 0 is nothing.
    pub fn every(k: usize) -> Self {
        if k == 0 { Self::Nothing } else { Self::EveryKth(k) }
    }

    fn again(self, layer: usize) -> bool {
        matches!(self, Self::EveryKth(k) if layer.is_multiple_of(k))
    }
}

/// What a pass trains, and where the gradients are added.
#[derive(Clone, Copy, Debug)]
pub enum Trained<'a> {
    /// All weights.
    Weights {
        /// Of the model's layout, in its dtype or in fp32.
        grads: &'a Params,
    },
    /// Adapters; the weights stay.
    Adapters {
        /// The adapters.
        adapters: &'a Adapters,
        /// Of their layout.
        grads: &'a Adapters,
        /// What their inputs lose.
        dropout: Option<Dropout>,
    },
}

impl<'a> Trained<'a> {
    /// Gradients of the weights, if those are trained.
    pub fn weight_grads(self) -> Option<&'a Params> {
        match self {
            Self::Weights { grads } => Some(grads),
            Self::Adapters { .. } => None,
        }
    }

    fn active(self, layer: usize, batch: &Packed) -> Option<Active> {
        match self {
            Self::Weights { .. } => None,
            Self::Adapters { adapters, dropout, .. } => Some(adapters.active(layer, dropout, batch)),
        }
    }
}

/// A model's weights with what its forward pass needs beside them.
#[derive(Debug)]
pub struct Decoder {
    /// The weights.
    pub params: Params,
    rotary: Rotary,
}

/// A layer's output with the graph behind it.
struct Graph {
    input: Tensor,
    output: Tensor,
    adapters: Option<Active>,
}

enum LayerRecord {
    Kept(Graph),
    Input(Tensor),
}

/// What the forward pass kept.
pub struct Tape<'a> {
    batch: &'a Packed,
    trained: Trained<'a>,
    cos: Tensor,
    sin: Tensor,
    layers: Vec<LayerRecord>,
}

impl Tape<'_> {
    /// Below the first layer only the embedding has a use for the gradient.
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
        self.rotary.at(&batch.positions, batch.runs().into_iter())
    }

    /// Embeds token ids, [tokens] → [tokens, hidden].
    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Tensor, LmError> {
        self.params.gather(Part::Embedding, Some(Part::Layer(0)))?;
        let embedded = self.params.embedding().index_select(0, ids);
        self.params.release(Part::Embedding)?;
        Ok(embedded)
    }

    /// What follows a layer on the way forward.
    fn after(&self, layer: usize) -> Part {
        if layer + 1 < self.spec().num_hidden_layers { Part::Layer(layer + 1) } else { Part::Head }
    }

    /// Packed forward without a graph: last layer's output, [tokens, hidden].
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn forward(&self, batch: &Packed) -> Result<Tensor, LmError> {
        self.forward_beside(batch, None)
    }

    /// The same with the adapters of `trained`, if that has any.
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
                self.params.gather(Part::Layer(layer), Some(self.after(layer)))?;
                let (weights, adapters) = (self.params.layer(layer), trained.and_then(|t| t.active(layer, batch)));
                let parts = Layer { weights: &weights, grads: None, adapters: adapters.as_ref() };
                x = layer::forward(self.spec(), parts, &x, (&cos, &sin), batch)?;
                self.params.release(Part::Layer(layer))?;
            }
            Ok(x)
        })
    }

    /// Packed forward for training: last layer's output (no graph behind it), and what [`Self::backward`] needs.
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn forward_train<'a>(
        &self,
        batch: &'a Packed,
        recompute: Recompute,
        trained: Trained<'a>,
    ) -> Result<(Tensor, Tape<'a>), LmError> {
        let (cos, sin) = self.rotations(batch);
        let mut tape = Tape { batch, trained, cos, sin, layers: Vec::new() };
        let mut x = tch::no_grad(|| self.embed(&batch.ids))?;
        for layer in 0..self.spec().num_hidden_layers {
            self.params.gather(Part::Layer(layer), Some(self.after(layer)))?;
            if recompute.again(layer) {
                let y = tch::no_grad(|| self.graph(layer, &x, &tape))?.output;
                tape.layers.push(LayerRecord::Input(x));
                x = y;
            } else {
                let graph = self.graph(layer, &x, &tape)?;
                x = graph.output.detach();
                tape.layers.push(LayerRecord::Kept(graph));
            }
            self.params.release(Part::Layer(layer))?;
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

    /// The way back: given the loss's gradient with respect to [`Self::forward_train`]'s output, adds that of everything
    /// trained below it.
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn backward(&self, mut tape: Tape<'_>, grad_output: Tensor) -> Result<(), LmError> {
        let mut dy = grad_output;
        while let Some(record) = tape.layers.pop() {
            let layer = tape.layers.len();
            self.params.gather(Part::Layer(layer), layer.checked_sub(1).map(Part::Layer))?;
            if let Some(grads) = tape.trained.weight_grads() {
                grads.gather(Part::Layer(layer), None)?;
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
            // The graph goes before its layer's memory does.
            drop((input, output, adapters));
            self.params.release(Part::Layer(layer))?;
            match tape.trained {
                Trained::Weights { grads } => grads.release(Part::Layer(layer))?,
                Trained::Adapters { grads, .. } => grads.add(layer, &found),
            }
        }
        if let Some(grads) = tape.trained.weight_grads() {
            grads.gather(Part::Embedding, None)?;
            torch_ext::embedding_backward(&dy, &tape.batch.ids, &grads.embedding())?;
            grads.release(Part::Embedding)?;
        }
        Ok(())
    }

    /// Logits of every token, [tokens, vocab], of a model that is whole here, with a plain autograd graph behind them if the weights ask for one.
    /// For tests and inspection; training goes through [`crate::head`].
    ///
    /// # Errors
    /// If libtorch fails (memory).
    pub fn logits(&self, batch: &Packed) -> Result<Tensor, LmError> {
        let (cos, sin) = self.rotations(batch);
        let mut x = self.embed(&batch.ids)?;
        for layer in 0..self.spec().num_hidden_layers {
            x = layer::forward(self.spec(), (&self.params.layer(layer)).into(), &x, (&cos, &sin), batch)?;
        }
        let (norm, projection) = self.params.gather_head(None)?;
        Ok(torch_ext::rms_norm(&x, &norm, self.spec().rms_norm_eps)?.matmul(&projection.tr()))
    }
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
