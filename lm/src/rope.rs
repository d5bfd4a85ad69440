//! Rotary position embedding: how fast each pair of a head's channels turns, and what stretches it to longer contexts.
//!
//! Formulas and field names are those of transformers' `modeling_rope_utils`, in fp32 where it is in fp32: at position
//! 100,000 an angle has few digits left, and the models were trained with these.

use std::f64::consts::TAU;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value as Json, json};
use tch::{Device, Kind, Tensor};

/// How frequencies are changed so that a model reads further than it was pre-trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All frequencies divided by `factor` (position interpolation).
    Linear {
        /// How much further the model reads.
        factor: f64,
    },
    /// A base that grows with the sequence once it is longer than `max_position_embeddings` (NTK-aware).
    Dynamic {
        /// How much further the model reads.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// How much further the model reads.
        factor: f64,
        /// Wavelengths above original / this are divided.
        low_freq_factor: f64,
        /// Wavelengths below original / this are kept.
        high_freq_factor: f64,
        /// Context of pre-training.
        original: f64,
    },
    /// Interpolation by parts, with cos and sin scaled (YaRN, arXiv 2309.00071).
    Yarn {
        /// How much further the model reads.
        factor: f64,
        /// Context of pre-training.
        original: f64,
        /// Channels that turn more often than this over the original context are kept.
        beta_fast: f64,
        /// Channels that turn less often than this are divided.
        beta_slow: f64,
        /// What cos and sin are multiplied by.
        attention_factor: f64,
        /// Whether the ramp's ends are rounded to whole channels.
        truncate: bool,
    },
}

/// A model's rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Stretching.
    pub scaling: Scaling,
    /// The object as config.json has it, kept so that a saved model says the same.
    source: Map<String, Json>,
}

