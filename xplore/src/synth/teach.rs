//! The step `teach`: the teacher summarizes scored histories, the verifier checks the summaries, and the merged ones become SFT rows.
//!
//! Every answer of both models goes to a journal in the folder of the step, so the step continues where it was interrupted.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use chat::completer::{CompleterError, Failures};
use chat::journaled::Journaled;
use chat::{Completer, Question};
use configs::judge::JudgePlacement;
use configs::synth::{OnError, VerifyBy};
use configs::{ModelSource, SynthConfig, SynthStep};
use data_synth::synthesis::{SynthesisError, SynthesisSettings, Verification};
use data_synth::teach::record::{Asked, AskedModels, TeachReport};
use data_synth::teach::{self, Metered, TeachJob, TeachProgress, TeachRunError};
use rewards::{Judge, JudgeError, Verdict};

use super::{StepContext, models};
use crate::error::{Error, ErrorKind};
use crate::{parts, wording};

/// Returns the file of the scored histories.
pub fn inputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    vec![context.input_or(SynthStep::Signal, "scored.jsonl")]
}

/// Returns the files of the rows and of what was done with each user. The report has times and costs, so it is none of them.
pub fn outputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    let folder = context.of(SynthStep::Teach);
    [teach::ROWS, teach::USERS].iter().map(|file| folder.join(file)).collect()
}

/// Runs the step, and returns a summary of the result.
///
/// # Errors
/// Returns an error if a model or a prompt set cannot be loaded, the histories cannot be read, a request fails (with
/// `teach.on_error = "skip"`: all of them), a file cannot be written, or no user passes.
pub fn run(context: &StepContext<'_>) -> Result<String, Error> {
    let folder = context.of(SynthStep::Teach);
    let config = effective(context.config, &folder);
    let input = hub::data(&context.input_or(SynthStep::Signal, "scored.jsonl"), &hub::HubSettings::from_environment())?;
    let prompts = parts::prompts(&config.prompts)?;
    let (teacher, verifier) = load(&config, &folder)?;
    let judge_prompts = wording::of_judge(&config.verifier)?;
    let judge = Judge::new(&*verifier, &judge_prompts, parts::judge_settings(&config.verifier, config.seed))?;
    let failures = if config.teach.on_error == OnError::Skip { Failures::Keep } else { Failures::Stop };
    let verify = |questions: &[Question]| -> Result<Vec<Result<Verification, String>>, CompleterError> {
        let verdicts = match config.teach.verify {
            VerifyBy::Answer => judge.choose_each(questions, failures),
            VerifyBy::Probability => judge.score_each(questions, failures),
        };
        let verdicts = verdicts.map_err(of_model)?;
        Ok(verdicts.into_iter().map(|verdict| verdict.map(|verdict| verification(&verdict))).collect())
    };
    let task = RefCell::new(context.reporter.task("teach"));
    let show = |progress: TeachProgress| {
        task.borrow_mut().at(progress.done as u64, progress.users as u64, &words(&progress));
    };
    let job = TeachJob {
        input: &input,
        folder: &folder,
        teacher: Metered { model: &*teacher, prices: config.teacher.prices },
        verifier: Metered { model: &*verifier, prices: config.teach.verifier_prices },
        verify: &verify,
        prompts: &prompts,
        settings: &settings(&config),
        max_users: config.teach.max_users,
        progress: &show,
    };
    let report = teach::run(&job).map_err(failed)?;
    let rows = report.synthesis.rows;
    task.into_inner().done(&format!("{rows} SFT rows"));
    check(&report, &folder)?;
    if let Some(first) = report.failed.first() {
        context.reporter.warn(&format!(
            "users left out because a request failed: {} (the first: {}: {}); --force asks for them again",
            report.failed_users, first.uid, first.message
        ));
    }
    Ok(summary(&report))
}

/// Returns the configuration with the journals of the step, and with the verifier of `teach.verify`.
fn effective(config: &SynthConfig, folder: &Path) -> SynthConfig {
    let (teacher, verifier) = teach::journals(folder);
    let mut config = SynthConfig { verifier: config.teaching_verifier(), ..config.clone() };
    let endpoints = [(&mut config.teacher.endpoint, teacher), (&mut config.verifier.endpoint, verifier)];
    for (endpoint, journal) in endpoints {
        if endpoint.is_given() && endpoint.journal.as_os_str().is_empty() {
            endpoint.journal = journal;
        }
    }
    config
}

