//! Curriculum: the order of users, and the judge's accuracy on each so far.

use std::collections::BTreeMap;
use std::path::Path;

use chat::{Draw, RlRow};
use configs::Unusable;
use configs::rl::RlConfig;
use configs::rl::curriculum::{CurriculumConfig, CurriculumOrder};
use serde::{Deserialize, Serialize};

use super::group::Group;
use super::stages::{self, Stage};
use crate::TrainError;

/// A user, with the interactions and the target of each stage.
#[derive(Clone, Debug)]
pub struct CurriculumUser<'a> {
    /// The user's row.
    pub row: &'a RlRow,
    /// The stages of the user's history.
    pub stages: Vec<Stage<'a>>,
}

/// The judge's predictions of a user's choices so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The number of steps that included the user.
    pub steps: u64,
    /// The number of judged summaries, which are those that passed the format gate.
    pub judged: u64,
    /// The number of judged summaries with which the judge found the user's choice more likely.
    pub right: u64,
    /// The sum of the rewards of all the user's summaries, without credit.
    pub reward: f64,
    /// The number of all the user's summaries.
    pub samples: u64,
}

impl Record {
    /// Returns the judge's accuracy with the user's summaries; `None` before any was judged.
    pub fn accuracy(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.right as f64 / self.judged as f64)
    }
}

/// The state of the curriculum in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct CurriculumState {
    /// The number of users taken, over all epochs.
    taken: usize,
    /// The order of the current epoch, as indices into the users.
    order: Vec<usize>,
    records: BTreeMap<String, Record>,
}

/// Samples the users of a run.
#[derive(Debug)]
pub struct CurriculumSampler<'a> {
    users: Vec<CurriculumUser<'a>>,
    config: &'a CurriculumConfig,
    /// The number of users of a step, if the incomplete last step of an epoch is left out.
    whole_steps: Option<usize>,
    seed: u64,
    progress: CurriculumState,
}

/// Path within a checkpoint folder, beside the optimizer state.
const FILE: &str = "trainer/users.json";

impl<'a> CurriculumSampler<'a> {
    /// Returns a sampler over the [`usable`] ones of `rows`.
    ///
    /// # Errors
    /// [`TrainError::Data`] if there is no such row, one of them cannot be judged, or there are too few for a step although
    /// `train.drop_last` leaves an incomplete step out.
    pub fn new(rows: &'a [RlRow], config: &'a RlConfig) -> Result<Self, TrainError> {
        let users = usable(rows, config);
        if users.is_empty() {
            let judged = match config.data.unusable {
                Unusable::Error => "",
                Unusable::Skip => " and has targets with a `rejected` item",
            };
            return Err(TrainError::Data(format!(
                "none of the {} RL rows is long enough for {} stages{judged}; lower rollout.stages or provide longer \
                 histories",
                rows.len(),
                config.rollout.stages
            )));
        }
        let several = config.reward.targets_per_stage > 1;
        if several && users.iter().all(|p| p.row.targets.is_empty()) {
            return Err(TrainError::Data(format!(
                "reward.targets_per_stage is {}, but no RL row has `targets` (additional target choices); add them \
                 to the rows, or set it to 1",
                config.reward.targets_per_stage
            )));
        }
        if let Some(user) = users.iter().find(|user| !can_be_judged(user, config)) {
            return Err(TrainError::Data(format!(
                "user {}: a target choice has no `rejected` item, which the judge requires; add one, move the stages \
                 (mid_position, rollout.cut_at), remove the row, or skip such rows with data.unusable = \"skip\"",
                user.row.uid
            )));
        }
        let of_step = config.rollout.users_per_step;
        if config.train.drop_last && users.len() < of_step {
            return Err(TrainError::Data(format!(
                "data.train has {} users for {of_step} per step, and train.drop_last leaves out the incomplete step, which \
                 is the only one; lower rollout.users_per_step, set train.drop_last = false, or provide more rows",
                users.len()
            )));
        }
        let whole_steps = config.train.drop_last.then_some(of_step);
        let progress = CurriculumState::default();
        Ok(Self { users, config: &config.curriculum, whole_steps, seed: config.seed, progress })
    }

    /// Returns the number of users.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Returns whether there are no users, which [`Self::new`] rules out.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Returns the number of epochs so far, including the fraction of the current one.
    pub fn epochs(&self) -> f64 {
        self.progress.taken as f64 / self.len() as f64
    }

