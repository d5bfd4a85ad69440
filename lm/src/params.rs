//! Parameters as views into one flat buffer, and gradients as views into another buffer of the same layout.
//!
//! The tensors of a layer are adjacent, matrices first. The optimizer and the collectives therefore work on few large tensors,
//! and the projections that share an input (q, k, v; gate, up) form one matrix without a copy.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::family;
use crate::{LmError, ModelConfig, ShardedStorage};

/// One named tensor of the model and its location in the flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamEntry {
    /// Name of the tensor in transformers checkpoints.
    pub name: String,
    /// Shape of the tensor.
    pub shape: Vec<i64>,
    /// Index of the first element in the flat buffer.
    pub offset: i64,
    /// Param unit of the tensor.
    pub unit: ParamUnit,
}

impl ParamEntry {
    /// Returns the number of elements.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Returns the role of the tensor.
    pub fn role(&self) -> ParamRole {
        match self.shape.len() {
            1 if self.name.ends_with(".bias") => ParamRole::Bias,
            1 => ParamRole::Norm,
            _ => ParamRole::Matrix,
        }
    }
}

/// Role of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamRole {
    /// Projection or embedding.
    Matrix,
    /// Weight of an RMSNorm.
    Norm,
    /// Bias of a projection.
    Bias,
}

/// Param units of a model, in the order of the flat buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ParamUnit {
    /// Token embedding.
    Embedding,
    /// A decoder layer.
    Layer(usize),
    /// Final norm, and the output projection unless it is tied.
    Head,
}

/// Tensors that one layer computes with. One of them may span several named tensors.
#[derive(Debug)]
pub struct LayerWeights {
    /// [(heads + 2·kv_heads)·head_dim, hidden]
    pub qkv: Tensor,
    /// [hidden, heads·head_dim]
    pub o: Tensor,
    /// [2·intermediate, hidden]
    pub gate_up: Tensor,
    /// [hidden, intermediate]
    pub down: Tensor,
    /// `[hidden]`
    pub input_norm: Tensor,
    /// `[hidden]`
    pub post_norm: Tensor,
    /// `[head_dim]` each, in families that normalize queries and keys.
    pub qk_norm: Option<(Tensor, Tensor)>,
    /// [(heads + 2·kv_heads)·head_dim]
    pub qkv_bias: Option<Tensor>,
    /// `[hidden]`
    pub o_bias: Option<Tensor>,
    /// [2·intermediate] and `[hidden]`
    pub mlp_bias: Option<(Tensor, Tensor)>,
}

/// A flat buffer with the layout of a model.
#[derive(Debug)]
pub struct Params {
    /// `[elements]`, contiguous: all elements of the model, or the shard of this rank.
    pub flat: Tensor,
    entries: Vec<ParamEntry>,
    units: Vec<ParamRange>,
    spec: ModelConfig,
    storage: Option<Box<dyn ShardedStorage + Send>>,
}

/// Range of a param unit in the flat buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamRange {
    /// The param unit.
    pub unit: ParamUnit,
    /// Index of the first element.
    pub offset: i64,
    /// Number of elements.
    pub numel: i64,
}

/// Returns the param units of a model and their ranges in the flat buffer.
pub fn units(entries: &[ParamEntry]) -> Vec<ParamRange> {
    let mut found: Vec<ParamRange> = Vec::new();
    for entry in entries {
        match found.last_mut() {
            Some(last) if last.unit == entry.unit => last.numel += entry.numel(),
            _ => found.push(ParamRange { unit: entry.unit, offset: entry.offset, numel: entry.numel() }),
        }
    }
    found
}

