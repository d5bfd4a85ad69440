//! Sentence attribution: what each sentence of a summary earns, as the change of the judge's probability when it is deleted.

use std::ops::Range;

use chat::Question;
use chat::prompts::NO_PAST;
use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

use crate::asking::{MeteredJudge, check, check_summaries, target_questions};
use crate::interval::interval;
use crate::plan::EvalProgress;
use crate::table::distinct;
use crate::{EvalError, EvalUser, TargetKind};

/// A sentence helps or hurts if it changes the probability of the user's choice by more than this.
pub const NOTICEABLE: f64 = 0.01;

/// What one sentence earns from one judge on the targets of one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentenceGain {
    /// The name of the judge.
    pub judge: String,
    /// The domain of the targets; `in-domain` or `transfer` for targets without one.
    pub domain: String,
    /// The number of targets.
    pub targets: usize,
    /// The mean probability of the user's choices with the whole summary.
    pub p_chosen: f64,
    /// The same without the sentence.
    pub p_without: f64,
    /// What the sentence earns: `p_chosen` − `p_without`, from −1 to 1.
    pub gain: f64,
}

/// A sentence of a summary. The texts of all sentences together are the summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedSentence {
    /// The text, with the white space after it.
    pub text: String,
    /// What it earns, for each judge and domain.
    pub gains: Vec<SentenceGain>,
}

impl ExplainedSentence {
    /// Returns the mean gain over judges and domains; 0 without any.
    pub fn gain(&self) -> f64 {
        self.gains.iter().map(|gain| gain.gain).sum::<f64>() / self.gains.len().max(1) as f64
    }
}

/// A summary with what each of its sentences earns: one entry of `explain.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedSummary {
    /// The id of the user.
    pub uid: String,
    /// The summary.
    pub summary: String,
    /// Its sentences, in order.
    pub sentences: Vec<ExplainedSentence>,
}

/// What sentences earn from one judge in one domain, over all users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttributionRow {
    /// The name of the judge.
    pub judge: String,
    /// The domain of the targets.
    pub domain: String,
    /// The number of users whose summary has a sentence.
    pub users: usize,
    /// The number of sentences.
    pub sentences: usize,
    /// The mean over users of the probability of their choices with the whole summary.
    pub p_chosen: f64,
    /// The mean over users of the mean gain of their sentences.
    pub gain: f64,
    /// The lower end of the 95 % interval over users.
    pub ci_low: f64,
    /// The upper end of the 95 % interval over users.
    pub ci_high: f64,
    /// The share of sentences that gain more than [`NOTICEABLE`].
    pub help: f64,
    /// The share of sentences that lose more than [`NOTICEABLE`].
    pub hurt: f64,
}

/// Splits a summary into sentences at the boundaries of Unicode (UAX #29), which include line breaks. Each sentence has the white
/// space after it, so that the sentences together are the summary. Returns nothing for a summary of white space.
pub fn sentences(summary: &str) -> Vec<&str> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for (at, piece) in summary.split_sentence_bound_indices() {
        let end = at + piece.len();
        if !piece.trim().is_empty() {
            ranges.push(start..end);
        } else if let Some(last) = ranges.last_mut() {
            last.end = end;
        } else {
            // White space at the start belongs to the first sentence.
            continue;
        }
        start = end;
    }
    ranges.into_iter().map(|range| &summary[range]).collect()
}

/// Returns a summary without sentence `index`, or the text for a missing summary if nothing is left.
fn without(sentences: &[&str], index: usize) -> String {
    let kept: String = sentences.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, text)| *text).collect();
    let kept = kept.trim();
    if kept.is_empty() { NO_PAST.into() } else { kept.into() }
}

