//! Where the released repository makes its prompts.
//!
//! The names of files, functions and variables are those of the release. Its variables that hold a value of a
//! [`chat::PromptSet`] are bound to the template field of that value.

use std::path::Path;

use super::evaluate::Scope;
use super::python::{ImportProblem, PythonFile};
use super::text::Text;
use super::value::{Items, PythonValue};

const SFT_ROWS: &str = "sft/postprocess.py";
const SYNTHESIS_FIRST: &str = "sft/stage1.py";
const SYNTHESIS_LATER: &str = "sft/stage2.py";
const RL_ROWS: &str = "verl/examples/data_preprocess/upi_streaming_dataset.py";
const RL_DATASET: &str = "verl/verl/utils/dataset/upi_dataset.py";
const RL_TRAINER: &str = "verl/verl/trainer/ppo/ray_trainer_streaming.py";
const REWARD: &str = "verl/verl/utils/reward_score/confidence_upi_streaming.py";
const FULL: &str = "eval/gen_preference.py";
const STREAMING: &str = "eval/streaming_gen_preference.py";
const SELECT: &str = "eval/evaluate_select.py";
const PAIR: &str = "eval/evaluate_rec_pair.py";
const DIRECT_SELECT: &str = "eval/evaluate_direct_select.py";
const DIRECT_PAIR: &str = "eval/evaluate_direct_rec_pair.py";

/// The files that are read.
pub(super) const FILES: [&str; 13] = [
    SFT_ROWS,
    SYNTHESIS_FIRST,
    SYNTHESIS_LATER,
    RL_ROWS,
    RL_DATASET,
    RL_TRAINER,
    REWARD,
    FULL,
    STREAMING,
    SELECT,
    PAIR,
    DIRECT_SELECT,
    DIRECT_PAIR,
];

/// The messages of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReleasedPrompt {
    pub system: Option<Text>,
    pub user: Text,
    /// Where the prompt is made.
    pub origin: PromptOrigin,
}

/// A function of the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PromptOrigin {
    pub file: &'static str,
    pub line: usize,
    pub function: &'static str,
}