/// Returns the named tensors of a model, in the order of the flat buffer.
pub fn layout(spec: &ModelConfig) -> Vec<ParamEntry> {
    let (c, i, d) = (spec.hidden_size, spec.intermediate_size, spec.head_dim);
    let (q, kv) = (spec.num_attention_heads * d, spec.num_key_value_heads * d);
    let mut entries = Vec::new();
    let mut offset = 0;
    let mut put = |unit: ParamUnit, name: String, shape: Vec<i64>| {
        let entry = ParamEntry { name, shape, offset, unit };
        offset += entry.numel();
        entries.push(entry);
    };
    put(ParamUnit::Embedding, "model.embed_tokens.weight".into(), vec![spec.vocab_size, c]);
    for layer in 0..spec.num_hidden_layers {
        let mut named = |name: &str, what: &str, shape| {
            put(ParamUnit::Layer(layer), format!("model.layers.{layer}.{name}.{what}"), shape);
        };
        let mut at = |name: &str, shape| named(name, "weight", shape);
        at("self_attn.q_proj", vec![q, c]);
        at("self_attn.k_proj", vec![kv, c]);
        at("self_attn.v_proj", vec![kv, c]);
        at("self_attn.o_proj", vec![c, q]);
        at("mlp.gate_proj", vec![i, c]);
        at("mlp.up_proj", vec![i, c]);
        at("mlp.down_proj", vec![c, i]);
        at("input_layernorm", vec![c]);
        at("post_attention_layernorm", vec![c]);
        if family::qk_norm(spec.family) {
            at("self_attn.q_norm", vec![d]);
            at("self_attn.k_norm", vec![d]);
        }
        let mut bias = |name: &str, width| named(name, "bias", vec![width]);
        if spec.biases.qkv {
            bias("self_attn.q_proj", q);
            bias("self_attn.k_proj", kv);
            bias("self_attn.v_proj", kv);
        }
        if spec.biases.o {
            bias("self_attn.o_proj", c);
        }
        if spec.biases.mlp {
            bias("mlp.gate_proj", i);
            bias("mlp.up_proj", i);
            bias("mlp.down_proj", c);
        }
    }
    put(ParamUnit::Head, "model.norm.weight".into(), vec![c]);
    if !spec.tie_word_embeddings {
        put(ParamUnit::Head, "lm_head.weight".into(), vec![spec.vocab_size, c]);
    }
    entries
}

/// Seeds libtorch's generator, which all threads share. The caller must hold the returned guard while it uses the generator.
pub(crate) fn seeded(seed: i64) -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A panic of another thread leaves no invalid state, because every user seeds the generator first.
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    alone
}

