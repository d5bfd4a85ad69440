//! The frozen reference policy, which only exists where a KL term needs it.

use configs::rl::RlConfig;
use lm::{Decoder, Packed};
use tch::Tensor;

use crate::trainee::Trainee;
use crate::{TrainError, start};

/// What the policy is kept near.
#[derive(Debug)]
pub enum Reference {
    /// A model of its own.
    Frozen(Box<Decoder>),
    /// The weights under the policy's adapters: no memory beyond the policy's.
    UnderAdapters,
}

impl Reference {
    /// The reference that the configuration asks for; `trainee` must be as it is at the run's start.
    ///
    /// # Errors
    /// If it cannot be loaded, or is of another vocabulary.
    pub fn new(trainee: &Trainee, config: &RlConfig) -> Result<Option<Self>, TrainError> {
        let kl = &config.algorithm.kl;
        if !config.algorithm.needs_reference() {
            return Ok(None);
        }
        if !kl.reference.is_empty() {
            let source = configs::ModelSource { path: kl.reference.clone(), ..config.model.clone() };
            let decoder = start::load_in_team(&source, &trainee.team)?.decoder;
            let (own, of_policy) = (decoder.spec().vocab_size, trainee.model.decoder.spec().vocab_size);
            if own != of_policy {
                return Err(TrainError::Data(format!(
                    "algorithm.kl.reference = {}: its vocabulary has {own} tokens, the policy's {of_policy}; take a model \
                     with the policy's tokenizer",
                    kl.reference
                )));
            }
            return Ok(Some(Self::Frozen(Box::new(decoder))));
        }
        let new_adapters = config.lora.as_ref().is_some_and(|lora| lora.start.as_os_str().is_empty());
        if new_adapters {
            return Ok(Some(Self::UnderAdapters));
        }
        Ok(Some(Self::Frozen(Box::new(trainee.frozen()?))))
    }

    /// The model whose head the hidden states go to, beside the policy's own.
    pub fn decoder<'a>(&'a self, trainee: &'a Trainee) -> &'a Decoder {
        match self {
            Self::Frozen(decoder) => decoder,
            Self::UnderAdapters => &trainee.model.decoder,
        }
    }

    /// Hidden states of a packed batch.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn forward(&self, trainee: &Trainee, packed: &Packed) -> Result<Tensor, lm::LmError> {
        self.decoder(trainee).forward(packed)
    }
}
