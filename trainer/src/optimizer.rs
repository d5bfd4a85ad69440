//! AdamW and Muon updates of flat buffers, and gradient clipping by global norm.

use configs::optimizer::{OptimizerConfig, OptimizerKind, ParameterKind, StateDtype};
use lm::Params;
use lm::params::{ParamEntry, ParamRole, ParamUnit};
use tch::{Kind, Tensor};
use torch_ext::AdamW;

use crate::TrainError;
use crate::lr_schedule::{ScheduleStep, lr_factor};
use crate::muon::{self, Matrix};

/// A range of weights with one weight-decay setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamGroup {
    /// Offset of the first element in the weights.
    pub weights: i64,
    /// Offset of the first element in gradients, moments and master weights.
    pub state: i64,
    /// The number of elements.
    pub length: i64,
    /// Whether weight decay applies.
    pub decays: bool,
}

impl ParamGroup {
    fn of_weights(self, weights: &Tensor) -> Tensor {
        weights.narrow(0, self.weights, self.length)
    }

    fn of_state(self, state: &Tensor) -> Tensor {
        state.narrow(0, self.state, self.length)
    }
}

/// Optimizer state of one flat buffer of weights.
#[derive(Debug)]
pub struct Optimizer {
    /// First and second moments, laid out as the weights. For Muon's matrices the first is the momentum and the second is 0.
    pub(crate) moments: (Tensor, Tensor),
    /// The weights in fp32, if the model holds them in lower precision and the state is fp32.
    pub(crate) master: Option<Tensor>,
    /// Exponential moving average of the weights in fp32, laid out as the moments, if enabled.
    ema: Option<Tensor>,
    /// The number of updates made.
    pub(crate) updates: u64,
    pub(crate) skips_in_a_row: usize,
    param_groups: Vec<ParamGroup>,
    matrices: Vec<Matrix>,
    config: OptimizerConfig,
}

/// The result of one update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The learning rate of the update.
    pub lr: f64,
    /// Whether the update was skipped because the gradient was not finite.
    pub skipped: bool,
}

/// Returns the dtype of gradients and moments for weights of dtype `weights`.
pub fn state_kind(config: &OptimizerConfig, weights: Kind) -> Kind {
    match config.state {
        StateDtype::Fp32 => Kind::Float,
        StateDtype::Model => weights,
    }
}

/// Returns the matrices of a model that Muon updates: those of the decoder layers.
pub fn matrices(params: &Params, kind: OptimizerKind) -> Vec<Matrix> {
    let chosen = params.entries().iter().filter(|entry| by_muon(entry, kind));
    chosen.map(|entry| Matrix { offset: entry.offset, rows: entry.shape[0], cols: entry.shape[1] }).collect()
}

fn by_muon(entry: &ParamEntry, kind: OptimizerKind) -> bool {
    kind == OptimizerKind::Muon && entry.role() == ParamRole::Matrix && matches!(entry.unit, ParamUnit::Layer(_))
}

/// Returns the param groups that AdamW updates, with their weight-decay settings.
pub fn param_groups(params: &Params, kind: OptimizerKind, no_decay: &[ParameterKind]) -> Vec<ParamGroup> {
    let mut found: Vec<ParamGroup> = Vec::new();
    for entry in params.entries() {
        if by_muon(entry, kind) {
            continue;
        }
        let kind = match (entry.role(), entry.unit) {
            (ParamRole::Norm, _) => Some(ParameterKind::Norm),
            (ParamRole::Bias, _) => Some(ParameterKind::Bias),
            (ParamRole::Matrix, ParamUnit::Embedding) => Some(ParameterKind::Embedding),
            (ParamRole::Matrix, _) => None,
        };
        let decays = kind.is_none_or(|kind| !no_decay.contains(&kind));
        match found.last_mut() {
            Some(last) if last.decays == decays && last.weights + last.length == entry.offset => {
                last.length += entry.numel();
            }
            _ => found.push(ParamGroup { weights: entry.offset, state: entry.offset, length: entry.numel(), decays }),
        }
    }
    found
}

