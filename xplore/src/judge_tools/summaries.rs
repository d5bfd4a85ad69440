//! The summaries that judges read: written by a model, or given.

use std::collections::HashMap;
use std::path::PathBuf;

use chat::prompt_manifest::PromptTask;
use chat::records::{Checked, RowDefect};
use configs::ModelSource;
use evals::{EvalPlan, EvalUser, HistorySplit, model_summaries};
use serde::Deserialize;

use super::{JudgeSetup, REQUESTS_PER_CALL};
use crate::error::Error;
use crate::reporter::Reporter;
use crate::{generate, parts, wording};

/// The source of the summaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenSummaries {
    /// The model that writes them: the name of a model of an evaluation's configuration, or a folder, run or hub id.
    Model(String),
    /// A file of JSON lines `{uid, summary}`, as `xplore summarize` writes it. Other fields are ignored.
    File(PathBuf),
}

/// A summary of a file.
#[derive(Deserialize)]
struct SummaryRow {
    #[serde(deserialize_with = "chat::fields::user_id")]
    uid: String,
    summary: String,
}

impl Checked for SummaryRow {
    fn defect(&self) -> Option<RowDefect> {
        self.uid.is_empty().then(|| RowDefect { field: "uid", message: "is empty; expected the id of a user".into() })
    }
}

/// Returns one summary per user, in order.
///
/// # Errors
/// Returns an error if the model cannot be loaded or fails, or the file cannot be read, lacks a user, or has two summaries of one.
pub fn of_users(
    setup: &JudgeSetup,
    users: &[EvalUser],
    given: &GivenSummaries,
    reporter: &dyn Reporter,
) -> Result<Vec<String>, Error> {
    match given {
        GivenSummaries::Model(model) => written(setup, users, model, reporter),
        GivenSummaries::File(path) => {
            let mut found = HashMap::new();
            for row in parts::rows::<SummaryRow>(path)? {
                if let Some(SummaryRow { uid, .. }) = found.insert(row.uid.clone(), row) {
                    let path = path.display();
                    return Err(Error::data(format!("{path}: two summaries of user `{uid}`; keep one of them")));
                }
            }
            let of = |user: &EvalUser| {
                let row = found.get(&user.uid).map(|row| row.summary.clone());
                row.ok_or_else(|| {
                    let (path, uid) = (path.display(), &user.uid);
                    Error::data(format!("{path}: no summary of user `{uid}`; add one, or leave the user out"))
                })
            };
            users.iter().map(of).collect()
        }
    }
}

fn written(setup: &JudgeSetup, users: &[EvalUser], model: &str, reporter: &dyn Reporter) -> Result<Vec<String>, Error> {
    let named = setup.models.iter().find(|(name, _)| name == model).map(|(_, source)| source.clone());
    let source = named.unwrap_or_else(|| ModelSource { path: model.into(), ..setup.source.clone() });
    let prompts = wording::of_model(&setup.prompts, &source.path, PromptTask::Summarize)?;
    let used = wording::use_of_model("prompts", &setup.prompts, &source.path, PromptTask::Summarize)?;
    wording::announce(&[used], reporter);
    prompts.check_summaries(users.iter().map(EvalUser::items))?;
    let local = generate::load(&source)?;
    let plan = EvalPlan {
        settings: vec![setup.setting],
        split: HistorySplit::Halves,
        sampling: parts::sampling(&setup.sampling),
        seed: setup.seed,
        requests_per_call: REQUESTS_PER_CALL,
    };
    let mut task = reporter.task("summarize");
    let mut show = |words: &str, done: usize, total: usize| task.at(done as u64, total as u64, words);
    let records = model_summaries((model, &local), &prompts, (setup.setting, users), &plan, &mut show)?;
    task.done(&format!("{} users, {}", users.len(), setup.setting));
    Ok(records.into_iter().map(|record| record.summary).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use configs::EvalConfig;

    use super::*;
    use crate::Silent;

    #[test]
    fn given_summaries_belong_to_their_users() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summaries.jsonl");
        let setup = JudgeSetup::of_eval(&EvalConfig::default());
        let user = |uid: &str| EvalUser { uid: uid.into(), ..EvalUser::default() };
        let read = |text: &str, users: &[EvalUser]| {
            fs::write(&path, text).unwrap();
            of_users(&setup, users, &GivenSummaries::File(path.clone()), &Silent).map_err(|e| e.to_string())
        };
        let lines =
            "{\"uid\": 7, \"summary\": \"Seven.\", \"reasoning\": null}\n{\"uid\": \"a\", \"summary\": \"A.\"}\n";
        assert_eq!(read(lines, &[user("a"), user("7")]).unwrap(), ["A.", "Seven."]);
        let missing = read(lines, &[user("b")]).unwrap_err();
        assert!(missing.contains("summaries.jsonl") && missing.contains("no summary of user `b`"), "{missing}");
        let twice = read(&lines.replace("\"a\"", "7"), &[user("7")]).unwrap_err();
        assert!(twice.contains("two summaries of user `7`"), "{twice}");
    }
}
