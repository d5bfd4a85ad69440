//! The update of flat buffers by AdamW or Muon, clipping by global norm, and the schedule of the learning rate.

use configs::optimizer::{OptimizerConfig, OptimizerKind, ParameterKind, Schedule, StateDtype};
use lm::Params;
use lm::params::{Entry, Part, Role};
use tch::{Kind, Tensor};
use torch_ext::AdamW;

use crate::TrainError;
use crate::muon::{self, Matrix};

/// A stretch of weights with one rule for weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its first number among the weights.
    pub weights: i64,
    /// Its first number among gradients, moments and master weights.
    pub state: i64,
    /// Numbers.
    pub length: i64,
    /// Whether weight decay applies.
    pub decays: bool,
}

impl Stretch {
    fn of_weights(self, weights: &Tensor) -> Tensor {
        weights.narrow(0, self.weights, self.length)
    }

    fn of_state(self, state: &Tensor) -> Tensor {
        state.narrow(0, self.state, self.length)
    }
}

/// The optimizer's state for one flat buffer of weights.
#[derive(Debug)]
pub struct Optimizer {
    /// First and second moment, laid out as the weights. Of Muon's matrices the first is the momentum; their second is 0.
    pub(crate) moments: (Tensor, Tensor),
    /// The weights in fp32, where the model holds them in a lower format and the state is to be fp32.
    pub(crate) master: Option<Tensor>,
    /// The exponential moving average of the weights in fp32, laid out as the moments, where one is wanted.
    ema: Option<Tensor>,
    /// Updates made.
    pub(crate) updates: u64,
    skips_in_a_row: usize,
    stretches: Vec<Stretch>,
    matrices: Vec<Matrix>,
    config: OptimizerConfig,
}

/// What one update did.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate used.
    pub lr: f64,
    /// Whether the gradient was not finite, so that nothing was changed.
    pub skipped: bool,
}

/// The number format of gradients and moments for weights of format `weights`.
pub fn state_kind(config: &OptimizerConfig, weights: Kind) -> Kind {
    match config.state {
        StateDtype::Fp32 => Kind::Float,
        StateDtype::Model => weights,
    }
}

/// The matrices of a model's weights that Muon updates: those of the layers.
pub fn matrices(params: &Params, kind: OptimizerKind) -> Vec<Matrix> {
    let chosen = params.entries().iter().filter(|entry| by_muon(entry, kind));
    chosen.map(|entry| Matrix { offset: entry.offset, rows: entry.shape[0], cols: entry.shape[1] }).collect()
}

fn by_muon(entry: &Entry, kind: OptimizerKind) -> bool {
    kind == OptimizerKind::Muon && entry.role() == Role::Matrix && matches!(entry.part, Part::Layer(_))
}

/// The stretches of a model's weights that AdamW updates, and which of them decay.
pub fn stretches(params: &Params, kind: OptimizerKind, no_decay: &[ParameterKind]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for entry in params.entries() {
        if by_muon(entry, kind) {
            continue;
        }
        let kind = match (entry.role(), entry.part) {
            (Role::Norm, _) => Some(ParameterKind::Norm),
            (Role::Bias, _) => Some(ParameterKind::Bias),
            (Role::Matrix, Part::Embedding) => Some(ParameterKind::Embedding),
            (Role::Matrix, _) => None,
        };
        let decays = kind.is_none_or(|kind| !no_decay.contains(&kind));
        match found.last_mut() {
            Some(last) if last.decays == decays && last.weights + last.length == entry.offset => {
                last.length += entry.numel();
            }
            _ => found.push(Stretch { weights: entry.offset, state: entry.offset, length: entry.numel(), decays }),
        }
    }
    found
}

