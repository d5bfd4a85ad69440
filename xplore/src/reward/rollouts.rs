//! Responses to score: recorded steps of a run, or given texts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use chat::history_items::both_kinds_defect;
use chat::records::{Checked, RowDefect};
use chat::{Interaction, Message};
use configs::RlConfig;
use rewards::{CompositionState, Reward};
use serde::Deserialize;
use serde_json::Value;
use trainer::grpo::group::{Group, GroupInput, Sample};
use trainer::grpo::replay::RecordedStep;

use crate::error::Error;
use crate::parts;

/// The responses of a step, or all given texts.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The step, counted from 1; 0 for given texts.
    pub step: u64,
    /// The groups.
    pub groups: Vec<Group>,
    /// What a run recorded beside the groups; `None` for given texts.
    pub recorded: Option<Recorded>,
}

/// What a run recorded beside the groups of a step.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The configuration of the run.
    pub config: RlConfig,
    /// The state of the reward before the step.
    pub reward_state: CompositionState,
}

/// A given text with its context.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRow {
    /// The whole response, reasoning included.
    pub text: String,
    /// Later choices of the user that the judges predict from the summary; the stage's own first.
    pub targets: Vec<Interaction>,
    /// ID of the user. Default: empty.
    #[serde(default, deserialize_with = "chat::fields::user_id")]
    pub uid: String,
    /// Stage, from 0. Default: 0.
    #[serde(default)]
    pub stage: usize,
    /// Name of the group that the response is compared within. Default: the rows with the same `uid` and `stage`.
    #[serde(default)]
    pub group: Option<String>,
    /// Length of the response in tokens. Default: its number of words.
    #[serde(default)]
    pub tokens: Option<usize>,
    /// Interactions that the prompt contains, oldest first. Default: none.
    #[serde(default)]
    pub history: Vec<Interaction>,
    /// Messages that the prompt contains, oldest first, in place of `history`. Default: none.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// Summary of the previous stage. Default: none.
    #[serde(default)]
    pub past_summary: Option<String>,
    /// Choices of the user in other domains. Default: none.
    #[serde(default)]
    pub transfer: Vec<Interaction>,
    /// Targets of the stage whose summary is `past_summary`. Default: none.
    #[serde(default)]
    pub past_targets: Vec<Interaction>,
    /// Reference summary. Default: none.
    #[serde(default)]
    pub reference: Option<String>,
}

/// The most tokens that a text can be said to have.
const MOST_TOKENS: usize = 1 << 24;

impl Checked for TextRow {
    fn defect(&self) -> Option<RowDefect> {
        let defect = |field, message: &str| Some(RowDefect { field, message: message.into() });
        if self.tokens.is_some_and(|tokens| tokens > MOST_TOKENS) {
            return defect("tokens", "is larger than 16777216; expected the number of tokens of the response");
        }
        if let Some(both) = both_kinds_defect("history", &self.history, &self.messages) {
            return Some(both);
        }
        if self.targets.is_empty() {
            return defect("targets", "is empty; add at least one choice {chosen, rejected} to judge the summary by");
        }
        let judged = self.targets.iter().all(|target| target.rejected.is_some());
        if judged { None } else { defect("targets", "has a choice without `rejected`; a judge compares two items") }
    }
}

/// Reads `path`: a run or its folder of rollouts, a recorded step (`step-N.safetensors`, or `step-N.jsonl` beside it), or a file of
/// JSON lines with texts ([`TextRow`]). Of a folder, all recorded steps in order, or only `step`.
///
/// # Errors
/// Returns an error if nothing can be read, or if a row is invalid.
pub fn read(path: &Path, step: Option<u64>) -> Result<Vec<Batch>, Error> {
    if path.is_dir() {
        return of_folder(path, step);
    }
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return only(vec![of_record(path)?], step, path);
    }
    if !path.exists() {
        return Err(Error::data(format!(
            "{}: no such file or folder; expected a run, a recorded step, or JSON lines",
            path.display()
        )));
    }
    if is_record(path)? {
        let beside = path.with_extension("safetensors");
        if !beside.exists() {
            return Err(Error::data(format!(
                "{}: has no targets to judge by, which {} would hold; record steps with log.replay = true, or give texts as JSON \
                 lines {{text, targets}}",
                path.display(),
                beside.display()
            )));
        }
        return only(vec![of_record(&beside)?], step, path);
    }
    if step.is_some() {
        return Err(Error::usage(format!("--step selects a recorded step, but {} holds texts", path.display())));
    }
    Ok(vec![Batch { step: 0, groups: of_texts(path)?, recorded: None }])
}

