//! Evaluation from a configuration.

use std::path::Path;

use chat::prompt_manifest::PromptTask;
use chat::{Completer, PromptSet};
use configs::{EvalConfig, EvalModel, RunConfig};
use distributed::World;
use evals::evaluate::evaluate;
use evals::evaluation::Evaluation;
use evals::{Contender, EvalPlan, EvalUser, Gain, HistorySplit, NamedJudge, Setting, files, table};
use lm::LocalModel;
use rewards::Judge;
use trainer::start;

use crate::error::Error;
use crate::reporter::Reporter;
use crate::{model_paths, parts, wording};

/// Name of the file in an evaluation's folder with one [`evals::UserScore`] per line.
pub const USER_SCORES: &str = "eval-users.jsonl";

/// Runs the evaluation of `config`, and writes config.toml, prompts.json, eval.json, eval-gains.json and eval-users.jsonl (the score of
/// each user) into the run's folder.
///
/// ```
/// use std::path::Path;
///
/// use xplore::{Silent, configs, eval, runtime};
///
/// # let folder = fixtures::policy::model_and_rows();
/// # let folder = folder.path().display();
/// let text = format!(
///     r#"
///     out = "{folder}"
///     prompts = "compact"
///     users = "{folder}/rl.jsonl"
///     settings = ["full"]
///     sampling = {{ max_new_tokens = 8 }}
///     models = [{{ name = "policy", model = {{ path = "{folder}/model", dtype = "fp32", device = "cpu" }} }}]
///
///     [[judges]]
///     name = "judge"
///     judge = {{ prompts = "compact", model = {{ path = "{folder}/model", dtype = "fp32", device = "cpu" }} }}
///     "#
/// );
/// let config: configs::EvalConfig = configs::parse(Path::new("eval.toml"), &text, &[])?;
/// runtime::init(config.threads)?;
/// let evaluation = eval::run(&config, &Silent)?;
/// println!("{}", eval::tables(&evaluation)?);
/// # Ok::<(), xplore::Error>(())
/// ```
///
/// # Errors
/// Returns an error if users, models or judges cannot be loaded, a judge fails, or a file cannot be written.
pub fn run(config: &EvalConfig, reporter: &dyn Reporter) -> Result<Evaluation, Error> {
    let mut users: Vec<EvalUser> = parts::rows(&config.users)?;
    if config.max_users > 0 {
        users.truncate(config.max_users);
    }
    let folder = config.folder();
    let mut config = config.clone();
    let models = model_paths::pin(model_paths::of_eval(&mut config), &World::single(), &folder, false, reporter)?;
    let config = &config;
    let prompts = wording::of_eval(config)?;
    parts::write(&folder.join("config.toml"), &config.resolved()?)?;
    model_paths::record(&folder, &models)?;
    wording::announce(&prompts, reporter);
    wording::write(&folder, &prompts)?;
    let evaluation = measure(config, &users, reporter)?;
    write(&folder, &evaluation)?;
    chat::jsonl::write(&folder.join(USER_SCORES), &evaluation.scores)?;
    Ok(evaluation)
}

/// Evaluates the models of `config` and, with `references`, the reference contenders: no summary, and, if all users' true preferences are
/// known, the true preferences of another user (if there is more than one user) and the oracle.
///
/// # Errors
/// Same as [`run`].
pub fn measure(config: &EvalConfig, users: &[EvalUser], reporter: &dyn Reporter) -> Result<Evaluation, Error> {
    let set_of = |m: &EvalModel| wording::of_model(&config.prompts, &m.model.path, PromptTask::Summarize);
    let sets = config.models.iter().map(set_of).collect::<Result<Vec<PromptSet>, Error>>()?;
    let of_messages = users.iter().any(|user| !user.messages.is_empty());
    let prompts = wording::of_histories(&config.prompts, &sets, of_messages)?;
    let histories = || users.iter().map(EvalUser::items);
    if config.settings.iter().any(|setting| *setting != Setting::Direct) {
        sets.iter().try_for_each(|set| set.check_summaries(histories()))?;
    }
    if config.references && config.settings.contains(&Setting::Direct) {
        prompts.check_histories(histories())?;
    }
    let models = config
        .models
        .iter()
        .map(|m| Ok((m.name.as_str(), start::load(&m.model)?)))
        .collect::<Result<Vec<(&str, LocalModel)>, Error>>()?;
    let judge_parts = config
        .judges
        .iter()
        .map(|j| Ok((wording::of_judge(&j.judge)?, parts::judge_model(&j.judge)?)))
        .collect::<Result<Vec<(PromptSet, Box<dyn Completer>)>, Error>>()?;
    let judges = config
        .judges
        .iter()
        .zip(&judge_parts)
        .map(|(j, (prompts, model))| Judge::new(&**model, prompts, parts::judge_settings(&j.judge, config.seed)))
        .collect::<Result<Vec<_>, _>>()?;
    let named: Vec<NamedJudge<'_>> =
        config.judges.iter().zip(&judges).map(|(j, judge)| NamedJudge { name: &j.name, judge, limit: None }).collect();
    let mut contenders = Vec::new();
    if config.references {
        contenders.push(Contender::none());
    }
    let truth_known = config.references && users.iter().all(|p| p.truth.is_some());
    if truth_known && users.len() > 1 {
        contenders.push(Contender::random());
    }
    contenders.extend(models.iter().zip(&sets).map(|((name, model), set)| Contender::prompted(*name, model, set)));
    if truth_known {
        contenders.push(Contender::oracle());
    }
    let plan = EvalPlan {
        settings: config.settings.clone(),
        split: HistorySplit::Halves,
        sampling: parts::sampling(&config.sampling),
        seed: config.seed,
        requests_per_call: 512,
    };
    let mut progress = reporter.task("eval");
    let mut show = |words: &str, done: usize, total: usize| progress.at(done as u64, total as u64, words);
    let evaluation = evaluate(users, &contenders, &named, &prompts, &plan, &mut show)?;
    let silent: usize = evaluation.scores.iter().map(|s| s.malformed).sum();
    let judged: usize = evaluation.scores.iter().map(|s| s.targets_judged).sum();
    progress.done(&format!("{} users, {judged} choices judged ({silent} without an answer)", users.len()));
    Ok(evaluation)
}

/// Returns the gains of the last model over the first model, or an empty list if there is only one model.
///
/// # Errors
/// Returns an error if the models were not evaluated on the same users.
pub fn gains(evaluation: &Evaluation) -> Result<Vec<Gain>, Error> {
    let mut names: Vec<&str> = evaluation.summaries.iter().map(|s| s.model.as_str()).collect();
    names.dedup();
    match (names.first(), names.last()) {
        (Some(first), Some(last)) if first != last => Ok(evaluation.gains(last, first)?),
        _ => Ok(Vec::new()),
    }
}

/// Writes eval.json and eval-gains.json.
///
/// # Errors
/// Returns an error if a file cannot be written.
pub fn write(folder: &Path, evaluation: &Evaluation) -> Result<(), Error> {
    Ok(files::write(folder, &evaluation.rows(), &gains(evaluation)?)?)
}

/// Returns the tables of an evaluation as text: accuracies, and gains if there are any.
///
/// # Errors
/// Same as [`gains`].
pub fn tables(evaluation: &Evaluation) -> Result<String, Error> {
    let gains = gains(evaluation)?;
    let mut text = table::accuracies(&evaluation.rows()).to_string();
    if !gains.is_empty() {
        text = format!("{text}\n{}", table::gains(&gains));
    }
    Ok(text)
}
