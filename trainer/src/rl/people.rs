//! Whose turn it is: the order of people, and how well the judge has predicted each so far.

use std::collections::BTreeMap;
use std::path::Path;

use chat::{Draw, RlRow};
use configs::rl::curriculum::{CurriculumConfig, Order};
use configs::rl::{RlConfig, RolloutConfig};
use serde::{Deserialize, Serialize};

use super::rollout::Group;
use super::stages::{self, Stage};
use crate::TrainError;

/// A person and what they read and choose at each stage.
#[derive(Clone, Debug)]
pub struct Person<'a> {
    /// Their row.
    pub row: &'a RlRow,
    /// The stages of their history.
    pub stages: Vec<Stage<'a>>,
}

/// How well the judge has predicted a person's choices so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps in which the person's turn came.
    pub steps: u64,
    /// Summaries that were judged: those that passed the format gate.
    pub judged: u64,
    /// Those of them with which the judge found the person's choice the likelier one.
    pub right: u64,
    /// Sum of the rewards of all their summaries, without credit.
    pub reward: f64,
    /// All their summaries.
    pub samples: u64,
}

impl Record {
    /// The judge's accuracy with the person's summaries; `None` before one was judged.
    pub fn accuracy(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.right as f64 / self.judged as f64)
    }
}

/// How far the people are, as checkpoints keep it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// People whose turn has come, over all epochs.
    taken: usize,
    /// The running epoch's order, as indices into the rows.
    order: Vec<usize>,
    records: BTreeMap<String, Record>,
}

/// The people of a run.
#[derive(Debug)]
pub struct People<'a> {
    people: Vec<Person<'a>>,
    config: &'a CurriculumConfig,
    seed: u64,
    progress: Progress,
}

/// In a checkpoint's folder, beside the optimizer's state.
const FILE: &str = "trainer/people.json";

impl<'a> People<'a> {
    /// Those of `rows` whose history is long enough for the stages.
    ///
    /// # Errors
    /// [`TrainError::Data`] if there is none, or one of them cannot be judged.
    pub fn new(rows: &'a [RlRow], config: &'a RlConfig) -> Result<Self, TrainError> {
        let people = usable(rows, &config.rollout);
        if people.is_empty() {
            return Err(TrainError::Data(format!(
                "none of the {} RL rows is long enough for {} stages; lower rollout.stages or give longer histories",
                rows.len(),
                config.rollout.stages
            )));
        }
        let several = config.reward.targets_per_stage > 1;
        if several && people.iter().all(|p| p.row.targets.is_empty()) {
            return Err(TrainError::Data(format!(
                "reward.targets_per_stage is {}, but no RL row has `targets`, further choices to judge by; give the rows some, or \
                 set it to 1",
                config.reward.targets_per_stage
            )));
        }
        let unjudged = |p: &&Person<'_>| {
            let further: &[_] = if several { &p.row.targets } else { &[] };
            p.stages.iter().map(|s| s.target).chain(further).any(|target| target.rejected.is_none())
        };
        if let Some(person) = people.iter().find(unjudged) {
            return Err(TrainError::Data(format!(
                "person {}: a choice that is to be explained has no `rejected` item, which a judge needs; give it one, move \
                 the stages (mid_position, rollout.cut_at), or leave the row out",
                person.row.uid
            )));
        }
        Ok(Self { people, config: &config.curriculum, seed: config.seed, progress: Progress::default() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.people.len()
    }

    /// Whether there is none; there always is one.
    pub fn is_empty(&self) -> bool {
        self.people.is_empty()
    }

    /// Epochs begun and done so far, as a number.
    pub fn epochs(&self) -> f64 {
        self.progress.taken as f64 / self.len() as f64
    }

    /// The next `n` people, never more than there are; `step` and `round` name the draw.
    pub fn next(&mut self, n: usize, (step, round): (u64, u64)) -> Vec<Person<'a>> {
        let n = n.min(self.len());
        let chosen: Vec<usize> = match self.config.order {
            Order::Sample => {
                self.progress.taken += n;
                self.sampled(n, Draw::new(self.seed).text("curriculum").with(step).with(round))
            }
            _ => (0..n).map(|_| self.in_turn()).collect(),
        };
        chosen.into_iter().map(|i| self.people[i].clone()).collect()
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
        if self.config.order == Order::File {
            return order;
        }
        let draw = Draw::new(self.seed).text("people").with(epoch);
        order.sort_by_cached_key(|&i| draw.with(i as u64).bits());
        // Stable, so that equals and those who were never judged keep their random order; the latter stand in the middle.
        let accuracy = |&i: &usize| self.accuracy(i).unwrap_or(0.5);
        match self.config.order {
            Order::EasyFirst => order.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a))),
            Order::HardFirst => order.sort_by(|a, b| accuracy(a).total_cmp(&accuracy(b))),
            Order::Shuffle | Order::File | Order::Sample => {}
        }
        order
    }

    /// Weighted sampling without replacement by exponential keys (Efraimidis and Spirakis 2006).
    fn sampled(&self, n: usize, draw: Draw) -> Vec<usize> {
        let [low, high] = self.config.band;
        let key = |i: usize| {
            let inside = self.accuracy(i).is_none_or(|accuracy| (low..=high).contains(&accuracy));
            let weight = if inside { 1.0 } else { self.config.outside };
            // 53 bits, above 0, so that the logarithm is finite; a weight of 0 comes last.
            let uniform = ((draw.with(i as u64).bits() >> 11) as f64 + 0.5) * 2f64.powi(-53);
            -uniform.ln() / weight
        };
        let mut keyed: Vec<(f64, usize)> = (0..self.len()).map(|i| (key(i), i)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        keyed.into_iter().take(n).map(|(_, i)| i).collect()
    }

    fn accuracy(&self, i: usize) -> Option<f64> {
        self.progress.records.get(&self.people[i].row.uid)?.accuracy()
    }

    /// Keeps what a step's groups say of their people.
    pub fn learn(&mut self, groups: &[Group]) {
        for (index, group) in groups.iter().enumerate() {
            let first = !groups[..index].iter().any(|earlier| earlier.person == group.person);
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

    /// What is known of each person: uid and record.
    pub fn records(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.progress.records.iter().map(|(uid, record)| (uid.as_str(), record))
    }

    /// Writes how far the people are into a checkpoint.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, checkpoint: &Path) -> std::io::Result<()> {
        std::fs::write(checkpoint.join(FILE), serde_json::to_string(&self.progress)?)
    }

    /// Takes up again what [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`TrainError::File`] if it is not there or belongs to other rows.
    pub fn restore(&mut self, checkpoint: &Path) -> Result<(), TrainError> {
        let path = checkpoint.join(FILE);
        let bad = |message: String| TrainError::File { path: path.clone(), message };
        let text = std::fs::read_to_string(&path).map_err(|e| bad(format!("{e}; the run cannot go on from here")))?;
        let progress: Progress = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let fits = progress.order.iter().all(|&i| i < self.len());
        if !fits || !(progress.order.is_empty() || progress.order.len() == self.len()) {
            return Err(bad(format!(
                "was written for {} people, data.train now holds {}; go on with the same rows",
                progress.order.len(),
                self.len()
            )));
        }
        self.progress = progress;
        Ok(())
    }
}

/// The rows with a history long enough for the stages, cut.
pub fn usable<'a>(rows: &'a [RlRow], config: &RolloutConfig) -> Vec<Person<'a>> {
    rows.iter().filter_map(|row| Some(Person { row, stages: stages::cut(row, config)? })).collect()
}
