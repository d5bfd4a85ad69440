//! Validation by summaries: the model in training writes them for held-out people, a judge predicts with them.

use chat::{Completer, PromptSet};
use configs::validation::SummaryValidation;
use evals::evaluate::{EvalJudge, Plan, evaluate};
use evals::evaluation::Evaluation;
use evals::{Contender, EvalRow, Person, Source, Split, Targets};
use lm::LocalModel;
use rewards::Judge;
use trainer::{Team, TrainError};

use crate::failure::Failure;
use crate::wiring;

/// People, judge and prompts, loaded once.
pub struct Judging {
    people: Vec<Person>,
    prompts: PromptSet,
    judge_prompts: PromptSet,
    judge: Box<dyn Completer>,
    config: SummaryValidation,
    seed: u64,
}

impl Judging {
    /// Loads what `config` names.
    pub fn new(config: &SummaryValidation, seed: u64) -> Result<Self, Failure> {
        let mut people: Vec<Person> = wiring::rows(&config.people)?;
        if config.max_people > 0 {
            people.truncate(config.max_people);
        }
        Ok(Self {
            people,
            prompts: wiring::prompts(&config.prompts)?,
            judge_prompts: wiring::prompts(&config.judge.prompts)?,
            judge: wiring::judge_model(&config.judge)?,
            config: config.clone(),
            seed,
        })
    }

    /// Share of held-out choices that the judge predicts with the model's summaries, with its 95 % interval over people; over
    /// settings, their means. The people are spread over the ranks, which all must call this.
    pub fn measure(&self, model: &LocalModel, team: &Team) -> Result<Vec<(String, f64)>, TrainError> {
        let costs: Vec<f64> = self.people.iter().map(|person| person.history.len() as f64).collect();
        let spread = team.spread(&costs);
        let own: Vec<Person> = spread[team.world.rank()].iter().map(|&i| self.people[i].clone()).collect();
        let found = match own.is_empty() {
            true => Vec::new(),
            false => self.judged(model, &own).map_err(|e| TrainError::Data(e.to_string()))?.scores,
        };
        let of = |person: &Person| found.iter().filter(|s| s.uid == person.uid).cloned().collect::<Vec<_>>();
        let scores = team.together("validation: what the judge predicted", &spread, own.iter().map(of).collect())?;
        let all = Evaluation { scores: scores.concat(), summaries: Vec::new() };
        Ok(numbers(&all.rows()))
    }

    fn judged(&self, model: &LocalModel, people: &[Person]) -> Result<Evaluation, Failure> {
        let settings = wiring::judge_settings(&self.config.judge, self.seed);
        let judge = Judge::new(&*self.judge, &self.judge_prompts, settings)?;
        let named = [EvalJudge { name: "judge", judge: &judge, limit: None }];
        let plan = Plan {
            settings: wiring::settings(&self.config.settings),
            split: Split::Halves,
            sampling: wiring::sampling(&self.config.sampling),
            seed: self.seed,
            requests_per_call: 512,
        };
        let contender = Contender { name: "model".into(), source: Source::Model { model, limit: None } };
        Ok(evaluate(people, &[contender], &named, &self.prompts, &plan, &mut |_, _, _| {})?)
    }
}

fn numbers(rows: &[EvalRow]) -> Vec<(String, f64)> {
    let mut numbers = Vec::new();
    for targets in Targets::ALL {
        let of_kind: Vec<_> = rows.iter().filter(|row| row.targets == targets).collect();
        if !of_kind.is_empty() {
            let mean = |of: fn(&EvalRow) -> f64| of_kind.iter().map(|row| of(row)).sum::<f64>() / of_kind.len() as f64;
            let name = if targets == Targets::InDomain { "accuracy" } else { "transfer_accuracy" };
            numbers.push((format!("validation/{name}"), mean(|row| row.accuracy)));
            numbers.push((format!("validation/{name}_low"), mean(|row| row.ci_low)));
            numbers.push((format!("validation/{name}_high"), mean(|row| row.ci_high)));
        }
    }
    numbers
}
