//! Record and replay of a step. The record holds every input of the loss, so rewards, advantages and loss can be recomputed
//! with the same or other settings, without model, judge or rollout.
//!
//! The record is one safetensors file. Its tensor `step` (U8) holds JSON of the configuration, the groups and the updates; it
//! is not metadata because the size of safetensors metadata is bounded, and the texts of a large step can exceed it. The other
//! tensors hold the tokens (U32); their log-probabilities when sampled, before the update, and under the reference (F32); and
//! for each update the log-probabilities and entropies under the policy when the gradient was computed (F32).

use std::path::Path;

use rewards::{Composition, CompositionState};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use configs::rl::RlConfig;
use configs::rl::algorithm::{KlPlace, OldLogprobs};

use super::advantages::{self, StepAdvantages, is_trained};
use super::group::{Group, Sample};
use super::micro_batches::TokenLogprobs;
use super::policy_loss::LossStats;
use super::rewarding::{self, AskFn, StageRequests, judge_and_reward, set_rewards};
use super::update::{self, MiniBatch};
use crate::TrainError;

const FORMAT: u32 = 2;
const KEY: &str = "step";

/// A recorded update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedUpdate {
    /// The samples, as (group, index in the group).
    pub places: Vec<(usize, usize)>,
    /// The loss.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Log-probabilities and entropies of the tokens under the policy, one entry per sample.
    #[serde(skip)]
    pub seen: Vec<TokenLogprobs>,
}

/// A recorded step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedStep {
    format: u32,
    /// The step, from 1.
    pub step: u64,
    /// The configuration of the run, as TOML.
    pub config: String,
    /// The state of the reward before the step: running statistics of the terms.
    #[serde(default)]
    pub reward_state: CompositionState,
    /// The groups of the step.
    pub groups: Vec<Group>,
    /// The updates of the step, in order.
    pub updates: Vec<RecordedUpdate>,
}

impl RecordedStep {
    /// Creates the record of a finished step. `reward_state` is the state of the reward before it.
    pub fn new(
        step: u64,
        config: String,
        reward_state: CompositionState,
        groups: Vec<Group>,
        updates: Vec<MiniBatch>,
    ) -> Self {
        let recorded = |u: MiniBatch| RecordedUpdate {
            places: u.places,
            loss: u.sums.loss,
            grad_norm: u.update.grad_norm,
            seen: u.seen,
        };
        let updates = updates.into_iter().map(recorded).collect();
        Self { format: FORMAT, step, config, reward_state, groups, updates }
    }

