//! `xplore eval`.

use std::path::Path;

use chat::{Completer, PromptSet};
use configs::{EvalConfig, RunConfig};
use evals::evaluate::{EvalJudge, Plan, evaluate};
use evals::evaluation::Evaluation;
use evals::{Contender, Person, Split, files, table};
use lm::LocalModel;
use rewards::Judge;
use trainer::start;

use crate::failure::Failure;
use crate::progress::Progress;
use crate::wiring;

/// Runs the command.
pub fn run(file: &Path, set: &[String]) -> Result<(), Failure> {
    let config: EvalConfig = configs::load(file, set)?;
    start::prepare_process(config.threads)?;
    let mut people: Vec<Person> = wiring::rows(&config.people)?;
    if config.max_people > 0 {
        people.truncate(config.max_people);
    }
    let folder = config.folder();
    wiring::write(&folder.join("config.toml"), &config.resolved()?)?;
    let evaluation = measure(&config, &people)?;
    write(&folder, &evaluation)?;
    Ok(())
}

/// Evaluates as `config` says: its models, and the bounds for orientation where the people's truth is known.
pub fn measure(config: &EvalConfig, people: &[Person]) -> Result<Evaluation, Failure> {
    let prompts = wiring::prompts(&config.prompts)?;
    let models = config
        .models
        .iter()
        .map(|m| Ok((m.name.as_str(), start::load(&m.model)?)))
        .collect::<Result<Vec<(&str, LocalModel)>, Failure>>()?;
    let judge_parts = config
        .judges
        .iter()
        .map(|j| Ok((wiring::prompts(&j.judge.prompts)?, wiring::judge_model(&j.judge)?)))
        .collect::<Result<Vec<(PromptSet, Box<dyn Completer>)>, Failure>>()?;
    let judges = config
        .judges
        .iter()
        .zip(&judge_parts)
        .map(|(j, (prompts, model))| Judge::new(&**model, prompts, wiring::judge_settings(&j.judge, config.seed)))
        .collect::<Result<Vec<_>, _>>()?;
    let named: Vec<EvalJudge<'_>> =
        config.judges.iter().zip(&judges).map(|(j, judge)| EvalJudge { name: &j.name, judge, limit: None }).collect();
    let mut contenders = vec![Contender::none()];
    let truth_known = people.iter().all(|p| p.truth.is_some());
    if truth_known && people.len() > 1 {
        contenders.push(Contender::random());
    }
    contenders.extend(models.iter().map(|(name, model)| Contender::model(*name, model)));
    if truth_known {
        contenders.push(Contender::oracle());
    }
    let plan = Plan {
        settings: wiring::settings(&config.settings),
        split: Split::Halves,
        sampling: wiring::sampling(&config.sampling),
        seed: config.seed,
        requests_per_call: 512,
    };
    let mut progress = Progress::new("eval");
    let mut show = |words: &str, done: usize, total: usize| progress.at(done as u64, total as u64, words);
    let evaluation = evaluate(people, &contenders, &named, &prompts, &plan, &mut show)?;
    let silent: usize = evaluation.scores.iter().map(|s| s.malformed).sum();
    let judged: usize = evaluation.scores.iter().map(|s| s.targets_judged).sum();
    progress.done(&format!("{} people, {judged} choices judged ({silent} without an answer)", people.len()));
    Ok(evaluation)
}

/// Writes eval.json and eval-gains.json and prints the tables. The gains are those of the last model over the first.
pub fn write(folder: &Path, evaluation: &Evaluation) -> Result<(), Failure> {
    let rows = evaluation.rows();
    let mut names: Vec<&str> = evaluation.summaries.iter().map(|s| s.model.as_str()).collect();
    names.dedup();
    let gains = match (names.first(), names.last()) {
        (Some(first), Some(last)) if first != last => evaluation.gains(last, first)?,
        _ => Vec::new(),
    };
    files::write(folder, &rows, &gains)?;
    println!("{}", table::accuracies(&rows));
    if !gains.is_empty() {
        println!("{}", table::gains(&gains));
    }
    Ok(())
}