    /// Returns the next `n` users, at most all of them. `step` and `round` seed the sampling.
    pub fn next(&mut self, n: usize, (step, round): (u64, u64)) -> Vec<CurriculumUser<'a>> {
        let n = n.min(self.len());
        let chosen: Vec<usize> = match self.config.order {
            CurriculumOrder::Sample => {
                self.progress.taken += n;
                self.sampled(n, Draw::new(self.seed).text("curriculum").with(step).with(round))
            }
            _ => {
                if round == 0 {
                    self.skip_incomplete_step();
                }
                (0..n).map(|_| self.in_turn()).collect()
            }
        };
        chosen.into_iter().map(|i| self.users[i].clone()).collect()
    }

    /// Goes on to the next epoch if too few users for a step are left in this one and are to be left out.
    fn skip_incomplete_step(&mut self) {
        let left = self.len() - self.progress.taken % self.len();
        if self.whole_steps.is_some_and(|of_step| left < of_step) {
            self.progress.taken += left;
        }
    }

    fn in_turn(&mut self) -> usize {
        let (epoch, place) = (self.progress.taken / self.len(), self.progress.taken % self.len());
        if place == 0 || self.progress.order.len() != self.len() {
            self.progress.order = self.order_of(epoch as u64);
        }
        self.progress.taken += 1;
        self.progress.order[place]
    }

    fn order_of(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        if self.config.order == CurriculumOrder::File {
            return order;
        }
        let draw = Draw::new(self.seed).text("people").with(epoch);
        order.sort_by_cached_key(|&i| draw.with(i as u64).bits());
        // The sort is stable, so ties and unjudged users keep their random order. Unjudged users count as accuracy 0.5.
        let accuracy = |&i: &usize| self.accuracy(i).unwrap_or(0.5);
        match self.config.order {
            CurriculumOrder::EasyFirst => order.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a))),
            CurriculumOrder::HardFirst => order.sort_by(|a, b| accuracy(a).total_cmp(&accuracy(b))),
            CurriculumOrder::Shuffle | CurriculumOrder::File | CurriculumOrder::Sample => {}
        }
        order
    }

    /// Samples `n` users by weight without replacement, with exponential keys (Efraimidis and Spirakis 2006).
    fn sampled(&self, n: usize, draw: Draw) -> Vec<usize> {
        let [low, high] = self.config.band;
        let key = |i: usize| {
            let inside = self.accuracy(i).is_none_or(|accuracy| (low..=high).contains(&accuracy));
            let weight = if inside { 1.0 } else { self.config.outside };
            // 53 bits, above 0, so that the logarithm is finite; a weight of 0 sorts last.
            let uniform = ((draw.with(i as u64).bits() >> 11) as f64 + 0.5) * 2f64.powi(-53);
            -uniform.ln() / weight
        };
        let mut keyed: Vec<(f64, usize)> = (0..self.len()).map(|i| (key(i), i)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        keyed.into_iter().take(n).map(|(_, i)| i).collect()
    }

    fn accuracy(&self, i: usize) -> Option<f64> {
        self.progress.records.get(&self.users[i].row.uid)?.accuracy()
    }

    /// Updates the users' records from the groups of a step.
    pub fn learn(&mut self, groups: &[Group]) {
        for (index, group) in groups.iter().enumerate() {
            let first = !groups[..index].iter().any(|earlier| earlier.user == group.user);
            let record = self.progress.records.entry(group.uid.clone()).or_default();
            record.steps += u64::from(first);
            for sample in &group.samples {
                record.samples += 1;
                record.reward += sample.reward.total;
                record.judged += u64::from(sample.p_chosen.is_some());
                record.right += u64::from(sample.right());
            }
        }
    }

    /// Returns the uid and record of each user.
    pub fn records(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.progress.records.iter().map(|(uid, record)| (uid.as_str(), record))
    }

    /// Writes the state of the curriculum into a checkpoint.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, checkpoint: &Path) -> std::io::Result<()> {
        std::fs::write(checkpoint.join(FILE), serde_json::to_string(&self.progress)?)
    }

    /// Restores the state that [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`TrainError::File`] if it is missing or belongs to other rows.
    pub fn restore(&mut self, checkpoint: &Path) -> Result<(), TrainError> {
        let path = checkpoint.join(FILE);
        let bad = |message: String| TrainError::File { path: path.clone(), message };
        let text =
            std::fs::read_to_string(&path).map_err(|e| bad(format!("{e}; cannot resume from this checkpoint")))?;
        let progress: CurriculumState = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let fits = progress.order.iter().all(|&i| i < self.len());
        if !fits || !(progress.order.is_empty() || progress.order.len() == self.len()) {
            return Err(bad(format!(
                "was written for {} users, but data.train now has {}; resume with the same rows",
                progress.order.len(),
                self.len()
            )));
        }
        self.progress = progress;
        Ok(())
    }
}

/// Returns the rows whose history is long enough for the stages, cut into stages. With `data.unusable = "skip"`, rows with a target
/// that cannot be judged are left out too.
pub fn usable<'a>(rows: &'a [RlRow], config: &RlConfig) -> Vec<CurriculumUser<'a>> {
    let cut = |row: &'a RlRow| Some(CurriculumUser { row, stages: stages::cut(row, &config.rollout)? });
    let skips = config.data.unusable == Unusable::Skip;
    rows.iter().filter_map(cut).filter(|user| !skips || can_be_judged(user, config)).collect()
}

/// Returns whether all targets of a user have a rejected item, with which the judge compares the chosen one.
fn can_be_judged(user: &CurriculumUser<'_>, config: &RlConfig) -> bool {
    let further: &[_] = if config.reward.targets_per_stage > 1 { &user.row.targets } else { &[] };
    user.stages.iter().map(|stage| stage.target).chain(further).all(|target| target.rejected.is_some())
}