    /// Writes the record atomically.
    ///
    /// # Errors
    /// [`TrainError::File`] if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let bad = |message: String| TrainError::File { path: path.into(), message };
        let samples = || self.groups.iter().flat_map(|g| &g.samples);
        let ids: Vec<u8> = samples().flat_map(|s| &s.ids).flat_map(|id| id.to_le_bytes()).collect();
        let prompts: Vec<u8> = self.groups.iter().flat_map(|g| &g.prompt).flat_map(|id| id.to_le_bytes()).collect();
        let lengths = |of: &mut dyn Iterator<Item = usize>| -> Vec<u8> {
            of.flat_map(|n| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()).collect()
        };
        let mut parts: Vec<(String, Dtype, Vec<u8>)> = vec![
            ("prompts".into(), Dtype::U32, prompts),
            ("prompt_lengths".into(), Dtype::U32, lengths(&mut self.groups.iter().map(|g| g.prompt.len()))),
            ("responses".into(), Dtype::U32, ids),
            ("response_lengths".into(), Dtype::U32, lengths(&mut samples().map(|s| s.ids.len()))),
            // Empty for samples that took no part in the update.
            ("old_lengths".into(), Dtype::U32, lengths(&mut samples().map(|s| s.old.len()))),
            ("reference_lengths".into(), Dtype::U32, lengths(&mut samples().map(|s| s.reference.len()))),
        ];
        let mut floats = |name: String, values: &mut dyn Iterator<Item = f32>| {
            parts.push((name, Dtype::F32, values.flat_map(f32::to_le_bytes).collect()));
        };
        floats("rollout".into(), &mut samples().flat_map(|s| s.rollout.iter().copied()));
        floats("old".into(), &mut samples().flat_map(|s| s.old.iter().copied()));
        floats("reference".into(), &mut samples().flat_map(|s| s.reference.iter().copied()));
        for (u, update) in self.updates.iter().enumerate() {
            floats(format!("update.{u}.logprobs"), &mut update.seen.iter().flat_map(|s| s.logprobs.iter().copied()));
            floats(format!("update.{u}.entropy"), &mut update.seen.iter().flat_map(|s| s.entropy.iter().copied()));
        }
        parts.push((KEY.into(), Dtype::U8, serde_json::to_vec(self).map_err(|e| bad(e.to_string()))?));
        let views: Result<Vec<(String, TensorView<'_>)>, _> = parts.iter().map(view).collect();
        let views = views.map_err(|e: SafeTensorError| bad(e.to_string()))?;
        let partial = path.with_extension("partial");
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|e| bad(e.to_string()))?;
        safetensors::serialize_to_file(views, None, &partial).map_err(|e| bad(e.to_string()))?;
        std::fs::rename(&partial, path).map_err(|e| bad(e.to_string()))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`TrainError::File`] if it is missing or incomplete.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let bad = |message: String| TrainError::File { path: path.into(), message };
        let bytes = std::fs::read(path)
            .map_err(|e| bad(format!("{e}; a step is recorded every log.rollouts_every steps if log.replay = true")))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        let text = tensors.tensor(KEY).map_err(|_| bad("is not a recorded step".into()))?;
        let mut step: Self = serde_json::from_slice(text.data()).map_err(|e| bad(e.to_string()))?;
        if step.format != FORMAT {
            return Err(bad(format!("has format {}; this version of xplore reads format {FORMAT}", step.format)));
        }
        step.fill(&tensors).map_err(bad)?;
        Ok(step)
    }

    fn fill(&mut self, tensors: &SafeTensors<'_>) -> Result<(), String> {
        let words = |name: &str| -> Result<Vec<[u8; 4]>, String> {
            let data = tensors.tensor(name).map_err(|e| format!("{name}: {e}"))?.data();
            Ok(data.chunks_exact(4).map(|w| [w[0], w[1], w[2], w[3]]).collect())
        };
        let ids = |name: &str| Ok::<_, String>(words(name)?.into_iter().map(u32::from_le_bytes).collect::<Vec<u32>>());
        let floats =
            |name: &str| Ok::<_, String>(words(name)?.into_iter().map(f32::from_le_bytes).collect::<Vec<f32>>());
        let mut prompts = Pieces::new("prompts", ids("prompts")?);
        for (group, n) in self.groups.iter_mut().zip(ids("prompt_lengths")?) {
            group.prompt = prompts.take(n as usize)?;
        }
        let lengths = |name: &str| Ok::<_, String>(ids(name)?.into_iter().map(|n| n as usize));
        let mut responses = Pieces::new("responses", ids("responses")?);
        let [mut rollout, mut old, mut reference] =
            [Pieces::new("rollout", floats("rollout")?), Pieces::new("old", floats("old")?), {
                Pieces::new("reference", floats("reference")?)
            }];
        let of_old_and_reference = lengths("old_lengths")?.zip(lengths("reference_lengths")?);
        let of_samples = lengths("response_lengths")?.zip(of_old_and_reference);
        for (sample, (n, (n_old, n_reference))) in self.groups.iter_mut().flat_map(|g| &mut g.samples).zip(of_samples) {
            sample.ids = responses.take(n)?;
            sample.rollout = rollout.take(n)?;
            sample.old = old.take(n_old)?;
            sample.reference = reference.take(n_reference)?;
        }
        for (u, update) in self.updates.iter_mut().enumerate() {
            let mut logprobs = Pieces::new("logprobs", floats(&format!("update.{u}.logprobs"))?);
            let mut entropy = Pieces::new("entropy", floats(&format!("update.{u}.entropy"))?);
            for &(g, i) in &update.places {
                let sample = self.groups.get(g).and_then(|g| g.samples.get(i));
                let n = sample
                    .ok_or_else(|| format!("update {u} refers to sample {i} of group {g}, which does not exist"))?
                    .ids
                    .len();
                update.seen.push(TokenLogprobs { logprobs: logprobs.take(n)?, entropy: entropy.take(n)? });
            }
        }
        Ok(())
    }
}

fn view((name, dtype, bytes): &(String, Dtype, Vec<u8>)) -> Result<(String, TensorView<'_>), SafeTensorError> {
    let width = if *dtype == Dtype::U8 { 1 } else { 4 };
    Ok((name.clone(), TensorView::new(*dtype, vec![bytes.len() / width], bytes)?))
}

/// Values that are consumed piece by piece.
struct Pieces<T> {
    name: &'static str,
    values: std::vec::IntoIter<T>,
}

impl<T> Pieces<T> {
    fn new(name: &'static str, values: Vec<T>) -> Self {
        Self { name, values: values.into_iter() }
    }