fn only(batches: Vec<Batch>, step: Option<u64>, path: &Path) -> Result<Vec<Batch>, Error> {
    let Some(step) = step else { return Ok(batches) };
    let kept: Vec<Batch> = batches.into_iter().filter(|batch| batch.step == step).collect();
    match kept.is_empty() {
        true => Err(Error::data(format!("{}: has no recorded step {step}", path.display()))),
        false => Ok(kept),
    }
}

fn of_folder(path: &Path, step: Option<u64>) -> Result<Vec<Batch>, Error> {
    let inside = path.join("rollouts");
    let folder = if inside.is_dir() { inside } else { path.to_path_buf() };
    let unreadable = |e: std::io::Error| Error::environment(format!("{}: cannot list: {e}", folder.display()));
    let mut files: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("step-").and_then(|rest| rest.strip_suffix(".safetensors"));
        if let Some(found) = number.and_then(|number| number.parse().ok()) {
            files.push((found, file.clone()));
        }
    }
    files.sort();
    let known: Vec<String> = files.iter().map(|(found, _)| found.to_string()).collect();
    files.retain(|(found, _)| step.is_none_or(|step| step == *found));
    match (files.is_empty(), step) {
        (true, Some(step)) if !known.is_empty() => Err(Error::data(format!(
            "{}: step {step} was not recorded; recorded steps: {}",
            folder.display(),
            known.join(", ")
        ))),
        (true, _) => Err(Error::data(format!(
            "{}: no recorded steps (step-N.safetensors); a run records a step every log.rollouts_every steps if log.replay = true",
            folder.display()
        ))),
        (false, _) => files.iter().map(|(_, file)| of_record(file)).collect(),
    }
}

fn of_record(path: &Path) -> Result<Batch, Error> {
    let RecordedStep { step, config, reward_state, groups, .. } = RecordedStep::read(path)?;
    let config: RlConfig = configs::parse(path, &config, &[])?;
    Ok(Batch { step, groups, recorded: Some(Recorded { config, reward_state }) })
}

/// Returns whether the first line of a file is one of a run's `rollouts/step-N.jsonl`.
fn is_record(path: &Path) -> Result<bool, Error> {
    use std::io::BufRead;
    let unreadable = |e: std::io::Error| Error::data(format!("{}: {e}", path.display()));
    let file = std::io::BufReader::new(std::fs::File::open(path).map_err(unreadable)?);
    for line in file.lines() {
        let line = line.map_err(unreadable)?;
        if !line.trim().is_empty() {
            let row: Option<Value> = serde_json::from_str(&line).ok();
            return Ok(row.is_some_and(|row| row.get("response").is_some() && row.get("advantage").is_some()));
        }
    }
    Ok(false)
}

fn of_texts(path: &Path) -> Result<Vec<Group>, Error> {
    let rows: Vec<TextRow> = parts::rows(path)?;
    let mut places: HashMap<(Option<String>, String, usize), usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (index, row) in rows.into_iter().enumerate() {
        let (sample, key, group) = parts_of(row, groups.len());
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(known) if (known.stage, &known.input) == (group.stage, &group.input) => known.samples.push(sample),
            Some(_) => {
                return Err(Error::data(format!(
                    "{}: row {}: differs from its group in the stage, the history, a summary or the targets; the responses of a \
                     group have the same context: give the row another `group`",
                    path.display(),
                    index + 1
                )));
            }
            None => groups.push(Group { samples: vec![sample], ..group }),
        }
    }
    Ok(groups)
}

