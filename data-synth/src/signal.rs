//! How decidable every choice is for a judge, with and without knowledge of the user.

use chat::records::{Checked, RowDefect, SignalRecord};
use chat::{History, Question};
use serde::{Deserialize, Serialize};

/// The floor of probabilities, which keeps logarithms finite.
const LEAST_PROBABILITY: f64 = 1e-6;

/// The judge as a function: for each question, the probability of the item that the user chose.
pub type Verify<'a> = &'a dyn Fn(&[Question]) -> Result<Vec<f64>, String>;

/// A history with one record per interaction; `None` where there was no second item to choose from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredHistory {
    /// The id of the user.
    pub uid: String,
    /// The interactions, oldest first.
    pub interactions: Vec<chat::Interaction>,
    /// How decidable each choice is.
    pub signals: Vec<Option<SignalRecord>>,
    /// Choices of the user in other domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transfer: Vec<chat::Interaction>,
}

impl Checked for ScoredHistory {
    fn defect(&self) -> Option<RowDefect> {
        let (signals, interactions) = (self.signals.len(), self.interactions.len());
        (signals != interactions).then(|| RowDefect {
            field: "signals",
            message: format!("has {signals} entries for {interactions} interactions; expected one for each"),
        })
    }
}

/// The error when the judge makes scoring, pruning or synthesis impossible.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The judge itself failed.
    #[error("the judge failed: {0}")]
    Failed(String),
    /// The judge did not answer every question.
    #[error("the judge returned {answers} answers for {questions} questions; expected one for each")]
    Answers {
        /// The number of answers received.
        answers: usize,
        /// The number of questions asked.
        questions: usize,
    },
    /// The judge's answer is not a probability.
    #[error("the judge returned {value} for question {index}; expected a probability from 0 to 1")]
    Probability {
        /// The index of the question, starting at 0.
        index: usize,
        /// The value received.
        value: f64,
    },
    /// The number of summaries differs from the number of histories.
    #[error("{summaries} summaries for {histories} histories; expected one for each")]
    Summaries {
        /// The number of summaries.
        summaries: usize,
        /// The number of histories.
        histories: usize,
    },
}

/// Asks the judge and checks that every answer is a probability.
pub(crate) fn ask(verify: Verify<'_>, questions: &[Question]) -> Result<Vec<f64>, VerifyError> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let answers = verify(questions).map_err(VerifyError::Failed)?;
    if answers.len() != questions.len() {
        return Err(VerifyError::Answers { answers: answers.len(), questions: questions.len() });
    }
    match answers.iter().position(|p| !(0.0..=1.0).contains(p)) {
        Some(index) => Err(VerifyError::Probability { index, value: answers[index] }),
        None => Ok(answers),
    }
}

/// Scores every choice between two items: `logprob1` with `informed[i]` as user i's summary (in the built-in world, the
/// oracle's), `logprob2` with `uninformed`, and their difference, the signal. Calls the judge once for all choices.
///
/// # Errors
/// Returns [`VerifyError`] if the judge fails, or the number of summaries differs from the number of users.
pub fn score(
    histories: &[History],
    informed: &[String],
    uninformed: &str,
    verify: Verify<'_>,
) -> Result<Vec<ScoredHistory>, VerifyError> {
    if histories.len() != informed.len() {
        return Err(VerifyError::Summaries { summaries: informed.len(), histories: histories.len() });
    }
    let mut questions = Vec::new();
    for (history, informed) in histories.iter().zip(informed) {
        for interaction in &history.interactions {
            for preference in [informed.as_str(), uninformed] {
                questions.extend(question(interaction, preference));
            }
        }
    }
    let mut answers = ask(verify, &questions)?.into_iter().map(|p| p.max(LEAST_PROBABILITY).ln());
    let mut record = |interaction: &chat::Interaction| {
        interaction.rejected.as_ref()?;
        let (logprob1, logprob2) = (answers.next()?, answers.next()?);
        Some(SignalRecord { logprob1, logprob2, signal: logprob1 - logprob2 })
    };
    Ok(histories
        .iter()
        .map(|h| ScoredHistory {
            uid: h.uid.clone(),
            interactions: h.interactions.clone(),
            signals: h.interactions.iter().map(&mut record).collect(),
            transfer: h.transfer.clone(),
        })
        .collect())
}

/// Returns the choice as a question to a judge, if there was a second item to choose from.
pub fn question(interaction: &chat::Interaction, preference: &str) -> Option<Question> {
    Some(Question {
        query: interaction.query.clone(),
        preference: preference.into(),
        chosen: interaction.chosen.clone(),
        rejected: interaction.rejected.clone()?,
    })
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;
    use crate::ideal;

    fn history() -> History {
        let choice = |chosen: &str, rejected: Option<&str>| chat::Interaction {
            chosen: chosen.into(),
            rejected: rejected.map(Into::into),
            ..chat::Interaction::default()
        };
        let interactions = vec![
            choice("a witty note", Some("a long note")),
            choice("a note", None),
            choice("a long note", Some("a dry note")),
        ];
        History { uid: "p".into(), interactions, transfer: Vec::new() }
    }

    #[test]
    fn the_signal_is_what_knowing_the_user_is_worth() {
        let scored = score(&[history()], &["They like funny.".into()], "", &ideal::verify).unwrap();
        let records = &scored[0].signals;
        let first = records[0].unwrap();
        assert_within!(first.logprob1 - 0.97_f64.ln(), 1e-12);
        assert_within!(first.logprob2 - 0.5_f64.ln(), 1e-12);
        assert_within!(first.signal - (0.97_f64 / 0.5).ln(), 1e-12);
        assert_eq!((records[1], records[2].map(|r| r.signal)), (None, Some(0.0)));
    }

    #[test]
    fn impossible_answers_are_refused() {
        let informed = [String::new()];
        let with = |answers: Vec<f64>| score(&[history()], &informed, "", &move |_| Ok(answers.clone())).unwrap_err();
        assert!(with(vec![0.5]).to_string().contains("1 answers for 4 questions"));
        assert!(with(vec![0.5, 0.5, f64::NAN, 0.5]).to_string().contains("question 2"));
        assert!(score(&[history()], &[], "", &ideal::verify).is_err());
    }
}
