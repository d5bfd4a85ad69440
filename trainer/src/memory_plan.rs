//! Memory plans of whole runs, from their configurations and the shapes of their models. No weights are loaded.

use configs::judge::{JudgeConfig, JudgePlacement};
use configs::lora::LoraConfig;
use configs::model::Dtype;
use configs::optimizer::OptimizerConfig;
use configs::{RlConfig, SftConfig};
use lm::ModelConfig;
use lm::params::{ParamEntry, layout};
use lm::pretrained;

use crate::TrainError;
use crate::memory::{Estimate, Needs, Ranks, estimate};

const GIB: f64 = (1 << 30) as f64;

/// Memory of a fine-tuning run on each of its ranks, bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SftMemory {
    /// The trained model.
    pub model: Estimate,
    /// While summaries are generated and judged for the validation; `None` without such a validation. The weights of the judge
    /// are not included.
    pub validation: Option<f64>,
}

/// Returns the memory of a fine-tuning run on `ranks` ranks. `tokens` is the number of tokens in the largest micro-batch, and
/// `trained` the maximum number of trained tokens in a micro-batch.
pub fn sft(config: &SftConfig, spec: &ModelConfig, (tokens, trained): (usize, usize), ranks: usize) -> SftMemory {
    let settings = (config.model.dtype, &config.optimizer, config.lora.as_ref());
    let ranks = Ranks::new(&config.parallel, ranks);
    let model = trained_model(spec, settings, config.train.activation_checkpointing_every, (tokens, trained), ranks);
    let validation = config.validation.summaries.as_ref().map(|summaries| {
        model.update() + merged(&model, config.lora.is_some()) + summaries.judge.model.kv_cache_gib * GIB
    });
    SftMemory { model, validation }
}

/// Memory of a GRPO run on each of its ranks, bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GrpoMemory {
    /// The policy.
    pub policy: Estimate,
    /// The frozen reference; 0 if it is not a separate model.
    pub reference: f64,
    /// The unsharded or merged weights that generate.
    pub generating: f64,
    /// The key/value cache of the policy.
    pub cache: f64,
    /// What the judges occupy permanently.
    pub judge: f64,
}

impl GrpoMemory {
    /// Returns the memory during a rollout, without the judge.
    pub fn rollout(&self) -> f64 {
        self.policy.update() + self.reference + self.generating + self.cache
    }

    /// Returns the memory during an update, without the judge.
    pub fn update(&self) -> f64 {
        self.policy.passes() + self.reference
    }

    /// Returns the peak memory.
    pub fn peak(&self) -> f64 {
        self.rollout().max(self.update()) + self.judge
    }
}

/// Returns the memory of a GRPO run on `ranks` ranks, with `judges` on the policy's device.
pub fn grpo(
    config: &RlConfig,
    spec: &ModelConfig,
    judges: impl IntoIterator<Item = JudgeMemory>,
    ranks: usize,
) -> GrpoMemory {
    let row = config.rollout.max_prompt_tokens + config.rollout.max_new_tokens;
    let tokens = config.algorithm.micro_batch_tokens.max(row);
    let settings = (config.model.dtype, &config.optimizer, config.lora.as_ref());
    let ranks = Ranks::new(&config.parallel, ranks);
    let policy = trained_model(spec, settings, config.train.activation_checkpointing_every, (tokens, tokens), ranks);
    // The reference is as large as the policy, if it is a separate model.
    let new_adapters = config.lora.as_ref().is_some_and(|lora| lora.start.as_os_str().is_empty());
    let under_adapters = new_adapters && config.algorithm.kl.reference.is_empty();
    GrpoMemory {
        policy,
        reference: if config.algorithm.needs_reference() && !under_adapters { policy.weights } else { 0.0 },
        generating: merged(&policy, config.lora.is_some()),
        cache: config.model.kv_cache_gib * GIB,
        judge: judges.into_iter().filter(|judge| judge.resident).map(|judge| judge.weights + judge.cache).sum(),
    }
}

/// Memory of a judge in this process, bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JudgeMemory {
    /// The weights.
    pub weights: f64,
    /// The maximum size of its key/value cache.
    pub cache: f64,
    /// Whether it stays on the device. Otherwise it is in the host's memory except while it judges.
    pub resident: bool,
}

/// Returns the memory of a judge in this process.
///
/// # Errors
/// If its config.json cannot be read.
pub fn judge(config: &JudgeConfig) -> Result<JudgeMemory, TrainError> {
    let spec = ModelConfig::load(&pretrained::description(&config.model.path)?)?;
    let parameters = layout(&spec).iter().map(ParamEntry::numel).sum::<i64>() as f64;
    Ok(JudgeMemory {
        weights: parameters * if config.model.dtype == Dtype::Fp32 { 4.0 } else { 2.0 },
        cache: config.model.kv_cache_gib * GIB,
        resident: config.placement == JudgePlacement::Resident,
    })
}

/// Returns the size of the weights that generate beside those that are trained: unsharded weights, or adapters merged into a copy
/// of the base model.
fn merged(model: &Estimate, adapters: bool) -> f64 {
    model.whole.max(if adapters { model.weights } else { 0.0 })
}

/// Returns the memory of a trained model. `tokens` and `trained` are those of the largest micro-batch.
fn trained_model(
    spec: &ModelConfig,
    (dtype, optimizer, lora): (Dtype, &OptimizerConfig, Option<&LoraConfig>),
    activation_checkpointing_every: usize,
    (tokens, trained): (usize, usize),
    ranks: Ranks,
) -> Estimate {
    let (state, ema) = (optimizer.state, optimizer.ema_decay > 0.0);
    estimate(&Needs { spec, dtype, state, ema, lora, activation_checkpointing_every, tokens, trained, ranks })
}
