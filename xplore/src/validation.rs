//! Validation by summaries: the current model writes summaries of held-out users, and a judge predicts the users' choices from
//! them.

use chat::{Completer, PromptSet};
use configs::validation::SummaryValidation;
use evals::evaluate::evaluate;
use evals::evaluation::Evaluation;
use evals::{Contender, EvalPlan, EvalRow, EvalUser, HistorySplit, NamedJudge, Setting, SummarySource, TargetKind};
use lm::LocalModel;
use rewards::Judge;
use trainer::{ParallelContext, TrainError};

use crate::error::{Error, ErrorKind};
use crate::{parts, wording};

/// Users, judge and prompts of the validation, loaded once.
pub struct ValidationSet {
    users: Vec<EvalUser>,
    prompts: PromptSet,
    judge_prompts: PromptSet,
    judge: Box<dyn Completer>,
    config: SummaryValidation,
    seed: u64,
}

impl ValidationSet {
    /// Loads the users, prompts and judge of `config`, for a model in training on the prompt set `trained`.
    ///
    /// # Errors
    /// Returns an error if users, prompts or judge cannot be loaded.
    pub fn new(config: &SummaryValidation, trained: Option<&PromptSet>, seed: u64) -> Result<Self, Error> {
        let mut users: Vec<EvalUser> = parts::rows(&config.users)?;
        if config.max_users > 0 {
            users.truncate(config.max_users);
        }
        let prompts = wording::of_training(&config.prompts, trained)?;
        if config.settings.iter().any(|setting| *setting != Setting::Direct) {
            prompts.check_summaries(users.iter().map(EvalUser::items))?;
        }
        Ok(Self {
            users,
            prompts,
            judge_prompts: wording::of_judge(&config.judge)?,
            judge: parts::judge_model(&config.judge)?,
            config: config.clone(),
            seed,
        })
    }

    /// Computes the share of held-out choices that the judge predicts correctly from the model's summaries, with its 95 % interval
    /// over users; the values are means over settings. Also computes the share of choices for which the judge gave no answer. The
    /// users are distributed over the ranks. All ranks must call this function.
    ///
    /// # Errors
    /// Returns an error if generation, the judge or another rank fails.
    pub fn measure(&self, model: &LocalModel, context: &ParallelContext) -> Result<Vec<(String, f64)>, TrainError> {
        let costs: Vec<f64> = self.users.iter().map(|user| user.items().len() as f64).collect();
        let spread = context.spread(&costs);
        let own: Vec<EvalUser> = spread[context.world.rank()].iter().map(|&i| self.users[i].clone()).collect();
        let found = match own.is_empty() {
            true => Vec::new(),
            false => self.judged(model, &own).map_err(of_training)?.scores,
        };
        let of = |user: &EvalUser| found.iter().filter(|s| s.uid == user.uid).cloned().collect::<Vec<_>>();
        let scores =
            context.all_gather_object("validation: what the judge predicted", &spread, own.iter().map(of).collect())?;
        let all = Evaluation { scores: scores.concat(), summaries: Vec::new() };
        Ok(numbers(&all.rows()))
    }

    fn judged(&self, model: &LocalModel, users: &[EvalUser]) -> Result<Evaluation, Error> {
        let settings = parts::judge_settings(&self.config.judge, self.seed);
        let judge = Judge::new(&*self.judge, &self.judge_prompts, settings)?;
        let named = [NamedJudge { name: "judge", judge: &judge, limit: None }];
        let plan = EvalPlan {
            settings: self.config.settings.clone(),
            split: HistorySplit::Halves,
            sampling: parts::sampling(&self.config.sampling),
            seed: self.seed,
            requests_per_call: 512,
        };
        let contender =
            Contender { name: "model".into(), source: SummarySource::Model { model, limit: None, prompts: None } };
        Ok(evaluate(users, &[contender], &named, &self.prompts, &plan, &mut |_, _, _| {})?)
    }
}

fn numbers(rows: &[EvalRow]) -> Vec<(String, f64)> {
    let mut numbers = Vec::new();
    for targets in TargetKind::ALL {
        let of_kind: Vec<_> = rows.iter().filter(|row| row.targets == targets).collect();
        if !of_kind.is_empty() {
            let mean = |of: fn(&EvalRow) -> f64| of_kind.iter().map(|row| of(row)).sum::<f64>() / of_kind.len() as f64;
            let name = if targets == TargetKind::InDomain { "accuracy" } else { "transfer_accuracy" };
            numbers.push((format!("validation/{name}"), mean(|row| row.accuracy)));
            numbers.push((format!("validation/{name}_low"), mean(|row| row.ci_low)));
            numbers.push((format!("validation/{name}_high"), mean(|row| row.ci_high)));
        }
    }
    let (silent, judged) = rows.iter().fold((0.0, 0.0), |(silent, judged), row| {
        let targets = row.targets_judged as f64;
        (silent + row.no_answer * targets, judged + targets)
    });
    if judged > 0.0 {
        numbers.push(("validation/no_answer".into(), silent / judged));
    }
    numbers
}

/// Returns an error of the validation as one of the training that it interrupts.
pub(crate) fn of_training(error: Error) -> TrainError {
    match error.kind {
        ErrorKind::Environment => TrainError::Environment(error.to_string()),
        _ => TrainError::Data(error.to_string()),
    }
}
