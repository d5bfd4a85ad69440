//! How accurately a policy reads histories of the built-in world: whether the evidence it writes down, and the counts
//! it derives from it, match the history.

use chat::completer::CompleterError;
use chat::{Completer, CompletionRequest, Sampling, SftRow, reasoning};
use serde::Serialize;

/// The shares of histories that are read without a mistake, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ReadingAccuracy {
    /// The share of histories whose evidence is written down word for word.
    pub evidence: f64,
    /// The share of histories whose net signs are correct as well.
    pub net: f64,
}

/// Completes the prompts of `rows` greedily with `model`, and compares its reasoning with that of the rows.
///
/// # Errors
/// Returns the error of the model.
pub fn reading_accuracy(
    model: &dyn Completer,
    rows: &[SftRow],
    max_new_tokens: usize,
) -> Result<ReadingAccuracy, CompleterError> {
    let request = |row: &SftRow| CompletionRequest::new(row.prompt.clone(), Sampling::greedy(max_new_tokens));
    let written = model.complete(&rows.iter().map(request).collect::<Vec<_>>())?;
    let (mut evidence, mut net) = (0, 0);
    for (row, written) in rows.iter().zip(&written) {
        let truth: String = row.completion.iter().map(|m| m.content.as_str()).collect();
        let (Some(truth), Some(found)) = (parts(&truth), parts(&written.text)) else { continue };
        evidence += usize::from(found.0 == truth.0);
        net += usize::from(found == truth);
    }
    let share = |count: usize| count as f64 / rows.len().max(1) as f64;
    Ok(ReadingAccuracy { evidence: share(evidence), net: share(net) })
}

/// Returns the evidence and the net signs in a response, in the format of [`crate::tally::Tally`].
fn parts(response: &str) -> Option<(&str, &str)> {
    let reasoning = response.split_once(reasoning::OPEN)?.1;
    let (evidence, rest) = reasoning.split_once(" net")?;
    Some((evidence.trim(), rest.split(reasoning::CLOSE).next()?.trim()))
}

#[cfg(test)]
mod tests {
    use chat::completer::Scripted;
    use chat::{Completion, FinishReason, Message};

    use super::*;

    #[test]
    fn evidence_and_net_signs_must_be_those_of_the_row() {
        let gold = reasoning::join("for past one warm against past two luxury net warm + luxury -", "Likes warm.");
        let row = |name: &str| SftRow {
            prompt: vec![Message::user(name)],
            completion: vec![Message::assistant(gold.clone())],
        };
        let model = Scripted::new("reader", |request: &CompletionRequest| {
            let text = match request.messages[0].content.as_str() {
                // Other metrics cover the summary at the end.
                "right" => {
                    "<think>\nfor past one warm against past two luxury net warm + luxury -\n</think>\n\nNothing."
                }
                "miscounted" => {
                    "<think>\nfor past one warm against past two luxury net warm - luxury -\n</think>\n\nNothing."
                }
                "misread" => {
                    "<think>\nfor past one cold against past two luxury net warm + luxury -\n</think>\n\nNothing."
                }
                _ => "one two",
            };
            Completion { text: text.into(), tokens: vec![], finish: FinishReason::Stop }
        });
        let rows = ["right", "right", "miscounted", "misread", "silent"].map(row);
        let found = reading_accuracy(&model, &rows, 9).unwrap();
        assert_eq!(found, ReadingAccuracy { evidence: 0.6, net: 0.4 });
        assert_eq!(reading_accuracy(&model, &[], 9).unwrap(), ReadingAccuracy::default());
    }
}
