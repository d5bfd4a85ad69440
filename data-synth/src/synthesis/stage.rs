//! One stage of the synthesis, for many users at once: select targets, generate, verify, merge, re-test.

use chat::completer::{CompleterError, Failures};
use chat::prompts::{Candidate, PromptError};
use chat::records::SignalRecord;
use chat::{
    Completer, Completion, CompletionRequest, HistoryItems, Interaction, Message, PromptSet, Question, reasoning,
};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{SynthesisError, SynthesisSettings, Verification, VerifyEach};
use crate::signal::{VerifyError, question};
use crate::teach::record::{TaughtCandidate, TaughtStage};

/// The number of steps of a stage that ask a model.
pub(super) const STEPS: usize = 4;

/// The input of a stage for one user.
pub(super) struct Part<'a> {
    pub uid: &'a str,
    pub past: Option<String>,
    pub read: HistoryItems<'a>,
    pub ahead: &'a [Interaction],
    pub signals: &'a [Option<SignalRecord>],
    pub rng: ChaCha8Rng,
}

/// The output of a stage for one user who passes.
pub(super) struct SynthesizedRow {
    pub reasoning: String,
    pub preference: String,
}

/// What a stage did with one user.
pub(super) struct StageOutcome {
    pub row: Option<SynthesizedRow>,
    pub record: TaughtStage,
    pub error: Option<String>,
}

/// The numbers of users and candidates lost in a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// The number of users who entered.
    pub entered: usize,
    /// The number of users lost to too few decidable targets.
    pub few_targets: usize,
    /// The number of candidate summaries generated.
    pub candidates: usize,
    /// The number of candidates without well-formed reasoning and summary.
    pub malformed_candidates: usize,
    /// The number of candidates that did not predict their target.
    pub wrong_candidates: usize,
    /// The number of users lost to too few correct candidates.
    pub few_correct: usize,
    /// The number of users lost to a malformed merge.
    pub malformed_merges: usize,
    /// The number of users lost to the re-test of the merged summary.
    pub failed_retest: usize,
    /// The number of users lost to a request that failed.
    #[serde(default)]
    pub failed_requests: usize,
    /// The number of users who passed.
    pub passed: usize,
}

/// The models and rules of a stage.
pub(super) struct Tools<'a> {
    pub teacher: &'a dyn Completer,
    pub prompts: &'a PromptSet,
    pub verify: VerifyEach<'a>,
    pub config: &'a SynthesisSettings,
    /// Called after each of the [`STEPS`], with its index.
    pub observe: &'a dyn Fn(usize),
    /// Called after each answer of the teacher.
    pub answered: &'a dyn Fn(),
}

/// A user on the way through the stage.
struct Student<'p> {
    part: &'p Part<'p>,
    rng: ChaCha8Rng,
    targets: Vec<&'p Interaction>,
    /// The candidates that predict their target, if there are enough of them.
    correct: Vec<usize>,
    row: Option<SynthesizedRow>,
    record: TaughtStage,
    error: Option<String>,
}

impl<'p> Student<'p> {
    /// Selects decidable choices ahead; none if there are too few.
    fn new(part: &'p Part<'p>, config: &SynthesisSettings) -> Self {
        let thresholds = &config.thresholds;
        let mut rng = part.rng.clone();
        let decidable = |s: &Option<SignalRecord>| s.is_some_and(|s| s.logprob1.exp() > thresholds.target_probability);
        let ahead: Vec<&Interaction> =
            part.ahead.iter().zip(part.signals).filter(|(_, s)| decidable(s)).map(|(i, _)| i).collect();
        let mut targets: Vec<&Interaction> =
            ahead.choose_multiple(&mut rng, thresholds.most_targets).copied().collect();
        if targets.len() < thresholds.least_targets.max(1) {
            targets.clear();
        }
        let record = TaughtStage {
            past: part.past.clone(),
            targets: targets.iter().copied().cloned().collect(),
            ..TaughtStage::default()
        };
        Self { part, rng, targets, correct: Vec::new(), row: None, record, error: None }
    }

    /// Leaves the user out. The first error counts.
    fn fail(&mut self, message: String) {
        self.error.get_or_insert(message);
    }

    fn past(&self) -> Option<&'p str> {
        self.part.past.as_deref()
    }

    /// Returns the end of the stage, and counts it.
    fn finish(mut self, report: &mut StageReport) -> StageOutcome {
        let (count, outcome) = if self.error.is_some() {
            self.row = None;
            (&mut report.failed_requests, "failed_request")
        } else if self.targets.is_empty() {
            (&mut report.few_targets, "few_targets")
        } else if self.correct.is_empty() {
            (&mut report.few_correct, "few_correct")
        } else if self.record.merged.is_none() {
            (&mut report.malformed_merges, "malformed_merge")
        } else if self.row.is_none() {
            (&mut report.failed_retest, "failed_retest")
        } else {
            (&mut report.passed, "passed")
        };
        *count += 1;
        self.record.outcome = outcome.into();
        StageOutcome { row: self.row, record: self.record, error: self.error }
    }
}

