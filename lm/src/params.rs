//! Parameters as views into one flat buffer, and gradients into another of the same layout.
//!
//! A layer's tensors lie together, matrices first, so that the optimizer and the collectives work on few large tensors
//! and the projections that share an input (q, k, v; gate, up) are one matrix without a copy.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::{LmError, ModelSpec, Spread};

/// One named tensor of the model and its place in the flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The tensor's name in transformers' checkpoints.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// First element in the flat buffer.
    pub offset: i64,
    /// Which part of the model it belongs to.
    pub part: Part,
}

impl Entry {
    /// Elements.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }

    /// What it does.
    pub fn role(&self) -> Role {
        match self.shape.len() {
            1 if self.name.ends_with(".bias") => Role::Bias,
            1 => Role::Norm,
            _ => Role::Matrix,
        }
    }
}

/// What a tensor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Projection or embedding.
    Matrix,
    /// Weight of an RMSNorm.
    Norm,
    /// Bias of a projection.
    Bias,
}

/// Parts of the model, in the order of the flat buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Token embedding.
    Embedding,
    /// A decoder layer.
    Layer(usize),
    /// Final norm, and the output projection unless it is tied.
    Head,
}

/// The tensors one layer computes with; each may span several named ones.
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
    /// [hidden]
    pub input_norm: Tensor,
    /// [hidden]
    pub post_norm: Tensor,
    /// [head_dim] each, in families that normalise queries and keys.
    pub qk_norm: Option<(Tensor, Tensor)>,
    /// [(heads + 2·kv_heads)·head_dim]
    pub qkv_bias: Option<Tensor>,
    /// [hidden]
    pub o_bias: Option<Tensor>,
    /// [2·intermediate] and [hidden]
    pub mlp_bias: Option<(Tensor, Tensor)>,
}

/// A flat buffer with the layout of a model.
#[derive(Debug)]
pub struct Params {
    /// [elements], contiguous: all of them, or this process's share.
    pub flat: Tensor,
    entries: Vec<Entry>,
    parts: Vec<Stretch>,
    spec: ModelSpec,
    spread: Option<Box<dyn Spread + Send>>,
}

/// A part's stretch of the flat buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The part.
    pub part: Part,
    /// First element.
    pub offset: i64,
    /// Elements.
    pub numel: i64,
}

/// The parts of a model and where they stand in the flat buffer.
pub fn parts(entries: &[Entry]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for entry in entries {
        match found.last_mut() {
            Some(last) if last.part == entry.part => last.numel += entry.numel(),
            _ => found.push(Stretch { part: entry.part, offset: entry.offset, numel: entry.numel() }),
        }
    }
    found
}

