//! Rewards of recorded or given responses, without training: term by term, with advantages, correlations and comparisons.
//!
//! - [`rollouts`]: the responses, recorded by a run or given as texts.
//! - [`scored`]: rewards and their statistics; [`rank_correlation`]: how their terms relate.
//! - [`compare`]: two rewards on the same responses.
//! - [`gradients`]: the cosine similarity of the terms' gradients under a model.
//! - [`tables`]: all of it as text.

pub mod compare;
pub mod gradients;
pub mod rank_correlation;
pub mod rollouts;
pub mod scored;
pub mod tables;

use std::cell::{Cell, OnceCell};

use configs::RlConfig;
use configs::judge::{JudgePrices, RlJudge};
use configs::rl::algorithm::KlPlace;
use lm::pretrained::run_checkpoint;
use rewards::{Composition, Panel, PanelRequest, PanelVerdict, Registry};
use trainer::TrainError;
use trainer::grpo::advantages::{self, StepAdvantages};
use trainer::grpo::group::Group;
use trainer::grpo::rewarding::{StageRequests, apply_gate, judge_and_reward, responses, set_rewards};

pub use self::compare::{Difference, compare};
pub use self::rollouts::{Batch, Recorded};
pub use self::scored::{Scored, ScoredResponse};
use crate::error::Error;
use crate::panel::panel;
use crate::parts;
use crate::validation::of_training;

/// The judges of a configuration, loaded when they are first asked.
pub struct LazyPanel<'a> {
    config: &'a RlConfig,
    loaded: OnceCell<Panel>,
}

impl<'a> LazyPanel<'a> {
    /// Returns the judges of `config`, not yet loaded.
    pub fn new(config: &'a RlConfig) -> Self {
        Self { config, loaded: OnceCell::new() }
    }

    /// Asks the judges; returns one verdict per request, in order.
    ///
    /// # Errors
    /// Returns an error if a judge cannot be loaded or fails.
    pub fn ask(&self, requests: &[PanelRequest]) -> Result<Vec<PanelVerdict>, TrainError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let panel = match self.loaded.get() {
            Some(panel) => panel,
            None => {
                let panel = panel(self.config).map_err(of_training)?;
                self.loaded.get_or_init(|| panel)
            }
        };
        Ok(panel.verdicts(requests)?)
    }
}

/// A step with its rewards.
#[derive(Clone, Debug)]
pub struct ScoredStep {
    /// The step, counted from 1; 0 for given texts.
    pub step: u64,
    /// The groups, with their rewards.
    pub groups: Vec<Group>,
    /// Credit, penalties and advantages.
    pub advantages: StepAdvantages,
}

/// Rewards of all responses, and how they were computed.
#[derive(Clone, Debug)]
pub struct OfflineRewards {
    /// The steps.
    pub steps: Vec<ScoredStep>,
    /// The rewards of all steps in one list.
    pub scored: Scored,
    /// Whether the verdicts on the targets are those that the runs recorded; otherwise the judges of the configuration were asked.
    pub recorded_verdicts: bool,
}

/// Computes the rewards and advantages of `batches` by `config`. A recorded step keeps its verdicts if the run had the same judges,
/// panel, seed and format gate, and no term asks the judges; otherwise the judges of `config` are asked.
///
/// # Errors
/// Returns an error if a term or a judge cannot be built or fails, or if a value was not recorded that the configuration needs.
pub fn score(config: &RlConfig, registry: &Registry, batches: &[Batch]) -> Result<OfflineRewards, Error> {
    let composition = parts::composition(&config.reward, registry)?;
    let panel = LazyPanel::new(config);
    let asked = Cell::new(false);
    let steps = batches
        .iter()
        .map(|batch| {
            let (groups, of_judges) = rewarded(batch, config, &composition, &panel)?;
            asked.set(asked.get() || of_judges);
            check_reference(&groups, config)?;
            let advantages = advantages::credit(&groups, config)?;
            Ok(ScoredStep { step: batch.step, groups, advantages })
        })
        .collect::<Result<Vec<ScoredStep>, Error>>()?;
    let names = composition.names().into_iter().map(str::to_owned).collect();
    let scored = Scored { names, responses: steps.iter().flat_map(of_step).collect() };
    Ok(OfflineRewards { steps, scored, recorded_verdicts: !asked.get() })
}