impl Optimizer {
    /// Allocates state for the `weights` in `param_groups` (AdamW) and `matrices` (Muon). `length` is the number of elements,
    /// including gaps between them.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn new(
        weights: &Tensor,
        param_groups: Vec<ParamGroup>,
        matrices: Vec<Matrix>,
        length: i64,
        config: OptimizerConfig,
    ) -> Result<Self, TrainError> {
        let kind = state_kind(&config, weights.kind());
        let zeros = || Tensor::f_zeros([length], (kind, weights.device()));
        let master = (kind != weights.kind()).then(zeros).transpose()?;
        if let Some(master) = &master {
            for group in &param_groups {
                tch::no_grad(|| group.of_state(master).copy_(&group.of_weights(weights)));
            }
            for matrix in &matrices {
                tch::no_grad(|| matrix.of(master).copy_(&matrix.of(weights)));
            }
        }
        let ema = (config.ema_decay > 0.0).then(|| Tensor::f_zeros([length], (Kind::Float, weights.device())));
        let (moments, ema) = ((zeros()?, zeros()?), ema.transpose()?);
        Ok(Self { moments, master, ema, updates: 0, skips_in_a_row: 0, param_groups, matrices, config })
    }

    /// Returns the size of the state tensors in bytes.
    pub fn bytes(&self) -> usize {
        self.numbers().iter().map(|(_, t)| t.numel() * t.kind().elt_size_in_bytes()).sum()
    }

    /// Returns the state tensors by name, sharing storage.
    pub(crate) fn numbers(&self) -> Vec<(&'static str, &Tensor)> {
        let moments = [("exp_avg", &self.moments.0), ("exp_avg_sq", &self.moments.1)];
        let others = [("master", &self.master), ("ema", &self.ema)];
        let others = others.into_iter().filter_map(|(name, tensor)| Some((name, tensor.as_ref()?)));
        moments.into_iter().chain(others).collect()
    }

    /// Applies the accumulated gradients to `weights` and clears them. Skips the update if the gradient is not finite. `total`
    /// receives the sum of squares of `grads` and returns the sum over the gradients of all ranks.
    ///
    /// # Errors
    /// If libtorch or `total` fails; [`TrainError::Diverged`] after `max_skipped_steps` consecutive skips.
    pub fn update(
        &mut self,
        weights: &mut Tensor,
        grads: &mut Tensor,
        progress: ScheduleStep,
        total: impl FnOnce(f64) -> Result<f64, TrainError>,
    ) -> Result<Update, TrainError> {
        let lr = self.config.lr * lr_factor(&self.config, progress);
        let grad_norm = total(torch_ext::sum_of_squares(grads)?)?.sqrt();
        let skipped = !grad_norm.is_finite();
        self.skips_in_a_row = if skipped { self.skips_in_a_row + 1 } else { 0 };
        if self.skips_in_a_row >= self.config.max_skipped_steps {
            return Err(TrainError::Diverged(format!(
                "the gradient was not finite {} times in a row, up to step {}; lower optimizer.lr or \
                 optimizer.grad_clip, or check the data (optimizer.max_skipped_steps sets the limit)",
                self.skips_in_a_row,
                progress.done + 1
            )));
        }
        if !skipped {
            let clip = self.config.grad_clip;
            if clip > 0.0 && grad_norm > clip {
                // torch.nn.utils.clip_grad_norm_ adds the same 1e-6.
                let _ = grads.g_mul_scalar_(clip / (grad_norm + 1e-6));
            }
            self.step(weights, grads, lr)?;
        }
        let _ = grads.zero_();
        Ok(Update { grad_norm, lr, skipped })
    }

    fn step(&mut self, weights: &mut Tensor, grads: &Tensor, lr: f64) -> Result<(), TrainError> {
        self.updates += 1;
        let c = &self.config;
        for group in &self.param_groups {
            let part = |t: &Tensor| group.of_state(t);
            let own = group.of_weights(weights);
            let mut target = self.master.as_ref().map_or_else(|| own.shallow_clone(), part);
            let hyper = AdamW {
                lr,
                betas: (c.betas[0], c.betas[1]),
                eps: c.eps,
                weight_decay: if group.decays { c.weight_decay } else { 0.0 },
            };
            let (mut m, mut v) = (part(&self.moments.0), part(&self.moments.1));
            torch_ext::adamw_step(&mut target, &part(grads), (&mut m, &mut v), self.updates, hyper)?;
            if self.master.is_some() {
                own.shallow_clone().copy_(&target);
            }
        }
        for matrix in &self.matrices {
            let own = matrix.of(weights);
            let mut target = self.master.as_ref().map_or_else(|| own.shallow_clone(), |master| matrix.of(master));
            muon::step(&mut target, &matrix.of(grads), &mut matrix.of(&self.moments.0), lr, c.weight_decay, &c.muon)?;
            if self.master.is_some() {
                own.shallow_clone().copy_(&target);
            }
        }
        self.update_ema(weights);
        Ok(())
    }

    /// Updates the moving average as `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn` does: the first update
    /// initializes it to the weights.
    fn update_ema(&self, weights: &Tensor) {
        let Some(ema) = &self.ema else { return };
        // The master weights keep what lower precision rounds away.
        let current = |s: ParamGroup| match &self.master {
            Some(master) => s.of_state(master),
            None => s.of_weights(weights).to_kind(Kind::Float),
        };
        for group in self.trained() {
            let mut average = group.of_state(ema);
            tch::no_grad(|| match self.updates {
                1 => average.copy_(&current(group)),
                _ => drop(average.lerp_(&current(group), 1.0 - self.config.ema_decay)),
            });
        }
    }

    /// Replaces `weights` by their moving average. Returns whether there is one.
    pub fn apply_ema(&self, weights: &Tensor) -> bool {
        let Some(ema) = self.ema.as_ref().filter(|_| self.updates > 0) else { return false };
        for group in self.trained() {
            let average = group.of_state(ema);
            tch::no_grad(|| {
                group.of_weights(weights).copy_(&average);
                if let Some(master) = &self.master {
                    group.of_state(master).copy_(&average);
                }
            });
        }
        true
    }

    /// Returns all trained ranges, whichever optimizer updates them.
    fn trained(&self) -> impl Iterator<Item = ParamGroup> {
        let matrices = self.matrices.iter().map(|m| ParamGroup {
            weights: m.offset,
            state: m.offset,
            length: m.rows * m.cols,
            decays: true,
        });
        self.param_groups.iter().copied().chain(matrices)
    }
}

