//! Rotary position embedding: the frequency of each pair of a head's channels, and the scaling to longer contexts.
//!
//! Formulas and field names are those of transformers' `modeling_rope_utils`, in fp32 where transformers uses fp32. At position
//! 100,000 an fp32 angle has few digits left, and the models were trained with these angles.

use std::f64::consts::TAU;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value as Json, json};
use tch::{Device, Kind, Tensor};

/// Scaling of the frequencies to contexts that are longer than in pre-training.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// No scaling.
    None,
    /// Position interpolation: all frequencies are divided by `factor`.
    Linear {
        /// Factor by which the context is extended.
        factor: f64,
    },
    /// NTK-aware scaling: the base grows with the sequence length beyond `max_position_embeddings`.
    Dynamic {
        /// Factor by which the context is extended.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided, high ones are kept, and those between are interpolated.
    Llama3 {
        /// Factor by which the context is extended.
        factor: f64,
        /// Frequencies with wavelengths above original / `low_freq_factor` are divided by `factor`.
        low_freq_factor: f64,
        /// Frequencies with wavelengths below original / `high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of pre-training, in tokens.
        original: f64,
    },
    /// YaRN (arXiv 2309.00071): interpolation by parts, with cos and sin multiplied by a factor.
    Yarn {
        /// Factor by which the context is extended.
        factor: f64,
        /// Context length of pre-training, in tokens.
        original: f64,
        /// Channels with more rotations than this over the original context keep their frequency. Default: 32.
        beta_fast: f64,
        /// Channels with fewer rotations than this have their frequency divided by `factor`. Default: 1.
        beta_slow: f64,
        /// Factor of cos and sin.
        attention_factor: f64,
        /// Whether the ends of the ramp are rounded to whole channels. Default: true.
        truncate: bool,
    },
}

/// Rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Scaling to longer contexts.
    pub scaling: Scaling,
    /// The object as read from config.json, so that a saved model keeps it.
    source: Map<String, Json>,
}

impl Rope {
    /// Creates a rotary embedding without scaling.
    pub fn new(theta: f64) -> Self {
        let source = Map::from_iter([("rope_type".into(), json!("default")), ("rope_theta".into(), json!(theta))]);
        Self { theta, scaling: Scaling::None, source }
    }

    /// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (earlier versions), of config.json.
    ///
    /// # Errors
    /// A message that names the missing field or the unsupported type.
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
            return Err("field `partial_rotary_factor`: only 1 (rotation of all channels) is supported".into());
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

    /// Returns the object for config.json.
    pub fn to_json(&self) -> Json {
        Json::Object(self.source.clone())
    }

    /// Returns the maximum sequence length, in tokens, given `max_position_embeddings` of config.json.
    pub fn context(&self, max_positions: usize) -> usize {
        let stretched = |from: f64, factor: f64| (from * factor) as usize;
        match self.scaling {
            Scaling::None | Scaling::Llama3 { .. } => max_positions,
            Scaling::Linear { factor } | Scaling::Dynamic { factor } => stretched(max_positions as f64, factor),
            Scaling::Yarn { factor, original, .. } => stretched(original, factor).max(max_positions),
        }
    }

    /// Returns whether a token's rotation depends on the length of its sequence and not only on its position. If so, sequences can
    /// share the keys of a common prefix only if all are within `max_position_embeddings` of config.json.
    pub fn varies_with_length(&self) -> bool {
        matches!(self.scaling, Scaling::Dynamic { .. })
    }

    /// Returns the frequencies in radians per position, [head_dim/2], for a sequence of `length` tokens. Only dynamic scaling uses
    /// `length`.
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
                // The channel that makes this number of turns over the original context.
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

    /// Returns the factor of cos and sin.
    fn attention_factor(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Returns the cos and sin of each token's angles, [tokens, head_dim/2] each, fp32. `positions`: `[tokens]`, int64.
    /// `frequencies`: [head_dim/2], or [tokens, head_dim/2] if they differ between sequences. On the CPU, cos and sin are computed
    /// in double precision and then rounded, because the last bits of libtorch's fp32 functions depend on the CPU.
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

/// Returns theta^(2i / head_dim), [head_dim/2]. It is computed by libtorch, because the models were trained with its rounding.
fn powers(theta: f64, head_dim: i64) -> Vec<f32> {
    let exponents = Tensor::arange_start_step(0, head_dim, 2, (Kind::Float, Device::Cpu)) / head_dim as f64;
    let powers = Tensor::pow_scalar(theta, &exponents);
    Vec::try_from(powers).expect("a one-dimensional fp32 tensor on the CPU")
}

/// Returns the 0.1·ln(s) + 1 of the paper, or a ratio of two such terms for models that specify both.
fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    match (mscale, mscale_all_dim) {
        (Some(m), Some(all)) if m != 0.0 && all != 0.0 => scale(m) / scale(all),
        _ => scale(1.0),
    }
}

/// Rotary frequencies on a device, which compute the rotations of batches.
#[derive(Debug)]
pub struct Rotary {
    rope: Rope,
    head_dim: i64,
    max_positions: usize,
    /// [head_dim/2], for sequences within `max_positions`.
    frequencies: Tensor,
    /// On the CPU only: cos and sin of all positions up to at least the last one requested.
    table: Mutex<Table>,
}

/// cos and sin, [positions, head_dim/2] each.
#[derive(Debug, Default)]
struct Table {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// Creates the rotary embedding of heads with `head_dim` channels.
    pub fn new(rope: &Rope, head_dim: i64, max_positions: usize, device: Device) -> Self {
        let frequencies = torch_ext::upload(&rope.frequencies(head_dim, max_positions, 0), device);
        Self { rope: rope.clone(), head_dim, max_positions, frequencies, table: Mutex::default() }
    }

    /// Returns the cos and sin of `positions` `[tokens]`. `runs` splits the tokens into runs of one sequence each: (number of tokens,
    /// length of the sequence).
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

    /// Looks up rows of the table, and extends it first if needed.
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