/// A model that several callers share.
type SharedModel = Rc<dyn Completer>;

/// Loads teacher and verifier with their journals. If they are the same model in this process, they share its weights.
fn load(config: &SynthConfig, folder: &Path) -> Result<(SharedModel, SharedModel), Error> {
    let (teacher_file, verifier_file) = teach::journals(folder);
    let local_teacher = !config.teacher.world && !config.teacher.endpoint.is_given();
    let local_verifier = !config.verifier.endpoint.is_given();
    let same = config.teacher.model == config.verifier.model && config.verifier.placement == JudgePlacement::Resident;
    let teacher: SharedModel = Rc::from(models::teacher(config)?);
    let verifier: SharedModel = match local_teacher && local_verifier && same {
        true => Rc::clone(&teacher),
        false => Rc::from(models::completer(&config.verifier)?),
    };
    let kept = |model: SharedModel, local: bool, source: &ModelSource, file: &Path| match local {
        true => journaled(model, source, file),
        false => Ok(model),
    };
    Ok((
        kept(teacher, local_teacher, &config.teacher.model, &teacher_file)?,
        kept(verifier, local_verifier, &config.verifier.model, &verifier_file)?,
    ))
}

/// Returns a model in this process with a journal, to which each answer is written as soon as it is finished.
pub(super) fn journaled(model: SharedModel, source: &ModelSource, file: &Path) -> Result<SharedModel, Error> {
    let files = models::contents(&source.path).unwrap_or_else(|| source.path.clone());
    let identity = format!("{} {:?} {:?} {files}", env!("CARGO_PKG_VERSION"), source.dtype, source.device);
    let model = Journaled::open(model, identity, file).map_err(|e| Error::data(e.to_string()))?;
    Ok(Rc::new(model))
}

fn settings(config: &SynthConfig) -> SynthesisSettings {
    SynthesisSettings {
        thresholds: config.teach.thresholds.clone(),
        seed: config.seed,
        least_third: config.teach.least_third,
        sampling: parts::sampling(&config.teach.sampling),
        users_per_batch: config.teach.users_per_batch,
        separator: config.teach.separator.clone(),
        skip_failed: config.teach.on_error == OnError::Skip,
    }
}

fn verification(verdict: &Verdict) -> Verification {
    let chosen_first = match &verdict.orders[..] {
        [one] => Some(one.chosen_first),
        _ => None,
    };
    Verification { probability: verdict.p_chosen, chosen_first, answered: !verdict.malformed }
}

/// Returns the error of the verifier's model.
fn of_model(error: JudgeError) -> CompleterError {
    match error {
        JudgeError::Model { source: CompleterError::Request { message, .. }, .. } => CompleterError::Model(message),
        JudgeError::Model { source, .. } => source,
        other => CompleterError::Model(other.to_string()),
    }
}

/// Adds the fix, and what the answers in the journals are good for.
fn failed(error: TeachRunError) -> Error {
    let fix = match &error {
        TeachRunError::Synthesis(SynthesisError::User { .. }) => {
            "if the history is too long, lower signal.max_interactions; teach.on_error = \"skip\" leaves out such users; the \
             answers so far are kept"
        }
        TeachRunError::Synthesis(
            SynthesisError::Teacher(_) | SynthesisError::Verifier(_) | SynthesisError::Judge(_),
        ) => "the answers so far are kept: the same command continues",
        _ => return error.into(),
    };
    let error = Error::from(error);
    if error.kind == ErrorKind::Runtime { error.with_fix(fix) } else { error }
}

