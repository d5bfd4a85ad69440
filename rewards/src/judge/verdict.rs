//! Verdicts of a judge.

use serde::{Deserialize, Serialize};

/// The judge's verdict on one question, shown in one order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderVerdict {
    /// Whether the user's choice was shown first.
    pub chosen_first: bool,
    /// Probability that the judge picks the user's choice; [`JudgeSettings::no_answer`] if the judge gave no answer.
    pub p_chosen: f64,
    /// Whether the judge gave no answer.
    pub malformed: bool,
}

/// The judge's verdict on one query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Probability that the judge picks the user's choice, mean over `orders`; for other queries, see [`crate::JudgeQuery`].
    pub p_chosen: f64,
    /// Verdicts in the orders shown (one or two); empty for a query that shows no items.
    pub orders: Vec<OrderVerdict>,
    /// Whether the judge gave no answer in at least one order.
    pub malformed: bool,
    /// Number of tokens of the text whose likelihood was asked; 0 for other queries.
    #[serde(default)]
    pub tokens: usize,
}

impl Verdict {
    /// Returns the verdict of a judge that shows no items, such as a function of the text.
    pub fn new(p_chosen: f64) -> Self {
        Self { p_chosen, orders: Vec::new(), malformed: false, tokens: 0 }
    }

    pub(super) fn over(orders: Vec<OrderVerdict>) -> Self {
        let p_chosen = orders.iter().map(|o| o.p_chosen).sum::<f64>() / orders.len() as f64;
        let malformed = orders.iter().any(|o| o.malformed);
        Self { p_chosen, orders, malformed, tokens: 0 }
    }
}
