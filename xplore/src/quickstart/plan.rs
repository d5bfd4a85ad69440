//! The phases of the quickstart: their purpose, and the estimated remaining time of the run.

use std::time::Instant;

use configs::QuickstartConfig;

use crate::reporter::Reporter;

/// A phase, in execution order. `Training` holds what runs in parallel: the judges and then the synthesis, and the base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Users and rows of the built-in world, and the tokenizer.
    World,
    /// Training of the judges and synthesis of rows for fine-tuning and reinforcement learning; training of the base model.
    Training,
    /// Supervised fine-tuning.
    Sft,
    /// Reinforcement learning.
    Rl,
    /// Evaluation.
    Eval,
}

impl Phase {
    const ALL: [Self; 5] = [Self::World, Self::Training, Self::Sft, Self::Rl, Self::Eval];

    fn purpose(self) -> &'static str {
        match self {
            Self::World => "Simulate users and their choices, and train a tokenizer",
            Self::Training => {
                "Train two judges, and keep the teacher's summaries with which the first predicts choices; in parallel, train a \
                 base model to read choices"
            }
            Self::Sft => "Fine-tune the base model on the summaries of the teacher",
            Self::Rl => "Reward summaries by how well the judge predicts choices with them",
            Self::Eval => "Evaluate the summaries with both judges on users that no model has seen",
        }
    }

    /// Returns the expected duration in seconds on 2 cores of an AMD EPYC (Zen 3). On other machines only the ratios matter.
    fn cost(self, config: &QuickstartConfig) -> f64 {
        let (world, rollout) = (&config.world, &config.rl.rollout);
        let of = |count: usize, seconds: f64| count as f64 * seconds;
        let judge_rows = world.judge_rows + world.second_judge_rows;
        let judges = of(judge_rows, JUDGE_ROW);
        let synthesis = of(world.synthesis_users + world.rl_users, SYNTHESIS_USER);
        let reading = of(world.reading_rows, READING_ROW);
        match self {
            Self::World => of(judge_rows + world.reading_rows, WORLD_ROW),
            Self::Training if config.threads == 1 => judges + synthesis + reading,
            Self::Training => (judges + synthesis).max(reading),
            Self::Sft => of(world.synthesis_users * config.sft.train.epochs, SFT_USER),
            Self::Rl => {
                let responses = rollout.users_per_step * rollout.num_generations * rollout.stages;
                of(config.rl.train.steps * responses, RESPONSE)
            }
            Self::Eval => {
                of(world.eval_users * (world.eval_targets + 2 * world.eval_transfer_targets), EVALUATED_CHOICE)
            }
        }
    }
}

// Seconds per item, on the machine of `Phase::cost`.
const WORLD_ROW: f64 = 4e-5;
const JUDGE_ROW: f64 = 5.8e-3;
const READING_ROW: f64 = 1.2e-2;
const SYNTHESIS_USER: f64 = 4.5e-2;
const SFT_USER: f64 = 7.5e-3;
const RESPONSE: f64 = 8.1e-3;
const EVALUATED_CHOICE: f64 = 1.5e-2;

/// The phases of a run and their durations.
pub struct Plan<'a> {
    config: &'a QuickstartConfig,
    reporter: &'a dyn Reporter,
    under_way: Option<(Phase, Instant)>,
    skips: bool,
    done: Vec<(Phase, f64)>,
}

impl<'a> Plan<'a> {
    /// Returns the plan before its first phase.
    pub fn new(config: &'a QuickstartConfig, reporter: &'a dyn Reporter) -> Self {
        Self { config, reporter, under_way: None, skips: false, done: Vec::new() }
    }

    /// Begins a phase. Reports its purpose and the estimated remaining time of the whole run.
    pub fn begin(&mut self, phase: Phase) {
        if let Some((before, begin)) = self.under_way.replace((phase, Instant::now()))
            && !std::mem::take(&mut self.skips)
        {
            self.done.push((before, begin.elapsed().as_secs_f64()));
        }
        let left = in_words(self.left(phase));
        self.reporter.heading(&format!("{} (the whole run: about {left} left)", phase.purpose()));
    }

    /// Marks the current phase as partially skipped: an earlier run did some of its work, so its duration does not measure the
    /// speed of the machine.
    pub fn skip(&mut self) {
        self.skips = true;
    }

    /// Returns the estimated seconds from the beginning of `phase` to the end of the run: the costs of the remaining phases, scaled
    /// by the pace of the finished phases.
    fn left(&self, phase: Phase) -> f64 {
        let left = Phase::ALL.iter().skip_while(|&&p| p != phase);
        let cost: f64 = self.done.iter().map(|(phase, _)| phase.cost(self.config)).sum();
        let took: f64 = self.done.iter().map(|(_, seconds)| seconds).sum();
        let pace = if cost < ENOUGH { 1.0 } else { took / cost };
        pace * left.map(|phase| phase.cost(self.config)).sum::<f64>()
    }
}

/// Minimum expected duration of the finished phases, in seconds, for which the pace is measured.
const ENOUGH: f64 = 20.0;

fn in_words(seconds: f64) -> String {
    if seconds < 90.0 { format!("{:.0} s", seconds.max(1.0)) } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reporter::Silent;

    #[test]
    fn a_slow_machine_is_noticed_once_something_took_long() {
        let config = QuickstartConfig::default();
        let cost = |phases: &[Phase]| phases.iter().map(|p| p.cost(&config)).sum::<f64>();
        let left = |done: &[(Phase, f64)], phase: Phase| {
            Plan { done: done.to_vec(), ..Plan::new(&config, &Silent) }.left(phase)
        };
        assert_eq!(left(&[], Phase::World), cost(&Phase::ALL));
        // The world phase alone is too short to measure the pace.
        assert_eq!(left(&[(Phase::World, 100.0)], Phase::Training), cost(&Phase::ALL[1..]));
        let trained = (Phase::Training, 2.0 * Phase::Training.cost(&config));
        assert_eq!(left(&[trained], Phase::Sft), 2.0 * cost(&Phase::ALL[2..]));
    }

    #[test]
    fn what_was_skipped_does_not_count() {
        let config = QuickstartConfig::default();
        let mut plan = Plan::new(&config, &Silent);
        plan.begin(Phase::World);
        plan.begin(Phase::Training);
        plan.skip();
        plan.begin(Phase::Sft);
        plan.begin(Phase::Rl);
        assert_eq!(plan.done.iter().map(|(phase, _)| *phase).collect::<Vec<_>>(), [Phase::World, Phase::Sft]);
    }

    #[test]
    fn times_are_rounded_to_what_one_wants_to_know() {
        assert_eq!([0.2, 42.4, 100.0, 360.0].map(in_words), ["1 s", "42 s", "2 min", "6 min"]);
    }
}
