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
const JUDGE_ROW: f64 = 5.8e-3;
const READING_ROW: f64 = 1.2e-2;
const SYNTHESIS_PERSON: f64 = 2.4e-2;
const SFT_PERSON: f64 = 7.5e-3;
const RESPONSE: f64 = 8.1e-3;
const EVALUATED_CHOICE: f64 = 1.5e-2;

/// The phases of one run, and how long they took.
pub struct Plan<'a> {
    config: &'a QuickstartConfig,
    under_way: Option<(Phase, Instant)>,
    skips: bool,
    done: Vec<(Phase, f64)>,
}

impl<'a> Plan<'a> {
    /// Before the first phase.
    pub fn new(config: &'a QuickstartConfig) -> Self {
        Self { config, under_way: None, skips: false, done: Vec::new() }
    }

    /// Prints what the phase that begins now is for, and the time the whole run has left.
    pub fn begin(&mut self, phase: Phase) {
        if let Some((before, begin)) = self.under_way.replace((phase, Instant::now()))
            && !std::mem::take(&mut self.skips)
        {
            self.done.push((before, begin.elapsed().as_secs_f64()));
        }
        eprintln!("\n{} (the whole run: about {} left)", phase.purpose(), in_words(self.left(phase)));
    }

    /// The phase that is under way leaves out what an earlier run has done: its time tells nothing of the machine.
    pub fn skip(&mut self) {
        self.skips = true;
    }

    /// Returns the seconds from the beginning of `phase` to the run's end: the costs of the phases left, at the pace of those
    /// that are done.
    fn left(&self, phase: Phase) -> f64 {
        let left = Phase::ALL.iter().skip_while(|&&p| p != phase);
        let cost: f64 = self.done.iter().map(|(phase, _)| phase.cost(self.config)).sum();
        let took: f64 = self.done.iter().map(|(_, seconds)| seconds).sum();
        let pace = if cost < ENOUGH { 1.0 } else { took / cost };
        pace * left.map(|phase| phase.cost(self.config)).sum::<f64>()
    }
}

/// Seconds of finished work below which the pace is not measured.
const ENOUGH: f64 = 20.0;

fn in_words(seconds: f64) -> String {
    if seconds < 90.0 { format!("{:.0} s", seconds.max(1.0)) } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_machine_is_noticed_once_something_took_long() {
        let config = QuickstartConfig::default();
        let cost = |phases: &[Phase]| phases.iter().map(|p| p.cost(&config)).sum::<f64>();
        let left = |done: &[(Phase, f64)], phase: Phase| Plan { done: done.to_vec(), ..Plan::new(&config) }.left(phase);
        assert_eq!(left(&[], Phase::World), cost(&Phase::ALL));
        // The world alone is too short to tell.
        assert_eq!(left(&[(Phase::World, 100.0)], Phase::Training), cost(&Phase::ALL[1..]));
        let trained = (Phase::Training, 2.0 * Phase::Training.cost(&config));
        assert_eq!(left(&[trained], Phase::Synthesis), 2.0 * cost(&Phase::ALL[2..]));
    }

    #[test]
    fn what_was_skipped_does_not_count() {
        let config = QuickstartConfig::default();
        let mut plan = Plan::new(&config);
        plan.begin(Phase::World);
        plan.begin(Phase::Training);
        plan.skip();
        plan.begin(Phase::Synthesis);
        plan.begin(Phase::Sft);
        assert_eq!(plan.done.iter().map(|(phase, _)| *phase).collect::<Vec<_>>(), [Phase::World, Phase::Synthesis]);
    }

    #[test]
    fn times_are_rounded_to_what_one_wants_to_know() {
        assert_eq!([0.2, 42.4, 100.0, 360.0].map(in_words), ["1 s", "42 s", "2 min", "6 min"]);
    }
}
