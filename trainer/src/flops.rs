//! Floating-point operations of training, and the peak throughput of a device. Model FLOP utilization (MFU; Chowdhery et al.
//! 2022, appendix B) is FLOPs per second divided by that peak. docs/training.md states the formula.

use std::time::Instant;

use lm::ModelConfig;
use tch::{Device, Kind, Tensor};

/// The work of a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct ComputeWork {
    /// The number of tokens that pass through the layers.
    pub tokens: usize,
    /// The number of tokens whose logits are computed.
    pub trained: usize,
    /// The sum of the squared sequence lengths.
    pub squares: u128,
    /// Whether gradients of the weights are computed; false with adapters.
    pub trains_weights: bool,
}

/// Returns the FLOPs of the model. Per weight and token: 2 in the forward pass, 2 for the gradient of the input, 2 for the
/// gradient of the weight. Attention is causal, so it counts half of each squared length. Recomputation and adapters do not
/// count.
pub fn of(spec: &ModelConfig, work: ComputeWork) -> f64 {
    let passes = if work.trains_weights { 3.0 } else { 2.0 };
    let (layers, hidden) = (spec.num_hidden_layers as f64, spec.hidden_size as f64);
    let heads = (spec.num_attention_heads * spec.head_dim) as f64;
    let kv = (2 * spec.num_key_value_heads * spec.head_dim) as f64;
    let matrices = layers * hidden * (2.0 * heads + kv + 3.0 * spec.intermediate_size as f64);
    let head = hidden * spec.vocab_size as f64;
    // Scores and weighted values: once in the forward pass and twice in the backward pass, whatever is trained.
    let attention = 3.0 * 2.0 * 2.0 * layers * heads * work.squares as f64 / 2.0;
    passes * 2.0 * (matrices * work.tokens as f64 + head * work.trained as f64) + attention
}

/// Returns the peak of a device in `kind`, FLOP/s. For a known GPU this is the vendor's dense figure. For a CPU it is the
/// measured throughput of a large matrix product, in the faster of `kind` and fp32. `None` for an unknown GPU.
pub fn peak(device: Device, kind: Kind) -> Option<f64> {
    match device {
        Device::Cpu => Some(measured(kind).max(if kind == Kind::Float { 0.0 } else { measured(Kind::Float) })),
        Device::Cuda(ordinal) => {
            let bf16 = 1e12 * known_gpu(&torch_ext::gpu_name(ordinal)?)?;
            // On these GPUs fp32 training uses TF32 tensor cores, at half the rate of bf16, so fp32 is measured against TF32.
            Some(bf16 * if kind == Kind::Float { 0.5 } else { 1.0 })
        }
        _ => None,
    }
}

/// Substrings of the device names that the driver reports (the first match counts), with dense bf16 TFLOP/s (NVIDIA data
/// sheets).
const GPUS: &[(&str, f64)] = &[
    ("H200 NVL", 835.5),
    ("H200", 989.5),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.5),
    ("H100", 989.5),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("RTX 4090", 165.2),
    ("B200", 2250.0),
];

fn known_gpu(name: &str) -> Option<f64> {
    GPUS.iter().find(|(known, _)| name.contains(known)).map(|&(_, teraflops)| teraflops)
}

/// Returns the best of five 1536³ products, FLOP/s. Falls back to 256³ where the larger size would take seconds, as in bf16 on
/// CPUs without bf16 instructions.
fn measured(kind: Kind) -> f64 {
    const SIZES: [i64; 2] = [256, 1536];
    let best = |size: i64| {
        let one = || Tensor::ones([size, size], (kind, Device::Cpu));
        let (a, b) = (one(), one());
        let seconds = (0..5).map(|_| {
            let begin = Instant::now();
            let _ = a.matmul(&b);
            begin.elapsed().as_secs_f64()
        });
        2.0 * (size as f64).powi(3) / seconds.fold(f64::INFINITY, f64::min)
    };
    let small = best(SIZES[0]);
    if 2.0 * (SIZES[1] as f64).powi(3) / small > 0.5 { small } else { best(SIZES[1]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_known_by_its_name() {
        for (name, expected) in [
            ("NVIDIA H200", Some(989.5)),
            ("NVIDIA H200 NVL", Some(835.5)),
            ("NVIDIA H100 80GB HBM3", Some(989.5)),
            ("NVIDIA H100 PCIe", Some(756.0)),
            ("NVIDIA A100-SXM4-80GB", Some(312.0)),
            ("NVIDIA GeForce RTX 4090", Some(165.2)),
            ("NVIDIA GeForce GTX 1060", None),
        ] {
            assert_eq!(known_gpu(name), expected, "{name}");
        }
    }

    /// Worked by hand for one layer: hidden size 4, two query heads and one key head of dimension 2, MLP 8, vocabulary 10.
    #[test]
    fn flops_as_worked_by_hand() {
        let spec = ModelConfig {
            family: lm::Family::Qwen3,
            vocab_size: 10,
            hidden_size: 4,
            intermediate_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 2,
            max_position_embeddings: 64,
            rope: lm::Rope::new(1e4),
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            biases: lm::Biases::default(),
            window: None,
            source: serde_json::Map::new(),
        };
        // q 4·4, k and v 2·4 each, o 4·4, MLP 3·4·8: 144 weights; head 40.
        let work = ComputeWork { tokens: 7, trained: 3, squares: 25, trains_weights: true };
        // 12 FLOPs for each of the 4 elements of the query heads and each of 25/2 pairs.
        assert_eq!(of(&spec, work), 6.0 * (144.0 * 7.0 + 40.0 * 3.0) + 12.0 * 4.0 * 12.5);
        let adapters = ComputeWork { trains_weights: false, ..work };
        assert_eq!(of(&spec, adapters), 4.0 * (144.0 * 7.0 + 40.0 * 3.0) + 12.0 * 4.0 * 12.5);
    }
}
