//! The ideal judge: reads a summary and two items by the lexicon, counts matches, and says what follows. The bound for
//! what a trained judge can do, and the stand-in for one where none is trained yet (tests, tuning the world).

use chat::Question;

use crate::lexicon::mentions;
use crate::summary::Summary;

/// Probability that a decided verdict is right, as a confident judge would put it.
const CONFIDENT: f64 = 0.97;

/// Liked minus avoided values of the chosen item, minus the same of the rejected one.
pub fn margin(summary: &Summary, chosen: &str, rejected: &str) -> i32 {
    let score = |item: &str| mentions(item).into_iter().map(|v| summary.sign(v)).sum::<i32>();
    score(chosen) - score(rejected)
}

/// 1 if the summary decides for the chosen item, 0 if for the rejected one, ½ if it does not decide.
pub fn accuracy(question: &Question) -> f64 {
    let margin = margin(&Summary::read(&question.preference), &question.chosen, &question.rejected);
    (f64::from(margin.signum()) + 1.0) / 2.0
}

/// Probability of the chosen item for every question, in the form in which trained judges are asked.
///
/// # Errors
/// Never; the type is that of the trained judges' closures.
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
