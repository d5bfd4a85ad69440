//! How decidable every choice is for a judge, with and without knowledge of the user.

mod flat;

use chat::history_items::kind_defect;
use chat::records::{Checked, RowDefect, SignalRecord};
use chat::{History, HistoryItems, Interaction, Message, Question, fields};
use serde::{Deserialize, Serialize};

pub use flat::FlatRecord;

/// The floor of probabilities, which keeps logarithms finite.
const LEAST_PROBABILITY: f64 = 1e-6;

/// The number of questions with whole histories that the judge is asked together, which bounds the memory that they take.
const QUESTIONS_PER_CALL: usize = 256;

/// The judge as a function: for each question, the probability of the item that the user chose.
pub type Verify<'a> = &'a dyn Fn(&[Question]) -> Result<Vec<f64>, String>;

/// A history with one record per interaction; `None` where the choice was not scored, as where there was no second item to choose
/// from. A history of messages has no choices, so its `targets` have the records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoredHistory {
    /// The id of the user.
    #[serde(alias = "userid", deserialize_with = "fields::user_id")]
    pub uid: String,
    /// The interactions, oldest first.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub interactions: Vec<Interaction>,
    /// The messages of the user's conversations, oldest first, in place of interactions.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// How decidable each choice is.
    #[serde(default)]
    pub signals: Vec<Option<SignalRecord>>,
    /// Choices that follow the history, which no prompt contains.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Interaction>,
    /// How decidable each of `targets` is; empty unless the history consists of messages.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub target_signals: Vec<Option<SignalRecord>>,
    /// Choices of the user in other domains.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub transfer: Vec<Interaction>,
}

impl ScoredHistory {
    /// Returns `history` with the records of its choices: those of its interactions, or, if it consists of messages, those of its
    /// targets.
    pub fn new(history: History, records: Vec<Option<SignalRecord>>) -> Self {
        let (signals, target_signals) = match history.items() {
            HistoryItems::Interactions(_) => (records, Vec::new()),
            HistoryItems::Messages(_) => (Vec::new(), records),
        };
        let History { uid, interactions, messages, targets, transfer } = history;
        Self { uid, interactions, messages, signals, targets, target_signals, transfer }
    }

    /// Returns what the history consists of.
    pub fn items(&self) -> HistoryItems<'_> {
        HistoryItems::of(&self.interactions, &self.messages)
    }

    /// Returns each choice that may become a target with its record: the interactions, or the targets of a history of messages.
    pub fn choices(&self) -> impl Iterator<Item = (&Interaction, Option<SignalRecord>)> {
        let own = self.interactions.iter().zip(self.signals.iter().copied());
        own.chain(self.targets.iter().zip(self.target_signals.iter().copied()))
    }
}

