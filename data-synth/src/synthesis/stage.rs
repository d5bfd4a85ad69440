//! One stage of the synthesis, for many users at once: select targets, generate, verify, merge, re-test.

use chat::prompts::Candidate;
use chat::records::SignalRecord;
use chat::{Completer, CompletionRequest, Interaction, Message, PromptSet, Question, reasoning};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{PREFERENCE_SEPARATOR, SynthesisError, SynthesisSettings};
use crate::signal::{Verify, ask, question};

/// The input of a stage for one user.
pub(super) struct Part<'a> {
    pub past: Option<String>,
    pub read: &'a [Interaction],
    pub ahead: &'a [Interaction],
    pub signals: &'a [Option<SignalRecord>],
    pub rng: ChaCha8Rng,
}

/// The output of a stage for one user.
pub(super) struct SynthesizedRow {
    pub reasoning: String,
    pub preference: String,
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
    /// The number of users who passed.
    pub passed: usize,
}

/// The models and rules of a stage.
pub(super) struct Tools<'a> {
    pub teacher: &'a dyn Completer,
    pub prompts: &'a PromptSet,
    pub verify: Verify<'a>,
    pub config: &'a SynthesisSettings,
}

/// A candidate summary and the choice it was generated for.
struct Draft<'a> {
    user: usize,
    target: &'a Interaction,
    candidate: Candidate,
}

