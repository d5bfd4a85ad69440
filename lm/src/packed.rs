//! Weight matrices in the layout of the CPU kernels: a copy that inference makes once and uses in many forward passes.

use torch_ext::PackedWeight;

use crate::params::LayerWeights;
use crate::{Decoder, LmError};

/// All matrices of a model except the embedding. The copy takes as many bytes as these matrices take in the model.
#[derive(Debug)]
pub(crate) struct PackedModel {
    pub layers: Vec<PackedMatrices>,
    /// [vocab, hidden]
    pub projection: PackedWeight,
}

/// Packed matrices of one layer ([`LayerWeights`]).
#[derive(Debug)]
pub(crate) struct PackedMatrices {
    pub qkv: PackedWeight,
    pub o: PackedWeight,
    pub gate_up: PackedWeight,
    pub down: PackedWeight,
}

impl PackedModel {
    /// Copies the matrices of a model whose parameters are all in local memory.
    pub fn new(model: &Decoder, layers: &[LayerWeights]) -> Result<Self, LmError> {
        let layer = |w: &LayerWeights| {
            Ok::<_, LmError>(PackedMatrices {
                qkv: PackedWeight::new(&w.qkv)?,
                o: PackedWeight::new(&w.o)?,
                gate_up: PackedWeight::new(&w.gate_up)?,
                down: PackedWeight::new(&w.down)?,
            })
        };
        let layers = layers.iter().map(layer).collect::<Result<_, _>>()?;
        let (_, projection) = model.params.unshard_head(None)?;
        let projection = PackedWeight::new(&projection)?;
        model.params.reshard_head()?;
        Ok(Self { layers, projection })
    }
}