/// Returns the sample of a row, what identifies its group, and the group without samples.
fn parts_of(row: TextRow, user: usize) -> (Sample, (Option<String>, String, usize), Group) {
    let TextRow {
        text,
        targets,
        uid,
        stage,
        group,
        tokens,
        history,
        messages,
        past_summary,
        transfer,
        past_targets,
        reference,
    } = row;
    let key = match group {
        Some(name) => (Some(name), String::new(), 0),
        None => (None, uid.clone(), stage),
    };
    let tokens = tokens.unwrap_or_else(|| text.split_whitespace().count());
    let sample = Sample {
        // Terms read the number of tokens only.
        ids: vec![0; tokens],
        rollout: Vec::new(),
        old: Vec::new(),
        reference: Vec::new(),
        text,
        truncated: false,
        p_chosen: None,
        verdicts: Vec::new(),
        no_answer: 0.0,
        reward: Reward { total: 0.0, scores: Vec::new(), parts: Vec::new(), well_formed: false },
    };
    let input = GroupInput { history, messages, past_summary, targets, transfer, past_targets, reference };
    let group = Group {
        user,
        uid,
        stage,
        continues: false,
        parent: None,
        prompt: Vec::new(),
        samples: Vec::new(),
        carried: Vec::new(),
        input,
    };
    (sample, key, group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = r#""targets":[{"query":"q","chosen":"a","rejected":"b"}]"#;

    fn texts(lines: &[String]) -> Result<Vec<Batch>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("texts.jsonl");
        std::fs::write(&file, lines.join("\n")).unwrap();
        read(&file, None)
    }

    #[test]
    fn texts_are_grouped_by_user_and_stage_or_by_name() {
        let row = |fields: &str| format!("{{\"text\":\"<think>t</think> a b c\",{TARGETS},{fields}}}");
        let lines = [
            row(r#""uid":"u""#),
            row(r#""uid":"v","tokens":7"#),
            row(r#""uid":"u""#),
            row(r#""uid":"u","stage":1"#),
            row(r#""uid":7"#),
            row(r#""uid":"x","group":"g""#),
            row(r#""uid":"y","group":"g""#),
        ];
        let batches = texts(&lines).unwrap();
        let [batch] = &batches[..] else { panic!("one batch") };
        let sizes: Vec<(&str, usize, usize)> =
            batch.groups.iter().map(|g| (g.uid.as_str(), g.stage, g.samples.len())).collect();
        assert_eq!(sizes, [("u", 0, 2), ("v", 0, 1), ("u", 1, 1), ("7", 0, 1), ("x", 0, 2)]);
        // Words where the number of tokens is not given.
        assert_eq!([&batch.groups[0], &batch.groups[1]].map(|g| g.samples[0].ids.len()), [4, 7]);
        assert_eq!((batch.step, batch.recorded.is_some()), (0, false));
    }

    #[test]
    fn rows_that_cannot_be_judged_or_compared_are_refused() {
        let said = |lines: &[String]| texts(lines).unwrap_err().to_string();
        let without = r#"{"text":"t","targets":[{"query":"q","chosen":"a"}]}"#.to_owned();
        assert!(said(&[without]).contains("texts.jsonl:1: field `targets` has a choice without `rejected`"));
        assert!(said(&[r#"{"text":"t","targets":[]}"#.into()]).contains("at least one choice"));
        let other = r#"{"text":"t","targets":[{"query":"q","chosen":"c","rejected":"b"}]}"#.to_owned();
        let message = said(&[format!("{{\"text\":\"t\",{TARGETS}}}"), other]);
        assert!(message.contains("row 2: differs from its group"), "{message}");
        let staged = |stage: usize| format!("{{\"text\":\"t\",{TARGETS},\"group\":\"g\",\"stage\":{stage}}}");
        let message = said(&[staged(0), staged(1)]);
        assert!(message.contains("row 2: differs from its group in the stage"), "{message}");
        let both = format!(
            "{{\"text\":\"t\",{TARGETS},\"history\":[{{\"chosen\":\"a\"}}],\"messages\":[{{\"role\":\"user\",\"content\":\"q\"}}]}}"
        );
        assert!(said(&[both]).contains("field `messages` is given beside `history`"));
        let endless = format!("{{\"text\":\"t\",{TARGETS},\"tokens\":{}}}", usize::MAX);
        assert!(said(&[endless]).contains("field `tokens` is larger than 16777216"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path, step| read(path, step).unwrap_err().to_string();
        assert!(said(folder.path(), None).contains("no recorded steps"));
        assert!(said(&folder.path().join("none.jsonl"), None).contains("no such file or folder"));
        let record = folder.path().join("step-000001.jsonl");
        std::fs::write(&record, r#"{"step":1,"response":"r","advantage":0.5}"#).unwrap();
        assert!(said(&record, None).contains("log.replay = true"));
        let file = folder.path().join("texts.jsonl");
        std::fs::write(&file, format!("{{\"text\":\"t\",{TARGETS}}}")).unwrap();
        assert!(said(&file, Some(3)).contains("holds texts"));
    }
}
