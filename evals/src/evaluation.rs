//! The results of an evaluation.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::interval::interval;
use crate::{EvalError, Setting, TargetKind};

/// The score of one user: how one judge predicted their choices from one contender's summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserScore {
    /// The name of the contender.
    pub model: String,
    /// How the history was read.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: TargetKind,
    /// The name of the judge.
    pub judge: String,
    /// The id of the user.
    pub uid: String,
    /// The share of the user's targets for which the judge gave the user's choice a probability above one half; exactly
    /// one half counts as one half.
    pub accuracy: f64,
    /// The number of targets.
    pub targets_judged: usize,
    /// The number of targets for which the judge gave no answer in at least one order of the items.
    pub malformed: usize,
}

/// The summary that a model wrote about a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryRecord {
    /// The name of the model.
    pub model: String,
    /// How the history was read.
    pub setting: Setting,
    /// The id of the user.
    pub uid: String,
    /// The summary of the first part, in `streaming`.
    pub past: Option<String>,
    /// The whole response, reasoning included; in `streaming`, that of the second part.
    pub response: String,
    /// The text that the judges read: the response after its last `</think>`.
    pub summary: String,
    /// Whether the response has exactly one `<think>…</think>` followed by text.
    pub well_formed: bool,
    /// The number of oldest interactions left out because the prompt was too long.
    pub dropped: usize,
}

/// One accuracy: a line of `eval.json`. Shares are from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    /// The name of the contender.
    pub model: String,
    /// How the history was read.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: TargetKind,
    /// The name of the judge.
    pub judge: String,
    /// The mean of the users' accuracies.
    pub accuracy: f64,
    /// The lower end of the 95 % interval over users.
    pub ci_low: f64,
    /// The upper end of the 95 % interval over users.
    pub ci_high: f64,
    /// The number of users.
    pub users: usize,
    /// The number of targets, over all users.
    pub targets_judged: usize,
    /// The share of these targets for which the judge gave no answer in at least one order of the items.
    pub no_answer: f64,
}

/// One paired difference: a line of `eval-gains.json`. Differences of shares are from −1 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The name of the contender.
    pub model: String,
    /// The name of the contender that it is compared with.
    pub baseline: String,
    /// How the history was read, by both.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: TargetKind,
    /// The name of the judge.
    pub judge: String,
    /// The mean over users of the accuracy with the model's summary minus the accuracy with the baseline's.
    pub gain: f64,
    /// The lower end of the 95 % interval over users.
    pub ci_low: f64,
    /// The upper end of the 95 % interval over users.
    pub ci_high: f64,
    /// The number of users.
    pub users: usize,
}

/// All results of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// One score per user and combination, in the order of evaluation.
    pub scores: Vec<UserScore>,
    /// One summary per model, setting and user.
    pub summaries: Vec<SummaryRecord>,
}

/// The key of one row of results: contender, setting, targets and judge.
type Combination<'a> = (&'a str, Setting, TargetKind, &'a str);

impl Evaluation {
    /// Returns one row for each combination of contender, setting, targets and judge, in the order of evaluation.
    pub fn rows(&self) -> Vec<EvalRow> {
        let row = |((model, setting, targets, judge), scores): (Combination<'_>, Vec<&UserScore>)| {
            let values: Vec<f64> = scores.iter().map(|s| s.accuracy).collect();
            let over = interval(&values, 0.0..=1.0)?;
            let targets_judged: usize = scores.iter().map(|s| s.targets_judged).sum();
            let silent: usize = scores.iter().map(|s| s.malformed).sum();
            Some(EvalRow {
                model: model.into(),
                setting,
                targets,
                judge: judge.into(),
                accuracy: over.mean,
                ci_low: over.low,
                ci_high: over.high,
                users: scores.len(),
                targets_judged,
                no_answer: silent as f64 / targets_judged as f64,
            })
        };
        self.combinations().into_iter().filter_map(row).collect()
    }

