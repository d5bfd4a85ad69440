//! Memory in use, and estimates of the memory that fine-tuning needs. docs/training.md states the formulas.

use configs::lora::LoraConfig;
use configs::model::Dtype;
use configs::optimizer::StateDtype;
use configs::{ParallelConfig, Sharding};
use lm::ModelConfig;
use lm::lora::numbers_of;
use lm::params::{layout, units};

/// Memory of the program and its libraries before a model is loaded, bytes.
const PROGRAM: f64 = 0.14e9;
/// Widened copies of weights and of gradients that a matrix product may allocate, bytes (torch-ext: 8 Mi elements each).
const PIECES: f64 = 2.0 * 4.0 * (8 << 20) as f64;

/// Returns the peak memory of this process in bytes, as Linux reports it (VmHWM); `None` on other systems.
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Returns the peak memory of this process in GiB.
pub fn peak_gib() -> Option<f64> {
    Some(peak_bytes()? as f64 / f64::from(1 << 30))
}

/// Returns the peak memory of a GPU in GiB; `None` for the CPU.
pub fn device_peak_gib(device: tch::Device) -> Option<f64> {
    Some(torch_ext::device_peak_bytes(device)? as f64 / f64::from(1 << 30))
}

/// Returns the memory that the ranks of a device share, in bytes, and whether it is a GPU's: the memory of the GPU, or all
/// memory of the machine for the CPU. `None` if it cannot be determined.
pub fn room(device: configs::Device) -> Option<(f64, bool)> {
    if device != configs::Device::Cpu
        && let Some(mib) = first_number("nvidia-smi", &["--query-gpu=memory.total", "--format=csv,noheader,nounits"])
    {
        return Some((mib * 1024.0 * 1024.0, true));
    }
    let status = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib * 1024.0, false))
}

fn first_number(program: &str, arguments: &[&str]) -> Option<f64> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().next()?.trim().parse().ok()
}

/// Parameters of the memory estimate of a run.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The configuration of the model.
    pub spec: &'a ModelConfig,
    /// The dtype of the weights.
    pub dtype: Dtype,
    /// The dtype of gradients and moments.
    pub state: StateDtype,
    /// Whether a moving average of the weights is kept.
    pub ema: bool,
    /// Adapters that are trained instead of the weights.
    pub lora: Option<&'a LoraConfig>,
    /// `train.activation_checkpointing_every`.
    pub activation_checkpointing_every: usize,
    /// The number of tokens in the largest micro-batch.
    pub tokens: usize,
    /// Maximum number of trained tokens in a micro-batch.
    pub trained: usize,
    /// The ranks and their sharding.
    pub ranks: Ranks,
}

/// How many ranks shard a model, and what they shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// What is sharded.
    pub sharding: Sharding,
    /// The number of ranks in a shard group.
    pub shards: usize,
}

impl Ranks {
    /// Returns the sharding of `ranks` ranks under `config`.
    pub fn new(config: &ParallelConfig, ranks: usize) -> Self {
        let shards = if config.hsdp_shard_size == 0 { ranks } else { config.hsdp_shard_size.min(ranks) };
        Self { sharding: config.sharding, shards }
    }

    fn share(self, least: Sharding) -> f64 {
        let shared = match least {
            Sharding::Full => self.sharding == Sharding::Full,
            _ => self.sharding != Sharding::Replicate,
        };
        if shared { self.shards as f64 } else { 1.0 }
    }
}

/// Estimated memory of a run, bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Weights, including adapters.
    pub weights: f64,
    /// Gradients.
    pub gradients: f64,
    /// Both moments, plus master weights and the moving average if enabled.
    pub optimizer: f64,
    /// Activations that the layers keep for the backward pass.
    pub activations: f64,
    /// Peak of temporaries: the logits of a chunk, the backward pass of one layer, and unsharded param units.
    pub passing: f64,
    /// The unsharded weights during generation; 0 if the weights are not sharded.
    pub whole: f64,
}

impl Estimate {
    /// Returns the memory while the model loads.
    pub fn loading(&self) -> f64 {
        PROGRAM + self.weights
    }

    /// Returns the memory during a forward and backward pass.
    pub fn passes(&self) -> f64 {
        PROGRAM + self.weights + self.gradients + self.optimizer + self.activations + self.passing
    }

    /// Returns the memory during an update, between micro-batches.
    pub fn update(&self) -> f64 {
        PROGRAM + self.weights + self.gradients + self.optimizer
    }
}