impl Tools<'_> {
    /// Runs the stage; returns one outcome for each part.
    pub fn run(&self, parts: &[Part<'_>], report: &mut StageReport) -> Result<Vec<StageOutcome>, SynthesisError> {
        report.entered += parts.len();
        let mut students: Vec<Student<'_>> = parts.iter().map(|part| Student::new(part, self.config)).collect();
        self.generate(&mut students, report)?;
        (self.observe)(0);
        self.keep_correct(&mut students, report)?;
        (self.observe)(1);
        self.merge(&mut students)?;
        (self.observe)(2);
        self.retest(&mut students)?;
        (self.observe)(3);
        Ok(students.into_iter().map(|student| student.finish(report)).collect())
    }

    /// Generates one candidate for each target.
    fn generate(&self, students: &mut [Student<'_>], report: &mut StageReport) -> Result<(), SynthesisError> {
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for (index, student) in students.iter_mut().enumerate() {
            for target in 0..student.targets.len() {
                let chosen_first = student.rng.random_bool(0.5);
                let messages = self.teach(student, target, chosen_first)?;
                requests.push(self.request(messages, true, &mut student.rng));
                asked.push((index, target, chosen_first));
            }
        }
        let answers = self.complete(&requests, &|request| students[asked[request].0].part.uid)?;
        for ((index, target, chosen_first), answer) in asked.into_iter().zip(answers) {
            let student = &mut students[index];
            let text = match answer {
                Ok(completion) => completion.text,
                Err(message) => {
                    student.fail(message);
                    continue;
                }
            };
            report.candidates += 1;
            let (reasoning, summary) = match reasoning::split(&text) {
                Some(parts) => (parts.reasoning.to_owned(), parts.summary.to_owned()),
                None => {
                    report.malformed_candidates += 1;
                    (text, String::new())
                }
            };
            let candidate = TaughtCandidate { target, chosen_first, reasoning, summary, ..TaughtCandidate::default() };
            student.record.candidates.push(candidate);
        }
        Ok(())
    }

    /// Renders the teacher's prompt about a target.
    fn teach(&self, student: &Student<'_>, target: usize, chosen_first: bool) -> Result<Vec<Message>, PromptError> {
        let Interaction { query, chosen, rejected, .. } = student.targets[target];
        let (chosen, rejected) = (chosen.as_str(), rejected.as_deref().unwrap_or_default());
        let (a, b) = if chosen_first { (chosen, rejected) } else { (rejected, chosen) };
        self.prompts.teach(student.past(), student.part.read, query.as_deref(), a, b)
    }

    /// Keeps the candidates that predict their target; none for users with too few.
    fn keep_correct(&self, students: &mut [Student<'_>], report: &mut StageReport) -> Result<(), SynthesisError> {
        let (mut questions, mut asked) = (Vec::new(), Vec::new());
        for (index, student) in students.iter().enumerate().filter(|(_, student)| student.error.is_none()) {
            for (place, candidate) in student.record.candidates.iter().enumerate() {
                let well_formed = Some(student.targets[candidate.target]).filter(|_| !candidate.summary.is_empty());
                if let Some(question) = well_formed.and_then(|target| question(target, &candidate.summary)) {
                    questions.push(question);
                    asked.push((index, place));
                }
            }
        }
        for ((index, place), answer) in asked.into_iter().zip(self.ask(&questions)?) {
            let student = &mut students[index];
            match answer {
                Ok(Verification { probability, chosen_first, answered }) => {
                    let right = probability > 0.5;
                    report.wrong_candidates += usize::from(!right);
                    let candidate = &mut student.record.candidates[place];
                    candidate.verdict = Some(probability);
                    candidate.verifier_chosen_first = chosen_first;
                    candidate.verifier_chose_a = chosen_first.filter(|_| answered).map(|first| first == right);
                    if right {
                        student.correct.push(place);
                    }
                }
                Err(message) => student.fail(message),
            }
        }
        for student in students {
            if student.error.is_some() || student.correct.len() < self.config.thresholds.least_correct.max(1) {
                student.correct.clear();
            }
        }
        Ok(())
    }

    /// Merges the correct candidates.
    fn merge(&self, students: &mut [Student<'_>]) -> Result<(), SynthesisError> {
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for (index, student) in students.iter_mut().enumerate().filter(|(_, student)| !student.correct.is_empty()) {
            let candidate = |&place: &usize| {
                let TaughtCandidate { reasoning, summary, .. } = &student.record.candidates[place];
                Candidate { reasoning: reasoning.clone(), preference: summary.clone() }
            };
            let candidates: Vec<Candidate> = student.correct.iter().map(candidate).collect();
            let messages = self.prompts.merge(student.past(), &candidates)?;
            requests.push(self.request(messages, false, &mut student.rng));
            asked.push(index);
        }
        let answers = self.complete(&requests, &|request| students[asked[request]].part.uid)?;
        for (index, answer) in asked.into_iter().zip(answers) {
            let student = &mut students[index];
            match answer {
                Ok(completion) => {
                    student.row = read_merge(&completion.text, &self.config.separator);
                    student.record.merged = student.row.as_ref().map(|row| row.preference.clone());
                    student.record.merged_reasoning = student.row.as_ref().map(|row| row.reasoning.clone());
                }
                Err(message) => student.fail(message),
            }
        }
        Ok(())
    }

    /// Drops merged summaries that do not predict enough of the targets that their candidates predicted.
    fn retest(&self, students: &mut [Student<'_>]) -> Result<(), SynthesisError> {
        let (mut questions, mut asked) = (Vec::new(), Vec::new());
        for (index, student) in students.iter().enumerate() {
            if let Some(row) = &student.row {
                for &place in &student.correct {
                    let target = student.targets[student.record.candidates[place].target];
                    if let Some(question) = question(target, &row.preference) {
                        questions.push(question);
                        asked.push(index);
                    }
                }
            }
        }
        for (index, answer) in asked.into_iter().zip(self.ask(&questions)?) {
            match answer {
                Ok(verification) => students[index].record.retest.push(verification.probability),
                Err(message) => students[index].fail(message),
            }
        }
        for student in students {
            let right = student.record.retest.iter().filter(|&&probability| probability > 0.5).count();
            if (right as f64) < self.config.thresholds.retest * student.correct.len() as f64 {
                student.row = None;
            }
        }
        Ok(())
    }

    /// Sends requests to the teacher. With `skip_failed`, a request that fails leaves the others; otherwise `uid` tells whose it is.
    fn complete<'u>(
        &self,
        requests: &[CompletionRequest],
        uid: &dyn Fn(usize) -> &'u str,
    ) -> Result<Vec<Result<Completion, String>>, SynthesisError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let failures = if self.config.skip_failed { Failures::Keep } else { Failures::Stop };
        let mut done = |_: usize, _: &Completion| {
            (self.answered)();
            Ok(())
        };
        let answers = self.teacher.complete_with(requests, failures, &mut done).map_err(|error| match error {
            CompleterError::Request { index, message } if index < requests.len() => {
                SynthesisError::User { uid: uid(index).into(), message }
            }
            other => other.into(),
        })?;
        if answers.len() != requests.len() {
            let message = format!("it answered {} of {} requests", answers.len(), requests.len());
            return Err(CompleterError::Model(message).into());
        }
        Ok(answers)
    }

    /// Asks the verifier and checks that every answer is a probability.
    fn ask(&self, questions: &[Question]) -> Result<Vec<Result<Verification, String>>, SynthesisError> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let answers = (self.verify)(questions).map_err(SynthesisError::Verifier)?;
        if answers.len() != questions.len() {
            return Err(VerifyError::Answers { answers: answers.len(), questions: questions.len() }.into());
        }
        for (index, answer) in answers.iter().enumerate() {
            match answer {
                Ok(found) if !(0.0..=1.0).contains(&found.probability) => {
                    return Err(VerifyError::Probability { index, value: found.probability }.into());
                }
                Err(message) if !self.config.skip_failed => {
                    return Err(SynthesisError::Verifier(CompleterError::Model(message.clone())));
                }
                _ => {}
            }
        }
        Ok(answers)
    }

    fn request(&self, messages: Vec<Message>, thinking: bool, rng: &mut ChaCha8Rng) -> CompletionRequest {
        CompletionRequest {
            seed: rng.random(),
            thinking: Some(thinking),
            ..CompletionRequest::new(messages, self.config.sampling.clone())
        }
    }
}

/// Parses `reasoning SEPARATOR preference`. A model that thinks although told not to may wrap that in tags.
fn read_merge(answer: &str, separator: &str) -> Option<SynthesizedRow> {
    let (reasoning, preference) = reasoning::summary_leniently(answer).split_once(separator)?;
    let (reasoning, preference) = (reasoning.trim(), preference.trim());
    let row = reasoning::join(reasoning, preference);
    // Do not train on what the reward would reject.
    reasoning::split(&row).map(|_| SynthesizedRow { reasoning: reasoning.into(), preference: preference.into() })
}