impl Checked for ScoredHistory {
    fn defect(&self) -> Option<RowDefect> {
        if let Some(defect) = kind_defect("interactions", &self.interactions, &self.messages) {
            return Some(defect);
        }
        let (signals, interactions) = (self.signals.len(), self.interactions.len());
        if signals != interactions {
            let found = if signals == 0 { "is missing or empty".into() } else { format!("has {signals} entries") };
            let message = format!(
                "{found}; expected one entry for each of the {interactions} interactions, as `xplore synth signal` writes them"
            );
            return Some(RowDefect { field: "signals", message });
        }
        let expected = if self.messages.is_empty() { 0 } else { self.targets.len() };
        let found = self.target_signals.len();
        (found != expected).then(|| RowDefect {
            field: "target_signals",
            message: format!("has {found} entries; expected {expected}: one for each target of a history of messages"),
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
    /// The history cannot be put into words for the judge.
    #[error("cannot render the history of a user: {0}")]
    Prompt(String),
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
    score_with(histories, |user, _, _| Ok(Some(informed[user].clone())), uninformed, verify, usize::MAX)
}

/// Scores every choice as [`score`] does, with the user's history before the choice, as `render` words it, in place of a summary.
/// The targets of a history of messages follow all messages. The first choice of a history has nothing before it, so its signal
/// is 0. Of a history with which a question does not fit into the judge's context, as `fits` tells, the later half is shown, as in
/// an evaluation. A choice for which that does not suffice has no record.
///
/// # Errors
/// Returns [`VerifyError`] if the judge fails, or a history does not render.
pub fn score_by_history(
    histories: &[History],
    render: &dyn Fn(HistoryItems<'_>) -> Result<String, String>,
    fits: &dyn Fn(&Question) -> bool,
    uninformed: &str,
    verify: Verify<'_>,
) -> Result<Vec<ScoredHistory>, VerifyError> {
    let render = |items: HistoryItems<'_>| if items.is_empty() { Ok(uninformed.to_owned()) } else { render(items) };
    let informed =
        |_: usize, before: HistoryItems<'_>, choice: &Interaction| shown_before(choice, before, &render, fits);
    score_with(histories, informed, uninformed, verify, QUESTIONS_PER_CALL)
}

/// Returns what the judge is shown of the history before a choice; `None` if the question does not fit into its context.
fn shown_before(
    choice: &Interaction,
    before: HistoryItems<'_>,
    render: &dyn Fn(HistoryItems<'_>) -> Result<String, String>,
    fits: &dyn Fn(&Question) -> bool,
) -> Result<Option<String>, VerifyError> {
    let mut kept = before;
    loop {
        let shown = render(kept).map_err(VerifyError::Prompt)?;
        if question(choice, &shown).is_some_and(|question| fits(&question)) {
            return Ok(Some(shown));
        }
        if kept.len() <= 1 {
            return Ok(None);
        }
        kept = kept.latest(kept.len() / 2);
    }
}

/// Scores every choice; `informed` returns what the judge knows of a user, given the index of the user, the history before the choice
/// and the choice, or `None` to leave it out. The judge gets about `most_questions` questions per call.
fn score_with(
    histories: &[History],
    informed: impl Fn(usize, HistoryItems<'_>, &Interaction) -> Result<Option<String>, VerifyError>,
    uninformed: &str,
    verify: Verify<'_>,
    most_questions: usize,
) -> Result<Vec<ScoredHistory>, VerifyError> {
    let (mut questions, mut answers) = (Vec::new(), Vec::new());
    // For each choice of all users, whether it is asked about.
    let mut asked = Vec::new();
    for (user, history) in histories.iter().enumerate() {
        for (index, choice) in history.choices().iter().enumerate() {
            let before = match history.items() {
                HistoryItems::Interactions(_) => history.items().slice(0, index),
                messages => messages,
            };
            let known = if choice.rejected.is_some() { informed(user, before, choice)? } else { None };
            asked.push(known.is_some());
            for preference in known.iter().flat_map(|known| [known.as_str(), uninformed]) {
                questions.extend(question(choice, preference));
            }
            if questions.len() >= most_questions {
                answers.extend(ask(verify, &std::mem::take(&mut questions))?);
            }
        }
    }
    answers.extend(ask(verify, &questions)?);
    let mut answers = answers.into_iter().map(|p| p.max(LEAST_PROBABILITY).ln());
    let mut asked = asked.into_iter();
    let mut record = |_: &Interaction| {
        if !asked.next()? {
            return None;
        }
        let (logprob1, logprob2) = (answers.next()?, answers.next()?);
        Some(SignalRecord { logprob1, logprob2, signal: logprob1 - logprob2 })
    };
    Ok(histories
        .iter()
        .map(|history| {
            let records = history.choices().iter().map(&mut record).collect();
            ScoredHistory::new(history.clone(), records)
        })
        .collect())
}

/// Returns the history with its last `count` interactions; 0 keeps all of them. Messages are kept.
#[must_use]
pub fn latest(mut history: History, count: usize) -> History {
    let excess = history.interactions.len().saturating_sub(count);
    if count > 0 {
        history.interactions.drain(..excess);
    }
    history
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
        History { uid: "p".into(), interactions, ..History::default() }
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

    #[test]
    fn the_history_before_a_choice_can_take_the_place_of_a_summary() {
        let seen = std::cell::RefCell::new(Vec::new());
        let verify = |questions: &[Question]| {
            seen.borrow_mut().extend(questions.iter().map(|q| q.preference.clone()));
            Ok(questions.iter().map(|q| if q.preference == "nothing" { 0.5 } else { 0.8 }).collect())
        };
        let render = |items: HistoryItems<'_>| Ok(format!("{} {}", items.len(), items.noun()));
        let scored = score_by_history(&[history()], &render, &|_| true, "nothing", &verify).unwrap();
        // The second choice has no second item, and the first has no history.
        assert_eq!(*seen.borrow(), ["nothing", "nothing", "2 interactions", "nothing"]);
        let signals: Vec<Option<f64>> = scored[0].signals.iter().map(|r| r.map(|r| r.signal)).collect();
        assert_eq!(signals[..2], [Some(0.0), None]);
        assert_within!(signals[2].unwrap() - 1.6_f64.ln(), 1e-12);
        let failed = |_: HistoryItems<'_>| Err("no template".to_owned());
        let error = score_by_history(&[history()], &failed, &|_| true, "nothing", &verify).unwrap_err();
        assert!(error.to_string().contains("no template"), "{error}");
    }

    #[test]
    fn a_history_that_is_too_long_loses_its_older_half_and_a_choice_its_record() {
        let interactions = (0..9).map(|_| history().interactions[0].clone()).collect();
        let long = History { interactions, ..history() };
        let seen = std::cell::RefCell::new(Vec::new());
        let verify = |questions: &[Question]| {
            seen.borrow_mut().extend(questions.iter().map(|q| q.preference.clone()));
            Ok(vec![0.5; questions.len()])
        };
        let render = |items: HistoryItems<'_>| Ok(items.len().to_string());
        let few = |question: &Question| question.preference.parse::<usize>().is_ok_and(|shown| shown <= 2);
        let scored = score_by_history(&[long], &render, &few, "0", &verify).unwrap();
        assert!(scored[0].signals.iter().all(Option::is_some));
        let informed: Vec<String> = seen.borrow().iter().step_by(2).cloned().collect();
        assert_eq!(informed, ["0", "1", "2", "1", "2", "2", "1", "1", "2"]);
        let none = |question: &Question| question.preference == "0";
        let scored = score_by_history(&[history()], &render, &none, "0", &verify).unwrap();
        assert_eq!(scored[0].signals.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn many_questions_are_asked_in_several_calls() {
        let interactions = (0..300).map(|_| history().interactions[0].clone()).collect();
        let long = History { interactions, ..history() };
        let calls = std::cell::RefCell::new(Vec::new());
        let verify = |questions: &[Question]| {
            calls.borrow_mut().push(questions.len());
            // Which choice it is can be read from the length of the history.
            let p = |q: &Question| q.preference.parse::<usize>().map_or(0.5, |shown| 0.5 + shown as f64 / 1000.0);
            Ok(questions.iter().map(p).collect::<Vec<f64>>())
        };
        let render = |items: HistoryItems<'_>| Ok(items.len().to_string());
        let scored = score_by_history(&[long], &render, &|_| true, "nothing", &verify).unwrap();
        assert_eq!(*calls.borrow(), [256, 256, 88]);
        for (index, record) in scored[0].signals.iter().enumerate().skip(1) {
            assert_within!(record.unwrap().logprob1 - (0.5 + index as f64 / 1000.0).ln(), 1e-12);
        }
    }

    #[test]
    fn the_targets_of_messages_are_scored_after_all_of_them() {
        let messages = vec![Message::user("hello"), Message::assistant("hi")];
        let mut history = History { targets: history().interactions, messages, ..history() };
        history.interactions.clear();
        let render = |items: HistoryItems<'_>| Ok(format!("{} {}", items.len(), items.noun()));
        let verify = |questions: &[Question]| {
            Ok(questions.iter().map(|q| if q.preference == "2 messages" { 0.8 } else { 0.4 }).collect())
        };
        let scored = score_by_history(&[history], &render, &|_| true, "nothing", &verify).unwrap().remove(0);
        assert_eq!((scored.defect(), scored.signals.len()), (None, 0));
        let signals: Vec<Option<f64>> = scored.choices().map(|(_, record)| record.map(|r| r.signal)).collect();
        assert_eq!((signals.len(), signals[1]), (3, None));
        assert_within!(signals[0].unwrap() - 2.0_f64.ln(), 1e-12);
        assert_eq!(signals[0], signals[2]);
        let written = serde_json::to_string(&scored).unwrap();
        assert_eq!(serde_json::from_str::<ScoredHistory>(&written).unwrap(), scored);
        let short = ScoredHistory { target_signals: Vec::new(), ..scored };
        assert_eq!(short.defect().map(|defect| defect.field), Some("target_signals"));
    }

    #[test]
    fn the_last_interactions_are_kept() {
        let kept = |count| latest(history(), count).interactions.len();
        assert_eq!([kept(0), kept(2), kept(3), kept(9)], [3, 2, 3, 3]);
        assert_eq!(latest(history(), 1).interactions[0].chosen, "a long note");
    }
}