/// Returns an error if there is nothing to train on.
fn check(report: &TeachReport, folder: &Path) -> Result<(), Error> {
    let TeachReport { synthesis, failed_users, failed, .. } = report;
    if synthesis.rows > 0 {
        return Ok(());
    }
    let cause = failed.first().map(|first| format!("the first failed request: {}: {}", first.uid, first.message));
    // Whoever is neither too short nor without targets was lost to a request.
    let lost = synthesis.too_short + synthesis.first.few_targets + failed_users;
    if let (Some(cause), true) = (&cause, lost == synthesis.users) {
        return Err(Error::runtime(format!(
            "no user passed the synthesis, and a request of every user who is long enough failed; {cause}; correct it and run the \
             step again"
        )));
    }
    let cause = cause.map_or(String::new(), |cause| format!("; {cause}"));
    let (first, second) = (&synthesis.first, &synthesis.second);
    Err(Error::data(format!(
        "no user passed the synthesis. Of {} users, {} are too short (teach.least_third). Lost in the two stages: {} and {} to \
         too few targets (teach.thresholds.target_probability, least_targets), {} and {} to too few correct candidates, {} and \
         {} to malformed merges (teach.separator), {} and {} to the re-test, {failed_users} to failed requests; see {} and adjust \
         these keys{cause}",
        synthesis.users,
        synthesis.too_short,
        first.few_targets,
        second.few_targets,
        first.few_correct,
        second.few_correct,
        first.malformed_merges,
        second.malformed_merges,
        first.failed_retest,
        second.failed_retest,
        folder.join(teach::USERS).display(),
    )))
}

/// Describes the progress.
fn words(progress: &TeachProgress) -> String {
    let left = progress.seconds_left.map(|seconds| format!(", {} left", parts::duration(seconds)));
    let failed = match progress.failed_users {
        0 => String::new(),
        users => format!(", {users} users failed"),
    };
    format!("{} rows, {}{failed}{}", progress.rows, costs(&progress.asked), left.unwrap_or_default())
}

fn summary(report: &TeachReport) -> String {
    let TeachReport { synthesis, asked, .. } = report;
    format!(
        "{} SFT rows from {} users ({} passed both stages), {}",
        synthesis.rows,
        synthesis.users,
        synthesis.second.passed,
        costs(asked)
    )
}

/// Describes requests, tokens and, if there are prices, costs.
fn costs(asked: &AskedModels) -> String {
    let AskedModels { teacher, verifier } = asked;
    let sum = |of: fn(&Asked) -> u64| of(teacher) + of(verifier);
    let (requests, kept) = (sum(|a| a.requests), sum(|a| a.from_journal));
    let tokens = sum(|a| a.usage.prompt_tokens + a.usage.completion_tokens);
    let cost = teacher.cost + verifier.cost;
    let cost = if cost > 0.0 { format!(", cost {cost:.4}") } else { String::new() };
    format!("{requests} requests ({kept} from the journal), {tokens} tokens{cost}")
}

#[cfg(test)]
mod tests {
    use chat::completer::Usage;
    use configs::judge::JudgeMode;
    use data_synth::synthesis::SynthesisReport;
    use data_synth::teach::record::FailedUser;

    use super::*;
    use crate::reporter::Silent;

    fn config(text: &str) -> SynthConfig {
        configs::parse("synth.toml", &format!("steps = ['prune']\n{text}"), &[]).unwrap()
    }

    #[test]
    fn each_key_of_the_section_reaches_the_synthesis() {
        let of = |text: &str| settings(&config(text));
        let plain = of("");
        assert_eq!(plain, SynthesisSettings { users_per_batch: 64, ..SynthesisSettings::default() });
        let changed = of("seed = 7\n[teach]\nleast_third = 5\nseparator = '|PreferenceSEP|'\nusers_per_batch = 3\n\
                          on_error = 'skip'\n[teach.thresholds]\nretest = 0.5\n[teach.sampling]\ntemperature = 0.1\n");
        assert_eq!((changed.seed, changed.least_third, changed.users_per_batch), (7, 5, 3));
        assert_eq!((changed.separator.as_str(), changed.skip_failed), ("|PreferenceSEP|", true));
        assert_eq!((changed.thresholds.retest, changed.sampling.temperature), (0.5, 0.1));
    }

    #[test]
    fn journals_lie_in_the_folder_of_the_step_unless_the_endpoint_has_one() {
        let endpoint = "endpoint = { url = 'http://a/v1', model = 'm'";
        let given = config(&format!("[teacher]\n{endpoint} }}\n[verifier]\n{endpoint}, journal = 'mine.jsonl' }}\n"));
        let found = effective(&given, Path::new("teach"));
        assert_eq!(found.teacher.endpoint.journal, Path::new("teach/journal/teacher.jsonl"));
        assert_eq!(found.verifier.endpoint.journal, Path::new("mine.jsonl"));
        let context = StepContext { config: &given, folder: Path::new("out"), input: None, reporter: &Silent };
        assert_eq!(inputs(&context), [Path::new("out/signal/scored.jsonl")]);
        let files = ["out/teach/sft.jsonl", "out/teach/users.jsonl"].map(Path::new);
        assert_eq!(outputs(&context), files);
    }

