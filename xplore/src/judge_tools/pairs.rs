//! The probability that judges give to the choices of a file.

use chat::Question;
use chat::prompts::NO_PAST;
use chat::records::{Checked, RowDefect};
use rewards::judge::OrderVerdict;
use serde::{Deserialize, Serialize};

use super::loaded::load;
use super::{JudgeSetup, REQUESTS_PER_CALL};
use crate::error::Error;
use crate::reporter::Reporter;

/// A choice to judge.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRow {
    /// The summary of the user. Without one, the judge reads the text for a missing summary.
    pub preference: Option<String>,
    /// The query.
    pub query: Option<String>,
    /// The item that the user chose.
    pub chosen: String,
    /// The item that the user rejected.
    pub rejected: String,
}

impl Checked for PairRow {
    fn defect(&self) -> Option<RowDefect> {
        let same = self.chosen == self.rejected;
        same.then(|| RowDefect { field: "rejected", message: "is the same as `chosen`; expected another item".into() })
    }
}

impl PairRow {
    fn question(&self) -> Question {
        Question {
            query: self.query.clone(),
            preference: self.preference.clone().unwrap_or_else(|| NO_PAST.into()),
            chosen: self.chosen.clone(),
            rejected: self.rejected.clone(),
        }
    }
}

/// The verdict of one judge on one row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairScore {
    /// Index of the row, from 0.
    pub row: usize,
    /// Name of the judge.
    pub judge: String,
    /// Probability of the chosen item, mean over the orders.
    pub p_chosen: f64,
    /// Whether the judge gave no answer in at least one order.
    pub malformed: bool,
    /// The verdict in each order that was asked.
    pub orders: Vec<OrderVerdict>,
}

/// Returns the verdict of every judge of `setup` on every row, by row. The judges ask in the orders of the configuration.
///
/// # Errors
/// Returns an error if a judge cannot be loaded or fails.
pub fn score(setup: &JudgeSetup, rows: &[PairRow], reporter: &dyn Reporter) -> Result<Vec<PairScore>, Error> {
    let loaded = load(setup, false, reporter)?;
    let questions: Vec<Question> = rows.iter().map(PairRow::question).collect();
    let mut task = reporter.task("pairs");
    let total = (loaded.len() * rows.len()) as u64;
    let mut scores = Vec::new();
    for one in &loaded {
        let judge = one.with_prompts(&one.prompts)?;
        let name = one.name.clone();
        for (part, questions) in questions.chunks(REQUESTS_PER_CALL).enumerate() {
            for (i, verdict) in judge.score(questions)?.into_iter().enumerate() {
                scores.push(PairScore {
                    row: part * REQUESTS_PER_CALL + i,
                    judge: name.clone(),
                    p_chosen: verdict.p_chosen,
                    malformed: verdict.malformed,
                    orders: verdict.orders,
                });
            }
            task.at(scores.len() as u64, total, &name);
        }
    }
    task.done(&format!("{} judges, {} rows", loaded.len(), rows.len()));
    // A stable sort keeps the order of the judges.
    scores.sort_by_key(|score| score.row);
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_a_preference_asks_without_a_summary() {
        let row: PairRow = serde_json::from_str(r#"{"chosen": "a", "rejected": "b"}"#).unwrap();
        assert_eq!((row.question().preference.as_str(), row.question().query), (NO_PAST, None));
        assert_eq!(row.defect(), None);
        let same: PairRow = serde_json::from_str(r#"{"chosen": "a", "rejected": "a"}"#).unwrap();
        assert_eq!(same.defect().unwrap().field, "rejected");
        assert!(serde_json::from_str::<PairRow>(r#"{"chosen": "a", "rejected": "b", "summary": "c"}"#).is_err());
    }
}