    /// Returns the gain of `model` over `baseline`, paired by user, for each combination of setting, targets and judge
    /// that both have.
    ///
    /// # Errors
    /// Returns [`EvalError::UnknownModel`] if either was not evaluated.
    pub fn gains(&self, model: &str, baseline: &str) -> Result<Vec<Gain>, EvalError> {
        let combinations = self.combinations();
        for name in [model, baseline] {
            if !combinations.iter().any(|(c, _)| c.0 == name) {
                let mut known: Vec<&str> = combinations.iter().map(|(c, _)| c.0).collect();
                known.dedup();
                return Err(EvalError::UnknownModel { name: name.into(), known: known.join(", ") });
            }
        }
        let gain = |((name, setting, targets, judge), scores): &(Combination<'_>, Vec<&UserScore>)| {
            let wanted = (baseline, *setting, *targets, *judge);
            let (_, others) = combinations.iter().find(|(c, _)| *name == model && *c == wanted)?;
            let before: HashMap<&str, f64> = others.iter().map(|s| (s.uid.as_str(), s.accuracy)).collect();
            let differences: Vec<f64> =
                scores.iter().filter_map(|s| Some(s.accuracy - before.get(s.uid.as_str())?)).collect();
            let over = interval(&differences, -1.0..=1.0)?;
            Some(Gain {
                model: model.into(),
                baseline: baseline.into(),
                setting: *setting,
                targets: *targets,
                judge: judge.to_string(),
                gain: over.mean,
                ci_low: over.low,
                ci_high: over.high,
                users: differences.len(),
            })
        };
        Ok(combinations.iter().filter_map(gain).collect())
    }

    /// Returns a model's summary of a user, if there is one.
    pub fn summary(&self, model: &str, setting: Setting, uid: &str) -> Option<&SummaryRecord> {
        self.summaries.iter().find(|s| (s.model.as_str(), s.setting, s.uid.as_str()) == (model, setting, uid))
    }

    fn combinations(&self) -> Vec<(Combination<'_>, Vec<&UserScore>)> {
        let mut places = HashMap::new();
        let mut combinations: Vec<(Combination<'_>, Vec<&UserScore>)> = Vec::new();
        for score in &self.scores {
            let combination = (score.model.as_str(), score.setting, score.targets, score.judge.as_str());
            let place = *places.entry(combination).or_insert_with(|| {
                combinations.push((combination, Vec::new()));
                combinations.len() - 1
            });
            combinations[place].1.push(score);
        }
        combinations
    }
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    fn evaluation(accuracies: &[(&str, &str, f64)]) -> Evaluation {
        let score = |&(model, uid, accuracy): &(&str, &str, f64)| UserScore {
            model: model.into(),
            setting: Setting::Full,
            targets: TargetKind::InDomain,
            judge: "training".into(),
            uid: uid.into(),
            accuracy,
            targets_judged: 4,
            malformed: 0,
        };
        Evaluation { scores: accuracies.iter().map(score).collect(), summaries: vec![] }
    }

    #[test]
    fn gains_are_paired_by_user() {
        // In another order, and with one user without a counterpart. Differences 0.25, 0.25, 0.5, 0: mean 0.25, s =
        // √(0.125 / 3) = 0.204124, t with 3 degrees of freedom 3.182446, half-width 3.182446 · 0.102062 = 0.324807.
        let found = evaluation(&[
            ("sft", "a", 0.0),
            ("sft", "b", 0.5),
            ("sft", "c", 0.5),
            ("sft", "d", 1.0),
            ("rl", "d", 1.0),
            ("rl", "c", 1.0),
            ("rl", "b", 0.75),
            ("rl", "a", 0.25),
            ("rl", "e", 0.0),
        ]);
        let gains = found.gains("rl", "sft").unwrap();
        assert_eq!(gains.len(), 1);
        assert_eq!((gains[0].users, gains[0].gain), (4, 0.25));
        assert_within!(gains[0].ci_low + 0.074_807, 1e-5);
        assert_within!(gains[0].ci_high - 0.574_807, 1e-5);
        let back = &found.gains("sft", "rl").unwrap()[0];
        assert_eq!((back.gain, back.ci_low), (-0.25, -gains[0].ci_high));
        // The users differ far more from each other than the models do on the same user: the unpaired interval of sft
        // alone is wider than that of the gain.
        let sft = &found.rows()[0];
        assert!(sft.ci_high - sft.ci_low > gains[0].ci_high - gains[0].ci_low);
    }

    #[test]
    fn the_share_without_an_answer_is_over_all_targets() {
        let mut found = evaluation(&[("sft", "a", 0.0), ("sft", "b", 0.5), ("rl", "a", 1.0)]);
        // Three of the eight targets of sft's two users.
        (found.scores[0].malformed, found.scores[1].malformed) = (1, 2);
        assert_eq!(found.rows().iter().map(|row| row.no_answer).collect::<Vec<_>>(), [3.0 / 8.0, 0.0]);
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let found = evaluation(&[("sft", "a", 0.0), ("rl", "a", 1.0)]);
        let error = found.gains("rl", "stf").unwrap_err().to_string();
        assert_eq!(error, "model `stf` was not evaluated; evaluated models: sft, rl");
    }
}