/// The values of names.
type Names = Vec<(&'static str, PythonValue)>;

/// The parsed files.
pub(super) struct Release {
    files: Vec<PythonFile>,
}

impl Release {
    /// Reads the files.
    ///
    /// # Errors
    /// Every file that cannot be read.
    pub fn read(clone: &Path) -> Result<Self, Vec<ImportProblem>> {
        let (mut files, mut problems) = (Vec::new(), Vec::new());
        for path in FILES {
            match PythonFile::read(clone, path) {
                Ok(file) => files.push(file),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Self { files }) } else { Err(problems) }
    }

    /// Returns the summary prompt of the SFT rows.
    pub fn sft_summary(&self) -> Result<ReleasedPrompt, ImportProblem> {
        self.messages(SFT_ROWS, "build_input_prompt", history_and_past())
    }

    /// Returns the prompt with which the synthesis asks for a summary that helps to predict a later choice.
    pub fn teach(&self) -> Result<ReleasedPrompt, ImportProblem> {
        self.by_stage("build_preference_prompt", || {
            let mut names = history_and_past();
            names.push(("target", PythonValue::fields(&[("query", "query")])));
            names.extend(fields(&[("responseA", "item_a"), ("responseB", "item_b")]));
            names
        })
    }

    /// Returns the prompt with which the synthesis merges candidates.
    pub fn merge(&self) -> Result<ReleasedPrompt, ImportProblem> {
        let parts = || fields(&[("reasoning", "c.reasoning"), ("preference", "c.preference")]);
        let raw = |file| self.text(file, "main", Some("raw"), parts());
        let (first, later) = (raw(SYNTHESIS_FIRST)?, raw(SYNTHESIS_LATER)?);
        let candidate = Text::by_past(later, first);
        self.by_stage("build_merge_prompt", || {
            let element = Box::new(PythonValue::Text(candidate.clone()));
            vec![("raw_outputs_list", PythonValue::Items(Items { list: "candidates", item: "c", element }))]
        })
    }

    /// Returns the prompt with which the synthesis tests summaries.
    pub fn synthesis_judge(&self) -> Result<ReleasedPrompt, ImportProblem> {
        let first = self.messages(SYNTHESIS_FIRST, "build_evaluation_prompt", question())?;
        let later = self.messages(SYNTHESIS_LATER, "build_evaluation_prompt", question())?;
        same(first, &later)
    }

    /// Returns the summary prompt of RL. The trainer replaces the words for no past summary by the summary of the stage
    /// before, wherever they occur.
    pub fn rl_summary(&self) -> Result<ReleasedPrompt, ImportProblem> {
        let first = self.text(RL_ROWS, "process_dialogue", None, vec![("history", interactions())])?;
        let filled = vec![("p2", PythonValue::Text(first.clone())), ("filled_text", PythonValue::Past)];
        let later = self.text(RL_TRAINER, "_build_prompt2_text", None, filled)?;
        let prompt =
            |text| self.messages(RL_DATASET, "process_dialogue", vec![("prompt_text", PythonValue::Text(text))]);
        let (first, later) = (prompt(first)?, prompt(later)?);
        Ok(ReleasedPrompt { origin: self.origin(RL_ROWS, "process_dialogue")?, ..by_past(later, first)? })
    }

    /// Returns the judge prompt of the RL reward.
    pub fn reward_judge(&self) -> Result<ReleasedPrompt, ImportProblem> {
        let mut names = fields(&[("responseA", "item_a"), ("responseB", "item_b"), ("preference", "preference")]);
        names.push(("post", PythonValue::fields(&[("query", "query")])));
        self.messages(REWARD, "_reward_template_upi", names)
    }

    /// Returns the summary prompt of the evaluation with full histories.
    pub fn full_summary(&self) -> Result<ReleasedPrompt, ImportProblem> {
        self.messages(FULL, "build_prompt", history_and_past())
    }

    /// Returns the summary prompt of the streaming evaluation.
    pub fn streaming_summary(&self) -> Result<ReleasedPrompt, ImportProblem> {
        self.messages(STREAMING, "build_prompt", history_and_past())
    }

    /// Returns the judge prompt of the benchmarks of response selection.
    pub fn select_judge(&self) -> Result<ReleasedPrompt, ImportProblem> {
        same(self.evaluator(SELECT)?, &self.evaluator(DIRECT_SELECT)?)
    }

    /// Returns the judge prompt of the benchmarks of recommendation.
    pub fn pair_judge(&self) -> Result<ReleasedPrompt, ImportProblem> {
        same(self.evaluator(PAIR)?, &self.messages(DIRECT_PAIR, "build_prompt", question())?)
    }

    /// Returns the text of a history in the direct setting of response selection.
    pub fn select_history(&self) -> Result<ReleasedPrompt, ImportProblem> {
        let user = self.text(DIRECT_SELECT, "format_profile", None, vec![("history", interactions())])?;
        Ok(ReleasedPrompt { system: None, user, origin: self.origin(DIRECT_SELECT, "format_profile")? })
    }

    /// Returns the text of a history in the direct setting of recommendation.
    pub fn pair_history(&self) -> Result<ReleasedPrompt, ImportProblem> {
        let user = self.text(DIRECT_PAIR, "build_prompt", Some("persona"), vec![("history", interactions())])?;
        Ok(ReleasedPrompt { system: None, user, origin: self.origin(DIRECT_PAIR, "build_prompt")? })
    }

    fn evaluator(&self, file: &'static str) -> Result<ReleasedPrompt, ImportProblem> {
        let user = self.text(file, "format_prompt", None, question())?;
        let prompt = self.messages(file, "prepare_texts_for_inference", vec![("prop", PythonValue::Text(user))])?;
        Ok(ReleasedPrompt { origin: self.origin(file, "format_prompt")?, ..prompt })
    }

    /// Returns a prompt of the synthesis, whose first stage has no past summary and a file of its own.
    fn by_stage(&self, function: &'static str, names: impl Fn() -> Names) -> Result<ReleasedPrompt, ImportProblem> {
        let first = self.messages(SYNTHESIS_FIRST, function, names())?;
        let later = self.messages(SYNTHESIS_LATER, function, names())?;
        by_past(later, first)
    }

    fn file(&self, path: &'static str) -> Result<&PythonFile, ImportProblem> {
        let missing = || ImportProblem { file: path.into(), line: None, message: "was not read".into() };
        self.files.iter().find(|file| file.path() == path).ok_or_else(missing)
    }

    fn origin(&self, path: &'static str, function: &'static str) -> Result<PromptOrigin, ImportProblem> {
        let file = self.file(path)?;
        Ok(PromptOrigin { file: path, line: file.line(file.function(function)?), function })
    }

    /// Returns the text that a function returns or, with `variable`, assigns.
    fn text(
        &self,
        path: &'static str,
        function: &'static str,
        variable: Option<&str>,
        names: Names,
    ) -> Result<Text, ImportProblem> {
        let file = self.file(path)?;
        let node = file.function(function)?;
        let scope = Scope::new(file, node, names);
        let value = match variable {
            Some(variable) => scope.variable(variable)?,
            None => scope.returned()?,
        };
        let kind = value.kind();
        value.into_text().ok_or_else(|| file.problem(node, format!("`{function}` makes {kind}; expected a string")))
    }

    /// Returns the messages that a function assigns to `messages`.
    fn messages(
        &self,
        path: &'static str,
        function: &'static str,
        names: Names,
    ) -> Result<ReleasedPrompt, ImportProblem> {
        let file = self.file(path)?;
        let node = file.function(function)?;
        let value = Scope::new(file, node, names).variable("messages")?;
        let origin = PromptOrigin { file: path, line: file.line(node), function };
        conversation(value, origin).ok_or_else(|| {
            let expected = "expected an optional `system` and then a `user` message, with `role` and `content`";
            file.problem(node, format!("`{function}` makes other `messages`; {expected}"))
        })
    }
}

fn conversation(value: PythonValue, origin: PromptOrigin) -> Option<ReleasedPrompt> {
    let PythonValue::List(turns) = value else { return None };
    let turns: Vec<(String, Text)> = turns.into_iter().map(turn).collect::<Option<_>>()?;
    let (system, user) = match turns.as_slice() {
        [(first, user)] if first == "user" => (None, user),
        [(first, system), (second, user)] if first == "system" && second == "user" => (Some(system.clone()), user),
        _ => return None,
    };
    Some(ReleasedPrompt { system, user: user.clone(), origin })
}

fn turn(value: PythonValue) -> Option<(String, Text)> {
    let PythonValue::Dict(mut turn) = value else { return None };
    let role = turn.remove("role")?.into_text()?.as_constant()?.to_owned();
    let content = turn.remove("content")?.into_text()?;
    turn.is_empty().then_some((role, content))
}

/// Returns the prompt that is `given` if there is a past summary and else `missing`.
fn by_past(given: ReleasedPrompt, missing: ReleasedPrompt) -> Result<ReleasedPrompt, ImportProblem> {
    let system = match (given.system, missing.system) {
        (None, None) => None,
        (Some(given), Some(missing)) => Some(Text::by_past(given, missing)),
        _ => {
            let message = "has a system message with a past summary or without one only; expected both or none".into();
            return Err(ImportProblem { file: given.origin.file.into(), line: Some(given.origin.line), message });
        }
    };
    Ok(ReleasedPrompt { system, user: Text::by_past(given.user, missing.user), origin: given.origin })
}

/// Returns the prompt, which has to be the same in another file.
fn same(prompt: ReleasedPrompt, other: &ReleasedPrompt) -> Result<ReleasedPrompt, ImportProblem> {
    if prompt.system == other.system && prompt.user == other.user {
        return Ok(prompt);
    }
    let PromptOrigin { file, line, function } = &prompt.origin;
    let other = &other.origin;
    let expected = format!("expected the prompt of `{function}` at {file}:{line}");
    let message = format!("`{}` makes a prompt of its own; {expected}", other.function);
    Err(ImportProblem { file: other.file.into(), line: Some(other.line), message })
}

fn fields(names: &[(&'static str, &str)]) -> Names {
    names.iter().map(|(name, expression)| (*name, PythonValue::field(*expression))).collect()
}

fn interactions() -> PythonValue {
    let parts = [("query", "i.query"), ("chosen", "i.chosen"), ("rejected", "i.rejected")];
    PythonValue::Items(Items { list: "interactions", item: "i", element: Box::new(PythonValue::fields(&parts)) })
}

fn history_and_past() -> Names {
    vec![("history", interactions()), ("past", PythonValue::Past)]
}

/// The names of a question to a judge.
fn question() -> Names {
    fields(&[("prompt", "query"), ("response_a", "item_a"), ("response_b", "item_b"), ("persona", "preference")])
}
