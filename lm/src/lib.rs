//! The language model on libtorch.
//!
//! One decoder implements all families; a family is data ([`spec`]). Parameters are views into one flat buffer, and gradients
//! are views into another buffer of the same layout ([`params`]). Batches are packed, never padded ([`batch`]). The backward
//! pass is explicit, layer by layer ([`decoder`]), and the logits of a whole batch are never materialized ([`head`]). Low-rank
//! adapters can be added to the weights, and trained in their place ([`lora`], [`lora_files`]). A model folder carries the wording
//! that the model was trained on ([`model_prompts`]). A sharded model unshards each
//! param unit only while it is used ([`sharded_storage`]). [`pretrained`] finds, loads and initializes models, on the device
//! that [`mod@device`] selects.
//!
//! Reading order: spec → rope → params → sharded_storage → lora → batch → layer → decoder → head → sampling → engine →
//! generate → local → device → pretrained.

pub mod batch;
pub mod checkpoint;
pub mod decoder;
pub mod device;
pub mod engine;
pub mod error;
pub mod family;
pub mod generate;
pub mod head;
mod layer;
pub mod local;
pub mod lora;
pub mod lora_files;
pub mod model_prompts;
mod offload;
mod packed;
pub mod params;
pub mod pretrained;
pub mod rope;
pub mod sampling;
pub mod sharded_storage;
pub mod spec;

pub use batch::{Branch, Packed, SharedPrefix};
pub use configs::model::Family;
pub use decoder::{ActivationCheckpointing, Decoder, Tape, Trained};
pub use error::LmError;
pub use family::Biases;
pub use local::LocalModel;
pub use lora::{AdapterSpec, Dropout, LoraAdapters};
pub use model_prompts::ModelPrompts;
pub use offload::Offloaded;
pub use params::Params;
pub use rope::Rope;
pub use sharded_storage::ShardedStorage;
pub use spec::ModelConfig;
