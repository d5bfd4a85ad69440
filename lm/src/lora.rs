//! Low-rank adapters (LoRA, DoRA) for the projections of every layer, computed as in the PEFT library.

use configs::Projection;
use tch::{Device, Kind, Tensor};

use crate::{LmError, ModelConfig, Packed};

/// Configuration of the adapters, without their elements.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSpec {
    /// Rank of each update.
    pub rank: i64,
    /// Numerator of the scale of an update, which is `alpha / rank` (`alpha / √rank` if `rank_stabilized`).
    pub alpha: f64,
    /// Whether to use the rsLoRA scale (Kalajdzievski 2023).
    pub rank_stabilized: bool,
    /// Whether to use DoRA: a trained magnitude for each row of W + update.
    pub dora: bool,
    /// Projections that have an adapter, in the order of a layer.
    pub targets: Vec<Projection>,
}

impl AdapterSpec {
    /// Returns the factor by which an update is multiplied.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }
}

/// One of the four matrix products of a layer. q, k and v share one product; gate and up share another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Qkv,
    O,
    GateUp,
    Down,
}

/// Returns the location of a projection: its slot, its first row in the slot, its number of rows, and its number of columns.
pub(crate) fn place(spec: &ModelConfig, projection: Projection) -> (Slot, i64, i64, i64) {
    let (c, i, d) = (spec.hidden_size, spec.intermediate_size, spec.head_dim);
    let (q, kv) = (spec.num_attention_heads * d, spec.num_key_value_heads * d);
    match projection {
        Projection::QProj => (Slot::Qkv, 0, q, c),
        Projection::KProj => (Slot::Qkv, q, kv, c),
        Projection::VProj => (Slot::Qkv, q + kv, kv, c),
        Projection::OProj => (Slot::O, 0, c, q),
        Projection::GateProj => (Slot::GateUp, 0, i, c),
        Projection::UpProj => (Slot::GateUp, i, i, c),
        Projection::DownProj => (Slot::Down, 0, c, i),
    }
}

/// Returns the number of input features of a projection.
pub fn columns_of(spec: &ModelConfig, projection: Projection) -> i64 {
    place(spec, projection).3
}

/// Returns the number of elements of a model's adapters, over all layers.
pub fn numbers_of(model: &ModelConfig, rank: i64, dora: bool, targets: &[Projection]) -> i64 {
    let of_one = |&p: &Projection| {
        let (_, _, rows, columns) = place(model, p);
        rank * (rows + columns) + if dora { rows } else { 0 }
    };
    targets.iter().map(of_one).sum::<i64>() * model.num_hidden_layers as i64
}

/// Adapters of all layers in one flat fp32 buffer. Their gradients use the same layout.
#[derive(Debug)]
pub struct LoraAdapters {
    /// `[elements]`, contiguous, fp32.
    pub flat: Tensor,
    spec: AdapterSpec,
    model: ModelConfig,
}

/// Tensors of one adapter. They share storage with the flat buffer.
#[derive(Debug)]
pub struct Adapter {
    /// Projection to which the update is added.
    pub projection: Projection,
    /// [rank, in]
    pub a: Tensor,
    /// [out, rank]
    pub b: Tensor,
    /// `[out]`, with DoRA.
    pub magnitude: Option<Tensor>,
}

impl Adapter {
    /// Returns all tensors, in the order of the flat buffer.
    fn all(&self) -> impl Iterator<Item = &Tensor> {
        [&self.a, &self.b].into_iter().chain(&self.magnitude)
    }
}