#[cfg(test)]
mod tests {
    use chat::tokenizer::Tokenizer;
    use configs::model::{Device as Wanted, Dtype, ModelShape};
    use configs::optimizer::Schedule;
    use tch::Device;

    use super::*;
    use crate::start;

    fn update(optimizer: &mut Optimizer, weights: &mut Tensor, grad: f64) -> Update {
        let mut grads =
            Tensor::full(weights.size(), grad, (state_kind(&optimizer.config, weights.kind()), Device::Cpu));
        optimizer.update(weights, &mut grads, ScheduleStep { done: 0, total: 1 }, Ok).unwrap()
    }

    fn constant(config: OptimizerConfig) -> OptimizerConfig {
        OptimizerConfig { schedule: Schedule::Constant, warmup_ratio: 0.0, grad_clip: 0.0, ..config }
    }

    /// Updates of 1e-4 are below half of bf16's spacing at 1 (2^-8), so bf16 weights do not change; master weights do.
    #[test]
    fn small_updates_survive_in_fp32_state_alone() {
        let run = |state: StateDtype| {
            let config = constant(OptimizerConfig { lr: 1e-4, state, ..OptimizerConfig::default() });
            let mut weights = Tensor::ones([8], (Kind::BFloat16, Device::Cpu));
            let whole = vec![ParamGroup { weights: 0, state: 0, length: 8, decays: true }];
            let mut optimizer = Optimizer::new(&weights, whole, vec![], 8, config).unwrap();
            for _ in 0..100 {
                update(&mut optimizer, &mut weights, 1.0);
            }
            (weights.double_value(&[0]), optimizer.numbers().iter().map(|(name, _)| *name).collect::<Vec<_>>())
        };
        assert_eq!(run(StateDtype::Model), (1.0, vec!["exp_avg", "exp_avg_sq"]));
        // On a constant gradient, 100 Adam steps move by lr each: to 0.99, whose nearest bf16 value is 253/256.
        let (weight, held) = run(StateDtype::Fp32);
        assert_eq!(weight, 253.0 / 256.0);
        assert_eq!(held, ["exp_avg", "exp_avg_sq", "master"]);
    }

    #[test]
    fn decay_spares_the_kinds_that_are_named() {
        let spec = ModelShape { layers: 1, ..ModelShape::default() };
        let tokenizer = Tokenizer::train(["space"].into_iter(), 300).unwrap();
        let model = start::random("new", &spec, tokenizer, 1, (Wanted::Cpu, Dtype::Fp32)).unwrap();
        let params = &model.decoder.params;
        let spared = |no_decay: &[ParameterKind]| {
            let found = param_groups(params, OptimizerKind::AdamW, no_decay);
            assert_eq!(found.iter().map(|s| s.length).sum::<i64>(), params.flat.numel() as i64);
            found.iter().filter(|s| !s.decays).map(|s| s.length).sum::<i64>()
        };
        // Three norms of 128, and one of 32 each for queries and keys; this family has no biases.
        assert_eq!(spared(&[ParameterKind::Norm]), 3 * 128 + 2 * 32);
        assert_eq!(spared(&[ParameterKind::Bias]), 0);
        assert_eq!(spared(&[ParameterKind::Embedding]), params.embedding().numel() as i64);
        assert_eq!(spared(&[]), 0);
    }

    #[test]
    fn too_many_gradients_that_are_not_finite_end_the_run() {
        let config = constant(OptimizerConfig { max_skipped_steps: 3, ..OptimizerConfig::default() });
        let mut weights = Tensor::ones([4], (Kind::Float, Device::Cpu));
        let whole = vec![ParamGroup { weights: 0, state: 0, length: 4, decays: true }];
        let mut optimizer = Optimizer::new(&weights, whole, vec![], 4, config).unwrap();
        for grad in [f64::NAN, f64::INFINITY, 1.0, f64::NAN, f64::NAN] {
            let before = weights.copy();
            let done = update(&mut optimizer, &mut weights, grad);
            assert_eq!(done.skipped, !grad.is_finite());
            assert_eq!(weights == before, done.skipped);
        }
        assert_eq!(optimizer.updates, 1);
        let mut grads = Tensor::full([4], f64::NAN, (Kind::Float, Device::Cpu));
        let ended =
            optimizer.update(&mut weights, &mut grads, ScheduleStep { done: 5, total: 9 }, Ok).unwrap_err().to_string();
        assert!(ended.contains("3 times in a row") && ended.contains("up to step 6"), "{ended}");
    }
}
