//! The reading of a judge's answer, applied to texts or tokens.

use std::path::Path;

use chat::records::{Checked, RowDefect};
use chat::{Completion, FinishReason, TokenLogprob};
use configs::judge::{JudgeConfig, JudgeMode};
use rewards::JudgeSettings;
use serde::{Deserialize, Serialize};

use super::{Refusal, Rows};
use crate::error::Error;
use crate::parts;

/// A set of rules by which a judge's answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgeProtocol {
    /// Those of the released reward: mode `sampled`, and 0 for a missing answer.
    Published,
    /// The defaults of [`JudgeConfig`]: mode `forced`, or `reasoned` if the row says so, and 0.5 for a missing answer.
    Ours,
}

/// An answer: its text, or its tokens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRow {
    /// The text of the answer. It is cut into words and single other characters, each of which counts with probability 1.
    pub text: Option<String>,
    /// The generated tokens, in the format of the `logprobs.content` of OpenAI-compatible servers.
    pub tokens: Option<Vec<AnswerToken>>,
    /// For [`JudgeProtocol::Ours`]: `forced` or `reasoned`. Default: `reasoned` for a text, `forced` for tokens.
    pub mode: Option<JudgeMode>,
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AnswerToken {
    /// Text of the token.
    pub token: String,
    /// Its log-probability, nats.
    pub logprob: f32,
    /// The most likely alternatives. Default: none.
    #[serde(default)]
    pub top_logprobs: Vec<RowAlternative>,
}

/// An alternative to a generated token.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RowAlternative {
    /// Text of the token.
    pub token: String,
    /// Its log-probability, nats.
    pub logprob: f32,
}

impl Checked for AnswerRow {
    fn defect(&self) -> Option<RowDefect> {
        if self.text.is_some() == self.tokens.is_some() {
            let message = "or `tokens`: give exactly one of the two".into();
            return Some(RowDefect { field: "text", message });
        }
        let tokens = self.tokens.as_deref().unwrap_or_default();
        let logprobs = |token: &AnswerToken| {
            token.logprob <= 0.0 && token.top_logprobs.iter().all(|alternative| alternative.logprob <= 0.0)
        };
        let bad = tokens.iter().position(|token| !logprobs(token))?;
        let message = format!("has a log-probability above 0 in entry {}; expected nats, at most 0", bad + 1);
        Some(RowDefect { field: "tokens", message })
    }
}

/// A number for each of the two letters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PerLetter {
    /// The number if the user's choice was shown as item A.
    #[serde(rename = "A")]
    pub first: f64,
    /// The number if the user's choice was shown as item B.
    #[serde(rename = "B")]
    pub second: f64,
}

/// What an answer is worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParsedAnswer {
    /// Whether there is an answer; if not, `confidence` is the value of a missing one.
    pub answered: bool,
    /// The letter that the answer selects: the one generated last (published), or the more likely one (ours).
    pub selection: Option<String>,
    /// The probability of the user's choice: the judge's reward.
    pub confidence: PerLetter,
    /// How `xplore eval` counts it: 1, 0, or 0.5 if undecided.
    pub accuracy: PerLetter,
}

/// Reads the answers of a file of JSON lines, or of standard input.
///
/// # Errors
/// Returns an error if the input cannot be read or a row is not valid.
pub fn answers(protocol: JudgeProtocol, input: Option<&Path>) -> Result<Vec<ParsedAnswer>, Error> {
    Rows::read(input)?.map(|row: &AnswerRow| answer(protocol, row))
}

fn answer(protocol: JudgeProtocol, row: &AnswerRow) -> Result<ParsedAnswer, Refusal> {
    let mode = match (protocol, row.mode) {
        (JudgeProtocol::Published, None) => JudgeMode::Sampled,
        (JudgeProtocol::Published, Some(_)) => {
            return Err(Refusal::row("mode", "is only for --protocol ours; remove it"));
        }
        (JudgeProtocol::Ours, Some(JudgeMode::Sampled)) => {
            let message = "is `sampled`; expected `forced` or `reasoned`, or --protocol published for all rows";
            return Err(Refusal::row("mode", message));
        }
        (JudgeProtocol::Ours, Some(mode)) => mode,
        (JudgeProtocol::Ours, None) if row.text.is_some() => JudgeMode::Reasoned,
        (JudgeProtocol::Ours, None) => JudgeMode::Forced,
    };
    Ok(read(&settings(protocol, mode), &completion(row)))
}

fn settings(protocol: JudgeProtocol, mode: JudgeMode) -> JudgeSettings {
    let ours = JudgeConfig { mode, ..JudgeConfig::default() };
    let config = match protocol {
        JudgeProtocol::Published => JudgeConfig { no_answer: 0.0, ..ours },
        JudgeProtocol::Ours => ours,
    };
    parts::judge_settings(&config, 0)
}

fn read(settings: &JudgeSettings, completion: &Completion) -> ParsedAnswer {
    let [first, second] = [true, false].map(|chosen_first| settings.read(completion, chosen_first));
    let confidence =
        PerLetter { first: first.unwrap_or(settings.no_answer), second: second.unwrap_or(settings.no_answer) };
    ParsedAnswer {
        answered: first.is_some(),
        selection: settings.selection(completion).map(str::to_owned),
        confidence,
        accuracy: PerLetter { first: evals::accuracy(confidence.first), second: evals::accuracy(confidence.second) },
    }
}