/// The named tensors of a model in the order of the flat buffer.
pub fn layout(spec: &ModelSpec) -> Vec<Entry> {
    let (c, i, d) = (spec.hidden_size, spec.intermediate_size, spec.head_dim);
    let (q, kv) = (spec.num_attention_heads * d, spec.num_key_value_heads * d);
    let mut entries = Vec::new();
    let mut offset = 0;
    let mut put = |part: Part, name: String, shape: Vec<i64>| {
        let entry = Entry { name, shape, offset, part };
        offset += entry.numel();
        entries.push(entry);
    };
    put(Part::Embedding, "model.embed_tokens.weight".into(), vec![spec.vocab_size, c]);
    for layer in 0..spec.num_hidden_layers {
        let mut named = |name: &str, what: &str, shape| {
            put(Part::Layer(layer), format!("model.layers.{layer}.{name}.{what}"), shape);
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
        if spec.family.qk_norm() {
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
    put(Part::Head, "model.norm.weight".into(), vec![c]);
    if !spec.tie_word_embeddings {
        put(Part::Head, "lm_head.weight".into(), vec![spec.vocab_size, c]);
    }
    entries
}

/// Seeds libtorch's generator, of which there is one for all threads: whoever draws from it holds it alone meanwhile.
pub(crate) fn seeded(seed: i64) -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A thread that died while drawing left nothing that the next seed does not set anew.
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    alone
}

impl Params {
    /// A buffer of zeros.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn zeros(spec: &ModelSpec, kind: Kind, device: Device) -> Result<Self, LmError> {
        let params = Self::uninitialized(spec, kind, device)?;
        let _ = params.flat.shallow_clone().zero_();
        Ok(params)
    }

    /// A buffer of undefined contents, for those who fill all of it. Memory is taken page by page as they do.
    pub(crate) fn uninitialized(spec: &ModelSpec, kind: Kind, device: Device) -> Result<Self, LmError> {
        let entries = layout(spec);
        let total = entries.last().map_or(0, |e| e.offset + e.numel());
        let flat = Tensor::f_empty([total], (kind, device))?;
        Ok(Self { flat, parts: parts(&entries), entries, spec: spec.clone(), spread: None })
    }

    /// A model that several processes hold together, of which `share` is here.
    pub fn shared(spec: &ModelSpec, share: Tensor, spread: Box<dyn Spread + Send>) -> Self {
        let entries = layout(spec);
        Self { flat: share, parts: parts(&entries), entries, spec: spec.clone(), spread: Some(spread) }
    }

    /// Whether other processes hold the rest of it.
    pub fn is_shared(&self) -> bool {
        self.spread.is_some()
    }

    /// The place of a part's numbers, [numel]; of a shared model nothing may be there.
    pub fn place(&self, part: Part) -> Tensor {
        if let Some(spread) = &self.spread {
            return spread.place(part);
        }
        let Stretch { offset, numel, .. } = self.parts.iter().find(|s| s.part == part).expect("a part of this model");
        self.flat.narrow(0, *offset, *numel)
    }

    /// Makes a part's numbers present at their place until [`Self::release`]; `next` will be wanted after it.
    ///
    /// # Errors
    /// Of a shared model, if memory does not suffice or another process is gone.
    pub fn gather(&self, part: Part, next: Option<Part>) -> Result<(), LmError> {
        self.spread.as_ref().map_or(Ok(()), |spread| spread.gather(part, next))
    }

    /// Says that a part is not needed for now.
    ///
    /// # Errors
    /// Of a shared model, if another process is gone.
    pub fn release(&self, part: Part) -> Result<(), LmError> {
        self.spread.as_ref().map_or(Ok(()), |spread| spread.release(part))
    }

    /// Makes final norm and output projection present: [hidden] and [vocab, hidden]. `next` will be wanted after them.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn gather_head(&self, next: Option<Part>) -> Result<(Tensor, Tensor), LmError> {
        let (c, vocab) = (self.spec.hidden_size, self.spec.vocab_size);
        if self.spec.tie_word_embeddings {
            self.gather(Part::Head, None)?;
            self.gather(Part::Embedding, next)?;
            return Ok((self.place(Part::Head), self.embedding()));
        }
        self.gather(Part::Head, next)?;
        let both = self.place(Part::Head);
        Ok((both.narrow(0, 0, c), both.narrow(0, c, vocab * c).view([vocab, c])))
    }

    /// Says that the head is not needed for now.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub fn release_head(&self) -> Result<(), LmError> {
        if self.spec.tie_word_embeddings {
            self.release(Part::Embedding)?;
        }
        self.release(Part::Head)
    }

    /// Matrices from a normal distribution with deviation `std`, norms at 1, biases at 0 (as transformers initialises).
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn random(spec: &ModelSpec, std: f64, seed: i64, device: Device) -> Result<Self, LmError> {
        let params = Self::zeros(spec, Kind::Float, device)?;
        let _alone = seeded(seed);
        tch::no_grad(|| {
            for entry in &params.entries {
                let mut view = params.view(entry);
                let _ = match entry.role() {
                    Role::Matrix => view.normal_(0.0, std),
                    Role::Norm => view.fill_(1.0),
                    Role::Bias => view.zero_(),
                };
            }
        });
        Ok(params)
    }

    /// The model whose layout this is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The named tensors.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The parts and where they stand in the buffer of the whole model.
    pub fn parts(&self) -> &[Stretch] {
        &self.parts
    }

    /// One named tensor of a model that is whole here, sharing storage.
    pub fn view(&self, entry: &Entry) -> Tensor {
        self.flat.narrow(0, entry.offset, entry.numel()).view(entry.shape.as_slice())
    }

    /// One tensor by its name in transformers' checkpoints.
    pub fn named(&self, name: &str) -> Option<Tensor> {
        self.entries.iter().find(|e| e.name == name).map(|e| self.view(e))
    }

    /// The token embedding, [vocab, hidden]; of a shared model it is not there before it is gathered.
    pub fn embedding(&self) -> Tensor {
        self.place(Part::Embedding).view([self.spec.vocab_size, self.spec.hidden_size])
    }

    /// The tensors of one layer, sharing storage; of a shared model they are not there before the layer is gathered.
    pub fn layer(&self, layer: usize) -> LayerWeights {
        let numbers = self.place(Part::Layer(layer));
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
            qk_norm: self.spec.family.qk_norm().then(|| (take(&[d]), take(&[d]))),
            qkv_bias: self.spec.biases.qkv.then(|| take(&[(heads + 2 * kv) * d])),
            o_bias: self.spec.biases.o.then(|| take(&[c])),
            mlp_bias: self.spec.biases.mlp.then(|| (take(&[2 * i]), take(&[c]))),
        }
    }
}
