//! The ideal judge: reads a summary and two items with the lexicon, counts matches, and derives the answer. It is the
//! upper bound for a trained judge, and replaces one where none is trained yet (tests, tuning the world).

use chat::Question;

use crate::lexicon::mentions;
use crate::summary::NamedPreferences;

/// The probability that a decided verdict is right, as a confident judge would state it.
const CONFIDENT: f64 = 0.97;

/// Returns liked minus avoided values of the chosen item, minus the same difference of the rejected item.
pub fn margin(summary: &NamedPreferences, chosen: &str, rejected: &str) -> i32 {
    let score = |item: &str| mentions(item).into_iter().map(|v| summary.sign(v)).sum::<i32>();
    score(chosen) - score(rejected)
}

/// Returns 1 if the summary favors the chosen item, 0 if it favors the rejected one, and ½ if it does not decide.
pub fn accuracy(question: &Question) -> f64 {
    let margin = margin(&NamedPreferences::read(&question.preference), &question.chosen, &question.rejected);
    (f64::from(margin.signum()) + 1.0) / 2.0
}

/// Returns the probability of the chosen item for every question, with the signature of trained judges.
///
/// # Errors
/// Never returns an error; the type matches the closures of trained judges.
pub fn verify(questions: &[Question]) -> Result<Vec<f64>, String> {
    Ok(questions.iter().map(|q| 0.5 + (accuracy(q) - 0.5) * (2.0 * CONFIDENT - 1.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_counted_on_both_sides() {
        let question = |preference: &str| Question {
            query: None,
            preference: preference.into(),
            chosen: "a witty brief note".into(),
            rejected: "a frank lengthy note".into(),
        };
        assert_eq!(accuracy(&question("They like funny. They avoid blunt.")), 1.0);
        assert_eq!(accuracy(&question("They like blunt, long. They avoid funny.")), 0.0);
        assert_eq!(accuracy(&question("They like funny, blunt.")), 0.5);
        assert_eq!(verify(&[question("They like funny."), question("")]), Ok(vec![0.97, 0.5]));
    }
}