fn completion(row: &AnswerRow) -> Completion {
    let token = |token: &AnswerToken| TokenLogprob {
        text: token.token.clone(),
        logprob: token.logprob,
        top: token.top_logprobs.iter().map(|other| (other.token.clone(), other.logprob)).collect(),
    };
    let tokens: Vec<TokenLogprob> = match (&row.tokens, &row.text) {
        (Some(tokens), _) => tokens.iter().map(token).collect(),
        (None, text) => certain_tokens(text.as_deref().unwrap_or_default()),
    };
    Completion { text: tokens.iter().map(|token| token.text.as_str()).collect(), tokens, finish: FinishReason::Stop }
}

/// Cuts a text into words and single other characters, each with the spaces before it, as tokens of probability 1.
fn certain_tokens(text: &str) -> Vec<TokenLogprob> {
    let mut pieces: Vec<String> = Vec::new();
    let mut before = None;
    for c in text.chars() {
        let joins = before.is_some_and(|b: char| b == ' ' || b.is_alphanumeric() && c.is_alphanumeric());
        match pieces.last_mut() {
            Some(piece) if joins => piece.push(c),
            _ => pieces.push(c.to_string()),
        }
        before = Some(c);
    }
    pieces.into_iter().map(|text| TokenLogprob { text, logprob: 0.0, top: Vec::new() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(protocol: JudgeProtocol, row: &str) -> (bool, Option<String>, [f64; 2]) {
        let row: AnswerRow = serde_json::from_str(row).unwrap();
        assert_eq!(row.defect(), None);
        let Ok(found) = answer(protocol, &row) else { panic!("{row:?} is refused") };
        (found.answered, found.selection, [found.confidence.first, found.confidence.second])
    }

    #[test]
    fn published_settings_are_those_of_the_preset() {
        let preset = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/rl-alignxplore-plus.toml");
        let preset: configs::RlConfig = configs::load(&preset, &[]).unwrap();
        let ours = settings(JudgeProtocol::Published, JudgeMode::Sampled);
        assert_eq!((preset.judge.mode, preset.judge.no_answer), (ours.mode, ours.no_answer));
        assert_eq!(preset.judge.choices, ours.choices);
    }

    #[test]
    fn texts_are_cut_into_words() {
        let of = |text| certain_tokens(text).into_iter().map(|token| token.text).collect::<Vec<_>>();
        assert_eq!(of("{\"a\":  \"Item A\"}\n"), ["{", "\"", "a", "\"", ":", "  \"", "Item", " A", "\"", "}", "\n"]);
        assert!(of("").is_empty());
    }

    #[test]
    fn published_answers_by_hand() {
        let of = |row: &str| parsed(JudgeProtocol::Published, row);
        let (a, b) = (Some("A".to_owned()), Some("B".to_owned()));
        assert_eq!(of(r#"{"text": "{\"selection\": \"Item B\"}"}"#), (true, b.clone(), [0.0, 1.0]));
        // Both letters pay in both orders.
        assert_eq!(of(r#"{"text": "Item B or Item A"}"#), (true, a, [1.0, 1.0]));
        assert_eq!(of(r#"{"text": "neither"}"#), (false, None, [0.0, 0.0]));
        let p = f64::exp(-0.5);
        let row = r#"{"tokens": [{"token": "ĠB", "logprob": -0.5, "bytes": [1]}, {"token": "\"}", "logprob": 0}]}"#;
        assert_eq!(of(row), (true, b, [1.0 - p, p]));
    }

    #[test]
    fn our_answers_by_hand() {
        let of = |row: &str| parsed(JudgeProtocol::Ours, row);
        let b = Some("B".to_owned());
        assert_eq!(of(r#"{"text": "A or B? {\"selection\": \"Item B\"}"}"#), (true, b, [0.0, 1.0]));
        assert_eq!(of(r#"{"text": "Item A or Item B"}"#), (false, None, [0.5, 0.5]));
        // Equal probabilities: an answer, but no selection.
        let tie = r#"{"tokens": [{"token": " A", "logprob": -1, "top_logprobs": [{"token": " A", "logprob": -1},
            {"token": " B", "logprob": -1}]}]}"#;
        assert_eq!(of(tie), (true, None, [0.5, 0.5]));
    }

    #[test]
    fn rows_that_are_no_answers_are_refused() {
        let defect = |row: &str| serde_json::from_str::<AnswerRow>(row).unwrap().defect().unwrap();
        assert_eq!(defect("{}").field, "text");
        assert_eq!(defect(r#"{"text": "A", "tokens": []}"#).field, "text");
        assert!(defect(r#"{"tokens": [{"token": "A", "logprob": 0.7}]}"#).message.contains("entry 1"));
        let refused = |protocol, row: &str| match answer(protocol, &serde_json::from_str(row).unwrap()) {
            Err(Refusal::Row(defect)) => defect.field,
            _ => panic!("{row} is not refused"),
        };
        assert_eq!(refused(JudgeProtocol::Published, r#"{"text": "A", "mode": "forced"}"#), "mode");
        assert_eq!(refused(JudgeProtocol::Ours, r#"{"text": "A", "mode": "sampled"}"#), "mode");
    }
}