impl LoraAdapters {
    /// Allocates adapters for `model`, filled with zeros.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn zeros(model: &ModelConfig, spec: AdapterSpec, device: Device) -> Result<Self, LmError> {
        let total = numbers_of(model, spec.rank, spec.dora, &spec.targets);
        Ok(Self { flat: Tensor::f_zeros([total], (Kind::Float, device))?, spec, model: model.clone() })
    }

    /// Initializes adapters whose update is zero: A is uniform in ±1/√in (as in PEFT), B is zero, and the DoRA magnitudes are the
    /// norms of the rows of `weights`.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn new(weights: &crate::Params, spec: AdapterSpec, seed: i64) -> Result<Self, LmError> {
        let adapters = Self::zeros(weights.spec(), spec, weights.flat.device())?;
        let _alone = crate::params::seeded(seed);
        tch::no_grad(|| {
            for layer in 0..weights.spec().num_hidden_layers {
                weights.unshard(crate::params::ParamUnit::Layer(layer), None)?;
                let matrices = weights.layer(layer);
                for mut adapter in adapters.layer(layer) {
                    let bound = 1.0 / (adapter.a.size()[1] as f64).sqrt();
                    let _ = adapter.a.uniform_(-bound, bound);
                    if let Some(magnitude) = &mut adapter.magnitude {
                        let w = adapters.rows_of(&matrices, adapter.projection);
                        magnitude.copy_(&lengths(&w.to_kind(Kind::Float)));
                    }
                }
                weights.reshard(crate::params::ParamUnit::Layer(layer))?;
            }
            Ok(())
        })
        .map(|()| adapters)
    }

    /// Returns the configuration of the adapters.
    pub fn spec(&self) -> &AdapterSpec {
        &self.spec
    }

    /// Returns the adapters of one layer, sharing storage.
    pub fn layer(&self, layer: usize) -> Vec<Adapter> {
        let per_layer = self.flat.size()[0] / self.model.num_hidden_layers as i64;
        let mut offset = per_layer * layer as i64;
        let mut take = |shape: &[i64]| {
            let numel: i64 = shape.iter().product();
            offset += numel;
            self.flat.narrow(0, offset - numel, numel).view(shape)
        };
        let one = |&projection: &Projection| {
            let (_, _, rows, columns) = place(&self.model, projection);
            Adapter {
                projection,
                a: take(&[self.spec.rank, columns]),
                b: take(&[rows, self.spec.rank]),
                magnitude: self.spec.dora.then(|| take(&[rows])),
            }
        };
        self.spec.targets.iter().map(one).collect()
    }

    /// Returns the rows of a layer's weights that belong to a projection, sharing storage.
    fn rows_of(&self, weights: &crate::params::LayerWeights, projection: Projection) -> Tensor {
        let (slot, first, rows, _) = place(&self.model, projection);
        let matrix = match slot {
            Slot::Qkv => &weights.qkv,
            Slot::O => &weights.o,
            Slot::GateUp => &weights.gate_up,
            Slot::Down => &weights.down,
        };
        matrix.narrow(0, first, rows)
    }

    /// Adds every update to the weights that it adapts. The sum is computed in fp32 and rounded once to the dtype of the weights.
    pub fn merge_into(&self, weights: &crate::Params) {
        tch::no_grad(|| {
            for layer in 0..self.model.num_hidden_layers {
                let matrices = weights.layer(layer);
                for adapter in self.layer(layer) {
                    let mut w = self.rows_of(&matrices, adapter.projection);
                    let mut moved = w.to_kind(Kind::Float) + adapter.b.matmul(&adapter.a) * self.spec.scale();
                    if let Some(magnitude) = &adapter.magnitude {
                        moved = &moved * (magnitude / lengths(&moved)).unsqueeze(-1);
                    }
                    w.copy_(&moved);
                }
            }
        });
    }

    /// Adds the gradients of one layer, in the order of the flat buffer.
    pub(crate) fn add(&self, layer: usize, gradients: &[Tensor]) {
        tch::no_grad(|| {
            for (sum, part) in self.layer(layer).iter().flat_map(Adapter::all).zip(gradients) {
                let _ = sum.shallow_clone().g_add_(part);
            }
        });
    }

    /// Returns the adapters of one layer as leaves of a new autograd graph.
    pub(crate) fn active(&self, layer: usize, dropout: Option<Dropout>, batch: &Packed) -> Active {
        let leaf = |t: &Tensor| t.detach().set_requires_grad(true);
        let parts = self.layer(layer).into_iter().map(|adapter| {
            let (slot, first, rows, _) = place(&self.model, adapter.projection);
            let adapter = Adapter {
                projection: adapter.projection,
                a: leaf(&adapter.a),
                b: leaf(&adapter.b),
                magnitude: adapter.magnitude.as_ref().map(leaf),
            };
            ActiveAdapter { slot, first, rows, adapter }
        });
        let dropout = dropout.map(|d| {
            let lengths = batch.cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]);
            (d.of(layer as u64), lengths.zip(batch.names.iter().copied()).collect())
        });
        Active { parts: parts.collect(), scale: self.spec.scale(), dropout }
    }
}