impl Rope {
    /// The embedding without stretching.
    pub fn new(theta: f64) -> Self {
        let source = Map::from_iter([("rope_type".into(), json!("default")), ("rope_theta".into(), json!(theta))]);
        Self { theta, scaling: Scaling::None, source }
    }

    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before) of config.json.
    ///
    /// # Errors
    /// Naming the field that is missing, or the kind that is not known.
    pub fn from_config(config: &Json) -> Result<Self, String> {
        let place = ["rope_parameters", "rope_scaling"].into_iter().find(|key| config[*key].is_object());
        let mut source = place.and_then(|key| config[key].as_object()).cloned().unwrap_or_default();
        let place = place.unwrap_or("rope_parameters");
        let theta = match (source.get("rope_theta"), &config["rope_theta"]) {
            (Some(theta), _) => {
                theta.as_f64().ok_or_else(|| format!("field `{place}.rope_theta`: expected a number"))?
            }
            (None, Json::Null) => 10_000.0,
            (None, theta) => theta.as_f64().ok_or("field `rope_theta`: expected a number")?,
        };
        source.insert("rope_theta".into(), json!(theta));
        let kind = ["rope_type", "type"].iter().find_map(|key| source.get(*key)).and_then(Json::as_str);
        let kind = kind.unwrap_or("default").to_owned();
        source.insert("rope_type".into(), json!(kind));
        let optional = |key: &str| match source.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(format!("field `{place}.{key}`: expected a number")),
            },
        };
        let required = |key: &str| {
            optional(key)?.ok_or_else(|| format!("field `{place}.{key}`: `{kind}` scaling needs this number"))
        };
        let whole = config["max_position_embeddings"].as_f64().unwrap_or(0.0);
        let original = || Ok::<_, String>(optional("original_max_position_embeddings")?.unwrap_or(whole));
        let partial = optional("partial_rotary_factor")?.or(config["partial_rotary_factor"].as_f64());
        if partial.is_some_and(|share| share != 1.0) {
            return Err("field `partial_rotary_factor`: only 1 (all channels turn) is supported".into());
        }
        let scaling = match kind.as_str() {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: required("factor")? },
            "dynamic" => Scaling::Dynamic { factor: required("factor")? },
            "llama3" => Scaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original: original()?,
            },
            "yarn" => {
                let original = original()?;
                let factor = optional("factor")?.unwrap_or(whole / original);
                Scaling::Yarn {
                    factor,
                    original,
                    beta_fast: optional("beta_fast")?.filter(|b| *b != 0.0).unwrap_or(32.0),
                    beta_slow: optional("beta_slow")?.filter(|b| *b != 0.0).unwrap_or(1.0),
                    attention_factor: match optional("attention_factor")? {
                        Some(given) => given,
                        None => yarn_attention_factor(factor, optional("mscale")?, optional("mscale_all_dim")?),
                    },
                    truncate: source.get("truncate").and_then(Json::as_bool).unwrap_or(true),
                }
            }
            other => {
                return Err(format!(
                    "field `{place}.rope_type` is `{other}`; supported: default, linear, dynamic, llama3, yarn"
                ));
            }
        };
        Ok(Self { theta, scaling, source })
    }

    /// The object for config.json.
    pub fn to_json(&self) -> Json {
        Json::Object(self.source.clone())
    }

    /// Longest sequence, given config.json's `max_position_embeddings`.
    pub fn context(&self, max_positions: usize) -> usize {
        let stretched = |from: f64, factor: f64| (from * factor) as usize;
        match self.scaling {
            Scaling::None | Scaling::Llama3 { .. } => max_positions,
            Scaling::Linear { factor } | Scaling::Dynamic { factor } => stretched(max_positions as f64, factor),
            Scaling::Yarn { factor, original, .. } => stretched(original, factor).max(max_positions),
        }
    }

    /// Whether a token's rotation depends on the length of its sequence, not on its position alone. Sequences then cannot
    /// share the keys of a common beginning, unless all are within config.json's `max_position_embeddings`.
    pub fn varies_with_length(&self) -> bool {
        matches!(self.scaling, Scaling::Dynamic { .. })
    }

    /// Radians a position, [head_dim/2], for a sequence of `length` tokens (which only dynamic scaling asks for).
    pub fn frequencies(&self, head_dim: i64, max_positions: usize, length: usize) -> Vec<f32> {
        let dim = head_dim as f64;
        let invert = |powers: Vec<f32>| powers.into_iter().map(|p| 1.0 / p);
        match self.scaling {
            Scaling::None => invert(powers(self.theta, head_dim)).collect(),
            Scaling::Linear { factor } => invert(powers(self.theta, head_dim)).map(|f| f / factor as f32).collect(),
            Scaling::Dynamic { factor } => {
                let reach = length.max(max_positions) as f64 / max_positions as f64;
                let theta = self.theta * (factor * reach - (factor - 1.0)).powf(dim / (dim - 2.0));
                invert(powers(theta, head_dim)).collect()
            }
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let [factor, low, high, original] =
                    [factor, low_freq_factor, high_freq_factor, original].map(|x| x as f32);
                let stretch = |f: f32| {
                    let wavelength = TAU as f32 / f;
                    if wavelength < original / high {
                        f
                    } else if wavelength > original / low {
                        f / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                invert(powers(self.theta, head_dim)).map(stretch).collect()
            }
            Scaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                // The channel that turns so often over the original context.
                let channel = |turns: f64| dim * (original / (turns * TAU)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (channel(beta_fast), channel(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let mix = |(i, p): (usize, f32)| {
                    let divided = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let kept = 1.0 - divided;
                    (1.0 / (factor as f32 * p)) * (1.0 - kept) + (1.0 / p) * kept
                };
                powers(self.theta, head_dim).into_iter().enumerate().map(mix).collect()
            }
        }
    }

    /// What cos and sin are multiplied by.
    fn attention_factor(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// cos and sin of each token's angles, [tokens, head_dim/2] each, fp32. `positions`: [tokens], int64;
    /// `frequencies`: [head_dim/2], or [tokens, head_dim/2] where sequences differ. On the CPU in double precision, then rounded:
    /// the last bits of libtorch's fp32 functions there depend on the CPU.
    pub fn rotations(&self, positions: &Tensor, frequencies: &Tensor) -> (Tensor, Tensor) {
        let angles = positions.to_kind(Kind::Float).unsqueeze(1) * frequencies;
        let factor = self.attention_factor();
        let scaled = |t: Tensor| if factor == 1.0 { t } else { t * factor };
        if angles.device() != Device::Cpu {
            return (scaled(angles.cos()), scaled(angles.sin()));
        }
        let values: Vec<f32> = Vec::try_from(angles.contiguous().view(-1)).expect("fp32 on the CPU");
        let of = |f: fn(f64) -> f64| {
            let turned: Vec<f32> = values.iter().map(|&angle| f(f64::from(angle)) as f32).collect();
            scaled(Tensor::from_slice(&turned).view_as(&angles))
        };
        (of(f64::cos), of(f64::sin))
    }
}

/// theta^(2i / head_dim), [head_dim/2], by libtorch, whose last digits the models were trained with.
fn powers(theta: f64, head_dim: i64) -> Vec<f32> {
    let exponents = Tensor::arange_start_step(0, head_dim, 2, (Kind::Float, Device::Cpu)) / head_dim as f64;
    let powers = Tensor::pow_scalar(theta, &exponents);
    Vec::try_from(powers).expect("a one-dimensional fp32 tensor on the CPU")
}

/// The paper's 0.1·ln(s) + 1, or the ratio of two such for models that split it.
fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    match (mscale, mscale_all_dim) {
        (Some(m), Some(all)) if m != 0.0 && all != 0.0 => scale(m) / scale(all),
        _ => scale(1.0),
    }
}

/// Rotary frequencies on a device, ready for batches.
#[derive(Debug)]
pub struct Rotary {
    rope: Rope,
    head_dim: i64,
    max_positions: usize,
    /// [head_dim/2], of sequences inside `max_positions`.
    frequencies: Tensor,
    /// On the CPU: cos and sin of the first positions, as many as were asked for.
    table: Mutex<Table>,
}

/// [positions, head_dim/2] each.
#[derive(Debug, Default)]
struct Table {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// The embedding of heads of `head_dim` channels.
    pub fn new(rope: &Rope, head_dim: i64, max_positions: usize, device: Device) -> Self {
        let frequencies = torch_ext::upload(&rope.frequencies(head_dim, max_positions, 0), device);
        Self { rope: rope.clone(), head_dim, max_positions, frequencies, table: Mutex::default() }
    }

    /// cos and sin of `positions` [tokens], whose tokens lie in runs of one sequence each: (tokens of the run, length of
    /// its sequence).
    pub fn at(&self, positions: &Tensor, runs: impl Iterator<Item = (i64, i64)>) -> (Tensor, Tensor) {
        let lengths: Vec<(i64, i64)> = if self.rope.varies_with_length() { runs.collect() } else { Vec::new() };
        if lengths.iter().all(|&(_, length)| length as usize <= self.max_positions) {
            return match positions.device() {
                Device::Cpu => self.looked_up(positions),
                _ => self.rope.rotations(positions, &self.frequencies),
            };
        }
        let own: Vec<Tensor> = lengths
            .iter()
            .map(|&(tokens, length)| {
                let frequencies = self.rope.frequencies(self.head_dim, self.max_positions, length as usize);
                Tensor::from_slice(&frequencies).unsqueeze(0).expand([tokens, -1], false)
            })
            .collect();
        self.rope.rotations(positions, &Tensor::cat(&own, 0).to_device_(positions.device(), Kind::Float, true, false))
    }

    /// Rows of the table, which grows to hold them.
    fn looked_up(&self, positions: &Tensor) -> (Tensor, Tensor) {
        let half = self.head_dim as usize / 2;
        let at: Vec<i64> = Vec::try_from(positions).expect("positions are a list of int64");
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, needed) = (table.cos.len() / half, at.iter().max().map_or(0, |&last| last as usize + 1));
        if needed > known {
            let new = Tensor::arange_start(known as i64, needed.next_power_of_two() as i64, (Kind::Int64, Device::Cpu));
            let (cos, sin) = self.rope.rotations(&new, &self.frequencies);
            let values = |t: &Tensor| Vec::<f32>::try_from(t.view(-1)).expect("contiguous fp32 on the CPU");
            table.cos.extend(values(&cos));
            table.sin.extend(values(&sin));
        }
        let rows = |of: &[f32]| {
            let mut rows = Vec::with_capacity(at.len() * half);
            at.iter().for_each(|&p| rows.extend_from_slice(&of[p as usize * half..(p as usize + 1) * half]));
            Tensor::from_slice(&rows).view([at.len() as i64, half as i64])
        };
        (rows(&table.cos), rows(&table.sin))
    }
}