    #[test]
    fn a_verifier_that_answers_is_sampled_and_wrong_without_an_answer() {
        let found = effective(&config("teach.verify = 'answer'"), Path::new("teach"));
        assert_eq!((found.verifier.mode, found.verifier.no_answer), (JudgeMode::Sampled, 0.0));
        let found = effective(&config(""), Path::new("teach"));
        assert_eq!((found.verifier.mode, found.verifier.no_answer), (JudgeMode::Forced, 0.5));
        assert_eq!(verification(&Verdict::new(0.7)).chosen_first, None);
    }

    #[test]
    fn an_empty_result_names_what_it_was_lost_to() {
        let synthesis = SynthesisReport { users: 5, too_short: 2, ..SynthesisReport::default() };
        let mut report = TeachReport { synthesis, ..TeachReport::default() };
        report.synthesis.first.few_targets = 3;
        let said = |report: &TeachReport| check(report, Path::new("runs/teach")).unwrap_err();
        let empty = said(&report);
        assert_eq!(empty.kind, ErrorKind::Data);
        let empty = empty.to_string();
        assert!(
            empty.contains("Of 5 users, 2 are too short") && empty.contains("3 and 0 to too few targets"),
            "{empty}"
        );
        assert!(empty.contains("runs/teach/users.jsonl") && !empty.contains("failed request:"), "{empty}");
        // One user failed, and one was lost otherwise: the failure is part of the message.
        report.synthesis.first.few_targets = 1;
        report.synthesis.first.few_correct = 1;
        report.failed_users = 1;
        report.failed = vec![FailedUser { uid: "u".into(), message: "no such model".into() }];
        let some = said(&report);
        assert!(some.kind == ErrorKind::Data && some.to_string().ends_with("request: u: no such model"), "{some}");
        // All who could be asked about failed.
        report.synthesis.first.few_correct = 0;
        report.failed_users = 2;
        let all = said(&report);
        assert!(all.kind == ErrorKind::Runtime && all.to_string().contains("u: no such model"), "{all}");
        report.synthesis.rows = 2;
        check(&report, Path::new("runs/teach")).unwrap();
    }

    #[test]
    fn an_error_of_a_model_keeps_its_kind_and_names_the_fix() {
        let judge = |source| of_model(JudgeError::Model { judge: "j".into(), source });
        let full = SynthesisError::Verifier(judge(CompleterError::OutOfMemory("full".into())));
        let full = failed(TeachRunError::Synthesis(full));
        assert!(full.kind == ErrorKind::Environment && !full.to_string().contains("continues"), "{full}");
        let down = SynthesisError::Teacher(CompleterError::Model("no answer".into()));
        let down = failed(TeachRunError::Synthesis(down));
        assert!(down.kind == ErrorKind::Runtime && down.to_string().ends_with("the same command continues"), "{down}");
        let refused = SynthesisError::User { uid: "u7".into(), message: "too long".into() };
        let refused = failed(TeachRunError::Synthesis(refused)).to_string();
        assert!(refused.contains("u7") && refused.contains("on_error") && !refused.contains("continues"), "{refused}");
        let unclear = judge(CompleterError::Request { index: 3, message: "refused".into() });
        assert!(matches!(unclear, CompleterError::Model(message) if message == "refused"));
    }

    #[test]
    fn costs_are_shown_only_with_prices() {
        let usage = Usage { prompt_tokens: 30, completion_tokens: 12 };
        let mut asked =
            AskedModels { teacher: Asked { requests: 5, from_journal: 2, usage, cost: 0.0 }, ..Default::default() };
        assert_eq!(costs(&asked), "5 requests (2 from the journal), 42 tokens");
        asked.verifier = Asked { requests: 4, cost: 0.25, ..Asked::default() };
        assert_eq!(costs(&asked), "9 requests (2 from the journal), 42 tokens, cost 0.2500");
    }
}