/// Returns the Euclidean norm of each row.
fn lengths(matrix: &Tensor) -> Tensor {
    matrix.norm_scalaropt_dim(2, [1], false)
}

/// Dropout of the adapters' inputs. The mask is a function of the seed, the layer, the projection, the name of the sequence, and
/// the position in the sequence. Recomputing a layer therefore drops the same elements, and so does a different packing.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability with which an element is dropped.
    pub probability: f64,
    /// Seed of the mask, different for each update.
    pub seed: u64,
}

/// Length and name of each segment of a batch.
type Segments = Vec<(i64, u64)>;

impl Dropout {
    fn of(self, what: u64) -> Self {
        // An odd multiplier spreads neighboring values; the kernel mixes the bits.
        Self { seed: self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(what + 1), ..self }
    }

    fn apply(self, x: &Tensor, segments: &Segments) -> Result<Tensor, LmError> {
        let width = x.size()[1];
        let of = |(length, name): &(i64, u64)| {
            torch_ext::dropout_mask(&[*length, width], self.probability, self.of(*name).seed)
        };
        let masks = segments.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        Ok(x * Tensor::cat(&masks, 0).to_device_(x.device(), Kind::Float, true, false))
    }
}

struct ActiveAdapter {
    slot: Slot,
    first: i64,
    rows: i64,
    adapter: Adapter,
}

/// Adapters of one layer in a forward pass.
pub(crate) struct Active {
    parts: Vec<ActiveAdapter>,
    scale: f64,
    dropout: Option<(Dropout, Segments)>,
}

impl Active {
    /// Returns the leaves that need gradients, in the order of the flat buffer.
    pub fn leaves(&self) -> impl Iterator<Item = &Tensor> {
        self.parts.iter().flat_map(|part| part.adapter.all())
    }

    /// Returns whether a product has adapters.
    pub fn adapts(&self, slot: Slot) -> bool {
        self.parts.iter().any(|part| part.slot == slot)
    }

    /// Adds the slot's updates to `y` = x · wᵀ + bias, and returns the sum: [tokens, rows of w].
    pub fn adapted(
        &self,
        slot: Slot,
        x: &Tensor,
        y: Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor, LmError> {
        let mut parts = self.parts.iter().filter(|part| part.slot == slot).peekable();
        if parts.peek().is_none() {
            return Ok(y);
        }
        let (wide, total) = (x.to_kind(Kind::Float), y.size()[1]);
        let (mut columns, mut end) = (Vec::new(), 0);
        let none = |count: i64| Tensor::zeros([x.size()[0], count], (Kind::Float, x.device()));
        for part in parts {
            if part.first > end {
                columns.push(none(part.first - end));
            }
            columns.push(self.update(part, &wide, &y, w, bias)?);
            end = part.first + part.rows;
        }
        if total > end {
            columns.push(none(total - end));
        }
        let update = if columns.len() == 1 { columns.remove(0) } else { Tensor::cat(&columns, 1) };
        Ok((&y + update).to_kind(y.kind()))
    }

    /// Returns the term that one adapter adds to its columns of `y`, [tokens, rows], fp32.
    fn update(
        &self,
        part: &ActiveAdapter,
        x: &Tensor,
        y: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor, LmError> {
        let Adapter { projection, a, b, magnitude } = &part.adapter;
        let dropped = match &self.dropout {
            Some((dropout, segments)) => &dropout.of(*projection as u64).apply(x, segments)?,
            None => x,
        };
        let low = torch_ext::linear(&torch_ext::linear(dropped, a, None)?, b, None)? * self.scale;
        let Some(magnitude) = magnitude else { return Ok(low) };
        let rows = |t: &Tensor| t.narrow(0, part.first, part.rows);
        let length = tch::no_grad(|| lengths(&(rows(w).to_kind(Kind::Float) + b.matmul(a) * self.scale)));
        let base = match (&self.dropout, bias) {
            // As in PEFT: with dropout, the weights read the same masked input as the adapter.
            (Some(_), _) => torch_ext::linear(&dropped.to_kind(w.kind()), &rows(w), None)?,
            (None, Some(bias)) => y.narrow(1, part.first, part.rows) - rows(bias),
            (None, None) => y.narrow(1, part.first, part.rows),
        };
        let longer = (magnitude / length).unsqueeze(0);
        Ok((&longer - 1.0) * base.to_kind(Kind::Float) + longer * low)
    }
}