impl Params {
    /// Allocates a buffer of zeros.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn zeros(spec: &ModelConfig, kind: Kind, device: Device) -> Result<Self, LmError> {
        let params = Self::uninitialized(spec, kind, device)?;
        let _ = params.flat.shallow_clone().zero_();
        Ok(params)
    }

    /// Allocates an uninitialized buffer, for callers that fill all of it. The system provides its memory page by page as they do.
    pub(crate) fn uninitialized(spec: &ModelConfig, kind: Kind, device: Device) -> Result<Self, LmError> {
        let entries = layout(spec);
        let total = entries.last().map_or(0, |e| e.offset + e.numel());
        let flat = Tensor::f_empty([total], (kind, device))?;
        Ok(Self { flat, units: units(&entries), entries, spec: spec.clone(), storage: None })
    }

    /// Creates the parameters of a sharded model. `share` is the shard of this rank.
    pub fn sharded(spec: &ModelConfig, share: Tensor, storage: Box<dyn ShardedStorage + Send>) -> Self {
        let entries = layout(spec);
        Self { flat: share, units: units(&entries), entries, spec: spec.clone(), storage: Some(storage) }
    }

    /// Returns whether the parameters are sharded over several ranks.
    pub fn is_sharded(&self) -> bool {
        self.storage.is_some()
    }

    /// Returns the elements of a unit, `[numel]`. If the model is sharded, they are valid only while the unit is unsharded.
    pub fn unit_view(&self, unit: ParamUnit) -> Tensor {
        if let Some(storage) = &self.storage {
            return storage.view(unit);
        }
        let ParamRange { offset, numel, .. } =
            self.units.iter().find(|s| s.unit == unit).expect("a unit of this model");
        self.flat.narrow(0, *offset, *numel)
    }

    /// Unshards a unit until [`Self::reshard`]. `next` is the unit that is needed next, and may be prefetched.
    ///
    /// # Errors
    /// If the model is sharded, and memory cannot be allocated or another rank is lost.
    pub fn unshard(&self, unit: ParamUnit, next: Option<ParamUnit>) -> Result<(), LmError> {
        self.storage.as_ref().map_or(Ok(()), |storage| storage.unshard(unit, next))
    }

    /// Releases a unit until it is needed again.
    ///
    /// # Errors
    /// If the model is sharded and another rank is lost.
    pub fn reshard(&self, unit: ParamUnit) -> Result<(), LmError> {
        self.storage.as_ref().map_or(Ok(()), |storage| storage.reshard(unit))
    }

    /// Unshards the final norm and the output projection, and returns them: `[hidden]` and [vocab, hidden]. `next` is the unit that
    /// is needed next.
    ///
    /// # Errors
    /// As [`Self::unshard`].
    pub fn unshard_head(&self, next: Option<ParamUnit>) -> Result<(Tensor, Tensor), LmError> {
        let (c, vocab) = (self.spec.hidden_size, self.spec.vocab_size);
        if self.spec.tie_word_embeddings {
            self.unshard(ParamUnit::Head, None)?;
            self.unshard(ParamUnit::Embedding, next)?;
            return Ok((self.unit_view(ParamUnit::Head), self.embedding()));
        }
        self.unshard(ParamUnit::Head, next)?;
        let both = self.unit_view(ParamUnit::Head);
        Ok((both.narrow(0, 0, c), both.narrow(0, c, vocab * c).view([vocab, c])))
    }

    /// Releases the head's weights until they are needed again.
    ///
    /// # Errors
    /// As [`Self::reshard`].
    pub fn reshard_head(&self) -> Result<(), LmError> {
        if self.spec.tie_word_embeddings {
            self.reshard(ParamUnit::Embedding)?;
        }
        self.reshard(ParamUnit::Head)
    }

    /// Initializes a random model as transformers does: matrices from a normal distribution with standard deviation `std`, norms
    /// at 1, biases at 0.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn random(spec: &ModelConfig, std: f64, seed: i64, device: Device) -> Result<Self, LmError> {
        let params = Self::zeros(spec, Kind::Float, device)?;
        let _alone = seeded(seed);
        tch::no_grad(|| {
            for entry in &params.entries {
                let mut view = params.view(entry);
                let _ = match entry.role() {
                    ParamRole::Matrix => view.normal_(0.0, std),
                    ParamRole::Norm => view.fill_(1.0),
                    ParamRole::Bias => view.zero_(),
                };
            }
        });
        Ok(params)
    }

    /// Returns the configuration of the model.
    pub fn spec(&self) -> &ModelConfig {
        &self.spec
    }

    /// Returns the named tensors.
    pub fn entries(&self) -> &[ParamEntry] {
        &self.entries
    }

    /// Returns the param units and their ranges in the buffer of the whole model.
    pub fn units(&self) -> &[ParamRange] {
        &self.units
    }

    /// Returns one named tensor, sharing storage. The model must not be sharded.
    pub fn view(&self, entry: &ParamEntry) -> Tensor {
        self.flat.narrow(0, entry.offset, entry.numel()).view(entry.shape.as_slice())
    }

    /// Returns a tensor by its name in transformers checkpoints. The model must not be sharded.
    pub fn named(&self, name: &str) -> Option<Tensor> {
        self.entries.iter().find(|e| e.name == name).map(|e| self.view(e))
    }

    /// Returns the token embedding, [vocab, hidden]. If the model is sharded, it is valid only while its unit is unsharded.
    pub fn embedding(&self) -> Tensor {
        self.unit_view(ParamUnit::Embedding).view([self.spec.vocab_size, self.spec.hidden_size])
    }

    /// Returns the tensors of one layer, sharing storage. If the model is sharded, they are valid only while the layer is
    /// unsharded.
    pub fn layer(&self, layer: usize) -> LayerWeights {
        let numbers = self.unit_view(ParamUnit::Layer(layer));
        let (c, i, d) = (self.spec.hidden_size, self.spec.intermediate_size, self.spec.head_dim);
        let (heads, kv) = (self.spec.num_attention_heads, self.spec.num_key_value_heads);
        let mut offset = 0;
        let mut take = |shape: &[i64]| {
            let numel: i64 = shape.iter().product();
            offset += numel;
            numbers.narrow(0, offset - numel, numel).view(shape)
        };
        LayerWeights {
            qkv: take(&[(heads + 2 * kv) * d, c]),
            o: take(&[c, heads * d]),
            gate_up: take(&[2 * i, c]),
            down: take(&[c, i]),
            input_norm: take(&[c]),
            post_norm: take(&[c]),
            qk_norm: family::qk_norm(self.spec.family).then(|| (take(&[d]), take(&[d]))),
            qkv_bias: self.spec.biases.qkv.then(|| take(&[(heads + 2 * kv) * d])),
            o_bias: self.spec.biases.o.then(|| take(&[c])),
            mlp_bias: self.spec.biases.mlp.then(|| (take(&[2 * i]), take(&[c]))),
        }
    }
}
