//! The matrices of a model as the CPU's kernels read them: a copy that inference makes once for many passes.

use torch_ext::PackedWeight;

use crate::params::LayerWeights;
use crate::{Decoder, LmError};

/// All matrices of a model but the embedding; as many bytes as these take in the model.
#[derive(Debug)]
pub(crate) struct PackedModel {
    pub layers: Vec<PackedMatrices>,
    /// [vocab, hidden]
    pub projection: PackedWeight,
}

/// The matrices of a layer ([`LayerWeights`]).
#[derive(Debug)]
pub(crate) struct PackedMatrices {
    pub qkv: PackedWeight,
    pub o: PackedWeight,
    pub gate_up: PackedWeight,
    pub down: PackedWeight,
}

impl PackedModel {
    /// Copies the matrices of a model that is whole here.
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
        let (_, projection) = model.params.gather_head(None)?;
        let projection = PackedWeight::new(&projection)?;
        model.params.release_head()?;
        Ok(Self { layers, projection })
    }
}
