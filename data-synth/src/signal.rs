//! How decidable every choice is: what a judge makes of it with and without knowing the person.

use chat::records::{Checked, Defect, SignalRecord};
use chat::{History, Question};
use serde::{Deserialize, Serialize};

/// Probabilities below this count as this, so that logarithms stay finite.
const LEAST_PROBABILITY: f64 = 1e-6;

/// The judge as a function: for each question, the probability of the item the person took.
pub type Verify<'a> = &'a dyn Fn(&[Question]) -> Result<Vec<f64>, String>;

/// A history with one record an interaction; `None` where there was no second item to choose from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredHistory {
    /// The person.
    pub uid: String,
    /// What they did, oldest first.
    pub interactions: Vec<chat::Interaction>,
    /// How decidable each choice is.
    pub signals: Vec<Option<SignalRecord>>,
}

impl Checked for ScoredHistory {
    fn defect(&self) -> Option<Defect> {
        let (signals, interactions) = (self.signals.len(), self.interactions.len());
        (signals != interactions).then(|| Defect {
            field: "signals",
            message: format!("has {signals} entries for {interactions} interactions; expected one for each"),
        })
    }
}

/// Why scoring, pruning or synthesis cannot go on because of the judge.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The judge itself failed.
    #[error("the judge failed: {0}")]
    Failed(String),
    /// The judge did not answer every question.
    #[error("the judge gave {answers} answers to {questions} questions")]
    Answers {
        /// How many answers came.
        answers: usize,
        /// How many questions were asked.
        questions: usize,
    },
    /// The judge's answer is no probability.
    #[error("the judge gave {value} for question {index}; expected a probability from 0 to 1")]
    Probability {
        /// Which question, from 0.
        index: usize,
        /// What came.
        value: f64,
    },
    /// There is not one summary for each history.
    #[error("{summaries} summaries for {histories} histories; expected one for each")]
    Summaries {
        /// How many summaries were given.
        summaries: usize,
        /// How many histories were given.
        histories: usize,
    },
}

/// Asks the judge and checks that every answer is a probability.
pub(crate) fn ask(verify: Verify<'_>, questions: &[Question]) -> Result<Vec<f64>, JudgeError> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let answers = verify(questions).map_err(JudgeError::Failed)?;
    if answers.len() != questions.len() {
        return Err(JudgeError::Answers { answers: answers.len(), questions: questions.len() });
    }
    match answers.iter().position(|p| !(0.0..=1.0).contains(p)) {
        Some(index) => Err(JudgeError::Probability { index, value: answers[index] }),
        None => Ok(answers),
    }
}

/// Scores every choice between two items: `logprob1` with `informed[i]` as person i's summary (in the built-in world the
/// oracle's), `logprob2` with `uninformed`, and their difference, the signal. One call of the judge for all.
///
/// # Errors
/// [`JudgeError`] if the judge fails or there is not one summary a person.
pub fn score(
    histories: &[History],
    informed: &[String],
    uninformed: &str,
    verify: Verify<'_>,
) -> Result<Vec<ScoredHistory>, JudgeError> {
    if histories.len() != informed.len() {
        return Err(JudgeError::Summaries { summaries: informed.len(), histories: histories.len() });
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
        })
        .collect())
}

/// The choice as a question to a judge, if there was something to choose from.
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
        History { uid: "p".into(), interactions }
    }

    #[test]
    fn the_signal_is_what_knowing_the_person_is_worth() {
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
        assert!(with(vec![0.5]).to_string().contains("1 answers to 4 questions"));
        assert!(with(vec![0.5, 0.5, f64::NAN, 0.5]).to_string().contains("question 2"));
        assert!(score(&[history()], &[], "", &ideal::verify).is_err());
    }
}