/// Returns the groups of a batch with their rewards, and whether the judges were asked.
fn rewarded(
    batch: &Batch,
    config: &RlConfig,
    composition: &Composition,
    panel: &LazyPanel<'_>,
) -> Result<(Vec<Group>, bool), Error> {
    let mut groups = batch.groups.clone();
    let recorded = batch.recorded.as_ref();
    if recorded.is_none_or(|recorded| recorded.config.reward.gate != config.reward.gate) {
        apply_gate(&mut groups, config.reward.gate);
    }
    composition.restore(recorded.map(|recorded| recorded.reward_state.clone()).unwrap_or_default());
    // Recorded steps count from 1; steps of the reward count from 0.
    let of_reward = (batch.step.saturating_sub(1), config);
    let asks_nothing =
        composition.judgments(of_reward.0, &responses(&groups, config, false))?.iter().all(Vec::is_empty);
    if asks_nothing && recorded.is_some_and(|recorded| judges_alike(&recorded.config, config)) {
        set_rewards(&mut groups, composition, of_reward, &[])?;
        return Ok((groups, false));
    }
    let ask = |asked: &StageRequests| panel.ask(&asked.requests);
    judge_and_reward(&mut groups, composition, of_reward, &ask)?;
    Ok((groups, true))
}

/// Returns whether two configurations give the same verdicts on the targets of the same responses. A run records the folder of the
/// checkpoint in place of a model path that names a run.
fn judges_alike(a: &RlConfig, b: &RlConfig) -> bool {
    let judges = |config: &RlConfig| -> Vec<RlJudge> {
        let members = config.panel_judges().into_iter().map(|(_, judge)| judge).filter(|judge| judge.weight > 0.0);
        let mut members: Vec<RlJudge> = members.collect();
        for judge in &mut members {
            judge.prices = JudgePrices::default();
            let path = &mut judge.judge.model.path;
            if let Ok(Some(folder)) = run_checkpoint(path) {
                *path = folder.display().to_string();
            }
        }
        members
    };
    let same_panel = a.panel == b.panel && a.panel_temperature == b.panel_temperature;
    same_panel && a.seed == b.seed && a.reward.gate == b.reward.gate && judges(a) == judges(b)
}

/// Checks that a KL penalty in the reward has what it needs.
fn check_reference(groups: &[Group], config: &RlConfig) -> Result<(), Error> {
    let in_reward = config.algorithm.needs_reference() && config.algorithm.kl.place == KlPlace::Reward;
    let mut samples = groups.iter().flat_map(|group| &group.samples);
    if in_reward && samples.any(|sample| sample.reference.is_empty() && !sample.ids.is_empty()) {
        return Err(Error::data(
            "algorithm.kl.place is \"reward\", but the responses have no recorded log-probabilities of a reference; set \
             algorithm.kl.coefficient = 0, or score steps of a run with this penalty",
        ));
    }
    Ok(())
}

fn of_step(step: &ScoredStep) -> Vec<ScoredResponse> {
    let of_group = |(g, group): (usize, &Group)| -> Vec<ScoredResponse> {
        let one = |(i, sample): (usize, &trainer::grpo::group::Sample)| ScoredResponse {
            step: step.step,
            uid: group.uid.clone(),
            stage: group.stage,
            group: g,
            sample: i,
            well_formed: sample.reward.well_formed,
            p_chosen: sample.p_chosen,
            scores: sample.reward.scores.clone(),
            parts: sample.reward.parts.clone(),
            total: sample.reward.total,
            credited: step.advantages.rewards[g][i],
            advantage: step.advantages.advantages[g][i],
        };
        group.samples.iter().enumerate().map(one).collect()
    };
    step.groups.iter().enumerate().flat_map(of_group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_that_names_a_run_is_the_checkpoint_that_the_run_recorded() {
        let place = tempfile::tempdir().unwrap();
        let checkpoint = place.path().join("judge/checkpoints/step-000010");
        std::fs::create_dir_all(&checkpoint).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::write(checkpoint.join(file), "").unwrap();
        }
        let config = |path: String, price: f64| {
            let mut judge = RlJudge { name: "near".into(), ..RlJudge::default() };
            (judge.judge.model.path, judge.prices.prompt) = (path, price);
            RlConfig { judges: vec![judge], ..RlConfig::default() }
        };
        let given = config(place.path().join("judge").display().to_string(), 1.5);
        let recorded = config(checkpoint.display().to_string(), 0.0);
        assert!(judges_alike(&recorded, &given) && judges_alike(&given, &given));
        assert!(!judges_alike(&recorded, &config("other".into(), 0.0)));
    }
}
