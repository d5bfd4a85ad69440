//! The phases of the quickstart: what each is for, and how much time the run has left.

use std::time::Instant;

use configs::QuickstartConfig;

/// A phase, in running order. `Training` is that of judges and base model, in parallel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The built-in world's people and rows, and the tokenizer.
    World,
    /// Judges and base model.
    Training,
    /// Rows for fine-tuning and reinforcement learning.
    Synthesis,
    /// Supervised fine-tuning.
    Sft,
    /// Reinforcement learning.
    Rl,
    /// The evaluation.
    Eval,
}

impl Phase {
    const ALL: [Self; 6] = [Self::World, Self::Training, Self::Synthesis, Self::Sft, Self::Rl, Self::Eval];

    fn purpose(self) -> &'static str {
        match self {
            Self::World => "Make simulated people, what they chose, and a tokenizer for the words",
            Self::Training => {
                "Train, in parallel, two judges that predict choices from a summary and a base model that can read choices"
            }
            Self::Synthesis => "Let a teacher write summaries, and keep those with which the judge predicts choices",
            Self::Sft => "Teach the base model to summarize as the teacher does",
            Self::Rl => "Reward summaries by how well the judge predicts choices with them",
            Self::Eval => "Let both judges predict choices of people that no model has seen",
        }
    }

    /// Returns the expected seconds on 2 cores of an AMD EPYC (Zen 3). Elsewhere only the ratios count.
    fn cost(self, config: &QuickstartConfig) -> f64 {
        let (world, rollout) = (&config.world, &config.rl.rollout);
        let of = |count: usize, seconds: f64| count as f64 * seconds;
        let judges = 2.0 * of(world.judge_rows, JUDGE_ROW);
        let reading = of(world.reading_rows, READING_ROW);
        match self {
            Self::World => of(world.judge_rows + world.reading_rows, WORLD_ROW),
            Self::Training if config.threads == 1 => judges + reading,
            Self::Training => judges.max(reading),
            Self::Synthesis => of(world.synthesis_people + world.rl_people, SYNTHESIS_PERSON),
            Self::Sft => of(world.synthesis_people * config.sft.train.epochs, SFT_PERSON),
            Self::Rl => {
                let responses = rollout.people_per_step * rollout.samples * rollout.stages;
                of(config.rl.train.steps * responses, RESPONSE)
            }
            Self::Eval => {
                of(world.eval_people * (world.eval_targets + 2 * world.eval_transfer_targets), EVALUATED_CHOICE)
            }
        }
    }
}

// Seconds each, on that machine.
const WORLD_ROW: f64 = 6e-5;
const JUDGE_ROW: f64 = 5.5e-3;
const READING_ROW: f64 = 1.1e-2;
const SYNTHESIS_PERSON: f64 = 2.8e-2;
const SFT_PERSON: f64 = 7.5e-3;
const RESPONSE: f64 = 1e-2;
const EVALUATED_CHOICE: f64 = 1.5e-2;

/// The phases of one run, and when it began.
pub struct Plan<'a> {
    config: &'a QuickstartConfig,
    begin: Instant,
}

impl<'a> Plan<'a> {
    /// Starts the clock.
    pub fn new(config: &'a QuickstartConfig) -> Self {
        Self { config, begin: Instant::now() }
    }

    /// Prints what the phase that begins now is for, and the time the whole run has left.
    pub fn begin(&self, phase: Phase) {
        let left = self.left(phase, self.begin.elapsed().as_secs_f64());
        eprintln!("\n{} (the whole run: about {} left)", phase.purpose(), in_words(left));
    }

    /// Returns the seconds from the beginning of `phase`, `elapsed` seconds into the run, to the run's end: the costs of the
    /// phases left, at the pace of those that are done.
    fn left(&self, phase: Phase, elapsed: f64) -> f64 {
        let cost = |phases: &[Phase]| phases.iter().map(|p| p.cost(self.config)).sum::<f64>();
        let (done, left) = Phase::ALL.split_at(Phase::ALL.iter().position(|&p| p == phase).unwrap_or(0));
        let pace = elapsed / cost(done).max(1.0);
        cost(left) * if cost(done) < ENOUGH || pace < SKIPPED { 1.0 } else { pace }
    }
}

/// Seconds of finished work below which the pace is not measured.
const ENOUGH: f64 = 20.0;
/// Pace below which phases were skipped, because an earlier run had finished them, and tell nothing.
const SKIPPED: f64 = 0.1;

fn in_words(seconds: f64) -> String {
    if seconds < 90.0 { format!("{:.0} s", seconds.max(1.0)) } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_machine_is_noticed_once_something_took_long() {
        let config = QuickstartConfig::default();
        let plan = Plan::new(&config);
        let cost = |phases: &[Phase]| phases.iter().map(|p| p.cost(&config)).sum::<f64>();
        // The world alone is too short to tell.
        assert_eq!(plan.left(Phase::Training, 100.0), cost(&Phase::ALL[1..]));
        assert_eq!(plan.left(Phase::World, 0.0), cost(&Phase::ALL));
        let trained = cost(&Phase::ALL[..2]);
        assert_eq!(plan.left(Phase::Synthesis, 0.01 * trained), cost(&Phase::ALL[2..]));
        assert_eq!(plan.left(Phase::Synthesis, 2.0 * trained), 2.0 * cost(&Phase::ALL[2..]));
    }

    #[test]
    fn times_are_rounded_to_what_one_wants_to_know() {
        assert_eq!([0.2, 42.4, 100.0, 360.0].map(in_words), ["1 s", "42 s", "2 min", "6 min"]);
    }
}
