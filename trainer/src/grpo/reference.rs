//! The frozen reference policy, which exists only if a KL term needs it.

use configs::rl::RlConfig;
use lm::{Decoder, Packed};
use tch::Tensor;

use crate::trainable_model::TrainableModel;
use crate::{TrainError, start};

/// The reference of the KL term.
#[derive(Debug)]
pub enum Reference {
    /// A separate model.
    Frozen(Box<Decoder>),
    /// The weights without the policy's adapters, which need no memory beyond the policy's.
    UnderAdapters,
}

impl Reference {
    /// Returns the reference that the configuration asks for; `trainable` must be in its state at the start of the run.
    ///
    /// # Errors
    /// If the reference cannot be loaded, or has another vocabulary.
    pub fn new(trainable: &TrainableModel, config: &RlConfig) -> Result<Option<Self>, TrainError> {
        let kl = &config.algorithm.kl;
        if !config.algorithm.needs_reference() {
            return Ok(None);
        }
        if !kl.reference.is_empty() {
            let source = configs::ModelSource { path: kl.reference.clone(), ..config.model.clone() };
            let decoder = start::load_on_ranks(&source, &trainable.context)?.decoder;
            let (own, of_policy) = (decoder.spec().vocab_size, trainable.model.decoder.spec().vocab_size);
            if own != of_policy {
                return Err(TrainError::Data(format!(
                    "algorithm.kl.reference = {}: its vocabulary has {own} tokens, but the policy's has {of_policy}; \
                     use a model with the policy's tokenizer",
                    kl.reference
                )));
            }
            return Ok(Some(Self::Frozen(Box::new(decoder))));
        }
        let new_adapters = config.lora.as_ref().is_some_and(|lora| lora.start.as_os_str().is_empty());
        if new_adapters {
            return Ok(Some(Self::UnderAdapters));
        }
        Ok(Some(Self::Frozen(Box::new(trainable.frozen()?))))
    }

    /// Returns the model whose head computes logits from the hidden states; with adapters this is the policy's.
    pub fn decoder<'a>(&'a self, trainable: &'a TrainableModel) -> &'a Decoder {
        match self {
            Self::Frozen(decoder) => decoder,
            Self::UnderAdapters => &trainable.model.decoder,
        }
    }

    /// Returns the hidden states of a packed batch.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn forward(&self, trainable: &TrainableModel, packed: &Packed) -> Result<Tensor, lm::LmError> {
        self.decoder(trainable).forward(packed)
    }
}
