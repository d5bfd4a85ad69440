//! The language model on libtorch.
//!
//! One decoder for all families; a family is data ([`spec`]). Parameters are views into one flat buffer, gradients into
//! another of the same layout ([`params`]). Batches are packed, never padded ([`batch`]). The way back is explicit, layer
//! by layer ([`decoder`]), and logits never exist for a whole batch ([`head`]). Beside the weights, or in place of training
//! them, stand low-rank adapters ([`adapter`], [`adapter_files`]). Where several processes hold a model together, its parts
//! come together only while they are used ([`spread`]).
//!
//! Reading order: spec → rope → params → spread → adapter → batch → layer → decoder → head → sampling → engine → generate → local.

pub mod adapter;
pub mod adapter_files;
pub mod batch;
pub mod checkpoint;
pub mod decoder;
pub mod engine;
pub mod error;
pub mod generate;
pub mod head;
mod layer;
pub mod local;
mod offload;
mod packed;
pub mod params;
pub mod rope;
pub mod sampling;
pub mod spec;
pub mod spread;

pub use adapter::{AdapterSpec, Adapters, Dropout};
pub use batch::{Branch, Packed, SharedPrefix};
pub use decoder::{Decoder, Recompute, Tape, Trained};
pub use error::LmError;
pub use local::LocalModel;
pub use offload::Offloaded;
pub use params::Params;
pub use rope::Rope;
pub use spec::{Biases, Family, ModelSpec};
pub use spread::Spread;