    fn take(&mut self, n: usize) -> Result<Vec<T>, String> {
        if self.values.len() < n {
            return Err(format!("{}: unexpected end of data; the file is truncated", self.name));
        }
        Ok(self.values.by_ref().take(n).collect())
    }
}

/// A replayed step.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The groups, with recomputed rewards.
    pub groups: Vec<Group>,
    /// The recomputed advantages.
    pub advantages: StepAdvantages,
    /// For each recorded update, the number of samples that now take part, and the loss statistics on the recorded
    /// log-probabilities.
    pub updates: Vec<(usize, LossStats)>,
}

/// Recomputes a recorded step under `config`. The mini-batches are the recorded ones without samples that no longer take part.
/// Log-probabilities stay as recorded, even where an earlier update would have changed them.
///
/// # Errors
/// [`TrainError::Data`] if the settings need values that were not recorded.
pub fn replay(step: &RecordedStep, config: &RlConfig, composition: &Composition) -> Result<Replayed, TrainError> {
    recompute(step, config, composition, None)
}

/// Recomputes a recorded step as [`replay`] does, with the verdicts of `ask` in place of the recorded ones. Samples keep whether they
/// are well-formed; for another format gate, call [`rewarding::apply_gate`] on the groups of `step` first.
///
/// # Errors
/// As [`replay`], and those of `ask`.
pub fn rejudge(
    step: &RecordedStep,
    config: &RlConfig,
    composition: &Composition,
    ask: &AskFn<'_>,
) -> Result<Replayed, TrainError> {
    recompute(step, config, composition, Some(ask))
}

fn recompute(
    step: &RecordedStep,
    config: &RlConfig,
    composition: &Composition,
    ask: Option<&AskFn<'_>>,
) -> Result<Replayed, TrainError> {
    let mut groups = step.groups.clone();
    let updated = || step.updates.iter().flat_map(|u| &u.places).map(|&(g, i)| -> &Sample { &groups[g].samples[i] });
    let without_reference = |s: &Sample| s.reference.is_empty() && !s.ids.is_empty();
    let lacks_reference = match config.algorithm.kl.place {
        KlPlace::Loss => updated().any(without_reference),
        KlPlace::Reward => groups.iter().flat_map(|g| &g.samples).any(without_reference),
    };
    if config.algorithm.needs_reference() && lacks_reference {
        return Err(TrainError::Data(
            "algorithm.kl.coefficient is above 0, but the run had no reference model, or did not apply it to \
             all of these samples, so the reference log-probabilities were not recorded"
                .into(),
        ));
    }
    let recompute = config.algorithm.old_logprobs == OldLogprobs::Recompute;
    if recompute && updated().any(|s| s.old.is_empty()) {
        return Err(TrainError::Data(
            "algorithm.old_logprobs is \"recompute\", but the run used those of the rollout, so none were recorded"
                .into(),
        ));
    }
    if !recompute {
        groups.iter_mut().flat_map(|g| &mut g.samples).for_each(|s| s.old.clear());
    }
    composition.restore(step.reward_state.clone());
    // Recorded steps count from 1; steps of the reward count from 0.
    let of_reward = (step.step.saturating_sub(1), config);
    match ask {
        Some(ask) => {
            let ask = |asked: &StageRequests| ask(&asked.requests);
            judge_and_reward(&mut groups, composition, of_reward, &ask)?;
        }
        None => {
            let asked = composition.judgments(of_reward.0, &rewarding::responses(&groups, config, false))?;
            if asked.iter().any(|requests| !requests.is_empty()) {
                return Err(TrainError::Data(
                    "a reward term queries the judges, which a replay does not load; add --rejudge, or remove the term"
                        .into(),
                ));
            }
            set_rewards(&mut groups, composition, of_reward, &[])?;
        }
    }
    let advantages = advantages::credit(&groups, config)?;
    let updates = step.updates.iter().map(|update| {
        let kept: Vec<usize> = (0..update.places.len())
            .filter(|&k| {
                let (g, i) = update.places[k];
                is_trained(&groups[g].samples[i], advantages.zero_variance[g], &config.algorithm)
            })
            .collect();
        let places: Vec<(usize, usize)> = kept.iter().map(|&k| update.places[k]).collect();
        let seen: Vec<TokenLogprobs> = kept.iter().map(|&k| update.seen[k].clone()).collect();
        (places.len(), update::measure(&update::train_samples(&groups, &advantages, &places, config), &seen, config))
    });
    let updates = updates.collect();
    Ok(Replayed { updates, advantages, groups })
}