impl Optimizer {
    /// Fresh state for those of `weights` that `stretches` (for AdamW) and `matrices` (for Muon) name, `length` numbers with
    /// the gaps between them.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn new(
        weights: &Tensor,
        stretches: Vec<Stretch>,
        matrices: Vec<Matrix>,
        length: i64,
        config: OptimizerConfig,
    ) -> Result<Self, TrainError> {
        let kind = state_kind(&config, weights.kind());
        let zeros = || Tensor::f_zeros([length], (kind, weights.device()));
        let master = (kind != weights.kind()).then(zeros).transpose()?;
        if let Some(master) = &master {
            for stretch in &stretches {
                tch::no_grad(|| stretch.of_state(master).copy_(&stretch.of_weights(weights)));
            }
            for matrix in &matrices {
                tch::no_grad(|| matrix.of(master).copy_(&matrix.of(weights)));
            }
        }
        let ema = (config.ema_decay > 0.0).then(|| Tensor::f_zeros([length], (Kind::Float, weights.device())));
        let (moments, ema) = ((zeros()?, zeros()?), ema.transpose()?);
        Ok(Self { moments, master, ema, updates: 0, skips_in_a_row: 0, stretches, matrices, config })
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> usize {
        self.numbers().iter().map(|(_, t)| t.numel() * t.kind().elt_size_in_bytes()).sum()
    }

    /// Its tensors by name, sharing storage.
    pub(crate) fn numbers(&self) -> Vec<(&'static str, &Tensor)> {
        let moments = [("exp_avg", &self.moments.0), ("exp_avg_sq", &self.moments.1)];
        let others = [("master", &self.master), ("ema", &self.ema)];
        let others = others.into_iter().filter_map(|(name, tensor)| Some((name, tensor.as_ref()?)));
        moments.into_iter().chain(others).collect()
    }

    /// Applies the accumulated gradients to `weights` and clears them. A gradient that is not finite changes nothing. `total`
    /// makes the sum of squares over all ranks' gradients out of that of `grads`.
    ///
    /// # Errors
    /// If libtorch or `total` fails, and [`TrainError::Diverged`] if that happened `most_skips` times in a row.
    pub fn update(
        &mut self,
        weights: &mut Tensor,
        grads: &mut Tensor,
        progress: Progress,
        total: impl FnOnce(f64) -> Result<f64, TrainError>,
    ) -> Result<Update, TrainError> {
        let lr = self.config.lr * lr_factor(&self.config, progress);
        let grad_norm = total(torch_ext::sum_of_squares(grads)?)?.sqrt();
        let skipped = !grad_norm.is_finite();
        self.skips_in_a_row = if skipped { self.skips_in_a_row + 1 } else { 0 };
        if self.skips_in_a_row >= self.config.most_skips {
            return Err(TrainError::Diverged(format!(
                "the gradient was not finite {} times in a row, up to step {}; lower optimizer.lr, clip more \
                 (optimizer.grad_clip) or look at the data (optimizer.most_skips says how many times are too many)",
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
        for stretch in &self.stretches {
            let part = |t: &Tensor| stretch.of_state(t);
            let own = stretch.of_weights(weights);
            let mut target = self.master.as_ref().map_or_else(|| own.shallow_clone(), part);
            let hyper = AdamW {
                lr,
                betas: (c.betas[0], c.betas[1]),
                eps: c.eps,
                weight_decay: if stretch.decays { c.weight_decay } else { 0.0 },
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

    /// Updates the moving average as `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn` does: it starts as the
    /// weights after the first update.
    fn update_ema(&self, weights: &Tensor) {
        let Some(ema) = &self.ema else { return };
        // What a lower format rounds away is in the master weights.
        let current = |s: Stretch| match &self.master {
            Some(master) => s.of_state(master),
            None => s.of_weights(weights).to_kind(Kind::Float),
        };
        for stretch in self.trained() {
            let mut average = stretch.of_state(ema);
            tch::no_grad(|| match self.updates {
                1 => average.copy_(&current(stretch)),
                _ => drop(average.lerp_(&current(stretch), 1.0 - self.config.ema_decay)),
            });
        }
    }

    /// Replaces `weights` by their moving average. Returns whether there is one.
    pub fn apply_ema(&self, weights: &Tensor) -> bool {
        let Some(ema) = self.ema.as_ref().filter(|_| self.updates > 0) else { return false };
        for stretch in self.trained() {
            let average = stretch.of_state(ema);
            tch::no_grad(|| {
                stretch.of_weights(weights).copy_(&average);
                if let Some(master) = &self.master {
                    stretch.of_state(master).copy_(&average);
                }
            });
        }
        true
    }

    /// All that is trained, whichever rule updates it.
    fn trained(&self) -> impl Iterator<Item = Stretch> {
        let matrices = self.matrices.iter().map(|m| Stretch {
            weights: m.offset,
            state: m.offset,
            length: m.rows * m.cols,
            decays: true,
        });
        self.stretches.iter().copied().chain(matrices)
    }
}

/// Where in a run an update stands.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Updates before this one.
    pub done: u64,
    /// Updates of the whole run.
    pub total: u64,
}

/// The schedule's factor on the learning rate: warm-up in a straight line (update u of w has u/w, from u = 0, as in
/// transformers), then the schedule down to `min_lr_ratio`.
pub fn lr_factor(config: &OptimizerConfig, progress: Progress) -> f64 {
    let (done, total) = (progress.done as f64, progress.total as f64);
    let warmup = match config.warmup_steps {
        0 => (config.warmup_ratio * total).ceil(),
        steps => steps as f64,
    };
    if done < warmup {
        return done / warmup;
    }
    let share_since = |begin: f64| ((done - begin) / (total - begin).max(1.0)).clamp(0.0, 1.0);
    let height = match config.schedule {
        Schedule::Constant => return 1.0,
        Schedule::Linear => 1.0 - share_since(warmup),
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share_since(warmup)).cos()),
        Schedule::Wsd => 1.0 - share_since(warmup.max(total - (config.decay_ratio * total).ceil())),
    };
    config.min_lr_ratio + (1.0 - config.min_lr_ratio) * height
}

#[cfg(test)]
mod tests {
    use chat::tokenizer::Tokenizer;
    use configs::model::{Device as Wanted, Dtype, ModelShape};
    use tch::Device;
    use tolerance::assert_within;

    use super::*;
    use crate::start;

    fn factor(schedule: Schedule, done: u64) -> f64 {
        let config = OptimizerConfig { schedule, warmup_ratio: 0.1, min_lr_ratio: 0.2, ..OptimizerConfig::default() };
        lr_factor(&config, Progress { done, total: 110 })
    }

    fn update(optimizer: &mut Optimizer, weights: &mut Tensor, grad: f64) -> Update {
        let mut grads =
            Tensor::full(weights.size(), grad, (state_kind(&optimizer.config, weights.kind()), Device::Cpu));
        optimizer.update(weights, &mut grads, Progress { done: 0, total: 1 }, Ok).unwrap()
    }

    fn constant(config: OptimizerConfig) -> OptimizerConfig {
        OptimizerConfig { schedule: Schedule::Constant, warmup_ratio: 0.0, grad_clip: 0.0, ..config }
    }

    /// Updates of 1e-4 are below half of bf16's step at 1 (2^-8), so that bf16 weights never see them; master weights do.
    #[test]
    fn small_updates_survive_in_fp32_state_alone() {
        let run = |state: StateDtype| {
            let config = constant(OptimizerConfig { lr: 1e-4, state, ..OptimizerConfig::default() });
            let mut weights = Tensor::ones([8], (Kind::BFloat16, Device::Cpu));
            let whole = vec![Stretch { weights: 0, state: 0, length: 8, decays: true }];
            let mut optimizer = Optimizer::new(&weights, whole, vec![], 8, config).unwrap();
            for _ in 0..100 {
                update(&mut optimizer, &mut weights, 1.0);
            }
            (weights.double_value(&[0]), optimizer.numbers().iter().map(|(name, _)| *name).collect::<Vec<_>>())
        };
        assert_eq!(run(StateDtype::Model), (1.0, vec!["exp_avg", "exp_avg_sq"]));
        // 100 steps of Adam on a constant gradient move by lr each: to 0.99, whose nearest bf16 value is 253/256.
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
            let found = stretches(params, OptimizerKind::AdamW, no_decay);
            assert_eq!(found.iter().map(|s| s.length).sum::<i64>(), params.flat.numel() as i64);
            found.iter().filter(|s| !s.decays).map(|s| s.length).sum::<i64>()
        };
        // Three norms of 128, and one of 32 each for queries and keys; no biases in this family.
        assert_eq!(spared(&[ParameterKind::Norm]), 3 * 128 + 2 * 32);
        assert_eq!(spared(&[ParameterKind::Bias]), 0);
        assert_eq!(spared(&[ParameterKind::Embedding]), params.embedding().numel() as i64);
        assert_eq!(spared(&[]), 0);
    }

    #[test]
    fn too_many_gradients_that_are_not_finite_end_the_run() {
        let config = constant(OptimizerConfig { most_skips: 3, ..OptimizerConfig::default() });
        let mut weights = Tensor::ones([4], (Kind::Float, Device::Cpu));
        let whole = vec![Stretch { weights: 0, state: 0, length: 4, decays: true }];
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
            optimizer.update(&mut weights, &mut grads, Progress { done: 5, total: 9 }, Ok).unwrap_err().to_string();
        assert!(ended.contains("3 times in a row") && ended.contains("up to step 6"), "{ended}");
    }

    #[test]
    fn schedules_warm_up_and_fall_as_worked_by_hand() {
        // 11 updates of warm-up, 99 after it; halfway is update 11 + 49.5.
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine, Schedule::Wsd] {
            assert_eq!(factor(schedule, 0), 0.0);
            assert_within!(factor(schedule, 10) - 10.0 / 11.0, 1e-12);
            assert_within!(factor(schedule, 11) - 1.0, 1e-12);
        }
        assert_eq!(factor(Schedule::Constant, 100), 1.0);
        assert_within!(factor(Schedule::Linear, 44) - (0.2 + 0.8 * 2.0 / 3.0), 1e-12, "a third of the way down");
        assert_within!(factor(Schedule::Cosine, 44) - (0.2 + 0.8 * 0.75), 1e-12, "cos(60°) = 1/2");
        assert_within!(factor(Schedule::Linear, 110) - 0.2, 1e-12);
        // The last 11 of 110 updates fall.
        assert_eq!((factor(Schedule::Wsd, 50), factor(Schedule::Wsd, 99)), (1.0, 1.0));
        assert_within!(factor(Schedule::Wsd, 102) - (0.2 + 0.8 * 8.0 / 11.0), 1e-12);
        assert_within!(factor(Schedule::Wsd, 110) - 0.2, 1e-12);
        let counted = OptimizerConfig { warmup_steps: 4, ..OptimizerConfig::default() };
        assert_eq!(lr_factor(&counted, Progress { done: 3, total: 100 }), 0.75);
    }
}