impl Tools<'_> {
    /// Runs the stage; returns one row for each user who passes.
    pub fn run(
        &self,
        parts: &[Part<'_>],
        report: &mut StageReport,
    ) -> Result<Vec<Option<SynthesizedRow>>, SynthesisError> {
        report.entered += parts.len();
        let mut rngs: Vec<ChaCha8Rng> = parts.iter().map(|p| p.rng.clone()).collect();
        let targets: Vec<Vec<&Interaction>> =
            parts.iter().zip(&mut rngs).map(|(part, rng)| self.targets(part, rng)).collect();
        report.few_targets += targets.iter().filter(|t| t.is_empty()).count();

        let drafts = self.generate(parts, &targets, &mut rngs, report)?;
        let correct = self.keep_correct(drafts, parts.len(), report)?;
        report.few_correct +=
            correct.iter().zip(&targets).filter(|(kept, targets)| kept.is_empty() && !targets.is_empty()).count();

        let merged = self.merge(parts, &correct, &mut rngs, report)?;
        let lessons = self.retest(merged, &correct, report)?;
        report.passed += lessons.iter().flatten().count();
        Ok(lessons)
    }

    /// Selects decidable choices ahead; empty if there are too few.
    fn targets<'a>(&self, part: &Part<'a>, rng: &mut ChaCha8Rng) -> Vec<&'a Interaction> {
        let decidable =
            |s: &Option<SignalRecord>| s.is_some_and(|s| s.logprob1.exp() > self.config.thresholds.target_probability);
        let ahead: Vec<&Interaction> =
            part.ahead.iter().zip(part.signals).filter(|(_, s)| decidable(s)).map(|(i, _)| i).collect();
        let chosen: Vec<&Interaction> =
            ahead.choose_multiple(rng, self.config.thresholds.most_targets).copied().collect();
        if chosen.len() < self.config.thresholds.least_targets.max(1) { Vec::new() } else { chosen }
    }

    /// Generates one candidate for each target; returns the well-formed ones.
    fn generate<'a>(
        &self,
        parts: &[Part<'_>],
        targets: &[Vec<&'a Interaction>],
        rngs: &mut [ChaCha8Rng],
        report: &mut StageReport,
    ) -> Result<Vec<Draft<'a>>, SynthesisError> {
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for (user, (part, targets)) in parts.iter().zip(targets).enumerate() {
            let rng = &mut rngs[user];
            for &target in targets {
                let rejected = target.rejected.as_deref().unwrap_or_default();
                let chosen_first = rng.random_bool(0.5);
                let (a, b) =
                    if chosen_first { (target.chosen.as_str(), rejected) } else { (rejected, target.chosen.as_str()) };
                let past = part.past.as_deref();
                let messages = self.prompts.teach(past, part.read, target.query.as_deref(), a, b)?;
                requests.push(self.request(messages, true, rng));
                asked.push((user, target));
            }
        }
        let answers = self.teacher.complete(&requests)?;
        report.candidates += answers.len();
        let drafts: Vec<Draft<'a>> = asked
            .into_iter()
            .zip(answers)
            .filter_map(|((user, target), answer)| {
                let parts = reasoning::split(&answer.text)?;
                let candidate = Candidate { reasoning: parts.reasoning.into(), preference: parts.summary.into() };
                Some(Draft { user, target, candidate })
            })
            .collect();
        report.malformed_candidates += requests.len() - drafts.len();
        Ok(drafts)
    }

    /// Keeps the candidates that predict their target, grouped by user; none for users with too few.
    fn keep_correct<'a>(
        &self,
        drafts: Vec<Draft<'a>>,
        users: usize,
        report: &mut StageReport,
    ) -> Result<Vec<Vec<Draft<'a>>>, SynthesisError> {
        let questions: Vec<Question> =
            drafts.iter().filter_map(|d| question(d.target, &d.candidate.preference)).collect();
        let verdicts = ask(self.verify, &questions)?;
        let mut correct: Vec<Vec<Draft<'a>>> = (0..users).map(|_| Vec::new()).collect();
        for (draft, probability) in drafts.into_iter().zip(verdicts) {
            if probability > 0.5 {
                correct[draft.user].push(draft);
            } else {
                report.wrong_candidates += 1;
            }
        }
        for kept in &mut correct {
            if kept.len() < self.config.thresholds.least_correct.max(1) {
                kept.clear();
            }
        }
        Ok(correct)
    }

    fn merge(
        &self,
        parts: &[Part<'_>],
        correct: &[Vec<Draft<'_>>],
        rngs: &mut [ChaCha8Rng],
        report: &mut StageReport,
    ) -> Result<Vec<Option<SynthesizedRow>>, SynthesisError> {
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for (user, kept) in correct.iter().enumerate().filter(|(_, kept)| !kept.is_empty()) {
            let candidates: Vec<Candidate> = kept.iter().map(|d| d.candidate.clone()).collect();
            let messages = self.prompts.merge(parts[user].past.as_deref(), &candidates)?;
            requests.push(self.request(messages, false, &mut rngs[user]));
            asked.push(user);
        }
        let mut merged: Vec<Option<SynthesizedRow>> = correct.iter().map(|_| None).collect();
        for (user, answer) in asked.into_iter().zip(self.teacher.complete(&requests)?) {
            merged[user] = read_merge(&answer.text);
            report.malformed_merges += usize::from(merged[user].is_none());
        }
        Ok(merged)
    }

    /// Drops merged summaries that do not predict enough of the targets that their candidates predicted.
    fn retest(
        &self,
        merged: Vec<Option<SynthesizedRow>>,
        correct: &[Vec<Draft<'_>>],
        report: &mut StageReport,
    ) -> Result<Vec<Option<SynthesizedRow>>, SynthesisError> {
        let mut questions = Vec::new();
        for (lesson, kept) in merged.iter().zip(correct) {
            if let Some(lesson) = lesson {
                questions.extend(kept.iter().filter_map(|d| question(d.target, &lesson.preference)));
            }
        }
        let mut verdicts = ask(self.verify, &questions)?.into_iter();
        let mut passed = Vec::new();
        for (lesson, kept) in merged.into_iter().zip(correct) {
            passed.push(lesson.filter(|_| {
                let right = verdicts.by_ref().take(kept.len()).filter(|&p| p > 0.5).count();
                let enough = right as f64 >= self.config.thresholds.retest * kept.len() as f64;
                report.failed_retest += usize::from(!enough);
                enough
            }));
        }
        Ok(passed)
    }

    fn request(&self, messages: Vec<Message>, thinking: bool, rng: &mut ChaCha8Rng) -> CompletionRequest {
        CompletionRequest {
            seed: rng.random(),
            thinking: Some(thinking),
            ..CompletionRequest::new(messages, self.config.sampling.clone())
        }
    }
}

/// Parses `reasoning |PREFERENCE| preference`. A model that thinks although told not to may wrap that in tags.
fn read_merge(answer: &str) -> Option<SynthesizedRow> {
    let (reasoning, preference) = reasoning::summary_leniently(answer).split_once(PREFERENCE_SEPARATOR)?;
    let (reasoning, preference) = (reasoning.trim(), preference.trim());
    let row = reasoning::join(reasoning, preference);
    // Do not train on what the reward would reject.
    reasoning::split(&row).map(|_| SynthesizedRow { reasoning: reasoning.into(), preference: preference.into() })
}