/// Judges every summary whole and without each of its sentences, by every judge, on all targets of its user. `summaries` holds one
/// text per user. The questions about one summary follow each other, so a judge that caches prefixes reads the text before a deleted
/// sentence once.
///
/// # Errors
/// Returns [`EvalError`] if there are no judges or users, a user is invalid or lacks a summary, or a judge fails.
pub fn attribute(
    users: &[EvalUser],
    summaries: &[String],
    judges: &[MeteredJudge<'_>],
    requests_per_call: usize,
    progress: EvalProgress<'_>,
) -> Result<Vec<ExplainedSummary>, EvalError> {
    check(users, judges.len())?;
    check_summaries(users, summaries)?;
    let mut explained: Vec<ExplainedSummary> = users.iter().zip(summaries).map(unexplained).collect();
    let mut questions: Vec<Question> = Vec::new();
    for (user, summary) in users.iter().zip(summaries) {
        let parts = sentences(summary);
        questions.extend(target_questions(user, summary)?);
        for index in (0..parts.len()).rev() {
            questions.extend(target_questions(user, &without(&parts, index))?);
        }
    }
    for judge in judges {
        let what = format!("judge {} reads summaries without a sentence", judge.name);
        let (verdicts, _) = judge.ask(&questions, requests_per_call, &what, progress)?;
        let mut rest: &[_] = &verdicts;
        for (user, summary) in users.iter().zip(&mut explained) {
            let domains = domains(user);
            let (own, others) = rest.split_at(domains.len() * (summary.sentences.len() + 1));
            rest = others;
            let p: Vec<f64> = own.iter().map(|verdict| verdict.p_chosen).collect();
            let mut versions = p.chunks(domains.len());
            let whole = versions.next().unwrap_or_default();
            for (sentence, left) in summary.sentences.iter_mut().rev().zip(versions) {
                sentence.gains.extend(gains(judge.name, &domains, whole, left));
            }
        }
    }
    Ok(explained)
}

fn unexplained((user, summary): (&EvalUser, &String)) -> ExplainedSummary {
    let sentence = |text: &str| ExplainedSentence { text: text.into(), gains: Vec::new() };
    let parts = sentences(summary).into_iter().map(sentence).collect();
    ExplainedSummary { uid: user.uid.clone(), summary: summary.clone(), sentences: parts }
}

/// Returns the domain of each target, in the order of the questions.
fn domains(user: &EvalUser) -> Vec<String> {
    let named = |kind: TargetKind| {
        let of = move |target: &chat::Interaction| target.domain.clone().unwrap_or_else(|| kind.to_string());
        user.targets_of(kind).iter().map(of)
    };
    TargetKind::ALL.into_iter().flat_map(named).collect()
}

/// Returns what a sentence earns in each domain, given the probabilities with and without it, by target.
fn gains(judge: &str, domains: &[String], whole: &[f64], left: &[f64]) -> Vec<SentenceGain> {
    let gain = |domain: &String| {
        let here = || (0..domains.len()).filter(|&i| domains[i] == *domain);
        let targets = here().count();
        let mean = |p: &[f64]| here().map(|i| p[i]).sum::<f64>() / targets as f64;
        let (p_chosen, p_without) = (mean(whole), mean(left));
        let (judge, domain) = (judge.to_owned(), domain.clone());
        SentenceGain { judge, domain, targets, p_chosen, p_without, gain: p_chosen - p_without }
    };
    distinct(domains.iter()).into_iter().map(gain).collect()
}

/// Averages the gains of all summaries for each judge and domain, in the order of their first occurrence.
pub fn attribution_rows(explained: &[ExplainedSummary]) -> Vec<AttributionRow> {
    let all = || explained.iter().flat_map(|summary| &summary.sentences).flat_map(|sentence| &sentence.gains);
    let keys = distinct(all().map(|gain| (gain.judge.as_str(), gain.domain.as_str())));
    let row = |(judge, domain): (&str, &str)| {
        let here = |gain: &&SentenceGain| gain.judge == judge && gain.domain == domain;
        let mut by_user = Vec::new();
        let mut whole = Vec::new();
        for summary in explained {
            let own = || summary.sentences.iter().flat_map(|sentence| &sentence.gains).filter(here);
            if let Some(first) = own().next() {
                whole.push(first.p_chosen);
                by_user.push(own().map(|gain| gain.gain).sum::<f64>() / own().count() as f64);
            }
        }
        let over = interval(&by_user, -1.0..=1.0)?;
        let sentences = all().filter(here).count();
        let share = |of: &dyn Fn(f64) -> bool| {
            all().filter(here).filter(|gain| of(gain.gain)).count() as f64 / sentences as f64
        };
        Some(AttributionRow {
            judge: judge.into(),
            domain: domain.into(),
            users: by_user.len(),
            sentences,
            p_chosen: whole.iter().sum::<f64>() / whole.len() as f64,
            gain: over.mean,
            ci_low: over.low,
            ci_high: over.high,
            help: share(&|gain| gain > NOTICEABLE),
            hurt: share(&|gain| gain < -NOTICEABLE),
        })
    };
    keys.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_the_whole_summary() {
        for (summary, expected) in [
            ("Likes space. Avoids jazz!", vec!["Likes space. ", "Avoids jazz!"]),
            ("No full stop", vec!["No full stop"]),
            ("- likes space\n- avoids jazz\n", vec!["- likes space\n", "- avoids jazz\n"]),
            ("One.\n\nTwo?", vec!["One.\n\n", "Two?"]),
            (" \n Starts late. Costs 3.5 coins.", vec![" \n Starts late. ", "Costs 3.5 coins."]),
        ] {
            assert_eq!(sentences(summary), expected);
            assert_eq!(sentences(summary).concat(), summary);
        }
        assert!(sentences("").is_empty() && sentences(" \n").is_empty());
    }

    #[test]
    fn a_deleted_sentence_leaves_the_others_as_they_were() {
        let parts = sentences("One. Two. Three.");
        let left: Vec<String> = (0..3).map(|i| without(&parts, i)).collect();
        assert_eq!(left, ["Two. Three.", "One. Three.", "One. Two."]);
        assert_eq!(without(&["Alone."], 0), NO_PAST);
    }
}