/// Estimates the memory of a fine-tuning run.
pub fn estimate(needs: &Needs<'_>) -> Estimate {
    let spec = needs.spec;
    let width = match needs.dtype {
        Dtype::Fp32 => 4.0,
        Dtype::Bf16 | Dtype::Fp16 => 2.0,
    };
    let state = if needs.state == StateDtype::Fp32 { 4.0 } else { width };
    let parameters: f64 = layout(spec).iter().map(|entry| entry.numel() as f64).sum();
    let ema = if needs.ema { 4.0 } else { 0.0 };
    let (weights, gradients, optimizer) = match needs.lora {
        None => {
            let master = if state > width { state } else { 0.0 };
            (parameters * width, parameters * state, parameters * (2.0 * state + master + ema))
        }
        Some(lora) => {
            let trained = numbers_of(spec, lora.rank as i64, lora.dora, &lora.targets) as f64;
            (parameters * width + trained * 4.0, trained * 4.0, trained * (8.0 + ema))
        }
    };
    let adapters = needs.lora.is_some();
    let of_weights = needs.ranks.share(Sharding::Full);
    let of_state = if adapters { 1.0 } else { needs.ranks.share(Sharding::Optimizer) };
    let beside = if adapters { weights - parameters * width } else { 0.0 };
    let whole = if of_weights > 1.0 { parameters * width } else { 0.0 };
    // The three largest param units: those of the current layer and its neighbor, and an embedding that stays unsharded.
    let mut parts: Vec<f64> = units(&layout(spec)).iter().map(|part| part.numel as f64).collect();
    parts.sort_by(|a, b| b.total_cmp(a));
    let three: f64 = parts.iter().take(3).sum();
    let here = if of_weights > 1.0 { three * width } else { 0.0 } + if of_state > 1.0 { three * state } else { 0.0 };
    let weights = parameters * width / of_weights + beside;
    let (gradients, optimizer) = (gradients / of_state, optimizer / of_state);
    let tokens = needs.tokens as f64;
    let (hidden, inner) = (spec.hidden_size as f64, spec.intermediate_size as f64);
    let again = match needs.activation_checkpointing_every {
        0 => 0,
        k => spec.num_hidden_layers.div_ceil(k),
    };
    let kept = (spec.num_hidden_layers - again) as f64;
    let one_layer = tokens * layer_bytes(needs, width);
    let activations = kept * one_layer + again as f64 * tokens * hidden * width;
    // A recomputed layer has its graph in memory during its backward pass.
    let rerun = if again > 0 { one_layer } else { 0.0 };
    let rows = (lm::head::CHUNK_ELEMENTS as f64 / spec.vocab_size as f64).max(1.0).min(needs.trained as f64);
    let head = rows * spec.vocab_size as f64 * 4.0 + 3.0 * tokens * hidden * width;
    // Gradients of the MLP's intermediate elements, in fp32 where bf16 is widened, and of the residual stream.
    let backward = tokens * (6.0 * inner * 4.0 + 4.0 * hidden * width);
    let pieces = if needs.dtype == Dtype::Fp32 { 0.0 } else { PIECES };
    let passing = rerun + head.max(backward) + pieces + here;
    Estimate { weights, gradients, optimizer, activations, passing, whole }
}

/// Returns the bytes per token that a layer keeps for the backward pass.
fn layer_bytes(needs: &Needs<'_>, width: f64) -> f64 {
    let spec = needs.spec;
    let (hidden, inner) = (spec.hidden_size as f64, spec.intermediate_size as f64);
    let queries = (spec.num_attention_heads * spec.head_dim) as f64;
    let all = queries + (2 * spec.num_key_value_heads * spec.head_dim) as f64;
    // Residual stream before and after attention, queries, keys, values, attention output, gate and up.
    let always = 2.0 * hidden + all + queries + 2.0 * inner + if lm::family::qk_norm(spec.family) { all } else { 0.0 };
    // Inputs of the matrix products, which only the gradients of the weights (or adapters) need: the outputs of two norms. The
    // gated activations are recomputed unless an adapter reads them.
    let of_heads = 4.0 * 2.0 * spec.num_attention_heads as f64;
    let Some(lora) = needs.lora else { return (always + 2.0 * hidden) * width + of_heads };
    let gated = if lora.targets.contains(&configs::Projection::DownProj) { inner } else { 0.0 };
    let inputs = 2.0 * hidden + gated;
    // Inputs in fp32 for the adapters; with dropout also a mask and a product for each of them.
    let wide = if width < 4.0 { 4.0 * (inputs + queries) } else { 4.0 * inputs };
    let per_target = |p: &configs::Projection| lm::lora::columns_of(spec, *p) as f64;
    let masks = if lora.dropout > 0.0 { 8.0 * lora.targets.iter().map(per_target).sum::<f64>() } else { 0.0 };
    let products = if lora.dora { 12.0 * (all + 2.0 * inner + 2.0 * hidden) } else { 0.0 };
    always * width + of_heads + wide + masks + products
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    /// The table of docs/scaling.md: Qwen3-8B in bf16 with fp32 state, GB per rank.
    #[test]
    fn each_sharding_divides_what_it_says() {
        let config = serde_json::json!({
            "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288,
            "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": false,
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let spec = ModelConfig::load(folder.path()).unwrap();
        let needs = |state, sharding, shards| Needs {
            spec: &spec,
            dtype: Dtype::Bf16,
            state,
            ema: false,
            lora: None,
            activation_checkpointing_every: 1,
            tokens: 16384,
            trained: 16384,
            ranks: Ranks { sharding, shards },
        };
        let held = |sharding, shards| {
            let e = estimate(&needs(StateDtype::Fp32, sharding, shards));
            ((e.weights + e.gradients + e.optimizer) / 1e9, e.whole / 1e9)
        };
        let near = |(held, whole): (f64, f64), expected: (f64, f64)| {
            assert_within!(held - expected.0, 0.5, "{held} {whole}");
            assert_within!(whole - expected.1, 0.5, "{held} {whole}");
        };
        near(held(Sharding::Replicate, 8), (147.4, 0.0));
        near(held(Sharding::Optimizer, 8), (32.8, 0.0));
        near(held(Sharding::Optimizer, 64), (18.4, 0.0));
        near(held(Sharding::Full, 8), (18.4, 16.4));
        near(held(Sharding::Full, 64), (2.3, 16.4));
        // One 80 GB GPU: 65.5 GB of weights, gradients and moments in bf16, and 4.8 GB of layer inputs.
        let alone = estimate(&needs(StateDtype::Model, Sharding::Replicate, 1));
        let most = alone.passes().max(alone.update()) / 1e9;
        assert!((70.5..80.0).contains(&most), "{most} GB");
    }
}
