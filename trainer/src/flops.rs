//! Floating-point operations of training, and what a device can do at best. Model FLOP utilisation (MFU; Chowdhery et al.
//! 2022, appendix B) is the former per second over the latter. The formula stands in docs/training.md.

use std::time::Instant;

use lm::ModelSpec;
use tch::{Device, Kind, Tensor};

/// A step's work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Tokens that pass the layers.
    pub tokens: usize,
    /// Tokens whose logits are computed.
    pub trained: usize,
    /// Sum of the squared sequence lengths.
    pub squares: u128,
    /// Whether gradients of the weights are computed; not with adapters.
    pub trains_weights: bool,
}

/// FLOPs of the model: 2 for each multiplication with a weight and each token on the way forward, 2 for its input's
/// gradient, 2 for its own; attention over half of each square, since it is causal. Recomputation does not count, nor do
/// adapters.
pub fn of(spec: &ModelSpec, work: Work) -> f64 {
    let passes = if work.trains_weights { 3.0 } else { 2.0 };
    let (layers, hidden) = (spec.num_hidden_layers as f64, spec.hidden_size as f64);
    let heads = (spec.num_attention_heads * spec.head_dim) as f64;
    let kv = (2 * spec.num_key_value_heads * spec.head_dim) as f64;
    let matrices = layers * hidden * (2.0 * heads + kv + 3.0 * spec.intermediate_size as f64);
    let head = hidden * spec.vocab_size as f64;
    // Scores and weighted values, forward once and backward twice, whatever is trained.
    let attention = 3.0 * 2.0 * 2.0 * layers * heads * work.squares as f64 / 2.0;
    passes * 2.0 * (matrices * work.tokens as f64 + head * work.trained as f64) + attention
}

/// The peak of a device in `kind`, FLOP/s: the maker's dense figure of a GPU that is known, on a CPU what a large product
/// reaches now, in the number format that is fastest there. `None` for a GPU that is not known.
pub fn peak(device: Device, kind: Kind) -> Option<f64> {
    match device {
        Device::Cpu => Some(measured(kind).max(if kind == Kind::Float { 0.0 } else { measured(Kind::Float) })),
        Device::Cuda(ordinal) => {
            let bf16 = 1e12 * known_gpu(&torch_ext::gpu_name(ordinal)?)?;
            // fp32 outside the tensor cores is not what anybody trains in on these; it counts against TF32, half of bf16.
            Some(bf16 * if kind == Kind::Float { 0.5 } else { 1.0 })
        }
        _ => None,
    }
}

/// Names as the driver gives them contain these (the first that fits counts); dense bf16 TFLOP/s (NVIDIA's data sheets).
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

/// The best of five products of 1536³; of 256³ where that would take seconds, as in bf16 on CPUs without instructions for it.
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

    /// Worked by hand for one layer: hidden 4, two query heads and one key head of 2, MLP 8, vocabulary 10.
    #[test]
    fn flops_as_worked_by_hand() {
        let spec = ModelSpec {
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
        let work = Work { tokens: 7, trained: 3, squares: 25, trains_weights: true };
        // 12 FLOPs for each of the 4 numbers of the query heads and each of 25/2 pairs.
        assert_eq!(of(&spec, work), 6.0 * (144.0 * 7.0 + 40.0 * 3.0) + 12.0 * 4.0 * 12.5);
        let adapters = Work { trains_weights: false, ..work };
        assert_eq!(of(&spec, adapters), 4.0 * (144.0 * 7.0 + 40.0 * 3.0) + 12.0 * 4.0 * 12.5);
    }
}
